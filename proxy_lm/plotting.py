"""Plots as SVG text for a page that is light or dark: lines name colours of the page's style sheet, text is text.

    svg = draw("loss against steps", lambda plot: plot.plot(steps, losses, color=colour(0)))

matplotlib draws; it is in the `eval` extra. `require()` says so in one sentence before any work starts.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from html import escape
from typing import Any, Final

from proxy_lm.errors import RequestError
from proxy_lm.report import NUM_COLOURS

# Stand-ins that the page's own colours replace; no line has them otherwise.
INK: Final = "#010203"
RULE: Final = "#010204"
_COLOURS: Final = tuple(f"#01030{k}" for k in range(NUM_COLOURS))


def require() -> None:
    """Raise `RequestError` when matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise RequestError("the report's plots need matplotlib, which is not installed; run: pip install 'proxy-lm[eval]'")


def colour(index: int) -> str:
    """The colour of the name with this number, as in the page's legend."""
    return _COLOURS[index % NUM_COLOURS]


def draw(title: str, fill: Callable[[Any], None], *, width: float = 4.6, height: float = 3.3) -> str:
    """One plot as an `<svg>` element: `fill` draws into matplotlib axes. `title` is told to those who cannot see it; inches."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 10, "text.color": INK, "axes.labelcolor": INK}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        plot = figure.subplots()
        fill(plot)
        plot.grid(color=RULE, linewidth=0.8)
        plot.set_axisbelow(True)
        plot.tick_params(colors=INK, length=0)
        plot.tick_params(which="minor", length=0)
        for side, spine in plot.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(RULE)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(buffer.getvalue(), title)


def _themed(svg: str, title: str) -> str:
    """The `<svg>` element alone, with the page's colours in place of the stand-ins."""
    svg = svg[svg.index("<svg") :]
    for k, stand_in in enumerate(_COLOURS):
        svg = svg.replace(stand_in, f"var(--arm-{k})")
    svg = svg.replace(INK, "var(--ink)").replace(RULE, "var(--rule)")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
