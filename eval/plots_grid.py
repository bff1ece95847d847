"""Plots of a grid: a line an arm over what was spent, and a dot an arm beside the baseline. Colours name arms, shapes name scales.

    lines([Mark("bytes", "s0", "x1", 2.3e13, 2.61, (2.55, 2.67)), ...], Look("bits per byte", colours, scales))
    dots([Mark("no_pairs", None, None, 0, +0.012, (0.002, 0.022), "worse"), ...], "difference", colours)

What is drawn was computed elsewhere (`eval.grid_analysis`); here are places, shapes and labels. `proxy_lm.plotting` makes the SVG text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from proxy_lm import plotting

SHAPES: Final = ("o", "s", "D", "^", "v", "P", "X", "p")
MOST_LABELS: Final = 12
"""With more arms the ends of lines are not labelled: the labels would be longer than the plot is high."""
_LABEL_HEIGHT = 0.067  # of a plot's height, measured in a browser at the size of the page
_DODGE = 0.035  # of the range of x on its logarithmic axis, between the first and the last arm at one place
_STYLE: Final[dict[str, Any]] = {"markersize": 5.5, "capsize": 2.5, "elinewidth": 1.3, "ls": ""}


@dataclass(frozen=True)
class Mark:
    """A number of one arm at one scale and budget: where it stands on the axis, its value, its 95 % interval."""

    arm: str
    scale: str | None
    budget: str | None
    spent: float
    value: float
    interval: tuple[float, float] | None = None
    word: str = ""
    """Its verdict, for `dots`."""


@dataclass(frozen=True)
class Look:
    """What all lines of a plot share."""

    title: str
    """The axis upwards, and what those are told who cannot see the plot."""
    colours: Mapping[str, int]
    """Number of the colour of every arm of the page."""
    scales: Sequence[str | None]
    across: str = "training FLOPs"
    level: float | None = None
    """A line from left to right, at which nothing is gained or lost."""
    dodged: bool = False
    """Arms that were matched stand a little beside each other, so that their intervals can be told apart."""
    ratio: bool = False
    """Values are times something: twice and half stand equally far from 1. All are above 0; intervals may begin at 0."""


def lines(marks: Sequence[Mark], look: Look) -> str:
    """One `<svg>`: for every arm a line through the first budget of each scale, and a dashed one through the budgets of a scale.

    `marks` are in the order of the plan's budgets within a scale.
    """
    arms = list(dict.fromkeys(mark.arm for mark in marks))
    spread = _spread(marks)
    level = look.level
    if look.ratio:
        marks, level = [_doublings(mark) for mark in marks], None if level is None else _log2(level)

    def fill(plot: Any) -> None:
        plot.set_xscale("log")
        if level is not None:
            plot.axhline(level, color=plotting.SOFT, linewidth=1.2)
        ends: dict[str, float] = {}
        low, high = _limits(marks, level)
        for place, arm in enumerate(arms):
            mine = [mark for mark in marks if mark.arm == arm]
            share = (place / (len(arms) - 1) - 0.5) if len(arms) > 1 and look.dodged else 0.0
            ends[arm] = _draw_arm(plot, mine, look, math.exp(share * _DODGE * spread), (low, high))
        plot.set_ylim(low, high)
        _labels(plot, {arm: min(max(value, low), high) for arm, value in ends.items()}, look, high - low)
        _shapes(plot, [scale for scale in look.scales if any(mark.scale == scale for mark in marks)])
        plot.set_xlabel(look.across)
        plot.set_ylabel(look.title)
        _decades(plot)
        if look.ratio:
            ticks = _times(low, high)
            plot.set_yticks([math.log2(value) for value in ticks], [f"{value:g}" for value in ticks])

    return plotting.draw(f"{look.title} against {look.across}", fill, width=5.0, height=3.6)


def _log2(value: float) -> float:
    return math.log2(value) if value > 0 else -math.inf


def _doublings(mark: Mark) -> Mark:
    """The mark on an axis of doublings."""
    interval = None if mark.interval is None else (_log2(mark.interval[0]), _log2(mark.interval[1]))
    return replace(mark, value=_log2(mark.value), interval=interval)


def _times(low: float, high: float) -> list[float]:
    """1, 2 and 5 of the powers of ten from 2^low to 2^high; powers of ten alone where these would be many."""
    powers = range(math.floor(low * math.log10(2)) - 1, math.ceil(high * math.log10(2)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in ((1, 2, 5) if high - low < 12 else (1,))]
    return [value for value in ticks if low <= math.log2(value) <= high]


def _draw_arm(plot: Any, marks: Sequence[Mark], look: Look, beside: float, limits: tuple[float, float]) -> float:
    """Draws one arm; gives the height at which its line ends on the right."""
    colour = plotting.colour(look.colours[marks[0].arm])
    by_scale = {scale: [mark for mark in marks if mark.scale == scale] for scale in look.scales}
    firsts = sorted((found[0] for found in by_scale.values() if found), key=lambda mark: mark.spent)
    alone = len(firsts) == 1
    if not alone:
        plot.plot([mark.spent * beside for mark in firsts], [mark.value for mark in firsts], color=colour, linewidth=1.8)
    for found in by_scale.values():
        found = sorted(found, key=lambda mark: mark.spent)
        style: dict[str, Any] = {"linewidth": 1.8} if alone else {"linewidth": 1.1, "linestyle": (0, (3, 2))}
        plot.plot([mark.spent * beside for mark in found], [mark.value for mark in found], color=colour, **style)
    for mark in marks:
        shape = SHAPES[look.scales.index(mark.scale) % len(SHAPES)]
        plot.errorbar([mark.spent * beside], [mark.value], yerr=_reach(mark, limits), color=colour, marker=shape, **_STYLE)
    return max(marks, key=lambda mark: mark.spent).value


def _labels(plot: Any, ends: Mapping[str, float], look: Look, height: float) -> None:
    """Names of the arms beside the right border, at the heights at which their lines end."""
    if len(ends) > MOST_LABELS:
        return
    places = plotting.apart(list(ends.values()), _LABEL_HEIGHT * height)
    for arm, place in zip(ends, places, strict=True):
        colour = plotting.colour(look.colours[arm])
        plot.annotate(arm, (1.02, place), xycoords=("axes fraction", "data"), color=colour, va="center", fontsize=9, annotation_clip=False)


def _shapes(plot: Any, scales: Sequence[str | None]) -> None:
    """Which shape is which scale, above the plot."""
    from matplotlib.lines import Line2D

    if len(scales) < 2:
        return
    handles = [
        Line2D([], [], color=plotting.SOFT, marker=SHAPES[i % len(SHAPES)], ls="", markersize=5.5, label=str(scale))
        for i, scale in enumerate(scales)
    ]
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
    plot.legend(handles=handles, ncols=len(scales), frameon=False, fontsize=9, handletextpad=0.1, columnspacing=1.2, **place)


def _limits(marks: Sequence[Mark], level: float | None) -> tuple[float, float]:
    """All values, and of the intervals what is not further from them than the values are from each other."""
    values = [mark.value for mark in marks] + ([] if level is None else [level])
    low, high = min(values), max(values)
    span = (high - low) or abs(high) * 0.02 or 1.0
    ends = [end for mark in marks if mark.interval is not None for end in mark.interval if math.isfinite(end)]
    low, high = max(low - span, min([low, *ends])), min(high + span, max([high, *ends]))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _reach(mark: Mark, limits: tuple[float, float]) -> list[list[float]] | None:
    """How far its interval goes down and up, ends beyond the plot (they can be infinite) drawn to beyond its border."""
    if mark.interval is None:
        return None
    span = limits[1] - limits[0]
    low, high = max(mark.interval[0], limits[0] - span), min(mark.interval[1], limits[1] + span)
    return [[max(0.0, mark.value - low)], [max(0.0, high - mark.value)]]


def _spread(marks: Sequence[Mark]) -> float:
    spent = [math.log(mark.spent) for mark in marks]
    return max(spent) - min(spent) or 1.0


def _decades(plot: Any) -> None:
    """1, 2 and 5 of every power of ten, with a unit prefix."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    low, high = plot.get_xlim()
    subs = (1, 2, 5) if high / low < 100 else (1, 3) if high / low < 3000 else (1,)
    plot.xaxis.set_major_locator(LogLocator(subs=subs))
    plot.xaxis.set_major_formatter(EngFormatter(sep=" "))
    plot.xaxis.set_minor_formatter(NullFormatter())


def dots(marks: Sequence[Mark], title: str, *, level: float = 0.0) -> str:
    """One `<svg>`: a row a mark, the lowest on top, with its interval, coloured by its verdict and labelled with its arm's name."""
    ordered = sorted(marks, key=lambda mark: mark.value)
    colours = {"better": plotting.GOOD, "worse": plotting.BAD}

    def fill(plot: Any) -> None:
        limits = _limits(ordered, level)
        plot.axvline(level, color=plotting.SOFT, linewidth=1.2)
        for row, mark in enumerate(ordered):
            colour = colours.get(mark.word, plotting.SOFT)
            plot.errorbar([mark.value], [-row], xerr=_reach(mark, limits), color=colour, marker="o", **_STYLE)
        plot.set_yticks([-row for row in range(len(ordered))], [mark.arm for mark in ordered])
        plot.set_ylim(-len(ordered) + 0.4, 0.6)
        plot.set_xlim(*limits)
        plot.set_xlabel(title)

    return plotting.draw(title, fill, width=5.0, height=0.8 + 0.25 * len(ordered))
