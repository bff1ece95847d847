"""`proxy-lm decompress`: what `proxy-lm compress` wrote, back to its bytes. The work is in `proxy_lm.codec.decompress` and `.salvage`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from proxy_lm.errors import RequestError, WorkError

HELP = "decompress what `proxy-lm compress` wrote, with the same model"
EXAMPLE = """  proxy-lm decompress notes.plmc --model views/neural/model --out notes.txt
  proxy-lm decompress notes.plmc --model runs/nano --out - | less
  proxy-lm decompress damaged.plmc --model runs/nano --out most.txt --salvage

A file that is damaged, cut off, lengthened, or of another model or version is refused (exit code 2) and nothing is left at OUT. With
--salvage the chunks that are whole are written, zeros stand for the others, and the ranges that are lost are named (exit code 1)."""

_SHOWN_RANGES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", metavar="FILE", help="what `proxy-lm compress` wrote; - for standard input")
    parser.add_argument("--model", type=Path, required=True, metavar="RUN", help="the model that it was compressed with")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write; - for standard output")
    parser.add_argument("--cap", type=int, metavar="BYTES", help="refuse more output than this (default: 1 GiB)")
    parser.add_argument("--salvage", action="store_true", help="write the chunks that are whole and name the ranges that are not")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="where a run computes; that of the coding (default: cpu)")
    parser.add_argument("--force", action="store_true", help="replace OUT")


def _left(args: argparse.Namespace) -> str:
    """What an interrupt leaves."""
    kept = "standard output has at most a right begin of it" if args.out == "-" else "nothing is left of the output"
    return f"{kept}; the same command begins anew"


INTERRUPTED = _left


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Decompress, and return the counts; exit code 1, after they were shown, where something of it was lost."""
    from proxy_lm.codec.container import read_head
    from proxy_lm.codec.decompress import DEFAULT_CAP_BYTES, check_model, quick_foot
    from proxy_lm.codec.ends import check_ends, check_model_folder, open_input, size_of

    cap = DEFAULT_CAP_BYTES if args.cap is None else args.cap
    if cap < 0:
        raise RequestError(f"--cap {cap} is negative; give 0 or more bytes")
    out = check_ends(args.file, args.out, force=args.force, json=args.json)
    check_model_folder(args.model)
    with open_input(args.file) as source:
        if args.salvage and not source.seekable():
            raise RequestError("--salvage reads the file from both ends, and this is a pipe; save it and name the file")
        header = read_head(source)
        total = quick_foot(source, header, cap).raw_bytes if source.seekable() and not args.salvage else None
        from proxy_lm.codec import open_predictor

        predictor = open_predictor(args.model, view=header.view, device=args.device)
        check_model(header, predictor)
        started = time.monotonic()
        made = _write(out, total, lambda write, report: _decode(args, source, write, header, predictor, cap, report))
        coded_bytes = size_of(source)
    result = {"file": args.file, "out": args.out, "model": str(args.model), "salvaged": args.salvage, **made}
    result |= {"coded_bytes": coded_bytes, "seconds": time.monotonic() - started}
    if made.get("lost"):
        if args.json:
            print(json.dumps(result, ensure_ascii=False, allow_nan=False))
        else:
            show(result)
        where = "standard output" if out is None else str(out)
        raise WorkError(f"{args.file}: {_lost(made)}; what is whole is in {where}, each byte at its place")
    return result


def _decode(args: argparse.Namespace, source: IO[bytes], write: Any, header: Any, predictor: Any, cap: int, report: Any) -> dict[str, Any]:
    from proxy_lm.codec.decompress import decompress
    from proxy_lm.codec.salvage import salvage

    work = salvage if args.salvage else decompress
    return work(source, write, header, predictor, cap=cap, report=report)


def _write(out: Path | None, total: int | None, work: Callable[[Any, Any], dict[str, Any]]) -> dict[str, Any]:
    """Give `work` a place to write; a file has its name when all was right."""
    from compressors.files import atomic_writer
    from proxy_lm.codec.ends import open_standard_output
    from proxy_lm.progress import ProgressBar

    with ProgressBar("decompress", total) as bar:
        if out is None:
            with open_standard_output() as standard:
                return work(standard.write, bar.advance)
        with atomic_writer(out) as file:
            return work(file.write, bar.advance)


def _lost(made: dict[str, Any]) -> str:
    """How much; which ranges, the result says."""
    told = [f"{made['lost_bytes']:,} bytes"] if made["lost_bytes"] else []
    start, end, _ = made["lost"][-1]
    told += [] if end is not None else [f"what there was from byte {start:,} on"]
    return f"lost: {' and '.join(told)}"


def show(result: dict[str, Any]) -> None:
    """A line, and the ranges that are lost; on standard error, where standard output has the bytes."""
    from proxy_lm.progress import note

    tell: Callable[[str], Any] = note if result["out"] == "-" else print
    tell(f"{result['out']}: {result['bytes']:,} bytes of {result['num_chunks']:,} chunks in {result['seconds']:.1f} s")
    for start, end, why in result.get("lost", [])[:_SHOWN_RANGES]:
        tell(f"  lost: bytes {start} to {'the end' if end is None else end - 1}: {why}")
    if (more := len(result.get("lost", [])) - _SHOWN_RANGES) > 0:
        tell(f"  and {more} ranges more; --json names up to a thousand")
