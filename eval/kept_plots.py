"""Plots of kept results as files beside them, for the READMEs: `configs/compare/results/NAME-KIND-1.svg`.

    <!-- table: ladder plot of=main -->

They are the figures of the comparison's report. Each begins with the digest of the results it was drawn from, by which `tables --check`
knows one that has grown old.

Not promised: that another matplotlib draws the same file; the digest is of the results, not of the picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Final

from compressors.files import sha256_bytes, write_bytes
from eval import report_grid, transfer_report
from eval.grid_analysis import Analysis
from eval.kept import KEPT
from eval.report_groups import Group, groups
from eval.results import Results
from proxy_lm import plotting
from proxy_lm.errors import RequestError
from proxy_lm.report import Section

KIND: Final = "plot"
_MADE: Final[Mapping[str, Callable[[Results, Analysis, Sequence[Group]], list[Section]]]] = {
    "main": lambda results, analysis, shown: report_grid.main_plot(analysis, shown),
    "margins": report_grid.margins,
    "ablations": report_grid.ablations,
    "multipliers": report_grid.multipliers,
    "transfer": lambda results, analysis, shown: transfer_report.sections(results, analysis),
}


def lines(results: Results, analysis: Analysis, options: Mapping[str, str], document: str) -> list[str]:
    """Markdown that shows the plots in `document` (relative to the repository). Raises `RequestError` for an unknown plot, and for one that
    the comparison does not have."""
    which = options.get("of", "main")
    if which not in _MADE or set(options) - {"of"}:
        raise RequestError(f"'{' '.join(f'{k}={v}' for k, v in options.items())}' asks for no plot; give of={' or of='.join(_MADE)}")
    parts = _MADE[which](results, analysis, groups(results))
    figures = [section.title for section in parts if section.figures is not None for _ in section.figures()]
    if not figures:
        raise RequestError(f"comparison '{results.name}' has no plot '{which}': it has too few scales, budgets or arms")
    said = report_grid.said_of_drawn(analysis, groups(results)) if which != "ablations" else []
    places = [Path(os.path.relpath(KEPT / name, Path(document).parent)).as_posix() for name in names(results.name, which, len(figures))]
    shown = [line for title, place in zip(figures, places, strict=True) for line in (f"![{unescape(title)}]({place})", "")][:-1]
    return [*shown, *(line for sentence in said for line in ("", sentence))]


def names(comparison: str, which: str, count: int) -> list[str]:
    """Files of a plot that has so many figures."""
    return [f"{comparison}-{which}-{k + 1}.svg" for k in range(count)]


def in_step(root: Path, asked: Sequence[tuple[Results, Analysis, str]], *, write: bool) -> list[str]:
    """Files that are missing, of other results, or asked for nowhere: named, and made or taken away with `write`."""
    wanted: dict[str, str] = {}
    for results, analysis, which in asked:
        stamp = f"<!-- of {results.name}.json, sha256 {sha256_bytes((root / KEPT / f'{results.name}.json').read_bytes())} -->\n"
        drawn = [svg for section in _MADE[which](results, analysis, groups(results)) if section.figures for svg in section.figures()]
        for name, svg in zip(names(results.name, which, len(drawn)), drawn, strict=True):
            wanted[name] = stamp + plotting.standalone(svg)
    out_of_step = []
    for name, text in wanted.items():
        path = root / KEPT / name
        if not path.exists() or path.read_text(encoding="utf-8").partition("\n")[0] != text.partition("\n")[0]:
            out_of_step.append((KEPT / name).as_posix())
            if write:
                write_bytes(path, text.encode())
    for path in sorted((root / KEPT).glob("*.svg")):
        if path.name not in wanted:
            out_of_step.append((KEPT / path.name).as_posix())
            if write:
                path.unlink()
    return out_of_step
