"""Information bits of PPMd (variant H, the one of 7z archives): what its range coder's decisions leave of the unit interval.

    PpmLengths().candidates(b"for index in ran")          # float64 [256]

The library gives whole bytes, but at its end the coder writes out the low end of its interval in full. The intervals of a document's 256
continuations lie side by side in that of the document, in some order, and that of the end mark is the last: in each context the escape
comes after all symbols, and the end mark is the escape from the last context. So 257 low ends, sorted, are the borders of 256 intervals,
and -log2 of a width are exactly the bits that the coder's whole numbers give a continuation.

pyppmd is an extra (`compress`); its licence is the LGPL.
"""

from __future__ import annotations

import importlib
import math
from itertools import pairwise
from typing import Any, Final, final

import numpy as np

from compressors.base import JSON
from proxy_lm.codec.lengths import BYTES, F64
from proxy_lm.errors import RequestError

REMEDY: Final = "pip install pyppmd"
_MEMORY_BYTES: Final = 1 << 24


def library() -> Any:
    """pyppmd. Raises `RequestError` where it is not installed."""
    try:
        return importlib.import_module("pyppmd")
    except ImportError as error:
        raise RequestError(f"ppm needs pyppmd, which is not installed here ({error}); {REMEDY}") from error


@final
class PpmLengths:
    """PPMd variant H, information bits of the decisions."""

    name: str = "ppm"
    granularity: str = "fractions of a bit"
    max_bytes: int = 1 << 14
    """Of longer noise the library's decoder (1.3.1) does not give all back, so its encoder is not asked either."""

    def __init__(self, order: int = 6) -> None:
        """`order`, 2 to 64, is the longest context in bytes. Raises `RequestError` where the library is missing."""
        self.order = order
        self._library = library()
        self._kept: tuple[bytes, list[bytes]] | None = None

    def identity(self) -> dict[str, JSON]:
        """As of `proxy_lm.codec.lengths.Lengths`."""
        version = self._library.__version__
        return {"name": self.name, "format": "decisions of ppmd variant h", "order": self.order, "memory": _MEMORY_BYTES, "pyppmd": version}

    def total(self, data: bytes) -> float:
        """Bits of the whole document; as dear as `candidates`."""
        return float(self.candidates(data[:-1])[data[-1]]) if data else 0.0

    def candidates(self, prefix: bytes) -> F64:
        """Float64 [256]: bits with each byte after it."""
        bits, whole = np.empty(256), 8 * self.num_code_bytes(prefix)
        for value, begin, end in self.borders(prefix):
            bits[value] = whole - math.log2(end - begin)
        return bits

    def num_code_bytes(self, prefix: bytes) -> int:
        """The borders after `prefix` are in units of 256 to the minus this."""
        return max(len(stream) for stream in self._streams(prefix)) - 1

    def borders(self, prefix: bytes) -> list[tuple[int, int, int]]:
        """Of each continuation, in the order of their intervals: byte, begin, end."""
        streams = self._streams(prefix)
        num_bytes = max(map(len, streams))
        begins = [int.from_bytes(stream.ljust(num_bytes, b"\0"), "big") for stream in streams]
        order = sorted(range(257), key=begins.__getitem__)
        assert order[-1] == 256, "the end mark is not behind all bytes: another PPMd than variant H"
        return [(value, begins[value], begins[after]) for value, after in pairwise(order)]

    def _streams(self, prefix: bytes) -> list[bytes]:
        """Of the 256 continuations, and of the prefix with its end mark. A stream's first byte is there for a carry only."""
        if self._kept is None or self._kept[0] != prefix:
            self._kept = prefix, [*(self._stream(prefix + byte) for byte in BYTES), self._stream(prefix, end_mark=True)]
        return self._kept[1]

    def _stream(self, data: bytes, *, end_mark: bool = False) -> bytes:
        encoder = self._library.Ppmd7Encoder(self.order, _MEMORY_BYTES)
        stream: bytes = encoder.encode(data) + encoder.flush(endmark=end_mark)
        return stream
