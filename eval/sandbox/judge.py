"""The trusted side: runs the tests of one program in a process of its own, with stand-ins for what the program defines.

A stand-in sends a call into the sandbox and reads back a tagged value, so tests compare plain values of this process: the program sees
arguments, never what was expected, and none of its classes, operators or patches exist here. A verdict is made here only.

Not promised: tests that need the identity of an argument, or see it changed in place (arguments are copies), or pass functions in.
"""

from __future__ import annotations

import builtins
import itertools
import linecache
import os
import secrets
import time
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn, SupportsIndex

from eval.sandbox import values
from eval.sandbox.driver import read_exactly, write_frame
from eval.sandbox.programs import Program

TESTS: Final = "tests.py"
MAX_REASON_CHARS: Final = 300


class BrokenProgramError(BaseException):
    """The program can give no verdict but fail: its process ended, or it broke the protocol. Not to be caught by `except Exception`."""


class Channel:
    """Calls into the sandbox, one after the other. The first fault ends it, whatever the tests do about the exception."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = requests, replies
        self._objects: dict[int, RemoteObject] = {}
        self.fault: str | None = None
        self.ended = False

    def ask(self, operation: str, *arguments: Any, keywords: Mapping[str, Any] | None = None) -> Any:
        """The value of an operation in the sandbox; raises the exception that it raised there, as the nearest built-in class."""
        if self.fault is not None:
            raise BrokenProgramError(self.fault)
        number = secrets.token_hex(8)
        try:
            request = values.encode([number, operation, list(arguments), dict(keywords or {})], self._handle)
        except values.ValueRefusedError as error:
            raise TypeError(f"an argument cannot enter the sandbox: {error}") from error
        try:
            write_frame(self._requests, request)
            size = int.from_bytes(read_exactly(self._replies, 4), "big")
            if size > values.MAX_TEXT_BYTES:
                raise self.broken(f"a reply of {size} bytes; at most {values.MAX_TEXT_BYTES} are read")
            reply = values.decode(read_exactly(self._replies, size), self._stand_in)
        except (EOFError, OSError):
            self.ended = True
            raise self.broken("the program ended its process") from None
        except values.ValueRefusedError as error:
            raise self.broken(f"the reply is {error}") from None
        match reply:
            case [str(told), "value", value] if told == number:
                return value
            case [str(told), "error", [*names], str(message)] if told == number:
                raise self._raised(names, message)
            case [str(told), "refused", str(message)] if told == number:
                raise self.broken(f"the answer cannot be told: {message}")
            case _:
                raise self.broken("a reply to no call")

    def broken(self, fault: str) -> BrokenProgramError:
        """The exception for a fault, after which no call will be answered and the verdict will be fail."""
        self.fault = fault
        return BrokenProgramError(fault)

    def _raised(self, names: list[Any], message: str) -> BaseException:
        kinds = [kind for name in names if isinstance(name, str) and isinstance(kind := getattr(builtins, name, None), type)]
        kind = next((kind for kind in kinds if issubclass(kind, BaseException)), Exception)
        if not issubclass(kind, Exception):
            return self.broken(f"{kind.__name__}: {message}")
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError and its like want more than a message
            return ValueError(message) if issubclass(kind, ValueError) else Exception(message)

    def _handle(self, value: Any) -> dict[str, Any]:
        if isinstance(value, RemoteObject):
            return {"ref": object.__getattribute__(value, "_number"), "of": "program"}
        raise values.ValueRefusedError(f"a {type(value).__name__} of the tests, which is no plain value")

    def _stand_in(self, tag: Mapping[str, Any]) -> Any:
        match tag:
            case {"ref": int(number), "kind": str(kind), "iterator": bool(iterator)} if number >= 0:
                if number not in self._objects:  # one object has one stand-in, so that it is equal to itself
                    self._objects[number] = (RemoteIterator if iterator else RemoteObject)(self, number, kind)
                return self._objects[number]
        raise values.ValueRefusedError("a handle that no object has")


class RemoteObject:
    """An object that stays in the sandbox: attributes, items, calls, length and truth are asked there. Equality is identity, and what a
    test would assert by asking the object (order, membership, arithmetic) is refused: the answer would be the program's own.

    No name with two underscores is asked for: libraries of the tests look on instances for such hooks (numpy for `__array_interface__`, a
    raw address; copy for `__deepcopy__`), and an answer would be the program's hand inside this process.
    """

    __slots__ = ("_channel", "_kind", "_number")

    def __init__(self, channel: Channel, number: int, kind: str) -> None:
        object.__setattr__(self, "_channel", channel)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_kind", kind)

    def _ask(self, operation: str, *arguments: Any, keywords: Mapping[str, Any] | None = None) -> Any:
        channel: Channel = object.__getattribute__(self, "_channel")
        return channel.ask(operation, self, *arguments, keywords=keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{name} of an object in the sandbox is not asked for")
        return self._ask("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("setattr", name, value)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._ask("call", *arguments, keywords=keywords)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("getitem", key)

    def __contains__(self, part: Any) -> bool:
        raise TypeError(f"whether something is in a {object.__getattribute__(self, '_kind')} of the sandbox is not asked of it")

    def __iter__(self) -> Iterator[Any]:
        iterator = self._ask("iter")
        if not isinstance(iterator, RemoteIterator):
            raise TypeError("iter() returned non-iterator")
        return iterator

    def __len__(self) -> int:
        length = self._ask("len")
        if type(length) is not int:
            raise TypeError("len() returned no integer")
        return length

    def __bool__(self) -> bool:
        return self._ask("bool") is True

    def __repr__(self) -> str:
        return f"<{object.__getattribute__(self, '_kind')} in the sandbox>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # A copy would have a channel of its own, whose faults nobody would see.
        raise TypeError(f"a {object.__getattribute__(self, '_kind')} in the sandbox cannot be copied")


class RemoteIterator(RemoteObject):
    """An iterator in the sandbox, asked for one item at a time: a generator without an end is no trouble by itself."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._ask("next")


