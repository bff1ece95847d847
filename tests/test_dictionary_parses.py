"""Both parses agree with slow readable twins on every code, whatever the batch and the threads, and decoding gives the bytes back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import compressors
from compressors.errors import DecodeError, RequestError
from compressors.neural.dictionary import NO_CODE, Dictionary

SINGLES = [bytes([byte]) for byte in range(256)]
SOURCES = sorted(Path(compressors.__file__).parent.glob("*.py"))


def greedy(strings: Sequence[bytes], document: bytes) -> list[int]:
    """The longest string with a code at each place."""
    codes = {text: code for code, text in enumerate(strings)}
    longest = max(map(len, strings))
    found, at = [], 0
    while at < len(document):
        size = next(size for size in range(longest, 0, -1) if document[at : at + size] in codes and at + size <= len(document))
        found.append(codes[document[at : at + size]])
        at += size
    return found


def fewest(strings: Sequence[bytes], document: bytes) -> list[int]:
    """Fewest symbols; read from the end, each symbol is the longest that leaves the fewest."""
    codes = {text: code for code, text in enumerate(strings)}
    longest = max(map(len, strings))
    costs = [0]
    for end in range(1, len(document) + 1):
        costs.append(1 + min(costs[end - size] for size in range(1, min(longest, end) + 1) if document[end - size : end] in codes))
    found, end = [], len(document)
    while end:
        sizes = [size for size in range(1, min(longest, end) + 1) if document[end - size : end] in codes]
        size = max(size for size in sizes if costs[end - size] == costs[end] - 1)
        found.append(codes[document[end - size : end]])
        end -= size
    return found[::-1]


def closed(strings: set[bytes]) -> set[bytes]:
    return {text[:size] for text in strings for size in range(1, len(text) + 1)}


def with_singles(strings: set[bytes]) -> list[bytes]:
    """In an order that is neither by length nor by value, so that codes are not node numbers."""
    return sorted({*strings, *SINGLES}, key=lambda text: (len(text) % 3, text[::-1]))


few_letters = st.binary(max_size=60).map(lambda data: bytes(97 + byte % 3 for byte in data))
phrases = st.sets(st.binary(min_size=2, max_size=9).map(lambda data: bytes(97 + byte % 3 for byte in data)), max_size=25)


def test_greedy_takes_the_longest_and_fewest_looks_ahead() -> None:
    strings = [*SINGLES, b"ab", b"abc", b"cde", b"defgh"]
    dictionary = Dictionary.from_strings(strings)
    (codes,) = dictionary.encode([b"abcdefgh"])
    assert [strings[code] for code in codes] == [b"abc", b"defgh"]
    (codes,) = dictionary.encode([b"abcdex"])
    assert [strings[code] for code in codes] == [b"abc", b"d", b"e", b"x"]
    (codes,) = dictionary.encode([b"abcdex"], parse="fewest")
    assert [strings[code] for code in codes] == [b"ab", b"cde", b"x"]
    assert codes.dtype == np.uint32
    assert dictionary.borders(codes).tolist() == [0, 2, 5, 6]


def test_greedy_backs_up_to_the_last_string_with_a_code() -> None:
    strings = [*SINGLES, b"ab", b"abcdef", b"cd"]
    dictionary = Dictionary.from_strings(strings)
    assert not dictionary.is_prefix_closed
    for document, wanted in ((b"abcdeg", [b"ab", b"cd", b"e", b"g"]), (b"abcde", [b"ab", b"cd", b"e"]), (b"abcdef", [b"abcdef"])):
        (codes,) = dictionary.encode([document])
        assert [strings[code] for code in codes] == wanted


def test_of_equal_parses_the_last_symbol_is_the_longest() -> None:
    strings = [*SINGLES, b"ab", b"bc", b"abc", b"cd", b"bcd"]
    (codes,) = Dictionary.from_strings(strings).encode([b"abcd"], parse="fewest")
    assert [strings[code] for code in codes] == [b"a", b"bcd"]  # not abc, d and not ab, cd


def test_no_documents_and_empty_documents() -> None:
    dictionary = Dictionary.from_strings(SINGLES)
    for parse in ("greedy", "fewest"):
        assert dictionary.encode([], parse=parse) == []
        assert [codes.tolist() for codes in dictionary.encode([b"", b"a", b""], parse=parse)] == [[], [97], []]
        codes, offsets = dictionary.encode_flat(np.zeros(0, np.uint8), np.zeros(1, np.int64), parse=parse)
        assert (len(codes), codes.dtype, offsets.tolist()) == (0, np.uint16, [0])
    assert dictionary.decode(np.zeros(0, np.uint32)) == b""
    data, offsets = dictionary.decode_flat(np.zeros(0, np.uint16), np.zeros(3, np.int64), max_bytes=0)
    assert (len(data), offsets.tolist()) == (0, [0, 0, 0])


@settings(deadline=None, max_examples=150)
@given(phrases, st.booleans(), st.lists(few_letters, max_size=14))
def test_both_parses_agree_with_their_twins(texts: set[bytes], is_closed: bool, documents: list[bytes]) -> None:
    strings = with_singles(closed(texts) if is_closed else texts)
    dictionary = Dictionary.from_strings(strings)
    assert dictionary.is_exact
    assert dictionary.is_prefix_closed == (closed(set(strings)) == set(strings))
    assert dictionary.strings() == strings
    found = dictionary.encode(documents)
    assert [codes.tolist() for codes in found] == [greedy(strings, document) for document in documents]
    shortest = dictionary.encode(documents, parse="fewest")
    assert [codes.tolist() for codes in shortest] == [fewest(strings, document) for document in documents]
    for document, codes, others in zip(documents, found, shortest, strict=True):
        assert dictionary.decode(codes) == dictionary.decode(others) == document


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=200), max_size=9), st.sets(st.binary(min_size=2, max_size=5), max_size=30))
def test_any_bytes_come_back(documents: list[bytes], texts: set[bytes]) -> None:
    dictionary = Dictionary.from_strings(with_singles(texts))
    for parse in ("greedy", "fewest"):
        assert [dictionary.decode(codes) for codes in dictionary.encode(documents, parse=parse)] == documents


@pytest.fixture(scope="module")
def text_dictionaries() -> list[Dictionary]:
    """Strings of up to 40 bytes out of this package's sources: prefix-closed, and a third of them without their prefixes."""
    text = b"".join(path.read_bytes() for path in SOURCES)
    rng = np.random.default_rng(3)
    starts, sizes = rng.integers(0, len(text) - 40, 3000), np.minimum(rng.geometric(0.15, 3000) + 1, 40)
    strings = {text[start : start + size] for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)}
    return [Dictionary.from_strings(with_singles(closed(strings))), Dictionary.from_strings(with_singles(strings))]


