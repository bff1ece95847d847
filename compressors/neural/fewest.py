"""The parse with the fewest symbols: an Aho-Corasick automaton (A. Aho and M. Corasick, 1975) says which strings end at each byte, and
dynamic programming over them what they cost (R. Wagner, "Common phrases and minimum-space text storage", 1973).

Among the parses with the fewest symbols it is this one: read from the end of the document, each symbol is the longest that leaves the
fewest. Strings that end at a byte are tried from the longest to the shortest, and no further than the costs of the places between say that
a shorter one could be better: where every prefix of a string has a code, the longest always is.

Steps of the automaton go over six documents in lockstep, without a branch on the text, as in walk.py. A state is a slot of the double
array. The functions here trust their arguments: `Dictionary` has checked them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.neural.double_array import BASE_SHIFT, LABEL
from compressors.neural.jit import compiled

Array = npt.NDArray[Any]
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_UNIT_BASE = np.uint32(8)
_SLOT_SHIFT = np.uint64(8)
_NEXT_SHIFT = np.uint64(32)
_RING: Final = 256  # longer than any string


@compiled
def failures(labels: Array, parents: Array, slots: Array, units: Array) -> Array:
    """Slot of the longest proper suffix that is a node, for each slot; the last slot, the root's, for none. uint32 [num_slots]."""
    fails = np.full(units.size, units.size - 1, dtype=np.uint32)
    for node in range(257, labels.size):
        byte = np.uint64(labels[node])
        state = fails[slots[parents[node]]]
        while True:
            slot = (np.uint64(units[state]) >> BASE_SHIFT) ^ byte
            if ((np.uint64(units[slot]) ^ byte) & LABEL) == _ZERO:
                break
            state = fails[state]
        fails[slots[node]] = slot
    return fails


@compiled
def matches_of(slots: Array, depths: Array, codes: Array, fails: Array, no_code: int) -> Array:
    """The longest suffix of each slot's string that has a code, itself included, uint64 [num_slots]: a slot whose match is the next shorter
    one (32 bits), its own slot (24), length (8); 0 for the root."""
    matches = np.zeros(fails.size, dtype=np.uint64)
    for node in range(1, slots.size):
        slot = np.uint64(slots[node])
        shorter = np.uint64(fails[slot])
        if codes[node] == no_code:
            matches[slot] = matches[shorter]
        else:
            matches[slot] = (shorter << _NEXT_SHIFT) | (slot << _SLOT_SHIFT) | np.uint64(depths[node])
    return matches


@compiled
def _step(data: Array, units: Array, fails: Array, out: Array, at: Any, slot: Any) -> tuple[Any, Any]:
    """(at, slot) after one step, which goes to a child and on by one byte, or to the longest proper suffix."""
    byte = np.uint64(data[at])
    child = np.uint64(units[slot] >> _UNIT_BASE) ^ byte
    missed = (((np.uint64(units[child]) ^ byte) & LABEL) + LABEL) >> BASE_SHIFT
    slot = (child & (missed - _ONE)) | (np.uint64(fails[slot]) & (_ZERO - missed))
    out[at] = np.uint32(slot)  # after a miss, until the step that hits
    return at + (missed ^ _ONE), slot


@compiled
def run_states(data: Array, units: Array, fails: Array, out: Array, num_steps: Any, at: Array, slots: Array) -> None:
    """`num_steps` steps of each lane: the slot of the state after each byte goes to the byte's place in `out`."""
    a, b, c, d, e, f = at[0], at[1], at[2], at[3], at[4], at[5]
    p, q, r, s, t, u = slots[0], slots[1], slots[2], slots[3], slots[4], slots[5]
    for _ in range(num_steps):
        a, p = _step(data, units, fails, out, a, p)
        b, q = _step(data, units, fails, out, b, q)
        c, r = _step(data, units, fails, out, c, r)
        d, s = _step(data, units, fails, out, d, s)
        e, t = _step(data, units, fails, out, e, t)
        f, u = _step(data, units, fails, out, f, u)
    at[0], at[1], at[2], at[3], at[4], at[5] = a, b, c, d, e, f
    slots[0], slots[1], slots[2], slots[3], slots[4], slots[5] = p, q, r, s, t, u


@compiled
def finish_states(data: Array, units: Array, fails: Array, out: Array, at: Any, end: Any, slot: Any) -> None:
    """One document alone from `at` on."""
    while at < end:
        at, slot = _step(data, units, fails, out, at, slot)


@compiled
def _by_ends(out: Array, first: int, last: int, matches: Array) -> int:
    """One document in out[first:last]. A place is the number of bytes before it."""
    costs = np.zeros(_RING, dtype=np.int32)
    lowest = np.zeros(_RING, dtype=np.int32)  # the least cost from each place to the last one known
    for at in range(first, last):
        match = matches[np.uint64(out[at])]
        length: Any = np.int64(match & LABEL)
        best, cost = match, costs[(at - length + 1) & 255]
        while length > 1 and lowest[(at - length + 2) & 255] < cost:
            match = matches[match >> _NEXT_SHIFT]
            length = np.int64(match & LABEL)
            here = costs[(at - length + 1) & 255]
            if here < cost:
                best, cost = match, here
        out[at] = np.uint32(best)
        cost += 1
        costs[(at + 1) & 255] = cost
        lowest[(at + 1) & 255] = cost
        back = at
        while lowest[back & 255] > cost:
            lowest[back & 255] = cost
            back -= 1
    place: Any = last
    wrote = last
    while place > first:
        symbol = out[place - 1]
        wrote -= 1
        out[wrote] = symbol >> _UNIT_BASE
        place -= np.int64(symbol & np.uint32(255))
    for i in range(last - wrote):
        out[first + i] = out[wrote + i]
    return last - wrote


@compiled
def by_ends(offsets: Array, out: Array, counts: Array, matches: Array) -> None:
    """Document n's slots of states in out[offsets[n]:offsets[n + 1]] become the slots of its symbols, from the same place on, and their
    number goes to counts[n]."""
    for n in range(counts.size):
        counts[n] = _by_ends(out, offsets[n], offsets[n + 1], matches)
