"""What a comparison's numbers say, from `results.json` alone: points, verdicts, multipliers, fits, and whether a margin grows with scale.

    analysis = analyse(results.load(folder))
    analysis.verdict('proxy', 's1', 'x1')       better, worse, tie, not decided or not judged, with intervals

Read `seed_intervals.py` (how sure a number is), `seed_noise.py` (what a seed does, of arms with few seeds or one), `multipliers.py` and
`scaling_fits.py` beside it. Means over seeds, intervals, verdicts, fits and multipliers are made here and nowhere else; report, tables and
commands spell them.

An arm is judged against the baseline of its own scale and budget, each with the seeds that finished. Better and worse are said at 95 %
after Holm's correction over all pairs of the comparison, so the chance of one false verdict among them all is 5 %. Not promised: that a
tie means equal, and anything about what failed or was not run, which is listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal

import numpy as np

from eval.grid_cells import Cell, Key, Runs, cells_of, noise_of
from eval.intervals import MIN_PROJECTS
from eval.margins import ByScale, by_scale, everywhere
from eval.multipliers import Multiplier, multiplier
from eval.results import Results
from eval.scaling_fits import ArmFit, fit_compute, fit_parameters_and_data
from eval.seed_intervals import COVERAGE, Bounds, Joint, NoiseKind, holm, uncertain
from eval.seed_noise import SeedPool, from_elsewhere, weakest, with_noise
from eval.told import Told, told_of
from proxy_lm.errors import RequestError

NOT_JUDGED: Final = "one seed and none to borrow from"
_MOST_FIT_DRAWS = 300  # each is a search of its own


@dataclass(frozen=True, kw_only=True)
class Point(Runs):
    """An arm at a scale and a budget, with its interval."""

    interval: Bounds | None
    """95 %, seeds and projects (projects alone where `seed_noise` is 'none')."""
    seed_noise: NoiseKind
    """Where its seed noise is from."""

    @property
    def covers_seeds(self) -> bool:
        """Whether the interval covers seeds."""
        return self.seed_noise != "none"


@dataclass(frozen=True)
class PairVerdict:
    """Two arms at one scale and budget."""

    arm: str
    against: str
    scale: str | None
    budget: str | None
    difference: float | None
    """Mean bits per byte of `arm` minus that of `against`; negative is better. None: nothing to subtract."""
    relative: float | None
    """The same as a share of what `against` has."""
    interval: Bounds | None
    """95 % for this pair alone."""
    interval_corrected: Bounds | None
    """As wide as Holm's correction makes it: without 0 exactly where the verdict is better or worse."""
    p: float | None
    p_corrected: float | None
    """Holm over all pairs of the comparison."""
    verdict: Literal["better", "worse", "tie", "not decided", "not judged"]
    """'not judged': nothing is known of what another seed would do. 'not decided': another reason."""
    num_pairs: int
    """Pairs that the correction is for."""
    seeds: tuple[int, ...]
    """Of `arm`, those that finished."""
    seeds_against: tuple[int, ...]
    num_projects: int
    seed_noise: NoiseKind
    """Where the seed noise of the interval is from: the weaker of the two arms'; 'none': another seed is not in the interval."""
    reason: str
    """Why it is not decided or not judged; else empty."""

    @property
    def covers_seeds(self) -> bool:
        """Whether the interval covers seeds."""
        return self.seed_noise != "none"


@dataclass(frozen=True)
class Analysis:
    """All that a report of a comparison says."""

    baseline: str
    points: list[Point] = field(default_factory=list)
    verdicts: list[PairVerdict] = field(default_factory=list)
    """Against the baseline of the same scale and budget, then the other pairs that were asked for."""
    multipliers: list[Multiplier] = field(default_factory=list)
    """Along the baseline's budgets at the arm's scale."""
    frontier_multipliers: list[Multiplier] = field(default_factory=list)
    """Along the baseline's scales at the arm's budget: what growing model and data together would have cost."""
    fits: list[ArmFit] = field(default_factory=list)
    by_scale: list[ByScale] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    """Arms asked in raw bytes against what the baseline has of as many."""
    seed_pools: list[SeedPool] = field(default_factory=list)
    """What a seed does at each scale and budget that has an arm with several."""

    def point(self, arm: str, scale: str | None = None, budget: str | None = None) -> Point | None:
        """The point of a cell; None where the comparison has none."""
        return next((p for p in self.points if (p.arm, p.scale, p.budget) == (arm, scale, budget)), None)

    def verdict(self, arm: str, scale: str | None = None, budget: str | None = None, against: str | None = None) -> PairVerdict | None:
        """The verdict on a pair, against the baseline unless said otherwise."""
        key = (arm, against or self.baseline, scale, budget)
        return next((v for v in self.verdicts if (v.arm, v.against, v.scale, v.budget) == key), None)