def test_text_agrees_with_the_twins(text_dictionaries: list[Dictionary]) -> None:
    documents = [path.read_bytes()[:4000] for path in SOURCES]
    for dictionary in text_dictionaries:
        strings = dictionary.strings()
        for parse, twin in (("greedy", greedy), ("fewest", fewest)):
            found = dictionary.encode(documents, parse=parse)
            assert [codes.tolist() for codes in found] == [twin(strings, document) for document in documents]


def test_batches_and_threads_change_nothing(text_dictionaries: list[Dictionary], monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [path.read_bytes() for path in SOURCES] + [b"", b"x", b"ab" * 3000]
    data = np.frombuffer(b"".join(documents), np.uint8).copy()
    offsets = np.cumsum([0, *map(len, documents)])
    for dictionary in text_dictionaries:
        for parse in ("greedy", "fewest"):
            alone = [dictionary.encode([document], parse=parse)[0].tolist() for document in documents]
            for chunk_bytes, num_threads in ((1 << 22, 1), (1 << 22, 2), (5000, 1), (5000, 3)):
                monkeypatch.setattr("compressors.neural.dictionary._CHUNK_BYTES", chunk_bytes)
                found = dictionary.encode(documents, parse=parse, num_threads=num_threads)
                assert [codes.tolist() for codes in found] == alone
                codes, places = dictionary.encode_flat(data, offsets, parse=parse, num_threads=num_threads)
                assert codes.dtype == np.uint16
                assert codes.tolist() == list(chain.from_iterable(alone))
                assert np.diff(places).tolist() == [len(part) for part in alone]
                decoded, ends = dictionary.decode_flat(codes, places, max_bytes=len(data), num_threads=num_threads)
                assert decoded.tobytes() == data.tobytes()
                assert ends.tolist() == offsets.tolist()


@pytest.mark.parametrize("num_bytes", [1, 15, 16, 17, 32, 254, 255])
def test_strings_of_any_length_come_back(num_bytes: int) -> None:
    long = bytes(97 + (n * n) % 23 for n in range(num_bytes))
    dictionary = Dictionary.from_strings([*SINGLES, long] if num_bytes > 1 else SINGLES)
    for document in (long, long * 3, b"x" + long, long + b"x", long[:-1], long[:-1] + b"\x00" + long):
        for parse in ("greedy", "fewest"):
            (codes,) = dictionary.encode([document], parse=parse)
            assert dictionary.decode(codes) == document
            assert len(codes) == len(document.replace(long, b"L"))


def test_more_than_65536_codes_are_wide_and_every_string_is_its_own_code() -> None:
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    strings = [*SINGLES, *pairs, *(pair + b"\n" for pair in pairs[::7])]
    dictionary = Dictionary.from_strings(strings)
    found = dictionary.encode(strings)
    assert [codes.tolist() for codes in found] == [[code] for code in range(len(strings))]
    codes, _ = dictionary.encode_flat(np.frombuffer(b"ab\n", np.uint8), np.array([0, 3]))
    assert codes.dtype == np.uint32


def test_a_code_that_decodes_to_a_prefix_gives_the_rest_back() -> None:
    """Root with all bytes; node 257 is "ab" and 258 "abc", which decodes to "ab"."""
    dictionary = Dictionary(
        labels=np.array([0, *range(256), ord("b"), ord("c")], np.uint8),
        parents=np.array([0] * 257 + [98, 257], np.uint32),
        codes=np.array([NO_CODE, *range(256), 256, 256], np.uint32),
        decode_nodes=np.array([*range(1, 257), 257], np.uint32),
    )
    assert dictionary.is_exact
    assert [codes.tolist() for codes in dictionary.encode([b"abc", b"abab", b"abcc"])] == [[256, 99], [256, 256], [256, 99, 99]]
    with pytest.raises(RequestError, match="'fewest'"):
        dictionary.encode([b"abc"], parse="fewest")


def test_decoding_any_codes_is_total_and_bounded(text_dictionaries: list[Dictionary]) -> None:
    for dictionary in text_dictionaries:
        strings = dictionary.strings()
        assert dictionary.decode(np.arange(dictionary.num_codes)) == b"".join(strings)
        codes = np.random.default_rng(5).integers(0, dictionary.num_codes, 5000, dtype=np.uint32)
        wanted = b"".join(strings[code] for code in codes)
        assert dictionary.decode(codes, max_bytes=len(wanted)) == wanted
        assert dictionary.borders(codes)[-1] == len(wanted)
        with pytest.raises(DecodeError, match="cap"):
            dictionary.decode(codes, max_bytes=len(wanted) - 1)
        for bad in (np.array([dictionary.num_codes]), np.array([-1]), np.array([0.5]), np.zeros((2, 2), np.uint32)):
            with pytest.raises(DecodeError):
                dictionary.decode(bad)
        with pytest.raises(DecodeError):
            dictionary.decode_flat(np.array([dictionary.num_codes], np.uint32), np.array([0, 1]), max_bytes=10)


def test_the_double_array_is_well_filled(text_dictionaries: list[Dictionary]) -> None:
    for dictionary in text_dictionaries:
        dictionary.encode([b"a"])
        assert len(dictionary._walker._units) < 1.25 * len(dictionary.labels) + 512


def test_an_unknown_parse_is_refused() -> None:
    with pytest.raises(RequestError, match="unknown parse 'best'; known: greedy, fewest"):
        Dictionary.from_strings(SINGLES).encode([b"a"], parse="best")  # type: ignore[arg-type]
