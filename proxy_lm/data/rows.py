"""Rows: the plan's slices filled with payload. Knows where payloads lie, and nothing of steps, ranks or threads.

    reader = RowReader(corpus, views, vocabulary, plan)
    batch = reader.read(range(0, 8))        # batch.ids int64 [8, row_length + lookahead]

Everything but the payloads is written for all rows at once; payloads are copied slice by slice out of the memory maps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from proxy_lm.data.pieces import CLOSING_LENGTHS, CLOSINGS, I64, OPENING_LENGTHS, OPENINGS
from proxy_lm.data.plan import Plan
from proxy_lm.data.slices import Slices
from proxy_lm.data.soft_targets import Teacher
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import BOS, EOS, PAD, RAW_CODE, RAW_END, RAW_START, SPECIAL_CODE, Vocabulary, special_id


class Payloads(Protocol):
    """Documents that can be read from the middle: a `Corpus` (bytes) or a `View` (symbols)."""

    def slice(self, index: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Payload start..stop of a document, any unsigned integer dtype, [stop - start]."""


@dataclass(frozen=True)
class Batch:
    """Rows as the model takes them. B rows, L row_length, H lookahead."""

    ids: npt.NDArray[np.int64]  # [B, L + H]
    segments: npt.NDArray[np.int32]  # [B, L + H], from 0 up in each row; -1 is padding, at the ends of packed rows only
    positions: npt.NDArray[np.int32]  # [B, L + H], from 0 at each segment's start in the row, and where padding begins
    views: npt.NDArray[np.uint8]  # [B, L + H], 0 raw, k + 1 view k, 255 special
    source_bytes: I64  # [num_views + 1], bytes of source told by each view in columns 0..L-1
    num_documents: I64  # [num_views + 1], pieces that begin in columns 0..L-1
    num_symbols: I64  # [num_views + 1], payload symbols in columns 0..L-1
    digest: str  # of what the rows hold: (row, document, view, layout, offset, length)
    soft: npt.NDArray[np.uint16] | None = None  # [B, L + H, 256], `Teacher.soft_targets`; None where no teacher is asked
    soft_weight: float = 0.0  # of `soft` in the target
    teacher_seconds: float = 0.0  # of a processor, spent on `soft`


