"""The page that reports a grid: made up of known numbers, one run failed; every part is there, what stands in it agrees, it is whole."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from eval import report, results
from eval.grid_analysis import analyse
from eval.report_groups import groups
from proxy_lm.config import validate
from proxy_lm.report import markdown

SPEC = importlib.util.spec_from_file_location("made_up_grid", Path(__file__).with_name("made_up_grid.py"))
GRID = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(GRID)
ARMS, BODIES, PLAN = GRID.ARMS, GRID.BODIES, GRID.PLAN
made_up, found, small = GRID.made_up, GRID.found, GRID.small


@pytest.fixture(scope="module")
def grid():
    return found()


@pytest.fixture(scope="module")
def analysis(grid):
    return analyse(grid)


@pytest.fixture(scope="module")
def written(grid, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made_up")
    report.write(grid, folder)
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


def svgs(page):
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


def test_the_page_is_read_from_top_to_bottom(written):
    page, text = written
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    wanted = [
        "What was compared",
        "Arms",
        "Bits per byte against training FLOPs",
        "Result",
        "Difference from the baseline by scale",
        "Compute multiplier",
        "Fits",
        "Curves",
        "Ledger",
        "Learning rates",
        "Arms without a number",
        "Sample 1 of 2",
        "Measurement",
        "Plan",
        "How to repeat",
        "What is not claimed",
    ]
    assert [title for title in titles if title in wanted] == wanted
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == titles
    assert page.index(PLAN["question"]) < page.index("What was compared")


def test_the_page_needs_nothing_else_and_its_plots_are_whole(written):
    page, _ = written
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)|@import|url\((?!#)|<script""", page)
    contents = re.findall(r'href="#([^"]+)"', page[page.index("<nav") : page.index("</nav>")])
    assert len(contents) > 10
    assert set(contents) <= set(re.findall(r'<section id="([^"]+)"', page))
    plots = svgs(page)
    # Without and with the compressor; margins; multipliers along budgets and along scales; curves of six groups.
    assert len(plots) == 2 + 1 + 2 + 6
    for svg in plots:
        ET.fromstring(svg)
        assert "#0102" not in svg
        assert "#0103" not in svg
        assert not re.search(r'd="[^"]*(nan|inf)', svg)
    for svg in plots[:2]:
        for name in ARMS:
            assert f">{name}</text>" in svg  # the end of each line has its arm's name
        for scale in BODIES:
            assert f">{scale}</text>" in svg


def test_every_number_of_the_analysis_stands_in_both(analysis, written):
    for text in written:
        for point in analysis.points:
            assert f"{point.mean:.4f}" in text
            assert f"{point.interval[0]:.4f} to {point.interval[1]:.4f}" in text
        for verdict in analysis.verdicts:
            assert f"{verdict.difference:+.4f} ({verdict.interval[0]:+.4f} to {verdict.interval[1]:+.4f})" in text
        for multiplier in analysis.multipliers:
            assert multiplier.text in text
            assert multiplier.with_compressor.text in text
        for fit in analysis.fits:
            assert f"{fit.values['alpha']:.3g} (" in text


def test_verdicts_are_told_by_scale_and_a_failed_seed_is_told(grid, analysis, written):
    page, text = written
    lines = [line[2:] for line in text.splitlines() if line.startswith("* ")]
    for group in groups(grid):
        line = next(line for line in lines if line.startswith(f"{group.scale}: ") and f"; {group.budget}: " in line)
        for arm in set(ARMS) - {"bytes"}:
            verdict = analysis.verdict(arm, group.scale, group.budget)
            word = "a tie" if verdict.verdict == "tie" else verdict.verdict
            told = re.search(rf"{word}: ([^;]*)", line).group(1)
            assert f"{arm} ({100 * verdict.relative:+.1f} %" in told
    assert "proxy_spm: better than bytes in all 6 comparisons. Better at every scale (x1)." in text
    assert "corrected for all 24 pairs" in text
    assert "90 runs, 1 failed" in text
    assert "proxy_gzip | 2 of 3 |" in text
    assert "proxy_gzip, s1, x4, seed 1: failed" in text
    assert "&lt;out of memory &amp; more&gt;" in page


def test_the_same_results_give_the_same_page(tmp_path):
    for name in ("a", "b"):
        report.write(small(), tmp_path / name)
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()


def test_the_terminal_is_told_what_the_report_says():
    told, text = report.answers(small()), markdown(report.content(small()))
    assert len(told) > 5
    for line in told:
        assert line in text


def test_what_cannot_be_told_is_said_and_no_report_fails(tmp_path):
    nothing = made_up(scales=("s0",), budgets=("x1",), seeds=(0,), failed=())
    for one in nothing["arms"]:
        one.update(status="failed", failure="gone", bits_per_byte=None, interval=None, nll_nats_by_project=None, evaluation=None, curve=[])
    no_baseline = made_up(scales=("s0", "s1"), budgets=("x1",), seeds=(0, 1), failed=())
    for one in no_baseline["arms"]:
        if one["name"] == "bytes":
            one.update(
                status="failed", failure="gone", bits_per_byte=None, interval=None, nll_nats_by_project=None, evaluation=None, curve=[]
            )
    no_nats = made_up(scales=("s0",), budgets=("x1",), seeds=(0,), failed=())
    no_nats["projects"] = None
    for one in no_nats["arms"]:
        one["nll_nats_by_project"] = None
    for number, (value, words) in enumerate(
        ((nothing, "5 runs, 5 failed"), (no_baseline, "not decided: tokens (no run of 'bytes' finished)"), (no_nats, "run compare again"))
    ):
        made = validate(results.Results, value, "results")
        report.write(made, tmp_path / str(number))
        assert words in (tmp_path / str(number) / "report.md").read_text(), words
        assert " nan" not in (tmp_path / str(number) / "report.html").read_text()
