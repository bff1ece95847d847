"""Slices: which stretch of which piece fills which columns of a row. Lengths only, no payload.

Where rows are cut, row r of the stream is ids r * L up to r * L + L + H of it (L row_length, H lookahead), never padded. A slice is the
part of a piece that lies in a row; the same ids stand in two rows only as the lookahead of the first. In which order the stream's rows are
trained on is said in `row_order`; how rows are packed instead of cut, in `fit`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from proxy_lm.data.pieces import I64, OPENING_LENGTHS, OPENS_SEGMENT, U8, UP_TO_START, Bools, Layout, Pieces, told_bytes


@dataclass(frozen=True)
class Slices:
    """What fills rows, in (row, column) order: arrays of shape [num_slices]. The slices of a row follow one another without gap or overlap
    from column 0 on; where rows are packed, what they leave at the end of a row is padding."""

    row: I64  # global row of the run
    column: I64  # first column in the row
    offset: I64  # ids of the piece that come before the slice
    length: I64  # ids
    payload: I64  # symbols of the whole piece
    first: I64  # the first of them in the whole telling of the document
    order: I64  # position of the document in the global order
    document: I64
    first_byte: I64  # first byte of the document that the whole piece tells
    num_bytes: I64  # bytes of the document that the whole piece tells
    layout: U8
    code: U8
    opening: U8  # an `Opening`
    closing: U8  # a `Closing`
    counts: Bools  # the piece is a telling that counts as a document
    segment: I64  # number of the segment in the row, from 0
    position: I64  # RoPE position of the slice's first id: ids of its segment in this row that come before it

    def digest(self) -> str:
        """SHA-256 of (row, document, code, layout, offset, length) of every slice: what the rows hold, whoever reads them.

        Offsets count from the telling's begin. Where a document is told in stretches, the layout also names opening and closing."""
        parts = self.layout > Layout.PARALLEL
        layout = self.layout + np.where(parts, (self.opening.astype(np.int64) + 1 << 8) + (self.closing.astype(np.int64) << 16), 0)
        table = np.stack([self.row, self.document, self.code, layout, self.first + self.offset, self.length]).astype("<i8")
        return hashlib.sha256(table.tobytes()).hexdigest()

    def payload_range(self, limit: int | None = None) -> tuple[I64, I64]:
        """First and end symbol of each slice among its piece's, both int64 [num_slices]; only columns below `limit` where one is given."""
        lengths = self.length if limit is None else np.clip(limit - self.column, 0, self.length)
        before = self.offset - OPENING_LENGTHS[self.opening]
        return np.clip(before, 0, self.payload), np.clip(before + lengths, 0, self.payload)

    def tally(self, row_length: int, num_views: int) -> tuple[I64, I64, I64]:
        """(documents, symbols, source bytes) told by each code in the rows' own columns, each int64 [num_views + 1].

        A telling counts as a document where its start sentinel stands. Symbols are payload symbols. Bytes: see `told_bytes`."""
        begins, symbols, told = self.counted(row_length)
        return _sum_by(self.code, begins, num_views), _sum_by(self.code, symbols, num_views), _sum_by(self.code, told, num_views)

    def counted(self, row_length: int) -> tuple[Bools, I64, I64]:
        """(whether a document begins, symbols, source bytes) of each slice in the rows' own columns, each [num_slices]."""
        first, end = self.payload_range(row_length)
        start_at = UP_TO_START[self.opening] - 1
        begins = self.counts & (self.offset <= start_at) & (self.offset + self.length > start_at)
        begins &= self.column + start_at - self.offset < row_length
        return begins, end - first, told_bytes(first, end, self.payload, self.num_bytes, begins)

    def __len__(self) -> int:
        return int(self.row.size)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The slices of several runs of rows, in this order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def by_row(self) -> Slices:
        """The same slices in (row, column) order."""
        if bool((np.diff(self.row) >= 0).all()):
            return self
        return self.take(np.argsort(self.row, kind="stable"))

    def take(self, index: I64) -> Slices:
        """The slices with these indices, in this order."""
        return Slices(*(getattr(self, field.name)[index] for field in fields(self)))


def _sum_by(code: U8, values: npt.NDArray[np.generic], num_views: int) -> I64:
    sums = np.zeros(num_views + 1, dtype=np.int64)
    np.add.at(sums, code, values.astype(np.int64))
    return sums


def cut(pieces: Pieces, rows: I64, stream_rows: I64, row_length: int, lookahead: int) -> Slices:
    """The slices of some rows out of pieces that cover them: `rows` are their numbers in the run, `stream_rows` in the stream."""
    row_starts = stream_rows * row_length
    row_ends = row_starts + (row_length + lookahead)
    ends = pieces.end
    firsts = np.searchsorted(ends, row_starts, side="right")
    counts = np.searchsorted(pieces.start, row_ends, side="left") - firsts
    in_row = np.repeat(np.arange(rows.size), counts)
    before = np.cumsum(counts) - counts
    index = np.arange(in_row.size) + (firsts - before)[in_row]
    start = pieces.start[index]
    begin = np.maximum(start, row_starts[in_row])
    length = np.minimum(ends[index], row_ends[in_row]) - begin
    # A row opens a segment, and so does each BOS; a row that opens with a BOS opens one segment, not two.
    opens = OPENS_SEGMENT[pieces.opening[index]]
    opens[before] = True
    segment = np.cumsum(opens)
    segment -= segment[before][in_row]
    opened = np.flatnonzero(opens)[np.cumsum(opens) - 1]
    return slices_of(pieces, index, rows[in_row], begin - row_starts[in_row], begin, length, segment, begin - begin[opened])


def slices_of(pieces: Pieces, index: I64, row: I64, column: I64, begin: I64, length: I64, segment: I64, position: I64) -> Slices:
    """Slices of the pieces `index`, from the places `begin` of the stream on; the other arrays as in `Slices`."""
    return Slices(
        row=row,
        column=column,
        offset=begin - pieces.start[index],
        length=length,
        payload=pieces.payload[index],
        first=pieces.first[index],
        order=pieces.position[index],
        document=pieces.document[index],
        first_byte=pieces.first_byte[index],
        num_bytes=pieces.num_bytes[index],
        layout=pieces.layout[index],
        code=pieces.code[index],
        opening=pieces.opening[index],
        closing=pieces.closing[index],
        counts=pieces.counts[index],
        segment=segment,
        position=position,
    )
