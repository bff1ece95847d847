"""One trainer a run folder: an exclusive lock that the kernel takes back when its owner dies, however it dies.

    with RunLock(run_folder, collectives): ...

Rank 0 holds the lock and all ranks learn the outcome. Not promised: a lock across hosts on network file systems that do not carry `flock`.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from compressors.files import disk_error
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.train.collectives import Collectives, SingleProcess

LOCK_NAME: Final = "run.lock"


class RunLock:
    """The lock of one run folder, as a context manager; entering and leaving are collective."""

    def __init__(self, folder: Path, collectives: Collectives | None = None) -> None:
        self.path = Path(folder) / LOCK_NAME
        self.collectives: Collectives = collectives or SingleProcess()
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock. Raises `RequestError` on every rank, with the owner's process id, where another process has it."""
        problem: str | None = None
        busy = False
        if self.collectives.rank == 0:
            try:
                problem = self._take()
                busy = problem is not None
            except OSError as error:
                problem = str(disk_error(error, self.path))
        problem, busy = self.collectives.broadcast([problem, busy])
        if problem is not None:
            raise RequestError(problem) if busy else WorkError(problem)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def _take(self) -> str | None:
        """None when the lock is ours, else who has it in a sentence."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(os.pread(descriptor, 4096, 0))
            os.close(descriptor)
            return f"{self.path.parent} is being trained by {owner}; wait for it, stop it, or choose another run folder"
        except OSError:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        self._descriptor = descriptor
        # A forked worker would share the lock and keep it after our death.
        os.register_at_fork(after_in_child=self._close)
        return None

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def owner_of(folder: Path) -> str | None:
    """Who trains a run folder now, in words; None where nobody does. Takes no lock."""
    try:
        descriptor = os.open(Path(folder) / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _owner(os.pread(descriptor, 4096, 0))
    finally:
        os.close(descriptor)


def _owner(text: bytes) -> str:
    """Who wrote a lock file; the file is read while its owner may be writing it."""
    try:
        value = json.loads(text)
        return f"process {int(value['pid'])} on host {value['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process (it has not said which yet)"
