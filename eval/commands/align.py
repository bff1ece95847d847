"""`proxy-lm-eval align`: where in the model two views of the same meet. Arguments and printing only; the work is in `eval.align`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from proxy_lm.config import OPTIONS, options_of, validate
from proxy_lm.train.run_files import check_run

HELP = "similarity of hidden states of raw bytes and of a view by layer, and retrieval of a span's other telling, with a plot"
EXAMPLE = """  proxy-lm-eval align runs/nano
  proxy-lm-eval align runs/nano --view spm --limit 500 --plot align.png --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only what is given here overrides the defaults of `AlignSettings`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, as training wrote it; its mix told raw bytes and a view")
    parser.add_argument("--view", metavar="NAME", help="the view to set beside raw bytes (default: the only one the run was told)")
    parser.add_argument("--split", metavar="NAME", help="split of the corpus (default: test)")
    parser.add_argument("--limit", type=int, metavar="N", help="spans, among which each is looked for (default: 1000)")
    parser.add_argument("--span-bytes", type=int, metavar="N", help="bytes of a span, up to the next border of a symbol (default: 32)")
    parser.add_argument("--stretches-per-document", type=int, metavar="N", help="of one document at most, from its beginning (default: 4)")
    parser.add_argument(
        "--max-stretch-bytes", type=int, metavar="N", help="no stretch is longer, even where a row has room (default: 1024)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="which spans are drawn (default: 0)")
    parser.add_argument("--no-untrained", dest="untrained", action="store_false", default=None, help="do not ask the untrained weights too")
    parser.add_argument("--rows-per-pass", type=int, metavar="N", help="rows of one forward pass (default: 16)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the plot, .svg or .png (default: beside the result, .svg)")
    parser.add_argument("--device", metavar="NAME", default="auto", help="cpu, cuda or auto (default: auto)")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="the corpus folder, if it is no longer where the run found it")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure; the result is what `RUN/eval/align-<split>-<view>.json` holds."""
    check_run(args.run)  # before torch is imported

    from eval.align import AlignSettings, align

    names = ("split", "limit", "span_bytes", "stretches_per_document", "max_stretch_bytes", "seed", "untrained", "rows_per_pass")
    settings = validate(AlignSettings, options_of(args, names), source=OPTIONS)
    return align(args.run, settings, view=args.view, device=args.device, corpus=args.corpus, plot=args.plot)


def show(result: dict[str, Any]) -> None:
    """One table: a row a layer, and the untrained weights in brackets."""
    from rich.table import Table

    from eval.envelope import where
    from proxy_lm.progress import console_of

    table = Table(
        title=f"raw bytes and {result['view']}, {result['num_spans']:,} spans; untrained weights in brackets", title_justify="left"
    )
    ways = [way for way in ("plain", "centred", "whitened", "rotated") if result["layers"][0][way] is not None]
    for name in ("layer", "gap", *ways, "CKA"):
        table.add_column(name, justify="left" if name == "layer" else "right", no_wrap=name == "layer")
    for number, layer in enumerate(result["layers"]):
        base = result["untrained"][number] if result["untrained"] is not None else None
        cells = [_both(_gap(layer), None if base is None else _gap(base), 3)]
        cells += [_both(_retrieval(layer, way), None if base is None else _retrieval(base, way), 1) for way in ways]
        cells.append(_both(layer["cka"], None if base is None else base["cka"], 2))
        table.add_row(layer["name"], *cells)
    console = console_of(160)
    console.print(table)
    told = result["pairs_told"]
    console.print(
        "gap: cosine of a span's two tellings minus that with spans of other documents, centred\n"
        f"plain to rotated: a span's other telling is the nearest, %, mean of both ways; chance {100 * result['chance']:.2f} %\n"
        f"{result['num_documents']:,} documents, {result['num_projects']:,} projects; spans of {result['mean_span_bytes']:.1f} bytes, "
        f"{result['mean_span_symbols']:.1f} symbols\n"
        f"pairs told: {100 * told['mean_share']:.1f} % of the documents over the run, {100 * told['share_at_end']:.1f} % at its end; "
        f"{100 * told['share_that_fit_a_row']:.1f} % of the documents fit a row twice\n"
        f"{result['seconds']:.1f} seconds",
        highlight=False,
    )
    print(where(result["written"]))


def _gap(layer: dict[str, Any]) -> float | None:
    value: float | None = layer["centred"]["similarity"]["gap"]["value"]
    return value


def _retrieval(layer: dict[str, Any], way: str) -> float:
    found = layer[way]["retrieval"]
    return 50.0 * float(found["raw_to_view"]["value"] + found["view_to_raw"]["value"])


def _both(value: float | None, untrained: float | None, digits: int) -> str:
    ours = "-" if value is None else f"{value:.{digits}f}"
    return ours if untrained is None else f"{ours} ({untrained:.{digits}f})"
