"""What a comparison found about compression: rates of each arm at each scale and budget over its seeds, and those of classical compressors.

    for point in points(results): point.raw, point.adjusted(10**9), point.lengths

Read from `results.json` alone: cells of `eval.compression_study` and what it measured once. Rates are percent of the raw size. A range is
that of the seeds, lowest to highest; what another choice of bytes would change is in none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from eval.report_groups import Group, groups
from eval.results import ArmResult, Results
from proxy_lm.vocabulary import NUM_BYTES

STEM: Final = "compression-"
_OF_VOCABULARY: Final = frozenset({"views", "mix", "optimizer"})


class Rate(NamedTuple):
    """Percent of the raw size: the mean over seeds, the lowest and the highest."""

    mean: float
    low: float
    high: float

    def plus(self, percent: float) -> Rate:
        """With so many percent more."""
        return Rate(self.mean + percent, self.low + percent, self.high + percent)


@dataclass(frozen=True)
class Point:
    """An arm at a scale and budget."""

    arm: str
    scale: str | None
    budget: str | None
    view: str
    """In which it was asked."""
    alphabet: int
    """Symbols of that view; 256 for bytes."""
    num_parameters: int
    num_parameter_bytes: int
    num_seeds: int
    lengths: Mapping[int, Rate]
    """Coded bytes, by the length of the chunks."""
    information: Mapping[int, Rate]
    """What the model's probabilities say, without whole bytes for each chunk."""
    several_budgets: bool
    of_vocabulary: bool
    """A model of raw bytes or of SentencePiece symbols alone, else as the baseline: what may stand on one curve over vocabularies."""

    @property
    def raw(self) -> Rate:
        """In the longest chunks."""
        return self.lengths[max(self.lengths)]

    @property
    def group(self) -> str:
        """Scale, and budget where the comparison has several."""
        return ", ".join(part for part in (self.scale, self.budget if self.several_budgets else None) if part is not None)

    def adjusted(self, data_bytes: float, *, real: bool = False) -> Rate:
        """With the model, 2 bytes a parameter or (`real`) its weights as they are, over `data_bytes` of data."""
        return self.raw.plus(100 * (self.num_parameter_bytes if real else 2 * self.num_parameters) / data_bytes)


@dataclass(frozen=True)
class ClassicalPoint:
    """A classical compressor."""

    name: str
    lengths: Mapping[int, float]
    """By the length of chunks that are coded alone, a header counted once."""
    whole: Mapping[int, float]
    """All at once, by the number of bytes."""

    def at(self, data_bytes: float) -> float:
        """Of so many bytes whole: the largest measured that is no larger, or else the smallest."""
        fitting = [size for size in self.whole if size <= data_bytes]
        return self.whole[max(fitting) if fitting else min(self.whole)]


def points(results: Results, shown: Sequence[Group] | None = None) -> list[Point]:
    """One for each arm, scale and budget that has a rate, scale by scale, arms in the order of the plan."""
    found = []
    for group in groups(results) if shown is None else shown:
        for runs in group.arms.values():
            told = [(run, result) for run in runs if (result := _result(run)) is not None]
            if told:
                found.append(_point(results, told))
    return found


def _result(run: ArmResult) -> dict[str, Any] | None:
    return next((result for stem, result in run.evaluations.items() if stem.startswith(STEM)), None)


def _point(results: Results, told: Sequence[tuple[ArmResult, dict[str, Any]]]) -> Point:
    run, first = told[0]
    view = str(first["view"])
    kind = "raw" if view == "raw" else str(results.views.get(view, {}).get("kind"))
    alone = kind == "spm" or not run.differs.get("views")
    return Point(
        arm=run.name,
        scale=run.scale,
        budget=run.budget,
        view=view,
        alphabet=NUM_BYTES if view == "raw" else int(results.views[view]["alphabet_size"]),
        num_parameters=int(first["num_parameters"]),
        num_parameter_bytes=int(first["num_parameter_bytes"]),
        num_seeds=len(told),
        lengths=_by_length([result for _, result in told], lambda cell: cell["coded_bytes"]),
        information=_by_length([result for _, result in told], lambda cell: cell["information_bits"] / 8),
        several_budgets=len({other.budget for other in results.arms}) > 1,
        of_vocabulary=kind in ("raw", "spm") and alone and set(run.differs) <= _OF_VOCABULARY,
    )


def _by_length(found: Sequence[Mapping[str, Any]], num_bytes: Any) -> dict[int, Rate]:
    values: dict[int, list[float]] = {}
    for result in found:
        for cell in result["lengths"]:
            values.setdefault(int(cell["chunk_bytes"]), []).append(100 * num_bytes(cell) / cell["num_bytes"])
    return {size: Rate(sum(of) / len(of), min(of), max(of)) for size, of in values.items()}


def classical(results: Results) -> list[ClassicalPoint]:
    """Those that were measured once for the comparison."""
    once = next((found for stem, found in results.once.items() if stem.startswith(STEM)), None)
    found = []
    for row in once["rows"] if once else ():
        lengths = {int(cell["chunk_bytes"]): 100 * cell["counted_bytes"] / cell["num_bytes"] for cell in row["lengths"]}
        whole = {int(cell["num_bytes"]): 100 * cell["counted_bytes"] / cell["num_bytes"] for cell in row["whole"]}
        found.append(ClassicalPoint(str(row["name"]), lengths, whole))
    return found


def missing(results: Results) -> list[str]:
    """Classical compressors that could not run there, and why."""
    once = next((found for stem, found in results.once.items() if stem.startswith(STEM)), None)
    return [f"{one['name']}: {one['reason']}" for one in (once or {}).get("unavailable", ())]


def measured(results: Results) -> tuple[int, tuple[int, ...], str]:
    """(bytes measured, sizes of data that adjusted rates are told for, split) of the first cell that has rates."""
    result = next(result for run in results.arms if (result := _result(run)) is not None)
    return int(result["num_bytes"]), tuple(int(row["data_bytes"]) for row in result["adjusted"]), str(result["settings"]["split"])
