"""The two ranks of a campaign's trials: forked, watched, and where a trial wants it sending themselves a signal. Part of `make campaign`.

    ranks = Ranks(folder, [config, "name=x"], log, {0: Trap("save", 17, signal.SIGKILL, both=True)}); ranks.wait(300)

A rank is the trainer's own `main`. Its file operations are counted as the interpreter reports them (audit events), by phase: what touches
`step-N.tmp` is a save, `step-N.trash` a rotation, and what touches checkpoints before the first save is the load.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compressors.files import write_json
from proxy_lm.train.campaign_manager import forked
from proxy_lm.train.launch import free_port

KILL_AFTER_SECONDS: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class Trap:
    """A signal that a rank sends to itself, or to both, at file operation (or validation) number `at` of `phase`."""

    phase: str
    at: int
    number: signal.Signals
    both: bool
    delay_seconds: float = 0.0


class Ranks:
    """Two running ranks of one start."""

    def __init__(self, folder: Path, words: list[str], log: Path, traps: dict[int, Trap], fresh: bool) -> None:
        self.log = log
        self.codes: list[int | None] = [None, None]
        self._reader, told = os.pipe()
        self._hit = False
        port = str(free_port())
        self._pids: list[int] = []
        for rank in (0, 1):
            environment = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            if fresh:
                with log.open("ab") as file:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "proxy_lm.train", *words], stdout=file, stderr=file, env={**os.environ, **environment}
                    )
                self._pids.append(process.pid)
                continue
            group = self._pids[0] if self._pids else 0
            trap = traps.get(rank)

            def work(environment: dict[str, str] = environment, trap: Trap | None = trap, group: int = group, rank: int = rank) -> None:
                _be_a_rank(words, environment, log, trap, group, told, folder / f"moments-{rank}.json")

            self._pids.append(forked(work))
            os.setpgid(self._pids[-1], group)
        os.close(told)

    def running(self) -> bool:
        """Whether any of them has not ended."""
        return any(self._poll())

    def kill(self, which: tuple[int, ...]) -> None:
        """SIGKILL; both of them are waited for only where both are killed."""
        self.send(signal.SIGKILL, which)
        if len(which) == 2:
            self.wait(KILL_AFTER_SECONDS)

    def send(self, number: signal.Signals, which: tuple[int, ...]) -> None:
        """A signal to those that still run."""
        self._poll()
        for rank in which:
            if self.codes[rank] is None:
                os.kill(self._pids[rank], number)

    def wait_until_they_listen(self, timeout_seconds: float) -> None:
        """Return when both have taken SIGTERM over from Python, whose own answer is to end: some tenths of a second after a start."""
        end = time.monotonic() + timeout_seconds
        while any(self._poll()) and time.monotonic() < end and not all(_catches(pid, signal.SIGTERM) for pid in self._pids):
            time.sleep(0.002)

    def sprung(self, timeout_seconds: float) -> bool:
        """Wait until a trap has sprung, or both have ended without."""
        end = time.monotonic() + timeout_seconds
        os.set_blocking(self._reader, False)
        while time.monotonic() < end:
            try:
                text = os.read(self._reader, 1)
            except BlockingIOError:
                time.sleep(0.001)
                continue
            return text == b"!"
        return False

    def wait(self, timeout_seconds: float) -> float:
        """Seconds until both had ended; after the time limit they are killed."""
        began = time.monotonic()
        while any(self._poll()):
            if time.monotonic() - began > timeout_seconds + KILL_AFTER_SECONDS:
                self.send(signal.SIGKILL, (0, 1))
            time.sleep(0.005)
        os.close(self._reader)
        self._reader = os.open(os.devnull, os.O_RDONLY)
        return time.monotonic() - began

    def _poll(self) -> list[bool]:
        for k, pid in enumerate(self._pids):
            if self.codes[k] is None:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self.codes[k] = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return [code is None for code in self.codes]


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, as the kernel says."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


# ---- inside of the children


def _be_a_rank(words: list[str], environment: dict[str, str], log: Path, trap: Trap | None, group: int, told: int, moments: Path) -> None:
    os.setpgid(0, group)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    counts = _watch(trap, told)
    from proxy_lm.train.__main__ import main

    code = main(words)
    if code == 0:
        write_json(moments, dict(counts))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _watch(trap: Trap | None, told: int) -> dict[str, int]:
    """Count the file operations of each phase in this process, and spring the trap at its moment."""
    counts = {"save": 0, "rotation": 0, "load": 0, "evaluation": 0}

    def reached(phase: str) -> None:
        counts[phase] += 1
        if trap is not None and trap.phase == phase and trap.at == counts[phase]:
            _spring(trap, told)

    def hook(event: str, words: tuple[Any, ...]) -> None:
        if event == "open" or event.startswith("os."):
            phase = _phase(" ".join(str(word) for word in words[:2]), counts["save"])
            if phase is not None:
                reached(phase)

    sys.addaudithook(hook)
    from proxy_lm.train.validate import Validation

    validate: Callable[..., Any] = Validation.run

    def watched(*words: Any, **more: Any) -> Any:
        reached("evaluation")
        return validate(*words, **more)

    Validation.run = watched  # type: ignore[method-assign]
    return counts


def _phase(text: str, saves: int) -> str | None:
    if "/checkpoints/step-" not in text:
        return None
    if ".trash" in text:
        return "rotation"
    if ".tmp" in text:
        return "save"
    return None if saves else "load"  # what is read before this process's first save


def _spring(trap: Trap, told: int) -> None:
    def act() -> None:
        time.sleep(trap.delay_seconds)
        os.write(told, b"!")
        if trap.both:
            os.killpg(os.getpgrp(), trap.number)
        else:
            os.kill(os.getpid(), trap.number)

    if trap.delay_seconds:
        threading.Thread(target=act, daemon=True).start()
    else:
        act()
