"""A document that an arm could not read in one window stops a comparison before anything is trained."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from eval.compare import make_view
from eval.plan import ComparePlan, arm_runs
from eval.planned_windows import check_documents_fit
from proxy_lm.config import validate
from proxy_lm.data.corpus import build_small
from proxy_lm.errors import RequestError

MODEL = {"preset": None, "width": 16, "depth": 1, "num_heads": 2, "hidden": 32}
NOISE = random.Random(1).randbytes(150)
DOCUMENTS = {"train": [b"x = 1\n" * 8], "valid": [b"y"], "test": [b"ab" * 200, NOISE, b"z"]}
ARMS = {
    "bytes": {},
    "proxy": {"views": ["gzip"], "mix": {"rate": 0.5}},
    "halves": {"views": ["halves"], "mix": {"rate": 1.0}},
    "gzip": {"views": ["gzip"], "mix": {"rate": 1.0}},
}


def check(folder: Path, row_length: int, arms: list[str], **evaluation: object) -> None:
    plan = validate(
        ComparePlan,
        {
            "name": "fit",
            "corpus": {"path": "corpus"},
            "views": {"gzip": {"kind": "gzip"}, "halves": {"kind": "nibble"}},
            "base": {
                "row_length": row_length,
                "rows_per_step": 1,
                "rows_per_device": 1,
                "model": MODEL,
            },
            "arms": {name: ARMS[name] for name in ["bytes", *arms]},
            "match": {"flops": 1e9},
            "evaluation": {"context_bytes": 32, "stride_bytes": 32, **evaluation},
        },
        source="plan",
    )
    corpus = build_small(folder / "corpus", DOCUMENTS)
    check_documents_fit(plan, arm_runs(plan), corpus, {name: make_view(plan, name, corpus, folder) for name in plan.views})


def test_bytes_proxies_and_symbols_with_borders_fit_any_row(tmp_path):
    check(tmp_path, 64, ["proxy", "halves"])


def test_one_document_too_long_is_named_with_its_arm_and_what_to_do(tmp_path):
    with pytest.raises(RequestError, match=r"arm gzip .* 150 bytes of the test split is \d+ ids .* 64; set row_length"):
        check(tmp_path, 64, ["proxy", "gzip"])


def test_a_row_that_holds_it_or_a_share_without_it_is_enough(tmp_path):
    check(tmp_path / "row", 400, ["gzip"])
    check(tmp_path / "share", 64, ["gzip"], max_bytes=400)  # the first document alone, in 13 symbols


def test_the_reading_that_the_plan_names_is_the_one_that_is_asked(tmp_path):
    check(tmp_path / "raw", 64, ["gzip"], view="raw")
    with pytest.raises(RequestError, match=r"arm proxy .* row holds 64"):
        check(tmp_path / "view", 64, ["proxy"], view="gzip")


def test_the_ids_that_end_a_document_need_room_where_they_are_charged(tmp_path):
    with pytest.raises(RequestError) as found:
        check(tmp_path / "short", 64, ["gzip"])
    row_length = int(str(found.value).split(" is ")[1].split(" ids ")[0])
    check(tmp_path / "fits", row_length, ["gzip"])
    with pytest.raises(RequestError, match=f"is {row_length + 2} ids"):
        check(tmp_path / "ends", row_length, ["gzip"], score_end=True)
