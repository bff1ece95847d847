"""Curves of a comparison: bits per byte against whatever a run can be charged with. `proxy_lm.plotting` makes the SVG text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eval.results import ArmResult, Point
from proxy_lm import plotting

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
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


def draw_all(arms: Sequence[ArmResult]) -> list[str]:
    """One plot an axis, colours in the order in which the arms' names first appear."""
    colours = {name: index for index, name in enumerate(dict.fromkeys(arm.name for arm in arms))}
    return [_draw(arms, axis, colours) for axis in AXES]


def _draw(arms: Sequence[ArmResult], axis: Axis, colours: dict[str, int]) -> str:
    """One plot as an `<svg>` element: bits per byte against `axis`, curves on the valid split, marks with intervals on the test split."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    def fill(plot: Any) -> None:
        scales = list(dict.fromkeys(arm.scale for arm in arms))
        for arm in arms:
            _draw_arm(plot, arm, axis, plotting.colour(colours[arm.name]), MARKERS[scales.index(arm.scale) % len(MARKERS)])
        plot.set_xlabel(axis.title)
        plot.set_ylabel("bits per byte")
        plot.set_xlim(left=0)
        plot.xaxis.set_major_locator(MaxNLocator(nbins=5))
        plot.xaxis.set_major_formatter(EngFormatter(sep=" "))
        plot.set_ylim(*_height(arms))

    return plotting.draw(f"bits per byte against {axis.title}", fill)


def _draw_arm(plot: Any, arm: ArmResult, axis: Axis, colour: str, marker: str) -> None:
    points = [point for point in arm.curve if axis.of_point(point) > 0 and point.step >= EARLY * arm.num_steps]
    plot.plot([axis.of_point(p) for p in points], [p.bits_per_byte for p in points], color=colour, linewidth=1.8, alpha=0.9)
    at = axis.of_arm(arm)
    if arm.bits_per_byte is None or not at:
        return
    spread = None
    if arm.interval is not None:
        spread = [[max(0.0, arm.bits_per_byte - arm.interval[0])], [max(0.0, arm.interval[1] - arm.bits_per_byte)]]
    plot.errorbar([at], [arm.bits_per_byte], yerr=spread, color=colour, marker=marker, markersize=7, capsize=4, elinewidth=1.8, ls="")


def _height(arms: Sequence[ArmResult]) -> tuple[float, float]:
    values = [p.bits_per_byte for arm in arms for p in arm.curve if p.step >= EARLY * arm.num_steps]
    values += [v for arm in arms if arm.bits_per_byte is not None for v in (arm.interval or (arm.bits_per_byte,))]
    low, high = (min(values), max(values)) if values else (0.0, 8.0)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin
