"""`proxy-lm-eval compression`: models and classical compressors in one table. Arguments and printing; the work is in `eval.compression`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy_lm.config import OPTIONS, options_of, validate
from proxy_lm.errors import RequestError

if TYPE_CHECKING:
    from eval.compression import CompressionSettings
    from eval.compression_rows import Row
    from proxy_lm.codec.classical import Unavailable

HELP = "raw and adjusted compression rates of models and of classical compressors, chunked and whole"
EXAMPLE = """  proxy-lm-eval compression --model runs/nano --limit-bytes 200000
  proxy-lm-eval compression --model nano=runs/nano --model views/neural/model --data code=corpus --data demo=demo --out rates
  proxy-lm-eval compression --data enwik8=text:enwik8 --data voices=LibriSpeech/train-clean-100 --adjusted-for 1000000000 --json
  proxy-lm-eval compression --model runs/nano --data code=corpus --limit-bytes 100000 --next-byte gzip --next-byte lzma

data: a corpus or a run (held-out documents), a folder of proxy-lm data demo, a folder of images, audio or other files, a file;
NAME=KIND:PATH says the kind (text, code, images, audio, random) where --seven-bit or a mixed folder needs it"""


def _left(args: argparse.Namespace) -> str:
    """What an interrupt leaves."""
    if args.out is None:
        return "nothing is kept without --out; the same command begins anew"
    if not any((args.out / "cells").glob("*.json")):
        return "nothing was finished yet, so nothing is kept; the same command begins anew"
    return f"the cells that are finished are kept in {args.out / 'cells'} and the same command continues with the others"


INTERRUPTED = _left


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only what is given here overrides the defaults of `CompressionSettings`."""
    parser.add_argument(
        "--model", action="append", default=[], metavar="[NAME=]PATH", help="a run, VIEW/model, or a Hugging Face folder; any number"
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a data set; any number (default: the held-out documents of the first run among the models)",
    )
    parser.add_argument("--split", metavar="NAME", help="split of corpora (default: test)")
    parser.add_argument(
        "--chunk-bytes", type=int, nargs="+", metavar="N", help="bytes coded alone; several sizes, several blocks of rows (default: 2048)"
    )
    parser.add_argument("--limit-bytes", type=int, metavar="N", help="of each data set, from its beginning (default: all)")
    parser.add_argument(
        "--seven-bit", action="store_true", default=None, help="models also on bytes mapped to 7 bits, as the source has it"
    )
    parser.add_argument(
        "--verify", metavar="N", help="chunks of a model on each data set that are decoded and compared, or all (default: 4)"
    )
    parser.add_argument(
        "--adjusted-for", type=int, metavar="N", help="bytes that share the cost of a model (default: those measured; the source has 10^9)"
    )
    parser.add_argument(
        "--next-byte",
        action="append",
        metavar="NAME",
        help="gzip, lzma, zstd or ppm as a model of the next byte; slow: 256 compressions a byte",
    )
    parser.add_argument(
        "--next-byte-bytes",
        type=int,
        metavar="N",
        help="of each data set for --next-byte: chunks at equal distances, the last cut to make exactly N; a column more (default: 2048)",
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="where runs compute (default: cpu)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the result, a Markdown table, and each finished cell here")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure; the result is what `OUT/compression.json` holds."""
    from eval.compression import CompressionSettings, compression
    from eval.compression_data import held_out, open_data

    names = ("chunk_bytes", "limit_bytes", "split", "seven_bit", "adjusted_for", "next_byte", "next_byte_bytes")
    given = options_of(args, names)
    if args.verify is not None:
        given["verify"] = "all" if args.verify == "all" else _number(args.verify)
    settings = validate(CompressionSettings, given, source=OPTIONS)
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise RequestError(f"--out {args.out} is a file; name a folder")
    limits: dict[str, Any] = {"split": settings.split, "limit_bytes": settings.limit_bytes, "multiple": max(settings.chunk_bytes)}
    models = named_models(args.model)
    first_run = next((path for path in models.values() if (path / "config.yaml").is_file()), None)
    sets = [one for word in args.data for one in open_data(word, **limits)]
    if not args.data and first_run is not None:
        sets = held_out(first_run, **limits)
    rows, unavailable = rows_of(models, settings, device=args.device)
    result = compression(rows, sets, unavailable, settings, out=args.out)
    return {**result, "written": None if args.out is None else str(args.out)}


def named_models(words: list[str]) -> dict[str, Path]:
    """Paths by the name of their row. Raises `RequestError` for a folder that is not there and a name that stands twice."""
    models: dict[str, Path] = {}
    for word in words:
        given, equals, rest = word.partition("=")
        named = bool(equals) and not Path(word).exists()
        path = Path(rest if named else word)
        if not path.is_dir():
            raise RequestError(f"--model {word}: {path} is not a folder; give a run, a byte model (VIEW/model) or a Hugging Face model")
        own = path.resolve()
        name = given if named else f"{own.parent.name}/{own.name}" if own.name == "model" else own.name
        if name in models:
            raise RequestError(f"the name '{name}' stands twice in the table; give it another: --model OTHER={path}")
        models[name] = path
    return models


def rows_of(models: dict[str, Path], settings: CompressionSettings, *, device: str) -> tuple[list[Row], list[Unavailable]]:
    """All rows, and the compressors that cannot run here."""
    from eval.compression_rows import AsModelRow, ClassicalRow, ModelRow
    from proxy_lm.codec import open_predictor
    from proxy_lm.codec.classical import classical_compressors
    from proxy_lm.codec.lengths import open_lengths

    predictors = {name: open_predictor(path, device=device) for name, path in models.items()}
    found, unavailable = classical_compressors()
    verify = None if settings.verify == "all" else settings.verify
    rows: list[Row] = [ClassicalRow(one, chunk_bytes=None) for one in found]
    for size in settings.chunk_bytes:
        rows += [ClassicalRow(one, chunk_bytes=size) for one in found]
        rows += [AsModelRow(open_lengths(name), chunk_bytes=size) for name in settings.next_byte]
        rows += [
            ModelRow(name, predictor, chunk_bytes=size, seven_bit=mapped, verify=verify)
            for name, predictor in predictors.items()
            for mapped in ((False, True) if settings.seven_bit else (False,))
        ]
    return rows, unavailable


def show(result: dict[str, Any]) -> None:
    """The tables, what they say, and where they are kept."""
    from eval.compression_report import show_tables
    from proxy_lm.progress import console_of

    show_tables(result, console_of(140))
    if result["written"] is not None:
        out = Path(result["written"])
        print(f"result: {out / 'compression.json'}\ntable: {out / 'compression.md'}")


def _number(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise RequestError(f"--verify {word}: give a number of chunks, or all") from None
