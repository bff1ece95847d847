"""The parse with the fewest symbols, in one pass over an Aho-Corasick automaton (A. Aho and M. Corasick, 1975).

Two rules, each chosen by the dictionary alone:

* **Every prefix of a string has a code** (`flexible`): each symbol is the longest among those after which the next symbol can reach the
  furthest. One symbol of look-ahead is enough for the fewest symbols (N. Horspool, "The effect of non-greedy parsing in Ziv-Lempel
  compression methods", 1995; A. Hartman and M. Rodeh, "Optimal parsing of strings", 1985). The automaton's state is the longest
  suffix of the bytes read that is a string; the places where such suffixes start are the only ends of symbols worth looking at, because a
  start between two of them reaches no further than the one before it. So the parse costs a step a byte and a step a start.
* **In general** (`by_ends`): the number of symbols up to each byte by dynamic programming over all strings that end there, which the
  automaton lists from the longest to the shortest. Read from the end of the document, each symbol is the longest that leaves the fewest.

The functions here trust their arguments: `Dictionary` has checked them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.neural.double_array import BACK as DEPTH
from compressors.neural.double_array import BACK_SHIFT as DEPTH_SHIFT
from compressors.neural.double_array import BASE_SHIFT, LABEL
from compressors.neural.jit import compiled

Array = npt.NDArray[Any]
_ZERO = np.uint64(0)
SLOT_BITS: Final = 24
_SLOT_MASK = np.uint32((1 << SLOT_BITS) - 1)
_SLOT_SHIFT = np.uint32(SLOT_BITS)
_RING = 256  # longer than any string


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
def shorter_matches(slots: Array, fails: Array, has_code: Array, root: int) -> Array:
    """Slot of the longest proper suffix that has a code, for each slot; `root` for none. uint32 [num_slots]."""
    links = np.full(fails.size, root, dtype=np.uint32)
    for node in range(257, slots.size):
        suffix = fails[slots[node]]
        links[slots[node]] = suffix if has_code[suffix] or suffix == root else links[suffix]
    return links


@compiled
def flexible(data: Array, offsets: Array, order: Array, out: Array, counts: Array, units: Array, fails: Array, up: Array) -> None:
    """Parse documents `order` with a prefix-closed dictionary. `up` is the slot of each slot's parent. The codes of document n go to
    out[offsets[n] + n:], their number to counts[n]; out has one place for each byte and each document."""
    root = np.uint32(units.size - 1)
    for n in order:
        state, unit = root, units[root]
        reach, reached = offsets[n], root  # the symbol under way ends here at most; where the automaton was then
        wrote = offsets[n] + n
        at, end = offsets[n], offsets[n + 1]
        while at < end or state != root:
            if at < end:
                byte = np.uint64(data[at])
                slot = (unit >> BASE_SHIFT) ^ byte
                child = units[slot]
                if ((child ^ byte) & LABEL) == _ZERO:
                    state, unit = np.uint32(slot), child
                    at += 1
                    continue
            suffix = fails[state]
            if at - np.int64((units[suffix] >> DEPTH_SHIFT) & DEPTH) > reach:
                start = at - np.int64((unit >> DEPTH_SHIFT) & DEPTH)
                out[wrote] = reached | (np.uint32(reach - start) << _SLOT_SHIFT)
                wrote += 1
                reach, reached = at, state
            state, unit = suffix, units[suffix]
        first = offsets[n] + n
        if wrote > first:
            out[wrote] = reached
        counts[n] = wrote - first
        for i in range(first, wrote):  # the first place held no symbol
            slot = np.uint64(out[i + 1] & _SLOT_MASK)
            for _ in range(out[i + 1] >> _SLOT_SHIFT):
                slot = np.uint64(up[slot])
            out[i] = np.uint32(units[slot])


@compiled
def by_ends(
    data: Array, offsets: Array, order: Array, out: Array, counts: Array, units: Array, fails: Array, links: Array, has_code: Array
) -> None:
    """Parse documents `order` with any dictionary. Places of codes as for `flexible`."""
    root = np.uint32(units.size - 1)
    costs = np.zeros(_RING, dtype=np.int64)
    for n in order:
        state = root
        first = offsets[n] + n
        costs[offsets[n] & 255] = 0
        for at in range(offsets[n], offsets[n + 1]):
            byte = np.uint64(data[at])
            while True:
                slot = (units[state] >> BASE_SHIFT) ^ byte
                if ((units[slot] ^ byte) & LABEL) == _ZERO:
                    break
                state = fails[state]
            state = np.uint32(slot)
            match = state if has_code[state] else links[state]
            best, cost = match, np.int64(1) << 62
            while match != root:
                length = np.int64((units[match] >> DEPTH_SHIFT) & DEPTH)
                here = costs[(at + 1 - length) & 255]
                if here < cost:
                    best, cost = match, here
                match = links[match]
            costs[(at + 1) & 255] = cost + 1
            out[at + n] = best
        last = offsets[n + 1] + n
        at, wrote = last, last
        while at > first:
            unit = units[out[at - 1]]
            wrote -= 1
            out[wrote] = np.uint32(unit)
            at -= np.int64((unit >> DEPTH_SHIFT) & DEPTH)
        counts[n] = last - wrote
        for i in range(counts[n]):
            out[first + i] = out[wrote + i]
