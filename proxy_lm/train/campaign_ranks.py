"""Kills and signals for real two-rank runs: the trainer's own `main` under DeepSpeed, in processes forked from one that has imported it.

    two = TwoRanks(folder); two.prepare()                          # a small corpus, the uninterrupted run, how many moments there are
    record = two.killed("save", draw)                                  # step | save | rotation | load
    record = two.signalled("evaluation", draw)                          # import | start | load | step | evaluation | save

Every trial ends with the same command run to its end, and with the same question: every loss and the SHA-256 of the weights equal to those
of the run that was never disturbed? Moments inside of saves, rotations and loads are counted in file operations, which the interpreter
reports (audit events); half of the kills come up to 20 ms after one, where no event is.

Not covered: launchers (the tests start those), other hosts, CUDA.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from compressors.files import read_json, write_bytes, write_json
from proxy_lm.errors import WorkError
from proxy_lm.train.campaign_children import Ranks, Trap
from proxy_lm.train.campaign_manager import forked

NUM_STEPS: Final = 12
SAVE_EVERY: Final = 3
VALIDATE_EVERY: Final = 4
STOP_SECONDS: Final = 25.0
WIDOW_SECONDS: Final = 60.0
MEETING_SECONDS: Final = 40.0  # how long a rank waits for one that was killed before they met
LIMIT_SECONDS: Final = 300.0
STOPPED: Final = 75
WHOLE: Final = "whole"
_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class TwoRanks:
    """A folder with a small corpus and the runs over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._moments: dict[str, list[int]] = {}
        self._whole: dict[str, Any] = {}
        self._number = 0

    def prepare(self) -> None:
        """Make what is missing: corpus and view, the uninterrupted run, and the counts of its file operations."""
        _import_everything()
        if not (self.folder / "gzip" / "symbols.idx").exists():
            _wait(forked(lambda: _make_inputs(self.folder)), "making the corpus")
        counted = self.folder / "moments.json"
        if not counted.exists():
            shutil.rmtree(self.folder / "runs", ignore_errors=True)
            ranks = self._start(WHOLE)
            self._finish(ranks, (0, 0))
            moments = [read_json(self.folder / f"moments-{rank}.json", "moments of a run") for rank in (0, 1)]
            self._loads(moments)
            write_json(counted, {"ranks": moments})
        found = read_json(counted, "moments of a run")["ranks"]
        self._moments = {phase: [part[phase] for part in found] for phase in ("save", "rotation", "load")}
        self._whole = self._result(WHOLE)

    def killed(self, kind: str, draw: random.Random) -> dict[str, Any]:
        """SIGKILL one rank or both at a random moment of `kind`, then the same command to its end; the record, with `ok`."""
        name, both = self._new(kind), draw.random() < 0.5
        record: dict[str, Any] = {"kind": kind, "both": both}
        if kind == "load":
            ranks = self._start(name)
            self._wait_for_lines(name, ranks, SAVE_EVERY + 1 + draw.randrange(NUM_STEPS - SAVE_EVERY - 1))
            ranks.kill((0, 1))
            record["moments"] = [self._strike(name, kind, both, draw, record) for _ in range(3)]
        elif kind == "step":
            ranks = self._start(name)
            self._wait_for_lines(name, ranks, draw.randrange(NUM_STEPS - 1))
            time.sleep(draw.random() * 0.1)
            victim = draw.randrange(2)
            record |= {"victim": victim, "lines": self._num_lines(name)}
            ranks.kill((0, 1) if both else (victim,))
            record["widow_seconds"] = ranks.wait(WIDOW_SECONDS)
        else:
            record["moments"] = [self._strike(name, kind, both, draw, record)]
        return self._recover(name, record)

    def signalled(self, phase: str, draw: random.Random) -> dict[str, Any]:
        """SIGTERM, SIGUSR1 or SIGINT to one rank or both in `phase`; committed and gone in time with exit code 75, then to the end."""
        name, both = self._new(f"signal-{phase}"), draw.random() < 0.5
        number = draw.choice(_SIGNALS)
        record: dict[str, Any] = {"kind": phase, "signal": number.name, "both": both}
        if phase in ("save", "load", "evaluation"):
            if phase == "load":
                ranks = self._start(name)
                self._wait_for_lines(name, ranks, SAVE_EVERY + 1)
                ranks.kill((0, 1))
            victim = draw.randrange(2)
            trap = self._trap(phase, victim, both, draw, number)
            ranks = self._start(name, {victim: trap})
            record["moments"] = [trap.at]
            record["sprung"] = ranks.sprung(LIMIT_SECONDS)
        else:
            # Imports that are under way are finished first; how long they take on this machine now is added to what is allowed.
            record["import_seconds"] = _seconds_of_imports() if phase == "import" else 0.0
            ranks = self._start(name, fresh=phase == "import")
            if phase == "step":
                self._wait_for_lines(name, ranks, 1 + draw.randrange(NUM_STEPS - 3))
            ranks.wait_until_they_listen(LIMIT_SECONDS)
            time.sleep(draw.random() * {"import": 2.0, "start": 1.5, "step": 0.1}[phase])
            record["sprung"] = True
            ranks.send(number, (0, 1) if both or phase == "import" else (draw.randrange(2),))
        record["stop_seconds"] = ranks.wait(LIMIT_SECONDS)
        record["codes"] = codes = list(ranks.codes)
        finished = codes == [0, 0] and self._status(name) == "finished"  # asked too late: the last step was done
        record["finished"] = finished
        record["stopped"] = (codes == [STOPPED, STOPPED] or finished) and (
            record["stop_seconds"] <= STOP_SECONDS + record.get("import_seconds", 0.0)
        )
        record = self._recover(name, record)
        record["ok"] = record["ok"] and record["stopped"]
        return record

    # ---- parts of a trial

    def _trap(self, phase: str, victim: int, both: bool, draw: random.Random, number: signal.Signals = signal.SIGKILL) -> Trap:
        most = NUM_STEPS // VALIDATE_EVERY - 1 if phase == "evaluation" else self._moments[phase][victim]
        delay = draw.random() * 0.02 if draw.random() < 0.5 and phase != "evaluation" else 0.0
        return Trap(phase, 1 + draw.randrange(most), number, both, delay)

    def _strike(self, name: str, phase: str, both: bool, draw: random.Random, record: dict[str, Any]) -> int:
        """Start with a trap that kills, wait for the end of both; the number of the file operation."""
        victim = 0 if phase == "rotation" else draw.randrange(2)  # rank 0 deletes
        trap = self._trap(phase, victim, both, draw)
        ranks = self._start(name, {victim: trap})
        record["sprung"] = ranks.sprung(LIMIT_SECONDS) and record.get("sprung", True)
        record["widow_seconds"] = max(ranks.wait(WIDOW_SECONDS if record["sprung"] else LIMIT_SECONDS), record.get("widow_seconds", 0.0))
        record["victim"] = victim
        return trap.at

    def _recover(self, name: str, record: dict[str, Any]) -> dict[str, Any]:
        """The same command to its end, and the comparison."""
        record["steps_before"] = self._num_lines(name)
        if self._status(name) != "finished":
            self._finish(self._start(name), (0, 0))
        found = self._result(name)
        record["equal"] = found == self._whole
        late = record.get("widow_seconds", 0.0) > WIDOW_SECONDS
        record["ok"] = record["equal"] and not late
        if record["ok"]:
            shutil.rmtree(self.folder / "runs" / name)
        return record

    def _loads(self, moments: list[dict[str, Any]]) -> None:
        """How many file operations a load has: counted in a run that is stopped and continued."""
        ranks = self._start("loading")
        self._wait_for_lines("loading", ranks, SAVE_EVERY + 1)
        ranks.kill((0, 1))
        self._finish(self._start("loading"), (0, 0))
        for rank in (0, 1):
            moments[rank]["load"] = read_json(self.folder / f"moments-{rank}.json", "moments of a run")["load"]

    def _new(self, kind: str) -> str:
        self._number += 1
        name = f"{kind}-{os.getpid()}-{self._number}"
        shutil.rmtree(self.folder / "runs" / name, ignore_errors=True)
        return name

    def _start(self, name: str, traps: dict[int, Trap] | None = None, *, fresh: bool = False) -> Ranks:
        config = self.folder / f"{WHOLE}.yaml"
        out = self.folder / "runs" / name
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(config, _yaml(self.folder))
        return Ranks(self.folder, [str(config), f"name={name}", f"out={out}"], out.with_suffix(".log"), traps or {}, fresh)

    def _finish(self, ranks: Ranks, codes: tuple[int, int]) -> None:
        ranks.wait(LIMIT_SECONDS)
        if tuple(ranks.codes) != codes:
            raise WorkError(f"the ranks ended with {ranks.codes} instead of {codes}; see {ranks.log}:\n{ranks.log.read_text()[-2000:]}")

    def _wait_for_lines(self, name: str, ranks: Ranks, number: int) -> None:
        end = time.monotonic() + LIMIT_SECONDS
        while self._num_lines(name) < number and ranks.running():
            if time.monotonic() > end:
                raise WorkError(f"{name} made {self._num_lines(name)} steps in {LIMIT_SECONDS:.0f} s; see {ranks.log}")
            time.sleep(0.002)

    def _num_lines(self, name: str) -> int:
        path = self.folder / "runs" / name / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def _status(self, name: str) -> str:
        path = self.folder / "runs" / name / "run.json"
        return str(read_json(path, "record of a run").get("status")) if path.exists() else "none"

    def _result(self, name: str) -> dict[str, Any]:
        """What must be equal: step and loss of every line, and the weights at the end."""
        run = self.folder / "runs" / name
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        weights = hashlib.sha256((run / "checkpoints" / f"step-{NUM_STEPS}" / "model.safetensors").read_bytes()).hexdigest()
        return {"losses": [[line["step"], line["loss_hex"], line["rows_digest"]] for line in lines], "weights": weights}


