"""`proxy-lm-eval report`: what was measured of one or several runs, beside each other. The work is in `eval.report_runs`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "lines, programs, robustness, translation and alignment beside bits per byte, for one or several runs"
EXAMPLE = """  proxy-lm-eval report runs/nano
  proxy-lm-eval report runs/quickstart/arms/* --out runs/quickstart/evaluations

Reads the results in RUN/eval and measures nothing; the first run is the baseline of paired differences."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs and where the report goes."""
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="run folders with results in RUN/eval")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of report.md, report.html and report.json (default: RUN/report)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the report; the result is what report.json holds, and where it is."""
    from eval import report_runs

    out = args.out or args.runs[0] / "report"
    return {"out": str(out), **report_runs.write(args.runs, out)}


def show(result: dict[str, Any]) -> None:
    """The headlines, as the report's first table has them."""
    from rich import box
    from rich.table import Table

    from proxy_lm.progress import console_of

    console = console_of(160)
    shown = Table(box=box.SIMPLE_HEAD)
    for index, column in enumerate(result["summary"]["columns"]):
        shown.add_column(column, justify="right" if index else "left")
    asked = [row for row in result["summary"]["rows"] if row[0].endswith(", asked")]
    for row in result["summary"]["rows"]:
        if row not in asked:
            shown.add_row(*row)
    console.print(shown)
    for stem, *amounts in asked:
        told = list(dict.fromkeys(amount for amount in amounts if amount not in ("", "-")))
        console.print(f"{stem}: {' | '.join(told)}", highlight=False)
    for line in result["not_alike"]:
        console.print(f"not alike: {line}", highlight=False)
    console.print(f"report: {Path(result['out']) / 'report.html'}", highlight=False, soft_wrap=True)
