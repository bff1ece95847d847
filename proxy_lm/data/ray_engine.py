"""Corpus and view building on a Ray cluster: `proxy-lm prepare ... --engine ray [--address HOST:PORT]`, and `proxy-lm encode` likewise.

Each task is one row of a Ray Data set, mapped by stateless tasks; what travels is the task's description and a number. Documents and
symbols never pass through Ray's object store: workers read the sources and write the part files themselves. Without an address a cluster
of this machine's processors is started. It listens on the loopback interface only, asks for a token, sends no usage statistics, shows no
dashboard, keeps its files in one folder under TMPDIR and is gone, with its processes, when the command ends or is killed.

On several machines every path (sources, output) must mean the same files on all of them, and the same code must be installed. Workers check
both before they work. Not promised: file systems on which one machine sees another's finished file only minutes later.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import compressors
from compressors.files import digest_of, disk_error, sha256_file
from proxy_lm import errors
from proxy_lm.data import pool
from proxy_lm.data.engines import Engine, Task, at_work, busy_file
from proxy_lm.errors import ProxyError, RequestError, WorkError

OBJECT_STORE_BYTES = 80 << 20
"""Of a cluster that is started here: room for descriptions of tasks. More of them wait on the disk, under TMPDIR."""
SEEN_WITHIN_SECONDS = 20.0
"""How long a worker waits until a file that was just written on another machine shows."""
ANSWERS_WITHIN_SECONDS = 10.0
"""How long the head of a running cluster may take to accept a connection."""
_LONGEST_FOLDER = 36  # a socket's path has at most 107 characters and Ray adds up to 70
_PREFIX = "proxy-lm-ray-"
_INSTALL = "pip install 'proxy-lm[ray]', or leave --engine out"
WORKER_MODULES = (
    *(
        "corpus",
        "decontaminate",
        "dedup",
        "encoding",
        "folders",
        "hub",
        "languages",
        "parts",
        "ray_engine",
        "records",
        "select",
        "shingles",
    ),
    *("sources", "spool", "streams", "view_files"),
)
"""Of this folder: those whose code decides what a worker makes."""
_LIBRARIES = ("numpy", "pyarrow", "zstandard", "sentencepiece", "tokenizers", "datasketch", "pathspec", "numba", "torch")


class RayEngine(Engine):
    """Tasks on the cluster that this process is connected to. Use `ray_engine`."""

    name = "ray"

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def run(self, function: Callable[..., int], tasks: Sequence[Task], *, seal: Path, num_bytes: int | None) -> Iterator[int]:
        """See `Engine`. However little the work is, the cluster does it. Raises `WorkError` when the cluster fails."""
        import ray.data
        from ray.exceptions import RayError

        if not tasks:
            return
        try:
            busy_file(seal).touch()
        except OSError as error:
            raise disk_error(error, busy_file(seal)) from error
        work = partial(perform, function, str(seal), sha256_file(seal), fingerprint())
        rows = [{"task": [task]} for task in tasks]
        told = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            work, compute=ray.data.TaskPoolStrategy(size=min(self.num_workers, len(rows))), num_cpus=1
        )
        try:
            for row in told.iter_rows():
                if row["error"]:
                    raise getattr(errors, row["error"])(row["message"])
                yield int(row["value"])
        except RayError as error:
            raise WorkError(
                f"the Ray cluster failed ({_first_line(error)}); the finished parts are kept: run the same command again, "
                "with fewer --workers if memory is short"
            ) from error


def perform(function: Callable[..., int], seal: str, seal_digest: str, code: str, row: dict[str, Any]) -> dict[str, Any]:
    """One task, in a worker. Errors travel as their words, since Ray would try a task again whose error looks passing to it."""
    (task,) = row["task"]
    try:
        _wait_for(Path(seal), code)
        with at_work(Path(seal)):
            _check_seal(Path(seal), seal_digest)
            return {"value": function(*task), "error": "", "message": ""}
    except ProxyError as error:
        kind = type(error) if hasattr(errors, type(error).__name__) else WorkError
        return {"value": 0, "error": kind.__name__, "message": str(error)}
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__} in {Path(place.filename).name} line {place.lineno}: {_first_line(error)}"
        return {
            "value": 0,
            "error": "WorkError",
            "message": f"a Ray worker on {socket.gethostname()} failed ({said}); run the same command again",
        }


def _wait_for(seal: Path, code: str) -> None:
    if fingerprint() != code:
        raise RequestError(
            f"the Ray worker on {socket.gethostname()} has another Python, other libraries or other code of this project than the machine "
            "that asks; install the same on every machine of the cluster"
        )
    give_up = time.monotonic() + SEEN_WITHIN_SECONDS
    while not busy_file(seal).is_file() and time.monotonic() < give_up:
        time.sleep(0.1)
    if not busy_file(seal).is_file():
        _check_seal(seal, "")


def _check_seal(seal: Path, seal_digest: str) -> None:
    if not seal.is_file() or sha256_file(seal) != seal_digest:
        raise RequestError(
            f"the Ray worker on {socket.gethostname()} finds {'another' if seal.is_file() else 'no'} {seal}; sources and output must lie "
            "on a file system that all machines of the cluster see under the same paths"
        )


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """A digest of what decides bytes: Python, the libraries and this project's code. Equal on machines that may work together."""
    versions = [platform.python_version(), *(f"{name} {_version(name)}" for name in _LIBRARIES)]
    code = hashlib.sha256()
    views, here = Path(str(compressors.__file__)).parent, Path(__file__).parent
    for file in [*sorted(views.rglob("*.py")), *(here / f"{name}.py" for name in WORKER_MODULES)]:
        code.update(f"{file.relative_to(views.parent if file.is_relative_to(views) else here)} {sha256_file(file)}\n".encode())
    return digest_of([*versions, code.hexdigest()])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


