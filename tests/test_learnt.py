"""How much of compressed text is learnt: beside the uniform model over the same symbols, in a table of its own and in the report."""

from __future__ import annotations

import pytest

from eval import report
from eval.grid_analysis import analyse
from eval.learnt import learnt
from proxy_lm.errors import RequestError
from proxy_lm.report import html

# 256 symbols and 500 of them for 1,000 bytes: the uniform model has 8 * 500 / 1000 = 4 bits per byte.
ARMS = {"bytes": 2.4, "code": 4.0, "windows": 3.0}
VIEWS = {"code": "stream", "windows": "table"}


def rows(results):
    _, table = learnt(results, analyse(results), {})
    return {row[table.columns.index("arm")]: row for row in table.rows}


def test_shares_of_the_uniform_models_bits_by_eye(comparison):
    found = rows(comparison("learnable", ARMS, views=VIEWS, alone=("code", "windows")))
    assert [found[f"`{arm}`"][1:3] for arm in ARMS] == [["raw", "8.000"], ["stream", "4.000"], ["table", "4.000"]]
    shares = {arm: float(found[f"`{arm}`"][4].split()[0]) for arm in ARMS}
    assert abs(shares["bytes"] - 70) < 3
    assert abs(shares["windows"] - 25) < 5
    assert abs(shares["code"]) < 5


def test_one_seed_is_marked_and_places_stand_first(comparison):
    results = comparison("learnable", ARMS, views=VIEWS, alone=("code", "windows"), seeds=(0,), scales={"s0": 300_000, "s1": 900_000})
    _, table = learnt(results, analyse(results), {})
    assert [row[0] for row in table.rows] == ["s0"] * 3 + ["s1"] * 3
    assert all(row[-1].endswith(", one seed") for row in table.rows)


def test_documents_told_raw_have_no_uniform_model(comparison):
    results = comparison("learnable", ARMS, views=VIEWS, alone=("code", "windows"))
    for run in results.arms:
        if run.name == "code":
            run.evaluation["num_documents_read_raw"] = 1
    assert rows(results)["`code`"][2::2] == ["-", "-"]


def test_the_report_has_it_where_an_arm_is_asked_in_symbols_and_only_there(comparison):
    def page(**told):
        return html(report.content(comparison("learnable", ARMS, **told)))

    assert "Learnt of compressed text" in page(views=VIEWS, alone=("code",))
    assert "Learnt of compressed text" not in page(views=VIEWS)


def test_an_option_is_refused(comparison):
    results = comparison("learnable", ARMS, views=VIEWS, alone=("code",))
    with pytest.raises(RequestError, match="option 'arms' is none of this table"):
        learnt(results, analyse(results), {"arms": "bytes"})
