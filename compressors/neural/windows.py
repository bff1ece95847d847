"""Documents to equal-info windows, teacher-forced: the model's rows are made for whole stretches, many documents at once, and cut.

    encode_windows(model, documents, bits=16, depth=4095, reset=0, exclude=True)      # one `Windows` a document
    window_bits(rows, data, windows.ends)                               # what the model itself holds each window to be worth

`reset` says after how many windows the model forgets what it has seen; 0 for never. With resets the documents go in lockstep, one call to
the model for the next windows of all of them. `exclude` says whether a root knows what ended the window before (`exclusion.py`); not
after a reset.

Not promised: speed with resets. Up to 20 bits a window that is what `table` is for, and up to 40 `cached`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.neural import cutter, wide
from compressors.neural.models import PRECISION_BITS, ByteModel, Frequencies

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

NO_LIMIT: Final = 1 << 62
DEFAULT_DEPTH: Final = 4095
# Rows in memory at a time: 512 bytes each, so 64 MB.
_ROWS_AT_ONCE: Final = 1 << 17
MAX_UNBOUNDED_BYTES: Final = 1 << 21
"""Longest document for a model that looks back without bound: its rows, 512 bytes each, must be in memory together."""


@dataclass(frozen=True)
class Windows:
    """Windows of one document. `codes` uint8 [num_windows, bits / 8], most significant byte first; `ends` int64 [num_windows], rising."""

    codes: U8
    ends: I64


def kernel_of(bits: int) -> Any:
    """The module whose loops handle windows of so many bits."""
    return cutter if bits <= cutter.NARROW_BITS else wide


def cut(rows: Frequencies, data: U8, *, bits: int, depth: int = DEFAULT_DEPTH, exclude: bool = False) -> Windows:
    """The windows of a document whose model is never reset. uint16 [n, 256] and uint8 [n]."""
    one = _Cut(bits, depth, exclude, len(data))
    one.feed(rows, data, NO_LIMIT)
    return one.done()


def window_bits(rows: Frequencies, data: U8, ends: I64) -> npt.NDArray[np.float64]:
    """The information content of each window by the model, in bits: minus log2 of the product of its bytes' frequencies in 1/65536."""
    taken = rows[np.arange(len(data)), data].astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(PRECISION_BITS - np.log2(taken))])
    edges: npt.NDArray[np.float64] = sums[np.concatenate([[0], ends])]
    return np.diff(edges)


def encode_windows(
    model: ByteModel, documents: Sequence[bytes], *, bits: int, depth: int, reset: int, exclude: bool = False
) -> list[Windows]:
    """The windows of each document. One document alone gives the same as among others, for an integer model."""
    cuts = [_Cut(bits, depth, exclude, len(document)) for document in documents]
    if reset == 0:
        for index, rows, data in rows_of(model, documents):
            cuts[index].feed(rows, data, NO_LIMIT)
    else:
        _encode_with_resets(model, documents, cuts, reset, first_look=max(32, bits * reset))
    return [one.done() for one in cuts]


def rows_of(model: ByteModel, documents: Sequence[bytes]) -> Iterator[tuple[int, Frequencies, U8]]:
    """Rows of all documents without resets, in order: (index of the document, uint16 [n, 256], the n bytes they are of)."""
    back = model.context_bytes
    step = _ROWS_AT_ONCE if back is not None else NO_LIMIT
    waiting: list[tuple[int, int, int]] = []  # document, start, end
    num_waiting = 0
    for index, document in enumerate(documents):
        for start in range(0, len(document), step):
            end = min(start + step, len(document))
            if waiting and num_waiting + end - start > _ROWS_AT_ONCE:
                yield from _rows_of_some(model, documents, waiting, back or 0)
                waiting, num_waiting = [], 0
            waiting.append((index, start, end))
            num_waiting += end - start
    yield from _rows_of_some(model, documents, waiting, back or 0)


def _rows_of_some(
    model: ByteModel, documents: Sequence[bytes], stretches: Sequence[tuple[int, int, int]], back: int
) -> Iterator[tuple[int, Frequencies, U8]]:
    if not stretches:
        return
    from_ = [max(start - back, 0) for _, start, _ in stretches]
    made = model.rows([documents[index][first:end] for (index, _, end), first in zip(stretches, from_, strict=True)])
    for (index, start, end), first, rows in zip(stretches, from_, made, strict=True):
        yield index, np.ascontiguousarray(rows[start - first :]), np.frombuffer(documents[index], np.uint8)[start:end]


def _encode_with_resets(model: ByteModel, documents: Sequence[bytes], cuts: Sequence[_Cut], reset: int, first_look: int) -> None:
    """From each reset on, look at some bytes; more where they are not enough for `reset` windows."""
    looks = [first_look] * len(documents)
    active = [index for index, document in enumerate(documents) if document]
    while active:
        some: list[int] = []
        for index in active:
            some.append(index)
            if len(some) * max(looks[i] for i in some) >= _ROWS_AT_ONCE:
                break
        stretches = [documents[i][cuts[i].position : cuts[i].position + looks[i]] for i in some]
        for i, stretch, rows in zip(some, stretches, model.rows(stretches), strict=True):
            is_rest = cuts[i].position + len(stretch) == len(documents[i])
            data = np.frombuffer(stretch, np.uint8)
            if cuts[i].feed(np.ascontiguousarray(rows), data, reset, is_rest=is_rest, is_reset=True):
                looks[i] = first_look
            else:
                looks[i] *= 2
        active = [i for i in active if cuts[i].position < len(documents[i])]


class _Cut:
    """The windows of one document, so far."""

    def __init__(self, bits: int, depth: int, exclude: bool, size: int) -> None:
        self._bits, self._depth, self._exclude, self._size = bits, depth, exclude, size
        self._kernel = kernel_of(bits)
        self._state = self._kernel.start_states(1, bits)[0]
        self._codes, self._ends = self._kernel.room(size), np.empty(size, np.int64)
        self._num = 0
        self.position = 0
        """Bytes in the windows cut, and in the unfinished one."""

    def feed(self, rows: Frequencies, data: U8, num_windows: int, *, is_rest: bool = True, is_reset: bool = False) -> bool:
        """Go on with these bytes for at most `num_windows` windows. With `is_reset` the model was reset before them, and where they are not
        enough and not the rest of the document the windows they gave are forgotten: False then."""
        if is_reset:
            self._state = self._kernel.start_states(1, self._bits)[0]
        codes, ends = self._codes[self._num :], self._ends[self._num :]
        num, consumed = self._kernel.cut_some(rows, data, self._bits, self._depth, self._exclude, self._state, num_windows, codes, ends)
        if is_reset and num < num_windows and not is_rest:
            return False
        ends[:num] += self.position
        self._num += num
        self.position += consumed
        return True

    def done(self) -> Windows:
        """All windows; the last one ends with the document."""
        assert self.position == self._size
        num = self._num + self._kernel.finish(self._state, self._size, self._codes[self._num :], self._ends[self._num :])
        return Windows(self._kernel.code_bytes(self._codes[:num], self._bits), self._ends[:num])
