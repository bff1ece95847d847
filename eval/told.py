"""Does a view add anything beyond the raw bytes that are told beside it? An arm against what the baseline would have of as many raw bytes.

    expected_bits(bytes_P, bits_DP, told)      [D]: the baseline's bits per byte after `told` raw bytes, for D draws at once
    told_of(cell, curve, joint)                Told: expected, seen, their difference with its interval

The baseline's curve runs over its budgets at one scale: the same model, trained to the end of its schedule on more or fewer raw bytes.
Between two of its points it is a power law (a straight line of log bits over log bytes), beyond them the outer piece is prolonged and
marked. An arm that was told as many raw bytes as one of the points, within `AS_MANY`, needs no curve.

Not promised: what is prolonged more than `MOST_EXTRAPOLATION` times is not told at all. Other scales have other models and say nothing
here. An arm is told fewer raw bytes at equal FLOPs because its view takes rows too; that this is no loss in itself is what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from eval.grid_cells import Cell, noise_of
from eval.multipliers import MOST_EXTRAPOLATION
from eval.seed_intervals import Bounds, Floats, Joint, NoiseKind, uncertain
from eval.seed_noise import weakest

# P points of the baseline, D draws
AS_MANY: Final = 0.02


@dataclass(frozen=True)
class Told:
    """An arm that is asked in raw bytes, at one scale and budget."""

    arm: str
    scale: str | None
    budget: str | None
    raw_bytes: float
    """Raw bytes told in a run, repeats counted; mean over seeds."""
    seen: float
    """Its bits per byte."""
    expected: float | None
    """The baseline's, by its curve, of as many raw bytes."""
    difference: float | None
    """Seen less expected; negative: better than as many raw bytes alone."""
    interval: Bounds | None
    """95 %, alone; seeds and projects of the arm and of the points that it uses."""
    prolonged: bool
    """Whether the curve is prolonged beyond its points."""
    seed_noise: NoiseKind
    reason: str
    """Why nothing is expected; else empty."""


def expected_bits(bytes_P: Floats, bits_DP: Floats, told: float) -> Floats:
    """Bits per byte after `told` bytes: a power law between neighbouring points, the outer pieces prolonged. `bytes_P` ascends strictly.

    Raises `ValueError` with fewer than two points."""
    if len(bytes_P) < 2:
        raise ValueError("a curve needs two points")
    left = int(np.clip(np.searchsorted(bytes_P, told) - 1, 0, len(bytes_P) - 2))
    log_P = np.log(bytes_P[left : left + 2])
    share = (np.log(told) - log_P[0]) / (log_P[1] - log_P[0])
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw far off can be below 0 bits: nan, which an interval counts as unknown
        bits: Floats = np.exp((1 - share) * np.log(bits_DP[:, left]) + share * np.log(bits_DP[:, left + 1]))
    return bits


def told_of(cell: Cell, curve: Sequence[Cell], joint: Joint) -> Told | None:
    """One line; None where the cell has no score or is not asked in raw bytes. `curve`: the baseline's cells of that scale with one."""
    if cell.mean is None or not cell.asked_raw:
        return None
    points = _apart(sorted((base for base in curve if base.mean is not None and base.raw_bytes > 0), key=lambda base: base.raw_bytes))
    equal = [base for base in points if abs(cell.raw_bytes / base.raw_bytes - 1) <= AS_MANY]
    used = equal[:1] or points
    reason = "" if equal else _why_not(cell.raw_bytes, points)
    noise = weakest([noise_of(one) for one in (cell, *used)])
    found = Told(cell.arm, cell.scale, cell.budget, cell.raw_bytes, cell.mean, None, None, None, False, noise, reason)
    if reason:
        return found
    bytes_P = np.array([base.raw_bytes for base in used])

    def at(bits_DP: Floats) -> Floats:
        return bits_DP[:, 0] if equal else expected_bits(bytes_P, bits_DP, cell.raw_bytes)

    expected = float(at(np.array([[base.mean for base in used]], dtype=np.float64))[0])
    interval = joint.interval([cell.key, *(base.key for base in used)], lambda drawn: drawn[:, 0] - at(drawn[:, 1:]))
    if equal and cell.sample is not None and equal[0].sample is not None:  # a plain difference: exactly, not by draws
        exact = uncertain(cell.sample, equal[0].sample)
        interval = None if exact is None else exact.interval()
    prolonged = not equal and not points[0].raw_bytes <= cell.raw_bytes <= points[-1].raw_bytes
    return Told(
        cell.arm, cell.scale, cell.budget, cell.raw_bytes, cell.mean, expected, cell.mean - expected, interval, prolonged, noise, ""
    )


def _why_not(told: float, points: Sequence[Cell]) -> str:
    if told <= 0:
        return "no raw bytes told"
    if len(points) < 2:
        return f"the baseline has {len(points) or 'no'} budget{'' if len(points) == 1 else 's'} at this scale; a curve needs two"
    low, high = points[0].raw_bytes, points[-1].raw_bytes
    if low / MOST_EXTRAPOLATION <= told <= high * MOST_EXTRAPOLATION:
        return ""
    return f"more than {MOST_EXTRAPOLATION:g} times {'fewer' if told < low else 'more'} bytes than the baseline was told"


def _apart(points: Sequence[Cell]) -> list[Cell]:
    """Without points that were told as many bytes as the one before."""
    kept: list[Cell] = []
    for point in points:
        if not kept or point.raw_bytes > (1 + AS_MANY) * kept[-1].raw_bytes:
            kept.append(point)
    return kept
