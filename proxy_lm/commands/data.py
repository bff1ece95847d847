"""`proxy-lm data demo`: stand-ins for the data of compression tables. The work is in `proxy_lm.data.demo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "make local data to measure compressors on: text, code, images, audio, noise"
EXAMPLE = """  proxy-lm data demo --out demo
  proxy-lm data demo --out demo --bytes 4194304 --seed 1 --json"""
INTERRUPTED = "no folder is written until it is whole; the same command begins anew"
NOTE = """Code and text are from the installed Python's own files: nothing of them is held out from a model trained on python:.
Images, audio and noise are made from the seed. Every file has exactly the bytes asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="demo")
    demo = actions.add_parser(
        "demo",
        help="legal stand-ins that need no network",
        description="Write text, code, images, audio and random bytes, so that all rows of a compression table run offline.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"{NOTE}\n\nexample:\n{EXAMPLE}",
    )
    demo.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write; new, or empty")
    demo.add_argument(
        "--bytes", type=int, default=1 << 20, metavar="N", help="bytes of each kind, a multiple of 2048 (default: 1048576, 512 chunks)"
    )
    demo.add_argument("--seed", type=int, default=0, metavar="S", help="equal seeds, equal bytes on this machine (default: 0)")
    demo.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object on standard output, nothing else"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Make the folder."""
    from proxy_lm.data.demo import KINDS, make_demo
    from proxy_lm.progress import ProgressBar

    bar = ProgressBar("data demo", len(KINDS) * args.bytes)
    with bar:
        manifest = make_demo(args.out, num_bytes=args.bytes, seed=args.seed, advance=bar.advance)
        if not manifest["made"]:
            bar.total_bytes = 0
    return {"out": str(args.out), **manifest}


def show(result: dict[str, Any]) -> None:
    """A table of the files."""
    from rich.markup import escape
    from rich.table import Table

    from proxy_lm.progress import console_of

    table = Table(title_justify="left", show_edge=False, pad_edge=False)
    for column in ("file", "chunks", "sha256", "how"):
        table.add_column(column, justify="right" if column == "chunks" else "left", overflow="fold")
    for entry in result["kinds"].values():
        table.add_row(entry["file"], str(entry["num_chunks"]), entry["sha256"][:16], escape(entry["how"]))
    console = console_of(120)
    console.print(table)
    said = "written" if result["made"] else "already there, digests checked"
    console.print(f"{escape(result['out'])}: {said}", highlight=False, soft_wrap=True)
