"""Code lengths of a document and of its 256 continuations by one byte, as finely as each format has them.

    lengths = open_lengths("gzip")
    lengths.total(b"abcabc")                 # 58.0: bits of the raw DEFLATE stream up to and with the end of its block
    lengths.candidates(b"abcab")             # float64 [256]: what the same document costs with each byte after it

What a length counts, and its granularity:

    gzip    raw DEFLATE, level 9, without gzip's 18 bytes; exact to the bit: up to the last bit of the last end-of-block code of a block
            that holds something (a stored block ends at a byte, as the format has it)
    lzma    raw LZMA1 (no container, no check, no padding to 4 bytes) with its end marker; information bits of the range coder's decisions,
            fractions of a bit: `proxy_lm.codec.lzma_bits`. `lzma-bytes` counts the stream's whole bytes instead
    zstd    one frame without magic number, content size and checksum; exact to the bit where it has streams of bits:
            `proxy_lm.codec.zstd_bits`. A block that is stored, and all headers, have whole bytes, as the format has them
    ppm     PPMd variant H, order 6, without an end mark; information bits of its range coder's decisions, fractions of a bit:
            `proxy_lm.codec.ppm_bits`. By the library pyppmd (extra `compress`), where it is installed
    a model information bits of the integer frequencies it codes with, fractions of a bit

Cost: one compression a candidate, so 256 a byte; gzip's state is copied after the prefix. Measured, processor time a byte after 128, 1,024
and 2,047 bytes of source: gzip 3, 3, 4 ms; zstd 4, 28, 56; lzma 50, 79, 124; ppm 10, 33, 54. A count model: 23 ms after 128. A model is
better asked itself (`proxy-lm generate RUN`): here it reads the prefix 256 times a byte.
"""

from __future__ import annotations

import lzma
import zlib
from abc import ABC, abstractmethod
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
NAMES: Final = ("gzip", "lzma", "lzma-bytes", "zstd", "ppm")
_RAW_WINDOW: Final = -15
_EMPTY_BLOCK_BITS: Final = 10
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

    zlib gives whole bytes. Z_BLOCK ends a block without filling up its last byte, and Z_FINISH then adds an empty last block of ten known
    bits: 1, 1, 0 and seven zeros, the code of its end. So the highest bit that is set in the whole stream is the second of those ten, and
    all before the first is what the document took. (Z_PARTIAL_FLUSH and Z_SYNC_FLUSH are no help: they show whole bytes.)
    """

    name: str = "gzip"
    granularity: str = "one bit"
    max_bytes: int = 1 << 30

    def __init__(self, level: int = 9) -> None:
        """`level` is zlib's, 1 to 9."""
        self.level = level
        self._fed = b""
        self._head_bits = 0
        self._packer = self._begin()

    def identity(self) -> dict[str, JSON]:
        return {"name": self.name, "format": "raw deflate", "level": self.level, "zlib": zlib.ZLIB_RUNTIME_VERSION}

    def total(self, data: bytes) -> float:
        if not data:
            return float(_EMPTY_BLOCK_BITS)
        packer = self._begin()
        return float(_num_bits(packer.compress(data) + packer.flush(zlib.Z_BLOCK) + packer.flush()))

    def candidates(self, prefix: bytes) -> F64:
        if not prefix.startswith(self._fed):
            self._packer, self._fed, self._head_bits = self._begin(), b"", 0
        self._head_bits += 8 * len(self._packer.compress(prefix[len(self._fed) :]))
        self._fed = prefix
        lengths = np.empty(256)
        for value, byte in enumerate(BYTES):
            packer = self._packer.copy()
            lengths[value] = self._head_bits + _num_bits(packer.compress(byte) + packer.flush(zlib.Z_BLOCK) + packer.flush())
        return lengths

    def _begin(self) -> Any:
        return zlib.compressobj(self.level, zlib.DEFLATED, _RAW_WINDOW)


def _num_bits(stream: bytes) -> int:
    """Bits before the empty block that ends the (rest of a) DEFLATE stream."""
    return 8 * max(0, len(stream) - 3) + int.from_bytes(stream[-3:], "little").bit_length() - 2


