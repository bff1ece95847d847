"""Randomness that is addressed, not advanced: draws and document orders as functions of (seed, purpose, position).

There is no state to save, and position 10**12 costs as much as position 0. Two tools, both vectorised:

* `uniforms(key, positions)`: SplitMix64 read at random access. Its p-th output is mix(key + (p + 1) * golden), where mix is the
  finaliser of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014). Each purpose has a key of its own
  from SHA-256 of (seed, purpose): one draw decides one thing and no decision shares a draw with another.
* `permute(key, n, positions)`: position p tells document number `p mod n` of epoch `p div n`, under a permutation of its own in each
  epoch. A Feistel network over the smallest power of two that holds n (Black and Rogaway, "Ciphers with arbitrary finite domains",
  CT-RSA 2002): what falls outside 0..n-1 goes through the network again until it falls inside, which keeps it a bijection. On
  average fewer than two passes; no table, whatever n.

Not promised: secrecy. The constants are part of the plan: another constant is another `PERMUTATION_VERSION`.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

PERMUTATION_VERSION: Final = 1
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_TO_UNIT: Final = 2.0**-53
_NUM_ROUNDS: Final = 8


def key_of(seed: int, purpose: str) -> int:
    """A 64-bit key for one purpose of one seed: the first 8 bytes of SHA-256."""
    return int.from_bytes(hashlib.sha256(f"proxy-lm plan {seed} {purpose}".encode()).digest()[:8], "little")


def _mix(x: U64) -> U64:
    """SplitMix64's finaliser, in place: a bijection of 64 bits in which every input bit moves every output bit."""
    x ^= x >> np.uint64(30)
    x *= _MIX_1
    x ^= x >> np.uint64(27)
    x *= _MIX_2
    x ^= x >> np.uint64(31)
    return x


def hashes(key: int, positions: npt.NDArray[np.int64]) -> U64:
    """64 random bits for each position, uint64, the shape of `positions`."""
    x = positions.astype(np.uint64)
    x += np.uint64(1)
    x *= _GOLDEN
    x += np.uint64(key)
    return _mix(x)


def uniforms(key: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """A number in [0, 1) with 53 random bits for each position, float64, the shape of `positions`."""
    return (hashes(key, positions) >> np.uint64(11)).astype(np.float64) * _TO_UNIT


# One constant a round, so that a round is not the one before it: SplitMix64 from state 0.
_ROUND_KEYS: Final = [np.uint64(k) for k in hashes(0, np.arange(_NUM_ROUNDS, dtype=np.int64))]


def permute(key: int, n: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The number in 0..n-1 told at each position, int64 [num_positions]; every n positions from a multiple of n on tell each once."""
    assert n >= 1
    epochs = positions // n
    out = (positions - epochs * n).astype(np.uint64)
    if out.size == 0:
        return out.astype(np.int64)
    # Inside one epoch its key is a single number: the same values, computed without an array of equal keys.
    epoch_keys = hashes(key, epochs[:1] if epochs[0] == epochs[-1] else epochs)
    bits = max(2, (n - 1).bit_length())
    _feistel(out, epoch_keys, bits)
    outside = np.flatnonzero(out >= np.uint64(n))
    while outside.size:
        again = out[outside]
        _feistel(again, epoch_keys if epoch_keys.size == 1 else epoch_keys[outside], bits)
        out[outside] = again
        outside = outside[again >= np.uint64(n)]
    return out.astype(np.int64)


def _feistel(x: U64, epoch_keys: U64, bits: int) -> None:
    """One pass of the network over `bits`-bit numbers, in place. Halves may differ by a bit, so no half is swapped: they take turns."""
    low_bits = bits // 2
    high_bits = bits - low_bits
    low = x & np.uint64((1 << low_bits) - 1)
    high = x >> np.uint64(low_bits)
    for index, round_key in enumerate(_ROUND_KEYS):
        if index % 2 == 0:
            high ^= _round(low, round_key, epoch_keys, high_bits)
        else:
            low ^= _round(high, round_key, epoch_keys, low_bits)
    np.left_shift(high, np.uint64(low_bits), out=x)
    x |= low


def _round(half: U64, round_key: np.uint64, epoch_keys: U64, out_bits: int) -> U64:
    """`out_bits` well-mixed bits of (half, round, epoch): two multiplications, the top bits of the second."""
    h = half + round_key
    h ^= epoch_keys
    h *= _MIX_1
    h ^= h >> np.uint64(32)
    h *= _MIX_2
    h >>= np.uint64(64 - out_bits)
    return h
