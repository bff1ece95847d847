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

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled
from proxy_lm.data.pieces import OPENS_SEGMENT, Bools, Pieces
from proxy_lm.data.slices import Slices, slices_of

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Packed:
    """Where units lie: arrays int64 [num_units]. Unit i fills rows whole_row[i] .. whole_row[i] + (length - 1) // L - 1, if any, and its
    last 1 to L ids begin at column[i] of row[i]. Rows are counted from 0 in each block."""

    whole_row: I64
    row: I64
    column: I64
    num_rows: I64  # [num_blocks]


def pack(lengths: I64, row_length: int, borders: I64 | None = None) -> Packed:
    """Rows of `row_length` ids for units of these lengths, int64 [num_units], each at least 1. About 0.1 microseconds a unit.

    Units borders[b] .. borders[b + 1] - 1 are block b and share no row with another block; None: all are one block."""
    assert row_length >= 1
    assert lengths.size == 0 or int(lengths.min()) >= 1
    if borders is None:
        borders = np.array([0, lengths.size], dtype=np.int64)
    rest = (lengths - 1) % row_length + 1
    block = np.repeat(np.arange(borders.size - 1), np.diff(borders))
    longest_first = np.argsort(block * row_length - rest, kind="stable")
    whole_row, row, column = (np.empty(lengths.size, dtype=np.int64) for _ in range(3))
    num_rows = np.empty(borders.size - 1, dtype=np.int64)
    bins = np.empty(lengths.size, dtype=np.int64)
    for b, (first, stop) in enumerate(zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)):
        _best_fit(rest, longest_first[first:stop], row_length, bins)
        some = slice(first, stop)
        num_whole = (lengths[some] - 1) // row_length
        num_rows[b] = _number(rest[some], num_whole, bins[some], whole_row[some], row[some], column[some])
    return Packed(whole_row, row, column, num_rows)


def lay(pieces: Pieces, block_positions: int, first_rows: I64, row_length: int, lookahead: int) -> tuple[Slices, I64]:
    """The slices of all rows that these pieces fill, in the order of the pieces; and the index of each one's piece.

    The pieces tell the positions of whole blocks of `block_positions`; block b fills rows from first_rows[b] on. A unit's part of a row is
    a segment of its own. The lookahead of a row shows how the unit goes on that fills all of it, so that each id of a unit but its first is
    a target once; behind a unit that ends there is none."""
    firsts = np.flatnonzero(pieces.opens)
    unit_start, lengths = pieces.start[firsts], np.add.reduceat(pieces.length, firsts)
    block = (pieces.position[firsts] - pieces.position[0]) // block_positions
    packed = pack(lengths, row_length, np.searchsorted(block, np.arange(first_rows.size + 1)))
    # Parts: a unit's stretch in one row.
    num_parts = (lengths - 1) // row_length + 1
    unit = np.repeat(np.arange(lengths.size), num_parts)
    number = np.arange(unit.size) - (np.cumsum(num_parts) - num_parts)[unit]
    last = number == num_parts[unit] - 1
    row = first_rows[block][unit] + np.where(last, packed.row[unit], packed.whole_row[unit] + number)
    column = np.where(last, packed.column[unit], 0)
    begin = unit_start[unit] + number * row_length
    end = np.minimum(begin + row_length + lookahead, (unit_start + lengths)[unit])
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


def pick(laid: Slices, rows: I64, stream_rows: I64) -> Slices:
    """The slices of some of the rows of `laid`, which is in row order: `rows` are their numbers in the run, `stream_rows` in the stream."""
    firsts = np.searchsorted(laid.row, stream_rows, side="left")
    counts = np.searchsorted(laid.row, stream_rows, side="right") - firsts
    in_row = np.repeat(np.arange(rows.size), counts)
    index = np.arange(in_row.size) + (firsts - np.cumsum(counts) + counts)[in_row]
    return replace(laid.take(index), row=rows[in_row])


def inside_rows(slices: Slices, index: I64, row_length: int, num_rows: int) -> tuple[I64, I64, I64, Bools]:
    """(ids, payload symbols, source bytes, whether its document begins) of each piece in rows below `num_rows`, lookahead not counted.

    `slices` and `index` as `lay` gives them; every piece has a slice."""
    mine = slices.row < num_rows
    begins, symbols, told = slices.counted(row_length)
    ids = np.clip(row_length - slices.column, 0, slices.length)
    # A split piece is in several slices, and their lookahead overlaps the next part: not in order. Sums stay far below 2**53.
    sums = [np.bincount(index, np.where(mine, values, 0)).astype(np.int64) for values in (ids, symbols, told, begins)]
    return sums[0], sums[1], sums[2], sums[3] > 0


def num_split(slices: Slices, num_rows: int) -> int:
    """Documents with a unit in more than one row, of which one is below `num_rows`: units that are longer than a row."""
    goes_on = (slices.position == 0) & ((slices.offset > 0) | ~OPENS_SEGMENT[slices.opening]) & (slices.row < num_rows)
    return int(np.unique(slices.order[goes_on]).size)


@compiled
def _best_fit(rest: I64, longest_first: I64, row_length: int, bins: I64) -> None:
    """Write the bin of each of the units `longest_first`; bins are numbered as they are opened. Of bins with equal free space: the last
    changed.

    `full[node]` of a binary tree over the free spaces 0 .. row_length says whether some bin below it has that much free."""
    num_leaves = 1
    while num_leaves <= row_length:
        num_leaves *= 2
    full = np.zeros(2 * num_leaves, dtype=np.uint8)
    last_with = np.full(row_length + 1, -1, dtype=np.int64)  # by free space: the last changed bin that has it
    below = np.empty(longest_first.size, dtype=np.int64)  # by bin: the bin with equal free space that was changed before it
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
