"""Code lengths of a document and of its 256 continuations by one byte, as finely as each format has them.

    lengths = open_lengths("gzip")
    lengths.total(b"abcabc")                 # 58.0: bits of the raw DEFLATE stream up to and with the end of its block
    lengths.candidates(b"abcab")             # float64 [256]: what the same document costs with each byte after it

What a length counts, and its granularity:

    gzip    raw DEFLATE, level 9, without gzip's 18 bytes; exact to the bit: up to the last bit of the last end-of-block code (a stored
            block ends at a byte, as the format has it)
    lzma    raw LZMA1 (no container, no check, no padding to 4 bytes) with its end marker; information bits of the range coder's decisions,
            fractions of a bit: `proxy_lm.codec.lzma_bits`. `lzma-bytes` counts the stream's whole bytes instead
    zstd    one frame without magic number, content size and checksum; whole bytes: its blocks hold several bit streams, each padded
    a model information bits of the integer frequencies it codes with, fractions of a bit

No PPM: no library for it is installed with this project, and none is asked for.
Cost: one compression a candidate, so 256 a byte; gzip's state is copied after the prefix. Measured, processor time a byte after 128 bytes
of source: gzip 9 ms, zstd 6, lzma 117, a count model 23. A model is better asked itself (`proxy-lm generate RUN`): here it reads the
prefix 256 times a byte.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import numpy as np
import numpy.typing as npt
import zstandard

from compressors.base import JSON
from proxy_lm.errors import RequestError

if TYPE_CHECKING:
    from proxy_lm.codec.predictor import Predictor

F64 = npt.NDArray[np.float64]
BYTES: Final = [bytes([value]) for value in range(256)]
NAMES: Final = ("gzip", "lzma", "lzma-bytes", "zstd")
_RAW_WINDOW: Final = -15
_LEAST_DICTIONARY_BYTES: Final = 4096


class Lengths(Protocol):
    """Lengths in bits. `total` of equal documents is equal, in any order of calls."""

    name: str
    granularity: str
    """How fine the lengths are, in words."""
    max_bytes: int
    """Longest document it takes."""

    def identity(self) -> dict[str, JSON]:
        """What the lengths depend on: format, level, version of the library or fingerprint of the model."""
        ...

    def total(self, data: bytes) -> float:
        """Bits of the whole document."""
        ...

    def candidates(self, prefix: bytes) -> F64:
        """Float64 [256]: bits of `prefix` with each byte after it; `candidates(x)[b] == total(x + bytes([b]))`."""
        ...


@final
class DeflateLengths:
    """Raw DEFLATE to the bit.

    zlib gives whole bytes, so the unused bits of the last one are found by what the format says of them: a decoder does not read them. One
    bit at a time is flipped, from the highest down, until the decoder no longer ends with the same document. The last bit that is read
    belongs to the end-of-block code, and no code is the begin of another: with it flipped, the decoder reads another symbol there, which
    adds a byte, fails, or waits for more. So the first flip that is noticed is exactly the last bit of the stream; in a stored block it is
    the last bit of the last byte. (A flush is no help: Z_PARTIAL_FLUSH and Z_SYNC_FLUSH append blocks of their own, and show whole bytes.)
    """

    name: str = "gzip"
    granularity: str = "one bit"
    max_bytes: int = 1 << 30

    def __init__(self, level: int = 9) -> None:
        """`level` is zlib's, 1 to 9."""
        self.level = level
        self._fed = b""
        self._head_bits = 0
        self._begin()

    def identity(self) -> dict[str, JSON]:
        return {"name": self.name, "format": "raw deflate", "level": self.level, "zlib": zlib.ZLIB_RUNTIME_VERSION}

    def total(self, data: bytes) -> float:
        packer = zlib.compressobj(self.level, zlib.DEFLATED, _RAW_WINDOW)
        stream = packer.compress(data) + packer.flush()
        return float(_num_bits(zlib.decompressobj(_RAW_WINDOW), stream))

    def candidates(self, prefix: bytes) -> F64:
        if not prefix.startswith(self._fed):
            self._begin()
        head = self._packer.compress(prefix[len(self._fed) :])
        self._fed = prefix
        if head:
            self._reader.decompress(head)
            self._head_bits += 8 * len(head)
        lengths = np.empty(256)
        for value, byte in enumerate(BYTES):
            packer = self._packer.copy()
            lengths[value] = self._head_bits + _num_bits(self._reader.copy(), packer.compress(byte) + packer.flush())
        return lengths

    def _begin(self) -> None:
        self._packer = zlib.compressobj(self.level, zlib.DEFLATED, _RAW_WINDOW)
        self._reader = zlib.decompressobj(_RAW_WINDOW)  # has read what the packer has written
        self._fed, self._head_bits = b"", 0


