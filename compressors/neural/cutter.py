"""The loops of equal-info windows by the exact rule "cells" (`divide.py` states it), for windows of up to 46 bits.

Called by `windows.py` (text to codes) and `lockstep.py` (codes to text); `wide.py` has the same functions for 64 and 128 bits.

A window is a node: `low`, its first cell, which is its code, and `cells`. A byte that has a share of the node's cells is consumed; one that
has none, a node of one cell, the depth cap and the end of the document end the window. So the code says where its window ends, and no
length, padding or end symbol is needed. With `exclude` the root after a window that ended for want of a cell has none for the bytes that
had one there (`exclusion.py`). Distributions come from the caller, who knows what the model has seen: with a reset, `cut_some` is
stopped after `num_windows` windows and called again with fresh rows.

The loops never build the 256 shares. Written with avail = (a << 16) + r, the cells before byte s are a * F[s] plus the sum of r * f >> 16
over the bytes before it, where F is the running sum of frequencies: only r and f, of 16 bits, are multiplied 256 times, and `wide.py` has
the same loop for 64 and 128 bits. What is left over, r minus the sum of all r * f >> 16, goes to the quarter-cell step (only if a = 0, else
no share is zero) and to the most probable byte.

Not promised: that a window holds no less than its bits. What is lost over the ideal is measured in README.md.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from compressors.neural.exclusion import count_kept, write_kept
from compressors.neural.jit import compiled
from compressors.neural.models import PRECISION_BITS, TOTAL, Frequencies

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

# In compiled loops both are 64 bits.
Whole: TypeAlias = "int | np.int64"

NARROW_BITS: Final = 46
_LOW_MASK = TOTAL - 1
_QUARTER = TOTAL // 4
CELLS_BEFORE: Final = 3
"""Column of a state that says what is excluded at a root: 0, for nothing, where the model is reset."""


def code_bytes(codes: U64, bits: int) -> U8:
    """uint64 [num_windows] -> uint8 [num_windows, bits / 8], most significant byte first."""
    return codes.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - bits // 8 :]


def code_numbers(code: U8) -> U64:
    """The inverse: uint8 [num_windows, bytes up to 8] -> uint64 [num_windows]."""
    padded = np.zeros((len(code), 8), np.uint8)
    padded[:, 8 - code.shape[1] :] = code
    return padded.view(">u8").reshape(-1).astype(np.uint64)


def start_states(num: int, bits: int) -> I64:
    """Roots: first cell, number of cells, bytes in the window, cells of the node before the root whose bytes are excluded (0 for none).
    int64 [num, 4]."""
    return np.tile(np.array([0, 1 << bits, 0, 0], np.int64), (num, 1))


def room(num: int) -> U64:
    """Room for the codes of `num` windows."""
    return np.empty(num, np.uint64)


@compiled
def share_of(row: U16, byte: Whole, rest: Whole, is_small: bool) -> tuple[Whole, Whole, Whole, Whole]:
    """What byte `byte` and those before it get of `rest` cells, 0 to 65,535, and what multiplies the higher part of the cells:
    (cells before, cells of the byte, frequency before, frequency of the byte). `is_small`: there is no higher part, so the quarter-cell
    step applies."""
    before = np.int64(0)
    frequency_before = np.int64(0)
    all_given = np.int64(0)
    best = np.int64(0)
    for s in range(byte):
        f = np.int64(row[s])
        before += (rest * f) >> PRECISION_BITS
        frequency_before += f
        best = max(best, (f << 8) + (255 - s))
    own_frequency = np.int64(row[byte])
    own = (rest * own_frequency) >> PRECISION_BITS
    for s in range(byte, 256):
        f = np.int64(row[s])
        all_given += (rest * f) >> PRECISION_BITS
        best = max(best, (f << 8) + (255 - s))
    left = rest - before - all_given
    most_probable = 255 - (best & 255)
    if is_small and left > 0:
        # Shares of a quarter cell or more that came to nothing get one cell each, in byte order, as long as there are any.
        least = (_QUARTER + rest - 1) // rest  # rest * f >= a quarter
        most = (TOTAL + rest - 1) // rest  # rest * f < 1
        num_before = np.int64(0)
        num_after = np.int64(0)
        for s in range(byte):
            f = np.int64(row[s])
            num_before += (f >= least) & (f < most)
        for s in range(byte, 256):
            f = np.int64(row[s])
            num_after += (f >= least) & (f < most)
        if own_frequency >= least and own_frequency < most and num_before < left:
            own += 1
        before += min(num_before, left)
        left -= min(num_before + num_after, left)
    if most_probable < byte:
        before += left
    elif most_probable == byte:
        own += left
    return before, own, frequency_before, own_frequency


@compiled
def child(row: U16, byte: Whole, low: Whole, cells: Whole, is_root: bool) -> tuple[Whole, Whole]:
    """First cell and number of cells of the node that `byte` leads to; 0 cells where it cannot follow. At the root bytes of frequency 0 are
    excluded."""
    avail = cells - count_kept(row, 256) if is_root else cells - 1
    high = avail >> PRECISION_BITS
    before, own, frequency_before, frequency = share_of(row, byte, avail & _LOW_MASK, high == 0)
    before += high * frequency_before
    own += high * frequency
    if is_root:
        return before + count_kept(row, byte), own + np.int64(row[byte] > 0)
    return low + 1 + before, own


@compiled
def cut_some(
    rows: Frequencies, data: U8, bits: int, depth: int, exclude: bool, state: I64, num_windows: int, codes: U64, ends: I64
) -> tuple[int, int]:
    """Cut until `num_windows` windows are full or the rows are used up: (windows cut, bytes consumed). The unfinished window stays in
    `state`; byte i of `data` is distributed as `rows[i]`, and ends are counted from its start."""
    low, cells, length, cells_before = state[0], state[1], state[2], state[CELLS_BEFORE]
    whole = np.int64(1) << bits
    kept = np.zeros(256, np.uint16)
    done = 0
    i = 0
    while i < len(rows):
        byte = np.int64(data[i])
        next_low: Whole = np.int64(0)
        next_cells: Whole = np.int64(0)
        can_go_on = cells > 1 and length < depth
        if length == 0 and write_kept(rows[i], cells_before, kept):
            next_low, next_cells = child(kept, byte, low, cells, True)
        elif can_go_on:
            next_low, next_cells = child(rows[i], byte, low, cells, length == 0)
        if next_cells > 0:
            low, cells = np.int64(next_low), np.int64(next_cells)
            length += 1
            i += 1
            continue
        codes[done] = np.uint64(low)
        ends[done] = i
        done += 1
        cells_before = cells if exclude and can_go_on else np.int64(0)
        low, cells, length = np.int64(0), whole, np.int64(0)
        if done == num_windows:
            break
    state[0], state[1], state[2], state[CELLS_BEFORE] = low, cells, length, cells_before
    return done, i


def finish(state: I64, end: int, codes: U64, ends: I64) -> int:
    """The window that the end of the document cuts short, if it has begun: how many windows that is, 0 or 1."""
    if state[2] == 0:
        return 0
    codes[0], ends[0] = np.uint64(state[0]), end
    return 1


@compiled
def settle(codes: U64, bits: int, depth: int, exclude: bool, state: I64, index: int, end: int) -> int:
    """The decoder's side of the same: from window `index` on the first, before `end`, in which something follows; `state` becomes the root
    for each new window. A code inside a node that has no children is that node's."""
    while index < end and state[2] > 0 and (codes[index] == np.uint64(state[0]) or state[1] == 1 or state[2] == depth):
        state[CELLS_BEFORE] = state[1] if exclude and state[1] > 1 and state[2] < depth else 0
        state[0], state[1], state[2] = 0, np.int64(1) << bits, 0
        index += 1
    return index


