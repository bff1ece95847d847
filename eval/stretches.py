"""Stretches: parts of held-out documents that fit a row of training, and the rows that tell them: alone, or after another telling.

    found = take_stretches(corpus, documents, compressor, pair_fits(row_length), limit=1000, per_document=4, max_bytes=1024)
    row = told_after("view", found[0], "raw", found[0], view_range)       # BOS <view> .. </view> <raw> .. </raw> EOS, as training's pairs

A document is cut from its beginning into consecutive stretches, each as long as fits and ending at a border of the view's symbols, and each
is encoded as a document of its own: that is what `symbols` are. A view whose symbols stand for no stretch of bytes (gzip) is cut where the
encoding of the part just fits.

Not promised: that a later stretch begins where training's documents begin. The same stretch is told with and without a context, so what
is compared shares that.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from compressors.base import Compressor
from compressors.errors import NotRepresentableError
from eval.windows import NUM_OPENING_IDS
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.cuts import symbol_borders
from proxy_lm.data.parts import comes_back
from proxy_lm.data.pieces import OVERHEAD, Layout
from proxy_lm.vocabulary import BOS, EOS, NUM_BYTES, RAW_END, RAW_START, ViewRange

I64 = npt.NDArray[np.int64]
Side = Literal["raw", "view"]
Fits = Callable[[int, int], bool]
"""(number of bytes, number of symbols) -> whether a row holds them; what holds more holds less."""


@dataclass(frozen=True)
class Stretch:
    """Bytes first_byte .. first_byte + len(data) - 1 of a document of the corpus."""

    document: int
    project: str
    first_byte: int
    data: bytes
    symbols: I64  # [num_symbols] of the compressor, from 0
    borders: I64 | None  # [num_symbols + 1] in bytes of `data`; None where symbols stand for no stretch of bytes

    @property
    def key(self) -> str:
        """Names the stretch in files of results."""
        return f"{self.document}:{self.first_byte}:{len(self.data)}"


@dataclass(frozen=True)
class Row:
    """Ids of one segment, of which `num_payload` from `first` on are asked for, and the end sentinel after them."""

    ids: I64
    first: int
    num_payload: int
    allowed: I64
    """Ids that may stand in the payload, ascending; with `end_id` all that generation may emit there."""
    end_id: int


def pair_fits(row_length: int) -> Fits:
    """Both tellings in one row, as training's pairs."""
    overhead = int(OVERHEAD[Layout.PAIR])
    return lambda num_bytes, num_symbols: num_bytes + num_symbols + overhead <= row_length


def alone_fits(row_length: int) -> Fits:
    """Each telling in a row of its own."""
    overhead = int(OVERHEAD[Layout.RAW])
    return lambda num_bytes, num_symbols: max(num_bytes, num_symbols) + overhead <= row_length


def take_stretches(
    corpus: Corpus,
    documents: range,
    compressor: Compressor,
    fits: Fits,
    *,
    limit: int | None,
    per_document: int,
    min_bytes: int = 16,
    max_bytes: int = 1024,
) -> tuple[list[Stretch], int]:
    """The first stretches of each document, in order, up to `limit`; and how many of the documents gone through gave none: too short, or
    not representable in the view."""
    projects = corpus.column("project")
    found: list[Stretch] = []
    num_without = 0
    for document in documents:
        if limit is not None and len(found) >= limit:
            break
        before = len(found)
        for first, data, symbols, borders in cut_document(corpus.document(document), compressor, fits, min_bytes, max_bytes):
            found.append(Stretch(document, str(projects[document]), first, data, symbols, borders))
            if len(found) - before == per_document or len(found) == limit:
                break
        num_without += len(found) == before
    return found, num_without


def cut_document(
    document: bytes, compressor: Compressor, fits: Fits, min_bytes: int, max_bytes: int
) -> Iterator[tuple[int, bytes, I64, I64 | None]]:
    """(first byte, bytes, symbols, borders) of consecutive stretches. What is shorter than `min_bytes` is passed over."""
    try:
        spans = compressor.spans(document)
    except NotRepresentableError:
        return
    # The places where a stretch may end, and the symbols of the document before each.
    symbol: I64 | None
    if spans is None:
        byte, symbol = np.arange(len(document) + 1), None
    else:
        inner_byte, inner_symbol = symbol_borders(spans, len(document))
        byte = np.concatenate([[0], inner_byte, [len(document)]])
        symbol = np.concatenate([[0], inner_symbol, [len(spans) - 1]])
    begin = 0
    while begin < len(byte) - 1:
        end, told = _longest(document, compressor, fits, byte, symbol, begin, max_bytes)
        if end == begin:
            if symbol is None:
                return
            begin += 1  # a symbol that no row holds is passed over
            continue
        size = int(byte[end] - byte[begin])
        if told is not None and size >= min_bytes:
            yield int(byte[begin]), document[byte[begin] : byte[end]], *told
        begin = end


