"""Codes to documents with a count model: the loops of `lockstep.py` and of `count_match.py` in one, a document at a time.

Called by `lockstep.py`. The rows are the model's own, made by the same functions; what is saved is a call from Python for every byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compressors.neural import count_match, cutter, range_coder, wide
from compressors.neural.count_follow import Tables
from compressors.neural.counts import CountModel
from compressors.neural.jit import compiled

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_ROOM_PER_CODE_BYTES = 8
_LEAST_ROOM_BYTES = 1 << 12


def decode_windows(
    model: CountModel, codes: Sequence[U8], *, bits: int, depth: int, reset: int, exclude: bool, max_bytes: int
) -> list[bytes | None]:
    """As `lockstep.decode_windows`."""
    kernel: Any = cutter if bits <= cutter.NARROW_BITS else wide
    read = _read_narrow if kernel is cutter else _read_wide
    texts: list[bytes | None] = []
    for some in codes:
        numbers, state, place = kernel.code_numbers(some), kernel.start_states(1, bits)[0], np.zeros(2, np.int64)
        states, places = _fresh()
        text = np.empty(min(_LEAST_ROOM_BYTES + _ROOM_PER_CODE_BYTES * len(some), max_bytes), np.uint8)
        while not read(model.tables, numbers, bits, depth, reset, exclude, state, place, states, places, text) and len(text) < max_bytes:
            text = np.concatenate([text, np.empty(min(len(text), max_bytes - len(text)), np.uint8)])
        texts.append(text[: place[1]].tobytes() if place[0] == len(numbers) else None)
    return texts


def decode_ranges(model: CountModel, codes: Sequence[U8], *, max_bytes: int) -> list[bytes | None]:
    """As `lockstep.decode_ranges`."""
    texts: list[bytes | None] = []
    for code in codes:
        decoder = range_coder.RangeDecoder(code)
        length = decoder.length()
        if length > max_bytes:
            texts.append(None)
            continue
        text = np.empty(length, np.uint8)
        _read_range(model.tables, decoder.words, decoder.state, *_fresh(), text)
        texts.append(text.tobytes())
    return texts


class Follower:
    """The rows after a text that grows, one at a time."""

    def __init__(self, model: CountModel) -> None:
        self._tables = model.tables
        self._state, self._places = _fresh()

    def row(self, text: U8, length: int, since: int) -> npt.NDArray[np.uint16]:
        """The byte that follows the first `length` bytes of `text`, the last `since` of them since the reset: uint16 [256]. Bytes once read
        are not read again."""
        if self._state[count_match.START] != length - since:
            count_match.restart(self._state, length - since)
        row = np.empty(256, np.uint16)
        _follow(self._tables, text, length, self._state, self._places, row)
        return row


def _fresh() -> tuple[I64, U32]:
    """The model's state before the first byte."""
    state = np.zeros(count_match.NUM_FIELDS, np.int64)
    count_match.restart(state, 0)
    return state, np.zeros((count_match.NUM_ORDERS, 1 << count_match.PLACE_BITS), np.uint32)


@compiled
def _read_narrow(
    tables: Tables,
    codes: U64,
    bits: int,
    depth: int,
    reset: int,
    exclude: bool,
    state: I64,
    place: I64,
    model_state: I64,
    places: U32,
    text: U8,
) -> bool:
    """Write to `text` until the windows are read, True, or it is full. `place`: windows read, bytes written; it and the states go on
    where a full text stopped them."""
    index, length = place[0], place[1]
    masses, row = np.zeros(256, np.uint32), np.zeros(256, np.uint16)
    while True:
        settled = np.int64(cutter.settle(codes, bits, depth, exclude, state, index, len(codes)))
        if reset > 0 and settled != index and settled % reset == 0:
            count_match.restart(model_state, length)
            state[cutter.CELLS_BEFORE] = 0
        index = settled
        if index == len(codes) or length == len(text):
            break
        count_match.write_row(tables, text, model_state, masses, row)
        text[length] = cutter.next_byte(row, codes, index, bits, state)
        count_match.read(tables, text, model_state, places)
        length += 1
    place[0], place[1] = index, length
    return bool(index == len(codes))


@compiled
def _read_wide(
    tables: Tables,
    codes: U64,
    bits: int,
    depth: int,
    reset: int,
    exclude: bool,
    state: U64,
    place: I64,
    model_state: I64,
    places: U32,
    text: U8,
) -> bool:
    """As `_read_narrow`."""
    index, length = place[0], place[1]
    masses, row = np.zeros(256, np.uint32), np.zeros(256, np.uint16)
    while True:
        settled = np.int64(wide.settle(codes, bits, depth, exclude, state, index, len(codes)))
        if reset > 0 and settled != index and settled % reset == 0:
            count_match.restart(model_state, length)
            state[wide.CELLS_BEFORE] = 0
        index = settled
        if index == len(codes) or length == len(text):
            break
        count_match.write_row(tables, text, model_state, masses, row)
        text[length] = wide.next_byte(row, codes, index, bits, state)
        count_match.read(tables, text, model_state, places)
        length += 1
    place[0], place[1] = index, length
    return bool(index == len(codes))


@compiled
def _read_range(tables: Tables, words: U32, state: U64, model_state: I64, places: U32, text: U8) -> None:
    masses, row = np.zeros(256, np.uint32), np.zeros(256, np.uint16)
    for i in range(len(text)):
        count_match.write_row(tables, text, model_state, masses, row)
        text[i] = range_coder.next_byte(row, words, state)
        count_match.read(tables, text, model_state, places)


@compiled
def _follow(tables: Tables, text: U8, length: int, model_state: I64, places: U32, row: npt.NDArray[np.uint16]) -> None:
    while model_state[count_match.PLACE] < length:
        count_match.read(tables, text, model_state, places)
    count_match.write_row(tables, text, model_state, np.zeros(256, np.uint32), row)
