"""A comparison on a terminal: a row a point (an arm at a scale and a budget), however many runs there are, and below it what has no number.

    show_results(found, out, console_of(120))

The numbers are those of `eval.grid_analysis`. Where a terminal is too narrow, seconds and symbols go first, then names of arms break into
lines, and at last source bytes and FLOPs go: numbers stay whole. The report has everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.grid_analysis import Analysis, Point, analyse
from eval.report import answers
from eval.report_grid import finished_seeds, standing
from eval.report_groups import groups
from eval.results import ArmResult, Results
from eval.seed_noise import BORROWED, ELSEWHERE, NO_SEEDS, mark
from proxy_lm.report import number, si

NUM_NAMED: Final = 3
"""Runs without a number that are named; the others are counted."""
_COLOURS: Final = {"better": "green", "worse": "red", "failed": "red", "not run": "red"}
_MARKS: Final = (NO_SEEDS, ELSEWHERE, BORROWED)
_GAP: Final = 2  # between columns
_LEAST_ARM_WIDTH: Final = 10


@dataclass(frozen=True)
class _Column:
    name: str
    cells: list[str]
    left: bool = False
    spare: Literal["", "before names break", "after names broke"] = ""
    """When it is left out in a narrow terminal; the last column first."""

    @property
    def width(self) -> int:
        return max(map(len, (self.name, *self.cells)))

    def spelt(self, text: str) -> str:
        """As wide as the column; rich would take the space away that stands in a mark's place."""
        return text if self.left else text.rjust(self.width)


def show_results(found: Results, out: Path, console: Console) -> None:
    """Print the table, the runs without a number, the answers, and where the report is."""
    analysis = analyse(found, verdicts_only=True)
    shown = groups(found)
    points = [_point(analysis, name, group.scale, group.budget) for group in shown for name in group.arms]
    columns, arm_width = _fitting(_columns(found, analysis, points), console.width)
    console.print(f"{found.name}: bits per byte, {found.plan['evaluation']['split']} split", highlight=False, style="italic")
    console.print(_read_so(found, points), highlight=False)
    console.print()
    console.print(_table(columns, arm_width, range(0), head=True))
    first = 0
    for group in shown:
        if len(shown) > 1:
            console.print(group.title(found.baseline), highlight=False, style="bold")
        console.print(_table(columns, arm_width, range(first, first + len(group.arms))))
        console.print()
        first += len(group.arms)
    for status in ("failed", "not run"):
        for line in without_number(found, status):
            # A reason is cut to its line; names are not.
            console.print(Text(line, style=_COLOURS[status]), no_wrap=line.startswith(" "), overflow="ellipsis")
    if any(run.status != "done" for run in found.arms):
        console.print()
    for line in answers(found):
        console.print(line, highlight=False, markup=False)
    console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True, markup=False)


def without_number(found: Results, status: str) -> list[str]:
    """How many runs have this status, the first of them with the reason. Nothing where there are none."""
    runs = [run for run in found.arms if run.status == status]
    if not runs:
        return []
    head = f"{len(runs)} of {len(found.arms)} runs {status}"
    if not any(run.failure for run in runs):
        return [f"{head}: {some([Path(run.folder).name for run in runs])}"]
    lines = [f"  {Path(run.folder).name}: {_reason(run)}" for run in runs[:NUM_NAMED]]
    more = [f"  and {len(runs) - NUM_NAMED} more; the report has all"] if len(runs) > NUM_NAMED else []
    return [head, *lines, *more]


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:NUM_NAMED]) + (f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else "")


def _reason(run: ArmResult) -> str:
    """A failure in a line: the first, or where that only announces the end of a log, the log's last."""
    lines = (run.failure or "").strip().splitlines() or ["no reason is known"]
    return lines[-1].strip() if lines[0].endswith(":") else lines[0]


def _point(analysis: Analysis, arm: str, scale: str | None, budget: str | None) -> Point:
    point = analysis.point(arm, scale, budget)
    assert point is not None, "every cell has a point"
    return point


def _read_so(found: Results, points: Sequence[Point]) -> str:
    several = any(point.covers_seeds for point in points)
    each = "mean of the seeds ± 95 % over seeds and projects" if several else "± 95 % over projects"
    return f"{each}; gap: against {found.baseline}"


def _columns(found: Results, analysis: Analysis, points: Sequence[Point]) -> list[_Column]:
    verdicts = [analysis.verdict(point.arm, point.scale, point.budget) for point in points]
    words = [
        standing(point, verdict, found.baseline) + ("" if verdict is None else mark(verdict.seed_noise, verdict.interval))
        for point, verdict in zip(points, verdicts, strict=True)
    ]
    gaps = ["" if verdict is None or verdict.relative is None else f"{100 * verdict.relative:+.2f}" for verdict in verdicts]
    runs = {(run.name, run.scale, run.budget): run for run in found.arms}
    alone = len(runs) == len(found.arms)  # a point is a run, and so has what cannot be added up over seeds
    seeds = [] if alone else [_Column("seeds", [finished_seeds(point) for point in points])]
    columns = [
        _Column("arm", [point.arm for point in points], left=True),
        *seeds,
        _Column("bits per byte", _aligned([_bits(point) for point in points])),
        _Column("gap, %", gaps),
        _Column("verdict", words, left=True),
        _Column("FLOPs", [si(point.flops) for point in points], spare="after names broke"),
        _Column("source", [f"{si(point.source_bytes)}B" for point in points], spare="after names broke"),
    ]
    if alone and len({point.scale for point in points}) == 1 and len({point.budget for point in points}) == 1:
        of = [runs[point.arm, point.scale, point.budget] for point in points]
        columns += [
            _Column("symbols", [si(run.symbols) for run in of], spare="before names break"),
            _Column("seconds", [number(run.seconds, 1) for run in of], spare="before names break"),
        ]
    return columns


def _bits(point: Point) -> str:
    if point.mean is None or point.interval is None:
        return number(point.mean, 4)
    half = (point.interval[1] - point.interval[0]) / 2  # symmetric: Student's t around the mean
    return f"{point.mean:.4f} ±{half:.4f}{mark(point.seed_noise, point.interval)}"


def _aligned(cells: list[str]) -> list[str]:
    """Digits below digits, where only some of the numbers have a mark."""
    marked = any(cell.endswith(_MARKS) for cell in cells)
    return [cell if cell.endswith(_MARKS) or not marked else f"{cell} " for cell in cells]


def _fitting(columns: list[_Column], width: int) -> tuple[list[_Column], int]:
    """The columns that have room, and how wide the first of them, the arms', is then."""
    arm = columns[0].width
    least = min(arm, _LEAST_ARM_WIDTH)

    def room() -> int:
        """For names of arms."""
        return width - sum(column.width + _GAP for column in columns[1:])

    while columns[-1].spare and room() < (arm if columns[-1].spare == "before names break" else least):
        columns = columns[:-1]
    return columns, max(least, min(arm, room()))


def _table(columns: Sequence[_Column], arm_width: int, rows: range, *, head: bool = False) -> Table:
    """Some rows as a table of their own, its columns as wide as those of all."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False, show_header=head)
    for index, column in enumerate(columns):
        table.add_column(column.spelt(column.name), width=column.width if index else arm_width, overflow="fold")
    for row in rows:
        cells = [(column.spelt(column.cells[row]), column.cells[row].rstrip("".join(_MARKS))) for column in columns]
        table.add_row(*(Text(text, style=_COLOURS.get(word, "")) for text, word in cells))
    return table
