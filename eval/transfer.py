"""What predicts the raw-byte gain of a recipe: translation, alignment, or the stability of its view? Across recipes of kept comparisons.

    found = recipes(kept, analysis)                one entry an arm, scale and budget that is asked in raw bytes and told by views
    associations(found)                            one for each of PREDICTORS, corrected together; `transfer_report.py` spells and draws

The gain is the percent of the baseline's bits per byte that an arm saves. A predictor is a number of the arm's evaluations or of its views.
A recipe is one point, the mean over its seeds: three runs of one recipe are not three facts about recipes. Rank correlation (Spearman) is
taken inside each comparison, scale and budget, and pooled over them by their number of recipes, so that a larger model, which is better at
everything, does not look like a prediction. What is a fact of a view counts views, since ten recipes of one view are one fact.

p is how often exchanging the predictor between recipes (views) that stand in the same places gives a correlation as far from 0: all
exchanges up to `MOST_EXCHANGES`, else as many drawn. p is corrected by Holm over the correlations that have one, and the word for each
follows from that. The interval draws recipes (views) again, one draw for all places in which they stand; it is 95 % for each alone.

Not promised: that a correlation over a few recipes is a cause. With fewer than `MIN_DRAWN` recipes (views) there is neither interval nor p.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from eval.fact_evidence import Analyses
from eval.grid_analysis import Analysis
from eval.intervals import COVERAGE, NUM_DRAWS
from eval.kept import STABILITY, effective_views
from eval.results import ArmResult, Results
from eval.seed_intervals import holm

Floats = npt.NDArray[np.float64]
Column = tuple[npt.NDArray[np.int64], Floats, Floats]
"""Of the points of a group: index of the recipe or view, predictor, gain."""

MIN_DRAWN: Final = 5
MOST_EXCHANGES: Final = 5040
_MOST_UNDEFINED = 0.05


Group = tuple[str, str | None, str | None]
"""Comparison, scale, budget."""


@dataclass(frozen=True)
class Recipe:
    """An arm at a scale and budget, as a point."""

    comparison: str
    arm: str
    scale: str | None
    budget: str | None
    gain: float
    """Percent of the baseline's bits per byte on raw bytes; negative is a loss."""
    measured: Mapping[str, float]
    """Predictors by their keys, those that there are."""
    views: str
    """Fingerprints of its views."""
    runs: tuple[tuple[float, Mapping[str, float]], ...] = ()
    """Gain and predictors of each seed, to be drawn; all numbers are of the mean."""

    @property
    def group(self) -> Group:
        """Recipes of one group are compared with each other."""
        return self.comparison, self.scale, self.budget


@dataclass(frozen=True)
class Predictor:
    """A number that might tell the gain."""

    key: str
    title: str
    of_run: Callable[[str, Mapping[str, Any]], float | None] | None
    """Reads it from one evaluation (file name, result); None: it is a fact of the arm's views."""
    expected: str
    """Sign of the correlation if it tells."""

    def drawn(self, recipe: Recipe) -> str:
        """What the recipe is drawn by: itself, or its views."""
        return recipe.views if self.of_run is None else recipe.arm


def _translated(stem: str, result: Mapping[str, Any]) -> float | None:
    """Bits per byte of raw bytes that their own telling saves, beside a stranger's."""
    if not stem.startswith("translate"):
        return None
    bits = result["bits_per_byte"]
    change = (bits.get("raw_change_beside_stranger") or bits["raw_change"])["value"]
    return None if change is None else -float(change)


def _accuracy(stem: str, result: Mapping[str, Any]) -> float | None:
    if not stem.startswith("translate"):
        return None
    forced = result["view_to_raw"]["teacher_forced"]
    right, without = forced["accuracy"]["value"], (forced.get("accuracy_without") or {}).get("value")
    return None if right is None or without is None else 100 * (float(right) - float(without))


def _retrieved(stem: str, result: Mapping[str, Any]) -> float | None:
    """Share of spans whose other telling is the nearest after a rotation, both ways, in percent."""
    best = result["best_layer"]["rotated"] if stem.startswith("align") else None
    if best is None:
        return None
    found = result["layers"][best]["rotated"]["retrieval"]
    return 50 * (float(found["raw_to_view"]["value"]) + float(found["view_to_raw"]["value"]))


MOVED: Final = "moved"
PREDICTORS: Final = (
    Predictor("translation", "translation: bits per byte saved by the view's telling, beside a stranger's", _translated, "+"),
    Predictor("accuracy", "translation: bytes right with the view's telling less without, %", _accuracy, "+"),
    Predictor("retrieval", "alignment: spans retrieved after rotation, %", _retrieved, "+"),
    Predictor(MOVED, "instability: symbols moved by deleting 10 % of the characters", None, "-"),
)


