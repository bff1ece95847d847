"""The rule "cells" for windows of 64 and 128 bits: the loops of `cutter.py` on numbers of two 64-bit halves.

A state is uint64 [6]: first cell (high, low half), number of cells (high, low half), bytes in the window, cells of the node before the root
whose bytes are excluded. The root's 2^bits cells have no place in it and need none: what a root divides is 2^bits less one for each byte.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from compressors.neural.cutter import I64, U8, U16, U64, Whole, share_of
from compressors.neural.exclusion import count_kept, write_kept
from compressors.neural.jit import compiled
from compressors.neural.models import PRECISION_BITS, TOTAL, Frequencies

MAX_BITS: Final = 128
CELLS_BEFORE: Final = 5

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_SHIFT = np.uint64(PRECISION_BITS)
_REST = np.uint64(64 - PRECISION_BITS)
_LOW_MASK = np.uint64(TOTAL - 1)
_HALF = np.uint64(32)
_HALF_MASK = np.uint64(0xFFFFFFFF)
_ALL = np.uint64((1 << 64) - 1)


def code_bytes(codes: U64, bits: int) -> U8:
    """uint64 [num_windows, 2] -> uint8 [num_windows, bits / 8], most significant byte first."""
    return np.ascontiguousarray(codes).astype(">u8").view(np.uint8).reshape(-1, 16)[:, 16 - bits // 8 :]


def code_numbers(code: U8) -> U64:
    """The inverse: uint8 [num_windows, bytes up to 16] -> uint64 [num_windows, 2]."""
    padded = np.zeros((len(code), 16), np.uint8)
    padded[:, 16 - code.shape[1] :] = code
    return padded.view(">u8").reshape(-1, 2).astype(np.uint64)


def start_states(num: int, bits: int) -> U64:
    """Roots, uint64 [num, 6]; all zero, whatever the bits."""
    assert bits in (64, MAX_BITS)
    return np.zeros((num, 6), np.uint64)


def room(num: int) -> U64:
    """Room for the codes of `num` windows."""
    return np.empty((num, 2), np.uint64)


@compiled
def _plus(a_high: np.uint64, a_low: np.uint64, b_high: np.uint64, b_low: np.uint64) -> tuple[np.uint64, np.uint64]:
    low = a_low + b_low
    return a_high + b_high + (_ONE if low < a_low else _ZERO), low


@compiled
def _times(high: np.uint64, low: np.uint64, factor: np.uint64) -> tuple[np.uint64, np.uint64]:
    """(high, low) * factor, at most 16 bits and known to fit."""
    first = (low & _HALF_MASK) * factor
    second = (low >> _HALF) * factor + (first >> _HALF)
    return high * factor + (second >> _HALF), (second << _HALF) | (first & _HALF_MASK)


@compiled
def _is_less(a_high: np.uint64, a_low: np.uint64, b_high: np.uint64, b_low: np.uint64) -> bool:
    return bool(a_high < b_high or (a_high == b_high and a_low < b_low))


@compiled
def _available(row: U16, bits: int, state: U64) -> tuple[np.uint64, np.uint64]:
    """The cells that a node divides among its children."""
    if state[4] == _ZERO:
        return (_ALL if bits == 128 else _ZERO), _ALL - np.uint64(count_kept(row, 256) - 1)
    return state[2] - (_ONE if state[3] == _ZERO else _ZERO), state[3] - _ONE


@compiled
def _enter(row: U16, byte: Whole, bits: int, state: U64) -> bool:
    """Make `state` the node that `byte` leads to; False, and nothing changed, where it has no cell."""
    is_root = state[4] == _ZERO
    avail_high, avail_low = _available(row, bits, state)
    high, low = avail_high >> _SHIFT, (avail_low >> _SHIFT) | (avail_high << _REST)
    is_small = high == _ZERO and low == _ZERO
    before, own, frequency_before, frequency = share_of(row, byte, np.int64(avail_low & _LOW_MASK), is_small)
    own_high, own_low = _times(high, low, np.uint64(frequency))
    own_high, own_low = _plus(own_high, own_low, _ZERO, np.uint64(own + np.int64(is_root and row[byte] > 0)))
    if own_high == _ZERO and own_low == _ZERO:
        return False
    first_high, first_low = _times(high, low, np.uint64(frequency_before))
    first_high, first_low = _plus(first_high, first_low, _ZERO, np.uint64(before + (count_kept(row, byte) if is_root else 1)))
    state[0], state[1] = _plus(state[0], state[1], first_high, first_low)
    state[2], state[3] = own_high, own_low
    state[4] += _ONE
    return True


@compiled
def _is_last(state: U64, depth: int) -> bool:
    """No byte can follow: one cell, or the depth cap."""
    return bool(state[4] > _ZERO and ((state[2] == _ZERO and state[3] == _ONE) or state[4] == np.uint64(depth)))


@compiled
def _cells_before(exclude: bool, depth: int, state: U64) -> np.uint64:
    """Cells of a last node whose bytes are excluded at the next root; 0 for none, as where there are enough for every byte."""
    is_small = state[2] == _ZERO and state[3] <= np.uint64(TOTAL)
    return state[3] if exclude and is_small and not _is_last(state, depth) else _ZERO


@compiled
def cut_some(
    rows: Frequencies, data: U8, bits: int, depth: int, exclude: bool, state: U64, num_windows: int, codes: U64, ends: I64
) -> tuple[int, int]:
    """As `cutter.cut_some`; `codes` is uint64 [n, 2]."""
    kept = np.zeros(256, np.uint16)
    done = 0
    i = 0
    while i < len(rows):
        byte = np.int64(data[i])
        if state[4] == _ZERO and write_kept(rows[i], int(state[CELLS_BEFORE]), kept):
            has_cell = _enter(kept, byte, bits, state)
        else:
            has_cell = not _is_last(state, depth) and _enter(rows[i], byte, bits, state)
        if has_cell:
            i += 1
            continue
        codes[done, 0], codes[done, 1] = state[0], state[1]
        ends[done] = i
        done += 1
        _start(_cells_before(exclude, depth, state), state)
        if done == num_windows:
            break
    return done, i


@compiled
def _start(cells_before: np.uint64, state: U64) -> None:
    """Make `state` the next root."""
    state[:] = _ZERO
    state[CELLS_BEFORE] = cells_before


def finish(state: U64, end: int, codes: U64, ends: I64) -> int:
    """As `cutter.finish`."""
    if state[4] == 0:
        return 0
    codes[0], ends[0] = state[:2], end
    return 1


@compiled
def settle(codes: U64, bits: int, depth: int, exclude: bool, state: U64, index: int, end: int) -> int:
    """As `cutter.settle`."""
    while index < end and state[4] > _ZERO:
        if not ((codes[index, 0] == state[0] and codes[index, 1] == state[1]) or _is_last(state, depth)):
            break
        _start(_cells_before(exclude, depth, state), state)
        index += 1
    return index


@compiled
def next_byte(row: U16, codes: U64, index: Whole, bits: int, state: U64) -> int:
    """As `cutter.next_byte`."""
    if state[4] == _ZERO:
        kept = np.empty(256, np.uint16)
        if write_kept(row, int(state[CELLS_BEFORE]), kept):
            return _next_byte(kept, codes[index], bits, state)
    return _next_byte(row, codes[index], bits, state)


@compiled
def _next_byte(row: U16, code: U64, bits: int, state: U64) -> int:
    """Bisects the bytes for the last whose cells begin at the code or before. Cells are counted from the node's first, for the end of the
    last byte's may be 2^128."""
    is_root = state[4] == _ZERO
    avail_high, avail_low = _available(row, bits, state)
    high, low = avail_high >> _SHIFT, (avail_low >> _SHIFT) | (avail_high << _REST)
    is_small = high == _ZERO and low == _ZERO
    rest = np.int64(avail_low & _LOW_MASK)
    code_low = code[1] - state[1]
    code_high = code[0] - state[0] - (_ONE if code[1] < state[1] else _ZERO)
    least, most = 0, 255
    while row[most] == 0:  # excluded; they would begin where the root ends
        most -= 1
    while least < most:
        middle = (least + most + 1) >> 1
        before, _, frequency_before, _ = share_of(row, middle, rest, is_small)
        first_high, first_low = _times(high, low, np.uint64(frequency_before))
        first_high, first_low = _plus(first_high, first_low, _ZERO, np.uint64(before + (count_kept(row, middle) if is_root else 1)))
        if _is_less(code_high, code_low, first_high, first_low):
            most = middle - 1
        else:
            least = middle
    # Bytes without a cell begin where the next one does; the bisection takes the last of them, which is the one that has cells.
    _enter(row, least, bits, state)
    return least
