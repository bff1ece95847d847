"""The report as one HTML page: no script, no request to anywhere, readable in light and dark, on a phone and on paper."""

from __future__ import annotations

from html import escape
from importlib import resources

from eval import plots
from eval.report import Content, Section, Table
from eval.results import Results


def html(results: Results, report: Content) -> str:
    """The whole page."""
    names = list(dict.fromkeys(arm.name for arm in results.arms))
    colours = {name: index for index, name in enumerate(names)}
    style = resources.files("eval").joinpath("report.css").read_text(encoding="utf-8")
    body = [f"<h1>{escape(report.title)}</h1>"]
    if report.question:
        body.append(f'<p class="question">{escape(report.question)}</p>')
    for section in report.sections:
        body.append(_section(section, results, colours))
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>\n{style}</style>"
    )
    inner = "\n".join(body)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n<main>\n{inner}\n</main>\n</body>\n</html>\n'


def _section(section: Section, results: Results, colours: dict[str, int]) -> str:
    inner = [f"<p>{escape(text)}</p>" for text in section.text]
    if section.table is not None:
        inner.append(_table(section.table, colours))
    if section.plots:
        inner.append(_plots(results, colours))
    if section.code is not None:
        inner.append(f"<pre>{escape(section.code.rstrip())}</pre>")
    if section.folded:
        return f"<section><details><summary><h2>{escape(section.title)}</h2></summary>{''.join(inner)}</details></section>"
    return f"<section><h2>{escape(section.title)}</h2>{''.join(inner)}</section>"


def _table(table: Table, colours: dict[str, int]) -> str:
    def cell(tag: str, index: int, text: str, mark: str = "") -> str:
        kinds = [*(["left"] if index in table.left else []), *([f"is-{mark.replace(' ', '-')}"] if mark and text == mark else [])]
        attributes = (' scope="col"' if tag == "th" else "") + (f' class="{" ".join(kinds)}"' if kinds else "")
        arm = text.split(", ")[0]
        return f"<{tag}{attributes}>{_swatch(colours[arm]) if arm in colours else ''}{escape(text)}</{tag}>"

    head = "".join(cell("th", i, name) for i, name in enumerate(table.columns))
    marks = table.marks or [""] * len(table.rows)
    rows = ["".join(cell("td", i, text, mark) for i, text in enumerate(row)) for row, mark in zip(table.rows, marks, strict=True)]
    inner = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{inner}</tbody></table></div>'


def _plots(results: Results, colours: dict[str, int]) -> str:
    legend = "".join(f"<li>{_swatch(index)}{escape(name)}</li>" for name, index in colours.items())
    figures = "".join(f"<figure>{plots.draw(results.arms, axis, colours)}</figure>" for axis in plots.AXES)
    return f'<ul class="legend">{legend}</ul><div class="plots">{figures}</div>'


def _swatch(index: int) -> str:
    return f'<i class="swatch" style="background: var(--arm-{index % plots.NUM_COLOURS})"></i>'
