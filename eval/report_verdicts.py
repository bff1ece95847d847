"""Verdicts in sentences: the short answer of a comparison, an arm or a scale and budget at a time, and how they are to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from eval.grid_analysis import NOT_JUDGED, Analysis, PairVerdict
from eval.margins import ByScale
from eval.report_groups import Group
from eval.results import Results
from eval.seed_intervals import NoiseKind
from eval.seed_noise import BORROWED, ELSEWHERE, NO_SEEDS, RULE, mark


def verdict_lines(results: Results, analysis: Analysis, shown: Sequence[Group]) -> list[str]:
    """A sentence an arm where one scale and budget were compared, else one for each of these."""
    if len(shown) == 1:
        return [sentence(verdict) for verdict in analysis.verdicts if verdict.against == results.baseline]
    lines = []
    for group in shown:
        found = [v for v in analysis.verdicts if (v.scale, v.budget, v.against) == (group.scale, group.budget, results.baseline)]
        parts = []
        for word, told in _TOLD.items():
            arms = sorted((v for v in found if v.verdict == word), key=lambda v: v.difference or 0)
            if arms:
                parts.append(f"{told}: {', '.join(_with_percent(v) for v in arms)}")
        if all(run.status == "not run" for run in group.runs):
            lines.append(f"{group.title(results.baseline)}. Not run yet.")
        elif parts:
            lines.append(f"{group.title(results.baseline)}. Against {results.baseline} {'; '.join(parts)}.")
    return lines


_TOLD: Final = {
    "better": "better",
    "tie": "a tie",
    "worse": "worse",
    "not decided": "not decided",
    "not judged": f"not judged ({NOT_JUDGED})",
}


def tally(analysis: Analysis) -> list[str]:
    """How often each arm was better, worse or a tie against the baseline: the short answer of a grid."""
    lines = []
    for arm in dict.fromkeys(v.arm for v in analysis.verdicts):
        words = [v.verdict for v in analysis.verdicts if v.arm == arm and v.against == analysis.baseline]
        counts = [_times(words.count(word), word) for word in ("better", "worse", "tie", "not decided", "not judged") if word in words]
        whole = len(set(words)) == 1 and words[0] in _ALL
        told = f"{_ALL[words[0]].format(analysis.baseline)} in all" if whole else f"against {analysis.baseline} {', '.join(counts)} of"
        sure = [row for row in analysis.by_scale if row.arm == arm and row.everywhere in _ALL]
        at = [_everywhere(row) for row in sure]
        marks = "".join(dict.fromkeys(mark(v.seed_noise, v.interval) for v in analysis.verdicts if v.arm == arm))
        lines.append(f"{arm}: {told} {len(words)} comparison{'' if len(words) == 1 else 's'}{marks}.{''.join(at)}")
    return lines


def _everywhere(row: ByScale) -> str:
    budget = "" if row.budget is None else f" ({row.budget})"
    return f" {row.everywhere.capitalize()} at every scale{budget}{mark(row.seed_noise, row.interval)}."


def _times(count: int, word: str) -> str:
    return f"{count} {word}{'s' if word == 'tie' and count > 1 else ''}"


_ALL: Final = {"better": "better than {}", "worse": "worse than {}", "tie": "a tie with {}"}


def sentence(verdict: PairVerdict) -> str:
    """One verdict in words."""
    who, other, gap = verdict.arm, verdict.against, f"{difference(verdict)} bits per byte"
    percent = "" if verdict.relative is None else f", {100 * verdict.relative:+.1f} %"
    if verdict.verdict in ("not decided", "not judged"):
        told = f"{gap}{percent}; " if verdict.difference is not None else ""
        return f"{who} against {other}: {told}{verdict.verdict}: {verdict.reason}."
    if verdict.verdict == "tie":
        return f"{who} and {other} are a tie: {gap}{percent}; a difference of none cannot be ruled out{_noise(verdict)}."
    return f"{who} is {verdict.verdict} than {other}: {gap}{percent}{_noise(verdict)}."


def _noise(verdict: PairVerdict) -> str:
    """Whose seed noise is not its own, if so."""
    if verdict.interval is None or verdict.seed_noise not in _LENT:
        return ""
    pairs = ((verdict.arm, verdict.seeds), (verdict.against, verdict.seeds_against))
    alone = " and ".join(arm for arm, seeds in pairs if len(seeds) == 1)
    return f"; one seed of {alone}, {_LENT[verdict.seed_noise]}"


_LENT: Final[Mapping[NoiseKind, str]] = {
    "borrowed": "seed noise borrowed",
    "elsewhere": "seed noise borrowed from other scales and budgets",
}


def _with_percent(verdict: PairVerdict) -> str:
    if verdict.relative is None:
        return f"{verdict.arm} ({verdict.reason})"
    noise = mark(verdict.seed_noise, verdict.interval)
    return f"{verdict.arm} ({100 * verdict.relative:+.1f} %{noise}{'; ' + verdict.reason if verdict.verdict == 'not decided' else ''})"


def difference(verdict: PairVerdict | None) -> str:
    """Against the other arm, with its interval and the mark of its seed noise."""
    if verdict is None or verdict.difference is None:
        return "-"
    text = f"{verdict.difference:+.4f}"
    if verdict.interval is None:
        return text
    return f"{text} ({verdict.interval[0]:+.4f} to {verdict.interval[1]:+.4f}){mark(verdict.seed_noise, verdict.interval)}"


def read_as(results: Results, analysis: Analysis) -> list[str]:
    """What the verdicts mean, and what they know of seeds."""
    lines = []
    pairs = max((verdict.num_pairs for verdict in analysis.verdicts), default=0)
    if pairs:
        lines.append(
            "Lower is better. Better and worse are said at 95 %, both arms scored on the same bytes"
            + (f", corrected for all {pairs} pairs (Holm): a tie can have an interval without zero." if pairs > 1 else ".")
        )
    if analysis.seed_pools:
        places = (", ".join(part for part in (pool.scale, pool.budget) if part is not None) for pool in analysis.seed_pools)
        told = "; ".join(f"{place}: {pool.text}" if place else pool.text for place, pool in zip(places, analysis.seed_pools, strict=True))
        lines.append(f"{RULE} {told[0].upper()}{told[1:]}.")
    lines += _borrowed(analysis)
    if len(results.plan["seeds"]) == 1:
        lines.append(
            f"One seed: the intervals do not cover the noise of another initialisation or data order. That is marked {NO_SEEDS}, and "
            "nothing is judged by it; give more seeds to have verdicts."
        )
        return lines
    done = [point for point in analysis.points if point.seeds]
    if alone := [point for point in done if not point.covers_seeds]:
        unsure = sum(one.verdict == "not judged" for one in analysis.verdicts)
        of = "all" if len(alone) == len(done) else f"{len(alone)} of the {len(done)}"
        lines.append(
            f"Only one seed of {of} arms at a scale and budget has finished, with no arm of several seeds to borrow from: their intervals "
            f"cover projects alone, marked {NO_SEEDS}, and {unsure} of {len(analysis.verdicts)} pairs are not judged."
        )
    return lines


def _borrowed(analysis: Analysis) -> list[str]:
    """Which points have the seed noise of others, and how many verdicts rest on that."""
    judged = [one for one in analysis.verdicts if one.p is not None]
    lines = []
    if borrowing := [point for point in analysis.points if point.seed_noise == "borrowed"]:
        resting = sum(one.seed_noise == "borrowed" for one in judged)
        names = ", ".join(dict.fromkeys(point.arm for point in borrowing))
        lines.append(
            f"One seed of {names}: the seed noise is borrowed from the arms with several seeds at the same scale and budget, with one "
            f"degree of freedom for each of them. {resting} of {len(judged)} verdicts rest on that, marked {BORROWED}: they hold if these "
            "arms vary as the others do."
        )
    if lent := [point for point in analysis.points if point.seed_noise == "elsewhere"]:
        resting = sum(one.seed_noise == "elsewhere" for one in judged)
        places = dict.fromkeys(", ".join(part for part in (point.scale, point.budget) if part is not None) for point in lent)
        lines.append(
            f"One seed of every arm at {'; '.join(places)}: the seed noise is the largest of the other scales and budgets, with one "
            f"degree of freedom for each of them. {resting} of {len(judged)} verdicts rest on that, marked {ELSEWHERE}: they hold if "
            "seeds matter no more there."
        )
    return lines
