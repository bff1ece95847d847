"""The tables that `proxy-lm-eval robustness` prints from its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

Row = Mapping[str, Any]


def tables(result: Row) -> Iterator[Table]:
    """For each way of telling prompts: problems, then held-out files."""
    for way, found in result["prompts"].items():
        yield _problems(f"{result['dataset']['name']}, prompts {way}", found)
    for way in result["prompts"] if result["files"] else ():
        yield _files(f"held-out files ({result['files']['num_files']}), prompts {way}", result["files"][way])


def _rows(found: Row) -> Iterator[tuple[str, Row, bool]]:
    yield "all", found["all"], True
    families = found["families"]
    named = found["perturbations"]
    for family, row in families.items():
        yield family, row, True
        for name, inner in named.items():
            if inner.get("family", family) == family:
                yield f"  {name}", inner, False


def _problems(title: str, found: Row) -> Table:
    made = found["all"]["pass"] is not None
    table = _table(title, "tasks", ("nominal", "robust", "drop") if made else ())
    for name, row, bold in _rows(found):
        scores = row["pass"]
        cells = [number(scores[key]) for key in ("nominal", "robust", "drop")] if made else []
        table.add_row(name, str(row["num_changed_tasks"]), *cells, *_bits(row["bits"]), style="bold" if bold else None)
    return table


def _table(title: str, counted: str, more: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("perturbation", no_wrap=True)
    for name in (counted, *more, "bits", "change", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _files(title: str, found: Row) -> Table:
    table = _table(title, "prompts")
    for name, row, bold in _rows(found):
        table.add_row(name, str(row["num_prompts"]), *_bits(row), style="bold" if bold else None)
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
