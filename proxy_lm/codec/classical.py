"""Classical compressors as rows of a table: what they are, what they make of a chunk or a whole, and that it can be had back.

    found, missing = classical_compressors()
    measured = measure(found[0], data, chunk_bytes=2048)
    measured.rate                                  # coded bytes / raw bytes, the header of the format counted once

The rules are those of Deletang et al., "Language modeling is compression" (ICLR 2024), and its code: chunks are coded alone; a format's
header is taken to be the coded size of one zero byte and counted once for all chunks, so it is subtracted (chunks - 1) times; PNG sees the
bytes as 8-bit grey pixels in the two closest factors of their number; FLAC sees 8-bit samples of one channel at 16 kHz.

An estimate of the header is an estimate: where a compressor codes a chunk in less than it codes a zero byte, a rate may come out too low.
What is coded is the library's format as it stands: gzip's 18 bytes, xz's check and padding, a zstd frame with its magic number and size
but no checksum (the program `zstd` adds one, of 4 bytes).
"""

from __future__ import annotations

import gzip
import importlib
import io
import lzma
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import zstandard

from compressors.base import JSON
from proxy_lm.errors import RequestError, WorkError

SAMPLE_RATE: Final = 16_000
_LEAST_DICTIONARY_BYTES: Final = 4096


@dataclass(frozen=True)
class Classical:
    """One compressor with its options."""

    name: str
    """As it stands in the table: gzip-9, zstd-19, zstd-3, lzma2, lzma2-9e, brotli-11, png, flac."""
    library: str
    """Whose code it is, and its version."""
    options: dict[str, JSON]
    """All that decides the coded bytes besides the library."""
    compress: Callable[[bytes], bytes]
    """Coded bytes of a chunk, which must not be empty."""
    decompress: Callable[[bytes], bytes]
    """The chunk again."""

    def header_bytes(self) -> int:
        """Coded size of one zero byte."""
        return len(self.compress(b"\0"))


class Unavailable(NamedTuple):
    """A row that cannot be measured here, and why."""

    name: str
    reason: str
    pip_name: str


@dataclass(frozen=True)
class Measured:
    """What one compressor made of some data."""

    name: str
    options: dict[str, JSON]
    library: str
    chunk_bytes: int | None
    """None: the whole at once."""
    num_bytes: int
    num_chunks: int
    coded_bytes: int
    """Sum over the chunks, headers included."""
    header_bytes: int
    """Of one chunk, estimated."""
    checked: bool
    """Whether every chunk was decoded again and compared."""
    counted_bytes: int = field(init=False)
    """`coded_bytes` with the header counted once."""
    rate: float = field(init=False)
    """`counted_bytes / num_bytes`."""

    def __post_init__(self) -> None:
        counted = self.coded_bytes - (self.num_chunks - 1) * self.header_bytes
        object.__setattr__(self, "counted_bytes", counted)
        object.__setattr__(self, "rate", counted / self.num_bytes)


def classical_compressors() -> tuple[list[Classical], list[Unavailable]]:
    """Those that can run here, and those that cannot, each in the order of the table."""
    found = [_gzip(), _zstd(19), _zstd(3), _lzma2("lzma2", lzma.PRESET_DEFAULT), _lzma2("lzma2-9e", 9 | lzma.PRESET_EXTREME)]
    missing = []
    for name, module, pip_name, make in (
        ("brotli-11", "brotli", "brotli", _brotli),
        ("png", "PIL.Image", "pillow", _png),
        ("flac", "soundfile", "soundfile", _flac),
    ):
        try:
            found.append(make(importlib.import_module(module)))
        except (ImportError, OSError) as error:  # OSError: soundfile without the shared library it binds
            reason = f"{pip_name} is not installed" if isinstance(error, ModuleNotFoundError) else f"{pip_name} does not load: {error}"
            missing.append(Unavailable(name, f"{reason}; pip install {pip_name}", pip_name))
    return found, missing


def chunks_of(data: bytes, chunk_bytes: int | None) -> Iterator[bytes]:
    """`data` in pieces of `chunk_bytes`, the last one shorter where they do not go in; None: all of it."""
    step = chunk_bytes or max(1, len(data))
    return (data[begin : begin + step] for begin in range(0, len(data), step))


