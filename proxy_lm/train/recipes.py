"""How a run is started on one machine, on many, under Slurm or by torchrun: the launcher's words, its files, what to type where.

    proxy-lm launch configs/x.yaml --nodes 2 --gpus-per-node 8 --no-ssh --dry-run        prints one of these

A `Recipe` is plain text, made from a `Fleet` (which hosts, how many ranks on each) and the trainer's own words. Nothing is started and
nothing is written here; no torch, no DeepSpeed. Not promised: that the hosts can be reached, or that a cluster's Slurm accepts the options.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from proxy_lm.errors import RequestError

Kind = Literal["local", "hostfile", "no-ssh", "torchrun", "slurm"]

TRAINER: Final = "proxy_lm.train"
HOSTS_NAME: Final = "proxy-lm.hosts"
JOB_NAME: Final = "job.sbatch"
DEFAULT_PORT: Final = 29_500
GRACE_SECONDS: Final = 120
"""Slurm's warning before the end of a job's time; a checkpoint commits in less than 25 s."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Hosts in the order of their node ranks, and how many ranks each runs. Without a hostfile the names are labels."""

    hosts: tuple[str, ...]
    slots: tuple[int, ...]

    @property
    def world_size(self) -> int:
        """Number of ranks over all hosts."""
        return sum(self.slots)

    def hostfile(self) -> str:
        """The fleet as DeepSpeed reads it: `name slots=N` a line."""
        return "".join(f"{host} slots={slots}\n" for host, slots in zip(self.hosts, self.slots, strict=True))


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What every rank runs: `python -m proxy_lm.train CONFIG WORDS...`."""

    config: str
    words: tuple[str, ...] = ()
    name: str
    """Name of the run; names the Slurm job."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to start a run."""

    kind: Kind
    fleet: Fleet
    commands: tuple[tuple[str, tuple[str, ...]], ...]
    """(where, words): one command, or one a node, in the order of node ranks."""
    files: tuple[tuple[str, str], ...] = ()
    """(name, text) of files that must exist beside the command before it is given."""
    needs: tuple[str, ...] = ()
    """Programs that must be found where the command is given."""
    remarks: tuple[str, ...] = ()
    """What has to be true that no program here can see."""

    def text(self) -> str:
        """For people, to be copied: files as here-documents, remarks as comments. A Slurm recipe is the job file itself."""
        if self.kind == "slurm":
            return self.files[0][1]
        lines = [f"# {remark}" for remark in self.remarks]
        for name, content in self.files:
            lines += [f"cat > {shlex.quote(name)} <<'END'", content.rstrip("\n"), "END"]
        for where, words in self.commands:
            lines += [*([f"# {where}:"] if where else []), shlex.join(words)]
        return "\n".join(lines)


