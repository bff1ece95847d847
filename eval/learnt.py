"""How much of compressed text a model has learnt: its bits per byte beside those of the uniform model over the same symbols.

    uniform_bits(results, run)                 bits per byte of the model that knows nothing of the text, on the documents that were scored
    text, table = learnt(results, analysis, {})

A good compressor makes few symbols a byte, so an arm told those alone has few bits per byte before it has learnt anything: what it adds is
the share of the uniform model's bits that it saves (Lester et al., "Training LLMs over neurally compressed text", main table).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from eval.compression_tables import at_places, refuse_options
from eval.fact_evidence import place
from eval.grid_analysis import Analysis, Point
from eval.results import ArmResult, Results
from proxy_lm.report import Table
from proxy_lm.vocabulary import NUM_BYTES


def uniform_bits(results: Results, run: ArmResult) -> float | None:
    """Bits per byte of the uniform model over the symbols in which a run was asked; None where that is not known, or where some documents
    were told raw."""
    scored = run.evaluation or {}
    if run.view == "raw":
        return math.log2(NUM_BYTES)
    if run.view not in results.views or not scored.get("num_bytes") or scored.get("num_documents_read_raw", 0):
        return None
    return math.log2(results.views[run.view]["alphabet_size"]) * float(scored["num_symbols"]) / float(scored["num_bytes"])


def run_of(results: Results, point: Point) -> ArmResult | None:
    """One finished run of a point; the scored documents are the same for all its seeds."""
    at = (point.arm, point.scale, point.budget)
    return next((run for run in results.finished if (run.name, run.scale, run.budget) == at), None)


def learnt(results: Results, analysis: Analysis, options: Mapping[str, str]) -> tuple[str, Table]:
    """A row for each arm, scale and budget with a score; without options. Raises `RequestError` for any."""
    refuse_options(options)
    rows = []
    for point in analysis.points:
        run = run_of(results, point)
        if run is None or point.mean is None:
            continue
        uniform = uniform_bits(results, run)
        seen, share = f"{point.mean:.3f}", "-"
        if uniform is not None:
            low, high = _percent(max(point.values), uniform), _percent(min(point.values), uniform)
            share = _percent(point.mean, uniform) + (f" ({low} to {high})" if len(point.values) > 1 else ", one seed")
        rows.append(
            [place(point.scale, point.budget), f"`{point.arm}`", str(run.view), "-" if uniform is None else f"{uniform:.3f}", seen, share]
        )
    text = (
        "What is learnt of each arm's own text: percent of the bits per byte of the uniform model over the same symbols that the trained "
        "one saves (worst to best seed; the documents are the same for both). Bits per byte alone would praise the compressor: dense "
        "symbols cost few bits a byte before anything is learnt."
    )
    columns = ["at", "arm", "asked in", "uniform model, bits per byte", "trained", "learnt, % (seeds)"]
    return text, at_places(columns, rows, len(columns) - 3)


def _percent(bits: float, uniform: float) -> str:
    return f"{100 * (1 - bits / uniform):.1f}"