# ---- before the children


def _import_everything() -> None:
    """So that a fork has it. Nothing is computed here: a process with threads is not to be forked."""
    import proxy_lm.train.__main__
    import proxy_lm.train.run  # noqa: F401


def _make_inputs(folder: Path) -> None:
    import compressors.registry
    from proxy_lm.data.corpus import build_small
    from proxy_lm.data.encoding import encode_corpus

    sources = sorted(Path(__file__).resolve().parents[1].rglob("*.py"))
    texts = list(dict.fromkeys(text for path in sources if (text := path.read_bytes()[:2000])))
    corpus = build_small(folder / "corpus", {"train": texts[8:], "valid": texts[:4], "test": texts[4:8]})
    compressors.registry.save(compressors.registry.train("gzip", []), folder / "gzip")
    encode_corpus(corpus, folder / "gzip", folder / "gzip", num_workers=1)


def _yaml(folder: Path) -> bytes:
    settings = {
        "name": WHOLE,
        "corpus": str(folder / "corpus"),
        "views": {"gzip": str(folder / "gzip")},
        "mix": {"rate": [[0, 0.3], [1, 0.7]], "pair": 0.2},
        "model": {"preset": None, "width": 32, "depth": 2, "num_heads": 2, "hidden": 64},
        "row_length": 64,
        "rows_per_step": 8,
        "rows_per_device": 2,
        "num_steps": NUM_STEPS,
        "optimizer": {"learning_rate": 3e-3},
        "checkpoint": {"every_steps": SAVE_EVERY},
        "validation": {"max_bytes": 700, "every_steps": VALIDATE_EVERY},
        "logging": {"console_seconds": 0, "tensorboard": False, "peak_flops": 1e12},
        "communication": {"timeout_seconds": MEETING_SECONDS},
    }
    return json.dumps(settings).encode()  # JSON is YAML


def _seconds_of_imports() -> float:
    """Of two trainers at once, as two ranks import."""
    began = time.monotonic()
    children = [subprocess.Popen([sys.executable, "-c", "import proxy_lm.train.run"]) for _ in range(2)]
    for child in children:
        child.wait()
    return time.monotonic() - began


def _wait(pid: int, what: str) -> None:
    _, status = os.waitpid(pid, 0)
    if status:
        raise WorkError(f"{what} failed with exit code {os.waitstatus_to_exitcode(status)}; its message stands above")
