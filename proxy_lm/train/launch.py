"""Who am I among the ranks: reads what a launcher put into the environment, and nothing else.

Understood, in this order: RANK / WORLD_SIZE / LOCAL_RANK (the DeepSpeed launcher, torchrun), the variables of `srun`, and none of them:
one process. No torch and no DeepSpeed here.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy_lm.errors import RequestError

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """This process among all of the run's processes."""

    rank: int
    """0 .. world_size - 1 over all machines."""

    local_rank: int
    """Number of this process on its machine; picks the device."""

    world_size: int
    """Number of processes."""

    local_world_size: int
    """Number of processes on this machine, as far as the launcher told."""

    how: str
    """Which launcher was recognised, for people."""


def detect(environment: MutableMapping[str, str]) -> Launch:
    """Recognise the launcher and complete the five variables that torch and DeepSpeed read. Raises `RequestError` for half of a set."""
    launch = _recognise(environment)
    if not 0 <= launch.rank < launch.world_size:
        raise RequestError(f"{launch.how} says rank {launch.rank} of {launch.world_size} processes; ranks go from 0 to world size - 1")
    environment["RANK"] = str(launch.rank)
    environment["WORLD_SIZE"] = str(launch.world_size)
    environment["LOCAL_RANK"] = str(launch.local_rank)
    here = launch.local_world_size == launch.world_size or environment["MASTER_ADDR"] in LOOPBACK
    if here and Path("/sys/class/net/lo").exists():
        # Everyone is on this machine. Without a name gloo resolves the host's own name, which in containers may lead nowhere.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return launch


def _recognise(environment: MutableMapping[str, str]) -> Launch:
    if "RANK" in environment:
        missing = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise RequestError(f"RANK is set and {', '.join(missing)} is not; unset RANK for one process, or use a launcher that sets all")
        world_size = _number(environment, "WORLD_SIZE")
        how = "torchrun" if "TORCHELASTIC_RUN_ID" in environment else "the DeepSpeed launcher" if "CROSS_SIZE" in environment else "RANK"
        local = next((name for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if name in environment), None)
        return Launch(
            rank=_number(environment, "RANK"),
            local_rank=_number(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else 0,
            world_size=world_size,
            local_world_size=_number(environment, local) if local else world_size,
            how=how,
        )
    # srun sets SLURM_STEP_NUM_TASKS; the shell of an allocation has SLURM_PROCID without it, and there one process is meant.
    if "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        world_size = _number(environment, "SLURM_STEP_NUM_TASKS")
        if "MASTER_ADDR" not in environment:
            nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "127.0.0.1"
            environment["MASTER_ADDR"] = first_host(nodes)
        # Two jobs on one node must not meet on one port: derived from the job, the same on all of its ranks.
        environment.setdefault("MASTER_PORT", str(20_000 + int(environment.get("SLURM_JOB_ID", "0") or 0) % 20_000))
        local_size = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
        return Launch(
            rank=_number(environment, "SLURM_PROCID"),
            local_rank=_number(environment, "SLURM_LOCALID"),
            world_size=world_size,
            local_world_size=int(local_size.group()) if local_size else world_size,
            how="srun",
        )
    environment["MASTER_ADDR"] = "127.0.0.1"
    environment["MASTER_PORT"] = str(free_port())
    return Launch(rank=0, local_rank=0, world_size=1, local_world_size=1, how="one process")


def first_host(nodes: str) -> str:
    """First name of a Slurm node list: `gpu[03-05,9],other` is gpu03."""
    match = re.fullmatch(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?(?:,.*)?", nodes)
    if match is None:
        raise RequestError(f"could not read the Slurm node list '{nodes}'; set MASTER_ADDR to the first node's name")
    return f"{match.group(1)}{match.group(2) or ''}{match.group(3) or ''}"


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_first_rank() -> bool:
    """Whether this process is rank 0, before anything is initialised: only rank 0 prints what all ranks would print."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def _number(environment: MutableMapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except (KeyError, ValueError) as error:
        value = environment.get(name)
        raise RequestError(
            f"the launcher's variable {name} is {value!r} where a whole number is needed; start with one launcher"
        ) from error
