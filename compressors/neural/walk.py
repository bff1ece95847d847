"""The greedy parse, the longest string with a code at each place, as machine code: four documents in lockstep.

Each step takes one byte of each of four documents, so that the processor waits for four loads at once, and nothing branches on the text:
what a step does after a hit and after a miss are both computed and one is masked away, by arithmetic, because compilers turn a choice
between two loads back into a branch (which halves the speed). A step that misses writes the slot it is at, goes back over the bytes that
were walked since the last node with a code (none where every prefix of a string has one), and takes the first byte of the next string: one
step for each byte walked. `pack` makes codes of slots. The automaton of fewest.py is driven from here too, six documents at a time.

Measured on one core of a loaded machine, held-out Python, 65,491 strings: four lanes walk 490 MB/s, one 150, and one that branches 186;
six lanes are no faster. The functions here trust their arguments: `Dictionary` has checked them. Positions are uint64, because numba tests
signed ones for a sign.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.neural.dictionary_file import NO_CODE
from compressors.neural.double_array import BASE_SHIFT, LABEL, place, units_of
from compressors.neural.fewest import by_ends, failures, finish_states, matches_of, run_states
from compressors.neural.jit import compiled

Array = npt.NDArray[Any]
CLOSED, OPEN, STATES = range(3)
_NUM_LANES: Final = (4, 4, 6)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)
# A document's last bytes are walked alone: with few steps left, a round over all lanes would cost more than it does.
_TAIL_BYTES = np.uint64(24)
_NO_FAILURES = np.zeros(0, dtype=np.uint32)


@compiled
def _step(units: Array, byte: Any, first: Any, unit: Any) -> tuple[Any, Any, Any]:
    """(next unit, its slot, 1 if the step missed else 0) from `unit` over `byte`; `first` is the byte that the next string begins with
    after a miss, and its slot."""
    slot = (unit >> BASE_SHIFT) ^ byte
    child = np.uint64(units[slot])
    missed = (((child ^ byte) & LABEL) + LABEL) >> BASE_SHIFT
    hits, misses = missed - _ONE, _ZERO - missed
    return (child & hits) | (np.uint64(units[first]) & misses), (slot & hits) | (first & misses), missed


@compiled
def _closed_step(data: Array, units: Array, out: Array, at: Any, wrote: Any, unit: Any, slot: Any) -> tuple[Any, Any, Any]:
    """(wrote, unit, slot) after one step with a dictionary in which every prefix of a string has a code."""
    byte = np.uint64(data[at])
    out[wrote] = np.uint32(slot)
    unit, slot, missed = _step(units, byte, byte, unit)
    return wrote + missed, unit, slot


@compiled
def _run_closed(data: Array, units: Array, out: Array, num_steps: Any, at: Array, wrote: Array, state: Array, slots: Array) -> None:
    """`num_steps` bytes of each lane."""
    a, b, c, d = at[0], at[1], at[2], at[3]
    i, j, k, m = wrote[0], wrote[1], wrote[2], wrote[3]
    u, v, w, x = state[0], state[1], state[2], state[3]
    p, q, r, s = slots[0], slots[1], slots[2], slots[3]
    for step in range(num_steps):
        i, u, p = _closed_step(data, units, out, a + step, i, u, p)
        j, v, q = _closed_step(data, units, out, b + step, j, v, q)
        k, w, r = _closed_step(data, units, out, c + step, k, w, r)
        m, x, s = _closed_step(data, units, out, d + step, m, x, s)
    at += num_steps
    wrote[0], wrote[1], wrote[2], wrote[3] = i, j, k, m
    state[0], state[1], state[2], state[3] = u, v, w, x
    slots[0], slots[1], slots[2], slots[3] = p, q, r, s


@compiled
def _open_step(
    data: Array, units: Array, gives_back: Array, out: Array, at: Any, wrote: Any, unit: Any, slot: Any
) -> tuple[Any, Any, Any, Any]:
    """(at, wrote, unit, slot) after one step with any dictionary."""
    out[wrote] = np.uint32(slot)
    back = at - np.uint64(gives_back[slot])
    unit, slot, missed = _step(units, np.uint64(data[at]), np.uint64(data[back]), unit)
    return ((at & (missed - _ONE)) | (back & (_ZERO - missed))) + _ONE, wrote + missed, unit, slot


@compiled
def _run_open(
    data: Array, units: Array, gives_back: Array, out: Array, num_steps: Any, at: Array, wrote: Array, state: Array, slots: Array
) -> None:
    """`num_steps` steps of each lane, of which each goes on by one byte at most."""
    a, b, c, d = at[0], at[1], at[2], at[3]
    i, j, k, m = wrote[0], wrote[1], wrote[2], wrote[3]
    u, v, w, x = state[0], state[1], state[2], state[3]
    p, q, r, s = slots[0], slots[1], slots[2], slots[3]
    for _ in range(num_steps):
        a, i, u, p = _open_step(data, units, gives_back, out, a, i, u, p)
        b, j, v, q = _open_step(data, units, gives_back, out, b, j, v, q)
        c, k, w, r = _open_step(data, units, gives_back, out, c, k, w, r)
        d, m, x, s = _open_step(data, units, gives_back, out, d, m, x, s)
    at[0], at[1], at[2], at[3] = a, b, c, d
    wrote[0], wrote[1], wrote[2], wrote[3] = i, j, k, m
    state[0], state[1], state[2], state[3] = u, v, w, x
    slots[0], slots[1], slots[2], slots[3] = p, q, r, s


@compiled
def _finish(data: Array, units: Array, gives_back: Array, out: Array, at: Any, end: Any, wrote: Any, slot: Any) -> Any:
    """One document alone from `at` on, the string under way at `slot`. Returns the place after the last slot written."""
    while True:
        while at < end:
            byte = np.uint64(data[at])
            following = (np.uint64(units[slot]) >> BASE_SHIFT) ^ byte
            if ((np.uint64(units[following]) ^ byte) & LABEL) != _ZERO:
                break
            slot = following
            at += _ONE
        out[wrote] = np.uint32(slot)
        wrote += _ONE
        at -= np.uint64(gives_back[slot])
        if at == end:
            return wrote
        slot = np.uint64(data[at])
        at += _ONE


@compiled
def walk(
    data: Array,
    offsets: Array,
    order: Array,
    out: Array,
    counts: Array,
    rule: int,
    num_lanes: int,
    units: Array,
    gives_back: Array,
    fails: Array,
) -> None:
    """Walk documents `order`, the empty ones last (offsets int64 [num_documents + 1] into data). The slots found of document n go to
    out[offsets[n]:] and, but for STATES, their number to counts[n]; out has a place for each byte. By slot: units, bytes to give back, and
    for STATES the automaton's failures."""
    at, end, wrote = np.zeros(num_lanes, dtype=np.uint64), np.zeros(num_lanes, dtype=np.uint64), np.zeros(num_lanes, dtype=np.uint64)
    state, slots = np.zeros(num_lanes, dtype=np.uint64), np.zeros(num_lanes, dtype=np.uint64)
    document = np.full(num_lanes, -1)
    num_taken, num_running, num_documents = 0, 0, order.size
    while num_documents > 0 and offsets[order[num_documents - 1]] == offsets[order[num_documents - 1] + 1]:
        num_documents -= 1
    while num_taken < num_documents or num_running > 0:
        for lane in range(num_lanes):
            if document[lane] < 0 and num_taken < num_documents:
                n = order[num_taken]
                num_taken += 1
                num_running += 1
                document[lane] = n
                at[lane], end[lane], wrote[lane], slots[lane] = offsets[n], offsets[n + 1], offsets[n], units.size - 1
                if rule != STATES:
                    slots[lane] = data[offsets[n]]
                    at[lane] += _ONE
                state[lane] = units[slots[lane]]
        alone = num_running < num_lanes
        if not alone:
            num_steps = end[0] - at[0]
            for lane in range(1, num_lanes):
                num_steps = min(num_steps, end[lane] - at[lane])
            if rule == CLOSED:
                _run_closed(data, units, out, num_steps, at, wrote, state, slots)
            elif rule == OPEN:
                _run_open(data, units, gives_back, out, num_steps, at, wrote, state, slots)
            else:
                run_states(data, units, fails, out, num_steps, at, slots)
        for lane in range(num_lanes):
            n = document[lane]
            if n >= 0 and (alone or at[lane] + _TAIL_BYTES >= end[lane]):
                if rule == STATES:
                    finish_states(data, units, fails, out, at[lane], end[lane], slots[lane])
                else:
                    last = _finish(data, units, gives_back, out, at[lane], end[lane], wrote[lane], slots[lane])
                    counts[n] = np.int64(last) - offsets[n]
                document[lane] = -1
                num_running -= 1


