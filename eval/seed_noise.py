"""How much a run varies with its seed, from all arms that were run at one scale and budget: one rule, the same for every arm.

    pool, samples = with_noise({"bytes": sample, "taught": sample, ...}, "s0", "x1")
    samples = from_elsewhere(samples, pools)      # where no arm has several seeds: of the pools of the other scales and budgets

Three seeds know their own spread to 2 degrees of freedom, and a single one not at all; but arms of one scale and budget train alike. So,
with s2 the variance pooled over all arms with several seeds there (weighted by degrees of freedom, as in a one-way analysis of variance):

    several seeds, own variance up to s2     s2, with the degrees of freedom of the pool                       'pooled'
    several seeds, own variance above s2     its own, with its own degrees of freedom (as in Welch's test)     'own'
    one seed                                 s2, with one degree of freedom for each arm it is taken from      'borrowed'
    no arm has several seeds there           the largest s2 of the other scales and budgets, with one degree
                                             of freedom for each of them                                       'elsewhere'
    nor anywhere in the comparison           not known: intervals cover projects alone and are marked, and     'none'
                                             no pair is judged

No arm is ever taken to vary less than it was seen to. That takes the place of a test for equal variances, which can hardly see them with
three seeds: one arm of ten that spreads four times as wide is found by Brown and Forsythe's in 46 % of cases at 5 %. What is borrowed is a
guess about another arm, so arms are counted for it and not runs.

Simulated with seeds alone, 4,000 to 6,000 grids of 10 arms with 3 seeds, no true difference, 9 pairs with the baseline after Holm; share
of grids with a false verdict, and of true differences of 5 seed deviations that are found (where all spread alike):

    truth                               each its own (Welch)   pooled   pooled unless B.-F. refuses   this rule
    all arms spread alike                         2 %            4 %                 4 %                 1 %
    one arm four times as wide                    2 %           14 %                12 %                 2 %
    the baseline four times as wide               3 %           26 %                18 %                 4 %
    deviations lognormal (0.5)                    3 %            9 %                 9 %                 2 %
    found                                        68 %          100 %                98 %                87 %

With 2 to 4 arms, and with 6 seeds, it is 1 to 7 %, the most with 2 arms of which one is four times as wide (Welch: 6 %). With 13 arms of
one seed beside the 10, of 22 pairs: 1 % where all spread alike, 4 % with the baseline four times as wide, 8 % with lognormal deviations
(0.5); alone, intervals of the borrowed kind cover 93 to 97 %. The assumption is that arms of one seed vary as the others do. Where they
all varied twice as much, 21 % of such pairs would be called wrongly when read alone, so a borrowed verdict is marked wherever it stands.

'elsewhere' is a guess about another scale, so scales and budgets are counted for it and neither arms nor runs. Where there is not even
that, no pair is judged: `called_unlike` counts what documents alone would say of models that differ in their seed alone, and of the
ladder's twelve byte models of 30,000 parameters it is more than half of the pairs (`tests/test_seed_noise_elsewhere.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from eval.seed_intervals import COVERAGE, NoiseKind, Sample, SeedNoise, uncertain

NO_SEEDS: Final = "†"
BORROWED: Final = "‡"
ELSEWHERE: Final = "§"
_MARKS: Final[Mapping[NoiseKind, str]] = {"own": "", "pooled": "", "borrowed": BORROWED, "elsewhere": ELSEWHERE, "none": NO_SEEDS}
EXPLAINED: Final[Mapping[str, str]] = {
    BORROWED: f"{BORROWED} one seed of an arm: its seed noise is borrowed from the arms with several seeds at the same scale and budget.",
    ELSEWHERE: f"{ELSEWHERE} one seed of every arm at a scale and budget: the seed noise is the largest of the other scales and budgets.",
    NO_SEEDS: f"{NO_SEEDS} one seed, and none to borrow from: the interval covers projects alone, and nothing is judged by it.",
}
RULE: Final = (
    "Seed noise, by one rule for every arm: the variance pooled over all arms with several seeds at a scale and budget, or the arm's own "
    "where that is larger."
)
_WEAKEST_LAST: Final[tuple[NoiseKind, ...]] = ("pooled", "own", "borrowed", "elsewhere", "none")
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class SeedPool:
    """What the arms at one scale and budget say together of how much seeds vary."""

    scale: str | None
    budget: str | None
    deviation: float
    """Of a run's bits per byte, pooled."""
    degrees: int
    num_arms: int
    """Those with several seeds."""
    borrowers: tuple[str, ...]
    """Arms with one seed."""

    @property
    def text(self) -> str:
        """'a seed moves a run by 0.054 bits per byte (deviation, 20 degrees of freedom, 10 arms)'."""
        arms = f"{self.num_arms} arm{'' if self.num_arms == 1 else 's'}"
        degrees = f"{self.degrees} degree{'' if self.degrees == 1 else 's'}"
        return f"a seed moves a run by {self.deviation:.3f} bits per byte (deviation, {degrees} of freedom, {arms})"


