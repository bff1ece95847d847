"""'Paper says / we see': each row is computed from kept results, and says so where it was not run, is a tie, or shows the opposite."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from eval import facts, table_kinds
from eval.fact_evidence import Shelf, outcome_of
from eval.facts_evaluations import seed_mean
from eval.grid_analysis import analyse
from eval.kept import read_all
from eval.tables import Library
from proxy_lm.errors import RequestError

SCALES = {"s0": 300_000, "s1": 1_000_000}
PROXIES = {"proxy_spm": "spm", "proxy_neural": "table", "proxy_gzip": "gzip", "tokens": "spm", "windows": "table"}


def rows_of(*kept):
    """The table by the title of its rows: (what we see, outcome)."""
    library = Library({one.name: one for one in kept})
    _, table = facts.table(library.kept, library.analysis)
    return {row[0]: (row[2], row[3]) for row in table.rows}


@pytest.mark.parametrize(
    ("words", "says", "outcome"),
    [
        (["worse", "worse"], "worse", "agrees"),
        (["worse", "tie"], "worse", "in part"),
        (["worse", "better"], "worse", "in part"),
        (["better", "tie"], "worse", "differs"),
        (["tie", "tie"], "worse", "not decided"),
        (["tie", "better"], "at least as good", "agrees"),
        (["worse"], "at least as good", "differs"),
        (["worse", "not decided"], "worse", "agrees"),
        (["not decided"], "worse", "not decided"),
        (["worse", "not judged"], "worse", "agrees"),
        (["not judged"], "worse", "not decided"),
        ([], "better", "not decided"),
    ],
)
def test_what_verdicts_mean_for_a_claim(words, says, outcome):
    assert outcome_of(words, says) == outcome


def test_without_results_every_row_is_not_run_and_says_what_it_needs():
    _, table = facts.table({}, Library({}).analysis)
    assert len(table.rows) == len(facts.FACTS) >= 8
    assert all(row[3] == "not run" and row[2].startswith("not run: no kept comparison has a score of ") for row in table.rows)


def test_the_ladder_by_eye(comparison):
    # Tokens and gzip as published; the spm proxy loses at the small scale and wins at the large one; the neural proxy trails it a little.
    arms = {
        "bytes": 2.5,
        "tokens": 2.2,
        "windows": 2.3,
        "proxy_spm": lambda scale, _: 2.6 if scale == "s0" else 2.4,
        "proxy_neural": lambda scale, _: 2.65 if scale == "s0" else 2.45,
        "proxy_gzip": 2.9,
    }
    found = rows_of(comparison("ladder", arms, scales=SCALES, views=PROXIES, alone=("tokens", "windows")))
    seen, outcome = found["gzip does not teach raw bytes"]
    assert outcome == "agrees"
    assert re.fullmatch(r"ladder, s0: \+0\.(39|40)\d \(.*\), \+1\d\.\d %, worse<br>ladder, s1: \+0\.(39|40)\d .*, worse", seen)
    assert found["windows alone beat bytes"][1] == "agrees"
    assert found["tokens alone beat windows alone"][1] == "agrees"
    assert found["a token proxy is at least as good as a neural one, at equal bytes a symbol"][1] == "agrees"
    assert found["proxies hurt at the smallest size"][1] == "agrees"
    assert "s1" not in found["proxies hurt at the smallest size"][0]
    seen, outcome = found["their margin grows with size"]
    assert outcome == "agrees"
    assert "gains" in seen
    assert found["robustness stays that of bytes"][1] == "not run"


def test_the_opposite_is_said_in_bold(comparison):
    found = rows_of(comparison("odd", {"bytes": 2.5, "proxy_gzip": 2.2}, views=PROXIES))
    assert found["gzip does not teach raw bytes"][1] == "**differs**"


def test_views_of_unequal_rate_decide_nothing(comparison):
    one = comparison("ladder", {"bytes": 2.5, "proxy_spm": 2.3, "proxy_neural": 2.4}, views=PROXIES)
    unequal = one.model_copy(update={"views": one.views | {"table": one.views["table"] | {"bytes_per_symbol": 2.2}}})
    title = "a token proxy is at least as good as a neural one, at equal bytes a symbol"
    assert rows_of(one)[title][1] == "agrees"
    seen, outcome = rows_of(unequal)[title]
    assert outcome == "not decided"
    assert "(2.00 and 2.20 bytes a symbol: not equal)" in seen


def learnable_results(comparison, ac, windows):
    arms, views = {"bytes": 2.5, "ac": ac, "windows": windows}, {"ac": "stream", "windows": "table"}
    one = comparison("learnable", arms, views=views, alone=("ac", "windows"))
    plan = one.plan | {"views": {"stream": {"kind": "stream", "options": {"coder": "arithmetic"}}, "table": {"kind": "table"}}}
    return one.model_copy(update={"plan": plan})


def learnable(comparison, ac, windows):
    return rows_of(learnable_results(comparison, ac, windows))["arithmetic code is not learnable, equal-info windows are"]


def test_arithmetic_code_beside_the_uniform_model(comparison):
    # 256 symbols and 500 of them for 1,000 bytes: the uniform model has 8 * 500 / 1000 = 4 bits per byte.
    seen, outcome = learnable(comparison, ac=4.0, windows=2.0)
    assert outcome == "agrees"
    assert re.search(r"`ac` \(one arithmetic code\): [34]\.\d+ of 4\.000 bits per byte, -?0\.\d % learnt", seen)
    assert re.search(r"`windows` \(equal-info windows\): [12]\.\d+ of 4\.000 bits per byte, (49|50)\.\d % learnt", seen)
    assert learnable(comparison, ac=3.0, windows=2.0)[1] == "**differs**"


def test_a_wide_interval_does_not_show_that_nothing_was_learnt(comparison):
    one = learnable_results(comparison, ac=3.6, windows=2.0)

    def wide(_name, pairs=(), *, whole=False):
        found = analyse(one, verdicts_only=True)
        return replace(found, points=[replace(p, interval=(p.mean - 0.6, p.mean + 0.6)) if p.arm == "ac" else p for p in found.points])

    assert facts.learnable(Shelf({"learnable": one}, wide)).outcome == "differs"


def test_one_kind_of_code_alone_is_not_run_but_shown(comparison):
    one = comparison("learnable", {"bytes": 2.5, "windows": 2.0}, views={"windows": "table"}, alone=("windows",))
    seen, outcome = rows_of(one)["arithmetic code is not learnable, equal-info windows are"]
    assert outcome == "not run"
    assert "`windows`" in seen
    assert "only one of the two kinds has a score" in seen


def robustness(change):
    return {"prompts": {"plain": {"all": {"bits": {"change": {"value": change, "interval": None, "reason": None}}}}}}


@pytest.mark.parametrize(
    ("proxy", "seeds", "outcome"),
    [
        (lambda seed: 0.10 + 0.01 * seed, (0, 1, 2), "agrees"),  # the same as bytes, seed by seed, but for rounding
        (lambda seed: 0.50 + 0.01 * seed + 0.001 * (seed % 2), (0, 1, 2), "**differs**"),
        (lambda seed: 0.50, (0,), "not decided"),
    ],
)
def test_robustness_is_paired_by_seed(comparison, proxy, seeds, outcome):
    def asked(arm, _scale, seed):
        change = {"bytes": 0.10 + 0.01 * seed + 1e-4 * seed**2, "proxy_spm": proxy(seed), "tokens": 0.3}[arm]
        return {"robustness-test": robustness(change)}

    arms = {"bytes": 2.5, "proxy_spm": 2.5, "tokens": 2.2}
    one = comparison("ladder", arms, seeds=seeds, views=PROXIES, alone=("tokens",), evaluations=asked)
    seen, found = rows_of(one)["robustness stays that of bytes"]
    assert found == outcome
    assert "`tokens` +0.300" in seen
    assert f"{len(seeds)} seed" in seen


@pytest.mark.parametrize(("tokens", "why"), [(0.12, "loses no more than the noise of `bytes` (+0.010"), (None, "no `tokens` beside it")])
def test_where_tokens_lose_nothing_robustness_decides_nothing(comparison, tokens, why):
    def asked(arm, _scale, seed):
        change = {"bytes": 0.10 + 0.01 * seed + 1e-3 * (seed % 2), "proxy_spm": 0.11, "tokens": tokens}[arm]
        return {} if change is None else {"robustness-test": robustness(change)}

    arms = {"bytes": 2.5, "proxy_spm": 2.5, "tokens": 2.2}
    seen, found = rows_of(comparison("ladder", arms, views=PROXIES, alone=("tokens",), evaluations=asked))["robustness stays that of bytes"]
    assert found == "not decided"
    assert why in seen
    alone = comparison("ladder", arms, seeds=(0,), views=PROXIES, alone=("tokens",), evaluations=asked)
    assert tokens is None or "one seed of `tokens`" in rows_of(alone)["robustness stays that of bytes"][0]


def test_one_run_in_two_comparisons_is_evidence_once(comparison):
    def named(name, bits, rate):
        one = comparison(name, {"bytes": 2.5, "proxy_gzip": bits}, seeds=(0, 1), views=PROXIES)
        final = [{"plan_digest": f"{run.name}{run.seed}"} for run in one.arms]
        changes = [{"final": of, "learning_rate": rate} for of in final]
        return one.model_copy(update={"arms": [run.model_copy(update=of) for run, of in zip(one.arms, changes, strict=True)]})

    ladder, search = named("ladder", 2.9, 0.004), named("search", 2.9, 0.004)
    seen = facts.pair("proxy_gzip", "bytes", "worse")(shelf_of(ladder, search))
    assert seen.lines[1].endswith("worse; the same runs of `proxy_gzip` as in ladder, counted once")
    assert "the same" not in seen.lines[0]
    other = facts.pair("proxy_gzip", "bytes", "worse")(shelf_of(ladder, named("search", 2.9, 0.008)))
    assert not any("the same" in line for line in other.lines)


def test_one_seed_decides_nothing(comparison):
    one = comparison("ladder", {"bytes": 2.5, "proxy_gzip": 2.9, "proxy_spm": 2.4}, scales=SCALES, seeds=(0,), views=PROXIES)
    found = rows_of(one)
    for title in ("gzip does not teach raw bytes", "their margin grows with size"):
        seen, outcome = found[title]
        assert outcome == "not decided"
        assert "not judged: one seed" in seen
    views, arms = {"ac": "stream", "windows": "table"}, {"bytes": 2.5, "ac": 4.0, "windows": 2.0}
    learnt = comparison("learnable", arms, views=views, alone=("ac", "windows"), seeds=(0,))
    plan = learnt.plan | {"views": {"stream": {"kind": "stream", "options": {"coder": "arithmetic"}}, "table": {"kind": "table"}}}
    seen, outcome = rows_of(learnt.model_copy(update={"plan": plan}))["arithmetic code is not learnable, equal-info windows are"]
    assert outcome == "not decided"
    assert "(one arithmetic code, one seed)" in seen


def shelf_of(*kept):
    library = Library({one.name: one for one in kept})
    return Shelf(library.kept, library.analysis)


def test_translation_is_better_where_more_is_right(comparison):
    def told(arm, _scale, seed):
        right = {"pairs_always": 0.96, "pairs_none": 0.40, "pairs_warmup": 0.7}.get(arm)
        found = {"accuracy": {"value": None if right is None else right + 0.01 * seed + 1e-3 * len(arm) * (seed % 2)}}
        return {"translate-test": {"view_to_raw": {"teacher_forced": found}}} if right else {}

    arms = {"bytes": 2.5, "pairs_warmup": 2.4, "pairs_always": 2.4, "pairs_none": 2.4}
    one = comparison("pairs", arms, views=dict.fromkeys(list(arms)[1:], "spm"), evaluations=told)
    seen, outcome = rows_of(one)["pairs always translate best"]
    assert outcome == "agrees"
    assert "over `pairs_none` +0.56" in seen


def test_the_table_of_translation_by_eye(comparison):
    def told(arm, _scale, seed):
        bits = {"raw": 4.0, "raw_after_view": 3.0 + seed, "raw_after_stranger": 5.0}
        values = {key: {"value": value} for key, value in bits.items()}
        forced = {"teacher_forced": {"accuracy": {"value": 0.5}}}
        return {"translate-test-spm": {"view": "spm", "bits_per_byte": values, "view_to_raw": forced}} if arm != "bytes" else {}

    arms = {"bytes": 2.5, "pairs_always": 2.4}
    one = comparison("pairs", arms, views={"pairs_always": "spm"}, evaluations=told, seeds=(0, 1))
    library = Library({"pairs": one})
    _, table = table_kinds.KINDS["translation"](library.kept["pairs"], library.analysis("pairs"), {})
    saved = ["+12.5 % (+0.0 to +25.0)", "+30.0 % (+20.0 to +40.0)"]  # 1 - 3/4 and 1 - 4/4; 1 - 3/5 and 1 - 4/5
    assert [list(row) for row in table.rows] == [["`pairs_always`", "spm", "2", "4.000", "3.500", "5.000", *saved]]
    assert table.columns[0] == "arm"
    with pytest.raises(RequestError, match="arms"):
        table_kinds.KINDS["translation"](library.kept["pairs"], library.analysis("pairs"), {"arms": "bytes"})


def test_the_mean_of_seeds_by_eye():
    # Deviation 1 of three, over the root of 3; t of two degrees of freedom is 4.303.
    mean, bounds = seed_mean([1.0, 2.0, 3.0])
    assert mean == 2
    assert bounds == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-3)
    assert seed_mean([1.0]) == (1.0, None)


def test_a_pair_beside_the_baseline_is_judged_where_both_ran(comparison):
    one = comparison(
        "pairs", {"bytes": 2.5, "pairs_warmup": 2.3, "pairs_always": 2.4}, views=dict.fromkeys(("pairs_warmup", "pairs_always"), "spm")
    )
    shelf = Shelf({"pairs": one}, lambda name, pairs=(), whole=False: analyse(one, num_draws=20, pairs=pairs))
    seen = facts.pair("pairs_warmup", "pairs_always", "better")(shelf)
    assert seen.outcome == "agrees"
    assert len(seen.lines) == 1
    assert facts.pair("pairs_warmup", "pairs_none", "better")(shelf).outcome == "not run"


def test_pairs_of_documents_longer_than_a_row_decide_nothing(comparison):
    told = dict.fromkeys(("pairs_warmup", "pairs_always"), "spm")
    one = comparison("pairs", {"bytes": 2.5, "pairs_warmup": 2.3, "pairs_always": 2.4}, views=told)  # documents of 384,000 / 90 bytes
    for row_length, outcome in ((4096, "not decided"), (4608, "agrees")):
        kept = one.model_copy(update={"plan": {**one.plan, "base": {"row_length": row_length}}})
        seen, found = rows_of(kept)["pairs while warming up beat pairs always"]
        assert found == outcome
        assert ("documents of 4,267 bytes in rows of 4,096, so pairs hardly meet" in seen) == (row_length == 4096)


def test_the_repository_names_the_arms_that_facts_look_for(root):
    # A kept comparison that has a proxy of SentencePiece under another name would be left out without a word.
    kept = read_all(root / "configs" / "compare" / "results")
    for name in {"ladder"} & set(kept):
        arms = {arm.name for arm in kept[name].arms}
        assert {"bytes", "tokens", "windows", "proxy_spm", "proxy_neural", "proxy_gzip"} <= arms
