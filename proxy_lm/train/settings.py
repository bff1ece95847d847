"""The configuration of a training run: one YAML is the truth, `a.b=c` on the command line wins over it.

    deepspeed --module proxy_lm.train configs/x.yaml optimizer.learning_rate=1e-3

What can be computed is computed and never typed: the vocabulary size, the accumulation count, the DeepSpeed dict. No torch here, so that
planning commands and the comparison can read and write run settings without loading it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from proxy_lm.config import Settings
from proxy_lm.data.loader import LoaderSettings
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import Packing
from proxy_lm.data.soft_targets import TeacherSettings
from proxy_lm.errors import RequestError
from proxy_lm.model.settings import ModelSettings
from proxy_lm.train.schedule import ScheduleSettings
from proxy_lm.train.settings_groups import (
    CheckpointSettings,
    CommunicationSettings,
    LoggingSettings,
    LossScaleSettings,
    OptimizerSettings,
    Precision,
    ValidationSettings,
    ZeroSettings,
)
from proxy_lm.train.spikes import SpikeSettings
from proxy_lm.vocabulary import LiteralsSetting


class RunSettings(Settings):
    """Everything that makes a training run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run, also of its folder: letters, digits, '.', '_' and '-'."""

    out: str | None = None
    """Run folder; None means runs/<name>."""

    corpus: str
    """Corpus folder of `proxy-lm prepare`."""

    views: dict[str, str] = Field(default_factory=dict)
    """Encoded views by name, each the folder of `proxy-lm encode`; their order fixes the ids."""

    literals: LiteralsSetting = "separate"
    """separate: every symbol of a view has an id of its own. shared: a symbol that stands for one byte wherever it stands has that byte's
    id, in the input and in the output, so that raw text and view learn of one another; the model has fewer rows by so many. Refused for
    views whose symbols spell no fixed bytes (gzip), and for those without such a symbol."""

    vocabulary_size: int | None = None
    """Never needed: it is derived from the views. A value here is checked against the derived one and refused when it differs."""

    mix: MixSettings = MixSettings()
    """How documents are told over the run."""

    model: ModelSettings = ModelSettings()
    """The decoder."""

    teacher: TeacherSettings | None = None
    """A byte model whose distributions are learnt beside the raw bytes themselves; None: the bytes alone."""

    row_length: int = Field(default=1024, ge=2)
    """Ids of a row."""

    shuffle_rows: int | None = Field(default=None, ge=1)
    """Rows shuffled together (`proxy_lm/data/row_order.py`), so that a long document does not fill whole steps. None: a sixteenth of the
    run, at most 4096. 1: the order of the stream."""

    packing: Packing = "cut"
    """cut: rows are cut out of one stream of documents, without padding, as the paper does. fit: documents are packed best-fit; only one
    longer than a row is split, and what is left at the end of a row is padding (counted in num_symbols and in training_flops)."""

    rows_per_step: int = Field(default=64, ge=1)
    """Rows of one optimizer update over all ranks."""

    rows_per_device: int = Field(default=8, ge=1)
    """Rows of one forward pass on one rank (the micro-batch). Accumulation follows from it and the world size."""

    num_steps: int | None = Field(default=None, ge=1)
    """Length of the run in updates. Exactly one of num_steps, num_symbols, training_flops is given."""

    num_symbols: int | None = Field(default=None, ge=1)
    """Length of the run in ids; rounded to the nearest whole step."""

    training_flops: float | None = Field(default=None, gt=0)
    """Length of the run in training FLOPs counted from the model's structure; rounded to the nearest whole step."""

    optimizer: OptimizerSettings = OptimizerSettings()
    """AdamW or Muon."""

    schedule: ScheduleSettings = ScheduleSettings()
    """Learning rate over the run."""

    precision: Precision = "fp32"
    """Type of weights and activations in the passes; sums of gradients and the optimizer are fp32 in all three."""

    loss_scale: LossScaleSettings = LossScaleSettings()
    """fp16 only."""

    zero: ZeroSettings = ZeroSettings()
    """Sharding."""

    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, about a third more work (not counted in training_flops)."""

    compile: Literal["none", "blocks"] = "none"
    """`torch.compile` for what stands before and after attention in each block; one compilation serves all blocks. Needs a C++ compiler at
    run time. Never the whole model: documents end elsewhere in every batch, and it would be compiled again for each (README.md)."""

    sequence_parallel: int = Field(default=1, ge=1)
    """Ranks that share their rows: each holds row_length / sequence_parallel columns and, inside attention, some of the heads (DeepSpeed
    Ulysses). For rows too long for one device. It divides the world size, row_length and model.num_heads."""

    loader: LoaderSettings = LoaderSettings()
    """Who reads the rows; changes no id."""

    spikes: SpikeSettings = SpikeSettings()
    """Steps that are not learnt from."""

    communication: CommunicationSettings = CommunicationSettings()
    """How ranks talk."""

    checkpoint: CheckpointSettings = CheckpointSettings()
    """When the run is saved."""

    validation: ValidationSettings = ValidationSettings()
    """Watching while training."""

    logging: LoggingSettings = LoggingSettings()
    """What is written."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Fixes the weights at step 0, the order of the documents and every draw."""

    resume: Literal["auto", "never", "must"] = "auto"
    """auto: from the newest valid checkpoint, if there is any. must: refuse to start at step 0. never: refuse a folder with checkpoints."""

    @model_validator(mode="after")
    def _one_budget(self) -> RunSettings:
        given = [name for name in ("num_steps", "num_symbols", "training_flops") if getattr(self, name) is not None]
        if len(given) != 1:
            what = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"a run has exactly one of num_steps, num_symbols, training_flops and {what}")
        if "raw" in self.views:
            raise ValueError("a view cannot be called 'raw', the name of the bytes themselves; rename it under views")
        if self.zero.stage == 0 and self.precision != "fp32":
            raise ValueError(
                f"zero.stage=0 with precision={self.precision} would sum gradients in {self.precision}; "
                "use zero.stage=1, which sums in fp32 at any world size"
            )
        if self.optimizer.kind == "muon":
            self._check_muon()
        self._check_teacher()
        if self.sequence_parallel > 1:
            self._check_sequence_parallel()
        return self

    def _check_muon(self) -> None:
        clip, stage = self.optimizer.gradient_clip, self.zero.stage
        if clip > 0 and stage > 0:
            # DeepSpeed takes its norm after the orthogonalisation, where it is about the root of all ranks of all matrices.
            raise ValueError(
                f"optimizer.gradient_clip={clip} with optimizer.kind=muon would clip Muon's finished updates at zero.stage={stage}, whose "
                "size does not depend on the gradient; set optimizer.gradient_clip=0 (only zero.stage=0 clips before Muon)"
            )
        if self.precision == "fp16":
            raise ValueError("optimizer.kind=muon with precision=fp16 is not offered: use precision=bf16, which needs no loss scale")
        if self.precision == "bf16" and stage == 2:
            raise ValueError(
                "optimizer.kind=muon with precision=bf16 at zero.stage=2 would sum the gradients of micro-batches in bf16 (DeepSpeed has "
                "no fp32 buffer for them there); use zero.stage=1 or 3, which sum in fp32"
            )
        if self.zero.offload_parameters == "nvme":
            raise ValueError("optimizer.kind=muon with offload to nvme is not offered; use cpu, or optimizer.kind=adamw")

    def _check_teacher(self) -> None:
        if self.teacher is None or self.teacher.lead is None:
            return
        every, size = self.validation.every_steps, self.validation.max_bytes
        if every is None or size == 0 or not self.mix.tells_raw:
            raise ValueError(
                f"teacher.lead={self.teacher.lead:g} is measured on raw rows at each validation, and this run has no such rows or no "
                f"validation before its end (validation.every_steps={every}, validation.max_bytes={size}); give validation.every_steps, a "
                "twentieth of the run, say, or take teacher.lead out"
            )

    def _check_sequence_parallel(self) -> None:
        if self.teacher is not None:
            raise ValueError(
                f"sequence_parallel={self.sequence_parallel} with a teacher is not offered: every rank that shares a row would ask the "
                "model for the whole of it; use sequence_parallel=1, or take the teacher out"
            )
        ways, model = self.sequence_parallel, self.model.resolved()
        for what, number in (("row_length", self.row_length), ("model.num_heads", model.num_heads)):
            if number % ways:
                raise ValueError(f"sequence_parallel={ways} does not divide {what}={number}; use a common divisor of both")

    @property
    def told_views(self) -> list[str]:
        """Names of the views by which a document can be told."""
        return [name for name in self.views if self.mix.can_be_drawn(name)]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.out) if self.out else Path("runs") / self.name


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """How one optimizer update is dealt: rows_per_step = rows_per_device * num_readers * accumulation."""

    rows_per_step: int
    rows_per_device: int
    world_size: int
    num_readers: int
    """Groups of ranks that read rows of their own: world_size / sequence_parallel."""
    accumulation: int
    symbols_per_step: int


