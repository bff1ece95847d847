"""Family `function_name`: the function has another name of the same look, wherever it is named.

In a problem it is the function that the tests call; prompt, reference solution and tests follow. In a held-out file it is a function that
the prompt defines at its top and that the rest does not name. Mentions in docstrings follow where they are calls.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import tokenize
from collections.abc import Callable
from dataclasses import replace

from eval.perturb.base import Draws, Edit, Perturbation, Snippet, apply_edits, pick, tree_of
from eval.perturb.tokens import docstrings, names_in, tokens_of
from eval.perturb.words import NEIGHBOUR_KEYS, SYNONYMS

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
Renaming = Callable[[str, Draws], str | None]


def _renaming(rename: Renaming) -> Callable[[Snippet, Draws], Snippet | None]:
    def apply(snippet: Snippet, draws: Draws) -> Snippet | None:
        for name in _choices(snippet):
            if _in_formatted_string(snippet.program + snippet.tests, name):
                continue
            new = rename(name, draws)
            if new is None or new == name or not new.isidentifier() or keyword.iskeyword(new) or hasattr(builtins, new):
                continue
            if re.search(rf"\b{re.escape(new)}\b", snippet.prompt + snippet.rest + snippet.tests):
                continue
            return _renamed(snippet, name, new)
        return None

    return apply


def _in_formatted_string(source: str, name: str) -> bool:
    """Before Python 3.12 an f-string is one token, whose names are not seen."""
    strings = [token.text for token in tokens_of(source) if token.kind == tokenize.STRING]
    return any("f" in text[: text.index(text[-1])].lower() and re.search(rf"\b{name}\b", text) for text in strings)


def _choices(snippet: Snippet) -> list[str]:
    """Functions that may be renamed: the one tested, or in a file those of the prompt's top level, the last first."""
    if not snippet.frozen:
        known = {token.text for token in names_in(snippet.prompt)}
        return [snippet.entry_point] if snippet.entry_point in known and snippet.entry_point else []
    tree = tree_of(snippet.prompt)
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] if tree else []
    return [name for name in reversed(defined) if not re.search(rf"\b{name}\b", snippet.rest) and not name.startswith("__")]


def _renamed(snippet: Snippet, name: str, new: str) -> Snippet:
    # Calls in docstrings: the name before a bracket. Other mentions may be words of the language ("add two numbers").
    calls = re.compile(rf"(?<![\w.]){re.escape(name)}(?=\()")
    edits = [
        Edit(match.start(), match.end(), new)
        for docstring in docstrings(snippet.prompt)
        for match in calls.finditer(snippet.prompt, docstring.inner, docstring.inner_end)
    ]
    # The halves of a partial prompt share one name space; the tokens of the second half are read with the first before them.
    whole = snippet.prompt + ("" if snippet.frozen else snippet.rest)
    border = len(snippet.prompt)
    code = [Edit(token.start, token.end, new) for token in names_in(whole) if token.text == name and not _is_attribute(whole, token.start)]
    tests = [Edit(t.start, t.end, new) for t in names_in(snippet.tests) if t.text == name and not _is_attribute(snippet.tests, t.start)]
    return replace(
        snippet,
        prompt=apply_edits(snippet.prompt, edits + [edit for edit in code if edit.start < border]),
        rest=apply_edits(snippet.rest, [Edit(e.start - border, e.end - border, new) for e in code if e.start >= border]),
        tests=apply_edits(snippet.tests, tests),
        entry_point=new if snippet.entry_point == name else snippet.entry_point,
    )


def _is_attribute(source: str, start: int) -> bool:
    before = source[:start].rstrip(" \t")
    return before.endswith(".") and not before.endswith("..")


def _case_style(name: str, draws: Draws) -> str | None:
    """has_close_elements <-> hasCloseElements."""
    core = name.strip("_")
    lead, tail = name[: len(name) - len(name.lstrip("_"))], name[len(name.rstrip("_")) :]
    if "_" in core:
        first, *others = [part for part in core.split("_") if part]
        return lead + first.lower() + "".join(part[:1].upper() + part[1:] for part in others) + tail
    parts = _PARTS.findall(core)
    return lead + "_".join(part.lower() for part in parts) + tail if len(parts) > 1 else None


def _letters(name: str) -> list[int]:
    return [at for at, letter in enumerate(name) if letter.isascii() and letter.isalpha()]


def _typo(name: str, draws: Draws) -> str | None:
    letters = _letters(name)
    if not letters:
        return None
    at = letters[int(draws.integers(len(letters)))]
    keys = NEIGHBOUR_KEYS[name[at].lower()]
    key = keys[int(draws.integers(len(keys)))]
    return name[:at] + (key.upper() if name[at].isupper() else key) + name[at + 1 :]


def _swap(name: str, draws: Draws) -> str | None:
    pairs = [at for at in _letters(name) if at + 1 in _letters(name) and name[at] != name[at + 1]]
    if not pairs:
        return None
    at = pairs[int(draws.integers(len(pairs)))]
    return name[:at] + name[at + 1] + name[at] + name[at + 2 :]


def _letter_case(name: str, draws: Draws) -> str | None:
    changed = set(pick(draws, _letters(name), 0.35))
    return "".join(letter.swapcase() if at in changed else letter for at, letter in enumerate(name))


def _synonym(name: str, draws: Draws) -> str | None:
    spans = [match.span() for match in _PARTS.finditer(name) if match.group().lower() in SYNONYMS]
    edits = []
    for index in pick(draws, range(len(spans)), 0.5):
        start, end = spans[index]
        others = SYNONYMS[name[start:end].lower()]
        other = others[int(draws.integers(len(others)))]
        edits.append(Edit(start, end, other.capitalize() if name[start].isupper() else other))
    return apply_edits(name, edits) if edits else None


FUNCTION_NAME = (
    Perturbation("name_case_style", "function_name", _renaming(_case_style), random=False),
    Perturbation("name_typo", "function_name", _renaming(_typo)),
    Perturbation("name_swapped_letters", "function_name", _renaming(_swap)),
    Perturbation("name_letter_case", "function_name", _renaming(_letter_case)),
    Perturbation("name_synonym", "function_name", _renaming(_synonym)),
)
