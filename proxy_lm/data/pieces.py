"""Pieces and slices: how a told document becomes ids, and which stretch of which piece fills a row. Lengths only, no payload.

A piece is a run of ids: opening specials, payload symbols `first .. first + payload - 1` of one document under one view, closing specials.
A document's pieces in the stream, by layout:

    raw       BOS <raw> raw </raw> EOS                            one segment
    view      BOS <view> view </view> EOS                         one segment
    pair      BOS <a> first </a> <b> second </b> EOS              one segment: the second piece sees the first
    parallel  BOS <a> first </a> EOS BOS <b> second </b> EOS      two segments: neither sees the other
    splice    BOS <a> stretch SPLICE <b> stretch ... </b> EOS     one segment: told once, by raw and a view in turn

`Opening` and `Closing` name the specials that begin and end a piece. The stream is all pieces in the order of positions; row r of the
stream is ids r * L up to r * L + L + H of it (L row_length, H lookahead): cut, never padded. A slice is the part of a piece that lies in a
row; the same ids stand in two rows only as the lookahead of the first. In which order the stream's rows are trained on is said in
`row_order`.
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
    SPLICE = 4


class Opening(IntEnum):
    """The specials before a piece's payload. START is the start sentinel of the piece's own view."""

    BOS_START = 0
    START = 1
    SPLICE_START = 2
    BOS_START_PREFIX = 3
    BOS_START_PREFIX_SUFFIX = 4
    SUFFIX = 5
    MIDDLE = 6


class Closing(IntEnum):
    """The specials after a piece's payload. END is the end sentinel of the piece's own view."""

    END_EOS = 0
    END = 1
    NOTHING = 2


# Names of the specials in order; `rows` knows their ids.
OPENINGS: Final[tuple[tuple[str, ...], ...]] = (
    ("bos", "start"),
    ("start",),
    ("splice", "start"),
    ("bos", "start", "prefix"),
    ("bos", "start", "prefix", "suffix"),
    ("suffix",),
    ("middle",),
)
CLOSINGS: Final[tuple[tuple[str, ...], ...]] = (("end", "eos"), ("end",), ())
OPENING_LENGTHS: Final[I64] = np.array([len(names) for names in OPENINGS], dtype=np.int64)
CLOSING_LENGTHS: Final[I64] = np.array([len(names) for names in CLOSINGS], dtype=np.int64)
# A segment begins where a BOS does.
OPENS_SEGMENT: Final[Bools] = np.array([names[0] == "bos" for names in OPENINGS])
# Ids of the opening up to its start sentinel, itself included: a telling counts as a document where this one stands.
_UP_TO_START: Final[I64] = np.array([names.index("start") + 1 if "start" in names else 1 for names in OPENINGS], dtype=np.int64)

# Ids of a told document that are not payload: BOS, EOS and the sentinels. Each cut of a splice adds two (SPLICE and a start sentinel).
OVERHEAD: Final[I64] = np.array([4, 4, 6, 8, 4], dtype=np.int64)
OVERHEAD_PER_CUT: Final = 2


@dataclass(frozen=True)
class CutPoints:
    """Where documents are cut: `borders[k] .. borders[k + 1]` of the flat arrays are document k's, both strictly increasing in it."""

    borders: I64  # [num_documents + 1]
    byte: I64  # [num_cuts] bytes of the document before the cut
    symbol: I64  # [num_cuts] symbols of its view before the cut


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
    cuts: CutPoints | None = None  # of the spliced documents; None where there are none


def stream_lengths(layout: U8, size_bytes: I64, view_length: I64) -> I64:
    """Ids in the stream of documents told in these layouts, int64 [num_told]; for layouts without cuts."""
    lengths: I64 = OVERHEAD[layout]
    lengths += np.where(layout == Layout.VIEW, 0, size_bytes)
    lengths += np.where(layout == Layout.RAW, 0, view_length)
    return lengths


