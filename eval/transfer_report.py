"""What predicts the raw-byte gain, spelled and drawn: a table of correlations, recipes and their runs as points, all numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from compressors.files import write_bytes
from eval.fact_evidence import place
from eval.grid_analysis import Analysis
from eval.results import Results
from eval.transfer import PREDICTORS, Group, Predictor, Recipe, associations, recipes_of
from proxy_lm import plotting
from proxy_lm.report import Content, Section, Table, html, markdown, number

_NAME_LENGTH, _NAME_HEIGHT = 0.18, 0.045  # of a plot
_FEWEST: Final = 3


def table(found: Sequence[Recipe]) -> tuple[list[str], Table]:
    """Each predictor's correlation with the gain."""
    rows, asked = [], associations(found)
    for one in asked:
        bounds = "" if one.interval is None else f" ({one.interval[0]:+.2f} to {one.interval[1]:+.2f})"
        value = "-" if one.value is None else f"{one.value:+.2f}{bounds}"
        counts = f"{one.num_points} points, {one.num_drawn} {'recipes' if one.predictor.of_run is not None else 'views'}"
        chance = "-" if one.p_corrected is None else f"{one.p_corrected:.2g}"
        rows.append([one.predictor.title, value, one.predictor.expected, counts, chance, one.reason or one.verdict])
    names = sorted({recipe.comparison for recipe in found})
    num_tests = sum(one.p is not None for one in asked)
    text = (
        f"Recipes asked in raw bytes, from: {', '.join(names) or 'no kept comparison'}. Spearman's correlation with the percent of the "
        "baseline's bits per byte that a recipe saves, inside each comparison, scale and budget, pooled; a recipe is one point, the mean "
        "of its seeds, and a fact of a view counts once a view. Intervals 95 % over recipes (views), each alone; p by exchanging recipes "
        f"(views), corrected for the {num_tests} correlation{'' if num_tests == 1 else 's'} that can be tested (Holm)."
    )
    columns = ["what might tell the gain", "correlation (95 %)", "expected", "of", "p, corrected", "it"]
    return [text], Table(columns, rows, frozenset({0, 3, 5}))


def points_table(found: Sequence[Recipe]) -> Table:
    """The runs as points."""
    rows = [
        [place(r.comparison, r.scale, r.budget), r.arm, f"{r.gain:+.2f}", *(number(r.measured.get(p.key), 3) for p in PREDICTORS)]
        for r in sorted(found, key=lambda r: (r.comparison, str(r.scale), str(r.budget), -r.gain))
    ]
    return Table(["where", "recipe", "gain, %", *(p.key for p in PREDICTORS)], rows, frozenset({0, 1}))


def figures(found: Sequence[Recipe]) -> list[str]:
    """A plot a predictor: recipes as dots, their runs as rings, a colour for each comparison, scale and budget."""
    groups = list(dict.fromkeys(recipe.group for recipe in found))
    several = len({recipe.comparison for recipe in found}) > 1
    drawn = []
    for predictor in PREDICTORS:
        points = [recipe for recipe in found if predictor.key in recipe.measured]
        if points:
            labels = {group: place(*group) if several else ", ".join(part for part in group[1:] if part is not None) for group in groups}
            drawn.append(plotting.draw(f"gain against {predictor.title}", _filled(points, predictor, labels), width=5.0, height=3.6))
    return drawn


def _filled(points: Sequence[Recipe], predictor: Predictor, labels: Mapping[Group, str]) -> Callable[[Any], None]:
    def fill(plot: Any) -> None:
        shown = {recipe.group for recipe in points}
        for index, (group, label) in enumerate(labels.items()):
            members = [recipe for recipe in points if recipe.group == group]
            if not members:
                continue
            runs = [(told[predictor.key], gain) for r in members if len(r.runs) > 1 for gain, told in r.runs if predictor.key in told]
            style: dict[str, Any] = {"color": plotting.colour(index), "linestyle": ""}
            plot.plot([x for x, _ in runs], [y for _, y in runs], marker="o", markersize=4, fillstyle="none", markeredgewidth=0.7, **style)
            means = [(r.measured[predictor.key], r.gain) for r in members]
            plot.plot([x for x, _ in means], [y for _, y in means], marker="o", markersize=5.5, label=label, **style)
        for recipe in _with_room(points, predictor.key):
            at = recipe.measured[predictor.key], recipe.gain
            plot.annotate(recipe.arm, at, xytext=(4, 3), textcoords="offset points", fontsize=7)
        if len(shown) > 1:
            plot.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, fontsize=8, handletextpad=0.1, borderaxespad=0.2)
        plot.axhline(0, color=plotting.SOFT, linewidth=1.2, zorder=0)
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


_POINTS: Final = (
    "A dot is a recipe, the mean of its seeds; rings are its runs. Higher is better: percent of the baseline's bits per byte saved. Names "
    "where there is room, all numbers below."
)


def sections(results: Results, analysis: Analysis) -> list[Section]:
    """Of one comparison's report, made from its results alone; nothing with fewer than three recipes that have a number that might tell
    their gain. How far a view moves is measured when results are kept."""
    found = [recipe for recipe in recipes_of(results, analysis) if recipe.measured]
    if len(found) < _FEWEST:
        return []
    text, correlations = table(found)
    return [
        Section("What transfers", [*text, _POINTS], correlations, figures=lambda: figures(found), large=True, legend=False),
        Section("What transfers: numbers", [], points_table(found), folded=True),
    ]


def write(found: Sequence[Recipe], folder: Path) -> None:
    """`transfer.html` and `transfer.md` in `folder`."""
    text, correlations = table(found)
    content = Content(
        "What transfers",
        "Does translation, alignment or the stability of a view tell how much a recipe gains on raw bytes?",
        [
            Section("Answer", text, correlations),
            Section("Points", [_POINTS], figures=lambda: figures(found), large=True, legend=False),
            Section("Numbers", ["Gain: percent of the baseline's bits per byte saved."], points_table(found)),
        ],
    )
    write_bytes(folder / "transfer.md", markdown(content).replace("report.html", "transfer.html").encode())
    write_bytes(folder / "transfer.html", html(content).encode())
