"""The parse with the fewest symbols, in one pass over an Aho-Corasick automaton (A. Aho and M. Corasick, 1975).

Two rules, each chosen by the dictionary alone:

* **Every prefix of a string has a code** (flexible parsing): each symbol is the longest among those after which the next symbol can reach
  the furthest. One symbol of look-ahead is enough for the fewest symbols (A. Hartman and M. Rodeh, "Optimal parsing of strings", 1985;
  N. Horspool, "The effect of non-greedy parsing in Ziv-Lempel compression methods", 1995). The automaton's state is the longest suffix of
  the bytes read that is a string; the places where such suffixes start are the only ends of symbols worth looking at, because a start
  between two of them reaches no further than the one before it. So the parse costs a step a byte and a step a start.
* **In general**: dynamic programming over all strings that end at each byte, which the automaton lists from the longest to the shortest.
  Read from the end of the document, each symbol is the longest that leaves the fewest.

Steps go over six documents in lockstep, without a branch on the text, as in walk.py. A state is a unit of the double array with its depth for
the bytes to give back and its own slot for the code. The functions here trust their arguments: `Dictionary` has checked them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.neural.double_array import BACK as DEPTH
from compressors.neural.double_array import BACK_SHIFT as DEPTH_SHIFT
from compressors.neural.double_array import BASE_SHIFT, LABEL
from compressors.neural.double_array import CODE_SHIFT as SLOT_SHIFT
from compressors.neural.jit import compiled

Array = npt.NDArray[Any]
_SLOT = np.uint64(0xFFFFFF)
_SLOT_PLACE = np.uint32(0xFFFFFF00)
_CLIMB = np.uint32(255)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_SIGN = np.uint64(63)
_RING: Final = 256  # longer than any string
_NEXT_SHIFT = np.uint64(32)


@compiled
def failures(labels: Array, parents: Array, slots: Array, units: Array, root: int) -> Array:
    """Slot of the longest proper suffix that is a node, for each slot; `root`, the last slot, for none. uint32 [num_slots]."""
    fails = np.full(units.size, root, dtype=np.uint32)
    for node in range(257, labels.size):
        byte = np.uint64(labels[node])
        state = fails[slots[parents[node]]]
        while True:
            slot = (units[state] >> BASE_SHIFT) ^ byte
            if ((units[slot] ^ byte) & LABEL) == _ZERO:
                break
            state = fails[state]
        fails[slots[node]] = slot
    return fails


@compiled
def matches_of(slots: Array, depths: Array, codes: Array, fails: Array, no_code: int) -> Array:
    """The longest suffix of each slot's string that has a code, itself included, uint64 [num_slots]: slot of the next shorter one's match
    (32 bits), code (24), length (8); 0 for the root."""
    matches = np.zeros(fails.size, dtype=np.uint64)
    for node in range(1, slots.size):
        shorter = fails[slots[node]]
        if codes[node] == no_code:
            matches[slots[node]] = matches[shorter]
        else:
            low = (np.uint64(codes[node]) << SLOT_SHIFT) | np.uint64(depths[node])
            matches[slots[node]] = (np.uint64(shorter) << _NEXT_SHIFT) | low
    return matches


@compiled
def _suffix_step(units: Array, falls: Array, byte: Any, unit: Any) -> tuple[Any, Any, Any]:
    """(next unit, the unit of the longest shorter suffix, 1 if the step missed else 0): after a miss that suffix is next."""
    child = units[(unit >> BASE_SHIFT) ^ byte]
    shorter = falls[(unit >> SLOT_SHIFT) & _SLOT]
    missed = (((child ^ byte) & LABEL) + LABEL) >> SLOT_SHIFT
    return (child & (missed - _ONE)) | (shorter & (_ZERO - missed)), shorter, missed


@compiled
def _flexible_step(data: Array, units: Array, falls: Array, out: Array, at: Any, wrote: Any, unit: Any, reach: Any, reached: Any) -> Any:
    """(at, wrote, unit, reach, reached) after one step. `reach` is where the symbol under way ends at most, and `reached` the unit there.
    Once the starts have left it behind, the last start before is the symbol's end."""
    following, shorter, missed = _suffix_step(units, falls, np.uint64(data[at]), unit)
    start = at - ((unit >> DEPTH_SHIFT) & DEPTH)
    out[wrote] = (np.uint32(reached) & _SLOT_PLACE) | np.uint32((reach - start) & LABEL)
    ends = missed & ((reach - at + ((shorter >> DEPTH_SHIFT) & DEPTH)) >> _SIGN)
    stays, moves = ends - _ONE, _ZERO - ends
    return at + (missed ^ _ONE), wrote + ends, following, (reach & stays) | (at & moves), (reached & stays) | (unit & moves)


