"""Models as lossless coders of bytes."""

from proxy_lm.codec.predictor import MAX_CHUNK_BYTES, Coded, Predictor, open_predictor

__all__ = ["MAX_CHUNK_BYTES", "Coded", "Predictor", "open_predictor"]
