"""A compressor's second costs what training does in a second at its fastest: the rate of each scale and budget, and what rests on it."""

from __future__ import annotations

import pytest

from eval import exchange, report_grid, results, table_kinds
from eval.exchange import Charge, Pace, charged, paces, said
from eval.grid_analysis import analyse
from eval.report_groups import groups
from eval.results import Results
from proxy_lm.config import validate

ARMS = {"bytes": lambda _scale, budget: 2.3 if budget == "x4" else 2.5, "proxy": 2.4}
SCALES = {"s0": 300_000, "s1": 900_000, "s2": 9_000_000}
BUDGETS = {"x1": 2e13, "x4": 8e13}


def changed(found: Results, change) -> Results:
    value = found.model_dump(mode="json")
    for run in value["arms"]:
        change(run)
    return validate(Results, value, "results")


def timed(found: Results, seconds) -> Results:
    """`seconds` by (arm, scale, budget, seed); None and what is not named: not timed. Nothing is counted."""

    def change(run):
        run["device_seconds"] = seconds.get((run["name"], run["scale"], run["budget"], run["seed"]))
        run["compressor_flops"] = run["compressor"]["flops"] = 0.0

    return changed(found, change)


@pytest.fixture
def grid(comparison):
    return comparison("exchange", ARMS, scales=SCALES, budgets=BUDGETS, seeds=(0, 1), views={"proxy": "spm"})


def test_the_fastest_run_of_a_scale_and_budget_counts_whichever_arm_it_is_of(grid):
    seconds = {("bytes", "s0", "x1", 0): 400.0, ("bytes", "s0", "x1", 1): 250.0, ("proxy", "s0", "x1", 0): 200.0}
    found = paces(timed(grid, seconds))["s0", "x1"]
    assert found == Pace(2e13 / 200, "own", ("s0", "x1"))


def test_a_run_that_failed_says_nothing(comparison):
    lost = frozenset({("proxy", "s0", None, 0)})
    found = comparison("exchange", ARMS, scales={"s0": 300_000}, seeds=(0,), views={"proxy": "spm"}, failed=lost)
    rates = paces(timed(found, {("bytes", "s0", None, 0): 200.0, ("proxy", "s0", None, 0): 1.0}))
    assert rates["s0", None].flops_per_second == pytest.approx(1e11)


def test_where_nothing_is_timed_the_nearest_scale_serves_and_there_the_same_budget(grid):
    rates = paces(timed(grid, {("bytes", "s0", "x1", 0): 200.0, ("bytes", "s0", "x4", 0): 1600.0, ("bytes", "s2", "x1", 0): 500.0}))
    assert rates["s0", "x4"] == Pace(5e10, "own", ("s0", "x4"))
    # 900,000 is 3 times 300,000 and a tenth of 9,000,000.
    assert rates["s1", "x1"] == Pace(1e11, "nearest", ("s0", "x1"))
    assert rates["s1", "x4"] == Pace(5e10, "nearest", ("s0", "x4"))
    assert rates["s2", "x4"] == Pace(30 * 2e13 / 500, "nearest", ("s2", "x1"))
    told = said(timed(grid, {("bytes", "s0", "x1", 0): 200.0}))
    assert told[0].endswith("in a second at its fastest (FLOPs a second; s0 x1: 100 G).")
    assert told[1:] == ["Nothing is timed at s0 x4, s1 x1, s1 x4, s2 x1, s2 x4: charged as at s0 x1."]


def test_where_nothing_is_timed_at_all_the_old_constant_stands_and_is_said(grid):
    found = timed(grid, {})
    assert set(paces(found).values()) == {Pace(1e9, "assumed", None)}
    assert said(found) == [
        "With compressor a processor second of fitting, encoding or teaching costs 1 G FLOPs, which may be far too little: no run of this "
        "comparison is timed."
    ]


def test_seconds_that_are_not_in_the_results_are_named(grid):
    def untold(run):
        if run["name"] == "proxy":
            run["differs"] = {"teacher": {"view": "spm", "weight": 1.0}}
            run["compressor"].update(train_seconds=0.0, encode_seconds=0.0)

    told = said(changed(timed(grid, {("bytes", "s0", "x1", 0): 200.0}), untold))
    assert told[-2:] == [
        "Fitting and encoding of proxy took seconds that are not in the results, and are not charged.",
        "The teacher of proxy took seconds that are not in the results, and are not charged.",
    ]


def test_without_a_compressor_there_is_nothing_to_say(comparison):
    assert said(comparison("exchange", {"bytes": 2.5, "other": 2.4})) == []


def test_a_charge_by_hand(grid):
    run = next(run for run in grid.arms if run.name == "proxy")
    cost = run.compressor.model_copy(update={"train_seconds": 3.0, "encode_seconds": 4.0, "teacher_seconds": 5.0})
    run = run.model_copy(update={"compressor": cost, "compressor_flops": 12e9})
    assert charged(run, Pace(1e10, "own", None)) == Charge(7e10, 5e10)
    # An artifact that counted 9 x 10^12 operations of its own beside the teacher's 5 s at 10^9.
    counted = run.model_copy(update={"compressor_flops": 9e12 + 5e9})
    assert charged(counted, Pace(1e10, "own", None)) == Charge(9e12, 5e10)


def test_points_tables_and_report_follow(grid):
    found = timed(grid, {("bytes", "s0", "x1", 0): 200.0, ("bytes", "s0", "x4", 0): 800.0})
    analysis = analyse(found)
    assert analysis.point("proxy", "s0", "x1").flops_with_compressor == pytest.approx(2e13 + 2 * 1e11)
    assert analysis.point("bytes", "s0", "x1").flops_with_compressor == pytest.approx(2e13)
    for kind in ("main", "multipliers"):
        assert "s0 x1: 100 G; s0 x4: 100 G" in table_kinds.KINDS[kind](found, analysis, {})[0]
    (section,) = report_grid.multipliers(found, analysis, groups(found))
    assert "s0 x1: 100 G; s0 x4: 100 G" in " ".join(section.text)


def test_the_kept_ladder_is_charged_from_its_seconds(root):
    """At 30,000 parameters each second of fitting costs as much as 30 to 40 x 10^9 FLOPs of training, not 10^9."""
    ladder = results.read(root / "configs" / "compare" / "results" / "ladder.json")
    rates = exchange.paces(ladder)
    assert rates["30k", "x1"].kind == "own"
    assert rates["30k", "x1"].flops_per_second > 2e10
    run = next(run for run in ladder.finished if (run.name, run.scale, run.budget) == ("taught", "30k", "x1"))
    assert sum(charged(run, rates["30k", "x1"])) > 20 * run.compressor_flops