class RowReader:
    """Reads any rows of a plan. Stateless but for the memory maps, so threads may share it."""

    def __init__(
        self, corpus: Payloads, views: Sequence[Payloads], vocabulary: Vocabulary, plan: Plan, teacher: Teacher | None = None
    ) -> None:
        """Raises `RequestError` when views, vocabulary and plan do not belong together."""
        if len(views) != len(vocabulary.views) or vocabulary.views != plan.vocabulary.views:
            raise RequestError(
                f"{len(views)} views for a vocabulary of {[v.name for v in vocabulary.views]} and a plan of {list(plan.view_names)}; "
                "give the same views to all three"
            )
        for view, known in zip(views, vocabulary.views, strict=True):
            alphabet_size = getattr(view, "alphabet_size", known.alphabet_size)
            if alphabet_size > known.alphabet_size:
                raise RequestError(
                    f"view '{known.name}' has {alphabet_size} symbols and the vocabulary holds {known.alphabet_size} for it; "
                    "build the vocabulary from the views of the run"
                )
        digests = tuple(getattr(source, "digest", None) for source in (corpus, *views))
        if plan.parents and digests != plan.parents:
            raise RequestError(
                f"the plan was made for the corpus and views {list(plan.parents)} and these are {list(digests)}; "
                "plan from the corpus and views that are read"
            )
        self.plan = plan
        self.vocabulary = vocabulary
        self.teacher = teacher  # may be taken away while threads read
        self._sources: list[Payloads] = [corpus, *views]
        self._opening_ids = _special_ids(OPENINGS, vocabulary)
        self._closing_ids = _special_ids(CLOSINGS, vocabulary)

    def read(self, rows: Sequence[int]) -> Batch:
        """The rows of these global numbers, in this order, taught with the weight of the first one's step. Raises `RequestError` for rows
        the plan does not have."""
        runs = [self.plan.row_slices(first, count) for first, count in _runs(rows)]
        slices = runs[0] if len(runs) == 1 else Slices.join(runs)
        batch = self.fill(slices, len(rows))
        teacher = self.teacher
        weight = teacher.weight_at(rows[0]) if teacher else 0.0
        if teacher is None or weight == 0.0:
            return batch
        began = time.thread_time()
        soft = teacher.soft_targets(slices, batch.ids, self.plan.row_length)
        return replace(batch, soft=soft, soft_weight=weight, teacher_seconds=time.thread_time() - began)

    def fill(self, slices: Slices, num_rows: int) -> Batch:
        """The batch of the slices of `num_rows` whole rows, in (row, column) order. What no slice covers is padding."""
        width = self.plan.row_length + self.plan.lookahead
        total = num_rows * width
        # Where each slice begins among all columns of all rows; each row has one slice at column 0.
        starts = (np.cumsum(slices.column == 0) - 1) * width + slices.column
        ends = starts + slices.length
        gaps = None if int(slices.length.sum()) == total else np.append(starts[1:], total) - ends
        ids = np.empty(total, dtype=np.int64) if gaps is None else np.full(total, PAD, dtype=np.int64)
        views = _spread(slices.code, SPECIAL_CODE, slices.length, gaps)
        segments = _spread(slices.segment.astype(np.int32), -1, slices.length, gaps)
        positions = np.arange(total, dtype=np.int32)
        positions -= _spread((starts - slices.position).astype(np.int32), ends, slices.length, gaps)
        after = OPENING_LENGTHS[slices.opening] + slices.payload
        for table, which, at in ((self._opening_ids, slices.opening, None), (self._closing_ids, slices.closing, after)):
            lengths = (OPENING_LENGTHS if at is None else CLOSING_LENGTHS)[which]
            for k in range(int(lengths.max())):
                place = k - slices.offset if at is None else k + at - slices.offset
                some = np.flatnonzero((k < lengths) & (place >= 0) & (place < slices.length))
                columns = starts[some] + place[some]
                ids[columns] = table[which[some], slices.code[some], k]
                views[columns] = SPECIAL_CODE
        self._copy_payloads(slices, starts, ids)
        num_documents, num_symbols, source_bytes = slices.tally(self.plan.row_length, self.plan.num_views)
        shape = (num_rows, width)
        return Batch(
            ids=ids.reshape(shape),
            segments=segments.reshape(shape),
            positions=positions.reshape(shape),
            views=views.reshape(shape),
            source_bytes=source_bytes,
            num_documents=num_documents,
            num_symbols=num_symbols,
            digest=slices.digest(),
        )

    def _copy_payloads(self, slices: Slices, starts: I64, ids: I64) -> None:
        first, end = slices.payload_range()
        columns = starts + first + OPENING_LENGTHS[slices.opening] - slices.offset
        some = np.flatnonzero(end > first)
        views = self.vocabulary.views
        told_first, told_end = (first + slices.first)[some], (end + slices.first)[some]
        table = (slices.code[some], slices.document[some], told_first, told_end, columns[some])
        for code, document, begin, stop, column in zip(*(values.tolist() for values in table), strict=True):
            payload = self._sources[code].slice(document, begin, stop)
            place = ids[column : column + stop - begin]
            if code == RAW_CODE:
                place[:] = payload
            else:
                views[code - 1].to_ids(payload, out=place)


def _spread(values: npt.NDArray[Any], between: Any, lengths: I64, gaps: I64 | None) -> npt.NDArray[Any]:
    """Each value `lengths` times, and `between` (one number, or one a gap) `gaps` times after it."""
    if gaps is None:
        return np.repeat(values, lengths)
    both = np.empty((values.size, 2), dtype=values.dtype)
    both[:, 0], both[:, 1] = values, between
    return np.repeat(both.reshape(-1), np.stack([lengths, gaps], axis=1).reshape(-1))


def _special_ids(names: Sequence[Sequence[str]], vocabulary: Vocabulary) -> I64:
    """Ids of openings or closings, int64 [num_names, num_views + 1, longest], by the code of the piece; -1 behind the end of short ones."""
    fixed = {"bos": BOS, "eos": EOS, "splice": special_id("<|splice|>")}
    fixed |= {part: special_id(f"<|fim_{part}|>") for part in ("prefix", "suffix", "middle")}
    by_code = {"start": [RAW_START, *(v.start_id for v in vocabulary.views)], "end": [RAW_END, *(v.end_id for v in vocabulary.views)]}
    table = np.full((len(names), len(vocabulary.views) + 1, max(map(len, names))), -1, dtype=np.int64)
    for number, parts in enumerate(names):
        for k, part in enumerate(parts):
            table[number, :, k] = by_code[part] if part in by_code else fixed[part]
    return table


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as (first, count)."""
    if isinstance(rows, range) and rows.step == 1 and len(rows):
        return [(rows.start, len(rows))]
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and row == runs[-1][0] + runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((row, 1))
    if not runs:
        raise RequestError("no rows to read; name at least one")
    return runs
