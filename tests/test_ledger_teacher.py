"""The ledger tells a compressor, paid once for all runs of its view, from a teacher, paid in every run."""

from __future__ import annotations

import pytest

from eval import report_ledger, results
from eval.exchange import charged, paces
from eval.results import ArmResult, Results
from proxy_lm.config import validate
from proxy_lm.report import Content, html, markdown

ARMS = {"bytes": 2.5, "proxy": 2.4, "taught": 2.3}
SECONDS = {0: 100.0, 1: 140.0, 2: 180.0}
"""Of the teacher, by seed: (0.1, 0.14, 0.18) x 10^12 FLOPs, no run being timed, beside 10^12 of fitting and encoding, as counted."""


def taught(found: Results) -> Results:
    """The comparison as `ledger.with_teaching` leaves it: the teacher's part is added to the compressor's FLOPs and seconds."""
    value = found.model_dump(mode="json")
    for run in value["arms"]:
        if run["name"] == "taught" and run["status"] == "done":
            seconds = SECONDS[run["seed"]]
            run["compressor"].update(teacher_seconds=seconds, flops=1e12 + seconds * 1e9)
            run.update(compressor_flops=1e12 + seconds * 1e9, compressor_seconds=2 + seconds)
    return validate(Results, value, "results")


def ledger_of(found: Results, title: str) -> dict[str, list[str]]:
    section = next(part for part in report_ledger.sections(found) if part.title == title)
    assert section.table is not None
    return {row[0]: list(row[1:]) for row in section.table.rows} | {"": list(section.table.columns[1:])}


@pytest.fixture
def one(comparison):
    """One scale and budget, three seeds."""
    return taught(comparison("ledgerone", ARMS, views={"proxy": "spm", "taught": "spm"}))


def test_what_is_paid_once_stands_apart_from_what_every_run_pays(one):
    rows = ledger_of(one, "Ledger")
    assert rows["compressor: fitted and encoded once, FLOPs"] == ["0", "1 T", "1 T"]
    assert rows["compressor: fitted once, CPU seconds"] == ["0.0", "1.0", "1.0"]
    assert rows["compressor: encoded once, CPU seconds"] == ["0.0", "1.0", "1.0"]
    # In every run, so added up over the seeds as everything that a run spends: 100 + 140 + 180.
    assert rows["teacher: in every run, CPU seconds"] == ["0.0", "0.0", "420.0"]
    assert rows["teacher: in every run, FLOPs"] == ["0", "0", "420 G"]
    for render in (markdown, html):
        page = render(Content("t", "", report_ledger.sections(one)))
        assert "compressor: fitted and encoded once" in page
        assert "teacher: in every run" in page
        assert "which is asked anew in every run" in page


def test_of_a_grid_the_main_rows_have_a_column_each(comparison):
    sizes = {"s0": 300_000, "s1": 600_000}
    failed = frozenset({("taught", "s1", None, 2)})
    found = taught(comparison("ledgergrid", ARMS, scales=sizes, views={"proxy": "spm", "taught": "spm"}, failed=failed))
    (short, *full) = report_ledger.sections(found)
    assert short.table.columns[3:7] == ["compressor, once", "its share, %", "teacher, each run", "its share, %"]
    # 20 T and 40 T FLOPs a run; the mean of the seeds that told what they asked, (100 + 140) / 2 where the third failed.
    assert [row[:7] for row in short.table.rows if row[0] == "taught"] == [
        ["taught", "3", "20 T", "1 T", "5.00", "140 G", "0.70"],
        ["taught", "3", "40 T", "1 T", "2.50", "120 G", "0.30"],
    ]
    assert next(row[3:7] for row in short.table.rows if row[0] == "proxy") == ["1 T", "5.00", "0", "0.00"]
    assert all(len(row) == len(short.table.columns) for row in short.table.rows)
    assert any("teacher, which is asked anew" in text for text in short.text)
    assert len(full) == 2


def test_without_a_teacher_there_is_no_word_of_one(comparison, root):
    plain = comparison("ledgerplain", ARMS, scales={"s0": 300_000, "s1": 600_000}, views={"proxy": "spm", "taught": "spm"})
    assert "teacher" not in markdown(Content("t", "", report_ledger.sections(plain)))
    assert "its share is of one run's FLOPs" in markdown(Content("t", "", report_ledger.sections(plain)))


def test_results_of_before_teachers_are_read_as_having_none(one):
    value = one.arms[0].model_dump(mode="json")
    del value["compressor"]["teacher_seconds"]
    del value["compressor_flops"]  # nor did the first of them hold this
    old = validate(ArmResult, value, "an arm")
    assert charged(old, paces(one)[old.scale, old.budget]).teacher == 0


def test_the_kept_search_is_told_apart(root):
    found = results.read(root / "configs" / "compare" / "results" / "search.json")
    assert any(run.compressor.teacher_seconds for run in found.arms)
    assert "teacher: in every run" in markdown(Content("t", "", report_ledger.sections(found)))
