"""Randomness is a function of (seed, purpose, position): a bijection every epoch, fair, and the same for ever."""

from __future__ import annotations

import numpy as np
import pytest

from proxy_lm.data.permutation import hashes, key_of, permute, uniforms


def order(seed: int, n: int, first: int, count: int) -> list[int]:
    return permute(key_of(seed, "document"), n, np.arange(first, first + count)).tolist()


@pytest.mark.parametrize("n", range(1, 301))
def test_each_epoch_tells_every_number_once(n):
    for epoch in (0, 1, 7):
        assert sorted(order(3, n, epoch * n, n)) == list(range(n))


@pytest.mark.parametrize("n", [2**20 - 1, 2**20, 2**20 + 1, 10**9 + 7, 2**40 + 15])
def test_large_orders_have_no_double_and_stay_inside(n):
    told = permute(1, n, np.arange(n - 50_000, n))
    assert np.unique(told).size == 50_000
    assert told.min() >= 0
    assert told.max() < n


def test_any_stretch_equals_the_whole_across_epochs():
    whole = order(5, 7, 0, 70)
    assert [order(5, 7, p, 1)[0] for p in range(70)] == whole
    assert order(5, 7, 33, 20) == whole[33:53]
    assert order(5, 7, 0, 0) == []


def test_epochs_and_seeds_differ():
    assert order(0, 100, 0, 100) != order(0, 100, 100, 100)
    assert order(0, 100, 0, 100) != order(1, 100, 0, 100)


def test_every_place_is_fair():
    # Who is told first among five, over 4000 seeds and over 4000 epochs of one seed: about 800 each, standard deviation 25.
    first = [order(seed, 5, 0, 1)[0] for seed in range(4000)]
    assert np.abs(np.bincount(first, minlength=5) - 800).max() < 5 * 25.3
    first = permute(key_of(0, "document"), 5, np.arange(0, 20_000, 5)).tolist()
    assert np.abs(np.bincount(first, minlength=5) - 800).max() < 5 * 25.3


def test_neighbours_are_not_told_together():
    told = permute(key_of(0, "document"), 100_000, np.arange(100_000))
    assert abs(np.corrcoef(told[:-1], told[1:])[0, 1]) < 0.02
    assert np.count_nonzero(np.abs(np.diff(told)) == 1) < 20  # 2 expected


def test_draws_are_uniform_and_purposes_are_apart():
    positions = np.arange(1_000_000)
    rate, pair = (uniforms(key_of(0, purpose), positions) for purpose in ("rate", "pair"))
    for draws in (rate, pair):
        assert draws.min() >= 0.0
        assert draws.max() < 1.0
        assert np.abs(np.histogram(draws, 100, (0.0, 1.0))[0] - 10_000).max() < 5 * 100
        assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.005
    assert abs(np.corrcoef(rate, pair)[0, 1]) < 0.005


def test_the_numbers_never_change():
    # Another number here is another plan for every run that was ever started: raise PERMUTATION_VERSION with it.
    assert hashes(0, np.arange(2)).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]  # SplitMix64 from state 0
    assert key_of(0, "document") == 4502472521416700798
    assert order(0, 10, 0, 20) == [2, 6, 7, 0, 5, 8, 3, 9, 4, 1, 5, 2, 4, 9, 0, 8, 7, 3, 1, 6]
    assert uniforms(key_of(0, "rate"), np.arange(3)).tolist() == [0.41988333318786697, 0.6150481431110097, 0.8250138873498215]
