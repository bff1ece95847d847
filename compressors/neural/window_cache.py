"""The part of a window tree that some text has visited: too many cells for a table, few enough visited nodes to keep.

    cache = Cache(bits=32)
    cache.add(parents, labels, lows, cells)        # nodes in any order, parents first
    walk(...)                                      # over a text until the windows end or a node is met that is not there

A node is one window so far: first cell `low`, which is its code, and the number of its `cells` (the rule "cells" with a full reset,
`divide.py`). Node 0 is the root. A byte that cannot follow is remembered as a child of no cells. (node, byte) -> child is an
open-addressing hash table, derived from the node list, which is all that a file holds.

Not promised: bounds in `walk`; `from_bytes` checks files.
"""

from __future__ import annotations

import struct
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from compressors.errors import RequestError
from compressors.neural.jit import compiled

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]

MAGIC: Final = b"proxy-lm windows\x01\0\0\0"
MISSING: Final = 0
DONE: Final = 1
_HEADER: Final = struct.Struct("<20sII")
_NODE: Final = np.dtype([("low", "<u8"), ("cells", "<u8"), ("parent", "<u4"), ("label", "u1")])
_EMPTY: Final = 0
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, 2^64 over the golden ratio


class Cache:
    """Nodes that grow; used by one thread while it grows."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.num_nodes = 1
        self._lows = np.zeros(1024, np.int64)
        self._cells = np.zeros(1024, np.int64)
        self._cells[0] = 1 << bits
        self._parents = np.zeros(1024, np.uint32)
        self._labels = np.zeros(1024, np.uint8)
        self._slots = np.zeros(4096, np.uint32)  # node numbers, 0 for none: the root is nobody's child

    @property
    def lows(self) -> I64:
        """First cell of each node, int64 [num_nodes]."""
        return self._lows[: self.num_nodes]

    @property
    def cells(self) -> I64:
        """Number of cells of each node; 0 where a byte cannot follow."""
        return self._cells[: self.num_nodes]

    @property
    def parents(self) -> U32:
        """Parent of each node, smaller than the node; 0 for the root itself."""
        return self._parents[: self.num_nodes]

    @property
    def labels(self) -> U8:
        """The byte that leads to each node."""
        return self._labels[: self.num_nodes]

    @property
    def slots(self) -> U32:
        """The hash table that `walk` takes."""
        return self._slots

    def add(self, parents: U32, labels: U8, lows: I64, cells: I64) -> None:
        """Append nodes; those that are there already are left out."""
        self._make_room(len(parents))
        self.num_nodes = int(
            _add(self._parents, self._labels, self._lows, self._cells, self._slots, self.num_nodes, parents, labels, lows, cells)
        )

    def copy(self) -> Cache:
        """Another cache with the same nodes, to grow by itself."""
        other = Cache(self.bits)
        other.add(self.parents[1:], self.labels[1:], self.lows[1:], self.cells[1:])
        return other

    def to_bytes(self) -> bytes:
        """The node list after the root."""
        nodes = np.empty(self.num_nodes - 1, _NODE)
        nodes["low"], nodes["cells"] = self.lows[1:], self.cells[1:]
        nodes["parent"], nodes["label"] = self.parents[1:], self.labels[1:]
        return _HEADER.pack(MAGIC, self.bits, len(nodes)) + nodes.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises `RequestError` for a file that is not one, is cut short, or whose nodes do not lie inside their parents."""
        if len(data) < _HEADER.size or data[: len(MAGIC)] != MAGIC:
            raise RequestError("this is no cache of windows, or of another version; train the view anew")
        _, bits, num = _HEADER.unpack_from(data)
        if not 9 <= bits <= 46 or len(data) != _HEADER.size + num * _NODE.itemsize:
            raise RequestError(f"a cache of {num} windows of {bits} bits does not have {len(data)} bytes; train the view anew")
        nodes = np.frombuffer(data, _NODE, num, _HEADER.size)
        cache = cls(bits)
        if nodes["low"].max(initial=0) >= 1 << bits or nodes["cells"].max(initial=0) > 1 << bits:
            raise RequestError(f"the cache holds nodes outside windows of {bits} bits; train the view anew")
        lows, cells = nodes["low"].astype(np.int64), nodes["cells"].astype(np.int64)
        parents, labels = nodes["parent"].astype(np.uint32), nodes["label"].astype(np.uint8)
        if (parents > np.arange(num)).any():
            raise RequestError("the cache holds nodes before their parents; train the view anew")
        cache.add(parents, labels, lows, cells)
        if cache.num_nodes != num + 1 or not _is_nested(cache):
            raise RequestError("the cache holds nodes twice, or not inside their parents; train the view anew")
        return cache

    def _make_room(self, more: int) -> None:
        wanted = self.num_nodes + more
        if wanted > len(self._lows):
            size = max(wanted, 2 * len(self._lows))
            for name in ("_lows", "_cells", "_parents", "_labels"):
                old = getattr(self, name)
                new = np.zeros(size, old.dtype)
                new[: len(old)] = old
                setattr(self, name, new)
        if 2 * wanted > len(self._slots):
            slots = np.zeros(1 << (4 * wanted).bit_length(), np.uint32)
            _fill(slots, self.parents, self.labels)
            self._slots = slots


