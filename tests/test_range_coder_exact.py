"""The range coder gives the code of a twin in Python integers of any size, gives back every byte, and ends within a bit of the ideal."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import DecodeError
from compressors.neural import packing, range_coder
from compressors.neural.models import TOTAL


def rows_of(weights: list[list[int]]) -> np.ndarray:
    """Rows out of a few weights each, at bytes 0, 1, 2, ...: every other byte has the least frequency."""
    rows = np.ones((len(weights), 256), np.int64)
    for row, some in zip(rows, weights, strict=True):
        total = sum(some) + 1
        row[: len(some)] += np.array([weight * (TOTAL - 256) // total for weight in some], np.int64)
        row[np.argmax(row)] += TOTAL - row.sum()
    return rows.astype(np.uint16)


def twin(starts: list[int], sizes: list[int]) -> tuple[int, int]:
    """(code, its length in bits): the shortest number in the interval, all of `low` kept, no carry and no words."""
    low, size, num_words = 0, 2**64 - 1, 0
    for start, width in zip(starts, sizes, strict=True):
        unit = size // TOTAL
        low, size = low + unit * start, unit * width
        if size < 2**32:
            low, size, num_words = low << 32, size << 32, num_words + 1
    total = 64 + 32 * num_words
    for num_bits in range(total + 1):
        code = -(-low // 2 ** (total - num_bits))
        if code * 2 ** (total - num_bits) < low + size:
            return code, num_bits
    raise AssertionError("the whole of low has so many bits")


weights = st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=4), max_size=40)


@settings(max_examples=300, deadline=None)
@given(weights=weights, bytes_=st.binary(min_size=40, max_size=40), is_likely=st.booleans())
def test_the_code_is_the_twins_and_comes_back(weights, bytes_, is_likely):
    rows = rows_of(weights)
    text = np.frombuffer(bytes_, np.uint8)[: len(weights)] & (3 if is_likely else 255)
    starts, sizes = range_coder.gather(rows, text)
    assert starts.tolist() == [int(row[:byte].sum(dtype=np.int64)) for row, byte in zip(rows, text, strict=True)]
    code, num_bits = range_coder.encode_bits(starts, sizes)
    number, least_bits = twin(starts.tolist(), sizes.tolist())
    assert len(code) == (num_bits + 7) // 8
    # Words that turn out to be zero are not taken back, so a code may be longer than its shortest form by zeros alone.
    assert int.from_bytes(code.tobytes(), "big") == number << (8 * len(code) - least_bits)
    assert num_bits == least_bits or number << (num_bits - least_bits) & (1 << (num_bits - least_bits)) - 1 == 0
    decoder = range_coder.RangeDecoder(code)
    assert bytes(decoder.next(row) for row in rows) == text.tobytes()


@settings(max_examples=100, deadline=None)
@given(weights=weights)
def test_the_end_is_within_a_bit_of_the_ideal(weights):
    rows = rows_of(weights)
    text = np.array([i % 3 for i in range(len(rows))], np.uint8)
    starts, sizes = range_coder.gather(rows, text)
    ideal = sum(16 - math.log2(size) for size in sizes.tolist())
    assert range_coder.encode_bits(starts, sizes)[1] <= ideal + 1 + len(rows) * 2**-15


def test_a_carry_runs_through_words_of_ones():
    # The last of 65,536 is met until words of ones are written, then half of what is left moves the low end over them.
    starts, sizes = [TOTAL - 1] * 12 + [TOTAL // 2] * 3, [1] * 12 + [TOTAL // 2] * 3
    for num_low in range(40):
        more_starts, more_sizes = starts + [TOTAL - 2] * num_low, sizes + [2] * num_low
        code, _ = range_coder.encode_bits(np.array(more_starts, np.uint32), np.array(more_sizes, np.uint32))
        number, num_bits = twin(more_starts, more_sizes)
        assert int.from_bytes(code.tobytes(), "big") == number << (8 * len(code) - num_bits)


def test_the_expected_code_by_eye():
    # 0b01 of two bits: the second quarter. 0b1 of one bit: the upper half.
    assert range_coder.encode(np.array([TOTAL // 4], np.uint32), np.array([TOTAL // 4], np.uint32)).tolist() == [0b01000000]
    assert range_coder.encode(np.array([TOTAL // 2], np.uint32), np.array([TOTAL // 2], np.uint32)).tolist() == [0b10000000]
    assert range_coder.encode(np.array([0], np.uint32), np.array([TOTAL // 2], np.uint32)).tolist() == []


@pytest.mark.parametrize("length", [1, 2, 3, 65535, 65536, 65537, 2**31, 2**32 - 1])
def test_a_length_comes_back(length):
    starts, sizes = range_coder.length_intervals(length)
    code, num_bits = range_coder.encode_bits(starts, sizes)
    assert range_coder.RangeDecoder(code).length() == length
    assert num_bits <= 5 + length.bit_length()


def test_a_length_that_no_code_has_is_refused():
    range_coder.check_length("stream", 10_000, code_bytes=2)
    with pytest.raises(DecodeError, match="2 bytes of code claim 99999 bytes of text"):
        range_coder.check_length("stream", 99_999, code_bytes=2)


@settings(max_examples=50, deadline=None)
@given(code=st.binary(max_size=20))
def test_any_code_decodes_to_something(code):
    rows = rows_of([[5, 3, 1]] * 100)
    decoder = range_coder.RangeDecoder(np.frombuffer(code, np.uint8))
    assert 1 <= decoder.length() < 2**32
    assert all(0 <= decoder.next(row) < 256 for row in rows)


@settings(max_examples=100, deadline=None)
@given(code=st.binary(max_size=30), window_bytes=st.sampled_from([2, 3, 4, 5, 8, 16]), symbol_bits=st.sampled_from([8, 16]))
def test_packed_windows_come_back(code, window_bytes, symbol_bits):
    windows = np.frombuffer(code[: len(code) // window_bytes * window_bytes], np.uint8).reshape(-1, window_bytes)
    symbols = packing.pack(windows.reshape(-1), symbol_bits)
    assert symbols.dtype == np.uint32
    assert len(symbols) == math.ceil(windows.size * 8 / symbol_bits)
    again = packing.unpack_windows("stream", symbols, symbol_bits, window_bytes)
    assert again.tolist() == windows.tolist()


def test_symbols_that_end_inside_a_window_are_refused():
    three = packing.pack(np.arange(9, dtype=np.uint8), 16)  # three windows of 3 bytes and a zero
    assert three.tolist() == [0x0001, 0x0203, 0x0405, 0x0607, 0x0800]
    assert packing.unpack_windows("stream", three, 16, 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    with pytest.raises(DecodeError, match="end inside one"):
        packing.unpack_windows("stream", three[:1], 16, 5)
    with pytest.raises(DecodeError, match="end inside one"):
        packing.unpack_windows("stream", np.append(three, three[:2]), 16, 16)
    with pytest.raises(DecodeError, match="filled up with 7"):
        packing.unpack_windows("stream", np.array([1, 2, 3, 4, 0x0807], np.uint32), 16, 3)


def test_the_symbol_that_completes_a_window_stands_for_it():
    ends = np.array([4, 5, 9])
    assert packing.borders(ends, 16, 2).tolist() == [0, 4, 5, 9]
    assert packing.borders(ends, 8, 2).tolist() == [0, 0, 4, 4, 5, 5, 9]
    assert packing.borders(ends, 16, 3).tolist() == [0, 0, 4, 5, 5, 9]
    assert packing.borders(ends[:0], 16, 2).tolist() == [0]
