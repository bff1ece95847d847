"""Following a text through a trie of frequent strings: states, and what a state says of the next byte. The loops of `counts.CountModel`.

The state after some bytes is the node of the longest of their suffixes that is in the trie (Aho and Corasick's automaton: children, else
the suffix link's). What it says is mixed from its own children and those of its suffixes, down to the uniform distribution: each node
keeps `share[child] / 65536` of what reaches it for each child and passes the rest on to its suffix link.

Not promised: bounds. Arguments come from `counts.py`, which checks files before it calls.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled
from compressors.neural.models import TOTAL

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]
Whole = int | np.int64

WHOLE_BITS = 32  # 2^32 is the probability 1 while a row is mixed
NUM_SHALLOW = 257
"""Nodes of at most one byte: the empty string, then the 256 bytes in order."""


class Tables(NamedTuple):
    """All that the rows of a model are made from. Nodes are in breadth-first order; what is needed together lies together."""

    heads: U32
    """[num_nodes + 1, 2]: the first child of each node (its children are those up to the next node's first), and its suffix link."""
    edges: U32
    """[num_nodes]: label << 16 | share of the node among its parent's, where the parent's string is a suffix of what there is."""
    start_shares: U16
    """[num_nodes]: the share where the parent's string is all there is since the reset."""
    depths: U8
    """[num_nodes], in bytes."""
    shallow: U32
    """[NUM_SHALLOW, 256]: the masses that a node of at most one byte, as a suffix, gives each byte."""
    match_shares: U16
    """[LENGTHS, ODDS], see count_match.py."""


@compiled
def child_of(heads: U32, edges: U32, node: Whole, byte: Whole) -> Whole:
    """The child of `node` by `byte`, or 0."""
    if node == 0:
        return byte + 1
    low, high = np.int64(heads[node, 0]), np.int64(heads[node + 1, 0])
    end = high
    while low < high:
        middle = (low + high) >> 1
        if np.int64(edges[middle]) >> 16 < byte:
            low = middle + 1
        else:
            high = middle
    return low if low < end and np.int64(edges[low]) >> 16 == byte else 0


@compiled
def step(heads: U32, edges: U32, node: Whole, byte: Whole) -> Whole:
    """The state after one more byte."""
    while True:
        child = child_of(heads, edges, node, byte)
        if child != 0:
            return child
        node = np.int64(heads[node, 1])


@compiled
def link(heads: U32, edges: U32) -> U8:
    """Set each node's suffix link, the longest proper suffix of its string that is a node. Returns the depths."""
    num_nodes = len(edges)
    depths = np.zeros(num_nodes, np.uint8)
    for node in range(num_nodes):
        for child in range(heads[node, 0], heads[node + 1, 0]):
            depths[child] = depths[node] + 1
            heads[child, 1] = 0 if node == 0 else step(heads, edges, np.int64(heads[node, 1]), np.int64(edges[child]) >> 16)
    return depths


@compiled
def count_surprises(text: U8, offsets: I64, heads: U32, edges: U32, hits: I64, misses: I64) -> None:
    """How each byte of the documents is met: `hits[child]` where a state or one of its suffixes is first to know the byte,
    `misses[node]` for each node that was asked before and did not know it."""
    for document in range(len(offsets) - 1):
        state: Whole = 0
        for i in range(offsets[document], offsets[document + 1]):
            byte = np.int64(text[i])
            while True:
                child = child_of(heads, edges, state, byte)
                if child != 0:
                    break
                misses[state] += 1
                state = np.int64(heads[state, 1])
            hits[child] += 1
            state = child


def tables(labels: U8, first: U32, start_shares: U16, shares: U16, match_shares: U16) -> Tables:
    """Tables of a trie as files keep it: `first` has one more than nodes."""
    heads = np.zeros((len(first), 2), np.uint32)
    heads[:, 0] = first
    edges = (labels.astype(np.uint32) << np.uint32(16)) | shares.astype(np.uint32)
    depths = link(heads, edges)
    shallow = np.zeros((NUM_SHALLOW, 256), np.uint32)
    _fill_shallow(heads, edges, shallow)
    return Tables(heads, edges, start_shares, depths, shallow, match_shares)


@compiled
def _fill_shallow(heads: U32, edges: U32, shallow: U32) -> None:
    for node in range(NUM_SHALLOW):
        left = np.int64(1) << WHOLE_BITS
        used = np.int64(0)
        for child in range(heads[node, 0], heads[node + 1, 0]):
            share = np.int64(edges[child]) & (TOTAL - 1)
            shallow[node, np.int64(edges[child]) >> 16] = (left * share) >> 16
            used += share
        left = (left * (TOTAL - used)) >> 16
        for s in range(256):
            below = np.int64(shallow[0, s]) if node != 0 else (np.int64(1) << WHOLE_BITS) // 256
            shallow[node, s] += (min(left, (np.int64(1) << WHOLE_BITS) - 1) * below) >> WHOLE_BITS


@compiled
def mix(tables: Tables, state: Whole, at_start: bool | np.bool_, masses: U32) -> None:
    """What a state says, as masses uint32 [256] that add up to 2^32 or little less. `at_start`: the state's string is all there is since
    the reset."""
    left = (np.int64(1) << WHOLE_BITS) - 1
    node: Whole = state
    masses[:] = 0
    if at_start:
        used = np.int64(0)
        for child in range(tables.heads[node, 0], tables.heads[node + 1, 0]):
            share = np.int64(tables.start_shares[child])
            masses[np.int64(tables.edges[child]) >> 16] = (left * share) >> 16
            used += share
        left = (left * (TOTAL - used)) >> 16
        node = np.int64(tables.heads[node, 1])
    while node >= NUM_SHALLOW:
        used = np.int64(0)
        for child in range(tables.heads[node, 0], tables.heads[node + 1, 0]):
            edge = np.int64(tables.edges[child])
            share = edge & (TOTAL - 1)
            masses[edge >> 16] += (left * share) >> 16
            used += share
        left = (left * (TOTAL - used)) >> 16
        node = np.int64(tables.heads[node, 1])
    rest = np.uint64(np.uint32(left))  # known to have 32 bits, so that eight products are made at once
    row = tables.shallow[node]
    for s in range(256):
        masses[s] += np.uint32((rest * np.uint64(row[s])) >> np.uint64(WHOLE_BITS))
