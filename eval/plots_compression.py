"""Plots of compression rates: against the length of chunks, against the size of data with the model's cost, against vocabularies.

    against_length([Line("bytes", 0, {16: Rate(...), 2048: Rate(...)})], classical)

What is drawn was computed in `eval.compression_points`; here are places and labels. Lines are named at their right end; those of classical
compressors are dashed and without colour. `proxy_lm.plotting` makes the SVG text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eval.compression_points import ClassicalPoint, Point, Rate
from proxy_lm import plotting
from proxy_lm.report import si

MOST_PERCENT: Final = 120.0
"""Adjusted rates above it are cut off: there the model costs more than the data."""
_DASHED: Final = (0, (4, 2))
_DOTTED: Final = (0, (1, 2))
_SIZE: Final[dict[str, float]] = {"width": 5.4, "height": 3.6}
_LABEL_HEIGHT: Final = 0.068  # of a plot's height
_STEPS: Final = 97


@dataclass(frozen=True)
class Line:
    """A named line: rates by place, with the range of the seeds."""

    name: str
    colour: int
    values: Mapping[int, Rate]


@dataclass(frozen=True)
class Model:
    """A model whose cost is shared by the data: its line is computed at any size."""

    name: str
    colour: int
    point: Point


def against_length(title: str, lines: Sequence[Line], classical: Sequence[ClassicalPoint]) -> str:
    """One `<svg>`: percent of the raw size over bytes of a chunk, both ends of the axis powers of two."""

    def fill(plot: Any) -> None:
        plot.set_xscale("log", base=2)
        ends = _marked(plot, lines)
        for one in classical:
            places = sorted(one.lengths)
            plot.plot(places, [one.lengths[place] for place in places], color=plotting.SOFT, linewidth=1.2, linestyle=_DASHED)
            ends.append((one.name, one.lengths[places[-1]], plotting.SOFT))
        sizes = sorted({size for line in lines for size in line.values})
        _ticks(plot, sizes, [f"{size:,}" for size in sizes])
        _finish(plot, "bytes of a chunk, each coded alone", "percent of the raw size", ends)

    return plotting.draw(title, fill, **_SIZE)


def against_data(title: str, models: Sequence[Model], classical: Sequence[ClassicalPoint], sizes: Sequence[int]) -> str:
    """One `<svg>`: adjusted rate at 2 bytes a parameter over the size of the data, both logarithmic; classical compressors whole, as far as
    they were measured, then dotted on."""
    low, high = min(sizes), max(sizes)
    grid = [low * (high / low) ** (step / (_STEPS - 1)) for step in range(_STEPS)]

    def fill(plot: Any) -> None:
        plot.set_xscale("log")
        plot.set_yscale("log")
        plot.axhline(100, color=plotting.SOFT, linewidth=1.0)
        ends = []
        for model in models:
            colour, found = plotting.colour(model.colour), [model.point.adjusted(size) for size in grid]
            plot.plot(grid, [rate.mean for rate in found], color=colour, linewidth=1.8)
            plot.fill_between(grid, [rate.low for rate in found], [rate.high for rate in found], color=colour, alpha=0.2, linewidth=0)
            ends.append((model.name, found[-1].mean, colour))
        for one in classical:
            known = sorted(one.whole)
            plot.plot(known, [one.whole[size] for size in known], color=plotting.SOFT, linewidth=1.2, linestyle=_DASHED)
            plot.plot([known[-1], high], [one.whole[known[-1]]] * 2, color=plotting.SOFT, linewidth=1.2, linestyle=_DOTTED)
            ends.append((one.name, one.whole[known[-1]], plotting.SOFT))
        plot.set_xlim(low, high)
        plot.set_ylim(0.75 * min(value for _, value, _ in ends), MOST_PERCENT)
        plot.set_yticks(shown := [tick for tick in (5, 10, 15, 20, 30, 40, 50, 70, 100) if tick >= plot.get_ylim()[0]], map(str, shown))
        plot.minorticks_off()
        _ticks(plot, list(sizes), [f"{si(size)}B" for size in sizes])
        _finish(plot, "bytes of data that share the model's cost", "percent of the raw size, model included", ends)

    return plotting.draw(title, fill, **_SIZE)


def against_vocabulary(title: str, lines: Sequence[Line]) -> str:
    """One `<svg>`: raw rate over the number of symbols, a line a scale."""

    def fill(plot: Any) -> None:
        plot.set_xscale("log", base=2)
        ends = _marked(plot, lines)
        sizes = sorted({size for line in lines for size in line.values})
        _ticks(plot, sizes, [f"{size:,}" for size in sizes])
        _finish(plot, "symbols of the vocabulary (256: bytes)", "percent of the raw size", ends)

    return plotting.draw(title, fill, **_SIZE)


def _marked(plot: Any, lines: Sequence[Line]) -> list[tuple[str, float, str]]:
    """Lines with a mark at each place and a bar from the lowest to the highest seed; (name, height of the right end, colour)."""
    ends = []
    for line in lines:
        colour, places = plotting.colour(line.colour), sorted(line.values)
        rates = [line.values[place] for place in places]
        reach = [[rate.mean - rate.low for rate in rates], [rate.high - rate.mean for rate in rates]]
        means = [rate.mean for rate in rates]
        plot.errorbar(places, means, yerr=reach, color=colour, marker="o", markersize=4.5, capsize=2.5, elinewidth=1.3, linewidth=1.8)
        ends.append((line.name, means[-1], colour))
    return ends


def _ticks(plot: Any, places: Sequence[float], names: Sequence[str]) -> None:
    """Those places and no others; where they stand close their names are turned."""
    plot.minorticks_off()
    plot.set_xticks(list(places), list(names), rotation=30 if len(places) > 7 else 0)


def _finish(plot: Any, across: str, upwards: str, ends: Sequence[tuple[str, float, str]]) -> None:
    """Names of the axes, and of the lines beside the right border at about the height of their ends."""
    plot.set_xlabel(across)
    plot.set_ylabel(upwards)
    scale, limits = plot.yaxis.get_transform(), plot.get_ylim()
    low, high = scale.transform(limits)
    heights = [(min(max(float(scale.transform([value])[0]), low), high) - low) / (high - low) for _, value, _ in ends]
    for (name, _, colour), place in zip(ends, plotting.apart(heights, _LABEL_HEIGHT), strict=True):
        plot.annotate(name, (1.02, place), xycoords="axes fraction", color=colour, va="center", fontsize=9, annotation_clip=False)
