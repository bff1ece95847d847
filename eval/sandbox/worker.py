"""The process of one slot: reads programs from standard input, one JSON object a line, and writes outcomes. Started by `pool`.

It is the parent of everything that a program's sandbox starts (a subreaper), has one thread, and ends, with all its children, when the
other end of its standard input closes.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import importlib
import json
import select
import sys
from typing import Any, Final

from eval.sandbox import confine
from eval.sandbox.programs import Program
from eval.sandbox.supervisor import MachineFaultError, reap_all, supervise
from eval.sandbox.tiers import build_tier
from proxy_lm.errors import RequestError

# Imported here once where tests name them, so that each judge, a fork of this process, has them at once.
_SHARED_MODULES: Final = frozenset({"numpy", "math", "random", "copy", "re", "collections", "itertools", "functools", "string"})


def pack(program: Program) -> bytes:
    """A program as a line."""
    solution = program.solution
    told = {name: getattr(program, name) for name in ("key", "tests", "helpers", "limit_s", "memory_bytes")}
    text = solution if isinstance(solution, bytes) else solution.encode("utf-8", "surrogatepass")
    packed = told | {
        "entry_points": list(program.entry_points),
        "solution": base64.b64encode(text).decode(),
        "is_text": isinstance(solution, str),
    }
    return json.dumps(packed).encode() + b"\n"


def unpack(line: bytes) -> Program:
    """The program of a line."""
    told: dict[str, Any] = json.loads(line)
    solution = base64.b64decode(told.pop("solution"))
    text = solution.decode("utf-8", "surrogatepass") if told.pop("is_text") else solution
    return Program(**(told | {"solution": text, "entry_points": tuple(told["entry_points"])}))


def import_for_tests(program: Program) -> None:
    """Import what the tests import, if it is one of a few modules of long loading. A module that is not there is the judge's to report."""
    with contextlib.suppress(SyntaxError, ValueError, RecursionError):
        for node in ast.walk(ast.parse(program.tests)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in _SHARED_MODULES & set(names):
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)


def answer(line: bytes, tier_name: str) -> dict[str, Any]:
    """The outcome of a line, or {"fault": sentence}."""
    program = unpack(line)
    if program.tests:
        import_for_tests(program)
    try:
        return {"key": program.key, **supervise(program, build_tier(tier_name), abandoned)}
    except (MachineFaultError, RequestError, OSError) as error:
        return {"key": program.key, "fault": str(error)}


def abandoned() -> bool:
    """Whether the other end of standard input has gone."""
    poll = select.poll()
    poll.register(0, 0)
    return bool(poll.poll(0))


def main(tier_name: str) -> None:
    """Answer until standard input ends."""
    confine.adopt_orphans()
    # What a sandbox prints must never reach the protocol: it gets pipes of its own, and the judge gets none.
    lines, outcomes = sys.stdin.buffer, sys.stdout.buffer
    for line in lines:
        try:
            try:
                told = answer(line, tier_name)
            finally:
                reap_all()
        except MachineFaultError as error:  # a process that cannot be ended: this slot is given up, and another takes its place
            raise SystemExit(f"a slot of the sandbox ends: {error}") from error
        outcomes.write(json.dumps(told).encode() + b"\n")
        outcomes.flush()


if __name__ == "__main__":
    main(sys.argv[1])
