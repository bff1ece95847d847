"""A range coder over intervals of 24 bits, for alphabets that 16 bits are too few for.

    payload = encode(starts, sizes)                     # bytes
    reader = Reader(payload)
    reader.uniform(4096)                                # a number below 4096, told as an interval of TOTAL // 4096 each

As `compressors.neural.range_coder` (Martin 1979, words for digits): 64 bits of `low` and `size`, a word of 32 bits leaves when `size` is
below 2^32. Borders are exact products size * start / 2^24, rounded down: nothing of the interval is left unused, so a symbol of
probability 1 - 2^-16 that comes a million times costs what it should. The code ends with the fewest bits that are in the interval: at most
one bit over its information content, and a byte's filling.

Not promised: an end. The reader reads zeros past the payload; whoever decodes knows how much, and encodes again to see whether the
payload was the one that the encoder makes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled
from compressors.neural.range_coder import carry, finish
from proxy_lm.codec.frequencies import PRECISION_BITS, TOTAL, frequencies, order0_interval

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_WORD_BITS = np.uint64(32)
_WORD = np.uint64(0xFFFFFFFF)
_LEAST = np.uint64(1 << 32)
_ALL = np.uint64((1 << 64) - 1)
_PRECISION = np.uint64(PRECISION_BITS)
_REST = np.uint64(32 - PRECISION_BITS)


def encode(starts: U32, sizes: U32) -> bytes:
    """The code of a sequence of intervals: starts, sizes in 1/TOTAL, each size at least 1."""
    words = np.empty(len(starts) * PRECISION_BITS // 32 + len(starts) // 1024 + 4, np.uint32)
    num_bits = int(_encode(starts, sizes, words))
    return words[: (num_bits + 31) // 32].astype(">u4").tobytes()[: (num_bits + 7) // 8]


class Reader:
    """Reads one payload. `words` uint32 and `state` uint64 [3] are for compiled loops: how far the code is above the interval's low end,
    the interval's size, the words read."""

    def __init__(self, payload: bytes) -> None:
        whole = payload + b"\0" * (8 + -len(payload) % 4)
        self.words: U32 = np.frombuffer(whole, ">u4").astype(np.uint32)
        self.state: U64 = np.array([int(self.words[0]) << 32 | int(self.words[1]), int(_ALL), 2], np.uint64)

    def uniform(self, num: int) -> int:
        """A number below `num`, at most TOTAL, that `uniform_interval` told. Above it, where no encoder points: the last."""
        return int(_next_uniform(num, self.words, self.state))

    def among(self, sizes: I64) -> int:
        """The next symbol, distributed as `sizes`, int64 [A] with sum TOTAL."""
        return int(next_of_sizes(sizes, self.words, self.state)[0])


def uniform_interval(value: int, num: int) -> tuple[int, int]:
    """Start and size of one of `num` equal intervals."""
    assert 0 <= value < num <= TOTAL
    return value * (TOTAL // num), TOTAL // num


@compiled
def _part(size: np.uint64, start: np.uint64) -> np.uint64:
    """size * start / 2^24, rounded down; start at most 2^24."""
    return (((size >> _WORD_BITS) * start) << _REST) + (((size & _WORD) * start) >> _PRECISION)


@compiled
def _encode(starts: U32, sizes: U32, words: U32) -> int:
    low, size = _ZERO, _ALL
    num_words = 0
    for i in range(len(starts)):
        start = np.uint64(starts[i])
        before, begin = low, _part(size, start)
        low += begin
        if low < before:
            carry(words, num_words)
        size = _part(size, start + np.uint64(sizes[i])) - begin
        if size < _LEAST:
            words[num_words] = np.uint32(low >> _WORD_BITS)
            num_words += 1
            low <<= _WORD_BITS
            size <<= _WORD_BITS
    return finish(low, size, words, num_words)


@compiled
def _narrow(start: np.int64, size: np.int64, words: U32, state: U64) -> None:
    begin = _part(state[1], np.uint64(start))
    state[0] -= begin
    state[1] = _part(state[1], np.uint64(start + size)) - begin
    if state[1] < _LEAST:
        word = _ZERO
        if state[2] < np.uint64(len(words)):
            word = np.uint64(words[state[2]])
        state[0] = (state[0] << _WORD_BITS) | word
        state[1] <<= _WORD_BITS
        state[2] += _ONE


@compiled
def next_of_sizes(sizes: I64, words: U32, state: U64) -> tuple[np.int64, np.int64]:
    """A symbol and where its interval starts; total for every code."""
    start = np.int64(0)
    symbol = np.int64(0)
    while symbol + 1 < len(sizes) and _part(state[1], np.uint64(start + sizes[symbol])) <= state[0]:
        start += sizes[symbol]
        symbol += 1
    _narrow(start, sizes[symbol], words, state)
    return symbol, start


@compiled
def _next_uniform(num: int, words: U32, state: U64) -> np.int64:
    size = np.int64(TOTAL // num)
    value = np.int64(0)
    low, high = np.int64(0), np.int64(num)
    while low < high:  # the last value whose interval begins at or below the code
        value = (low + high) >> 1
        if _part(state[1], np.uint64(value * size)) <= state[0]:
            low = value + 1
        else:
            high = value
    value = max(low - 1, np.int64(0))
    _narrow(value * size, size, words, state)
    return value


@compiled
def next_symbol(logits: F64, phase: int, weights: I64, scratch: I64, words: U32, state: U64, interval: U32) -> np.int64:
    """The next symbol of a row of logits [A]; its start and size in `interval` [2]. -1 where the row is not finite."""
    if not frequencies(logits, phase, weights, scratch):
        return np.int64(-1)
    symbol, start = next_of_sizes(scratch, words, state)
    interval[0] = start
    interval[1] = scratch[symbol]
    return symbol


def next_order0(num_bytes: int, reader: Reader) -> bytes:
    """Bytes told by `frequencies.order0`."""
    data = np.empty(num_bytes, np.uint8)
    _next_order0(data, reader.words, reader.state)
    return data.tobytes()


@compiled
def _next_order0(data: U8, words: U32, state: U64) -> None:
    counts = np.ones(256, np.int64)
    for i in range(len(data)):
        total = 256 + 2 * i
        byte = np.int64(0)
        start, size = order0_interval(counts, total, byte)
        below = counts[0]
        while byte < 255 and _part(state[1], np.uint64(start + size)) <= state[0]:
            byte += 1
            start += size
            below += counts[byte]
            size = (below << PRECISION_BITS) // total - start
        _narrow(start, size, words, state)
        data[i] = byte
        counts[byte] += 2


def next_stored(num_bytes: int, reader: Reader) -> bytes:
    """Bytes told by `frequencies.stored`."""
    return bytes(reader.uniform(256) for _ in range(num_bytes))