def recipes(kept: Mapping[str, Results], analysis: Analyses) -> list[Recipe]:
    """All recipes that were asked in raw bytes, told by at least one view, and have a baseline beside them."""
    return [recipe for name, results in kept.items() for recipe in recipes_of(results, analysis(name))]


def recipes_of(results: Results, analysis: Analysis) -> list[Recipe]:
    """Those of one comparison."""
    found = []
    for verdict in analysis.verdicts:
        place_of = verdict.scale, verdict.budget
        runs = [r for r in results.finished if (r.name, r.scale, r.budget) == (verdict.arm, *place_of)]
        told = effective_views(results, verdict.arm)
        base = analysis.point(results.baseline, *place_of)
        if verdict.against != results.baseline or verdict.relative is None or not told or any(run.view != "raw" for run in runs):
            continue
        assert base is not None
        assert base.mean is not None
        views = [results.views.get(view, {}) for view in told]
        seeds = tuple((100 * (1 - (run.bits_per_byte or 0.0) / base.mean), _predictors([run], views)) for run in runs)
        gain, prints = -100 * verdict.relative, _fingerprints(views)
        found.append(Recipe(results.name, verdict.arm, *place_of, gain, _predictors(runs, views), prints, seeds))
    return found


def _predictors(runs: Sequence[ArmResult], views: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {p.key: value for p in PREDICTORS if (value := _measured(p, runs, views)) is not None}


def _fingerprints(views: Sequence[Mapping[str, Any]]) -> str:
    return " ".join(sorted(str(view.get("fingerprint")) for view in views))


def _measured(predictor: Predictor, runs: Sequence[ArmResult], views: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean over seeds, or over views; None where one of the views has no number or no seed was asked."""
    if predictor.of_run is None:
        moved = [view.get(STABILITY, {}).get("mean") for view in views]
        return None if any(value is None for value in moved) else math.fsum(moved) / len(moved)
    values = [value for run in runs for stem, result in run.evaluations.items() if (value := predictor.of_run(stem, result)) is not None]
    return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True)
class Association:
    """Rank correlation of a predictor with the gain."""

    predictor: Predictor
    value: float | None
    """Spearman's, pooled; None with too few recipes, or where nothing differs."""
    interval: tuple[float, float] | None
    p: float | None
    p_corrected: float | None
    """Holm over all correlations that were asked together and have a p."""
    num_drawn: int
    """Different arms; of a fact of views, different views."""
    num_points: int
    reason: str
    """Why there is no value, interval or p; else empty."""

    @property
    def verdict(self) -> str:
        """In words."""
        if self.value is None or self.p_corrected is None:
            return "not decided"
        if self.p_corrected >= 1 - COVERAGE:
            return "tells nothing that we can see"
        return "predicts" if ("+" if self.value > 0 else "-") == self.predictor.expected else "predicts the opposite"


def associations(found: Sequence[Recipe], *, num_draws: int = NUM_DRAWS, seed: int = 0) -> list[Association]:
    """One for each predictor, p corrected for all that have one."""
    each = [association(found, predictor, num_draws=num_draws, seed=seed) for predictor in PREDICTORS]
    corrected = iter(holm([one.p for one in each if one.p is not None]))
    return [one if one.p is None else replace(one, p_corrected=next(corrected)) for one in each]


def association(found: Sequence[Recipe], predictor: Predictor, *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Association:
    """Spearman's correlation inside groups, pooled, with the interval over recipes drawn again, and p, as if asked alone."""
    points = [recipe for recipe in found if predictor.key in recipe.measured]
    groups = {group: [r for r in points if r.group == group] for group in dict.fromkeys(r.group for r in points)}
    useful = [members for members in groups.values() if len(members) > 2]
    units = sorted({predictor.drawn(r) for members in useful for r in members})
    num_drawn, num_points = len(units), sum(map(len, useful))
    what = "recipes" if predictor.of_run is not None else "views"

    def without(reason: str, value: float | None = None) -> Association:
        return Association(predictor, value, None, None, None, num_drawn, num_points, reason)

    if num_drawn < 3:
        return without(f"too few: {num_drawn} {what} beside each other have both numbers, {MIN_DRAWN} are needed")
    columns = [_columns(members, units, predictor) for members in useful]
    value = float(pooled(columns, np.ones((1, num_drawn)))[0])
    if math.isnan(value):
        return without(f"it is the same for all {what}")
    if num_drawn < MIN_DRAWN:
        return without(f"too few: {num_drawn} {what} have both numbers, {MIN_DRAWN} are needed", value)
    generator = np.random.Generator(np.random.Philox(key=[seed, 2]))
    times = generator.multinomial(num_drawn, np.full(num_drawn, 1 / num_drawn), size=num_draws).astype(np.float64)
    draws = pooled(columns, times)
    draws = draws[np.isfinite(draws)]
    if len(draws) < (1 - _MOST_UNDEFINED) * num_draws:
        return without("too many draws in which nothing differs", value)
    low, high = np.quantile(draws, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    p = exchanged(columns, num_drawn, abs(value), seed)
    return Association(predictor, value, (float(low), float(high)), p, p, num_drawn, num_points, "")


def exchanged(groups: Sequence[Column], num_units: int, size: float, seed: int = 0) -> float:
    """Share of exchanges of the predictor between units that stand in the same groups with a pooled correlation of `size` or more."""
    where = [tuple(unit in index for index, _, _ in groups) for unit in range(num_units)]
    strata = [[unit for unit in range(num_units) if where[unit] == one] for one in dict.fromkeys(where)]
    if math.prod(math.factorial(len(stratum)) for stratum in strata) <= MOST_EXCHANGES:
        every = itertools.product(*(itertools.permutations(stratum) for stratum in strata))
        taken_DU = np.array([list(itertools.chain(*parts)) for parts in every])
    else:
        generator = np.random.Generator(np.random.Philox(key=[seed, 3]))
        drawn = [[generator.permutation(stratum) for stratum in strata] for _ in range(MOST_EXCHANGES - 1)]
        taken_DU = np.array([np.concatenate(strata), *(np.concatenate(parts) for parts in drawn)])  # what was seen is one of them
    taken_DU = taken_DU[:, np.argsort(np.concatenate(strata))]
    total, counts = np.zeros(len(taken_DU)), 0
    for index, predictor, gain in groups:
        by_unit = np.full(num_units, np.nan)
        by_unit[index] = predictor
        total += len(index) * _correlations(by_unit[taken_DU[:, index]], gain)
        counts += len(index)
    return float(np.mean(~(np.abs(total / counts) < size - 1e-9)))  # one without a correlation counts as one that is as large


def _correlations(a_DN: Floats, b_N: Floats) -> Floats:
    """Spearman's correlation of each row with `b_N`: [D], nan where a row is all equal."""
    below, same = a_DN[:, None, :] < a_DN[:, :, None], a_DN[:, None, :] == a_DN[:, :, None]
    x_DN = below.sum(axis=2) + same.sum(axis=2) / 2
    y_N = _ranks(b_N, np.ones((1, len(b_N))))[0]
    x_DN, y_N = x_DN - x_DN.mean(axis=1, keepdims=True), y_N - y_N.mean()
    with np.errstate(invalid="ignore"):
        found: Floats = x_DN @ y_N / np.sqrt((x_DN**2).sum(axis=1) * (y_N @ y_N))
    return found


def _columns(members: Sequence[Recipe], units: Sequence[str], predictor: Predictor) -> Column:
    """Index of what is drawn, predictor and gain of each recipe of a group."""
    index = np.array([units.index(predictor.drawn(r)) for r in members], dtype=np.int64)
    return index, np.array([r.measured[predictor.key] for r in members]), np.array([r.gain for r in members])


def pooled(groups: Sequence[Column], times_DU: Floats) -> Floats:
    """Mean of the groups' Spearman correlations by their number of points, unit u taken `times_DU` times: [D], nan where none has one."""
    found = np.stack([spearman(predictor, gain, times_DU[:, index]) for index, predictor, gain in groups])
    counts = np.stack([times_DU[:, index].sum(axis=1) for index, _, _ in groups]) * np.isfinite(found)
    with np.errstate(invalid="ignore"):
        mean: Floats = (np.where(counts > 0, found, 0.0) * counts).sum(axis=0) / counts.sum(axis=0)
    return mean


def spearman(a_N: Floats, b_N: Floats, times_DN: Floats) -> Floats:
    """Correlation of ranks where point n stands `times_DN` times in draw d, ties at their mean rank: [D], nan with fewer than 3 points or
    where one side is all equal."""
    total = times_DN.sum(axis=1, keepdims=True)
    x, y = (_ranks(values, times_DN) - (total + 1) / 2 for values in (a_N, b_N))
    size = np.sqrt((times_DN * x**2).sum(axis=1) * (times_DN * y**2).sum(axis=1))
    found: Floats = np.full(len(times_DN), np.nan)
    np.divide((times_DN * x * y).sum(axis=1), size, out=found, where=(size > 0) & (total[:, 0] >= 3))
    return found


def _ranks(values_N: Floats, times_DN: Floats) -> Floats:
    """Ranks from 1 of each point among all repetitions, equal values at the mean of theirs: [D, N]."""
    below, same = values_N[None, :] < values_N[:, None], values_N[None, :] == values_N[:, None]
    ranks: Floats = times_DN @ below.T + (times_DN @ same.T + 1) / 2
    return ranks