def read_hostfile(path: Path) -> Fleet:
    """`name slots=N` a line, `#` comments. Raises `RequestError` with the line that is none, for a name given twice and for no line."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"could not read the hostfile {path}: {getattr(error, 'strerror', None) or error}") from error
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"(\S+)\s+slots=(\d+)(\s*#.*)?", line)
        if match is None or int(match.group(2)) < 1:
            raise RequestError(f"{path}, line {number}: '{line}' is not 'HOST slots=N' with N from 1 up")
        if match.group(1) in found:
            raise RequestError(f"{path}, line {number}: {match.group(1)} stands there twice; give each host once, with all of its slots")
        found[match.group(1)] = int(match.group(2))
    if not found:
        raise RequestError(f"{path} names no host; write 'HOST slots=N' a line")
    return Fleet(hosts=tuple(found), slots=tuple(found.values()))


def trim(fleet: Fleet, nodes: int | None, per_node: int | None, source: str) -> Fleet:
    """The first `nodes` hosts with `per_node` ranks each. Raises `RequestError` where the fleet has fewer."""
    if nodes is not None and nodes > len(fleet.hosts):
        raise RequestError(f"--nodes {nodes} and {source} names {len(fleet.hosts)} hosts; name more there or ask for fewer")
    hosts, slots = fleet.hosts[:nodes], fleet.slots[:nodes]
    if per_node is not None:
        small = [host for host, number in zip(hosts, slots, strict=True) if number < per_node]
        if small:
            raise RequestError(f"--gpus-per-node {per_node} and {small[0]} has fewer slots in {source}; ask for fewer")
        slots = (per_node,) * len(hosts)
    return Fleet(hosts=hosts, slots=slots)


def labels(nodes: int, per_node: int) -> Fleet:
    """A fleet whose hosts have no names yet: node0, node1, ..."""
    for name, number in (("--nodes", nodes), ("--gpus-per-node", per_node)):
        if number < 1:
            raise RequestError(f"{name} {number} is not from 1 up")
    return Fleet(hosts=tuple(f"node{k}" for k in range(nodes)), slots=(per_node,) * nodes)


def local(trainer: Trainer, fleet: Fleet, port: int) -> Recipe:
    """All ranks on this machine, by the DeepSpeed launcher."""
    words = ("deepspeed", "--num_accelerators", str(fleet.world_size), "--master_port", str(port))
    return Recipe(kind="local", fleet=fleet, commands=(("", (*words, *_module(trainer))),))


def over_ssh(trainer: Trainer, fleet: Fleet, hostfile: str, port: int, master: str | None) -> Recipe:
    """One command on one host; DeepSpeed starts the others with pdsh over ssh."""
    address = ("--master_addr", master) if master else ()
    least = min(fleet.slots)
    # The launcher counts from the top of the file; both words say what was asked, whatever else stands in it.
    shape = ("--num_nodes", str(len(fleet.hosts)), *(("--num_gpus", str(least)) if least == max(fleet.slots) else ()))
    words = ("deepspeed", "--hostfile", hostfile, *shape, *address, "--master_port", str(port), *_module(trainer))
    return Recipe(
        kind="hostfile",
        fleet=fleet,
        commands=((f"on {fleet.hosts[0]}, once", words),),
        needs=("pdsh", "ssh"),
        remarks=(
            "every host reaches every other by ssh without a password; the checkout, its Python, the corpus and the run folder",
            "have the same paths on all hosts",
        ),
    )


def without_ssh(trainer: Trainer, fleet: Fleet, hostfile: str | None, port: int, master: str) -> Recipe:
    """One command a node, given by whoever starts the nodes. The names in the hostfile are labels: nobody looks them up."""
    name = hostfile or HOSTS_NAME
    head = ("deepspeed", "--hostfile", name, "--no_ssh")
    rest = ("--master_addr", master, "--master_port", str(port), *_module(trainer))
    return Recipe(
        kind="no-ssh",
        fleet=fleet,
        commands=tuple((f"on node {k}", (*head, "--node_rank", str(k), *rest)) for k in range(len(fleet.hosts))),
        files=() if hostfile else ((HOSTS_NAME, fleet.hostfile()),),
        remarks=(f"{master} is node 0's address, as all nodes reach it; port {port} is free there; the run folder is shared",),
    )


def by_torchrun(trainer: Trainer, fleet: Fleet, port: int, master: str) -> Recipe:
    """One command a node, by torch's own launcher."""
    commands = []
    for k, slots in enumerate(fleet.slots):
        shape = ("torchrun", "--nnodes", str(len(fleet.hosts)), "--nproc-per-node", str(slots), "--node-rank", str(k))
        words = (*shape, "--master-addr", master, "--master-port", str(port), "-m", TRAINER, trainer.config, *trainer.words)
        commands.append((f"on node {k}" if len(fleet.hosts) > 1 else "", words))
    shared = f"{master} is node 0's address, as all nodes reach it; port {port} is free there; the run folder is shared"
    return Recipe(kind="torchrun", fleet=fleet, commands=tuple(commands), remarks=(shared,) if len(fleet.hosts) > 1 else ())


def by_slurm(trainer: Trainer, fleet: Fleet, python: str, options: Sequence[str], *, cpu: bool) -> Recipe:
    """A job file for sbatch. The job is put back into the queue when the trainer stopped after saving (exit code 75).

    A rank that leaves says so in a file, and the task itself ends well: `srun` reports the highest code of all tasks, and with
    `--kill-on-bad-exit` the first 75 would end the others with codes of their own. bash waits for its command when a signal comes
    (`trap :`), so the trainer gets the 120 seconds.
    """
    for option in options:
        if not re.fullmatch(r"--?[A-Za-z][^\n]*", option):
            raise RequestError(f"--sbatch '{option}' is no option of sbatch; write it as --sbatch=--partition=NAME")
    header = [
        f"--job-name={trainer.name}",
        f"--nodes={len(fleet.hosts)}",
        f"--ntasks-per-node={fleet.slots[0]}",
        *([] if cpu else [f"--gpus-per-node={fleet.slots[0]}"]),
        f"--signal=USR1@{GRACE_SECONDS}",
        "--requeue",
        "--open-mode=append",
        f"--output={trainer.name}-%j.log",
        *options,
    ]
    command = shlex.join((python, "-m", TRAINER, trainer.config, *trainer.words))
    task = f'trap : USR1 TERM; {command}; code=$?; if [ $code -eq 75 ]; then touch "$STOPPED"; exit 0; fi; exit $code'
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in header),
        *(["export DS_ACCELERATOR=cpu"] if cpu else []),
        f'export STOPPED="$PWD/{trainer.name}-$SLURM_JOB_ID.stopped"',
        'rm -f "$STOPPED"',
        f"srun --kill-on-bad-exit=1 bash -c {shlex.quote(task)}",
        "code=$?",
        "# Saved and stopped by a signal: the same job again continues the run.",
        'if [ -e "$STOPPED" ]; then rm -f "$STOPPED"; scontrol requeue "$SLURM_JOB_ID"; exit; fi',
        "exit $code",
    ]
    return Recipe(
        kind="slurm",
        fleet=fleet,
        commands=(("where Slurm is", ("sbatch", JOB_NAME)),),
        files=((JOB_NAME, "\n".join(lines) + "\n"),),
        needs=("sbatch",),
    )


def _module(trainer: Trainer) -> tuple[str, ...]:
    return ("--module", TRAINER, trainer.config, *trainer.words)
