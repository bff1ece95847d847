"""Logits to integer frequencies of any alphabet up to 2^18, and how far their rounding was from coming out otherwise.

    unsafe = gather(logits, targets, phase, WEIGHTS, starts, sizes)     # intervals of the targets; bit p: phase p is not safe here
    frequencies(row, phase, WEIGHTS, out)                               # all of one row: int64 [A], at least 1 each, sum TOTAL

As `compressors.neural.quantise`, with 24 bits in place of 16: each logit is rounded to steps of 1/32 bit below the largest, a table gives
the weight of a step in whole numbers, and everything behind is whole numbers. So only that rounding can come out differently where the same
model is evaluated in another way, and only if a number lies nearer to a border than the two evaluations lie to each other. The borders
can be moved: phase p moves all by p/64 of a step. `gather` says which phases have no number within `SAFE_STEPS` of a border, the encoder
takes the first of them, and both sides round alike as long as they differ by less than `SAFE_STEPS`.

Rows that are not finite have no safe phase. A logit of minus infinity is one of the smallest there are: every symbol can be coded.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled
from compressors.neural.quantise import STEPS_PER_BIT, STEPS_PER_NAT, weights_table

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

PRECISION_BITS: Final = 24
TOTAL: Final = 1 << PRECISION_BITS
MAX_ALPHABET: Final = 1 << 18
NUM_PHASES: Final = 64
SAFE_STEPS: Final = 1e-8
"""2.2e-10 nats. Float64 evaluations of one model differ by some 1e-13 (tests/test_codec_exact.py measures it)."""
LARGEST_STEP: Final = 26 * STEPS_PER_BIT
"""Symbols 26 bits or more below the most probable one all weigh the same."""
WEIGHTS_SHA256: Final = "978601fc1c9650724431ff55d5fd7c82ab0d838bef7fa83e8255f37f79de5137"

_WEIGHT_BITS: Final = 32
# Weights times factor stay below 2^62, and the factor is at least 2^12 for the largest alphabet.
_FACTOR_BITS: Final = 38
ALL_UNSAFE: Final = np.uint64((1 << 64) - 1)
_ONE = np.uint64(1)


WEIGHTS: Final = weights_table(STEPS_PER_BIT, _WEIGHT_BITS, LARGEST_STEP, WEIGHTS_SHA256)
"""int64 [833]: weight of a symbol by its distance from the most probable one, in steps of 1/32 bit."""


@compiled
def gather(logits: F64, targets: I64, phase: int, weights: I64, starts: U32, sizes: U32) -> np.uint64:
    """Of rows [N, A] the intervals of the targets [N] (0 to A - 1), in 1/TOTAL. Returned: bit p is set where phase p is not safe for all
    rows; all bits where a row is not finite, and then the intervals mean nothing."""
    scaled = np.empty(logits.shape[1], np.int64)
    unsafe = np.uint64(0)
    for row in range(logits.shape[0]):
        found, best, factor, num_left = _scale(logits[row], phase, weights, scaled)
        unsafe |= found
        if found == ALL_UNSAFE:
            return found
        target = targets[row]
        start = np.int64(0)
        for symbol in range(target):
            start += 1 + ((scaled[symbol] * factor) >> _FACTOR_BITS)
        size = 1 + ((scaled[target] * factor) >> _FACTOR_BITS)
        if best < target:
            start += num_left
        elif best == target:
            size += num_left
        starts[row] = start
        sizes[row] = size
    return unsafe


@compiled
def frequencies(logits: F64, phase: int, weights: I64, out: I64) -> bool:
    """All frequencies of one row [A]; False, and nothing of use in `out`, where it is not finite."""
    found, best, factor, num_left = _scale(logits, phase, weights, out)
    if found == ALL_UNSAFE:
        return False
    for symbol in range(len(out)):
        out[symbol] = 1 + ((out[symbol] * factor) >> _FACTOR_BITS)
    out[best] += num_left
    return True


@compiled
def _scale(logits: F64, phase: int, weights: I64, scaled: I64) -> tuple[np.uint64, np.int64, np.int64, np.int64]:
    """Weights of a row; which phases are unsafe, the first symbol of the largest weight, the factor from weights to frequencies, and what
    rounding leaves over, which that symbol gets."""
    num = len(logits)
    largest = most_probable(logits)
    if not np.isfinite(largest):
        return ALL_UNSAFE, np.int64(0), np.int64(0), np.int64(0)
    offset = 0.5 + phase * (1.0 / NUM_PHASES)
    unsafe = np.uint64(0)
    total = np.int64(0)
    best = np.int64(0)
    for symbol in range(num):
        step, found = rounded((largest - logits[symbol]) * STEPS_PER_NAT, offset, LARGEST_STEP, SAFE_STEPS)
        unsafe |= found
        scaled[symbol] = weights[step]
        total += scaled[symbol]
        if scaled[symbol] > scaled[best]:
            best = np.int64(symbol)
    factor = ((np.int64(TOTAL) - num) << _FACTOR_BITS) // total
    num_left = np.int64(TOTAL) - num
    for symbol in range(num):
        num_left -= (scaled[symbol] * factor) >> _FACTOR_BITS
    return unsafe, best, factor, num_left


@compiled
def most_probable(logits: F64) -> np.float64:
    """The largest logit of a row; not a number, or infinite, where the row is not finite and has no frequencies."""
    largest = logits[0]
    for symbol in range(len(logits)):
        if np.isnan(logits[symbol]):
            return np.float64(np.nan)
        largest = max(largest, logits[symbol])
    return np.float64(largest)


@compiled
def rounded(distance: float, offset: float, largest_step: int, safe_steps: float) -> tuple[np.int64, np.uint64]:
    """The step of a symbol so many steps below the most probable one, and the bit of the phase that has a border within `safe_steps` of
    it. `offset`: a half, and what the phase moves borders by."""
    if not distance < largest_step + 1:
        return np.int64(largest_step), np.uint64(0)
    # In 64ths of a step from the border of phase 0; the phase for which that is a border is unsafe.
    place = (distance + 0.5) * NUM_PHASES
    nearest = int(place + 0.5)
    unsafe = np.uint64(0)
    if abs(place - nearest) < safe_steps * NUM_PHASES:
        unsafe = _ONE << np.uint64((NUM_PHASES - nearest % NUM_PHASES) % NUM_PHASES)
    return np.int64(min(int(distance + offset), largest_step)), unsafe


def order0(data: npt.NDArray[np.uint8]) -> tuple[U32, U32]:
    """Intervals of bytes under a model that counts as it goes: two for each time a byte was seen, and one."""
    starts, sizes = np.empty(len(data), np.uint32), np.empty(len(data), np.uint32)
    _order0(data, starts, sizes)
    return starts, sizes


@compiled
def _order0(data: npt.NDArray[np.uint8], starts: U32, sizes: U32) -> None:
    counts = np.ones(256, np.int64)
    for i in range(len(data)):
        starts[i], sizes[i] = order0_interval(counts, 256 + 2 * i, np.int64(data[i]))
        counts[data[i]] += 2


@compiled
def order0_interval(counts: I64, total: int, byte: np.int64) -> tuple[np.int64, np.int64]:
    """Start and size of one byte's interval. Totals stay far below TOTAL, so none is empty."""
    below = np.int64(0)
    for other in range(byte):
        below += counts[other]
    start = (below << PRECISION_BITS) // total
    return start, ((below + counts[byte]) << PRECISION_BITS) // total - start


def stored(data: npt.NDArray[np.uint8]) -> tuple[U32, U32]:
    """Intervals of bytes that are all equally probable."""
    starts: U32 = data.astype(np.uint32) << np.uint32(PRECISION_BITS - 8)
    return starts, np.full(len(data), 1 << (PRECISION_BITS - 8), np.uint32)


def information_bits(sizes: U32) -> float:
    """-log2 of the probability of a sequence of intervals."""
    return float(len(sizes) * PRECISION_BITS - np.log2(sizes.astype(np.float64)).sum())
