"""Curves of a comparison as SVG text for a page that is light or dark: lines name colours of the page's style sheet, text is text.

matplotlib draws; it is in the `eval` extra. `require()` says so in one sentence before any work starts.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eval.results import ArmResult, Point
from proxy_lm.errors import RequestError

NUM_COLOURS = 8
_INK, _RULE = "#010203", "#010204"  # stand-ins that the page's own colours replace; no line has them otherwise
_ARMS = tuple(f"#01030{k}" for k in range(NUM_COLOURS))
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


def require() -> None:
    """Raise `RequestError` when matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise RequestError("the report's plots need matplotlib, which is not installed; run: pip install 'proxy-lm[eval]'")


def draw(arms: Sequence[ArmResult], axis: Axis, colours: dict[str, int]) -> str:
    """One plot as an `<svg>` element: bits per byte against `axis`, curves on the valid split, marks with intervals on the test split."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    style = {"svg.fonttype": "none", "svg.hashsalt": axis.key, "font.size": 10, "text.color": _INK, "axes.labelcolor": _INK}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.6, 3.3), layout="constrained")
        plot = figure.subplots()
        scales = list(dict.fromkeys(arm.scale for arm in arms))
        for arm in arms:
            _draw_arm(plot, arm, axis, _ARMS[colours[arm.name] % NUM_COLOURS], MARKERS[scales.index(arm.scale) % len(MARKERS)])
        plot.set_xlabel(axis.title)
        plot.set_ylabel("bits per byte")
        plot.set_xlim(left=0)
        plot.xaxis.set_major_locator(MaxNLocator(nbins=5))
        plot.xaxis.set_major_formatter(EngFormatter(sep=" "))
        plot.set_ylim(*_height(arms))
        plot.grid(color=_RULE, linewidth=0.8)
        plot.set_axisbelow(True)
        plot.tick_params(colors=_INK, length=0)
        for side, spine in plot.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_RULE)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(buffer.getvalue(), f"bits per byte against {axis.title}")


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


def _themed(svg: str, title: str) -> str:
    """The `<svg>` element alone, with the page's colours in place of the stand-ins."""
    svg = svg[svg.index("<svg") :]
    for k, stand_in in enumerate(_ARMS):
        svg = svg.replace(stand_in, f"var(--arm-{k})")
    svg = svg.replace(_INK, "var(--ink)").replace(_RULE, "var(--rule)")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
