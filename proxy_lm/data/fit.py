"""Best-fit packing: which row holds which unit, so that no document is split that fits into a row. Lengths only, no payload.

    packed = pack(lengths, row_length=4096)     # packed.row, packed.column, packed.whole_row, packed.num_rows

A unit is what must stay together: a segment, BOS to EOS. A unit longer than a row fills whole rows from column 0; what is left of it is
packed like any other unit. Units are taken from long to short, and each goes into the row with the least free space that suffices (best
fit decreasing; Johnson, "Near-optimal bin packing algorithms", MIT 1973: at most 11/9 of the fewest rows, and for the lengths of source
files hardly ever more than one row over it). Rows are numbered, and a row's units stand, in the order of their positions, so that packing
moves a document as little as it can. Equal lengths give equal rows on every machine.

Not promised: the fewest rows possible; a row with fewer documents than another in the middle of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled
from proxy_lm.data.pieces import Pieces, Slices, slices_of

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Packed:
    """Where units lie: arrays int64 [num_units]. Unit i fills rows whole_row[i] .. whole_row[i] + (length - 1) // L - 1, if any, and its
    last 1 to L ids begin at column[i] of row[i]."""

    whole_row: I64
    row: I64
    column: I64
    num_rows: int


def pack(lengths: I64, row_length: int) -> Packed:
    """Rows of `row_length` ids for units of these lengths, int64 [num_units], each at least 1. At most a few hundred ns a unit."""
    assert row_length >= 1
    assert lengths.size == 0 or int(lengths.min()) >= 1
    rest = (lengths - 1) % row_length + 1
    longest_first = np.argsort(-rest, kind="stable")
    whole_row, row, column = (np.empty(lengths.size, dtype=np.int64) for _ in range(3))
    bins = _best_fit(rest, longest_first, row_length)
    num_rows = _number(rest, (lengths - 1) // row_length, bins, whole_row, row, column)
    return Packed(whole_row, row, column, int(num_rows))


def rows_of(pieces: Pieces, row_length: int) -> int:
    """Rows that the segments of these pieces fill."""
    return pack(_unit_lengths(pieces)[1], row_length).num_rows


def lay(pieces: Pieces, first_row: int, row_length: int, lookahead: int) -> tuple[Slices, I64]:
    """The slices of all rows that these pieces fill, from `first_row` on, in the order of the pieces; and the index of each one's piece.

    A unit's part of a row is a segment of its own. The lookahead of a row shows how the unit goes on that fills all of it, so that each id
    of a unit but its first is a target once; behind a unit that ends there is none."""
    firsts, lengths = _unit_lengths(pieces)
    packed = pack(lengths, row_length)
    # Parts: a unit's stretch in one row.
    num_parts = (lengths - 1) // row_length + 1
    unit = np.repeat(np.arange(lengths.size), num_parts)
    number = np.arange(unit.size) - (np.cumsum(num_parts) - num_parts)[unit]
    last = number == num_parts[unit] - 1
    row = first_row + np.where(last, packed.row[unit], packed.whole_row[unit] + number)
    column = np.where(last, packed.column[unit], 0)
    begin = pieces.start[firsts][unit] + number * row_length
    end = np.minimum(begin + row_length + lookahead, (pieces.start[firsts] + lengths)[unit])
    by_row = np.lexsort((column, row))
    segment = np.empty_like(row)
    segment[by_row] = np.arange(row.size) - np.searchsorted(row[by_row], row[by_row])
    # Slices: a piece's stretch of a part.
    ends = pieces.end
    first_piece = np.searchsorted(ends, begin, side="right")
    num_slices = np.searchsorted(pieces.start, end, side="left") - first_piece
    part = np.repeat(np.arange(row.size), num_slices)
    index = np.arange(part.size) + (first_piece - np.cumsum(num_slices) + num_slices)[part]
    start = np.maximum(pieces.start[index], begin[part])
    position = start - begin[part]
    length = np.minimum(ends[index], end[part]) - start
    return slices_of(pieces, index, row[part], column[part] + position, start, length, segment[part], position), index


def _unit_lengths(pieces: Pieces) -> tuple[I64, I64]:
    """First piece of each unit and the unit's ids, both int64 [num_units]; the first piece opens a segment."""
    firsts = np.flatnonzero(pieces.opens)
    return firsts, np.add.reduceat(pieces.length, firsts)


@compiled
def _best_fit(rest: I64, longest_first: I64, row_length: int) -> I64:
    """The bin of each unit, int64 [num_units]; bins are numbered as they are opened. Among bins with equal free space: the last changed.

    `full[node]` of a binary tree over the free spaces 0 .. row_length says whether some bin below it has that much free."""
    num_leaves = 1
    while num_leaves <= row_length:
        num_leaves *= 2
    full = np.zeros(2 * num_leaves, dtype=np.uint8)
    last_with = np.full(row_length + 1, -1, dtype=np.int64)  # by free space: the last changed bin that has it
    below = np.empty(rest.size, dtype=np.int64)  # by bin: the bin with equal free space that was changed before it
    bins = np.empty(rest.size, dtype=np.int64)
    num_bins = 0
    for unit in longest_first:
        node = num_leaves + rest[unit]
        while node > 1 and not full[node]:  # up, to the next subtree to the right that has a bin
            while node > 1 and (node & 1 or not full[node + 1]):
                node >>= 1
            if node > 1:
                node += 1
        if node > 1:
            while node < num_leaves:  # down, to its smallest
                node = 2 * node if full[2 * node] else 2 * node + 1
            free = node - num_leaves
            chosen = last_with[free]
            last_with[free] = below[chosen]
            if last_with[free] < 0:
                full[node] = 0
                while node > 1 and not full[node ^ 1]:
                    node >>= 1
                    full[node] = 0
        else:
            free = row_length
            chosen = num_bins
            num_bins += 1
        bins[unit] = chosen
        free -= rest[unit]
        if free > 0:
            below[chosen] = last_with[free]
            last_with[free] = chosen
            node = num_leaves + free
            while node >= 1 and not full[node]:
                full[node] = 1
                node >>= 1
    return bins


@compiled
def _number(rest: I64, num_whole: I64, bins: I64, whole_row: I64, row: I64, column: I64) -> int:
    """Rows and columns in the order of the units; returns the number of rows."""
    row_of = np.full(rest.size, -1, dtype=np.int64)  # by bin
    used = np.zeros(rest.size, dtype=np.int64)
    num_rows = 0
    for unit in range(rest.size):
        whole_row[unit] = num_rows
        num_rows += num_whole[unit]
        chosen = bins[unit]
        if row_of[chosen] < 0:
            row_of[chosen] = num_rows
            num_rows += 1
        row[unit] = row_of[chosen]
        column[unit] = used[chosen]
        used[chosen] += rest[unit]
    return num_rows
