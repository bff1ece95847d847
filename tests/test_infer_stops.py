"""Stop sequences: the one that is complete first, the longest of those, however the bytes arrive, in linear time."""

import time
from itertools import combinations, pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_lm.errors import RequestError
from proxy_lm.infer.stops import Hit, StopMatcher, unescape

STOPS = st.lists(st.binary(min_size=1, max_size=4).map(lambda data: bytes(b"ab"[byte % 2] for byte in data)), max_size=4)
TEXT = st.lists(st.sampled_from(b"abc"), max_size=30).map(bytes)


def slow_hit(stops: list[bytes], data: bytes) -> Hit | None:
    for end in range(1, len(data) + 1):
        found = [stop for stop in stops if data[:end].endswith(stop)]
        if found:
            return Hit(max(found, key=len), end)
    return None


def slow_held(stops: list[bytes], data: bytes) -> int:
    return max((n for stop in stops for n in range(len(stop)) if n <= len(data) and data[len(data) - n :] == stop[:n]), default=0)


def test_worked_example():
    matcher = StopMatcher([b"\ndef ", b"\nclass "])
    assert matcher.feed(b"return x\ncl") is None
    assert matcher.num_held == 3
    hit = matcher.feed(b"ass Y:")
    assert hit == Hit(b"\nclass ", 15)
    assert hit.begin == 8


def test_the_longest_of_those_that_are_complete_at_one_byte():
    assert StopMatcher([b"c", b"bc", b"abc"]).feed(b"xabcx") == Hit(b"abc", 4)
    assert StopMatcher([b"abcd", b"bc"]).feed(b"xabcd") == Hit(b"bc", 4)


def test_every_pair_of_short_stops_in_every_short_text():
    words = [bytes(word) for length in (1, 2, 3) for word in product(b"ab", repeat=length)]
    texts = [bytes(text) for text in product(b"ab", repeat=6)]
    for stops in combinations(words, 2):
        for text in texts:
            assert StopMatcher(stops).feed(text) == slow_hit(list(stops), text), (stops, text)


@given(STOPS, TEXT)
def test_equals_the_slow_twin(stops, data):
    matcher = StopMatcher(stops)
    hit = matcher.feed(data)
    assert hit == slow_hit(stops, data)
    if hit is None:
        assert matcher.num_held == slow_held(stops, data)
        assert matcher.num_bytes == len(data)


@given(STOPS, TEXT, st.lists(st.integers(0, 30), max_size=6))
def test_does_not_depend_on_how_the_bytes_arrive(stops, data, cuts):
    whole = StopMatcher(stops).feed(data)
    matcher, edges = StopMatcher(stops), [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    found = None
    for begin, end in pairwise(edges):
        found = found or matcher.feed(data[begin:end])
    assert found == whole


@given(STOPS, TEXT)
def test_what_is_held_back_is_all_that_a_stop_can_take(stops, data):
    """Bytes given out before a hit are never part of the stop sequence."""
    matcher = StopMatcher(stops)
    given_out = 0
    for index in range(len(data)):
        hit = matcher.feed(data[index : index + 1])
        if hit is not None:
            assert hit.begin >= given_out
            return
        given_out = index + 1 - matcher.num_held


def test_linear_where_a_search_at_every_byte_is_not():
    stop = b"a" * 5000 + b"b"
    began = time.monotonic()
    assert StopMatcher([stop, stop[1:] + b"c"]).feed(b"a" * 400_000) is None
    assert time.monotonic() - began < 10  # 0.2 s; comparing at every byte is 2e9 comparisons


def test_no_stops_never_stop():
    matcher = StopMatcher([])
    assert matcher.feed(b"anything") is None
    assert matcher.num_held == 0


def test_an_empty_stop_is_refused():
    with pytest.raises(RequestError, match="at least one byte"):
        StopMatcher([b"a", b""])


@pytest.mark.parametrize(
    ("text", "data"),
    [("plain", b"plain"), (r"\n\n", b"\n\n"), (r"a\tb\\n", b"a\tb\\n"), (r"\x00\xfF", b"\x00\xff"), (r"\0\s", b"\0 "), ("é", b"\xc3\xa9")],
)
def test_escapes(text, data):
    assert unescape(text) == data


@pytest.mark.parametrize("text", ["\\q", "a\\", "\\xg0", "\\x1"])
def test_unknown_escapes_are_refused(text):
    with pytest.raises(RequestError, match="is no escape"):
        unescape(text)
