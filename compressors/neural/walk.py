"""The greedy parse and its way back, as machine code: the longest string with a code at each place, six documents in lockstep.

Each step takes one byte of each of six documents, so that the processor waits for six loads at once, and nothing branches on the text: what
a step does after a hit and after a miss are both computed and one is masked away, by arithmetic, because compilers turn a choice between
two loads back into a branch (which halves the speed). A step that misses writes the code, goes back over the bytes that were walked since
the last node with a code (none where every prefix of a string has one), and takes the first byte of the next string: one step for each byte
walked. A state is one unit of the double array (double_array.py).

The functions here trust their arguments: `Dictionary` has checked them. Positions are uint64, because numba tests signed ones for a sign.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.neural.dictionary_file import NO_CODE
from compressors.neural.double_array import BACK, BACK_SHIFT, BASE_SHIFT, CODE_SHIFT, LABEL, place, units_of
from compressors.neural.fewest import by_ends, failures, flexible, shorter_matches
from compressors.neural.jit import compiled

Array = npt.NDArray[Any]
NUM_LANES: Final = 6
_ONE = np.uint64(1)
_ZERO = np.uint64(0)
# A document's last bytes are parsed alone: with few steps left, a round over all lanes would cost more than it does.
_TAIL_BYTES = 24


@compiled
def _step(units: Array, byte: Any, first: Any, unit: Any) -> tuple[Any, Any]:
    """(next unit, 1 if the step missed else 0) from `unit` over `byte`; `first` is the byte that the next string begins with after a
    miss."""
    child = units[(unit >> BASE_SHIFT) ^ byte]
    missed = (((child ^ byte) & LABEL) + LABEL) >> CODE_SHIFT
    return (child & (missed - _ONE)) | (units[first] & (_ZERO - missed)), missed


@compiled
def _run_closed(data: Array, units: Array, out: Array, num_steps: Any, at: Array, wrote: Array, state: Array) -> None:
    """`num_steps` bytes of each lane; every prefix of a string has a code."""
    a, b, c, d, e, f = at[0], at[1], at[2], at[3], at[4], at[5]
    i, j, k, l, m, n = wrote[0], wrote[1], wrote[2], wrote[3], wrote[4], wrote[5]
    u, v, w, x, y, z = state[0], state[1], state[2], state[3], state[4], state[5]
    for step in range(num_steps):
        out[i], out[j], out[k] = np.uint32(u), np.uint32(v), np.uint32(w)
        byte = np.uint64(data[a + step])
        u, missed = _step(units, byte, byte, u)
        i += missed
        byte = np.uint64(data[b + step])
        v, missed = _step(units, byte, byte, v)
        j += missed
        byte = np.uint64(data[c + step])
        w, missed = _step(units, byte, byte, w)
        k += missed
        out[l], out[m], out[n] = np.uint32(x), np.uint32(y), np.uint32(z)
        byte = np.uint64(data[d + step])
        x, missed = _step(units, byte, byte, x)
        l += missed
        byte = np.uint64(data[e + step])
        y, missed = _step(units, byte, byte, y)
        m += missed
        byte = np.uint64(data[f + step])
        z, missed = _step(units, byte, byte, z)
        n += missed
    at += num_steps
    wrote[0], wrote[1], wrote[2], wrote[3], wrote[4], wrote[5] = i, j, k, l, m, n
    state[0], state[1], state[2], state[3], state[4], state[5] = u, v, w, x, y, z


@compiled
def _open_step(data: Array, units: Array, out: Array, at: Any, wrote: Any, unit: Any) -> tuple[Any, Any, Any]:
    """(at, wrote, unit) after one step of any dictionary."""
    out[wrote] = np.uint32(unit)
    back = at - ((unit >> BACK_SHIFT) & BACK)
    unit, missed = _step(units, np.uint64(data[at]), np.uint64(data[back]), unit)
    return ((at & (missed - _ONE)) | (back & (_ZERO - missed))) + _ONE, wrote + missed, unit


@compiled
def _run_open(data: Array, units: Array, out: Array, num_steps: Any, at: Array, wrote: Array, state: Array) -> None:
    """`num_steps` steps of each lane, of which each goes on by one byte at most."""
    a, b, c, d, e, f = at[0], at[1], at[2], at[3], at[4], at[5]
    i, j, k, l, m, n = wrote[0], wrote[1], wrote[2], wrote[3], wrote[4], wrote[5]
    u, v, w, x, y, z = state[0], state[1], state[2], state[3], state[4], state[5]
    for _ in range(num_steps):
        a, i, u = _open_step(data, units, out, a, i, u)
        b, j, v = _open_step(data, units, out, b, j, v)
        c, k, w = _open_step(data, units, out, c, k, w)
        d, l, x = _open_step(data, units, out, d, l, x)
        e, m, y = _open_step(data, units, out, e, m, y)
        f, n, z = _open_step(data, units, out, f, n, z)
    at[0], at[1], at[2], at[3], at[4], at[5] = a, b, c, d, e, f
    wrote[0], wrote[1], wrote[2], wrote[3], wrote[4], wrote[5] = i, j, k, l, m, n
    state[0], state[1], state[2], state[3], state[4], state[5] = u, v, w, x, y, z


@compiled
def _finish(data: Array, units: Array, out: Array, at: Any, end: Any, wrote: Any, unit: Any) -> Any:
    """One document alone from `at` on, the string under way in `unit`. Returns the place after the last code written."""
    while True:
        while at < end:
            byte = np.uint64(data[at])
            child = units[(unit >> BASE_SHIFT) ^ byte]
            if ((child ^ byte) & LABEL) != _ZERO:
                break
            unit = child
            at += _ONE
        out[wrote] = np.uint32(unit)
        wrote += _ONE
        at -= (unit >> BACK_SHIFT) & BACK
        if at == end:
            return wrote
        unit = units[np.uint64(data[at])]
        at += _ONE


@compiled
def walk(data: Array, offsets: Array, order: Array, out: Array, counts: Array, units: Array, closed: bool) -> None:
    """Parse documents `order`, the empty ones last (offsets int64 [num_documents + 1] into data). The units of document n's codes go to
    out[offsets[n] + n:] and their number to counts[n]; out has one place for each byte and each document."""
    at, end = np.zeros(NUM_LANES, dtype=np.uint64), np.zeros(NUM_LANES, dtype=np.uint64)
    wrote, state = np.zeros(NUM_LANES, dtype=np.uint64), np.zeros(NUM_LANES, dtype=np.uint64)
    document = np.full(NUM_LANES, -1)
    num_taken, num_running = 0, 0
    while True:
        for lane in range(NUM_LANES):
            if document[lane] < 0 and num_taken < order.size and offsets[order[num_taken]] < offsets[order[num_taken] + 1]:
                n = order[num_taken]
                num_taken += 1
                num_running += 1
                document[lane] = n
                at[lane], end[lane], wrote[lane] = offsets[n] + 1, offsets[n + 1], offsets[n] + n
                state[lane] = units[np.uint64(data[offsets[n]])]
        alone = num_running < NUM_LANES
        if not alone:
            num_steps = np.min(end - at)
            if closed:
                _run_closed(data, units, out, num_steps, at, wrote, state)
            else:
                _run_open(data, units, out, num_steps, at, wrote, state)
        for lane in range(NUM_LANES):
            n = document[lane]
            if n >= 0 and (alone or at[lane] + np.uint64(_TAIL_BYTES) >= end[lane]):
                counts[n] = np.int64(_finish(data, units, out, at[lane], end[lane], wrote[lane], state[lane])) - offsets[n] - n
                document[lane] = -1
                num_running -= 1
        if num_running == 0 and (num_taken == order.size or offsets[order[num_taken]] == offsets[order[num_taken] + 1]):
            return


@compiled
def pack(found: Array, offsets: Array, counts: Array, packed: Array) -> None:
    """The codes of the documents' units side by side in `packed`."""
    place = 0
    for n in range(counts.size):
        for i in range(offsets[n] + n, offsets[n] + n + counts[n]):
            packed[place] = found[i] >> np.uint32(8)
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
        codes, back = self._codes.copy(), self._gives_back.copy()
        for node in np.flatnonzero(codes == NO_CODE)[1:]:
            parent = self._parents[node]
            codes[node], back[node] = codes[parent], back[parent] + 1
        codes[0] = 0  # the root has no unit
        return units_of(self._labels, self._bases, self._slots, back, codes)

    @cached_property
    def _suffixes(self) -> tuple[Array, Array, Array, Array]:
        """(units with depth and code above each base, the root's last; failure slots; parent slots, or slots of shorter matches; which slots
        have codes)."""
        units = units_of(self._labels, self._bases, self._slots, self._depths, np.where(self._codes == NO_CODE, 0, self._codes))
        units = np.append(units, np.uint64(0))
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
