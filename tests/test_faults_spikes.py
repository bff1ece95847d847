"""A step whose loss is bad is thrown away on all ranks together, its documents are named, and after some in a row older weights return."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from pathlib import Path

import pytest

from proxy_lm.errors import RequestError
from proxy_lm.train.faults import MicroBatch, PlantedFaults, suspects
from proxy_lm.train.launch import free_port
from proxy_lm.train.spikes import SpikeSettings, SpikeState, Verdict, count, judge, newest_good_step, roll_back, state_of, wants_rollback

STEPS = 16


# ---- the decision, by hand


def learnt(settings: SpikeSettings, state: SpikeState, nll: list[float], targets: list[float]) -> Verdict:
    verdict = judge(settings, state, nll, targets)
    count(settings, state, verdict, nll, targets)
    return verdict


def steady(settings: SpikeSettings, num_steps: int) -> SpikeState:
    """Raw targets cost 2.0 and 2.2 nats in turn, ten a step; a second view is not seen."""
    state = SpikeState()
    for step in range(num_steps):
        assert learnt(settings, state, [20.0 + 2 * (step % 2), 0.0, 0.0], [10, 0, 0]).why is None
    return state


def test_a_spike_is_measured_against_the_spread_of_recent_steps() -> None:
    settings = SpikeSettings(factor=6, floor_nats=0.1, window_steps=8)
    state = steady(settings, 100)
    verdict = judge(settings, state, [21.0, 0, 0], [10, 0, 0])
    # Losses were 2.0 and 2.2: what was expected is between them, and each was off by about 0.1.
    assert verdict.why is None
    assert verdict.expected_nats == pytest.approx(2.1, abs=0.02)
    assert verdict.limit_nats == pytest.approx(0.6, abs=0.1)
    assert judge(settings, state, [26.0, 0, 0], [10, 0, 0]).why is None
    assert judge(settings, state, [30.0, 0, 0], [10, 0, 0]).why == "spike"
    assert judge(settings, state, [1.0, 0, 0], [10, 0, 0]).why is None, "a low loss is no spike"


def test_nothing_is_a_spike_before_half_a_window_and_nothing_finite_where_it_is_switched_off() -> None:
    settings = SpikeSettings(window_steps=8)
    assert judge(settings, steady(settings, 3), [1e6, 0, 0], [10, 0, 0]).why is None
    assert judge(settings, steady(settings, 4), [1e6, 0, 0], [10, 0, 0]).why == "spike"
    assert judge(SpikeSettings(skip=False), steady(settings, 50), [1e6, 0, 0], [10, 0, 0]).why is None
    assert judge(SpikeSettings(skip=False), SpikeState(), [math.nan, 0, 0], [10, 0, 0]).why == "loss not finite"


def test_another_mixture_of_views_is_no_spike() -> None:
    """A view at 8 nats beside raw bytes at 1: the mean loss rises from 1.7 to 7.3 when the mixture turns, and every view is as before."""
    settings = SpikeSettings(window_steps=16)
    state = SpikeState()
    for step in range(40):
        wave = 0.02 * (step % 2)
        assert learnt(settings, state, [90.0 + wave, 80.0, 0.0], [90, 10, 0]).why is None
    assert judge(settings, state, [10.0, 720.0, 0.0], [10, 90, 0]).why is None
    assert judge(settings, state, [10.0, 820.0, 0.0], [10, 90, 0]).why == "spike"
    # A view that was never seen has nothing to be compared with.
    assert judge(settings, state, [90.0, 80.0, 900.0], [90, 10, 1]).why is None


def test_a_discarded_step_teaches_no_expectation_and_rows_of_them_are_counted() -> None:
    settings = SpikeSettings(window_steps=8, rollback_after=3, max_rollbacks=1)
    state = steady(settings, 20)
    before = state_of(json.loads(json.dumps(state.__dict__)))
    assert before == state
    for number in (1, 2, 3):
        assert not wants_rollback(settings, state)
        assert learnt(settings, state, [math.inf, 0, 0], [10, 0, 0]).discard
        assert (state.in_row, state.num_discarded) == (number, number)
        assert (state.nll_nats, state.square) == (before.nll_nats, before.square)
    assert wants_rollback(settings, state)
    assert newest_good_step(state, 23) == 20
    roll_back(state, SpikeState(nll_nats=[1.0], num_targets=[1.0], num_seen=[1]), at=23, to=18)
    assert (state.in_row, state.num_discarded, state.rollbacks, state.nll_nats) == (0, 3, [{"at": 23, "to": 18}], [1.0])
    # Bad again at once: what the last rollback took was no good either.
    for _ in range(3):
        learnt(settings, state, [math.nan, 0, 0], [10, 0, 0])
    assert newest_good_step(state, 26) == 17
    assert not wants_rollback(settings, state), "max_rollbacks is 1"


def test_who_is_to_blame() -> None:
    good, high, broken = (MicroBatch(range(k, k + 2), nll, 10) for k, nll in ((0, 20.0), (2, 90.0), (4, math.nan)))
    verdict = Verdict("spike", 2.0, 1.0)
    assert suspects([good, high, broken], verdict) == [broken]
    assert suspects([good, high], verdict) == [high]
    assert suspects([good, high], Verdict("gradient not finite")) == [high]


@pytest.mark.parametrize("text", ["nan", "nan@0", "nan@-1", "typo@3", "nan@3:x", "nan@3;spike@4"])
def test_a_planted_fault_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="give KIND@STEP or KIND@STEP:RANK"):
        PlantedFaults(text, 0)


# ---- real runs on two ranks


def settings(tiny_run, name: str, **changes):
    spikes = {"window_steps": 4, "rollback_after": 3, "max_rollbacks": 1, "factor": 20}
    checkpoint = {"every_steps": 2}
    return tiny_run.settings(
        name, **{"num_steps": STEPS, "checkpoint": checkpoint, "spikes": spikes, "validation": {"max_bytes": 0}, **changes}
    )


def start_two(tiny_run, config: Path, faults: str) -> list[subprocess.Popen[str]]:
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "PROXY_LM_FAULTS": faults}
    return [tiny_run.start(config, RANK=str(k), LOCAL_RANK=str(k), **common) for k in (0, 1)]


def run_two(tiny_run, config: Path, faults: str = "", code: int = 0) -> str:
    outputs = [(process.communicate(timeout=240)[0], process.returncode) for process in start_two(tiny_run, config, faults)]
    assert [found for _, found in outputs] == [code, code], outputs
    return outputs[0][0]


def lines(run: Path, name: str = "metrics.jsonl") -> list[dict]:
    path = run / name
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")  # the last line of a run at work may be half there
    return [json.loads(line) for line in whole.splitlines()]


def weights(run: Path, step: int) -> str:
    return hashlib.sha256((run / "checkpoints" / f"step-{step}" / "model.safetensors").read_bytes()).hexdigest()


FAULTS = "nan@5:1 spike@7:0 gradient@8:1 inf@9 nan@12:0"


@pytest.fixture(scope="module")
def broken(tiny_run) -> Path:
    """Step 5 is discarded alone, 7 to 9 in a row (a spike, a gradient, a loss), and 12 alone again; steps 2, 4 and 6 are saved before."""
    config = tiny_run.write(settings(tiny_run, "faulty"))
    run_two(tiny_run, config, FAULTS)
    return tiny_run.folder / "runs" / "faulty"


@pytest.mark.slow
def test_all_ranks_discard_the_same_steps_and_go_on(broken):
    found = {line["step"]: line["discarded"] for line in lines(broken)}
    assert list(found) == list(range(1, STEPS + 1)), "no gap and no double, also where weights went back"
    assert {step: why for step, why in found.items() if why} == {
        5: "loss not finite",
        7: "spike",
        8: "gradient not finite",
        9: "loss not finite",
        12: "loss not finite",
    }
    record = json.loads((broken / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["spikes"] == {"num_discarded": 5, "rollbacks": [{"at": 9, "to": 6}]}
    assert math.isfinite(float.fromhex(record["final_loss_hex"]))


@pytest.mark.slow
def test_the_documents_of_the_bad_micro_batches_are_named(tiny_run, broken):
    told = lines(broken, "faults.jsonl")
    assert [(line["step"], line["event"]) for line in told] == [
        (5, "discarded"), (7, "discarded"), (8, "discarded"), (9, "discarded"), (9, "rolled back"), (12, "discarded")
    ]  # fmt: skip
    assert told[4] == {"step": 9, "event": "rolled back", "to": 6}
    first = told[0]
    # Step 5 has rows 32..39 in micro-batches of 2, dealt to ranks 0 and 1 in turn; rank 1 was broken.
    assert [batch["rows"] for batch in first["micro_batches"]] == [[32, 34], [34, 36], [36, 38], [38, 40]]
    assert [batch["bad"] for batch in first["micro_batches"]] == [False, True, False, True]
    rows = {document["row"] for document in first["documents"]}
    assert rows
    assert rows <= {34, 35, 38, 39}
    corpus = tiny_run.corpus
    for document in first["documents"]:
        assert document["id"] == corpus.column("id")[document["document"]]
        assert document["path"] == corpus.column("path")[document["document"]]
        assert document["view"] in ("raw", "gzip")
    assert first["num_documents"] == len(first["documents"])
    assert told[1]["expected_nats"] + told[1]["limit_over_expected_nats"] < told[1]["loss_nats"]


@pytest.mark.slow
def test_each_rollback_goes_further_back_and_to_what_an_undisturbed_run_has(tiny_run):
    """Steps 8 to 11 are bad, and two in a row mean a rollback: after 9 to step 6, after 11 to step 4, although only two are kept. A run
    that the clock made save every step has a checkpoint 7 too, and does the same."""
    spikes = {"window_steps": 4, "rollback_after": 2, "max_rollbacks": 2}
    saving = {"planned": {"every_steps": 2, "every_seconds": None}, "clocked": {"every_steps": 2, "every_seconds": 1e-9, "keep_last": 4}}
    losses = {}
    for name, checkpoint in saving.items():
        config = tiny_run.write(settings(tiny_run, name, num_steps=13, spikes=spikes, checkpoint=checkpoint))
        process = tiny_run.start(config, PROXY_LM_FAULTS="nan@8 nan@9 nan@10 nan@11")
        output = process.communicate(timeout=240)[0]
        assert process.returncode == 0, output
        run = tiny_run.folder / "runs" / name
        record = json.loads((run / "run.json").read_text())
        assert record["spikes"]["rollbacks"] == [{"at": 9, "to": 6}, {"at": 11, "to": 4}]
        losses[name] = [line["loss_hex"] for line in lines(run)]
    assert losses["planned"] == losses["clocked"]
    kept = {path.name for path in (tiny_run.folder / "runs" / "planned" / "checkpoints").iterdir()}
    assert kept == {"step-12", "step-13"}, "once a step was learnt, the counts are kept to again"


@pytest.mark.slow
def test_a_run_killed_among_its_faults_repeats_them_to_the_bit(tiny_run, broken):
    config = tiny_run.write(settings(tiny_run, "killed-faulty"))
    run = tiny_run.folder / "runs" / "killed-faulty"
    ranks = start_two(tiny_run, config, FAULTS)
    while len(lines(run)) < 8 and ranks[0].poll() is None:
        pass
    for rank in ranks:
        rank.kill()
        rank.communicate()
    run_two(tiny_run, config, FAULTS)
    assert [line["loss_hex"] for line in lines(run)] == [line["loss_hex"] for line in lines(broken)]
    assert lines(run, "faults.jsonl") == lines(broken, "faults.jsonl")
    assert weights(run, STEPS) == weights(broken, STEPS)
