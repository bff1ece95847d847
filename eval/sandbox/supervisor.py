"""One program from start to verdict: a fresh sandbox, a fresh judge, the clock, and the end of every process of both.

Runs in the process of a slot (`worker`), which does nothing else. Every program gets an interpreter that has seen no other program. Faults
of the machine raise `MachineFaultError`; what the program does is a verdict.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import resource
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from eval.sandbox import confine, driver, judge, values
from eval.sandbox.programs import MAX_LOAD_FACTOR, Program
from eval.sandbox.tiers import Tier

START_LIMIT_S: Final = 30.0
END_LIMIT_S: Final = 10.0
TICK_S: Final = 0.05
KEPT_OUTPUT_BYTES: Final = 4096
NUM_THREADS: Final = 64
JUDGE_MEMORY_BYTES: Final = 2 << 30

# Makes the modules that were sent, under their names, and hands over to the driver. Runs inside, before any generated program.
BOOT: Final = """
import marshal, os, sys, types
def take(size):
    parts = b""
    while len(parts) < size:
        part = os.read(0, size - len(parts))
        if not part: os._exit(3)
        parts += part
    return parts
modules, settings = marshal.loads(take(int.from_bytes(take(4), "big")))
for name, code in modules:
    module = sys.modules[name] = types.ModuleType(name)
    parent, _, tail = name.rpartition(".")
    if parent: setattr(sys.modules[parent], tail, module)
    if code is not None: exec(code, module.__dict__)
sys.modules["eval.sandbox.driver"].serve(settings)
"""


class MachineFaultError(Exception):
    """The machine, not the program, is why there is no verdict."""


@cache
def inside_modules() -> list[tuple[str, Any]]:
    """The modules that the boot text makes, compiled; packages have no code."""
    sources = [(module.__name__, Path(str(module.__file__))) for module in (values, confine, driver)]
    compiled = [(name, compile(path.read_text(), path.name, "exec", dont_inherit=True)) for name, path in sources]
    return [("eval", None), ("eval.sandbox", None), *compiled]


@dataclass
class Run:
    """The processes and pipes of one program."""

    sandbox: subprocess.Popen[bytes]
    info: int
    output: int
    judge_pid: int
    results: int
    kept: bytearray = field(default_factory=bytearray)
    end: int | None = None
    """How the sandbox ended by itself; None where it was still there when the verdict was told."""

    def close(self) -> None:
        """End every process of both sides and wait for each. Raises `MachineFaultError` where one does not go."""
        self.sandbox.kill()  # nothing where it has been waited for
        os.kill(self.judge_pid, signal.SIGKILL)  # not waited for before `reap_all`, so the number is still its own
        for descriptor in (self.info, self.output, self.results):
            os.close(descriptor)
        reap_all(self)


def reap_all(run: Run | None = None) -> None:
    """Wait until this process has no child left: this slot runs one program at a time, and orphans of a sandbox become its children."""
    deadline = time.monotonic() + END_LIMIT_S
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if run is not None and pid == run.sandbox.pid:
            run.sandbox.returncode = os.waitstatus_to_exitcode(status)
        elif pid == 0:
            if time.monotonic() > deadline:
                raise MachineFaultError(f"a process of a sandbox did not end within {END_LIMIT_S:.0f} s of being killed")
            time.sleep(0.001)


def num_processes_of_user() -> int:
    """Threads that the user of this process has on the machine: the limit on a program's threads counts them too, without namespaces."""
    user, number = os.geteuid(), 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == user:
                    number += len(os.listdir(f"/proc/{entry.name}/task"))
    return number


def payload_of(program: Program, tier: Tier, ready: bytes) -> bytes:
    """What the boot text reads: modules and settings."""
    settings = tier.settings(NUM_THREADS + (num_processes_of_user() if tier.name == "landlock" and tier.uid is None else 0))
    cores = os.cpu_count() or 1
    # The clock of this process ends a program long before; this is for a machine on which this process stands still.
    cpu_s = int(program.limit_s * MAX_LOAD_FACTOR * cores) + 2
    settings["limits"] |= {"RLIMIT_AS": program.memory_bytes, "RLIMIT_DATA": program.memory_bytes, "RLIMIT_CPU": cpu_s}
    return marshal.dumps((inside_modules(), settings | {"ready": ready}))


