"""Every cell with the verdict of its arm at its scale and budget, as `eval.grid_analysis` finds it from `Results` alone."""

from __future__ import annotations

from eval.grid_analysis import PairVerdict, analyse
from eval.results import ArmResult, Results, Verdict


def with_verdicts(found: Results) -> Results:
    """The same results with `ArmResult.verdict` filled where there is a difference; the seeds of an arm share one."""
    analysis = analyse(found, verdicts_only=True)
    arms = []
    for arm in found.arms:
        pair = analysis.verdict(arm.name, arm.scale, arm.budget)
        point = analysis.point(arm.name, arm.scale, arm.budget)
        num_seeds = 0 if point is None else len(point.seeds)
        arms.append(arm.model_copy(update={"verdict": _verdict(found.baseline, arm, pair, num_seeds)}))
    return found.model_copy(update={"arms": arms})


def _verdict(baseline: str, arm: ArmResult, pair: PairVerdict | None, num_seeds: int) -> Verdict | None:
    if arm.bits_per_byte is None:
        return None
    if arm.name == baseline:
        projects = len(arm.nll_nats_by_project or ())
        return Verdict(baseline=baseline, verdict="baseline", difference=0.0, interval=None, num_seeds=num_seeds, num_projects=projects)
    if pair is None or pair.difference is None:
        return None
    return Verdict(
        baseline=baseline,
        verdict=pair.verdict,
        difference=pair.difference,
        interval=pair.interval,
        num_seeds=len(pair.seeds),
        num_projects=pair.num_projects,
    )
