"""Kinds of tables of one comparison: which columns, in which order, and the sentence above them. Numbers come from `eval.grid_analysis`.

    text, table = KINDS["main"](results, analysis, {"scale": "s0"})

| kind | a row is | options |
|---|---|---|
| main | an arm at a scale and budget: bits per byte, against the baseline, verdict, cost | scale, budget, arms |
| gaps | an arm: its gap in percent of the baseline, a column for each scale and budget | scale, budget, arms |
| ranking | a recipe, best first: what it changes, its gap at each scale and budget | scale, budget, arms, first |
| multipliers | an arm at a scale and budget: how much of the baseline's compute it is worth | scale, budget, arms |
| growth | an arm at a budget: whether its margin grows with scale | budget, arms |
| told | an arm asked in raw bytes: its loss against what the baseline has of as many raw bytes | scale, budget, arms |
| learnt | an arm at a scale and budget: its bits per byte beside the uniform model's over the same symbols | |
| translation | an arm at a scale and budget: its raw bytes alone, after their telling by a view, after a stranger's | |
| fits | an arm: what was fitted to its runs | arms |
| rates | an arm at a scale: bits per byte of each learning rate that was tried, and the one taken | scale, arms |
| chunks | an arm at a scale, then classical compressors: compression rate by length of chunks | |
| sizes | the same: compression rate with the model's bytes, by size of data | |
| vocabularies | a vocabulary: compression rate and parameters at each scale | |

Options are lists with commas; without one, all. A number whose seed noise is borrowed or missing is marked; `below` explains.
Not promised: that a wide table is narrow; take fewer scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import yaml

from eval import compression_tables, exchange, learnt, report_search, teacher_scores, translation_table
from eval.grid_analysis import Analysis, PairVerdict, Point
from eval.kept import KEPT
from eval.margins import ByScale
from eval.multipliers import Multiplier
from eval.results import Results
from eval.seed_intervals import NoiseKind
from eval.seed_noise import EXPLAINED, RULE, mark
from proxy_lm.errors import RequestError
from proxy_lm.report import Table, number, si

Options = Mapping[str, str]
Made = tuple[str, Table]
_DIGITS = 3


def provenance(results: Results) -> str:
    """The line above a table: how to repeat it, when and where it ran, with which seeds."""
    days = sorted({arm.finished_on for arm in results.arms if arm.finished_on})
    when = "" if not days else f", {days[0]}" if len(days) == 1 else f", {days[0]} to {days[-1]}"
    machines = " and ".join(_machine(one) for one in (results.machine, *(results.machine.get("others") or ())))
    seeds = results.plan.get("seeds") or sorted({arm.seed for arm in results.arms})
    named = f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
    return f"`{results.command}`{when}, on {machines}; {named} (`{KEPT / results.name}.json`)."


def _machine(facts: Mapping[str, Any]) -> str:
    cores = facts.get("num_cores")
    return f"{facts.get('device', 'unknown machine')}{f', {cores} cores' if cores else ''}"


def span(bounds: tuple[float, float] | None, digits: int = _DIGITS, sign: str = "") -> str:
    """An interval in brackets; empty where there is none."""
    return "" if bounds is None else f" ({bounds[0]:{sign}.{digits}f} to {bounds[1]:{sign}.{digits}f})"


def gap(verdict: PairVerdict) -> str:
    """Difference with its interval, the mark of its seed noise, and percent."""
    if verdict.difference is None:
        return "-"
    percent = "" if verdict.relative is None else f", {100 * verdict.relative:+.1f} %"
    return f"{verdict.difference:+.{_DIGITS}f}{span(verdict.interval, sign='+')}{mark(verdict.seed_noise, verdict.interval)}{percent}"


def percent(verdict: PairVerdict | None) -> str:
    """The gap in percent and the verdict, losses in bold, with the mark of its seed noise."""
    if verdict is None or verdict.relative is None:
        return "-"
    word = f"**{verdict.verdict}**" if verdict.verdict == "worse" else verdict.verdict
    return f"{100 * verdict.relative:+.1f} %, {word}{mark(verdict.seed_noise, verdict.interval)}"


def meaning(analysis: Analysis) -> str:
    """What intervals and verdicts of a table are."""
    num_pairs = max((verdict.num_pairs for verdict in analysis.verdicts), default=0)
    corrected = f"; verdicts at 95 % after Holm's correction for {num_pairs} pairs" if num_pairs else ""
    return f"Intervals 95 % over seeds and projects{corrected}. {RULE if analysis.seed_pools else ''}".strip()


def below(table: Table) -> list[str]:
    """What the marks in a table mean, a line each; nothing for a table without marks."""
    return [explained for sign, explained in EXPLAINED.items() if any(sign in cell for row in table.rows for cell in row)]


def _chosen(options: Options, known: Mapping[str, list[str]], also: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Options as lists, each value one of `known`. Raises `RequestError` naming what is not."""
    found = {}
    for name, value in options.items():
        if name in also:
            continue
        if name not in known:
            raise RequestError(f"option '{name}' is none of this table; it has: {', '.join([*known, *also])}")
        found[name] = value.split(",")
        for one in found[name]:
            if one not in known[name]:
                raise RequestError(f"{name} '{one}' is not in this comparison; it has: {', '.join(known[name]) or 'none'}")
    return found