def start(program: Program, tier: Tier) -> Run:
    """Start the sandbox and the judge, joined by two pipes that this process does not keep."""
    ready = secrets.token_bytes(16)
    payload = payload_of(program, tier, ready)
    pipes = [os.pipe() for _ in range(5)]
    (requests_in, requests), (replies, replies_out), (output, output_in), (info, info_in), (results, results_in) = pipes
    switch = {"user": tier.uid, "group": tier.uid, "extra_groups": ()} if tier.name == "bwrap" and tier.uid is not None else {}
    try:
        sandbox = subprocess.Popen(
            tier.command(BOOT, info_in),
            stdin=requests_in,
            stdout=replies_out,
            stderr=output_in,
            env={"PYTHONHASHSEED": "0"},
            cwd="/",
            pass_fds=(info_in,) if tier.bwrap else (),
            start_new_session=True,
            **switch,  # type: ignore[call-overload]
        )
    except (OSError, subprocess.SubprocessError) as error:
        for pipe in pipes:
            os.close(pipe[0])
            os.close(pipe[1])
        raise MachineFaultError(f"the sandbox could not be started: {error}") from error
    try:
        pid = os.fork()
    except OSError as error:
        sandbox.kill()
        reap_all()
        for pipe in pipes:
            os.close(pipe[0])
            os.close(pipe[1])
        raise MachineFaultError(f"the judge could not be started: {error.strerror}") from error
    if pid == 0:
        live_as_judge(program, payload, ready, requests, replies, results_in)
    for descriptor in (requests_in, requests, replies, replies_out, output_in, info_in, results_in):
        os.close(descriptor)
    os.set_blocking(output, False)
    return Run(sandbox, info, output, pid, results)


def live_as_judge(program: Program, payload: bytes, ready: bytes, requests: int, replies: int, results: int) -> None:
    """The forked half: bounded, silent, and gone when it has told its verdict."""
    code = 1
    try:
        keep = {requests, replies, results}
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        for descriptor in range(3, 256):
            if descriptor not in keep:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        os.chdir("/")
        confine.end_with_parent()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        own = JUDGE_MEMORY_BYTES if most == resource.RLIM_INFINITY else min(JUDGE_MEMORY_BYTES, most)
        resource.setrlimit(resource.RLIMIT_AS, (own, own))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        judge.run(program, payload, ready, requests, replies, results)
        code = 0
    finally:
        os._exit(code)


class Clock:
    """Seconds of a run, without the time that its program and its judge spent waiting for a core, where the kernel tells it."""

    def __init__(self, began_ns: int, pids: tuple[int | None, ...]) -> None:
        self._paths = [Path(f"/proc/{pid}/schedstat") for pid in pids if pid is not None]
        self._began_ns = began_ns
        self._first = [self._times(path) for path in self._paths]
        self._last = self._first

    @staticmethod
    def _times(path: Path) -> tuple[int, int]:
        """Nanoseconds that a process has run and has waited for a core; 0 where it is gone or the kernel does not count."""
        try:
            ran, waited, _ = path.read_bytes().split()
            return int(ran), int(waited)
        except (OSError, ValueError):
            return 0, 0

    def read(self, now_ns: int | None = None) -> tuple[float, float]:
        """(seconds of its own, seconds on the wall) from the start to now, or to a moment that the judge told.

        Never less than what both have run: they may wait for a core at once, which would be taken off twice.
        """
        self._last = [max(last, self._times(path)) for last, path in zip(self._last, self._paths, strict=True)]
        ran, waited = (sum(last[k] - first[k] for first, last in zip(self._first, self._last, strict=True)) for k in (0, 1))
        wall = (now_ns or time.monotonic_ns()) - self._began_ns
        return max(wall - waited, min(ran, wall), 0) / 1e9, wall / 1e9


def supervise(program: Program, tier: Tier, abandoned: Callable[[], bool]) -> Mapping[str, Any]:
    """{"verdict", "reason", "seconds"} of one program. `abandoned()` says that nobody waits for it any more, which ends the slot."""
    run = start(program, tier)
    try:
        verdict, reason, seconds = watch(run, program, tier, abandoned)
    finally:
        run.close()
    if verdict == "ended":
        verdict, reason = ending(run, tier, reason)
    return {"verdict": verdict, "reason": reason, "seconds": round(seconds, 4)}


