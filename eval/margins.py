"""Margins over scales: the difference from the baseline in percent, its slope, and whether an arm is better at every scale.

    margins = everywhere([by_scale(arm, budget, cells, joint, baseline), ...], cells, baseline, judged)

"Better at every scale" needs every single scale to be so: the largest of the pairs' p is a valid p of it (an intersection-union test,
Berger 1982), so that it is not corrected for the number of scales, but for the number of arms and budgets of which it is asked.

Not promised: anything between or beyond the scales. The interval of a slope carries seeds and projects, not what the points are off a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from eval.grid_cells import Cell, Key, noise_of
from eval.seed_intervals import COVERAGE, Bounds, Floats, Joint, NoiseKind, holm
from eval.seed_noise import weakest


@dataclass(frozen=True)
class Gap:
    """The difference from the baseline at one scale, in percent of the baseline's bits per byte."""

    scale: str | None
    num_body_parameters: int
    """Of the baseline."""
    percent: float
    interval: Bounds | None
    seed_noise: NoiseKind


@dataclass(frozen=True)
class ByScale:
    """Whether the margin of an arm grows with scale, at one budget."""

    arm: str
    budget: str | None
    gaps: list[Gap]
    """From the smallest scale up."""
    slope: float | None
    """Percent of the baseline's bits per byte per tenfold of body parameters, least squares; negative: the arm gains on the baseline."""
    interval: Bounds | None
    """Seeds and projects; what the points are off a line is not in it."""
    seed_noise: NoiseKind
    """The weakest of the scales'."""
    trend: Literal["gains", "loses", "not decided", "not judged"]
    reason: str
    """Why there is no slope; else empty."""
    everywhere: Literal["better", "worse", "not decided", "not judged"] = "not decided"
    """Better (or worse) than the baseline at every scale that the baseline was run at with this budget; 'not judged' where some scale has
    one seed and none to borrow from."""
    p_everywhere: float | None = None
    """The largest p of these pairs, after Holm over arms and budgets; None with one scale, a scale without p, or signs that differ."""


def by_scale(arm: str, budget: str | None, cells: Mapping[Key, Cell], joint: Joint, baseline: str) -> ByScale:
    """Relative gaps over scales and their slope; `everywhere` is for all arms together."""
    both = [
        (cells[arm, scale, budget], base)
        for (name, scale, of), base in cells.items()
        if (name, of) == (baseline, budget) and base.mean is not None
        if (arm, scale, budget) in cells and cells[arm, scale, budget].mean is not None
    ]
    both.sort(key=lambda pair: pair[1].num_body_parameters)
    gaps = [
        Gap(
            base.scale,
            base.num_body_parameters,
            100 * (cell.mean / base.mean - 1),
            joint.interval([cell.key, base.key], lambda bits: 100 * (bits[:, 0] / bits[:, 1] - 1)),
            weakest([noise_of(cell), noise_of(base)]),
        )
        for cell, base in both
        if cell.mean is not None and base.mean is not None
    ]
    noise = weakest([gap.seed_noise for gap in gaps])
    sizes = np.log10([gap.num_body_parameters for gap in gaps])
    if len(set(sizes.tolist())) < 2:
        reason = f"{len(gaps)} scale{'' if len(gaps) == 1 else 's'} with numbers of both arms; a slope needs two"
        return ByScale(arm, budget, gaps, None, None, noise, "not decided", reason)
    weights = (sizes - sizes.mean()) / ((sizes - sizes.mean()) ** 2).sum()

    def slope_of(bits: Floats) -> Floats:
        slopes: Floats = 100 * (bits[:, ::2] / bits[:, 1::2] - 1) @ weights
        return slopes

    slope = float(weights @ np.array([gap.percent for gap in gaps]))
    bounds = joint.interval([side.key for pair in both for side in pair], slope_of)
    if bounds is None:
        return ByScale(arm, budget, gaps, slope, None, noise, "not decided", "the results hold no nats by project, or of one project")
    trend: Literal["gains", "loses", "not decided", "not judged"]
    trend = "not judged" if noise == "none" else "gains" if bounds[1] < 0 else "loses" if bounds[0] > 0 else "not decided"
    return ByScale(arm, budget, gaps, slope, bounds, noise, trend, "")


def one_seed(margin: ByScale) -> bool:
    """Whether it rests on a seed noise that is not known."""
    return margin.seed_noise == "none" and any(gap.interval is not None for gap in margin.gaps)


def everywhere(
    margins: Sequence[ByScale], cells: Mapping[Key, Cell], baseline: str, judged: Mapping[Key, tuple[float | None, float | None]]
) -> list[ByScale]:
    """`margins` with what holds at every scale; `judged` has (difference, p) of an arm's cell against the baseline."""
    p_values: list[float | None] = []
    signs = []
    for margin in margins:
        scales = [key[1] for key in cells if key[0] == baseline and key[2] == margin.budget]
        pairs = [judged.get((margin.arm, scale, margin.budget), (None, None)) for scale in scales]
        told = [(difference, p) for difference, p in pairs if difference is not None and p is not None]
        complete = len(told) == len(pairs) > 1 and len({difference < 0 for difference, _ in told}) == 1
        p_values.append(max(p for _, p in told) if complete else None)
        signs.append(complete and told[0][0] < 0)
    # An arm of which it is asked and which has no p counts in the correction all the same: it was looked at.
    corrected = holm([1.0 if p is None else p for p in p_values])
    made = []
    for margin, p, one, is_better in zip(margins, p_values, corrected, signs, strict=True):
        holds = p is not None and one < 1 - COVERAGE
        verdict: Literal["better", "worse", "not decided", "not judged"] = "not decided"
        if holds:
            verdict = "better" if is_better else "worse"
        elif one_seed(margin):
            verdict = "not judged"
        made.append(replace(margin, everywhere=verdict, p_everywhere=None if p is None else one))
    return made
