"""Codes to documents: many at once, byte by byte, one call to the model for the next byte of each.

    decode_windows(model, codes, bits=16, depth=4095, reset=0, exclude=True, max_bytes=1 << 20)
    decode_ranges(model, codes, max_bytes=1 << 20)

Each document is a bounded computation for any codes: a window's node loses at least one cell a byte, and a range code says its length,
which is checked against its size. A document over `max_bytes` gives None.

Not promised: speed for one document. A model without a `reader` whose `context_bytes` is None sees the whole prefix for every byte.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compressors.neural import count_decode, cutter, range_coder, wide
from compressors.neural.counts import CountModel
from compressors.neural.jit import compiled
from compressors.neural.models import ByteModel, Frequencies
from compressors.neural.windows import kernel_of

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


class _Text:
    """The documents so far: `data` uint8 [N, capacity], `lengths` and `since` (bytes since the model's reset) int64 [N]."""

    def __init__(self, num: int) -> None:
        self.data: U8 = np.empty((num, 256), np.uint8)
        self.lengths: I64 = np.zeros(num, np.int64)
        self.since: I64 = np.zeros(num, np.int64)

    def make_room(self) -> None:
        """For one more byte each."""
        if self.lengths.max(initial=0) == self.data.shape[1]:
            self.data = np.concatenate([self.data, np.empty_like(self.data)], axis=1)

    def prefixes(self, documents: I64, depth: int) -> U8:
        """The last `depth` bytes of some documents."""
        columns = self.lengths[documents, None] + np.arange(-depth, 0)
        found: U8 = self.data[documents[:, None], columns]
        return found


class _Reader(ABC):
    """What turns a row into a byte, for N documents."""

    @abstractmethod
    def settle(self, documents: I64, text: _Text) -> I64:
        """Go over what ends before the next byte; those of the documents that have a next byte."""

    @abstractmethod
    def advance(self, documents: I64, rows: Frequencies, text: _Text) -> None:
        """Append the next byte of each document, distributed as its row."""


def decode_windows(
    model: ByteModel, codes: Sequence[U8], *, bits: int, depth: int, reset: int, exclude: bool = False, max_bytes: int
) -> list[bytes | None]:
    """The text of each sequence of windows, uint8 [num_windows, bits / 8]; every sequence has one."""
    if isinstance(model, CountModel):
        return count_decode.decode_windows(model, codes, bits=bits, depth=depth, reset=reset, exclude=exclude, max_bytes=max_bytes)
    return _decode(model, _Windows(codes, bits, depth, reset, exclude), len(codes), max_bytes)


def decode_ranges(model: ByteModel, codes: Sequence[U8], *, max_bytes: int) -> list[bytes | None]:
    """The text of each range code, uint8 [num_bytes], which begins with its length and is not empty."""
    if isinstance(model, CountModel):
        return count_decode.decode_ranges(model, codes, max_bytes=max_bytes)
    return _decode(model, _Ranges(codes), len(codes), max_bytes)


def _decode(model: ByteModel, reader: _Reader, num: int, max_bytes: int) -> list[bytes | None]:
    text = _Text(num)
    back = model.context_bytes
    documents = reader.settle(np.arange(num), text)
    over: list[int] = []
    while len(documents):
        is_over = text.lengths[documents] >= max_bytes
        if is_over.any():
            over += documents[is_over].tolist()
            documents = documents[~is_over]
        text.make_room()
        depths = text.since[documents]
        if back is not None:
            depths = np.minimum(depths, back)
        for depth in np.unique(depths):
            some = documents[depths == depth]
            rows = model.after(text.prefixes(some, int(depth)))
            reader.advance(some, np.ascontiguousarray(rows), text)
        documents = reader.settle(documents, text)
    refused = set(over)
    return [None if i in refused else text.data[i, : text.lengths[i]].tobytes() for i in range(num)]


class _Windows(_Reader):
    def __init__(self, codes: Sequence[U8], bits: int, depth: int, reset: int, exclude: bool) -> None:
        self._bits, self._depth, self._reset, self._exclude = bits, depth, reset, exclude
        self._kernel = kernel = kernel_of(bits)
        self._is_wide = kernel is wide
        self._codes = kernel.code_numbers(np.concatenate([np.empty((0, bits // 8), np.uint8), *codes]))
        edges = np.cumsum([0, *map(len, codes)])
        self._index: I64 = edges[:-1].copy()
        self._firsts, self._ends = edges[:-1], edges[1:]
        self._states = kernel.start_states(len(codes), bits)

    def settle(self, documents: I64, text: _Text) -> I64:
        before = self._index.copy()
        settle = _settle_wide if self._is_wide else _settle_narrow
        settle(self._codes, self._bits, self._depth, self._exclude, self._states, self._index, self._ends, documents)
        if self._reset:
            # A window holds a byte at least, so no more than one window ends at a place.
            is_new = (self._index != before) & ((self._index - self._firsts) % self._reset == 0)
            text.since[is_new] = 0
            self._states[is_new, self._kernel.CELLS_BEFORE] = 0
        return documents[self._index[documents] < self._ends[documents]]

    def advance(self, documents: I64, rows: Frequencies, text: _Text) -> None:
        advance = _advance_wide if self._is_wide else _advance_narrow
        advance(self._codes, self._bits, self._states, self._index, documents, rows, text.data, text.lengths, text.since)


class _Ranges(_Reader):
    def __init__(self, codes: Sequence[U8]) -> None:
        decoders = [range_coder.RangeDecoder(code) for code in codes]
        self._lengths = np.array([decoder.length() for decoder in decoders], np.int64)
        self._words = np.concatenate([np.empty(0, np.uint32), *(decoder.words for decoder in decoders)])
        self._edges = np.cumsum([0, *(len(decoder.words) for decoder in decoders)])
        self._states = np.array([decoder.state for decoder in decoders], np.uint64).reshape(-1, 3)

    def settle(self, documents: I64, text: _Text) -> I64:
        return documents[text.lengths[documents] < self._lengths[documents]]

    def advance(self, documents: I64, rows: Frequencies, text: _Text) -> None:
        _advance_ranges(self._words, self._edges, self._states, documents, rows, text.data, text.lengths, text.since)


@compiled
def _settle_narrow(codes: U64, bits: int, depth: int, exclude: bool, states: I64, index: I64, ends: I64, documents: I64) -> None:
    for d in documents:
        index[d] = cutter.settle(codes, bits, depth, exclude, states[d], index[d], ends[d])


@compiled
def _settle_wide(codes: U64, bits: int, depth: int, exclude: bool, states: U64, index: I64, ends: I64, documents: I64) -> None:
    for d in documents:
        index[d] = wide.settle(codes, bits, depth, exclude, states[d], index[d], ends[d])


@compiled
def _advance_narrow(
    codes: U64, bits: int, states: I64, index: I64, documents: I64, rows: Frequencies, data: U8, lengths: I64, since: I64
) -> None:
    for i in range(len(documents)):
        d = documents[i]
        data[d, lengths[d]] = cutter.next_byte(rows[i], codes, index[d], bits, states[d])
        lengths[d] += 1
        since[d] += 1


@compiled
def _advance_wide(
    codes: U64, bits: int, states: U64, index: I64, documents: I64, rows: Frequencies, data: U8, lengths: I64, since: I64
) -> None:
    for i in range(len(documents)):
        d = documents[i]
        data[d, lengths[d]] = wide.next_byte(rows[i], codes, index[d], bits, states[d])
        lengths[d] += 1
        since[d] += 1


@compiled
def _advance_ranges(words: U32, edges: I64, states: U64, documents: I64, rows: Frequencies, data: U8, lengths: I64, since: I64) -> None:
    for i in range(len(documents)):
        d = documents[i]
        data[d, lengths[d]] = range_coder.next_byte(rows[i], words[edges[d] : edges[d + 1]], states[d])
        lengths[d] += 1
        since[d] += 1
