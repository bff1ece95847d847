"""Corpus and views by a Ray cluster: the bytes of the built-in path, after kills and on two nodes too; nothing is left or listens out."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import compressors
from compressors.files import sha256_file
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.encoding import encode_corpus
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.data.view_files import FILES
from proxy_lm.errors import RequestError

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": "/tmp"}  # pytest's own is too long for sockets
SETTINGS = PrepareSettings(max_bad_share=0.5)


def texts(first: int, count: int) -> list[str]:
    """Documents of about 1 KB; each fifth is a near copy of the one before."""
    rng = np.random.default_rng(first)
    found: list[str] = []
    for number in range(count):
        near = number % 5 == 4
        found.append(found[-1] + " changed" if near else " ".join(f"w{word}" for word in rng.integers(0, 5000, 180)))
    return found


def write_sources(folder: Path) -> list[str]:
    """Every kind of source that workers read: loose files, JSON lines (some damaged), parquet row groups and a tar archive."""
    for number, text in enumerate(texts(1, 150)):
        path = folder / "loose" / f"p{number % 7}" / f"f{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "lines").mkdir()
    for part in range(4):
        lines = [json.dumps({"text": text, "repo": f"q{number % 9}"}) for number, text in enumerate(texts(2 + part, 100))]
        lines[7] = '{"text": "cut'
        (folder / "lines" / f"{part}.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress("\n".join(lines).encode()))
    pq.write_table(pa.table({"content": texts(9, 200), "path": [f"{n}.rs" for n in range(200)]}), folder / "d.parquet", row_group_size=50)
    with tarfile.open(folder / "d.tar", "w") as archive:
        for number, text in enumerate(texts(1, 20)):  # copies of loose files
            member = tarfile.TarInfo(f"t/{number}.py")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return [str(folder / name) for name in ("loose", "lines", "d.parquet", "d.tar")]


def digests(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in sorted(folder.iterdir())}


def living(session: int) -> list[str]:
    """Processes of a session that still run (a zombie does not)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, leader = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if leader == str(session) and state != "Z":
            found.append(stat.parent.name)
    return found