def _num_bits(reader: Any, rest: bytes) -> int:
    """Bits of `rest`, the end of a DEFLATE stream whose begin `reader` has read. `reader` is used up."""
    reader.decompress(rest[:-1])
    last = rest[-1]
    expected = reader.copy().decompress(BYTES[last])
    for bit in range(7, -1, -1):
        probe = reader.copy()
        try:
            found = probe.decompress(BYTES[last ^ (1 << bit)])
        except zlib.error:
            return 8 * len(rest) - 7 + bit
        if not probe.eof or found != expected:
            return 8 * len(rest) - 7 + bit
    raise AssertionError("a byte of a DEFLATE stream of which no bit is read")


class _WholeBytes:
    """Lengths of a compressor that is asked for whole documents."""

    name: str
    granularity: str = "whole bytes"
    max_bytes: int = 1 << 30

    def _compress(self, data: bytes) -> bytes:
        raise NotImplementedError

    def total(self, data: bytes) -> float:
        """Bits of the whole document."""
        return 8.0 * len(self._compress(data))

    def candidates(self, prefix: bytes) -> F64:
        """Float64 [256]: bits with each byte after it."""
        return np.array([self.total(prefix + byte) for byte in BYTES])


@final
class ZstdLengths(_WholeBytes):
    """One Zstandard frame without magic number, content size and checksum."""

    name = "zstd"

    def __init__(self, level: int = 19) -> None:
        """`level` is 1 to 22."""
        self.level = level
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0, write_checksum=0, write_dict_id=0
        )
        self._packer = zstandard.ZstdCompressor(compression_params=parameters)

    def identity(self) -> dict[str, JSON]:
        version = ".".join(map(str, zstandard.ZSTD_VERSION))
        return {"name": self.name, "format": "zstd frame without magic, size, checksum", "level": self.level, "zstd": version}

    def _compress(self, data: bytes) -> bytes:
        return self._packer.compress(data)


@final
class LzmaByteLengths(_WholeBytes):
    """Raw LZMA1 in whole bytes, end marker and flushing included: nearly all candidates are equal."""

    name = "lzma-bytes"
    max_bytes: int = 1 << 16

    def __init__(self, preset: int = 6) -> None:
        """`preset` is xz's, 0 to 9, without its dictionary size."""
        self.preset = preset

    def identity(self) -> dict[str, JSON]:
        return {"name": self.name, "format": "raw lzma1 with end marker", "preset": self.preset}

    def _compress(self, data: bytes) -> bytes:
        return _raw_lzma(data, self.preset)


@final
class LzmaLengths(_WholeBytes):
    """Raw LZMA1 in information bits of its range coder, end marker and flushing left out."""

    name = "lzma"
    granularity = "fractions of a bit"
    max_bytes: int = 1 << 16

    def __init__(self, preset: int = 6) -> None:
        """`preset` is xz's, 0 to 9, without its dictionary size."""
        self.preset = preset

    def identity(self) -> dict[str, JSON]:
        return {"name": self.name, "format": "decisions of raw lzma1", "preset": self.preset}

    def total(self, data: bytes) -> float:
        from proxy_lm.codec.lzma_bits import information_bits

        return information_bits(_raw_lzma(data, self.preset), len(data))


def _raw_lzma(data: bytes, preset: int) -> bytes:
    # As small a dictionary as holds the document: larger ones find nothing more in it, and take longer to set up than it to compress.
    dictionary_bytes = max(_LEAST_DICTIONARY_BYTES, 1 << (len(data) - 1).bit_length())
    filters = [{"id": lzma.FILTER_LZMA1, "preset": preset, "dict_size": dictionary_bytes}]
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters)


@final
class ModelLengths:
    """Information bits of a model that codes chunks. All 256 candidates are given to it at once."""

    granularity: str = "fractions of a bit"
    max_bytes: int = 1 << 16
    name: str = "model"

    def __init__(self, predictor: Predictor) -> None:
        """Of any `proxy_lm.codec.predictor.Predictor`."""
        self._predictor = predictor

    def identity(self) -> dict[str, JSON]:
        return self._predictor.identity()

    def total(self, data: bytes) -> float:
        return self._predictor.encode([data])[0].information_bits

    def candidates(self, prefix: bytes) -> F64:
        return np.array([coded.information_bits for coded in self._predictor.encode([prefix + byte for byte in BYTES])])


def open_lengths(name: str, *, device: str = "cpu") -> Lengths:
    """By name, or of a model's folder. Raises `RequestError` for anything else."""
    makers: dict[str, Callable[[], Lengths]] = {
        "gzip": DeflateLengths,
        "lzma": LzmaLengths,
        "lzma-bytes": LzmaByteLengths,
        "zstd": ZstdLengths,
    }
    if name in makers:
        return makers[name]()
    if not Path(name).is_dir():
        raise RequestError(f"'{name}' is no compressor and no folder; known: {', '.join(NAMES)}, or the folder of a model")
    from proxy_lm.codec import open_predictor

    return ModelLengths(open_predictor(Path(name), device=device))