def _longest(
    document: bytes, compressor: Compressor, fits: Fits, byte: I64, symbol: I64 | None, begin: int, max_bytes: int
) -> tuple[int, tuple[I64, I64 | None] | None]:
    """The farthest place at which a stretch from `begin` may end (`begin` where none fits), with its own symbols and borders; None in
    their place where the view cannot express it."""

    def told(end: int) -> tuple[I64, I64 | None] | None:
        return _encode(compressor, document[byte[begin] : byte[end]])

    def too_long(end: int) -> bool:
        num_bytes = int(byte[end] - byte[begin])
        if symbol is not None:
            return not fits(num_bytes, int(symbol[end] - symbol[begin]))
        if not fits(num_bytes, 0):
            return True
        alone = told(end)
        return alone is None or not fits(num_bytes, len(alone[0]))

    last = bisect.bisect_right(byte, byte[begin] + max_bytes, lo=begin) - 1
    end = bisect.bisect_left(range(last + 1), True, lo=begin + 1, key=too_long) - 1
    while end > begin:  # alone it may have a few symbols more than inside the document
        found = told(end)
        if found is None or fits(int(byte[end] - byte[begin]), len(found[0])):
            return end, found
        end -= 1
    return begin, None


def _encode(compressor: Compressor, data: bytes) -> tuple[I64, I64 | None] | None:
    """Symbols and borders of a stretch as a document of its own; None where the view cannot express it."""
    try:
        symbols = compressor.encode(data)
        if compressor.exact and not comes_back(compressor, data, symbols):
            return None
        borders = compressor.spans(data)
    except NotRepresentableError:
        return None
    return symbols.astype(np.int64), None if borders is None else borders.astype(np.int64)


def told_alone(side: Side, stretch: Stretch, view: ViewRange) -> Row:
    """The stretch as a document of its own: BOS <side> payload </side> EOS."""
    start, end, allowed, payload = _side(side, stretch, view)
    return Row(np.concatenate([[BOS, start], payload, [end, EOS]]), NUM_OPENING_IDS, len(payload), allowed, end)


def told_after(
    context_side: Side, context: Stretch, side: Side, stretch: Stretch, view: ViewRange, *, row_length: int | None = None
) -> Row:
    """A pair: the context told by one side, then the stretch by the other. `row_length` cuts the end of a context that would not fit."""
    first_start, first_end, _, before = _side(context_side, context, view)
    start, end, allowed, payload = _side(side, stretch, view)
    if row_length is not None:
        before = before[: max(0, row_length - int(OVERHEAD[Layout.PAIR]) - len(payload))]
    ids = np.concatenate([[BOS, first_start], before, [first_end, start], payload, [end, EOS]])
    return Row(ids, NUM_OPENING_IDS + len(before) + 2, len(payload), allowed, end)


def _side(side: Side, stretch: Stretch, view: ViewRange) -> tuple[int, int, I64, I64]:
    """(start sentinel, end sentinel, ids of the payload's alphabet, the payload's ids)."""
    if side == "raw":
        return RAW_START, RAW_END, np.arange(NUM_BYTES), np.frombuffer(stretch.data, dtype=np.uint8).astype(np.int64)
    return view.start_id, view.end_id, view.ids, view.to_ids(stretch.symbols)


def strangers(stretches: Sequence[Stretch]) -> list[int] | None:
    """For each stretch another one, each once: of another project where no project has more than half of them, else of another document
    where that can be. None with fewer than two stretches."""
    count = len(stretches)
    if count < 2:
        return None
    order = sorted(range(count), key=lambda i: (stretches[i].project, stretches[i].document, i))
    largest = max(sum(1 for other in stretches if other.project == name) for name in {s.project for s in stretches})
    shift = largest if 2 * largest <= count else count // 2
    partner = [0] * count
    for place, index in enumerate(order):
        partner[index] = order[(place + shift) % count]
    return partner
