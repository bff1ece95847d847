"""Numbers of robustness from outcomes and costs; no model, no files.

    found = robust_pass({"t": [True, False]}, {"t": {"typos.0": [True, True], "typos.1": [False, True]}}, k=1)

With n samples of each prompt, sample i of a task is robust if it is right for every perturbed prompt; robust pass@k counts such samples
(Wang et al., "ReCode: Robustness Evaluation of Code Generation Models", 2022: the worst case over s perturbations). `drop` is the part of
nominal pass@k that is lost, `lost` the part of nominally right samples that are not robust, `relative` how often the outcome changes in
either direction. Where nominal pass@k is 0 the first two have no value, which is said and not computed.

Intervals draw tasks (or projects of files) again, as `eval.intervals`; the nominal and the perturbed outcome of a task stay together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.intervals import COVERAGE, NUM_DRAWS
from eval.pass_at_k import estimated, pass_at_k

Floats = npt.NDArray[np.float64]
Outcomes = Mapping[str, Sequence[bool]]

_MOST_UNDEFINED = 0.05
NO_NOMINAL = "nominal pass@{k} is 0, so there is nothing to lose"


def robust_pass(nominal: Outcomes, perturbed: Mapping[str, Mapping[str, Sequence[bool]]], *, k: int) -> dict[str, Any]:
    """`nominal`: outcomes of the samples of each task. `perturbed`: the same for each of its perturbed prompts, by name; one that a
    perturbation leaves as it is has the nominal outcomes, and so has a task without any. Every list of a task is of one length."""
    prompts = {task: list(perturbed.get(task, {}).values()) or [right] for task, right in nominal.items()}
    worst = {task: [all(outcomes) for outcomes in zip(*lists, strict=True)] for task, lists in prompts.items()}
    tasks = list(nominal)
    count = {task: len(nominal[task]) for task in tasks}
    lost = {t: sum(a and not b for a, b in zip(nominal[t], worst[t], strict=True)) for t in tasks}
    gained = {t: sum(b and not a for a, b in zip(nominal[t], worst[t], strict=True)) for t in tasks}
    before = pass_at_k({t: (count[t], sum(nominal[t])) for t in tasks}, [k])[k]
    after = pass_at_k({t: (count[t], sum(worst[t])) for t in tasks}, [k])[k]
    means = {t: _mean([estimated(count[t], sum(right), k) for right in prompts[t]]) for t in tasks}
    changed = [estimated(count[t], lost[t], k) + estimated(count[t], gained[t], k) for t in tasks]
    nominals = [before.by_task[t] for t in tasks]
    ratios = {
        "mean": ratio(tasks, [means[t] for t in tasks], [1.0] * len(tasks), ""),
        "drop": ratio(tasks, [a - after.by_task[t] for a, t in zip(nominals, tasks, strict=True)], nominals, NO_NOMINAL.format(k=k)),
        "mean_drop": ratio(tasks, [a - means[t] for a, t in zip(nominals, tasks, strict=True)], nominals, NO_NOMINAL.format(k=k)),
        "relative": ratio(tasks, changed, [1.0] * len(tasks), ""),
        "lost": ratio(tasks, [lost[t] for t in tasks], [sum(nominal[t]) for t in tasks], "no nominal sample is right, so none is lost"),
    }
    scores = {"nominal": _scored(before.value, before.interval), "robust": _scored(after.value, after.interval)}
    return {"k": k, **scores, **{name: _uncertain(found) for name, found in ratios.items()}}


def _uncertain(found: dict[str, Any]) -> dict[str, Any]:
    """Without an interval where it would claim that what every task did is certain: tasks drawn again cannot tell how rare the rest is."""
    if found["interval"] is None or found["value"] not in (0, 1) or found["interval"] != [found["value"]] * 2:
        return found
    return {**found, "interval": None, "reason": "no interval: every task does the same, which does not tell how rare others are"}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _scored(value: float, interval: tuple[float, float]) -> dict[str, Any]:
    return {"value": value, "interval": list(interval), "reason": None}


def ratio(groups: Sequence[str], top: Sequence[float], bottom: Sequence[float], without: str) -> dict[str, Any]:
    """Sum of `top` over sum of `bottom`, groups drawn again; `without` is the reason where the bottom is 0."""
    return _drawn(groups, {"top": top, "bottom": bottom}, lambda sums: _divide(sums["top"], sums["bottom"]), without)


def bits_change(
    groups: Sequence[str], nominal_nats: Sequence[float], nominal_bytes: Sequence[int], nats: Sequence[float], num_bytes: Sequence[int]
) -> dict[str, Any]:
    """Bits per byte of the reference text after nominal and after perturbed prompts, and the change. One entry a perturbed prompt, with its
    nominal beside it: the bytes are the same but where the perturbation goes through the reference text."""
    columns: dict[str, Sequence[float]] = {"a": nominal_nats, "m": nominal_bytes, "b": nats, "n": num_bytes}
    nominal = _drawn(groups, columns, lambda s: _divide(s["a"], s["m"]) / math.log(2), "no bytes")
    perturbed = _drawn(groups, columns, lambda s: _divide(s["b"], s["n"]) / math.log(2), "no bytes")
    change = _drawn(groups, columns, lambda s: (_divide(s["b"], s["n"]) - _divide(s["a"], s["m"])) / math.log(2), "no bytes")
    return {"nominal": nominal["value"], "perturbed": perturbed["value"], "change": change, "num_prompts": len(groups)}


def worst_change(groups: Sequence[str], tasks: Sequence[str], nominal: Sequence[float], perturbed: Sequence[float]) -> dict[str, Any]:
    """The mean over tasks of the largest change among the perturbed prompts of a task; both in bits per byte, one entry a prompt."""
    worst: dict[str, tuple[str, float]] = {}
    for group, task, before, after in zip(groups, tasks, nominal, perturbed, strict=True):
        if task not in worst or after - before > worst[task][1]:
            worst[task] = (group, after - before)
    names, values = [group for group, _ in worst.values()], [value for _, value in worst.values()]
    return ratio(names, values, [1.0] * len(values), "no prompt is changed")


def _divide(top: Floats, bottom: Floats) -> Floats:
    """nan where there is nothing to divide by."""
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def _drawn(
    groups: Sequence[str], columns: Mapping[str, Sequence[float]], statistic: Callable[[Mapping[str, Floats]], Floats], without: str
) -> dict[str, Any]:
    """A statistic of the sums of columns, with the middle 95 % over draws of the groups. `reason` says why a number is missing."""
    if not len(groups):
        return {"value": None, "interval": None, "reason": without or "nothing was asked"}
    names, index = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    sums = {key: np.bincount(index, weights=np.asarray(values, dtype=np.float64)) for key, values in columns.items()}
    whole = statistic({key: np.array([math.fsum(values)]) for key, values in sums.items()})[0]
    if not np.isfinite(whole):
        return {"value": None, "interval": None, "reason": without}
    value = float(whole)
    if len(names) < 2:
        return {"value": value, "interval": None, "reason": f"no interval: one {'group' if len(names) else 'item'} only"}
    generator = np.random.Generator(np.random.Philox(key=[0, 0]))
    weights = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=NUM_DRAWS).astype(np.float64)
    draws = statistic({key: weights @ values for key, values in sums.items()})
    defined = draws[np.isfinite(draws)]
    if len(defined) < (1 - _MOST_UNDEFINED) * NUM_DRAWS:
        share = 1 - len(defined) / NUM_DRAWS
        return {"value": value, "interval": None, "reason": f"no interval: {100 * share:.0f} % of the draws have nothing to divide by"}
    low, high = np.quantile(defined, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return {"value": value, "interval": [float(low), float(high)], "reason": None}
