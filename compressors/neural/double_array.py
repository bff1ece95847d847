"""A byte trie laid out as an xor double array, so that one step of a walk is one load: the child of a unit over `byte` lies at
`base ^ byte`, and it is a child when the label kept there is `byte`.

    bases, slots = place(labels, parents, first_children)      # where each node's family and each node lie
    units = units_of(labels, bases, slots)                     # uint32 [num_slots]

A unit is `base << 8 | label`. The root has base 0, so that its 256 children
are slots 0 to 255 in order. A node without children has base `LEAF_BASE`, which belongs to no family: slot `LEAF_BASE ^ byte` carries the
label of another byte, so that every step from a leaf misses without a test. For the same reason an empty slot carries the label that would
be right under a base of its block that no family has. Source of the idea: J. Aoe, "An efficient digital search algorithm by using a
double-array structure" (1989), with xor for plus and filled holes, as darts-clone has them.

Families of likely nodes (many descendants) are placed first and lie together, which keeps the hot part of the array small. The layout is
derived when a dictionary first walks and is not part of any artifact. Not promised: the same layout in another version.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled

LABEL = np.uint64(255)
BASE_SHIFT = np.uint64(8)
LEAF_BASE: Final = 1
MAX_NUM_SLOTS: Final = 1 << 24

_OPEN_BLOCKS = 16
_MAX_FAILURES = 12

U32 = npt.NDArray[np.uint32]
Array = npt.NDArray[Any]


@compiled
def _subtree_sizes(parents: Array) -> Array:
    sizes = np.ones(parents.size, dtype=np.int64)
    for node in range(parents.size - 1, 0, -1):
        sizes[parents[node]] += sizes[node]
    return sizes


@compiled
def _grown(array: Array, size: int) -> Array:
    larger = np.zeros(size, dtype=np.uint8)
    for place in range(array.size):  # a slice here takes numba two seconds to compile
        larger[place] = array[place]
    return larger


@compiled
def _fit(taken: Array, is_base: Array, block: int, labels: Array, first: int, last: int) -> Any:
    """A base in the block under which nodes first..last-1 find free slots, or -1."""
    for slot in range(block << 8, (block + 1) << 8):
        base = slot ^ labels[first]
        if taken[slot] != 0 or is_base[base] != 0:
            continue
        fits = True
        for node in range(first + 1, last):
            if taken[base ^ labels[node]] != 0:
                fits = False
                break
        if fits:
            return base
    return -1


@compiled
def _fit_in_holes(taken: Array, is_base: Array, holes: Array, num_holes: int, labels: Array, node: int) -> tuple[int, int]:
    """(base, number of blocks still worth trying) for a single child, from the last block with holes backwards; base -1 for none."""
    while num_holes > 0:
        base = _fit(taken, is_base, holes[num_holes - 1], labels, node, node + 1)
        if base >= 0:
            return base, num_holes
        num_holes -= 1
    return -1, 0


@compiled
def _place(labels: Array, first_children: Array, order: Array) -> tuple[Array, Array]:
    num_nodes = labels.size
    bases = np.full(num_nodes, LEAF_BASE, dtype=np.uint32)
    slots = np.zeros(num_nodes, dtype=np.uint32)
    num_blocks = 1
    taken = np.zeros(((num_nodes >> 8) + 8) << 8, dtype=np.uint8)
    is_base = np.zeros(taken.size, dtype=np.uint8)
    free = np.zeros(num_nodes + 2, dtype=np.int64)  # free slots of each block; a family opens at most one block
    failures = np.zeros(num_nodes + 2, dtype=np.int64)
    open_blocks = np.zeros(num_nodes + 2, dtype=np.int64)  # those that families of several children still try
    num_open = 0
    holes = np.zeros(num_nodes + 2, dtype=np.int64)  # blocks that only single children still try
    num_holes = 0
    bases[0] = 0
    is_base[0] = 1
    is_base[LEAF_BASE] = 1
    for node in range(1, 257):
        slots[node] = node - 1
        taken[node - 1] = 1
    for parent in order:
        first, last = first_children[parent], first_children[parent + 1]
        if parent == 0 or first == last:
            continue
        base = -1
        if last - first == 1:
            base, num_holes = _fit_in_holes(taken, is_base, holes, num_holes, labels, first)
        at = 0
        while base < 0 and at < num_open:
            block = open_blocks[at]
            if free[block] >= last - first:
                base = _fit(taken, is_base, block, labels, first, last)
            if base < 0:
                failures[block] += 1
                if failures[block] > _MAX_FAILURES or num_open > _OPEN_BLOCKS:
                    if free[block] > 0:
                        holes[num_holes] = block
                        num_holes += 1
                    num_open -= 1
                    for later in range(at, num_open):
                        open_blocks[later] = open_blocks[later + 1]
                    continue
            at += 1
        if base < 0:
            block = num_blocks
            num_blocks += 1
            if num_blocks << 8 > taken.size:
                taken = _grown(taken, 2 * taken.size)
                is_base = _grown(is_base, 2 * is_base.size)
            free[block] = 256
            open_blocks[num_open] = block
            num_open += 1
            base = (block << 8) | labels[first]
        bases[parent] = base
        is_base[base] = 1
        free[base >> 8] -= last - first
        for node in range(first, last):
            slots[node] = base ^ labels[node]
            taken[slots[node]] = 1
    return bases, slots


def place(labels: npt.NDArray[np.uint8], parents: U32, first_children: npt.NDArray[np.int64]) -> tuple[U32, U32]:
    """(bases, slots), uint32 [num_nodes] each, of a trie in BFS order whose root has all 256 children; children of node v are nodes
    first_children[v] to first_children[v + 1] - 1. The root itself has no slot (0 stands there)."""
    order = np.argsort(-_subtree_sizes(parents), kind="stable")
    found: tuple[U32, U32] = _place(labels, first_children, order)
    return found


def units_of(labels: npt.NDArray[np.uint8], bases: U32, slots: U32) -> U32:
    """The double array, uint32 [num_slots]."""
    num_slots = (int(slots.max()) | 255) + 1
    assert num_slots <= MAX_NUM_SLOTS, "a dictionary has too few nodes to need as many slots"
    is_base = np.zeros(num_slots, dtype=np.bool_)
    is_base[bases] = True  # LEAF_BASE among them
    free = np.argmin(is_base.reshape(-1, 256), axis=1).astype(np.uint32)  # a block with a hole has more slots than families
    holes = np.arange(256, dtype=np.uint32)[None, :] ^ free[:, None]
    units = (holes | np.uint32(LEAF_BASE << 8)).reshape(-1)
    units[slots[1:]] = ((bases << 8) | labels)[1:]
    found: U32 = units
    return found
