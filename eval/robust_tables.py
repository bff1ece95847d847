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


def notes(result: Row) -> list[str]:
    """What the columns mean, and what became of the perturbed reference programs: lines to print below the tables."""
    lines = []
    if any(found["all"]["pass"] is not None for found in result["prompts"].values()):
        lines += [
            "tasks: with a prompt that changes, the others count as they are; robust: right for every prompt of a task; drop: the share of "
            "nominal that is lost ('-' where nominal is 0); relative: the share of tasks whose outcome changes, either way"
        ]
    lines.append(
        "*: only prompts whose reference is perturbed too, so other bytes are counted; families and total without * leave these out"
    )
    if (proof := result["reference_programs"]) and proof["num_run"]:
        num_failing = len(proof["failing"])
        became = f"{num_failing} fail and are {'left out' if proof['left_out'] else 'asked all the same'}" if num_failing else "all pass"
        lines.append(f"perturbed reference programs that were run: {proof['num_run']}; {became}")
    return lines


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
        # Where no prompt changes there is nothing to be robust against, and 0.000 would read like a measurement.
        cells = [number(row["pass"][key]) if row["num_changed_tasks"] else "-" for key in columns]
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
