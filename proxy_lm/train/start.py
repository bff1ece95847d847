"""Starts a recipe's command here, passes signals on so that the ranks can save, and says how the run ended.

The ranks live under `proxy_lm.train.guard`: they are gone when this process is, however it died. How a run ended is read from its
`run.json`, because launchers lose exit codes: DeepSpeed's gives 0 when a rank was killed, torchrun's gives 1 for everything.

Not promised: ranks on other hosts. DeepSpeed's launcher ends them over ssh; nodes started by hand end when they lose the others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from compressors.files import read_json
from proxy_lm.errors import ProxyError, RequestError, WorkError
from proxy_lm.progress import note
from proxy_lm.train.stopping import EXIT_STOPPED

# Words of a recipe -> the module that this Python runs, so that no other environment's program of the same name is started.
MODULES: Final = {"deepspeed": "deepspeed.launcher.runner", "torchrun": "torch.distributed.run"}
_IDENTITY: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


class StoppedError(ProxyError):
    """All ranks saved and stopped because a signal asked for it. Exit code 75: the same command continues."""

    exit_code = EXIT_STOPPED


def require(programs: Sequence[str], remedy: str) -> None:
    """Raise `RequestError` where one of the programs is not found."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise RequestError(f"{' and '.join(missing)} not found on this machine; {remedy}")


def start(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run one command of a recipe to its end; returns what `run.json` says of the end.

    Raises `StoppedError` (75) when the run saved and stopped, `RequestError` or `WorkError` when the trainer refused or failed; its own
    sentence is on standard error. SIGINT and SIGTERM are passed on, and this waits for the ranks to save.
    """
    command = [sys.executable, "-m", MODULES[words[0]], *_quiet(words)]
    environment = {name: value for name, value in os.environ.items() if name not in _IDENTITY}
    before = _stamp(folder / "run.json")
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy_lm.train.guard", str(reading), *command],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),  # what the ranks print is no result of ours
        pass_fds=[reading],
        env={**environment, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # a Ctrl-C on the terminal is ours to pass on
    )
    os.close(reading)
    asked = False
    try:
        process.wait()
    except KeyboardInterrupt:
        asked = True
        note("launch: stopping; the ranks save a checkpoint first")
        os.write(writing, b"T")
        process.wait()
    finally:
        os.close(writing)
    return _outcome(folder, process.returncode, before, asked)


def submit(words: Sequence[str], folder: Path) -> str:
    """Give a job file to sbatch in `folder`; returns what sbatch said. Raises `WorkError` when it refuses."""
    done = subprocess.run(list(words), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkError(f"{words[0]} ended with {done.returncode}: {' '.join(done.stderr.split()) or 'it said nothing'}")
    return done.stdout.strip()


def _outcome(folder: Path, code: int, before: tuple[int, int] | None, asked: bool) -> dict[str, Any]:
    path = folder / "run.json"
    after = _stamp(path)
    record: dict[str, Any] = read_json(path, "record of the run") if after else {}
    status = record.get("status")
    if status == "finished" and (code == 0 or after != before):
        return {key: record[key] for key in ("name", "status", "world_size", "device", "num_steps", "final_step") if key in record}
    if status == "stopped" and after != before:
        raise StoppedError(f"{folder}: saved and stopped; the same command continues")
    if code == EXIT_STOPPED or (asked and after == before):
        raise StoppedError(f"{folder}: stopped before its first step; the same command starts it again")
    sentence = f"the ranks of {folder} ended with exit code {code}"
    if code == RequestError.exit_code:
        raise RequestError(f"{sentence}: the request was wrong, and their own sentence above says how")
    raise WorkError(f"{sentence}; their own message above says why, and the same command continues from the newest checkpoint")


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes when the file is replaced, whatever the clocks of the hosts say."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _quiet(words: Sequence[str]) -> list[str]:
    """The words after the program. DeepSpeed's launcher logs every step of its own at its default level."""
    return ["--log_level", "warning", *words[1:]] if words[0] == "deepspeed" else list(words[1:])
