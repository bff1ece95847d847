"""`proxy-lm prepare`: read code from anywhere, drop copies, split by project, and write a corpus."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

HELP = "make a corpus from folders, files, containers, data sets by name, or the installed Python"
EXAMPLE = """  proxy-lm prepare python: --out corpus --max-bytes 30000000
  proxy-lm prepare data --out corpus --engine ray --address 10.0.0.1:6379
  proxy-lm prepare ~/src more.jsonl.zst hf:owner/name --out corpus --languages python,rust --against HumanEval.jsonl

SRC is a folder (.gitignore honoured), a file, a .jsonl[.gz|.zst], .parquet or .tar[.gz|.zst], hf:NAME[/CONFIG], or python: for the
installed Python. The same command continues an interrupted run; a finished corpus is found and not made again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options as in `PrepareSettings`, which says more about each."""
    from proxy_lm.data.engines import add_engine_arguments
    from proxy_lm.data.prepare import PrepareSettings

    def option(name: str, **how: Any) -> None:
        field = PrepareSettings.model_fields[name]
        text = " ".join((field.description or "").split()).replace("%", "%%")
        text = text.replace("None:", "off:" if name == "near_duplicates" else "none:")
        parser.add_argument(
            "--" + name.replace("_", "-"), default=argparse.SUPPRESS, help=f"{text} (default: {_shown(field.default)})", **how
        )

    parser.add_argument("sources", nargs="+", metavar="SRC")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the corpus folder to make")
    for name in ("max_bytes", "min_bytes", "max_bytes_per_document", "seed"):
        option(name, type=int, metavar="N")
    option("cut_bytes", metavar="N")
    option("languages", metavar="A,B")
    for name in ("include", "exclude"):
        option(name, action="append", metavar="GLOB")
    option("near_duplicates", metavar="SIMILARITY|off")
    parser.add_argument(
        "--against",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="problems (HumanEval or MBPP jsonl) that no document may hold",
    )
    for name in ("valid_share", "test_share", "max_bad_share"):
        option(name, type=float, metavar="SHARE")
    for name in ("text_field", "bytes_field", "project_field", "hub_split"):
        option(name, metavar="NAME")
    option("binary", choices=["drop", "keep"])
    parser.add_argument("--workers", type=int, metavar="N", help="processes; changes nothing in the corpus (default: all processors)")
    add_engine_arguments(parser)
    parser.add_argument(
        "--max-memory",
        type=int,
        metavar="N",
        help="bytes that each process may hold beside the program itself; changes nothing in the corpus (default: no cap)",
    )
    parser.add_argument("--force", action="store_true", help="replace a corpus that was made with other settings")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The manifest's account of the corpus, with its path and the time it took."""
    from proxy_lm.config import OPTIONS, validate
    from proxy_lm.data.engines import open_engine
    from proxy_lm.data.prepare import PrepareSettings, prepare

    given: dict[str, Any] = {name: vars(args)[name] for name in PrepareSettings.model_fields if name in args}
    if "languages" in given:
        given["languages"] = [word for word in given["languages"].split(",") if word.strip()]
    if "near_duplicates" in given:
        given["near_duplicates"] = None if given["near_duplicates"] == "off" else given["near_duplicates"]
    settings = validate(PrepareSettings, given, OPTIONS)
    started = time.monotonic()
    with open_engine(args.engine, num_workers=args.workers, address=args.address) as engine:
        manifest, made = prepare(
            args.sources, args.out, settings, against=args.against, engine=engine, max_memory=args.max_memory, force=args.force
        )
    seconds = time.monotonic() - started
    shown = ("digest", "num_documents", "num_bytes", "splits", "split_bytes", "split_by", "drops", "num_records", "num_read_bytes")
    account = {name: manifest[name] for name in (*shown, "matched_problems", "damaged_examples")}
    account["cut_bytes"] = settings.cut_bytes
    account["num_whole_documents"] = manifest.get("num_whole_documents", manifest["num_documents"])
    speed = manifest["num_read_bytes"] / 1e6 / seconds if made and seconds else None
    return {"path": str(args.out), "made": made, "seconds": seconds, "megabytes_per_second": speed, **account}


def show(result: dict[str, Any]) -> None:
    """Splits, drops by reason, and where the corpus is."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "documents", "MB", title=f"corpus {result['path']}", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("read", str(result["num_records"]), f"{result['num_read_bytes'] / 1e6:.2f}", end_section=not result["drops"])
    for reason, count in result["drops"].items():
        table.add_row(f"dropped: {reason}", str(count["documents"]), f"{count['bytes'] / 1e6:.2f}")
    table.add_section()
    if result["cut_bytes"] is not None:
        kept = f"kept, now cut into at most {result['cut_bytes']} bytes each"
        table.add_row(kept, str(result["num_whole_documents"]), f"{result['num_bytes'] / 1e6:.2f}", end_section=True)
    for name, (first, end) in result["splits"].items():
        table.add_row(name, str(end - first), f"{result['split_bytes'][name] / 1e6:.2f}")
    table.add_section()
    table.add_row("corpus", str(result["num_documents"]), f"{result['num_bytes'] / 1e6:.2f}")
    console = Console()
    console.print(table)
    for line in result["damaged_examples"]:
        console.print(f"damaged: {line}", markup=False, highlight=False)
    if result["matched_problems"]:
        console.print(f"{len(result['matched_problems'])} problems of --against were found in the sources; their documents are dropped")
    console.print(f"split by {result['split_by']}; digest {result['digest']}", highlight=False, soft_wrap=True)
    if result["made"]:
        console.print(f"{result['seconds']:.1f} s, {result['megabytes_per_second']:.1f} MB/s", highlight=False)
    else:
        console.print("it was there already, made with the same settings; the sources were not read again")


def _shown(value: Any) -> str:
    return {None: "none", (): "all"}.get(value, str(value))
