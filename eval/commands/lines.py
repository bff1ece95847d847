"""`proxy-lm-eval lines`: next-line and identifier completion and the boundary sweep. Arguments and printing only; see `eval.lines`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "complete lines and identifiers of held-out files, and lines cut at every byte offset"
EXAMPLE = """  proxy-lm-eval lines runs/nano --limit 200
  proxy-lm-eval lines runs/nano --num-sweep-lines 100 --num-lines 0 --num-identifiers 0 --borders views/spm
  proxy-lm-eval lines runs/nano --files 'src/**/*.py' --json

The same command continues an evaluation that was interrupted; more items continue the same samples."""
_SETTINGS = ("split", "num_lines", "num_identifiers", "num_sweep_lines", "context_bytes", "max_bytes", "seed", "view", "device", "num_rows")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only what is given here overrides the defaults of `LinesSettings`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, as training wrote it")
    parser.add_argument("--split", metavar="NAME", help="split of the run's corpus (default: test)")
    parser.add_argument("--files", nargs="+", metavar="PATH", help="files, folders or patterns to ask instead of the split")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N lines, N identifiers, and N / 10 lines of the sweep")
    parser.add_argument("--num-lines", type=int, metavar="N", help="lines to complete from their start (default: 400)")
    parser.add_argument("--num-identifiers", type=int, metavar="N", help="identifiers to complete from inside (default: 400)")
    parser.add_argument("--num-sweep-lines", type=int, metavar="N", help="lines to cut at every byte offset (default: 30)")
    parser.add_argument(
        "--context-bytes",
        type=int,
        metavar="N",
        help="nothing is predicted from more bytes than this (default: 1024, or the row length of the run if that is less)",
    )
    parser.add_argument("--max-bytes", type=int, metavar="N", help="longest line (default: 128, or a quarter of the context)")
    parser.add_argument("--seed", type=int, metavar="N", help="which places are drawn (default: 0)")
    parser.add_argument(
        "--view", metavar="NAME", help="how the model reads: raw, or a view of the run (default: raw if it was told any raw bytes)"
    )
    parser.add_argument(
        "--borders",
        type=Path,
        metavar="DIR",
        help="folder of a view: the sweep tells its borders from the insides of its symbols (default: the run's own view)",
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or auto (default: auto)")
    parser.add_argument("--num-rows", type=int, metavar="N", help="completions generated at a time (default: 16)")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="the corpus folder, if it is no longer where the run found it")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure; the result is what `RUN/eval/lines-<set>.json` holds."""
    from proxy_lm.config import OPTIONS, options_of, validate
    from proxy_lm.train.run_files import check_run

    check_run(args.run)  # before torch is imported

    from eval.lines import LinesSettings, evaluate

    settings = validate(LinesSettings, options_of(args, _SETTINGS), source=OPTIONS)
    if args.limit is not None:
        settings = settings.limited(args.limit)
    return evaluate(args.run, settings, corpus=args.corpus, files=args.files or (), borders=args.borders)


def show(result: dict[str, Any]) -> None:
    """Every task as a table, then the offsets of the sweep by kind."""
    from rich import box
    from rich.table import Table

    from eval.envelope import where
    from eval.line_report import counted, tables
    from proxy_lm.progress import console_of

    console = console_of(190)
    name = result["run"]["name"]
    for title, table in tables({name: result}):
        shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if index in table.left else "right", no_wrap=True)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    console.print(
        f"{counted(result)}\n"
        f"read as {result['run']['view']} ({result['healing']}); {result['dataset']['num_items']} items of {result['dataset']['name']}; "
        f"context {result['settings']['context_bytes']} bytes; checkpoint of step {result['run']['checkpoint']['step']}; "
        f"{result['seconds']:.1f} seconds",
        highlight=False,
    )
    print(where(result["written"]))
