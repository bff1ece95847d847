"""The greedy parse and its way back, as machine code: the longest string with a code at each place, four documents in lockstep.

Each step takes one byte of each of four documents, so that the processor waits for four loads at once, and no step has a branch that
depends on text. A step that misses writes the code, goes back over the bytes that were walked without reaching another code (none where
every prefix of a string has one), and takes the first byte of the next string in the same step: byte and step are one.

A state is one unit of the double array (double_array.py): base and label below; above, 8 bits of bytes to give back and 24 bits of code.
The functions here trust their arguments: `Dictionary` has checked them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.neural.dictionary_file import NO_CODE
from compressors.neural.double_array import LABEL_FLAG, LABEL_MASK, place, units_of
from compressors.neural.fewest import by_ends, failures, flexible, shorter_matches
from compressors.neural.jit import compiled

Array = npt.NDArray[Any]
NUM_LANES: Final = 4
_LABEL = np.uint64(LABEL_MASK)
_FLAG = np.uint64(LABEL_FLAG)
_LOW = np.uint64(0xFFFFFFFF)
_BACK = np.uint64(255)
_BASE_SHIFT = np.uint64(9)
_BACK_SHIFT = np.uint64(32)
_CODE_SHIFT = np.uint64(40)


@compiled
def _steps_closed(data: Array, units: Array, out: Array, num_steps: int, at: Array, wrote: Array, state: Array) -> None:
    """`num_steps` bytes of each lane, all strings' prefixes having codes."""
    a, b, c, d = at[0], at[1], at[2], at[3]
    i, j, k, m = wrote[0], wrote[1], wrote[2], wrote[3]
    u, v, w, x = state[0], state[1], state[2], state[3]
    for step in range(num_steps):
        byte = np.uint64(data[a + step])
        child = units[((u & _LOW) >> _BASE_SHIFT) ^ byte]
        out[i] = u >> _CODE_SHIFT
        miss = ((child ^ byte) & _LABEL) != _FLAG
        i += miss
        u = units[byte] if miss else child
        byte = np.uint64(data[b + step])
        child = units[((v & _LOW) >> _BASE_SHIFT) ^ byte]
        out[j] = v >> _CODE_SHIFT
        miss = ((child ^ byte) & _LABEL) != _FLAG
        j += miss
        v = units[byte] if miss else child
        byte = np.uint64(data[c + step])
        child = units[((w & _LOW) >> _BASE_SHIFT) ^ byte]
        out[k] = w >> _CODE_SHIFT
        miss = ((child ^ byte) & _LABEL) != _FLAG
        k += miss
        w = units[byte] if miss else child
        byte = np.uint64(data[d + step])
        child = units[((x & _LOW) >> _BASE_SHIFT) ^ byte]
        out[m] = x >> _CODE_SHIFT
        miss = ((child ^ byte) & _LABEL) != _FLAG
        m += miss
        x = units[byte] if miss else child
    at += num_steps
    wrote[0], wrote[1], wrote[2], wrote[3] = i, j, k, m
    state[0], state[1], state[2], state[3] = u, v, w, x


@compiled
def _finish(data: Array, units: Array, out: Array, at: int, end: int, wrote: int, unit: np.uint64) -> int:
    """One document from `at` on, the string under way in `unit`. Returns the place after the last code written."""
    while True:
        while at < end:
            byte = np.uint64(data[at])
            child = units[((unit & _LOW) >> _BASE_SHIFT) ^ byte]
            if ((child ^ byte) & _LABEL) != _FLAG:
                break
            unit = child
            at += 1
        out[wrote] = unit >> _CODE_SHIFT
        wrote += 1
        at -= np.int64((unit >> _BACK_SHIFT) & _BACK)
        if at == end:
            return wrote
        unit = units[data[at]]
        at += 1


@compiled
def walk(data: Array, offsets: Array, order: Array, out: Array, counts: Array, units: Array, closed: bool) -> None:
    """Parse documents `order` (offsets int64 [num_documents + 1] into data). The codes of document n go to out[offsets[n] + n:] and
    their number to counts[n]; out has one place for each byte and each document."""
    for n in order:
        if offsets[n] == offsets[n + 1]:
            counts[n] = 0
        else:
            first = units[data[offsets[n]]]
            counts[n] = _finish(data, units, out, offsets[n] + 1, offsets[n + 1], offsets[n] + n, first) - offsets[n] - n


