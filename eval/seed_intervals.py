"""How sure a number of a few seeds is: variance of seeds and variance of projects, an interval by Student's t, and draws of both.

Two things could have come out otherwise: the projects that were tested, and the seeds that were trained. Drawing 3 seeds again (as
`eval/intervals.py` does with what it is given) understates their part: the middle 95 % of such draws cover about three quarters of the
time. So the two variances are estimated apart and added:

    seeds      sample variance of the seeds' values over their number, R - 1 degrees of freedom; of a pair: of its differences by seed
    projects   jackknife over projects of the ratio of sums, which is the clustered bootstrap's variance without its shortfall where
               projects are few or one is large; as many degrees of freedom as projects of equal size would have, less one

and the interval is t with Satterthwaite's degrees of freedom of the sum (Satterthwaite 1946). What seeds do differently in different
projects is in both parts, so the interval is slightly wide rather than narrow. For what is no mean (multipliers, slopes) `draws` gives the
same two parts as random numbers: combinations of the projects' and of the seeds' own deviations, so that every mean and every difference
has the t distributions of its own projects and seeds, pairs kept.

Not promised: with one seed the interval covers projects alone (`covers_seeds` says so). Nothing covers another corpus.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

# R seeds, J projects
Floats = npt.NDArray[np.float64]
Bounds = tuple[float, float]
K = TypeVar("K", bound=Hashable)

COVERAGE = 0.95
_CHUNK_CELLS = 1 << 22  # weights are drawn in chunks, so that memory stays at 32 MB however many projects there are


@dataclass(frozen=True)
class Sample:
    """What several seeds of one cell scored: bits that project j adds to bits per byte, by seed."""

    seeds: tuple[int, ...]
    bits_RJ: Floats
    """Bits of seed r in project j, not divided by anything."""
    num_bytes_J: Floats

    @property
    def values(self) -> Floats:
        """Bits per byte by seed, [R]."""
        values: Floats = self.bits_RJ.sum(axis=1) / self.num_bytes_J.sum()
        return values

    def of(self, seeds: Sequence[int]) -> Sample:
        """The part with these seeds, in this order."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return Sample(tuple(seeds), self.bits_RJ[rows], self.num_bytes_J)

    def minus(self, other: Sample) -> Sample:
        """Differences by seed and project, over the seeds of both."""
        seeds = [seed for seed in self.seeds if seed in other.seeds]
        return Sample(tuple(seeds), self.of(seeds).bits_RJ - other.of(seeds).bits_RJ, self.num_bytes_J)


@dataclass(frozen=True)
class Uncertain:
    """A mean over seeds and projects, with what is needed for intervals and tests."""

    value: float
    seed_variance: float
    """Of the mean over seeds; 0 with one seed."""
    project_variance: float
    degrees: float
    covers_seeds: bool

    @property
    def deviation(self) -> float:
        """Standard deviation of `value`."""
        return math.sqrt(self.seed_variance + self.project_variance)

    def interval(self, level: float = COVERAGE) -> Bounds:
        """The interval that covers with probability `level`."""
        half = t_quantile(0.5 + level / 2, self.degrees) * self.deviation
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """Two-sided probability of a value so far from 0 if the truth is 0."""
        if self.deviation == 0:
            return 1.0 if self.value == 0 else 0.0
        return t_two_sided(self.value / self.deviation, self.degrees)


def uncertain(sample: Sample) -> Uncertain | None:
    """Mean over the seeds of `sample` with both variances. None without seeds, or with fewer than two projects that hold bytes."""
    held = sample.num_bytes_J > 0
    num_seeds = len(sample.seeds)
    if not num_seeds or int(held.sum()) < 2:
        return None
    values = sample.values
    seed_variance = float(values.var(ddof=1)) / num_seeds if num_seeds > 1 else 0.0
    project_variance, project_degrees = _project_part(sample.bits_RJ.mean(axis=0)[held], sample.num_bytes_J[held])
    parts = [(project_variance, project_degrees), *([(seed_variance, num_seeds - 1.0)] if num_seeds > 1 else [])]
    return Uncertain(float(values.mean()), seed_variance, project_variance, satterthwaite(parts), num_seeds > 1)


def _project_part(bits_J: Floats, num_bytes_J: Floats) -> tuple[float, float]:
    """Variance of sum(bits) / sum(bytes) over projects, and its degrees of freedom."""
    num_projects = len(num_bytes_J)
    off = _left_out(bits_J[None, :], num_bytes_J)[0]
    return (num_projects - 1) / num_projects * float((off**2).sum()), _project_degrees(num_bytes_J)


def _left_out(bits_KJ: Floats, num_bytes_J: Floats) -> Floats:
    """By how much each ratio of sums moves without project j, [K, J]."""
    total_K, total = bits_KJ.sum(axis=1, keepdims=True), num_bytes_J.sum()
    moved: Floats = (total_K - bits_KJ) / (total - num_bytes_J) - total_K / total
    return moved


