"""The rules of the table, each against a slow twin: one window at a time, in Python's own integers, from the text of the rule."""

from __future__ import annotations

import heapq
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressors.errors import RequestError
from compressors.neural.build import _Grower, _whole, build
from compressors.neural.dictionary import Dictionary
from compressors.neural.divide import children, divide_rows
from compressors.neural.models import TOTAL, ByteModel
from compressors.neural.quantise import from_counts
from compressors.neural.rules import split_intervals
from compressors.neural.static import StaticModel

TEXT = b"def f(x):\n    return x + 1\n\n\nclass C:\n    def __init__(self):\n        self.x = {}\n        return None\n" * 3 + b"=" * 200
UNIT = 1 << 46


class LastByte(ByteModel):
    """Looks at one byte, and knows TEXT well; the calls are written down."""

    kind = "last-byte"
    integer = True

    def __init__(self, weight=1000):
        counts = np.ones((257, 256), np.int64)
        for before, after in zip([256, *TEXT], TEXT, strict=False):
            counts[before, after] += weight
        self.table = from_counts(counts)
        self.calls = []

    def after(self, prefixes):
        self.calls.append(prefixes.shape)
        return self.table[prefixes[:, -1]] if prefixes.shape[1] else np.repeat(self.table[256:], len(prefixes), axis=0)

    def rows(self, stretches):
        raise NotImplementedError

    def spec(self):
        return {"kind": self.kind, "version": 1}

    def files(self):
        return {}

    @classmethod
    def from_files(cls, spec, files):
        return cls()


MODEL = LastByte()


def row(prefix):
    return MODEL.table[prefix[-1] if prefix else 256].tolist()


def made(**options):
    strings = build(MODEL, **options)
    return Dictionary(labels=strings.labels, parents=strings.parents, codes=strings.codes, decode_nodes=strings.decode_nodes)


# ---- the twins


def twin_children(num_cells, frequencies, is_root):
    own, least = (0, 1) if is_root else (1, 0)
    avail = num_cells - own - 256 * least
    shares = [avail * f >> 16 for f in frequencies]
    left = avail - sum(shares)
    for byte in range(256):
        if left > 0 and shares[byte] == 0 and avail * frequencies[byte] >= 2**16 // 4:
            shares[byte] = 1
            left -= 1
    shares[frequencies.index(max(frequencies))] += left
    return [share + least for share in shares]


def twin_cells(text, bits, depth):
    """(code, bytes) of the first window of a text."""
    low, num_cells, taken = 0, 2**bits, 0
    while taken < min(depth, len(text)) and num_cells > 1:
        shares = twin_children(num_cells, row(text[:taken]), taken == 0)
        byte = text[taken]
        if shares[byte] == 0:
            break
        low += (1 if taken else 0) + sum(shares[:byte])
        num_cells = shares[byte]
        taken += 1
    return low, taken


def interval(prefix):
    """Start and width in units, rounded down as the rule says."""
    start, width = 0, UNIT
    for at, byte in enumerate(prefix):
        frequencies = row(prefix[:at])
        below = sum(frequencies[:byte])
        first, last = width * below >> 16, width * (below + frequencies[byte]) >> 16
        start, width = start + first, last - first
    return start, width


