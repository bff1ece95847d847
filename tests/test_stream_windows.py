"""Windows of every width are those of a twin in Python integers, hold together as a code, and come back byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.neural import cutter, exclusion, lockstep, wide, windows
from compressors.neural.counts import CountModel
from compressors.neural.divide import children
from compressors.neural.models import TOTAL, ByteModel
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


class Flat(ByteModel):
    """The same row everywhere."""

    kind = "flat"
    context_bytes = 0

    def __init__(self, row: np.ndarray) -> None:
        self.row = row

    def after(self, prefixes):
        return np.tile(self.row, (len(prefixes), 1))

    def rows(self, stretches):
        return [np.tile(self.row, (len(stretch), 1)) for stretch in stretches]

    def spec(self):
        return {"kind": self.kind}

    def files(self):
        return {}

    @classmethod
    def from_files(cls, spec, files):
        raise AssertionError("not saved")


@pytest.fixture(scope="module")
def model() -> CountModel:
    return CountModel.train(DOCUMENTS, max_nodes=700, depth=12)


def shares(cells: int, row: list[int], is_root: bool) -> list[int]:
    """The rule as it is written down, for integers of any size. At the root a byte of frequency 0 is excluded."""
    least = [int(is_root and f > 0) for f in row]
    avail = cells - (0 if is_root else 1) - sum(least)
    products = [avail * f for f in row]
    given = [x >> 16 for x in products]
    left = avail - sum(given)
    for s in range(256):
        if left > 0 and given[s] == 0 and products[s] >= TOTAL // 4:
            given[s], left = 1, left - 1
    given[row.index(max(row))] += left
    return [share + one for share, one in zip(given, least, strict=True)]


def after_an_end(row: list[int], cells: int) -> list[int]:
    """Frequencies of the root after a node of `cells` cells whose next byte had none, as the rule is written down."""
    kept = [s for s, share in enumerate(shares(cells, row, False)) if share == 0]
    if len(kept) < 2:
        return row
    scale = (65536 - len(kept)) * 65536 // sum(row[s] for s in kept)
    found = [1 + row[s] * scale // 65536 if s in kept else 0 for s in range(256)]
    found[max(kept, key=lambda s: (row[s], -s))] += 65536 - sum(found)
    return found


def twin(rows: np.ndarray, data: bytes, bits: int, depth: int, exclude: bool = False) -> list[tuple[int, int]]:
    """(code, end) of each window."""
    found = []
    low, cells, length, i, before = 0, 1 << bits, 0, 0, 0
    while i < len(data):
        own = 0 if length == 0 else 1
        row = rows[i].tolist()
        if length == 0 and before:
            row = after_an_end(row, before)
        can_go_on = cells > 1 and length < depth
        given = shares(cells, row, length == 0) if can_go_on else [0] * 256
        if given[data[i]] > 0:
            low, cells = low + own + sum(given[: data[i]]), given[data[i]]
            length, i = length + 1, i + 1
        else:
            found.append((low, i))
            before = cells if exclude and can_go_on else 0
            low, cells, length = 0, 1 << bits, 0
    return [*found, (low, i)] if length else found


def read(rows: np.ndarray, codes: list[int], bits: int, depth: int, exclude: bool = False) -> bytes:
    """The twin's text of codes, distributions given."""
    text = bytearray()
    before = 0
    for code in codes:
        low, cells, length = 0, 1 << bits, 0
        while length == 0 or (code != low and cells > 1 and length < depth):
            row = rows[len(text)].tolist()
            if length == 0 and before:
                row = after_an_end(row, before)
            given = shares(cells, row, length == 0)
            low += 0 if length == 0 else 1
            byte = next(s for s in range(256) if code < low + sum(given[: s + 1]))
            low, cells, length = low + sum(given[:byte]), given[byte], length + 1
            text.append(byte)
        before = cells if exclude and cells > 1 and length < depth else 0
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
@given(some=rows_and_text(), depth=st.sampled_from([1, 2, 5, 4095]), exclude=st.booleans())
def test_windows_are_the_twins(bits, some, depth, exclude):
    rows, text = some
    found = windows.cut(rows, np.frombuffer(text, np.uint8), bits=bits, depth=depth, exclude=exclude)
    assert numbers(found) == twin(rows, text, bits, depth, exclude)
    assert read(rows, [code for code, _ in numbers(found)], bits, depth, exclude) == text