def measure(
    compressor: Classical,
    data: bytes | Sequence[bytes],
    *,
    chunk_bytes: int | None,
    check: bool = True,
    advance: Callable[[int], object] = lambda num_bytes: None,
) -> Measured:
    """Code all of `data`, in chunks of `chunk_bytes`, or whole (None). Chunks that are cut already are taken as they are, or joined.
    `advance` is told the bytes that are done. Raises `RequestError` for no data, `WorkError` where a chunk is not had back."""
    if chunk_bytes is not None and chunk_bytes < 1:
        raise RequestError(f"chunks of {chunk_bytes} bytes; give at least 1, or none for the whole at once")
    if isinstance(data, bytes):
        chunks: Sequence[bytes] = list(chunks_of(data, chunk_bytes))
    else:
        chunks = data if chunk_bytes is not None else [b"".join(data)]
    num_bytes = sum(len(chunk) for chunk in chunks)
    if not num_bytes:
        raise RequestError("no bytes to measure; a rate needs at least one")
    coded_bytes = 0
    for index, chunk in enumerate(chunks):
        coded = compressor.compress(chunk)
        if check and compressor.decompress(coded) != chunk:
            raise WorkError(f"{compressor.name} did not give chunk {index} of {len(chunk)} bytes back; its rate would mean nothing")
        coded_bytes += len(coded)
        advance(len(chunk))
    return Measured(
        name=compressor.name,
        options=compressor.options,
        library=compressor.library,
        chunk_bytes=chunk_bytes,
        num_bytes=num_bytes,
        num_chunks=len(chunks),
        coded_bytes=coded_bytes,
        header_bytes=compressor.header_bytes(),
        checked=check,
    )


def _gzip() -> Classical:
    import zlib

    return Classical(
        name="gzip-9",
        library=f"zlib {zlib.ZLIB_RUNTIME_VERSION}",
        options={"level": 9},
        compress=lambda chunk: gzip.compress(chunk, 9, mtime=0),
        decompress=gzip.decompress,
    )


def _zstd(level: int) -> Classical:
    packer, unpacker = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
    return Classical(
        name=f"zstd-{level}",
        library=f"zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}",
        options={"level": level, "content_size": True, "checksum": False},
        compress=packer.compress,
        decompress=unpacker.decompress,
    )


def _lzma2(name: str, preset: int) -> Classical:
    """xz with a dictionary no larger than the chunk asks for: the coded size is the same, and a preset's own (8 to 64 MiB) takes
    longer to set up than a chunk of 2,048 bytes takes to code."""
    most = {lzma.PRESET_DEFAULT: 1 << 23}.get(preset, 1 << 26)

    def compress(chunk: bytes) -> bytes:
        dictionary_bytes = min(most, max(_LEAST_DICTIONARY_BYTES, 1 << (len(chunk) - 1).bit_length()))
        return lzma.compress(chunk, filters=[{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary_bytes}])

    told = "default (6)" if preset == lzma.PRESET_DEFAULT else "9e"
    options: dict[str, JSON] = {"container": "xz", "check": "crc64", "preset": told, "most_dictionary_bytes": most}
    return Classical(name=name, library="liblzma of this Python", options=options, compress=compress, decompress=lzma.decompress)


def _brotli(module: Any) -> Classical:
    return Classical(
        name="brotli-11",
        library=f"brotli {module.__version__}",
        options={"quality": 11, "window_bits": 22},
        compress=lambda chunk: module.compress(chunk, quality=11, lgwin=22),
        decompress=module.decompress,
    )


def _png(module: Any) -> Classical:
    reader = importlib.import_module("PIL.PngImagePlugin").PngImageFile
    version = importlib.import_module("PIL").__version__

    def compress(chunk: bytes) -> bytes:
        height, width = closest_factors(len(chunk))
        file = io.BytesIO()
        module.frombytes("L", (width, height), chunk).save(file, format="PNG", optimize=True)
        return file.getvalue()

    def decompress(coded: bytes) -> bytes:
        # Not Image.open: it warns of images over 90 million pixels, which a whole file may well be.
        pixels: bytes = reader(io.BytesIO(coded)).tobytes()
        return pixels

    options: dict[str, JSON] = {"optimize": True, "mode": "8-bit grey", "shape": "closest factors, height <= width"}
    return Classical(name="png", library=f"pillow {version}", options=options, compress=compress, decompress=decompress)


def closest_factors(number: int) -> tuple[int, int]:
    """The two factors of `number` >= 1 that are closest to each other, the smaller first: 2048 is (32, 64)."""
    low = next(factor for factor in range(math.isqrt(number), 0, -1) if number % factor == 0)
    return low, number // low


def _flac(module: Any) -> Classical:
    def compress(chunk: bytes) -> bytes:
        # 16-bit samples whose low byte is zero: the library keeps the high one.
        samples = (np.frombuffer(chunk, dtype=np.uint8).astype(np.int16) - 128) * 256
        file = io.BytesIO()
        module.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_S8", **best)
        return file.getvalue()

    def decompress(coded: bytes) -> bytes:
        samples, _ = module.read(io.BytesIO(coded), dtype="int16")
        restored: bytes = (samples // 256 + 128).astype(np.uint8).tobytes()
        return restored

    best = {"compression_level": 1.0}
    library = f"{module.__libsndfile_version__} by soundfile {module.__version__}"
    options: dict[str, JSON] = {"level": "8 (the library's best; the source asks pydub for 12)", "samples": "8-bit mono, 16 kHz"}
    return Classical(name="flac", library=library, options=options, compress=compress, decompress=decompress)