def _project_degrees(num_bytes_J: Floats) -> float:
    return max(1.0, float(num_bytes_J.sum() ** 2 / (num_bytes_J**2).sum()) - 1)


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variances, each given as (variance, degrees)."""
    total = math.fsum(variance for variance, _ in parts)
    if total == 0:
        return min(degrees for _, degrees in parts)
    return total**2 / math.fsum(variance**2 / degrees for variance, degrees in parts)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction (Holm 1979): the chance of one false verdict among all is at most the level at which they are read."""
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def draws(samples: Mapping[K, Sample], groups: Mapping[K, Hashable], *, num_draws: int, seed: int) -> dict[K, Floats]:
    """Bits per byte of each sample as [num_draws] random numbers that carry both variances, projects shared by all samples.

    `groups` names the set of runs whose seeds belong together (a scale): in it equal seeds move together, so that pairs stay pairs; across
    sets they are drawn apart. All samples must hold the same projects.
    """
    keys = list(samples)
    if not keys:
        return {}
    means_KJ = np.stack([samples[key].bits_RJ.mean(axis=0) for key in keys])
    out = dict(zip(keys, _project_draws(means_KJ, samples[keys[0]].num_bytes_J, num_draws, seed), strict=True))
    for number, group in enumerate(dict.fromkeys(groups[key] for key in keys)):
        members = [key for key in keys if groups[key] == group and len(samples[key].seeds) > 1]
        if not members:
            continue
        generator = np.random.Generator(np.random.Philox(key=[seed, 1 + number]))
        normal = {s: generator.standard_normal(num_draws) for s in sorted({s for key in members for s in samples[key].seeds})}
        scales = {
            s: np.sqrt(generator.chisquare(len(s) - 1, num_draws) / (len(s) - 1))
            for s in dict.fromkeys(samples[key].seeds for key in members)
        }
        for key in members:
            sample = samples[key]
            off = sample.values - sample.values.mean()
            count = len(sample.seeds)
            moved = sum((normal[s] * off[row] for row, s in enumerate(sample.seeds)), np.zeros(num_draws))
            out[key] = out[key] + moved / scales[sample.seeds] / math.sqrt(count * (count - 1))
    return out


def _project_draws(bits_KJ: Floats, num_bytes_J: Floats, num_draws: int, seed: int) -> Floats:
    """Ratios of sums as random numbers with the jackknife's variance, [K, num_draws]; the same draws of projects for all K rows."""
    held = num_bytes_J > 0
    bits_KJ, num_bytes_J = bits_KJ[:, held], num_bytes_J[held]
    total, num_projects = num_bytes_J.sum(), len(num_bytes_J)
    centre_K = bits_KJ.sum(axis=1) / total
    drawn: Floats = np.repeat(centre_K[:, None], num_draws, axis=1)
    if num_projects < 2:
        return drawn
    off_KJ = _left_out(bits_KJ, num_bytes_J) * math.sqrt((num_projects - 1) / num_projects)
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    degrees = _project_degrees(num_bytes_J)
    scale = np.sqrt(generator.chisquare(degrees, num_draws) / degrees)
    chunk = max(1, _CHUNK_CELLS // num_projects)
    for first in range(0, num_draws, chunk):
        part = slice(first, min(first + chunk, num_draws))
        drawn[:, part] += off_KJ @ generator.standard_normal((part.stop - first, num_projects)).T / scale[part]
    return drawn


def middle(values: Floats, level: float = COVERAGE) -> Bounds:
    """Quantiles of draws. A draw that is nan says nothing and counts as lowest at the low end and as highest at the high end."""
    unknown = np.isnan(values)
    low = np.quantile(np.where(unknown, -np.inf, values), (1 - level) / 2, method="lower")
    high = np.quantile(np.where(unknown, np.inf, values), (1 + level) / 2, method="higher")
    return float(low), float(high)


def t_two_sided(t: float, degrees: float) -> float:
    """Probability that Student's t with `degrees` is further from 0 than `t`."""
    return _beta(degrees / (degrees + t * t), degrees / 2, 0.5)


def t_quantile(probability: float, degrees: float) -> float:
    """The value below which Student's t is with `probability` (above one half)."""
    assert 0.5 <= probability < 1
    tail = 2 * (1 - probability)
    high = 1.0
    while t_two_sided(high, degrees) > tail:
        high *= 2
    low = 0.0
    while high - low > 1e-10 * high:
        half = (low + high) / 2
        low, high = (half, high) if t_two_sided(half, degrees) > tail else (low, half)
    return (low + high) / 2


def _beta(x: float, a: float, b: float) -> float:
    """Regularized incomplete beta function I_x(a, b), by its continued fraction (modified Lentz; DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            step *= c * d
        value *= step
        if abs(step - 1) < 1e-14:
            break
    return front * value
