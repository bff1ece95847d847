"""`proxy-lm compress`: a file into a container, with a model for a predictor. The work is in `proxy_lm.codec.compress`."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from proxy_lm.errors import RequestError

HELP = "compress a file without loss, with a model as the predictor of an arithmetic coder"
EXAMPLE = """  proxy-lm compress notes.txt --model views/neural/model --out notes.plmc
  proxy-lm compress notes.txt --model runs/nano --out notes.plmc --chunk-bytes 4096 --json
  tar c folder | proxy-lm compress - --model runs/nano --out folder.tar.plmc
  proxy-lm decompress notes.plmc --model runs/nano --out notes.txt

Killed and run again, the same command goes on (OUT.partial). The counts model decodes everywhere; a run or a Hugging Face model (extra
export) decodes on the machine and with the device that coded it, and anywhere else it decodes rightly or is refused (see
proxy_lm/codec/README.md)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", metavar="FILE", help="the file to compress; - for standard input")
    parser.add_argument("--model", type=Path, required=True, metavar="RUN", help="folder of a run, a byte model or a Hugging Face model")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write; - for standard output")
    parser.add_argument(
        "--chunk-bytes", type=int, default=2048, metavar="N", help="bytes coded alone, without what was before: 1 to 65536 (default: 2048)"
    )
    parser.add_argument("--view", metavar="NAME", help="how a run is asked: raw, or a view of it (default: as `proxy-lm generate`)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="where a run computes; decode on the same (default: cpu)")
    parser.add_argument("--check", action="store_true", help="decode every chunk at once and store those that come back otherwise")
    parser.add_argument("--force", action="store_true", help="replace OUT, and begin anew what was begun with another model or input")


def _left(args: argparse.Namespace) -> str:
    """What an interrupt leaves."""
    if args.out == "-":
        return "what standard output has is no whole file; the same command begins anew"
    if Path(f"{args.out}.partial.json").is_file():
        return f"what is finished is kept in {args.out}.partial and the same command continues"
    return "nothing was finished yet, so nothing is kept; the same command begins anew"


INTERRUPTED = _left


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compress, and return the counts and rates."""
    from proxy_lm.codec.ends import check_ends, check_model_folder, open_input, open_standard_output, size_of
    from proxy_lm.codec.predictor import MAX_CHUNK_BYTES

    if not 1 <= args.chunk_bytes <= MAX_CHUNK_BYTES:
        raise RequestError(f"--chunk-bytes {args.chunk_bytes}: a chunk has 1 to {MAX_CHUNK_BYTES} bytes")
    out = check_ends(args.file, args.out, force=args.force, json=args.json)
    check_model_folder(args.model)
    with open_input(args.file) as source:
        from proxy_lm.codec import open_predictor
        from proxy_lm.codec.compress import compress
        from proxy_lm.codec.partial import Partial
        from proxy_lm.progress import ProgressBar

        if out is not None:
            Partial(out).refuse_input(source)
        predictor = open_predictor(args.model, view=args.view, device=args.device)
        started = time.monotonic()
        with ExitStack() as stack:
            bar = stack.enter_context(ProgressBar("compress", size_of(source)))
            target = stack.enter_context(open_standard_output()) if out is None else out
            made = compress(
                source,
                target,
                predictor,
                chunk_bytes=args.chunk_bytes,
                view=args.view,
                force=args.force,
                check=args.check,
                report=lambda raw, coded: bar.advance(raw, _so_far(bar.done_bytes + raw, coded)),
            )
    seconds = time.monotonic() - started
    return {
        "file": args.file,
        "out": args.out,
        "model": str(args.model),
        "portable": predictor.portable,
        **made,
        **rates(made["bytes"], made["coded_bytes"], predictor.num_parameter_bytes),
        "num_parameters": predictor.num_parameters,
        "seconds": seconds,
        "bytes_per_second": (made["bytes"] - made["resumed_bytes"]) / max(seconds, 1e-9),
    }


def _so_far(num_bytes: int, coded_bytes: int) -> str:
    return f"(coded to {100 * coded_bytes / max(1, num_bytes):.1f} % of their size so far)"


def rates(num_bytes: int, coded_bytes: int, num_parameter_bytes: int) -> dict[str, Any]:
    """Of the whole file; None where there was no byte."""
    return {
        "rate_percent": 100 * coded_bytes / num_bytes if num_bytes else None,
        "bits_per_byte": 8 * coded_bytes / num_bytes if num_bytes else None,
        "num_parameter_bytes": num_parameter_bytes,
        "adjusted_rate_percent": 100 * (coded_bytes + num_parameter_bytes) / num_bytes if num_bytes else None,
    }


def show(result: dict[str, Any]) -> None:
    """One table; on standard error where standard output has the code."""
    from rich import box
    from rich.table import Table

    from proxy_lm.progress import console_of, note

    table = Table(box=box.SIMPLE)
    cells = {
        "bytes": f"{result['bytes']:,}",
        "coded": f"{result['coded_bytes']:,}",
        "rate %": _number(result["rate_percent"], 2),
        "bits a byte": _number(result["bits_per_byte"], 3),
        "rate %\nwith the model": _number(result["adjusted_rate_percent"], 2),
        "chunks": f"{result['num_chunks']:,}",
        "stored": f"{result['num_stored']:,}",
        "seconds": _number(result["seconds"], 1),
    }
    for heading in cells:
        table.add_column(heading, justify="right")
    table.add_row(*cells.values())
    console_of(120, stderr=result["out"] == "-").print(table)
    if result["resumed_bytes"]:
        note(f"compress: {result['resumed_bytes']:,} of the bytes were coded before and taken over")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
