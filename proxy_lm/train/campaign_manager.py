"""Kills and damage for the checkpoint manager alone: no model, no torch, hundreds of rounds a minute. Part of `make campaign`.

    kills = ManagerKills(folder); kills.round(draw)           # SIGKILL at a random moment of a process that saves and rotates
    name = damage(checkpoint_folder, draw)                    # one random fault in one random file

A round's record says what was found after the kill; `is_sound` judges it. Children are forked, so that a kill costs milliseconds.
Not promised: power failure. A killed process's writes stay in the page cache; the order of syncs has a test of its own.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from proxy_lm.train.checkpoint import CheckpointManager
from proxy_lm.train.checkpoint_files import MANIFEST_NAME, parse_step, scan

KEEP_EVERY: Final = 25


def payload(step: int, size: int = 3000) -> dict[str, bytes]:
    """The files that step N must hold: a function of N alone."""
    block = hashlib.sha256(str(step).encode()).digest()
    return {"engine/rank_0.pt": block * (size // 32), "engine/deep/rank_1.pt": block[::-1] * 7, "model.safetensors": block[:5]}


def writer(step: int, size: int = 3000) -> Callable[[Path], None]:
    """What `CheckpointManager.save` is given for this step."""

    def write(folder: Path) -> None:
        for name, data in payload(step, size).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    return write


def holds_payload(path: Path, step: int) -> bool:
    """Whether a checkpoint has the very bytes of its step."""
    return all((path / name).read_bytes() == data for name, data in payload(step).items())


def committed_steps(manager: CheckpointManager) -> list[int]:
    """Steps under a committed name, valid or not."""
    names = [path.name for path in manager.folder.iterdir()] if manager.folder.is_dir() else []
    return sorted(step for step in map(parse_step, names) if step is not None)


def valid_steps(manager: CheckpointManager) -> list[int]:
    """Steps whose every digest matches."""
    return [step for step in committed_steps(manager) if not manager.verify(manager.folder / f"step-{step}")]


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a child process; its process id. A child that returns exits with 0, one that raises with 9."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(9)


class ManagerKills:
    """One folder of checkpoints whose writer is killed again and again; each round goes on from what the last one left."""

    def __init__(self, folder: Path) -> None:
        self.manager = CheckpointManager(folder, keep_last=2, keep_every=KEEP_EVERY)
        self._longest_seconds = 0.06

    def round(self, draw: random.Random) -> dict[str, Any]:
        """Save in a child, kill it at a random moment, look at what is there."""
        manager = self.manager
        reader, told = os.pipe()

        def train() -> None:
            newest = manager.newest_valid()
            step = newest.step if newest else 0
            while True:
                step += 1
                manager.save(step, writer(step), {"step": step})
                os.write(told, b"%d\n" % step)

        before = valid_steps(manager)
        child = forked(train)
        os.close(told)
        time.sleep(draw.uniform(0, self._longest_seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reader) as file:
            reported = [int(line) for line in file]
        # A busy machine saves slowly: about three saves a child, so that kills fall everywhere.
        self._longest_seconds *= 1.2 if len(reported) < 3 else 1 / 1.2
        newest = manager.newest_valid()
        valid = valid_steps(manager)
        return {
            "killed": os.WIFSIGNALED(status),
            "reported": max(reported, default=max(before, default=0)),
            "found": newest.step if newest else 0,
            "content": newest is None or (holds_payload(newest.path, newest.step) and newest.state == {"step": newest.step}),
            "valid": valid,
            "half": sorted(set(committed_steps(manager)) - set(valid)),
            "debris": sorted(path.name for path in manager.folder.iterdir() if "." in path.name) if manager.folder.is_dir() else [],
        }


def is_sound(record: dict[str, Any]) -> bool:
    """Nothing lost, nothing invented: the child may die between the rename and its report, so one more than it reported may be there."""
    found, reported = record["found"], record["reported"]
    kept = [step for step in record["valid"] if step % KEEP_EVERY == 0] == list(range(KEEP_EVERY, found + 1, KEEP_EVERY))
    enough = len(record["valid"]) >= min(2, reported)
    return record["killed"] and record["content"] and not record["half"] and found in (reported, reported + 1) and kept and enough


# ---- damage

_KINDS: Final = ("flip", "truncate", "other")
_WEIGHTS: Final = (4, 3, 3)


def damage(path: Path, draw: random.Random) -> str:
    """Do one random harm to one file of a checkpoint folder; what was done, in words. 4 in 10 flip a bit, 3 truncate, 3 are the rest."""
    names = [*scan(path)[0], MANIFEST_NAME]
    name = draw.choice(names)
    kind = draw.choices(_KINDS, _WEIGHTS)[0]
    file = path / name
    data = bytearray(file.read_bytes())
    if kind == "flip":
        at, bit = draw.randrange(len(data)), draw.randrange(8)
        data[at] ^= 1 << bit
        file.write_bytes(data)
        return f"bit {bit} of byte {at} of {name} flipped"
    if kind == "truncate":
        length = draw.choice((0, 1, len(data) // 2, len(data) - 1, draw.randrange(len(data))))
        file.write_bytes(data[:length])
        return f"{name} cut to {length} of {len(data)} bytes"
    return _other(path, name, names, draw)


def _other(path: Path, name: str, names: list[str], draw: random.Random) -> str:
    file = path / name
    other = path / draw.choice([n for n in names if (path / n).read_bytes() != file.read_bytes()])
    match draw.randrange(7):
        case 0:
            file.unlink()
            return f"{name} deleted"
        case 1:
            aside = path / "aside"
            file.rename(aside)
            other.rename(file)
            aside.rename(other)
            return f"{name} and {other.relative_to(path)} swapped"
        case 2:
            file.write_bytes(file.read_bytes() + bytes([draw.randrange(256)]))
            return f"a byte appended to {name}"
        case 3:
            (file.parent / "extra.pt").write_bytes(bytes(draw.randrange(100)))
            return f"extra.pt put beside {name}"
        case 4:
            outside = path.parent.parent / f"outside-{draw.getrandbits(32)}"
            file.rename(outside)
            file.symlink_to(outside)
            return f"{name} replaced by a link to its bytes"
        case 5:
            file.unlink()
            file.mkdir()
            return f"{name} replaced by a folder"
        case _:
            older = sorted((p for p in path.parent.iterdir() if p != path and parse_step(p.name) is not None), key=lambda p: p.name)
            donor = next((p / name for p in older if (p / name).is_file() and (p / name).read_bytes() != file.read_bytes()), None)
            if donor is None:
                file.unlink()
                return f"{name} deleted"
            shutil.copyfile(donor, file)
            return f"{name} replaced by that of {donor.relative_to(path.parent).parts[0]}"


def corruption(checkpoints: Path, scratch: Path, draw: random.Random) -> dict[str, Any]:
    """Damage the newest of the committed checkpoints in a copy of `checkpoints`; whether it was seen and the one before it taken."""
    shutil.rmtree(scratch, ignore_errors=True)
    folder = scratch / "checkpoints"
    shutil.copytree(checkpoints, folder)
    manager = CheckpointManager(folder)
    older, newest = committed_steps(manager)[-2:]
    what = damage(folder / f"step-{newest}", draw)
    found = manager.newest_valid()
    return {"what": what, "found": found.step if found else None, "ok": found is not None and found.step == older}
