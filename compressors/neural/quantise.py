"""Probabilities to integer frequencies: the one place where floating point or raw counts become what the coders use.

    quantise(logits)          # float64 [N, 256], natural logarithms up to a constant -> uint16 [N, 256]
    from_counts(counts)       # int64 [N, 256], not negative -> uint16 [N, 256]

Both give rows that sum to `TOTAL` with no zero. `quantise` rounds each logit to steps of 1/32 bit below the largest (the only rounding that
a device can influence: float64, no fused multiply-add), looks the weight up in a table of 641 integers, and is integer from there on.
`from_counts` is integer throughout (largest remainder). `quantise_rows` and `quantise_rows_slowly` are the same function compiled and in
numpy; a network's twin on its own device must agree with them on every row.

Not promised: that two devices round the same logits alike when these differ. Build a table once, in float64, and ship the integers.
"""

from __future__ import annotations

from math import isqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.errors import RequestError
from compressors.files import sha256_bytes
from compressors.neural.jit import compiled
from compressors.neural.models import PRECISION_BITS, TOTAL, Frequencies

STEPS_PER_BIT: Final = 32
LARGEST_STEP: Final = 20 * STEPS_PER_BIT
"""Bytes 20 bits or more below the most probable one all weigh the same."""
STEPS_PER_NAT: Final = 46.16624130844683
"""The float64 nearest to 32 / ln 2."""
WEIGHT_BITS: Final = 24
WEIGHTS_SHA256: Final = "1768844debdb773e45c621b7acdddaa04e17a699c6132d338032d891ed32b0d4"

NOT_FINITE: Final = "the byte model's logits are not all finite: its numbers are too large for their type; train the model anew"

# N rows, 256 bytes
Logits = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def weights_table(steps_per_bit: int, weight_bits: int, largest_step: int, sha256: str) -> npt.NDArray[np.int64]:
    """round(2 ** (weight_bits - step / steps_per_bit)) for steps 0 to largest_step, by square roots of whole numbers: int64
    [largest_step + 1], not writable. `steps_per_bit` is a power of two. The table is part of a format: it must have this digest."""

    def weight(step: int) -> int:
        root = 1 << (steps_per_bit * (weight_bits + 1) - step)
        for _ in range(steps_per_bit.bit_length() - 1):
            root = isqrt(root)
        return (root + 1) // 2

    weights = np.array([weight(step) for step in range(largest_step + 1)], dtype=np.int64)
    assert sha256_bytes(weights.astype("<i8").tobytes()) == sha256, "the weights are part of the format"
    weights.setflags(write=False)
    return weights


WEIGHTS: Final = weights_table(STEPS_PER_BIT, WEIGHT_BITS, LARGEST_STEP, WEIGHTS_SHA256)
"""int64 [641]: weight of a byte by its distance from the most probable one, in steps of 1/32 bit."""


def quantise(logits: npt.NDArray[Any]) -> Frequencies:
    """Frequencies of rows of logits, [N, 256] of any float type (converted to float64 first) -> uint16 [N, 256]. Raises `RequestError`
    for logits that are not finite."""
    rows = np.ascontiguousarray(logits, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise RequestError(NOT_FINITE)
    out = np.empty(rows.shape, dtype=np.uint16)
    quantise_rows(rows, WEIGHTS, out)
    return out


@compiled
def quantise_rows(logits: Logits, weights: Counts, out: Frequencies) -> None:
    """`quantise` as a loop, for coders that have no numpy at hand."""
    scaled = np.empty(256, dtype=np.int64)
    for row in range(logits.shape[0]):
        best = 0
        for byte in range(256):
            if logits[row, byte] > logits[row, best]:
                best = byte
        total = np.int64(0)
        for byte in range(256):
            # Two roundings, as written: a fused multiply-add would round once.
            step = min((logits[row, best] - logits[row, byte]) * STEPS_PER_NAT, LARGEST_STEP * 1.0)
            scaled[byte] = weights[min(LARGEST_STEP, int(step + 0.5))]
            total += scaled[byte]
        factor = ((TOTAL - 256) << 32) // total
        num_left = TOTAL
        for byte in range(256):
            scaled[byte] = 1 + ((scaled[byte] * factor) >> 32)
            num_left -= int(scaled[byte])
        _finish(scaled, num_left, out[row])


@compiled
def _finish(frequencies: Counts, num_left: int, out: npt.NDArray[np.uint16]) -> None:
    """What rounding left over goes to the largest frequency, the lowest byte on ties."""
    best = 0
    for byte in range(256):
        if frequencies[byte] > frequencies[best]:
            best = byte
    frequencies[best] += num_left
    for byte in range(256):
        out[byte] = frequencies[byte]


def quantise_slowly(logits: npt.NDArray[Any]) -> Frequencies:
    """`quantise` in plain numpy: the readable form, and the check that compiled code fuses nothing."""
    rows = np.asarray(logits, dtype=np.float64)
    steps = np.minimum((rows.max(axis=1, keepdims=True) - rows) * STEPS_PER_NAT, float(LARGEST_STEP)) + 0.5
    weights = WEIGHTS[np.minimum(np.trunc(steps).astype(np.int64), LARGEST_STEP)]
    factors = ((TOTAL - 256) << 32) // weights.sum(axis=1, keepdims=True)
    frequencies = 1 + ((weights * factors) >> 32)
    frequencies[np.arange(len(rows)), frequencies.argmax(axis=1)] += TOTAL - frequencies.sum(axis=1)
    made: Frequencies = frequencies.astype(np.uint16)
    return made


def from_counts(counts: npt.NDArray[np.int64]) -> Frequencies:
    """Frequencies nearest to the shares of counts [N, 256], each count 0 to 2^46: 1 for every byte, the other 65,280 by largest remainder
    (the lower byte on ties). A row of zeros is uniform."""
    rows = np.ascontiguousarray(counts, dtype=np.int64)
    out = np.empty(rows.shape, dtype=np.uint16)
    _share_rows(rows, out)
    return out


@compiled
def _share_rows(counts: Counts, out: Frequencies) -> None:
    for row in range(counts.shape[0]):
        share_row(counts[row], out[row])


@compiled
def share_row(counts: Counts, out: npt.NDArray[np.uint16]) -> None:
    """One row of `from_counts`: int64 [256] -> uint16 [256]."""
    spread = np.int64(TOTAL - 256)
    total = np.int64(0)
    for byte in range(256):
        total += counts[byte]
    if total == 0:
        out[:] = TOTAL // 256
        return
    # Counts are scaled down where their sum is large, so that products stay below 2^63.
    shift = 0
    while (total >> shift) >= 1 << 46:
        shift += 1
    total = np.int64(0)
    for byte in range(256):
        total += counts[byte] >> shift
    remainders = np.empty(256, dtype=np.int64)
    num_left = spread
    for byte in range(256):
        product = (counts[byte] >> shift) * spread
        share = product // total
        remainders[byte] = product - share * total
        out[byte] = 1 + share
        num_left -= share
    if num_left == 0:
        return
    # The num_left largest remainders get one more; a stable order keeps the lower byte first on ties.
    order = np.argsort(-remainders, kind="mergesort")
    for index in range(num_left):
        out[order[index]] += 1


assert PRECISION_BITS == 16  # the limits above are worked out for it
