"""What a perturbation is: a keyed, pure change of a prompt that leaves its meaning alone.

    snippet = Snippet(prompt="def add(a, b):\n    \"\"\"Add two numbers.\"\"\"\n", rest="    return a + b\n", entry_point="add")
    changed = perturb(perturbation("typos"), snippet, seed=0, task="own/1")      # a Snippet, or None where it does not apply

Every draw is keyed by (perturbation, seed, task): no state, any order, any subset, the same result. A perturbation whose outcome does not
depend on the draw has one seed. What comes back parses if what went in did.

Not promised: that a changed program behaves as before in every world (an object whose comparison depends on the order of its operands, a
program that reads its own source). The caller runs the changed reference solution against the tests and drops what fails.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from compressors.files import canonical_json

Family = Literal["docstring", "function_name", "syntax", "format"]
FAMILIES: tuple[Family, ...] = ("docstring", "function_name", "syntax", "format")
Draws = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """A prompt, the reference text that follows it, and what judges the two together."""

    prompt: str
    rest: str
    """The reference solution (or the rest of a file): what the model should write after the prompt."""
    entry_point: str | None = None
    """Name of the function that the tests call."""
    tests: str = ""
    frozen: bool = False
    """The rest may not change and is not parsed: a held-out file, cut off somewhere. Only the prompt is a program then."""

    @property
    def program(self) -> str:
        """The text that has to parse."""
        return self.prompt if self.frozen else self.prompt + self.rest


@dataclass(frozen=True)
class Perturbation:
    """One kind of change. `apply` gives None where there is nothing to change."""

    name: str
    family: Family
    apply: Callable[[Snippet, Draws], Snippet | None]
    random: bool = True
    """False: every seed gives the same result, so one is enough."""
    partial: bool = False
    """It changes code, so a prompt that holds no code gets the first half of the reference solution."""


def perturb(perturbation: Perturbation, snippet: Snippet, *, seed: int, task: str) -> Snippet | None:
    """The changed snippet; None where the perturbation does not apply or changes nothing."""
    changed = perturbation.apply(snippet, keyed_draws(perturbation.name, seed if perturbation.random else 0, task))
    if changed is None or changed.prompt == snippet.prompt:
        return None
    if snippet.frozen and changed.rest != snippet.rest:
        return None
    if parses(snippet.program) and not parses(changed.program):
        return None  # for instance tabs in a program that mixes them with spaces
    return changed


def keyed_draws(name: str, seed: int, task: str) -> Draws:
    """The generator of one (perturbation, seed, task): Philox under a key digested from the three."""
    digest = hashlib.sha256(canonical_json([name, seed, task])).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64)))


def parses(source: str) -> bool:
    """Whether Python compiles it. Warnings about its style are its author's."""
    return tree_of(source) is not None


def tree_of(source: str) -> ast.Module | None:
    """The syntax tree; None for what Python does not compile (`return` outside a function included)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(source, "<perturbed>", "exec", dont_inherit=True)
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: null bytes; the last two: nesting too deep to compile
            return None


@dataclass(frozen=True, order=True)
class Edit:
    """Characters start .. end - 1 become `text`; start == end inserts."""

    start: int
    end: int
    text: str


def apply_edits(source: str, edits: Iterable[Edit]) -> str:
    """All edits at once, by offsets of the unchanged source. They may touch and may not overlap."""
    parts, at = [], 0
    for edit in sorted(edits):
        assert at <= edit.start <= edit.end <= len(source), "edits overlap"
        parts += [source[at : edit.start], edit.text]
        at = edit.end
    return "".join([*parts, source[at:]])


def edit_prompt(snippet: Snippet, edits: Iterable[Edit]) -> Snippet:
    """The snippet with its prompt edited."""
    return replace(snippet, prompt=apply_edits(snippet.prompt, edits))


def line_starts(source: str) -> list[int]:
    """Offset of the start of each line; lines end in a line feed, and line 1 of Python is entry 0."""
    return [0, *(match.end() for match in re.finditer("\n", source))]


def has_plain_lines(source: str) -> bool:
    """Whether lines are what Python, libcst and a split at line feeds all take for lines."""
    return not any(mark in source for mark in "\r\f\v\x1c\x1d\x1e\x85\u2028\u2029\0")


def pick(draws: Draws, choices: list[int] | range, share: float) -> list[int]:
    """Each choice with probability `share`, and one in any case, in order; none of nothing."""
    if not len(choices):
        return []
    taken = [choice for choice, draw in zip(choices, draws.random(len(choices)), strict=True) if draw < share]
    return taken or [choices[int(draws.integers(len(choices)))]]
