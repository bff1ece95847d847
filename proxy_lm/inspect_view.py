"""What views make of one document, side by side: which bytes each symbol stands for, sizes, entropy, and how far a small edit moves them.

`proxy-lm inspect FILE` calls `inspect_document` and shows the result in the terminal (`terminal`), as JSON, or as a page
(`proxy_lm.inspect_page`). A large file is cut to `max_bytes` first: this is for looking, not for measuring a corpus.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from compressors.base import Compressor
from compressors.measure import entropy_bits
from compressors.registry import fingerprint
from compressors.stability import distance_under_deletion
from proxy_lm.errors import RequestError

# The terminal's own colours, so that they fit its theme and need no more than 16; neighbours always differ.
_GROUNDS = ("cyan", "yellow", "green", "magenta")
_MARKS = {"\n": "↵", "\t": "→", "\r": "␍", "\0": "␀"}


def read_document(path: Path, max_bytes: int) -> tuple[bytes, int]:
    """The first `max_bytes` of a file and its whole size. Raises `RequestError` when it is not a readable file."""
    if max_bytes < 1:
        raise RequestError(f"--max-bytes {max_bytes} leaves nothing to look at; give 1 or more")
    if not path.is_file():
        raise RequestError(f"{path} is not a file; give the file of one document")
    try:
        with path.open("rb") as file:
            return file.read(max_bytes), path.stat().st_size
    except OSError as error:
        raise RequestError(f"could not read {path}: {error.strerror or error}") from error


def inspect_document(data: bytes, views: Mapping[str, Compressor], *, rate: float, seed: int) -> list[dict[str, Any]]:
    """One JSON object a view: its numbers, `symbols`, and `borders` in bytes (None where a symbol stands for no stretch of bytes).
    A view that refuses the document has `raw_only: true` and no symbols."""
    return [_inspect(data, name, view, rate=rate, seed=seed) for name, view in views.items()]


def label(piece: bytes) -> str:
    """Bytes for the eye: text where they are text, signs for line ends and tabs, \\xNN for the rest."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in piece)
    return "".join(_MARKS.get(c, c) if c in _MARKS or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def terminal(result: Mapping[str, Any]) -> None:
    """A table of numbers, then the beginning of the document once a view: neighbouring symbols differ in ground, or are parted by a bar
    where the terminal has no colours. A dot is a symbol that stands for nothing by itself: its bytes come with a later one."""
    console = Console()
    data = base64.b64decode(result["document_base64"])
    bar = "" if console.color_system else "|"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    headings = ["view", "kind", "alphabet", "symbols", "bytes a\nsymbol", "entropy\nbits", "bits a\nbyte", "moved"]
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < 2 else "right", no_wrap=index == 0)
    for view in result["views"]:
        numbers = [view["bytes_per_symbol"], view["entropy_bits"], view["entropy_bits_per_byte"], view["distance_under_deletion"]]
        digits = [3, 2, 2, 3]
        count = "raw only" if view["raw_only"] else str(view["num_symbols"])
        cells = ["-" if n is None else f"{n:.{d}f}" for n, d in zip(numbers, digits, strict=True)]
        table.add_row(Text(view["view"]), view["kind"], str(view["alphabet_size"]), count, *cells)
    console.print(table)
    console.print(
        f"{result['file']}: {result['num_bytes']} of {result['file_bytes']} bytes. Bits a byte: order-0 entropy of the symbols, over the "
        f"bytes. Moved: distance 0 to 1 when {100 * result['deleted_share']:g} % of the characters are deleted.\n",
        highlight=False,
        markup=False,
    )
    for view in result["views"]:
        console.print(Group(Text(view["view"], style="bold"), Padding(_coloured(view, data, result["shown_bytes"], bar), (0, 0, 1, 2))))


def _inspect(data: bytes, name: str, view: Compressor, *, rate: float, seed: int) -> dict[str, Any]:
    common = {
        "view": name,
        "kind": view.name,
        "exact": view.exact,
        "alphabet_size": view.alphabet_size,
        "fingerprint": fingerprint(view),
    }
    symbols = view.encode_batch([data])[0]
    if symbols is None:
        nothing = dict.fromkeys(
            ("num_symbols", "bytes_per_symbol", "entropy_bits", "entropy_bits_per_byte", "distance_under_deletion", "round_trip", "borders")
        )
        return {**common, "raw_only": True, **nothing, "symbols": []}
    borders = view.spans(data)
    entropy = entropy_bits(symbols)
    return {
        **common,
        "raw_only": False,
        "num_symbols": len(symbols),
        "bytes_per_symbol": len(data) / len(symbols) if len(symbols) else None,
        "entropy_bits": entropy,
        "entropy_bits_per_byte": entropy * len(symbols) / len(data) if data else None,
        "distance_under_deletion": distance_under_deletion(view, data, rate=rate, seed=seed),
        "round_trip": view.decode(symbols) == data,
        "borders": None if borders is None else borders.tolist(),
        "symbols": symbols.tolist(),
    }


def _coloured(view: Mapping[str, Any], data: bytes, num_shown_bytes: int, bar: str) -> Text:
    text = Text()
    if view["raw_only"]:
        return text.append("this view refuses the document; it would be used raw", style="italic")
    borders, symbols = view["borders"], view["symbols"]
    if borders is None:
        shown = symbols[: num_shown_bytes // 3]
        for index, symbol in enumerate(shown):
            text.append(f"{symbol:02x} ", style=f"black on {_GROUNDS[index % len(_GROUNDS)]}")
        return text.append(f"\n... {len(symbols) - len(shown)} more symbols") if len(shown) < len(symbols) else text
    for index in range(len(symbols)):
        piece = data[borders[index] : borders[index + 1]]
        if borders[index + 1] > num_shown_bytes:
            text.append(f"\n... {len(symbols) - index} more symbols")
            break
        style = f"black on {_GROUNDS[index % len(_GROUNDS)]}"
        text.append((label(piece) or "·").replace("↵", "↵\n"), style=style).append(bar)
    return text