def _names(analysis: Analysis) -> dict[str, list[str]]:
    return {
        "scale": list(dict.fromkeys(p.scale for p in analysis.points if p.scale is not None)),
        "budget": list(dict.fromkeys(p.budget for p in analysis.points if p.budget is not None)),
        "arms": list(dict.fromkeys(p.arm for p in analysis.points)),
    }


def _is(wanted: Mapping[str, list[str]], **place: str | None) -> bool:
    return all(name not in wanted or value in wanted[name] for name, value in place.items())


def _points(analysis: Analysis, options: Options, also: tuple[str, ...] = ()) -> list[Point]:
    """The points asked for: by budget, then scale, then arm, the baseline first as it stands in the plan."""
    names = _names(analysis)
    wanted = _chosen(options, names, also)
    kept = [p for p in analysis.points if _is(wanted, scale=p.scale, budget=p.budget, arms=p.arm)]
    if not kept:
        raise RequestError("no cell of this comparison is in this table; take an option away")
    order = [("budget", "budget"), ("scale", "scale"), ("arms", "arm")]
    return sorted(kept, key=lambda p: tuple(0 if getattr(p, f) is None else names[name].index(getattr(p, f)) for name, f in order))


def _placed(points: list[Point]) -> list[tuple[str, Callable[[Point], str]]]:
    """Columns that say which scale and budget, where there are any."""
    columns: list[tuple[str, Callable[[Point], str]]] = []
    if any(p.scale is not None for p in points):
        columns.append(("scale", lambda p: p.scale or "-"))
    if any(p.budget is not None for p in points):
        columns.append(("budget", lambda p: p.budget or "-"))
    return [*columns, ("arm", lambda p: f"`{p.arm}`")]


def main(results: Results, analysis: Analysis, options: Options) -> Made:
    """The comparison's main table; scales and budgets where nothing was run are told in the sentence."""
    points, waiting = _begun(_points(analysis, options))
    views = {(arm.name, arm.scale, arm.budget): arm.view for arm in results.finished}

    def against(p: Point) -> tuple[str, str]:
        verdict = analysis.verdict(p.arm, p.scale, p.budget)
        if p.mean is None:
            return "-", "failed" if p.failed else "not run"
        if p.arm == analysis.baseline:
            return "", "baseline"
        return ("-", "no baseline") if verdict is None else (gap(verdict), percent(verdict).split(", ")[-1])

    placed = _placed(points)
    columns = [name for name, _ in placed]
    columns += ["asked in", "bits per byte (95 %)", "seeds", f"against `{analysis.baseline}` (95 %)", "verdict", "FLOPs", "with compressor"]
    rows = []
    for p in points:
        difference, verdict = against(p)
        failed = f", {len(p.failed)} failed" if p.failed else ""
        deviation = "" if p.seed_deviation is None else f", sd {p.seed_deviation:.{_DIGITS}f}"
        rows.append(
            [
                *(cell(p) for _, cell in placed),
                views.get((p.arm, p.scale, p.budget)) or "-",
                f"{number(p.mean, _DIGITS)}{span(p.interval)}{mark(p.seed_noise, p.interval)}",
                f"{len(p.seeds)}{deviation}{failed}",
                difference,
                verdict,
                si(p.flops),
                si(p.flops_with_compressor),
            ]
        )
    text = " ".join([meaning(analysis) + waiting, *exchange.said(results), *teacher_scores.said(results)])
    return text, Table(columns, rows, frozenset(range(len(placed) + 1)))


