"""What a plan will tell: counts and shares by view and layout, for the whole run and by phase. From lengths alone, before any step.

Shares of documents, of symbols and of source bytes are three different things (a view's symbols are fewer than the bytes they tell), so
all three are given. A document counts in the phase in which it begins, its ids and bytes in the phases in which they stand; the last
document of the run counts with the part that is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from proxy_lm.data.pieces import I64, UNCUT, Bools, Layout, Opening, Pieces, inside
from proxy_lm.vocabulary import RAW_CODE

if TYPE_CHECKING:
    from proxy_lm.data.plan import Plan

_ROWS_AT_ONCE: Final = 4096
_MOST_SPANS: Final = 32  # of so many rows, evenly spread, when pairs are looked at
_LAYOUT_MEASURES: Final = ("num_documents", "num_ids", "source_bytes")
LAYOUT_SHARES: Final = ("document_share", "symbol_share", "source_share")
# What `summarise` says of how rows are filled.
PACKING_MEASURES: Final = ("packing", "num_split_documents", "split_share", "num_padding", "padding_share")
_MEASURES: Final = ("num_documents", "num_symbols", "source_bytes", "num_raw_only")


def summarise(plan: Plan, num_phases: int = 10) -> dict[str, Any]:
    """The whole plan as plain JSON.

    `views` has for `raw` and each view: num_documents (tellings), num_symbols (payload), source_bytes, num_raw_only (documents drawn for
    the view that it cannot express, told raw instead), and the shares of documents, of all symbols and of source bytes. `layouts` counts
    documents by layout; `by_layout` has documents, ids (specials included) and source bytes of each, with their shares. num_uncut
    documents were drawn as splices and have no border inside, or were to be cut at lines and have one line. `phases` repeats all that for
    equal parts of the run. num_padding counts ids; 0 where rows are cut out of one stream. num_split_documents have a part in one row that
    cannot see its beginning in another.
    pair_bytes_seen_share is the share of what pairs tell a second time whose first telling stands in the same row, by source bytes (those
    of a view's symbols in proportion), before any row repeats; None without pairs. Of long runs a sample of rows is looked at."""
    codes = np.zeros((len(_MEASURES), num_phases, plan.num_views + 1), dtype=np.int64)
    layouts = np.zeros((len(_LAYOUT_MEASURES), num_phases, len(Layout)), dtype=np.int64)
    uncut = np.zeros(num_phases, dtype=np.int64)
    specials = np.zeros(num_phases, dtype=np.int64)
    told = np.zeros(plan.num_documents, dtype=np.int64)  # bytes of each document told at least once
    seen = np.zeros(plan.num_documents, dtype=np.bool_)
    num_begun = num_split = num_ids = 0
    for pieces, place, (ids, symbols, bytes_told, begins), num_split_here in _counted(plan):
        phase = np.minimum(place * num_phases // plan.num_symbols, num_phases - 1)
        index, where, parts = _over_phases(place, ids, (ids, symbols, bytes_told), plan.num_symbols, num_phases)
        np.add.at(codes[0], (phase, pieces.code), begins)
        np.add.at(codes[1], (where, pieces.code[index]), parts[1])
        np.add.at(codes[2], (where, pieces.code[index]), parts[2])
        np.add.at(specials, where, parts[0] - parts[1])
        opens = np.diff(pieces.position, prepend=-1) != 0
        _count_told(told, pieces, opens, bytes_told, plan.documents.start)
        first = opens & (ids > 0)
        np.add.at(layouts[0], (phase, pieces.layout), first)
        np.add.at(layouts[1], (where, pieces.layout[index]), parts[0])
        np.add.at(layouts[2], (where, pieces.layout[index]), parts[2])
        is_uncut = pieces.missing == UNCUT
        np.add.at(uncut, phase[first & is_uncut], 1)
        lacks_view = first & ~is_uncut
        np.add.at(codes[3], (phase[lacks_view], pieces.missing[lacks_view]), 1)
        seen[pieces.document[first] - plan.documents.start] = True
        num_begun += int(first.sum())
        num_split += num_split_here
        num_ids += int(ids.sum())
    if not plan.mix.repeat.is_zero:
        told = _count_repeating(plan, codes, layouts, specials)
        seen = told > 0
    codes[3, :, 0] = 0  # code 0 of `missing` means that nothing is missing
    names = ["raw", *plan.view_names]
    return {
        "num_rows": plan.num_rows,
        "row_length": plan.row_length,
        "num_symbols": plan.num_symbols,
        "num_documents": num_begun,
        "packing": plan.packing,
        "num_split_documents": num_split,
        "split_share": num_split / max(num_begun, 1),
        "num_padding": plan.num_symbols - num_ids,
        "padding_share": 1 - num_ids / plan.num_symbols,
        "epochs": num_begun / plan.num_documents,
        "pair_bytes_seen_share": _pair_bytes_seen(plan),
        "unique_documents": int(seen.sum()),
        "unique_source_bytes": int(told.sum()),
        **_shares(names, codes.sum(axis=1), layouts.sum(axis=1), int(specials.sum()), int(uncut.sum())),
        "phases": [
            {
                "progress": [k / num_phases, (k + 1) / num_phases],
                **_shares(names, codes[:, k], layouts[:, k], int(specials[k]), int(uncut[k])),
            }
            for k in range(num_phases)
        ],
    }


def _count_repeating(plan: Plan, codes: I64, layouts: I64, specials: I64) -> I64:
    """Where rows repeat: count anew, row by row, what is told; what is repeated counts twice. Returns the bytes of each document told at
    least once. Documents by layout, and those that a view cannot express, stay those of the stream."""
    codes[:3], layouts[1:], specials[:] = 0, 0, 0
    reached = np.zeros((plan.num_positions, 2), dtype=np.int64)  # bytes of each telling, raw and by a view
    twice, document = np.zeros(plan.num_positions, np.bool_), np.zeros(plan.num_positions, np.int64)
    for first in range(0, plan.num_rows, _ROWS_AT_ONCE):
        slices = plan.row_slices(first, min(_ROWS_AT_ONCE, plan.num_rows - first))
        begins, symbols, bytes_told = slices.counted(plan.row_length)
        ids = np.clip(plan.row_length - slices.column, 0, slices.length)
        phase = slices.row * codes.shape[1] // plan.num_rows
        for measure, values in enumerate((begins, symbols, bytes_told)):
            np.add.at(codes[measure], (phase, slices.code), values)
        np.add.at(specials, phase, ids - symbols)
        for measure, values in ((1, ids), (2, bytes_told)):
            np.add.at(layouts[measure], (phase, slices.layout), values)
        half = plan.row_length // 2
        is_new = ~plan.is_repeating(slices.row) | (slices.column < half) | (slices.column >= 2 * half)
        np.add.at(reached, (slices.order[is_new], (slices.code[is_new] != RAW_CODE).astype(np.int64)), bytes_told[is_new])
        twice[slices.order] = (slices.layout == Layout.PAIR) | (slices.layout == Layout.PARALLEL)
        document[slices.order] = slices.document - plan.documents.start
    told = np.zeros(plan.num_documents, dtype=np.int64)
    np.maximum.at(told, document, np.where(twice, reached.max(axis=1), reached.sum(axis=1)))
    return told


def _pair_bytes_seen(plan: Plan) -> float | None:
    if plan.mix.share_is_zero("pair"):
        return None
    told = seen = 0
    spans = range(0, plan.num_rows, _ROWS_AT_ONCE)
    for first in spans[:: -(-len(spans) // _MOST_SPANS)]:
        slices = plan.slices_before_repeats(first, min(_ROWS_AT_ONCE, plan.num_rows - first))
        slices = slices.take(np.flatnonzero(slices.layout == Layout.PAIR))
        bounds = [symbols * slices.num_bytes // np.maximum(slices.payload, 1) for symbols in slices.payload_range(plan.row_length)]
        is_second = slices.opening == Opening.START
        told += int((bounds[1] - bounds[0])[is_second].sum())
        # The two tellings of one document in one row are neighbours in the row, each in one slice.
        after = np.flatnonzero(is_second[1:] & ~is_second[:-1] & (np.diff(slices.row) == 0) & (np.diff(slices.order) == 0)) + 1
        shared = np.minimum(bounds[1][after], bounds[1][after - 1]) - np.maximum(bounds[0][after], bounds[0][after - 1])
        seen += int(np.maximum(shared, 0).sum())
    return seen / told if told else None


def _counted(plan: Plan) -> Iterator[tuple[Pieces, I64, tuple[I64, I64, I64, Bools], int]]:
    """Runs of pieces: where each begins in the stream, what of it lies in the rows (`inside`), how many documents of a run are split."""
    if plan.packing == "cut":
        for pieces in plan.pieces():
            yield pieces, pieces.start, inside(pieces, plan.num_symbols), _num_split(pieces, plan)
        return
    from proxy_lm.data.fit import inside_rows, num_split

    for pieces, slices, index in plan.laid():
        first = np.unique(index, return_index=True)[1]
        place = slices.row[first] * plan.row_length + slices.column[first]
        yield pieces, place, inside_rows(slices, index, plan.row_length, plan.num_rows), num_split(slices, plan.num_rows)


def _over_phases(place: I64, ids: I64, totals: tuple[I64, ...], num_symbols: int, num_phases: int) -> tuple[I64, I64, list[I64]]:
    """Pieces cut at the borders of the phases: index of the piece, phase, and the share of each total that stands there, in proportion to
    its ids and adding up to the total."""
    last = np.minimum((place + np.maximum(ids, 1) - 1) * num_phases // num_symbols, num_phases - 1)
    first = np.minimum(place * num_phases // num_symbols, num_phases - 1)
    num_parts = last - first + 1
    index = np.repeat(np.arange(place.size), num_parts)
    if index.size == place.size:
        return index, first, list(totals)
    phase = first[index] + np.arange(index.size) - np.repeat(np.cumsum(num_parts) - num_parts, num_parts)
    borders = -(-np.arange(num_phases + 1) * num_symbols // num_phases)
    borders[-1] = np.iinfo(np.int64).max
    before, until = (np.clip(borders[phase + k] - place[index], 0, ids[index]) for k in (0, 1))
    before[phase == first[index]] = 0
    whole = np.maximum(ids, 1)[index]
    return index, phase, [until * total[index] // whole - before * total[index] // whole for total in totals]


def _count_told(told: I64, pieces: Pieces, opens: Bools, bytes_told: I64, first_document: int) -> None:
    """Raise `told` of each document to what one telling at one position reaches: both tellings of a pair tell the same bytes, and the
    stretches of a splice different ones."""
    groups = np.flatnonzero(opens)
    twice = (pieces.layout[groups] == Layout.PAIR) | (pieces.layout[groups] == Layout.PARALLEL)
    reached = np.where(twice, np.maximum.reduceat(bytes_told, groups), np.add.reduceat(bytes_told, groups))
    np.maximum.at(told, pieces.document[groups] - first_document, reached)


def _num_split(pieces: Pieces, plan: Plan) -> int:
    """Documents of a stream without gaps that lie in more than one row."""
    first = np.flatnonzero(np.diff(pieces.position, prepend=-1) != 0)
    last = np.append(first[1:], pieces.start.size) - 1
    start, end = pieces.start[first], np.minimum(pieces.end[last], plan.num_symbols)
    return int(np.count_nonzero((start < plan.num_symbols) & (start // plan.row_length != (end - 1) // plan.row_length)))


def _shares(names: list[str], codes: I64, layouts: I64, num_specials: int, num_uncut: int) -> dict[str, Any]:
    num_documents, num_symbols, source_bytes, num_raw_only = codes
    of_symbols = max(int(num_symbols.sum()) + num_specials, 1)
    return {
        "views": {
            name: {
                **{measure: int(codes[m, k]) for m, measure in enumerate(_MEASURES)},
                "document_share": int(num_documents[k]) / max(int(num_documents.sum()), 1),
                "symbol_share": int(num_symbols[k]) / of_symbols,
                "source_share": int(source_bytes[k]) / max(int(source_bytes.sum()), 1),
            }
            for k, name in enumerate(names)
        },
        "layouts": {layout.name.lower(): int(layouts[0, layout]) for layout in Layout},
        "by_layout": {
            layout.name.lower(): {
                **{measure: int(layouts[m, layout]) for m, measure in enumerate(_LAYOUT_MEASURES)},
                **{share: int(layouts[m, layout]) / max(int(layouts[m].sum()), 1) for m, share in enumerate(LAYOUT_SHARES)},
            }
            for layout in Layout
        },
        "num_uncut": num_uncut,
        "num_special_symbols": num_specials,
        "num_raw_only": int(num_raw_only.sum()),
        "source_bytes": int(source_bytes.sum()),
    }
