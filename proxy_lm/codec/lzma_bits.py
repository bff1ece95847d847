"""Information bits of an LZMA1 stream: what its range coder has spent on a document, in fractions of a bit.

    information_bits(raw_lzma1_stream, num_bytes=len(document))

A range coder narrows an interval and shows whole bytes of it, so a stream's length in bytes says next to nothing about one byte more. The
interval's width says all: the stream is decoded here with integers, as the LZMA specification (Igor Pavlov, "LZMA Specification", public
domain) has it, to the document's last byte. 32 - log2(range) + 8 * (shifts by a byte) is then -log2 of the width that the encoder's
decisions left. The end marker and the 5 bytes of flushing behind it are not counted; they say nothing about the document.

Streams are those of our own encoder with liblzma's default literal and position bits (lc 3, lp 0, pb 2); others are not read.
"""

# probabilities: one uint16 array, its parts at the offsets below

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
I64 = npt.NDArray[np.int64]
Number = int | np.int64

_TOP: Final = 1 << 24
_IS_MATCH: Final = 0  # 12 states x 16 positions
_IS_REP: Final = _IS_MATCH + 192
_IS_REP0: Final = _IS_REP + 12
_IS_REP1: Final = _IS_REP0 + 12
_IS_REP2: Final = _IS_REP1 + 12
_IS_LONG: Final = _IS_REP2 + 12  # 12 states x 16 positions
_SLOT: Final = _IS_LONG + 192  # 4 lengths x 64
_SPECIAL: Final = _SLOT + 256
_ALIGN: Final = _SPECIAL + 115
_LENGTH: Final = _ALIGN + 16  # choice, choice2, low 16 x 8, mid 16 x 8, high 256
_LENGTH_SIZE: Final = 2 + 128 + 128 + 256
_REP_LENGTH: Final = _LENGTH + _LENGTH_SIZE
_LITERAL: Final = _REP_LENGTH + _LENGTH_SIZE  # 8 contexts x 0x300
_NUM: Final = _LITERAL + 8 * 0x300
_RANGE, _CODE, _AT, _SHIFTS = 0, 1, 2, 3  # of the coder's four numbers


def information_bits(stream: bytes, num_bytes: int) -> float:
    """Of the first `num_bytes` decoded bytes of a raw LZMA1 stream. Raises `AssertionError` where the stream is not as described."""
    coder = np.array([0xFFFFFFFF, int.from_bytes(stream[1:5], "big"), 5, 0], dtype=np.int64)
    decoded = np.zeros(num_bytes, dtype=np.uint8)
    whole = _decode(np.frombuffer(stream, dtype=np.uint8), coder, np.full(_NUM, 1024, dtype=np.uint16), decoded)
    assert whole, f"a raw LZMA1 stream of {len(stream)} bytes that does not decode to {num_bytes}"
    return 32.0 - math.log2(int(coder[_RANGE])) + 8.0 * int(coder[_SHIFTS])


@compiled
def _shift(stream: U8, coder: I64) -> None:
    if coder[_RANGE] < _TOP:
        following = np.int64(stream[coder[_AT]]) if coder[_AT] < len(stream) else np.int64(0)
        coder[_RANGE] <<= 8
        coder[_CODE] = (coder[_CODE] << 8) | following
        coder[_AT] += 1
        coder[_SHIFTS] += 1


@compiled
def _bit(stream: U8, coder: I64, chances: U16, at: Number) -> int:
    # Shifted before a decision and not after: the shift that is due at the end changes nothing about the sum.
    _shift(stream, coder)
    chance = np.int64(chances[at])
    bound = (coder[_RANGE] >> 11) * chance
    if coder[_CODE] < bound:
        coder[_RANGE] = bound
        chances[at] = chance + ((2048 - chance) >> 5)
        return 0
    coder[_RANGE] -= bound
    coder[_CODE] -= bound
    chances[at] = chance - (chance >> 5)
    return 1


@compiled
def _tree(stream: U8, coder: I64, chances: U16, at: int, num_bits: int) -> int:
    node = 1
    for _ in range(num_bits):
        node = 2 * node + _bit(stream, coder, chances, at + node)
    return node - (1 << num_bits)


