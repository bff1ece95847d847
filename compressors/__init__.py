"""Views of documents made by external compressors. Start at `compressors.base`; `load`, `names`, `train` are the way in."""

from compressors.registry import fingerprint, get, load, names, save, train

__all__ = ["fingerprint", "get", "load", "names", "save", "train"]
