"""Bits per byte on the valid split while training, raw and by each view of the run: the same rows every time and in every run.

Rows are spread evenly over one telling of the valid split, so that few rows still meet many documents, and dealt to the ranks in equal
numbers of batches; what is missing in the last ones is padding that no target counts. For watching a run: windows are rows, cut without
overlap. `proxy-lm-eval bpb` is the measurement.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from proxy_lm.data.mixing import Curve, MixSettings, WeightCurve
from proxy_lm.data.plan import Plan
from proxy_lm.data.rows import Batch, RowReader
from proxy_lm.data.soft_targets import Teacher
from proxy_lm.errors import RequestError
from proxy_lm.train.engine import Engine, Ranks
from proxy_lm.train.inputs import VALIDATION_SEED, Inputs
from proxy_lm.train.metrics import Tally


class Validation:
    """Reads its rows anew at each pass; holds no payload."""

    def __init__(self, inputs: Inputs, ranks: Ranks) -> None:
        settings = inputs.settings
        self.inputs = inputs
        self.ranks = ranks
        self.readers: dict[str, RowReader] = {}
        self.rows: dict[str, list[int]] = {}
        self.teacher_bits: float | None = None
        """Bits per byte of a teacher with a lead, on the bytes of the raw rows that it would teach."""
        most_rows = -(-settings.validation.max_bytes // settings.row_length)
        if most_rows == 0 or len(inputs.corpus.splits["valid"]) == 0:
            if inputs.teacher and inputs.teacher.lead is not None:
                raise RequestError(
                    f"teacher.lead={inputs.teacher.lead:g} is measured on the valid split, and that of {settings.corpus} is empty; "
                    "prepare a corpus with a valid_share, or take teacher.lead out"
                )
            return
        for name in self._told():
            mix = MixSettings() if name == "raw" else MixSettings(rate=Curve.constant(1.0), weights={name: WeightCurve.constant(1.0)})
            rows_there = max(1, self._rows_of_split(name))
            num_rows = min(most_rows, rows_there)  # a small split is told once and not again and again
            plan = Plan.for_corpus(
                inputs.corpus,
                inputs.views,
                vocabulary=inputs.vocabulary,
                mix=mix,
                seed=VALIDATION_SEED,
                row_length=settings.row_length,
                lookahead=inputs.plan.lookahead,
                num_rows=rows_there,
                split="valid",
                shuffle_rows=1,
            )
            self.rows[name] = [number * rows_there // num_rows for number in range(num_rows)]
            self.readers[name] = RowReader(inputs.corpus, inputs.views, inputs.vocabulary, plan)
        if inputs.teacher and inputs.teacher.lead is not None:
            self.teacher_bits = self._measure_teacher(inputs.teacher)

    def run(self, engine: Engine) -> dict[str, float | None]:
        """Bits per source byte by view. Every rank calls it and gets the same numbers."""
        engine.train(False)
        found: dict[str, float | None] = {}
        names = self.inputs.view_names
        with torch.no_grad():
            for name, reader in self.readers.items():
                tally = Tally(self.ranks, len(names) - 1)
                for batch in self._batches(reader, self.rows[name]):
                    tally.add(engine.forward(*to_tensors(batch, engine.device)), batch)
                found[name] = tally.reduce().bits_per_byte(names, self.inputs.inexact_names)[name]
        engine.train()
        return found

    def _measure_teacher(self, teacher: Teacher) -> float:
        """Every rank reads all rows, and has the same number. Raises `RequestError` where there is no byte to teach."""
        reader, bits, num_bytes = self.readers["raw"], 0.0, 0
        for row in self.rows["raw"]:
            found = teacher.bits(reader.plan.row_slices(row, 1), reader.read([row]).ids, self.inputs.settings.row_length)
            bits, num_bytes = bits + found[0], num_bytes + found[1]
        if num_bytes == 0:
            raise RequestError("teacher.lead cannot be measured: no raw row of the valid split has a byte to teach; take teacher.lead out")
        return bits / num_bytes

    def _told(self) -> list[str]:
        """Raw and the views that this run trains on. A run that never sees raw bytes is not asked to predict them."""
        mix = self.inputs.settings.mix
        return [name for name in self.inputs.view_names if name != "raw" or mix.tells_raw]

    def _rows_of_split(self, name: str) -> int:
        """Whole rows in one telling of the valid split by one view: each document once, with its two pairs of sentinels."""
        corpus, valid = self.inputs.corpus, self.inputs.corpus.splits["valid"]
        lengths = corpus.sizes if name == "raw" else next(view.lengths for view in self.inputs.views if view.name == name)
        told = lengths[valid.start : valid.stop]
        told = np.where(told < 0, corpus.sizes[valid.start : valid.stop], told)
        return int((told + 4).sum()) // self.inputs.settings.row_length

    def _batches(self, reader: RowReader, wanted: list[int]) -> list[Batch]:
        size, readers = self.inputs.settings.rows_per_device, self.ranks.num_readers
        batches, num_rows = [], len(wanted)
        for first in range(self.ranks.reader * size, _round_up(num_rows, size * readers), size * readers):
            rows = [wanted[min(row, num_rows - 1)] for row in range(first, first + size)]
            num_real = min(max(num_rows - first, 0), size)
            batch = reader.read(rows)
            batches.append(batch if num_real == size else _padded(batch, reader, rows[:num_real]))
        return batches


def to_tensors(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, segments, positions, views on the device; on the CPU without a copy. Segments stay on the host, from where the model lays
    out its attention without waiting for the device."""
    ids, segments, positions, views = map(torch.from_numpy, (batch.ids, batch.segments, batch.positions, batch.views))
    if device.type == "cuda":
        ids, positions, views = (tensor.pin_memory().to(device, non_blocking=True) for tensor in (ids, positions, views))
        segments = segments.pin_memory()
    return ids, segments, positions, views


def soft_tensors(batch: Batch, device: torch.device, is_done: bool = False) -> tuple[torch.Tensor | None, float]:
    """What a teacher expects of the batch, on the device, and its weight; (None, 0) where none was asked, or it is done by now."""
    if batch.soft is None or is_done:
        return None, 0.0
    soft = torch.from_numpy(batch.soft)
    return (soft.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else soft), batch.soft_weight


def _padded(batch: Batch, reader: RowReader, real: list[int]) -> Batch:
    """The batch with every row after the real ones turned into padding, and the counts of the real ones."""
    segments = batch.segments.copy()
    segments[len(real) :] = -1
    if not real:
        nothing = np.zeros_like(batch.source_bytes)
        return dataclasses.replace(batch, segments=segments, source_bytes=nothing, num_documents=nothing, num_symbols=nothing)
    counted = reader.read(real)
    return dataclasses.replace(
        batch,
        segments=segments,
        source_bytes=counted.source_bytes,
        num_documents=counted.num_documents,
        num_symbols=counted.num_symbols,
    )


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
