"""`Sandbox`: judges generated programs, each isolated, several at once; the way in for everybody else.

    with Sandbox.open() as sandbox:
        for outcome in sandbox.judge(programs):
            print(outcome.key, outcome.verdict, outcome.reason)

The strongest tier that works here is taken after a real try-out, and recorded in each outcome. Where none works, nothing is run: there is
no way to run a program without isolation. A fault of the machine is never a verdict: it is retried twice, then raised as `WorkError`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from eval.sandbox.programs import Outcome, Program
from eval.sandbox.tiers import TIERS
from eval.sandbox.worker import pack
from proxy_lm.errors import RequestError, WorkError

MAX_RETRIES: Final = 2
RETRY_WAIT_S: Final = (0.1, 1.0)
CLOSE_LIMIT_S: Final = 20.0
# Outcomes are given in the order of the programs, so one slow program may hold up this many finished ones for each slot.
_WINDOW_PER_SLOT: Final = 16

# Run in each tier before it is used: the tier works when the program gets its answers through and is refused everything that it tries.
_PROBE: Final = """
def attempt(action):
    try:
        action()
    except (OSError, ImportError, RuntimeError) as error:
        return "refused"
    return "done"

def tries():
    import os, socket
    return {
        "a process": attempt(os.fork),
        "a file": attempt(lambda: open("/tmp/sandbox-probe", "w")),
        "a socket": attempt(lambda: socket.socket()),
        "a signal": attempt(lambda: os.kill(os.getppid(), 0)),
        "a command": attempt(lambda: os.execv("/bin/true", ["true"])),
        "an environment": "done" if set(os.environ) - {"PYTHONHASHSEED", "LC_CTYPE", "PWD"} else "refused",
        "root": "done" if os.getuid() == 0 else "refused",
    }
"""
_PROBE_TESTS: Final = """
got_through = [name for name, result in tries().items() if result != "refused"]
assert not got_through, "programs could have " + ", ".join(got_through)
"""


class _Slot:
    """One worker process, started when it is first needed and again after it died."""

    def __init__(self, tier: str) -> None:
        self._tier = tier
        self._process: subprocess.Popen[bytes] | None = None

    def send(self, program: Program) -> None:
        """Give it a program. Raises `OSError` where the process cannot be started or has died."""
        if self._process is None:
            # The slot imports what this process imports, whatever Python was told to add or leave out by its environment.
            path = [str(Path(__file__).resolve().parents[2]), *(folder for folder in sys.path if os.path.isabs(folder))]
            environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
            environment |= {
                "PYTHONPATH": os.pathsep.join(path),
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
            }
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "eval.sandbox.worker", self._tier],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the command, which then ends its slots
            )
        assert self._process.stdin is not None
        self._process.stdin.write(pack(program))
        self._process.stdin.flush()

    def fileno(self) -> int:
        """For select: readable when an outcome is there or the process has died."""
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def receive(self) -> dict[str, Any]:
        """The outcome, or {"fault": sentence} where the process died."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.endswith(b"\n"):
            told = json.loads(line)
            assert isinstance(told, dict)
            return told
        self.close()
        return {"fault": "the process of a slot died"}

    @property
    def pid(self) -> int | None:
        """The number of the process, where there is one."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the process; it ends what it had started."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


class Sandbox:
    """Slots that judge programs in one tier. Made by `open`, used in a `with` block, by one thread."""

    def __init__(self, tier: str, num_slots: int) -> None:
        self.tier = tier
        self.num_slots = num_slots
        self._slots = [_Slot(tier) for _ in range(num_slots)]

    @classmethod
    def open(cls, tier: str = "auto", num_slots: int | None = None) -> Self:
        """The sandbox in a tier by name, or in the strongest that works here; `num_slots` programs at once (default: one for each core).

        Raises `RequestError` with the reason of each tier where none works.
        """
        if tier != "auto" and tier not in TIERS:
            raise RequestError(f"unknown sandbox tier {tier!r}; known: auto, {', '.join(TIERS)}")
        if num_slots is None:
            num_slots = len(os.sched_getaffinity(0))
        if num_slots < 1:
            raise RequestError(f"num_slots {num_slots}; at least 1 program must run at a time")
        reasons = []
        for name in TIERS if tier == "auto" else (tier,):
            sandbox = cls(name, num_slots)
            reason = sandbox._try_out()
            if reason is None:
                return sandbox
            sandbox.close()
            reasons.append(f"{name}: {reason}")
        if tier != "auto":
            raise RequestError(
                f"the sandbox tier {tier} does not work here: {reasons[0].partition(': ')[2]}; or take auto, the strongest that works"
            )
        raise RequestError(
            "no sandbox works here, and generated programs are never run without one. " + "; ".join(reasons) + ". "
            "Install bubblewrap, or use a kernel from 6.2 on with Landlock, or judge the samples file on another machine"
        )

    def _try_out(self) -> str | None:
        probe = Program(key="probe", solution=_PROBE, tests=_PROBE_TESTS, entry_points=("tries",), limit_s=30)
        try:
            (outcome,) = self._judge([probe], 1, num_retries=0)
        except WorkError as error:
            return str(error.__cause__ or error)
        return None if outcome.verdict == "pass" else f"the try-out failed ({outcome.reason or outcome.verdict})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The processes of the slots that have been started."""
        return [slot.pid for slot in self._slots if slot.pid is not None]

    def close(self) -> None:
        """End all processes of the sandbox."""
        for slot in self._slots:
            slot.close()

    def judge(self, programs: Iterable[Program], *, num_at_once: int | None = None) -> Iterator[Outcome]:
        """Outcomes in the order of the programs; `num_at_once=1` runs them one by one, as timeouts are run again.

        Raises `WorkError` where a program could not be judged after two retries, `RequestError` where two programs have one key.
        """
        if num_at_once is not None and num_at_once < 1:
            raise RequestError(f"num_at_once {num_at_once}; at least 1 program must run at a time")
        return self._judge(programs, min(num_at_once or self.num_slots, self.num_slots), num_retries=MAX_RETRIES)

    def _judge(self, programs: Iterable[Program], num_slots: int, *, num_retries: int) -> Iterator[Outcome]:
        jobs = _Jobs(programs, self.tier, window=num_slots * _WINDOW_PER_SLOT, num_retries=num_retries)
        free, busy = self._slots[:num_slots], dict[_Slot, _Job]()
        try:
            while True:
                while free and (job := jobs.take()) is not None:
                    slot = free.pop()
                    try:
                        slot.send(job.program)
                    except OSError as error:
                        slot.close()
                        free.append(slot)
                        jobs.note(job, {"fault": f"the process of a slot could not be used: {error.strerror or error}"})
                    else:
                        busy[slot] = job
                yield from jobs.in_order()
                if not busy:
                    return
                for slot in select.select(list(busy), [], [])[0]:
                    job = busy.pop(slot)
                    free.append(slot)
                    jobs.note(job, slot.receive())
                yield from jobs.in_order()
        finally:
            for slot in busy:  # the caller went away, or a fault was raised: what still runs is ended
                slot.close()