def mark(noise: NoiseKind, interval: tuple[float, float] | None) -> str:
    """What stands behind an interval of that seed noise, and behind a verdict that rests on it; nothing where there is none."""
    return "" if interval is None else _MARKS[noise]


def weakest(kinds: list[NoiseKind]) -> NoiseKind:
    """What a number made of several cells can say of its seed noise: the weakest of them, 'none' being weaker than 'elsewhere', that weaker
    than 'borrowed'."""
    return max(kinds, key=_WEAKEST_LAST.index, default="none")


def with_noise(samples: Mapping[Name, Sample], scale: str | None, budget: str | None) -> tuple[SeedPool | None, dict[Name, Sample]]:
    """The samples of all arms at one scale and budget, each with its seed noise by the rule above; no pool where no arm has several."""
    lenders = {name: sample for name, sample in samples.items() if len(sample.seeds) > 1}
    if not lenders:
        return None, dict(samples)
    degrees = sum(len(sample.seeds) - 1 for sample in lenders.values())
    pooled = math.fsum(float(s.values.var(ddof=1)) * (len(s.seeds) - 1) for s in lenders.values()) / degrees
    source = ("pool", scale, budget)
    told = {}
    for name, sample in samples.items():
        own = sample.seed_noise
        noise = SeedNoise(pooled, degrees, "pooled", source)
        if len(sample.seeds) == 1:
            noise = SeedNoise(pooled, len(lenders), "borrowed", source)
        elif len(lenders) == 1:
            noise = SeedNoise(pooled, degrees, "own", source)
        elif own.variance > pooled:
            noise = SeedNoise(own.variance, own.degrees, "own", (source, name))
        told[name] = replace(sample, noise=noise)
    borrowers = tuple(str(name) for name, sample in samples.items() if len(sample.seeds) == 1)
    return SeedPool(scale, budget, math.sqrt(pooled), degrees, len(lenders), borrowers), told


def called_unlike(sample: Sample) -> tuple[int, int]:
    """How many pairs of single seeds of one arm would be called better or worse at 95 % by projects alone, and how many pairs there are.

    They differ in nothing but their seed, so every such verdict is false; that is what an arm of one seed looks like with no seed noise.
    """
    alone = [Sample((seed,), sample.bits_RJ[k : k + 1], sample.num_bytes_J) for k, seed in enumerate(sample.seeds)]
    pairs = list(itertools.combinations(alone, 2))
    found = [uncertain(mine, other) for mine, other in pairs]
    return sum(one is not None and one.p < 1 - COVERAGE for one in found), len(pairs)


def from_elsewhere(samples: Mapping[Name, Sample], pools: Sequence[SeedPool]) -> dict[Name, Sample]:
    """The samples of scales and budgets without a pool, each with the largest noise of `pools`; as they are where there is none."""
    if not pools:
        return dict(samples)
    noise = SeedNoise(max(pool.deviation for pool in pools) ** 2, len(pools), "elsewhere", ("elsewhere",))
    return {name: replace(sample, noise=noise) for name, sample in samples.items()}
