"""How far a view's symbols are from evenly spread: what a coder has left over for a model to learn by counting alone.

The symbols of all documents are written as bits, ceil(log2(alphabet)) a symbol, highest first, and cut into pieces of n bits for n from 1
to 16; the divergence of the pieces' distribution from the uniform one is n minus its entropy, in bits (arXiv 2404.03626, section 5.5 and
figure 8). The plug-in entropy of a sample is too low, so the correction of Miller and Madow is added: (values seen - 1) / (2 * pieces)
nats. What even bits give at the same size, drawn by a fixed key, stands beside it: a difference below that is noise.

Not promised: a fair picture of an alphabet that is no power of two, whose highest bit cannot be even; the divergence of whole symbols,
`symbol_divergence_bits`, has no such trouble.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from proxy_lm.analysis.told import JSON, Told

MAX_PIECE_BITS: Final = 16
_RANDOM_KEY: Final = 2404_03626


def uniformity(told: Told) -> JSON:
    """Divergence from uniform by piece size, of the symbols and of even bits, and of whole symbols."""
    flat = told.flat
    size = told.compressor.alphabet_size
    bits = symbol_bits(flat, max(1, (size - 1).bit_length()))
    draw = np.random.Generator(np.random.Philox(key=_RANDOM_KEY))
    even = draw.integers(0, 2, len(bits), dtype=np.uint8)
    counts = np.bincount(flat, minlength=1)
    return {
        "piece_bits": list(range(1, MAX_PIECE_BITS + 1)),
        "divergence_bits": [piece_divergence(bits, n) for n in range(1, MAX_PIECE_BITS + 1)],
        "even_bits_divergence_bits": [piece_divergence(even, n) for n in range(1, MAX_PIECE_BITS + 1)],
        "num_bits": len(bits),
        "bits_per_symbol": max(1, (size - 1).bit_length()),
        "symbol_entropy_bits": corrected_entropy_bits(counts),
        "symbol_divergence_bits": math.log2(max(2, size)) - corrected_entropy_bits(counts),
        "num_symbols_used": int(np.count_nonzero(counts)),
        "alphabet_size": size,
    }


def symbol_bits(symbols: npt.NDArray[np.uint32], width: int) -> npt.NDArray[np.uint8]:
    """uint32 [N] as uint8 [N * width] of 0 and 1, highest bit of each symbol first."""
    shifts = np.arange(width - 1, -1, -1, dtype=np.uint32)
    return ((symbols[:, None] >> shifts) & np.uint32(1)).astype(np.uint8).reshape(-1)


def piece_divergence(bits: npt.NDArray[np.uint8], piece_bits: int) -> float | None:
    """Divergence from uniform, in bits, of the non-overlapping pieces of `piece_bits` bits; None where there is not one whole piece."""
    num_pieces = len(bits) // piece_bits
    if not num_pieces:
        return None
    pieces = bits[: num_pieces * piece_bits].reshape(num_pieces, piece_bits)
    values = np.zeros(num_pieces, dtype=np.int64)
    for column in range(piece_bits):
        values = (values << 1) | pieces[:, column]
    return piece_bits - corrected_entropy_bits(np.bincount(values, minlength=1))


def corrected_entropy_bits(counts: npt.NDArray[np.int64]) -> float:
    """Entropy in bits of what was counted, with the correction of Miller and Madow; 0 for no counts."""
    seen = counts[counts > 0].astype(np.float64)
    total = seen.sum()
    if not total:
        return 0.0
    shares = seen / total
    return float(-(shares * np.log2(shares)).sum() + (len(seen) - 1) / (2 * total) / math.log(2))
