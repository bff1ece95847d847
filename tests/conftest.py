"""Shared by all tests: which run, in what order, and a few fixtures. Tests need no network, no cache and no order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

# A busy machine is slow; what is slow is found by benchmarks.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")

if TYPE_CHECKING:
    from eval.results import Results
    from proxy_lm.data.corpus import Corpus

# Before anything imports torch or starts a child: one thread a process, the loopback interface, no hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write tests/golden anew instead of comparing with it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast tests first. Benches and campaigns run only when asked for (`-m bench`); GPU tests only where there is one."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    wanted = config.getoption("-m") or ""
    for mark in ("bench", "campaign"):
        if mark not in wanted:
            config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(mark)])
            items[:] = [item for item in items if not item.get_closest_marker(mark)]
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


class RankServer:
    """A process that has imported the trainer and forks ranks; see tests/rank_server.py. It is started by the first who asks."""

    def __init__(self) -> None:
        self._link: socket.socket | None = None
        self._ended: dict[int, int] = {}

    def fork(self, words: list[str], folder: Path, environment: dict[str, str], output: int, script: Path | None) -> int:
        """Start one rank; its process id."""
        if self._link is None:
            self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            command = [sys.executable, str(ROOT / "tests" / "rank_server.py"), str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
            theirs.close()
        asked = {"words": words, "folder": str(folder), "environment": environment, "script": script and str(script)}
        socket.send_fds(self._link, [json.dumps(asked).encode()], [output])
        while True:
            kind, value = json.loads(self._link.recv(1 << 10) or b"[0, 0]")
            if not kind:
                assert value, "the server of ranks has died"
                self._ended.pop(value, None)  # of an earlier rank with the same id
                return int(value)
            self._ended[kind] = value

    def code(self, pid: int) -> int | None:
        """Exit code of a rank, negative for a signal; None while it runs."""
        assert self._link is not None
        while pid not in self._ended:
            try:
                kind, value = json.loads(self._link.recv(1 << 10, socket.MSG_DONTWAIT) or b"[0, 0]")
            except BlockingIOError:
                return None
            assert kind, "the server of ranks has died"
            self._ended[kind] = value
        return self._ended[pid]

    def close(self) -> None:
        """End it, and the ranks that it has left."""
        if self._link is not None:
            self._link.close()
            self._process.wait()


class ForkedRanks:
    """Ranks of one start, with the part of `subprocess.Popen` that tests use. A signal goes to rank 0, as to a start without a launcher."""

    def __init__(self, server: RankServer, pids: list[int], output: int) -> None:
        self.pids, self.pid = pids, pids[0]
        self.stdout = os.fdopen(output)
        self.returncode: int | None = None
        self._server, self._said = server, []

    def poll(self) -> int | None:
        """The first code that is not 0, when all have ended."""
        codes = [self._server.code(pid) for pid in self.pids]
        if self.returncode is None and None not in codes:
            self.returncode = next((code for code in codes if code), 0)
        return self.returncode

    def wait(self, timeout: float = 240) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.kill()
                raise subprocess.TimeoutExpired("ranks", timeout)
            time.sleep(0.02)
        return code

    def communicate(self, timeout: float = 240) -> tuple[str, None]:
        reader = threading.Thread(target=lambda: self._said.append(self.stdout.read()))
        if not self.stdout.closed:
            reader.start()
        self.wait(timeout)
        if not self.stdout.closed:
            reader.join()
            self.stdout.close()
        return "".join(self._said), None

    def send_signal(self, number: int) -> None:
        if self._server.code(self.pid) is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        for pid in self.pids:
            if self._server.code(pid) is None:
                os.kill(pid, signal.SIGKILL)


class TinyRun:
    """A small corpus of Python sources with a gzip view, and the training program started on it, forked or as users start it."""

    def __init__(self, folder: Path, server: RankServer) -> None:
        import compressors.registry
        from proxy_lm.data.corpus import build_small
        from proxy_lm.data.encoding import encode_corpus

        self.folder, self._server = folder, server
        texts = [
            path.read_bytes()[:2000] for path in sorted((ROOT / "proxy_lm").rglob("*.py")) + sorted((ROOT / "compressors").rglob("*.py"))
        ]
        texts = list(dict.fromkeys(text for text in texts if text))
        self.corpus: Corpus = build_small(folder / "corpus", {"train": texts[8:], "valid": texts[:4], "test": texts[4:8]})
        compressors.registry.save(compressors.registry.train("gzip", []), folder / "gzip")
        encode_corpus(self.corpus, folder / "gzip", folder / "gzip", num_workers=1)

    def settings(self, name: str, **changes: object) -> dict[str, object]:
        """Plain settings of a run of width 32 and rows of 64 ids, in a folder of its own."""
        return {
            "name": name,
            "out": str(self.folder / "runs" / name),
            "corpus": str(self.folder / "corpus"),
            "views": {"gzip": str(self.folder / "gzip")},
            "mix": {"rate": [[0, 0.3], [1, 0.7]], "pair": 0.2},
            "model": {"preset": None, "width": 32, "depth": 2, "num_heads": 2, "hidden": 64},
            "row_length": 64,
            "rows_per_step": 8,
            "rows_per_device": 2,
            "num_steps": 10,
            "optimizer": {"learning_rate": 3e-3},
            "validation": {"max_bytes": 700},
            "logging": {"console_seconds": 0, "tensorboard": False, "peak_flops": 1e12},
            **changes,
        }

    def write(self, settings: dict[str, object]) -> Path:
        """The settings as a YAML file."""
        import yaml

        path = self.folder / f"{settings['name']}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    def start(
        self, *words: object, ranks: int = 1, launcher: str = "fork", script: Path | None = None, **environment: str
    ) -> subprocess.Popen[str] | ForkedRanks:
        """The training program, or a script: forked from one process that has imported it, or under a launcher as users start it ("python"
        is none). Output in one pipe."""
        inherited = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        if launcher == "fork":
            of_all = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            reading, writing = os.pipe()
            pids = []
            for rank in range(ranks):
                own = {**of_all, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
                pids.append(self._server.fork([*map(str, words)], self.folder, {**inherited, **own, **environment}, writing, script))
            os.close(writing)
            return ForkedRanks(self._server, pids, reading)
        python, program = [sys.executable], [str(script)] if script else ["-m", "proxy_lm.train"]
        before = {
            "python": [*python, *program],
            "torchrun": [*python, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}", *program],
            "deepspeed": [*python, "-m", "deepspeed.launcher.runner", f"--num_accelerators={ranks}", f"--master_port={port}", "--module"],
        }[launcher]
        before += ["proxy_lm.train"] if launcher == "deepspeed" else []
        return subprocess.Popen(
            [*before, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**inherited, **environment},
            cwd=self.folder,
        )

    def train(self, *words: object, code: int = 0, **how: Any) -> str:
        """Start, wait, check the exit code; the output."""
        process = self.start(*words, **how)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == code, f"exit code {process.returncode} instead of {code}:\n{output}"
        return output


@pytest.fixture(scope="session")
def rank_server() -> Iterator[RankServer]:
    """The process that forks ranks; `fork` starts it."""
    server = RankServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, rank_server: RankServer) -> TinyRun:
    """One corpus and view for all training tests."""
    return TinyRun(tmp_path_factory.mktemp("tiny"), rank_server)


@pytest.fixture(scope="session")
def saved_run() -> Callable[..., Path]:
    """`saved_run(folder, init_std=0.2, mix={...})`: a run folder with one checkpoint as training writes it, without training and without
    its corpus, unless one is given. A keyword that no run has sets the model; `views` maps names to (folder, alphabet_size)."""
    return _save_run


def _save_run(folder: Path, views: dict[str, tuple[Path, int]] | None = None, corpus: Corpus | None = None, **changes: object) -> Path:
    import compressors.registry as registry
    from proxy_lm.model.decoder import Decoder
    from proxy_lm.train.checkpoint import CheckpointManager
    from proxy_lm.train.settings import RunSettings
    from proxy_lm.train.weights import WEIGHTS_NAME, write_weights
    from proxy_lm.vocabulary import Vocabulary

    sizes = {"preset": None, "width": 32, "depth": 2, "num_heads": 4, "num_kv_heads": 2, "hidden": 48, "init_std": 0.2}
    sizes |= {name: changes.pop(name) for name in list(changes) if name not in RunSettings.model_fields}
    vocabulary = Vocabulary([(name, size) for name, (_, size) in (views or {}).items()])
    settings = RunSettings(
        name=folder.name,
        out=str(folder),
        corpus=str(folder / "corpus" if corpus is None else corpus.path),
        views={name: str(path) for name, (path, _) in (views or {}).items()},
        num_steps=1,
        **{"row_length": 64, "model": sizes, **changes},  # type: ignore[arg-type]
    )
    model = Decoder(settings.model, vocabulary.size, settings.row_length, num_views=len(vocabulary.views), seed=1)
    tensors = [(name, parameter.detach()) for name, parameter in model.named_parameters()]
    described = {"size": vocabulary.size, "views": [[view.name, view.alphabet_size] for view in vocabulary.views]}
    identity = {"corpus": "0" * 64 if corpus is None else corpus.digest}
    fingerprints = {
        name: registry.read_artifact(path)["fingerprint"]
        for name, (path, _) in (views or {}).items()
        if (path / registry.ARTIFACT_NAME).exists()
    }
    state = {"settings": settings.model_dump(mode="json"), "identity": identity, "fingerprints": fingerprints, "world_size": 1}

    def write(path: Path) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors}
        write_weights(path / WEIGHTS_NAME, shapes, tensors, {"vocabulary": json.dumps(described)})

    CheckpointManager(folder / "checkpoints").save(1, write, state)
    return folder


@pytest.fixture(scope="session")
def comparison() -> Callable[..., Results]:
    """`comparison("ladder", {"bytes": 2.5, "proxy_spm": lambda scale, budget: 2.4})`: results as `compare` writes them, of made-up runs on
    24 projects. An arm is its bits per byte; `views` names the kind that tells it, `failed` is a set of (arm, scale, budget, seed)."""
    return _made_up_comparison


def _made_up_comparison(
    name: str,
    arms: dict[str, Any],
    *,
    scales: dict[str, int] | None = None,
    budgets: dict[str, float] | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    views: dict[str, str] | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    alone: tuple[str, ...] = (),
    failed: frozenset[tuple[str, str | None, str | None, int]] = frozenset(),
    evaluations: Callable[[str, str | None, int], dict[str, Any]] | None = None,
) -> Results:
    import numpy as np

    from eval.results import Results
    from proxy_lm.config import validate

    views, options = views or {}, options or {}
    sizes = {**scales} if scales else {None: 300_000}
    projects = np.linspace(2_000, 30_000, 24).round()
    hard = np.random.default_rng(1).normal(0, 0.2, len(projects))
    runs = []
    for scale, body in sizes.items():
        for budget, target in (budgets or {None: 2e13}).items():
            for seed in seeds:
                luck = np.random.default_rng(seed).normal(0, 0.002)
                for place, (arm, given) in enumerate(arms.items()):
                    bits = given(scale, budget) if callable(given) else given
                    own = np.random.default_rng([place, seed, body]).normal(0, 0.004, len(projects))
                    nats = (bits + luck + hard + own) * projects * np.log(2)
                    done = (arm, scale, budget, seed) not in failed
                    view = views.get(arm)
                    told = {"raw": 10, **({view: 20} if view else {})}
                    scored = {"schema": "proxy-lm bits per byte 1", "num_bytes": 1000, "num_symbols": 500, "num_documents_read_raw": 0}
                    runs.append(
                        {
                            "name": arm,
                            "scale": scale,
                            "budget": budget,
                            "seed": seed,
                            "folder": f"arms/{arm}-{scale}-{budget}-s{seed}",
                            "status": "done" if done else "failed",
                            "failure": None if done else "exit code 1 in /home/somebody/run; last lines:\nTraceback\nKeyError",
                            "finished_on": "2026-11-21" if done else None,
                            "differs": {"views": [view], **options.get(arm, {})} if view else options.get(arm, {}),
                            "training_flops": target * (body / 300_000),
                            "flops_per_symbol": 6 * body,
                            "symbols": 1000,
                            "source_bytes": 3000,
                            "source_bytes_by_view": told,
                            "documents_by_view": told,
                            "symbols_by_view": told,
                            "unique_bytes": 3000,
                            "epochs": 1.0,
                            "num_steps": 10,
                            "num_parameters": {"body": body, "total": body},
                            "compressor_flops": 1e12 if view else 0,
                            "compressor": {**dict.fromkeys(("train_seconds", "encode_seconds"), +bool(view)), "flops": 1e12 if view else 0},
                            "compressor_seconds": 2 if view else 0,
                            "view": view if arm in alone else "raw",
                            "bits_per_byte": float(nats.sum() / np.log(2) / projects.sum()) if done else None,
                            "nll_nats_by_project": nats.tolist() if done else None,
                            "evaluation": {**scored, "by_project": {"projects": ["somebody"]}} if done else None,
                            "evaluations": evaluations(arm, scale, seed) if evaluations and done else {},
                        }
                    )
    plan = {
        "name": name,
        "corpus": {"path": "/home/somebody/corpus"},
        "views": {view: {"kind": view, "options": {}} for view in views.values()},
        "arms": {arm: {"views": [views[arm]]} if arm in views else {} for arm in arms},
        "seeds": list(seeds),
        "evaluation": {"split": "test", "context_bytes": 512, "stride_bytes": 256, "max_bytes": None, "score_end": False},
    }
    counts = {"num_documents": 90, "num_bytes": 384_000, "num_projects": 24}
    facts = {"alphabet_size": 256, "bytes_per_symbol": 2.0, "num_raw_only": 0, "digest": "d" * 64}
    return validate(
        Results,
        {
            "name": name,
            "question": "Does it?",
            "command": f"proxy-lm-eval compare configs/compare/{name}.yaml",
            "plan": plan,
            "versions": {"proxy-lm": "0.1.0"},
            "machine": {"device": "CPU (x86_64)", "num_cores": 2},
            "corpus": {"digest": "ab" * 32, "splits": {split: dict(counts) for split in ("train", "valid", "test")}},
            "views": {view: {"kind": view, "fingerprint": f"{view:f<64}", **facts} for view in views.values()},
            "match": {"kind": "flops", "target": 2e13},
            "baseline": next(iter(arms)),
            "arms": runs,
            "projects": {"num_bytes": projects.tolist()},
        },
        source=name,
    )
