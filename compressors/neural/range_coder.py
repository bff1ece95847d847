"""Plain arithmetic coding of a whole document: a range coder over integer frequencies (arXiv 2404.03626, section 3.1, as StaticAC and AC).

    starts, sizes = gather(rows, data)                # of each byte its interval: uint32 [n], in 1/65536
    code = encode(starts, sizes)                      # uint8 [num_bytes], most significant byte first
    decoder = RangeDecoder(code); decoder.next(row)   # the byte of the next row, and so on

The interval is `low` and `size`, 64 bits each; whenever `size` is below 2^32 a word of 32 bits leaves. A carry out of `low` runs back
through the words already written, which are still in memory. The code ends with the number in the interval that has the fewest bits: its
length is at most the information content plus one bit, and the truncation of `size >> 16` costs at most 2^-15 bits a byte, far less on
average. It is the range coder of Martin (1979) with words for digits.

Not promised: an end. The decoder reads zeros past the code's end and never stops by itself; how many bytes there are is told by whoever
made the code (`length_intervals`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from compressors.errors import DecodeError
from compressors.neural.jit import compiled
from compressors.neural.models import PRECISION_BITS, TOTAL, Frequencies

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

MAX_LENGTH_BITS: Final = 31
_CLASS_BITS: Final = 5

_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_SHIFT = np.uint64(PRECISION_BITS)
_WORD_BITS = np.uint64(32)
_LEAST = np.uint64(1 << 32)
_ALL = np.uint64((1 << 64) - 1)
_LAST_TARGET = np.uint64(TOTAL - 1)


def gather(rows: Frequencies, data: U8) -> tuple[U32, U32]:
    """Of each byte of `data` the start and the size of its interval in its row: uint16 [n, 256], uint8 [n] -> two uint32 [n]."""
    starts, sizes = np.empty(len(data), np.uint32), np.empty(len(data), np.uint32)
    _gather(rows, data, starts, sizes)
    return starts, sizes


def length_intervals(num_bytes: int) -> tuple[U32, U32]:
    """Intervals that tell a length of 1 to 2^32 - 1: the position of its highest bit in 5 bits, then the bits below it."""
    high = num_bytes.bit_length() - 1
    assert 0 <= high <= MAX_LENGTH_BITS
    parts = [(high, _CLASS_BITS)]
    parts += [(num_bytes >> place & (1 << bits) - 1, bits) for place, bits in _parts(high)]
    starts = np.array([value << PRECISION_BITS - bits for value, bits in parts], np.uint32)
    sizes = np.array([1 << PRECISION_BITS - bits for _, bits in parts], np.uint32)
    return starts, sizes


def _parts(high: int) -> list[tuple[int, int]]:
    """(place, number of bits), at most 16 bits each, of the bits below the highest."""
    return [(max(top - PRECISION_BITS, 0), min(top, PRECISION_BITS)) for top in range(high, 0, -PRECISION_BITS)]


def encode(starts: U32, sizes: U32) -> U8:
    """The code of a sequence of intervals, as bytes."""
    return encode_bits(starts, sizes)[0]


def encode_bits(starts: U32, sizes: U32) -> tuple[U8, int]:
    """The code and how many of its bits were needed; the others, fewer than 8, are zero."""
    num_words = len(starts) // 2 + len(starts) // 1024 + 4  # a byte costs 16 bits at most, and 2^-15 more for truncation
    words = np.empty(num_words, np.uint32)
    num_bits = int(_encode(starts, sizes, words))
    code = words[: (num_bits + 31) // 32].astype(">u4").view(np.uint8)[: (num_bits + 7) // 8]
    return code, num_bits


class RangeDecoder:
    """Gives back, row by row, what `encode` was told."""

    def __init__(self, code: U8) -> None:
        """`code` is uint8 [num_bytes]; zeros follow it for ever."""
        words = np.zeros((len(code) + 3) // 4 * 4 + 8, np.uint8)
        words[: len(code)] = code
        self.words = words.view(">u4").astype(np.uint32)
        self.state = np.empty(3, np.uint64)
        _begin(self.words, self.state)

    def next(self, row: npt.NDArray[np.uint16]) -> int:
        """The next byte, distributed as `row`, uint16 [256]."""
        return int(next_byte(row, self.words, self.state))

    def length(self) -> int:
        """A length that `length_intervals` told."""
        high = int(_next_bits(_CLASS_BITS, self.words, self.state))
        length = 1 << high
        for place, bits in _parts(high):
            length |= int(_next_bits(bits, self.words, self.state)) << place
        return length


# A byte costs -log2(65281 / 65536) = 0.0056 bits or more, because the 255 others have their least frequency.
_MAX_BYTES_PER_BIT: Final = 178


def check_length(view: str, num_bytes: int, code_bytes: int) -> None:
    """Raises `DecodeError` for a length that no code of this size has: a bound on the work of decoding hostile symbols."""
    most = (8 * code_bytes + 64) * _MAX_BYTES_PER_BIT
    if num_bytes > most:
        raise DecodeError(f"view '{view}': {code_bytes} bytes of code claim {num_bytes} bytes of text; they can hold {most} at most")


@compiled
def _gather(rows: Frequencies, data: U8, starts: U32, sizes: U32) -> None:
    for i in range(len(data)):
        byte = np.int64(data[i])
        start = np.int64(0)
        for s in range(byte):
            start += np.int64(rows[i, s])
        starts[i] = start
        sizes[i] = rows[i, byte]


@compiled
def _encode(starts: U32, sizes: U32, words: U32) -> int:
    """Words into `words`; the number of bits that the code needs."""
    low, size = _ZERO, _ALL
    num_words = 0
    for i in range(len(starts)):
        unit = size >> _SHIFT
        before = low
        low += unit * np.uint64(starts[i])
        if low < before:
            carry(words, num_words)
        size = unit * np.uint64(sizes[i])
        if size < _LEAST:
            words[num_words] = np.uint32(low >> _WORD_BITS)
            num_words += 1
            low <<= _WORD_BITS
            size <<= _WORD_BITS
    return finish(low, size, words, num_words)


@compiled
def finish(low: np.uint64, size: np.uint64, words: U32, num_words: int) -> int:
    """End a code: behind its words the number of the interval with the fewest bits. The number of bits of the whole."""
    for num_bits in range(65):
        # The first multiple of 2^(64 - num_bits) from low on; past the end of 64 bits it is a carry and zeros.
        if num_bits == 0:
            value = _ZERO
        else:
            drop = np.uint64(64 - num_bits)
            value = ((low + ((_ONE << drop) - _ONE)) >> drop) << drop
            if low + ((_ONE << drop) - _ONE) < low:
                value = _ZERO
        if value - low < size:
            if value < low:
                carry(words, num_words)
            words[num_words] = np.uint32(value >> _WORD_BITS)
            words[num_words + 1] = np.uint32(value & np.uint64(0xFFFFFFFF))
            return 32 * num_words + num_bits
    return -1  # not reached: with 64 bits the value is low itself


@compiled
def carry(words: U32, num_words: int) -> None:
    """Add one to the number that the words are."""
    i = num_words - 1
    while words[i] == np.uint32(0xFFFFFFFF):
        words[i] = np.uint32(0)
        i -= 1
    words[i] += np.uint32(1)


@compiled
def _begin(words: U32, state: U64) -> None:
    """`state`: how far the code is above the interval's low end, the interval's size, the words read."""
    state[0] = (np.uint64(words[0]) << _WORD_BITS) | np.uint64(words[1])
    state[1] = _ALL
    state[2] = np.uint64(2)


@compiled
def next_byte(row: npt.NDArray[np.uint16], words: U32, state: U64) -> int:
    """One byte out of `state`; total for every code."""
    unit = state[1] >> _SHIFT
    target = np.int64(min(state[0] // unit, _LAST_TARGET))
    start = np.int64(0)
    byte = 0
    while start + np.int64(row[byte]) <= target:
        start += np.int64(row[byte])
        byte += 1
    _narrow(start, np.int64(row[byte]), words, state)
    return byte


@compiled
def _next_bits(num_bits: int, words: U32, state: U64) -> np.int64:
    unit = state[1] >> _SHIFT
    target = np.int64(min(state[0] // unit, _LAST_TARGET))
    value = target >> (PRECISION_BITS - num_bits)
    _narrow(value << (PRECISION_BITS - num_bits), np.int64(1) << (PRECISION_BITS - num_bits), words, state)
    return value


@compiled
def _narrow(start: np.int64, size: np.int64, words: U32, state: U64) -> None:
    unit = state[1] >> _SHIFT
    state[0] -= unit * np.uint64(start)
    state[1] = unit * np.uint64(size)
    if state[1] < _LEAST:
        word = np.uint64(0)
        if state[2] < np.uint64(len(words)):
            word = np.uint64(words[state[2]])
        state[0] = (state[0] << _WORD_BITS) | word
        state[1] <<= _WORD_BITS
        state[2] += _ONE
