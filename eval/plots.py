"""Curves of a comparison: bits per byte against whatever a run can be charged with. `proxy_lm.plotting` makes the SVG text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.report_groups import Group
from eval.results import ArmResult, Point
from proxy_lm import plotting

EARLY = 0.05  # the first part of a run is cut off: there every curve falls from 8 bits and nothing can be told apart


@dataclass(frozen=True)
class Axis:
    """One way to pay: its place in a point and in a ledger."""

    key: str
    title: str
    of_point: Callable[[Point], float]
    of_arm: Callable[[ArmResult], float | None]


AXES = (
    Axis("training_flops", "training FLOPs", lambda p: p.training_flops, lambda a: a.training_flops),
    Axis("symbols", "symbols", lambda p: p.symbols, lambda a: a.symbols),
    Axis("source_bytes", "source bytes", lambda p: p.source_bytes, lambda a: a.source_bytes),
    Axis("seconds", "seconds of training steps", lambda p: p.seconds, lambda a: a.seconds),
)


def draw_all(shown: Sequence[Group], intervals: Mapping[str, tuple[float, float] | None]) -> list[str]:
    """One plot an axis; of several groups (scales and budgets) one plot each, against training FLOPs. Colours are in the order in which the
    arms' names first appear. `intervals`, by arm, are drawn where one group of one seed is shown."""
    colours = {name: index for index, name in enumerate(dict.fromkeys(name for group in shown for name in group.arms))}
    if len(shown) == 1:
        return [_draw(shown[0], axis, colours, intervals, f"bits per byte against {axis.title}") for axis in AXES]
    axis = AXES[0]
    return [_draw(group, axis, colours, {}, f"{group.name}: bits per byte against {axis.title}") for group in shown]


def _draw(group: Group, axis: Axis, colours: dict[str, int], intervals: Mapping[str, tuple[float, float] | None], title: str) -> str:
    """One plot as an `<svg>` element: bits per byte against `axis`, curves on the valid split, marks with intervals on the test split."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    def fill(plot: Any) -> None:
        for name, runs in group.arms.items():
            for run in runs:
                bounds = intervals.get(name) if len(runs) == 1 else None
                _draw_run(plot, run, axis, plotting.colour(colours[name]), bounds, 1.0 if len(runs) == 1 else 0.55)
        plot.set_xlabel(axis.title)
        plot.set_ylabel("bits per byte")
        plot.set_xlim(left=0)
        plot.xaxis.set_major_locator(MaxNLocator(nbins=5))
        plot.xaxis.set_major_formatter(EngFormatter(sep=" "))
        plot.set_ylim(*_height(group.runs, [end for bounds in intervals.values() if bounds is not None for end in bounds]))
        if group.name:
            plot.set_title(group.name, fontsize=10, loc="left")

    return plotting.draw(title, fill)


def _draw_run(plot: Any, run: ArmResult, axis: Axis, colour: str, bounds: tuple[float, float] | None, strength: float) -> None:
    points = [point for point in run.curve if axis.of_point(point) > 0 and point.step >= EARLY * run.num_steps]
    spent, bits = [axis.of_point(p) for p in points], [p.bits_per_byte for p in points]
    plot.plot(spent, bits, color=colour, linewidth=1.8 * strength, alpha=0.9 * strength)
    at = axis.of_arm(run)
    if run.bits_per_byte is None or not at:
        return
    spread = None
    if bounds is not None:
        spread = [[max(0.0, run.bits_per_byte - bounds[0])], [max(0.0, bounds[1] - run.bits_per_byte)]]
    size = 7 * strength
    plot.errorbar([at], [run.bits_per_byte], yerr=spread, color=colour, marker="o", markersize=size, capsize=4, elinewidth=1.8, ls="")


def _height(runs: Sequence[ArmResult], ends: Sequence[float]) -> tuple[float, float]:
    values = [p.bits_per_byte for run in runs for p in run.curve if p.step >= EARLY * run.num_steps]
    values += [*ends, *(run.bits_per_byte for run in runs if run.bits_per_byte is not None)]
    low, high = (min(values), max(values)) if values else (0.0, 8.0)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin
