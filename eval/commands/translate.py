"""`proxy-lm-eval translate`: does the model know that two views tell the same? Arguments and printing; the work is in `eval.translate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from proxy_lm.config import OPTIONS, options_of, validate
from proxy_lm.train.run_files import check_run

HELP = "translation between raw bytes and a view: exact match, byte accuracy, and bits per byte with and without the other telling"
EXAMPLE = """  proxy-lm-eval translate runs/nano
  proxy-lm-eval translate runs/nano --view spm --limit 200 --num-free 32 --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only what is given here overrides the defaults of `TranslateSettings`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, as training wrote it; its mix told raw bytes and a view")
    parser.add_argument("--view", metavar="NAME", help="the view to set beside raw bytes (default: the only one the run was told)")
    parser.add_argument("--split", metavar="NAME", help="split of the corpus (default: test)")
    parser.add_argument("--limit", type=int, metavar="N", help="stretches of documents at most (default: 400)")
    parser.add_argument("--stretches-per-document", type=int, metavar="N", help="of one document at most, from its beginning (default: 4)")
    parser.add_argument(
        "--max-stretch-bytes", type=int, metavar="N", help="no stretch is longer than this, or than fits a row (default: 1024)"
    )
    parser.add_argument(
        "--num-free", type=int, metavar="N", help="stretches that are also written freely, each way (default: 128; 0: none)"
    )
    parser.add_argument("--num-untrained", type=int, metavar="N", help="stretches the untrained weights are asked (default: 64; 0: none)")
    parser.add_argument("--rows-per-pass", type=int, metavar="N", help="rows of one forward pass (default: 16)")
    parser.add_argument("--device", metavar="NAME", default="auto", help="cpu, cuda or auto (default: auto)")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="the corpus folder, if it is no longer where the run found it")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure; the result is what `RUN/eval/translate-<split>-<view>.json` holds."""
    check_run(args.run)  # before torch is imported

    from eval.translate import TranslateSettings, translate

    names = ("split", "limit", "stretches_per_document", "max_stretch_bytes", "num_free", "num_untrained", "rows_per_pass")
    settings = validate(TranslateSettings, options_of(args, names), source=OPTIONS)
    return translate(args.run, settings, view=args.view, device=args.device, corpus=args.corpus)


def show(result: dict[str, Any]) -> None:
    """Two tables: bits per byte with and without the other telling, and what was right."""
    from rich.table import Table

    from eval.envelope import where
    from proxy_lm.progress import console_of

    console = console_of(160)
    view, bits, untrained = result["view"], result["bits_per_byte"], result["untrained"]
    table = Table(title=f"bits per source byte, raw and {view}, split {result['settings']['split']}", title_justify="left")
    for name in ("asked for", "alone", "after its other telling", "change", "change beside a stranger's"):
        table.add_column(name, justify="left" if name == "asked for" else "right")
    rows = [("raw", "raw", "raw_after_view", bits), (view, "view", "view_after_raw", bits)]
    if untrained is not None:
        rows += [(f"{who}, untrained", alone, after, untrained["bits_per_byte"]) for who, alone, after, _ in rows[:2]]
    for who, alone, after, of in rows:
        cells = [_span(of[name], 4) for name in (alone, after, f"{alone}_change", f"{alone}_change_beside_stranger")]
        table.add_row(who, *cells)
    console.print(table)
    table = Table(title="what was right, %", title_justify="left")
    for name in ("", f"{view} to raw", f"raw to {view}"):
        table.add_column(name, justify="left" if not name else "right")
    for title, part, name in (
        ("teacher-forced: symbols", "teacher_forced", "accuracy"),
        ("teacher-forced: symbols without the other telling", "teacher_forced", "accuracy_without"),
        ("teacher-forced: bytes", "teacher_forced", "byte_accuracy"),
        ("teacher-forced: whole stretches", "teacher_forced", "exact_match"),
        ("free: whole stretches", "free", "exact_match"),
        ("free: bytes at their place", "free", "byte_accuracy"),
        ("free: bytes before the first error", "free", "bytes_before_error"),
        ("free: edit similarity", "free", "edit_similarity"),
    ):
        found = [(result[way][part] or {}).get(name) for way in ("view_to_raw", "raw_to_view")]
        table.add_row(title, *(_span(one, 1, 100) for one in found))
    console.print(table)
    told = result["pairs_told"]
    console.print(
        f"{result['num_stretches']:,} stretches ({result['num_free']:,} written freely) of {result['num_documents']:,} documents, "
        f"{result['num_projects']:,} projects; {result['num_bytes']:,} bytes, {result['num_symbols']:,} symbols\n"
        f"pairs told: {100 * told['mean_share']:.1f} % of the documents over the run, {100 * told['share_at_end']:.1f} % at its end; "
        f"{100 * told['share_that_fit_a_row']:.1f} % of the documents fit a row twice\n"
        f"{result['seconds']:.1f} seconds",
        highlight=False,
    )
    print(where(result["written"]))


def _span(found: dict[str, Any] | None, digits: int, scale: float = 1.0) -> str:
    """A number and its interval."""
    if found is None or found["value"] is None:
        return "-"
    text = f"{scale * found['value']:.{digits}f}"
    nothing = found["interval"] is None or (found["value"] == 0 and found["interval"] == [0, 0])  # of none it tells no certainty
    return text if nothing else f"{text} ({scale * found['interval'][0]:.{digits}f} to {scale * found['interval'][1]:.{digits}f})"
