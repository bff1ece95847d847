"""The bytes of a code as symbols of 8 or 16 bits, and back.

    symbols = pack(code, symbol_bits)                 # uint8 [n] -> uint32 symbols, first bits most significant
    code = unpack_windows(view, symbols, symbol_bits, window_bytes)

With 16 bits an odd code gets one byte of zeros. Windows of 3 or 5 bytes then straddle symbols, as those of 24 bits do in arXiv 2404.03626,
and the number of symbols alone tells whether the last byte is filling: w windows of k bytes (k odd, 3 or more) have w * k bytes or one
more, and only one of the two is a multiple of k.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compressors.base import Borders, Symbols
from compressors.errors import DecodeError

U8 = npt.NDArray[np.uint8]


def pack(code: U8, symbol_bits: int) -> Symbols:
    """Symbols of 8 or 16 bits."""
    if symbol_bits == 8:
        return code.astype(np.uint32)
    even = np.zeros(len(code) + len(code) % 2, np.uint8)
    even[: len(code)] = code
    return even.view(">u2").astype(np.uint32)


def unpack(symbols: Symbols, symbol_bits: int) -> U8:
    """The bytes of checked symbols, filling included."""
    if symbol_bits == 8:
        return symbols.astype(np.uint8)
    return symbols.astype(">u2").view(np.uint8)


def unpack_windows(view: str, symbols: Symbols, symbol_bits: int, window_bytes: int) -> U8:
    """uint8 [num_windows, window_bytes]. Raises `DecodeError` where symbols end inside a window or the filling is not zero."""
    code = unpack(symbols, symbol_bits)
    over = len(code) % window_bytes
    filled = symbol_bits == 16 and window_bytes % 2 == 1 and over == 1
    if over and not filled:
        raise DecodeError(f"view '{view}' has windows of {window_bytes} bytes; {len(symbols)} symbols of {symbol_bits} bits end inside one")
    if filled and code[-1] != 0:
        raise DecodeError(f"view '{view}': the last symbol is filled up with {code[-1]} and not with 0")
    return code[: len(code) - over].reshape(-1, window_bytes)


def borders(ends: npt.NDArray[np.int64], symbol_bits: int, window_bytes: int) -> Borders:
    """Which bytes each symbol stands for, where window i ends at byte `ends[i]`: the symbol that completes a window stands for all of it,
    the others for nothing, because no byte is sure before."""
    num_symbols = (len(ends) * window_bytes * 8 + symbol_bits - 1) // symbol_bits
    whole = np.arange(num_symbols + 1, dtype=np.int64) * (symbol_bits // 8) // window_bytes
    return np.concatenate([np.zeros(1, np.int64), ends])[whole]
