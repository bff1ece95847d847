"""The further evaluations of a comparison: checked before any training, asked of every arm, shown with pairs and what failed."""

from __future__ import annotations

import pytest

import compressors.registry as registry
from eval import further
from eval.plan import ComparePlan
from eval.report import evaluations
from eval.results import ArmResult, Results
from proxy_lm.config import validate
from proxy_lm.data.corpus import build_small
from proxy_lm.errors import RequestError
from proxy_lm.report import Content, html, markdown

TEXTS = [b"import sys\n\n\ndef first_%d(value):\n    other = value + %d\n    return other\n" % (i, i) for i in range(30)]
LINES = {"num_lines": 8, "num_identifiers": 4, "num_sweep_lines": 2, "device": "cpu"}


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"linse": {}}, "'linse' is no command that asks one run; known: .*lines"),
        ({"bpb": {}}, "'bpb' is no command that asks one run"),
        ({"lines": {"num_line": "x"}}, "lines: .*num-line.*--help"),
        ({"lines": {"nothing": 5}}, "unrecognized arguments: --nothing 5"),
        ({"lines": {"seed": False}}, "'seed: false' cannot be typed"),
        ({"code fly": {}}, "code fly: .*invalid choice: 'fly'"),
        ({"code generate": {}}, "code generate: it measures nothing of a run"),
        ({"robustness": {"explain": "7"}}, "it measures nothing of a run"),
        ({"lines": {"borders": "nope"}}, r"lines: borders 'nope' is neither a view of the plan \(spm\) nor the folder of one"),
        ({"lines": {"view": "nope"}}, "lines: view 'nope' is none of: raw, spm"),
        ({"translate": {"split": "nope"}}, "translate: split 'nope' is none of: train, valid, test"),
        ({"align": {"device": "gpu"}}, "align: device 'gpu' is none of: auto, cpu"),
        ({"code run": {"tier": "nope"}}, "code run: .*'nope' .*bwrap-uid"),
        ({"code run": {"policy": "nope"}}, "code run: no prompt policy 'nope' .*known: verbatim"),
        ({"code run": {"stop_rule": "nope"}}, "code run: unknown stop rule 'nope'; known: function"),
        ({"code run": {"k": 10}}, "code run: pass@10 needs at least 10 samples"),
        ({"code run": {"problems": "nope"}}, "code run: .*packaged: graded"),
        ({"robustness": {"tier": "nope"}}, "robustness: .*'nope' .*bwrap-uid"),
        ({"robustness": {"perturbations": ["tabs", "nope"]}}, "robustness: unknown perturbation 'nope'; families: docstring"),
        ({"robustness": {"policy": "docstring"}}, "robustness: no prompt policy 'docstring'"),
        ({"robustness": {"k": 5}}, "robustness: .*needs 5 samples"),
    ],
)
def test_what_cannot_be_asked_is_found_before_the_training(asked, match):
    with pytest.raises(RequestError, match=match):
        further.check(asked, {"spm": None})


def test_options_are_those_of_the_commands():
    further.check({"lines": {"limit": 5, "files": ["a.py", "b.py"], "split": None}, "code run": {"valid_utf8": True}}, {"spm": None})
    further.check(
        {"lines": {"borders": "spm", "view": "spm"}, "robustness": {"perturbations": ["format", "typos"], "tier": "auto"}}, {"spm": None}
    )
    plan = {"name": "p", "corpus": {"path": "c"}, "arms": {"a": {}}, "match": {"flops": 1e12}, "evaluations": {"lines": None}}
    with pytest.raises(RequestError, match=r"evaluations\.lines"):
        validate(ComparePlan, plan, "plan")


@pytest.fixture(scope="module")
def arms(tmp_path_factory, saved_run):
    """Two arms of one corpus, asked as a comparison asks them."""
    folder = tmp_path_factory.mktemp("further")
    corpus = build_small(folder / "corpus", {"train": TEXTS[:20], "valid": TEXTS[20:22], "test": TEXTS[22:]})
    spm = registry.train("spm", TEXTS[:20], alphabet_size=300)
    registry.save(spm, folder / "views" / "spm")
    views = {"spm": folder / "views" / "spm"}
    saved_run(folder / "bytes", corpus=corpus)
    saved_run(folder / "tokens", {"spm": (views["spm"], spm.alphabet_size)}, corpus, mix={"rate": 1.0})
    asked = {"lines": {**LINES, "borders": "spm"}, "translate": {"limit": 4, "device": "cpu"}}
    return {name: further.measure(asked, folder / name, views, f"arm {name}") for name in ("bytes", "tokens")}


def test_an_arm_that_cannot_be_asked_says_why_and_keeps_its_other_numbers(arms):
    for found, failures in arms.values():
        assert list(found) == ["lines-test"]
        assert list(failures) == ["translate"]
    assert arms["bytes"][1]["translate"].startswith("bytes was told raw bytes only")  # no folder of this machine
    borders = [found["lines-test"]["borders"] for found, _ in arms.values()]
    assert borders[0] == borders[1]  # the plan's view tells the offsets apart for every arm
    assert borders[0]["view"] == "spm"


def results(arms, *, baseline="bytes", scales=(None,)):
    bits = {"schema": "proxy-lm bits per byte 1", "bits_per_byte": 2.0, "interval": [1.9, 2.1], "checkpoint": {"step": 1}}
    made = [
        ArmResult.model_construct(
            name=name, scale=scale, seed=0, bits_per_byte=2.0, evaluation=bits, evaluations=found, evaluation_failures=failures
        )
        for scale in scales
        for name, (found, failures) in arms.items()
    ]
    return Results.model_construct(arms=made, plan={"evaluation": {"split": "test"}}, baseline=baseline)


def test_the_report_of_a_comparison_shows_them_with_pairs(arms):
    sections = evaluations(results(arms))
    titles = [section.title for section in sections]
    assert titles[0] == "Evaluations"
    assert "Lines: lines-test: against bytes" in titles
    assert "Not measured" in titles
    summary = sections[0].table
    assert list(summary.columns) == ["", "bytes", "tokens", "tokens, healed"]
    assert summary.rows[0] == ["bits per byte", "2.0000", "2.0000", ""]
    assert summary.heads[0].startswith("bpb-test: ")
    pairs = next(section.table for section in sections if section.title == "Lines: lines-test: against bytes")
    assert {(row[0], row[1]) for row in pairs.rows} == {("tokens", "plain"), ("tokens", "healed")}
    assert set(pairs.marks) <= {"better", "worse", "tie", "not decided"}
    report = Content("t", "", sections)
    assert "was told raw bytes only" in markdown(report)
    assert "was told raw bytes only" in html(report, ["bytes", "tokens"])


def test_scales_are_shown_apart_and_without_a_baseline_nothing_is_paired(arms):
    titles = [section.title for section in evaluations(results(arms, scales=("a", "b")))]
    assert [title for title in titles if title.startswith("Evaluations")] == ["Evaluations, a", "Evaluations, b"]
    assert "Lines: lines-test: against bytes, b" in titles
    assert not any("against" in section.title for section in evaluations(results(arms, baseline="none")))
    assert evaluations(results({name: ({}, {}) for name in arms})) == []
