"""`proxy-lm-eval copying`: whether a run copies what its row has said before. Arguments and printing only; see `eval.copying`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.copying import CopyingSettings

INTERRUPTED = "no result was written; it takes seconds, and the same command begins anew"
HELP = "bits per byte of held-out text said twice in one row: does a run copy the second telling from the first?"
EXAMPLE = """  proxy-lm-eval copying runs/nano
  proxy-lm-eval copying runs/nano --limit 50 --json"""
_SETTINGS = ("split", "limit", "seed", "device")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only what is given here overrides the defaults of `CopyingSettings`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, as training wrote it, or one checkpoint of it (step-N)")
    parser.add_argument("--split", metavar="NAME", help="split of the run's corpus (default: test)")
    parser.add_argument("--limit", type=int, metavar="N", help="stretches at most, one a document (default: 200)")
    parser.add_argument("--seed", type=int, metavar="N", help="which documents and places are drawn (default: 0)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or auto (default: auto)")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="the corpus folder, if it is no longer where the run found it")


def check(args: argparse.Namespace) -> None:
    """Raise `RequestError` for what is wrong whatever the run; a comparison's plan is asked so before anything is trained."""
    _settings(args)


def _settings(args: argparse.Namespace) -> CopyingSettings:
    from eval.copying import CopyingSettings
    from proxy_lm.config import OPTIONS, options_of, validate

    return validate(CopyingSettings, options_of(args, _SETTINGS), source=OPTIONS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure; the result is what `RUN/eval/copying.json` holds."""
    from proxy_lm.train.run_files import check_run

    check_run(args.run)  # before torch is imported
    settings = _settings(args)

    from eval.copying import evaluate

    return evaluate(args.run, settings, corpus=args.corpus)


def show(result: dict[str, Any]) -> None:
    """Both numbers, and what the second saves of the first."""
    from rich.console import Console
    from rich.table import Table

    from eval.envelope import where

    table = Table(title="bits per byte of text said twice in one row", title_justify="left")
    for name in ("telling", "bits per byte", "95 % over projects"):
        table.add_column(name, justify="left" if name == "telling" else "right")
    for name, title in (("first", "first"), ("again", "again, right behind it")):
        found = result[name]
        bounds = "one project: none" if found["interval"] is None else f"{found['interval'][0]:.4f} to {found['interval'][1]:.4f}"
        table.add_row(title, f"{found['value']:.4f}", bounds)
    console = Console()
    console.print(table)
    saved = 1 - result["again"]["value"] / result["first"]["value"]
    console.print(
        f"the second telling saves {saved:.1%} of the bits; {result['num_stretches']} stretches of {result['stretch_bytes']} bytes from "
        f"{result['num_projects']} projects; checkpoint of step {result['run']['checkpoint']['step']}; {result['seconds']:.1f} seconds",
        highlight=False,
        soft_wrap=True,
    )
    print(where(result["written"]))
