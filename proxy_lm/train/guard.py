"""Runs one command that must not outlive its parent, however the parent dies.

    python -m proxy_lm.train.guard FD COMMAND...

FD is the reading end of a pipe whose writing end the parent holds. A byte on it asks the command to save and stop (SIGTERM, then SIGKILL
after the grace period); its end means that the parent is gone, and the whole process group is killed at once. The launcher's own children
share the group, so no rank is left to write into a run folder that somebody else continues. Exits with the command's code.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType

GRACE_SECONDS = 40.0  # the DeepSpeed launcher kills its ranks 30 s after SIGTERM; ours save in less
POLL_SECONDS = 0.2
_PR_SET_CHILD_SUBREAPER = 36


def main(pipe: int, command: list[str]) -> int:
    """Run the command in a process group of its own until it ends, the parent asks, or the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _nothing)  # only the pipe decides; a handler, since an ignored signal would stay ignored in the command
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(command, process_group=0)
    deadline: float | None = None
    while child.poll() is None:
        readable, _, _ = select.select([pipe], [], [], POLL_SECONDS)
        if readable:
            if not os.read(pipe, 1):
                _signal_group(child.pid, signal.SIGKILL)
                child.wait()
                return 128 + signal.SIGKILL
            if deadline is None:
                deadline = time.monotonic() + GRACE_SECONDS
                _signal_group(child.pid, signal.SIGTERM)
        if deadline is not None and time.monotonic() > deadline:
            _signal_group(child.pid, signal.SIGKILL)
    while deadline is not None and time.monotonic() < deadline and _orphans_left():
        time.sleep(POLL_SECONDS)  # the launcher may end before its ranks have saved
    _signal_group(child.pid, signal.SIGKILL)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def _orphans_left() -> bool:
    """Whether a descendant still runs. The guard adopts and reaps what the launcher leaves behind."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return False
    return True


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # the last of them has just ended
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
