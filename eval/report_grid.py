"""What `eval.grid_analysis` found, as parts of a report: points, verdicts, margins, multipliers, fits. Nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from eval import exchange, learnt, plots_grid, table_kinds
from eval.grid_analysis import Analysis, PairVerdict, Point
from eval.multipliers import Multiplier
from eval.plots_grid import Look, Mark
from eval.report_groups import Group
from eval.report_verdicts import difference
from eval.results import Results
from eval.seed_intervals import NoiseKind
from eval.seed_noise import EXPLAINED, mark
from proxy_lm.report import NUM_COLOURS, Section, Table, number, si

MOST_PERCENT: Final = 10.0
"""Arms further from the baseline are left out of the second plot of margins, so that the others can be told apart."""
MANY_ARMS: Final = 6
"""Arms at one scale and budget from which on they are drawn one below the other."""


def drawn(analysis: Analysis, shown: Sequence[Group]) -> list[str]:
    """Arms that have lines in plots, in the order of the plan: all, or where that is more than there are colours the baseline and those
    with the fewest bits per byte in the last group that most arms have run."""
    names = list(dict.fromkeys(point.arm for point in analysis.points))
    if len(names) <= NUM_COLOURS:
        return names
    last = _last_run(analysis, shown)
    ranked = sorted((name for name in names if name != analysis.baseline), key=lambda name: _bits(analysis, name, last))
    best = {analysis.baseline, *ranked[: NUM_COLOURS - 1]}
    return [name for name in names if name in best]


def _last_run(analysis: Analysis, shown: Sequence[Group]) -> Group:
    """The last scale and budget at which more than half of the arms have a score; the first where there is none."""
    names = {point.arm for point in analysis.points}

    def most_ran(group: Group) -> bool:
        return sum(_bits(analysis, name, group) < math.inf for name in names) > len(names) / 2

    return next((group for group in reversed(shown) if most_ran(group)), shown[0])


def _bits(analysis: Analysis, arm: str, group: Group) -> float:
    point = analysis.point(arm, group.scale, group.budget)
    return math.inf if point is None or point.mean is None else point.mean


def said_of_drawn(analysis: Analysis, shown: Sequence[Group]) -> list[str]:
    """That some arms are not drawn, if so."""
    num_arms, names = len({point.arm for point in analysis.points}), drawn(analysis, shown)
    if len(names) == num_arms:
        return []
    where = f" at {_last_run(analysis, shown).name}" if len(shown) > 1 else ""
    return [f"Of {num_arms} arms, plots with lines have {analysis.baseline} and the {len(names) - 1} with the fewest bits per byte{where}."]


def look(title: str, analysis: Analysis, shown: Sequence[Group], **changes: object) -> Look:
    """Colours in the order of the arms, shapes in that of the scales."""
    scales = list(dict.fromkeys(group.scale for group in shown))
    colours = {name: index for index, name in enumerate(drawn(analysis, shown))}
    return Look(title, colours, scales, **changes)  # type: ignore[arg-type]


def main_plot(analysis: Analysis, shown: Sequence[Group]) -> list[Section]:
    """Bits per byte against training FLOPs, without and with the compressor; nothing where all arms stand at one scale and budget."""
    names = drawn(analysis, shown)
    done = [point for point in analysis.points if point.mean is not None and point.arm in names]
    if len(shown) < 2 or not done:
        return []
    seeds = max(len(point.seeds) for point in done)
    text = [
        "Each mark is an arm at a scale and budget"
        + (", the mean of its seeds; the bar goes from the lowest to the highest seed" if seeds > 1 else "")
        + ". A full line joins the first budget of each scale, a dashed one the budgets of a scale. What another choice of test projects "
        "would change moves all arms together, and is in the intervals of the table. Lower is better.",
        *said_of_drawn(analysis, shown),
    ]
    with_cost = any(point.flops_with_compressor > point.flops for point in done)
    if with_cost:
        text.append(
            "The second plot charges every run with the whole fitting and encoding of its view, as if no other used it, and a "
            "taught one with its teacher. The ledger says what a second costs."
        )

    def figures() -> list[str]:
        first = plots_grid.lines([_mark(point, point.flops) for point in done], look("bits per byte", analysis, shown))
        across = "training FLOPs and the compressor's"
        cost = [_mark(point, point.flops_with_compressor) for point in done]
        return [first, plots_grid.lines(cost, look("bits per byte", analysis, shown, across=across))] if with_cost else [first]

    return [Section("Bits per byte against training FLOPs", text, figures=figures, large=True)]


def _mark(point: Point, spent: float) -> Mark:
    assert point.mean is not None
    return Mark(point.arm, point.scale, point.budget, spent, point.mean, (min(point.values), max(point.values)))


def main_table(results: Results, analysis: Analysis, shown: Sequence[Group]) -> Table:
    """A row an arm, under a line for each scale and budget."""
    several = any(len(runs) > 1 for group in shown for runs in group.arms.values())
    seeds = ["seeds", "seed deviation"] if several else []
    against = [f"against {results.baseline}", "%", "p, corrected", "verdict"]
    spent = ["FLOPs", "with compressor", "source bytes"] if len(shown) == 1 and not several else []  # else in the ledger, for width
    columns = ["arm", *seeds, "bits per byte", "95 % interval", *against, *spent]
    rows: list[list[str]] = []
    marks: list[str] = []
    heads: dict[int, str] = {}
    for group in shown:
        if len(shown) > 1:
            heads[len(rows)] = group.title(results.baseline)
        for name in group.arms:
            point = analysis.point(name, group.scale, group.budget)
            assert point is not None, "every cell has a point"
            verdict = analysis.verdict(name, group.scale, group.budget)
            word = standing(point, verdict, results.baseline)
            rows.append(
                [
                    name,
                    *([finished_seeds(point), number(point.seed_deviation, 4)] if several else []),
                    number(point.mean, 4),
                    span(point.interval) + mark(point.seed_noise, point.interval),
                    difference(verdict),
                    "-" if verdict is None or verdict.relative is None else f"{100 * verdict.relative:+.2f}",
                    "-" if verdict is None else chance(verdict.p_corrected),
                    word,
                    *([si(point.flops), si(point.flops_with_compressor), si(point.source_bytes)] if spent else []),
                ]
            )
            marks.append(word)
    return Table(columns, rows, frozenset({0, columns.index("verdict")}), marks, heads)


def standing(point: Point, verdict: PairVerdict | None, baseline: str) -> str:
    """One word on a point: its verdict, or why it has none."""
    if point.mean is None:
        return "failed" if point.failed else "not run"
    return "baseline" if point.arm == baseline else verdict.verdict if verdict else "done"


def finished_seeds(point: Point) -> str:
    """'3', or '2 of 3' where a seed is missing."""
    all_seeds = len(point.seeds) + len(point.failed) + len(point.not_run)
    return str(all_seeds) if len(point.seeds) == all_seeds else f"{len(point.seeds)} of {all_seeds}"


def margins(results: Results, analysis: Analysis, shown: Sequence[Group]) -> list[Section]:
    """The relative difference from the baseline over scales and budgets, and whether it grows with scale."""
    names = drawn(analysis, shown)
    marks = [
        Mark(row.arm, gap.scale, row.budget, point.flops, gap.percent, gap.interval)
        for row in analysis.by_scale
        for gap in row.gaps
        if row.arm in names and (point := analysis.point(row.arm, gap.scale, row.budget)) is not None
    ]
    if len(shown) < 2 or not marks:
        return []
    order = {(group.scale, group.budget): place for place, group in enumerate(shown)}
    marks.sort(key=lambda mark: order[mark.scale, mark.budget])
    near = [arm for arm in dict.fromkeys(m.arm for m in marks) if all(abs(m.value) <= MOST_PERCENT for m in marks if m.arm == arm)]
    close = [mark for mark in marks if mark.arm in near]
    text = [
        f"Bits per byte of each arm against those of {results.baseline} at the same scale and budget, in percent of the latter, with the "
        "95 % interval of the two arms alone. Below the line is better. Arms that were matched stand a little beside each other."
    ]
    if close and len(close) < len(marks):
        text.append(f"The second plot has the arms that are within {MOST_PERCENT:g} % everywhere.")
    title = f"difference from {results.baseline}, %"

    def figures() -> list[str]:
        parts = [marks, close] if close and len(close) < len(marks) else [marks]
        return [plots_grid.lines(part, look(title, analysis, shown, level=0.0, dodged=True)) for part in parts]

    trends = [row for row in analysis.by_scale if row.slope is not None]
    table = None
    if trends:
        text.append(
            "Is an arm better at every scale? That needs each of them to say so, at 95 % and corrected for the arms and budgets of which "
            "it is asked. Does its margin grow? A slope below zero: the arm gains on the baseline as models and data grow together. Slopes "
            "and gaps are each alone at 95 %, not corrected for their number."
        )
        rows = []
        for row in trends:
            gaps = ", ".join(f"{gap.scale} {gap.percent:+.2f}{mark(gap.seed_noise, gap.interval)}" for gap in row.gaps)
            noise = mark(row.seed_noise, row.interval)
            bounds = "" if row.interval is None else f" ({row.interval[0]:+.2f} to {row.interval[1]:+.2f}){noise}"
            name = row.arm if row.budget is None else f"{row.arm}, {row.budget}"
            decided = row.everywhere in ("better", "worse")
            sure = f"{row.everywhere}{noise}, p {chance(row.p_everywhere)}" if decided else row.everywhere
            rows.append([name, gaps, sure, f"{row.slope:+.2f}{bounds}", row.trend + ("" if row.trend == "not decided" else noise)])
        columns = ["arm", "by scale, %", "at every scale", "% per tenfold of body parameters", "the arm"]
        table = Table(columns, rows, frozenset({0, 1, 2, 4}))
        text += table_kinds.below(table)
    return [Section("Difference from the baseline by scale", text, table, figures=figures, large=True)]


def multipliers(results: Results, analysis: Analysis, shown: Sequence[Group]) -> list[Section]:
    """How many times the baseline's compute an arm's bits per byte are worth; nothing where the baseline has no curve."""
    both = [*analysis.multipliers, *analysis.frontier_multipliers]
    if all(one.value is None and one.bound is None for one in both):
        return []
    text = [
        f"How many times an arm's FLOPs {results.baseline} needs for the same bits per byte: above 1 the arm needs less. Read from the "
        f"curve of {results.baseline} along its budgets at the same scale (more data for the same model), and along its scales at the same "
        "budget (model and data grown together). With the compressor: both charged with the whole fitting and encoding of their "
        "views, and with their teacher where they have one.",
        *exchange.said(results),
    ]

    if any(one.kind == "beyond the measured range" for one in both):
        text.append(
            f"Marked {_MARK}: {results.baseline} would reach it outside the compute that it was measured at, so its curve is prolonged."
        )
    text.append("In the plots twice and half stand equally far from 1. An arm of which there is only a bound is in the table alone.")
    text += [f"A dash: {reason}." for reason in dict.fromkeys(one.reason for one in both if one.kind == "not defined")]

    names = drawn(analysis, shown)

    def figures() -> list[str]:
        plots = []
        for found, title in (
            (analysis.multipliers, "multiplier along budgets"),
            (analysis.frontier_multipliers, "multiplier along scales"),
        ):
            marks = [_multiplier_mark(one, analysis) for one in found if one.value is not None and one.arm in names]
            if marks:
                plots.append(plots_grid.lines(marks, look(title, analysis, shown, level=1.0, dodged=True, ratio=True)))
        return plots

    table = multiplier_table(results, analysis, shown)
    return [Section("Compute multiplier", [*text, *table_kinds.below(table)], table, figures=figures, large=True)]


def _multiplier_mark(one: Multiplier, analysis: Analysis) -> Mark:
    point = analysis.point(one.arm, one.scale, one.budget)
    assert point is not None
    assert one.value is not None
    return Mark(one.arm, one.scale, one.budget, point.flops, one.value, one.interval)


def multiplier_table(results: Results, analysis: Analysis, shown: Sequence[Group]) -> Table:
    """A row an arm, under a line for each scale and budget."""
    rows: list[list[str]] = []
    heads: dict[int, str] = {}
    for group in shown:
        heads[len(rows)] = group.title(results.baseline)
        for arm in group.arms:
            found = [
                next((one for one in part if (one.arm, one.scale, one.budget) == (arm, group.scale, group.budget)), None)
                for part in (analysis.multipliers, analysis.frontier_multipliers)
            ]
            if any(found):
                rows.append([arm, *(cell for one in found for cell in _multiplier_cells(one))])
    return Table(["arm", "along budgets", "with compressor", "along scales", "with compressor"], rows, heads=heads)


def _multiplier_cells(one: Multiplier | None) -> list[str]:
    """Value, and value with the compressor; marked where they are not simply measured."""
    if one is None or (one.value is None and one.bound is None):
        return ["-", "-"]
    told = ("" if one.kind == "measured" else f" {_MARK}") + mark(one.seed_noise, one.interval)
    return [one.text + told, one.with_compressor.text + (told if one.value is not None else "")]


_MARK: Final = "(*)"


def beyond_raw(results: Results, analysis: Analysis) -> list[Section]:
    """Arms asked in raw bytes against the baseline of as many; nothing where no line can be made."""
    if all(line.expected is None for line in analysis.told):
        return []
    return [_section("Beyond the raw bytes told", *table_kinds.told(results, analysis, {}))]


def compressed(results: Results, analysis: Analysis) -> list[Section]:
    """How much arms that are asked in symbols have learnt of them; nothing where all are asked in bytes."""
    if all(run.view == "raw" for run in results.finished):
        return []
    return [_section("Learnt of compressed text", *learnt.learnt(results, analysis, {}))]


def _section(title: str, text: str, table: Table) -> Section:
    """A table of the READMEs, without the marks that Markdown has for names."""
    plain = replace(table, rows=[[cell.replace("`", "") for cell in row] for row in table.rows])
    return Section(title, [text.replace("`", ""), *table_kinds.below(table)], plain)


def fits(results: Results, analysis: Analysis) -> list[Section]:
    """What was fitted to each arm; only the reason where nothing could be."""
    made = [fit for fit in analysis.fits if fit.form != "none"]
    if not made:
        return []
    names = list(dict.fromkeys(name for fit in made for name in fit.values))
    mixed = any(fit.form != "parameters and data" for fit in analysis.fits)
    rows = []
    for fit in analysis.fits:
        cells = [_fitted(fit.values.get(name), fit.intervals.get(name), fit.seed_noise) for name in names]
        at = "" if fit.budget is None else f", {fit.budget}"
        error = "-" if fit.error is None else f"{100 * fit.error:.2f}"
        rows.append([fit.arm, *([_FORMS[fit.form] + at] if mixed else []), *cells, str(fit.num_points), error])
    text = [
        "Bits per byte as E + A/N^alpha + B/D^beta, N body parameters and D bytes of source told, by the robust fit of Hoffmann et al. "
        "2022 (approach 3); where N and D cannot be told apart, as K/C^gamma, C training FLOPs, through the scales of one budget. "
        "Intervals draw runs again. A law that describes these points need not hold beyond them."
    ]
    reasons = dict.fromkeys(f"No fit of N and D for {fit.arm}: {fit.reason}." for fit in analysis.fits if fit.reason)
    columns = ["arm", *(["fit"] if mixed else []), *names, "points", "error, %"]
    table = Table(columns, rows, frozenset({0, 1} if mixed else {0}))
    return [Section("Fits", [*text, *table_kinds.below(table)], table, points=list(reasons))]


_FORMS: Final = {"parameters and data": "N, D", "compute": "C", "none": "none"}


def _fitted(value: float | None, bounds: tuple[float, float] | None, noise: NoiseKind) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if bounds is None else f"{value:.3g} ({bounds[0]:.3g} to {bounds[1]:.3g}){mark(noise, bounds)}"


def ablations(results: Results, analysis: Analysis, shown: Sequence[Group]) -> list[Section]:
    """Where many arms stand at one scale and budget: one below the other, the best on top."""
    found = []
    for group in shown:
        marks = [
            Mark(v.arm + mark(v.seed_noise, v.interval), v.scale, v.budget, 0.0, v.difference, v.interval, v.verdict)
            for v in analysis.verdicts
            if (v.scale, v.budget, v.against) == (group.scale, group.budget, results.baseline) and v.difference is not None
        ]
        if len(marks) < MANY_ARMS - 1:
            continue
        text = [
            f"{group.title(results.baseline)}. Difference in bits per byte from {results.baseline}, the best arm on top, with the 95 % "
            "interval of the two arms alone. Coloured: better or worse after the correction for all pairs.",
            *(EXPLAINED[sign] for sign in EXPLAINED if any(one.arm.endswith(sign) for one in marks)),
        ]
        title = "Arms in order" + (f": {group.name}" if group.name else "")
        axis = f"difference from {results.baseline}, bits per byte"
        found.append(Section(title, text, figures=partial(_dots, marks, axis), large=True, legend=False))
    return found


def _dots(marks: Sequence[Mark], axis: str) -> list[str]:
    return [plots_grid.dots(marks, axis)]


def span(bounds: tuple[float, float] | None) -> str:
    """An interval."""
    return "-" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def chance(p: float | None) -> str:
    """A probability in two digits; very small ones as a bound."""
    return "-" if p is None else "< 0.0001" if p < 0.0001 else f"{p:.2g}"
