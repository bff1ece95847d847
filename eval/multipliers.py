"""How many times the baseline's compute an arm's bits per byte are worth: C_baseline(bits of the arm) / C_arm.

    curve = fit_curve(flops_P, bits_DP)      bits(C) of the baseline through its P measured points, for D draws at once
    curve.flops_at(bits_D)                   C at which it reaches these bits

Two points give a power law through them, three or more a + b C^-c (a and b not negative, least squares). 1.5 means: the baseline needs 1.5
times the arm's FLOPs for the arm's bits per byte, so above 1 the arm is the better one.

Not promised: anything far outside the compute the baseline was measured at. A value up to `MOST_EXTRAPOLATION` times beyond it is told with
its kind 'beyond the measured range'; further off there is only a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.seed_intervals import Bounds, Floats, NoiseKind

# D draws, P points of the baseline
Kind = Literal["measured", "beyond the measured range", "not defined"]
MOST_EXTRAPOLATION = 4.0
_EXPONENTS = np.geomspace(0.005, 3.0, 30)
_ZOOMS = 8  # halvings of the grid's step: exponents to a thousandth


@dataclass(frozen=True)
class Ratio:
    """A multiplier. Ends of the interval are 0 or infinity where the draws leave what the curve can tell."""

    value: float | None
    interval: Bounds | None

    @property
    def text(self) -> str:
        """Such as '1.48 (1.31 to 1.66)', '1.48 (1.31 or more)', '-'."""
        if self.value is None:
            return "-"
        if self.interval is None:
            return f"{self.value:.3g}"
        low, high = self.interval
        if low <= 0 and math.isinf(high):
            return f"{self.value:.3g} (any)"
        if low <= 0:
            return f"{self.value:.3g} ({high:.3g} or less)"
        return f"{self.value:.3g} ({low:.3g} or more)" if math.isinf(high) else f"{self.value:.3g} ({low:.3g} to {high:.3g})"


@dataclass(frozen=True)
class Multiplier:
    """One arm at one scale and budget against the baseline's curve."""

    arm: str
    scale: str | None
    budget: str | None
    kind: Kind
    value: float | None
    interval: Bounds | None
    with_compressor: Ratio
    """The same, both sides charged with the fitting, encoding and teaching of their views: the arm with its own, the baseline with what it
    would have cost at the compute it needs. A baseline of raw bytes has none."""
    bound: float | None
    """Beyond the measured range: the multiplier at the end of the range; the true one is further from 1 on that side."""
    along: Literal["budgets", "scales"]
    """What the curve runs along: the baseline's budgets at this scale, or its scales at this budget."""
    num_points: int
    """Points of the curve."""
    seed_noise: NoiseKind
    """Of the interval: the weakest of the cells that it uses; 'none' if one of them has one seed and nothing to borrow from."""
    reason: str
    """Why it is not defined, or only a bound; else empty."""
    is_more: bool = False
    """With a bound: whether the truth is above it, the arm being better than all that the baseline was measured at."""

    @property
    def covers_seeds(self) -> bool:
        """Whether the interval covers seeds."""
        return self.seed_noise != "none"

    @property
    def text(self) -> str:
        """Value with interval; a bound where there is no value; '-' where there is nothing."""
        if self.value is not None:
            return Ratio(self.value, self.interval).text
        if self.bound is None:
            return "-"
        return f"more than {self.bound:.3g}" if self.is_more else f"less than {self.bound:.3g}"