@compiled
def run_flexible(
    data: Array, units: Array, falls: Array, out: Array, num_steps: Any, at: Array, wrote: Array, state: Array, reach: Array, reached: Array
) -> None:
    """`num_steps` steps of each lane, of which each goes on by one byte at most."""
    a, b, c, d, e, f = at[0], at[1], at[2], at[3], at[4], at[5]
    i, j, k, l, m, n = wrote[0], wrote[1], wrote[2], wrote[3], wrote[4], wrote[5]
    u, v, w, x, y, z = state[0], state[1], state[2], state[3], state[4], state[5]
    g0, g1, g2, g3, g4, g5 = reach[0], reach[1], reach[2], reach[3], reach[4], reach[5]
    h0, h1, h2, h3, h4, h5 = reached[0], reached[1], reached[2], reached[3], reached[4], reached[5]
    for _ in range(num_steps):
        a, i, u, g0, h0 = _flexible_step(data, units, falls, out, a, i, u, g0, h0)
        b, j, v, g1, h1 = _flexible_step(data, units, falls, out, b, j, v, g1, h1)
        c, k, w, g2, h2 = _flexible_step(data, units, falls, out, c, k, w, g2, h2)
        d, l, x, g3, h3 = _flexible_step(data, units, falls, out, d, l, x, g3, h3)
        e, m, y, g4, h4 = _flexible_step(data, units, falls, out, e, m, y, g4, h4)
        f, n, z, g5, h5 = _flexible_step(data, units, falls, out, f, n, z, g5, h5)
    at[0], at[1], at[2], at[3], at[4], at[5] = a, b, c, d, e, f
    wrote[0], wrote[1], wrote[2], wrote[3], wrote[4], wrote[5] = i, j, k, l, m, n
    state[0], state[1], state[2], state[3], state[4], state[5] = u, v, w, x, y, z
    reach[0], reach[1], reach[2], reach[3], reach[4], reach[5] = g0, g1, g2, g3, g4, g5
    reached[0], reached[1], reached[2], reached[3], reached[4], reached[5] = h0, h1, h2, h3, h4, h5


@compiled
def finish_flexible(data: Array, units: Array, falls: Array, out: Array, at: Any, end: Any, wrote: Any, unit: Any, reach: Any, reached: Any) -> Any:
    """One document alone from `at` on. Returns the place after the last symbol written."""
    while at < end:
        at, wrote, unit, reach, reached = _flexible_step(data, units, falls, out, at, wrote, unit, reach, reached)
    while (unit >> DEPTH_SHIFT) & DEPTH != _ZERO:
        shorter = falls[(unit >> SLOT_SHIFT) & _SLOT]
        if at - ((shorter >> DEPTH_SHIFT) & DEPTH) > reach:
            start = at - ((unit >> DEPTH_SHIFT) & DEPTH)
            out[wrote] = (np.uint32(reached) & _SLOT_PLACE) | np.uint32((reach - start) & LABEL)
            wrote += _ONE
            reach, reached = at, unit
        unit = shorter
    out[wrote] = np.uint32(reached) & _SLOT_PLACE
    return wrote + _ONE


