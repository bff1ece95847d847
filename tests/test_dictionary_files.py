"""A dictionary's file comes back whole, or is refused in a sentence before anything is walked."""

from __future__ import annotations

import hashlib
import pickle
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import RequestError
from compressors.neural.dictionary import NO_CODE, Dictionary

SINGLES = [bytes([byte]) for byte in range(256)]
STRINGS = [*SINGLES, b"ab", b"abc", b"abcde", b"xy"]


def arrays(**changed: Any) -> dict[str, Any]:
    """The singles, then "ab" as node 257 and "xy" as node 258."""
    whole = {
        "labels": np.array([0, *range(256), ord("b"), ord("y")], np.uint8),
        "parents": np.array([0] * 257 + [98, 121], np.uint32),
        "codes": np.array([NO_CODE, *range(258)], np.uint32),
        "decode_nodes": np.arange(1, 259, dtype=np.uint32),
    }
    return whole | changed


def edited(name: str, place: int, value: int) -> dict[str, Any]:
    array = arrays()[name].copy()
    array[place] = value
    return arrays(**{name: array})


def test_a_dictionary_of_arrays_is_one_of_strings() -> None:
    assert Dictionary(**arrays()).to_bytes() == Dictionary.from_strings([*SINGLES, b"ab", b"xy"]).to_bytes()


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (edited("labels", 0, 1), "root"),
        (edited("codes", 0, 5), "root"),
        (edited("parents", 257, 122), "breadth-first"),
        (edited("parents", 258, 258), "breadth-first"),
        (edited("parents", 258, 98) | {"labels": edited("labels", 258, ord("b"))["labels"]}, "siblings"),
        (edited("labels", 5, 3), "siblings"),
        (edited("codes", 5, NO_CODE), "one-byte"),
        (edited("codes", 5, 258), "below 258"),
        (edited("decode_nodes", 5, 0), "nodes 1 to 258"),
        (edited("decode_nodes", 5, 259), "nodes 1 to 258"),
        (arrays(labels=np.zeros(4, np.uint8)), "257 to"),
        (arrays(codes=np.zeros(4, np.uint32)), "257 to"),
        (arrays(decode_nodes=np.zeros(4, np.uint32)), "256 to"),
        (arrays(labels=np.zeros(259, np.int64)), "labels are a flat array of uint8"),
        (arrays(parents=np.zeros((259, 1), np.uint32)), "parents are a flat array of uint32"),
    ],
)
def test_arrays_that_are_no_dictionary_are_refused(bad: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        Dictionary(**bad)


def test_a_string_of_256_bytes_is_refused() -> None:
    depths = range(2, 257)
    with pytest.raises(RequestError, match="at most 255 bytes"):
        Dictionary(
            labels=np.array([0, *range(256), *(7 for _ in depths)], np.uint8),
            parents=np.array([0] * 257 + [8, *range(257, 511)], np.uint32),
            codes=np.array([NO_CODE, *range(256 + len(depths))], np.uint32),
            decode_nodes=np.arange(1, 512, dtype=np.uint32),
        )


@pytest.mark.parametrize(
    ("strings", "why"),
    [
        ([], "256 to|257 to"),
        (SINGLES[:-1], "257 to"),
        ([*SINGLES[:-1], b"\xff\xff"], "one-byte"),
        ([*SINGLES, b"a"], "1 of 257 are repeated"),
        ([*SINGLES, b""], "1 to 255 bytes"),
        ([*SINGLES, bytes(256)], "1 to 255 bytes; got one of 256"),
    ],
)
def test_strings_that_are_no_dictionary_are_refused(strings: list[bytes], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        Dictionary.from_strings(strings)


@settings(deadline=None, max_examples=30)
@given(st.sets(st.binary(min_size=2, max_size=20), max_size=40), st.randoms(use_true_random=False))
def test_the_file_gives_the_dictionary_back(texts: set[bytes], random: Any) -> None:
    strings = [*SINGLES, *sorted(texts)]
    random.shuffle(strings)
    dictionary = Dictionary.from_strings(strings)
    again = Dictionary.from_bytes(dictionary.to_bytes())
    assert again.strings() == strings
    assert again.to_bytes() == dictionary.to_bytes()
    for name in ("labels", "parents", "codes", "decode_nodes"):
        assert np.array_equal(getattr(again, name), getattr(dictionary, name))


def test_all_65536_codes_fit_16_bits_when_every_node_has_one() -> None:
    strings = [*SINGLES, *(bytes([a, b]) for a in range(255) for b in range(256))]
    dictionary = Dictionary.from_strings(strings)
    assert dictionary.num_codes == 1 << 16
    data = dictionary.to_bytes()
    assert len(data) == 24 + 2 * 65537 + 65536 + 2 * 65536 + 32
    assert Dictionary.from_bytes(data).strings() == strings


def test_shared_and_spare_codes_come_back() -> None:
    """Codes 256 and 257 are those of "ab" and "xy"; 258 belongs to no node; 257 decodes to something else."""
    dictionary = Dictionary(**arrays(decode_nodes=np.array([*range(1, 257), 257, 3, 257], np.uint32)))
    assert not dictionary.is_exact
    again = Dictionary.from_bytes(dictionary.to_bytes())
    assert again.strings()[256:] == [b"ab", b"\x02", b"ab"]
    assert again.to_bytes() == dictionary.to_bytes()


def test_pickled_as_its_file() -> None:
    dictionary = Dictionary.from_strings(STRINGS)
    dictionary.encode([b"abc"])
    again = pickle.loads(pickle.dumps(dictionary))
    assert again.encode([b"abcdefxy"])[0].tolist() == dictionary.encode([b"abcdefxy"])[0].tolist()


def test_arrays_cannot_be_written() -> None:
    dictionary = Dictionary.from_strings(STRINGS)
    for array in (dictionary.labels, dictionary.codes, dictionary.lengths, dictionary.depths):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_a_cut_or_damaged_file_is_refused() -> None:
    data = Dictionary.from_strings(STRINGS).to_bytes()
    for size in [*range(60), *range(60, len(data), 97), len(data) - 1]:
        with pytest.raises(RequestError):
            Dictionary.from_bytes(data[:size])
    with pytest.raises(RequestError, match="bytes where its header asks for"):
        Dictionary.from_bytes(data + b"\x00")
    for place in range(0, len(data), 41):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(RequestError):
            Dictionary.from_bytes(bytes(damaged))


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def test_another_version_is_named() -> None:
    body = bytearray(Dictionary.from_strings(STRINGS).to_bytes()[:-32])
    body[8:12] = struct.pack("<I", 2)
    with pytest.raises(RequestError, match="version 2, this program reads version 1"):
        Dictionary.from_bytes(sealed(bytes(body)))


def test_a_header_that_asks_for_the_world_is_refused_at_once() -> None:
    for fields in ((2**32 - 1, 2**32 - 1, 2**32 - 1), (0, 0, 0), (1, 256, 0), (2**31, 256, 0)):
        with pytest.raises(RequestError):
            Dictionary.from_bytes(sealed(b"proxydic" + struct.pack("<IIII", 1, *fields)))
    body = bytearray(Dictionary.from_strings(STRINGS).to_bytes()[:-32])
    body[16:20] = struct.pack("<I", 2**32 - 1)  # codes, 16 bits each: the file's size does not say how many
    with pytest.raises(RequestError, match="has 2147483647 codes, more than"):
        Dictionary.from_bytes(sealed(bytes(body)))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_hostile_file_with_a_right_digest_is_refused_or_works(data: st.DataObject) -> None:
    """Whatever is accepted parses and decodes without harm."""
    body = bytearray(Dictionary.from_strings(STRINGS).to_bytes()[:-32])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(12, len(body) - 1) | st.integers(len(body) - 40, len(body) - 1) | st.integers(12, 40))
        body[place] = data.draw(st.integers(0, 255))
    try:
        dictionary = Dictionary.from_bytes(sealed(bytes(body)))
    except RequestError:
        return
    document = b"abcdexyab\x00\xff" * 3
    (codes,) = dictionary.encode([document])
    decoded = dictionary.decode(codes)
    assert decoded == document or not dictionary.is_exact
    assert len(dictionary.decode(np.arange(dictionary.num_codes))) == int(dictionary.lengths.sum())


def test_strings_of_too_many_bytes_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressors.neural.dictionary.MAX_TEXT_BYTES", 300)
    with pytest.raises(RequestError, match="at most 300 bytes together; got 600"):
        Dictionary.from_strings([*SINGLES, b"x" * 89, b"y" * 255])


def test_making_and_reading_a_dictionary_needs_no_numba() -> None:
    program = (
        "import sys; from compressors.neural.dictionary import Dictionary; "
        "d = Dictionary.from_strings([bytes([b]) for b in range(256)]); Dictionary.from_bytes(d.to_bytes()).strings(); "
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
