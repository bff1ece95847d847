"""`as-bytes`: any view's symbols written as bytes, 256 symbols whatever the alphabet inside.

    proxy-lm compressor train as-bytes --option inner=spm --option gray=true --corpus corpus --out views/spm-bytes

Each inner symbol becomes ceil(log2(alphabet) / 8) bytes, most significant first. With `gray: true` the inner symbols are first ranked by
the bytes each decodes to alone (equal ones by number) and the rank is Gray-coded, so that neighbours in the dictionary differ in one bit.

`inner` is the name of a view, or an artifact folder; other options go to the training of the inner view. The inner spec, its fingerprint
and its files travel inside this view's artifact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self, final

import numpy as np
import numpy.typing as npt

from compressors import options as view_options
from compressors import registry
from compressors import symbols as symbol_checks
from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Borders, Compressor, Symbols
from compressors.errors import DecodeError, RequestError
from compressors.options import Option

_PREFIX: Final = "inner-"


@final
class AsBytes(Compressor):
    """Another view's symbols as fixed-width big-endian bytes."""

    name: ClassVar[str] = "as-bytes"
    exact: ClassVar[bool] = True  # as exact as the view inside; see __init__
    needs_training: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        "inner": Option(default=None, kind=str, required=True, help="name of the view inside, or its artifact folder, required"),
        "gray": Option(default=False, help="rank the inner symbols by what they stand for and Gray-code the rank"),
    }

    def __init__(self, *, inner: Compressor, gray: bool = False) -> None:
        """Raises `RequestError` for an inner view that is not exact: the wrapper promises what it cannot keep otherwise."""
        if not inner.exact:
            raise RequestError(f"view 'as-bytes' wraps exact views only and '{inner.name}' is not; use it directly")
        self.inner = inner
        self.gray = gray
        self._inner_size = inner.alphabet_size
        self._width = max(1, -(-(self._inner_size - 1).bit_length() // 8))
        self._code: Symbols | None = None
        self._symbol_of: npt.NDArray[np.int64] | None = None
        if gray:
            self._code, self._symbol_of = _gray_tables(inner)

    @property
    def alphabet_size(self) -> int:
        return 256

    def encode(self, data: bytes) -> Symbols:
        return self._write(self.inner.encode(data))

    def encode_batch(self, documents: Sequence[bytes]) -> list[Symbols | None]:
        return [None if symbols is None else self._write(symbols) for symbols in self.inner.encode_batch(documents)]

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        good = symbol_checks.checked(self.name, symbols, 256)
        if len(good) % self._width:
            raise DecodeError(f"view 'as-bytes' has {self._width} symbols for one of '{self.inner.name}'; {len(good)} end inside one")
        codes = np.zeros(len(good) // self._width, dtype=np.uint32)
        for column in range(self._width):
            codes = (codes << np.uint32(8)) | good[column :: self._width]
        if self._symbol_of is not None:
            if len(codes) and int(codes.max()) >= len(self._symbol_of):
                raise DecodeError(f"view 'as-bytes': {int(codes.max())} is no Gray code of the {self._inner_size} symbols inside")
            inner = self._symbol_of[codes]
            if len(inner) and int(inner.min()) < 0:
                raise DecodeError(
                    f"view 'as-bytes': {int(codes[np.argmin(inner)])} is no Gray code of the {self._inner_size} symbols inside"
                )
            codes = inner.astype(np.uint32)
        return self.inner.decode(codes, max_bytes)

    def spans(self, data: bytes) -> Borders | None:
        """An inner symbol is known once its last byte is read, so that one stands for its stretch and the others for nothing."""
        borders = self.inner.spans(data)
        return None if borders is None else np.append(np.repeat(borders[:-1], self._width), borders[-1:])

    def spec(self) -> dict[str, JSON]:
        return {
            "name": self.name,
            "version": 1,
            "gray": self.gray,
            "width_bytes": self._width,
            "inner": self.inner.spec(),
            "inner_fingerprint": registry.fingerprint(self.inner),
        }

    def files(self) -> dict[str, bytes]:
        return {_PREFIX + name: data for name, data in self.inner.files().items()}

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        inner_spec, gray = spec.get("inner"), spec.get("gray")
        if not isinstance(inner_spec, dict) or not isinstance(gray, bool):
            raise RequestError("the spec of view 'as-bytes' has no 'inner' view or no 'gray'; train the view anew")
        inner_files = {name.removeprefix(_PREFIX): data for name, data in files.items() if name.startswith(_PREFIX)}
        inner = registry.get(str(inner_spec.get("name"))).from_artifact(inner_spec, inner_files)
        if registry.fingerprint(inner) != spec.get("inner_fingerprint"):
            raise RequestError(
                f"view 'as-bytes' was made around fingerprint {spec.get('inner_fingerprint')} and this program rebuilds "
                f"{registry.fingerprint(inner)}; train the view anew"
            )
        return cls(inner=inner, gray=gray)

    @classmethod
    def train(cls, documents: Iterable[bytes], **options: JSON) -> Self:
        """Load or train the inner view, then wrap it."""
        own = view_options.take(cls.name, cls.options, {name: value for name, value in options.items() if name in cls.options})
        others = {name: value for name, value in options.items() if name not in cls.options}
        if own["inner"] is None:
            raise RequestError("view 'as-bytes' needs a view inside: give the option inner=NAME or inner=FOLDER")
        folder = Path(own["inner"])
        if (folder / registry.ARTIFACT_NAME).exists():
            if others:
                raise RequestError(f"options {', '.join(others)} are for training and {folder} is trained already; leave them out")
            return cls(inner=registry.load(folder), gray=own["gray"])
        return cls(inner=registry.train(own["inner"], documents, **others), gray=own["gray"])

    def _write(self, inner: Symbols) -> Symbols:
        codes = inner if self._code is None else self._code[inner]
        shifts = np.arange(8 * (self._width - 1), -1, -8, dtype=np.uint32)
        return ((codes[:, None] >> shifts) & np.uint32(0xFF)).reshape(-1).astype(np.uint32, copy=False)


def _gray_tables(inner: Compressor) -> tuple[Symbols, npt.NDArray[np.int64]]:
    """(code of each inner symbol, inner symbol of each code or -1)."""
    size = inner.alphabet_size
    meanings = [_alone(inner, symbol) for symbol in range(size)]
    order = sorted(range(size), key=lambda symbol: (meanings[symbol], symbol))
    ranks = np.arange(size, dtype=np.uint32)
    codes = np.zeros(size, dtype=np.uint32)
    codes[order] = ranks ^ (ranks >> np.uint32(1))
    symbol_of = np.full(1 << max(1, (size - 1).bit_length()), -1, dtype=np.int64)
    symbol_of[codes] = np.arange(size)
    return codes, symbol_of


def _alone(inner: Compressor, symbol: int) -> bytes:
    """What a symbol decodes to by itself; nothing where it has no meaning alone."""
    try:
        return inner.decode(np.array([symbol], dtype=np.uint32), 1 << 20)
    except DecodeError:
        return b""
