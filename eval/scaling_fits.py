"""Loss against parameters and data: E + A / N^alpha + B / D^beta by arm, or K / C^gamma where the points cannot tell N from D.

    fit_parameters_and_data(parameters_P, data_P, bits_P, num_draws=500, seed=0)
    fit_compute(flops_P, bits_P, ...)

The first is approach 3 of Hoffmann et al. 2022 ("Training Compute-Optimal Large Language Models"): the sum of Huber losses (delta 1e-3) of
log bits, from many starts, each run to convergence (Besiroglu et al. 2024, "Chinchilla Scaling: A replication attempt", show what stopping
early does). N are body parameters, D bytes of source told, C training FLOPs. Intervals draw runs again.

Not promised: a law. Five numbers through a handful of runs are loose, which the intervals show; where they cannot be told at all there is
no fit, and a reason. Simulated with 3 seeds, the intervals of E, alpha and beta cover 90 to 97 % at 6 points and 95 to 97 % at 12, if the
form is true: drawing runs again cannot show that it is not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from eval.seed_intervals import Bounds, Floats, NoiseKind, middle

# P runs, B fits at once (starts, or draws), five parameters
HUBER_DELTA = 1e-3
MIN_POINTS = 6
"""Distinct (N, D); five parameters, and one to spare."""
MIN_SCALES = 3
MIN_SPREAD = 0.2
"""Standard deviation of log D that N does not explain: with data in proportion to parameters the two terms are one."""
_LEAST_BITS = 1e-3  # draws of a wild seed noise may lie below 0, which no model has
_STEPS, _STILL, _GAIN = 300, 8, 1e-5
_BOUNDS = ([-12, -40, -5, -40, -5], [5, 5, 1.5, 5, 1.5])  # of the logs of E, A, alpha, B, beta; exponents from 0.007 to 4.5
_NAMES = ("E", "A", "alpha", "B", "beta")


@dataclass(frozen=True)
class ArmFit:
    """What was fitted to an arm's runs."""

    arm: str
    form: Literal["parameters and data", "compute", "none"]
    formula: str
    """'E + A/N^alpha + B/D^beta', 'K/C^gamma', or empty."""
    values: dict[str, float] = field(default_factory=dict)
    """E, A, alpha, B, beta; or K (bits per byte at 1 FLOP) and gamma."""
    intervals: dict[str, Bounds | None] = field(default_factory=dict)
    """By the same names."""
    num_points: int = 0
    """Distinct (N, D) that it was made from."""
    num_runs: int = 0
    num_draws: int = 0
    """Of 'parameters and data': draws of runs that could be fitted; the rest had too few distinct points."""
    error: float | None = None
    """Root mean square of the relative error, a share."""
    budget: str | None = None
    """Of 'compute': the budget along whose scales it runs."""
    seed_noise: NoiseKind = "own"
    """Of the intervals: 'none' where a point that they need has one seed and nothing to borrow from."""
    reason: str = ""
    """Why it is not the fit of parameters and data, or none at all."""

    def bits(self, *, parameters: float | None = None, data: float | None = None, flops: float | None = None) -> float:
        """Bits per byte that the fit gives at N and D (parameters and data), or at C (compute)."""
        v = self.values
        if self.form == "compute":
            assert flops is not None
            return float(v["K"] * flops ** -v["gamma"])
        assert self.form == "parameters and data"
        assert parameters is not None
        assert data is not None
        return float(v["E"] + v["A"] * parameters ** -v["alpha"] + v["B"] * data ** -v["beta"])


def why_not(parameters_P: Floats, data_P: Floats) -> str:
    """Why E, A, alpha, B and beta cannot be told from runs at these N and D; empty if they can."""
    points = distinct(parameters_P, data_P)
    num_scales = len(np.unique(np.round(np.log(parameters_P), 3))) if len(parameters_P) else 0
    if points < MIN_POINTS or num_scales < MIN_SCALES:
        return f"{points} distinct points at {num_scales} scales; five parameters need {MIN_POINTS} at {MIN_SCALES}"
    spread = _spread(np.log(parameters_P), np.log(data_P))
    if spread < MIN_SPREAD:
        return "data grew in proportion to parameters in all runs, so that their two terms cannot be told apart; add budgets at a scale"
    return ""


def distinct(parameters_P: Floats, data_P: Floats) -> int:
    """Number of different (N, D); within a percent is the same."""
    pairs = np.round(np.log(np.stack([parameters_P, data_P], axis=1)), 2)
    return len(np.unique(pairs, axis=0))