def step_shape(settings: RunSettings, world_size: int) -> StepShape:
    """Divide the global rows over the ranks. Raises `RequestError` with the numbers and a remedy when they do not divide."""
    rows, device, ways = settings.rows_per_step, settings.rows_per_device, settings.sequence_parallel
    if world_size % ways:
        raise RequestError(f"sequence_parallel={ways} does not divide the world size {world_size}; start a multiple of {ways} ranks")
    readers = world_size // ways
    if rows % (device * readers):
        fits = [n for n in range(1, rows + 1) if rows % (n * readers) == 0]
        sharing = f" (each row shared by {ways})" if ways > 1 else ""
        remedy = (
            f"rows_per_device can be {', '.join(map(str, fits[-6:]))} with {world_size} ranks{sharing}"
            if fits
            else f"with {world_size} ranks{sharing} rows_per_step must be a multiple of {readers}"
        )
        by = f"world size {world_size}" if ways == 1 else f"world size {world_size} / sequence_parallel {ways}"
        raise RequestError(f"rows_per_step={rows} is not a multiple of rows_per_device={device} times {by} = {device * readers}; {remedy}")
    return StepShape(
        rows_per_step=rows,
        rows_per_device=device,
        world_size=world_size,
        num_readers=readers,
        accumulation=rows // (device * readers),
        symbols_per_step=rows * settings.row_length,
    )


