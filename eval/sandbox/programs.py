"""What is asked of the sandbox and what comes back: a generated program with its tests, and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from compressors.errors import RequestError

Verdict = Literal["pass", "fail", "timeout"]

MAX_LIMIT_S: Final = 3600.0
MIN_MEMORY_BYTES: Final = 128 << 20
# Under load a program may take this many times its limit before it is stopped, if all it did was wait for a core.
MAX_LOAD_FACTOR: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Program:
    """One generated program to be judged.

    `solution` is hostile and runs inside the sandbox. `tests` and `helpers` are trusted and run outside it, in the judge: `helpers` first
    (functions of the problem itself that the tests use: nothing in the solution can replace them), then the entry points are bound to
    stand-ins, then `tests`; the program passes when the tests end without an exception. Arguments and results go by value.
    """

    key: str
    """Names the program in its outcome; unique within one call of `judge`."""
    solution: str | bytes
    """Text of the program. Bytes are read as Python reads a file: by its coding line, UTF-8 without one."""
    tests: str
    """Trusted test code, calling the entry points."""
    entry_points: tuple[str, ...]
    """Names of the solution that the tests use: functions, classes, constants."""
    helpers: str = ""
    """Trusted code run before; what it defines is used instead of a name of the solution, entry points excepted."""
    limit_s: float = 10.0
    """Seconds for loading the solution and for all tests together, time spent waiting for a core not counted."""
    memory_bytes: int = 1 << 30
    """Address space of the program's process."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit_s) and 0 < self.limit_s <= MAX_LIMIT_S):
            raise RequestError(f"limit_s {self.limit_s} of program {self.key!r}; a limit is over 0 and at most {MAX_LIMIT_S:.0f} seconds")
        if self.memory_bytes < MIN_MEMORY_BYTES:
            raise RequestError(
                f"memory_bytes {self.memory_bytes} of program {self.key!r}; the interpreter alone needs {MIN_MEMORY_BYTES}: give more"
            )
        for name in self.entry_points:
            if not name.isidentifier():
                raise RequestError(f"entry point {name!r} of program {self.key!r} is not a Python name")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The verdict on one program. A fault of the machine is never an outcome: it is retried, then raised."""

    key: str
    verdict: Verdict
    reason: str
    """One printable line: what failed and where in the tests; empty for a pass."""
    seconds: float
    """Loading and tests, time spent waiting for a core not counted where the kernel tells it."""
    tier: str
    """How the program was isolated."""