def _begun(points: list[Point]) -> tuple[list[Point], str]:
    """Points of scales and budgets of which some run has ended, and a sentence about the others."""
    begun = {(p.scale, p.budget) for p in points if p.mean is not None or p.failed}
    if not begun:
        return points, ""
    left = [group for group in _groups(points) if group not in begun]
    names = ", ".join(" ".join(part for part in group if part is not None) for group in left)
    return [p for p in points if (p.scale, p.budget) in begun], f" In the plan and not run: {names}." if left else ""


def _groups(points: list[Point]) -> list[tuple[str | None, str | None]]:
    return list(dict.fromkeys((p.scale, p.budget) for p in points))


def _group_title(group: tuple[str | None, str | None]) -> str:
    return ", ".join(part for part in group if part is not None) or "gap"


def gaps(results: Results, analysis: Analysis, options: Options) -> Made:
    """Percent of the baseline's bits per byte, an arm a row."""
    points = _points(analysis, options)
    groups = _groups(points)
    base = {(p.scale, p.budget): p for p in analysis.points if p.arm == analysis.baseline}
    rows = [[f"`{analysis.baseline}`, bits per byte", *(number(base[g].mean, _DIGITS) if g in base else "-" for g in groups)]]
    for arm in dict.fromkeys(p.arm for p in points if p.arm != analysis.baseline):
        rows.append([f"`{arm}`", *(percent(analysis.verdict(arm, *g)) for g in groups)])
    text = f"Bits per byte of each arm over those of `{analysis.baseline}`; less than 0 is better. {meaning(analysis)}"
    return text, Table(["arm", *map(_group_title, groups)], rows)


def ranking(results: Results, analysis: Analysis, options: Options) -> Made:
    """Recipes from the best to the worst: by their mean gap, those first that ran at most scales and budgets."""
    points = _points(analysis, options, also=("first",))
    groups = _groups(points)
    found: dict[str, list[float]] = {}
    for arm in dict.fromkeys(p.arm for p in points if p.arm != analysis.baseline):
        verdicts = [analysis.verdict(arm, *group) for group in groups]
        if known := [v.relative for v in verdicts if v is not None and v.relative is not None]:
            found[arm] = known
    first = options.get("first", str(max(1, len(found))))
    if not first.isdigit() or not int(first):
        raise RequestError(f"first '{first}' is no number of rows; give 1 or more, or leave it out for all")
    changes = {arm.name: arm.differs for arm in results.arms}
    order = sorted(found, key=lambda arm: (-len(found[arm]), sum(found[arm]) / len(found[arm]), arm))[: int(first)]
    rows = [[f"`{arm}`", _changes(changes[arm]), *(percent(analysis.verdict(arm, *g)) for g in groups)] for arm in order]
    unranked = sorted({p.arm for p in points if p.mean is None} - set(found))
    several = " those that ran in most columns first," if len({len(known) for known in found.values()}) > 1 else ""
    text = f"Best first,{several} by the mean gap to `{analysis.baseline}`. {meaning(analysis)}"
    if unranked:
        text += f" Without a score: {', '.join(f'`{arm}`' for arm in unranked)}."
    return text, Table(["recipe", "what it changes", *map(_group_title, groups)], rows, frozenset({0, 1}))


def _changes(differs: Mapping[str, object]) -> str:
    if not differs:
        return "nothing"
    text = yaml.safe_dump(dict(differs), default_flow_style=True, sort_keys=False, width=10_000).strip()
    return f"`{text.removeprefix('{').removesuffix('}')}`"


