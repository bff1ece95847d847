"""Starts and saves that cannot go well end in a sentence, soon, and leave what was there: locks, ports, folders, disks, silent ranks."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy_lm.errors import RequestError, WorkError
from proxy_lm.train.checkpoint import CheckpointManager
from proxy_lm.train.launch import detect, free_port
from proxy_lm.train.stale_locks import check_lock, is_held
from proxy_lm.train.watchdog import Watchdog

LIMIT_SECONDS = 60.0


def num_lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_line(process: subprocess.Popen[str], run: Path, number: int) -> None:
    end = time.monotonic() + 180
    while num_lines(run) < number:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "no progress"
        time.sleep(0.005)


def test_a_build_lock_that_nobody_holds_is_refused_and_one_that_is_held_is_not(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    check_lock(lock)
    with lock.open("w"):
        assert is_held(lock)
        check_lock(lock)
    with pytest.raises(RequestError, match=r"was left behind by a build that was killed.*delete it"):
        check_lock(lock)


def test_a_checkpoint_folder_that_vanishes_is_an_error_at_the_next_save_and_comes_back(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "a").write_bytes(b"a")

    manager = CheckpointManager(tmp_path / "checkpoints")
    manager.save(1, write, {})
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(WorkError, match=r"step 2 was not saved.*step-1 was there and is not any more"):
        manager.save(2, write, {})
    assert not (tmp_path / "checkpoints").exists(), "a second home for checkpoints was made in silence"
    (tmp_path / "elsewhere").rename(tmp_path / "checkpoints")
    manager.save(2, write, {})
    newest = CheckpointManager(tmp_path / "checkpoints").newest_valid()
    assert newest is not None
    assert newest.step == 2


@pytest.mark.slow
def test_a_stale_lock_of_the_compiler_never_hangs_a_start(tiny_run, tmp_path: Path) -> None:
    """By default nothing is compiled; where the compiled operation is asked for, the lock is named."""
    for build in ("deepspeed_shm_comm", f"py{sys.version_info.major}{sys.version_info.minor}_cpu/deepspeed_shm_comm"):
        (tmp_path / build).mkdir(parents=True)
        (tmp_path / build / "lock").touch()
    config = tiny_run.write(tiny_run.settings("locked", num_steps=2, validation={"max_bytes": 0}))
    began = time.monotonic()
    tiny_run.train(config, TORCH_EXTENSIONS_DIR=str(tmp_path))
    output = tiny_run.train(
        config, "name=locked2", f"out={tmp_path / 'run'}", "communication.shared_memory_op=true", code=2, TORCH_EXTENSIONS_DIR=str(tmp_path)
    )
    assert time.monotonic() - began < 2 * LIMIT_SECONDS
    assert "deepspeed_shm_comm/lock was left behind by a build that was killed" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_port_in_use_is_a_sentence(tiny_run) -> None:
    config = tiny_run.write(tiny_run.settings("ported", num_steps=2))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        began = time.monotonic()
        output = tiny_run.train(config, code=1, RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert time.monotonic() - began < LIMIT_SECONDS
    assert f"could not meet the others at 127.0.0.1:{port}" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_second_run_on_the_folder_is_refused_and_a_folder_that_is_moved_away_ends_the_first(tiny_run) -> None:
    settings = tiny_run.settings("twice", num_steps=100_000, checkpoint={"every_steps": 20}, validation={"max_bytes": 0}, mix={"rate": 0})
    config = tiny_run.write(settings)
    run = tiny_run.folder / "runs" / "twice"
    first = tiny_run.start(config)
    wait_for_line(first, run, 25)
    output = tiny_run.train(config, code=2)
    assert f"is being trained by process {first.pid} on host" in output
    assert "Traceback" not in output
    (run / "checkpoints").rename(run / "moved")
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 1, output
    assert "was there and is not any more" in output
    assert "Traceback" not in output
    (run / "moved").rename(run / "checkpoints")
    again = tiny_run.start(config, "--resume")
    wait_for_line(again, run, num_lines(run) + 1)
    again.send_signal(signal.SIGTERM)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 75, output


@pytest.mark.slow
def test_a_rank_that_falls_silent_ends_the_others_in_time(tiny_run) -> None:
    config = tiny_run.write(
        tiny_run.settings("silent", num_steps=100_000, validation={"max_bytes": 0}, communication={"timeout_seconds": 20}, mix={"rate": 0})
    )
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [tiny_run.start(config, RANK=str(k), LOCAL_RANK=str(k), **common) for k in (0, 1)]
    try:
        wait_for_line(ranks[0], tiny_run.folder / "runs" / "silent", 2)
        ranks[1].send_signal(signal.SIGSTOP)
        output, _ = ranks[0].communicate(timeout=LIMIT_SECONDS)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[0].returncode == 1, output
    assert "lost another rank" in output
    assert "Traceback" not in output


# The trainer, whose named function falls silent or dies at its first call.
FAILING = """
import importlib, os, signal, sys
name, number, sys.argv = sys.argv[1], int(sys.argv[2]), sys.argv[2:]
module, owner, function = name.split(":")
owner = getattr(importlib.import_module(module), owner) if owner else importlib.import_module(module)
whole = getattr(owner, function)

