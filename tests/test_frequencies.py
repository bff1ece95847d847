"""Logits and counts become whole frequencies that sum to 65,536, by hand and against slow twins."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.neural.models import TOTAL
from compressors.neural.quantise import STEPS_PER_NAT, WEIGHTS, from_counts, quantise, quantise_slowly


def test_weights_are_powers_of_two_in_steps_of_a_32nd_bit():
    for step, weight in enumerate(WEIGHTS.tolist()):
        assert (2 * weight - 1) ** 32 < 2 ** (25 * 32 - step) < (2 * weight + 1) ** 32  # |weight - 2^(24 - step / 32)| < 1 / 2
    assert (WEIGHTS[0], WEIGHTS[32], WEIGHTS[640]) == (1 << 24, 1 << 23, 16)


def test_quantised_rows_by_hand():
    logits = np.full((1, 256), -1000.0)
    logits[0, 7] = 3.0
    logits[0, 9] = 3.0 - np.log(4.0)  # two bits less
    frequencies = quantise(logits)[0]
    # weights 2^24, 2^22 and 254 of 16: shares of 65280 rounded down, and one each
    total = 2**24 + 2**22 + 254 * 16
    assert frequencies[9] == 1 + 65280 * 2**22 // total
    assert frequencies[0] == 1
    assert frequencies[7] == 65536 - int(frequencies[9]) - 254


def twin_quantise(logits):
    steps = [min(640, int((max(logits) - logit) * STEPS_PER_NAT + 0.5)) for logit in logits]
    weights = [int(WEIGHTS[step]) for step in steps]
    factor = ((TOTAL - 256) << 32) // sum(weights)
    frequencies = [1 + (weight * factor >> 32) for weight in weights]
    frequencies[frequencies.index(max(frequencies))] += TOTAL - sum(frequencies)
    return frequencies


@given(
    seed=st.integers(0, 1 << 30),
    scale=st.sampled_from([0.0, 0.01, 1.0, 5.0, 1e3, 1e30]),
    kind=st.sampled_from([np.float64, np.float32, np.float16]),
)
@settings(deadline=None)
def test_quantised_rows_are_the_twins(seed, scale, kind):
    logits = np.random.default_rng(seed).normal(size=(3, 256)) * scale
    logits = np.clip(logits, -6e4, 6e4).astype(kind) if kind is np.float16 else logits.astype(kind)
    expected = [twin_quantise(row.astype(np.float64).tolist()) for row in logits]
    assert quantise(logits).tolist() == expected
    assert quantise_slowly(logits).tolist() == expected
    assert all(sum(row) == TOTAL and min(row) >= 1 for row in expected)


@given(counts=st.lists(st.one_of(st.just(0), st.integers(0, 50), st.integers(0, 1 << 46)), min_size=256, max_size=256))
@settings(deadline=None)
def test_counts_become_shares_by_largest_remainder(counts):
    found = from_counts(np.array([counts], np.int64))[0].tolist()
    assert sum(found) == TOTAL
    assert min(found) >= 1
    shift = max(0, sum(counts).bit_length() - 46)
    counts = [count >> shift for count in counts]
    if sum(counts) == 0:
        assert found == [256] * 256
        return
    exact = [Fraction(count * (TOTAL - 256), sum(counts)) for count in counts]
    expected = [1 + int(share) for share in exact]
    for byte in sorted(range(256), key=lambda byte: (-(exact[byte] - int(exact[byte])), byte))[: TOTAL - sum(expected)]:
        expected[byte] += 1
    assert found == expected
