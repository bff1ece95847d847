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
from compressors.neural.fewest import (
    by_ends,
    failures,
    finish_flexible,
    finish_states,
    matches_of,
    resolve,
    run_flexible,
    run_states,
)
from compressors.neural.jit import compiled

Array = npt.NDArray[Any]
NUM_LANES: Final = 6
CLOSED, OPEN, FLEXIBLE, STATES = range(4)
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
def walk(data: Array, offsets: Array, order: Array, out: Array, counts: Array, rule: int, units: Array, falls: Array) -> None:
    """Walk documents `order`, the empty ones last (offsets int64 [num_documents + 1] into data). What is found of document n goes to
    out[offsets[n] + n:] and, but for STATES, its number to counts[n]; out has one place for each byte and each document."""
    at, end, wrote = np.zeros(NUM_LANES, dtype=np.uint64), np.zeros(NUM_LANES, dtype=np.uint64), np.zeros(NUM_LANES, dtype=np.uint64)
    state, reach = np.zeros(NUM_LANES, dtype=np.uint64), np.zeros(NUM_LANES, dtype=np.uint64)
    reached = np.zeros(NUM_LANES, dtype=np.uint64)
    document = np.full(NUM_LANES, -1)
    num_taken, num_running = 0, 0
    while True:
        for lane in range(NUM_LANES):
            if document[lane] < 0 and num_taken < order.size and offsets[order[num_taken]] < offsets[order[num_taken] + 1]:
                n = order[num_taken]
                num_taken += 1
                num_running += 1
                document[lane] = n
                at[lane], end[lane], wrote[lane], reach[lane] = offsets[n], offsets[n + 1], offsets[n] + n, offsets[n]
                state[lane] = reached[lane] = units[np.uint64(units.size - 1)]
                if rule <= OPEN:  # the root's unit is for automatons
                    state[lane] = units[np.uint64(data[offsets[n]])]
                    at[lane] += _ONE
                if rule == STATES:
                    wrote[lane] = n
        alone = num_running < NUM_LANES
        if not alone:
            num_steps = np.min(end - at)
            if rule == CLOSED:
                _run_closed(data, units, out, num_steps, at, wrote, state)
            elif rule == OPEN:
                _run_open(data, units, out, num_steps, at, wrote, state)
            elif rule == FLEXIBLE:
                run_flexible(data, units, falls, out, num_steps, at, wrote, state, reach, reached)
            else:
                run_states(data, units, falls, out, num_steps, at, wrote, state)
        for lane in range(NUM_LANES):
            n = document[lane]
            if n >= 0 and (alone or at[lane] + np.uint64(_TAIL_BYTES) >= end[lane]):
                first = np.uint64(offsets[n] + n)
                if rule <= OPEN:
                    counts[n] = _finish(data, units, out, at[lane], end[lane], wrote[lane], state[lane]) - first
                elif rule == FLEXIBLE:
                    place = wrote[lane]
                    last = finish_flexible(data, units, falls, out, at[lane], end[lane], place, state[lane], reach[lane], reached[lane])
                    counts[n] = last - first - _ONE
                else:
                    finish_states(data, units, falls, out, at[lane], end[lane], wrote[lane], state[lane])
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
        rule = CLOSED if self._closed else OPEN
        return _chunk(offsets, dtype, lambda *at: walk(data, offsets, *at, rule, self._greedy_units, self._greedy_units))

    def fewest(self, data: Array, offsets: Array, dtype: type) -> tuple[Array, Array]:
        """The fewest symbols."""
        units, falls, up, codes, matches = self._automaton
        if self._closed:

            def parse(order: Array, out: Array, counts: Array) -> None:
                walk(data, offsets, order, out, counts, FLEXIBLE, units, falls)
                resolve(offsets, out, counts, up, codes)
        else:

            def parse(order: Array, out: Array, counts: Array) -> None:
                walk(data, offsets, order, out, counts, STATES, units, falls)
                by_ends(offsets, out, counts, matches)

        return _chunk(offsets, dtype, parse)

    @cached_property
    def _greedy_units(self) -> Array:
        """Units with the code of the nearest node upwards that has one, and the bytes after what it decodes to."""
        codes, back = self._codes.copy(), self._gives_back.copy()
        for node in np.flatnonzero(codes == NO_CODE)[1:]:
            parent = self._parents[node]
            codes[node], back[node] = codes[parent], back[parent] + 1
        codes[0] = 0  # the root has no unit
        return units_of(self._labels, self._bases, self._slots, back, codes)

    @cached_property
    def _automaton(self) -> tuple[Array, Array, Array, Array, Array]:
        """(units with depth and own slot, the root's last; the unit of each slot's longest proper suffix; for flexible parsing each slot's
        parent and its code, moved up by 8 bits; in general each slot's matches)."""
        units = np.append(units_of(self._labels, self._bases, self._slots, self._depths, self._slots), np.uint64(0))
        root = len(units) - 1
        units[root] = np.uint64(root << 8)
        fails = failures(self._labels, self._parents, self._slots, units, root)
        up, codes = np.full(len(units), root, dtype=np.uint32), np.zeros(len(units), dtype=np.uint32)
        matches = np.zeros(0, dtype=np.uint64)
        if self._closed:
            up[self._slots[257:]] = self._slots[self._parents[257:]]
            codes[self._slots[1:]] = self._codes[1:] << 8
        else:
            matches = matches_of(self._slots, self._depths, self._codes, fails, NO_CODE)
        return units, units[fails], up, codes, matches


def _chunk(offsets: Array, dtype: type, parse: Callable[[Array, Array, Array], None]) -> tuple[Array, Array]:
    """Scratch for one chunk, the parse (order of documents, out, counts), and its codes packed."""
    sizes = np.diff(offsets)
    found = np.empty(int(offsets[-1]) + len(sizes) + 1, dtype=np.uint32)
    counts = np.zeros(len(sizes), dtype=np.int64)
    parse(np.argsort(-sizes, kind="stable"), found, counts)
    ends = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(counts, out=ends[1:])
    packed: Array = np.empty(int(ends[-1]), dtype=dtype)
    pack(found, offsets, counts, packed)
    return packed, ends
