"""The plan for people: shares of documents, symbols and source bytes by phase and layout, as a table, as bars of letters, as a picture.

    python -m proxy_lm.train configs/nano.yaml --dry-run --picture plan.html

All numbers come from `Plan.summary`, hence from lengths alone. The picture needs matplotlib (extra `eval`); table and bars need nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from compressors.files import write_bytes
from proxy_lm.data.plan import Plan
from proxy_lm.data.summary import LAYOUT_SHARES
from proxy_lm.errors import RequestError

# The picture's bars: as many as there are documents to fill them, so that a short run shows shares and not single documents.
MOST_PHASES: Final = 40
_DOCUMENTS_A_PHASE: Final = 10
SUFFIXES: Final = (".svg", ".png", ".html")
_TITLES: Final = dict(zip(LAYOUT_SHARES, ("documents", "symbols", "source bytes"), strict=True))
_LETTERS: Final = {"raw": "r", "view": "v", "pair": "p", "parallel": "=", "splice": "s", "fim_psm": "f", "fim_spm": "m"}
_BAR: Final = 30
# A group of columns is as wide as 'share of source bytes' and a space.
_HEADING: Final = 22


def check_picture(path: Path) -> None:
    """Raise `RequestError` before any work where the picture could not be made."""
    from proxy_lm import plotting

    if path.suffix not in SUFFIXES:
        raise RequestError(f"--picture {path} ends in '{path.suffix}'; known: {', '.join(SUFFIXES)}")
    plotting.require()


def table(plan: Mapping[str, Any]) -> list[str]:
    """Lines of the table: one a phase, and one for the whole run."""
    names = _told(plan)
    width = max(8, -(-_HEADING // len(names)), *(len(name) + 1 for name in names))
    group = width * len(names)
    lines = [
        " " * 10 + "".join(f"  share of {_TITLES[share]}".ljust(group + 2) for share in LAYOUT_SHARES),
        "progress  " + ("  " + "".join(name.rjust(width) for name in names)) * len(LAYOUT_SHARES),
    ]
    for what, phase in (("all", plan), *((_progress(phase), phase) for phase in plan["phases"])):
        cells = ("  " + "".join(f"{phase['by_layout'][name][share]:{width}.3f}" for name in names) for share in LAYOUT_SHARES)
        lines.append(f"{what:<10}" + "".join(cells))
    return [line.rstrip() for line in lines]


def bars(plan: Mapping[str, Any]) -> list[str]:
    """One line a phase, three bars each: as many letters of a layout as its share of documents, symbols and source bytes asks for."""
    names = _told(plan)
    lines = [
        "layouts: " + ", ".join(f"{_LETTERS[name]} {name}" for name in names),
        " " * 10 + " ".join(title.ljust(_BAR) for title in _TITLES.values()).rstrip(),
    ]
    for phase in plan["phases"]:
        drawn = (_bar([phase["by_layout"][name][share] for name in names], names) for share in LAYOUT_SHARES)
        lines.append(f"{_progress(phase):<10}" + " ".join(drawn))
    return lines


def draw_picture(plan: Plan, path: Path, name: str) -> None:
    """Write the picture: stacked bars of the three kinds of shares over progress. The suffix of `path` says how."""
    from proxy_lm import plotting, report

    num_phases = min(MOST_PHASES, max(4, plan.summary(1)["num_documents"] // _DOCUMENTS_A_PHASE))
    summary = plan.summary(num_phases)
    names = _told(summary)
    title = f"The plan of {name}"

    def fill_with(share: str) -> Any:
        def fill(plot: Any, colours: plotting.Colours = plotting.colour) -> None:
            below = [0.0] * num_phases
            for index, layout in enumerate(names):
                shares = [phase["by_layout"][layout][share] for phase in summary["phases"]]
                at = [(k + 0.5) / num_phases for k in range(num_phases)]
                plot.bar(at, shares, bottom=below, width=1.0 / num_phases, color=colours(index), label=layout, linewidth=0)
                below = [under + more for under, more in zip(below, shares, strict=True)]
            plot.set(xlim=(0, 1), ylim=(0, 1), xlabel="progress", ylabel=f"share of {_TITLES[share]}")

        return fill

    fills = [fill_with(share) for share in LAYOUT_SHARES]
    if path.suffix == ".html":
        page = report.Content(
            title,
            "How documents are told over the run, before any step of it.",
            [
                report.Section(
                    "Shares by layout",
                    figures=lambda: [plotting.draw(f"{title}: {what}", fill) for what, fill in zip(_TITLES.values(), fills, strict=True)],
                ),
                report.Section("Table", code="\n".join(table(plan.summary()))),
            ],
        )
        write_bytes(path, report.html(page, names).encode())
    else:
        write_bytes(path, plotting.image(title, fills, path.suffix))


def _told(plan: Mapping[str, Any]) -> list[str]:
    """Layouts that any document has."""
    return [name for name, layout in plan["by_layout"].items() if layout["num_ids"]]


def _progress(phase: Mapping[str, Any]) -> str:
    first, end = phase["progress"]
    return f"{first:.2f}-{end:.2f}"


def _bar(shares: Sequence[float], names: Sequence[str]) -> str:
    """`_BAR` letters in the proportion of the shares: whole parts first, then the largest remainders."""
    exact = [share * _BAR for share in shares]
    counts = [int(part) for part in exact]
    by_remainder = sorted(range(len(names)), key=lambda k: counts[k] - exact[k])
    for k in by_remainder[: max(0, round(sum(exact)) - sum(counts))]:
        counts[k] += 1
    return "".join(_LETTERS[name] * count for name, count in zip(names, counts, strict=True)).ljust(_BAR)
