"""What a comparison found: `results.json`, the one file that report and table are made from.

No machine paths, host names or dates of files are in it; folders are named relative to the comparison. Numbers of arms that did not
finish are null and their status says why. A reader of another schema version is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from compressors.files import read_json, write_json
from proxy_lm.config import Settings, validate
from proxy_lm.errors import RequestError

SCHEMA = "proxy-lm comparison 2"


class Point(Settings):
    """One validation while training."""

    step: int
    training_flops: float
    symbols: int
    source_bytes: float
    seconds: float
    bits_per_byte: float


class CompressorCost(Settings):
    """What an arm's views cost, shared by every arm that uses them."""

    train_seconds: float
    """Processor seconds of fitting."""
    encode_seconds: float
    """Processor seconds of encoding the whole corpus, summed over processes."""
    teacher_seconds: float = 0.0
    """Processor seconds of asking the arm's teacher along the run, of every run anew; fitting it is in `train_seconds`."""
    flops: float
    """Arithmetic that a compressor counts itself; for gzip, zstd, SentencePiece and an asked teacher, which count none, 10^9 operations a
    CPU second. What reports charge is made from the seconds (`eval.exchange`)."""


class Verdict(Settings):
    """An arm against the baseline on the same documents, paired."""

    baseline: str
    verdict: Literal["baseline", "better", "worse", "tie", "not decided", "not judged"]
    difference: float
    """Bits per byte of the arm minus the baseline's, mean over seeds; negative is better."""
    interval: tuple[float, float] | None
    num_seeds: int
    num_projects: int


class Projects(Settings):
    """The documents that every arm was scored on, added up by project. Names are not needed to draw projects again, and are left out."""

    num_bytes: list[float]
    """Bytes of each project, in the order of `ArmResult.nll_nats_by_project`."""


class SearchedRate(Settings):
    """One short run of the search for learning rates; its cost is outside the match."""

    arm: str
    scale: str | None
    learning_rate: float
    seed: int
    training_flops: float
    bits_per_byte: float | None
    """On the valid split, in the view in which the arm is asked; None: failed or diverged."""
    failure: str | None = None


class ChosenRate(Settings):
    """The learning rate of an arm at a scale, and why it is that."""

    arm: str
    scale: str | None
    learning_rate: float
    reason: str
    """'searched', 'transferred from SCALE', or 'edge of the searched rates'."""


class ArmResult(Settings):
    """One run of one arm (a cell of the grid arms x scales x budgets x seeds), its ledger and its score."""

    name: str
    scale: str | None
    budget: str | None = None
    """Name of its budget, where the plan has several."""
    seed: int
    learning_rate: float | None = None
    """Peak rate it was trained with."""
    finished_on: str | None = None
    """Day of its score, YYYY-MM-DD."""
    folder: str
    status: Literal["done", "failed", "not run"]
    failure: str | None = None
    """Why there is no number, with the last lines of the log."""
    differs: dict[str, Any]
    """What the arm changes of the base settings."""

    training_flops: float
    flops_per_symbol: int
    symbols: int
    source_bytes: int
    """Bytes of source told, repeats counted."""
    source_bytes_by_view: dict[str, int]
    documents_by_view: dict[str, int]
    symbols_by_view: dict[str, int]
    unique_bytes: int
    """Bytes of distinct documents told at least once."""
    epochs: float
    num_steps: int
    num_parameters: dict[str, int]
    """Body, embedding, output, heads, total."""
    world_size: int | None = None

    seconds: float | None = None
    """Seconds of the training steps."""
    wall_seconds: float | None = None
    """With start-up, validation, checkpoints, and what a kill made necessary again."""
    device_seconds: float | None = None
    """Seconds of the training steps times ranks."""
    compressor_flops: float = 0
    """Of `compressor`: fitting, encoding, teaching; outside `training_flops`."""
    compressor: CompressorCost
    compressor_seconds: float
    """Fitting, encoding and teaching, processor seconds."""

    bits_per_byte: float | None = None
    interval: tuple[float, float] | None = None
    nll_nats_by_project: list[float] | None = None
    """Nats of the scored documents added up by project, in the order of `Results.projects`: all intervals are made from these."""
    evaluation: dict[str, Any] | None = None
    """The whole result of `proxy-lm-eval bpb`."""
    view: str | None = None
    """The view in which the arm was asked."""
    verdict: Verdict | None = None
    final: dict[str, Any] = Field(default_factory=dict)
    """Step and digest of the checkpoint, last loss, digest of the plan of rows."""
    curve: list[Point] = Field(default_factory=list)
    """Validation while training, read as `curve_view`."""
    curve_view: str | None = None
    evaluations: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Results of the plan's further evaluations, by file name."""
    evaluation_failures: dict[str, str] = Field(default_factory=dict)
    """Why others have none, by command."""


class Results(Settings):
    """A comparison."""

    result_schema: Literal["proxy-lm comparison 2"] = "proxy-lm comparison 2"
    name: str
    question: str
    command: str
    """How to repeat it."""
    plan: dict[str, Any]
    """Resolved, as run."""
    versions: dict[str, str | None]
    machine: dict[str, Any]
    """Kind of device and number of cores: enough to read the seconds."""
    corpus: dict[str, Any]
    views: dict[str, dict[str, Any]]
    match: dict[str, Any]
    baseline: str
    arms: list[ArmResult]
    projects: Projects | None = None
    once: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What the plan's further evaluations measured once for all arms, by file name; see `eval.further.measure_once`."""
    teachers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Bits per byte of the byte models that teach arms, on the bytes that arms are scored on, by view; see `eval.teacher_scores`."""
    searched: list[SearchedRate] = Field(default_factory=list)
    chosen: list[ChosenRate] = Field(default_factory=list)

    @property
    def finished(self) -> list[ArmResult]:
        """Arms with a score."""
        return [arm for arm in self.arms if arm.bits_per_byte is not None]


def save(results: Results, folder: Path) -> None:
    """Write `results.json`, atomically."""
    write_json(folder / "results.json", results.model_dump(mode="json"))


def load(folder: Path) -> Results:
    """Read `results.json`. Raises `RequestError` when it is missing, damaged, or of another version."""
    return read(folder / "results.json")


def read(path: Path) -> Results:
    """Read the results in a file of any name, such as a kept one. Raises as `load`."""
    value = read_json(path, "result of a comparison")
    if value.get("result_schema") != SCHEMA:
        raise RequestError(f"{path} has schema {value.get('result_schema')!r}; this program reads '{SCHEMA}': run compare again")
    return validate(Results, value, source=str(path))
