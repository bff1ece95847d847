"""pass@k: how likely at least one of k samples solves a problem, estimated without bias from n >= k samples of each.

    scores = pass_at_k({"Graded/0": (20, 3), "Graded/1": (20, 0)}, ks=(1, 10))      # task: samples, of these right

Of n samples, c right, a draw of k without replacement holds none that is right with probability C(n - c, k) / C(n, k); pass@k of a problem
is 1 minus that (Chen et al., "Evaluating Large Language Models Trained on Code", 2021), and of a set the mean over problems. Fewer samples
than k are refused: 1 - (1 - c / n)^k would be biased.

The interval draws problems again (2,000 draws, the middle 95 %; `eval.intervals`). Where all problems score 0, or all 1, drawing again
says nothing, and the bound is that of a binomial instead (Clopper and Pearson, 1934): 0 of 40 leaves up to 0.088.
Not promised: that the interval covers another seed of sampling, or other problems than such as these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.intervals import COVERAGE, estimate
from proxy_lm.errors import RequestError

DEFAULT_KS = (1, 10, 100)


@dataclass(frozen=True)
class PassAtK:
    """The score of a set at one k. `by_task` is the estimate of each problem."""

    k: int
    value: float
    interval: tuple[float, float]
    interval_method: str
    by_task: dict[str, float]

    def to_json(self) -> dict[str, object]:
        """Plain JSON, without the single problems."""
        return {"k": self.k, "value": self.value, "interval": list(self.interval), "interval_method": self.interval_method}


def estimated(num_samples: int, num_right: int, k: int) -> float:
    """pass@k of one problem. Raises `RequestError` for fewer samples than k."""
    assert 0 <= num_right <= num_samples, f"{num_right} of {num_samples} samples cannot be right"
    if not 1 <= k <= num_samples:
        raise RequestError(
            f"pass@{k} needs at least {k} samples of a problem and there are {num_samples}; make more, or ask for a smaller k"
        )
    num_wrong = num_samples - num_right
    if num_wrong < k:
        return 1.0
    # C(n - c, k) / C(n, k) as whole numbers, exact; math.comb is fast for the n of any evaluation.
    return 1.0 - math.comb(num_wrong, k) / math.comb(num_samples, k)


def pass_at_k(counts: Mapping[str, tuple[int, int]], ks: Sequence[int]) -> dict[int, PassAtK]:
    """Scores by k; `counts` holds (samples, of these right) of each task. Raises `RequestError` where a task has fewer samples than k."""
    if not counts:
        raise RequestError("no problem was judged, so there is no pass@k; give at least one")
    scores = {}
    for k in ks:
        if k < 1:
            raise RequestError(f"pass@{k} is of no sample; the least k is 1")
        short = [task for task, (num_samples, _) in counts.items() if num_samples < k]
        if short:
            raise RequestError(
                f"pass@{k} needs at least {k} samples of each problem; {len(short)} of {len(counts)} have fewer "
                f"({short[0]} has {counts[short[0]][0]}): make more, or ask for a smaller k"
            )
        by_task = {task: estimated(num_samples, num_right, k) for task, (num_samples, num_right) in counts.items()}
        value = math.fsum(by_task.values()) / len(by_task)
        interval, method = _interval(by_task)
        scores[k] = PassAtK(k, value, interval, method, by_task)
    return scores


def possible_ks(num_samples: int, ks: Sequence[int] = DEFAULT_KS) -> tuple[int, ...]:
    """Of the usual k, those that so many samples allow."""
    return tuple(k for k in ks if k <= num_samples)


def check_ks(ks: Sequence[int], num_samples: int) -> None:
    """Raise `RequestError` for a k that so many samples of each problem do not allow."""
    for k in ks:
        if k < 1:
            raise RequestError(f"pass@{k} is of no sample; the least k is 1")
        if k > num_samples:
            there = "is 1" if num_samples == 1 else f"are {num_samples}"
            raise RequestError(f"pass@{k} needs at least {k} samples of each problem and there {there}: make more, or ask for a smaller k")


def _interval(by_task: Mapping[str, float]) -> tuple[tuple[float, float], str]:
    values = list(by_task.values())
    num_tasks = len(values)
    edge = ((1 - COVERAGE) / 2) ** (1 / num_tasks)
    if all(value == 0.0 for value in values):
        return (0.0, 1.0 - edge), "binomial (Clopper-Pearson)"
    if all(value == 1.0 for value in values):
        return (edge, 1.0), "binomial (Clopper-Pearson)"
    found = estimate(list(by_task), values).interval
    if found is None:  # one problem, solved by some of its samples: it says nothing about another
        return (0.0, 1.0), "none (one problem)"
    return found, "problems drawn again"