def fail(*words, **more):
    os.kill(os.getpid(), number)
    return whole(*words, **more)

setattr(owner, function, fail)
from proxy_lm.train.__main__ import run_and_leave
run_and_leave()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "number"),
    [("proxy_lm.train.engine:Engine:__init__", signal.SIGSTOP), ("proxy_lm.train.preflight::gather_facts", signal.SIGKILL)],
)
def test_a_rank_lost_before_the_first_step_ends_the_others_with_a_sentence(tiny_run, where, number) -> None:
    """Building is where gloo waits for ever; the other is a plain death, among those that talk before a model is there."""
    config = tiny_run.write(tiny_run.settings("unbuilt", communication={"timeout_seconds": 10}))
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = [sys.executable, "-c", FAILING, where, str(int(number)), str(config)]
    first = tiny_run.start(config, RANK="0", LOCAL_RANK="0", **common)
    second = subprocess.Popen(
        words, env={**os.environ, "OMP_NUM_THREADS": "1", "RANK": "1", "LOCAL_RANK": "1", **common}, stderr=subprocess.DEVNULL
    )
    try:
        output, _ = first.communicate(timeout=LIMIT_SECONDS)
    finally:
        for rank in (first, second):
            rank.kill()
            rank.wait()
    assert first.returncode == 1, output
    assert "lost another rank" in output
    assert "Traceback" not in output


def test_a_rank_alone_is_not_watched() -> None:
    """A step of a day, or a night under Ctrl-Z, is nobody's silence."""
    with Watchdog("a step", lambda: 0, 0.05, detect({})):
        time.sleep(0.5)  # watched, this process would be gone


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_with_a_sentence_and_goes_on_when_there_is_room(tiny_run, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    settings = tiny_run.settings("full", num_steps=60, out=str(disk / "run"), checkpoint={"every_steps": 2}, validation={"max_bytes": 0})
    config = tiny_run.write(settings)
    train = f"{sys.executable} -m proxy_lm.train {config} 2>&1"
    # There is room when the run starts, and somebody else takes it all once the first checkpoint is there.
    script = f"""mount -t tmpfs -o size=8m none {disk} && cd {disk} || exit 3
        {{ until [ -d run/checkpoints/step-2 ]; do sleep 0.01; done; cat /dev/zero >ballast; }} 2>/dev/null &
        {train}; echo "code $?"; wait; rm ballast; ls run/checkpoints; {train}; echo "code $?" """
    for unshare in (["unshare", "-m"], ["unshare", "-rm"]):
        probe = [*unshare, "sh", "-c", f"mount -t tmpfs none {disk}"]
        if shutil.which("unshare") and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            break
    else:
        pytest.skip("no private mount namespace for a small disk here (needs unshare and root or user namespaces)")
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    done = subprocess.run([*unshare, "sh", "-c", script], capture_output=True, text=True, timeout=240, check=False, env=environment)
    first, second = done.stdout.split("code 1\n", 1)
    assert re.search("was not saved: .*bytes|No space left|no space", first), done.stdout
    assert "Traceback" not in done.stdout
    assert second.startswith("step-"), done.stdout
    assert re.search(r"continues at step [1-9]", second), done.stdout
    assert second.endswith("code 0\n"), done.stdout