def judge(program: Program, channel: Channel) -> tuple[str, str]:
    """(verdict, reason) of a program by its tests: "pass", "fail" or, where the process of the program went away, "ended"."""
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    linecache.cache[TESTS] = (len(program.tests), None, program.tests.splitlines(keepends=True), TESTS)
    stage = "load"
    try:
        channel.ask("load", program.solution)
        stage = "helpers"
        exec(compile(program.helpers, "helpers.py", "exec", dont_inherit=True, optimize=0), namespace)
        stage = "entry points"
        for name in program.entry_points:
            namespace[name] = channel.ask("name", name)
        stage = "tests"
        exec(compile(program.tests, TESTS, "exec", dont_inherit=True, optimize=0), namespace)
    except BaseException as error:  # whatever ends the tests is a verdict of fail, SystemExit and a full memory included
        reason = f"{stage}: {describe(error)}"
    else:
        reason = ""
    if channel.fault is not None:  # tests with a bare `except` saw nothing of it
        return ("ended" if channel.ended else "fail"), printable(channel.fault)
    return ("fail", printable(reason)) if reason else ("pass", "")


def describe(error: BaseException) -> str:
    """The exception in a line, with the last line of the tests that it passed through."""
    try:
        message = str(error).partition("\n")[0]
    except (ValueError, RecursionError, MemoryError):  # an integer with too many digits, say
        message = "(no message)"
    told = f"{type(error).__name__}: {message}" if message else type(error).__name__
    numbers = [line for frame, line in _walk(error.__traceback__) if frame.f_code.co_filename == TESTS]
    if numbers:
        told += f" (line {numbers[-1]} of the tests: {linecache.getline(TESTS, numbers[-1]).strip()[:120]})"
    return told


def _walk(traceback: types.TracebackType | None) -> Iterator[tuple[types.FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def printable(text: str) -> str:
    """One line without control characters, cut to a bounded length: part of it may be the program's own words."""
    return "".join(c if c.isprintable() else "�" for c in itertools.islice(text, MAX_REASON_CHARS))


def run(program: Program, payload: bytes, ready: bytes, requests: int, replies: int, results: int) -> None:
    """The life of a judge process: start the driver, tell "R" when it is ready, judge, tell "V", verdict and reason; or "S": not ready.

    Both carry the time on the monotonic clock in nanoseconds: the supervisor may come to read them late.
    """
    try:
        write_frame(requests, payload)
        said = read_exactly(replies, 4 + len(ready))
    except (EOFError, OSError):
        said = b""
    if said != len(ready).to_bytes(4, "big") + ready:
        write_frame(results, b"S")
        return
    write_frame(results, b"R%d" % time.monotonic_ns())
    verdict, reason = judge(program, Channel(requests, replies))
    write_frame(results, b"V%d %s %s" % (time.monotonic_ns(), verdict.encode(), reason.encode("utf-8", "replace")))
    os.close(results)
