"""The count model against a slow twin in Python integers that knows strings and dictionaries, no trie, no arrays: training and rows."""

from __future__ import annotations

from collections import Counter
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.neural.counts import CountModel

DOCUMENTS = [
    b"def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n" * 6,
    b"for name in names:\n    print(name, names[name])\n" * 9,
    bytes(range(256)),
    b"\n",
]
DEPTH = 9
WHOLE = 1 << 32


class Twin:
    """Strings that at least 8 starts begin with, every place being a start."""

    def __init__(self, documents: list[bytes], depth: int) -> None:
        counts: Counter[bytes] = Counter()
        goes_on: Counter[bytes] = Counter()
        for document in documents:
            for start in range(len(document)):
                for end in range(start, min(len(document), start + depth) + 1):
                    counts[document[start:end]] += 1
                    goes_on[document[start:end]] += end < len(document)
        bytes_alone = [bytes([b]) for b in range(256)]
        self.kept = {b"", *bytes_alone} | {string for string, count in counts.items() if count >= 8}
        self.children: dict[bytes, list[bytes]] = {string: [] for string in self.kept}
        for string in sorted(self.kept - {b""}):
            self.children[string[:-1]].append(string)
        self.start_share = {child: share(counts[child], goes_on[child[:-1]]) for child in self.kept - {b""}}
        hits: Counter[bytes] = Counter()
        met: Counter[bytes] = Counter()
        for document in documents:
            for place in range(len(document)):
                state = self.state(document[:place])
                while state + document[place : place + 1] not in self.kept:
                    met[state] += 1
                    state = self.suffix(state)
                met[state] += 1
                hits[state + document[place : place + 1]] += 1
        self.share = {child: share(hits[child], met[child[:-1]]) for child in self.kept - {b""}}
        self.match_share: dict[tuple[int, int], int] = {}
        true: Counter[tuple[int, int]] = Counter()
        seen: Counter[tuple[int, int]] = Counter()
        for document in documents:
            for place, (candidate, length) in enumerate(candidates(document)[:-1]):
                if candidate is not None:
                    cell = classes(length, self.masses(document[:place])[document[candidate]])
                    seen[cell] += 1
                    true[cell] += document[candidate] == document[place]
        for length in range(19):
            low = [(length, odds) for odds in range(32)]
            for odds in range(64):
                cells = [(length, odds)] if seen[length, odds] >= 8 else low if odds < 32 else []
                hits_of, of = sum(true[cell] for cell in cells), sum(seen[cell] for cell in cells)
                if of >= 8:
                    self.match_share[length, odds] = min(max((2 * hits_of + 1) * 65536 // (2 * of + 2), 1), 65535)

    def state(self, prefix: bytes) -> bytes:
        return next(prefix[i:] for i in range(len(prefix) + 1) if prefix[i:] in self.kept)

    def suffix(self, string: bytes) -> bytes:
        return next(string[i:] for i in range(1, len(string) + 1) if string[i:] in self.kept)

    def shallow(self, string: bytes) -> list[int]:
        """Masses of a suffix of at most one byte."""
        masses, used = [0] * 256, 0
        for child in self.children[string]:
            masses[child[-1]] = self.share[child] << 16
            used += self.share[child]
        left = (65536 - used) << 16
        below = self.shallow(b"") if string else [1 << 24] * 256
        return [mass + (min(left, WHOLE - 1) * low >> 32) for mass, low in zip(masses, below, strict=True)]

    def masses(self, prefix: bytes) -> list[int]:
        masses, left, string = [0] * 256, WHOLE - 1, self.state(prefix)
        is_start = string == prefix
        while is_start or len(string) > 1:
            shares = self.start_share if is_start else self.share
            for child in self.children[string]:
                masses[child[-1]] += left * shares[child] >> 16
            left = left * (65536 - sum(shares[child] for child in self.children[string])) >> 16
            string = self.suffix(string) if string else b""
            is_start = False
        return [mass + (left * low >> 32) for mass, low in zip(masses, self.shallow(string), strict=True)]

    def row(self, prefix: bytes) -> list[int]:
        masses = self.masses(prefix)
        candidate, length = candidates(prefix)[-1]
        byte = None if candidate is None else prefix[candidate]
        given = 0 if byte is None else self.match_share.get(classes(length, masses[byte]), 0)
        if byte is None or given == 0:
            row = [1 + (mass * 65280 >> 32) for mass in masses]
        else:
            rest = WHOLE - masses[byte]
            shift = 14 + rest.bit_length() - 1
            factor = (((65536 - given) * 65280 >> 16) << shift) // rest
            row = [1 + (mass * factor >> shift) for mass in masses]
            row[byte] = 1 + (given * 65280 >> 16)
        row[row.index(max(row))] += 65536 - sum(row)
        return row


def share(count: int, total: int) -> int:
    return min(max(10 * count - 5 - isqrt(36 * count), 0) * 65536 // max(10 * total, 1), 65535)


def classes(length: int, mass: int) -> tuple[int, int]:
    small = min(mass, WHOLE - mass)
    octave = max(small.bit_length() - 17, 0)
    odds = min(2 * octave + (small >> (octave + 15) & 1), 31)
    return length if length < 16 else 14 + length // 8, 63 - odds if mass >= WHOLE // 2 else odds


def candidates(text: bytes) -> list[tuple[int | None, int]]:
    """Before each byte and after the last: the place of the byte that followed the latest repeat, and the repeat's length."""
    found: list[tuple[int | None, int]] = [(None, 0)]
    places: dict[tuple[int, int], int] = {}
    candidate, length = None, 0
    for place in range(1, len(text) + 1):
        if candidate is not None and text[candidate] == text[place - 1]:
            candidate, length = candidate + 1, min(length + 1, 32)
        else:
            candidate, length = None, 0
        is_looking = True
        for order in (8, 5, 2):
            if place < order:
                continue
            slot = int.from_bytes(text[place - order : place], "big") * 0x9E3779B97F4A7C15 % (1 << 64) >> 50
            if length >= order:
                is_looking = False
            if is_looking and (order, slot) in places:
                earlier = places[order, slot]
                same = 0
                while same < min(32, earlier) and text[earlier - 1 - same] == text[place - 1 - same]:
                    same += 1
                if same >= order:
                    candidate, length, is_looking = earlier, same, False
            places[order, slot] = place
        found.append((candidate, length))
    return found


@pytest.fixture(scope="module")
def twin() -> Twin:
    return Twin(DOCUMENTS, DEPTH)


@pytest.fixture(scope="module")
def model() -> CountModel:
    return CountModel.train(DOCUMENTS, max_nodes=100_000, depth=DEPTH)


def test_the_same_strings_are_kept(model: CountModel, twin: Twin) -> None:
    assert model.num_nodes == len(twin.kept)
    assert max(len(string) for string in twin.kept) == DEPTH


@pytest.mark.parametrize(
    "text", [b"", b"\xff", DOCUMENTS[0][:120], DOCUMENTS[1][5:70], b"def name(a, b):\n    print(a)\n    print(a)\n", b"aaaa" * 12]
)
def test_rows_are_the_twins(model: CountModel, twin: Twin, text: bytes) -> None:
    rows = model.rows([text])[0].tolist()
    assert rows == [twin.row(text[:place]) for place in range(len(text))]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([b"a", b"b", b"name", b" ", b"\n", b"(", b"return a", b"\x00"]), max_size=14).map(b"".join))
def test_any_prefix_has_the_twins_row(model: CountModel, twin: Twin, prefix: bytes) -> None:
    row = model.after(np.frombuffer(prefix, np.uint8).reshape(1, len(prefix)))
    assert row[0].tolist() == twin.row(prefix)


def test_without_repeats_the_row_is_the_tries(twin: Twin) -> None:
    model = CountModel.train(DOCUMENTS, max_nodes=100_000, depth=DEPTH, repeats=False)
    text = b"def add(a, b): return a"
    expected = []
    for place in range(len(text)):
        row = [1 + (mass * 65280 >> 32) for mass in twin.masses(text[:place])]
        row[row.index(max(row))] += 65536 - sum(row)
        expected.append(row)
    assert model.rows([text])[0].tolist() == expected
    assert model.context_bytes == DEPTH + 1
