"""What a view adds beyond the raw bytes told beside it: by hand on power laws, and in tables and reports."""

from __future__ import annotations

import numpy as np
import pytest

from eval import report, report_grid, results, table_kinds
from eval.grid_analysis import analyse
from eval.told import expected_bits
from proxy_lm.config import validate

BUDGETS = {"x1": 1e13, "x4": 4e13}
POINTS = np.array([1e6, 4e6])


def test_the_curve_is_a_power_law_between_its_points_and_beyond():
    bits = np.array([[4.0, 2.0], [3.0, 3.0]])  # 4 B^-0.5 in megabytes, and a flat one
    assert expected_bits(POINTS, bits, 1e6) == pytest.approx([4, 3])
    assert expected_bits(POINTS, bits, 2e6) == pytest.approx([4 / 2**0.5, 3])
    assert expected_bits(POINTS, bits, 4e6) == pytest.approx([2, 3])
    assert expected_bits(POINTS, bits, 16e6) == pytest.approx([1, 3])
    assert expected_bits(POINTS, bits, 0.25e6) == pytest.approx([8, 3])


def test_three_points_are_joined_piece_by_piece():
    points, bits = np.array([1e6, 4e6, 16e6]), np.array([[4.0, 2.0, 2.0]])
    told = [expected_bits(points, bits, at)[0] for at in (2e6, 8e6, 64e6, 0.25e6)]
    assert told == pytest.approx([4 / 2**0.5, 2, 2, 8])


def test_one_point_is_no_curve():
    with pytest.raises(ValueError, match="two points"):
        expected_bits(np.array([1e6]), np.array([[4.0]]), 2e6)


def told(comparison, arms, raw, **options):
    """A comparison whose arms were told `raw[arm, budget]` raw bytes."""
    value = comparison("told", arms, **{"budgets": BUDGETS, "views": {"proxy": "spm", "tokens": "spm"}, "alone": ("tokens",), **options})
    value = value.model_dump(mode="json")
    for run in value["arms"]:
        run["source_bytes_by_view"] = {"raw": raw.get((run["name"], run["budget"]), 0)}
    return validate(results.Results, value, "told")


RAW = {("bytes", "x1"): 1_000_000, ("bytes", "x4"): 4_000_000, ("proxy", "x1"): 250_000, ("proxy", "x4"): 2_000_000}
ARMS = {
    "bytes": lambda _scale, budget: 4.0 if budget == "x1" else 2.0,
    "tokens": 2.5,
    "proxy": lambda _scale, budget: 7.5 if budget == "x1" else 3.1,
}


def test_arms_that_are_asked_in_raw_bytes_by_hand(comparison):
    found = told(comparison, ARMS, RAW)
    small, large = analyse(found, num_draws=400).told
    assert (small.arm, small.budget, small.raw_bytes, small.prolonged, small.reason) == ("proxy", "x1", 250_000, True, "")
    assert small.expected == pytest.approx(8, abs=0.1)  # 4 B^-0.5 prolonged; all runs lie a little off their law by the projects drawn
    assert (large.prolonged, large.expected) == (False, pytest.approx(4 / 2**0.5, abs=0.05))
    for line in (small, large):
        assert line.difference == pytest.approx(line.seen - line.expected)
        assert line.interval[0] < line.difference < line.interval[1]
    assert small.interval[1] < 0 < large.interval[0]  # 7.5 is better than 8, 3.1 worse than 2.83
    text, table = table_kinds.KINDS["told"](found, analyse(found), {"budget": "x1"})
    assert list(table.columns) == ["budget", "arm", "raw MB told", "expected of as many", "seen", "difference (95 %)"]
    ((_, arm, size, expected, _, gap),) = table.rows
    assert (arm, size, expected[-1], gap[:2]) == ("`proxy`", "0.25", "*", "-0")
    assert "of as many raw bytes" in text


def test_as_many_raw_bytes_as_the_baseline_is_the_plain_difference(comparison):
    found = told(comparison, ARMS, RAW | {("proxy", "x4"): 4_010_000})
    analysis = analyse(found, num_draws=50)
    line, pair = analysis.told[1], analysis.verdict("proxy", None, "x4")
    assert (line.difference, line.interval) == (pytest.approx(pair.difference), pytest.approx(pair.interval))
    assert line.expected == pytest.approx(analysis.point("bytes", None, "x4").mean)


def test_lines_that_cannot_be_made_say_why(comparison):
    found = told(comparison, ARMS, RAW | {("proxy", "x1"): 200_000, ("proxy", "x4"): 0})
    assert [line.reason for line in analyse(found, num_draws=20).told] == [
        "more than 4 times fewer bytes than the baseline was told",
        "no raw bytes told",
    ]
    alone = told(comparison, ARMS, RAW, budgets={"x1": 1e13})
    analysis = analyse(alone, num_draws=20)
    assert [(line.reason, line.expected) for line in analysis.told] == [
        ("the baseline has 1 budget at this scale; a curve needs two", None)
    ]
    assert table_kinds.KINDS["told"](alone, analysis, {})[1].rows[0][3] == analysis.told[0].reason
    assert report_grid.beyond_raw(alone, analysis) == []


def test_the_report_has_it_as_a_section(comparison):
    found = told(comparison, ARMS, RAW)
    (section,) = [one for one in report.content(found).sections if one.title == "Beyond the raw bytes told"]
    assert [row[1] for row in section.table.rows] == ["proxy", "proxy"]
    assert not any("`" in cell for row in section.table.rows for cell in row)


def test_the_kept_ladder_has_lines_for_arms_told_by_views(root):
    found = results.read(root / "configs" / "compare" / "results" / "ladder.json")
    lines = {(line.arm, line.scale, line.budget): line for line in analyse(found, num_draws=100).told}
    assert "tokens" not in {arm for arm, _, _ in lines}
    assert not lines["proxy_spm", "30k", "x4"].prolonged
    assert lines["proxy_spm", "30k", "x1"].prolonged
    assert lines["taught", "30k", "x1"].reason == ""
