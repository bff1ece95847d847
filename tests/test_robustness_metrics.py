"""Promise: robust pass@k and its companions are those of the ReCode paper, and nothing is ever divided by zero."""

from __future__ import annotations

import json
import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.robust_metrics import bits_change, ratio, robust_pass, worst_change

Y, N = True, False


def values(found: dict) -> dict:
    return {name: found[name]["value"] for name in ("nominal", "mean", "robust", "drop", "mean_drop", "relative", "lost")}


def test_four_tasks_by_eye():
    nominal = {"a": [Y], "b": [Y], "c": [N], "d": [Y]}
    perturbed = {
        "a": {"a.0": [Y], "a.1": [Y]},
        "b": {"b.0": [Y], "b.1": [N]},  # lost in the worst case
        "c": {"c.0": [Y], "c.1": [Y]},  # gained
        "d": {"d.0": [Y], "d.1": [Y]},
    }
    assert values(robust_pass(nominal, perturbed, k=1)) == {
        "nominal": 0.75,
        "mean": (1 + 0.5 + 1 + 1) / 4,
        "robust": 0.75,
        "drop": 0.0,  # one lost, one gained
        "mean_drop": pytest.approx((0.75 - 0.875) / 0.75),
        "relative": 0.5,
        "lost": pytest.approx(1 / 3),
    }


def test_a_task_that_nothing_changes_counts_as_its_nominal():
    found = robust_pass({"a": [Y], "b": [N]}, {"a": {}}, k=1)
    assert values(found) == {"nominal": 0.5, "mean": 0.5, "robust": 0.5, "drop": 0.0, "mean_drop": 0.0, "relative": 0.0, "lost": 0.0}


def test_where_nothing_passes_there_is_a_reason_and_no_division():
    found = robust_pass({"a": [N], "b": [N]}, {"a": {"a.0": [N]}, "b": {"b.0": [Y]}}, k=1)
    assert (found["nominal"]["value"], found["robust"]["value"], found["relative"]["value"]) == (0.0, 0.5, 0.5)
    for name in ("drop", "mean_drop"):
        assert found[name] == {"value": None, "interval": None, "reason": "nominal pass@1 is 0, so there is nothing to lose"}
    assert found["lost"] == {"value": None, "interval": None, "reason": "no nominal sample is right, so none is lost"}
    json.dumps(found, allow_nan=False)


def test_a_rare_nominal_success_has_a_drop_and_no_interval():
    nominal = {"a": [Y], **{str(task): [N] for task in range(9)}}
    found = robust_pass(nominal, {task: {f"{task}.0": [N]} for task in nominal}, k=1)
    assert found["drop"]["value"] == 1.0
    assert found["drop"]["interval"] is None
    assert "of the draws have nothing to divide by" in found["drop"]["reason"]


outcomes = st.integers(1, 4).flatmap(
    lambda n: st.lists(
        st.tuples(
            st.lists(st.booleans(), min_size=n, max_size=n),
            st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=5,
    )
)


@settings(deadline=None, max_examples=60)
@given(outcomes, st.data())
def test_equals_a_twin_that_counts_every_draw_of_k_samples(tasks, data):
    num_samples = len(tasks[0][0])
    k = data.draw(st.integers(1, num_samples))

    def at_least_one(right):
        draws = list(combinations(right, k))
        return sum(any(draw) for draw in draws) / len(draws)

    nominal = {str(i): task[0] for i, task in enumerate(tasks)}
    perturbed = {str(i): {f"{i}.{j}": right for j, right in enumerate(task[1])} for i, task in enumerate(tasks)}
    found = values(robust_pass(nominal, perturbed, k=k))
    before = sum(at_least_one(task[0]) for task in tasks) / len(tasks)
    robust = sum(at_least_one([all(column) for column in zip(*task[1], strict=True)]) for task in tasks) / len(tasks)
    relative = 0.0
    for right, prompts in tasks:
        worst = [all(column) for column in zip(*prompts, strict=True)]
        relative += at_least_one([a and not b for a, b in zip(right, worst, strict=True)])
        relative += at_least_one([b and not a for a, b in zip(right, worst, strict=True)])
    assert found["nominal"] == pytest.approx(before)
    assert found["robust"] == pytest.approx(robust)
    assert found["relative"] == pytest.approx(relative / len(tasks))
    assert found["robust"] <= found["mean"] + 1e-12
    if before:
        assert found["drop"] == pytest.approx((before - robust) / before)
    else:
        assert found["drop"] is None


def test_what_every_task_does_is_not_called_certain():
    tasks = [str(i) for i in range(10)]
    found = robust_pass({t: [True] for t in tasks}, {t: {"p": [False]} for t in tasks}, k=1)
    for name, value in (("drop", 1), ("lost", 1), ("relative", 1), ("mean", 0)):
        assert found[name]["value"] == value
        assert found[name]["interval"] is None
        assert "how rare others are" in found[name]["reason"]
    mixed = robust_pass({t: [True] for t in tasks}, {t: {"p": [t > "4"]} for t in tasks}, k=1)
    assert mixed["drop"]["value"] == 0.5
    assert mixed["drop"]["interval"][0] < 0.5 < mixed["drop"]["interval"][1]


def test_intervals_hold_tasks_together():
    """Every task loses a tenth: however tasks are drawn, the drop is a tenth."""
    found = ratio(["a", "b", "c", "d"], [0.1, 0.05, 0.2, 0.02], [1.0, 0.5, 2.0, 0.2], "none")
    assert found["value"] == pytest.approx(0.1)
    assert found["interval"] == pytest.approx([0.1, 0.1])
    wide = ratio(["a", "b", "c", "d"], [0.0, 0.5, 0.0, 0.1], [1.0, 0.5, 2.0, 0.2], "none")
    assert wide["interval"][0] < wide["value"] < wide["interval"][1]
    assert ratio(["a", "a"], [1, 2], [2, 2], "none") == {"value": 0.75, "interval": None, "reason": "no interval: one group only"}
    assert ratio([], [], [], "no prompt") == {"value": None, "interval": None, "reason": "no prompt"}


def test_bits_are_of_the_bytes_that_were_charged():
    bit = math.log(2)
    found = bits_change(["a", "b"], [8 * bit, 16 * bit], [8, 8], [12 * bit, 16 * bit], [8, 4])
    assert found["nominal"] == pytest.approx(1.5)
    assert found["perturbed"] == pytest.approx(28 / 12)
    assert found["change"]["value"] == pytest.approx(28 / 12 - 1.5)
    assert found["num_prompts"] == 2
    empty = bits_change([], [], [], [], [])
    assert empty["nominal"] is None
    assert empty["change"] == {"value": None, "interval": None, "reason": "no bytes"}


def test_the_worst_prompt_of_each_task():
    found = worst_change(["p", "p", "q"], ["a", "a", "b"], [1.0, 1.0, 2.0], [1.5, 1.2, 1.0])
    assert found["value"] == pytest.approx((0.5 - 1.0) / 2)
