"""The tables that `proxy-lm-eval robustness` prints from its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.table import Table

Row = Mapping[str, Any]


def tables(result: Row) -> Iterator[Table]:
    """For each way of telling prompts: pass@k where programs were made, bits of problems, bits of held-out files."""
    for way, found in result["prompts"].items():
        about = f"{result['dataset']['name']}, prompts {way}"
        if found["all"]["pass"] is not None:
            yield _passes(about, found)
        yield _bits_table(f"{about}: bits per byte of the reference", "tasks", found, lambda row: (row["num_changed_tasks"], row["bits"]))
    for way in result["prompts"] if result["files"] else ():
        about = f"held-out files ({result['files']['num_files']}), prompts {way}: bits per byte of what follows"
        yield _bits_table(about, "prompts", result["files"][way], lambda row: (row["num_prompts"], row))


def _rows(found: Row) -> Iterator[tuple[str, Row, bool]]:
    yield "all", found["all"], True
    families = found["families"]
    named = found["perturbations"]
    for family, row in families.items():
        yield family, row, True
        for name, inner in named.items():
            if inner.get("family", family) == family:
                yield f"  {name}", inner, False


def _passes(title: str, found: Row) -> Table:
    columns = ("nominal", "robust", "drop", "relative")
    table = _table(f"{title}: pass@{found['all']['pass']['k']}", ("tasks", *columns))
    for name, row, bold in _rows(found):
        cells = [number(row["pass"][key]) for key in columns]
        table.add_row(name, str(row["num_changed_tasks"]), *cells, style="bold" if bold else None)
    return table


def _bits_table(title: str, counted: str, found: Row, parts: Callable[[Row], tuple[int, Row]]) -> Table:
    table = _table(title, (counted, "nominal", "change", "95 %"))
    for name, row, bold in _rows(found):
        count, bits = parts(row)
        table.add_row(name, str(count), *_bits(bits), style="bold" if bold else None)
    return table


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("perturbation", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _bits(bits: Row) -> tuple[str, str, str]:
    """Nominal bits per byte, the change, and its interval; with a star where most reference texts are perturbed too."""
    star = "*" if bits["num_prompts"] < bits["other_reference"]["num_prompts"] else ""
    shown = bits["other_reference"] if star else bits
    bounds = shown["change"]["interval"]
    nominal = "-" if shown["nominal"] is None else f"{shown['nominal']:.3f}"
    return nominal, number(shown["change"], "+.3f") + star, "-" if bounds is None else f"{bounds[0]:+.3f} {bounds[1]:+.3f}"


def number(found: Row, form: str = ".3f") -> str:
    """The value, or a dash where there is none."""
    return "-" if found["value"] is None else format(found["value"], form)