def multipliers(results: Results, analysis: Analysis, options: Options) -> Made:
    """What an arm's compute is worth in the baseline's."""
    points = [p for p in _begun(_points(analysis, options))[0] if p.arm != analysis.baseline]
    along = {
        name: {(m.arm, m.scale, m.budget): m for m in found}
        for name, found in (("budgets", analysis.multipliers), ("scales", analysis.frontier_multipliers))
    }
    shown = [name for name in along if any(m.kind != "not defined" for m in along[name].values())] or ["budgets"]
    placed = _placed(points)
    columns = [name for name, _ in placed]
    for name in shown:
        columns += [f"along the baseline's {name}", "with compressor"]
    rows = []
    for p in points:
        row = [cell(p) for _, cell in placed]
        for name in shown:
            m = along[name].get((p.arm, p.scale, p.budget))
            row += ["-", "-"] if m is None or m.kind == "not defined" else _worth(m)
        rows.append(row)
    reasons = {m.reason for name in shown for m in along[name].values() if m.kind == "not defined" and m.reason}
    text = (
        f"How many times an arm's FLOPs `{analysis.baseline}` needs for the arm's bits per byte: above 1 the arm is the better one. "
        "With compressor: both sides charged with the views and teachers that they use. Intervals 95 %; * beyond the compute "
        "that was measured."
    )
    return " ".join([text, *exchange.said(results), *(f"-: {reason}." for reason in sorted(reasons))]), Table(
        columns, rows, frozenset(range(len(placed)))
    )


def _worth(m: Multiplier) -> list[str]:
    """A multiplier without and with the compressor, marked where it is prolonged and by its seed noise."""
    beyond = "*" if m.kind == "beyond the measured range" else ""
    noise = mark(m.seed_noise, m.interval)
    return [f"{m.text}{beyond}{noise}", m.with_compressor.text if m.value is None else f"{m.with_compressor.text}{beyond}{noise}"]


def growth(results: Results, analysis: Analysis, options: Options) -> Made:
    """Whether margins grow with scale."""
    names = _names(analysis)
    wanted = _chosen(options, {"budget": names["budget"], "arms": names["arms"]})
    lines = [line for line in analysis.by_scale if _is(wanted, arms=line.arm, budget=line.budget)]
    scales = list(dict.fromkeys(g.scale for line in lines for g in sorted(line.gaps, key=lambda g: g.num_body_parameters)))
    with_budget = any(line.budget is not None for line in lines)
    columns = [
        "arm",
        *(["budget"] if with_budget else []),
        *(scale or "gap" for scale in scales),
        "slope a tenfold (95 %)",
        "margin",
        "at every scale",
    ]
    rows = [_growth_row(line, scales, with_budget) for line in lines]
    text = (
        f"Gap to `{analysis.baseline}` in percent of its bits per byte (95 %) by scale, and the slope over tenfold body parameters; "
        "below 0 the arm gains with scale. Gaps and slopes are each alone at 95 %, not corrected for their number; 'at every scale' is."
    )
    return text, Table(columns, rows)


def told(results: Results, analysis: Analysis, options: Options) -> Made:
    """Whether a view adds anything beyond the raw bytes that are told."""
    lines = {(line.arm, line.scale, line.budget): line for line in analysis.told}
    points = [p for p in _points(analysis, options) if (p.arm, p.scale, p.budget) in lines]
    placed = _placed(points)
    rows = []
    for p in points:
        line = lines[p.arm, p.scale, p.budget]
        expected = line.reason or f"{number(line.expected, _DIGITS)}{'*' if line.prolonged else ''}"
        noise = mark(line.seed_noise, line.interval)
        gap = "-" if line.difference is None else f"{line.difference:+.{_DIGITS}f}{span(line.interval, sign='+')}{noise}"
        rows.append([*(cell(p) for _, cell in placed), f"{line.raw_bytes / 1e6:.2f}", expected, number(line.seen, _DIGITS), gap])
    text = (
        f"Bits per byte of arms that are asked in raw bytes, beside what `{analysis.baseline}` has of as many raw bytes, by its own runs "
        "over budgets at the same scale (a power law between two of them): below 0 the arm is better than the raw bytes that it was told "
        "would make it. Intervals 95 %, each alone; * the curve is prolonged beyond its points."
    )
    columns = [name for name, _ in placed] + ["raw MB told", "expected of as many", "seen", "difference (95 %)"]
    return text, Table(columns, rows, frozenset(range(len(placed))))