@compiled
def pack(found: Array, offsets: Array, counts: Array, codes: Array, packed: Array) -> None:
    """The codes of the slots found in each document, side by side."""
    place = np.uint64(0)
    for n in range(counts.size):
        first = np.uint64(offsets[n])
        for i in range(first, first + np.uint64(counts[n])):
            packed[place] = codes[np.uint64(found[i])]
            place += _ONE


@compiled
def _nearest(parents: Array, codes: Array, gives_back: Array, no_code: int) -> tuple[Array, Array]:
    """For each node the code of the nearest node upwards that has one, and the bytes after what that decodes to."""
    nearest, back = codes.copy(), gives_back.copy()
    for node in range(1, codes.size):
        if codes[node] == no_code:
            nearest[node], back[node] = nearest[parents[node]], back[parents[node]] + 1
    return nearest, back


class Walker:
    """The double array of one dictionary and the parses over it. Each parse takes one chunk: documents data[offsets[n]:offsets[n + 1]], the
    type of the codes, and gives their codes side by side with offsets."""

    def __init__(self, labels: Array, parents: Array, codes: Array, depths: Array, gives_back: Array, *, closed: bool) -> None:
        """Arrays of `Dictionary`, checked; `closed`: every node but the root has a code, and none gives bytes back."""
        self._labels, self._parents, self._node_codes, self._depths = labels, parents, codes, depths
        self._rule = CLOSED if closed else OPEN
        first_children = np.searchsorted(parents[1:], np.arange(len(parents) + 1, dtype=np.uint32)) + 1
        bases, self._slots = place(labels, parents, first_children)
        self._units = np.append(units_of(labels, bases, self._slots), np.uint32(0))  # the last is the root's
        nearest, back = _nearest(parents, codes, gives_back, NO_CODE)
        # By slot: code of the nearest node upwards that has one, and the bytes after what it decodes to.
        self._codes, self._back = np.zeros(len(self._units), dtype=np.uint32), np.zeros(len(self._units), dtype=np.uint8)
        self._codes[self._slots[1:]], self._back[self._slots[1:]] = nearest[1:], back[1:]

    def greedy(self, data: Array, offsets: Array, dtype: type) -> tuple[Array, Array]:
        """The longest string with a code at each place."""
        found, counts, order = _scratch(offsets)
        walk(data, offsets, order, found, counts, self._rule, _NUM_LANES[self._rule], self._units, self._back, _NO_FAILURES)
        return self._packed(found, offsets, counts, dtype)

    def fewest(self, data: Array, offsets: Array, dtype: type) -> tuple[Array, Array]:
        """The fewest symbols."""
        fails, matches = self._automaton
        found, counts, order = _scratch(offsets)
        walk(data, offsets, order, found, counts, STATES, _NUM_LANES[STATES], self._units, self._back, fails)
        by_ends(offsets, found, counts, matches)
        return self._packed(found, offsets, counts, dtype)

    @cached_property
    def _automaton(self) -> tuple[Array, Array]:
        """By slot: the longest proper suffix, and the strings that end there."""
        fails = failures(self._labels, self._parents, self._slots, self._units)
        return fails, matches_of(self._slots, self._depths, self._node_codes, fails, NO_CODE)

    def _packed(self, found: Array, offsets: Array, counts: Array, dtype: type) -> tuple[Array, Array]:
        ends = np.zeros(len(offsets), dtype=np.int64)
        np.cumsum(counts, out=ends[1:])
        packed: Array = np.empty(int(ends[-1]), dtype=dtype)
        pack(found, offsets, counts, self._codes, packed)
        return packed, ends


def _scratch(offsets: Array) -> tuple[Array, Array, Array]:
    """(places, counts, order of documents: the longest first, so that the lanes end together)."""
    sizes = np.diff(offsets)
    return np.empty(int(offsets[-1]), dtype=np.uint32), np.zeros(len(sizes), dtype=np.int64), np.argsort(-sizes, kind="stable")
