"""Compression in the report of a comparison: in-context curves, model size against data size, vocabularies. Nothing is measured here.

    sections(results, analysis, groups(results))

Each plot is there where its question is: lengths of chunks where there are several; adjusted rates where any cell has rates; vocabularies
where three or more of SentencePiece stand beside each other (bytes are the smallest).
"""

from __future__ import annotations

from collections.abc import Sequence

from eval import plots_compression, report_grid
from eval.compression_points import ClassicalPoint, Point, Rate, classical, measured, missing, points
from eval.compression_tables import best_lines, chunks_table, sizes_table, vocabulary_table
from eval.grid_analysis import Analysis
from eval.plots_compression import Line, Model
from eval.report_groups import Group
from eval.results import Results
from proxy_lm.report import Section, si

_FEWEST_VOCABULARIES = 3


def sections(results: Results, analysis: Analysis, shown: Sequence[Group]) -> list[Section]:
    """All of them."""
    return [*context(results, analysis, shown), *sizes(results, analysis, shown), *vocabularies(results, analysis, shown)]


def context(results: Results, analysis: Analysis, shown: Sequence[Group]) -> list[Section]:
    """Rate against the length of chunks: arms beside each other at each scale and budget, or the scales of the only arm."""
    found = [point for point in points(results, shown) if len(point.lengths) > 1]
    if not found:
        return []
    others, num_bytes, split = classical(results), *measured(results)[::2]
    names, drawn = _arms(found), report_grid.drawn(analysis, shown)
    parts: list[tuple[str, list[Line]]] = []
    if len(names) == 1:
        parts.append((names[0], [Line(point.group or point.arm, k, point.lengths) for k, point in enumerate(found)]))
    else:
        for group in dict.fromkeys(point.group for point in found):
            mine = [point for point in found if point.group == group and point.arm in drawn]
            parts.append((group, [Line(point.arm, drawn.index(point.arm), point.lengths) for point in mine]))

    def figures() -> list[str]:
        title = "compression rate against chunk length"
        return [plots_compression.against_length(f"{title}{f': {name}' if name else ''}", lines, others) for name, lines in parts]

    text = [
        f"Coded bytes in percent of {num_bytes:,} bytes of the {split} split, cut into chunks that are each coded alone: what a longer "
        f"context brings. Chunks begin anywhere in a document. {_seeds(found)}A code is whole bytes, so that short chunks cost about half "
        "a byte each beyond what the model says; that, its information content, stands in brackets.",
        *_said_of(parts),
        *_said_of_classical(others),
        *_said_of_missing(results),
    ]
    return [Section("Compression: rate against chunk length", text, chunks_table(found, others), figures=figures, large=True, legend=False)]


def sizes(results: Results, analysis: Analysis, shown: Sequence[Group]) -> list[Section]:
    """Adjusted rates against the size of the data: which model, and whether any, is worth its bytes."""
    found = points(results, shown)
    if not found:
        return []
    others, (_, data_bytes, _) = classical(results), measured(results)
    names, drawn = _arms(found), report_grid.drawn(analysis, shown)
    parts: list[tuple[str, list[Model]]] = []
    of_groups = list(dict.fromkeys(point.group for point in found))
    if len(of_groups) < len(names):
        for group in of_groups:
            mine = [point for point in found if point.group == group and point.arm in drawn]
            parts.append((group, [Model(point.arm, drawn.index(point.arm), point) for point in mine]))
    else:
        for name in [name for name in names if name in drawn]:
            mine = [point for point in found if point.arm == name]
            parts.append((name if len(names) > 1 else "", [Model(point.group or name, k, point) for k, point in enumerate(mine)]))

    def figures() -> list[str]:
        title = "adjusted rate against data size"
        made = [(f"{title}{f': {name}' if name else ''}", models) for name, models in parts]
        return [plots_compression.against_data(name, models, others, data_bytes) for name, models in made]

    text = [
        "Raw rate plus the model at 2 bytes a parameter (in brackets: the bytes of its weights as they are), shared by so many bytes of "
        "data. The size of the data is thought of: every model's raw rate is that of the bytes measured, whatever the size. A model "
        f"trained for longer costs as many bytes and codes in fewer. {_seeds(found)}Cut off above {plots_compression.MOST_PERCENT:g} %.",
        *_said_of([(name, []) for name, _ in parts]),
        *_said_of_classical(others, whole=True),
        *_said_of_missing(results),
    ]
    lines = best_lines(found, others, data_bytes)
    table = sizes_table(found, others, data_bytes)
    title = "Compression: model size against data size"
    return [Section(title, text, table, figures=figures, large=True, legend=False, points=lines)]


def vocabularies(results: Results, analysis: Analysis, shown: Sequence[Group]) -> list[Section]:
    """Raw rate against the number of symbols."""
    found = [point for point in points(results, shown) if point.of_vocabulary]
    if len({point.alphabet for point in found}) < _FEWEST_VOCABULARIES:
        return []
    lines = []
    for k, group in enumerate(dict.fromkeys(point.group for point in found)):
        mine: dict[int, Rate] = {point.alphabet: point.raw for point in found if point.group == group}
        lines.append(Line(group or "rate", k, mine))
    paid = ", so that a larger vocabulary pays for its output matrix with fewer steps" if results.match["kind"] == "flops" else ""
    text = [
        f"Raw rate in chunks of {max(found[0].lengths):,} bytes against the vocabulary: bytes, and byte pair encodings of SentencePiece. "
        f"At equal {results.match['kind']}{paid}. {_seeds(found)}A chunk is encoded alone; no piece goes beyond it.",
    ]
    table = vocabulary_table(found)

    def figures() -> list[str]:
        return [plots_compression.against_vocabulary("compression rate against vocabulary", lines)]

    return [Section("Compression: rate against vocabulary", text, table, figures=figures, large=True, legend=False)]


def _arms(found: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.arm for point in found))


def _seeds(found: Sequence[Point]) -> str:
    return "Means of seeds, with a range from the lowest to the highest. " if any(point.num_seeds > 1 for point in found) else ""


def _said_of(parts: Sequence[tuple[str, Sequence[Line]]]) -> list[str]:
    return [f"One plot each: {', '.join(name for name, _ in parts)}."] if len(parts) > 1 else []


def _said_of_classical(others: Sequence[ClassicalPoint], *, whole: bool = False) -> list[str]:
    if not others:
        return []
    if not whole:
        return ["Dashed: classical compressors on the same chunks, the header of a format (its code of one zero byte) counted once."]
    return [
        f"Dashed: classical compressors on the first bytes of the split, whole, so that they look back at all of them; dotted: beyond "
        f"{si(max(others[0].whole))}B they were not measured."
    ]


def _said_of_missing(results: Results) -> list[str]:
    found = missing(results)
    return [f"Not measured: {'; '.join(found)}."] if found else []