@contextmanager
def ray_engine(num_workers: int | None, address: str | None) -> Iterator[RayEngine]:
    """An engine on the cluster at `address` (HOST:PORT of its head), or on one that is started for the block. See `open_engine`."""
    if address and "://" in address:
        raise RequestError(f"--address {address} is no HOST:PORT; run the command on a machine of the cluster, with its head's address")
    if importlib.util.find_spec("ray") is None:
        raise RequestError(f"--engine ray needs the library ray: {_INSTALL}")
    if address:
        _check_answers(address)
    _prepare_environment(local=address is None)
    ray = _library()
    with nullcontext() if address else _own_folder() as folder, _quiet():
        try:
            connection = _start(ray, num_workers or pool.default_workers(), folder) if folder else _connect(ray, str(address))
            processors = int(ray.cluster_resources().get("CPU", 0))
            if processors < 1:
                raise RequestError(f"the Ray cluster {connection.address_info['address']} has no processors to work with; add nodes to it")
            yield RayEngine(min(num_workers or processors, processors))
        finally:
            ray.shutdown()


def _prepare_environment(local: bool) -> None:
    """Ray reads these when it is imported and hands them to its processes."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if local:
        # Ray's own switch (made for other systems) that keeps a cluster on 127.0.0.1; by default it listens on every interface.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Whoever reaches a cluster's port can run code in it: without the token not even this machine's other users can.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _library() -> Any:
    try:
        import ray

        importlib.import_module("ray.data")
    except ImportError as error:
        raise RequestError(f"--engine ray needs all of the library ray ({error}): {_INSTALL}") from error
    return ray


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder for a cluster's sockets, logs and spilled objects; after the block it is gone, with every process that used it."""
    parent = Path(tempfile.gettempdir()).resolve()
    for old in parent.glob(f"{_PREFIX}*"):
        owner = old.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    if len(str(folder)) > _LONGEST_FOLDER:
        shutil.rmtree(folder)
        raise RequestError(
            f"the folder for temporary files {parent} has too long a name for Ray's sockets ({len(str(folder))} of at most "
            f"{_LONGEST_FOLDER} characters with ours in it); set TMPDIR to a shorter one"
        )
    words = [sys.executable, "-m", "proxy_lm.data.ray_keeper", str(folder)]
    keeper = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)  # a signal to this command's group is not for it
    try:
        yield folder
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait()


def _start(ray: Any, num_workers: int, folder: Path) -> Any:
    try:
        return ray.init(
            address="local",
            num_cpus=num_workers,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
            _node_ip_address="127.0.0.1",
        )
    except (OSError, RuntimeError, TimeoutError, ValueError) as error:
        raise WorkError(f"a Ray cluster could not be started here ({_first_line(error)}); try again, or --engine local") from error


def _connect(ray: Any, address: str) -> Any:
    try:
        return ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, TimeoutError, ValueError) as error:
        raise _no_cluster(address, error) from error


def _check_answers(address: str) -> None:
    """Ray itself waits minutes for a head that is not there. Words that are no HOST:PORT are left to it."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: BaseException) -> RequestError:
    return RequestError(
        f"no Ray cluster answers at {address} ({_first_line(error)}); start one with `ray start --head`, and run this command on one "
        "of its machines"
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data tells plans and warnings on its loggers, which are no words for our users; errors come as exceptions."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
