"""Tables of compression rates, for reports and for the READMEs. The numbers are those of `eval.compression_points`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from eval.compression_points import ClassicalPoint, Point, Rate, classical, measured, points
from eval.grid_analysis import Analysis
from eval.results import Results
from proxy_lm.errors import RequestError
from proxy_lm.report import Table, si


def refuse_options(options: Mapping[str, str]) -> None:
    """Raise `RequestError` for any option, in a table that has none."""
    if options:
        raise RequestError(f"option '{next(iter(options))}' is none of this table; it has none")


def at_places(columns: Sequence[str], rows: Sequence[Sequence[str]], num_left: int) -> Table:
    """A table whose first column is the scale and budget of each row, `num_left` columns aligned left; without that column where no row
    has any."""
    if any(row[0] for row in rows):
        return Table(columns, [[row[0] or "-", *row[1:]] for row in rows], frozenset(range(num_left)))
    return Table(columns[1:], [row[1:] for row in rows], frozenset(range(num_left - 1)))


def _asked(options: Mapping[str, str], found: Sequence[Point]) -> None:
    refuse_options(options)
    if not found:
        raise RequestError("this comparison was not asked for 'compression', or has no models for this table")


def chunks(results: Results, analysis: Analysis, options: Mapping[str, str]) -> tuple[str, Table]:
    """Compression rates by length of chunks."""
    found = points(results)
    _asked(options, found)
    num_bytes, _, split = measured(results)
    text = f"Percent of {num_bytes:,} bytes of the {split} split in chunks of so many bytes, each coded alone (information content)."
    return text, chunks_table(found, classical(results))


def sizes(results: Results, analysis: Analysis, options: Mapping[str, str]) -> tuple[str, Table]:
    """Compression rates by size of data."""
    found = points(results)
    _asked(options, found)
    text = (
        "Percent of the raw size with the model at 2 bytes a parameter (bytes of its weights), its raw rate that of the bytes measured; "
        "classical compressors whole."
    )
    return text, sizes_table(found, classical(results), measured(results)[1])


def vocabularies(results: Results, analysis: Analysis, options: Mapping[str, str]) -> tuple[str, Table]:
    """Compression rates by vocabulary."""
    found = [point for point in points(results) if point.of_vocabulary]
    _asked(options, found)
    text = f"Raw rate in chunks of {max(found[0].lengths):,} bytes."
    return text, vocabulary_table(found)


def chunks_table(found: Sequence[Point], others: Sequence[ClassicalPoint]) -> Table:
    """A row an arm at a scale and budget, then classical compressors; a column a length."""
    lengths = sorted({size for point in found for size in point.lengths})
    rows = []
    for point in found:
        cells = [
            f"{point.lengths[size].mean:.1f} ({point.information[size].mean:.1f})" if size in point.lengths else "-" for size in lengths
        ]
        rows.append([*_names(point, found), str(point.num_seeds), *cells])
    names = _columns(found)
    rows += [[one.name, *["-"] * len(names), *(_of(one.lengths, size) for size in lengths)] for one in others]
    return Table([*names, "seeds", *(f"{size:,}" for size in lengths)], rows, frozenset(range(len(names))))


def sizes_table(found: Sequence[Point], others: Sequence[ClassicalPoint], data_bytes: Sequence[int]) -> Table:
    """A row a model, then classical compressors whole; a column a size of data."""
    rows = []
    for point in found:
        cells = [f"{_percent(point.adjusted(size).mean)} ({_percent(point.adjusted(size, real=True).mean)})" for size in data_bytes]
        rows.append([*_names(point, found), si(point.num_parameters), _range(point.raw), *cells])
    names = _columns(found)
    rows += [[one.name, *["-"] * (len(names) + 1), *(_of(one.whole, size) for size in data_bytes)] for one in others]
    columns = [*names, "parameters", "raw, %", *(f"{si(size)}B" for size in data_bytes)]
    return Table(columns, rows, frozenset(range(len(names))))


def vocabulary_table(found: Sequence[Point]) -> Table:
    """A row a vocabulary; of each scale and budget the raw rate and the parameters."""
    groups = list(dict.fromkeys(point.group for point in found))
    rows = []
    for size in sorted({point.alphabet for point in found}):
        at = {point.group: point for point in found if point.alphabet == size}
        rates = [_range(at[group].raw) if group in at else "-" for group in groups]
        rows.append([f"{size:,}", *rates, *(si(at[group].num_parameters) if group in at else "-" for group in groups)])
    before = [f"{group}: " if group else "" for group in groups]
    return Table(["symbols", *(f"{name}raw, %" for name in before), *(f"{name}parameters" for name in before)], rows)


def best_lines(found: Sequence[Point], others: Sequence[ClassicalPoint], data_bytes: Sequence[int]) -> list[str]:
    """A sentence a size of data: the model with the smallest adjusted rate, and the best classical compressor."""
    lines = []
    for size in data_bytes:
        best = min(found, key=lambda point: point.adjusted(size).mean)
        rate = best.adjusted(size)
        line = f"{si(size)}B: {', '.join(_names(best, found))} with {_percent(rate.mean)} %"
        if others:
            other = min(others, key=lambda one: one.at(size))
            beyond = "" if size in other.whole else f" (of {si(max(s for s in other.whole if s <= size or s == min(other.whole)))}B)"
            word = "less than" if rate.high < other.at(size) else "more than" if rate.low > other.at(size) else "seeds on both sides of"
            line += f", {word} {other.name}'s {other.at(size):.1f} %{beyond}"
        lines.append(line + ".")
    return lines


def _columns(found: Sequence[Point]) -> list[str]:
    """What tells the models apart: their arms, their scales, or both."""
    several = len({point.arm for point in found}) > 1, len({point.group for point in found}) > 1
    return [name for name, wanted in zip(("arm", "scale"), several, strict=True) if wanted] or ["arm"]


def _names(point: Point, found: Sequence[Point]) -> list[str]:
    return [point.arm if column == "arm" else point.group for column in _columns(found)]


def _range(rate: Rate) -> str:
    return f"{rate.mean:.2f}" if rate.low == rate.high else f"{rate.mean:.2f} ({rate.low:.2f} to {rate.high:.2f})"


def _percent(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _of(values: Mapping[int, float], size: int) -> str:
    return f"{values[size]:.1f}" if size in values else "-"


KINDS: Final[Mapping[str, Callable[[Results, Analysis, Mapping[str, str]], tuple[str, Table]]]] = {
    "chunks": chunks,
    "sizes": sizes,
    "vocabularies": vocabularies,
}
"""For `eval.table_kinds`."""
