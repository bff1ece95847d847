"""Plots as SVG text for a page that is light or dark: lines name colours of the page's style sheet, text is text. Also as files.

    svg = draw("loss against steps", lambda plot: plot.plot(steps, losses, color=colour(0)))
    png = image("the plan", [fill_documents, fill_symbols], ".png")

matplotlib draws; it is in the `eval` extra. `require()` says so in one sentence before any work starts.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from typing import Any, Final

from proxy_lm.errors import RequestError
from proxy_lm.report import NUM_COLOURS

Colours = Callable[[int], str]
# Stand-ins that the page's own colours replace; no line has them otherwise.
INK: Final = "#010203"
RULE: Final = "#010204"
SOFT: Final = "#010205"
GOOD: Final = "#010206"
BAD: Final = "#010207"
_NAMED: Final = {INK: "ink", RULE: "rule", SOFT: "soft", GOOD: "good", BAD: "bad"}
_COLOURS: Final = tuple(f"#01030{k}" for k in range(NUM_COLOURS))


def require() -> None:
    """Raise `RequestError` when matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise RequestError("the report's plots need matplotlib, which is not installed; run: pip install 'proxy-lm[eval]'")


def colour(index: int) -> str:
    """The colour of the name with this number, as in the page's legend."""
    return _COLOURS[index % NUM_COLOURS]


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Places for labels as near as may be to `values`, in their order, no two nearer to each other than `gap`."""
    places = list(values)
    order = sorted(range(len(places)), key=lambda i: values[i])
    groups: list[tuple[float, list[int]]] = []  # (middle, members): neighbours that touch are moved as one
    for i in order:
        groups.append((values[i], [i]))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (len(groups[-1][1]) + len(groups[-2][1])) / 2:
            (low, first), (high, second) = groups[-2:]
            middle = (low * len(first) + high * len(second)) / (len(first) + len(second))
            groups[-2:] = [(middle, first + second)]
    for middle, members in groups:
        for k, i in enumerate(members):
            places[i] = middle + gap * (k - (len(members) - 1) / 2)
    return places


def draw(title: str, fill: Callable[[Any], None], *, width: float = 4.6, height: float = 3.3) -> str:
    """One plot as an `<svg>` element: `fill` draws into matplotlib axes. `title` is told to those who cannot see it; inches."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        buffer = io.StringIO()
        figure = _figure([fill], INK, RULE, width, height)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(buffer.getvalue(), title)


def image(title: str, fills: Sequence[Callable[[Any, Colours], None]], suffix: str) -> bytes:
    """Plots one below the other as a file of its own, `.svg` or `.png`, in the colours of the light page. `fills` draw into axes with the
    colours they are given; what they label stands in one legend."""
    import matplotlib

    style = resources.files("proxy_lm").joinpath("report.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", style[: style.index("@media")]))

    def shade(index: int) -> str:
        found: str = light[f"arm-{index % NUM_COLOURS}"]
        return found

    def shaded(fill: Callable[[Any, Colours], None]) -> Callable[[Any], None]:
        return lambda plot: fill(plot, shade)

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure = _figure([shaded(fill) for fill in fills], light["ink"], light["rule"], 7.5, 2.4 * len(fills) + 0.5)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=max(1, len(labels)), frameon=False, title=title)
        buffer = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if suffix == ".svg" else {"Software": None}
        figure.savefig(buffer, format=suffix.removeprefix("."), dpi=150, facecolor=light["page"], metadata=metadata)
    return buffer.getvalue()


def standalone(svg: str) -> str:
    """An `<svg>` element of a page as a file of its own, light or dark as the reader's system is."""
    style = resources.files("proxy_lm").joinpath("report.css").read_text(encoding="utf-8")
    colours = style[: style.index("* {")]
    begin = svg.index(">", svg.index("<svg")) + 1
    own = f"{colours}svg {{ background: var(--panel); font-family: system-ui, 'DejaVu Sans', sans-serif; }}\n"
    return f"{svg[:begin]}<style>\n{own}</style>{svg[begin:]}"


def _figure(fills: Sequence[Callable[[Any], None]], ink: str, rule: str, width: float, height: float) -> Any:
    """Plots one below the other."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 10, "text.color": ink, "axes.labelcolor": ink}):
        figure = Figure(figsize=(width, height), layout="constrained")
        for plot, fill in zip(figure.subplots(len(fills), squeeze=False)[:, 0], fills, strict=True):
            fill(plot)
            plot.grid(color=rule, linewidth=0.8)
            plot.set_axisbelow(True)
            plot.tick_params(colors=ink, length=0)
            plot.tick_params(which="minor", length=0)
            for side, spine in plot.spines.items():
                spine.set_visible(side == "bottom")
                spine.set_color(rule)
    return figure


def _themed(svg: str, title: str) -> str:
    """The `<svg>` element alone, with the page's colours in place of the stand-ins."""
    svg = svg[svg.index("<svg") :]
    for k, stand_in in enumerate(_COLOURS):
        svg = svg.replace(stand_in, f"var(--arm-{k})")
    for stand_in, name in _NAMED.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