def _is_nested(cache: Cache) -> bool:
    """Every byte is a child of the root with cells; children lie between their parent's first cell, which only the root gives away, and its
    last, and apart from each other."""
    lows, cells, parents = cache.lows[1:], cache.cells[1:], cache.parents[1:]
    is_first = parents == 0
    if is_first.sum() != 256 or not cells[is_first].all() or cells[is_first].sum() != 1 << cache.bits:
        return False
    real = cells > 0
    lows, cells, parents = lows[real], cells[real], parents[real]
    first = cache.lows[parents] + (parents > 0)
    inside = (lows >= first) & (lows + cells <= cache.lows[parents] + cache.cells[parents])
    order = np.lexsort((lows, parents))
    apart = (parents[order][1:] != parents[order][:-1]) | (lows[order][1:] >= (lows + cells)[order][:-1])
    return bool(inside.all() and apart.all() and (cache.cells[parents] > 1).all())


@compiled
def _slot(slots: U32, parent: np.int64, label: np.int64) -> np.uint64:
    key = (np.uint64(parent) << np.uint64(8)) | np.uint64(label)
    mixed = key * _MULTIPLIER
    return (mixed ^ (mixed >> np.uint64(29))) & np.uint64(len(slots) - 1)


@compiled
def find(slots: U32, parents: U32, labels: U8, parent: np.int64, label: np.int64) -> np.int64:
    """The child of a node by a byte, or 0."""
    slot = _slot(slots, parent, label)
    while slots[slot] != 0:
        node = np.int64(slots[slot])
        if parents[node] == parent and labels[node] == label:
            return node
        slot = (slot + np.uint64(1)) & np.uint64(len(slots) - 1)
    return np.int64(0)


@compiled
def _put(slots: U32, parent: np.int64, label: np.int64, node: np.int64) -> None:
    slot = _slot(slots, parent, label)
    while slots[slot] != 0:
        slot = (slot + np.uint64(1)) & np.uint64(len(slots) - 1)
    slots[slot] = np.uint32(node)


@compiled
def _fill(slots: U32, parents: U32, labels: U8) -> None:
    for node in range(1, len(parents)):
        _put(slots, np.int64(parents[node]), np.int64(labels[node]), np.int64(node))


@compiled
def _add(
    parents: U32,
    labels: U8,
    lows: I64,
    cells: I64,
    slots: U32,
    num_nodes: int,
    more_parents: U32,
    more_labels: U8,
    more_lows: I64,
    more_cells: I64,
) -> int:
    for i in range(len(more_parents)):
        parent, label = np.int64(more_parents[i]), np.int64(more_labels[i])
        if find(slots, parents, labels, parent, label) != 0:
            continue
        parents[num_nodes] = more_parents[i]
        labels[num_nodes] = more_labels[i]
        lows[num_nodes] = more_lows[i]
        cells[num_nodes] = more_cells[i]
        _put(slots, parent, label, np.int64(num_nodes))
        num_nodes += 1
    return num_nodes


@compiled
def walk(
    slots: U32, parents: U32, labels: U8, lows: I64, cells: I64, data: U8, depth: int, stops: bool, state: I64, codes: I64, ends: I64
) -> int:
    """Cut windows until the text ends, `DONE`, or a child is not known, `MISSING`. `state`: node, bytes in the window, place, windows cut.
    `stops`: a child that is not known ends the window."""
    node, length, place, num = state[0], state[1], state[2], state[3]
    found = DONE
    while place < len(data):
        child = np.int64(0)
        if cells[node] > 1 and length < depth:
            child = find(slots, parents, labels, node, np.int64(data[place]))
            if child == 0 and not stops:
                found = MISSING
                break
        if child != 0 and cells[child] > 0:
            node = child
            length += 1
            place += 1
            continue
        codes[num], ends[num] = lows[node], place
        num += 1
        node, length = np.int64(0), np.int64(0)
    if found == DONE and length > 0:
        codes[num], ends[num] = lows[node], place
        num += 1
        node, length = np.int64(0), np.int64(0)
    state[0], state[1], state[2], state[3] = node, length, place, num
    return found
