"""Family `docstring`: the prose of docstrings with slips of the pen. Names, examples and code in it stay as they are.

Prose is what stands in a docstring outside its examples (lines from `>>>` to the next empty line, lines that name the function or hold an
arrow or `==`). Of it, words stay that are names in the code, `True`, `False` or `None`, or that touch a quote, digit, bracket, underscore
or operator: a slip there would change the task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from eval.perturb.base import Draws, Edit, Perturbation, Snippet, edit_prompt, pick
from eval.perturb.tokens import docstrings, names_in
from eval.perturb.words import NEIGHBOUR_KEYS, SYNONYMS

_WORD = re.compile(r"(?<![\w'\"`(\[{<>=+*/\\.@#$%&|^~-])[A-Za-z]{2,}(?![\w'\"`(\]}<>=+*/\\@#$%&|^~-]|\.\w)")
_EXAMPLE = re.compile(r"->|=>|==|\u279e|\u21d2|\u2192|^\s*(>>>|\.\.\.)")
_LINE = re.compile(r"[^\n]*\n?")

Words = list[tuple[int, int]]


def prose_words(snippet: Snippet) -> Words:
    """(start, end) of each word of the prompt's docstrings that may be misspelt."""
    kept = {"True", "False", "None"} | {token.text for token in names_in(snippet.prompt)}
    found: Words = []
    for docstring in docstrings(snippet.prompt):
        in_example = False
        for match in _LINE.finditer(snippet.prompt, docstring.inner, docstring.inner_end):
            line = match.group()
            in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
            named = snippet.entry_point is not None and re.search(rf"\b{re.escape(snippet.entry_point)}\b", line)
            if in_example or named or _EXAMPLE.search(line):
                continue
            at = match.start()
            found += [(at + word.start(), at + word.end()) for word in _WORD.finditer(line) if word.group() not in kept]
    return found


def _rewriting(
    change: Callable[[str, Words, Draws], Sequence[Edit]],
) -> Callable[[Snippet, Draws], Snippet | None]:
    """A perturbation from a function (prompt, words, draws) -> edits."""

    def apply(snippet: Snippet, draws: Draws) -> Snippet | None:
        words = prose_words(snippet)
        return edit_prompt(snippet, change(snippet.prompt, words, draws)) if words else None

    return apply


def _letters(words: Words) -> list[int]:
    return [at for start, end in words for at in range(start, end)]


def _typos(prompt: str, words: Words, draws: Draws) -> list[Edit]:
    """One letter in twenty becomes its neighbour on the keyboard."""
    edits = []
    for at in pick(draws, _letters(words), 0.05):
        keys = NEIGHBOUR_KEYS[prompt[at].lower()]
        key = keys[int(draws.integers(len(keys)))]
        edits.append(Edit(at, at + 1, key.upper() if prompt[at].isupper() else key))
    return edits


def _swapped(prompt: str, words: Words, draws: Draws) -> list[Edit]:
    """One pair of letters in twenty changes places; pairs do not overlap."""
    pairs = [at for start, end in words for at in range(start, end - 1) if prompt[at] != prompt[at + 1]]
    edits: list[Edit] = []
    for at in pick(draws, pairs, 0.05):
        if not edits or at >= edits[-1].end:
            edits.append(Edit(at, at + 2, prompt[at + 1] + prompt[at]))
    return edits


def _case(prompt: str, words: Words, draws: Draws) -> list[Edit]:
    """One letter in three changes its case."""
    return [Edit(at, at + 1, prompt[at].swapcase()) for at in pick(draws, _letters(words), 0.35)]


def _noise(prompt: str, words: Words, draws: Draws) -> list[Edit]:
    """One letter in twenty is lost, or struck twice."""
    return [Edit(at, at + 1, prompt[at] * (2 * int(draws.random() < 0.5))) for at in pick(draws, _letters(words), 0.05)]


def _spaces(prompt: str, words: Words, draws: Draws) -> list[Edit]:
    """One space between words in ten is lost, one word in twenty is broken in two."""
    gaps = [end for (_, end), (start, _) in pairwise(words) if prompt[end:start] == " "]
    lost = [Edit(at, at + 1, "") for at in pick(draws, gaps, 0.1)]
    long = [index for index, (start, end) in enumerate(words) if end - start > 3]
    broken = [words[index][0] + int(draws.integers(1, words[index][1] - words[index][0])) for index in pick(draws, long, 0.05)]
    return lost + [Edit(at, at, " ") for at in broken]


def _synonyms(prompt: str, words: Words, draws: Draws) -> list[Edit]:
    """Every other word that has a synonym in our table is replaced by one."""
    known = [index for index, (start, end) in enumerate(words) if prompt[start:end].lower() in SYNONYMS]
    edits = []
    for index in pick(draws, known, 0.5):
        start, end = words[index]
        others = SYNONYMS[prompt[start:end].lower()]
        other = others[int(draws.integers(len(others)))]
        edits.append(Edit(start, end, other.capitalize() if prompt[start].isupper() else other))
    return edits


DOCSTRING = (
    Perturbation("typos", "docstring", _rewriting(_typos)),
    Perturbation("swapped_letters", "docstring", _rewriting(_swapped)),
    Perturbation("letter_case", "docstring", _rewriting(_case)),
    Perturbation("letter_noise", "docstring", _rewriting(_noise)),
    Perturbation("spaces", "docstring", _rewriting(_spaces)),
    Perturbation("synonyms", "docstring", _rewriting(_synonyms)),
)
