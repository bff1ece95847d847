"""A run that is killed, stopped or damaged and started again ends with the numbers of one that never was. Real DeepSpeed, real kills."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from proxy_lm.train.launch import free_port

STEPS = 24


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[tuple[int, str]]:
    return [(line["step"], line["loss_hex"]) for line in lines(run)]


def weights(run: Path, step: int) -> str:
    return hashlib.sha256((run / "checkpoints" / f"step-{step}" / "model.safetensors").read_bytes()).hexdigest()


def num_lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_line(process, run: Path, number: int) -> None:
    end = time.monotonic() + 180
    while num_lines(run) < number:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, "no progress"
        time.sleep(0.005)


def ranks_of(process) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        words = child.cmdline()
        if "proxy_lm.train" in words and "deepspeed.launcher.launch" not in words:
            found.append(child)
    return found


def kill_everything(process) -> None:
    for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        try:
            child.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.communicate()


def settings(tiny_run, name, **changes):
    return tiny_run.settings(
        name, num_steps=STEPS, checkpoint={"every_steps": 3}, validation={"max_bytes": 700, "every_steps": 8}, **changes
    )


@pytest.fixture(scope="module")
def whole(tiny_run) -> Path:
    """Two ranks, ZeRO 1, never interrupted."""
    config = tiny_run.write(settings(tiny_run, "whole"))
    tiny_run.train(config, ranks=2, launcher="deepspeed")
    return tiny_run.folder / "runs" / "whole"


@pytest.mark.slow
def test_killed_three_times_and_stopped_once_equals_uninterrupted_to_the_last_bit(tiny_run, whole):
    config = tiny_run.write(settings(tiny_run, "killed"))
    run = tiny_run.folder / "runs" / "killed"
    moments = random.Random(os.urandom(8))
    shown = []
    for kill in range(3):
        process = tiny_run.start(config, ranks=2, launcher="deepspeed" if kill == 0 else "fork")
        at = num_lines(run) if kill == 0 else moments.randint(3 * kill, 3 * kill + 5)
        wait_for_line(process, run, at + 1)
        time.sleep(moments.random() * 0.3)
        shown.append(num_lines(run))
        if kill == 0:
            kill_everything(process)
        else:
            process.kill()
            process.communicate()
    began = time.time()
    process = tiny_run.start(config, ranks=2, launcher="deepspeed")
    while (run / "metrics.jsonl").stat().st_mtime < began:  # cut off at the checkpoint when the loop begins
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    found = ranks_of(process)
    found[1].send_signal(signal.SIGTERM)  # one rank is asked, both leave
    output, _ = process.communicate(timeout=120)
    print(f"lines when killed: {shown}; stopped: {output[-300:]}")
    if "finished at step" not in output:
        assert process.returncode == 75, output
        stopped = json.loads((run / "run.json").read_text())
        assert stopped["status"] == "stopped"
        tiny_run.train(config, ranks=2)

    assert losses(run) == losses(whole)
    assert [step for step, _ in losses(run)] == list(range(1, STEPS + 1))
    assert weights(run, STEPS) == weights(whole, STEPS)
    ours, theirs = (json.loads((path / "run.json").read_text()) for path in (run, whole))
    for key in (
        "status",
        "final_loss_hex",
        "symbols",
        "training_flops",
        "source_bytes_by_view",
        "documents_by_view",
        "validation",
        "unique_bytes",
        "packing",
    ):
        assert ours[key] == theirs[key], key
    assert ours["status"] == "finished"
    assert ours["world_size"] == 2


@pytest.mark.slow
def test_one_rank_sees_the_rows_of_two_and_has_their_losses(tiny_run, whole):
    config = tiny_run.write(settings(tiny_run, "alone"))
    tiny_run.train(config)
    one, two = lines(tiny_run.folder / "runs" / "alone"), lines(whole)
    assert [line["batch_digest"] for line in one] == [line["batch_digest"] for line in two]
    assert len({line["batch_digest"] for line in one}) == STEPS
    for a, b in zip(one, two, strict=True):
        assert a["loss_nats"] == pytest.approx(b["loss_nats"], rel=1e-5)
        for what in ("document_share", "symbol_share", "source_byte_share"):
            assert a[what] == b[what]


@pytest.fixture(scope="module")
def stopped(tiny_run) -> Path:
    """One rank, stopped by SIGUSR1 after a few steps; checkpoints are kept and the run is not finished."""
    config = tiny_run.write(settings(tiny_run, "stopped"))
    run = tiny_run.folder / "runs" / "stopped"
    process = tiny_run.start(config)
    wait_for_line(process, run, 7)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert "SIGUSR1" in output
    return run


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others_with_a_sentence(tiny_run):
    config = tiny_run.write(settings(tiny_run, "widow"))
    run = tiny_run.folder / "runs" / "widow"
    port = str(free_port())
    ranks = [
        tiny_run.start(config, RANK=str(k), WORLD_SIZE="2", LOCAL_RANK=str(k), MASTER_ADDR="127.0.0.1", MASTER_PORT=port) for k in (0, 1)
    ]
    wait_for_line(ranks[0], run, 2)
    ranks[1].kill()
    output, _ = ranks[0].communicate(timeout=120)
    ranks[1].communicate()
    assert ranks[0].returncode == 1, output
    assert "lost another rank" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_run_whose_loss_is_broken_ends_with_exit_code_1_and_is_not_finished(tiny_run):
    """It once ended "finished" at exit code 0, with a model that predicted nothing."""
    config = tiny_run.write(settings(tiny_run, "broken", optimizer={"learning_rate": 1e30}, spikes={"rollback_after": None}))
    output = tiny_run.train(config, ranks=2, code=1)
    assert output.count("the loss was not finite in the last 10 of ") == 1
    assert "Traceback" not in output
    run = tiny_run.folder / "runs" / "broken"
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    assert len(lines(run)) < STEPS


def copy_of(tiny_run, stopped: Path, name: str) -> tuple[Path, Path]:
    shutil.copytree(stopped, tiny_run.folder / "runs" / name)
    return tiny_run.folder / "runs" / name, tiny_run.write(settings(tiny_run, name))


def damage(checkpoint: Path) -> None:
    """Flip one bit in the middle of the optimizer's file."""
    path = next((checkpoint / "engine").glob("*optim_states.pt"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def steps_saved(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tiny_run, whole, stopped):
    run, config = copy_of(tiny_run, stopped, "damaged")
    older, newest = steps_saved(run)
    damage(run / "checkpoints" / f"step-{newest}")
    output = tiny_run.train(config)
    assert f"using step {older} instead" in output
    assert f"continues at step {older}" in output
    for (step, ours), (_, theirs) in zip(losses(run), losses(whole), strict=True):
        assert float.fromhex(ours) == pytest.approx(float.fromhex(theirs), rel=1e-5), step


@pytest.mark.slow
def test_only_damaged_checkpoints_are_never_taken_for_a_fresh_start(tiny_run, stopped):
    run, config = copy_of(tiny_run, stopped, "ruined")
    before = losses(run)
    for step in steps_saved(run):
        damage(run / "checkpoints" / f"step-{step}")
    output = tiny_run.train(config, code=1)
    assert "is valid (" in output
    assert "Traceback" not in output
    assert losses(run) == before


@pytest.mark.slow
def test_at_stage_0_the_number_of_ranks_may_change_on_the_way(tiny_run, whole):
    """A5: a run could only go on with the number of ranks it had begun with."""
    config = tiny_run.write(settings(tiny_run, "moved", zero={"stage": 0}))
    run = tiny_run.folder / "runs" / "moved"
    process = tiny_run.start(config)
    wait_for_line(process, run, 5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    tiny_run.train(config, "--resume", ranks=2)
    for (step, ours), (_, theirs) in zip(losses(run), losses(whole), strict=True):
        assert float.fromhex(ours) == pytest.approx(float.fromhex(theirs), rel=1e-5), step


def test_a_finished_run_says_so_and_other_settings_are_refused_with_the_difference(tiny_run, whole):
    config = tiny_run.folder / "whole.yaml"
    assert "is finished" in tiny_run.train(config)
    output = tiny_run.train(config, "optimizer.learning_rate=0.1", "logging.tensorboard=true", code=2)
    assert "optimizer.learning_rate: 0.003 -> 0.1" in output
    assert "tensorboard" not in output
    assert "Traceback" not in output


def test_the_restored_model_is_the_trained_one(tiny_run, whole):
    import torch

    from proxy_lm.train.restore import load_model

    loaded = load_model(whole)
    assert loaded.step == STEPS
    assert [view.name for view in loaded.vocabulary.views] == ["gzip"]
    assert loaded.views == {"gzip": tiny_run.folder / "gzip"}
    artifact = json.loads((tiny_run.folder / "gzip" / "artifact.json").read_text())
    assert loaded.manifest["state"]["fingerprints"] == {"gzip": artifact["fingerprint"]}
    ids = torch.tensor([[257, 259, *b"import os\n"]])
    zeros = torch.zeros_like(ids)
    logits = loaded.model.logits(ids, zeros, torch.arange(ids.shape[1]).unsqueeze(0))
    assert logits.shape == (1, 12, loaded.vocabulary.size)
    assert not loaded.model.training
    same = load_model(whole / "checkpoints" / f"step-{STEPS}")
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), same.model.parameters(), strict=True))