def _growth_row(line: ByScale, scales: list[str | None], with_budget: bool) -> list[str]:
    noise = mark(line.seed_noise, line.interval)
    found = {g.scale: f"{g.percent:+.1f}{span(g.interval, 1, '+')}{mark(g.seed_noise, g.interval)}" for g in line.gaps}
    slope = "-" if line.slope is None else f"{line.slope:+.1f}{span(line.interval, 1, '+')}{noise}"
    every = ("**worse**" if line.everywhere == "worse" else line.everywhere) + (noise if line.everywhere != "not decided" else "")
    trend = {"gains": "grows", "loses": "**shrinks**"}.get(line.trend, line.trend) + (noise if line.trend != "not decided" else "")
    return [
        f"`{line.arm}`",
        *([line.budget or "-"] if with_budget else []),
        *(found.get(scale, "-") for scale in scales),
        slope,
        trend,
        every,
    ]


def fits(results: Results, analysis: Analysis, options: Options) -> Made:
    """What was fitted to each arm."""
    wanted = _chosen(options, {"arms": _names(analysis)["arms"]})
    rows = []
    for fit in analysis.fits:
        if not _is(wanted, arms=fit.arm):
            continue
        values = [f"{name} = {value:.3g}{_range(fit.intervals.get(name), fit.seed_noise)}" for name, value in fit.values.items()]
        error = "-" if fit.error is None else f"{100 * fit.error:.2f} %"
        rows.append([f"`{fit.arm}`", fit.formula or "-", "; ".join(values) or fit.reason, str(fit.num_points), error])
    text = (
        "Fits of bits per byte: Hoffmann et al. 2022, approach 3, where an arm's runs can tell parameters and data apart. Intervals 95 %."
    )
    return text, Table(["arm", "form", "values (95 %)", "points", "error"], rows, frozenset({0, 1, 2}))


def _range(bounds: tuple[float, float] | None, noise: NoiseKind) -> str:
    return "" if bounds is None else f" ({bounds[0]:.3g} to {bounds[1]:.3g}){mark(noise, bounds)}"


def rates(results: Results, analysis: Analysis, options: Options) -> Made:
    """The search for learning rates."""
    names = _names(analysis)
    wanted = _chosen(options, {"scale": names["scale"], "arms": names["arms"]})
    if not results.searched and not results.chosen:
        raise RequestError("this comparison searched no learning rates")
    tried = sorted({one.learning_rate for one in results.searched})
    found = {(one.arm, one.scale, one.learning_rate): one for one in results.searched}
    rows = []
    moved = [choice for choice in results.chosen if all((choice.arm, choice.scale, rate) not in found for rate in tried)]
    for choice in results.chosen:
        if not _is(wanted, arms=choice.arm, scale=choice.scale) or (choice in moved and len(moved) < len(results.chosen)):
            continue
        cells = []
        for rate in tried:
            one = found.get((choice.arm, choice.scale, rate))
            cells.append("-" if one is None else "failed" if one.bits_per_byte is None else f"{one.bits_per_byte:.{_DIGITS}f}")
        rows.append([choice.scale or "-", f"`{choice.arm}`", *cells, f"{choice.learning_rate:.3g}", choice.reason])
    text = "Bits per byte on the valid split after short runs at each learning rate, the same rates for all arms; outside the match."
    if 0 < len(moved) < len(results.chosen):
        text += f" Elsewhere, not listed: {moved[0].reason}, by the plan's rule '{results.plan['search']['transfer']}'."
    text = " ".join([text, *report_search.searched_less(results)])
    columns = ["scale", "arm", *(f"{rate:.3g}" for rate in tried), "taken", "why"]
    return text, Table(columns, rows, frozenset({0, 1, len(columns) - 1}))


KINDS: Final[Mapping[str, Callable[[Results, Analysis, Options], Made]]] = {
    "main": main,
    "gaps": gaps,
    "ranking": ranking,
    "multipliers": multipliers,
    "growth": growth,
    "told": told,
    "fits": fits,
    "rates": rates,
    "learnt": learnt.learnt,
    "translation": translation_table.translation,
    **compression_tables.KINDS,
}
WHOLE: Final = frozenset({"multipliers", "growth", "told", "fits"})
"""Kinds that need more than points and verdicts."""
