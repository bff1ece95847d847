"""What a compressor is.

A compressor turns the bytes of one document into a sequence of integers from 0 to `alphabet_size - 1`, its *symbols*, and back. A
language model is trained on those symbols beside the raw bytes; that is a *view* of the document. The contract:

* `encode` is a function of (bytes, spec) alone: no time, host, thread count or batch changes it. Equal specs give equal symbols on every
  machine. A change that emits another symbol is a new `version` in the spec.
* `exact` promises `decode(encode(x)) == x` for every document that `encode` accepts. What it cannot express exactly it refuses with
  `NotRepresentableError`; the caller then uses the raw view for that document and counts it. An inexact compressor says so here and its
  artifact stores the measured rate.
* `decode` is total: for any array of symbols it returns bytes or raises `DecodeError`, in bounded time and memory.
* The empty document is valid and encodes to an array that decodes to `b""` (often, but not always, an empty array).

A new view is a final subclass of about 40 lines, registered under the entry-point group `proxy_lm.compressors`; nothing here is edited.

Symbols are `numpy.uint32` arrays of shape [num_symbols].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from compressors.errors import DecodeError, NotRepresentableError
from compressors.options import Option, take

JSON: TypeAlias = "None | bool | int | float | str | list[JSON] | dict[str, JSON]"
Symbols: TypeAlias = npt.NDArray[np.uint32]
Borders: TypeAlias = npt.NDArray[np.int64]

# A decoder never returns more than this many bytes unless its caller raises the cap: symbols from outside may be hostile.
DEFAULT_MAX_DECODED_BYTES = 1 << 30


class Compressor(ABC):
    """One way to tell a document. Instances are immutable and may be shared between threads and pickled to worker processes."""

    name: ClassVar[str]
    exact: ClassVar[bool]
    needs_training: ClassVar[bool] = False
    in_threads: ClassVar[bool] = False
    """`encode_batch` and `decode_batch` release the interpreter lock: a corpus is encoded by threads and not by processes."""
    reports_progress: ClassVar[bool] = False
    """`train` takes minutes and a keyword `report`, a function of (done, total) that it calls now and then."""
    options: ClassVar[Mapping[str, Option]] = {}

    @property
    @abstractmethod
    def alphabet_size(self) -> int:
        """Number of distinct symbols; every emitted symbol is below it."""

    @classmethod
    def planned_alphabet_size(cls, options: Mapping[str, Any]) -> int | None:
        """The alphabet that training with these options will give; None where only training tells."""
        known = cls.options.get("alphabet_size")
        wanted = options.get("alphabet_size", known.default if known is not None else None)
        return wanted if isinstance(wanted, int) else None

    @abstractmethod
    def encode(self, data: bytes) -> Symbols:
        """Symbols of one document. Raises `NotRepresentableError` where the view cannot be exact."""

    @abstractmethod
    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        """The document's bytes. Raises `DecodeError` for anything `encode` cannot have emitted, or output over `max_bytes`."""

    @abstractmethod
    def spec(self) -> dict[str, JSON]:
        """What fixes the symbols: name, version, options, library version, digests of model files. Plain JSON."""

    def encode_batch(self, documents: Sequence[bytes]) -> list[Symbols | None]:
        """Symbols of several documents; None where a document is not representable. Equal to one `encode` each."""
        return [self._encode_or_none(document) for document in documents]

    def decode_batch(self, symbols: Sequence[Symbols], max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> list[bytes | None]:
        """The bytes of several documents, each of at most `max_bytes`; None where `decode` raises `DecodeError`."""
        return [self._decode_or_none(one, max_bytes) for one in symbols]

    def spans(self, data: bytes) -> Borders | None:
        """Borders in bytes, shape [num_symbols + 1], from 0 to len(data), never decreasing: symbol i stands for
        data[borders[i]:borders[i + 1]]. None where a symbol does not stand for a stretch of bytes (gzip, zstd)."""
        return None

    def spelling(self) -> list[bytes] | None:
        """What each symbol stands for wherever it stands, by symbol: any symbols decode to what they spell, joined. b"" where no document
        has the symbol. None where what a symbol stands for depends on others."""
        return None

    def files(self) -> dict[str, bytes]:
        """The model files of the artifact, by plain file name. Empty for views that are fully given by their spec."""
        return {}

    @classmethod
    @abstractmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        """Rebuild from what `spec()` and `files()` gave. Raises `RequestError` when they do not fit together."""

    @classmethod
    def take_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of `train` with their defaults. Raises `RequestError` for what no documents could make right, so that callers can
        ask before they make a model for hours."""
        return take(cls.name, cls.options, options)

    @classmethod
    def train(cls, documents: Iterable[bytes], **options: JSON) -> Self:
        """Fit to documents (an iterable that is gone through at most once). Without training, the options are the constructor's
        keywords and the documents are left alone. Raises `RequestError` for unknown options and bad values."""
        if cls.needs_training:
            raise NotImplementedError(f"view '{cls.name}' needs training and has no `train`")
        make: Callable[..., Self] = cls
        return make(**cls.take_options(options))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its artifact, so that a worker process rebuilds and checks it like anyone else."""
        return _rebuild, (type(self), self.spec(), self.files())

    def _encode_or_none(self, document: bytes) -> Symbols | None:
        try:
            return self.encode(document)
        except NotRepresentableError:
            return None

    def _decode_or_none(self, symbols: Symbols, max_bytes: int) -> bytes | None:
        try:
            return self.decode(symbols, max_bytes)
        except DecodeError:
            return None


def _rebuild(cls: type[Compressor], spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Compressor:
    return cls.from_artifact(spec, files)
