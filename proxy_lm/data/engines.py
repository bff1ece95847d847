"""Who does the many small pieces of work of `proxy-lm prepare` and `proxy-lm encode`: processes of this machine, or a Ray cluster.

An engine calls one module-level function for each of many tasks. A task reads files and leaves its result in a file of its own, whole or
absent, at a place that the task names; what it returns is a number for the progress bar. So the order of work, who did it and how often do
not show in what is made, and a killed run goes on from the files that stand, under either engine.
"""

from __future__ import annotations

import argparse
import fcntl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

from proxy_lm.data.pool import default_workers, run_tasks
from proxy_lm.errors import RequestError
from proxy_lm.progress import note

NAMES = ("local", "ray")
# Less than this is read sooner than worker processes start.
ALONE_BYTES = 4_000_000

Task = tuple[Any, ...]


class Engine(ABC):
    """Calls `function(*task)` for every task."""

    name: ClassVar[str]
    num_workers: int
    """How many tasks are worked on at a time."""

    @abstractmethod
    def run(self, function: Callable[..., int], tasks: Sequence[Task], *, seal: Path, num_bytes: int | None) -> Iterator[int]:
        """What each call returns, in any order. The first error stops all and is raised here.

        `seal` is a file whose content says which work this is: a worker that sees another, or none, is at the wrong place and refuses.
        `num_bytes` is the size of what will be read, None where it is unknown.
        """


class LocalEngine(Engine):
    """Processes of this machine; this process alone for one worker, or for little work."""

    name = "local"

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def run(self, function: Callable[..., int], tasks: Sequence[Task], *, seal: Path, num_bytes: int | None) -> Iterator[int]:
        """See `Engine`. The seal is not looked at: workers are this process's own children, and end with it."""
        alone = num_bytes is not None and num_bytes < ALONE_BYTES
        return run_tasks(function, tasks, 1 if alone else min(self.num_workers, len(tasks)))


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say who does the work; they change nothing in what is made."""
    parser.add_argument(
        "--engine", default="local", metavar="local|ray", help="processes of this machine, or a Ray cluster (default: local)"
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="head of a running Ray cluster; none: one is started here for the command")


@contextmanager
def at_work(seal: Path) -> Iterator[None]:
    """Held by a worker that this process cannot end: it says that the place of `seal` is being worked at, and goes with the worker."""
    with busy_file(seal).open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def idle(seal: Path) -> Iterator[None]:
    """A time in which no worker is at the place of `seal`. Those of a killed run are waited for: other machines notice its end late."""
    if not busy_file(seal).exists():
        yield
        return
    with busy_file(seal).open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"waiting for the workers of an earlier run in {seal.parent}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def busy_file(seal: Path) -> Path:
    """The file that carries the lock. An engine whose workers may outlive it makes it before its first task."""
    return seal.with_name(f"{seal.name}.busy")


def open_engine(name: str, *, num_workers: int | None = None, address: str | None = None) -> AbstractContextManager[Engine]:
    """The engine `name`, ready inside the block and gone after it, whatever happened.

    `num_workers` None: all processors there are. `address`: a running Ray cluster; None starts one of this machine's processors.
    Raises `RequestError` for an unknown name, options that do not fit together, and a missing extra.
    """
    if name not in NAMES:
        raise RequestError(f"unknown engine '{name}'; known: {', '.join(NAMES)}")
    if num_workers is not None and num_workers < 1:
        raise RequestError(f"--workers {num_workers} does no work; give at least 1 worker")
    if name == "ray":
        from proxy_lm.data.ray_engine import ray_engine

        return ray_engine(num_workers, address)
    if address is not None:
        raise RequestError(f"--address {address} is of a Ray cluster and the engine is {name}; give --engine ray too, or leave it out")
    return nullcontext(LocalEngine(num_workers or default_workers()))
