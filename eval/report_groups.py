"""The cells of a comparison as its report shows them: arms of one scale and budget beside each other, their seeds together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eval.results import ArmResult, Results
from proxy_lm.report import si


@dataclass(frozen=True)
class Group:
    """What is compared with each other: one scale at one budget."""

    scale: str | None
    budget: str | None
    arms: dict[str, list[ArmResult]]
    """By name, in the order of the plan; the runs of an arm are its seeds."""

    @property
    def runs(self) -> list[ArmResult]:
        """Of all arms."""
        return [run for runs in self.arms.values() for run in runs]

    @property
    def name(self) -> str:
        """'s0, x1'; '' where the comparison has one scale and one budget."""
        return ", ".join(part for part in (self.scale, self.budget) if part is not None)

    def title(self, baseline: str) -> str:
        """'s0: 517 k body parameters; x1: 18 T training FLOPs'."""
        runs = self.arms.get(baseline) or self.runs
        size = f"{si(runs[0].num_parameters.get('body'))} body parameters"
        cost = f"{si(runs[0].training_flops)} training FLOPs"
        parts = [size if self.scale is None else f"{self.scale}: {size}", cost if self.budget is None else f"{self.budget}: {cost}"]
        return "; ".join(parts)


def groups(results: Results) -> list[Group]:
    """All groups, in the order in which scales and budgets stand in the plan, smaller scales first."""
    found: dict[tuple[str | None, str | None], Group] = {}
    for run in results.arms:
        group = found.setdefault((run.scale, run.budget), Group(run.scale, run.budget, {}))
        group.arms.setdefault(run.name, []).append(run)
    scales = scale_names(results.arms)
    budgets = list(dict.fromkeys(run.budget for run in results.arms))
    names = list(dict.fromkeys(run.name for run in results.arms))
    ordered = sorted(found.values(), key=lambda group: (scales.index(group.scale), budgets.index(group.budget)))
    return [
        Group(
            group.scale,
            group.budget,
            {name: sorted(group.arms[name], key=lambda run: run.seed) for name in names if name in group.arms},
        )
        for group in ordered
    ]


def scale_names(runs: Iterable[ArmResult]) -> list[str | None]:
    """Scales by the size of their smallest body, those of one size as they come."""
    sizes: dict[str | None, int] = {}
    for run in runs:
        size = run.num_parameters.get("body", 0)
        sizes[run.scale] = min(size, sizes.get(run.scale, size))
    return sorted(sizes, key=lambda scale: sizes[scale])


def label(run: ArmResult, results: Results) -> str:
    """Name of a run, with scale, budget and seed where there are several."""
    parts = [part for part in (run.name, run.scale, run.budget) if part is not None]
    if len({other.seed for other in results.arms}) > 1:
        parts.append(f"seed {run.seed}")
    return ", ".join(parts)
