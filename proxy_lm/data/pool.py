"""Worker processes that end when they should: with their parent however it dies, on an error, and on Ctrl-C.

`run_tasks` calls a module-level function once for each set of arguments. Results come in any order, so callers must not let order matter.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from proxy_lm.errors import WorkError

R = TypeVar("R")

_WAITING_PER_WORKER = 4


def default_workers() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(function: Callable[..., R], tasks: Iterable[tuple[Any, ...]], num_workers: int) -> Iterator[R]:
    """Results of `function(*task)` as they come; in this process for one worker. The first error stops all and is raised here."""
    if num_workers <= 1:
        for task in tasks:
            yield function(*task)
        return
    # Not fork: the progress bar's thread may hold a lock at that moment, which the child would wait for for ever.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(num_workers, context, _start_worker)
    before = {process.pid for process in multiprocessing.active_children()}
    todo = iter(tasks)
    running = set()
    try:
        while True:
            for task in todo:
                running.add(executor.submit(function, *task))
                if len(running) >= _WAITING_PER_WORKER * num_workers:
                    break
            if not running:
                break
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
        executor.shutdown()
    except BrokenProcessPool as error:
        raise WorkError("a worker process was killed (out of memory?); try fewer --workers, and the same command continues") from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process.pid not in before:
                process.terminate()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
