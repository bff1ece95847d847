"""`proxy-lm-eval compare`: several arms at matched cost, from corpus to report. The work is in `eval.compare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy_lm.errors import RequestError, WorkError

if TYPE_CHECKING:
    from eval.plan import ComparePlan

_PIPE_WIDTH = 120  # of tables where there is no terminal
HELP = "train and score several arms at matched cost, and write a report"
EXAMPLE = """  proxy-lm-eval compare configs/compare/quickstart.yaml
  proxy-lm-eval compare configs/compare/quickstart.yaml --out runs/mine corpus.sources='[../code]' match.flops=1e15
  proxy-lm-eval compare configs/compare/quickstart.yaml --dry-run
  proxy-lm-eval compare configs/compare/quickstart.yaml --report-only
  proxy-lm-eval compare configs/compare/ladder.yaml --jobs 2
  proxy-lm-eval compare configs/compare/ladder.yaml --cells
  proxy-lm-eval compare configs/compare/ladder.yaml --slurm > grid.sh

The same command continues a comparison that was interrupted or killed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The plan, where its results go, and overrides of its settings."""
    parser.add_argument("plan", type=Path, help="YAML of the comparison; see configs/README.md")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings of the plan, later ones win")
    parser.add_argument("--out", type=Path, help="folder of the comparison (default: runs/NAME)")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs side by side on this machine (launch.jobs of the plan)")
    parser.add_argument(
        "--import", type=Path, dest="imported", metavar="RESULTS.json", help="take finished cells over from another session's results"
    )
    what = parser.add_mutually_exclusive_group()
    several = "several processes may share one --out, and on one machine launch.threads_per_rank=N shares out its cores"
    what.add_argument("--cell", metavar="NAME", help=f"run one cell only, for array jobs; {several}")
    what.add_argument("--cells", action="store_true", help="list the cells with their state and a forecast of their seconds; makes nothing")
    what.add_argument("--slurm", action="store_true", help="print a job file for Slurm, one array element a cell")
    what.add_argument("--prepare", action="store_true", help="make corpus, views and budget only")
    what.add_argument("--collect", action="store_true", help="report what is finished, and run nothing")
    what.add_argument("--dry-run", action="store_true", help="check the plan and say what each arm would be given; makes nothing")
    what.add_argument("--report-only", action="store_true", help="write the report again from results.json")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The results as JSON; with --dry-run what each arm would be given."""
    from eval import report, results
    from eval.plan import ComparePlan
    from proxy_lm import plotting
    from proxy_lm.config import load

    jobs = [] if args.jobs is None else [f"launch.jobs={args.jobs}"]
    plan = load(ComparePlan, args.plan, [*args.overrides, *jobs])
    out = args.out or Path("runs") / plan.name
    if args.imported is not None and (args.cells or args.slurm or args.prepare or args.dry_run or args.report_only):
        raise RequestError("--import takes cells over when they are run or collected; give it alone, or with --cell or --collect")
    if args.report_only:
        plotting.require()
        found = results.load(out)
        report.write(found, out)
        return {"out": str(out), **found.model_dump(mode="json")}
    if args.dry_run or args.cells or args.slurm:
        return _without_running(args, plan, out)
    from eval import compare

    if args.prepare:
        ready = compare.prepared(plan, out)
        return {"prepared": str(out), "num_cells": len(ready.runs), "num_tries": len(ready.tries)}
    if args.cell is not None:
        cell = compare.one_cell(plan, out, args.cell, imported=args.imported)
        if cell.status == "failed":
            raise WorkError(f"cell {args.cell} failed: {cell.failure}")
        return {"cell": cell.model_dump(mode="json")}
    found = compare.compare(plan, out, _command(args), imported=args.imported, only_collect=args.collect)
    failed = [arm.folder for arm in found.arms if arm.status == "failed"]
    if failed:
        from eval.terminal import show_results, some
        from proxy_lm.progress import console_of

        show_results(found, out, console_of(_PIPE_WIDTH, stderr=True))
        what = "arms" if len({arm.name for arm in found.arms}) == len(found.arms) else "runs"
        raise WorkError(f"{len(failed)} of {len(found.arms)} {what} failed ({some(failed)}); {out / 'report.md'} says why")
    return {"out": str(out), **found.model_dump(mode="json")}


def _without_running(args: argparse.Namespace, plan: ComparePlan, out: Path) -> dict[str, Any]:
    from eval import array_jobs
    from eval.dry_run import check, dry_run

    if args.dry_run:
        return {"dry_run": dry_run(plan, out)}
    check(plan, out)
    if args.cells:
        return {"cells": array_jobs.listing(plan, out)}
    command = ["proxy-lm-eval", "compare", str(args.plan), *args.overrides, "--out", str(out)]
    return {"slurm": array_jobs.slurm_script(plan, command)}


def show(result: dict[str, Any]) -> None:
    """The main table of the report, and where the report is."""
    if "dry_run" in result:
        from eval.dry_run import show_dry_run

        show_dry_run(result["dry_run"])
        return
    if "slurm" in result:
        print(result["slurm"], end="")
        return
    if "cells" in result:
        _print_cells(result["cells"])
        return
    if "cell" in result or "prepared" in result:
        cell = result.get("cell")
        print(f"{cell['folder']}: {cell['bits_per_byte']:.4f} bits per byte" if cell else f"prepared: {result['num_cells']} cells")
        return
    from eval.results import Results
    from eval.terminal import show_results
    from proxy_lm.progress import console_of

    values = {key: value for key, value in result.items() if key != "out"}
    show_results(Results.model_validate(values), Path(result["out"]), console_of(_PIPE_WIDTH))


def _print_cells(rows: list[dict[str, Any]]) -> None:
    from proxy_lm.progress import span

    wide = max(len(row["cell"]) for row in rows)
    for row in rows:
        seconds = row["forecast_seconds"]
        print(f"{row['cell']:<{wide}}  {row['state']:<8}  {row['target']:.4g}  {'-' if seconds is None else span(seconds)}")


def _command(args: argparse.Namespace) -> str:
    """What to type again; a plan given by an absolute path is told by its name, since the report is for other machines too."""
    plan = args.plan.name if args.plan.is_absolute() else str(args.plan)
    if any("/" in word and Path(word.partition("=")[2]).is_absolute() for word in args.overrides):
        raise RequestError("overrides with absolute paths belong in a plan file of your own, where the report can leave them out")
    return " ".join(["proxy-lm-eval", "compare", plan, *args.overrides])
