"""The tables of a robustness result from outcomes and costs: by perturbation, by family, and over all of them.

A row has `pass` (`robust_metrics.robust_pass`; null with `pass_reason` where no programs were made) and `bits`: bits per byte of the
reference text after nominal and perturbed prompts, the change, and the mean of each task's worst change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from eval.intervals import bits_per_byte
from eval.perturb.base import FAMILIES
from eval.robust_costs import Cost, told
from eval.robust_metrics import bits_change, robust_pass, worst_change
from eval.variants import NOMINAL, Variant

Right = Mapping[str, Sequence[bool]]
NOT_MADE = "no programs were made: bits per byte only"


def of_problems(variants: Sequence[Variant], right: Right | None, costs: Sequence[Cost], *, k: int) -> dict[str, Any]:
    """Everything about the problems, prompts told in one way. `right` None: programs were not made."""

    def row(some: Sequence[Variant], found: Sequence[Cost], over_all: bool = False) -> dict[str, Any]:
        changed = [variant for variant in some if variant.problem is not None]
        scores = None if right is None else _scores(some, right, k, over_all)
        return {
            "num_changed_prompts": len(changed),
            "num_changed_tasks": len({variant.task for variant in changed}),
            "pass": scores,
            "pass_reason": NOT_MADE if right is None else None,
            "bits": bits_row(found),
        }

    return {
        "all": row(variants, costs, True),
        "families": _by(FAMILIES, variants, costs, "family", row),
        "perturbations": {
            name: {"family": shown.pop("family"), **shown}
            for name, shown in _by(dict.fromkeys(v.perturbation for v in variants), variants, costs, "perturbation", row, True).items()
        },
    }


def _by(
    names: Iterable[str],
    variants: Sequence[Variant],
    costs: Sequence[Cost],
    field: str,
    row: Callable[[Sequence[Variant], Sequence[Cost]], dict[str, Any]],
    with_family: bool = False,
) -> dict[str, dict[str, Any]]:
    rows = {}
    for name in names:
        some = [variant for variant in variants if getattr(variant, field) == name]
        if some:
            shown = row(some, [cost for cost in costs if getattr(cost.pair, field) == name])
            rows[name] = {**({"family": some[0].family} if with_family else {}), **shown}
    return rows


def _scores(some: Sequence[Variant], right: Right, k: int, over_all: bool) -> dict[str, Any]:
    """Over all families a task is compared with its published prompt, within a family with that family's own nominal."""
    nominal: dict[str, Sequence[bool]] = {}
    perturbed: dict[str, dict[str, Sequence[bool]]] = {}
    for variant in some:
        nominal.setdefault(variant.task, right[f"{variant.task}@{NOMINAL}" if over_all else variant.nominal])
        outcome = right[variant.nominal] if variant.problem is None else right[variant.key]
        perturbed.setdefault(variant.task, {})[variant.key] = outcome
    return robust_pass(nominal, perturbed, k=k)


def bits_row(found: Sequence[Cost]) -> dict[str, Any]:
    """Bits per byte over pairs that are charged for the same bytes; beside it, as `other_reference`, over those whose reference text is
    perturbed too (a renamed variable, tabs), where a difference is of the prompt and of the text. A number without value has its reason."""
    both, num_not_told = told(found)
    return {
        **_bits([cost for cost in both if cost.pair.same]),
        "other_reference": _bits([cost for cost in both if not cost.pair.same]),
        "num_not_told": num_not_told,
    }


def _bits(both: Sequence[Cost]) -> dict[str, Any]:
    groups = [cost.pair.group for cost in both]
    before = [float(cost.nominal_nats or 0.0) for cost in both]
    after = [float(cost.nats or 0.0) for cost in both]
    before_bytes = [len(cost.pair.nominal[1]) for cost in both]
    after_bytes = [len(cost.pair.reference) for cost in both]
    rates = [bits_per_byte(nats, size) for nats, size in zip(before, before_bytes, strict=True)]
    perturbed_rates = [bits_per_byte(nats, size) for nats, size in zip(after, after_bytes, strict=True)]
    return {
        **bits_change(groups, before, before_bytes, after, after_bytes),
        "worst_change": worst_change(groups, [cost.pair.task for cost in both], rates, perturbed_rates),
        "num_prompts_cut": sum(cost.pair.cut for cost in both),
    }


def of_files(costs: Sequence[Cost]) -> dict[str, Any]:
    """Everything about held-out files."""
    families = dict.fromkeys((cost.pair.perturbation, cost.pair.family) for cost in costs)
    return {
        "all": bits_row(costs),
        "families": {family: bits_row(some) for family in FAMILIES if (some := [cost for cost in costs if cost.pair.family == family])},
        "perturbations": {
            name: {"family": family, **bits_row([cost for cost in costs if cost.pair.perturbation == name])} for name, family in families
        },
    }
