"""Pieces and slices: how a told document becomes ids, and which stretch of which piece fills a row. Lengths only, no payload.

A piece is one telling of one document: start sentinel, payload, end sentinel. A document's pieces in the stream, by layout:

    raw       BOS raw EOS                          one segment
    view      BOS view EOS                         one segment
    pair      BOS first second EOS                 one segment: the second piece sees the first
    parallel  BOS first EOS BOS second EOS         two segments: neither sees the other

BOS and EOS are counted to the piece they touch, so a piece is a run of `bos + 1 + payload + 1 + eos` ids. The stream is all pieces in the
order of positions; row r of the stream is ids r * L up to r * L + L + H of it (L row_length, H lookahead): cut, never padded. A slice is
the part of a piece that lies in a row; the same ids stand in two rows only as the lookahead of the first. In which order the stream's rows
are trained on is said in `row_order`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from proxy_lm.vocabulary import RAW_CODE

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


class Layout(IntEnum):
    """How a document is told."""

    RAW = 0
    VIEW = 1
    PAIR = 2
    PARALLEL = 3


# Ids of a told document that are not payload: BOS, EOS and a sentinel pair for each piece.
OVERHEAD: Final[I64] = np.array([4, 4, 6, 8], dtype=np.int64)


@dataclass(frozen=True)
class Told:
    """Documents in stream order, each with its layout: arrays of shape [num_told]."""

    position: I64  # index in the global order
    document: I64  # index in the corpus
    size_bytes: I64
    layout: U8
    view: U8  # code of the view, meaningful where the layout has one
    view_length: I64  # symbols of that view
    raw_first: Bools
    missing: U8  # code of the drawn view that cannot express the document, which is therefore raw; else 0


def stream_lengths(layout: U8, size_bytes: I64, view_length: I64) -> I64:
    """Ids in the stream of documents told in these layouts, int64 [num_told]."""
    lengths: I64 = OVERHEAD[layout]
    lengths += np.where(layout == Layout.VIEW, 0, size_bytes)
    lengths += np.where(layout == Layout.RAW, 0, view_length)
    return lengths


@dataclass(frozen=True)
class Pieces:
    """Pieces in stream order: arrays of shape [num_pieces]."""

    start: I64  # place of the piece's first id in the stream
    length: I64  # ids, sentinels included
    payload: I64  # symbols (bytes for raw)
    position: I64
    document: I64
    size_bytes: I64  # of the document
    layout: U8
    code: U8  # RAW_CODE or the view's code
    bos: Bools
    eos: Bools
    missing: U8  # as in `Told`

    @property
    def end(self) -> I64:
        """Place in the stream just after each piece."""
        return self.start + self.length

    @classmethod
    def of(cls, told: Told, stream_start: int) -> Pieces:
        """The pieces of consecutive documents, the first of which starts at `stream_start`."""
        twice = told.layout >= Layout.PAIR
        if twice.any():
            index = np.repeat(np.arange(told.layout.size), 1 + twice)
            first = np.diff(index, prepend=-1) != 0
            last = np.append(first[1:], True)
            told = Told(**{field.name: getattr(told, field.name)[index] for field in fields(Told)})
            parallel = told.layout == Layout.PARALLEL
            # Told twice: raw stands where raw_first and "is the first" agree. Told once: as the layout says.
            raw = np.where(told.layout >= Layout.PAIR, told.raw_first == first, told.layout == Layout.RAW)
            bos, eos = first | parallel, last | parallel
        else:
            raw = told.layout == Layout.RAW
            bos = eos = np.ones(told.layout.size, dtype=np.bool_)
        payload = np.where(raw, told.size_bytes, told.view_length)
        length = payload + 2
        length += bos
        length += eos
        start = np.cumsum(length)
        start -= length
        start += stream_start
        code = np.where(raw, np.uint8(RAW_CODE), told.view)
        return cls(start, length, payload, told.position, told.document, told.size_bytes, told.layout, code, bos, eos, told.missing)

    @classmethod
    def join(cls, parts: list[Pieces]) -> Pieces:
        """Consecutive runs of pieces as one."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class Slices:
    """What fills rows, in (row, column) order: arrays of shape [num_slices]. The slices of a row cover it without gap or overlap."""

    row: I64  # global row of the run
    column: I64  # first column in the row
    offset: I64  # ids of the piece that come before the slice
    length: I64  # ids
    payload: I64  # symbols of the whole piece
    order: I64  # position of the document in the global order
    document: I64
    size_bytes: I64  # of the document
    layout: U8
    code: U8
    bos: Bools  # the piece begins with BOS
    eos: Bools  # the piece ends with EOS
    segment: I64  # number of the segment in the row, from 0
    position: I64  # RoPE position of the slice's first id: ids of its segment in this row that come before it

    def digest(self) -> str:
        """SHA-256 of (row, document, code, layout, offset, length) of every slice: what the rows hold, whoever reads them."""
        table = np.stack([self.row, self.document, self.code, self.layout, self.offset, self.length]).astype("<i8")
        return hashlib.sha256(table.tobytes()).hexdigest()

    def payload_range(self, limit: int | None = None) -> tuple[I64, I64]:
        """First and end payload symbol of each slice, both int64 [num_slices]; only columns below `limit` where one is given."""
        lengths = self.length if limit is None else np.clip(limit - self.column, 0, self.length)
        before = self.offset - self.bos - 1
        return np.clip(before, 0, self.payload), np.clip(before + lengths, 0, self.payload)

    def tally(self, row_length: int, num_views: int) -> tuple[I64, I64, I64]:
        """(documents, symbols, source bytes) told by each code in the rows' own columns, each int64 [num_views + 1].

        A piece counts as a document where its start sentinel stands. Symbols are payload symbols. Bytes: see `told_bytes`."""
        first, end = self.payload_range(row_length)
        start_column = self.column + self.bos - self.offset
        begins = (self.offset <= self.bos) & (self.offset + self.length > self.bos) & (start_column < row_length)
        told = told_bytes(first, end, self.payload, self.size_bytes, begins)
        return _sum_by(self.code, begins, num_views), _sum_by(self.code, end - first, num_views), _sum_by(self.code, told, num_views)

    def __len__(self) -> int:
        return int(self.row.size)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The slices of several runs of rows, in this order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def by_row(self) -> Slices:
        """The same slices in (row, column) order."""
        index = np.argsort(self.row, kind="stable")
        return Slices(*(getattr(self, field.name)[index] for field in fields(self)))


