"""Windows of every width are those of a twin in Python integers, hold together as a code, and come back byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.neural import cutter, lockstep, wide, windows
from compressors.neural.counts import CountModel
from compressors.neural.divide import children
from compressors.neural.models import TOTAL
from compressors.neural.static import StaticModel

BITS = [16, 24, 32, 40, 64, 128]
DOCUMENTS = [
    b"def f(x):\n    return x + 1\n\n\n" * 12,
    b"class C:\n    def f(self, x):\n        return self.f(x)\n" * 6,
    bytes(range(256)),
    b"",
    b"x",
    b"a" * 3000,
    "naïve 北京 ".encode() * 4,
]


@pytest.fixture(scope="module")
def model() -> CountModel:
    return CountModel.train(DOCUMENTS, max_nodes=700, depth=12)


def shares(cells: int, row: list[int], is_root: bool) -> list[int]:
    """The rule as it is written down, for integers of any size."""
    own, least = (0, 1) if is_root else (1, 0)
    avail = cells - own - 256 * least
    products = [avail * f for f in row]
    given = [x >> 16 for x in products]
    left = avail - sum(given)
    for s in range(256):
        if left > 0 and given[s] == 0 and products[s] >= TOTAL // 4:
            given[s], left = 1, left - 1
    given[row.index(max(row))] += left
    return [share + least for share in given]


def twin(rows: np.ndarray, data: bytes, bits: int, depth: int) -> list[tuple[int, int]]:
    """(code, end) of each window."""
    found = []
    low, cells, length, i = 0, 1 << bits, 0, 0
    while i < len(data):
        own = 0 if length == 0 else 1
        given = shares(cells, rows[i].tolist(), length == 0) if cells > 1 else [0] * 256
        if length < depth and given[data[i]] > 0:
            low, cells = low + own + sum(given[: data[i]]), given[data[i]]
            length, i = length + 1, i + 1
        else:
            found.append((low, i))
            low, cells, length = 0, 1 << bits, 0
    return [*found, (low, i)] if length else found


def read(rows: np.ndarray, codes: list[int], bits: int, depth: int) -> bytes:
    """The twin's text of codes, distributions given."""
    text = bytearray()
    for code in codes:
        low, cells, length = 0, 1 << bits, 0
        while length == 0 or (code != low and cells > 1 and length < depth):
            given = shares(cells, rows[len(text)].tolist(), length == 0)
            low += 0 if length == 0 else 1
            byte = next(s for s in range(256) if code < low + sum(given[: s + 1]))
            low, cells, length = low + sum(given[:byte]), given[byte], length + 1
            text.append(byte)
    return bytes(text)


def numbers(found: windows.Windows) -> list[tuple[int, int]]:
    return [(int.from_bytes(code.tobytes(), "big"), int(end)) for code, end in zip(found.codes, found.ends, strict=True)]


@st.composite
def rows_and_text(draw: st.DrawFn) -> tuple[np.ndarray, bytes]:
    """Rows from flat to all but certain, and text that follows them or does not."""
    num = draw(st.integers(0, 25))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = random.random((num, 256)) ** draw(st.sampled_from([0, 1, 20, 300, 3000]))
    rows = (weights / weights.sum(1, keepdims=True) * (TOTAL - 256)).astype(np.int64) + 1
    rows[np.arange(num), rows.argmax(1)] += TOTAL - rows.sum(1)
    surprises = random.random(num) < draw(st.sampled_from([0, 0.1, 1]))
    text = np.where(surprises, random.integers(0, 256, num), rows.argmax(1)).astype(np.uint8)
    return rows.astype(np.uint16), text.tobytes()


@pytest.mark.parametrize("bits", BITS)
@settings(max_examples=40, deadline=None)
@given(some=rows_and_text(), depth=st.sampled_from([1, 2, 5, 4095]))
def test_windows_are_the_twins(bits, some, depth):
    rows, text = some
    found = windows.cut(rows, np.frombuffer(text, np.uint8), bits=bits, depth=depth)
    assert numbers(found) == twin(rows, text, bits, depth)
    assert read(rows, [code for code, _ in numbers(found)], bits, depth) == text


@settings(max_examples=60, deadline=None)
@given(some=rows_and_text(), bits=st.integers(9, 46), low=st.integers(0, 1000), cells=st.integers(2, 1 << 46))
def test_a_step_is_a_child_of_the_node(some, bits, low, cells):
    """Of any node with any number of cells, against the function that builds tables, and with the decoder's eyes."""
    rows, text = some
    cells = min(cells, 1 << bits)
    for row, byte in zip(rows, text, strict=True):
        given = children(cells, row, False)
        assert given.tolist() == shares(cells, row.tolist(), False)
        first = low + 1 + int(given[:byte].sum())
        found = cutter.child(row, byte, low, cells, False)
        assert found == (first, given[byte])
        for code in {first, first + int(given[byte]) - 1} if given[byte] else ():
            state = np.array([low, cells, 3], np.int64)
            assert cutter.next_byte(row, np.array([code], np.uint64), 0, bits, state) == byte
            assert state.tolist() == [first, given[byte], 4]


