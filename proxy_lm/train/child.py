"""A training run as a child: a DeepSpeed launcher, its progress told on standard error, its log kept.

    outcome = train_run(settings, LaunchSettings(num_ranks=2), "arm bytes")

    <run folder>/launch.yaml      the settings the launcher is given
    <run folder>/train.log        everything the launcher and the ranks printed
    <run folder>/seconds.json     wall seconds so far, over all starts

A run is done when its `run.json` says that it reached its end with these settings. A parent that is killed takes the ranks with it
(`proxy_lm.train.guard`), and the next call continues from the newest valid checkpoint.

Ranks of this machine are started by DeepSpeed's launcher of one node, as its front end (the command `deepspeed`) would start that: one
process fewer, and 3 s of imports on one core. With `arguments` the front end reads them.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from compressors.files import read_json, write_bytes, write_json
from proxy_lm.config import Settings, dump_yaml
from proxy_lm.errors import WorkError
from proxy_lm.progress import StepProgress, note
from proxy_lm.train.launch import free_port
from proxy_lm.train.settings import RunSettings, changed_settings

SAVED_AND_STOPPED = 75  # what the trainer exits with after SIGTERM or SIGUSR1
_LOG_LINES = 12
_POLL_SECONDS = 0.5


class LaunchSettings(Settings):
    """How a run is started: as by `deepspeed --num_accelerators num_ranks --module proxy_lm.train ...`."""

    num_ranks: int = Field(default=1, ge=1)
    """Ranks of every run on this machine; with a hostfile, give `arguments`."""

    threads_per_rank: int | None = Field(default=None, ge=1)
    """OMP_NUM_THREADS of a rank; None: cores over ranks."""

    arguments: list[str] | None = None
    """Arguments of the command `deepspeed` in place of `--num_accelerators`: for example ['--hostfile', 'hosts', '--num_nodes', '4']."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `failure` is None when it is done."""

    failure: str | None
    wall_seconds: float


def train_run(settings: RunSettings, launch: LaunchSettings, title: str) -> Outcome:
    """Run or resume one training run to its end. Raises `KeyboardInterrupt` after the ranks have saved and stopped."""
    folder = settings.folder
    earlier = _earlier_seconds(folder)
    if finished_run(settings) is not None:
        note(f"{title}: trained already, {settings.num_steps} steps")
        return Outcome(None, earlier)
    write_bytes(folder / "launch.yaml", dump_yaml(settings).encode())
    started = time.monotonic()
    code = _launch(settings, launch, title, lambda: _keep_time(folder, earlier + time.monotonic() - started))
    wall = earlier + time.monotonic() - started
    _keep_time(folder, wall, now=True)
    if finished_run(settings) is not None:
        return Outcome(None, wall)
    if code == SAVED_AND_STOPPED:
        return Outcome("stopped by a signal after saving; run the same command again to continue", wall)
    return Outcome(f"the trainer ended with exit code {code}; last lines of its log:\n{_tail(folder)}", wall)


def finished_run(settings: RunSettings) -> dict[str, Any] | None:
    """`run.json` of a run that reached its end with these settings, else None. The exit code is not believed: that of the command
    `deepspeed` is 0 when its own child was killed."""
    path = settings.folder / "run.json"
    if not path.exists():
        return None
    from proxy_lm.train.provenance import completed  # a second of imports that no refusal needs

    record = read_json(path, "record of the run")
    same = not changed_settings(completed(record.get("settings", {})), settings.model_dump(mode="json"))
    return record if record.get("status") == "finished" and same else None


def command_of(settings: RunSettings, launch: LaunchSettings, port: int) -> list[str]:
    """The launcher's command line."""
    port_words, trainer = ["--master_port", str(port)], ["--module", "proxy_lm.train", str(settings.folder / "launch.yaml")]
    if launch.arguments is not None:
        return [sys.executable, "-m", "deepspeed.launcher.runner", *port_words, *launch.arguments, *trainer]
    devices = [int(name) for name in _own_devices(launch)] or list(range(launch.num_ranks))
    return [*launcher_here(devices), *port_words, *trainer]


def launcher_here(devices: Sequence[int]) -> list[str]:
    """DeepSpeed's launcher of one node, for one rank a device: the words that its front end gives to it."""
    world = base64.urlsafe_b64encode(json.dumps({"localhost": list(devices)}).encode()).decode()
    return [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}", "--master_addr=127.0.0.1"]


