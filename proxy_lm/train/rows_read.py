"""A digest of the rows that a step really read, the same for any number of ranks: a sum over rows, so that neither order nor owner counts.

`batch_digest` says what the plan holds for a step; this says what the ranks were given, ids and all: two runs whose lines agree in it have
trained on the same rows. Not promised: safety from someone who looks for other rows with the same sum.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from proxy_lm.data.rows import Batch

# Parts of 32 bits: sums of up to 2^21 rows are whole numbers in the float64 of the step's one collective.
NUM_PARTS: Final = 4


def marks(batch: Batch) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Sum over the rows of a micro-batch of the parts of each row's digest: float64 [NUM_PARTS], whole numbers."""
    total = np.zeros(NUM_PARTS)
    for columns in zip(batch.ids, batch.segments, batch.positions, batch.views, strict=True):
        digest = hashlib.blake2b(digest_size=4 * NUM_PARTS)
        for column in columns:
            digest.update(np.ascontiguousarray(column).data)
        total += np.frombuffer(digest.digest(), dtype="<u4")
    return total


def rows_digest(sums: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """Hexadecimal digest from the sums over all ranks."""
    return "".join(f"{int(part) % 2**32:08x}" for part in sums)
