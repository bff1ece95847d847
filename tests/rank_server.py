"""Forks ranks from a process that has imported the trainer once: 5 s of imports a rank are what most starts in tests would cost.

    python tests/rank_server.py FD       FD: a SOCK_SEQPACKET socket, over which `RankServer` of conftest.py asks

A request is JSON (words, folder, environment, and "script" where it is not the trainer) with one descriptor for the output; its answer is
[0, pid], and [pid, status] comes when that process has ended. A rank is the trainer's own `main` in a process of its own. Not the same as a
start by users: the launchers, and what imports do with the environment; the tests that start those have real ones.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from typing import Any

POLL_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1


def main(link: socket.socket) -> None:
    import proxy_lm.train.__main__
    import proxy_lm.train.run  # noqa: F401 - only so that the forks have it

    left = 0
    while True:
        readable, _, _ = select.select([link], [], [], POLL_SECONDS if left else None)
        if readable:
            message, (output, *_), _, _ = socket.recv_fds(link, 1 << 18, 1) if not _ended(link) else (b"", (0,), 0, None)
            if not message:
                return  # the tests are gone, and the ranks go with this process
            pid = os.fork()
            if pid == 0:
                link.close()
                _be_a_rank(json.loads(message), output)
            os.close(output)
            left += 1
            link.send(json.dumps([0, pid]).encode())
        while left:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            left -= 1
            link.send(json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode())


def _ended(link: socket.socket) -> bool:
    return not link.recv(1, socket.MSG_PEEK)


def _be_a_rank(asked: dict[str, Any], output: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    code = 1
    try:
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        for number in (1, 2):
            os.dup2(output, number)
        os.close(output)
        code = _run(asked)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(asked: dict[str, Any]) -> int:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    words = asked["words"]
    if asked["script"]:
        sys.argv = [asked["script"], *words]
        runpy.run_path(asked["script"], run_name="__main__")
        return 0
    from proxy_lm.train.__main__ import main as trainer

    return trainer(words)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