@dataclass(frozen=True)
class Curve:
    """bits(C) = a + b C^-c with C in units of `unit`; arrays of [D]. A row of nan: no falling curve goes through its points."""

    a: Floats
    b: Floats
    c: Floats
    unit: float

    def bits_at(self, flops: float) -> Floats:
        """Bits per byte at `flops`, [D]."""
        bits: Floats = self.a + self.b * (flops / self.unit) ** -self.c
        return bits

    def flops_at(self, bits: Floats) -> Floats:
        """FLOPs at which it reaches `bits` [D]; infinity at or below its floor, nan where there is no curve."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            above = (bits - self.a) / self.b
            log = -np.log(np.maximum(above, 1e-300)) / self.c
            flops = self.unit * np.exp(np.minimum(log, 600.0))
        return np.where(np.isnan(self.b), np.nan, np.where(above <= 0, np.inf, flops))


def fit_curve(flops_P: Floats, bits_DP: Floats) -> Curve:
    """The baseline's curve for every draw: two points exactly, more by least squares over a, b >= 0 and a grid of exponents.

    Points need not be sorted; equal FLOPs are one point only if the caller made them one. Raises `ValueError` with fewer than two.
    """
    if len(flops_P) < 2:
        raise ValueError("a curve needs two points")
    unit = float(np.exp(np.log(flops_P).mean()))
    log_P = np.log(flops_P / unit)
    if len(flops_P) == 2:
        with np.errstate(invalid="ignore", divide="ignore"):
            c = -(np.log(bits_DP[:, 1]) - np.log(bits_DP[:, 0])) / (log_P[1] - log_P[0])
            b = np.exp(np.log(bits_DP).mean(axis=1))
        falls = np.isfinite(c) & (c > 0)
        return Curve(np.where(falls, 0.0, np.nan), np.where(falls, b, np.nan), np.where(falls, c, np.nan), unit)
    best = np.full(len(bits_DP), np.inf)
    c = np.full(len(bits_DP), _EXPONENTS[0])
    for exponent in _EXPONENTS:
        c, best = _better(c, best, np.full_like(c, exponent), log_P, bits_DP)
    step = _EXPONENTS[1] / _EXPONENTS[0]
    for _ in range(_ZOOMS):
        step = step**0.5
        centre = c
        for beside in (centre / step, centre * step):
            c, best = _better(c, best, beside, log_P, bits_DP)
    wrong, a, b = _line_at(c, log_P, bits_DP)
    falls = np.isfinite(wrong)
    return Curve(np.where(falls, a, np.nan), np.where(falls, b, np.nan), np.where(falls, c, np.nan), unit)


def _better(c: Floats, best: Floats, tried: Floats, log_P: Floats, bits_DP: Floats) -> tuple[Floats, Floats]:
    """Exponents and their sums of squares, each replaced by the tried one where that is better."""
    wrong = _line_at(tried, log_P, bits_DP)[0]
    return np.where(wrong < best, tried, c), np.minimum(wrong, best)


def _line_at(exponent_D: Floats, log_P: Floats, bits_DP: Floats) -> tuple[Floats, Floats, Floats]:
    """Sum of squares, a and b of the best line of bits over C^-c, through the origin where a would be negative; infinite where b would."""
    x_DP = np.exp(-exponent_D[:, None] * log_P)
    mean_x, mean_y = x_DP.mean(axis=1), bits_DP.mean(axis=1)
    centred = x_DP - mean_x[:, None]
    slope = (centred * bits_DP).sum(axis=1) / (centred**2).sum(axis=1)
    floor = mean_y - slope * mean_x
    b = np.where(floor < 0, (x_DP * bits_DP).sum(axis=1) / (x_DP**2).sum(axis=1), slope)
    a = np.maximum(floor, 0.0)
    wrong = ((a[:, None] + b[:, None] * x_DP - bits_DP) ** 2).sum(axis=1)
    return np.where(slope > 0, wrong, np.inf), a, b


def multiplier(
    arm: str,
    scale: str | None,
    budget: str | None,
    *,
    flops: float,
    compressor_flops: float,
    bits: float,
    curve_flops_P: Floats,
    curve_compressor_P: Floats,
    curve_bits_P: Floats,
    along: Literal["budgets", "scales"],
    seed_noise: NoiseKind,
    interval_of: Callable[[Callable[[Floats], Floats]], Bounds | None],
) -> Multiplier:
    """One multiplier. `interval_of` gives the interval of a function of the arm's bits and the curve's, [D, 1 + P] -> [D]."""
    nothing = Ratio(None, None)
    common = {"arm": arm, "scale": scale, "budget": budget, "along": along, "num_points": len(curve_flops_P)}

    def made(
        kind: Kind, ratio: Ratio, with_compressor: Ratio, reason: str = "", bound: float | None = None, above: bool = False
    ) -> Multiplier:
        return Multiplier(
            **common,  # type: ignore[arg-type]
            kind=kind,
            value=ratio.value,
            interval=ratio.interval,
            with_compressor=with_compressor,
            bound=bound,
            seed_noise=seed_noise,
            reason=reason,
            is_more=above,
        )

    if len(curve_flops_P) < 2:
        what = "budget at this scale" if along == "budgets" else "scale at this budget"
        return made("not defined", nothing, nothing, f"the baseline finished {len(curve_flops_P) or 'no'} {what}; a curve needs two")
    curve = fit_curve(curve_flops_P, curve_bits_P[None, :])
    if np.isnan(curve.b[0]):
        return made("not defined", nothing, nothing, "the baseline's bits per byte do not fall with compute")
    equal = float(curve.flops_at(np.array([bits]))[0])
    low, high = float(curve_flops_P.min()), float(curve_flops_P.max())
    outside = not low <= equal <= high
    if not low / MOST_EXTRAPOLATION <= equal <= high * MOST_EXTRAPOLATION:
        border, times = (high, "times the largest") if equal > high else (low, "times less than the smallest")
        reason = f"worth more than {MOST_EXTRAPOLATION:g} {times} compute that the baseline was measured at"
        return made("beyond the measured range", nothing, nothing, reason, border / flops, equal > high)

    def equals(drawn: Floats) -> Floats:
        flops_D = fit_curve(curve_flops_P, drawn[:, 1:]).flops_at(drawn[:, 0])
        far, near = flops_D > high * MOST_EXTRAPOLATION, flops_D < low / MOST_EXTRAPOLATION
        return np.where(far, np.inf, np.where(near, 0.0, flops_D))

    bounds = interval_of(equals)
    if bounds is not None:
        bounds = max(0.0, bounds[0]), bounds[1]

    def over(cost: float, beside: Callable[[float], float]) -> Ratio:
        ends = None if bounds is None else ((bounds[0] + beside(bounds[0])) / cost, (bounds[1] + beside(bounds[1])) / cost)
        return Ratio((equal + beside(equal)) / cost, ends)

    def compressor(needed: float) -> float:
        return _cost_at(needed, curve_flops_P, curve_compressor_P)

    kind: Kind = "beyond the measured range" if outside else "measured"
    bound = None if not outside else (high if equal > high else low) / flops
    return made(kind, over(flops, lambda _: 0.0), over(flops + compressor_flops, compressor), "", bound, equal > high)


def _cost_at(flops: float, flops_P: Floats, cost_P: Floats) -> float:
    """What the baseline's views cost in a run of `flops`: straight lines through its points (fitting and encoding are the same for all
    runs, what a teacher is asked grows with the run), the outer ones prolonged. 0 at the open ends of an interval, 0 and infinity."""
    if not 0 < flops < math.inf:
        return 0.0
    order = np.argsort(flops_P)
    x, y = flops_P[order], cost_P[order]
    piece = int(np.clip(np.searchsorted(x, flops) - 1, 0, len(x) - 2))
    slope = (y[piece + 1] - y[piece]) / (x[piece + 1] - x[piece])
    return max(0.0, float(y[piece] + slope * (flops - x[piece])))
