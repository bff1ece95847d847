"""Results put together by cell: an (arm, scale, budget) with all its seeds, as samples that intervals are made from. No statistics here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.exchange import Pace, charged, paces
from eval.results import ArmResult, Results
from eval.seed_intervals import Floats, NoiseKind, Sample
from proxy_lm.errors import RequestError

Key = tuple[str, str | None, str | None]
"""Arm, scale, budget."""
_ROUNDING = 1e-4  # nats are exact sums; whoever rounds a kept file to fewer digits than this has changed it


@dataclass(frozen=True, kw_only=True)
class Runs:
    """One arm at one scale and budget, over its seeds: what cells and points share."""

    arm: str
    scale: str | None
    budget: str | None
    seeds: tuple[int, ...]
    """Those with a score, in ascending order."""
    values: tuple[float, ...]
    """Bits per byte, by seed."""
    flops: float
    """Training FLOPs of a run. This and the numbers below are means over the finished seeds, over all where none finished."""
    compressor_flops: float
    """Fitting, encoding and teaching, its seconds charged as `eval.exchange` says."""
    symbols: float
    source_bytes: float
    raw_bytes: float
    """Source bytes told as raw bytes."""
    asked_raw: bool
    """Whether its bits per byte are of raw bytes."""
    num_body_parameters: int
    num_parameters: int
    failed: list[int]
    """Seeds that failed."""
    not_run: list[int]

    @property
    def key(self) -> Key:
        """Arm, scale, budget."""
        return self.arm, self.scale, self.budget

    @property
    def mean(self) -> float | None:
        """Mean bits per byte over seeds; None where no seed finished."""
        return math.fsum(self.values) / len(self.values) if self.values else None

    @property
    def seed_deviation(self) -> float | None:
        """Standard deviation of the seeds' values; None with fewer than two."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @property
    def flops_with_compressor(self) -> float:
        """A run charged with the whole fitting, encoding and teaching of its views."""
        return self.flops + self.compressor_flops


@dataclass(frozen=True, kw_only=True)
class Cell(Runs):
    """With the sample that intervals are made from."""

    sample: Sample | None
    """None where no seed finished, or a seed has no nats by project."""


def noise_of(cell: Cell) -> NoiseKind:
    """Where the seed noise of a cell's intervals is from."""
    return "none" if cell.sample is None else cell.sample.seed_noise.kind


def cells_of(results: Results) -> dict[Key, Cell]:
    """All cells, in the order in which their first runs stand. Raises `RequestError` for numbers that do not fit together."""
    groups: dict[Key, list[ArmResult]] = {}
    for run in results.arms:
        groups.setdefault((run.name, run.scale, run.budget), []).append(run)
    num_bytes = np.array(results.projects.num_bytes, dtype=np.float64) if results.projects is not None else None
    if num_bytes is not None and (not np.isfinite(num_bytes).all() or (num_bytes < 0).any() or not num_bytes.sum() > 0):
        raise RequestError(f"projects.num_bytes of comparison '{results.name}' must be 0 or more and not all 0; run compare again")
    rates = paces(results)
    return {key: _cell(key, sorted(runs, key=lambda run: run.seed), num_bytes, rates[key[1:]]) for key, runs in groups.items()}


def _cell(key: Key, runs: Sequence[ArmResult], num_bytes: Floats | None, pace: Pace) -> Cell:
    done = [run for run in runs if run.bits_per_byte is not None]
    seeds = tuple(run.seed for run in done)
    if len({run.seed for run in runs}) < len(runs):
        raise RequestError(f"arm '{key[0]}' (scale {key[1]}, budget {key[2]}) has two results of one seed: {[run.seed for run in runs]}")
    rows = [_bits(run, num_bytes) for run in done]
    told = [row for row in rows if row is not None]
    sample = Sample(seeds, np.stack(told), num_bytes) if num_bytes is not None and told and len(told) == len(rows) else None
    of = done or list(runs)

    def mean(values: Sequence[float]) -> float:
        return math.fsum(values) / len(values)

    return Cell(
        arm=key[0],
        scale=key[1],
        budget=key[2],
        seeds=seeds,
        values=tuple(float(run.bits_per_byte) for run in done if run.bits_per_byte is not None),
        sample=sample,
        flops=mean([run.training_flops for run in of]),
        compressor_flops=mean([sum(charged(run, pace)) for run in of]),
        symbols=mean([run.symbols for run in of]),
        source_bytes=mean([run.source_bytes for run in of]),
        raw_bytes=mean([run.source_bytes_by_view.get("raw", 0) for run in of]),
        asked_raw=all(run.view == "raw" for run in of),
        num_body_parameters=of[0].num_parameters["body"],
        num_parameters=of[0].num_parameters["total"],
        failed=[run.seed for run in runs if run.status == "failed"],
        not_run=[run.seed for run in runs if run.status == "not run"],
    )


def _bits(run: ArmResult, num_bytes: Floats | None) -> Floats | None:
    """Bits of each project, not divided by bytes; None where the result has none."""
    if run.nll_nats_by_project is None or num_bytes is None or run.bits_per_byte is None:
        return None
    bits = np.array(run.nll_nats_by_project, dtype=np.float64) / math.log(2)
    if len(bits) != len(num_bytes):
        raise RequestError(
            f"{run.folder}: nll_nats_by_project has {len(bits)} numbers and projects.num_bytes {len(num_bytes)}; they are of different "
            "corpora or files, run compare again"
        )
    summed = float(bits.sum() / num_bytes.sum())
    if not abs(summed - run.bits_per_byte) <= _ROUNDING * abs(run.bits_per_byte):
        raise RequestError(
            f"{run.folder}: nll_nats_by_project gives {summed:.6f} bits per byte and bits_per_byte is {run.bits_per_byte:.6f}; one of them "
            "was changed by hand, run compare again"
        )
    return bits