def whole_cells(prefix, bits):
    start, width = interval(prefix)
    unit = UNIT >> bits
    return range(-(-start // unit), (start + width) // unit)


def dyadic_code(prefix, bits):
    """The shortest code whose cells all lie in the interval, the leftmost of them, padded with zeros."""
    start, width = interval(prefix)
    for length in range(bits + 1):
        size = UNIT >> length
        value = -(-start // size)
        if (value + 1) * size <= start + width:
            return value << (bits - length)
    return None


def longest_that_fits(text, bits, depth):
    taken = 1
    while taken < min(depth, len(text)) and len(whole_cells(text[: taken + 1], bits)):
        taken += 1
    return taken


def twin_paper(text, bits, depth):
    taken = longest_that_fits(text, bits, depth)
    return dyadic_code(text[:taken], bits), taken


def twin_delay(text, bits, depth):
    code, taken = twin_paper(text, bits, depth)
    return code, next(length for length in range(1, taken + 1) if dyadic_code(text[:length], bits) == code)


@cache
def owned(prefix, bits, depth):
    """Cells of a string that none of its children holds."""
    cells = set(whole_cells(prefix, bits))
    if len(prefix) < depth and cells:
        for byte in range(256):
            cells -= set(whole_cells(prefix + bytes([byte]), bits))
    return cells


def twin_canonical(text, bits, depth):
    for taken in range(longest_that_fits(text, bits, depth), 0, -1):
        if found := owned(text[:taken], bits, depth):
            return min(found), taken
    return 2**bits + sum(not owned(bytes([byte]), bits, depth) for byte in range(text[0])), 1


def twin_top(size, depth):
    """All strings of the table, in order."""
    queue = [(-(UNIT * f >> 16), 1, bytes([byte])) for byte, f in enumerate(row(b""))]
    found = {bytes([byte]) for byte in range(256)}
    heapq.heapify(queue)
    while len(found) < size:
        units, length, text = heapq.heappop(queue)
        found.add(text)
        if length < depth:
            for byte, f in enumerate(row(text)):
                heapq.heappush(queue, (-(-units * f >> 16), length + 1, text + bytes([byte])))
    return sorted(found)


TWINS = {"cells": twin_cells, "paper": twin_paper, "delay": twin_delay, "canonical": twin_canonical}
TABLES = {
    ("cells", 9, 63): {},
    ("cells", 12, 63): {},
    ("cells", 16, 5): {},
    ("paper", 16, 63): {},
    ("delay", 16, 63): {},
    ("canonical", 16, 63): {},
    ("canonical", 17, 4): {},
}


@cache
def table(rule, bits, depth):
    return made(rule=rule, bits=bits, depth=depth)


def documents():
    pieces = st.sampled_from([b"def ", b"self", b"return ", b"    ", b"\n", b"=" * 40, b"class C", b"\0", b"\xff", b"(x):"])
    return st.lists(st.one_of(pieces, st.binary(max_size=6)), max_size=12).map(b"".join)


@pytest.mark.parametrize(("rule", "bits", "depth"), TABLES)
@given(text=documents())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_window_is_the_twins(rule, bits, depth, text):
    check_against_twin(rule, bits, depth, text)


@pytest.mark.parametrize(("rule", "bits", "depth"), TABLES)
def test_windows_of_text_are_the_twins(rule, bits, depth):
    check_against_twin(rule, bits, depth, TEXT[:100] + TEXT[-150:])


def check_against_twin(rule, bits, depth, text):
    dictionary = table(rule, bits, depth)
    (codes,) = dictionary.encode([text])
    expected, at = [], 0
    while at < len(text):
        code, taken = TWINS[rule](text[at : at + 64], bits, depth)
        expected.append(code)
        at += taken
    assert codes.tolist() == expected
    if rule != "paper":
        assert dictionary.decode(codes) == text


@pytest.mark.parametrize(("size", "depth"), [(700, 63), (3000, 63), (900, 2)])
def test_top_holds_the_most_probable_strings(size, depth):
    dictionary = made(rule="top", bits=12, alphabet_size=size, depth=depth)
    assert dictionary.strings() == twin_top(size, depth)


def test_of_equally_probable_strings_the_first_are_kept():
    found = build(StaticModel([256] * 256), rule="top", bits=12, alphabet_size=1000)
    kept = Dictionary(labels=found.labels, parents=found.parents, codes=found.codes, decode_nodes=found.decode_nodes)
    two = [bytes([first, second]) for first in range(256) for second in range(256)][: 1000 - 256]
    assert kept.strings() == sorted([bytes([byte]) for byte in range(256)] + two)


def test_a_model_that_is_sure_of_one_byte_ends_soon():
    # 16,256 strings of one other byte have about one probability, and 130 million of two
    sure = StaticModel([1] * 97 + [65281] + [1] * 158)
    found = build(sure, rule="top", bits=17)
    assert len(found.decode_nodes) == 1 << 17
    assert len(found.labels) == (1 << 17) + 1
    grow = _Grower(sure, 63, 2048, None)
    assert grow(split_intervals, 1 << 46, least=1 << 28, most=50_000) is None
    with pytest.raises(RequestError, match="choose fewer bits"):
        _whole(None)


def test_top_of_few_strings_is_all_of_them():
    dictionary = made(rule="top", bits=12, depth=1)
    assert dictionary.strings() == [bytes([byte]) for byte in range(256)]


@pytest.mark.parametrize(("bits", "depth"), [(9, 63), (11, 63), (12, 3)])
def test_every_code_of_cells_decodes_to_the_deepest_string_that_has_the_cell(bits, depth):
    dictionary = table("cells", bits, depth)
    assert dictionary.num_codes == 2**bits
    for code, text in enumerate(dictionary.strings()):
        low, num_cells, prefix = 0, 2**bits, b""
        while (not prefix or code != low) and num_cells > 1 and len(prefix) < depth:
            low += 1 if prefix else 0
            for byte, share in enumerate(twin_children(num_cells, row(prefix), not prefix)):
                if code < low + share:
                    num_cells, prefix = share, prefix + bytes([byte])
                    break
                low += share
        assert text == prefix


def test_the_paper_decodes_to_the_longest_string_of_a_code_and_delay_to_the_shortest():
    paper, delay = table("paper", 16, 63), table("delay", 16, 63)
    assert not paper.is_exact
    assert delay.is_exact
    longer = 0
    for text in (TEXT[:60], TEXT[30:90]):
        code, taken = twin_paper(text, 16, 63)
        long, short = paper.strings()[code], delay.strings()[code]
        assert long.startswith(text[:taken])
        assert text[:taken].startswith(short)
        assert dyadic_code(long, 16) == dyadic_code(short, 16) == code
        longer += len(long) > len(short)
    assert longer


def test_one_division_by_hand():
    frequencies = np.full(256, 1, np.uint16)
    frequencies[97] = 40000
    frequencies[98] = TOTAL - 40000 - 254
    # 5 cells, 1 its own, 4 to give: a has 4 * 40000 / 65536 = 2.44 and b 1.54; one is left, nobody else has a quarter, so a gets it.
    shares = children(5, frequencies, False)
    assert {byte: share for byte, share in enumerate(shares.tolist()) if share} == {97: 3, 98: 1}
    # 2 cells: a has 0.61 and b 0.38 of the one, both over a quarter: the first in byte order has it.
    assert children(2, frequencies, False).nonzero()[0].tolist() == [97]
    assert children(1, frequencies, False).sum() == 0
    # The root of 512: one each, and 256 by frequency: 156.25 and 98.7, two are left, a has them.
    root = children(512, frequencies, True)
    assert (root[97], root[98], root[0], root.sum()) == (1 + 156 + 2, 1 + 98, 1, 512)


@given(
    num_cells=st.integers(1, 1 << 46),
    is_root=st.booleans(),
    counts=st.lists(st.integers(0, 1 << 30), min_size=256, max_size=256),
    power=st.integers(0, 30),
)
@settings(deadline=None)
def test_division_is_the_twins(num_cells, is_root, counts, power):
    num_cells = max(num_cells >> power, 256 if is_root else 1)
    frequencies = from_counts(np.array([counts], np.int64))
    shares = divide_rows(np.array([num_cells]), frequencies, is_root)[0].tolist()
    assert shares == twin_children(num_cells, frequencies[0].tolist(), is_root)
    assert sum(shares) == num_cells - (0 if is_root else 1)


# ---- building


@pytest.mark.parametrize("rule", ["cells", "top", "paper", "delay", "canonical"])
def test_calls_and_their_sizes_do_not_matter(rule):
    digests, asked = set(), []
    for rows_per_call in (3, 64, 2048):
        model = LastByte()
        strings = build(model, rule=rule, bits=16, depth=6, rows_per_call=rows_per_call)
        made_of = Dictionary(labels=strings.labels, parents=strings.parents, codes=strings.codes, decode_nodes=strings.decode_nodes)
        digests.add(made_of.to_bytes())
        asked.append(sum(shape[0] for shape in model.calls))
        assert max(shape[0] for shape in model.calls) <= rows_per_call
    assert len(digests) == 1
    assert len(set(asked)) == 1


@pytest.mark.parametrize("rule", ["cells", "top", "canonical"])
def test_fewer_strings_are_the_largest(rule):
    small, large = made(rule=rule, bits=16, alphabet_size=2000), made(rule=rule, bits=16)
    assert small.num_codes == 2000
    assert small.is_exact
    strings = small.strings()
    assert set(strings) <= set(large.strings())
    assert {bytes([byte]) for byte in range(256)} <= set(strings)
    if rule != "canonical":
        assert strings == sorted(strings)  # codes are in the order of the cells, which is that of the strings
    (codes,) = small.encode([TEXT])
    assert small.decode(codes) == TEXT


@pytest.mark.parametrize("rule", ["paper", "delay"])
def test_unused_codes_go_where_an_alphabet_is_wanted(rule):
    full, small = made(rule=rule, bits=16), made(rule=rule, bits=16, alphabet_size=60000)
    used = sorted(set(full.codes[1:].tolist()))
    assert small.num_codes == len(used) < 60000
    assert [used[code] for code in small.encode([TEXT])[0]] == full.encode([TEXT])[0].tolist()
    with pytest.raises(RequestError, match=f"{len(used)} codes are used with 16 bits"):
        made(rule=rule, bits=16, alphabet_size=len(used) - 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "huffman"}, "unknown rule 'huffman'"),
        ({"bits": 8}, "choose 9 to 20"),
        ({"bits": 21}, "choose 9 to 20"),
        ({"rule": "paper", "bits": 15}, "choose 16 bits or more"),
        ({"alphabet_size": 256}, "must be 257 to 65536"),
        ({"bits": 10, "alphabet_size": 2000}, "must be 257 to 1024"),
        ({"depth": 0}, "1 to 255"),
        ({"depth": 256}, "1 to 255"),
    ],
)
def test_what_is_not_made_is_said(options, words):
    with pytest.raises(RequestError, match=words):
        build(MODEL, **options)


def test_a_model_with_bad_rows_is_refused():
    for change in (
        lambda table: table[:, :255],
        lambda table: table * 0,
        lambda table: table + np.uint16(1),
        lambda table: table.astype(np.int64),
    ):
        model = LastByte()
        model.table = change(model.table)
        with pytest.raises(RequestError, match="do not sum to 65536"):
            build(model)


def test_progress_rises_to_the_end():
    for rule in ("cells", "top", "paper"):
        told = []
        build(MODEL, rule=rule, bits=16, depth=8, report=lambda done, total, told=told: told.append((done, total)))
        assert told == sorted(told)
        assert len({total for _, total in told}) == 1
