"""Ends what a cluster left, however its command ended: `python -m proxy_lm.data.ray_keeper FOLDER`, started by `ray_engine`.

It waits until its standard input is closed, which the system does even for a command that was killed. Then it kills Ray's processes that
have a file open in FOLDER (two helpers would live on for a minute), and removes the folder.
Not covered: a keeper that is killed itself; the next cluster then removes the folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

GIVE_UP_SECONDS = 20.0


def users(folder: Path) -> list[int]:
    """Ray's processes with an open file in the folder."""
    found, beginning = [], f"{folder}/"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:  # of another user, or ended meanwhile
            continue
        if (words.startswith(b"ray::") or b"/ray/" in words) and any(link.startswith(beginning) for link in links):
            found.append(int(process.name))
    return found


def clear(folder: Path) -> None:
    """Kill the folder's processes and remove it."""
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while (left := users(folder)) and time.monotonic() < give_up:
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    clear(Path(sys.argv[1]))