@compiled
def _reverse_tree(stream: U8, coder: I64, chances: U16, at: int, num_bits: int) -> int:
    node, value = 1, 0
    for index in range(num_bits):
        bit = _bit(stream, coder, chances, at + node)
        node = 2 * node + bit
        value |= bit << index
    return value


@compiled
def _length(stream: U8, coder: I64, chances: U16, at: int, place: int) -> int:
    if _bit(stream, coder, chances, at) == 0:
        return 2 + _tree(stream, coder, chances, at + 2 + 8 * place, 3)
    if _bit(stream, coder, chances, at + 1) == 0:
        return 10 + _tree(stream, coder, chances, at + 130 + 8 * place, 3)
    return 18 + _tree(stream, coder, chances, at + 258, 8)


@compiled
def _distance(stream: U8, coder: I64, chances: U16, length: int) -> int:
    slot = _tree(stream, coder, chances, _SLOT + 64 * min(length - 2, 3), 6)
    if slot < 4:
        return slot
    num_bits = (slot >> 1) - 1
    distance = (2 | (slot & 1)) << num_bits
    if slot < 14:
        return distance + _reverse_tree(stream, coder, chances, _SPECIAL + distance - slot, num_bits)
    for index in range(num_bits - 4):
        _shift(stream, coder)
        coder[_RANGE] >>= 1
        if coder[_CODE] >= coder[_RANGE]:
            coder[_CODE] -= coder[_RANGE]
            distance += 1 << (num_bits - 1 - index)
    return distance + _reverse_tree(stream, coder, chances, _ALIGN, 4)


@compiled
def _literal(stream: U8, coder: I64, chances: U16, at: Number, matched: Number) -> int:
    """`matched` is the byte at the last distance, or -1 after a literal."""
    symbol = 1
    if matched >= 0:
        while symbol < 0x100:
            expected = (matched >> 7) & 1
            matched <<= 1
            bit = _bit(stream, coder, chances, at + ((1 + expected) << 8) + symbol)
            symbol = 2 * symbol + bit
            if bit != expected:
                break
    while symbol < 0x100:
        symbol = 2 * symbol + _bit(stream, coder, chances, at + symbol)
    return symbol - 0x100


@compiled
def _decode(stream: U8, coder: I64, chances: U16, decoded: U8) -> bool:
    """Decode until `decoded` is full; False where a distance or a length does not fit. The coder's numbers are left as they then are."""
    done, state = 0, 0
    rep0, rep1, rep2, rep3 = 0, 0, 0, 0
    while done < len(decoded):
        place = done & 3
        if _bit(stream, coder, chances, _IS_MATCH + 16 * state + place) == 0:
            context = np.int64(decoded[done - 1]) >> 5 if done else 0
            matched = np.int64(decoded[done - rep0 - 1]) if state >= 7 else np.int64(-1)
            decoded[done] = _literal(stream, coder, chances, _LITERAL + 0x300 * context, matched)
            done += 1
            state = 0 if state < 4 else (state - 3 if state < 10 else state - 6)
            continue
        if _bit(stream, coder, chances, _IS_REP + state) == 0:
            rep1, rep2, rep3 = rep0, rep1, rep2
            length = _length(stream, coder, chances, _LENGTH, place)
            rep0 = _distance(stream, coder, chances, length)
            state = 7 if state < 7 else 10
        elif _bit(stream, coder, chances, _IS_REP0 + state) == 0:
            if _bit(stream, coder, chances, _IS_LONG + 16 * state + place) == 0:
                length = 1
                state = 9 if state < 7 else 11
            else:
                length = _length(stream, coder, chances, _REP_LENGTH, place)
                state = 8 if state < 7 else 11
        else:
            if _bit(stream, coder, chances, _IS_REP1 + state) == 0:
                rep0, rep1 = rep1, rep0
            elif _bit(stream, coder, chances, _IS_REP2 + state) == 0:
                rep0, rep1, rep2 = rep2, rep0, rep1
            else:
                rep0, rep1, rep2, rep3 = rep3, rep0, rep1, rep2
            length = _length(stream, coder, chances, _REP_LENGTH, place)
            state = 8 if state < 7 else 11
        if rep0 >= done or done + length > len(decoded):
            return False
        for _ in range(length):
            decoded[done] = decoded[done - rep0 - 1]
            done += 1
    return True
