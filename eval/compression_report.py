"""A compression table in Markdown and for a terminal. The numbers are those of `eval.compression`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

BLOCKS: Final = (("raw", ""), ("adjusted", "adj. "), ("adjusted_real", "adj. real "))
"""Key of a rate, and what stands before a data set's name in the head of its column."""
_TITLES: Final = {
    "raw": "raw",
    "adjusted": "adjusted: 2 bytes a parameter (classical compressors: as raw)",
    "adjusted_real": "adjusted: bytes of the weights (classical compressors: as raw)",
}
_GROUPS: Final = ("classical", "next-byte", "model")
_GAP: Final = 2
"""Between columns on a terminal."""


class Cells(NamedTuple):
    """Text of a table: a head and rows, the first `num_left` columns to the left."""

    head: list[str]
    rows: list[list[str]]
    num_left: int


def rate_cells(
    result: dict[str, Any], blocks: Sequence[tuple[str, str]] = BLOCKS, names: Sequence[str] = (), groups: Sequence[str] = _GROUPS
) -> Cells:
    """The table of the source: chunk size, compressor, then the data sets (those named, or all) block by block."""
    names = names or [data["name"] for data in result["data"]]
    head = ["chunk", "compressor", *(f"{before}{name}" for _, before in blocks for name in names)]
    rows = []
    for row in in_order(result["rows"], groups):
        numbers = [_percent(row["cells"].get(name), key) for key, _ in blocks for name in names]
        rows.append([chunk_of(row), label(row), *numbers])
    return Cells(head, rows, 2)


def coding_cells(result: dict[str, Any]) -> Cells:
    """Of each model and data set: chunks that it told itself, what the probabilities say, what the coder made of it, chunks that were
    decoded and found equal, speed of encoding."""
    head = ["chunk", "model", "data", "by model", "information", "coded", "more, %", "equal", "kB/s"]
    rows = []
    for row in in_order(result["rows"], ("model",)):
        for name, cell in row["cells"].items() if row["accounting"] != "scaled" else ():  # as many bytes as with lost bits appended
            content = cell["information_bits"] / 8
            more = f"{100 * (cell['coded_bytes'] / content - 1):.3f}" if content else "-"
            speed = f"{cell['num_bytes'] / max(cell['encode_seconds'], 1e-9) / 1e3:.1f}"
            by_model, equal = (f"{cell[key]:,} of {cell['num_chunks']:,}" for key in ("num_by_model", "num_verified"))
            told = [chunk_of(row), f"{row['name']}{', 7 bit' if row['seven_bit'] else ''}", name, by_model]
            rows.append([*told, f"{content:,.1f}", f"{cell['coded_bytes']:,}", more, equal, speed])
    return Cells(head, rows, 3)


def model_cells(result: dict[str, Any]) -> Cells:
    """The models: what an adjusted rate charges."""
    head = ["model", "kind", "parameters", "weights, bytes", "decodes", "weights (sha256)"]
    rows = []
    for model in result["models"]:
        same = "anywhere" if model["portable"] else "here"
        numbers = [f"{model['num_parameters']:,}", f"{model['num_parameter_bytes']:,}", same]
        rows.append([model["name"], kind_of(model["identity"]), *numbers, str(model["identity"]["fingerprint"])[:16]])
    return Cells(head, rows, 2)


def data_cells(result: dict[str, Any]) -> Cells:
    """The data sets."""
    head = ["data", "kind", "from", "bytes", "sha256"]
    rows = [[data["name"], data["kind"], data["source"], f"{data['num_bytes']:,}", data["digest"][:16]] for data in result["data"]]
    return Cells(head, rows, 3)


def next_byte_lines(result: dict[str, Any]) -> list[str]:
    """Compressors asked for the next byte, beside what they need themselves."""
    lines = []
    for row in result["rows"]:
        for name, cell in row["cells"].items() if row["group"] == "next-byte" else ():
            own = cell["own_bits"] / cell["num_bytes"]
            lines.append(f"{row['name']}, {name}: {cell['information_bits'] / cell['num_bytes']:.3f} bits a byte; itself {own:.3f}")
    return lines


