"""Reports, as Markdown and as one HTML page: no script, no request to anywhere, readable in light and dark, on a phone and on paper.

    report = Content("Title", "What was asked.", [Section("Result", ["A sentence."], Table(["view", "bytes"], [["spm", "3.7"]]))])
    write_bytes(folder / "report.md", markdown(report).encode())
    write_bytes(folder / "report.html", html(report, names=["spm"]).encode())

A report decides what is said and in which order; the two renderers only spell it, so that they cannot disagree. Figures are SVG text made
by `proxy_lm.plotting`; they stand in the page only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Final

NUM_COLOURS: Final = 9
"""Colours of names that the page's style sheet has; further names begin again."""
LONG: Final = 34
"""A cell of a table with more characters may break into lines, so that the table stays narrow."""
_WORTH_A_LIST: Final = 8  # sections from which on the page opens with a list of them

_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column is left-aligned, the others right unless named in `left`."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset({0})
    marks: Sequence[str] = ()
    """One word a row: a verdict or a status, for colour. It also stands in the row as text."""
    heads: Mapping[int, str] = field(default_factory=dict)
    """By index of a row what it and the rows below it, up to the next of these, have in common: a line of its own above it."""


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, a list, a table, figures and preformatted text. Large figures come before the table."""

    title: str
    text: Sequence[str] = ()
    table: Table | None = None
    code: str | None = None
    folded: bool = False
    figures: Callable[[], Sequence[str]] | None = None
    """Draws `<svg>` elements; called for the page only."""
    large: bool = False
    """The figures have the width of the page's text each, not half of the page."""
    legend: bool = True
    """The colours of the names stand above the figures."""
    points: Sequence[str] = ()
    """A list, below the paragraphs."""


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
        if section.points:
            out += [*(f"* {point}" for point in section.points), ""]
        if section.table is not None:
            table = section.table
            out.append("| " + " | ".join(table.columns) + " |")
            out.append("|" + "|".join(":--" if i in table.left else "--:" for i in range(len(table.columns))) + "|")
            for index, row in enumerate(table.rows):
                if index in table.heads:
                    out.append(f"| **{_cell(table.heads[index])}** |" + " |" * (len(table.columns) - 1))
                out.append("| " + " | ".join(map(_cell, row)) + " |")
            out.append("")
        if section.code is not None:
            out += ["```", section.code.rstrip(), "```", ""]
        if section.figures is not None:
            out += ["The plots are in `report.html`.", ""]
    return "\n".join(out)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def html(report: Content, names: Sequence[str] = ()) -> str:
    """The whole page. `names` have a colour each, in figures' legends and wherever a cell of a table begins with one."""
    colours = {name: index for index, name in enumerate(dict.fromkeys(names))}
    style = resources.files("proxy_lm").joinpath("report.css").read_text(encoding="utf-8")
    body = [f"<h1>{escape(report.title)}</h1>"]
    if report.question:
        body.append(f'<p class="question">{escape(report.question)}</p>')
    anchors = _anchors(report.sections)
    if len(report.sections) >= _WORTH_A_LIST:
        open_ones = [(anchor, section.title) for anchor, section in zip(anchors, report.sections, strict=True) if not section.folded]
        links = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in open_ones)
        body.append(f'<nav aria-label="Sections"><ul>{links}</ul></nav>')
    body += [_section(section, anchor, colours) for section, anchor in zip(report.sections, anchors, strict=True)]
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>\n{style}</style>"
    )
    inner = "\n".join(body)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n<main>\n{inner}\n</main>\n</body>\n</html>\n'


def _anchors(sections: Sequence[Section]) -> list[str]:
    """A name for each section's place in the page; the same title twice is numbered."""
    found: list[str] = []
    for section in sections:
        name = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        found.append(name if name not in found else f"{name}-{len(found)}")
    return found


def _section(section: Section, anchor: str, colours: dict[str, int]) -> str:
    inner = [f"<p>{_prose(text)}</p>" for text in section.text]
    if section.points:
        inner.append(f'<ul class="points">{"".join(f"<li>{_prose(point)}</li>" for point in section.points)}</ul>')
    table = [] if section.table is None else [_table(section.table, colours)]
    figures = [] if section.figures is None else [_figures(section.figures(), section, colours)]
    inner += [*figures, *table] if section.large else [*table, *figures]
    if section.code is not None:
        inner.append(f"<pre>{escape(section.code.rstrip())}</pre>")
    title, inside = f"<h2>{escape(section.title)}</h2>", "".join(inner)
    if section.folded:
        return f'<section id="{anchor}" class="folded"><details><summary>{title}</summary>{inside}</details></section>'
    return f'<section id="{anchor}">{title}{inside}</section>'


def _prose(text: str) -> str:
    """A number and its percent sign stay in one line."""
    return escape(text).replace(" %", "&nbsp;%")


def _figures(drawn: Sequence[str], section: Section, colours: dict[str, int]) -> str:
    names = "".join(f"<li>{_swatch(index)}{escape(name)}</li>" for name, index in colours.items())
    legend = f'<ul class="legend">{names}</ul>' if section.legend else ""
    figures = "".join(f"<figure>{figure}</figure>" for figure in drawn)
    return f'{legend}<div class="{"plots large" if section.large else "plots"}">{figures}</div>'


def _table(table: Table, colours: dict[str, int]) -> str:
    def cell(tag: str, index: int, text: str, mark: str = "") -> str:
        kinds = ["left"] if index in table.left else []
        kinds += [f"is-{mark.replace(' ', '-')}"] if mark and text == mark else []
        kinds += ["long"] if len(text) > LONG else []
        attributes = (' scope="col"' if tag == "th" else "") + (f' class="{" ".join(kinds)}"' if kinds else "")
        name = text.split(", ")[0]
        return f"<{tag}{attributes}>{_swatch(colours[name]) if name in colours else ''}{escape(text)}</{tag}>"

    marks = table.marks or [""] * len(table.rows)
    rows = []
    for index, (row, mark) in enumerate(zip(table.rows, marks, strict=True)):
        if index in table.heads:
            head = f'<th class="left" scope="rowgroup" colspan="{len(table.columns)}"><span>{escape(table.heads[index])}</span></th>'
            rows.append(f'<tr class="head">{head}</tr>')
        rows.append(f"<tr>{''.join(cell('td', i, text, mark) for i, text in enumerate(row))}</tr>")
    columns = "".join(cell("th", i, name) for i, name in enumerate(table.columns))
    head = f"<thead><tr>{columns}</tr></thead>" if any(table.columns) else ""
    return f'<div class="wide"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _swatch(index: int) -> str:
    return f'<i class="swatch" style="background: var(--arm-{index % NUM_COLOURS})"></i>'
