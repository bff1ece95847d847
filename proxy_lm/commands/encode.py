"""`proxy-lm encode`: the symbols of a whole corpus under one compressor. The work is in `proxy_lm.data.encoding`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "encode a corpus under a compressor: the symbols of every document, restartable, in parallel"
EXAMPLE = """  proxy-lm encode --corpus corpus --view views/spm --workers 8
  proxy-lm encode --corpus corpus --view views/spm --engine ray --address 10.0.0.1:6379"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from proxy_lm.data.engines import add_engine_arguments

    parser.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="the prepared corpus")
    parser.add_argument(
        "--view", type=Path, required=True, metavar="DIR", help="the compressor's folder; the symbols are written beside it"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes or threads; the result is the same for any number (default: all processors)",
    )
    add_engine_arguments(parser)
    parser.add_argument("--verify-every", type=int, default=1, metavar="K", help="decode each K-th document again: 1 all (default), 0 none")
    parser.add_argument("--force", action="store_true", help="replace symbols of another corpus or compressor in the same folder")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Encode, and return the manifest with the two rates people ask for."""
    from proxy_lm.data.corpus import Corpus
    from proxy_lm.data.encoding import encode_corpus
    from proxy_lm.data.engines import LocalEngine, open_engine

    corpus = Corpus.open(args.corpus, verify=False)
    with open_engine(args.engine, num_workers=args.workers, address=args.address) as engine:
        manifest = encode_corpus(
            corpus,
            args.view,
            args.view,
            num_workers=engine.num_workers,
            engine=None if isinstance(engine, LocalEngine) else engine,  # here threads may serve, which an engine has not
            verify_every=args.verify_every,
            verify_corpus=True,
            force=args.force,
        )
    told_bytes = manifest["num_bytes"] - manifest["raw_only_bytes"]
    return {
        "view": str(args.view),
        **manifest,
        "bytes_per_symbol": told_bytes / manifest["num_symbols"] if manifest["num_symbols"] else None,
        "megabytes_per_cpu_second": manifest["num_bytes"] / 1e6 / max(manifest["encode_cpu_seconds"], 1e-9),
    }


def show(result: dict[str, Any]) -> None:
    """A few lines for people."""
    ratio = result["bytes_per_symbol"]
    print(
        f"{result['view']}: {result['num_documents']} documents, {result['num_bytes'] / 1e6:.1f} MB, {result['num_symbols']} symbols"
        + (f", {ratio:.3f} bytes a symbol" if ratio else "")
        + f", {result['megabytes_per_cpu_second']:.1f} MB per CPU second"
    )
    print(f"round trips: {result['num_round_trips_exact']} of {result['num_round_trips_checked']} checked came back exactly")
    if result["num_raw_only"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in result["raw_only_reasons"].items())
        print(f"raw only: {result['num_raw_only']} documents, {result['raw_only_bytes'] / 1e6:.3f} MB ({reasons})")
        for example in result["raw_only_examples"]:
            print(f"  {example}")
