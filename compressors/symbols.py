"""Checks that every decoder makes first: symbols come from outside and may be hostile."""

from __future__ import annotations

from typing import Any

import numpy as np

from compressors.base import Symbols
from compressors.errors import DecodeError


def checked(view: str, symbols: Any, alphabet_size: int) -> Symbols:
    """`symbols` as uint32 [num_symbols]. Raises `DecodeError` for other shapes and types and for values outside the alphabet."""
    array = np.asarray(symbols)
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, dtype=np.uint32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DecodeError(f"view '{view}' decodes a flat array of whole numbers; got {array.dtype} of shape {array.shape}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= alphabet_size:
        raise DecodeError(f"view '{view}' has symbols 0 to {alphabet_size - 1}; got {low if low < 0 else high}")
    return array.astype(np.uint32, copy=False)


def check_size(view: str, num_bytes: int, max_bytes: int) -> None:
    """Raises `DecodeError` when the decoded document is over the cap."""
    if num_bytes > max_bytes:
        raise DecodeError(f"view '{view}': the document has more than {max_bytes} bytes, the cap; raise max_bytes if it is yours")


def from_bytes(data: bytes) -> Symbols:
    """Byte values as symbols."""
    return np.frombuffer(data, dtype=np.uint8).astype(np.uint32)


def to_bytes(symbols: Symbols) -> bytes:
    """Symbols below 256 as bytes."""
    return symbols.astype(np.uint8).tobytes()
