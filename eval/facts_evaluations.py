"""Facts about further evaluations (robustness, translation): a number of one arm less that of another, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from eval.fact_evidence import Says, Seen, Shelf, outcome_of, place
from eval.results import Results
from eval.seed_intervals import COVERAGE, t_quantile
from eval.table_kinds import span

Read = Callable[[str, Mapping[str, Any]], float | None]
"""A number of one evaluation (its file name, its result); None where it is another one's."""


def asked(
    read: Read, arm: str, base: str, *beside: str, less_is_better: bool, says: Says, loser: str | None = None
) -> Callable[[Shelf], Seen]:
    """A number of the evaluations of `arm` less that of `base`, paired by seed; the arms `beside` are told and not judged.

    With `loser` a scale and budget decides something only where that arm is clearly worse than `base`: where nothing is lost, an `arm`
    that loses nothing says nothing."""

    def look(shelf: Shelf) -> Seen:
        lines: list[str] = []
        words: list[str] = []
        for name, results in shelf.kept.items():
            found = _numbers(results, read)
            for scale, budget in dict.fromkeys(key[1:] for key in found if key[0] == arm):
                mine, other = found[arm, scale, budget], found.get((base, scale, budget), {})
                seeds = [seed for seed in mine if seed in other]
                if not seeds:
                    continue
                mean, bounds = seed_mean([mine[s] - other[s] for s in seeds])
                shown = {one: found.get((one, scale, budget)) for one in (arm, base, *beside)}
                numbers = ", ".join(f"`{one}` {seed_mean(list(values.values()))[0]:+.3f}" for one, values in shown.items() if values)
                below, above = ("better", "worse") if less_is_better else ("worse", "better")
                word = "not decided" if bounds is None else above if bounds[0] > 0 else below if bounds[1] < 0 else "tie"
                why = "" if loser is None else _keeps(found.get((loser, scale, budget), {}), other, loser, base, less_is_better)
                words.append("not decided" if why else word)
                seeds_told = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"
                lines.append(
                    f"{place(name, scale, budget)}: {numbers}; over `{base}` {mean:+.3f}{span(bounds, sign='+')}, {seeds_told}{why}"
                )
        return Seen(lines, outcome_of(words, says)) if lines else Seen()

    return look


def _keeps(loser: Mapping[int, float], base: Mapping[int, float], name: str, base_name: str, less_is_better: bool) -> str:
    """Why nothing can be kept here: the arm that should lose does not lose more than the noise of `base`; empty where it does."""
    seeds = [seed for seed in loser if seed in base]
    if not seeds:
        return f"; decides nothing: no `{name}` beside it"
    mean, bounds = seed_mean([(loser[seed] - base[seed]) * (1 if less_is_better else -1) for seed in seeds])
    if bounds is None:
        return f"; decides nothing: one seed of `{name}`"
    if bounds[0] > 0:
        return ""
    return f"; decides nothing: `{name}` loses no more than the noise of `{base_name}` ({mean:+.3f}{span(bounds, sign='+')})"


def _numbers(results: Results, read: Read) -> dict[tuple[str, str | None, str | None], dict[int, float]]:
    """What `read` finds, by cell and seed."""
    found: dict[tuple[str, str | None, str | None], dict[int, float]] = {}
    for run in results.finished:
        for stem, result in run.evaluations.items():
            value = read(stem, result)
            if value is not None:
                found.setdefault((run.name, run.scale, run.budget), {})[run.seed] = value
    return found


def perturbed(stem: str, result: Mapping[str, Any]) -> float | None:
    """Change in bits per byte of the reference solution over all perturbations of its prompt."""
    if not stem.startswith("robustness"):
        return None
    change = result["prompts"].get("plain", {}).get("all", {}).get("bits", {}).get("change", {}).get("value")
    return None if change is None else float(change)


def translated(stem: str, result: Mapping[str, Any]) -> float | None:
    """Share of symbols right, raw bytes told after their view."""
    value = result["view_to_raw"]["teacher_forced"]["accuracy"]["value"] if stem.startswith("translate") else None
    return None if value is None else float(value)


def seed_mean(values: list[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean over seeds and its 95 % interval by Student's t; no interval of one seed."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    half = t_quantile(0.5 + COVERAGE / 2, len(values) - 1) * deviation
    return mean, (mean - half, mean + half)
