"""The rule "cells" for windows of 64 and 128 bits: the loops of `cutter.py` on numbers of two 64-bit halves.

A state is uint64 [5]: first cell (high, low half), number of cells (high, low half), bytes in the window. The root's 2^bits cells have no
place in it and need none: what a root divides is 2^bits - 256.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from compressors.neural.cutter import I64, U8, U16, U64, Whole, share_of
from compressors.neural.jit import compiled
from compressors.neural.models import PRECISION_BITS, TOTAL, Frequencies

MAX_BITS: Final = 128

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_SHIFT = np.uint64(PRECISION_BITS)
_REST = np.uint64(64 - PRECISION_BITS)
_LOW_MASK = np.uint64(TOTAL - 1)
_HALF = np.uint64(32)
_HALF_MASK = np.uint64(0xFFFFFFFF)
_ALL = np.uint64((1 << 64) - 1)
_ROOT_LOW = np.uint64((1 << 64) - 256)


def code_bytes(codes: U64, bits: int) -> U8:
    """uint64 [num_windows, 2] -> uint8 [num_windows, bits / 8], most significant byte first."""
    return np.ascontiguousarray(codes).astype(">u8").view(np.uint8).reshape(-1, 16)[:, 16 - bits // 8 :]


def code_numbers(code: U8) -> U64:
    """The inverse: uint8 [num_windows, bytes up to 16] -> uint64 [num_windows, 2]."""
    padded = np.zeros((len(code), 16), np.uint8)
    padded[:, 16 - code.shape[1] :] = code
    return padded.view(">u8").reshape(-1, 2).astype(np.uint64)


def start_states(num: int, bits: int) -> U64:
    """Roots, uint64 [num, 5]; all zero, whatever the bits."""
    assert bits in (64, MAX_BITS)
    return np.zeros((num, 5), np.uint64)


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
def _available(state: U64, bits: int) -> tuple[np.uint64, np.uint64]:
    """The cells that a node divides among its children."""
    if state[4] == _ZERO:
        return (_ALL if bits == 128 else _ZERO), _ROOT_LOW
    return state[2] - (_ONE if state[3] == _ZERO else _ZERO), state[3] - _ONE


@compiled
def _enter(row: U16, byte: Whole, bits: int, state: U64) -> bool:
    """Make `state` the node that `byte` leads to; False, and nothing changed, where it has no cell."""
    is_root = state[4] == _ZERO
    avail_high, avail_low = _available(state, bits)
    high, low = avail_high >> _SHIFT, (avail_low >> _SHIFT) | (avail_high << _REST)
    is_small = high == _ZERO and low == _ZERO
    before, own, frequency_before, frequency = share_of(row, byte, np.int64(avail_low & _LOW_MASK), is_small)
    own_high, own_low = _times(high, low, np.uint64(frequency))
    own_high, own_low = _plus(own_high, own_low, _ZERO, np.uint64(own + (1 if is_root else 0)))
    if own_high == _ZERO and own_low == _ZERO:
        return False
    first_high, first_low = _times(high, low, np.uint64(frequency_before))
    first_high, first_low = _plus(first_high, first_low, _ZERO, np.uint64(before + (byte if is_root else 1)))
    state[0], state[1] = _plus(state[0], state[1], first_high, first_low)
    state[2], state[3] = own_high, own_low
    state[4] += _ONE
    return True


@compiled
def _is_last(state: U64, depth: int) -> bool:
    """No byte can follow: one cell, or the depth cap."""
    return bool(state[4] > _ZERO and ((state[2] == _ZERO and state[3] == _ONE) or state[4] == np.uint64(depth)))


@compiled
def cut_some(rows: Frequencies, data: U8, bits: int, depth: int, state: U64, num_windows: int, codes: U64, ends: I64) -> tuple[int, int]:
    """As `cutter.cut_some`; `codes` is uint64 [n, 2]."""
    done = 0
    i = 0
    while i < len(rows):
        if not _is_last(state, depth) and _enter(rows[i], np.int64(data[i]), bits, state):
            i += 1
            continue
        codes[done, 0], codes[done, 1] = state[0], state[1]
        ends[done] = i
        done += 1
        state[:] = _ZERO
        if done == num_windows:
            break
    return done, i


def finish(state: U64, end: int, codes: U64, ends: I64) -> int:
    """As `cutter.finish`."""
    if state[4] == 0:
        return 0
    codes[0], ends[0] = state[:2], end
    return 1


@compiled
def settle(codes: U64, bits: int, depth: int, state: U64, index: int, end: int) -> int:
    """As `cutter.settle`."""
    while index < end and state[4] > _ZERO:
        if not ((codes[index, 0] == state[0] and codes[index, 1] == state[1]) or _is_last(state, depth)):
            break
        state[:] = _ZERO
        index += 1
    return index


@compiled
def next_byte(row: U16, codes: U64, index: Whole, bits: int, state: U64) -> int:
    """As `cutter.next_byte`: bisects the bytes for the last whose cells begin at code `index` or before."""
    is_root = state[4] == _ZERO
    avail_high, avail_low = _available(state, bits)
    high, low = avail_high >> _SHIFT, (avail_low >> _SHIFT) | (avail_high << _REST)
    is_small = high == _ZERO and low == _ZERO
    rest = np.int64(avail_low & _LOW_MASK)
    least, most = 0, 255
    while least < most:
        middle = (least + most + 1) >> 1
        before, _, frequency_before, _ = share_of(row, middle, rest, is_small)
        first_high, first_low = _times(high, low, np.uint64(frequency_before))
        first_high, first_low = _plus(first_high, first_low, _ZERO, np.uint64(before + (middle if is_root else 1)))
        first_high, first_low = _plus(state[0], state[1], first_high, first_low)
        if _is_less(codes[index, 0], codes[index, 1], first_high, first_low):
            most = middle - 1
        else:
            least = middle
    # Bytes without a cell begin where the next one does; the bisection takes the last of them, which is the one that has cells.
    _enter(row, least, bits, state)
    return least