@dataclass
class _Job:
    index: int
    program: Program
    num_faults: int = 0


class _Jobs:
    """Programs on their way: read as slots become free, tried again after faults, told in order."""

    def __init__(self, programs: Iterable[Program], tier: str, *, window: int, num_retries: int) -> None:
        self._source = enumerate(programs)
        self._tier = tier
        self._window = window
        self._num_retries = num_retries
        self._keys: set[str] = set()
        self._again: list[_Job] = []
        self._finished: dict[int, Outcome] = {}
        self._next_index = 0

    def take(self) -> _Job | None:
        """The next job; None where there is none now."""
        if self._again:
            return self._again.pop()
        if len(self._keys) - self._next_index >= self._window:
            return None
        item = next(self._source, None)
        if item is None:
            return None
        index, program = item
        if program.key in self._keys:
            raise RequestError(f"two programs have the key {program.key!r}; give each its own")
        self._keys.add(program.key)
        return _Job(index, program)

    def note(self, job: _Job, told: dict[str, Any]) -> None:
        """Keep an outcome, or have the job done again. Raises `WorkError` after too many faults."""
        program = job.program
        if "fault" not in told and told["verdict"] != "killed":
            self._finished[job.index] = Outcome(key=program.key, tier=self._tier, **{k: told[k] for k in ("verdict", "reason", "seconds")})
            return
        if job.num_faults < self._num_retries:
            time.sleep(RETRY_WAIT_S[job.num_faults])
            job.num_faults += 1
            self._again.append(job)
            return
        if "fault" not in told:
            # A program can name this exit code itself, so that it must not be able to stop an evaluation with it.
            reason = f"{told['reason']}, {job.num_faults + 1} times out of {job.num_faults + 1}"
            self._finished[job.index] = Outcome(key=program.key, verdict="fail", reason=reason, seconds=told["seconds"], tier=self._tier)
            return
        raise WorkError(
            f"program {program.key!r} could not be judged: {told['fault']}; tried {job.num_faults + 1} times. This is a fault of the "
            "machine and no verdict: look at its free memory and its limit on processes, then run the same command again"
        ) from _Fault(told["fault"])

    def in_order(self) -> Iterator[Outcome]:
        """The outcomes that are next in the order of the programs."""
        while self._next_index in self._finished:
            yield self._finished.pop(self._next_index)
            self._next_index += 1


class _Fault(Exception):
    """Why the last try gave no verdict; the cause of the `WorkError`."""
