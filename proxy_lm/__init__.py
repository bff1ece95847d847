"""Corpus to checkpoint: byte-level code language models trained on raw bytes and compressed views. Importing this imports no torch."""

__version__ = "0.1.0"