@compiled
def pack(found: Array, offsets: Array, counts: Array, packed: Array) -> None:
    """The documents' codes side by side in the narrower `packed`."""
    place = 0
    for n in range(counts.size):
        for i in range(offsets[n] + n, offsets[n] + n + counts[n]):
            packed[place] = found[i]
            place += 1


@compiled
def spell(codes: Array, starts: Array, text: Array, out: Array) -> None:
    """The strings text[starts[code]:starts[code + 1]] one after the other into `out`, which they fill."""
    place = 0
    for code in codes:
        for i in range(starts[code], starts[code + 1]):
            out[place] = text[i]
            place += 1


class Walker:
    """The double arrays of one dictionary and the parses over them. Each parse takes one chunk: documents
    data[offsets[n]:offsets[n + 1]], the type of the codes, and gives their codes side by side with offsets."""

    def __init__(self, labels: Array, parents: Array, codes: Array, depths: Array, gives_back: Array, *, closed: bool) -> None:
        """Arrays of `Dictionary`, checked; `closed`: every node but the root has a code, and none gives bytes back."""
        self._gives_back = gives_back
        self._labels, self._parents, self._codes, self._depths, self._closed = labels, parents, codes, depths, closed
        first_children = np.searchsorted(parents[1:], np.arange(len(parents) + 1, dtype=np.uint32)) + 1
        self._bases, self._slots = place(labels, parents, first_children)

    def greedy(self, data: Array, offsets: Array, dtype: type) -> tuple[Array, Array]:
        """The longest string with a code at each place."""
        return _chunk(data, offsets, dtype, lambda *at: walk(data, *at, self._greedy_units, self._closed))

    def fewest(self, data: Array, offsets: Array, dtype: type) -> tuple[Array, Array]:
        """The fewest symbols."""
        units, fails, third, has_code = self._suffixes
        if self._closed:
            return _chunk(data, offsets, dtype, lambda *at: flexible(data, *at, units, fails, third))
        return _chunk(data, offsets, dtype, lambda *at: by_ends(data, *at, units, fails, third, has_code))

    @cached_property
    def _greedy_units(self) -> Array:
        """Above each base: the code of the nearest node upwards that has one, and the bytes after what it decodes to."""
        codes, back = self._codes.astype(np.uint64), self._gives_back.astype(np.uint64)
        for node in np.flatnonzero(codes == NO_CODE)[1:]:
            parent = self._parents[node]
            codes[node], back[node] = codes[parent], back[parent] + np.uint64(1)
        return units_of(self._labels, self._bases, self._slots, (codes << np.uint64(8)) | back)

    @cached_property
    def _suffixes(self) -> tuple[Array, Array, Array, Array]:
        """(units with depth and code above each base, the root's last; failure slots; parent slots, or slots of shorter matches; which slots
        have codes)."""
        codes = np.where(self._codes == NO_CODE, 0, self._codes).astype(np.uint64)
        units = units_of(self._labels, self._bases, self._slots, (codes << np.uint64(8)) | self._depths)
        units = np.append(units, np.uint64(LABEL_FLAG))
        root = len(units) - 1
        fails = failures(self._labels, self._parents, self._slots, units, root)
        has_code = np.zeros(len(units), dtype=np.bool_)
        has_code[self._slots[1:]] = self._codes[1:] != NO_CODE
        if not self._closed:
            return units, fails, shorter_matches(self._slots, fails, has_code, root), has_code
        up = np.full(len(units), root, dtype=np.uint32)
        up[self._slots[257:]] = self._slots[self._parents[257:]]
        return units, fails, up, has_code


def _chunk(data: Array, offsets: Array, dtype: type, parse: Callable[[Array, Array, Array, Array], None]) -> tuple[Array, Array]:
    """Scratch for one chunk, the parse (offsets, order, out, counts), and its codes packed."""
    sizes = np.diff(offsets)
    found = np.empty(len(data) + len(sizes) + 1, dtype=np.uint32)
    counts = np.zeros(len(sizes), dtype=np.int64)
    parse(offsets, np.argsort(-sizes, kind="stable"), found, counts)
    ends = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(counts, out=ends[1:])
    packed = np.empty(int(ends[-1]), dtype=dtype)
    pack(found, offsets, counts, packed)
    return packed, ends