def told_bytes(first: I64, end: I64, payload: I64, size_bytes: I64, begins: Bools) -> I64:
    """Source bytes that symbols a..b tell, out of m symbols for s bytes: floor(b * s / m) - floor(a * s / m), which adds up to s.

    `begins` says whether the start sentinel is in the part; it stands for the bytes of a piece without symbols."""
    symbols = np.maximum(payload, 1)
    told: I64 = end * size_bytes // symbols - first * size_bytes // symbols
    told += np.where(begins & (payload == 0), size_bytes, 0)
    return told


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
    offset = begin - start
    # A row opens a segment, and so does each BOS; a row that opens with a BOS opens one segment, not two.
    bos = pieces.bos[index]
    opens = bos.copy()
    opens[before] = True
    segment = np.cumsum(opens)
    segment -= segment[before][in_row]
    opening = np.flatnonzero(opens)[np.cumsum(opens) - 1]
    return Slices(
        row=rows[in_row],
        column=begin - row_starts[in_row],
        offset=offset,
        length=length,
        payload=pieces.payload[index],
        order=pieces.position[index],
        document=pieces.document[index],
        size_bytes=pieces.size_bytes[index],
        layout=pieces.layout[index],
        code=pieces.code[index],
        bos=bos,
        eos=pieces.eos[index],
        segment=segment,
        position=begin - begin[opening],
    )
