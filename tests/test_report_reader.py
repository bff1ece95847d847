"""What a reader of a comparison's report needs: arms before numbers, seconds of one run, ratios that can be read."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from eval import plots_grid, report, report_ledger
from eval.plots_grid import Look, Mark
from eval.results import Results
from proxy_lm.config import validate
from proxy_lm.report import markdown

ARMS = {"bytes": 2.5, "proxy": 2.4, "taught": 2.3}
SCALES = {"s0": 300_000, "s1": 600_000}


def changed(found: Results, change) -> Results:
    value = found.model_dump(mode="json")
    for run in value["arms"]:
        change(run)
    return validate(Results, value, "results")


def unfinished(run):
    """The second scale was not begun, and one seed of taught at the first is missing."""
    if run["scale"] == "s1" or (run["name"], run["seed"]) == ("taught", 2):
        run.update(
            status="not run", bits_per_byte=None, interval=None, nll_nats_by_project=None, evaluation=None, device_seconds=None, curve=[]
        )


def teach(run):
    """The teacher is told, and what a run took: 100 s and 110 s for training, 30 s for the view, 12 s for the teacher."""
    run["device_seconds"] = 110.0 if run["name"] == "taught" else 100.0
    if run["name"] == "taught":
        run["differs"] = {"teacher": {"view": "table", "weight": 1.0}}
        run["compressor"] = {"train_seconds": 30.0, "encode_seconds": 0.0, "teacher_seconds": 12.0, "flops": 4.2e10}
        run.update(compressor_flops=4.2e10, compressor_seconds=42.0)
    if run["name"] == "bytes":
        run["compressor_seconds"] = 0.0


@pytest.fixture
def grid(comparison):
    return changed(comparison("reader", ARMS, scales=SCALES, views={"proxy": "spm"}), teach)


def rows(section) -> dict[str, dict[str, str]]:
    """Of the first group: arm -> column -> cell."""
    names = dict.fromkeys(row[0] for row in section.table.rows)
    first = [next(row for row in section.table.rows if row[0] == name) for name in names]
    return {row[0]: dict(zip(section.table.columns, row, strict=True)) for row in first}


def test_arms_and_views_are_told_before_any_number_of_them(grid):
    titles = [section.title for section in report.content(grid).sections]
    assert titles.index("Arms") == 1
    told = " ".join(report.content(grid).sections[1].text)
    assert "spm: spm, 256 symbols, 2.00 bytes a symbol" in told
    assert "distillation and no proxy compression" in told


def test_without_a_teacher_none_is_explained(comparison):
    plain = comparison("plainreader", {"bytes": 2.5, "proxy": 2.4}, views={"proxy": "spm"})
    assert "distillation" not in markdown(report.content(plain))


def test_seconds_in_the_short_ledger_are_of_one_run_and_stand_beside_those_of_compressor_and_teacher(grid):
    found = rows(report_ledger.sections(changed(grid, unfinished))[0])
    # Two of three seeds of taught finished: their mean and not their sum, which would read as 73 s a run beside 100.
    assert found["bytes"]["device seconds"] == "100.0"
    assert found["taught"]["device seconds"] == "110.0"
    assert found["taught"]["compressor and teacher, CPU seconds"] == "42.0"
    assert found["bytes"]["compressor and teacher, CPU seconds"] == "0.0"


def test_the_ledger_says_how_many_flops_a_second_of_training_is(grid):
    told = " ".join(report_ledger.sections(grid)[0].text)
    # bytes was the faster: 20 T and 40 T FLOPs in 100 s.
    assert "costs what training does in a second at its fastest (FLOPs a second; s0: 200 G; s1: 400 G)" in told
    found = rows(report_ledger.sections(grid)[0])["taught"]
    assert (found["compressor, once"], found["teacher, each run"]) == ("6 T", "2.4 T")  # 30 s and 12 s at s0


def test_what_was_not_run_is_told_in_a_line_each_and_a_scale_without_runs_in_a_sentence(grid):
    text = markdown(report.content(changed(grid, unfinished)))
    assert "taught, s0: not run, seed 2\nbytes, s1: not run, seeds 0, 1, 2\n" in text
    assert re.search(r"s1: 600 k body parameters[^.]*\. Not run yet\.", text)
    assert "no run of" not in text


def test_a_ratio_and_its_inverse_are_drawn_equally_far_from_one():
    marks = [Mark(arm, "s0", None, 1e13, value, (0.0, value * 1.5)) for arm, value in (("a", 4.0), ("b", 0.25))]
    look = Look("multiplier", {"a": 0, "b": 1}, ["s0"], level=1.0)
    linear, ratio = (plots_grid.lines(marks, made) for made in (look, replace(look, ratio=True)))

    def height(svg, text):
        return float(re.search(rf'<text [^>]*? y="([\d.]+)"[^>]*>{text}</text>', svg).group(1))

    above, below = height(ratio, "1") - height(ratio, "a"), height(ratio, "b") - height(ratio, "1")
    assert above == pytest.approx(below, abs=4)  # labels are written a little below the height that they mean, by the size of their letters
    assert above > 80
    assert height(linear, "b") - height(linear, "1") < (height(linear, "1") - height(linear, "a")) / 2
    assert [label for label in ("0.5", "1", "2", "5") if f">{label}</text>" not in ratio] == []
    assert not re.search(r"\b(nan|inf)\b", ratio)
