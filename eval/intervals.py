"""How sure a number of one run is: bootstrap intervals over projects.

Bits per byte is a ratio of two sums over documents. Documents of one project resemble each other, so the unit that is drawn again is the
project: `num_draws` times as many projects as there are, with replacement, and the ratio each time; the interval is the middle 95 %.

Not promised: the interval covers which documents were tested, and not what another initialisation or data order would have given; arms are
judged over seeds and projects in `eval.seed_intervals`. With few projects a percentile interval is somewhat too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NUM_DRAWS = 2000
COVERAGE = 0.95
MIN_PROJECTS = 8
"""With fewer nothing is called better, worse or a tie, however many offsets or bytes they hold."""
_CHUNK_CELLS = 1 << 22  # draws are made in chunks so that memory stays at 32 MB however many projects there are


@dataclass(frozen=True)
class Clusters:
    """Sums per project, all arrays of one length and in one order: `nll_nats` and `num_bytes`."""

    names: tuple[str, ...]
    nll_nats: Floats
    num_bytes: Floats

    @classmethod
    def of_documents(cls, projects: Sequence[str], nll_nats: Floats, num_bytes: Floats) -> Clusters:
        """Add up documents by project; projects come out sorted by name."""
        names, index = np.unique(np.asarray(projects, dtype=object).astype(str), return_inverse=True)
        return cls(
            tuple(str(name) for name in names),
            np.bincount(index, weights=nll_nats, minlength=len(names)).astype(np.float64),
            np.bincount(index, weights=num_bytes, minlength=len(names)).astype(np.float64),
        )


def bits_per_byte(nll_nats: float, num_bytes: float) -> float:
    """Nats over bytes, in bits."""
    return nll_nats / math.log(2) / num_bytes


def interval(clusters: Clusters, *, seed: int = 0, num_draws: int = NUM_DRAWS) -> tuple[float, float] | None:
    """The 95 % interval of bits per byte; None with fewer than two projects, which can say nothing about a third."""
    if len(clusters.names) < 2:
        return None
    draws = _draws(clusters.nll_nats[None, :], clusters.num_bytes, seed, num_draws)
    return _middle(draws[:, 0])


@dataclass(frozen=True)
class Estimate:
    """A ratio of two sums over items with its 95 % interval: `value` is None where there is nothing to divide by, `interval` with fewer
    than two projects."""

    value: float | None
    interval: tuple[float, float] | None

    def to_json(self) -> dict[str, object]:
        """Plain JSON."""
        return {"value": self.value, "interval": None if self.interval is None else list(self.interval)}


def estimate(
    projects: Sequence[str], top: npt.ArrayLike, bottom: npt.ArrayLike | None = None, *, seed: int = 0, num_draws: int = NUM_DRAWS
) -> Estimate:
    """Sum of `top` over sum of `bottom` ([num_items] each; left out, 1: the mean), and its interval, projects drawn again as in `interval`.
    The same projects and `bottom` get the same draws, so the estimate of a difference is that of the paired differences."""
    numerators = np.asarray(top, dtype=np.float64)
    denominators = np.ones_like(numerators) if bottom is None else np.asarray(bottom, dtype=np.float64)
    if not denominators.sum():
        return Estimate(None, None)
    clusters = Clusters.of_documents(projects, numerators, denominators)
    value = math.fsum(numerators) / math.fsum(denominators)
    bounds = interval(clusters, seed=seed, num_draws=num_draws)
    return Estimate(value, None if bounds is None else (bounds[0] * math.log(2), bounds[1] * math.log(2)))


def share(projects: Sequence[str], right: npt.ArrayLike) -> Estimate:
    """The share of items that are right, as `estimate`. Of none and of all items it has no interval: drawing projects again cannot tell how
    rare the other outcome is."""
    found = estimate(projects, right)
    return Estimate(found.value, None) if found.value in (0, 1) else found


def _draws(nats: Floats, num_bytes: Floats, seed: int, num_draws: int) -> Floats:
    """Bits per byte of each draw of projects, shape [num_draws, rows of nats]."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    num_clusters = len(num_bytes)
    even = np.full(num_clusters, 1.0 / num_clusters)
    chunk = max(1, _CHUNK_CELLS // num_clusters)
    parts = []
    for first in range(0, num_draws, chunk):
        weights = generator.multinomial(num_clusters, even, size=min(chunk, num_draws - first)).astype(np.float64)
        total_bytes = weights @ num_bytes
        total_bytes[total_bytes <= 0] = np.nan  # a draw with nothing to divide by says nothing
        parts.append((weights @ nats.T) / total_bytes[:, None] / math.log(2))
    return np.concatenate(parts)


def _middle(draws: Floats) -> tuple[float, float]:
    low, high = np.nanquantile(draws, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
