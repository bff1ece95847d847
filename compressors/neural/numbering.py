"""Which string of a grown trie has which code, and which string a code decodes to.

`build.build` grows the trie of a rule and calls one of `number_cells`, `number_most_probable`, `number_owners` and `number_shortest` for
its codes. Every code decodes to some string, used or not, so that decoding whatever a language model emits is total.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from compressors.errors import RequestError
from compressors.neural.divide import Cells
from compressors.neural.jit import compiled
from compressors.neural.rules import UNIT_BITS, first_codes

NO_CODE: Final = (1 << 32) - 1
Nodes = npt.NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True)
class Trie:
    """All strings that a rule keeps, in breadth-first order: node 0 is the empty string, siblings stand in byte order. Shapes
    [num_nodes]."""

    labels: npt.NDArray[np.uint8]
    parents: Nodes
    first: Cells
    second: Cells
    """The rule's state of each node, start and size (rules.py)."""


@dataclass(frozen=True, kw_only=True)
class Strings:
    """A trie with codes: what a table is. Shapes [num_nodes], `decode_nodes` [num_codes]."""

    labels: npt.NDArray[np.uint8]
    parents: Nodes
    codes: Nodes
    """The code of each node's string; `NO_CODE` at the root and where a window cannot end."""
    decode_nodes: Nodes
    """The node whose string a code decodes to."""


def number_cells(trie: Trie, num_cells: int, alphabet_size: int | None) -> Strings:
    """Rule `cells`: a node's code is its first cell. Cells that a node at the depth limit could not give away decode to that node."""
    if alphabet_size is not None:
        return numbered(trie.labels, trie.parents, _largest(trie, trie.second, alphabet_size), trie.first)
    codes = trie.first.astype(np.uint32)
    codes[0] = NO_CODE
    starts = np.zeros(num_cells, np.int64)
    starts[trie.first[1:]] = trie.first[1:]
    nodes = np.zeros(num_cells, np.uint32)
    nodes[trie.first[1:]] = np.arange(1, len(codes), dtype=np.uint32)
    return Strings(labels=trie.labels, parents=trie.parents, codes=codes, decode_nodes=nodes[np.maximum.accumulate(starts)])


def number_most_probable(trie: Trie, alphabet_size: int) -> Strings:
    """Rule `top`: the most probable strings and all bytes, in lexicographic order."""
    return numbered(trie.labels, trie.parents, _largest(trie, trie.second, alphabet_size), _lexicographic(trie.parents))


def number_owners(trie: Trie, bits: int, alphabet_size: int | None) -> Strings:
    """Rule `canonical`: a cell decodes to the longest string that holds it, and a string's code is the first such cell. Bytes that own no
    cell have codes of their own after the others, so that a document may end anywhere."""
    owners = _deepest(trie, bits)
    num_owned = np.bincount(owners, minlength=len(trie.labels)).astype(np.int64)
    codes = np.full(len(trie.labels), NO_CODE, np.int64)
    found, at = np.unique(owners, return_index=True)
    codes[found] = at
    poor = 1 + np.flatnonzero(num_owned[1:257] == 0)
    codes[poor] = (1 << bits) + np.arange(len(poor))
    if alphabet_size is not None:
        return numbered(trie.labels, trie.parents, _largest(trie, num_owned, alphabet_size), codes)
    decode_nodes = np.concatenate([owners, poor]).astype(np.uint32)
    return Strings(labels=trie.labels, parents=trie.parents, codes=codes.astype(np.uint32), decode_nodes=decode_nodes)


