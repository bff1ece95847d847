"""How a model is asked to solve a problem: named prompt policies, named rules where a completion stops. Both names stand in every result.

| policy | for | the model reads |
|---|---|---|
| `verbatim` | HumanEval | the published prompt, byte for byte, its last newline too |
| `strip` | HumanEval | the same without white space at its end |
| `docstring` | MBPP | a docstring of the task's words and the first published assert, as EvalPlus asks base models |
| `docstring-all` | MBPP | the same with all published asserts |
| `signature` | MBPP | the `def` line of the gold solution, then that docstring, indented: the model need not guess a name |
| `fim` | infilling | prefix and suffix, by fill-in-the-middle; a run that was never told it is refused |
| `prefix` | infilling | the prefix alone |

Other harnesses differ in stripping and stopping alone, and their scores by tens of points; a byte model needs neither strip nor healing.

A program is what the model read, what it wrote, and the suffix if there is one. Not promised: that a policy is the one with which somebody
else's number was made, unless they name it.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from eval.problems import Problem, Style
from proxy_lm.errors import RequestError

# A completion of a function ends where a line begins that cannot belong to it.
_AFTER_FUNCTION: Final = ("\nclass ", "\ndef ", "\n#", "\n@", "\nprint", "\nif ", "\nassert ", "\n```")
STOP_RULES: Final[dict[str, tuple[str, ...]]] = {
    "function": _AFTER_FUNCTION,
    # A whole program may hold several functions, and imports.
    "program": (*(stop for stop in _AFTER_FUNCTION if stop not in ("\nclass ", "\ndef ", "\n@")), '\n"""'),
    "line": ("\n",),
    "none": (),
}


@dataclass(frozen=True)
class Asked:
    """What a model is asked, in bytes, and how its answer becomes a program."""

    prompt: bytes
    suffix: bytes | None
    """For fill-in-the-middle; None: it is not shown."""
    tail: bytes
    """What follows the completion in the program, shown or not."""
    stops: tuple[bytes, ...]
    stop_rule: str
    reference: bytes | None
    """The gold solution as it would follow the prompt. None: there is none, or the model knows more of it than what stands before it."""

    def program(self, completion: bytes) -> bytes:
        """The whole program."""
        return self.prompt + completion + self.tail


@dataclass(frozen=True)
class Policy:
    """A way to ask problems of one style."""

    name: str
    style: Style
    prompt: Callable[[Problem], str]
    stop_rule: Callable[[Problem], str]
    """Name of the rule that a problem has unless told otherwise."""
    shows_suffix: bool = False


def ask(problem: Problem, policy: str | None = None, stop_rule: str | None = None) -> Asked:
    """Ask a problem by a policy (None: the first for its style). Raises `RequestError` for unknown names and a policy of another style."""
    chosen = _policy(problem, policy)
    rule = stop_rule or chosen.stop_rule(problem)
    if rule not in STOP_RULES:
        raise RequestError(f"unknown stop rule '{rule}'; known: {', '.join(STOP_RULES)}")
    suffix = problem.suffix.encode() if problem.style == "infilling" else b""
    # The newline that ends a missing line is a stop, so it is not in the completion; some published suffixes begin with it, some do not.
    newline = b"\n" if rule == "line" and suffix and not suffix.startswith(b"\n") else b""
    return Asked(
        prompt=chosen.prompt(problem).encode(),
        suffix=suffix if chosen.shows_suffix else None,
        tail=newline + suffix,
        stops=tuple(stop.encode() for stop in STOP_RULES[rule]),
        stop_rule=rule,
        reference=_reference(problem, chosen),
    )


def policy_of(problem: Problem, policy: str | None = None) -> str:
    """Name of the policy by which `ask` would ask the problem."""
    return _policy(problem, policy).name


def _policy(problem: Problem, name: str | None) -> Policy:
    fitting = {policy.name: policy for policy in POLICIES if policy.style == problem.style}
    if name is None:
        return next(iter(fitting.values()))
    if name not in fitting:
        raise RequestError(
            f"no prompt policy '{name}' for {problem.task_id}, a problem of style {problem.style}; known: {', '.join(fitting)}"
        )
    return fitting[name]


def _reference(problem: Problem, policy: Policy) -> bytes | None:
    if not problem.canonical_solution or policy.shows_suffix or policy.prompt is _signature:
        return None
    stripped = "" if problem.style == "mbpp" else problem.prompt[len(policy.prompt(problem)) :]
    return (stripped + problem.canonical_solution).encode()


def _docstring(problem: Problem, num_examples: int | None) -> str:
    words = "\n".join([problem.prompt.strip(), *problem.examples[:num_examples]])
    return words.replace('"""', "'''")


def _signature(problem: Problem) -> str:
    """`def` line and indented docstring. Raises `RequestError` where the gold solution does not tell the line."""
    try:
        body = ast.parse(problem.canonical_solution).body
    except SyntaxError:
        body = []
    found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == problem.entry_point]
    if not found:
        raise RequestError(
            f"the gold solution of {problem.task_id} defines no function {problem.entry_point}; ask it by policy 'docstring'"
        )
    inner = textwrap.indent(f'"""{_docstring(problem, 1)}\n"""\n', "    ")
    return f"def {problem.entry_point}({ast.unparse(found[-1].args)}):\n{inner}"


def _infill_rule(problem: Problem) -> str:
    """A missing line ends with its newline; any other missing part ends where the model says so."""
    return "line" if problem.task_id.startswith("SingleLine") else "none"


POLICIES: Final = (
    Policy("verbatim", "humaneval", lambda problem: problem.prompt, lambda _: "function"),
    Policy("strip", "humaneval", lambda problem: problem.prompt.rstrip(), lambda _: "function"),
    Policy("docstring", "mbpp", lambda problem: f'"""\n{_docstring(problem, 1)}\n"""\n', lambda _: "program"),
    Policy("docstring-all", "mbpp", lambda problem: f'"""\n{_docstring(problem, None)}\n"""\n', lambda _: "program"),
    Policy("signature", "mbpp", _signature, lambda _: "function"),
    Policy("fim", "infilling", lambda problem: problem.prompt, _infill_rule, shows_suffix=True),
    Policy(
        "prefix", "infilling", lambda problem: problem.prompt, lambda problem: "line" if _infill_rule(problem) == "line" else "function"
    ),
)