def gone(session: int) -> bool:
    give_up = time.monotonic() + 30
    while (living(session) or list(Path("/tmp").glob(f"proxy-lm-ray-{session}-*"))) and time.monotonic() < give_up:
        time.sleep(0.05)
    return not living(session) and not list(Path("/tmp").glob(f"proxy-lm-ray-{session}-*"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources, and what the built-in path makes of them: `corpus`, `gzip` and `spm`."""
    folder = tmp_path_factory.mktemp("local")
    prepare(write_sources(folder / "src"), folder / "corpus", SETTINGS)
    corpus = Corpus.open(folder / "corpus")
    some = [corpus.document(index) for index in range(100)]
    for kind, options in (("gzip", {}), ("spm", {"alphabet_size": 269})):
        compressor = compressors.train(kind, some, **options)
        compressors.save(compressor, folder / "artifacts" / kind)
        encode_corpus(corpus, folder / "artifacts" / kind, folder / kind)
    return folder


def sources(local: Path) -> list[str]:
    return [str(local / "src" / name) for name in ("loose", "lines", "d.parquet", "d.tar")]


BUILD = """
import json, os, sys, warnings
from pathlib import Path

from proxy_lm.data import encoding
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.engines import open_engine
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.errors import ProxyError


def listeners():
    # local addresses of listening sockets that this session's processes hold
    held = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) == os.getsid(0):
                held |= {os.readlink(link)[8:-1] for link in (process / "fd").iterdir() if os.readlink(link).startswith("socket:")}
        except OSError:
            continue
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    return [line[1].rpartition(":")[0] for line in lines if line[3] == "0A" and line[9] in held]


local, out = Path(sys.argv[1]), Path(sys.argv[2])
os.chdir(out.parent)
out = Path(out.name)  # workers stand elsewhere: relative names must do
settings = PrepareSettings(max_bad_share=0.5)
told = {}
with open_engine("ray", num_workers=2) as engine:
    told["workers"] = engine.num_workers
    sources = [str(local / "src" / name) for name in ("loose", "lines", "d.parquet", "d.tar")]
    prepare(sources, out / "corpus", settings, engine=engine)
    corpus = Corpus.open(out / "corpus")
    encoding.BLOCK_BYTES = 1 << 15  # dozens of blocks
    for kind in ("gzip", "spm"):
        encoding.encode_corpus(corpus, local / "artifacts" / kind, out / kind, engine=engine)
    told["listeners"] = listeners()
    told["folders"] = [str(path) for path in Path("/tmp").glob(f"proxy-lm-ray-{os.getpid()}-*")]
    told["usage"] = os.environ["RAY_USAGE_STATS_ENABLED"]
    try:
        prepare([str(local / "src" / "d.tar"), str(local / "bad.jsonl")], out / "bad", settings, engine=engine)
    except ProxyError as error:
        told["error"] = f"{type(error).__name__}: {error}"
    from proxy_lm.data.select import examine_block
    (out / "seal").write_text("seal")
    try:
        list(engine.run(examine_block, [("/nowhere", "x", str(out / "y"), [0], True, ())], seal=out / "seal", num_bytes=1))
    except ProxyError as error:
        told["bug"] = f"{type(error).__name__}: {error}"
told["after"] = [str(path) for path in Path("/tmp").glob(f"proxy-lm-ray-{os.getpid()}-*")]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def built(local: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One cluster that builds everything, and what the process that asked for it saw."""
    folder = tmp_path_factory.mktemp("ray")
    (local / "bad.jsonl").write_text("what is this\n" * 3)
    (folder / "build.py").write_text(BUILD)
    words = [sys.executable, str(folder / "build.py"), str(local), str(folder / "out")]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False, start_new_session=True)
    assert done.returncode == 0, done.stderr
    return folder / "out", json.loads(done.stdout.splitlines()[-1])


def test_a_corpus_by_ray_has_the_bytes_of_the_built_in_path(local, built):
    out, told = built
    assert told["workers"] == 2
    assert digests(out / "corpus") == digests(local / "corpus")
    manifest = json.loads((out / "corpus" / "manifest.json").read_text())
    assert {"near duplicate", "exact duplicate", "malformed record"} <= set(manifest["drops"])


def test_views_by_ray_have_the_bytes_of_the_built_in_path(local, built):
    out, _ = built
    for kind in ("gzip", "spm"):
        assert {name: sha256_file(out / kind / name) for name in FILES} == {name: sha256_file(local / kind / name) for name in FILES}
        ours, theirs = (json.loads((place / kind / "manifest.json").read_text()) for place in (out, local))
        assert ours["digest"] == theirs["digest"]
        assert ours["num_round_trips_exact"] == theirs["num_round_trips_exact"] == ours["num_documents"]
        assert not (out / kind / "encode.parts").exists()


def test_a_started_cluster_listens_on_the_loopback_alone_and_leaves_nothing(built):
    _, told = built
    assert told["listeners"]
    assert set(told["listeners"]) <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert len(told["folders"]) == 1
    assert told["after"] == []
    assert told["usage"] == "0"


def test_errors_of_workers_are_the_sentences_of_the_built_in_path(local, built, tmp_path):
    _, told = built
    with pytest.raises(RequestError) as caught:
        prepare([str(local / "src" / "d.tar"), str(local / "bad.jsonl")], tmp_path / "bad", SETTINGS)
    assert told["error"] == f"RequestError: {caught.value}"
    assert told["bug"].startswith("WorkError: a Ray worker on ")
    assert "failed (FileNotFoundError in " in told["bug"]
    assert "\n" not in told["bug"]


def test_killed_twice_by_ray_and_finished_by_either_engine_gives_the_same(local, tmp_path):
    words = [sys.executable, "-m", "proxy_lm", "prepare", *sources(local), "--out", str(tmp_path / "out"), "--max-bad-share", "0.5"]
    ray = [*words, "--engine", "ray", "--workers", "2"]
    for mark in ("spool/*.json", "examined/*"):
        process = subprocess.Popen(ray, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        give_up = time.monotonic() + 120
        while process.poll() is None and not list((tmp_path / "out.partial").glob(mark)) and time.monotonic() < give_up:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)  # the command alone: its cluster must end by itself
        assert process.wait() == -signal.SIGKILL
        assert gone(process.pid)
        assert not (tmp_path / "out").exists()
    finished = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "continuing the interrupted run" in finished.stderr
    assert digests(tmp_path / "out") == digests(local / "corpus")
    assert not (tmp_path / "out.partial").exists()
