"""Logits of a wide alphabet to two integer frequencies: one of the symbol's group, one of the symbol in its group.

    unsafe = gather_wide(logits, targets, phase, WIDE_WEIGHTS, starts, sizes)    # two intervals a target; bit p: phase p is not safe

With a count of at least 1 in 2^24 for every symbol, an alphabet of 2^18 gives away 1.6 % of its probability: 0.023 bits a symbol, 0.6 % of
what a good model of text needs for one. In two steps of at most 512 counts it is 0.0001 bits. `GROUP_SIZE` neighbours are a group.

As in `frequencies.py` each logit is rounded once, by a phase that no logit is near a border of, and everything behind is whole numbers.
Steps are 1/8 bit here, which costs 0.0005 bits a symbol, so that a quarter as many logits lie near borders: with 2^18 symbols and steps of
1/32 bit, one phase in fifteen would be safe for 512 rows, and here every second is. Weights reach 36 bits down, not 26: the sum of a
quarter of a million symbols that all weigh 2^-26 is felt.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled
from compressors.neural.quantise import STEPS_PER_NAT, weights_table
from proxy_lm.codec.coder import next_of_sizes
from proxy_lm.codec.frequencies import ALL_UNSAFE, NUM_PHASES, PRECISION_BITS, SAFE_STEPS, TOTAL, most_probable, rounded

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

WIDE_ALPHABET: Final = 1 << 14
"""Alphabets of more symbols are coded here."""
GROUP_SIZE: Final = 512
WIDE_STEPS_PER_BIT: Final = 8
WIDE_LARGEST_STEP: Final = 36 * WIDE_STEPS_PER_BIT
WIDE_PHASES: Final = np.array([512, 256, 128, 64] + [1] * 56 + [2] * 4, np.int64) << (PRECISION_BITS - 10)
"""int64 [64]: how probable each phase is; with many symbols the first is often not safe."""
WIDE_WEIGHTS_SHA256: Final = "539fe850af6e259d99494a06d3b8f1283cd2527af1cfd52723cfe9c072ed2fc8"

_WEIGHT_BITS: Final = 40
_WIDE_STEPS_PER_NAT: Final = STEPS_PER_NAT / 4
# As far from a border in nats as for narrow alphabets.
_WIDE_SAFE_STEPS: Final = SAFE_STEPS / 4
_FACTOR_BITS: Final = 38


WIDE_WEIGHTS: Final = weights_table(WIDE_STEPS_PER_BIT, _WEIGHT_BITS, WIDE_LARGEST_STEP, WIDE_WEIGHTS_SHA256)
"""int64 [289]: weight of a symbol by its distance from the most probable one, in steps of 1/8 bit."""


@compiled
def gather_wide(logits: F64, targets: I64, phase: int, weights: I64, starts: U32, sizes: U32) -> np.uint64:
    """As `frequencies.gather`, for rows [N, A]; starts and sizes [2N]: of each target its group, then itself within it."""
    num = logits.shape[1]
    scaled = np.empty(num, np.int64)
    sums = np.empty((num + GROUP_SIZE - 1) // GROUP_SIZE, np.int64)
    shares = np.empty(max(len(sums), GROUP_SIZE), np.int64)
    unsafe = np.uint64(0)
    for row in range(logits.shape[0]):
        found = _weigh(logits[row], phase, weights, scaled, sums)
        unsafe |= found
        if found == ALL_UNSAFE:
            return found
        group, place = targets[row] // GROUP_SIZE, targets[row] % GROUP_SIZE
        _share(sums, shares)
        starts[2 * row], sizes[2 * row] = shares[:group].sum(), shares[group]
        _share(scaled[group * GROUP_SIZE : (group + 1) * GROUP_SIZE], shares)
        starts[2 * row + 1], sizes[2 * row + 1] = shares[:place].sum(), shares[place]
    return unsafe


@compiled
def next_wide(logits: F64, phase: int, weights: I64, scratch: I64, words: U32, state: U64, interval: U32) -> np.int64:
    """As `coder.next_symbol`; `interval` [4] has the start and size of the group, then of the symbol within it."""
    num = len(logits)
    sums = np.empty((num + GROUP_SIZE - 1) // GROUP_SIZE, np.int64)
    shares = np.empty(max(len(sums), GROUP_SIZE), np.int64)
    if _weigh(logits, phase, weights, scratch, sums) == ALL_UNSAFE:
        return np.int64(-1)
    _share(sums, shares)
    group, start = next_of_sizes(shares[: len(sums)], words, state)
    interval[0], interval[1] = start, shares[group]
    members = scratch[group * GROUP_SIZE : min((group + 1) * GROUP_SIZE, num)]
    _share(members, shares)
    place, start = next_of_sizes(shares[: len(members)], words, state)
    interval[2], interval[3] = start, shares[place]
    return group * GROUP_SIZE + place


@compiled
def _weigh(logits: F64, phase: int, weights: I64, scaled: I64, sums: I64) -> np.uint64:
    """Weights of a row and of its groups; which phases are unsafe."""
    largest = most_probable(logits)
    if not np.isfinite(largest):
        return ALL_UNSAFE
    offset = 0.5 + phase * (1.0 / NUM_PHASES)
    unsafe = np.uint64(0)
    sums[:] = 0
    for symbol in range(len(logits)):
        step, found = rounded((largest - logits[symbol]) * _WIDE_STEPS_PER_NAT, offset, WIDE_LARGEST_STEP, _WIDE_SAFE_STEPS)
        unsafe |= found
        scaled[symbol] = weights[step]
        sums[symbol // GROUP_SIZE] += weights[step]
    return unsafe


@compiled
def _share(weights: I64, out: I64) -> None:
    """Frequencies of weights [n], at least 1 each, sum TOTAL. What rounding leaves over goes to the first of the largest."""
    num = len(weights)
    total = weights.sum()
    shift = 0
    while total >> shift >= np.int64(1) << _FACTOR_BITS:
        shift += 1
    factor = ((np.int64(TOTAL) - num) << _FACTOR_BITS) // (total >> shift)
    num_left, best = np.int64(TOTAL), 0
    for i in range(num):
        out[i] = 1 + (((weights[i] >> shift) * factor) >> _FACTOR_BITS)
        num_left -= out[i]
        if weights[i] > weights[best]:
            best = i
    out[best] += num_left


assert WIDE_PHASES.sum() == TOTAL
assert len(WIDE_PHASES) == NUM_PHASES
