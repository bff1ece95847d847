"""A comparison is told honestly: budgets match within 1 %, intervals cover, verdicts follow, the report has every number."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import report, results
from eval.budget import MatchSettings, Rates, solve
from eval.grid_analysis import analyse
from eval.intervals import Clusters, estimate, interval
from eval.plan import ComparePlan, arm_runs, check_arms, differences
from proxy_lm.config import validate
from proxy_lm.errors import RequestError
from proxy_lm.report import si


def rates(symbols=4096, flops=1_000_000, bytes_per_step=9000, seconds=None):
    return Rates(symbols_per_step=symbols, flops_per_symbol=flops, source_bytes=lambda n: int(bytes_per_step * n), seconds_per_step=seconds)


def test_equal_flops_by_eye():
    # A step of 'bytes' is 4096 * 1e6 FLOPs, one of 'tokens' twice that: 1000 steps against 500.
    steps = solve({"bytes": rates(), "tokens": rates(flops=2_000_000)}, MatchSettings(flops=4.096e12))
    assert steps == {"bytes": 1000, "tokens": 500}


def test_a_draw_with_nothing_to_divide_by_says_nothing():
    # Project b has none of what is counted: every draw that has a number has 5 of 5, and none is taken for 0 of 0.
    assert estimate(["a", "b"], [5, 0], [5, 0]).interval == pytest.approx((1.0, 1.0))
    # Small denominators are divided by as they are.
    assert estimate(["a", "b"], [0.25, 0.25], [0.5, 0.5]).interval == pytest.approx((0.5, 0.5))


def test_each_kind_of_match():
    arms = {"a": rates(seconds=0.5), "b": rates(bytes_per_step=18_000, seconds=0.25)}
    assert solve(arms, MatchSettings(symbols=409_600)) == {"a": 100, "b": 100}
    assert solve(arms, MatchSettings(source_bytes=1_800_000)) == {"a": 200, "b": 100}
    assert solve(arms, MatchSettings(seconds=100)) == {"a": 200, "b": 400}


def test_source_bytes_that_do_not_grow_in_proportion_are_still_matched():
    arms = {"a": Rates(symbols_per_step=1, flops_per_symbol=1, source_bytes=lambda n: int(100 * n**1.2))}
    steps = solve(arms, MatchSettings(source_bytes=1_000_000))["a"]
    assert abs(100 * steps**1.2 - 1_000_000) < 10_000


@given(flops=st.integers(10**5, 10**9), symbols=st.integers(1, 10**6), times=st.floats(60, 1e6))
def test_the_solver_is_within_one_percent_or_says_so(flops, symbols, times):
    target = flops * symbols * times
    steps = solve({"arm": rates(symbols=symbols, flops=flops)}, MatchSettings(flops=target))["arm"]
    assert abs(steps * flops * symbols - target) <= 0.01 * target


def test_a_budget_too_small_for_one_percent_names_the_remedy():
    arms = {"a": rates(), "b": rates(flops=2 * rates().flops_per_symbol)}
    with pytest.raises(RequestError, match=r"arm 'a'.*more than 1 %.*with match.flops of (.*) or more all arms fit") as refused:
        solve(arms, MatchSettings(flops=1.5 * 4.096e9))
    named = re.search(r"match.flops of (\S+)", str(refused.value))
    assert named is not None
    solve(arms, MatchSettings(flops=float(named[1])))  # the first remedy named is enough for every arm


def test_two_arms_that_end_more_than_one_percent_apart_are_refused():
    # Each is within 1 % of the target, on its two sides: 60 steps of 10,080 are 604,800 and 67 steps of 8,930 are 598,310.
    arms = {"a": rates(symbols=1, flops=10_080), "b": rates(symbols=1, flops=8930)}
    with pytest.raises(RequestError, match=r"arms 'b' and 'a' come to .* more than 1 % apart.*match.flops of 1.1e\+06 or more"):
        solve(arms, MatchSettings(flops=601_500))
    steps = solve(arms, MatchSettings(flops=1_008_000))
    assert abs(steps["a"] * 10_080 - steps["b"] * 8930) <= 0.01 * 1_000_000


def test_a_match_is_exactly_one_thing():
    with pytest.raises(RequestError, match=r"flops and symbols are given; .*match\.flops=null"):
        validate(MatchSettings, {"flops": 1, "symbols": 1}, "match")
    with pytest.raises(RequestError, match="nothing is given"):
        validate(MatchSettings, {}, "match")


def clusters(gap, num_projects=60, seed=0, noise=0.05):
    generator = np.random.default_rng(seed)
    num_bytes = generator.integers(1000, 5000, num_projects).astype(float)
    bits = 2.0 + generator.normal(0, 0.4, num_projects)
    own = gap + generator.normal(0, noise, num_projects)
    return Clusters(tuple(f"p{i:03d}" for i in range(num_projects)), (bits + own) * np.log(2) * num_bytes, num_bytes)


def test_documents_add_up_by_project():
    found = Clusters.of_documents(["b", "a", "b"], np.array([1.0, 2.0, 4.0]), np.array([10.0, 20.0, 30.0]))
    assert found.names == ("a", "b")
    assert found.nll_nats.tolist() == [2.0, 5.0]
    assert found.num_bytes.tolist() == [20.0, 40.0]


def test_one_project_has_no_interval():
    assert interval(clusters(0.0, num_projects=1)) is None


def test_the_interval_is_seeded_and_covers():
    assert interval(clusters(0.0), seed=5) == interval(clusters(0.0), seed=5)
    covered = 0
    for seed in range(200):
        low, high = interval(clusters(0.0, num_projects=40, seed=seed), num_draws=400)
        covered += low <= 2.0 <= high
    assert 175 <= covered <= 200  # 95 % of 200 is 190; a percentile interval over 40 projects is slightly narrow


PLAN = {
    "name": "small",
    "question": "Does the view help?",
    "corpus": {"path": "corpus"},
    "views": {"spm": {"kind": "spm", "options": {"vocabulary_size": 512}}},
    "base": {"rows_per_step": 8, "rows_per_device": 4, "row_length": 128},
    "arms": {"bytes": {}, "tokens": {"views": ["spm"], "mix": {"rate": 1.0}}, "proxy": {"views": ["spm"], "mix": {"rate": 0.9}}},
    "match": {"flops": 1e12},
}


def plan(**changes):
    return validate(ComparePlan, {**PLAN, **changes}, "plan")


def test_arms_are_multiplied_by_scales_and_seeds():
    names = [run.folder_name for run in arm_runs(plan(scales={"a": {}, "b": {"model": {"depth": 2}}}, seeds=[0, 7]))]
    assert names[:4] == ["bytes-a-s0", "tokens-a-s0", "proxy-a-s0", "bytes-b-s0"]
    assert len(names) == 12
    assert [run.folder_name for run in arm_runs(plan())] == ["bytes", "tokens", "proxy"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"arms": {}}, "without arms"),
        ({"arms": {"a-b": {}}}, "arm 'a-b' is used as a folder name"),
        ({"name": "../up"}, "folder name"),
        ({"seeds": [1, 1]}, "repeat"),
        ({"baseline": "none"}, "baseline 'none' is no arm; arms: bytes, tokens, proxy"),
        ({"base": {"num_steps": 5}}, "'num_steps' is computed"),
        ({"arms": {"a": {"views": ["gzip"]}}}, "arm 'a' uses view 'gzip'; the plan has: spm"),
        ({"corpus": {"path": "x", "sources": ["y"]}}, "either 'sources'"),
        ({"corpus": {}}, "either 'sources'"),
        ({"mach": {"flops": 1}}, "did you mean 'match'"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_sentence(changes, match):
    with pytest.raises(RequestError, match=match):
        plan(**changes)


@pytest.mark.parametrize(
    ("arms", "match"),
    [
        ({"a": {"row_lenght": 5}}, "arm 'a'.*did you mean 'row_length'"),
        ({"a": {"rows_per_device": 3}}, "arm 'a'.*not a multiple"),
        ({"a": {"model": {"preset": "nanno"}}}, "nano"),
    ],
)
def test_an_arm_that_cannot_run_is_found_before_anything_starts(arms, match):
    small = {"context_bytes": 64, "stride_bytes": 32}
    with pytest.raises(RequestError, match=match):
        check_arms(plan(arms=arms, evaluation=small))
    check_arms(plan(evaluation=small))


@pytest.mark.parametrize(
    ("evaluation", "match"),
    [
        ({"split": "dev"}, "evaluation.split 'dev'.*train, valid, test"),
        ({"context_bytes": 129}, "arm 'bytes'.*context_bytes=129.*128 or less"),
    ],
)
def test_a_score_that_cannot_be_is_found_before_the_training(evaluation, match):
    with pytest.raises(RequestError, match=match):
        check_arms(plan(evaluation={"stride_bytes": 32, "context_bytes": 128, **evaluation}))


def test_what_may_change_after_arms_ran():
    old = plan().model_dump(mode="json")
    assert (
        differences(old, plan(evaluation={"context_bytes": 64, "stride_bytes": 32}, launch={"num_ranks": 2}).model_dump(mode="json")) == []
    )
    assert differences(old, plan(arms={**PLAN["arms"], "more": {}}).model_dump(mode="json")) == []
    assert differences(old, plan(match={"flops": 2e12}).model_dump(mode="json")) == ["match.flops: 1000000000000.0 -> 2000000000000.0"]
    changed = plan(arms={**PLAN["arms"], "proxy": {"views": ["spm"], "mix": {"rate": 0.5}}}).model_dump(mode="json")
    assert differences(old, changed) == ["arms.proxy.mix.rate: 0.9 -> 0.5"]


BYTES = [1000.0 + 100 * j for j in range(12)]


def nats_of(bits, place):
    """Nats of 12 projects, each a little off, that add up to these bits per byte."""
    off = [0.004 * ((5 * j + 7 * place) % 11 - 5) for j in range(12)]
    even = sum(o * b for o, b in zip(off, BYTES, strict=True)) / sum(BYTES)
    return [(bits + o - even) * b * math.log(2) for o, b in zip(off, BYTES, strict=True)]


def arm_result(name, bits, verdict, gap, view, seed=0):
    curve = [
        {
            "step": s,
            "training_flops": 1e11 * s,
            "symbols": 40_960 * s,
            "source_bytes": 90_000.0 * s,
            "seconds": 2.0 * s,
            "bits_per_byte": bits + 3 / s,
        }
        for s in (1, 2, 4, 8, 10)
    ]
    return {
        "name": name,
        "scale": None,
        "seed": seed,
        "folder": f"arms/{name}",
        "status": "done",
        "differs": {} if name == "bytes" else {"views": ["spm"], "mix": {"rate": 0.9}},
        "training_flops": 1.0e12 + seed,
        "flops_per_symbol": 2_441_406,
        "symbols": 409_600,
        "source_bytes": 901_234,
        "source_bytes_by_view": {"raw": 400_000, "spm": 501_234},
        "documents_by_view": {"raw": 31, "spm": 279},
        "symbols_by_view": {"raw": 250_000, "spm": 150_000},
        "unique_bytes": 801_111,
        "epochs": 1.17,
        "num_steps": 10,
        "num_parameters": {"body": 500_000, "embedding": 40_960, "output": 40_960, "total": 581_920},
        "world_size": 2,
        "seconds": 20.25,
        "wall_seconds": 31.5,
        "device_seconds": 40.5,
        "compressor": {"train_seconds": 3.25, "encode_seconds": 1.5, "flops": 0},
        "compressor_seconds": 4.75,
        "bits_per_byte": bits,
        "interval": [bits - 0.03, bits + 0.04],
        "nll_nats_by_project": nats_of(bits, len(name)),
        "evaluation": {"by_language": {"python": {"bits_per_byte": bits, "num_bytes": 5000, "num_documents": 7}}},
        "view": view,
        "verdict": {
            "baseline": "bytes",
            "verdict": verdict,
            "difference": gap,
            "interval": None if verdict == "baseline" else [gap - 0.01, gap + 0.01],
            "num_seeds": 1,
            "num_projects": 12,
        },
        "final": {"step": 10},
        "curve": curve,
        "curve_view": view,
    }


@pytest.fixture
def found():
    arms = [
        arm_result("bytes", 2.5, "baseline", 0.0, "raw"),
        arm_result("tokens", 2.6123, "worse", 0.1123, "spm"),
        arm_result("proxy", 2.4217, "better", -0.0783, "raw"),
        {
            **arm_result("broken", 0, "tie", 0.0, "raw"),
            **dict.fromkeys(
                ("bits_per_byte", "interval", "nll_nats_by_project", "evaluation", "verdict", "seconds", "device_seconds", "view"), None
            ),
            "status": "failed",
            "failure": "exit code 1; last lines: <out of memory & more>",
            "curve": [],
        },
    ]
    value = {
        "name": "small",
        "question": "Does the view help?",
        "command": "proxy-lm-eval compare small.yaml",
        "plan": {**plan().model_dump(mode="json")},
        "versions": {"proxy-lm": "0.1.0", "torch": "2.13.0"},
        "machine": {"device": "cpu", "num_cores": 2},
        "corpus": {
            "digest": "ab" * 32,
            "splits": {name: {"num_bytes": 10_000, "num_documents": 12} for name in ("train", "valid", "test")},
        },
        "views": {"spm": {"kind": "spm", "alphabet_size": 512, "bytes_per_symbol": 2.345, "num_raw_only": 0}},
        "match": {"kind": "flops", "target": 1e12},
        "baseline": "bytes",
        "arms": arms,
        "projects": {"num_bytes": BYTES},
    }
    return validate(results.Results, value, "results")


def test_results_come_back_from_their_file(found, tmp_path):
    results.save(found, tmp_path)
    assert results.load(tmp_path) == found
    (tmp_path / "results.json").write_text(json.dumps({"result_schema": "proxy-lm comparison 0"}))
    with pytest.raises(RequestError, match="run compare again"):
        results.load(tmp_path)


def test_the_report_has_every_arm_and_every_number(found, tmp_path):
    results.save(found, tmp_path)
    report.write(results.load(tmp_path), tmp_path)
    analysis = analyse(found)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        for arm in found.arms:
            assert arm.name in text
            point, verdict = analysis.point(arm.name), analysis.verdict(arm.name)
            for value in (arm.bits_per_byte, *(point.interval or ())):
                assert value is None or f"{value:.4f}" in text
            for value in (verdict.interval or ()) if verdict else ():
                assert f"{value:+.4f}" in text
            for value in (arm.source_bytes, arm.symbols, arm.unique_bytes, arm.flops_per_symbol):
                assert f"{value:,}" in text
        for words in (
            "worse",
            "better",
            "failed",
            "+0.1123 (",
            "-0.0783 (",
            "not judged: one seed and none to borrow from",
            "One seed",
            "out of memory",
            "2.35 bytes a symbol",
        ):
            assert words in text, words
    assert "tokens against bytes: +0.1123" in (tmp_path / "report.md").read_text()


def test_a_grid_that_has_come_to_its_first_seed_says_what_intervals_leave_out(comparison):
    late = frozenset((arm, None, None, seed) for arm in ("bytes", "proxy", "half") for seed in (1, 2) if (arm, seed) != ("half", 1))
    one = comparison("early", {"bytes": 2.5, "proxy": 2.4, "half": 2.4}, failed=late)
    answers = " ".join(report.answers(one))
    # Two seeds of one arm know its spread to one degree, which the others borrow.
    assert "bits per byte (deviation, 1 degree of freedom, 1 arm)" in answers
    assert "One seed of bytes, proxy: the seed noise is borrowed" in answers
    assert "2 of 2 verdicts rest on that, marked ‡" in answers
    assert "; one seed of proxy and bytes, seed noise borrowed." in answers
    assert "; one seed of bytes, seed noise borrowed." in answers
    none = " ".join(report.answers(comparison("none", {"bytes": 2.5, "proxy": 2.4}, failed=late | {("half", None, None, 1)})))
    assert "Only one seed of all arms at a scale and budget has finished" in none
    assert "cover projects alone, marked †, and 1 of 1 pairs are not judged." in none
    assert "† bits per byte, -4.0 %; not judged: one seed and none to borrow from." in none
    whole = " ".join(report.answers(comparison("whole", {"bytes": 2.5, "proxy": 2.4})))
    assert "ne seed" not in whole
    assert "the variance pooled over all arms with several seeds" in whole


def test_seconds_are_matched_by_a_forecast(found):
    timed = found.model_copy(update={"match": {"kind": "seconds", "target": 60}})
    assert "within 1 % by the pace of a short run of each." in report.content(timed).sections[0].text[0]
    assert "within 1 %." in report.content(found).sections[0].text[0]


def test_the_page_needs_nothing_else_and_its_plots_are_whole(found, tmp_path):
    report.write(found, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)|@import|url\((?!#)|<script""", page)
    assert "<out of memory" not in page
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(plots) == 4
    for svg in plots:
        ET.fromstring(svg)
        assert "var(--arm-2)" in svg
        assert "var(--ink)" in svg
        assert "#0103" not in svg


def test_the_same_results_give_the_same_report(found, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        report.write(found, tmp_path / name)
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()


def test_numbers_for_people():
    assert [si(v) for v in (None, 0, 7, 1234, 1_234_567, 2.5e14)] == ["-", "0", "7", "1.234 k", "1.235 M", "250 T"]