@compiled
def resolve(offsets: Array, out: Array, counts: Array, up: Array, codes: Array) -> None:
    """What was written of each symbol but the first, which is none, the unit reached and how far above it the symbol's own node is, as
    codes: one place down. Places as for `walk`."""
    for n in range(counts.size):
        first = np.uint64(offsets[n] + n)
        for i in range(first, first + np.uint64(counts[n])):
            slot = np.uint64(out[i + _ONE] >> np.uint32(8))
            for _ in range(out[i + _ONE] & _CLIMB):
                slot = np.uint64(up[slot])
            out[i] = codes[slot]


@compiled
def _states_step(data: Array, units: Array, falls: Array, out: Array, shift: Any, at: Any, unit: Any) -> tuple[Any, Any]:
    unit, _, missed = _suffix_step(units, falls, np.uint64(data[at]), unit)
    out[at + shift] = np.uint32((unit >> SLOT_SHIFT) & _SLOT)  # after a miss, until the step that hits
    return at + (missed ^ _ONE), unit


@compiled
def run_states(data: Array, units: Array, falls: Array, out: Array, num_steps: Any, at: Array, shift: Array, state: Array) -> None:
    """`num_steps` steps of each lane: the slot of the state after each byte goes to its place in `out`, moved by the lane's `shift`."""
    a, b, c, d, e, f = at[0], at[1], at[2], at[3], at[4], at[5]
    i, j, k, l, m, n = shift[0], shift[1], shift[2], shift[3], shift[4], shift[5]
    u, v, w, x, y, z = state[0], state[1], state[2], state[3], state[4], state[5]
    for _ in range(num_steps):
        a, u = _states_step(data, units, falls, out, i, a, u)
        b, v = _states_step(data, units, falls, out, j, b, v)
        c, w = _states_step(data, units, falls, out, k, c, w)
        d, x = _states_step(data, units, falls, out, l, d, x)
        e, y = _states_step(data, units, falls, out, m, e, y)
        f, z = _states_step(data, units, falls, out, n, f, z)
    at[0], at[1], at[2], at[3], at[4], at[5] = a, b, c, d, e, f
    state[0], state[1], state[2], state[3], state[4], state[5] = u, v, w, x, y, z


@compiled
def finish_states(data: Array, units: Array, falls: Array, out: Array, at: Any, end: Any, shift: Any, unit: Any) -> None:
    """One document alone from `at` on."""
    while at < end:
        at, unit = _states_step(data, units, falls, out, shift, at, unit)


@compiled
def by_ends(offsets: Array, out: Array, counts: Array, matches: Array) -> None:
    """The fewest symbols of each document from the slots of its states after each byte. Places as for `walk`."""
    for n in range(counts.size):
        counts[n] = _by_ends(out, offsets[n] + n, offsets[n + 1] + n, matches)


@compiled
def _by_ends(out: Array, first: int, last: int, matches: Array) -> int:
    """One document in out[first:last]; codes go to the same place, their number is returned. A place is the number of bytes before it."""
    costs = np.zeros(_RING, dtype=np.int32)
    lowest = np.zeros(_RING, dtype=np.int32)  # the least cost from each place to here
    for at in range(first, last):
        match = matches[out[at]]
        length = np.int64(match & LABEL)
        best, cost = match, costs[(at - length + 1) & 255]
        while length > 1 and lowest[(at - length + 2) & 255] < cost:
            match = matches[match >> _NEXT_SHIFT]
            length = np.int64(match & LABEL)
            here = costs[(at - length + 1) & 255]
            if here < cost:
                best, cost = match, here
        out[at] = np.uint32(best)
        cost += 1
        place = (at + 1) & 255
        costs[place] = cost
        lowest[place] = cost
        back = at
        while lowest[back & 255] > cost:
            lowest[back & 255] = cost
            back -= 1
    at, wrote = last, last
    while at > first:
        symbol = out[at - 1]
        wrote -= 1
        out[wrote] = symbol
        at -= np.int64(symbol & np.uint32(255))
    for i in range(last - wrote):
        out[first + i] = out[wrote + i]
    return last - wrote
