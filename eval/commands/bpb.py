"""`proxy-lm-eval bpb`: bits per byte of a trained run on raw bytes. Arguments and printing only; the work is in `eval.bpb`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from proxy_lm.config import OPTIONS, options_of, read_yaml, validate
from proxy_lm.train.run_files import check_run

HELP = "bits per byte of a trained run on the raw bytes of a corpus split"
EXAMPLE = """  proxy-lm-eval bpb runs/nano --split test
  proxy-lm-eval bpb runs/nano --context-bytes 512 --stride-bytes 256 --max-bytes 1000000 --workers 2 --json
  torchrun --nproc-per-node 8 -m eval.cli bpb runs/nano --split test"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only what is given here overrides the defaults of `EvaluationSettings`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, as training wrote it")
    parser.add_argument("--split", metavar="NAME", help="split of the corpus (default: test)")
    parser.add_argument(
        "--context-bytes",
        type=int,
        metavar="N",
        help="no byte is predicted from more bytes than this (default: 1024, or the row length of the run if that is less)",
    )
    parser.add_argument("--stride-bytes", type=int, metavar="N", help="how far a window moves (default: half the context)")
    parser.add_argument("--max-bytes", type=int, metavar="N", help="measure only the first documents, up to so many bytes (default: all)")
    parser.add_argument("--windows-per-batch", "--batch-size", type=int, metavar="N", help="windows in one forward pass (default: 16)")
    parser.add_argument("--score-end", action="store_true", default=None, help="charge the end of each document too")
    parser.add_argument(
        "--view", metavar="NAME", help="how the model reads: raw, or a view of the run (default: raw if it was told any raw bytes)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or auto (default: auto)")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="the corpus folder, if it is no longer where the run found it")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure; the result is what `RUN/eval/bpb-<split>.json` holds."""
    names = ("split", "context_bytes", "stride_bytes", "max_bytes", "windows_per_batch", "score_end", "view", "device")
    given = options_of(args, names)
    check_run(args.run)  # before torch is imported

    from eval.bpb import EvaluationSettings, evaluate

    context = given.setdefault("context_bytes", min(EvaluationSettings().context_bytes, _row_length(args.run)))
    given.setdefault("stride_bytes", max(1, context // 2))
    settings = validate(EvaluationSettings, given, source=OPTIONS)
    measured = evaluate(args.run, settings, num_workers=args.workers, corpus=args.corpus)
    if int(os.environ.get("RANK", "0")):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - of several ranks one prints, for as long as the process lives
    return {**measured.result, "written": measured.written}


def _row_length(run: Path) -> int:
    """Ids in a row of the run, beyond which its model has seen no position; a large number where `run` is a checkpoint by itself."""
    path = run / "config.yaml"
    length = read_yaml(path).get("row_length") if path.exists() else None
    return length if isinstance(length, int) else sys.maxsize


def show(result: dict[str, Any]) -> None:
    """One table: the number, what it was divided by, and each language."""
    from rich.console import Console
    from rich.table import Table

    from eval.envelope import where

    bounds = result["interval"]
    end = "scored" if result["end_scored"] else "not scored"
    table = Table(title=f"bits per byte, split {result['split']}, read as {result['view']}", title_justify="left")
    for name in ("language", "bits per byte", "bytes", "documents"):
        table.add_column(name, justify="left" if name == "language" else "right")
    for language, row in result["by_language"].items():
        bits = "-" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}"
        table.add_row(language, bits, f"{row['num_bytes']:,}", f"{row['num_documents']:,}")
    table.add_section()
    table.add_row("all", f"[bold]{result['bits_per_byte']:.4f}[/bold]", f"{result['num_bytes']:,}", f"{result['num_documents']:,}")
    console = Console()
    console.print(table)
    span = "none (one project)" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f} ({result['interval_means']})"
    console.print(
        f"interval {span}\ncontext {result['context_bytes']} bytes, stride {result['stride_bytes']}; end of document {end}; "
        f"checkpoint of step {result['checkpoint']['step']}; {result['seconds']:.1f} device seconds",
        highlight=False,
    )
    print(where(result["written"]))