@dataclass(frozen=True)
class Pieces:
    """Pieces in stream order: arrays of shape [num_pieces]."""

    start: I64  # place of the piece's first id in the stream
    length: I64  # ids, specials included
    payload: I64  # symbols (bytes for raw)
    first: I64  # the first of them in the whole telling of the document
    position: I64
    document: I64
    first_byte: I64  # first byte of the document that the piece tells
    num_bytes: I64  # bytes of the document that it tells
    layout: U8
    code: U8  # RAW_CODE or the view's code
    opening: U8  # an `Opening`
    closing: U8  # a `Closing`
    counts: Bools  # the piece is a telling that counts as a document; a later stretch of one is not
    missing: U8  # as in `Told`

    @property
    def end(self) -> I64:
        """Place in the stream just after each piece."""
        return self.start + self.length

    @property
    def opens(self) -> Bools:
        """Whether a segment opens with the piece."""
        opens: Bools = OPENS_SEGMENT[self.opening]
        return opens

    @classmethod
    def of(cls, told: Told, stream_start: int) -> Pieces:
        """The pieces of consecutive documents, the first of which starts at `stream_start`."""
        num_told = told.layout.size
        if told.layout.max(initial=0) <= Layout.VIEW:
            raw = told.layout == Layout.RAW
            payload = np.where(raw, told.size_bytes, told.view_length)
            zeros, codes, ones = (np.zeros(num_told, np.int64), np.zeros(num_told, np.uint8), np.ones(num_told, np.bool_))
            return cls._place(told, slice(None), raw, stream_start, (payload, zeros, zeros, told.size_bytes), (codes, codes), ones)
        num_cuts = np.zeros(num_told, dtype=np.int64) if told.cuts is None else np.diff(told.cuts.borders)
        num_pieces = np.array([1, 1, 2, 2, 1])[told.layout] + num_cuts
        index = np.repeat(np.arange(num_told), num_pieces)
        number = np.arange(index.size) - (np.cumsum(num_pieces) - num_pieces)[index]
        last = number == num_pieces[index] - 1
        layout = told.layout[index]
        # Told twice or in turn: raw stands in the even places or in the odd ones. Told once: as the layout says.
        raw = np.where(layout >= Layout.PAIR, told.raw_first[index] == (number & 1 == 0), layout == Layout.RAW)
        stretch = layout == Layout.SPLICE
        opening = np.where(stretch & (number > 0), np.uint8(Opening.SPLICE_START), np.uint8(Opening.BOS_START))
        pair = layout == Layout.PAIR
        opening[pair & (number > 0)] = Opening.START
        closing = np.where(stretch & ~last, np.uint8(Closing.NOTHING), np.uint8(Closing.END_EOS))
        closing[pair & ~last] = Closing.END
        return cls._place(
            told, index, raw, stream_start, _bounds(told, index, number, last, raw), (opening, closing), ~stretch | (number == 0)
        )

    @classmethod
    def _place(
        cls,
        told: Told,
        index: I64 | slice,
        raw: Bools,
        stream_start: int,
        bounds: tuple[I64, I64, I64, I64],
        signs: tuple[U8, U8],
        counts: Bools,
    ) -> Pieces:
        """Pieces one after the other. `index` is the document of each; `bounds` are payload, first, first_byte and num_bytes."""
        payload, first, first_byte, num_bytes = bounds
        opening, closing = signs
        length = OPENING_LENGTHS[opening] + payload
        length += CLOSING_LENGTHS[closing]
        start = np.cumsum(length)
        start -= length
        start += stream_start
        code = np.where(raw, np.uint8(RAW_CODE), told.view[index])
        document, layout, missing = told.document[index], told.layout[index], told.missing[index]
        return cls(
            start,
            length,
            payload,
            first,
            told.position[index],
            document,
            first_byte,
            num_bytes,
            layout,
            code,
            opening,
            closing,
            counts,
            missing,
        )

    def between(self, begin: int, end: int) -> Pieces:
        """The pieces that have ids in places begin .. end - 1 of the stream; views, not copies."""
        some = slice(int(np.searchsorted(self.end, begin, side="right")), int(np.searchsorted(self.start, end, side="left")))
        return Pieces(*(getattr(self, field.name)[some] for field in fields(self)))

    @classmethod
    def join(cls, parts: list[Pieces]) -> Pieces:
        """Consecutive runs of pieces as one."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def _bounds(told: Told, index: I64, number: I64, last: Bools, raw: Bools) -> tuple[I64, I64, I64, I64]:
    """(payload, first, first byte, bytes) of each piece: between its cuts, all of its document without cuts."""
    end_byte, end_symbol = told.size_bytes[index], told.view_length[index]
    zeros = np.zeros_like(end_byte)
    if told.cuts is None:
        return np.where(raw, end_byte, end_symbol), zeros, zeros, end_byte
    first_byte, first_symbol = zeros, zeros.copy()
    stretch = told.layout[index] == Layout.SPLICE
    at = told.cuts.borders[index] + number
    later, earlier = stretch & (number > 0), stretch & ~last
    first_byte[later], first_symbol[later] = told.cuts.byte[at[later] - 1], told.cuts.symbol[at[later] - 1]
    end_byte[earlier], end_symbol[earlier] = told.cuts.byte[at[earlier]], told.cuts.symbol[at[earlier]]
    num_bytes = end_byte - first_byte
    return np.where(raw, num_bytes, end_symbol - first_symbol), np.where(raw, first_byte, first_symbol), first_byte, num_bytes


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
        start_at = _UP_TO_START[self.opening] - 1
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


def told_bytes(first: I64, end: I64, payload: I64, num_bytes: I64, begins: Bools) -> I64:
    """Source bytes that symbols a..b tell, out of m symbols for s bytes: floor(b * s / m) - floor(a * s / m), which adds up to s.

    `begins` says whether the start sentinel is in the part; it stands for the bytes of a piece without symbols."""
    symbols = np.maximum(payload, 1)
    told: I64 = end * num_bytes // symbols - first * num_bytes // symbols
    told += np.where(begins & (payload == 0), num_bytes, 0)
    return told


def inside(pieces: Pieces, num_symbols: int) -> tuple[I64, I64, I64, Bools]:
    """(ids, payload symbols, source bytes, whether its document begins) of each piece that lie before place `num_symbols`."""
    ids = np.clip(num_symbols - pieces.start, 0, pieces.length)
    symbols = np.clip(ids - OPENING_LENGTHS[pieces.opening], 0, pieces.payload)
    begins = pieces.counts & (ids >= _UP_TO_START[pieces.opening])
    return ids, symbols, told_bytes(np.zeros_like(symbols), symbols, pieces.payload, pieces.num_bytes, begins), begins


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
