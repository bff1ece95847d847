"""`zstd`: Zstandard at a fixed level, optionally with a trained dictionary.

The symbols are the bytes of one frame without magic number, content size, checksum and dictionary id: what is left is about the document.
A dictionary (option `dictionary_bytes`) is worth much on short documents and is the one part that is trained.

Not promised: equal symbols from another zstd. Its version is part of the spec, and `encode` refuses to run on another one; `decode` reads
frames of any. A bit flipped in the symbols may decode to other bytes: checksums were left out on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, Self, final

import zstandard

from compressors import options as view_options
from compressors import symbols as symbol_checks
from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Compressor, Symbols
from compressors.errors import DecodeError, RequestError
from compressors.files import sha256_bytes
from compressors.options import Option

DICTIONARY_NAME: Final = "zstd.dictionary"
ZSTD_VERSION: Final = ".".join(str(part) for part in zstandard.ZSTD_VERSION)
# Levels up to 19 use windows of at most 8 MiB; a frame from outside that asks for more is refused before the memory is taken.
_MAX_WINDOW_BYTES: Final = 1 << 23
# The library decodes all it is given at once and ignores caps. A block of 128 KiB takes at least 4 bytes, so a slice of 256 bytes gives
# at most 8 MiB before the cap is looked at again.
_SLICE_BYTES: Final = 256


@final
class Zstd(Compressor):
    """One Zstandard frame a document, without its magic number, size and checksum."""

    name: ClassVar[str] = "zstd"
    exact: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        "level": Option(default=19, low=1, high=19, help="effort, 1 (fast) to 19 (small)"),
        "dictionary_bytes": Option(default=0, low=0, high=1 << 24, help="size of the trained dictionary, 0 for none; 112640 is usual"),
        "max_training_bytes": Option(default=20_000_000, low=1, help="documents are read until this many bytes; for the dictionary only"),
    }

    def __init__(self, *, level: int = 19, dictionary: bytes = b"", zstd_version: str = ZSTD_VERSION) -> None:
        """`zstd_version` is the one whose symbols are meant; another one can only decode."""
        self.level = level
        self.dictionary = dictionary
        self.zstd_version = zstd_version
        self._dictionary = zstandard.ZstdCompressionDict(dictionary) if dictionary else None

    @property
    def alphabet_size(self) -> int:
        return 256

    def encode(self, data: bytes) -> Symbols:
        if self.zstd_version != ZSTD_VERSION:
            raise RequestError(
                f"this zstd view was made with zstd {self.zstd_version} and here is {ZSTD_VERSION}, whose symbols may differ; "
                "encode where the first is installed, or train the view anew here"
            )
        # The library's compressor must not be shared between threads; a new one costs microseconds.
        parameters = zstandard.ZstdCompressionParameters(
            compression_level=self.level,
            format=zstandard.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=0,
            write_checksum=0,
            write_dict_id=0,
        )
        packer = zstandard.ZstdCompressor(compression_params=parameters, dict_data=self._dictionary)
        return symbol_checks.from_bytes(packer.compress(data))

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        frame = symbol_checks.to_bytes(symbol_checks.checked(self.name, symbols, 256))
        unpacker = zstandard.ZstdDecompressor(
            dict_data=self._dictionary, max_window_size=_MAX_WINDOW_BYTES, format=zstandard.FORMAT_ZSTD1_MAGICLESS
        ).decompressobj()
        parts: list[bytes] = []
        num_bytes = start = 0
        while not unpacker.eof and start < len(frame):
            try:
                part = unpacker.decompress(frame[start : start + _SLICE_BYTES])
            except (zstandard.ZstdError, MemoryError) as error:
                raise DecodeError(f"view 'zstd': not a Zstandard frame ({error})") from error
            start += _SLICE_BYTES
            num_bytes += len(part)
            symbol_checks.check_size(self.name, num_bytes, max_bytes)
            parts.append(part)
        if not unpacker.eof:  # the library reports a truncated frame in no other way
            raise DecodeError(f"view 'zstd': the frame of {len(frame)} symbols ends before the document does")
        num_left = len(unpacker.unused_data) + max(0, len(frame) - start)
        if num_left:
            raise DecodeError(f"view 'zstd': {num_left} symbols follow the end of the document")
        return b"".join(parts)

    def spec(self) -> dict[str, JSON]:
        return {
            "name": self.name,
            "version": 1,
            "level": self.level,
            "dictionary_sha256": sha256_bytes(self.dictionary) if self.dictionary else None,
            "zstd": self.zstd_version,
        }

    def files(self) -> dict[str, bytes]:
        return {DICTIONARY_NAME: self.dictionary} if self.dictionary else {}

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        dictionary = files.get(DICTIONARY_NAME, b"")
        wanted = spec.get("dictionary_sha256")
        actual = sha256_bytes(dictionary) if dictionary else None
        if wanted != actual:
            raise RequestError(f"the zstd view's spec names dictionary {wanted} and its file is {actual}; train the view anew")
        level = view_options.take(cls.name, cls.options, {"level": spec.get("level")})["level"]
        return cls(level=level, dictionary=dictionary, zstd_version=str(spec.get("zstd")))

    @classmethod
    def train(cls, documents: Iterable[bytes], **options: JSON) -> Self:
        """Train the dictionary, if one is asked for, on the first `max_training_bytes` of documents."""
        chosen = view_options.take(cls.name, cls.options, options)
        dictionary = b""
        if chosen["dictionary_bytes"]:
            dictionary = _train_dictionary(documents, chosen["dictionary_bytes"], chosen["max_training_bytes"])
        return cls(level=chosen["level"], dictionary=dictionary)


def _train_dictionary(documents: Iterable[bytes], dictionary_bytes: int, max_training_bytes: int) -> bytes:
    samples: list[bytes | bytearray | memoryview] = []
    num_left = max_training_bytes
    for document in documents:
        if num_left <= 0:
            break
        if document:
            samples.append(document[:num_left])
            num_left -= len(samples[-1])
    try:
        # k and d are fixed: left out, the library searches for them at many times the cost and a gain of a few percent.
        return bytes(zstandard.train_dictionary(dictionary_bytes, samples, k=min(1024, max(16, dictionary_bytes // 4)), d=8).as_bytes())
    except zstandard.ZstdError as error:
        num_bytes = sum(map(len, samples))
        raise RequestError(
            f"no zstd dictionary of {dictionary_bytes} bytes can be trained from {len(samples)} documents of {num_bytes} bytes ({error}); "
            "give more documents, or a smaller dictionary_bytes"
        ) from error