def environment_of(launch: LaunchSettings) -> dict[str, str]:
    """The ranks' environment: cores shared out evenly, the CPU back end where there is no GPU."""
    import torch

    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    threads = launch.threads_per_rank or max(1, len(os.sched_getaffinity(0)) // launch.num_ranks)
    environment["OMP_NUM_THREADS"] = str(threads)
    environment["PYTHONUNBUFFERED"] = "1"
    if launch.arguments is None and (devices := _own_devices(launch)):
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    if not torch.cuda.is_available():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    return environment


def _own_devices(launch: LaunchSettings) -> list[str]:
    """The devices of the ranks where CUDA_VISIBLE_DEVICES names enough of them by number; else none, and the ranks have the first ones."""
    import torch

    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    usable = torch.cuda.is_available() and len(named) >= launch.num_ranks and all(name.isdigit() for name in named)
    return named[: launch.num_ranks] if usable else []


def last_record(folder: Path) -> dict[str, Any] | None:
    """The newest whole record of `metrics.jsonl`, without reading all of it; None before there is one."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        lines = file.read().splitlines()
    return next((record for line in reversed(lines) if (record := _record(line)) is not None), None)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`, one a step; a torn last line is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [record for line in lines if (record := _record(line)) is not None]


def _launch(settings: RunSettings, launch: LaunchSettings, title: str, tick: Callable[[], None]) -> int:
    command = command_of(settings, launch, free_port())
    reading, writing = os.pipe()
    with (settings.folder / "train.log").open("ab") as log:
        log.write(f"\n== {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command[1:])}\n".encode())
        log.flush()
        guarded = [sys.executable, "-m", "proxy_lm.train.guard", str(reading), *command]
        process = subprocess.Popen(
            guarded,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[reading],
            env=environment_of(launch),
            start_new_session=True,  # a Ctrl-C on the terminal is ours to pass on
        )
        os.close(reading)
        try:
            _watch(process, settings, title, tick)
        except BaseException:
            note(f"{title}: stopping; the ranks save a checkpoint first")
            os.write(writing, b"T")
            process.wait()
            raise
        finally:
            os.close(writing)
    return process.returncode


def _watch(process: subprocess.Popen[bytes], settings: RunSettings, title: str, tick: Callable[[], None]) -> None:
    """Tell the progress until the child ends."""
    metrics = settings.folder / "metrics.jsonl"
    assert settings.num_steps is not None
    with StepProgress(title, settings.num_steps) as progress:
        place = metrics.stat().st_size if metrics.exists() else 0
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            tick()
            if not metrics.exists():
                continue
            with metrics.open("rb") as file:
                file.seek(place)
                data = file.read()
            whole = data.rfind(b"\n") + 1
            place += whole
            for line in data[:whole].splitlines():
                record = _record(line)
                if record is not None:
                    progress.show(record["step"], record.get("loss_nats"))


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _earlier_seconds(folder: Path) -> float:
    path = folder / "seconds.json"
    return float(read_json(path, "time of a run")["wall_seconds"]) if path.exists() else 0.0


def _keep_time(folder: Path, seconds: float, *, now: bool = False) -> None:
    """Wall seconds survive a kill to within 20 s; not written on every tick, since the file is flushed to the disk."""
    path = folder / "seconds.json"
    if now or not path.exists() or time.time() - path.stat().st_mtime > 20:
        write_json(path, {"wall_seconds": seconds})


def _tail(folder: Path) -> str:
    """The end of the log, without this machine's paths."""
    data = (folder / "train.log").read_bytes()[-20_000:].decode(errors="replace")
    lines = [line for line in data.splitlines() if line.strip()]
    told = [line for line in lines if "proxy_lm.train:" in line or re.match(r"\w*(Error|Exception)\b", line)]
    return without_places("\n".join((told or lines)[-_LOG_LINES:]), folder)


def without_places(text: str, folder: Path) -> str:
    """A sentence about the run in `folder` for readers elsewhere: the places of this machine that it names are told by what they are."""
    for path, name in _places(folder):
        text = text.replace(path, name)
    return text


def _places(folder: Path) -> Sequence[tuple[str, str]]:
    package = str(Path(__file__).resolve().parents[2])
    places = {str(folder.resolve().parent.parent): "OUT", sys.prefix: "PREFIX", package: ".", str(Path.home()): "~", str(Path.cwd()): "."}
    return sorted(((path, name) for path, name in places.items() if len(path) > 1), key=lambda item: -len(item[0]))


def require_deepspeed() -> None:
    """Raise `WorkError` where the launcher cannot be found."""
    import importlib.util

    if importlib.util.find_spec("deepspeed") is None:
        raise WorkError("models are trained by DeepSpeed, which is not installed here; run: pip install proxy-lm")
