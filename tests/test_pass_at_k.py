"""pass@k equals counting all draws, is refused where it would be biased, and its interval never claims certainty."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.pass_at_k import check_ks, estimated, pass_at_k, possible_ks
from proxy_lm.errors import RequestError


def counted(num_samples: int, num_right: int, k: int) -> float:
    """The slow twin: of all ways to draw k of the samples, the share that holds a right one."""
    samples = [True] * num_right + [False] * (num_samples - num_right)
    draws = list(itertools.combinations(samples, k))
    return sum(any(draw) for draw in draws) / len(draws)


def test_estimates_checked_by_eye():
    assert estimated(1, 0, 1) == 0.0
    assert estimated(1, 1, 1) == 1.0
    assert estimated(4, 1, 1) == 0.25
    assert estimated(4, 1, 2) == 0.5  # of 6 pairs 3 hold the right one
    assert estimated(4, 2, 2) == pytest.approx(5 / 6)
    assert estimated(4, 3, 2) == 1.0  # one wrong sample cannot fill a pair
    assert estimated(5, 0, 5) == 0.0


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_estimate_equals_counting_all_draws(case):
    assert estimated(*case) == pytest.approx(counted(*case), abs=1e-12)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_estimate_equals_the_product_form(case):
    num_samples, num_right, k = case
    product = math.prod(1 - k / i for i in range(num_samples - num_right + 1, num_samples + 1))
    assert estimated(*case) == pytest.approx(1.0 if num_samples - num_right < k else 1 - product, abs=1e-9)


def test_a_set_scores_the_mean_of_its_problems():
    scores = pass_at_k({"a": (4, 1), "b": (2, 2), "c": (4, 0)}, ks=(1, 2))
    assert scores[1].value == pytest.approx((0.25 + 1 + 0) / 3)
    assert scores[2].value == pytest.approx((0.5 + 1 + 0) / 3)
    assert scores[1].by_task == {"a": 0.25, "b": 1.0, "c": 0.0}


def test_a_k_is_refused_before_there_are_samples():
    check_ks((1, 10), 10)
    with pytest.raises(RequestError, match=r"^pass@10 needs at least 10 samples of each problem and there is 1: make more, or ask"):
        check_ks((1, 10), 1)
    with pytest.raises(RequestError, match="there are 2: make more"):
        check_ks((3,), 2)
    with pytest.raises(RequestError, match="pass@0 is of no sample"):
        check_ks((0,), 1)


def test_fewer_samples_than_k_are_refused():
    with pytest.raises(RequestError, match=r"pass@10 needs at least 10 samples.*1 of 2 have fewer \(b has 9\)"):
        pass_at_k({"a": (10, 1), "b": (9, 9)}, ks=(1, 10))
    with pytest.raises(RequestError, match="the least k is 1"):
        pass_at_k({"a": (10, 1)}, ks=(0,))
    with pytest.raises(RequestError, match="no problem was judged"):
        pass_at_k({}, ks=(1,))
    assert possible_ks(1) == (1,)
    assert possible_ks(20) == (1, 10)
    assert possible_ks(5, (2, 5, 6)) == (2, 5)


def test_intervals_hold_the_score_and_are_the_same_each_time():
    counts = {f"t{i}": (10, i % 4) for i in range(40)}
    first, again = pass_at_k(counts, ks=(1,))[1], pass_at_k(dict(reversed(counts.items())), ks=(1,))[1]
    assert first.interval == again.interval
    low, high = first.interval
    assert low < first.value < high
    # The middle 95 % of a mean of 40: about 1.96 standard errors to each side.
    values = list(first.by_task.values())
    error = 1.96 * math.sqrt(sum((v - first.value) ** 2 for v in values)) / len(values)
    assert (high - low) / 2 == pytest.approx(error, rel=0.15)


@pytest.mark.parametrize(("num_right", "interval"), [(0, (0.0, 0.0881)), (1, (0.9119, 1.0))])
def test_nothing_right_and_all_right_leave_doubt(num_right, interval):
    """Clopper and Pearson for 0 and 40 of 40, from a table."""
    found = pass_at_k({f"t{i}": (1, num_right) for i in range(40)}, ks=(1,))[1]
    assert found.interval == pytest.approx(interval, abs=1e-4)
    assert found.interval_method.startswith("binomial")


def test_one_problem_says_nothing_about_others():
    assert pass_at_k({"a": (4, 1)}, ks=(1,))[1].interval == (0.0, 1.0)
