"""Soft targets: what a byte model expects where raw text stands, for a run that learns from the whole distribution beside the one byte.

    teacher: {model: views/stream/model, weight: [[0, 1.0], [1, 0.5]]}          # in a run's YAML
    teacher: {model: views/stream/model, weight: 1.0, lead: 1.0}                # until the student comes that near
    teacher = open_teacher(settings.teacher, rows_per_step=64, num_steps=1000, verify=True)
    soft = teacher.soft_targets(slices, ids, row_length)                        # uint16 [B, L + H, 256]

The model reads what the student can see: the raw text since its segment began in the row, a continued document anew with the row. Taught is
the raw stretch that a segment begins with. Behind another piece of its segment (the view of a pair, a splice, the other parts of a document
asked for its middle) the student knows what the model cannot read, and learns from the labels alone.

A model's rows do not depend on what stands beside them (`ByteModel.integer`), so a batch stays a function of the plan, its rows and the
model. Not promised: that the model was fitted on the train split only. A model folder does not say it; `proxy-lm compressor train neural`
reads that split unless it is told another.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from compressors.neural.models import PRECISION_BITS, ByteModel, load_model, model_class, model_identity
from proxy_lm.config import Settings
from proxy_lm.data.curves import Curve
from proxy_lm.data.pieces import OPENING_LENGTHS
from proxy_lm.data.slices import Slices
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import RAW_CODE

U16 = npt.NDArray[np.uint16]


class TeacherSettings(Settings):
    """Whose distributions the first output head learns from, and how much."""

    model: str
    """Folder of a byte model; `proxy-lm compressor train neural --model counts --corpus DIR --out VIEW` makes one in VIEW/model. Fit it on
    the train split: nothing else can be checked here."""

    weight: Curve
    """Weight w of the model's distribution over progress, 0 to 1: the target of a taught byte is 1 - w of the byte that stands there and w
    of what the model expects. A number, or a curve like those of the mix. While it is 0 the model is not asked."""

    lead: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Bits per byte by which the model has to be ahead of the student. Both are measured at each validation, on its raw rows, and the first
    that finds less of a lead ends the teaching for good. None: the curve alone. Needs validation.every_steps and a valid split."""


@dataclass(frozen=True)
class Teacher:
    """A byte model that is asked along a run."""

    folder: Path
    fingerprint: str
    weight: Curve
    rows_per_step: int
    num_steps: int
    lead: float | None = None

    @functools.cached_property
    def model(self) -> ByteModel:
        """Read when it is first asked. Raises `RequestError` where it is no longer the one that was opened."""
        if model_identity(self.folder)[1] != self.fingerprint:
            raise RequestError(f"the byte model in {self.folder} was changed while the run was starting; start again")
        return load_model(self.folder)

    def weight_at(self, row: int) -> float:
        """The weight in the step of this global row, by the curve alone."""
        return float(self.weight(row // self.rows_per_step / self.num_steps))

    def is_ahead(self, student_bits: float, own_bits: float) -> bool:
        """Whether the lead that is asked for is there, both in bits per byte."""
        return self.lead is None or student_bits - own_bits >= self.lead

    def bits(self, slices: Slices, ids: npt.NDArray[np.int64], row_length: int) -> tuple[float, int]:
        """Bits of the model for the bytes that it would teach in these rows, and how many bytes they are. Arguments as `soft_targets`."""
        targets = slice(1, row_length + 1)
        soft, bytes_there = self.soft_targets(slices, ids, row_length)[:, targets], ids[:, targets]
        taught = soft.any(axis=2)
        chosen = soft[taught, bytes_there[taught]].astype(np.float64)
        return float(PRECISION_BITS * len(chosen) - np.log2(chosen).sum()), len(chosen)

    def soft_targets(self, slices: Slices, ids: npt.NDArray[np.int64], row_length: int) -> U16:
        """Frequencies of the byte in each column, of 65,536; all 0 where nothing is taught. `ids` [B, L + H] as the slices fill them, raw
        bytes as themselves -> uint16 [B, L + H, 256]. Columns behind L + 1 are no target of the first head, and are not taught."""
        width = ids.shape[1]
        first, end = slices.payload_range(row_length + 1)
        begins = (np.cumsum(slices.column == 0) - 1) * width + slices.column + first + OPENING_LENGTHS[slices.opening] - slices.offset
        taught = np.flatnonzero((slices.code == RAW_CODE) & (slices.position == 0) & (end > first))
        soft = np.zeros((ids.size, 256), np.uint16)
        text = ids.reshape(-1)
        stretches = [slice(begin, begin + size) for begin, size in zip(begins[taught], (end - first)[taught], strict=True)]
        rows = self.model.rows([text[stretch].astype(np.uint8).tobytes() for stretch in stretches]) if stretches else []
        for stretch, found in zip(stretches, rows, strict=True):
            soft[stretch] = found
        return soft.reshape(*ids.shape, 256)


def check_teacher(settings: TeacherSettings) -> str:
    """The fingerprint of the model, by `model.json` alone. Raises `RequestError` for a folder without a model, and for a model whose rows
    depend on batch or machine."""
    kind, fingerprint = model_identity(Path(settings.model))
    if not model_class(kind).integer:
        raise RequestError(
            f"the byte model in {settings.model} is of kind '{kind}', whose rows depend on the machine and on what is computed beside "
            "them, so the run could not be repeated; teach with one of kind 'counts' (proxy-lm compressor train neural --model counts)"
        )
    return fingerprint


def open_teacher(settings: TeacherSettings, rows_per_step: int, num_steps: int, *, verify: bool) -> Teacher:
    """The teacher of a run of so many steps. `verify` reads all its files and compares digests. Raises `RequestError` as `check_teacher`,
    and for damaged files."""
    fingerprint = check_teacher(settings)
    if verify:
        load_model(Path(settings.model))
    return Teacher(Path(settings.model), fingerprint, settings.weight, rows_per_step, num_steps, settings.lead)
