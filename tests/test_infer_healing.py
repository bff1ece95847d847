"""Healing: what is taken back of a prompt, and which symbols may tell it again."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressors import registry
from proxy_lm.infer import utf8
from proxy_lm.infer.healing import Healed, Healer

WORDS = [b"a", b"b", b"c", b"ab", b"abc", b"bc", b"ca"]


def free(num_symbols: int) -> np.ndarray:
    return np.zeros((1, num_symbols), dtype=np.int16)


def accepts(table: np.ndarray, symbols: tuple[int, ...]) -> bool:
    """Whether rows of symbols stand in the table until the tail is spelled, and not longer."""
    state = 0
    for place, symbol in enumerate(symbols):
        state = int(table[state, symbol])
        if state < 0:
            return False
        if state >= len(table):
            return place == len(symbols) - 1
    return False


def spells(spelling: list[bytes], symbols: tuple[int, ...], tail: bytes) -> bool:
    """The slow twin: joined they begin with the tail, and without the last one they do not cover it."""
    texts = [spelling[symbol] for symbol in symbols]
    return all(texts) and b"".join(texts).startswith(tail) and len(b"".join(texts[:-1])) < len(tail)


def test_worked_example():
    healer = Healer(WORDS)
    # From byte 2 on, "ab" can become "abc"; from byte 1 on, nothing begins with "bab" or is longer.
    assert healer.heal(b"abab", [3, 3]) == Healed(1, b"ab")
    # "c" can become "ca".
    assert healer.heal(b"abc", [4]) == Healed(0, b"abc")
    # Told as a, bc: "c" can become "ca", and its border is that of "bc".
    assert healer.heal(b"abc", [0, 5]) == Healed(1, b"bc")
    table = healer.next_states(b"bc", free(7), 0)
    #                        a   b   c  ab  abc bc  ca
    assert table.tolist() == [[-1, 1, -1, -1, -1, 2, -1], [-1, -1, 2, -1, -1, -1, 2]]


def test_nothing_is_taken_back_where_no_symbol_reaches_on():
    assert Healer([b"a", b"b", b"ab"]).heal(b"ab", [2]) == Healed(1, b"")
    assert Healer([b"a", b"b", b"ab"]).heal(b"", []) == Healed(0, b"")


def test_what_the_symbols_leave_out_is_told_again():
    """A prompt that ends inside a character: the view told what stands before it."""
    assert Healer([b"a", b"\xc3", b"\xa9"]).heal(b"a\xc3", [0]) == Healed(1, b"\xc3")


SPELLINGS = st.lists(st.lists(st.sampled_from(b"ab"), max_size=3).map(bytes), min_size=1, max_size=5)


@given(SPELLINGS, st.lists(st.sampled_from(b"ab"), min_size=1, max_size=4).map(bytes))
def test_exactly_the_symbols_that_spell_the_tail(spelling, tail):
    table = Healer(spelling).next_states(tail, free(len(spelling)), 0)
    for length in range(1, len(tail) + 1):
        for symbols in product(range(len(spelling)), repeat=length):
            assert accepts(table, symbols) == spells(spelling, symbols, tail)


@given(SPELLINGS, st.lists(st.sampled_from(b"ab"), min_size=1, max_size=4).map(bytes))
def test_no_way_ends_in_nothing(spelling, tail):
    """Every state that can be entered can be left."""
    table = Healer(spelling).next_states(tail, free(len(spelling)), 0)
    for state in {int(state) for state in table.reshape(-1) if 0 <= state < len(tail)}:
        assert (table[state] >= 0).any()


@given(st.lists(st.sampled_from(b"abc"), max_size=9).map(bytes))
def test_keeps_whole_symbols_and_tells_the_rest(prompt):
    healer = Healer(WORDS)
    symbols = [WORDS.index(bytes([byte])) for byte in prompt]
    healed = healer.heal(prompt, symbols)
    assert b"".join(WORDS[symbol] for symbol in symbols[: healed.num_kept]) + healed.tail == prompt
    # The slow twin: the first byte from which a longer symbol goes on, else the end.
    reaching = [cut for cut in range(len(prompt)) if any(word.startswith(prompt[cut:]) and word != prompt[cut:] for word in WORDS)]
    assert healed.num_kept == min([*reaching, len(prompt)])


def test_beyond_the_tail_only_valid_utf8():
    spelling = [b"a", b"a\xc3", b"\xc3\xa9", b"a\xff", b"a\xc3\xa9", b"\xa9"]
    table = Healer(spelling).next_states(b"a", utf8.spelled_transitions(spelling), utf8.START)
    assert table.tolist() == [[1 + utf8.START, 1 + utf8.ONE_MORE, -1, -1, 1 + utf8.START, -1]]
    # A tail that ends inside a character: what completes it may follow.
    table = Healer(spelling).next_states(b"\xc3", utf8.spelled_transitions(spelling), utf8.ONE_MORE)
    assert table.tolist() == [[-1, -1, 1 + utf8.START, -1, -1, -1]]


@pytest.mark.parametrize("name", ["spm", "phrases", "table"])
def test_every_cut_of_a_text_leads_on_to_its_own_symbols(root, name):
    """What the view tells of the whole text is among what healing allows, wherever the prompt is cut."""
    compressor = registry.load(root / "tests" / "golden" / "views" / name)
    spelling = compressor.spelling()
    assert spelling is not None
    healer = Healer(spelling)
    text = (root / "proxy_lm" / "errors.py").read_bytes()[:240] + "naïve 北京 = 1\n".encode()
    whole = compressor.encode(text).tolist()
    num_stable = 0
    for cut in range(len(text) + 1):
        symbols = compressor.encode(text[:cut]).tolist()
        healed = healer.heal(text[:cut], symbols)
        if whole[: healed.num_kept] != symbols[: healed.num_kept]:
            continue
        num_stable += 1
        table = healer.next_states(healed.tail, free(len(spelling)), 0)
        ends = np.cumsum([len(spelling[symbol]) for symbol in whole[healed.num_kept :]])
        told = whole[healed.num_kept : healed.num_kept + int(np.searchsorted(ends, len(healed.tail))) + 1]
        assert not healed.tail or accepts(table, tuple(told)), (cut, healed.tail)
    assert num_stable >= 0.9 * len(text), num_stable


@pytest.mark.parametrize("name", ["spm", "phrases", "phrases-greedy-words", "table", "identity"])
def test_symbols_spell_the_same_wherever_they_stand(pytestconfig, name):
    """What `Compressor.spelling` promises: any symbols decode to what they spell, joined."""
    compressor = registry.load(pytestconfig.rootpath / "tests" / "golden" / "views" / name)
    spelling = compressor.spelling()
    assert spelling is not None
    assert len(spelling) == compressor.alphabet_size
    draws = np.random.default_rng(0)
    for length in (1, 2, 3, 50):
        symbols = draws.integers(0, compressor.alphabet_size, length).astype(np.uint32)
        assert compressor.decode(symbols) == b"".join(spelling[symbol] for symbol in symbols)


def test_a_byte_level_tokenizer_spells_its_documents(pytestconfig):
    compressor = registry.load(pytestconfig.rootpath / "tests" / "golden" / "views" / "hf")
    spelling, text = compressor.spelling(), "def naïve(x):\n\treturn '北京' # 😀\n".encode()
    assert spelling is not None
    assert b"".join(spelling[symbol] for symbol in compressor.encode(text)) == text


@pytest.mark.parametrize("name", ["gzip", "nibble", "doublebyte", "stream", "segments", "as-bytes-spm-gray", "table-bytes"])
def test_views_whose_symbols_depend_on_others_say_so(pytestconfig, name):
    assert registry.load(pytestconfig.rootpath / "tests" / "golden" / "views" / name).spelling() is None
