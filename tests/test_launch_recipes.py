"""Recipes of `proxy-lm launch`: what is printed, read from a hostfile, refused; and the Slurm job file run under a small srun."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from proxy_lm.cli import main
from proxy_lm.errors import RequestError
from proxy_lm.train.recipes import Fleet, Trainer, by_slurm, labels, over_ssh, read_hostfile, trim

TRAINER = Trainer(config="x.yaml", words=("seed=3", "mix.rate=[[0, 1]]"), name="x")


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "corpus": "c", "num_steps": 3, "rows_per_step": 16, "rows_per_device": 2}))
    return path


def recipe(capsys, *words: object) -> dict:
    assert main(["launch", *map(str, words), "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: object) -> str:
    assert main(["launch", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


# ---- hostfiles


def test_a_hostfile_is_read_as_deepspeed_reads_it(tmp_path):
    runner = pytest.importorskip("deepspeed.launcher.runner")
    text = "# two hosts\ngpu-a slots=8\n\n  gpu-b   slots=4\n"
    (tmp_path / "hosts").write_text(text)
    fleet = read_hostfile(tmp_path / "hosts")
    assert fleet == Fleet(hosts=("gpu-a", "gpu-b"), slots=(8, 4))
    assert fleet.world_size == 12
    assert dict(runner.fetch_hostfile(str(tmp_path / "hosts"))) == {"gpu-a": 8, "gpu-b": 4}
    (tmp_path / "again").write_text(fleet.hostfile())
    assert read_hostfile(tmp_path / "again") == fleet


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no host"),
        ("# nobody\n", "names no host"),
        ("a slots=8\na slots=8\n", "line 2: a stands there twice"),
        ("a\n", "line 1: 'a' is not 'HOST slots=N'"),
        ("a slots=0\n", "line 1"),
        ("a slots=8 gpus=2\n", "line 1"),
    ],
)
def test_a_bad_hostfile_is_refused_with_its_line(tmp_path, text, said):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(RequestError, match=said):
        read_hostfile(tmp_path / "hosts")


def test_a_fleet_is_trimmed_from_the_top_and_never_stretched():
    fleet = Fleet(hosts=("a", "b", "c"), slots=(8, 8, 4))
    assert trim(fleet, 2, 3, "hosts") == Fleet(hosts=("a", "b"), slots=(3, 3))
    for nodes, slots in ((4, None), (None, 8)):
        with pytest.raises(RequestError, match="ask for fewer"):
            trim(fleet, nodes, slots, "hosts")


# ---- what is printed


def test_one_machine(config, capsys):
    found = recipe(capsys, config, "--gpus-per-node", 4, "seed=3")
    assert (found["kind"], found["world_size"]) == ("local", 4)
    assert found["commands"] == [
        {
            "where": "",
            "words": [
                "deepspeed", "--num_accelerators", "4", "--master_port", "29500", "--module", "proxy_lm.train", str(config), "seed=3",
            ],
        }
    ]  # fmt: skip


def test_over_ssh_counts_from_the_top_of_the_file():
    found = over_ssh(TRAINER, Fleet(hosts=("a", "b"), slots=(8, 8)), "hosts", 29_500, "10.0.0.1")
    line = "deepspeed --hostfile hosts --num_nodes 2 --num_gpus 8 --master_addr 10.0.0.1 --master_port 29500 --module proxy_lm.train x.yaml"
    assert found.text().splitlines()[-1] == f"{line} seed=3 'mix.rate=[[0, 1]]'"
    uneven = over_ssh(TRAINER, Fleet(hosts=("a", "b"), slots=(8, 4)), "hosts", 29_500, None)
    assert "--num_gpus" not in uneven.commands[0][1]


def test_node_ranks_have_one_command_each_and_bring_their_hostfile(config, capsys):
    found = recipe(capsys, config, "--nodes", 2, "--gpus-per-node", 4, "--no-ssh", "--master-addr", "h", "--master-port", 7)
    assert found["files"] == {"proxy-lm.hosts": "node0 slots=4\nnode1 slots=4\n"}
    ranks = [command["words"][command["words"].index("--node_rank") + 1] for command in found["commands"]]
    assert ranks == ["0", "1"]
    # What is printed is a script: bash parses it, and the here-document is the hostfile.
    script = "\n".join(line for line in found["text"].splitlines() if not line.startswith("deepspeed")) + "\ncat proxy-lm.hosts"
    done = subprocess.run(["bash", "-e", "-c", script], capture_output=True, text=True, check=True, cwd=config.parent)
    assert done.stdout == found["files"]["proxy-lm.hosts"]


def test_torchrun_has_one_command_a_node(config, capsys):
    found = recipe(capsys, config, "--nodes", 2, "--gpus-per-node", 2, "--torchrun", "--master-addr", "h")
    assert [shlex.join(command["words"]) for command in found["commands"]] == [
        f"torchrun --nnodes 2 --nproc-per-node 2 --node-rank {k} --master-addr h --master-port 29500 -m proxy_lm.train {config}"
        for k in (0, 1)
    ]


def test_a_dry_run_writes_nothing(config, capsys):
    for way in ("--no-ssh", "--torchrun", "--slurm"):
        recipe(capsys, config, "--nodes", 2, way)
    assert [path.name for path in config.parent.iterdir()] == ["x.yaml"]


def test_options_without_effect_are_refused(config, capsys, tmp_path):
    (tmp_path / "hosts").write_text("a slots=2\nb slots=2\n")
    hosts = ("--hostfile", tmp_path / "hosts")
    assert "--hostfile FILE" in refused(capsys, config, "--nodes", 2)
    assert "Slurm chooses the hosts" in refused(capsys, config, "--slurm", *hosts)
    assert "for --slurm" in refused(capsys, config, "--cpu")
    assert "from 0 to 1" in refused(capsys, config, "--nodes", 2, "--no-ssh", "--node-rank", 2)
    assert "--master-addr" in refused(capsys, config, "--nodes", 2, "--no-ssh", "--node-rank", 1)
    assert "no port" in refused(capsys, config, "--master-port", 70_000)
    assert "from 1 up" in refused(capsys, config, "--gpus-per-node", 0)
    assert "from 1 up" in refused(capsys, config, "--nodes", 0, *hosts)
    assert "not an option" in refused(capsys, config, "--slurm", "--sbatch=a=b").replace("is no option", "not an option")
    assert "multiple of 3" in refused(capsys, config, "--gpus-per-node", 3)
    assert "unknown setting 'seeed'" in refused(capsys, config, "seeed=3", "--gpus-per-node", 2)


def test_programs_that_are_missing_are_named_with_another_way(config, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "hosts").write_text("a slots=2\nb slots=2\n")
    assert "pdsh and ssh not found" in refused(capsys, config, "--hostfile", tmp_path / "hosts")
    assert "sbatch not found" in refused(capsys, config, "--slurm")


# ---- Slurm: the real job file, bash and signals; a small srun that starts tasks and reports as the real one does

SRUN = """
import os, subprocess, sys
words = [word for word in sys.argv[1:] if not word.startswith("--kill")]
tasks = [subprocess.Popen(words, env={**os.environ, "SLURM_PROCID": str(k)}, process_group=0) for k in range(2)]
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
TASK = """
import os, signal, sys, time
code = int(sys.argv[-1].partition("=")[2])
if code == 75:
    stopped = []
    signal.signal(signal.SIGUSR1, lambda *_: stopped.append(1))
    os.killpg(os.getpgid(0), signal.SIGUSR1)   # as Slurm does: every process of the task, bash too
    while not stopped:
        time.sleep(0.01)
    time.sleep(0.2)                            # the checkpoint; bash must not be gone before it
os.write(1, f"rank {os.environ['SLURM_PROCID']} ends {code}\\n".encode())
sys.exit(code)
"""


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (2, False), (75, True)])
def test_a_job_is_requeued_when_its_ranks_stopped_and_saved_and_only_then(tmp_path, code, requeued):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": SRUN, "python-of-the-job": TASK}.items():
        (programs / f"{name}.py").write_text(text)
        (programs / name).write_text(f'#!/bin/bash\nexec {sys.executable} {programs / name}.py "$@"\n')
    (programs / "scontrol").write_text('#!/bin/bash\necho "$@" >> requeued\n')
    for path in programs.iterdir():
        path.chmod(0o755)
    trainer = Trainer(config="x.yaml", words=(f"code={code}",), name="x")
    job = by_slurm(trainer, labels(1, 2), str(programs / "python-of-the-job"), ["--time=1:00:00"], cpu=True)
    (tmp_path / "job").write_text(job.text())
    assert "#SBATCH --time=1:00:00" in job.text().splitlines()
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "41"}
    done = subprocess.run(["bash", "job"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert sorted(done.stdout.splitlines()) == [f"rank {k} ends {code}" for k in (0, 1)], done.stderr
    assert (tmp_path / "requeued").exists() == requeued
    assert done.returncode == (0 if requeued else code)
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 41\n"
        assert not list(tmp_path.glob("*.stopped"))


def test_a_slurm_job_asks_for_the_gpus_it_was_told_of(config, capsys):
    found = recipe(capsys, config, "--nodes", 2, "--gpus-per-node", 4, "--slurm", "--sbatch=--partition=p q")
    lines = found["text"].splitlines()
    for wanted in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--requeue", "--signal=USR1@120", "--partition=p q"):
        assert f"#SBATCH {wanted}" in lines
    assert found["files"] == {"job.sbatch": found["text"] if found["text"].endswith("\n") else found["text"] + "\n"}
    subprocess.run(["bash", "-n", "-c", found["text"]], check=True)
    assert not any("gpus-per-node" in line for line in recipe(capsys, config, "--slurm", "--cpu")["text"].splitlines())
