"""`gzip`: DEFLATE at a fixed level, by zlib. The classic compressor, and by published results a poor view: small edits change everything.

The symbols are the bytes of the raw DEFLATE stream. The 18 bytes of gzip's header and trailer are left out: a time stamp, an operating
system and a checksum are noise to a model. `framed: true` keeps them, with time 0, no name and a fixed system byte.

Not promised: equal symbols from another zlib. Its version is part of the spec, and `encode` refuses to run on another one; `decode` reads
streams of any.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import ClassVar, Final, Self, final

from compressors import options as view_options
from compressors import symbols as symbol_checks
from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Compressor, Symbols
from compressors.errors import DecodeError, RequestError
from compressors.options import Option

_RAW_WINDOW: Final = -15  # negative: no zlib or gzip frame
_MEMORY_LEVEL: Final = 8
_TRAILER_BYTES: Final = 8


@final
class Deflate(Compressor):
    """DEFLATE by zlib, headerless unless `framed`."""

    name: ClassVar[str] = "gzip"
    exact: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        "level": Option(default=9, low=1, high=9, help="effort, 1 (fast) to 9 (small)"),
        "framed": Option(default=False, help="keep gzip's header and trailer, 18 bytes a document"),
    }

    def __init__(self, *, level: int = 9, framed: bool = False, zlib_version: str = zlib.ZLIB_RUNTIME_VERSION) -> None:
        """`zlib_version` is the one whose symbols are meant; another one can only decode."""
        self.level = level
        self.framed = framed
        self.zlib_version = zlib_version
        effort = {1: 4, 9: 2}.get(level, 0)
        self._header = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, effort, 255]) if framed else b""

    @property
    def alphabet_size(self) -> int:
        return 256

    def encode(self, data: bytes) -> Symbols:
        if self.zlib_version != zlib.ZLIB_RUNTIME_VERSION:
            raise RequestError(
                f"this gzip view was made with zlib {self.zlib_version} and here is {zlib.ZLIB_RUNTIME_VERSION}, whose symbols may differ; "
                "encode where the first is installed, or train the view anew here"
            )
        packer = zlib.compressobj(self.level, zlib.DEFLATED, _RAW_WINDOW, _MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY)
        stream = packer.compress(data) + packer.flush()
        return symbol_checks.from_bytes(self._header + stream + self._trailer(data))

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        stream = symbol_checks.to_bytes(symbol_checks.checked(self.name, symbols, 256))
        if self.framed:
            if not stream.startswith(self._header) or len(stream) < len(self._header) + _TRAILER_BYTES:
                raise DecodeError(f"view 'gzip': {len(stream)} symbols do not begin with the fixed header {self._header.hex()}")
            stream, trailer = stream[len(self._header) : -_TRAILER_BYTES], stream[-_TRAILER_BYTES:]
        data = _inflate(stream, max_bytes)
        if self.framed and trailer != self._trailer(data):
            raise DecodeError("view 'gzip': checksum or length in the trailer differs from the decoded document; the symbols are damaged")
        return data

    def spec(self) -> dict[str, JSON]:
        return {
            "name": self.name,
            "version": 1,
            "level": self.level,
            "framed": self.framed,
            "memory_level": _MEMORY_LEVEL,
            "window_bits": -_RAW_WINDOW,
            "zlib": self.zlib_version,
        }

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        known = view_options.take(cls.name, cls.options, {name: spec.get(name) for name in cls.options})
        return cls(zlib_version=str(spec.get("zlib")), **known)

    def _trailer(self, data: bytes) -> bytes:
        if not self.framed:
            return b""
        return zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")


def _inflate(stream: bytes, max_bytes: int) -> bytes:
    """One whole DEFLATE stream and nothing after it; the output is never over `max_bytes` + 1 in memory."""
    unpacker = zlib.decompressobj(_RAW_WINDOW)
    try:
        data = unpacker.decompress(stream, max_bytes + 1)
    except zlib.error as error:
        raise DecodeError(f"view 'gzip': not a DEFLATE stream ({error})") from error
    symbol_checks.check_size("gzip", len(data), max_bytes)
    if not unpacker.eof:  # zlib reports a truncated stream in no other way
        raise DecodeError(f"view 'gzip': the stream of {len(stream)} symbols ends before the document does")
    if unpacker.unused_data:
        raise DecodeError(f"view 'gzip': {len(unpacker.unused_data)} symbols follow the end of the document")
    return data
