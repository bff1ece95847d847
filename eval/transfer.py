"""What predicts the raw-byte gain of a recipe: translation, alignment, or the stability of its view? Across recipes of kept comparisons.

    found = recipes(kept, analysis)                one entry an arm, scale and budget that is asked in raw bytes and told by views
    for predictor in PREDICTORS: association(found, predictor)

The gain is the percent of the baseline's bits per byte that an arm saves. A predictor is a number of the arm's evaluations (mean over
seeds) or of its views. Rank correlation (Spearman) is taken inside each comparison, scale and budget, and pooled over them by their number
of recipes, so that a larger model, which is better at everything, does not look like a prediction. The interval draws recipes (arms)
again, one draw for all scales and comparisons in which they stand; what is a fact of a view draws views again, since ten recipes of one
view are one fact.

Not promised: that a correlation over a few recipes is a cause. With fewer than `MIN_DRAWN` recipes (views) there is no interval and nothing
is decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.files import write_bytes
from eval.facts import Analyses, place
from eval.intervals import COVERAGE, NUM_DRAWS
from eval.kept import STABILITY, effective_views
from eval.results import ArmResult, Results
from proxy_lm import plotting
from proxy_lm.report import Content, Section, Table, html, markdown, number

Floats = npt.NDArray[np.float64]

MIN_DRAWN: Final = 5
_MOST_UNDEFINED = 0.05
_NAME_LENGTH, _NAME_HEIGHT = 0.18, 0.045  # of a plot


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

    @property
    def group(self) -> tuple[str, str | None, str | None]:
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
    found = []
    for name, results in kept.items():
        for verdict in analysis(name).verdicts:
            runs = [r for r in results.finished if (r.name, r.scale, r.budget) == (verdict.arm, verdict.scale, verdict.budget)]
            told = effective_views(results, verdict.arm)
            if verdict.against != results.baseline or verdict.relative is None or not told or any(run.view != "raw" for run in runs):
                continue
            views = [results.views.get(view, {}) for view in told]
            measured = {p.key: value for p in PREDICTORS if (value := _measured(p, runs, views)) is not None}
            found.append(Recipe(name, verdict.arm, verdict.scale, verdict.budget, -100 * verdict.relative, measured, _fingerprints(views)))
    return found


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
    num_drawn: int
    """Different arms; of a fact of views, different views."""
    num_points: int
    reason: str
    """Why there is no value or interval; else empty."""

    @property
    def verdict(self) -> str:
        """In words."""
        if self.value is None or self.interval is None:
            return "not decided"
        low, high = self.interval
        sign = "+" if low > 0 else "-" if high < 0 else ""
        return "tells nothing that we can see" if not sign else "predicts" if sign == self.predictor.expected else "predicts the opposite"


def association(found: Sequence[Recipe], predictor: Predictor, *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Association:
    """Spearman's correlation inside groups, pooled, with the interval over recipes drawn again."""
    points = [recipe for recipe in found if predictor.key in recipe.measured]
    groups = {group: [r for r in points if r.group == group] for group in dict.fromkeys(r.group for r in points)}
    useful = [members for members in groups.values() if len(members) > 2]
    units = sorted({predictor.drawn(r) for members in useful for r in members})
    num_drawn, num_points = len(units), sum(map(len, useful))
    what = "recipes" if predictor.of_run is not None else "views"
    if num_drawn < 3:
        return Association(predictor, None, None, num_drawn, num_points, f"{num_drawn} {what} beside each other; at least 3 have ranks")
    columns = [_columns(members, units, predictor) for members in useful]
    value = float(pooled(columns, np.ones((1, num_drawn)))[0])
    if math.isnan(value):
        return Association(predictor, None, None, num_drawn, num_points, f"it is the same for all {what}")
    if num_drawn < MIN_DRAWN:
        return Association(predictor, value, None, num_drawn, num_points, f"{num_drawn} {what}; an interval needs {MIN_DRAWN}")
    generator = np.random.Generator(np.random.Philox(key=[seed, 2]))
    times = generator.multinomial(num_drawn, np.full(num_drawn, 1 / num_drawn), size=num_draws).astype(np.float64)
    draws = pooled(columns, times)
    draws = draws[np.isfinite(draws)]
    if len(draws) < (1 - _MOST_UNDEFINED) * num_draws:
        return Association(predictor, value, None, num_drawn, num_points, "too many draws in which nothing differs")
    low, high = np.quantile(draws, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Association(predictor, value, (float(low), float(high)), num_drawn, num_points, "")


def _columns(members: Sequence[Recipe], units: Sequence[str], predictor: Predictor) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Index of what is drawn, predictor and gain of each recipe of a group."""
    index = np.array([units.index(predictor.drawn(r)) for r in members], dtype=np.int64)
    return index, np.array([r.measured[predictor.key] for r in members]), np.array([r.gain for r in members])


def pooled(groups: Sequence[tuple[npt.NDArray[np.int64], Floats, Floats]], times_DU: Floats) -> Floats:
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


def table(found: Sequence[Recipe]) -> tuple[list[str], Table]:
    """Each predictor's correlation with the gain."""
    rows = []
    for predictor in PREDICTORS:
        one = association(found, predictor)
        bounds = "" if one.interval is None else f" ({one.interval[0]:+.2f} to {one.interval[1]:+.2f})"
        value = "-" if one.value is None else f"{one.value:+.2f}{bounds}"
        counts = f"{one.num_points} points, {one.num_drawn} {'recipes' if predictor.of_run is not None else 'views'}"
        rows.append([predictor.title, value, predictor.expected, counts, one.reason or one.verdict])
    names = sorted({recipe.comparison for recipe in found})
    text = (
        f"Recipes asked in raw bytes, from: {', '.join(names) or 'no kept comparison'}. Spearman's correlation with the percent of the "
        "baseline's bits per byte that a recipe saves, inside each comparison, scale and budget, pooled; 95 % over recipes (views)."
    )
    return [text], Table(["what might tell the gain", "correlation", "expected", "of", "it"], rows, frozenset({0, 3, 4}))


def points_table(found: Sequence[Recipe]) -> Table:
    """The runs as points."""
    rows = [
        [place(r.comparison, r.scale, r.budget), r.arm, f"{r.gain:+.2f}", *(number(r.measured.get(p.key), 3) for p in PREDICTORS)]
        for r in sorted(found, key=lambda r: (r.comparison, str(r.scale), str(r.budget), -r.gain))
    ]
    return Table(["where", "recipe", "gain, %", *(p.key for p in PREDICTORS)], rows, frozenset({0, 1}))


def figures(found: Sequence[Recipe]) -> list[str]:
    """A plot a predictor: recipes as points, a colour for each comparison, scale and budget."""
    groups = list(dict.fromkeys(place(*recipe.group) for recipe in found))
    drawn = []
    for predictor in PREDICTORS:
        points = [recipe for recipe in found if predictor.key in recipe.measured]
        if points:
            drawn.append(plotting.draw(f"gain against {predictor.title}", _filled(points, predictor, groups)))
    return drawn


def _filled(points: Sequence[Recipe], predictor: Predictor, groups: Sequence[str]) -> Callable[[Any], None]:
    def fill(plot: Any) -> None:
        for index, group in enumerate(groups):
            members = [recipe for recipe in points if place(*recipe.group) == group]
            x, y = [r.measured[predictor.key] for r in members], [r.gain for r in members]
            plot.plot(x, y, "o", color=plotting.colour(index), markersize=5)
        for recipe in _with_room(points, predictor.key):
            at = recipe.measured[predictor.key], recipe.gain
            plot.annotate(recipe.arm, at, xytext=(4, 3), textcoords="offset points", fontsize=7)
        plot.axhline(0, color=plotting.INK, linewidth=0.8)
        plot.set_xlabel(predictor.title.replace(": ", ":\n", 1), fontsize=8)
        plot.set_ylabel("raw-byte gain, %")

    return fill


def _with_room(points: Sequence[Recipe], key: str) -> list[Recipe]:
    """Points whose names do not stand on each other's: none is named within a name's length and height of another."""
    width, height = (float(np.ptp(value)) or 1.0 for value in ([r.measured[key] for r in points], [r.gain for r in points]))
    named: list[Recipe] = []
    for recipe in sorted(points, key=lambda r: -abs(r.gain)):
        off = ((abs(recipe.measured[key] - n.measured[key]) / width, abs(recipe.gain - n.gain) / height) for n in named)
        if all(x > _NAME_LENGTH or y > _NAME_HEIGHT for x, y in off):
            named.append(recipe)
    return named


def write(found: Sequence[Recipe], folder: Path) -> None:
    """`transfer.html` and `transfer.md` in `folder`."""
    text, correlations = table(found)
    content = Content(
        "What transfers",
        "Does translation, alignment or the stability of a view tell how much a recipe gains on raw bytes?",
        [
            Section("Answer", text, correlations),
            Section(
                "Points", ["A point is a recipe; names where there is room, all numbers below."], figures=lambda: figures(found), large=True
            ),
            Section("Numbers", ["Gain: percent of the baseline's bits per byte saved."], points_table(found)),
        ],
    )
    write_bytes(folder / "transfer.md", markdown(content).replace("report.html", "transfer.html").encode())
    write_bytes(folder / "transfer.html", html(content, list(dict.fromkeys(place(*recipe.group) for recipe in found))).encode())
