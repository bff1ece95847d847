"""Grids without training: which cells a plan has, what each is given, which rate the search chooses, in what order they run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from eval import cli, rate_search
from eval.array_jobs import listing, slurm_script
from eval.budget import Rates
from eval.matching import describe_runs, solve_runs
from eval.plan import ComparePlan, arm_runs, check_arms, differences
from eval.results import SearchedRate
from eval.schedule import environment_of_job, in_order, num_jobs, shared_out
from proxy_lm.config import validate
from proxy_lm.errors import RequestError
from proxy_lm.train.child import last_record

MODEL = {"preset": None, "depth": 1, "num_heads": 2, "hidden": 32}
PLAN = {
    "name": "gridplan",
    "corpus": {"path": "corpus"},
    "views": {"halves": {"kind": "nibble"}},
    "base": {"row_length": 64, "rows_per_step": 8, "rows_per_device": 8, "model": MODEL},
    "arms": {"bytes": {}, "halves": {"views": ["halves"], "mix": {"rate": 1.0}}},
    "scales": {"s0": {"model": {"width": 16}}, "s1": {"model": {"width": 32}}},
    "match": {"flops": 1e9},
    "budgets": {"x1": {"s0": 1e9, "s1": 4e9}, "x4": {"s0": 4e9}},
    "evaluation": {"context_bytes": 64, "stride_bytes": 64},
}
OUT = Path("out")
SEARCH = {"learning_rates": [1e-3, 2e-3, 4e-3], "share": 0.25, "scales": ["s0"]}


def plan(**changes):
    return validate(ComparePlan, {**PLAN, **changes}, source="plan")


def names(made):
    return [run.folder_name for run in arm_runs(made)]


def test_cells_by_eye():
    assert names(plan()) == ["bytes-s0-x1", "halves-s0-x1", "bytes-s0-x4", "halves-s0-x4", "bytes-s1-x1", "halves-s1-x1"]
    assert names(plan(budgets={}, scales={})) == ["bytes", "halves"]
    two = plan(scales={}, budgets={"x": 1e9}, seeds=[0, 1])
    assert names(two) == ["bytes-x-s0", "halves-x-s0", "bytes-x-s1", "halves-x-s1"]
    assert {run.target for run in arm_runs(two)} == {1e9}


def test_what_is_left_out_matches_every_part_that_is_given():
    assert names(plan(left_out=[{"arms": ["halves"], "budgets": ["x4"]}, {"scales": ["s1"]}])) == [
        "bytes-s0-x1",
        "halves-s0-x1",
        "bytes-s0-x4",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"budgets": {"x1": {"s9": 1e9}}}, "names scale 's9'; the plan has: s0, s1"),
        ({"budgets": {"x1": 0}}, "above 0"),
        ({"budgets": {"x-1": 1e9}}, "letters, digits"),
        ({"left_out": [{}]}, "names nothing"),
        ({"left_out": [{"arms": ["gzip"]}]}, "left_out.arms names arm 'gzip'; the plan has: bytes, halves"),
        ({"left_out": [{"seeds": [0]}]}, "leave no cell"),
        ({"search": {**SEARCH, "scales": ["s7"]}}, "names scale 's7'"),
        ({"arms": {"bytes": {}, "halves": {"views": 3}}}, "arm 'halves' has views 3; give a list of names"),
        ({"arms": {"bytes": {}, "halves": {"views": "halves"}}}, "give a list of names"),
        ({"scales": {"s0": {"seed": 3}, "s1": {}}}, "'seed' is computed from the plan; take it out of 'base', the scales and the arms"),
        ({"scales": {"s0": {"views": ["halves"]}, "s1": {}}}, "'views' is computed from the plan"),
        ({"search": {**SEARCH, "scales": []}}, "search.scales is empty"),
        ({"search": {**SEARCH, "learning_rates": [1e-3, 1e-3]}}, "different numbers"),
        ({"search": {**SEARCH, "seed": 0}}, "one of 'seeds'"),
        ({"search": SEARCH, "arms": {"bytes": {"optimizer": {"learning_rate": 1e-3}}}}, "arms.bytes sets optimizer.learning_rate"),
    ],
)
def test_a_grid_that_names_what_is_not_there_is_refused(changes, expected):
    with pytest.raises(RequestError, match=expected):
        plan(**changes)


def rates_of(runs, flops_per_symbol):
    return {run.cell_name: Rates(symbols_per_step=1, flops_per_symbol=flops_per_symbol[run.arm], source_bytes=lambda n: n) for run in runs}


def test_arms_are_matched_within_each_scale_and_budget():
    made = plan()
    runs = list(arm_runs(made))
    costs = rates_of(runs, {"bytes": 1_000_000, "halves": 2_000_000})
    steps = solve_runs(made, runs, costs)
    assert steps == {
        "bytes-s0-x1": 1000,
        "halves-s0-x1": 500,
        "bytes-s0-x4": 4000,
        "halves-s0-x4": 2000,
        "bytes-s1-x1": 4000,
        "halves-s1-x1": 2000,
    }
    assert [row["off_target"] for row in describe_runs(made, runs, costs, steps)] == [0.0] * 6
    with pytest.raises(RequestError, match=r"'halves-s0-x1' comes to .* with budgets\.x1\.s0 of 7.4e\+10 or more"):
        solve_runs(made, runs, rates_of(runs, {"bytes": 1_000_000, "halves": 700_000_000}))


def tried(arm, bits):
    """Bits per byte of the three rates at s0."""
    rates = SEARCH["learning_rates"]
    return [
        SearchedRate(arm=arm, scale="s0", learning_rate=rate, seed=1000, training_flops=1.0, bits_per_byte=found)
        for rate, found in zip(rates, bits, strict=True)
    ]


def test_the_search_tries_every_arm_at_every_rate_of_its_first_budget():
    made = plan(search=SEARCH, left_out=[{"arms": ["halves"], "budgets": ["x1"]}])
    runs = rate_search.tries(made)
    assert [run.cell_name for run in runs] == [f"search/{arm}-s0-lr{rate}" for arm in PLAN["arms"] for rate in ("0.001", "0.002", "0.004")]
    assert [run.target for run in runs] == [0.25e9] * 3 + [1e9] * 3  # of halves the first budget that it has is x4
    settings = runs[1].settings(OUT, OUT, 5)
    assert (settings.optimizer.learning_rate, settings.seed, settings.folder.parent.name) == (0.002, 1000, "search")
    assert rate_search.tries(plan()) == []


def test_the_best_rate_is_chosen_and_moved_by_width():
    made = plan(search=SEARCH)
    chosen = rate_search.choose(made, tried("bytes", [2.0, 1.5, None]) + tried("halves", [3.0, 2.0, 1.0]))
    found = {(one.arm, one.scale): (one.learning_rate, one.reason) for one in chosen}
    assert found == {
        ("bytes", "s0"): (2e-3, "searched"),
        ("halves", "s0"): (4e-3, "edge of the searched rates"),
        ("bytes", "s1"): (1e-3, "transferred from s0"),  # twice the width, half the rate
        ("halves", "s1"): (2e-3, "transferred from s0"),
    }
    as_it_is = rate_search.choose(plan(search={**SEARCH, "transfer": "same"}), tried("bytes", [2.0, 1.5, 1.6]))
    assert {one.scale: one.learning_rate for one in as_it_is} == {"s0": 2e-3, "s1": 2e-3}
    runs, failures = rate_search.with_rates(made, list(arm_runs(made)), chosen)
    assert failures == {}
    assert [run.settings(OUT, OUT, 1).optimizer.learning_rate for run in runs] == [2e-3, 4e-3, 2e-3, 4e-3, 1e-3, 2e-3]


def test_an_arm_whose_tries_all_failed_has_no_rate_and_one_that_is_not_through_waits():
    made = plan(search=SEARCH)
    chosen = rate_search.choose(made, tried("bytes", [None, None, None]) + tried("halves", [1.0, 2.0, 3.0])[:2])
    assert chosen == []
    _, failures = rate_search.with_rates(made, list(arm_runs(made)), chosen)
    assert set(failures) == set(names(made))
    assert "every try of the search failed" in failures["bytes-s0-x1"]


def test_cheap_cells_come_first_and_the_nth_seed_counts_n_times():
    runs = list(arm_runs(plan(seeds=[7, 3])))
    flops = {run.cell_name: run.target for run in runs}  # 1e9 for s0-x1, 4e9 for the others
    ordered = [run.cell_name for run in in_order(runs, flops, [7, 3])]
    assert ordered[:4] == ["bytes-s0-x1-s7", "halves-s0-x1-s7", "bytes-s0-x1-s3", "halves-s0-x1-s3"]
    assert [name[-2:] for name in ordered[4:]] == ["s7"] * 4 + ["s3"] * 4
    equal = [run.cell_name for run in in_order(runs, dict.fromkeys(flops, 1.0), [7, 3])]
    assert [name[-2:] for name in equal] == ["s7"] * 6 + ["s3"] * 6


def test_jobs_share_the_cores():
    two = plan(launch={"num_ranks": 1, "jobs": 2})
    assert num_jobs(two) == 2
    cores = len(os.sched_getaffinity(0))
    assert shared_out(two, 2).launch.threads_per_rank == max(1, cores // 2)
    assert shared_out(two, 1) == two
    assert int(environment_of_job(two, 1, 2, 1)["OMP_NUM_THREADS"]) <= max(1, cores // 2)
    with pytest.raises(RequestError, match=r"jobs=2 with launch\.arguments"):
        num_jobs(plan(launch={"jobs": 2, "arguments": ["--hostfile", "hosts"]}))


def test_budgets_may_be_added_and_not_changed():
    old = plan().model_dump(mode="json")
    assert differences(old, plan(budgets={**PLAN["budgets"], "x9": 9e9}).model_dump(mode="json")) == []
    assert differences(old, plan(budgets={"x1": {"s0": 1e9, "s1": 5e9}}).model_dump(mode="json")) == [
        "budgets.x1.s1: 4000000000.0 -> 5000000000.0"
    ]
    # A scale that is added needs a budget, and takes none away.
    of_scales = plan(budgets={"x1": {"s0": 1e9, "s1": 4e9}}).model_dump(mode="json")
    assert differences({**of_scales, "budgets": {"x1": {"s0": 1e9}}}, of_scales) == []
    assert differences(of_scales, {**of_scales, "budgets": {"x1": {"s0": 1e9}}}) == []
    assert differences({**of_scales, "budgets": {"x1": 1e9}}, of_scales) == [
        "budgets.x1: 1000000000.0 -> {'s0': 1000000000.0, 's1': 4000000000.0}"
    ]
    assert differences(old, plan(budgets={}).model_dump(mode="json")) == ["budgets: ['x1', 'x4'] -> []"]
    assert "search.share: None -> 0.25" in differences(old, plan(search=SEARCH).model_dump(mode="json"))
    # A folder of a version that knew none of these.
    for name in ("budgets", "search", "left_out"):
        del old[name]
    assert differences({**old, "scales": {}}, plan(budgets={}, scales={}).model_dump(mode="json")) == []


def test_every_cell_is_checked_before_anything_starts():
    with pytest.raises(RequestError, match="bytes-s0-x1"):
        check_arms(plan(evaluation={"context_bytes": 65, "stride_bytes": 64}))


def test_listing_makes_nothing(tmp_path):
    rows = listing(plan(search=SEARCH), tmp_path / "out")
    assert len(rows) == 6 + 6
    assert {(row["state"], row["forecast_seconds"]) for row in rows} == {("waiting", None)}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--cell", "nope"], "'nope' is no cell of this comparison; --cells lists its 6 cells"),
        (["--import", "nowhere.json"], "nowhere.json"),
        (["--cell", "bytes-s0-x1", "--import", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_is_not_there_is_refused_before_a_corpus_is_made(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("plan.json").write_text(json.dumps({**PLAN, "corpus": {"sources": ["python:"]}}))
    assert cli.main(["compare", "plan.json", "--out", "out", *words]) == 2
    assert expected in capsys.readouterr().err
    assert not Path("out").exists()


def test_the_job_file_submits_each_stage_after_the_other(tmp_path):
    """`sbatch` here is a program that writes down what it was asked; what the jobs do is in test_grid_runs.py."""
    script = tmp_path / "grid.sh"
    script.write_text(slurm_script(plan(search=SEARCH), ["proxy-lm-eval", "compare", "a plan.yaml", "--out", "out"]))
    (tmp_path / "sbatch").write_text('#!/bin/bash\necho "$@" >> asked.txt\nwc -l < asked.txt\n')
    (tmp_path / "sbatch").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "GPUS": "0"}
    done = subprocess.run(["bash", "grid.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
    asked = [line.split(" --signal=B:TERM@120 --open-mode=append ")[1] for line in (tmp_path / "asked.txt").read_text().splitlines()]
    common = "--job-name=gridplan --output=gridplan-%j.log"
    assert asked == [
        f"{common} grid.sh prepare",
        f"{common} --array=0-5 --dependency=afterok:1 grid.sh try",
        f"{common} --array=0-5 --dependency=afterany:2 grid.sh cell",
        f"{common} --dependency=afterany:3 grid.sh collect",
    ]
    assert "--gpus-per-task" not in (tmp_path / "asked.txt").read_text()
    assert "COMPARE=(proxy-lm-eval compare 'a plan.yaml' --out out)" in script.read_text()


def test_the_newest_record_of_a_run_is_read_past_a_torn_line(tmp_path):
    assert last_record(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert last_record(tmp_path) == {"step": 2}
