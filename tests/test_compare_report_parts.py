"""Parts of a grid's report, each from numbers made for it: ledger, learning rates, arms in order, samples, plots and tables."""

from __future__ import annotations

import importlib.util
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from eval import plots_grid, report, results
from eval.plots_grid import Look, Mark
from proxy_lm.config import validate
from proxy_lm.plotting import apart
from proxy_lm.report import Content, Section, Table, html, markdown

SPEC = importlib.util.spec_from_file_location("made_up_grid", Path(__file__).with_name("made_up_grid.py"))
GRID = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(GRID)
ARMS, made_up, found, small, section = GRID.ARMS, GRID.made_up, GRID.found, GRID.small, GRID.section


def svgs(page):
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


def test_the_ledger_adds_seeds_up():
    one, two = small(seeds=(0,)), small()
    (before,), (after,) = ([s.table for s in report.content(r).sections if s.title == "Ledger in full: s0, x1"] for r in (one, two))
    rows, single = ({row[0]: row[1:] for row in table.rows} for table in (after, before))
    assert rows["steps"][0] == "2,000"
    for name in ("symbols", "source bytes told"):
        assert int(rows[name][1].replace(",", "")) == 2 * int(single[name][1].replace(",", ""))
    for name in ("FLOPs a symbol", "parameters: body", "unique bytes of a run", "compressor: fitted once, CPU seconds"):
        assert rows[name] == single[name]
    assert rows["peak learning rate"][0] == "0.004"
    assert "source bytes as gzip" in rows
    short = section(two, "Ledger").table
    assert short.rows[0][:4] == ["bytes", "2", "15 T", "0"]
    assert list(short.heads.values()) == [
        "s0: 310 k body parameters; x1: 14.99 T training FLOPs",
        "s1: 1.05 M body parameters; x1: 172 T training FLOPs",
    ]


def test_what_differs_between_seeds_is_told_from_low_to_high():
    value = made_up(scales=("s0",), budgets=("x1",), seeds=(0, 1), failed=())
    for one in value["arms"]:
        one["unique_bytes"] = (9_000, 12_000)[one["seed"]]
    rows = {row[0]: row[1:] for row in section(validate(results.Results, value, "results"), "Ledger").table.rows}
    assert rows["unique bytes of a run"] == ["9,000 to 12,000"] * 5


def test_learning_rates_say_what_was_tried_and_taken():
    value = made_up(scales=("s0", "s1"), budgets=("x1",), seeds=(0,), failed=())
    value["chosen"][0]["reason"] = "edge of the searched rates"
    shown = section(validate(results.Results, value, "results"), "Learning rates")
    assert shown.table.rows[0] == ["bytes", "2.9100", "2.8500", "2.8800", "0.004", "edge of the searched rates"]
    assert shown.table.rows[1] == ["tokens", "2.9100", "2.8500", "failed", "0.004", "searched"]
    assert shown.table.rows[5] == ["bytes", "-", "-", "-", "0.002", "transferred from s0"]
    assert shown.table.heads == {0: "s0", 5: "s1"}
    text = " ".join(shown.text)
    for words in ("15 short runs", "87 T FLOPs", "1 of them failed", "of the list for bytes", "transferred from s0"):
        assert words in text
    without = validate(results.Results, {**value, "searched": [], "chosen": []}, "results")
    assert "Learning rates" not in [part.title for part in report.content(without).sections]


def test_many_arms_stand_in_order_one_below_the_other():
    arms = {"bytes": ARMS["bytes"], **{f"recipe_{k}": (0.45, 0.02 * ((3 * k) % 7), 0.0) for k in range(7)}}
    shown = section(found(arms=arms, scales=("s0",), budgets=("x1",), failed=("recipe_3", "s0", "x1", 1)), "Arms in order: s0, x1")
    (svg,) = shown.figures()
    labels = re.findall(r">(recipe_\d)</text>", svg)
    assert labels == [f"recipe_{k}" for k in (0, 5, 3, 1, 6, 4, 2)]
    assert "var(--good)" in svg
    titles = [s.title for s in report.content(small()).sections]
    assert not any(title.startswith("Arms in order") for title in titles)


