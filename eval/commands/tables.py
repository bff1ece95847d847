"""`proxy-lm-eval tables`: the tables of kept comparisons in the READMEs. The work is in `eval.tables` and `eval.kept`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "write the tables of kept comparisons into the READMEs, or check that they are in step"
EXAMPLE = """  proxy-lm-eval tables
  proxy-lm-eval tables --keep runs/ladder
  proxy-lm-eval tables --check
  proxy-lm-eval tables --reports reports

Kept comparisons are configs/compare/results/*.json; a table stands between '<!-- table: NAME KIND -->' and '<!-- end -->'."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to keep first, whether only to look, and where reports go."""
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 names the tables that are out of step")
    parser.add_argument("--keep", type=Path, action="append", metavar="RUN_DIR", help="keep its results first; may be repeated")
    parser.add_argument("--reports", type=Path, metavar="DIR", help="also write the report of each kept comparison, and what transfers")
    parser.add_argument("--root", type=Path, default=Path("."), metavar="DIR", help="the repository (default: here)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What was kept, and which tables were written."""
    from eval import kept, tables
    from proxy_lm.errors import RequestError

    if not (args.root / kept.PLANS).is_dir():
        raise RequestError(f"{args.root} has no {kept.PLANS}, so it is not the repository; run it there, or name it with --root")
    if args.check and (args.keep or args.reports):
        raise RequestError("--check writes nothing; leave out --keep and --reports")
    if args.check:
        tables.check(args.root)
        return {"kept": [], "written": [], "reports": []}
    found = [str(kept.keep(folder, args.root / kept.KEPT)) for folder in args.keep or ()]
    written = tables.in_step(args.root, write=True)
    reports = [] if args.reports is None else [str(path) for path in tables.write_reports(args.root, args.reports)]
    return {"kept": found, "written": written, "reports": reports}


def show(result: dict[str, Any]) -> None:
    """A line for each thing that was written."""
    for title, name in (("kept", "kept"), ("written", "written"), ("report", "reports")):
        for one in result[name]:
            print(f"{title}: {one}")
    if not any(result.values()):
        print("every table is in step with the kept results")