def analyse(
    results: Results, *, num_draws: int = 2000, seed: int = 0, pairs: Sequence[tuple[str, str]] = (), verdicts_only: bool = False
) -> Analysis:
    """Everything above. `pairs` are further (arm, against) to be judged wherever both ran; they count in the correction.

    `verdicts_only` leaves out multipliers, fits and margins, which take seconds. The same results give the same analysis, to the last bit.
    Raises `RequestError` for results that do not fit together (numbers by project of another length, nats that are not the bits per byte
    beside them) and for pairs of arms that are not there.
    """
    cells, pools = _with_noise(cells_of(results))
    arms = list(dict.fromkeys(cell.arm for cell in cells.values()))
    for arm in (name for pair in pairs for name in pair):
        if arm not in arms:
            raise RequestError(f"arm '{arm}' is not in comparison '{results.name}'; it has: {', '.join(arms)}")
    baseline, verdicts = results.baseline, _verdicts(cells, results.baseline, pairs)
    points = [_point(cell) for cell in cells.values()]
    if verdicts_only:
        return Analysis(baseline, points, verdicts, seed_pools=pools)
    samples = {key: cell.sample for key, cell in cells.items() if cell.sample is not None}
    joint = Joint(samples, num_draws=num_draws, seed=seed)
    others = [key for key in cells if key[0] != baseline]
    margins = [
        by_scale(arm, budget, cells, joint, baseline)
        for arm in arms
        if arm != baseline
        for budget in dict.fromkeys(key[2] for key in cells if key[0] == arm)
    ]
    judged = {(v.arm, v.scale, v.budget): (v.difference, v.p) for v in verdicts if v.against == baseline}
    return Analysis(
        baseline=baseline,
        points=points,
        verdicts=verdicts,
        multipliers=[m for key in others if (m := _multiplier(cells, joint, key, baseline, "budgets")) is not None],
        frontier_multipliers=[m for key in others if (m := _multiplier(cells, joint, key, baseline, "scales")) is not None],
        fits=[_fit(arm, cells, joint, min(num_draws, _MOST_FIT_DRAWS), seed) for arm in arms],
        by_scale=everywhere(margins, cells, baseline, judged),
        told=[line for key in others if (line := told_of(cells[key], _over_budgets(cells, baseline, key[1]), joint)) is not None],
        seed_pools=pools,
    )


def _with_noise(cells: dict[Key, Cell]) -> tuple[dict[Key, Cell], list[SeedPool]]:
    """The cells with the seed noise of their scale and budget (`seed_noise.py`)."""
    told, pools = dict(cells), []
    for scale, budget in dict.fromkeys(key[1:] for key in cells):
        samples = {k[0]: cell.sample for k, cell in cells.items() if k[1:] == (scale, budget) and cell.sample is not None}
        pool, made = with_noise(samples, scale, budget)
        pools += [] if pool is None else [pool]
        told |= {(arm, scale, budget): replace(cells[arm, scale, budget], sample=sample) for arm, sample in made.items()}
    bare = {key: cell.sample for key, cell in told.items() if cell.sample is not None and noise_of(cell) == "none"}
    return told | {key: replace(told[key], sample=sample) for key, sample in from_elsewhere(bare, pools).items()}, pools


def _point(cell: Cell) -> Point:
    found = None if cell.sample is None else uncertain(cell.sample)
    shared = {one.name: getattr(cell, one.name) for one in fields(Runs)}
    return Point(**shared, interval=None if found is None else found.interval(), seed_noise=noise_of(cell))


@dataclass
class _Judged:
    """A pair before the correction."""

    mine: Cell
    base: Cell

    def __post_init__(self) -> None:
        mine, base = self.mine, self.base
        self.difference: float | None = None
        self.relative: float | None = None
        self.found = None
        self.num_projects = 0
        self.reason = ""
        self.seed_noise = weakest([noise_of(mine), noise_of(base)])
        if mine.mean is None or base.mean is None:
            self.reason = f"no run of '{(mine if mine.mean is None else base).arm}' finished"
            return
        self.difference = mine.mean - base.mean
        self.relative = self.difference / base.mean
        if mine.sample is None or base.sample is None:
            self.reason = "the results hold no nats by project; run compare again to have them"
            return
        self.num_projects = int(np.count_nonzero(mine.sample.num_bytes_J))
        self.found = uncertain(mine.sample, base.sample)
        if self.num_projects < MIN_PROJECTS:
            self.reason = f"{self.num_projects} projects; fewer than {MIN_PROJECTS} decide nothing"
        elif self.unjudged:
            self.reason = NOT_JUDGED

    @property
    def unjudged(self) -> bool:
        """Whether it is for want of seeds that there is no verdict."""
        return self.found is not None and self.num_projects >= MIN_PROJECTS and self.seed_noise == "none"