def number_shortest(trie: Trie, bits: int, alphabet_size: int | None, *, to_longest: bool) -> Strings:
    """Rules `paper` and `delay`: the code is the first cell of the largest dyadic interval inside the string's own. It decodes to the
    longest string of that code (`paper`: the look-ahead decoder), or to the shortest (`delay`). A code of no string decodes as under
    `canonical`."""
    codes = np.empty(len(trie.labels), np.int64)
    first_codes(trie.first, trie.second, 1 << (UNIT_BITS - bits), codes)
    nodes = np.arange(1, len(codes), dtype=np.uint32)
    decode_nodes = _deepest(trie, bits).astype(np.uint32)
    if to_longest:
        decode_nodes[codes[1:]] = nodes  # of equal codes the last in breadth-first order stays, which is the longest
    else:
        decode_nodes[codes[:0:-1]] = nodes[::-1]
    if alphabet_size is not None:
        used, ranks = np.unique(codes[1:], return_inverse=True)
        if len(used) > alphabet_size:
            raise RequestError(f"{len(used)} codes are used with {bits} bits and alphabet_size is {alphabet_size}; choose fewer bits")
        codes[1:] = ranks
        decode_nodes = decode_nodes[used]
    codes[0] = NO_CODE
    return Strings(labels=trie.labels, parents=trie.parents, codes=codes.astype(np.uint32), decode_nodes=decode_nodes)


def _largest(trie: Trie, weights: Cells, wanted: int) -> npt.NDArray[np.bool_]:
    """Mask of the nodes with codes: the 256 bytes, and of the others the `wanted` - 256 of largest positive weight, the first on ties."""
    rest = weights[257:]
    order = np.argsort(-rest, kind="stable")[: wanted - 256]
    mask = np.zeros(len(weights), np.bool_)
    mask[1:257] = True
    mask[257 + order[rest[order] > 0]] = True
    return mask


def numbered(labels: npt.NDArray[np.uint8], parents: Nodes, coded: npt.NDArray[np.bool_], order: Cells) -> Strings:
    """The part of a trie that leads to its coded nodes, these numbered by rising `order`. All shapes [num_nodes]."""
    needed = coded.copy()
    needed[0] = True
    _mark_ancestors(needed, parents)
    place = np.cumsum(needed) - 1
    nodes = np.flatnonzero(coded)
    nodes = nodes[np.argsort(order[nodes], kind="stable")]
    codes = np.full(int(needed.sum()), NO_CODE, np.uint32)
    codes[place[nodes]] = np.arange(len(nodes), dtype=np.uint32)
    return Strings(
        labels=labels[needed],
        parents=place[parents[needed]].astype(np.uint32),
        codes=codes,
        decode_nodes=place[nodes].astype(np.uint32),
    )


def _lexicographic(parents: Nodes) -> Cells:
    """Rank of each node when all strings are sorted: int64 [num_nodes], 0 at the root."""
    ranks = np.zeros(len(parents), np.int64)
    _rank(parents, np.ones(len(parents), np.int64), ranks)
    return ranks


@compiled
def _rank(parents: Nodes, sizes: Cells, ranks: Cells) -> None:
    for node in range(len(parents) - 1, 0, -1):
        sizes[parents[node]] += sizes[node]
    # From here on sizes[v] is the rank that the next child of v gets.
    sizes[0] = 1
    for node in range(1, len(parents)):
        parent = parents[node]
        ranks[node] = sizes[parent]
        sizes[parent] += sizes[node]
        sizes[node] = ranks[node] + 1


@compiled
def _mark_ancestors(needed: npt.NDArray[np.bool_], parents: Nodes) -> None:
    for node in range(len(parents) - 1, 0, -1):
        if needed[node]:
            needed[parents[node]] = True


def _deepest(trie: Trie, bits: int) -> Cells:
    """The longest string whose interval holds each cell: int64 [2^bits]."""
    owners = np.zeros(1 << bits, np.int64)
    _paint(trie.first, trie.second, 1 << (UNIT_BITS - bits), owners)
    return owners


@compiled
def _paint(starts: Cells, widths: Cells, unit: int, owners: Cells) -> None:
    for node in range(1, len(starts)):
        for cell in range((starts[node] + unit - 1) // unit, (starts[node] + widths[node]) // unit):
            owners[cell] = node
