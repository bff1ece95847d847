"""The plot of an alignment: by layer, what tells a span's two tellings from those of other spans. Drawn from the result alone.

write_bytes(path, picture(result, ".svg"))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from proxy_lm import plotting
from proxy_lm.errors import RequestError

SUFFIXES = (".svg", ".png")
_DASHED = (0, (2, 2))  # the untrained weights
_WAYS = ("plain", "centred", "whitened", "rotated")


def check(suffix: str) -> None:
    """Raise `RequestError` for a kind of file that cannot be drawn, or where nothing draws."""
    if suffix not in SUFFIXES:
        raise RequestError(f"a plot cannot be written as '{suffix or 'a file without suffix'}'; name a file that ends in .svg or .png")
    plotting.require()


def picture(result: dict[str, Any], suffix: str) -> bytes:
    """Three plots one below the other: gap of similarity, retrieval, CKA; trained in lines, untrained dashed."""
    check(suffix)
    gap, retrieval = _filled(result, "similarity: same span\nminus others", _gap), _filled(result, "retrieval, %", _retrieval)
    return plotting.image(f"raw bytes and {result['view']} by layer (dashed: untrained weights)", [gap, retrieval, _cka(result)], suffix)


def figures(name: str, result: dict[str, Any]) -> list[str]:
    """The same plots as `<svg>` elements of a page, each with its own legend."""

    def own(title: str, fill: Callable[[Any, plotting.Colours], None]) -> str:
        def filled(plot: Any) -> None:
            fill(plot, plotting.colour)
            plot.set_title(title, fontsize=10, loc="left")
            if plot.get_legend_handles_labels()[0]:
                plot.legend(fontsize=8, frameon=False)

        return plotting.draw(title, filled)

    parts = {
        "gap": _filled(result, "same span minus others", _gap),
        "retrieval": _filled(result, "retrieval, %", _retrieval),
        "CKA": _cka(result),
    }
    return [own(f"{name}, {result['view']}: {part} by layer (dashed: untrained)", fill) for part, fill in parts.items()]


def _gap(layer: dict[str, Any], way: str) -> tuple[float, float, float]:
    return _with_interval(layer[way]["similarity"]["gap"], 1.0)


def _retrieval(layer: dict[str, Any], way: str) -> tuple[float, float, float]:
    """The mean of both ways; its band is the mean of their intervals."""
    ways = [_with_interval(layer[way]["retrieval"][name], 100.0) for name in ("raw_to_view", "view_to_raw")]
    low, middle, high = (sum(parts) / 2 for parts in zip(*ways, strict=True))
    return low, middle, high


def _with_interval(found: dict[str, Any], scale: float) -> tuple[float, float, float]:
    value = scale * found["value"] if found["value"] is not None else float("nan")
    low, high = found["interval"] or (value / scale, value / scale)
    return scale * low, value, scale * high


def _filled(
    result: dict[str, Any], title: str, of: Callable[[dict[str, Any], str], tuple[float, float, float]]
) -> Callable[[Any, plotting.Colours], None]:
    def fill(plot: Any, colours: plotting.Colours) -> None:
        for number, way in enumerate(way for way in _WAYS if result["layers"][0][way] is not None):
            at = [layer["layer"] for layer in result["layers"]]
            low, middle, high = zip(*(of(layer, way) for layer in result["layers"]), strict=True)
            plot.plot(at, middle, color=colours(number), marker="o", markersize=4, label=way)
            plot.fill_between(at, low, high, color=colours(number), alpha=0.15, linewidth=0)
            if result["untrained"] is not None:
                plot.plot(at, [of(layer, way)[1] for layer in result["untrained"]], color=colours(number), linestyle=_DASHED)
        _axes(plot, result["layers"], title)

    return fill


def _cka(result: dict[str, Any]) -> Callable[[Any, plotting.Colours], None]:
    def fill(plot: Any, colours: plotting.Colours) -> None:
        for layers, style in ((result["layers"], "-"), (result["untrained"] or [], _DASHED)):
            known = [layer for layer in layers if layer["cka"] is not None]
            plot.plot([layer["layer"] for layer in known], [layer["cka"] for layer in known], color=colours(0), linestyle=style)
        _axes(plot, result["layers"], "CKA")

    return fill


def _axes(plot: Any, layers: Sequence[dict[str, Any]], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    plot.set_ylabel(title)
    plot.set_xlabel("layer (0: embedding, last: final norm)")
    plot.set_xlim(-0.1, len(layers) - 0.9)
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
