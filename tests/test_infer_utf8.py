"""The automaton of UTF-8 accepts exactly what Python's strict decoder accepts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_lm.infer import utf8


def walk(data: bytes, state: int = utf8.START) -> int:
    for byte in data:
        if state < 0:
            return -1
        state = int(utf8.TRANSITIONS[state, byte])
    return state


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_worked_example():
    assert walk("é".encode()[:1]) == utf8.ONE_MORE
    assert walk("北".encode()[:1]) == utf8.TWO_MORE
    assert walk("😀".encode()[:1]) == utf8.AFTER_F0
    assert walk("aé北😀".encode()) == utf8.START
    assert walk(b"\xc0\x80") == walk(b"\xed\xa0\x80") == walk(b"\xf5") == walk(b"\x80") == -1


def test_every_character_and_nothing_else():
    characters = [chr(code).encode() for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert (utf8.spelled_transitions(characters)[utf8.START] == utf8.START).all()
    # Paths that leave START and come back for the first time after 1, 2, 3, 4 bytes: as many as there are characters of that length.
    step = np.zeros((utf8.NUM_STATES, utf8.NUM_STATES), dtype=np.int64)
    for state, following in zip(*np.nonzero(utf8.TRANSITIONS >= 0), strict=True):
        step[state, utf8.TRANSITIONS[state, following]] += 1
    inner = step.copy()
    inner[:, utf8.START] = 0
    first_returns = [int((np.linalg.matrix_power(inner, n - 1) @ step)[utf8.START, utf8.START]) for n in range(1, 7)]
    lengths = [len(character) for character in characters]
    assert first_returns == [lengths.count(n) for n in range(1, 7)] == [128, 1920, 61440, 1048576, 0, 0]


@given(st.binary(max_size=8) | st.text(max_size=4).map(str.encode))
def test_ends_between_characters_where_python_decodes(data):
    assert (walk(data) == utf8.START) == is_text(data)


@given(st.text(max_size=6), st.data())
def test_a_cut_anywhere_is_a_begin_that_can_go_on(text, draw):
    data = text.encode()
    cut = draw.draw(st.integers(0, len(data)))
    assert utf8.state_after(data[:cut]) == walk(data[:cut])
    assert walk(data[cut:], utf8.state_after(data[:cut])) == utf8.START


@given(st.binary(max_size=6))
def test_any_bytes_have_a_state_in_which_text_can_follow(data):
    unfinished = {walk(data[cut:]) for cut in range(max(0, len(data) - 3), len(data)) if walk(data[cut:]) > utf8.START}
    assert {utf8.state_after(data)} == (unfinished or {utf8.START})


@given(st.text(max_size=5), st.integers(0, 20))
def test_whole_characters_leaves_out_the_half_one(text, cut):
    data = text.encode()[:cut]
    whole = utf8.whole_characters(data)
    assert data[:whole].decode() == data.decode(errors="ignore")


def test_whole_characters_of_bytes_that_are_no_text_is_our_bug():
    with pytest.raises(AssertionError):
        utf8.whole_characters(b"\xff")


@given(st.lists(st.binary(max_size=5), min_size=1, max_size=8))
def test_symbols_lead_where_their_bytes_lead(spelling):
    table = utf8.spelled_transitions(spelling)
    for state in range(utf8.NUM_STATES):
        assert table[state].tolist() == [walk(text, state) if text else -1 for text in spelling]