def num_steps(settings: RunSettings, flops_per_symbol: int) -> int:
    """Updates of the run, from whichever budget is given: the nearest whole number. Raises `RequestError` for less than half a step."""
    if settings.num_steps is not None:
        return settings.num_steps
    symbols_per_step = settings.rows_per_step * settings.row_length
    if settings.num_symbols is not None:
        name, budget, cost = "num_symbols", float(settings.num_symbols), symbols_per_step
    else:
        assert settings.training_flops is not None
        name, budget, cost = "training_flops", settings.training_flops, flops_per_symbol * symbols_per_step
    if 2 * budget < cost:
        raise RequestError(
            f"{name} = {budget:.4g} does not pay for one step, which costs {cost:.4g}; give more, or use fewer rows_per_step"
        )
    return max(1, round(budget / cost))


# Settings that may differ between a checkpoint and the run that continues it: none of them changes what the remaining steps compute,
# up to rounding. `rows_per_device` only deals the same rows differently.
SAFE_TO_CHANGE = (
    "name",
    "out",
    "corpus",
    "views.",
    "teacher.model",
    "logging.",
    "checkpoint.",
    "communication.",
    "loader.",
    "resume",
    "rows_per_device",
    "sequence_parallel",
    "zero.nvme_path",
    "spikes.",
    "validation.",
)


def changed_settings(old: dict[str, Any], new: dict[str, Any], safe: tuple[str, ...] = SAFE_TO_CHANGE) -> list[str]:
    """Lines `key: old -> new` for every setting that matters (begins with none of `safe`) and differs between two resolved configurations.

    Paths of corpus, views and a teacher may change, since their digests are compared instead.
    """
    before, after = _flatten(old), _flatten(new)
    if after.get("teacher.lead") is not None:  # then what is watched decides what is taught
        safe = tuple(key for key in safe if key != "validation.")
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key) and not key.startswith(safe):
            lines.append(f"{key}: {before.get(key)!r} -> {after.get(key)!r}")
    return lines


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat.update(_flatten(item, f"{prefix}{key}."))
        else:
            flat[prefix + key] = item
    return flat
