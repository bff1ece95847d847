"""Alphabets of up to a quarter of a million symbols: two intervals a symbol, what they cost, and borders of their rounding."""

from __future__ import annotations

import numpy as np
import pytest

from compressors.neural.quantise import STEPS_PER_NAT
from proxy_lm.codec.coder import Reader, encode
from proxy_lm.codec.frequencies import MAX_ALPHABET, TOTAL, information_bits
from proxy_lm.codec.wide import GROUP_SIZE, WIDE_ALPHABET, WIDE_PHASES, WIDE_WEIGHTS, gather_wide, next_wide


def told(logits: np.ndarray, targets: list[int] | np.ndarray, phase: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
    starts, sizes = np.empty((2, 2 * len(targets)), np.uint32)
    unsafe = int(gather_wide(logits, np.array(targets, np.int64), phase, WIDE_WEIGHTS, starts, sizes))
    return starts, sizes, unsafe


def read_back(payload: bytes, logits: np.ndarray, phase: int = 0) -> list[int]:
    reader, scratch, interval = Reader(payload), np.empty(logits.shape[1], np.int64), np.empty(4, np.uint32)
    return [int(next_wide(row, phase, WIDE_WEIGHTS, scratch, reader.words, reader.state, interval)) for row in logits]


def test_three_symbols_by_hand():
    # One group: all of the first interval.
    logits = np.log(np.array([[2.0, 1.0, 1.0]] * 3))
    starts, sizes, _ = told(logits, [0, 1, 2])
    assert starts.tolist() == [0, 0, 0, TOTAL // 2, 0, TOTAL * 3 // 4]
    assert sizes.tolist() == [TOTAL, TOTAL // 2, TOTAL, TOTAL // 4, TOTAL, TOTAL // 4]


@pytest.mark.parametrize("alphabet_size", [GROUP_SIZE + 1, 3 * GROUP_SIZE, WIDE_ALPHABET + 1])
def test_intervals_of_a_row_are_all_of_it(alphabet_size):
    row = np.random.default_rng(alphabet_size).normal(0, 6, alphabet_size)
    firsts = np.arange(0, alphabet_size, GROUP_SIZE)
    starts, sizes, _ = told(np.broadcast_to(row, (len(firsts), alphabet_size)).copy(), firsts)
    assert sizes.min() >= 1
    assert starts[0] == 0
    assert (starts[2::2] == np.cumsum(sizes[::2], dtype=np.int64)[:-1]).all()
    assert int(sizes[::2].sum(dtype=np.int64)) == TOTAL
    last = np.arange(alphabet_size // GROUP_SIZE * GROUP_SIZE - (GROUP_SIZE if alphabet_size % GROUP_SIZE == 0 else 0), alphabet_size)
    starts, sizes, _ = told(np.broadcast_to(row, (len(last), alphabet_size)).copy(), last)
    assert (starts[3::2] == np.cumsum(sizes[1::2], dtype=np.int64)[:-1]).all()
    assert int(sizes[1::2].sum(dtype=np.int64)) == TOTAL


@pytest.mark.parametrize(("alphabet_size", "num_rows"), [(WIDE_ALPHABET + 1, 200), (50_256, 50), (MAX_ALPHABET, 6)])
def test_symbols_cost_their_information_content_and_come_back(alphabet_size, num_rows):
    generator = np.random.default_rng(alphabet_size)
    logits = generator.normal(0, 4, (num_rows, alphabet_size))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    targets = [int(generator.choice(alphabet_size, p=row)) for row in shares]
    own = -np.log2(shares[np.arange(num_rows), targets]).sum()
    starts, sizes, _ = told(logits, targets)
    # Rounding to eighths of a bit is noise of 0.036 bits a symbol, up or down.
    assert information_bits(sizes) == pytest.approx(own, rel=1e-3, abs=0.1 * num_rows**0.5)
    payload = encode(starts, sizes)
    assert 8 * len(payload) <= information_bits(sizes) + 9
    assert read_back(payload, logits) == targets


def test_a_sure_symbol_of_the_widest_alphabet_costs_nearly_nothing():
    logits = np.full((1, MAX_ALPHABET), -40.0)
    logits[0, 70_000] = 0
    _, sizes, _ = told(logits, [70_000])
    assert information_bits(sizes) < 0.0002


def test_impossible_symbols_can_be_coded_and_broken_rows_are_seen():
    logits = np.full((2, 20_000), -np.inf)
    logits[:, 3] = 0
    starts, sizes, _ = told(logits, [19_999, 0])
    assert read_back(encode(starts, sizes), logits) == [19_999, 0]
    for bad in (np.nan, np.inf):
        logits[1, 5] = bad
        assert told(logits, [0, 0])[2] == (1 << 64) - 1
        assert read_back(b"", logits)[1] == -1


def test_a_border_is_seen_and_another_phase_moves_it():
    logits = np.zeros((1, 20_000))
    logits[0, 1:] = -(80.3 * 4) / STEPS_PER_NAT
    logits[0, 9_000] = -(10.5 * 4) / STEPS_PER_NAT  # half way between two steps
    _, _, unsafe = told(logits, [9_000])
    assert unsafe == 1 | 1 << 32  # 32: the most probable symbol itself is at its border, in every evaluation
    moved = []
    for phase in (0, 1):
        for noise in (-1e-12, 1e-12):
            changed = logits.copy()
            changed[0, 9_000] += noise
            moved.append(told(changed, [9_000], phase)[1][1])
    assert moved[0] != moved[1]
    assert moved[2] == moved[3]


def test_phases_are_a_distribution():
    assert WIDE_PHASES.sum() == TOTAL
    assert len(WIDE_PHASES) == 64
    assert WIDE_PHASES.min() > 0
