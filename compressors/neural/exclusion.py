"""Exclusion: what the end of a window says about the byte that follows it. Called by the loops of `cutter.py` and `wide.py`.

A window that ends for want of a cell says that the next byte is none of those that had cells at its last node. Where the model is not
reset at that border, the next root has the same distribution f, so those bytes need no cell there, and the others share all of it:

1. kept: the bytes without a cell at the last node, k of them, T the sum of their frequencies. With k < 2 nothing is excluded.
2. scale = (65536 - k) * 2^16 // T;  g[s] = 1 + (f[s] * scale >> 16) for kept bytes, 0 for the others
3. what is left of 65,536 goes to g of the most frequent kept byte, the lowest on ties
4. the root divides by g in place of f, as `divide.py` states it, with least = 1 for kept bytes only and avail = 2^bits - k

A decoder knows the last node and its distribution, so it does the same. A window that ends otherwise (a node of one cell, the depth cap)
excludes nothing.

Not promised: that a window's code still says its text by itself where the model forgets. It depends on the window before as well.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compressors.neural.divide import divide_row
from compressors.neural.jit import compiled
from compressors.neural.models import PRECISION_BITS, TOTAL

U16 = npt.NDArray[np.uint16]


@compiled
def write_kept(row: U16, num_cells: int, out: U16) -> bool:
    """Write to `out` the frequencies g of the root after a window whose last node, distributed as `row`, had `num_cells` cells. False where
    nothing is excluded: that of 0 cells is a window that ended otherwise, and a node of more than 65,536 has a cell for every byte."""
    if num_cells < 1 or num_cells > TOTAL:
        return False
    shares = np.empty(256, np.int64)
    divide_row(num_cells, row, False, shares)
    num_kept = np.int64(0)
    sum_kept = np.int64(0)
    for byte in range(256):
        is_kept = np.int64(shares[byte] == 0)
        num_kept += is_kept
        sum_kept += is_kept * np.int64(row[byte])
    if num_kept < 2:
        return False
    scale = ((TOTAL - num_kept) << PRECISION_BITS) // sum_kept
    left = np.int64(TOTAL)
    best = np.int64(0)
    for byte in range(256):
        is_kept = np.int64(shares[byte] == 0)
        frequency = np.int64(row[byte])
        given = is_kept * (1 + ((frequency * scale) >> PRECISION_BITS))
        out[byte] = given
        left -= given
        best = max(best, is_kept * ((frequency << 8) + (255 - byte)))
    out[255 - (best & 255)] += left
    return True


@compiled
def count_kept(row: U16, end: int | np.int64) -> np.int64:
    """How many of the first `end` bytes are not excluded."""
    num = np.int64(0)
    for byte in range(end):
        num += np.int64(row[byte] > 0)
    return num
