"""Generating with a trained model: bytes in, bytes out, whatever the model was told."""
