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

WHOLE_BITS = 32
_WHOLE = 1 << WHOLE_BITS  # the probability 1 while a row is mixed


class Tables(NamedTuple):
    """All that the rows of a model are made from. The first six are by node, in breadth-first order."""

    labels: U8
    first: U32
    """One more than nodes: the children of node v are `first[v]` to `first[v + 1]`, in byte order."""
    links: U32
    depths: U8
    start_shares: U16
    """Of each node among its parent's, where the parent's string is all there is since the reset."""
    shares: U16
    """The same where the parent's string is a suffix of what there is."""
    match_shares: U16
    """[LENGTHS, ODDS], see count_match.py."""


@compiled
def child_of(labels: U8, first: U32, node: Whole, byte: Whole) -> Whole:
    """The child of `node` by `byte`, or 0."""
    low, high = np.int64(first[node]), np.int64(first[node + 1])
    end = high
    while low < high:
        middle = (low + high) >> 1
        if labels[middle] < byte:
            low = middle + 1
        else:
            high = middle
    return low if low < end and labels[low] == byte else 0


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
def mix(tables: Tables, state: Whole, at_start: bool | np.bool_, masses: I64) -> None:
    """What a state says, as masses int64 [256] that add up to 2^32 or little less; each is 2^14 or so at least for a trained model.
    `at_start`: the state's string is all there is since the reset."""
    masses[:] = 0
    left = np.int64(_WHOLE)
    node: Whole = state
    while True:
        shares = tables.start_shares if at_start else tables.shares
        used = np.int64(0)
        for child in range(tables.first[node], tables.first[node + 1]):
            share = np.int64(shares[child])
            masses[tables.labels[child]] += (left >> 16) * share
            used += share
        left = (left >> 16) * (TOTAL - used)
        at_start = False
        if node == 0:
            break
        node = np.int64(tables.links[node])
    masses += left >> 8
