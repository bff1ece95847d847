"""A run as a child: started as DeepSpeed's front end would start it, without the front end; signals, deaths and exit codes come through."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from proxy_lm.config import validate
from proxy_lm.train import child
from proxy_lm.train.child import LaunchSettings, Outcome, command_of, last_record, launcher_here
from proxy_lm.train.settings import RunSettings


def settings_of(**changes) -> RunSettings:
    return validate(RunSettings, {"name": "x", "corpus": "c", "num_steps": 3, **changes}, "test")


def test_the_words_are_those_that_the_front_end_gives_to_its_launcher(monkeypatch):
    from deepspeed.launcher import launch, runner

    command = command_of(settings_of(out="run"), LaunchSettings(num_ranks=2), 29511)
    assert command[:3] == [sys.executable, "-m", "deepspeed.launcher.launch"]
    monkeypatch.setattr(sys, "argv", command[2:])
    words = launch.parse_args()
    assert len(json.loads(base64.urlsafe_b64decode(words.world_info))["localhost"]) == 2
    assert (words.master_addr, words.master_port, words.node_rank, words.module) == ("127.0.0.1", 29511, 0, True)
    assert (words.training_script, words.training_script_args) == ("proxy_lm.train", ["run/launch.yaml"])
    for devices in ([0], [0, 1], [3, 5]):
        assert launcher_here(devices)[3] == f"--world_info={runner.encode_world_info({'localhost': devices})}"


def test_arguments_are_for_the_front_end():
    command = command_of(settings_of(out="run"), LaunchSettings(arguments=["--hostfile", "hosts", "--num_nodes", "4"]), 29511)
    front = [sys.executable, "-m", "deepspeed.launcher.runner", "--master_port", "29511", "--hostfile", "hosts", "--num_nodes", "4"]
    assert command == [*front, "--module", "proxy_lm.train", "run/launch.yaml"]


def ranks_of(run: Path) -> list[psutil.Process]:
    """The ranks of a run, the first one first."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        rank = [word for word in words if word.startswith("--local_rank=")]
        if rank and str(run / "launch.yaml") in words and "deepspeed.launcher.launch" not in words:
            found[rank[0]] = process
    return [found[name] for name in sorted(found)]


@pytest.mark.slow
def test_a_signal_to_one_rank_saves_and_stops_both_and_a_killed_rank_ends_both(tiny_run):
    plain = tiny_run.settings("watched", num_steps=100_000, validation={"max_bytes": 0}, mix={"rate": 0}, logging={"tensorboard": False})
    run, launch = tiny_run.folder / "runs" / "watched", LaunchSettings(num_ranks=2, threads_per_rank=1)
    settings = validate(RunSettings, plain, "test")

    def ended_by(number: int, beyond: int) -> Outcome:
        outcomes: list[Outcome] = []
        thread = threading.Thread(target=lambda: outcomes.append(child.train_run(settings, launch, "watched")))
        thread.start()
        end = time.monotonic() + 240
        while thread.is_alive() and (last_record(run) or {"step": 0})["step"] <= beyond:
            assert time.monotonic() < end, "no progress"
            time.sleep(0.05)
        ranks = ranks_of(run)
        assert len(ranks) == 2, (run / "train.log").read_text()
        ranks[1].send_signal(number)
        thread.join(timeout=120)
        assert not any(rank.is_running() for rank in ranks)
        return outcomes[0]

    outcome = ended_by(signal.SIGUSR1, 2)
    assert outcome.failure is not None
    assert outcome.failure.startswith("stopped by a signal after saving")
    saved = last_record(run)["step"]
    assert (run / "checkpoints" / f"step-{saved}").is_dir()
    outcome = ended_by(signal.SIGKILL, saved)
    assert outcome.failure is not None
    assert "the trainer ended with exit code" in outcome.failure
    log = (run / "train.log").read_text()
    assert f"continues at step {saved}" in log
    assert "deepspeed.launcher.runner" not in log


TRAIN = """
import sys
from proxy_lm.train.__main__ import main
code = main(sys.argv[1:])
print([name for name in ("torch._inductor.compile_fx", "deepspeed.runtime.zero.muon.muon_optimizer") if name in sys.modules])
sys.exit(code)
"""


@pytest.mark.slow
def test_a_start_on_a_processor_imports_no_compiler(tiny_run):
    """DeepSpeed decorates kernels for compilation at every start, and torch's compiler is as much to import as all the rest."""
    config = tiny_run.write(tiny_run.settings("plain", num_steps=1, validation={"max_bytes": 0}))
    done = subprocess.run([sys.executable, "-c", TRAIN, str(config)], capture_output=True, text=True, check=False, cwd=tiny_run.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['deepspeed.runtime.zero.muon.muon_optimizer']"