@pytest.mark.parametrize("bits", [64, 128])
@settings(max_examples=40, deadline=None)
@given(some=rows_and_text(), low=st.integers(0, 1 << 63), cells=st.integers(2, 1 << 16) | st.integers(2, 1 << 63))
def test_a_wide_step_is_a_child_of_the_node(bits, some, low, cells):
    rows, text = some
    low, cells = (low << 64, cells << 60) if bits == 128 else (low, cells)
    for row, byte in zip(rows, text, strict=True):
        given = shares(cells, row.tolist(), False)
        first = low + 1 + sum(given[:byte])
        for code in {first, first + given[byte] - 1} if given[byte] else ():
            halves = np.array([[code >> 64, code & (1 << 64) - 1]], np.uint64)
            state = np.array([low >> 64, low & (1 << 64) - 1, cells >> 64, cells & (1 << 64) - 1, 3], np.uint64)
            assert wide.next_byte(row, halves, 0, bits, state) == byte
            assert [int(half) for half in state] == [first >> 64, first % 2**64, given[byte] >> 64, given[byte] % 2**64, 4]


@pytest.mark.parametrize("reset", [0, 1, 3])
@pytest.mark.parametrize("bits", BITS)
def test_documents_come_back_with_and_without_resets(model, bits, reset):
    found = windows.encode_windows(model, DOCUMENTS, bits=bits, depth=500, reset=reset)
    codes = [one.codes for one in found]
    assert lockstep.decode_windows(model, codes, bits=bits, depth=500, reset=reset, max_bytes=3000) == DOCUMENTS
    short = lockstep.decode_windows(model, codes, bits=bits, depth=500, reset=reset, max_bytes=100)
    assert short == [document if len(document) <= 100 else None for document in DOCUMENTS]


@pytest.mark.parametrize("reset", [1, 2, 5])
def test_a_reset_starts_the_model_anew(model, reset):
    """Every run of `reset` windows is what the twin cuts from the run's first byte on, with rows that begin there."""
    for document in DOCUMENTS[:3]:
        [found] = windows.encode_windows(model, [document], bits=24, depth=40, reset=reset)
        ends = [0, *found.ends.tolist()]
        for first in range(0, len(found.ends), reset):
            rest = document[ends[first] :]
            expected = twin(model.rows([rest])[0], rest, 24, 40)[:reset]
            assert [(code, end - ends[first]) for code, end in numbers(found)[first : first + reset]] == expected


def test_long_documents_are_cut_in_stretches_that_nobody_sees(model, monkeypatch):
    whole = windows.encode_windows(model, DOCUMENTS, bits=32, depth=4095, reset=0)
    monkeypatch.setattr(windows, "_ROWS_AT_ONCE", 17)
    pieces = windows.encode_windows(model, DOCUMENTS, bits=32, depth=4095, reset=0)
    assert [numbers(one) for one in pieces] == [numbers(one) for one in whole]
    resets = windows.encode_windows(model, DOCUMENTS, bits=32, depth=4095, reset=2)
    monkeypatch.undo()
    again = windows.encode_windows(model, DOCUMENTS, bits=32, depth=4095, reset=2)
    assert [numbers(one) for one in resets] == [numbers(one) for one in again]


def test_a_window_by_eye():
    """16 bits and a model that all but knows that 'a' comes next: 65,281 for 'a', byte 97, and 1 for each other byte."""
    model = StaticModel([1] * 97 + [65281] + [1] * 158)
    [found] = windows.encode_windows(model, [b"ab"], bits=16, depth=63, reset=0)
    # The root divides 65,280. Another byte's share, 65280 / 65536, is more than a quarter: one cell, and one that the root gives to all. So
    # 'a' begins at 2 * 97 and has what 255 * 2 cells leave over, 65,026.
    assert cutter.child(model.rows([b"a"])[0][0], 97, 0, 65536, True) == (194, 65026)
    # It keeps cell 194. Of 65,025 'a' gets 65025 * 65281 >> 16 = 64,771, and the 254 that are left go to the first 254 other bytes. 'b'
    # comes after 97 of them and 'a'.
    assert numbers(found) == [(194 + 1 + 97 + 64771, 2)]


def test_bits_of_windows_add_up_to_the_models_own(model):
    text = DOCUMENTS[0]
    rows, data = model.rows([text])[0], np.frombuffer(text, np.uint8)
    found = windows.cut(rows, data, bits=16)
    bits = windows.window_bits(rows, data, found.ends)
    ideal = 16 * len(data) - np.log2(rows[np.arange(len(data)), data].astype(np.float64)).sum()
    assert bits.sum() == pytest.approx(ideal)
    assert ideal < 16 * len(found.ends), "no window holds more than its bits, in total"


@settings(max_examples=60, deadline=None)
@given(codes=st.lists(st.binary(min_size=3, max_size=3), max_size=30), reset=st.integers(0, 2))
def test_any_codes_are_a_text(model, codes, reset):
    array = np.frombuffer(b"".join(codes), np.uint8).reshape(-1, 3)
    [text] = lockstep.decode_windows(model, [array], bits=24, depth=100, reset=reset, max_bytes=100 * len(codes))
    assert text is not None
    assert len(codes) <= len(text) <= 100 * len(codes)
