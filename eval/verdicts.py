"""Every cell against the baseline of its scale and budget, from `Results` alone."""

from __future__ import annotations

import numpy as np

from eval import intervals
from eval.intervals import Clusters
from eval.results import ArmResult, Results, Verdict


def with_verdicts(found: Results) -> Results:
    """The same results with `ArmResult.verdict` filled where arm and baseline have a seed in common; seeds of an arm share one verdict."""
    if found.projects is None:
        return found
    arms = [arm.model_copy(update={"verdict": _verdict(found, arm)}) for arm in found.arms]
    return found.model_copy(update={"arms": arms})


def _verdict(found: Results, arm: ArmResult) -> Verdict | None:
    mine, base = _by_seed(found, arm.name, arm), _by_seed(found, found.baseline, arm)
    seeds = [seed for seed in mine if seed in base]
    if arm.bits_per_byte is None or not seeds:
        return None
    outcome = intervals.compare([mine[seed] for seed in seeds], [base[seed] for seed in seeds])
    facts = outcome.to_json()
    if arm.name == found.baseline:
        facts |= {"verdict": "baseline", "difference": 0.0, "interval": None}
    return Verdict.model_validate({"baseline": found.baseline, **facts})


def _by_seed(found: Results, name: str, like: ArmResult) -> dict[int, Clusters]:
    assert found.projects is not None
    num_bytes = np.array(found.projects.num_bytes)
    names = tuple(str(index) for index in range(len(num_bytes)))
    return {
        arm.seed: Clusters(names, np.array(arm.nll_nats_by_project), num_bytes)
        for arm in found.finished
        if (arm.name, arm.scale, arm.budget) == (name, like.scale, like.budget) and arm.nll_nats_by_project is not None
    }
