"""`proxy-lm launch`: start a training run on one machine or many, or print exactly how. The recipes are in `proxy_lm.train.recipes`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy_lm.errors import RequestError

if TYPE_CHECKING:
    from proxy_lm.train.recipes import Fleet, Recipe, Trainer
    from proxy_lm.train.settings import RunSettings

HELP = "start a training run on one machine or many (hostfile, node ranks, torchrun, Slurm), or print exactly how"
EXAMPLE = """  proxy-lm launch configs/nano.yaml --gpus-per-node 2
  proxy-lm launch configs/x.yaml --hostfile hosts optimizer.learning_rate=1e-3
  proxy-lm launch configs/x.yaml --nodes 2 --gpus-per-node 8 --no-ssh --master-addr node0.example --dry-run
  proxy-lm launch configs/x.yaml --nodes 2 --gpus-per-node 8 --no-ssh --master-addr node0.example --node-rank 1
  proxy-lm launch configs/x.yaml --nodes 4 --gpus-per-node 8 --slurm --sbatch=--partition=a100 --dry-run > job.sbatch

The same command again continues a run. exit codes: 0 finished, 75 stopped by a signal and saved, 1 the work failed, 2 the request was
wrong. `proxy_lm.train CONFIG --dry-run --ranks N` says what the run itself would cost."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the run's YAML")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings that win over the YAML")
    parser.add_argument("--nodes", type=int, metavar="N", help="number of machines (default: 1, or all of the hostfile)")
    parser.add_argument(
        "--gpus-per-node",
        type=int,
        metavar="N",
        help="ranks on each machine, also where they are processors' (default: 1, or the slots of the hostfile)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--no-ssh", action="store_true", help="one command a node, by the DeepSpeed launcher; you start each")
    how.add_argument("--torchrun", action="store_true", help="by torch's launcher; one command a node")
    how.add_argument("--slurm", action="store_true", help="a job file for sbatch, put back into the queue when the run stopped and saved")
    parser.add_argument("--hostfile", type=Path, metavar="FILE", help="'HOST slots=N' a line; alone: the DeepSpeed launcher over ssh")
    parser.add_argument("--node-rank", type=int, metavar="R", help="--no-ssh and --torchrun: which node this is, from 0")
    parser.add_argument("--master-addr", metavar="HOST", help="address of node 0 as all nodes reach it")
    parser.add_argument("--master-port", type=int, metavar="PORT", help="free on node 0 (default: any on one machine, else 29500)")
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help="a further line of the job file, repeatable")
    parser.add_argument("--cpu", action="store_true", help="--slurm: ask for no GPUs")
    parser.add_argument("--deepspeed", type=Path, metavar="FILE", help="a DeepSpeed JSON for the trainer")
    parser.add_argument("--dry-run", action="store_true", help="print the recipe, write nothing, start nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Make the recipe, then print it or follow it."""
    from proxy_lm.config import load
    from proxy_lm.train.deepspeed_config import adopt, read_user_json
    from proxy_lm.train.settings import RunSettings, step_shape

    settings = load(RunSettings, args.config, args.overrides)
    if args.deepspeed:
        settings = adopt(settings, read_user_json(args.deepspeed), str(args.deepspeed))
    recipe = make_recipe(args, settings)
    step_shape(settings, recipe.fleet.world_size)
    if args.dry_run:
        return {
            "kind": recipe.kind,
            "world_size": recipe.fleet.world_size,
            "files": dict(recipe.files),
            "commands": [{"where": where, "words": list(words)} for where, words in recipe.commands],
            "needs": list(recipe.needs),
            "remarks": list(recipe.remarks),
            "text": recipe.text(),
        }
    return _follow(args, settings, recipe)


def show(result: dict[str, Any]) -> None:
    """The recipe as it is to be typed, or one line on how the run ended."""
    if "text" in result:
        print(result["text"])
    elif "submitted" in result:
        print(f"{result['submitted']} ({result['job']})")
    else:
        print(f"{result['name']}: {result['status']} at step {result['final_step']} on {result['world_size']} ranks")


def make_recipe(args: argparse.Namespace, settings: RunSettings) -> Recipe:
    """The one recipe that the options describe. Raises `RequestError` for options that do not belong together."""
    from proxy_lm.train import recipes
    from proxy_lm.train.launch import free_port

    words = (*args.overrides, *(("--deepspeed", str(args.deepspeed)) if args.deepspeed else ()))
    trainer: Trainer = recipes.Trainer(config=str(args.config), words=words, name=settings.name)
    fleet = _fleet(args)
    _check(args, fleet)
    many = len(fleet.hosts) > 1
    port = args.master_port or (recipes.DEFAULT_PORT if many or args.dry_run else free_port())
    if args.slurm:
        return recipes.by_slurm(trainer, fleet, sys.executable, args.sbatch, cpu=args.cpu)
    if args.torchrun:
        return recipes.by_torchrun(trainer, fleet, port, _master(args, fleet))
    if args.no_ssh:
        return recipes.without_ssh(trainer, fleet, str(args.hostfile) if args.hostfile else None, port, _master(args, fleet))
    if args.hostfile:
        return recipes.over_ssh(trainer, fleet, str(args.hostfile), port, args.master_addr)
    return recipes.local(trainer, fleet, port)


def _fleet(args: argparse.Namespace) -> Fleet:
    from proxy_lm.train.recipes import labels, read_hostfile, trim

    if args.hostfile is None:
        return labels(1 if args.nodes is None else args.nodes, 1 if args.gpus_per_node is None else args.gpus_per_node)
    for name, number in (("--nodes", args.nodes), ("--gpus-per-node", args.gpus_per_node)):
        if number is not None and number < 1:
            raise RequestError(f"{name} {number} is not from 1 up")
    return trim(read_hostfile(args.hostfile), args.nodes, args.gpus_per_node, str(args.hostfile))


def _check(args: argparse.Namespace, fleet: Fleet) -> None:
    """Refuse what would be silently without effect."""
    many = len(fleet.hosts) > 1
    by_hand = args.no_ssh or args.torchrun
    if args.slurm and args.hostfile:
        raise RequestError("--slurm and --hostfile: Slurm chooses the hosts; give --nodes and --gpus-per-node")
    if many and not (by_hand or args.slurm or args.hostfile):
        raise RequestError(
            f"--nodes {len(fleet.hosts)} needs to know how nodes are reached: --hostfile FILE (over ssh), --no-ssh or --torchrun "
            "(one command a node), or --slurm"
        )
    if args.no_ssh and args.hostfile and (args.nodes is not None or args.gpus_per_node is not None):
        raise RequestError("--no-ssh takes every node of the hostfile; leave --nodes and --gpus-per-node out, or the hostfile")
    for given, name in ((args.sbatch, "--sbatch"), (args.cpu, "--cpu")):
        if given and not args.slurm:
            raise RequestError(f"{name} is for --slurm")
    if args.node_rank is not None and not by_hand:
        raise RequestError("--node-rank is for --no-ssh and --torchrun")
    if args.node_rank is not None and not 0 <= args.node_rank < len(fleet.hosts):
        raise RequestError(f"--node-rank {args.node_rank} of {len(fleet.hosts)} nodes; node ranks go from 0 to {len(fleet.hosts) - 1}")
    if args.master_port is not None and not 1 <= args.master_port < 65_536:
        raise RequestError(f"--master-port {args.master_port} is no port; give one from 1 to 65535")
    if many and by_hand and not args.dry_run and (args.node_rank is None or args.master_addr is None):
        raise RequestError(
            f"{len(fleet.hosts)} nodes are started one by one: give --node-rank (0 to {len(fleet.hosts) - 1}) and --master-addr "
            "(node 0's address), or --dry-run for all commands"
        )


def _master(args: argparse.Namespace, fleet: Fleet) -> str:
    """Node 0's address: what was given, loopback for one node, the hostfile's first name, else a place to fill in."""
    if args.master_addr:
        return str(args.master_addr)
    return "127.0.0.1" if len(fleet.hosts) == 1 else fleet.hosts[0]


def _follow(args: argparse.Namespace, settings: RunSettings, recipe: Recipe) -> dict[str, Any]:
    from compressors.files import write_bytes
    from proxy_lm.train.start import require, start, submit

    where = {"slurm": "run this where Slurm is", "hostfile": "install it, or use --no-ssh or --torchrun, which need none"}
    require(recipe.needs if len(recipe.fleet.hosts) > 1 or recipe.kind == "slurm" else (), where.get(recipe.kind, "install it"))
    folder = settings.folder / "launch"
    if recipe.kind == "slurm":
        # Given by its place: the job runs where sbatch was called, so that the words of this command mean the same there.
        job = folder / recipe.files[0][0]
        write_bytes(job, recipe.files[0][1].encode())
        return {"submitted": submit(["sbatch", str(job)], Path.cwd()), "job": str(job)}
    words = recipe.commands[args.node_rank or 0][1]
    for name, text in recipe.files:
        path = folder / f"{name}-{args.node_rank or 0}"  # nodes share the folder and start at the same time
        write_bytes(path, text.encode())
        words = tuple(str(path) if word == name else word for word in words)
    return start(words, settings.folder)
