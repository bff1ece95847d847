"""Matched cost over a grid: `eval.budget` solves one (scale, budget), here all of them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.budget import TOLERANCE, Rates, describe, solve
from eval.plan import ArmRun, ComparePlan


def solve_runs(plan: ComparePlan, runs: Sequence[ArmRun], costs: Mapping[str, Rates], *, tolerance: float = TOLERANCE) -> dict[str, int]:
    """Steps of every run by its name, matched within each (scale, budget). Raises `RequestError` as `solve` does."""
    steps: dict[str, int] = {}
    for scale, budget in dict.fromkeys((run.scale, run.budget) for run in runs):
        group = [run for run in runs if (run.scale, run.budget) == (scale, budget)]
        per_scale = isinstance(plan.budgets.get(budget or ""), dict)
        setting = None if budget is None else f"budgets.{budget}{f'.{scale}' if per_scale else ''}"
        match = plan.match.at(group[0].target)
        steps |= solve({run.cell_name: costs[run.cell_name] for run in group}, match, setting=setting, tolerance=tolerance)
    return steps


def describe_runs(plan: ComparePlan, runs: Sequence[ArmRun], costs: Mapping[str, Rates], steps: Mapping[str, int]) -> list[dict[str, Any]]:
    """What the solver gave each run, as JSON: one row a run, its scale and budget beside what `describe` tells."""
    rows = []
    for run in runs:
        name = run.cell_name
        (row,) = describe({name: costs[name]}, steps, plan.match.at(run.target))
        rows.append({**row, "scale": run.scale, "budget": run.budget, "seed": run.seed, "target": run.target})
    return rows
