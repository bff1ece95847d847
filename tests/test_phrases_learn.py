"""Phrases are learned by counting alone: every count has a slow twin, ties and order are fixed, and each option does what it says."""

from __future__ import annotations

import collections
import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import RequestError
from compressors.neural import phrases_count
from compressors.neural.dictionary import NO_CODE, Dictionary
from compressors.neural.phrases_learn import LearnSettings, learn

BYTES = [bytes([value]) for value in range(256)]
CODE = [b"class C%d(Base):\n    def m%d(self, x):\n        return self.x + %d\n\n" % (k, k, k) for k in range(60)]
LISTS = st.lists(st.lists(st.integers(0, 5), max_size=30), max_size=6)


def flat(documents):
    codes = np.array([code for document in documents for code in document], dtype=np.uint16)
    return codes, np.cumsum([0, *map(len, documents)], dtype=np.int64)


def counted_pairs(documents, lengths, most_bytes, most_repeats, size=64):
    keys = np.full(size, phrases_count.NO_PAIR, dtype=np.uint64)
    counts, met = np.zeros((2, size), dtype=np.int32)
    found = phrases_count.count_pairs(*flat(documents), np.array(lengths), most_bytes, most_repeats, keys, counts, met)
    if found < 0:
        return None
    good = keys != phrases_count.NO_PAIR
    assert found == good.sum()
    return {divmod(int(key), 1 << 32): (int(count), int(num)) for key, count, num in zip(keys[good], counts[good], met[good], strict=True)}


def slow_pairs(documents, lengths, most_bytes, most_repeats):
    totals, met = collections.Counter(), collections.Counter()
    for document in documents:
        here, joined = collections.Counter(), False
        for pair in itertools.pairwise(document):
            joined = pair[0] == pair[1] and not joined
            if (pair[0] != pair[1] or joined) and lengths[pair[0]] + lengths[pair[1]] <= most_bytes:
                here[pair] += 1
        totals.update({pair: min(count, most_repeats) for pair, count in here.items()})
        met.update(here.keys())
    return {pair: (count, met[pair]) for pair, count in totals.items()}


def slow_cost(text, strings):
    """Fewest of `strings` that spell `text`."""
    costs = [0]
    for end in range(1, len(text) + 1):
        costs.append(min(costs[end - len(string)] + 1 for string in strings if text[:end].endswith(string)))
    return costs[-1]


def test_pairs_of_neighbours():
    assert counted_pairs([[1, 2, 1, 2]], [1] * 3, 9, 9) == {(1, 2): (2, 1), (2, 1): (1, 1)}
    assert counted_pairs([[1], [2]], [1] * 3, 9, 9) == {}, "documents are not neighbours"
    assert counted_pairs([], [1], 9, 9) == {}


def test_a_run_counts_the_pairs_that_could_be_joined():
    assert counted_pairs([[7, 7, 7, 7, 7]], [1] * 8, 9, 9) == {(7, 7): (2, 1)}


def test_repeats_in_one_document_count_so_often_at_most():
    documents = [[1, 2] * 5, [1, 2], [3]]
    assert counted_pairs(documents, [1] * 4, 9, 2) == {(1, 2): (3, 2), (2, 1): (2, 1)}


def test_pairs_over_the_longest_phrase_do_not_count():
    assert counted_pairs([[1, 2, 3]], [1, 4, 4, 5], 8, 9) == {(1, 2): (1, 1)}


def test_a_full_table_is_reported():
    assert counted_pairs([[0, 1, 2, 3, 4, 5]], [1] * 6, 9, 9, size=4) is None


