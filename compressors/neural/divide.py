"""The rule "cells": how a window's code cells are divided among the bytes that may come next. Exact, in integers.

    children(num_cells, frequencies, is_root)     # one node: int64 [256]
    divide_rows(num_cells, frequencies, is_root)  # N nodes: int64 [N, 256]

A window of b bits starts at the root with 2^b cells. A node keeps one cell for itself, which says "the window ends here" (the root keeps
none but gives each byte at least one), and divides the others among its children by the model's frequencies:

1. own = 0 at the root, else 1; least = 1 at the root, else 0; avail = cells - own - 256 * least
2. x[s] = avail * f[s];  v[s] = x[s] >> 16;  left = avail - sum(v)
3. in byte order, while left > 0: where v[s] = 0 and x[s] >= 2^16 / 4, v[s] = 1 and left -= 1        (the quarter-cell step)
4. v[argmax f] += left, the lowest byte on ties;  v[s] += least
5. child s has the cells from low + own + v[0] + ... + v[s - 1] on, v[s] of them

A byte without a cell cannot follow in this window. A node's code is its first cell, which no child has: nodes and codes are one to one, so
every string of the table, an early stop and the end of a document are decodable without a length or an end symbol. A quarter of a cell was
the best threshold, or within 0.03 % of it, in a scan from 0.2 to 0.61.

Valid for up to 2^46 cells; wider windows need the same steps on wider integers.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled
from compressors.neural.models import PRECISION_BITS, TOTAL, Frequencies

MAX_CELL_BITS: Final = 46
MIN_BITS: Final = 9
"""With 8 bits the 256 cells of the root are the 256 bytes; fewer cannot start."""

Cells = npt.NDArray[np.int64]


def children(num_cells: int, frequencies: npt.NDArray[np.uint16], is_root: bool) -> Cells:
    """Cells of the 256 children of a node of `num_cells`, 1 to 2^46 (the root: 256 or more): int64 [256], summing to what the node gives
    away. All zero for a node of one cell, which has no children."""
    assert (256 if is_root else 1) <= num_cells <= 1 << MAX_CELL_BITS
    out = np.empty(256, dtype=np.int64)
    divide_row(num_cells, frequencies, is_root, out)
    return out


def divide_rows(num_cells: Cells, frequencies: Frequencies, is_root: bool) -> Cells:
    """`children` of N nodes: int64 [N] and uint16 [N, 256] -> int64 [N, 256]."""
    out = np.empty(frequencies.shape, dtype=np.int64)
    _divide_rows(num_cells, frequencies, is_root, out)
    return out


@compiled
def _divide_rows(num_cells: Cells, frequencies: Frequencies, is_root: bool, out: Cells) -> None:
    for row in range(len(num_cells)):
        divide_row(num_cells[row], frequencies[row], is_root, out[row])


@compiled
def divide_row(num_cells: int, frequencies: npt.NDArray[np.uint16], is_root: bool, out: Cells) -> None:
    """`children` into `out`, for compiled callers; the limits are theirs to keep."""
    least = 1 if is_root else 0
    avail = np.int64(num_cells) - (0 if is_root else 1) - 256 * least
    left = avail
    best = 0
    for byte in range(256):
        share = (avail * np.int64(frequencies[byte])) >> PRECISION_BITS
        out[byte] = share + least
        left -= share
        if frequencies[byte] > frequencies[best]:
            best = byte
    if left > 0:
        for byte in range(256):
            if out[byte] == least and avail * np.int64(frequencies[byte]) >= TOTAL // 4:
                out[byte] += 1
                left -= 1
                if left == 0:
                    break
        out[best] += left