@settings(max_examples=200, deadline=None)
@given(some=rows_and_text(), cells=st.integers(0, 3000) | st.integers(0, 1 << 17))
def test_frequencies_after_an_end_are_the_twins(some, cells):
    """They are a distribution over the bytes that had no cell, whatever the node."""
    for row in some[0]:
        kept = np.zeros(256, np.uint16)
        is_some = exclusion.write_kept(row, cells, kept)
        expected = after_an_end(row.tolist(), cells) if cells else row.tolist()
        assert (kept.tolist() if is_some else row.tolist()) == expected
        assert sum(expected) == TOTAL
        if is_some and cells > 1:
            assert ((kept > 0) == (children(cells, row, False) == 0)).all()


@pytest.mark.parametrize("bits", BITS)
@settings(max_examples=40, deadline=None)
@given(some=rows_and_text(), depth=st.sampled_from([1, 5, 4095]), data=st.data())
def test_any_codes_are_read_as_the_twin_reads_them(bits, some, depth, data):
    """Codes that no document has: also those that end a window where every byte had a cell, where nothing is excluded."""
    row = some[0][0] if len(some[0]) else np.full(256, 256, np.uint16)
    model = Flat(row)
    least = st.integers(0, (1 << bits) - 1)
    given = shares(1 << bits, row.tolist(), True)
    codes = [data.draw(least | st.sampled_from([0, 1, sum(given[:7]), sum(given[:-1])])) for _ in range(6)]
    array = np.frombuffer(b"".join(code.to_bytes(bits // 8, "big") for code in codes), np.uint8).reshape(-1, bits // 8)
    for exclude in (False, True):
        expected = read(np.tile(row, (6000, 1)), codes, bits, min(depth, 900), exclude)
        found = lockstep.decode_windows(model, [array], bits=bits, depth=min(depth, 900), reset=0, exclude=exclude, max_bytes=1 << 14)
        assert found == [expected]


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
            state = np.array([low, cells, 3, 0], np.int64)
            assert cutter.next_byte(row, np.array([code], np.uint64), 0, bits, state) == byte
            assert state.tolist() == [first, given[byte], 4, 0]


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
            state = np.array([low >> 64, low & (1 << 64) - 1, cells >> 64, cells & (1 << 64) - 1, 3, 0], np.uint64)
            assert wide.next_byte(row, halves, 0, bits, state) == byte
            assert [int(half) for half in state] == [first >> 64, first % 2**64, given[byte] >> 64, given[byte] % 2**64, 4, 0]


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("reset", [0, 1, 3])
@pytest.mark.parametrize("bits", BITS)
def test_documents_come_back_with_and_without_resets(model, bits, reset, exclude):
    layout = {"bits": bits, "depth": 500, "reset": reset, "exclude": exclude}
    found = windows.encode_windows(model, DOCUMENTS, **layout)
    codes = [one.codes for one in found]
    assert lockstep.decode_windows(model, codes, **layout, max_bytes=3000) == DOCUMENTS
    short = lockstep.decode_windows(model, codes, **layout, max_bytes=100)
    assert short == [document if len(document) <= 100 else None for document in DOCUMENTS]


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("reset", [1, 2, 5])
def test_a_reset_starts_the_model_anew(model, reset, exclude):
    """Every run of `reset` windows is what the twin cuts from the run's first byte on, with rows that begin there."""
    for document in DOCUMENTS[:3]:
        [found] = windows.encode_windows(model, [document], bits=24, depth=40, reset=reset, exclude=exclude)
        ends = [0, *found.ends.tolist()]
        for first in range(0, len(found.ends), reset):
            rest = document[ends[first] :]
            expected = twin(model.rows([rest])[0], rest, 24, 40, exclude)[:reset]
            assert [(code, end - ends[first]) for code, end in numbers(found)[first : first + reset]] == expected


def test_long_documents_are_cut_in_stretches_that_nobody_sees(model, monkeypatch):
    whole = windows.encode_windows(model, DOCUMENTS, bits=32, depth=4095, reset=0, exclude=True)
    monkeypatch.setattr(windows, "_ROWS_AT_ONCE", 17)
    pieces = windows.encode_windows(model, DOCUMENTS, bits=32, depth=4095, reset=0, exclude=True)
    assert [numbers(one) for one in pieces] == [numbers(one) for one in whole]
    resets = windows.encode_windows(model, DOCUMENTS, bits=32, depth=4095, reset=2, exclude=True)
    monkeypatch.undo()
    again = windows.encode_windows(model, DOCUMENTS, bits=32, depth=4095, reset=2, exclude=True)
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


def test_an_exclusion_by_eye():
    """A node of 3 cells whose model holds 'a' for sure has cells for 'a' alone, so the next window begins with any byte but 'a'."""
    row = np.array([1] * 97 + [65281] + [1] * 158, np.uint16)
    kept = np.zeros(256, np.uint16)
    assert exclusion.write_kept(row, 3, kept)
    # Two cells to give away: a share of 2 * 65281 >> 16 = 1, and the one left over goes to 'a' too, as 2/65536 is less than a quarter.
    assert (kept > 0).tolist() == [s != 97 for s in range(256)]
    # 255 bytes of frequency 1 share 65,536: scale = (65281 << 16) // 255 = 16777472, so 1 + 256 each, and the first has what is left, 1.
    assert kept[:3].tolist() == [258, 257, 257]
    assert kept.sum() == 65536
    # The root gives each of them a cell and divides 65,281: (65281 * 257 >> 16) + 1 = 257 cells each, and the one that is left to byte 0.
    assert cutter.child(kept, 0, 0, 65536, True) == (0, 258)
    assert cutter.child(kept, 1, 0, 65536, True) == (258, 257)
    assert cutter.child(kept, 97, 0, 65536, True)[1] == 0
    assert cutter.child(kept, 255, 0, 65536, True) == (65536 - 257, 257)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("bits", [64, 128])
def test_what_ends_with_the_last_cell_of_all_is_read(bits, exclude):
    """Byte 255 often, so that nodes end at 2^bits; then a row by which it has no cell there, and a root that excludes it."""
    often = np.array([1] * 65 + [32640] + [1] * 189 + [32642], np.uint16)
    rarely = np.array([1] * 65 + [65281] + [1] * 190, np.uint16)
    text = b"\xff" * (bits - 8) + b"AB" + b"\xff" * (bits + 9) + b"CA"
    rows = np.stack([rarely if byte in b"AB" else often for byte in text])
    found = windows.cut(rows, np.frombuffer(text, np.uint8), bits=bits, exclude=exclude)
    assert numbers(found) == twin(rows, text, bits, 4095, exclude)
    state, index, read_back = wide.start_states(1, bits)[0], 0, bytearray()
    codes = wide.code_numbers(found.codes)
    while (index := wide.settle(codes, bits, 4095, exclude, state, index, len(codes))) < len(codes):
        assert len(read_back) < len(text)
        read_back.append(wide.next_byte(rows[len(read_back)], codes, index, bits, state))
    assert bytes(read_back) == text


def test_bits_of_windows_add_up_to_the_models_own(model):
    text = DOCUMENTS[0]
    rows, data = model.rows([text])[0], np.frombuffer(text, np.uint8)
    found = windows.cut(rows, data, bits=16)
    bits = windows.window_bits(rows, data, found.ends)
    ideal = 16 * len(data) - np.log2(rows[np.arange(len(data)), data].astype(np.float64)).sum()
    assert bits.sum() == pytest.approx(ideal)
    assert ideal < 16 * len(found.ends), "no window holds more than its bits, in total"


@settings(max_examples=60, deadline=None)
@given(codes=st.lists(st.binary(min_size=3, max_size=3), max_size=30), reset=st.integers(0, 2), exclude=st.booleans())
def test_any_codes_are_a_text(model, codes, reset, exclude):
    array = np.frombuffer(b"".join(codes), np.uint8).reshape(-1, 3)
    [text] = lockstep.decode_windows(model, [array], bits=24, depth=100, reset=reset, exclude=exclude, max_bytes=100 * len(codes))
    assert text is not None
    assert len(codes) <= len(text) <= 100 * len(codes)