def test_more_arms_than_colours_are_not_drawn_in_one_colour(tmp_path):
    arms = {f"recipe_{k}": (0.45, 0.3 - 0.02 * k, 0.0) for k in range(10)} | {"bytes": ARMS["bytes"]}
    made = found(arms=arms, scales=("s0", "s1"), budgets=("x1",), seeds=(0,), failed=("recipe_9", "s1", "x1", 0))
    report.write(made, tmp_path)
    page = (tmp_path / "report.html").read_text()
    legend = re.search(r'<ul class="legend">(.*?)</ul>', page).group(1)
    assert re.findall(r"</i>([^<]+)</li>", legend) == [*(f"recipe_{k}" for k in range(1, 9)), "bytes"]  # recipe_9 has no number at s1
    assert len(set(re.findall(r"--arm-\d", legend))) == 9
    assert "Of 11 arms, plots with lines have bytes and the 8 with the fewest bits per byte at s1, x1." in page
    assert "recipe_0" not in svgs(page)[0]
    assert page.count(">recipe_0</td>") > 3  # it stands in every table, without a colour


def test_arms_are_not_chosen_by_a_budget_that_few_of_them_have(tmp_path):
    arms = {f"recipe_{k}": (0.45, 0.3 - 0.02 * k, 0.0) for k in range(10)} | {"bytes": ARMS["bytes"]}
    made = found(arms=arms, scales=("s0",), budgets=("x1", "x4"), seeds=(0,), failed=None)
    made = made.model_copy(update={"arms": [run for run in made.arms if run.budget == "x1" or run.name in ("bytes", "recipe_0")]})
    report.write(made, tmp_path)
    assert "the 8 with the fewest bits per byte at s0, x1." in (tmp_path / "report.html").read_text()


def test_samples_stand_side_by_side():
    sections = report.content(found(scales=("s0", "s1"), seeds=(0,))).sections
    first, second = (part for part in sections if part.title.startswith("Sample "))
    assert "(s1: 1.05 M body parameters; x4: " in first.text[0]  # the largest that has some
    for words in (
        "--- prompt, pkg/file.py\n    def add(a, b):",
        "--- what follows there\n    return a + b",
        "--- bytes\n    return a\n",
        "--- proxy_spm\n",
    ):
        assert words in first.code
    assert "sys\\x00" in second.code
    assert (first.folded, second.folded) == (False, True)
    assert not any(part.title.startswith("Evaluations") for part in sections)


def test_intervals_without_an_end_and_arms_far_off_are_drawn():
    look = Look("multiplier", {"a": 0, "b": 1}, ["s0", "s1"], level=1.0, dodged=True)
    marks = [
        Mark("a", "s0", None, 1e13, 2.0, (1.5, math.inf)),
        Mark("a", "s1", None, 1e14, 2.5, None),
        Mark("b", "s0", None, 1e13, 0.4, (0.0, 0.6)),
    ]
    svg = plots_grid.lines(marks, look)
    ET.fromstring(svg)
    assert not re.search(r"\b(nan|inf)\b", svg)
    far = found(
        arms={"bytes": ARMS["bytes"], "near": (0.5, 0.01, 0.0), "far": (0.5, 0.9, 0.0)}, scales=("s0", "s1"), budgets=("x1",), seeds=(0,)
    )
    assert len(section(far, "Difference from the baseline by scale").figures()) == 2  # the second without the one that is far off


def test_labels_are_moved_apart_and_keep_their_order():
    assert apart([], 1) == []
    assert apart([1.0, 5.0], 1) == [1.0, 5.0]
    assert apart([2.0, 2.0], 1) == [1.5, 2.5]
    moved = apart([1.0, 1.1, 5.0, 0.9], 1)
    assert moved == pytest.approx([1.0, 2.0, 5.0, 0.0])


def test_a_table_with_lines_above_rows_and_long_cells():
    table = Table(["arm", "why"], [["a", "x" * 50], ["b", "better"]], frozenset({0}), ["", "better"], {1: "s1 | x1"})
    report_ = Content("t", "", [Section("Same", points=["a list | of 5 % < 6"], table=table), Section("Same", ["x"], folded=True)])
    assert "| **s1 \\| x1** | |\n| b | better |" in markdown(report_)
    assert "* a list | of 5 % < 6" in markdown(report_)
    page = html(report_, ["a"])
    assert '<th class="left" scope="rowgroup" colspan="2"><span>s1 | x1</span></th>' in page
    assert f'<td class="long">{"x" * 50}</td>' in page
    assert '<td class="is-better">better</td>' in page
    assert "<li>a list | of 5&nbsp;% &lt; 6</li>" in page
    assert re.findall(r'<section id="([^"]+)"', page) == ["same", "same-1"]