def _verdicts(cells: dict[Key, Cell], baseline: str, pairs: Sequence[tuple[str, str]]) -> list[PairVerdict]:
    """Against the baseline, then the pairs asked for; corrected together."""
    asked = [(key, (baseline, *key[1:])) for key in cells if key[0] != baseline]
    asked += [(key, (against, *key[1:])) for arm, against in pairs for key in cells if key[0] == arm and against != arm]
    judged = [_Judged(cells[mine], cells[base]) for mine, base in dict.fromkeys(asked) if base in cells]
    p_values = [pair.found.p for pair in judged if pair.found is not None and not pair.reason]
    corrected = iter(holm(p_values))
    verdicts = []
    for pair in judged:
        p = pair.found.p if pair.found is not None and not pair.reason else None
        p_corrected = None if p is None else next(corrected)
        verdicts.append(_verdict(pair, p, p_corrected, len(p_values)))
    return verdicts


def _verdict(pair: _Judged, p: float | None, p_corrected: float | None, num_pairs: int) -> PairVerdict:
    verdict: Literal["better", "worse", "tie", "not decided", "not judged"] = "not judged" if pair.unjudged else "not decided"
    wide = None
    if p is not None and p_corrected is not None and pair.found is not None:
        # The level at which this pair was read: then the interval is without 0 exactly where the corrected p is small.
        times = min(float(num_pairs), max(1.0, p_corrected / p)) if p > 0 else float(num_pairs)
        wide = pair.found.interval(1 - (1 - COVERAGE) / times)
        verdict = "tie" if p_corrected >= 1 - COVERAGE else "better" if pair.found.value < 0 else "worse"
    return PairVerdict(
        arm=pair.mine.arm,
        against=pair.base.arm,
        scale=pair.mine.scale,
        budget=pair.mine.budget,
        difference=pair.difference,
        relative=pair.relative,
        interval=None if pair.found is None else pair.found.interval(),
        interval_corrected=wide,
        p=p,
        p_corrected=p_corrected,
        verdict=verdict,
        num_pairs=num_pairs,
        seeds=pair.mine.seeds,
        seeds_against=pair.base.seeds,
        num_projects=pair.num_projects,
        seed_noise=pair.seed_noise,
        reason=pair.reason,
    )


def _multiplier(cells: dict[Key, Cell], joint: Joint, key: Key, baseline: str, along: Literal["budgets", "scales"]) -> Multiplier | None:
    """The multiplier of a cell; None where the cell has no number."""
    cell = cells[key]
    if cell.mean is None:
        return None
    fixed = 1 if along == "budgets" else 2
    curve = [c for k, c in cells.items() if k[0] == baseline and k[fixed] == key[fixed] and c.mean is not None]
    curve = _apart(sorted(curve, key=lambda c: c.flops))
    used = [key, *(c.key for c in curve)]
    return multiplier(
        *key,
        flops=cell.flops,
        compressor_flops=cell.compressor_flops,
        bits=cell.mean,
        curve_flops_P=np.array([c.flops for c in curve]),
        curve_compressor_P=np.array([c.compressor_flops for c in curve]),
        curve_bits_P=np.array([c.mean for c in curve], dtype=np.float64),
        along=along,
        seed_noise=weakest([noise_of(cells[k]) for k in used]),
        interval_of=lambda function: joint.interval(used, function),
    )


def _over_budgets(cells: dict[Key, Cell], baseline: str, scale: str | None) -> list[Cell]:
    """The baseline's cells of a scale that have a score."""
    return [cell for key, cell in cells.items() if key[:2] == (baseline, scale) and cell.mean is not None]


def _apart(curve: list[Cell]) -> list[Cell]:
    """Without cells of nearly the compute of the one before: no curve runs through two heights at one place."""
    kept: list[Cell] = []
    for cell in curve:
        if not kept or cell.flops > 1.05 * kept[-1].flops:
            kept.append(cell)
    return kept


def _fit(arm: str, cells: dict[Key, Cell], joint: Joint, num_draws: int, seed: int) -> ArmFit:
    """Parameters and data if the arm's runs can tell them apart, else compute along its scales."""
    mine = [cell for cell in cells.values() if cell.arm == arm and cell.mean is not None]
    rows = [(cell.num_body_parameters, cell.source_bytes, value) for cell in mine for value in cell.values]
    parameters, data, bits = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    full = fit_parameters_and_data(arm, parameters, data, bits, num_draws=num_draws, seed=seed)
    if full.form != "none":
        # Runs are drawn again: a point of one run cannot come out otherwise.
        alone = any(len(cell.seeds) == 1 for cell in mine)
        return replace(full, seed_noise="none" if alone else "own")
    budgets = list(dict.fromkeys(cell.budget for cell in mine))
    along = {budget: sorted((c for c in mine if c.budget == budget), key=lambda c: c.flops) for budget in budgets}
    budget = max(budgets, key=lambda name: len(along[name]), default=None)
    points = along.get(budget, [])
    fitted = fit_compute(
        arm,
        np.array([cell.flops for cell in points]),
        np.array([cell.mean for cell in points], dtype=np.float64),
        budget=budget,
        num_runs=sum(len(cell.seeds) for cell in points),
        reason=full.reason,
        interval_of=lambda function: joint.interval([cell.key for cell in points], function),
    )
    return replace(fitted, seed_noise=weakest([noise_of(cell) for cell in points]))
