"""A trained model asked in bytes: `rolling(document)` and `loglikelihood(context, continuation)`, for raw-byte and for token models alike.

    scorer = Scorer(model, reading_of(vocabulary, "spm", compressor), row_length=1024, context_bytes=1024, stride_bytes=512)
    score = scorer.rolling(document)          # nats of every symbol of the document, each counted once
    scorer.loglikelihood(context, continuation)

The softmax runs over the whole joint vocabulary, unused rows included: probability that a model puts on symbols that cannot follow is
charged to it. A token model is charged for its own segmentation, the one it was trained on, and not for the sum over all segmentations.
Batches are made by length; the numbers do not depend on their size beyond float rounding.

Not covered: `generate`; a view whose symbols stand for no stretch of bytes has `rolling` only, and only for documents that fit one row.
"""

# B windows, T positions.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from compressors.base import Compressor
from compressors.errors import NotRepresentableError
from eval.windows import NUM_CLOSING_IDS, NUM_OPENING_IDS, Window, check, cut, whole
from proxy_lm.data.parts import comes_back
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.vocabulary import BOS, EOS, PAD, RAW_END, RAW_START, ViewRange, Vocabulary


class Model(Protocol):
    """What scoring needs of a model; `proxy_lm.model.decoder.Decoder` is one."""

    def target_nll(self, ids: torch.Tensor, segments: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[B, T] int64, int32, int32 -> nats, float32 [B, T - 1]; entry t is that of ids[t + 1] given its segment up to t. Segment -1 is
        padding, whose entries mean nothing."""
        ...


@dataclass(frozen=True)
class Reading:
    """The view in which a model is asked. `compressor` and `view` are None for raw bytes."""

    name: str
    view: ViewRange | None = None
    compressor: Compressor | None = None

    def ids(self, document: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None, bool]:
        """(all ids from BOS to EOS, borders of the symbols in bytes or None, told raw). A document that the view cannot represent is told
        raw, as in training."""
        if self.view is None or self.compressor is None:
            return _raw_ids(document), np.arange(len(document) + 1, dtype=np.int64), True
        try:
            symbols = self.compressor.encode(document)
            told = comes_back(self.compressor, document, symbols)  # else the view was not allowed to tell it in training either
        except NotRepresentableError:
            told = False
        if not told:
            return _raw_ids(document), np.arange(len(document) + 1, dtype=np.int64), True
        borders = self.compressor.spans(document)
        if borders is not None:
            assert len(borders) == len(symbols) + 1, "a view's borders do not fit its symbols"
            assert (borders[0], borders[-1]) == (0, len(document)), "a view's borders do not cover the document"
        inner = self.view.to_ids(symbols)
        return np.concatenate([[BOS, self.view.start_id], inner, [self.view.end_id, EOS]]), borders, False


def _raw_ids(document: bytes) -> npt.NDArray[np.int64]:
    return np.concatenate([[BOS, RAW_START], np.frombuffer(document, dtype=np.uint8).astype(np.int64), [RAW_END, EOS]])


def reading_of(vocabulary: Vocabulary, name: str, compressor: Compressor | None = None) -> Reading:
    """The reading called `name`: 'raw', or a view of the vocabulary with its compressor. Raises `RequestError` where they do not fit."""
    if name == "raw":
        return Reading("raw")
    view = vocabulary.view(name)
    if compressor is None:
        raise RequestError(f"reading through view '{name}' needs its compressor; give the view's folder")
    if not compressor.exact:
        raise RequestError(
            f"view '{name}' does not promise to give documents back, so its symbols have no bits per byte; ask for another view, or raw"
        )
    if compressor.alphabet_size != view.alphabet_size:
        raise RequestError(
            f"the compressor of view '{name}' has {compressor.alphabet_size} symbols where the model was trained with "
            f"{view.alphabet_size}; use the view folder of the run"
        )
    return Reading(name, view, compressor)


@dataclass(frozen=True)
class Score:
    """One document: `nll_nats` float64 [num_symbols] of its payload, `end_nats` of its end sentinel and EOS (0 where not scored)."""

    nll_nats: npt.NDArray[np.float64]
    end_nats: float
    num_bytes: int
    borders: npt.NDArray[np.int64] | None
    told_raw: bool
    num_windows: int
    num_short_windows: int


class Scorer:
    """Asks one model through one reading. Not safe to share between threads."""

    def __init__(
        self,
        model: Model,
        reading: Reading,
        *,
        row_length: int,
        context_bytes: int = 1024,
        stride_bytes: int = 512,
        windows_per_batch: int = 16,
        score_end: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        """`row_length` is that of training: positions beyond it were never seen. Raises `RequestError` for windows that cannot work."""
        check(context_bytes, stride_bytes)
        if reading.view is None and context_bytes > row_length:
            raise RequestError(
                f"a context of {context_bytes} bytes is longer than the rows of {row_length} ids this model was trained on; "
                f"use --context-bytes {row_length} or less, the same for every arm"
            )
        if windows_per_batch < 1:
            raise RequestError(f"{windows_per_batch} windows in a batch score nothing; give at least 1")
        self.model = model
        self.reading = reading
        self.row_length = row_length
        self.context_bytes = context_bytes
        self.stride_bytes = stride_bytes
        self.windows_per_batch = windows_per_batch
        self.score_end = score_end
        self.device = torch.device(device)

    def rolling(self, document: bytes) -> Score:
        """Score one whole document."""
        return self.rolling_many([document])[0]

    def rolling_many(self, documents: Sequence[bytes]) -> list[Score]:
        """Score several documents together; equal to one `rolling` each."""
        told = [self.reading.ids(document) for document in documents]
        windows = [self._windows(ids, borders, document) for (ids, borders, _), document in zip(told, documents, strict=True)]
        nats = self._score([ids for ids, _, _ in told], windows)
        scores = []
        for (ids, borders, raw), cuts, found, document in zip(told, windows, nats, documents, strict=True):
            end = len(ids) - NUM_CLOSING_IDS
            payload = found[NUM_OPENING_IDS:end]
            if not np.isfinite(found).all():
                raise WorkError(
                    "the model gives a loss that is not finite: its weights are broken; train it again with a lower learning rate"
                )
            end_nats = float(found[end:].sum()) if self.score_end else 0.0
            num_short = sum(window.short for window in cuts)
            scores.append(Score(payload, end_nats, len(document), borders, raw, len(cuts), num_short))
        return scores

    def loglikelihood(self, context: bytes, continuation: bytes) -> float:
        """Log probability in nats of `continuation` after `context`, which opens the document.

        A symbol that straddles the border between the two is charged whole: a token model never gets part of a symbol for free.
        Raises `RequestError` for a view whose symbols stand for no stretch of bytes.
        """
        score = self.rolling(context + continuation)
        if score.borders is None:
            raise RequestError(f"view '{self.reading.name}' has no spans, so a continuation has no symbols of its own; use 'rolling'")
        ends = score.borders[1:]
        return -float(score.nll_nats[ends > len(context)].sum())

    def _windows(self, ids: npt.NDArray[np.int64], borders: npt.NDArray[np.int64] | None, document: bytes) -> list[Window]:
        num_closing = NUM_CLOSING_IDS if self.score_end else 0
        if borders is not None:
            return cut(
                borders,
                context_bytes=self.context_bytes,
                stride_bytes=self.stride_bytes,
                num_closing=num_closing,
                max_ids=self.row_length,
            )
        window = whole(len(ids) - NUM_OPENING_IDS - NUM_CLOSING_IDS, num_closing)
        if window.num_ids > self.row_length:
            raise RequestError(
                f"a document of {len(document)} bytes is {window.num_ids} ids in view '{self.reading.name}', whose symbols cannot be cut "
                f"by bytes, and a row holds {self.row_length}; train with longer rows, or score a corpus of shorter documents"
            )
        return [window]

    def _score(self, ids: Sequence[npt.NDArray[np.int64]], windows: Sequence[Sequence[Window]]) -> list[npt.NDArray[np.float64]]:
        """Nats of each id of each document, 0 where no window scores it. A payload id scored twice or never is our bug."""
        found = [np.zeros(len(document)) for document in ids]
        times = [np.zeros(len(document), dtype=np.int64) for document in ids]
        jobs = sorted(
            ((w.num_ids, d, w) for d, cuts in enumerate(windows) for w in cuts), key=lambda job: (-job[0], job[1], job[2].read_from)
        )
        at = 0
        while at < len(jobs):
            batch = jobs[at : at + self.windows_per_batch]
            at += len(batch)
            rows = [(ids[d][w.read_from : w.score_to], w.score_from - w.read_from) for _, d, w in batch]
            for (_, d, w), nats in zip(batch, self._batch(rows), strict=True):
                found[d][w.score_from : w.score_to] = nats
                times[d][w.score_from : w.score_to] += 1
        for count in times:
            payload = count[NUM_OPENING_IDS : len(count) - NUM_CLOSING_IDS]
            assert (payload == 1).all(), "a symbol was scored twice or never"
        return found

    @torch.no_grad()
    def _batch(self, rows: Sequence[tuple[npt.NDArray[np.int64], int]]) -> list[npt.NDArray[np.float64]]:
        """Nats of the ids from index `first` on of each row (ids, first); one forward pass."""
        num_rows, length = len(rows), max(len(ids) for ids, _ in rows)
        ids_BT = torch.full((num_rows, length), PAD, dtype=torch.int64)
        segments_BT = torch.full((num_rows, length), -1, dtype=torch.int32)
        for b, (ids, _) in enumerate(rows):
            ids_BT[b, : len(ids)] = torch.from_numpy(np.ascontiguousarray(ids))
            segments_BT[b, : len(ids)] = 0
        positions_BT = torch.arange(length, dtype=torch.int32).expand(num_rows, length)
        nll_BT = self.model.target_nll(*(x.to(self.device) for x in (ids_BT, segments_BT, positions_BT))).double().cpu().numpy()
        return [nll_BT[b, first - 1 : len(ids) - 1] for b, (ids, first) in enumerate(rows)]
