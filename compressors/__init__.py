"""Views of documents made by external compressors. Start at `compressors.base`; `load`, `names`, `train` are the way in."""
