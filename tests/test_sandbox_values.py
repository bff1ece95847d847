"""Values cross the border of the sandbox unchanged in kind, and a hostile text is refused with its own error, never with another."""

from __future__ import annotations

import collections
import contextlib
import decimal
import enum
import fractions
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.sandbox import values


def refuse(value):
    raise values.ValueRefusedError(f"no telling of {type(value).__name__}")


def across(value):
    return values.decode(values.encode(value, refuse), refuse)


class Colour(enum.IntEnum):
    RED = 1


class Liar(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1, 2**63, -(2**64), 10**5000, 1.5, -0.0, math.inf, "", "é\x00\ud800", "\ud83d\ude00", "\U0001f600",
        b"\x00\xff", bytearray(b"a"), [], [[1], "2"],
        (), (1, (2,)), set(), {1, 2}, frozenset({"a"}), {}, {(1, 2): [3]}, {1: None, "1": 0}, 1 + 2j, range(3, 10**30, 7), int,
        type(None), ...,
        collections.deque([1, 2], 5), collections.Counter("aab"), collections.OrderedDict(b=1, a=2), decimal.Decimal("1.10"),
        fractions.Fraction(1, 3), {"a": 1}.keys(), {"a": 1}.items(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_arrives_as_itself(value):
    got = across(value)
    assert type(got) is type(value)
    assert got == value
    assert isinstance(value, (set, frozenset, int)) or repr(got) == repr(value)


def test_the_exceptions_to_itself():
    assert math.isnan(across(math.nan))
    assert across(collections.defaultdict(list, a=[1])) == {"a": [1]}
    assert type(across(collections.defaultdict(list))) is collections.defaultdict
    assert list(across({"a": 1, "b": 2}.values())) == [1, 2]


def test_a_subclass_arrives_as_its_base():
    assert across(Colour.RED) == 1
    assert type(across(Colour.RED)) is int
    assert across(Liar(3)) != 4
    assert across([type("L", (list,), {"__len__": lambda self: 7})([1])]) == [[1]]


def test_a_named_tuple_arrives_as_one():
    got = across(Point(1, [2]))
    assert got == (1, [2])
    assert (got.x, got.y, type(got).__name__) == (1, [2], "Point")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(alphabet=st.characters()) | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
        | st.frozensets(st.integers() | st.text(max_size=2), max_size=4)
    ),
    max_leaves=20,
)


@given(plain)
@settings(deadline=None)
def test_any_plain_value_arrives_as_itself(value):
    got = across(value)
    assert got == value
    assert type(got) is type(value)


TAGS = ("int", "tuple", "set", "dict", "namedtuple", "deque", "range", "type", "Decimal", "Fraction", "bytes", "complex", "x", "keys")
tags = st.sampled_from(TAGS)
hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tags, inner, max_size=2),
    max_leaves=12,
)


@given(hostile)
@settings(deadline=None, max_examples=400)
def test_any_other_text_is_read_or_refused(told):
    with contextlib.suppress(values.ValueRefusedError):
        values.decode(json.dumps(told).encode(), refuse)


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_read_or_refused(text):
    with contextlib.suppress(values.ValueRefusedError):
        values.decode(text, refuse)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("depth", b"[" * 100_000),
        ("closed depth", b"[" * 5_000 + b"]" * 5_000),
        ("parts", b"[" + b"0," * 2_100_000 + b"0]"),
        ("size", b'"' + b"a" * (values.MAX_TEXT_BYTES + 1) + b'"'),
        ("digits", b"9" * 100_000),
        ("an unknown tag", b'{"pickle": "gASVAA=="}'),
        ("two tags", b'{"int": "0x1", "set": []}'),
        ("a set of lists", b'{"set": [[1]]}'),
        ("a dict with a list for a key", b'{"dict": [[[1], 2]]}'),
        ("operators of a tuple", b'{"namedtuple": ["T", ["__eq__"], [1]]}'),
        ("a name that is no name", b'{"namedtuple": ["T", ["x y"], [1]]}'),
        ("a type by path", b'{"type": "os.system"}'),
        ("a queue of negative length", b'{"deque": [[], -1]}'),
        ("a division by nothing", b'{"Fraction": "1/0"}'),
        ("a decimal that is none", b'{"Decimal": "x"}'),
        ("no text", b"\xff\xfe"),
    ],
)
def test_hostile_texts_are_refused(name, text):
    with pytest.raises(values.ValueRefusedError):
        values.decode(text, refuse)


def test_what_cannot_be_told_is_refused_at_the_source():
    own = []
    own.append(own)
    with pytest.raises(values.ValueRefusedError, match="deeper than 150"):
        values.encode(own, refuse)
    with pytest.raises(values.ValueRefusedError, match="at most 16777216"):
        values.encode("x" * (17 << 20), refuse)
    with pytest.raises(values.ValueRefusedError, match="no telling of object"):
        values.encode([object()], refuse)
