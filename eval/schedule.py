"""Which cell runs when: cheap ones first, several side by side on one machine, and how far the grid is.

    run_cells(grid, runs, jobs=2, found=lambda run, result: ...)

One job runs in this process. More are processes of their own that get one cell after another; what they print goes to
OUT/cells/<cell>.log. On processors each job has its share of the cores (`threads_per_rank`), on accelerators its own devices
(CUDA_VISIBLE_DEVICES); jobs beyond the devices share them. A job that dies takes its ranks with it and fails its cell; the others go on.
Ctrl-C lets all ranks save first. When this process is killed its jobs and their ranks die with it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import NoReturn

from eval.compare_cells import Grid, blank, finished, keep_failure, run_cell
from eval.plan import ArmRun, ComparePlan
from eval.results import ArmResult
from proxy_lm.errors import RequestError
from proxy_lm.progress import note, span
from proxy_lm.train.child import last_record, without_places

TELL_SECONDS = 30.0
_POLL_SECONDS = 1.0
_STOP_SECONDS = 60.0  # the guard gives the ranks 40 s to save
_PR_SET_PDEATHSIG = 1
Found = Callable[[ArmRun, ArmResult], None]


def in_order(runs: Sequence[ArmRun], flops: Mapping[str, float], seeds: Sequence[int]) -> list[ArmRun]:
    """Cheap (scale, budget) first, seed by seed where they cost much the same, so that a part of a grid can be read: the n-th seed counts
    n times its cost. The arms of one (scale, budget) and seed stay together, in the order of the plan."""
    costs: dict[tuple[str | None, str | None], float] = {}
    for run in runs:
        group = (run.scale, run.budget)
        costs[group] = max(costs.get(group, 0.0), flops[run.cell_name])

    def place(run: ArmRun) -> tuple[float, int]:
        number = list(seeds).index(run.seed) if run.seed in seeds else 0  # a try of the search has a seed of its own
        return (number + 1) * costs[run.scale, run.budget], number

    return sorted(runs, key=place)


def num_jobs(plan: ComparePlan) -> int:
    """How many runs go side by side. Raises `RequestError` where a launcher's own arguments leave that open."""
    if plan.launch.arguments is not None:
        if plan.launch.jobs not in (None, 1):
            raise RequestError(f"launch.jobs={plan.launch.jobs} with launch.arguments, which say where runs go; leave one of them out")
        return 1
    return plan.launch.jobs or max(1, len(devices()) // plan.launch.num_ranks)


def devices() -> list[str]:
    """The accelerators of this machine that may be used, as CUDA_VISIBLE_DEVICES names them; none on a processor."""
    import torch

    if not torch.cuda.is_available():
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return given.split(",") if given else [str(index) for index in range(torch.cuda.device_count())]


def shared_out(plan: ComparePlan, jobs: int) -> ComparePlan:
    """The plan with the threads that each rank has when so many runs go side by side."""
    if plan.launch.threads_per_rank is not None or jobs == 1:
        return plan
    threads = max(1, num_cores() // (jobs * plan.launch.num_ranks))
    return plan.model_copy(update={"launch": plan.launch.model_copy(update={"threads_per_rank": threads})})


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def environment_of_job(plan: ComparePlan, job: int, jobs: int, evaluation_workers: int) -> dict[str, str]:
    """What is set for one of several jobs: its devices, and threads of what it runs beside the ranks. Raises `RequestError` for devices
    that are not named by numbers, which the launcher of the ranks cannot pass on."""
    threads = max(1, num_cores() // (jobs * evaluation_workers))
    given = os.environ.get("OMP_NUM_THREADS", "")
    environment = {"OMP_NUM_THREADS": str(min(threads, int(given)) if given.isdigit() and int(given) else threads)}
    found = devices()
    if found:
        if not all(name.strip().isdigit() for name in found):
            raise RequestError(f"CUDA_VISIBLE_DEVICES={','.join(found)} names devices otherwise than by number; set launch.jobs to 1")
        mine = [found[(job * plan.launch.num_ranks + rank) % len(found)] for rank in range(plan.launch.num_ranks)]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(name.strip() for name in mine))
    return environment


@dataclass
class Progress:
    """How far the grid is: cells, and time left from the FLOPs that this session has done."""

    grid: Grid
    what: str
    total: int
    left: dict[str, ArmRun]
    num_done: int = 0
    num_failed: int = 0
    flops_done: float = 0.0
    """Of cells that were finished in this session."""
    running: dict[str, ArmRun] = field(default_factory=dict)
    _begun: dict[str, float] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)
    _told: float = field(default_factory=time.monotonic)

    def start(self, run: ArmRun) -> None:
        """The cell runs now; what an earlier session did of it is not counted as this one's."""
        self.running[run.cell_name] = run
        self._begun[run.cell_name] = self._spent(run)

    def finish(self, run: ArmRun, result: ArmResult) -> None:
        """The cell has ended, and the line is told."""
        self.left.pop(run.cell_name, None)
        self.running.pop(run.cell_name, None)
        if result.status == "done":
            self.num_done += 1
            self.flops_done += max(0.0, self.grid.flops[run.cell_name] - self._begun.get(run.cell_name, 0.0))
        elif result.status == "failed":
            self.num_failed += 1
        self.tell()

    def tell_now_and_then(self) -> None:
        """The line, when it is time."""
        if time.monotonic() - self._told >= TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        """`grid: 5 of 54 cells done, 2 running, 47 left; about 2 h 10 min left`."""
        self._told = time.monotonic()
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        running = f", {len(self.running)} running" if self.running else ""
        waiting = len(self.left) - len(self.running)
        seconds = self.seconds_left()
        time_left = "" if seconds is None else f"; about {span(seconds)} left"
        note(f"{self.what}: {self.num_done} of {self.total} done{failed}{running}, {waiting} left{time_left}")

    def seconds_left(self) -> float | None:
        """From the FLOPs done so far and the time they took, everything else included; None before there are any, and at the end."""
        now = {name: self._spent(run) for name, run in self.running.items()}
        done = self.flops_done + sum(max(0.0, now[name] - self._begun[name]) for name in now)
        to_do = sum(self.grid.flops[name] - now.get(name, 0.0) for name in self.left)
        return (time.monotonic() - self._started) / done * max(0.0, to_do) if done > 0 and self.left else None

    def _spent(self, run: ArmRun) -> float:
        record = last_record(self.grid.out / run.folder)
        return 0.0 if record is None else min(float(record["total_training_flops"]), self.grid.flops[run.cell_name])


def run_cells(grid: Grid, runs: Sequence[ArmRun], jobs: int, found: Found, what: str = "grid", num_done: int = 0) -> None:
    """Run cells in this order, `jobs` side by side, and hand each to `found`. `num_done` more are done already."""
    progress = Progress(grid, what, num_done + len(runs), {run.cell_name: run for run in runs}, num_done)
    if jobs == 1 or len(runs) == 1:
        for run in runs:
            progress.start(run)
            result = run_cell(grid, run)
            found(run, result)
            if len(runs) > 1:
                progress.finish(run, result)
    elif runs:
        progress.tell()
        _side_by_side(grid, runs, min(jobs, len(runs)), found, progress)


@dataclass
class _Job:
    process: SpawnProcess
    number: int
    run: ArmRun | None = None


def _side_by_side(grid: Grid, runs: Sequence[ArmRun], jobs: int, found: Found, progress: Progress) -> None:
    waiting = deque(runs)
    working: dict[Connection, _Job] = {}
    try:
        for number in range(jobs):
            pipe, job = _started(grid, number, jobs)
            working[pipe] = job
            _next(pipe, job, waiting, progress)
        while any(job.run is not None for job in working.values()):
            # A job without a cell that dies is nobody's failure, so it is not waited for.
            for ready in wait([pipe for pipe, job in working.items() if job.run is not None], timeout=_POLL_SECONDS):
                assert isinstance(ready, Connection)
                job = working[ready]
                assert job.run is not None
                run, result = job.run, _received(ready)
                job.run = None
                if result is None:
                    result = _died(grid, run, job)
                    del working[ready]
                    if waiting:
                        ready, job = _started(grid, job.number, jobs)
                        working[ready] = job
                if result.status == "failed":
                    note(f"{run.cell_name}: failed; {result.failure}")
                found(run, result)
                progress.finish(run, result)
                if ready in working:
                    _next(ready, job, waiting, progress)
            progress.tell_now_and_then()
    except BaseException:
        note("stopping; running cells save a checkpoint first")
        for job in working.values():
            job.process.terminate()
        raise
    finally:
        for pipe, job in working.items():
            pipe.close()
            job.process.join(_STOP_SECONDS)
            job.process.kill()


def _next(pipe: Connection, job: _Job, waiting: deque[ArmRun], progress: Progress) -> None:
    if waiting:
        job.run = waiting.popleft()
        progress.start(job.run)
        note(f"{progress.what}: {job.run.cell_name} starts as job {job.number}")
        pipe.send(job.run)


def _received(pipe: Connection) -> ArmResult | None:
    """What a job found; None when it died."""
    try:
        result: ArmResult = pipe.recv()
    except (EOFError, ConnectionError):
        return None
    return result


def _died(grid: Grid, run: ArmRun, job: _Job) -> ArmResult:
    job.process.join()
    kept = finished(grid, run)
    if kept is not None and kept.result.status == "done":
        return kept.result  # it died after the cell was written down
    log = log_path(grid.out, run)
    lines = log.read_text(errors="replace").strip().splitlines()[-3:] if log.exists() else []
    failure = "\n".join([f"the process that ran it ended with exit code {job.process.exitcode}", *lines])
    return keep_failure(grid, run, blank(grid, run), without_places(failure, grid.out / run.folder))


def log_path(out: Path, run: ArmRun) -> Path:
    """Where a cell that is one of several tells what it does."""
    return out / "cells" / f"{run.cell_name}.log"


def _started(grid: Grid, number: int, jobs: int) -> tuple[Connection, _Job]:
    environment = environment_of_job(grid.plan, number, jobs, grid.evaluation_workers)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(grid, theirs, environment, os.getpid()))
    process.start()
    theirs.close()
    return ours, _Job(process, number)


def _work(grid: Grid, pipe: Connection, environment: Mapping[str, str], parent: int) -> None:
    """A job: cells come through the pipe until it is closed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)  # it died before we could ask to die with it
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole group; the parent passes it on
    signal.signal(signal.SIGTERM, _interrupted)
    while True:
        try:
            run: ArmRun = pipe.recv()
        except EOFError:
            return
        _log_to(log_path(grid.out, run))
        pipe.send(run_cell(grid, run))


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _log_to(path: Path) -> None:
    """Everything that this process prints from now on goes to a file, a traceback that ends it too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
