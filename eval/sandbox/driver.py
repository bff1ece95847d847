"""The process inside the sandbox: it confines itself, loads one generated program and answers calls about it until it is killed.

The supervisor starts it as `python -c BOOT` with this source, `confine` and `values` sent through standard input, so that no file of the
project is mounted. From the moment the program is loaded nothing here is trusted any more: a program may read and rewrite this module,
and gains the right to answer calls, which it has anyway. What was expected never comes here.

Requests and replies are frames: 4 bytes of length (big-endian), then a value of `values`: [id, operation, arguments, keywords] and
[id, "value", value] or [id, "error", names of the exception's built-in classes, message] or [id, "refused", why the value cannot be told].
"""

from __future__ import annotations

import builtins
import contextlib
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, Final

from eval.sandbox import confine, values

MAX_HANDLES: Final = 100_000
MAX_MESSAGE_CHARS: Final = 500
MODULE: Final = "solution"
_READ_BYTES: Final = 1 << 20


class Driver:
    """The loaded program and the objects of it that the judge holds handles of."""

    def __init__(self) -> None:
        self.module = types.ModuleType(MODULE)
        self.held: list[Any] = []
        self.numbers: dict[int, int] = {}  # by identity: what is held is never freed
        self.operations: Mapping[str, Callable[..., Any]] = {
            "load": self.load,
            "name": self.name,
            "call": lambda function, *args, **keywords: function(*args, **keywords),
            "getattr": getattr,
            "setattr": setattr,
            "getitem": lambda value, key: value[key],
            "len": len,
            "iter": iter,
            "next": next,
            "bool": bool,
        }

    def load(self, source: str | bytes) -> None:
        """Run the text of the program as the module `solution` (not `__main__`, whose guarded part is for people)."""
        sys.modules[MODULE] = self.module
        exec(compile(source, MODULE + ".py", "exec", dont_inherit=True), self.module.__dict__)

    def name(self, name: str) -> Any:
        """What a name of the program stands for. Raises `NameError`."""
        try:
            return self.module.__dict__[name]
        except KeyError:
            raise NameError(f"name '{name}' is not defined") from None

    def handle(self, value: Any) -> dict[str, Any]:
        """The tag of an object that stays here."""
        number = self.numbers.get(id(value))
        if number is None:
            if len(self.held) >= MAX_HANDLES:
                raise values.ValueRefusedError(f"over {MAX_HANDLES} objects that have no plain value")
            number = self.numbers[id(value)] = len(self.held)
            self.held.append(value)
        return {"ref": number, "kind": type(value).__name__[:100], "iterator": hasattr(type(value), "__next__")}

    def answer(self, text: bytes) -> bytes:
        """The reply to a request. What the program raises is told, even SystemExit; only the end of the process is not an answer."""
        number, operation, arguments, keywords = values.decode(text, lambda tag: self.held[tag["ref"]])
        try:
            told = [number, "value", self.operations[operation](*arguments, **keywords)]
            return values.encode(told, self.handle)
        except values.ValueRefusedError as error:  # not told as an exception: tests that expect one would take it for theirs
            return values.encode([number, "refused", str(error)], self.handle)
        except BaseException as error:  # told to the judge, who decides what it means
            names = [kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind]
            message = "?"
            with contextlib.suppress(Exception):
                message = str(error)[:MAX_MESSAGE_CHARS]
            return values.encode([number, "error", names, message], self.handle)


def read_exactly(descriptor: int, size: int) -> bytes:
    """`size` bytes of a pipe. Raises `EOFError` where the other side closed it."""
    parts = []
    while size > 0:
        part = os.read(descriptor, min(size, _READ_BYTES))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write_frame(descriptor: int, text: bytes) -> None:
    """One frame, whole."""
    view = memoryview(len(text).to_bytes(4, "big") + text)
    while view:
        view = view[os.write(descriptor, view) :]


def serve(settings: Mapping[str, Any]) -> None:
    """Confine this process, say that it is ready, answer until the judge closes the pipe."""
    os.closerange(3, 1024)  # what bubblewrap left open
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)  # what the program prints goes where its errors go: to the supervisor, who keeps the beginning
    os.close(null)
    confine.confine(settings)
    write_frame(replies, settings["ready"])
    driver = Driver()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            size = int.from_bytes(read_exactly(requests, 4), "big")
            write_frame(replies, driver.answer(read_exactly(requests, size)))
    os._exit(0)
