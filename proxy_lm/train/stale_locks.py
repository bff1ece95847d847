"""A compiler lock whose owner was killed: torch waits for it for ever, so it is looked for before a start that compiles.

    refuse_stale_lock("deepspeed_shm_comm")

torch's lock is an empty file `lock` in the operation's build folder; the process that builds holds it open. One that nobody holds is left
over. Not promised: builders on other hosts or of other users, whose open files cannot be seen from here.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from proxy_lm.errors import RequestError

# A builder closes its lock an instant before it deletes it.
SETTLE_SECONDS = 0.5


def refuse_stale_lock(operation: str) -> None:
    """Raise `RequestError` where the build of this operation is locked by nobody."""
    from torch.utils.cpp_extension import _get_build_directory

    check_lock(Path(_get_build_directory(operation, verbose=False)) / "lock")


def check_lock(path: Path) -> None:
    """Raise `RequestError` for a lock file that no process holds open, with what to do."""
    if not path.exists() or is_held(path):
        return
    time.sleep(SETTLE_SECONDS)
    if path.exists() and not is_held(path):
        raise RequestError(
            f"{path} was left behind by a build that was killed, and every later start would wait for it for ever; delete it and run again"
        )


def is_held(path: Path) -> bool:
    """Whether any process that can be seen has this file open."""
    wanted = path.stat()
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):  # gone, or another user's
            for name in os.listdir(folder):
                with contextlib.suppress(OSError):
                    if os.path.samestat(wanted, (folder / name).stat()):
                        return True
    return False
