"""Counting for `phrases` (phrases_learn.py), as machine code: pairs of neighbouring symbols, symbols used, and what a string costs without
its code.

Repeats within one document count `most_repeats` times at most, so that one long table of numbers does not buy phrases that no other
document has. All of it is integer arithmetic in the order of the text: equal parses give equal counts on every machine.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled

Array = npt.NDArray[Any]

NO_PAIR: Final = np.uint64(0xFFFFFFFFFFFFFFFF)
_SHIFT = np.uint64(32)
_MIX = np.uint64(11400714819323198485)  # 2**64 / golden ratio: multiplying by it spreads neighbours over the table
_WORD_BITS = np.uint64(64)


@compiled
def count_pairs(
    codes: Array, offsets: Array, lengths: Array, most_bytes: int, most_repeats: int, keys: Array, counts: Array, documents: Array
) -> int:
    """Count the pairs of neighbours whose strings have at most `most_bytes` bytes together into an open-addressing table.

    codes [num_codes] of documents codes[offsets[n]:offsets[n + 1]]; lengths int64 of each code's string; the table is keys uint64 (all
    `NO_PAIR`, a power of two of them), counts int32 and documents int32 (in how many; all zero). A pair is `first << 32 | second`. A run of
    one symbol counts every other pair only, as that many could be joined. Returns the number of pairs, or -1 where the table is too small.
    """
    size = keys.size
    bits = 0
    while 1 << bits < size:
        bits += 1
    shift = _WORD_BITS - np.uint64(bits)
    seen = np.full(size, -1, dtype=np.int32)  # the document that met this pair last
    repeats = np.zeros(size, dtype=np.int32)
    num_pairs = 0
    for n in range(offsets.size - 1):
        joined = False
        for at in range(offsets[n], offsets[n + 1] - 1):
            first, second = codes[at], codes[at + 1]
            joined = first == second and not joined
            if (first == second and not joined) or lengths[first] + lengths[second] > most_bytes:
                continue
            key = np.uint64(first) << _SHIFT | np.uint64(second)
            place = np.int64(key * _MIX >> shift)
            while keys[place] != key and keys[place] != NO_PAIR:
                place = (place + 1) & (size - 1)
            if keys[place] == NO_PAIR:
                if num_pairs * 4 >= size * 3:
                    return -1
                keys[place] = key
                num_pairs += 1
            if seen[place] != n:
                seen[place], repeats[place] = n, 0
                documents[place] += 1
            if repeats[place] < most_repeats:
                repeats[place] += 1
                counts[place] += 1
    return num_pairs


@compiled
def count_symbols(codes: Array, offsets: Array, most_repeats: int, counts: Array) -> None:
    """Add to counts int64 [num_codes] how often each code is used, at most `most_repeats` times a document."""
    seen = np.full(counts.size, -1, dtype=np.int32)
    repeats = np.zeros(counts.size, dtype=np.int32)
    for n in range(offsets.size - 1):
        for at in range(offsets[n], offsets[n + 1]):
            code = codes[at]
            if seen[code] != n:
                seen[code], repeats[code] = n, 0
            if repeats[code] < most_repeats:
                repeats[code] += 1
                counts[code] += 1


@compiled
def costs_without(labels: Array, parents: Array, has_code: Array, depths: Array) -> Array:
    """For each node of a dictionary's trie (breadth first, as in dictionary.py) the fewest symbols that spell its string without a code of
    its own: int64 [num_nodes], at least 2 below the first level, 1 for the single bytes and 0 for the root."""
    num_nodes = labels.size
    starts = np.zeros(num_nodes + 1, dtype=np.int64)  # children of node n: starts[n] to starts[n + 1]
    for node in range(1, num_nodes):
        starts[parents[node] + 1] += 1
    starts[0] = 1
    for node in range(num_nodes):
        starts[node + 1] += starts[node]
    fails = np.zeros(num_nodes, dtype=np.int64)  # the longest proper suffix that is a node (A. Aho and M. Corasick, 1975)
    without = np.zeros(num_nodes, dtype=np.int64)
    costs = np.zeros(num_nodes, dtype=np.int64)  # with its own code where it has one
    path = np.zeros(256, dtype=np.int64)
    for node in range(1, num_nodes):
        if parents[node] == 0:
            without[node] = costs[node] = 1
            continue
        state = fails[parents[node]]
        while True:
            low, high = starts[state], starts[state + 1]
            while low < high:
                middle = (low + high) >> 1
                if labels[middle] < labels[node]:
                    low = middle + 1
                else:
                    high = middle
            if low < starts[state + 1] and labels[low] == labels[node]:
                break
            state = fails[state]  # ends at the root, which has all bytes
        fails[node] = low
        depth = np.int64(depths[node])
        above = np.int64(parents[node])
        for back in range(depth - 1, 0, -1):
            path[back] = above
            above = np.int64(parents[above])
        best = np.int64(1) << 40
        suffix = low
        while suffix != 0:
            if has_code[suffix]:
                best = min(best, costs[path[depth - np.int64(depths[suffix])]] + 1)
            suffix = fails[suffix]
        without[node] = best
        costs[node] = 1 if has_code[node] else best
    return without