def fit_parameters_and_data(
    arm: str, parameters_P: Floats, data_P: Floats, bits_P: Floats, *, num_draws: int = 500, seed: int = 0
) -> ArmFit:
    """E + A/N^alpha + B/D^beta through runs at N, D with these bits per byte; form 'none' with the reason where it cannot be told."""
    num_points = distinct(parameters_P, data_P) if len(bits_P) else 0
    reason = why_not(parameters_P, data_P)
    if reason:
        return ArmFit(arm, "none", "", num_points=num_points, num_runs=len(bits_P), reason=reason)
    log_n, log_d, log_bits = np.log(parameters_P), np.log(data_P), np.log(bits_P)
    centre_n, centre_d = float(log_n.mean()), float(log_d.mean())
    x_2P = np.stack([log_n - centre_n, log_d - centre_d])
    starts = _starts(float(bits_P.mean()))
    solved, loss = _solve(starts, x_2P, log_bits, np.ones((len(starts), len(bits_P))))
    best = solved[np.argmin(loss)]
    counts = _draw_runs(parameters_P, data_P, num_draws, seed)
    drawn = np.empty((0, 5))
    if len(counts):
        drawn, _ = _solve(np.tile(best, (len(counts), 1)), x_2P, log_bits, counts)
    told = _told(best[None, :], centre_n, centre_d)
    spread = _told(drawn, centre_n, centre_d)
    enough = len(counts) >= 0.5 * num_draws
    error = float(np.sqrt(np.mean(np.expm1(_model(best[None, :], x_2P)[0][0] - log_bits) ** 2)))
    return ArmFit(
        arm,
        "parameters and data",
        "E + A/N^alpha + B/D^beta",
        {name: float(told[name][0]) for name in _NAMES},
        {name: middle(spread[name]) if enough else None for name in _NAMES},
        num_points,
        len(bits_P),
        len(counts),
        error,
    )


def fit_compute(
    arm: str,
    flops_P: Floats,
    bits_P: Floats,
    *,
    budget: str | None,
    num_runs: int,
    reason: str,
    interval_of: Callable[[Callable[[Floats], Floats]], Bounds | None],
) -> ArmFit:
    """K / C^gamma through the means of P scales. `interval_of` gives the interval of a function of them, [D, P] -> [D]; it carries seeds
    and projects, and not what the form is wrong by."""
    if len(flops_P) < MIN_SCALES:
        told = f"{reason}; {len(flops_P)} scales at one budget, a power law of compute needs {MIN_SCALES}"
        return ArmFit(arm, "none", "", num_points=len(flops_P), reason=told)
    gamma, log_k = _line(np.log(flops_P), np.log(bits_P)[None, :])
    values = {"K": float(np.exp(log_k[0])), "gamma": float(gamma[0])}

    def drawn(bits: Floats) -> tuple[Floats, Floats]:
        return _line(np.log(flops_P), np.log(np.maximum(bits, _LEAST_BITS)))

    intervals = {"K": interval_of(lambda bits: np.exp(drawn(bits)[1])), "gamma": interval_of(lambda bits: drawn(bits)[0])}
    fitted = values["K"] * flops_P ** -values["gamma"]
    error = float(np.sqrt(np.mean((fitted / bits_P - 1) ** 2)))
    return ArmFit(
        arm,
        "compute",
        "K/C^gamma",
        values,
        intervals,
        num_points=len(flops_P),
        num_runs=num_runs,
        error=error,
        budget=budget,
        reason=reason,
    )


def _line(x_P: Floats, y_DP: Floats) -> tuple[Floats, Floats]:
    """-slope and intercept of least squares lines, [D] each."""
    centred = x_P - x_P.mean()
    slope = y_DP @ centred / (centred @ centred)
    return -slope, y_DP.mean(axis=1) - slope * x_P.mean()


def _spread(log_n: Floats, log_d: Floats) -> float:
    """Standard deviation of log D around its line over log N."""
    minus_slope, level = _line(log_n, log_d[None, :])
    return float(np.std(log_d - (level[0] - minus_slope[0] * log_n)))


def _starts(mean_bits: float) -> Floats:
    """Starts of the search, [B, 5]: how the bits are shared among the three terms at the centre, times exponents."""
    shares = ((0.6, 0.2, 0.2), (0.2, 0.4, 0.4), (0.3, 0.6, 0.1), (0.3, 0.1, 0.6), (0.9, 0.05, 0.05))
    exponents = (0.05, 0.2, 0.5, 1.0)
    rows = [
        [math.log(share[0] * mean_bits), math.log(share[1] * mean_bits), math.log(alpha), math.log(share[2] * mean_bits), math.log(beta)]
        for share, alpha, beta in itertools.product(shares, exponents, exponents)
    ]
    return np.array(rows)


