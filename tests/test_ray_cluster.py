"""A Ray cluster of several nodes: the built-in path's bytes when a node is lost or a worker killed; who is at the wrong place refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compressors
from compressors.files import sha256_file
from proxy_lm.cli import main
from proxy_lm.data import engines, ray_engine
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.encoding import encode_corpus
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.data.view_files import FILES
from proxy_lm.errors import RequestError

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def write_lines(folder: Path, num_files: int) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(num_files):
        with (folder / f"{number:02d}.jsonl").open("w") as lines:
            for document in range(40):
                text = " ".join(f"w{word}" for word in rng.integers(0, 5000, 150))
                lines.write(json.dumps({"text": text, "repo": f"p{document % 7}"}) + "\n")
    return folder


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources, and what the built-in path makes of them: `corpus` and `gzip`."""
    folder = tmp_path_factory.mktemp("local")
    prepare([str(write_lines(folder / "src", 24))], folder / "corpus", PrepareSettings())
    compressors.save(compressors.train("gzip", []), folder / "gzip")
    compressors.save(compressors.train("gzip", []), folder / "artifact")
    encode_corpus(Corpus.open(folder / "corpus"), folder / "gzip", folder / "gzip")
    return folder


# Two nodes of one processor each on this machine. The view's blocks wait for a sign, so that what is lost is surely at work.
CLUSTER = """
import json, os, signal, sys, threading, time
from pathlib import Path

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
from ray.cluster_utils import Cluster

from proxy_lm.data import encoding
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.engines import open_engine
from proxy_lm.data.prepare import PrepareSettings, prepare

local, out = Path(sys.argv[1]), Path(sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20})
other = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
told = {}


def when(condition, action):
    def watch():
        give_up = time.monotonic() + 60
        while not condition() and time.monotonic() < give_up:
            time.sleep(0.002)
        told[action.__name__] = action()
    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def kill_a_worker():
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:  # a worker has this title while it has a task
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes()
                if b"Map(perform)" in words and os.getsid(int(process.name)) == os.getsid(0):
                    os.kill(int(process.name), signal.SIGKILL)
                    return words.decode().strip("\\0")
            except OSError:
                continue
    return None


def lose_a_node():
    cluster.remove_node(other, allow_graceful=False)
    return True


with open_engine("ray", address=cluster.address) as engine:
    told["workers"] = engine.num_workers
    spool = out / "corpus.partial" / "spool"
    thread = when(lambda: spool.is_dir() and list(spool.glob("*.json")), kill_a_worker)
    prepare([str(local / "src")], out / "corpus", PrepareSettings(), engine=engine)
    thread.join()
    encoding.BLOCK_BYTES = 1 << 14
    parts = out / "gzip" / encoding.PARTS
    thread = when(lambda: parts.is_dir() and len(list(parts.glob("*.part"))) > 3, lose_a_node)
    encoding.encode_corpus(Corpus.open(out / "corpus"), local / "artifact", out / "gzip", engine=engine)
    thread.join()
cluster.shutdown()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def built(local: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What two nodes made although a worker and then a node were lost."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "run.py").write_text(CLUSTER)
    words = [sys.executable, str(folder / "run.py"), str(local), str(folder / "out")]
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_")}
    sockets = tempfile.mkdtemp(prefix="plr", dir="/tmp")  # pytest's own folder has too long a name for sockets
    environment["RAY_TMPDIR"] = sockets
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False, start_new_session=True)
    shutil.rmtree(sockets, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    return folder / "out", json.loads(done.stdout.splitlines()[-1])


def test_two_nodes_give_the_bytes_of_the_built_in_path_though_a_worker_and_a_node_are_lost(local, built):
    out, told = built
    assert told["workers"] == 2
    assert told["kill_a_worker"] == "ray::Map(perform)"
    assert told["lose_a_node"] is True
    assert {file.name: sha256_file(file) for file in (out / "corpus").iterdir()} == {
        file.name: sha256_file(file) for file in (local / "corpus").iterdir()
    }
    assert {name: sha256_file(out / "gzip" / name) for name in FILES} == {name: sha256_file(local / "gzip" / name) for name in FILES}


def task(seal: Path, digest: str, code: str | None = None) -> dict[str, Any]:
    """As a worker does it, without a cluster."""
    return ray_engine.perform(add, str(seal), digest, code or ray_engine.fingerprint(), {"task": [(2, 3)]})


def add(one: int, other: int) -> int:
    if other < 0:
        raise RequestError("value -1 is negative; give more")
    return one + other


def test_a_worker_works_where_the_seal_is_the_one_it_was_told_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "SEEN_WITHIN_SECONDS", 0.3)
    seal = tmp_path / "key.json"
    assert "finds no " in task(seal, "0")["message"]  # another machine's disk
    seal.write_text("this work")
    engines.busy_file(seal).touch()
    assert task(seal, sha256_file(seal)) == {"value": 5, "error": "", "message": ""}
    assert "finds another " in task(seal, "0")["message"]  # begun anew meanwhile, with other settings
    other_code = task(seal, sha256_file(seal), code="0")
    assert other_code["error"] == "RequestError"
    assert "other code of this project" in other_code["message"]
    told = ray_engine.perform(add, str(seal), sha256_file(seal), ray_engine.fingerprint(), {"task": [(2, -1)]})
    assert told == {"value": 0, "error": "RequestError", "message": "value -1 is negative; give more"}


def test_a_new_run_waits_for_workers_that_outlive_a_killed_one(tmp_path, capsys):
    seal = tmp_path / "state.json"
    seal.write_text("a")
    with engines.idle(seal):  # no engine made the file: nobody can outlive us
        pass
    engines.busy_file(seal).touch()
    order = []
    began = threading.Event()

    def late_worker():
        with engines.at_work(seal):
            began.set()
            time.sleep(0.3)
            order.append("worker")

    thread = threading.Thread(target=late_worker)
    thread.start()
    began.wait()
    with engines.idle(seal):
        order.append("run")
    thread.join()
    assert order == ["worker", "run"]
    assert "waiting for the workers of an earlier run" in capsys.readouterr().err


def test_what_travels_to_workers_names_every_module_that_decides_bytes(tmp_path):
    code = (
        "import sys; import proxy_lm.data.prepare, proxy_lm.data.encoding, proxy_lm.data.ray_engine\n"
        "print(*(name.removeprefix('proxy_lm.data.') for name in sys.modules if name.startswith('proxy_lm.data.')))\n"
        "print('ray' in sys.modules)"
    )
    names, ray_is_there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    asker_only = {"prepare", "pool", "engines", "split", "whole_lines", "memory", "installed", "views"}
    assert set(names.split()) - asker_only <= set(ray_engine.WORKER_MODULES)
    assert all(importlib.util.find_spec(f"proxy_lm.data.{name}") for name in ray_engine.WORKER_MODULES)
    assert ray_is_there == "False"


def test_commands_import_ray_only_when_it_is_asked_for(local, tmp_path):
    code = f"""
import sys
from proxy_lm.cli import main
assert main(["prepare", {str(local / "src")!r}, "--out", {str(tmp_path / "out")!r}, "--json"]) == 0
assert main(["encode", "--corpus", {str(tmp_path / "out")!r}, "--view", {str(local / "artifact")!r}, "--json"]) == 0
sys.exit("ray" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "spark"], "unknown engine 'spark'; known: local, ray"),
        (["--address", "10.0.0.1:6379"], "give --engine ray too"),
        (["--engine", "ray", "--workers", "0"], "--workers 0"),
        (["--engine", "ray"], "pip install 'proxy-lm[ray]'"),
        (["--engine", "ray", "--address", "ray://head:10001"], "is no HOST:PORT"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),  # Ray itself waits for minutes
    ],
)
def test_bad_requests_are_one_sentence(local, tmp_path, capsys, monkeypatch, words, said):
    if "proxy-lm[ray]" in said:
        monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    assert main(["prepare", str(local / "src"), "--out", str(tmp_path / "out"), *words]) == 2
    heard = capsys.readouterr()
    assert said in heard.err
    assert heard.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