def verdict_lines(result: dict[str, Any]) -> list[str]:
    """One sentence a model, chunk size and data set."""
    lines = []
    for found in result["verdicts"]:
        total = len(found["beats"]) + len(found["does_not_beat"])
        if found["beats"] and not found["does_not_beat"]:
            said = f"less than all {total} classical compressors"
        elif not found["beats"]:
            said = f"less than none of {total} classical compressors"
        else:
            said = f"less than {', '.join(found['beats'])}; not than {', '.join(found['does_not_beat'])}"
        best = "" if found["best"] is None else f" (the best: {found['best']}, {found['best_raw']:.1f} %)"
        who = label(found | {"name": found["row"]})
        if found["num_by_model"] < found["num_chunks"]:
            who += f" ({found['num_by_model']:,} of {found['num_chunks']:,} chunks told by the model itself)"
        lines.append(f"{found['data']}, chunks of {found['chunk_bytes']:,}: {who} {found['raw']:.1f} %, {said}{best}")
    return lines


def notes(result: dict[str, Any]) -> list[str]:
    """How the numbers are to be read."""
    settings = result["settings"]
    over = "the bytes measured" if settings["adjusted_for"] is None else f"{settings['adjusted_for']:,} bytes of data"
    lines = [
        "Percent of the raw size, smaller is better. Each chunk is coded alone; a format's header is counted once, its estimate being the "
        "coded size of one zero byte.",
    ]
    if result["models"]:
        lines += [
            f"adj.: with the model at 2 bytes a parameter; adj. real: with the bytes of its weights as they are; both over {over}.",
            "Codes of models are arithmetic codes without lengths or checksums; proxy-lm compress tells the size of a file with them.",
        ]
        lines += told_otherwise(result)
    if settings["seven_bit"]:
        lines.append(
            "7 bit: bytes of 128 and more lose their top bit in text and code, all others their lowest; one lost bit each. Appended: (code "
            "+ lost bits) / raw bits, as the paper says. Scaled: code / raw bits x raw bits / (raw bits - lost bits), as its code does."
        )
    if settings["next_byte"]:
        lines.append(
            "next byte: a compressor as a model of one byte more; its information content, nothing is coded. Matches of many bytes "
            "hardly show in it, so it can be far above what the compressor needs itself; on short data it can be below, where the format's "
            "own bytes count."
        )
    return lines


def told_otherwise(result: dict[str, Any]) -> list[str]:
    """Of each model the data sets of which it did not tell all chunks itself."""
    lines = []
    for row in in_order(result["rows"], ("model",)):
        cells = row["cells"].items() if row["accounting"] != "scaled" else ()
        found = [
            f"{name} {cell['num_by_model']:,} of {cell['num_chunks']:,}"
            for name, cell in cells
            if cell["num_by_model"] < cell["num_chunks"]
        ]
        if found:
            who = f"{row['name']}{', 7 bit' if row['seven_bit'] else ''}, chunks of {row['chunk_bytes']:,}"
            lines.append(
                f"{who}: told by the model itself: {', '.join(found)} chunks. The others cost less by counts of their own bytes, or "
                "stored; the source has the model alone, at any price."
            )
    return lines


def markdown(result: dict[str, Any]) -> str:
    """The whole result as a page."""
    parts = ["# Compression rates", _page(rate_cells(result)), *(f"* {line}" for line in notes(result)), ""]
    parts += [f"* Not measured: {one['name']}: {one['reason']}" for one in result["unavailable"]]
    if result["verdicts"]:
        parts += ["## Models beside classical compressors, by raw rate", "", *(f"* {line}" for line in verdict_lines(result)), ""]
    if result["models"]:
        parts += ["## Models", _page(model_cells(result)), "## What the coder adds (bytes)", _page(coding_cells(result))]
    if lines := next_byte_lines(result):
        parts += ["## Compressors as models of the next byte", "", *(f"* {line}" for line in lines), ""]
    made = ", ".join(f"{name} {version or 'not installed'}" for name, version in result["versions"].items())
    parts += ["## Data", _page(data_cells(result)), f"{result['seconds']:.1f} seconds; {made}.", ""]
    return "\n".join(parts)


