"""Plots of kept results as files beside them, for the READMEs: `configs/compare/results/NAME-KIND-1.svg`.

    <!-- table: ladder plot of=main -->

They are the figures of the comparison's report. Each begins with the digest of the results it was drawn from, by which `tables --check`
knows one that has grown old.

Not promised: that another matplotlib draws the same file; the digest is of the results, not of the picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Final

from compressors.files import sha256_bytes, write_bytes
from eval import report_compression, report_grid, transfer_report
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
    "context": report_compression.context,
    "sizes": report_compression.sizes,
    "vocabularies": report_compression.vocabularies,
}
_OF_LINES: Final = ("main", "margins", "multipliers")


@dataclass(frozen=True)
class Drawn:
    """A figure of a kept comparison."""

    comparison: str
    title: str
    svg: str


def drawn(results: Results, analysis: Analysis, options: Mapping[str, str]) -> dict[str, Drawn]:
    """Figures by the names of their files. Raises `RequestError` for an unknown plot, and for one that the comparison does not have."""
    which = options.get("of", "main")
    if which not in _MADE or set(options) - {"of"}:
        raise RequestError(f"'{' '.join(f'{k}={v}' for k, v in options.items())}' asks for no plot; give of={' or of='.join(_MADE)}")
    sections = _MADE[which](results, analysis, groups(results))
    found = [Drawn(results.name, section.title, svg) for section in sections if section.figures is not None for svg in section.figures()]
    if not found:
        raise RequestError(f"comparison '{results.name}' has no plot '{which}': it has too few scales, budgets or arms, or was not asked")
    return {f"{results.name}-{which}-{k + 1}.svg": one for k, one in enumerate(found)}


def lines(plots: Mapping[str, Drawn], said: Sequence[str], document: str) -> list[str]:
    """Markdown that shows the plots in `document` (relative to the repository), and what is said of them."""
    found: list[str] = []
    for name, one in plots.items():
        place = Path(os.path.relpath(KEPT / name, Path(document).parent)).as_posix()
        found += [*([""] if found else []), f"![{unescape(one.title)}]({place})"]
    return [*found, *(line for sentence in said for line in ("", sentence))]


def said(results: Results, analysis: Analysis, options: Mapping[str, str]) -> list[str]:
    """Which arms the lines of a plot leave out; other plots have all."""
    return report_grid.said_of_drawn(analysis, groups(results)) if options.get("of", "main") in _OF_LINES else []


def in_step(root: Path, plots: Mapping[str, Drawn], *, write: bool) -> list[str]:
    """Files that are missing, of other results, or asked for nowhere: named, and made or taken away with `write`."""
    out_of_step = []
    for name, one in plots.items():
        path, made_of = root / KEPT / name, f"{one.comparison}.json"
        stamp = f"<!-- of {made_of}, sha256 {sha256_bytes((root / KEPT / made_of).read_bytes())} -->"
        if not path.exists() or path.read_text(encoding="utf-8").partition("\n")[0] != stamp:
            out_of_step.append((KEPT / name).as_posix())
            if write:
                write_bytes(path, f"{stamp}\n{plotting.standalone(one.svg)}".encode())
    for path in sorted((root / KEPT).glob("*.svg")):
        if path.name not in plots:
            out_of_step.append((KEPT / path.name).as_posix())
            if write:
                path.unlink()
    return out_of_step
