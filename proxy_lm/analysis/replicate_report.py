"""The report of `proxy-lm compressor replicate`, made from its `results.json` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressors.files import write_bytes
from proxy_lm import plotting
from proxy_lm.analysis.published import DIFFERS
from proxy_lm.analysis.told import JSON
from proxy_lm.report import Content, Section, Table, html, markdown, number, si

_NAMES = ("paper", "here", "exact rule")


def write(results: JSON, folder: Path) -> None:
    """Write `report.md` and `report.html`."""
    report = content(results)
    write_bytes(folder / "report.md", markdown(report).encode())
    write_bytes(folder / "report.html", html(report, _NAMES).encode())


def table(results: JSON) -> Table:
    """All rows: the paper's number, ours, and their quotient. The same table is printed on the terminal."""
    columns = ["row", "what", "unit", "paper", "here", "here/paper", "exact rule"]
    rows = []
    for row in results["rows"]:
        for unit, paper, ours, digits in _numbers(row):
            quotient = number(ours / paper, 3) if paper and ours is not None else "-"
            exact = number(row.get("exact_bytes_per_symbol") if unit == "bytes a symbol" else None, digits)
            rows.append([row["row"], row["what"], unit, number(paper, digits), number(ours, digits), quotient, exact])
    return Table(columns, rows, frozenset({0, 1, 2}))


def content(results: JSON) -> Content:
    """What the report says."""
    model = results["model"]
    told = "counted from the train split" if model["folder"] is None else f"from folder {model['folder']}"
    checks = Table(
        ["check", "holds", "measured"],
        [[one["check"], "yes" if one["holds"] else "no", one["detail"]] for one in results["checks"]],
        frozenset({0, 1, 2}),
    )
    rows = list(dict.fromkeys(row["row"] for row in results["rows"]))
    sections = [
        Section("Row by row", [DIFFERS["all"]], table(results)),
        Section("Bytes a symbol", [], figures=lambda: [_plot(results, 8), _plot(results, 16)]),
        *([Section("Checks", ["All but the one of gzip must hold on any text."], checks)] if results["checks"] else []),
        Section("What differs, and why", [f"{row}: {DIFFERS[row]}" for row in rows]),
    ]
    return Content(
        "Replication: training over neurally compressed text, the compressors",
        f"{results['num_documents']:,} documents ({si(results['num_bytes'])}B) of split {results['split']}, corpus "
        f"{results['corpus_digest'][:16]}. Byte model '{model['kind']}', {told}, fingerprint {model['fingerprint'][:16]}. "
        "Paper: arXiv 2404.03626.",
        sections,
    )


def _numbers(row: JSON) -> list[tuple[str, float | None, float | None, int]]:
    """(unit, paper, ours, digits) of each number of a row."""
    paper = row["paper"]
    if row["row"] == "A1":
        return [("bits per byte", paper["bits_per_byte"], row["bits_per_byte"], 3)]
    if row["row"] == "A7":
        share = row["exact_examples"] / row["num_examples"] if row["num_examples"] else None
        found: list[tuple[str, float | None, float | None, int]] = [("share of examples", paper["exact_share"], share, 3)]
        if row["wrong_window_share"] is not None:
            found.append(("windows decoded wrong", None, row["wrong_window_share"], 3))
            found.append(("common prefix of colliding texts", None, row["prefix_ratio"], 3))
        return found
    found = [("bytes a symbol", paper["bytes_per_symbol"], row["bytes_per_symbol"], 3)]
    if row["row"] == "A30":
        strings, ratio = row["stand_in"] or (None, None)
        beside = ", beside a stand-in" if ratio else ""
        return [(f"bytes a symbol{beside}", ratio, row["bytes_per_symbol"], 3), (f"strings{beside}", strings, row["alphabet_size"], 0)]
    if paper.get("unigram_bits_per_byte") is not None:
        found.append(("A21: uniform bits per byte", paper["uniform_bits_per_byte"], row["uniform_bits_per_byte"], 3))
        found.append(("A21: unigram bits per byte", paper["unigram_bits_per_byte"], row["unigram_bits_per_byte"], 3))
    return found


def _plot(results: JSON, symbol_bits: int) -> str:
    rows = [row for row in results["rows"] if row.get("symbol_bits") == symbol_bits and row["paper"].get("bytes_per_symbol")]

    def fill(plot: Any) -> None:
        for index, row in enumerate(rows):
            place = len(rows) - index
            plot.plot(row["paper"]["bytes_per_symbol"], place, "o", color=plotting.colour(0), markersize=6)
            plot.plot(row["bytes_per_symbol"], place, "D", color=plotting.colour(1), markersize=6)
            if row["exact_bytes_per_symbol"]:
                plot.plot(row["exact_bytes_per_symbol"], place, "|", color=plotting.colour(2), markersize=11, markeredgewidth=2.5)
        plot.set_yticks([len(rows) - k for k in range(len(rows))], [_short(row["what"]) for row in rows], fontsize=8)
        plot.set_xlabel(f"bytes a symbol, {symbol_bits}-bit symbols")
        plot.set_xlim(left=0)

    return plotting.draw(
        f"bytes a symbol, paper and here, {symbol_bits}-bit symbols", fill, width=5.6, height=0.9 + 0.26 * max(4, len(rows))
    )


def _short(what: str) -> str:
    for words in (", 8-bit symbols", ", 16-bit symbols", ", model and coder reset"):
        what = what.replace(words, "")
    return what
