"""Values as tagged JSON: how arguments enter the sandbox and how answers leave it. Both sides hold this one module.

Plain JSON stands for None, booleans, integers below 2**63, floats, strings and lists; anything else is an object with one tag. Nothing that
is read here runs code, has an `__eq__` of its own or keeps a class of the other side: a subclass arrives as its base (an always-equal
`int` arrives as the int that it is), and an object with no plain value arrives as a handle whose operations are asked of its owner.
The reader is given a hostile text: size, number of values and depth are bounded before and while it is read.

Standard library only, and nothing from the project: the source is also loaded inside the sandbox.
"""

from __future__ import annotations

import collections
import json
import operator
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

MAX_TEXT_BYTES: Final = 16 << 20
MAX_VALUES: Final = 2_000_000
MAX_DEPTH: Final = 150
MAX_STRUCT_FIELDS: Final = 255

_SMALL: Final = 1 << 63
# Two characters of a Python text, which JSON's reader would make one of.
_SURROGATE_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_KEYS: Final[type] = type({}.keys())
_VALUES: Final[type] = type({}.values())
_ITEMS: Final[type] = type({}.items())
_KINDS: Final[tuple[type, ...]] = (
    *(bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range, type, object),
    type(None),
)
TYPES: Final[Mapping[str, type]] = {kind.__name__: kind for kind in _KINDS}
_SEQUENCES: Final[Mapping[type, str]] = {tuple: "tuple", set: "set", frozenset: "frozenset", collections.deque: "deque"}
_MAPPINGS: Final[Mapping[type, str]] = {
    dict: "dict",
    collections.Counter: "Counter",
    collections.OrderedDict: "OrderedDict",
    collections.defaultdict: "defaultdict",
}


class ValueRefusedError(Exception):
    """A value that cannot be told, or a text that is no value: too large, too deep, an unknown tag, a handle of nobody."""


def encode(value: Any, handle: Callable[[Any], dict[str, Any]]) -> bytes:
    """The text of a value. `handle(value)` gives the tag of a value that has no plain telling, or raises `ValueRefusedError`."""
    try:
        text = json.dumps(_tell(value, handle, 0)).encode("ascii")
    except RecursionError as error:
        raise ValueRefusedError(f"a value nested deeper than {MAX_DEPTH} levels") from error
    if len(text) > MAX_TEXT_BYTES:
        raise ValueRefusedError(f"a value of {len(text)} bytes as text; at most {MAX_TEXT_BYTES} are exchanged")
    return text


def decode(text: bytes, handle: Callable[[Mapping[str, Any]], Any]) -> Any:
    """The value of a text from the other side. `handle(tag)` gives the stand-in of a value that stays there. Raises `ValueRefusedError`."""
    if len(text) > MAX_TEXT_BYTES:
        raise ValueRefusedError(f"a value of {len(text)} bytes as text; at most {MAX_TEXT_BYTES} are exchanged")
    if text.count(b",") + text.count(b"[") + text.count(b"{") > MAX_VALUES:
        raise ValueRefusedError(f"a value of over {MAX_VALUES} parts")
    try:
        return _read(json.loads(text), handle, 0)
    except ValueRefusedError:
        raise
    except RecursionError as error:
        raise ValueRefusedError(f"a value nested deeper than {MAX_DEPTH} levels") from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError) as error:
        # Also what is well formed and means nothing: a dict with a list for a key, a set of lists, a fraction over 0.
        raise ValueRefusedError(f"a text that is no value ({type(error).__name__})") from error


def _tell(value: Any, handle: Callable[[Any], dict[str, Any]], depth: int) -> Any:
    if value is None or value is True or value is False:
        return value
    if depth > MAX_DEPTH:
        raise ValueRefusedError(f"a value nested deeper than {MAX_DEPTH} levels")
    kind = type(value)
    if issubclass(kind, int):
        number = int.__int__(value)
        return number if -_SMALL < number < _SMALL else {"int": hex(number)}
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, str):
        text = str.__str__(value)
        return {"str": text.encode("utf-8", "surrogatepass").hex()} if not text.isascii() and _SURROGATE_PAIR.search(text) else text
    told = _tell_scalar(value, kind)
    return told if told is not None else _tell_container(value, kind, handle, depth)


def _tell_scalar(value: Any, kind: type) -> dict[str, Any] | None:
    if issubclass(kind, complex):
        return {"complex": [complex.__complex__(value).real, complex.__complex__(value).imag]}
    if issubclass(kind, bytes | bytearray):
        return {"bytearray" if issubclass(kind, bytearray) else "bytes": kind.hex(value)}
    if kind is range:
        return {"range": [hex(value.start), hex(value.stop), hex(value.step)]}
    if kind is type and TYPES.get(name := str(value.__name__)) is value:
        return {"type": name}
    if value is Ellipsis or value is NotImplemented:
        return {"constant": "Ellipsis" if value is Ellipsis else "NotImplemented"}
    # Looked up, never imported: a program that has such a value has imported its module.
    for module, names in (("decimal", ("Decimal",)), ("fractions", ("Fraction",))):
        for name in names:
            known = getattr(sys.modules.get(module), name, None)
            if known is not None and kind is known:
                return {name: str(value)}
    return None


