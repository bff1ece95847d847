"""Pieces: how a told document becomes ids. Lengths only, no payload.

A piece is a run of ids: opening specials, payload symbols `first .. first + payload - 1` of one document under one view, closing specials.
A document's pieces in the stream, by layout:

    raw       BOS <raw> raw </raw> EOS                            one segment
    view      BOS <view> view </view> EOS                         one segment
    pair      BOS <a> first </a> <b> second </b> EOS              one segment: the second piece sees the first
    parallel  BOS <a> first </a> EOS BOS <b> second </b> EOS      two segments: neither sees the other
    splice    BOS <a> stretch SPLICE <b> stretch ... </b> EOS     one segment: told once, by raw and a view in turn
    fim_psm   BOS <raw> PREFIX p SUFFIX s MIDDLE m </raw> EOS     one segment: told once, the middle last (see `fim`)
    fim_spm   BOS <raw> PREFIX SUFFIX s MIDDLE p m </raw> EOS     the same, suffix first; prefix and middle are one piece

`Opening` and `Closing` name the specials that begin and end a piece. The stream is all pieces in the order of positions; `slices` says
which of its ids fill which row.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final

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
    FIM_PSM = 5
    FIM_SPM = 6


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
UP_TO_START: Final[I64] = np.array([names.index("start") + 1 if "start" in names else 1 for names in OPENINGS], dtype=np.int64)

# Ids of a told document that are not payload: BOS, EOS and the sentinels. Each cut of a splice adds two (SPLICE and a start sentinel).
OVERHEAD: Final[I64] = np.array([4, 4, 6, 8, 4, 7, 7], dtype=np.int64)
OVERHEAD_PER_CUT: Final = 2
# Pieces of a document without its cuts, each of which adds one; and the cuts of a document whose middle comes last.
_NUM_PIECES: Final[I64] = np.array([1, 1, 2, 2, 1, 1, 1], dtype=np.int64)
NUM_FIM_CUTS: Final[I64] = np.array([0, 0, 0, 0, 0, 2, 1], dtype=np.int64)
_TELLS_VIEW: Final[Bools] = np.array([False, True, True, True, True, False, False])
_FIM_OPENINGS: Final[U8] = np.array(
    [
        [Opening.BOS_START_PREFIX, Opening.SUFFIX, Opening.MIDDLE],
        [Opening.BOS_START_PREFIX_SUFFIX, Opening.MIDDLE, Opening.MIDDLE],
    ],
    dtype=np.uint8,
)
# Marks a document that was to be cut at borders of a view or at lines and has none inside, in place of a view's code.
UNCUT: Final = 255


@dataclass(frozen=True)
class CutPoints:
    """Where documents are cut: `borders[k] .. borders[k + 1]` of the flat arrays are document k's, both strictly increasing in a splice.

    Prefix, suffix and middle are cut where the middle begins and ends, which may be one place; with the suffix first, where it ends."""

    borders: I64  # [num_documents + 1]
    byte: I64  # [num_cuts] bytes of the document before the cut
    symbol: I64  # [num_cuts] symbols of its view before the cut; meaningful in a splice


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
    missing: U8  # code of the drawn view that cannot express the document, which is therefore raw; UNCUT; else 0
    cuts: CutPoints | None = None  # of the spliced documents; None where there are none


def stream_lengths(layout: U8, size_bytes: I64, view_length: I64) -> I64:
    """Ids in the stream of documents told in these layouts, int64 [num_told]; for layouts without cuts."""
    lengths: I64 = OVERHEAD[layout]
    lengths += np.where(layout == Layout.VIEW, 0, size_bytes)
    lengths += np.where(_TELLS_VIEW[layout], view_length, 0)
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
        num_pieces = _NUM_PIECES[told.layout] + num_cuts
        index = np.repeat(np.arange(num_told), num_pieces)
        number = np.arange(index.size) - (np.cumsum(num_pieces) - num_pieces)[index]
        last = number == num_pieces[index] - 1
        layout = told.layout[index]
        # Told twice or in turn: raw stands in the even places or in the odd ones. Told once: as the layout says.
        raw = np.where(layout >= Layout.PAIR, told.raw_first[index] == (number & 1 == 0), layout == Layout.RAW)
        stretch = layout >= Layout.SPLICE
        opening = np.where(stretch & (number > 0), np.uint8(Opening.SPLICE_START), np.uint8(Opening.BOS_START))
        fim = layout >= Layout.FIM_PSM
        if fim.any():
            raw |= fim
            opening[fim] = _FIM_OPENINGS[layout[fim] - Layout.FIM_PSM, number[fim]]
        pair = layout == Layout.PAIR
        opening[pair & (number > 0)] = Opening.START
        closing = np.where(stretch & ~last, np.uint8(Closing.NOTHING), np.uint8(Closing.END_EOS))
        closing[pair & ~last] = Closing.END
        return cls._place(
            told, index, raw, stream_start, _bounds(told, index, number, last, raw, opening), (opening, closing), ~stretch | (number == 0)
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


def _bounds(told: Told, index: I64, number: I64, last: Bools, raw: Bools, opening: U8) -> tuple[I64, I64, I64, I64]:
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
    fim = np.flatnonzero(told.layout[index] >= Layout.FIM_PSM)
    if fim.size:
        borders, signs = told.cuts.borders, opening[fim]
        middle, suffix = told.cuts.byte[borders[index[fim]]], told.cuts.byte[borders[index[fim] + 1] - 1]
        begins = np.where((told.layout[index[fim]] == Layout.FIM_PSM) & (signs == Opening.MIDDLE), middle, 0)
        first_byte[fim] = np.where((signs == Opening.SUFFIX) | (signs == Opening.BOS_START_PREFIX_SUFFIX), suffix, begins)
        end_byte[fim] = np.where(signs == Opening.BOS_START_PREFIX, middle, np.where(signs == Opening.MIDDLE, suffix, end_byte[fim]))
    num_bytes = end_byte - first_byte
    return np.where(raw, num_bytes, end_symbol - first_symbol), np.where(raw, first_byte, first_symbol), first_byte, num_bytes


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
    begins = pieces.counts & (ids >= UP_TO_START[pieces.opening])
    return ids, symbols, told_bytes(np.zeros_like(symbols), symbols, pieces.payload, pieces.num_bytes, begins), begins
