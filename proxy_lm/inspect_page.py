"""The page of `proxy-lm inspect --html`: one file, no network, the views of a document side by side.

Pointing at a symbol shows its number and its bytes and marks the same bytes in every other view. The document's text is escaped; the page
forbids itself to load anything. Views longer than `MAX_SHOWN_SYMBOLS` are cut there, and say so.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any, Final

from proxy_lm.inspect_view import label

MAX_SHOWN_SYMBOLS: Final = 6000


def page(result: Mapping[str, Any], data: bytes) -> str:
    """The whole page as text."""
    template = Template(resources.files("proxy_lm").joinpath("inspect_page.html").read_text(encoding="utf-8"))
    cut = "" if result["num_bytes"] == result["file_bytes"] else f" (the first {result['num_bytes']:,} shown)"
    return template.substitute(
        title=html.escape(result["file"]),
        size=f"{result['file_bytes']:,} bytes{cut}",
        deleted=f"{100 * result['deleted_share']:g} %",
        rows="\n".join(_row(view) for view in result["views"]),
        panels="\n".join(_panel(view, data) for view in result["views"]),
    )


def _row(view: Mapping[str, Any]) -> str:
    name = html.escape(view["view"])
    head = f"<th scope=row>{name}</th><td>{html.escape(view['kind'])}</td><td class=n>{view['alphabet_size']:,}</td>"
    if view["raw_only"]:
        return f"<tr>{head}<td colspan=5>refuses this document; it would be used raw</td></tr>"
    moved = view["distance_under_deletion"]
    numbers = [
        f"{view['num_symbols']:,}",
        _number(view["bytes_per_symbol"], 3),
        _number(view["entropy_bits"], 2),
        _number(view["entropy_bits_per_byte"], 2),
    ]
    bar = "-" if moved is None else f"<meter min=0 max=1 value={moved:.3f}></meter> {moved:.3f}"
    return f"<tr>{head}{''.join(f'<td class=n>{number}</td>' for number in numbers)}<td class=n>{bar}</td></tr>"


def _panel(view: Mapping[str, Any], data: bytes) -> str:
    symbols, borders = view["symbols"], view["borders"]
    shown = min(len(symbols), MAX_SHOWN_SYMBOLS)
    if borders is None:
        cells = [f"<i class=c{k % 4} s={symbols[k]}>{symbols[k]:02x}</i>" for k in range(shown)]
    else:
        cells = [_cell(k, symbols[k], borders[k], borders[k + 1], data) for k in range(shown)]
    about = "no symbol stands for a stretch of bytes" if borders is None and symbols else ""
    if shown < len(symbols):
        about = f"the first {shown:,} of {len(symbols):,} symbols" + (f"; {about}" if about else "")
    ratio = "raw only" if view["raw_only"] else f"{_number(view['bytes_per_symbol'], 3)} bytes a symbol"
    kind = "codes" if borders is None else "text"
    return (
        f"<section><h2>{html.escape(view['view'])} <small>{ratio}</small></h2>"
        f"<pre class={kind}>{''.join(cells)}</pre>{f'<p>{about}</p>' if about else ''}</section>"
    )


def _cell(index: int, symbol: int, start: int, end: int, data: bytes) -> str:
    piece = data[start:end]
    if not piece:
        return f"<i class='c{index % 4} e' s={symbol} a={start} b={end} h=''>·</i>"
    text = html.escape(label(piece)).replace("↵", "<u>↵</u>\n").replace("→", "<u>→</u>\t")
    return f"<i class=c{index % 4} s={symbol} a={start} b={end} h={piece[:64].hex()}>{text}</i>"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
