"""What a terminal shows of a comparison: a row a point however many seeds there are, and what has no number in plain sight."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from eval import results
from eval.commands import compare
from eval.grid_analysis import analyse
from eval.report import answers
from eval.terminal import show_results

ARMS = {"bytes": 2.5, "tokens": 2.6, "proxy_spm": lambda scale, budget: 2.45 if scale == "s0" else 2.3, "compressed_only_neural": 3.1}
SCALES = {"s0": 30_000, "s1": 100_000}
BUDGETS = {"x1": 2e13, "x4": 8e13}


def shown(found, width=120):
    out = io.StringIO()
    show_results(found, Path("runs/x"), Console(file=out, width=width))
    return out.getvalue().splitlines()


def rows_of(lines, arm):
    return [line for line in lines if re.match(rf"{arm}\s+[\d-]", line)]


@pytest.fixture
def grid(comparison):
    """Four arms at two scales and two budgets, three seeds each: 48 runs."""
    failed = frozenset({("tokens", "s1", "x1", 2), *(("compressed_only_neural", "s1", "x4", seed) for seed in (0, 1, 2))})
    return comparison("terminalgrid", ARMS, scales=SCALES, budgets=BUDGETS, views={"proxy_spm": "spm"}, failed=failed)


def test_a_grid_has_a_row_a_point_and_not_a_row_a_run(grid):
    lines = shown(grid)
    analysis = analyse(grid, verdicts_only=True)
    assert len(analysis.points) == 16
    for arm in ARMS:
        rows = rows_of(lines, arm)
        points = [point for point in analysis.points if point.arm == arm]
        assert len(rows) == len(points) == 4
        for row, point in zip(rows, points, strict=True):
            verdict = analysis.verdict(arm, point.scale, point.budget)
            told = "3" if len(point.seeds) == 3 else f"{len(point.seeds)} of 3"
            assert re.match(rf"{arm} +{told} +[\d-]", row)
            if point.mean is not None:
                assert f"{point.mean:.4f} ±{point.mean - point.interval[0]:.4f}" in row
                assert f"{point.interval[1]:.6f}" == f"{2 * point.mean - point.interval[0]:.6f}"  # what ± promises
            if verdict is not None and verdict.relative is not None:
                assert re.search(rf"{re.escape(f'{100 * verdict.relative:+.2f}')} +{verdict.verdict}\b", row)
    assert [line for line in lines if line.startswith("s0: ") or line.startswith("s1: ")][:4] == [
        "s0: 30 k body parameters; x1: 2 T training FLOPs",
        "s0: 30 k body parameters; x4: 8 T training FLOPs",
        "s1: 100 k body parameters; x1: 6.667 T training FLOPs",
        "s1: 100 k body parameters; x4: 26.67 T training FLOPs",
    ]
    assert not any("seed 0" in line for line in lines[:40])


def test_what_has_no_number_is_counted_and_named(grid):
    runs = [
        run.model_copy(update={"status": "not run", "failure": None}) if run.name == "tokens" and run.bits_per_byte is None else run
        for run in grid.arms
    ]
    text = "\n".join(shown(grid.model_copy(update={"arms": runs})))
    assert "3 of 48 runs failed\n  compressed_only_neural-s1-x4-s0: KeyError\n" in text
    assert "1 of 48 runs not run: tokens-s1-x1-s2\n" in text
    assert re.search(r"^compressed_only_neural +0 of 3 +- +failed", text, flags=re.MULTILINE)
    many = [
        run.model_copy(update={"status": "not run", "failure": None, "bits_per_byte": None, "nll_nats_by_project": None})
        for run in grid.arms
    ]
    text = "\n".join(shown(grid.model_copy(update={"arms": many})))
    assert "48 of 48 runs not run: bytes-s0-x1-s0, tokens-s0-x1-s0, proxy_spm-s0-x1-s0 and 45 more\n" in text


def test_of_many_failures_the_first_are_named(comparison):
    failed = frozenset(("tokens", "s0", None, seed) for seed in range(5))
    text = "\n".join(
        shown(comparison("terminalmany", {"bytes": 2.5, "tokens": 2.6}, scales={"s0": 30_000}, seeds=tuple(range(5)), failed=failed))
    )
    assert "5 of 10 runs failed\n" in text
    assert text.count(": KeyError\n") == 3
    assert "  and 2 more; the report has all\n" in text


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_number_is_broken_or_cut_however_narrow_the_terminal(grid, width):
    lines = shown(grid, width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines if not line.startswith("  "))
    for point in analyse(grid, verdicts_only=True).points:
        assert point.mean is None or sum(f"{point.mean:.4f} ±" in line for line in lines) >= 1
    header = next(line for line in lines if line.startswith("arm"))
    assert ("source" in header, "FLOPs" in header) == (width >= 80, width >= 80)


def test_one_run_an_arm_is_told_as_a_run(comparison):
    lines = shown(comparison("terminalone", {"bytes": 2.5, "proxy": 2.4}, seeds=(0,)), 80)
    assert lines[:2] == ["terminalone: bits per byte, test split", "± 95 % over projects; gap: against bytes"]
    assert re.split(r"  +", lines[3].strip()) == ["arm", "bits per byte", "gap, %", "verdict", "FLOPs", "source", "symbols", "seconds"]
    assert re.match(r"bytes +2\.5\d+ ±0\.0\d+† +baseline +20 T +3 kB +1 k +-$", lines[5])
    assert re.match(r"proxy +2\.4\d+ ±0\.0\d+† +-\d\.\d\d +not judged† +20 T +3 kB +1 k +-$", lines[6])


def test_what_rests_on_borrowed_seed_noise_is_marked(comparison):
    failed = frozenset({("half", None, None, 1), ("half", None, None, 2)})
    lines = shown(comparison("terminalborrowed", {"bytes": 2.5, "proxy": 2.4, "half": 2.3}, failed=failed))
    (proxy,), (half,) = rows_of(lines, "proxy"), rows_of(lines, "half")
    assert re.search(r"±0\.\d{4}  .* better  ", proxy)
    assert re.match(r"half +1 of 3 +2\.\d{4} ±0\.\d{4}‡ .* better‡ ", half)
    assert proxy.index("±") == half.index("±")


def test_the_answers_are_listed_below_the_table(grid):
    lines = shown(grid)
    flat = " ".join(" ".join(lines).split())
    for answer in answers(grid):
        assert " ".join(answer.split()) in flat
    assert lines[-1] == "report: runs/x/report.html"


def test_the_command_shows_the_kept_search_in_eighty_columns(root, capsys):
    found = results.read(root / "configs" / "compare" / "results" / "search.json")
    compare.show({"out": "runs/search", **found.model_dump(mode="json")})
    lines = capsys.readouterr().out.splitlines()
    names = list(dict.fromkeys(run.name for run in found.arms))
    assert len(found.arms) > len(names) > 20
    for name in names:
        assert len(rows_of(lines, name)) == len({(run.scale, run.budget) for run in found.arms if run.name == name})
    table = lines[: lines.index("", 4)]
    assert max(map(len, table)) <= 80