def _tell_container(value: Any, kind: type, handle: Callable[[Any], dict[str, Any]], depth: int) -> Any:
    def tell(parts: Iterable[Any]) -> list[Any]:
        return [_tell(part, handle, depth + 1) for part in parts]

    if issubclass(kind, list):
        return tell(list.__iter__(value))
    fields = getattr(kind, "_fields", None)
    if issubclass(kind, tuple) and isinstance(fields, tuple) and 0 < len(fields) <= MAX_STRUCT_FIELDS:
        return {"namedtuple": [kind.__name__, [str(field) for field in fields], tell(tuple.__iter__(value))]}
    for base, tag in _SEQUENCES.items():
        if issubclass(kind, base):
            told = tell(base.__iter__(value))  # type: ignore[attr-defined]
            return {tag: [told, value.maxlen]} if base is collections.deque else {tag: told}
    if issubclass(kind, dict):
        tag = next((name for base, name in _MAPPINGS.items() if base is not dict and issubclass(kind, base)), "dict")
        return {tag: [tell(pair) for pair in list(dict.items(value))]}
    if kind is _KEYS or kind is _VALUES:
        return {"keys" if kind is _KEYS else "values": tell(value)}
    if kind is _ITEMS:
        return {"items": [tell(pair) for pair in value]}
    return handle(value)


def _read(told: Any, handle: Callable[[Mapping[str, Any]], Any], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueRefusedError(f"a value nested deeper than {MAX_DEPTH} levels")
    if isinstance(told, list):
        return [_read(part, handle, depth + 1) for part in told]
    if not isinstance(told, dict):
        return told
    if len(told) != 1:
        return handle(told)
    ((tag, content),) = told.items()
    reader = _READERS.get(tag)
    if reader is not None:
        return reader(content)
    if tag in _CONTAINERS:
        return _read_container(tag, content, lambda part: _read(part, handle, depth + 1))
    raise ValueRefusedError("a tag that no value has")


def _read_container(tag: str, content: Any, read: Callable[[Any], Any]) -> Any:
    if tag == "namedtuple":
        name, fields, parts = content
        return struct(name, fields)(tuple(map(read, parts)))
    if tag == "deque":
        parts, longest = content
        return collections.deque(map(read, parts), longest)
    if tag in ("keys", "values"):
        parts = list(map(read, content))
        return dict.fromkeys(parts).keys() if tag == "keys" else dict(enumerate(parts)).values()
    kind = _CONTAINERS[tag]
    if tag in ("tuple", "set", "frozenset"):
        return kind(map(read, content))
    pairs = [(read(key), read(part)) for key, part in content]
    if tag == "items":
        return dict(pairs).items()
    return collections.defaultdict(None, pairs) if tag == "defaultdict" else kind(dict(pairs))


def struct(name: Any, fields: Sequence[Any]) -> type:
    """A tuple class with names, made without running text: an equal of the namedtuple that the other side has.

    The names are checked, and none may start with an underscore, so that no operator of the class can be given from outside.
    """
    names = [str(field) for field in fields]
    if not str(name).isidentifier() or len(names) > MAX_STRUCT_FIELDS or any(not n.isidentifier() or n.startswith("_") for n in names):
        raise ValueRefusedError("a named tuple with names that no named tuple has")
    members: dict[str, Any] = {n: property(operator.itemgetter(k)) for k, n in enumerate(names)}
    return type(str(name), (tuple,), members | {"__slots__": (), "_fields": tuple(names)})


def _read_constant(name: Any) -> Any:
    return {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}[name]


def _read_decimal(text: Any) -> Any:
    import decimal

    return decimal.Decimal(text[:100_000])


def _read_fraction(text: Any) -> Any:
    import fractions

    return fractions.Fraction(*(int(part) for part in text[:4_000].split("/", 1)))


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "int": lambda text: int(text, 16),
    "str": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
    "complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": lambda parts: range(*(int(part, 16) for part in parts)),
    "type": lambda name: TYPES[name],
    "constant": _read_constant,
    "Decimal": _read_decimal,
    "Fraction": _read_fraction,
}
_CONTAINERS: Final[Mapping[str, Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
    "namedtuple": tuple,
    "dict": dict,
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
    "defaultdict": collections.defaultdict,
    "keys": dict,
    "values": dict,
    "items": dict,
}
