"""Reports, as Markdown and as one HTML page: no script, no request to anywhere, readable in light and dark, on a phone and on paper.

    report = Content("Title", "What was asked.", [Section("Result", ["A sentence."], Table(["view", "bytes"], [["spm", "3.7"]]))])
    write_bytes(folder / "report.md", markdown(report).encode())
    write_bytes(folder / "report.html", html(report, names=["spm"]).encode())

A report decides what is said and in which order; the two renderers only spell it, so that they cannot disagree. Figures are SVG text made
by `proxy_lm.plotting`; they stand in the page only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Final

NUM_COLOURS: Final = 8
"""Colours of names that the page's style sheet has; further names begin again."""

_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column is left-aligned, the others right unless named in `left`."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset({0})
    marks: Sequence[str] = ()
    """One word a row: a verdict or a status, for colour. It also stands in the row as text."""


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, then a table, then preformatted text, then figures."""

    title: str
    text: Sequence[str] = ()
    table: Table | None = None
    code: str | None = None
    folded: bool = False
    figures: Callable[[], Sequence[str]] | None = None
    """Draws `<svg>` elements; called for the page only."""


@dataclass(frozen=True)
class Content:
    """A whole report."""

    title: str
    question: str
    sections: Sequence[Section] = field(default_factory=list)


def si(value: float | None) -> str:
    """Three to four digits and a unit prefix: 1234567 is '1.235 M'."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    power = min(len(_UNITS) - 1, max(0, int(math.log10(abs(value)) // 3)))
    return f"{value / 1000**power:.4g} {_UNITS[power]}".rstrip()


def number(value: float | None, digits: int) -> str:
    """Fixed digits, or a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"


def markdown(report: Content) -> str:
    """The report as Markdown; the plots are in the HTML page."""
    out = [f"# {report.title}", ""]
    if report.question:
        out += [report.question, ""]
    for section in report.sections:
        out += [f"## {section.title}", ""]
        for paragraph in section.text:
            out += [f"{paragraph}", ""]
        if section.table is not None:
            table = section.table
            out.append("| " + " | ".join(table.columns) + " |")
            out.append("|" + "|".join(":--" if i in table.left else "--:" for i in range(len(table.columns))) + "|")
            out += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
            out.append("")
        if section.code is not None:
            out += ["```", section.code.rstrip(), "```", ""]
        if section.figures is not None:
            out += ["The plots are in `report.html`.", ""]
    return "\n".join(out)


def html(report: Content, names: Sequence[str] = ()) -> str:
    """The whole page. `names` have a colour each, in figures' legends and wherever a cell of a table begins with one."""
    colours = {name: index for index, name in enumerate(dict.fromkeys(names))}
    style = resources.files("proxy_lm").joinpath("report.css").read_text(encoding="utf-8")
    body = [f"<h1>{escape(report.title)}</h1>"]
    if report.question:
        body.append(f'<p class="question">{escape(report.question)}</p>')
    body += [_section(section, colours) for section in report.sections]
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>\n{style}</style>"
    )
    inner = "\n".join(body)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n<main>\n{inner}\n</main>\n</body>\n</html>\n'


def _section(section: Section, colours: dict[str, int]) -> str:
    inner = [f"<p>{escape(text)}</p>" for text in section.text]
    if section.table is not None:
        inner.append(_table(section.table, colours))
    if section.figures is not None:
        legend = "".join(f"<li>{_swatch(index)}{escape(name)}</li>" for name, index in colours.items())
        figures = "".join(f"<figure>{figure}</figure>" for figure in section.figures())
        inner.append(f'<ul class="legend">{legend}</ul><div class="plots">{figures}</div>')
    if section.code is not None:
        inner.append(f"<pre>{escape(section.code.rstrip())}</pre>")
    if section.folded:
        return f"<section><details><summary><h2>{escape(section.title)}</h2></summary>{''.join(inner)}</details></section>"
    return f"<section><h2>{escape(section.title)}</h2>{''.join(inner)}</section>"


def _table(table: Table, colours: dict[str, int]) -> str:
    def cell(tag: str, index: int, text: str, mark: str = "") -> str:
        kinds = [*(["left"] if index in table.left else []), *([f"is-{mark.replace(' ', '-')}"] if mark and text == mark else [])]
        attributes = (' scope="col"' if tag == "th" else "") + (f' class="{" ".join(kinds)}"' if kinds else "")
        name = text.split(", ")[0]
        return f"<{tag}{attributes}>{_swatch(colours[name]) if name in colours else ''}{escape(text)}</{tag}>"

    head = "".join(cell("th", i, name) for i, name in enumerate(table.columns))
    marks = table.marks or [""] * len(table.rows)
    rows = ["".join(cell("td", i, text, mark) for i, text in enumerate(row)) for row, mark in zip(table.rows, marks, strict=True)]
    inner = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{inner}</tbody></table></div>'


def _swatch(index: int) -> str:
    return f'<i class="swatch" style="background: var(--arm-{index % NUM_COLOURS})"></i>'
