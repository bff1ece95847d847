"""Family `format`: tabs, empty lines, lines broken in two, comments for docstrings, and the cut moved behind the indentation.

The prompt of a problem holds the first half of the solution here. What changes is blank space and the form of docstrings, never what is
computed; tabs go through the reference solution too, else the two halves would not fit.
"""

from __future__ import annotations

import re
import tokenize
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from eval.perturb.base import Draws, Edit, Perturbation, Snippet, apply_edits, edit_prompt, has_plain_lines, line_starts, pick
from eval.perturb.tokens import Token, docstrings, logical_lines, tokens_of

_LEADING = re.compile(r"^ +", re.MULTILINE)
_SPLITS = frozenset({tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING})


def _tabs(snippet: Snippet, draws: Draws) -> Snippet | None:
    """A tab for each step of indentation, in docstrings too, in no other string."""
    source = snippet.program
    kept = _inner_lines(source)
    widths = [len(match.group()) for match in _LEADING.finditer(source) if match.start() not in kept]
    if not widths:
        return None
    step = min(widths)
    edits = []
    for match in _LEADING.finditer(source):
        width = len(match.group())
        if match.start() not in kept and width >= step:
            edits.append(Edit(match.start(), match.end(), "\t" * (width // step) + " " * (width % step)))
    border = len(snippet.prompt)
    rest = [Edit(edit.start - border, edit.end - border, edit.text) for edit in edits if edit.start >= border]
    prompt = apply_edits(snippet.prompt, [edit for edit in edits if edit.end <= border])
    return replace(snippet, prompt=prompt, rest=apply_edits(snippet.rest, rest))


def _inner_lines(source: str) -> set[int]:
    """Starts of lines that begin inside a string that is no docstring."""
    documented = {docstring.start for docstring in docstrings(source)}
    starts = line_starts(source)
    kept: set[int] = set()
    opened: int | None = None  # start of an f-string of several tokens
    for token in tokens_of(source):
        name = tokenize.tok_name[token.kind]
        if name == "FSTRING_START":
            opened = token.start if opened is None else opened
        inside = token.kind == tokenize.STRING or opened is not None
        if inside and token.start not in documented:
            kept.update(at for at in starts if (opened if opened is not None else token.start) < at < token.end)
        if name == "FSTRING_END":
            opened = None
    return kept


def _empty_lines(snippet: Snippet, draws: Draws) -> Snippet | None:
    """An empty line before one statement in five."""
    places = [at for at in logical_lines(snippet.prompt) if at > 0]
    return edit_prompt(snippet, [Edit(at, at, "\n") for at in pick(draws, places, 0.2)]) if places else None


def _empty_line_after_docstring(snippet: Snippet, draws: Draws) -> Snippet | None:
    edits = []
    for docstring in docstrings(snippet.prompt):
        end = snippet.prompt.find("\n", docstring.end)
        edits += [Edit(end + 1, end + 1, "\n")] if end >= 0 else []
    return edit_prompt(snippet, edits) if edits else None


def _empty_line_after_code(snippet: Snippet, draws: Draws) -> Snippet | None:
    """The prompt ends with an empty line more."""
    return replace(snippet, prompt=snippet.prompt + "\n") if snippet.prompt.endswith("\n") else None


def _cut_after_indentation(snippet: Snippet, draws: Draws) -> Snippet | None:
    """The prompt ends with the indentation of the next line, where an editor leaves the cursor. The rest is shorter by it."""
    blank = re.match(r"\n*[ \t]+", snippet.rest)
    if snippet.frozen or blank is None or not snippet.prompt.endswith("\n"):
        return None
    return replace(snippet, prompt=snippet.prompt + blank.group(), rest=snippet.rest[blank.end() :])


def _split_line(snippet: Snippet, draws: Draws) -> Snippet | None:
    """The longest line of code goes on behind a backslash: broken at the space between two tokens nearest to its middle."""
    found = tokens_of(snippet.prompt)
    starts = [*line_starts(snippet.prompt), len(snippet.prompt) + 1]
    places: dict[int, list[int]] = {}
    for before, after in pairwise(found):
        if before.line == after.line and _may_part(before, after) and snippet.prompt[before.end : after.start] == " ":
            places.setdefault(before.line, []).append(before.end)
    if not places:
        return None
    line = max(places, key=lambda line: (starts[line] - starts[line - 1], -line))
    middle = (starts[line - 1] + starts[line]) // 2
    at = min(places[line], key=lambda at: (abs(at - middle), at))
    text = snippet.prompt[starts[line - 1] : at]
    indentation = text[: len(text) - len(text.lstrip())]
    return edit_prompt(snippet, [Edit(at, at + 1, f" \\\n{indentation}    ")])


def _may_part(before: Token, after: Token) -> bool:
    return before.kind in _SPLITS and after.kind in _SPLITS


def _comments(snippet: Snippet, draws: Draws) -> Snippet | None:
    """Docstrings of functions become comments of the same text, line by line."""
    edits = []
    for docstring in docstrings(snippet.prompt):
        start = snippet.prompt.rfind("\n", 0, docstring.start) + 1
        indentation = snippet.prompt[start : docstring.start]
        end = snippet.prompt.find("\n", docstring.end)
        if not indentation or indentation.strip() or end < 0 or snippet.prompt[docstring.end : end].strip():
            continue
        lines = snippet.prompt[docstring.inner : docstring.inner_end].strip("\n").rstrip().split("\n")
        text = "\n".join(f"{indentation}# {line.strip()}".rstrip() for line in lines)
        edits.append(Edit(start, end, text))
    return edit_prompt(snippet, edits) if edits else None


def _quotes(snippet: Snippet, draws: Draws) -> Snippet | None:
    """Docstrings between three single quotes instead of three double ones, or the other way round."""
    edits = []
    for docstring in docstrings(snippet.prompt):
        old = snippet.prompt[docstring.end - 3 : docstring.end]
        new = "'''" if old == '"""' else '"""'
        inner = snippet.prompt[docstring.inner : docstring.inner_end]
        if new not in inner and not inner.endswith(new[0]) and not inner.startswith(new[0]):
            edits += [Edit(docstring.inner - 3, docstring.inner, new), Edit(docstring.end - 3, docstring.end, new)]
    return edit_prompt(snippet, edits) if edits else None


def _on_plain_lines(name: str, change: Callable[[Snippet, Draws], Snippet | None], *, random: bool) -> Perturbation:
    def apply(snippet: Snippet, draws: Draws) -> Snippet | None:
        return change(snippet, draws) if has_plain_lines(snippet.program) else None

    return Perturbation(name, "format", apply, random=random, partial=True)


FORMAT = (
    _on_plain_lines("tabs", _tabs, random=False),
    _on_plain_lines("empty_lines", _empty_lines, random=True),
    _on_plain_lines("empty_line_after_docstring", _empty_line_after_docstring, random=False),
    _on_plain_lines("empty_line_after_code", _empty_line_after_code, random=False),
    _on_plain_lines("cut_after_indentation", _cut_after_indentation, random=False),
    _on_plain_lines("split_line", _split_line, random=False),
    _on_plain_lines("comments_for_docstrings", _comments, random=False),
    _on_plain_lines("quotes", _quotes, random=False),
)
