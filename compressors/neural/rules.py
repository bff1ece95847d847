"""The rules by which a window ends, as steps from one node of the table to its children.

`cells` divides whole cells (`divide.py`) and is exact. The other rules take the plain intervals of arithmetic coding and are here to be
compared with it:

* `paper`: a byte is added while some whole cell lies in the interval; the code is the start of the largest such dyadic interval, the
  leftmost one (the shortest code, padded with zeros). Different strings share codes, so it is not exact. arXiv 2404.03626, section 3.2.
* `delay`: the same, but the window holds only the fewest bytes that give its code, so it is exact. The paper's ablation of that name.
* `canonical`: a cell stands for the longest string whose interval contains it; the window is the longest string that owns a cell.
* `top`: no cells at all: the most probable strings, numbered in lexicographic order.

A state is two int64, a start and a size. Under `cells` the first cell and the number of cells; under `paper`, `delay` and `canonical` the
start and the width of the interval in units of 2^-46; under `top` 0 and the probability of the string in units of 2^-46. Everything is
rounded down in integers.

Not promised: that `paper` emits the bits of any published program; the publication leaves the rounding of its coder open.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from compressors.neural.divide import Cells, divide_row
from compressors.neural.jit import compiled
from compressors.neural.models import PRECISION_BITS, Frequencies

RULES: Final = ("cells", "top", "paper", "delay", "canonical")
ENCLOSING: Final = ("paper", "delay", "canonical")
"""Rules over intervals: the table's nodes are the strings whose interval holds a whole cell."""
UNIT_BITS: Final = 46
"""The root's interval has 2^46 units, so that a product with a frequency stays below 2^63."""

# Each writes the children of N nodes and returns how many there are: out_rows int64 (index of the parent in this call), out_labels uint8,
# out_first and out_second int64 (the states), each with room for 256 N. Parents in order, bytes in order.
Labels: TypeAlias = npt.NDArray[np.uint8]


@compiled
def split_cells(
    first: Cells,
    second: Cells,
    rows: Frequencies,
    is_root: bool,
    least: int,
    out_rows: Cells,
    out_labels: Labels,
    out_first: Cells,
    out_second: Cells,
) -> int:
    """Children under `cells`: those with at least one cell. `least` is not used."""
    count = 0
    shares = np.empty(256, dtype=np.int64)
    for row in range(len(first)):
        divide_row(second[row], rows[row], is_root, shares)
        low = first[row] + (0 if is_root else 1)
        for byte in range(256):
            if shares[byte] > 0:
                out_rows[count] = row
                out_labels[count] = byte
                out_first[count] = low
                out_second[count] = shares[byte]
                low += shares[byte]
                count += 1
    return count


@compiled
def split_intervals(
    first: Cells,
    second: Cells,
    rows: Frequencies,
    is_root: bool,
    least: int,
    out_rows: Cells,
    out_labels: Labels,
    out_first: Cells,
    out_second: Cells,
) -> int:
    """Children under `paper`, `delay` and `canonical`: those whose interval holds a whole cell of `least` units (a power of two)."""
    count = 0
    for row in range(len(first)):
        below = np.int64(0)
        for byte in range(256):
            start = first[row] + ((second[row] * below) >> PRECISION_BITS)
            below += np.int64(rows[row, byte])
            end = first[row] + ((second[row] * below) >> PRECISION_BITS)
            if ((start + least - 1) & -least) + least <= end:
                out_rows[count] = row
                out_labels[count] = byte
                out_first[count] = start
                out_second[count] = end - start
                count += 1
    return count


@compiled
def split_probabilities(
    first: Cells,
    second: Cells,
    rows: Frequencies,
    is_root: bool,
    least: int,
    out_rows: Cells,
    out_labels: Labels,
    out_first: Cells,
    out_second: Cells,
) -> int:
    """Children under `top`: those of a probability of `least` units or more, and all bytes at the root."""
    count = 0
    for row in range(len(first)):
        for byte in range(256):
            units = (second[row] * np.int64(rows[row, byte])) >> PRECISION_BITS
            if units >= least or is_root:
                out_rows[count] = row
                out_labels[count] = byte
                out_first[count] = 0
                out_second[count] = units
                count += 1
    return count


@compiled
def first_code(start: int, width: int, unit: int) -> int:
    """The start of the largest dyadic interval inside [start, start + width), the leftmost of that size, in cells of `unit` units (a power
    of two). At least one whole cell must lie inside."""
    end = start + width
    size = unit
    while ((start + 2 * size - 1) & -(2 * size)) + 2 * size <= end:
        size *= 2
    return ((start + size - 1) & -size) // unit


@compiled
def first_codes(starts: Cells, widths: Cells, unit: int, out: Cells) -> None:
    """`first_code` of every node."""
    for node in range(len(starts)):
        out[node] = first_code(starts[node], widths[node], unit)