def watch(run: Run, program: Program, tier: Tier, abandoned: Callable[[], bool]) -> tuple[str, str, float]:
    """Wait for the verdict or the end of the time."""
    poll = select.poll()
    poll.register(run.results, select.POLLIN)
    poll.register(run.output, select.POLLIN)
    told, clock, began, next_read = bytearray(), None, time.monotonic(), 0.0
    while True:
        for descriptor, _ in poll.poll(TICK_S * 1000):
            if descriptor == run.output:
                keep_output(run, poll)
                continue
            part = os.read(run.results, 65536)
            told += part
            if not part:
                return conclude(run, program, frames_of(bytes(told)), clock)
            if clock is None and (frames := frames_of(bytes(told))) and frames[0][:1] == b"R":
                clock = Clock(int(frames[0][1:]), (find_program(run, tier), run.judge_pid))
        if time.monotonic() < next_read:
            continue
        next_read = time.monotonic() + TICK_S
        if abandoned():
            raise SystemExit(1)
        if clock is None:
            if time.monotonic() - began > START_LIMIT_S:
                raise MachineFaultError(f"the sandbox was not ready within {START_LIMIT_S:.0f} s")
            continue
        own, wall = clock.read()
        if own > program.limit_s or wall > program.limit_s * MAX_LOAD_FACTOR:
            return "timeout", f"over {program.limit_s:g} s", own


def keep_output(run: Run, poll: select.poll) -> None:
    """Read what the program printed; only the beginning is kept."""
    try:
        part = os.read(run.output, 1 << 16)
    except BlockingIOError:
        return
    run.kept += part[: KEPT_OUTPUT_BYTES - len(run.kept)]
    if not part:
        poll.unregister(run.output)


def find_program(run: Run, tier: Tier) -> int | None:
    """The number outside of the program's process, for the clock; None where it cannot be told.

    Without bubblewrap it is the process that was started. bubblewrap tells the first process of the namespace, whose only child it is.
    """
    if tier.bwrap is None:
        return run.sandbox.pid
    os.set_blocking(run.info, False)
    with contextlib.suppress(BlockingIOError, ValueError, KeyError):
        first = int(json.loads(os.read(run.info, 4096))["child-pid"])
        near = range(first + 1, first + 33)
        return next((pid for numbers in (near, _all_processes()) for pid in numbers if _parent_of(pid) == first), None)
    return None


def _all_processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def frames_of(told: bytes) -> list[bytes]:
    """The whole frames of what the judge told."""
    frames = []
    while len(told) >= 4 and len(told) >= (end := 4 + int.from_bytes(told[:4], "big")):
        frames.append(told[4:end])
        told = told[end:]
    return frames


def conclude(run: Run, program: Program, frames: list[bytes], clock: Clock | None) -> tuple[str, str, float]:
    """Read what the judge told before it closed its pipe."""
    if clock is None:
        poll = select.poll()
        poll.register(run.output, select.POLLIN)
        if poll.poll(200):
            keep_output(run, poll)
        said = judge.printable(run.kept.decode("utf-8", "replace").strip().replace("\n", " | "))
        raise MachineFaultError(f"the sandbox did not start: {said or 'it said nothing'}")
    if len(frames) != 2 or frames[1][:1] != b"V":
        raise MachineFaultError("the judge ended without a verdict")
    moment, verdict, reason = frames[1][1:].decode().split(" ", 2)
    own, _ = clock.read(int(moment))
    if own > program.limit_s:  # the verdict came between two looks at the clock
        return "timeout", f"over {program.limit_s:g} s", own
    if verdict == "ended":  # the pipe closed; the process may be about to end, or may have closed it and live on
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.end = run.sandbox.wait(timeout=1)
    return verdict, reason, own


def ending(run: Run, tier: Tier, reason: str) -> tuple[str, str]:
    """The verdict on a program whose process ended: fail, with how it ended; a kill that no program can do to itself is a fault."""
    code = run.end
    if code is None:
        return "fail", "the program closed the pipe of its answers"
    if tier.bwrap is not None:
        if code < 0:
            raise MachineFaultError(f"bubblewrap was ended by signal {-code}")
        code = -(code - 128) if code > 128 else code
    if code == -signal.SIGKILL:
        return "killed", f"{reason} by SIGKILL"
    return "fail", f"{reason} by signal {-code}" if code < 0 else f"{reason} with exit code {code}"
