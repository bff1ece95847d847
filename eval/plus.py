"""HumanEval+ and MBPP+ as EvalPlus releases them: inputs instead of tests, and a gold solution that says what is right.

The release file holds `base_input` and `plus_input`. The tests made of it run in the trusted judge: the gold solution answers each
input there, the program under test is asked through its proxy, and `eval.plus_oracle` says whether the answers agree. No expected value is
ever where the program is. JSON has no tuples, sets and complex numbers; for the MBPP tasks that need them they are restored by task, as
evalplus 0.3.1 does.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from eval.problems import Problem

Shape = Callable[[list[Any]], Sequence[Any]]


def is_release(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a release file of EvalPlus."""
    return "base_input" in row or "plus_input" in row


def plus_problem(row: Mapping[str, Any]) -> Problem:
    """A problem that passes when both the original and the added inputs are answered right. Raises `KeyError` with a missing field."""
    task_id, entry, prompt = str(row["task_id"]), str(row["entry_point"]), str(row["prompt"])
    is_mbpp = task_id.lower().startswith("mbpp/")
    solution = str(row["canonical_solution"])
    inputs = [*row["base_input"], *(row["plus_input"] or [])]
    if is_mbpp:
        number = int(task_id.rpartition("/")[2])
        inputs = [_SHAPES.get(number, list)(arguments) for arguments in inputs]
    # EvalPlus's MBPP prompt is a docstring, so prompt + solution is its program in both halves.
    test = _TEST.format(
        oracle=_oracle_source(),
        gold=prompt + solution,
        inputs=inputs,
        entry=entry,
        tolerance=float(row["atol"]),
        is_mbpp=is_mbpp,
    )
    return Problem(
        task_id=task_id,
        prompt=_words(prompt) if is_mbpp else prompt,
        entry_point=entry,
        canonical_solution=prompt + solution if is_mbpp else solution,
        test=test,
        style="mbpp" if is_mbpp else "humaneval",
        examples=tuple(_asserts(prompt)) if is_mbpp else (),
    )


# The gold solution has a namespace of its own, so that its helpers cannot stand in for the program's.
_TEST = """{oracle}

import copy

inf, nan = math.inf, math.nan
_gold = {{}}
exec(compile({gold!r}, "<gold>", "exec"), _gold)
for _arguments in {inputs!r}:
    _expected = _gold[{entry!r}](*copy.deepcopy(_arguments))
    _got = {entry}(*copy.deepcopy(_arguments))
    assert agrees({entry!r}, _arguments, _got, _expected, {tolerance!r}, {is_mbpp!r})
"""


@cache
def _oracle_source() -> str:
    return Path(__file__).with_name("plus_oracle.py").read_text(encoding="utf-8")


def _words(prompt: str) -> str:
    """What the docstring of an MBPP+ prompt asks, without its asserts."""
    return "\n".join(line for line in _docstring(prompt) if not line.startswith("assert ")).strip()


def _asserts(prompt: str) -> list[str]:
    return [line for line in _docstring(prompt) if line.startswith("assert ")]


def _docstring(prompt: str) -> list[str]:
    try:
        return (ast.get_docstring(ast.parse(prompt)) or prompt).splitlines()
    except SyntaxError:
        return prompt.splitlines()


def _each(arguments: list[Any]) -> list[Any]:
    """Every argument is a tuple."""
    return [tuple(argument) for argument in arguments]


def _each_of_each(arguments: list[Any]) -> list[Any]:
    """Every argument is a list of tuples."""
    return [_each(argument) for argument in arguments]


def _deep(value: Any) -> Any:
    """Tuples all the way down."""
    return tuple(_deep(item) for item in value) if isinstance(value, list) else value


def _first(arguments: list[Any]) -> list[Any]:
    """The first argument is a tuple."""
    return [tuple(arguments[0]), *arguments[1:]]


def _first_of_tuples(arguments: list[Any]) -> list[Any]:
    """The first argument is a list of tuples."""
    return [_each(arguments[0]), *arguments[1:]]


def _second(arguments: list[Any]) -> list[Any]:
    """The second argument is a tuple."""
    return [arguments[0], tuple(arguments[1])]


def _sets(arguments: list[Any]) -> list[Any]:
    """A list of sets; an empty one is a dictionary, as in the original's tests."""
    return [[set(item) if isinstance(item, list) and item else {} for item in arguments[0]]]


def _tuple_of_mixed(arguments: list[Any]) -> list[Any]:
    """A tuple whose lists are tuples, and whose other members stay."""
    return [tuple(tuple(item) if isinstance(item, list) else item for item in arguments[0])]


def _values(arguments: list[Any]) -> list[Any]:
    """A dictionary whose values are tuples, then the rest."""
    return [{key: tuple(value) for key, value in arguments[0].items()}, *arguments[1:]]


_GROUPS: list[tuple[Shape, tuple[int, ...]]] = [
    (_each, (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809)),
    (_each_of_each, (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780)),
    (_first_of_tuples, (75, 413, 444, 753)),
    (_second, (106, 750)),
    (_sets, (115,)),
    (lambda arguments: [float(arguments[0]), complex(arguments[1])], (124,)),
    (_first, (250, 307, 405, 446, 617, 720, 763, 808)),
    (lambda arguments: _each(_each_of_each(arguments)), (259, 401, 445)),
    (_tuple_of_mixed, (278,)),
    (_values, (722,)),
    (lambda arguments: [complex(arguments[0])], (252,)),
    (_deep, (580, 615, 791)),
]
_SHAPES: dict[int, Shape] = {number: shape for shape, numbers in _GROUPS for number in numbers}