def _model(theta_B5: Floats, x_2P: Floats) -> tuple[Floats, Floats]:
    """log bits [B, P] and their derivatives [B, P, 5]; theta is log of E, A, alpha, B, beta around the centre of log N and log D."""
    e, a, log_alpha, b, log_beta = (theta_B5[:, [i]] for i in range(5))
    alpha, beta = np.exp(log_alpha), np.exp(log_beta)
    terms = np.stack([np.broadcast_to(e, (len(theta_B5), x_2P.shape[1])), a - alpha * x_2P[0], b - beta * x_2P[1]])
    top = terms.max(axis=0)
    weights = np.exp(terms - top)
    total = weights.sum(axis=0)
    part_e, part_a, part_b = weights / total
    slopes = np.stack([part_e, part_a, -part_a * alpha * x_2P[0], part_b, -part_b * beta * x_2P[1]], axis=2)
    return top + np.log(total), slopes


def _huber(residual: Floats, counts: Floats) -> Floats:
    size = np.abs(residual)
    value: Floats = (counts * np.where(size <= HUBER_DELTA, 0.5 * size**2, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))).sum(axis=1)
    return value


def _solve(theta_B5: Floats, x_2P: Floats, log_bits_P: Floats, counts_BP: Floats) -> tuple[Floats, Floats]:
    """Levenberg-Marquardt on the Huber loss, all B problems at once, each until it moves no more; (parameters [B, 5], loss [B])."""
    theta_all, loss_all = theta_B5.copy(), _huber(_model(theta_B5, x_2P)[0] - log_bits_P, counts_BP)
    going = np.arange(len(theta_B5))
    damping, still = np.full(len(theta_B5), 1e-2), np.zeros(len(theta_B5), dtype=np.int64)
    for _ in range(_STEPS):
        theta, loss, counts = theta_all[going], loss_all[going], counts_BP[going]
        told, slopes = _model(theta, x_2P)
        residual = told - log_bits_P
        weights = counts * np.minimum(1.0, HUBER_DELTA / np.maximum(np.abs(residual), 1e-300))
        turned = (slopes * weights[:, :, None]).transpose(0, 2, 1)
        normal, gradient = turned @ slopes, (turned @ residual[:, :, None])[:, :, 0]
        diagonal = np.einsum("bii->bi", normal)
        ridge = damping[:, None] * (diagonal + 1e-12 + 1e-3 * diagonal.max(axis=1, keepdims=True))
        step = np.linalg.solve(normal + ridge[:, :, None] * np.eye(5), gradient[:, :, None])[:, :, 0]
        tried = np.clip(theta - np.clip(step, -1.0, 1.0), *_BOUNDS)
        tried_loss = _huber(_model(tried, x_2P)[0] - log_bits_P, counts)
        better = tried_loss < loss
        theta_all[going] = np.where(better[:, None], tried, theta)
        loss_all[going] = np.where(better, tried_loss, loss)
        damping = np.clip(np.where(better, damping * 0.2, damping * 5.0), 1e-9, 1e9)
        # Ten steps in a row without a millionth of gain: it is there.
        still = np.where(loss - tried_loss > _GAIN * loss, 0, still + 1)
        keep = still < _STILL
        going, damping, still = going[keep], damping[keep], still[keep]
        if not len(going):
            break
    return theta_all, loss_all


def _told(theta_B5: Floats, centre_n: float, centre_d: float) -> dict[str, Floats]:
    """E, A, alpha, B and beta of uncentred N and D, [B] each."""
    e, a, log_alpha, b, log_beta = theta_B5.T
    alpha, beta = np.exp(log_alpha), np.exp(log_beta)
    return {"E": np.exp(e), "A": np.exp(a + alpha * centre_n), "alpha": alpha, "B": np.exp(b + beta * centre_d), "beta": beta}


def _draw_runs(parameters_P: Floats, data_P: Floats, num_draws: int, seed: int) -> Floats:
    """How often each run is in each draw, [draws that can be fitted, P]."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 50]))
    num_runs = len(parameters_P)
    counts = generator.multinomial(num_runs, np.full(num_runs, 1 / num_runs), size=num_draws).astype(np.float64)
    told: dict[bytes, bool] = {}  # which points a draw has decides it, and draws have few different sets of them
    points = np.unique(np.round(np.log(np.stack([parameters_P, data_P], axis=1)), 2), axis=0, return_inverse=True)[1].ravel()
    has = np.stack([(counts[:, points == point] > 0).any(axis=1) for point in range(points.max() + 1)], axis=1)
    for row, key in zip(counts, (row.tobytes() for row in has), strict=True):
        if key not in told:
            told[key] = not why_not(parameters_P[row > 0], data_P[row > 0])
    usable: Floats = counts[[told[row.tobytes()] for row in has]]
    return usable