def show_tables(result: dict[str, Any], console: Console) -> None:
    """The same on a terminal; a table that is too wide for it is broken by block, and a block by data sets."""
    whole_table = rate_cells(result)
    if not result["models"]:
        _show_rates(result, "raw", _GROUPS, console)
    elif sum(_widths(whole_table)) <= console.width:
        console.print(_table(whole_table, in_order(result["rows"])), "")
    else:
        for key, _ in BLOCKS:
            console.print(Text(_TITLES[key], style="bold"))
            _show_rates(result, key, _GROUPS if key == "raw" else ("model",), console)
    if result["models"]:
        console.print(_table(model_cells(result)), "")
        console.print(_table(coding_cells(result)), "")
    console.print(_table(data_cells(result)), "")
    whole = {data["name"] for data in result["data"] if not data["part"]}
    shown = [one for one in result["verdicts"] if one["accounting"] is None and one["data"] in whole]
    lines = [*verdict_lines(result | {"verdicts": shown}), *next_byte_lines(result), *notes(result)]
    lines += [f"not measured: {one['name']}: {one['reason']}" for one in result["unavailable"]]
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _show_rates(result: dict[str, Any], key: str, groups: Sequence[str], console: Console) -> None:
    """One block of rates, in as many tables as it takes."""
    names = [data["name"] for data in result["data"]]
    *before, first = _widths(rate_cells(result, [(key, "")], names[:1], groups))
    widths = [first] + [_widths(rate_cells(result, [(key, "")], [name], groups))[-1] for name in names[1:]]
    while names:
        fit = max(1, sum(sum(before) + sum(widths[: num + 1]) - _GAP <= console.width for num in range(len(widths))))
        cells = rate_cells(result, [(key, "")], names[:fit], groups)
        console.print(_table(cells, in_order(result["rows"], groups)), "")
        names, widths = names[fit:], widths[fit:]


def _widths(cells: Cells) -> list[int]:
    """Of each column, the gap after it included."""
    return [max(map(len, column)) + _GAP for column in zip(cells.head, *cells.rows, strict=True)]


def in_order(rows: Sequence[dict[str, Any]], groups: Sequence[str] = _GROUPS) -> list[dict[str, Any]]:
    """Those of some groups: the whole first, then chunks by size; classical, then next-byte, then models, each as they came."""
    wanted = [row for row in rows if row["group"] in groups]
    return sorted(wanted, key=lambda row: (row["chunk_bytes"] or 0, _GROUPS.index(row["group"])))


def label(row: dict[str, Any]) -> str:
    """The name of a row, with how lost bits are counted."""
    return str(row["name"]) if row["accounting"] is None else f"{row['name']}, 7 bit, {row['accounting']}"


def chunk_of(row: dict[str, Any]) -> str:
    """As the source spells it."""
    return "none" if row["chunk_bytes"] is None else str(row["chunk_bytes"])


def kind_of(identity: dict[str, Any]) -> str:
    """What a model is and how it is asked."""
    return f"{identity['kind']}, asked in {identity['view']}" if identity.get("view") else str(identity["kind"])


def _percent(cell: dict[str, Any] | None, key: str) -> str:
    return "-" if cell is None else f"{cell[key]:,.1f}"


def _page(cells: Cells) -> str:
    def line(words: Sequence[str]) -> str:
        return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"

    rule = "|" + "|".join("---" if place < cells.num_left else "---:" for place in range(len(cells.head))) + "|"
    return "\n".join(["", line(cells.head), rule, *(line(row) for row in cells.rows), ""])


def _table(cells: Cells, rows: Sequence[dict[str, Any]] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for place, name in enumerate(cells.head):
        left = place < cells.num_left
        width = 0 if name == "from" else max((len(row[place]) for row in cells.rows), default=0)
        table.add_column(name, justify="left" if left else "right", overflow="fold", min_width=width)
    groups = [row["group"] for row in rows]
    for place, row in enumerate(cells.rows):
        table.add_row(*map(Text, row), style="bold" if groups and groups[place] == "model" else "")
    return table