@given(LISTS, st.integers(2, 8), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_pairs_equal_the_slow_twin(documents, most_bytes, most_repeats):
    lengths = [1, 1, 2, 3, 4, 5]
    assert counted_pairs(documents, lengths, most_bytes, most_repeats) == slow_pairs(documents, lengths, most_bytes, most_repeats)


@given(LISTS, st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_uses_equal_the_slow_twin(documents, most_repeats):
    used = np.zeros(6, dtype=np.int64)
    phrases_count.count_symbols(*flat(documents), most_repeats, used)
    assert used.tolist() == [sum(min(document.count(code), most_repeats) for document in documents) for code in range(6)]


@given(st.sets(st.binary(min_size=2, max_size=7).map(lambda text: bytes(97 + value % 3 for value in text)), max_size=20))
@settings(max_examples=150, deadline=None)
def test_what_a_string_costs_without_its_code(phrases):
    strings = [*BYTES, *sorted(phrases)]
    dictionary = Dictionary.from_strings(strings)
    costs = phrases_count.costs_without(dictionary.labels, dictionary.parents, dictionary.codes != NO_CODE, dictionary.depths)
    found = costs[dictionary.decode_nodes].tolist()
    assert found[:256] == [1] * 256
    assert found[256:] == [slow_cost(text, set(strings) - {text}) for text in sorted(phrases)]


def slow_learn(documents, size, rounds=3):
    """`learn` for few documents and a small alphabet, with the dictionary's own parse and everything else in plain Python."""
    strings = list(BYTES)
    for number in range(rounds):
        most = size + round(size * 0.2 / (1 + number / 2))
        while len(strings) < most:
            codes = [document.tolist() for document in Dictionary.from_strings(strings).encode(documents, parse="fewest")]
            pairs = slow_pairs(codes, [len(text) for text in strings], 32, 2)
            good = sorted((pair for pair, (count, met) in pairs.items() if count > 1 and met > 1), key=lambda pair: (-pairs[pair][0], pair))
            wanted = min(most - len(strings), max(64, round(len(strings) * 0.25)))
            new = list(dict.fromkeys(text for a, b in good if (text := strings[a] + strings[b]) not in strings))[:wanted]
            if not new:
                break
            strings += new
        codes = [document.tolist() for document in Dictionary.from_strings(strings).encode(documents, parse="fewest")]
        used = [sum(min(document.count(code), 2) for document in codes) for code in range(len(strings))]
        loss = {text: used[code] * (slow_cost(text, set(strings) - {text}) - 1) for code, text in enumerate(strings) if code > 255}
        kept = set(sorted(loss, key=lambda text: (-loss[text], strings.index(text)))[: size - 256])
        strings = [text for text in strings if len(text) == 1 or text in kept]
    return strings


def test_learning_equals_the_slow_twin():
    assert learn(CODE, LearnSettings(alphabet_size=330)).strings() == slow_learn(CODE, 330)


def test_the_bytes_come_first_and_every_phrase_has_two_bytes_or_more():
    strings = learn(CODE, LearnSettings(alphabet_size=300)).strings()
    assert strings[:256] == BYTES
    assert len(set(strings)) == 300
    assert min(map(len, strings[256:])) >= 2
    assert any(b" " in text.strip() for text in strings)


def test_no_phrase_is_longer_than_asked():
    for most in (2, 5):
        strings = learn(CODE, LearnSettings(alphabet_size=300, max_phrase_bytes=most)).strings()
        assert max(map(len, strings)) == most


@pytest.mark.parametrize(
    ("borders", "crossed", "held"), [("lines", rb"\n *[a-z]", rb"[a-z():]\n "), ("words", rb"[a-z][ (\n]", rb" [a-z]")]
)
def test_phrases_stop_at_borders(borders, crossed, held):
    free = learn(CODE, LearnSettings(alphabet_size=300)).strings()
    kept = learn(CODE, LearnSettings(alphabet_size=300, borders=borders)).strings()
    assert any(re.search(crossed, text) for text in free)
    assert not any(re.search(crossed, text) for text in kept)
    assert any(re.search(held, text) for text in kept)


def test_one_document_with_many_repeats_teaches_nothing():
    noisy = [*CODE, b"0x0F, " * 3000]
    assert not any(b"0x0F" in text for text in learn(noisy, LearnSettings(alphabet_size=290)).strings())
    open_hearted = LearnSettings(alphabet_size=290, max_repeats=1000, min_documents=1)
    assert any(b"0x0F" in text for text in learn(noisy, open_hearted).strings())


def test_phrases_are_dropped_again_when_longer_ones_replace_them():
    strings = learn([b"abcdefgh" * 2] * 40, LearnSettings(alphabet_size=257, max_repeats=9)).strings()
    assert strings[256:] == [b"abcdefgh" * 2]


def test_too_little_text_is_refused():
    for documents in ([], [b"ab"], [b"xyz", b"uvw"]):
        with pytest.raises(RequestError, match=r"phrases for 256 symbols.*is to have 300; give more documents"):
            learn(documents, LearnSettings(alphabet_size=300))


def test_progress_goes_up_to_the_size():
    seen = []
    learn(CODE, LearnSettings(alphabet_size=400), lambda done, total: seen.append((done, total)))
    assert seen[0] == (320, 400)
    assert seen[-1] == (400, 400)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_part_of_the_documents_serves_the_small_dictionaries(monkeypatch):
    """With few bytes a code, early rounds see every 2nd or 4th document; the last ones see all."""
    from compressors.neural import phrases_learn

    seen = []
    parsed = phrases_learn._Parsed
    monkeypatch.setattr(phrases_learn, "_BYTES_PER_CODE", 1)
    monkeypatch.setattr(phrases_learn, "_Parsed", lambda strings, texts, how: (seen.append(len(texts)), parsed(strings, texts, how))[1])
    documents = CODE * 4
    assert len(learn(documents, LearnSettings(alphabet_size=300)).strings()) == 300
    assert seen[0] < len(documents)
    assert seen[-1] == len(documents)
