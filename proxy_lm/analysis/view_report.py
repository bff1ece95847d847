"""The report of `proxy-lm compressor analyse`, made from its `results.json` alone: `report.md`, and `report.html` with the plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressors.files import write_bytes
from proxy_lm import plotting
from proxy_lm.analysis.told import JSON
from proxy_lm.report import Content, Section, Table, html, markdown, number, si


def write(results: JSON, folder: Path) -> None:
    """Write both files."""
    report = content(results)
    names = [*results["views"], *results["models"]]
    write_bytes(folder / "report.md", markdown(report).encode())
    write_bytes(folder / "report.html", html(report, names).encode())


def content(results: JSON) -> Content:
    """What the report says; an analysis that was not asked for has no section."""
    sections = [_density(results), _languages(results), _resynchronisation(results), _stability(results)]
    sections += [_uniformity(results), _transparency(results), _collisions(results), _reset_loss(results)]
    languages = ", ".join(results["languages"])
    return Content(
        "Views of a corpus",
        f"{results['num_documents']:,} documents ({si(results['num_bytes'])}B, {languages}) of split {results['split']}, "
        f"corpus {results['corpus_digest'][:16]}.",
        [section for section in sections if section is not None] + [_limits()],
    )


def overview(results: JSON) -> Table:
    """One row a view: the numbers one would choose by. The same table is printed on the terminal."""
    columns = ["view", "symbols", "bytes a symbol", "unigram bits a byte", "bytes to agree again", "p99", "moved by deletion"]
    rows = []
    for label, view in results["views"].items():
        found = view["analyses"]
        density, again = found.get("density", {}), found.get("resynchronisation", {})
        after = again.get("bytes_after") or {}
        rows.append(
            [
                label,
                f"{view['alphabet_size']:,}",
                number(density.get("bytes_per_symbol"), 3),
                number(density.get("unigram_bits_per_byte"), 3),
                number(after.get("median"), 0),
                number(after.get("p99"), 0),
                number(found.get("stability", {}).get("deletion", {}).get("mean"), 3),
            ]
        )
    return Table(columns, rows)


def _of(results: JSON, name: str) -> dict[str, JSON]:
    """This analysis of every view that has it."""
    return {label: view["analyses"][name] for label, view in results["views"].items() if name in view["analyses"]}


def _names(results: JSON) -> dict[str, int]:
    return {name: index for index, name in enumerate([*results["views"], *results["models"]])}


def _density(results: JSON) -> Section | None:
    found = _of(results, "density")
    text = [
        "Bytes a symbol stands for, and what a byte costs when nothing but the frequencies of symbols in this sample is known. Bytes to "
        "agree again: after one byte is inserted or deleted, how many bytes after it the symbols are the same again to the end. Moved by "
        "deletion: distance of the symbols, 0 to 1, when a tenth of the characters is deleted.",
    ]
    if not found:
        return Section("Overview", [], overview(results)) if results["views"] else None
    refused = {label: one["num_raw_only"] for label, one in found.items() if one["num_raw_only"]}
    if refused:
        text.append("Documents refused, and left out: " + ", ".join(f"{label} {count:,}" for label, count in refused.items()) + ".")
    prefixes = [label for label, one in found.items() if one["by_position"]["how"] == "prefixes"]
    if prefixes:
        text.append(
            f"By position, {', '.join(prefixes)}: symbols stand for no stretch of bytes, so prefixes of documents are encoded instead."
        )

    def figures() -> list[str]:
        names = _names(results)

        def by_position(plot: Any) -> None:
            for label, one in found.items():
                place = one["by_position"]
                points = [
                    (max(8, start), value) for start, value in zip(place["from_bytes"], place["bytes_per_symbol"], strict=True) if value
                ]
                plot.plot(*zip(*points, strict=True), color=plotting.colour(names[label]), marker="o", markersize=3.5, linewidth=1.6)
            plot.set_xscale("log", base=2)
            plot.xaxis.set_major_formatter("{x:g}")
            plot.set_xlabel("position in the document, bytes")
            plot.set_ylabel("bytes a symbol")
            plot.set_ylim(bottom=0)

        drawn = [plotting.draw("bytes a symbol by position in the document", by_position)]
        moved = {label: one["deletion"]["mean"] for label, one in _of(results, "stability").items() if one["deletion"]["mean"] is not None}
        if moved:

            def frontier(plot: Any) -> None:
                for label, value in moved.items():
                    if label in found and found[label]["bytes_per_symbol"]:
                        plot.plot(found[label]["bytes_per_symbol"], value, "o", color=plotting.colour(names[label]), markersize=8)
                plot.set_xlabel("bytes a symbol")
                plot.set_ylabel("moved when 10 % are deleted")
                plot.set_ylim(0, 1.02)
                plot.set_xlim(left=0)

            drawn.append(plotting.draw("density against stability", frontier))
        return drawn

    return Section("Overview", text, overview(results), figures=figures)


def _languages(results: JSON) -> Section | None:
    found = _of(results, "density")
    if not found:
        return None
    languages = list(dict.fromkeys(language for one in found.values() for language in one["by_language"]))
    if len(languages) < 2:
        return None
    rows = []
    for language in languages:
        cells = [one["by_language"].get(language, {}) for one in found.values()]
        size = max(cell.get("told_bytes", 0) for cell in cells)
        rows.append([language, f"{size:,}", *(number(cell.get("bytes_per_symbol"), 3) for cell in cells)])
    return Section("Bytes a symbol by language", [], Table(["language", "size in bytes", *found], rows))


def _resynchronisation(results: JSON) -> Section | None:
    found = {label: one for label, one in _of(results, "resynchronisation").items() if one.get("num_edits")}
    if not found:
        return None
    first = next(iter(found.values()))
    rows = []
    for label, one in found.items():
        after, before, changed = (one.get(key) or {} for key in ("bytes_after", "bytes_before", "symbols"))
        row = [label, *(number(after.get(q), 0) for q in ("median", "p90", "p99")), number(before.get("p99"), 0)]
        rows.append([*row, *(number(changed.get(q), 0) for q in ("median", "p90", "p99")), f"{100 * one['never_share']:.1f} %"])
    columns = ["view", "bytes after: median", "p90", "p99", "bytes before: p99", "symbols changed: median", "p90", "p99", "never"]
    text = [
        f"{first['num_edits']:,} edits of one byte, half insertions and half deletions, in stretches of {first['stretch_bytes']:,} bytes. "
        "Bytes after: from the edit to the place from which on all symbols are equal. Never: not before the stretch ends.",
    ]
    with_curves = {label: one["cumulative"] for label, one in found.items() if "cumulative" in one}

    def figures() -> list[str]:
        def fill(plot: Any) -> None:
            for label, one in with_curves.items():
                plot.plot([max(0.5, b) for b in one["bytes"]], one["share"], color=plotting.colour(_names(results)[label]), linewidth=1.8)
            plot.set_xscale("log", base=2)
            plot.xaxis.set_major_formatter("{x:g}")
            plot.set_xlabel("bytes after the edit (0 drawn at 1/2)")
            plot.set_ylabel("share of edits over")
            plot.set_ylim(0, 1.02)

        return [plotting.draw("share of edits after which the symbols agree again", fill)]

    return Section("After an edit", text, Table(columns, rows), figures=figures if with_curves else None)


def _stability(results: JSON) -> Section | None:
    found = {label: one for label, one in _of(results, "stability").items() if one["num_pairs"]}
    if not found:
        return None
    first = next(iter(found.values()))
    rows = [
        [label, *(number(one["prefix_distance"][q], 3) for q in ("mean", "median", "p90")), number(one["deletion"]["mean"], 3)]
        for label, one in found.items()
    ]
    text = [
        f"{first['num_prefixes']} words of the sample, each put before one fixed text of {first['fixed_text_bytes']} bytes: normalised "
        f"Levenshtein distance between all {first['num_pairs']:,} pairs of tellings. In bytes it is "
        f"{number(first['prefix_distance_of_bytes']['mean'], 3)} on average, the words themselves. Deletion: 10 % of the characters of "
        f"{first['deletion']['num_documents']} documents.",
    ]

    def figures() -> list[str]:
        def fill(plot: Any) -> None:
            for label, one in found.items():
                share = [count / max(1, one["num_pairs"]) for count in one["histogram"]]
                edges = [k / len(share) for k in range(len(share) + 1)]
                plot.stairs(share, edges, color=plotting.colour(_names(results)[label]), linewidth=1.6)
            plot.set_xlabel("distance between two prefixed texts")
            plot.set_ylabel("share of pairs")
            plot.set_xlim(0, 1)

        return [plotting.draw("distances between tellings of one text after different first words", fill)]

    return Section("Stability", text, Table(["view", "prefixes: mean", "median", "p90", "deletion of 10 %: mean"], rows), figures=figures)


def _uniformity(results: JSON) -> Section | None:
    found = _of(results, "uniformity")
    if not found:
        return None
    rows = [
        [
            label,
            f"{one['num_symbols_used']:,} of {one['alphabet_size']:,}",
            number(one["symbol_entropy_bits"], 3),
            number(one["symbol_divergence_bits"], 3),
            *(_small(one["divergence_bits"][n - 1]) for n in (1, 8, 16)),
            _small(one["even_bits_divergence_bits"][15]),
        ]
        for label, one in found.items()
    ]
    columns = ["view", "symbols used", "entropy of a symbol", "from uniform", "1 bit", "8 bits", "16 bits", "even bits, 16"]
    text = [
        "Divergence from the uniform distribution in bits, with the correction of Miller and Madow: of whole symbols, and of the symbols "
        "written as bits and cut into pieces. Lower is more even. Even bits: what a random generator gives for as many bits.",
    ]

    def figures() -> list[str]:
        def fill(plot: Any) -> None:
            for label, one in found.items():
                points = [(n, v) for n, v in zip(one["piece_bits"], one["divergence_bits"], strict=True) if v is not None and v > 1e-7]
                if points:
                    plot.plot(*zip(*points, strict=True), color=plotting.colour(_names(results)[label]), marker="o", markersize=3.5)
            even = next(iter(found.values()))
            points = [
                (n, v) for n, v in zip(even["piece_bits"], even["even_bits_divergence_bits"], strict=True) if v is not None and v > 1e-7
            ]
            if points:
                plot.plot(*zip(*points, strict=True), color=plotting.INK, linestyle=":", linewidth=1.4)
            plot.set_yscale("log")
            plot.set_xlabel("bits of a piece (dotted: even bits)")
            plot.set_ylabel("divergence from uniform, bits")

        return [plotting.draw("divergence from uniform by piece size", fill)]

    return Section("Uniformity", text, Table(columns, rows), figures=figures)


def _transparency(results: JSON) -> Section | None:
    found = _of(results, "transparency")
    if not found:
        return None
    rows = [
        [
            label,
            f"{one['attested_symbols']:,}",
            _share(one["repeated_share"]),
            number(one.get("texts_per_symbol"), 2),
            _share(one.get("main_text_share")),
            number(one.get("tellings_per_word"), 2),
        ]
        for label, one in found.items()
    ]
    text = [
        "Symbols seen in 20 documents of 1,024 bytes and the share of them seen more than once; texts a symbol stands for over the sample, "
        "and how often it stands for its most frequent one; different tellings among 20 occurrences of each of the most frequent words.",
    ]
    columns = ["view", "symbols seen", "more than once", "texts a symbol", "its main text", "tellings of a word"]
    return Section("Transparency", text, Table(columns, rows))


def _collisions(results: JSON) -> Section | None:
    found = _of(results, "collisions")
    if not found:
        return None
    rows = [
        [
            label,
            f"{one['exact_documents']:,} of {one['num_documents']:,}",
            number(one["document_prefix_share"], 3),
            _share(one.get("wrong_window_share")),
            _share(one.get("colliding_window_share")),
            number(one.get("prefix_ratio"), 3),
            _share(one.get("prefix_ratio_at_least_0.8")),
        ]
        for label, one in found.items()
    ]
    columns = ["view", "came back", "beginning kept", "windows decoded wrong", "windows that collide", "common prefix", "at least 0.8"]
    text = [
        "Documents that decode to themselves. For views that do not promise it: how much of a document's beginning is right, windows whose "
        "symbol decodes to another text, windows whose symbol stands for another text elsewhere, and the common prefix of such texts over "
        "the longer one.",
    ]
    return Section("Coming back", text, Table(columns, rows))


def _reset_loss(results: JSON) -> Section | None:
    found = {label: one["reset_loss"] for label, one in results["models"].items() if one["reset_loss"]["num_stretches"]}
    if not found:
        return None
    places = (0, 1, 2, 3, 4, 8, 16, 32, 63)
    rows = [[label, *(number(one["bits_per_byte"][p], 3) for p in places)] for label, one in found.items()]

    def figures() -> list[str]:
        def fill(plot: Any) -> None:
            for label, one in found.items():
                plot.plot(one["bits_per_byte"], color=plotting.colour(_names(results)[label]), linewidth=1.8)
            plot.set_xlabel("bytes since the reset")
            plot.set_ylabel("bits per byte")
            plot.set_ylim(bottom=0)

        return [plotting.draw("bits per byte by position after a reset", fill)]

    text = ["Bits per byte of a byte model at a position after a reset; window codes live in the first few."]
    return Section("Byte models after a reset", text, Table(["model", *(f"byte {p}" for p in places)], rows), figures=figures)


def _limits() -> Section:
    return Section(
        "What is not claimed",
        [
            "Not claimed: that a dense, stable or even view is one a model learns from; probes and comparisons ask that.",
            "Frequencies and texts are of this sample; unigram bits are charged to the symbols they were counted on, which flatters large "
            "alphabets in small samples.",
        ],
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def print_table(table: Table, heading: Sequence[str] | None = None) -> None:
    """A table of a report on the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Terminal
    from rich.text import Text

    shown = Terminal(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(heading or table.columns):
        shown.add_column(name, justify="left" if index in table.left else "right", overflow="fold", no_wrap=index == 0)
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)
