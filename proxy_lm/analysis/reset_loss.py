"""What a byte model pays for each byte after a reset: bits per byte at positions 0 to 63 of stretches drawn from the sample.

    proxy-lm compressor analyse gzip --model views/neural/model --corpus corpus --out out

A window code starts anew every few bytes, so the first positions are what it lives in: half of a window's bits go to its first bytes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from compressors.neural.models import TOTAL, ByteModel
from proxy_lm.analysis.told import JSON, Advance, Sample

NUM_POSITIONS: Final = 64
NUM_STRETCHES: Final = 8192
_BATCH: Final = 256


def reset_loss(
    model: ByteModel, sample: Sample, *, num_stretches: int = NUM_STRETCHES, seed: int = 0, advance: Advance = lambda num_bytes: None
) -> JSON:
    """Mean bits of byte t of a stretch given its t bytes before, t from 0 to 63, over stretches at places drawn evenly from the bytes."""
    stretches = draw_stretches(sample, num_stretches, seed)
    if not stretches:
        return {"num_stretches": 0, "reason": f"no document of the sample has {NUM_POSITIONS} bytes"}
    total = np.zeros(NUM_POSITIONS)
    for first in range(0, len(stretches), _BATCH):
        some = stretches[first : first + _BATCH]
        for stretch, rows in zip(some, model.rows(some), strict=True):
            coded = rows[np.arange(NUM_POSITIONS), np.frombuffer(stretch, np.uint8)]
            total -= np.log2(coded / TOTAL)
        advance(len(some) * NUM_POSITIONS)
    loss = total / len(stretches)
    return {"num_stretches": len(stretches), "bits_per_byte": loss.tolist(), "mean_bits_per_byte": float(loss.mean())}


def draw_stretches(sample: Sample, num_stretches: int, seed: int) -> list[bytes]:
    """Stretches of 64 bytes inside documents, each place equally likely."""
    documents = [document for document in sample.documents if len(document) >= NUM_POSITIONS]
    if not documents:
        return []
    ends = np.cumsum([len(document) - NUM_POSITIONS + 1 for document in documents])
    places = np.random.Generator(np.random.Philox(key=seed)).integers(0, int(ends[-1]), num_stretches)
    found = []
    for place in places.tolist():
        index = int(np.searchsorted(ends, place, side="right"))
        start = place - (int(ends[index - 1]) if index else 0)
        found.append(documents[index][start : start + NUM_POSITIONS])
    return found
