"""How uncertain a byte model is at each byte of a text, in whole numbers, and the borders that follow from it.

    entropies = entropies_of(model, documents, chunk_bytes=2048)         # one uint32 [num_bytes] each, in 1/65536 bit
    thresholds = learn_thresholds(entropies, chunk_bytes=2048, global_quantile=0.9, monotonic_quantile=0.9)
    is_hard(entropies[0], thresholds, chunk_bytes=2048)                  # bool [num_bytes]

The entropy at a byte is that of the model's prediction for it, before it is seen. A byte is hard by the two rules of the Byte Latent
Transformer (arXiv 2412.09871, section 2.3): the entropy is above a global threshold, or it rises over that of the byte before by more than
the monotonic threshold. The text is read in chunks, at whose start the model is reset. From integer frequencies everything here is
integer arithmetic: with an integer model the borders are the same everywhere.

Not promised: that borders at chunk starts are good ones. A model that has seen nothing is uncertain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled
from compressors.neural.models import PRECISION_BITS, TOTAL, ByteModel, Frequencies

Entropies = npt.NDArray[np.uint32]
U32 = npt.NDArray[np.uint32]

ENTROPY_UNIT: Final = 1 << 16
"""One bit of entropy."""
MAX_ENTROPY: Final = 8 * ENTROPY_UNIT
_BATCH_BYTES: Final = 1 << 16  # 32 MB of rows


@dataclass(frozen=True)
class Thresholds:
    """In 1/65536 bit."""

    above: int
    """A byte with more entropy than this is hard."""
    rise: int
    """So is one whose entropy is that of the byte before and more than this."""


@cache
def log2_table() -> U32:
    """log2(65536 / f) for f = 0 .. 65536 in 1/65536 bit, rounded down from a logarithm cut after 2^-24; 0 for f = 0. By squaring, in
    integers: a bit of the fraction of log2 x is 1 where x^2 has grown to 2 or more."""
    frequencies = np.arange(1, TOTAL + 1, dtype=np.uint64)
    whole = np.zeros(TOTAL, np.uint64)
    for step in range(1, PRECISION_BITS + 1):
        whole += frequencies >= 1 << step
    mantissas = frequencies << (31 - whole)  # 1 to 2, in 2^-31
    logarithms = whole
    for _ in range(24):
        squares = (mantissas * mantissas) >> np.uint64(31)
        carries = squares >> np.uint64(32)
        mantissas = squares >> carries
        logarithms = (logarithms << np.uint64(1)) | carries
    table = np.zeros(TOTAL + 1, np.uint32)
    table[1:] = ((PRECISION_BITS << 24) - logarithms.astype(np.int64)) >> 8
    return table


@cache
def _terms() -> U32:
    """f * log2(65536 / f), at most 2^31.1."""
    return (np.arange(TOTAL + 1, dtype=np.int64) * log2_table()).astype(np.uint32)


@compiled
def _add_up(rows: Frequencies, terms: U32, out: Entropies) -> None:
    for i in range(len(rows)):
        bits = np.int64(0)
        for byte in range(256):
            bits += np.int64(terms[rows[i, byte]])
        out[i] = bits >> PRECISION_BITS


def row_entropies(rows: Frequencies) -> Entropies:
    """Entropy of each row: uint16 [N, 256] -> uint32 [N], the sum of f * log2(65536 / f) over 65536, rounded down."""
    out = np.empty(len(rows), np.uint32)
    _add_up(np.ascontiguousarray(rows), _terms(), out)
    return out


def entropies_of(model: ByteModel, documents: Sequence[bytes], *, chunk_bytes: int) -> list[Entropies]:
    """The entropy at every byte of each document, uint32 [num_bytes].

    A model that is not `integer` is asked for one document at a time: what else is in a batch can change its last digits.
    """
    if not model.integer and len(documents) > 1:
        return [entropies_of(model, [document], chunk_bytes=chunk_bytes)[0] for document in documents]
    chunks = [document[at : at + chunk_bytes] for document in documents for at in range(0, len(document), chunk_bytes)]
    told = [row_entropies(rows) for some in _batches(chunks) for rows in model.rows(some)]
    flat = np.concatenate([np.zeros(0, np.uint32), *told])
    ends = np.cumsum([len(document) for document in documents])[:-1]
    return list(np.split(flat, ends)) if documents else []


def _batches(chunks: list[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for chunk in chunks:
        if batch and size + len(chunk) > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(chunk)
        size += len(chunk)
    if batch:
        yield batch


def learn_thresholds(entropies: Sequence[Entropies], *, chunk_bytes: int, global_quantile: float, monotonic_quantile: float) -> Thresholds:
    """The quantiles of the entropies and of their rises inside chunks: of n sorted values the one at place floor(quantile * n), so that
    about 1 - quantile of them are above it; 0 of none."""
    rises = [_rises(some, chunk_bytes)[np.arange(some.size) % chunk_bytes != 0] for some in entropies]
    return Thresholds(
        above=_quantile(np.concatenate([np.zeros(0, np.int64), *entropies]), global_quantile),
        rise=_quantile(np.concatenate([np.zeros(0, np.int64), *rises]), monotonic_quantile),
    )


def is_hard(entropies: Entropies, thresholds: Thresholds, *, chunk_bytes: int) -> npt.NDArray[np.bool_]:
    """Which bytes of a document are hard. The first of a chunk has none before it and rises by nothing."""
    hard: npt.NDArray[np.bool_] = (entropies > thresholds.above) | (_rises(entropies, chunk_bytes) > thresholds.rise)
    return hard


def _rises(entropies: Entropies, chunk_bytes: int) -> npt.NDArray[np.int64]:
    wide = entropies.astype(np.int64)
    rises = np.zeros_like(wide)
    rises[1:] = wide[1:] - wide[:-1]
    rises[::chunk_bytes] = 0
    return rises


def _quantile(values: npt.NDArray[np.int64], quantile: float) -> int:
    place = min(int(quantile * values.size), values.size - 1)
    return int(np.partition(values, place)[place]) if values.size else 0
