"""Fixed-rate views: a byte cut into `bit`, `dibit` or `nibble` symbols, or two bytes joined into one `doublebyte`.

Most significant part first. They compress nothing; they ask what a mere change of symbol size does to a model.

`doublebyte` has 65,536 symbols for pairs and 256 more for the last byte of an odd document, so nothing is padded and no byte is lost: a
padded code cannot tell `b"a"` from `b"a\\0"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Self, final

import numpy as np
import numpy.typing as npt

from compressors import symbols as symbol_checks
from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Borders, Compressor, Symbols
from compressors.errors import DecodeError, RequestError

_NUM_PAIRS: Final = 1 << 16


class _FixedRate(Compressor):
    """What the four have in common: no options, no files."""

    exact: ClassVar[bool] = True

    def spec(self) -> dict[str, JSON]:
        return {"name": self.name, "version": 1}

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        if dict(spec) != cls().spec():
            raise RequestError(f"the spec of view '{cls.name}' is {cls().spec()}; got {dict(spec)}")
        return cls()


class _PartsOfBytes(_FixedRate):
    """2, 4 or 8 symbols a byte."""

    bits: ClassVar[int]
    _table: ClassVar[Symbols]  # [256, symbols_per_byte]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        shifts = np.arange(8 - cls.bits, -1, -cls.bits)
        cls._table = ((np.arange(256)[:, None] >> shifts) & ((1 << cls.bits) - 1)).astype(np.uint32)

    @property
    def alphabet_size(self) -> int:
        return 1 << self.bits

    def encode(self, data: bytes) -> Symbols:
        return np.take(self._table, np.frombuffer(data, dtype=np.uint8), axis=0).reshape(-1)

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        good = symbol_checks.checked(self.name, symbols, self.alphabet_size)
        per_byte = 8 // self.bits
        if len(good) % per_byte:
            raise DecodeError(f"view '{self.name}' has {per_byte} symbols a byte; {len(good)} symbols end inside a byte")
        symbol_checks.check_size(self.name, len(good) // per_byte, max_bytes)
        parts = good.astype(np.uint8).reshape(-1, per_byte)
        data: npt.NDArray[np.uint8] = np.zeros(len(parts), dtype=np.uint8)
        for column in range(per_byte):
            data = (data << np.uint8(self.bits)) | parts[:, column]
        return data.tobytes()

    def spans(self, data: bytes) -> Borders:
        """A byte is known once its last symbol is read, so that one stands for it and the others for nothing."""
        per_byte = 8 // self.bits
        return np.append(np.repeat(np.arange(len(data), dtype=np.int64), per_byte), np.int64(len(data)))


@final
class Nibble(_PartsOfBytes):
    """Two symbols of 4 bits a byte, high half first."""

    name: ClassVar[str] = "nibble"
    bits: ClassVar[int] = 4


@final
class Dibit(_PartsOfBytes):
    """Four symbols of 2 bits a byte, high bits first."""

    name: ClassVar[str] = "dibit"
    bits: ClassVar[int] = 2


@final
class Bit(_PartsOfBytes):
    """Eight symbols of 1 bit a byte, high bit first."""

    name: ClassVar[str] = "bit"
    bits: ClassVar[int] = 1


@final
class DoubleByte(_FixedRate):
    """One symbol for two bytes, big-endian, and one of 256 further symbols for the last byte of an odd document."""

    name: ClassVar[str] = "doublebyte"

    @property
    def alphabet_size(self) -> int:
        return _NUM_PAIRS + 256

    def encode(self, data: bytes) -> Symbols:
        pairs = np.frombuffer(data, dtype=">u2", count=len(data) // 2).astype(np.uint32)
        return np.append(pairs, np.uint32(_NUM_PAIRS + data[-1])) if len(data) % 2 else pairs

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        good = symbol_checks.checked(self.name, symbols, self.alphabet_size)
        odd = len(good) > 0 and int(good[-1]) >= _NUM_PAIRS
        pairs = good[:-1] if odd else good
        if len(pairs) and int(pairs.max()) >= _NUM_PAIRS:
            where = int(np.argmax(pairs >= _NUM_PAIRS))
            raise DecodeError(f"view 'doublebyte': symbol {int(pairs[where])} at {where} stands for a last byte and is not the last symbol")
        symbol_checks.check_size(self.name, 2 * len(pairs) + odd, max_bytes)
        return pairs.astype(">u2").tobytes() + (bytes([int(good[-1]) - _NUM_PAIRS]) if odd else b"")

    def spans(self, data: bytes) -> Borders:
        return np.append(np.arange(0, len(data), 2, dtype=np.int64), np.int64(len(data)))
