"""The search for learning rates: the same short runs of every arm, and what each arm is then trained with.

    search: {learning_rates: [2e-3, 4e-3, 8e-3], share: 0.25, seed: 1000, scales: [s0], transfer: width}

A try is a whole run, schedule included, of `share` of the arm's first budget at that scale, with a seed that no cell has. The rate with the
fewest bits per byte on the valid split, in the view in which the arm is asked, is chosen. A try that failed or diverged has no bits. Scales
that are not searched take the rate of the last one that is: times the ratio of widths (`width`), or as it is (`same`).

A try that failed is tried again only until a cell is trained with what the others gave: another choice would not fit that cell.

Not promised: that the rate is the best one. It is the best of a short list at a share of the budget, for every arm alike; a choice at the
edge of the list says so. What the search cost is outside the match and stands in `Results.searched`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.plan import ArmRun, ComparePlan, arm_runs
from eval.results import ArmResult, ChosenRate, SearchedRate

TOLERANCE = 0.1
"""How far a try may be from its share of the budget: a short run has few steps, and they are whole."""
EDGE = "edge of the searched rates"


def tries(plan: ComparePlan) -> list[ArmRun]:
    """The runs of the search; none for a plan without one. Every (scale, arm) that has a cell is tried at every rate."""
    if plan.search is None:
        return []
    search, found = plan.search, []
    for run in _first_cells(plan):
        if search.scales is not None and run.scale not in search.scales:
            continue
        for rate in search.learning_rates:
            name = "-".join([run.arm, *([run.scale] if run.scale else []), f"lr{rate:g}"])
            target = run.target * search.share
            tried = ArmRun(run.arm, run.scale, search.seed, name, run.views, run.values, run.budget, target, tried_rate=rate)
            found.append(tried.with_learning_rate(rate))
    return found


def searched(runs: Sequence[ArmRun], found: Mapping[str, ArmResult]) -> list[SearchedRate]:
    """What the tries found, those that have run; `found` is by cell name."""
    return [
        SearchedRate(
            arm=run.arm,
            scale=run.scale,
            learning_rate=_tried_rate(run),
            seed=run.seed,
            training_flops=result.training_flops,
            bits_per_byte=result.bits_per_byte,
            failure=result.failure,
        )
        for run in runs
        if (result := found.get(run.cell_name)) is not None and result.status != "not run"
    ]


def choose(plan: ComparePlan, tried: Sequence[SearchedRate]) -> list[ChosenRate]:
    """The rate of every (scale, arm) whose tries have all run. An arm whose tries all failed has none, there and where it would be
    transferred to."""
    if plan.search is None:
        return []
    rates, chosen = plan.search.learning_rates, []
    for run in _first_cells(plan):
        source = searched_scale(plan, run)
        own = [one for one in tried if (one.arm, one.scale) == (run.arm, source)]
        finite = [(one.bits_per_byte, one.learning_rate) for one in own if one.bits_per_byte is not None]
        if not finite or len(own) < len(rates):
            continue
        best = min(finite)[1]
        if source == run.scale:
            reason = EDGE if best in (min(rates), max(rates)) else "searched"
            chosen.append(ChosenRate(arm=run.arm, scale=run.scale, learning_rate=best, reason=reason))
        else:
            moved = best * _width(plan, run.arm, source) / _width(plan, run.arm, run.scale) if plan.search.transfer == "width" else best
            chosen.append(ChosenRate(arm=run.arm, scale=run.scale, learning_rate=moved, reason=f"transferred from {source}"))
    return chosen


def with_rates(plan: ComparePlan, runs: Sequence[ArmRun], chosen: Sequence[ChosenRate]) -> tuple[list[ArmRun], dict[str, str]]:
    """The runs with the rates that were chosen, and why others cannot run (by cell name)."""
    if plan.search is None:
        return list(runs), {}
    rates = {(one.arm, one.scale): one.learning_rate for one in chosen}
    trained, failures = [], {}
    for run in runs:
        rate = rates.get((run.arm, run.scale))
        if rate is None:
            failures[run.cell_name] = "no learning rate: every try of the search failed or diverged; see the searched rates"
        trained.append(run if rate is None else run.with_learning_rate(rate))
    return trained, failures


def _first_cells(plan: ComparePlan) -> list[ArmRun]:
    """One cell of every (scale, arm): that of its first budget."""
    first: dict[tuple[str | None, str], ArmRun] = {}
    for run in arm_runs(plan):
        first.setdefault((run.scale, run.arm), run)
    return list(first.values())


def searched_scale(plan: ComparePlan, run: ArmRun) -> str | None:
    """The scale whose tries decide for this run: its own, or else the last searched one that has the arm."""
    assert plan.search is not None
    if plan.search.scales is None or run.scale in plan.search.scales:
        return run.scale
    having = [one.scale for one in _first_cells(plan) if one.arm == run.arm and one.scale in plan.search.scales]
    return having[-1] if having else plan.search.scales[-1]


def _width(plan: ComparePlan, arm: str, scale: str | None) -> int:
    run = next(run for run in arm_runs(plan) if (run.arm, run.scale) == (arm, scale))
    return run.settings(Path("runs"), Path("corpus"), num_steps=1).model.resolved().width


def _tried_rate(run: ArmRun) -> float:
    assert run.tried_rate is not None
    return run.tried_rate
