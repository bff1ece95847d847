"""The table 'translation': what the raw telling of a stretch gains from its telling by a view, for each arm of a comparison.

    text, table = translation(results, analysis, {})

It is read from the evaluation `translate` of each run (`eval.translate`): bits per byte of the same raw bytes told alone, after their
telling by the view, and after a stranger's. Not promised: intervals over seeds where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from eval.compression_tables import at_places, refuse_options
from eval.fact_evidence import place
from eval.grid_analysis import Analysis
from eval.results import ArmResult, Results
from proxy_lm.report import Table

_TOLD = ("raw", "raw_after_view", "raw_after_stranger")


def translation(results: Results, analysis: Analysis, options: Mapping[str, str]) -> tuple[str, Table]:
    """A row for each arm, scale and budget with the evaluation, and each of its views; without options. Raises `RequestError` for any."""
    refuse_options(options)
    rows = []
    for point in analysis.points:
        runs = [run for run in results.finished if (run.name, run.scale, run.budget) == (point.arm, point.scale, point.budget)]
        for name in dict.fromkeys(name for run in runs for name in _asked(run)):
            found = [run.evaluations[name] for run in runs if name in run.evaluations]
            where = place(point.scale, point.budget)
            rows.append([where, f"`{point.arm}`", str(found[0]["view"]), str(len(found)), *_row(found)])
    text = (
        "Bits per byte of held-out stretches told in raw bytes: alone, after their own telling by the view in the same segment, and after "
        "a stranger's; means over seeds. What the own telling saves is in percent (worst to best seed): below 0 it stands in the way."
    )
    columns = ["at", "arm", "view", "seeds", "alone", "after its view", "after a stranger's", "saved against alone", "against a stranger's"]
    return text, at_places(columns, rows, columns.index("seeds"))


def _asked(run: ArmResult) -> Iterable[str]:
    return (name for name in run.evaluations if name.startswith("translate"))


def _row(found: Sequence[Mapping[str, Any]]) -> list[str]:
    bits = [{key: one["bits_per_byte"].get(key) for key in _TOLD} for one in found]
    cells = []
    for key in _TOLD:
        known = [float(one[key]["value"]) for one in bits if one[key] is not None]
        cells.append(f"{fmean(known):.3f}" if known else "-")
    for base in ("raw", "raw_after_stranger"):
        saved = [100 * (1 - one["raw_after_view"]["value"] / one[base]["value"]) for one in bits if one[base] is not None]
        worst_to_best = f" ({min(saved):+.1f} to {max(saved):+.1f})" if len(saved) > 1 else ""
        cells.append(f"{fmean(saved):+.1f} %{worst_to_best}" if saved else "-")
    return cells
