"""Processes that the checkpoint tests start and kill; no test by itself.

    python checkpoint_children.py kills FOLDER ROUNDS SEED     SIGKILL at random moments of a saving loop
    python checkpoint_children.py points FOLDER kill|fail      SIGKILL, or an I/O error, at every file operation of a save in turn
    python checkpoint_children.py rank FOLDER RANK CASE        one of two ranks that talk over a socket
    python checkpoint_children.py full FOLDER                  saves on a disk that has too little room
    python checkpoint_children.py lock FOLDER                  takes the run lock and waits

Each prints JSON for the test to judge. Children are forked from one process that has imported everything, so that a kill costs
milliseconds.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sys
import time
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from proxy_lm.errors import ProxyError, WorkError
from proxy_lm.train.campaign_manager import (
    ManagerKills,
    committed_steps,
    forked,
    holds_payload,
    valid_steps,
    writer,
)
from proxy_lm.train.checkpoint import CheckpointManager
from proxy_lm.train.run_lock import RunLock

TIMEOUT_SECONDS = 20.0

# Steps that are there before step 3 is saved. In "replacement" and "alone" step 3 is there too, and damaged.
SCENARIOS = {"first": [], "rotation": [1, 2], "replacement": [1, 2, 3], "alone": [3], "debris": [1, 2]}


# ---- random kills


def kills(folder: Path, num_rounds: int, seed: int) -> list[dict[str, Any]]:
    draw, rounds = random.Random(seed), ManagerKills(folder)
    return [rounds.round(draw) for _ in range(num_rounds)]


# ---- every file operation in turn


def scenario(name: str, folder: Path) -> tuple[CheckpointManager, int]:
    """A folder before a save, and the step to save."""
    shutil.rmtree(folder, ignore_errors=True)
    manager = CheckpointManager(folder, keep_last=2)
    for step in SCENARIOS[name]:
        manager.save(step, writer(step), {"step": step})
    if name in ("replacement", "alone"):
        (folder / "step-3" / "model.safetensors").write_bytes(b"12345")
    if name == "debris":
        shutil.copytree(folder / "step-1", folder / "step-3.tmp")
        shutil.copytree(folder / "step-1", folder / "step-0.trash")
    return manager, 3


def points(folder: Path, mode: str) -> list[dict[str, Any]]:
    records = []
    for name in SCENARIOS:
        for point in range(10_000):
            manager, step = scenario(name, folder)
            before = valid_steps(manager)
            child = forked(lambda manager=manager, step=step, point=point: _save_with_fault(manager, step, point, mode))  # type: ignore[misc]
            _, status = os.waitpid(child, 0)
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            after = valid_steps(manager)
            half = [s for s in committed_steps(manager) if s not in after and not (name in ("replacement", "alone") and s == 3)]
            contents = all(holds_payload(folder / f"step-{s}", s) for s in after)
            start = CheckpointManager(manager.folder, keep_last=manager.keep_last, keep_every=manager.keep_every)
            try:
                newest = start.newest_valid()
                found = newest.step if newest else 0
            except WorkError:
                found = -1
            start.save(step, writer(step), {"step": step})  # the next start needs no hands
            record = {"scenario": name, "point": point, "code": code, "before": before, "after": after, "found": found, "half": half}
            records.append(record | {"contents": contents, "healed": sorted(path.name for path in folder.iterdir())})
            if code == 0 and after and _events_seen(folder) <= point:
                break
    return records


def _events_seen(folder: Path) -> int:
    return int(folder.with_suffix(".events").read_text())


def _save_with_fault(manager: CheckpointManager, step: int, point: int, mode: str) -> None:
    """Save with a fault at file operation `point`; the interpreter itself reports each operation before it is made."""
    seen = 0
    armed = True

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if armed and (event == "open" or event.startswith("os.")):
            seen += 1
            if seen == point + 1:
                if mode == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(errno.EIO, "planted input/output error")

    sys.addaudithook(watch)
    try:
        manager.save(step, writer(step), {"step": step})
        code = 0
    except ProxyError as error:
        code = error.exit_code
    armed = False
    manager.folder.with_suffix(".events").write_text(str(seen))
    os._exit(code)


# ---- two ranks


class SocketCollectives:
    """Two ranks over a local socket; a silent partner is an error after some seconds."""

    world_size = 2

    def __init__(self, rank: int, address: str) -> None:
        self.rank = rank
        self._link = self._connect(rank, address)

    @staticmethod
    def _connect(rank: int, address: str) -> Connection[Any, Any]:
        if rank == 0:
            with Listener(address, "AF_UNIX") as listener:
                return listener.accept()
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                return Client(address, "AF_UNIX")
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def gather(self, value: Any) -> list[Any]:
        self._link.send_bytes(json.dumps(value).encode())
        if not self._link.poll(TIMEOUT_SECONDS):
            raise TimeoutError("the other rank is silent")
        other = json.loads(self._link.recv_bytes())
        mine = json.loads(json.dumps(value))
        return [mine, other] if self.rank == 0 else [other, mine]

    def broadcast(self, value: Any) -> Any:
        return self.gather(value)[0]

    def barrier(self) -> None:
        self.gather(None)


def rank_of_two(folder: Path, rank: int, case: str) -> dict[str, Any]:
    """One save and one search by rank `rank`; `case` is "well", or "FAULT-R": rank R has the fault."""
    collectives = SocketCollectives(rank, "link")
    fault, _, where = case.partition("-")
    mine = where == str(rank)
    manager = CheckpointManager(folder / "elsewhere" if fault == "unshared" and mine else folder, collectives=collectives)

    def write(place: Path) -> None:
        if mine and fault == "oserror":
            raise OSError(errno.EIO, "planted input/output error", str(place))
        if mine and fault == "runtime":
            raise RuntimeError("stream writer failed")
        if mine and fault == "bug":
            raise TypeError("planted bug")
        (place / f"rank_{rank}.pt").write_bytes(b"%d" % rank * (1000 + rank))

    result: dict[str, Any] = {"saved": None, "error": None, "kind": None, "found": None, "locked": None}
    try:
        result["saved"] = manager.save(2, write, {"from_rank": rank}).name
    except (ProxyError, TypeError) as error:
        result |= {"error": str(error), "kind": type(error).__name__}
    if fault == "damage" and rank == 0:
        (folder / f"step-2/rank_{where}.pt").write_bytes(b"x" * (1000 + int(where)))
    collectives.barrier()
    try:
        newest = manager.newest_valid()
        result["found"] = [newest.step, newest.state, newest.world_size] if newest else None
    except ProxyError as error:
        result["found"] = str(error)
    return result


# ---- a disk with too little room


def full(folder: Path) -> list[dict[str, Any]]:
    """On a small disk: leave `room` bytes, save 64 KB after a 3 KB checkpoint (so the forecast lets it pass), look at what stayed."""
    records = []
    page = 4096
    for num_pages in range(0, 28, 2):
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        (folder / "ballast").unlink(missing_ok=True)
        manager = CheckpointManager(folder / "checkpoints")
        for step in (1, 2):
            manager.save(step, writer(step), {"step": step})
        room = num_pages * page
        with (folder / "ballast").open("wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(folder).free - room)))
        error = None
        try:
            manager.save(3, writer(3, 64_000), {"step": 3})
        except WorkError as problem:
            error = str(problem)
        debris = sorted(path.name for path in manager.folder.iterdir() if "." in path.name)
        newest = manager.newest_valid()
        records.append({"room": room, "error": error, "found": newest and newest.step, "valid": valid_steps(manager), "debris": debris})
    return records


def lock(folder: Path) -> None:
    with RunLock(folder):
        worker = forked(lambda: time.sleep(60))  # a data worker that outlives the trainer
        print(json.dumps({"pid": os.getpid(), "worker": worker}), flush=True)
        time.sleep(60)


def main(words: list[str]) -> None:
    folder = Path(words[1])
    match words[0]:
        case "kills":
            print(json.dumps(kills(folder, int(words[2]), int(words[3]))))
        case "points":
            print(json.dumps(points(folder, words[2])))
        case "rank":
            print(json.dumps(rank_of_two(folder, int(words[2]), words[3])))
        case "full":
            print(json.dumps(full(folder)))
        case "lock":
            lock(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
