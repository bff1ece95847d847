"""`proxy-lm launch` really starting ranks: two launchers on loopback are two nodes, signals save, and another launcher ends the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy_lm.train.launch import free_port

STEPS = 100


def launch(tiny_run, config: Path, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "proxy_lm", "launch", str(config), *map(str, words)]
    inherited = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=inherited, cwd=tiny_run.folder)


def ended(*processes: subprocess.Popen[str], code: int = 0) -> list[str]:
    spoken = [process.communicate(timeout=180) for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), spoken
    return [out for out, _ in spoken]


def settings(tiny_run, name: str) -> Path:
    return tiny_run.write(tiny_run.settings(name, num_steps=STEPS, validation={"max_bytes": 0}))


def losses(run: Path) -> list[tuple[int, str, str]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss_hex"], line["batch_digest"]) for line in lines]


@pytest.mark.slow
def test_two_launchers_on_loopback_are_two_nodes_that_stop_together_and_equal_one_launcher(tiny_run):
    whole, nodes = tiny_run.folder / "runs" / "whole-node", tiny_run.folder / "runs" / "two-nodes"
    out = ended(launch(tiny_run, settings(tiny_run, "whole-node"), "--gpus-per-node", 2, "--json"))[0]
    assert json.loads(out) == {
        "name": "whole-node",
        "status": "finished",
        "world_size": 2,
        "device": "cpu",
        "num_steps": STEPS,
        "final_step": STEPS,
    }

    config = settings(tiny_run, "two-nodes")
    words = ("--nodes", 2, "--no-ssh", "--master-addr", "127.0.0.1", "--master-port", free_port())
    pair = [launch(tiny_run, config, *words, "--node-rank", rank) for rank in (0, 1)]
    metrics = nodes / "metrics.jsonl"
    end = time.monotonic() + 120
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 2:
        assert all(process.poll() is None for process in pair), ended(*pair)
        assert time.monotonic() < end
        time.sleep(0.005)
    pair[1].send_signal(signal.SIGTERM)  # one node is asked; both save at the same step
    spoken = [process.communicate(timeout=60) for process in pair]
    codes = [process.returncode for process in pair]
    assert codes == [75, 75], spoken
    assert json.loads((nodes / "run.json").read_text())["status"] == "stopped"
    assert 2 <= len(losses(nodes)) < STEPS
    ended(launch(tiny_run, config, "--torchrun", "--gpus-per-node", 2))
    assert [step for step, _, _ in losses(nodes)] == list(range(1, STEPS + 1))
    assert losses(nodes) == losses(whole)
    record = json.loads((nodes / "run.json").read_text())
    assert record["world_size"] == 2
    checked = record["preflight"]
    assert (checked["num_hosts"], len(checked["ranks"]), checked["warnings"]) == (1, 2, [])
    assert checked["ranks"][0] == {"host": 0, "device": "cpu", "device_memory_bytes": None}
    assert checked["all_reduce"]["bytes_per_second"] > 1e6
    assert 0 <= checked["clock_spread_seconds"] < 2
    assert checked["free_bytes"] > checked["forecast"]["checkpoint_bytes"] > 0


@pytest.mark.slow
def test_what_the_ranks_refuse_is_refused_by_the_command(tiny_run):
    config = tiny_run.write(tiny_run.settings("refused-node", corpus="nowhere", views={}, mix={}))
    process = launch(tiny_run, config, "--gpus-per-node", 2)
    out, said = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, ""), said
    assert "proxy_lm.train: nowhere is not a folder" in said
    assert said.splitlines()[-1].startswith("proxy-lm: the ranks of ")
    assert "exit code 2: the request was wrong" in said.splitlines()[-1]
    assert "Traceback" not in said
