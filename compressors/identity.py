"""`identity`: a document's bytes are its symbols. The control view: same content as raw bytes, under ids of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self, final

import numpy as np

from compressors import symbols as symbol_checks
from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Borders, Compressor, Symbols
from compressors.errors import RequestError


@final
class Identity(Compressor):
    """Bytes as they are."""

    name: ClassVar[str] = "identity"
    exact: ClassVar[bool] = True

    @property
    def alphabet_size(self) -> int:
        return 256

    def encode(self, data: bytes) -> Symbols:
        return symbol_checks.from_bytes(data)

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        good = symbol_checks.checked(self.name, symbols, 256)
        symbol_checks.check_size(self.name, len(good), max_bytes)
        return symbol_checks.to_bytes(good)

    def spans(self, data: bytes) -> Borders:
        return np.arange(len(data) + 1, dtype=np.int64)

    def spelling(self) -> list[bytes]:
        return [bytes([value]) for value in range(256)]

    def spec(self) -> dict[str, JSON]:
        return {"name": self.name, "version": 1}

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        if dict(spec) != cls().spec():
            raise RequestError(f"the spec of view 'identity' is {cls().spec()}; got {dict(spec)}")
        return cls()