class _OneByOne(ABC):
    """A compressor that is asked for whole documents, 256 of them a byte."""

    name: str
    granularity: str
    max_bytes: int = 1 << 30

    @abstractmethod
    def total(self, data: bytes) -> float:
        """Bits of the whole document."""

    def candidates(self, prefix: bytes) -> F64:
        """Float64 [256]: bits with each byte after it."""
        return np.array([self.total(prefix + byte) for byte in BYTES])


@final
class ZstdLengths(_OneByOne):
    """One Zstandard frame without magic number, content size and checksum, to the bit within its streams of bits."""

    name = "zstd"
    granularity = "one bit"

    def __init__(self, level: int = 19) -> None:
        """`level` is 1 to 22."""
        self.level = level
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0, write_checksum=0, write_dict_id=0
        )
        self._packer = zstandard.ZstdCompressor(compression_params=parameters)

    def identity(self) -> dict[str, JSON]:
        version = ".".join(map(str, zstandard.ZSTD_VERSION))
        return {"name": self.name, "format": "zstd frame without magic, size, checksum, filling", "level": self.level, "zstd": version}

    def total(self, data: bytes) -> float:
        from proxy_lm.codec.zstd_bits import information_bits

        return float(information_bits(self._packer.compress(data)))


@final
class LzmaByteLengths(_OneByOne):
    """Raw LZMA1 in whole bytes, end marker and flushing included: nearly all candidates are equal."""

    name = "lzma-bytes"
    granularity = "whole bytes"
    max_bytes: int = 1 << 16

    def __init__(self, preset: int = 6) -> None:
        """`preset` is xz's, 0 to 9, without its dictionary size and match finder."""
        self.preset = preset

    def identity(self) -> dict[str, JSON]:
        return {"name": self.name, "format": "raw lzma1 with end marker, matches by 3 bytes", "preset": self.preset}

    def total(self, data: bytes) -> float:
        return 8.0 * len(_raw_lzma(data, self.preset))


@final
class LzmaLengths(_OneByOne):
    """Raw LZMA1 in information bits of its range coder, end marker and flushing left out."""

    name = "lzma"
    granularity = "fractions of a bit"
    max_bytes: int = 1 << 16

    def __init__(self, preset: int = 6) -> None:
        """`preset` is xz's, 0 to 9, without its dictionary size and match finder."""
        self.preset = preset

    def identity(self) -> dict[str, JSON]:
        return {"name": self.name, "format": "decisions of raw lzma1, matches by 3 bytes", "preset": self.preset}

    def total(self, data: bytes) -> float:
        from proxy_lm.codec.lzma_bits import information_bits

        return information_bits(_raw_lzma(data, self.preset), len(data))


def _raw_lzma(data: bytes, preset: int) -> bytes:
    # As small a dictionary as holds the document, and matches found by three bytes where the preset has four: larger tables find nothing
    # more in it, and take longer to set up than it to compress.
    dictionary_bytes = max(_LEAST_DICTIONARY_BYTES, 1 << (len(data) - 1).bit_length())
    filters = [{"id": lzma.FILTER_LZMA1, "preset": preset, "dict_size": dictionary_bytes, "mf": lzma.MF_BT3}]
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


def _ppm_lengths() -> Lengths:
    from proxy_lm.codec.ppm_bits import PpmLengths

    return PpmLengths()


def open_lengths(name: str, *, device: str = "cpu") -> Lengths:
    """By name, or of a model's folder. Raises `RequestError` for anything else."""
    makers: dict[str, Callable[[], Lengths]] = {
        "gzip": DeflateLengths,
        "lzma": LzmaLengths,
        "lzma-bytes": LzmaByteLengths,
        "zstd": ZstdLengths,
        "ppm": _ppm_lengths,
    }
    if name in makers:
        return makers[name]()
    if not Path(name).is_dir():
        raise RequestError(f"'{name}' is no compressor and no folder; known: {', '.join(NAMES)}, or the folder of a model")
    from proxy_lm.codec import open_predictor

    return ModelLengths(open_predictor(Path(name), device=device))
