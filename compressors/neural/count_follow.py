"""Following a text through a trie of frequent strings, and the integer rows on the way: the loops of `counts.CountModel`.

The state after some bytes is the node of the longest of their suffixes that is in the trie (Aho and Corasick's automaton: children, else
the suffix link's). A row mixes the state's own children with those of its suffixes, down to the uniform distribution: each node keeps
`share[child] / 65536` of what reaches it for each child and passes the rest on to its suffix link.

Not promised: bounds. Arguments come from `counts.py`, which checks files before it calls.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled
from compressors.neural.models import TOTAL

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]
Whole = int | np.int64

_WHOLE = 1 << 32  # the probability 1 while a row is mixed


@compiled
def child_of(labels: U8, first: U32, node: Whole, byte: Whole) -> Whole:
    """The child of `node` by `byte`, or 0."""
    low, high = np.int64(first[node]), np.int64(first[node + 1])
    while low < high:
        middle = (low + high) >> 1
        if labels[middle] < byte:
            low = middle + 1
        else:
            high = middle
    return low if low < first[node + 1] and labels[low] == byte else 0


@compiled
def step(labels: U8, first: U32, links: U32, node: Whole, byte: Whole) -> Whole:
    """The state after one more byte."""
    while True:
        child = child_of(labels, first, node, byte)
        if child != 0 or node == 0:
            return child
        node = np.int64(links[node])


@compiled
def suffix_links(labels: U8, first: U32) -> tuple[U32, U8]:
    """For each node the longest proper suffix of its string that is a node, and its depth. Nodes are in breadth-first order."""
    num_nodes = len(labels)
    links = np.zeros(num_nodes, np.uint32)
    depths = np.zeros(num_nodes, np.uint8)
    for node in range(num_nodes):
        for child in range(first[node], first[node + 1]):
            depths[child] = depths[node] + 1
            if node != 0:
                links[child] = step(labels, first, links, np.int64(links[node]), np.int64(labels[child]))
    return links, depths


@compiled
def count_surprises(text: U8, offsets: I64, labels: U8, first: U32, links: U32, hits: I64, misses: I64) -> None:
    """How each byte of the documents is met: `hits[child]` where a state or one of its suffixes is first to know the byte,
    `misses[node]` for each node that was asked before and did not know it."""
    for document in range(len(offsets) - 1):
        state: Whole = 0
        for i in range(offsets[document], offsets[document + 1]):
            byte = np.int64(text[i])
            while True:
                child = child_of(labels, first, state, byte)
                if child != 0:
                    hits[child] += 1
                    break
                misses[state] += 1
                if state == 0:
                    break
                state = np.int64(links[state])
            state = child


@compiled
def mix(
    labels: U8, first: U32, links: U32, start_shares: U16, shares: U16, state: Whole, at_start: bool | np.bool_, masses: I64, row: U16
) -> None:
    """The row of a state. `at_start`: the state's string is all there is since the reset, so its own children have their shares among
    starts. `masses` is working space, int64 [256]."""
    masses[:] = 0
    left = np.int64(_WHOLE)
    node: Whole = state
    while True:
        used = np.int64(0)
        for child in range(first[node], first[node + 1]):
            share = np.int64(start_shares[child]) if at_start else np.int64(shares[child])
            masses[labels[child]] += (left >> 16) * share
            used += share
        left = (left >> 16) * (TOTAL - used)
        at_start = False
        if node == 0:
            break
        node = np.int64(links[node])
    quantise(masses, left, row)


@compiled
def quantise(masses: I64, left: Whole, row: U16) -> None:
    """Integer frequencies: 1 for each byte, its share of the other 65,280 rounded down, and what is over to the most probable byte (the
    lowest of equals). `left` is spread over all bytes."""
    each = left >> 8
    best = 0
    given = np.int64(0)
    for s in range(256):
        frequency = 1 + (((masses[s] + each) * (TOTAL - 256)) >> 32)
        row[s] = frequency
        given += frequency
        if masses[s] > masses[best]:
            best = s
    row[best] += TOTAL - given


@compiled
def rows_after(prefixes: U8, labels: U8, first: U32, links: U32, depths: U8, start_shares: U16, shares: U16, rows: U16) -> None:
    """`ByteModel.after`."""
    masses = np.zeros(256, np.int64)
    num_prefixes, length = prefixes.shape
    for i in range(num_prefixes):
        state: Whole = 0
        for j in range(length):
            state = step(labels, first, links, state, np.int64(prefixes[i, j]))
        mix(labels, first, links, start_shares, shares, state, depths[state] == length, masses, rows[i])


@compiled
def rows_along(stretch: U8, labels: U8, first: U32, links: U32, depths: U8, start_shares: U16, shares: U16, rows: U16) -> None:
    """One stretch of `ByteModel.rows`."""
    masses = np.zeros(256, np.int64)
    state: Whole = 0
    for i in range(len(stretch)):
        mix(labels, first, links, start_shares, shares, state, depths[state] == i, masses, rows[i])
        state = step(labels, first, links, state, np.int64(stretch[i]))
