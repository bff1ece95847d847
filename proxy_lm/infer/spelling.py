"""What generated ids spell: bytes, as soon as they are sure.

Three kinds of spellers, by what a view can say of its symbols. Bytes and symbols that always spell the same (SentencePiece, tables of
strings) are known at once. Symbols that stand for stretches of bytes which depend on what stands before are decoded together with the
prompt's whenever they have grown by an eighth, so the work stays linear in their number; bytes are then known a little late. Symbols that
stand for no stretch at all (gzip) are decoded when the document has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from compressors.base import Compressor
from compressors.errors import DecodeError
from proxy_lm.errors import WorkError
from proxy_lm.vocabulary import NUM_BYTES, ViewRange

BYTES: Final = [bytes([value]) for value in range(NUM_BYTES)]
_MOST_INCOMPLETE: Final = 16  # symbols at the end that may wait for the rest of their window: 128 bits in symbols of 8
_GROWTH: Final = 8


class Speller(Protocol):
    """One completion's ids to bytes."""

    def add(self, one: int) -> bytes:
        """Take one more id; the bytes that are sure now and were not before."""
        ...

    def finish(self) -> bytes:
        """No id follows; the bytes that are left."""
        ...

    @property
    def num_unspelled(self) -> int:
        """Symbols at the end that spell nothing: half a window, or what no document has."""
        ...


class FixedSpeller:
    """Every id spells the same wherever it stands."""

    num_unspelled = 0

    def __init__(self, spelling: Sequence[bytes] = BYTES, view: ViewRange | None = None) -> None:
        """`spelling` by symbol of the view; `view` None for raw bytes."""
        self._spelling, self._view = spelling, view

    def add(self, one: int) -> bytes:
        """The bytes of the id."""
        return self._spelling[one if self._view is None else self._view.to_symbol(one)]

    def finish(self) -> bytes:
        """Nothing is ever left."""
        return b""


class DecodingSpeller:
    """Symbols are decoded by their compressor, from the document's begin on."""

    def __init__(self, compressor: Compressor, view: ViewRange, prompt: bytes, symbols: Sequence[int], *, early: bool) -> None:
        """`symbols` are those of the prompt; `early` False decodes at the end only."""
        self._compressor, self._view, self._early = compressor, view, early
        self._symbols = list(symbols)
        self._data = prompt
        self._num_spelled = len(symbols)
        self._look_at = len(symbols) + 1

    @property
    def num_unspelled(self) -> int:
        """Symbols behind the last that could be decoded."""
        return len(self._symbols) - self._num_spelled

    def add(self, one: int) -> bytes:
        """The bytes that became sure, where it is time to look."""
        self._symbols.append(self._view.to_symbol(one))
        if not self._early or len(self._symbols) < self._look_at:
            return b""
        self._look_at = len(self._symbols) + 1 + len(self._symbols) // _GROWTH
        return self._decode(_MOST_INCOMPLETE)

    def finish(self) -> bytes:
        """Whatever the symbols give; those that nothing can be made of are counted."""
        return self._decode(_MOST_INCOMPLETE if self._early else 0)

    def _decode(self, most_left: int) -> bytes:
        for num_left in range(min(most_left, self.num_unspelled) + 1):
            length = len(self._symbols) - num_left
            try:
                data = self._compressor.decode(np.array(self._symbols[:length], dtype=np.uint32))
            except DecodeError:
                continue
            if not data.startswith(self._data):
                raise WorkError(
                    f"view '{self._compressor.name}' gave other bytes for {self._num_spelled} symbols once "
                    f"{length - self._num_spelled} more stood behind them, so nothing can be generated in it; ask the run in another view"
                )
            new, self._data, self._num_spelled = data[len(self._data) :], data, length
            return new
        return b""