@compiled
def next_byte(row: U16, codes: U64, index: Whole, bits: int, state: I64) -> int:
    """The byte whose cells hold code `index`, which lies in the node of `state` and is not its own; `state` becomes that byte's node."""
    if state[2] == 0:
        kept = np.empty(256, np.uint16)
        if write_kept(row, state[CELLS_BEFORE], kept):
            return _next_byte(kept, np.int64(codes[index]), state)
    return _next_byte(row, np.int64(codes[index]), state)


@compiled
def _next_byte(row: U16, code: Whole, state: I64) -> int:
    is_root = state[2] == 0
    avail = state[1] - count_kept(row, 256) if is_root else state[1] - 1
    first = np.int64(0) if is_root else state[0] + 1
    left = avail
    best = 0
    for s in range(256):
        left -= (avail >> PRECISION_BITS) * np.int64(row[s]) + (((avail & _LOW_MASK) * np.int64(row[s])) >> PRECISION_BITS)
        if row[s] > row[best]:
            best = s
    num_quarters = left if avail < TOTAL else np.int64(0)
    if num_quarters > 0:
        num_eligible = np.int64(0)
        for s in range(256):
            x = avail * np.int64(row[s])
            num_eligible += (x >= _QUARTER) & (x < TOTAL)
        num_quarters = min(num_quarters, num_eligible)
        left -= num_quarters
    for s in range(256):
        least = np.int64(is_root and row[s] > 0)
        size = least + (avail >> PRECISION_BITS) * np.int64(row[s]) + (((avail & _LOW_MASK) * np.int64(row[s])) >> PRECISION_BITS)
        if num_quarters > 0 and size == least and avail * np.int64(row[s]) >= _QUARTER:
            size += 1
            num_quarters -= 1
        if s == best:
            size += left
        if code < first + size:
            state[0], state[1] = first, size
            state[2] += 1
            return s
        first += size
    return -1  # not reached: the children's cells are all but the node's own
