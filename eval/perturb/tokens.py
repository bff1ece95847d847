"""Python tokens with offsets, and what they say about a source: which strings are docstrings, where logical lines start.

Works on a source that stops in the middle of a block, as a prompt does; it stops without a word where Python's tokenizer gives up.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

from eval.perturb.base import line_starts

_LAYOUT = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT}
OPENING, CLOSING = frozenset("([{"), frozenset(")]}")


@dataclass(frozen=True)
class Token:
    """`start` and `end` are offsets in the source; `line` counts from 1; `depth` is the number of open brackets before it."""

    kind: int
    text: str
    start: int
    end: int
    line: int
    depth: int


def tokens_of(source: str) -> list[Token]:
    """All tokens up to the first that Python cannot read. f-strings are one token or several, as the Python that runs this has it."""
    starts = line_starts(source)
    found: list[Token] = []
    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(source, newline="").readline):
            if token.type == tokenize.ENDMARKER or token.start[0] > len(starts):
                break
            depth -= token.type == tokenize.OP and token.string in CLOSING
            start = starts[token.start[0] - 1] + token.start[1]
            end = min(starts[min(token.end[0], len(starts)) - 1] + token.end[1], len(source))
            found.append(Token(token.type, token.string, start, end, token.start[0], depth))
            depth += token.type == tokenize.OP and token.string in OPENING
    except (tokenize.TokenError, SyntaxError):  # the end came inside a bracket, a string or an indented block
        pass
    return found


@dataclass(frozen=True)
class Docstring:
    """A triple-quoted string that stands alone as a statement: `start` .. `end` with its quotes, `inner` .. `inner_end` without."""

    start: int
    end: int
    inner: int
    inner_end: int


def docstrings(source: str) -> Iterator[Docstring]:
    """Every triple-quoted string that is a whole statement, in order."""
    found = tokens_of(source)
    alone = True
    for index, token in enumerate(found):
        if token.kind == tokenize.STRING and alone:
            following = found[index + 1] if index + 1 < len(found) else None
            quote = next((mark for mark in ('"""', "'''") if mark in token.text[:5]), None)
            if quote and (following is None or following.kind in (tokenize.NEWLINE, tokenize.COMMENT)):
                inner = token.start + token.text.index(quote) + 3
                yield Docstring(token.start, token.end, inner, token.end - 3)
        if token.kind not in _LAYOUT:
            alone = token.kind == tokenize.NEWLINE


def logical_lines(source: str) -> list[int]:
    """Offsets at which lines start that begin a statement, a comment or nothing: an empty line may be put before each."""
    starts = line_starts(source)
    found = tokens_of(source)
    inside: set[int] = set()
    statement_from: int | None = None
    for token in found:
        last = token.line + token.text.count("\n") - (token.kind in (tokenize.NEWLINE, tokenize.NL))
        if token.kind not in _LAYOUT:
            statement_from = token.line if statement_from is None else statement_from
            inside.update(range(statement_from + 1, last + 1))
        if token.kind == tokenize.NEWLINE:
            statement_from = None
    last_line = found[-1].line if found else 0
    return [starts[line - 1] for line in range(1, last_line + 1) if line not in inside]


def names_in(source: str) -> list[Token]:
    """Name tokens (keywords too), strings and comments left out."""
    return [token for token in tokens_of(source) if token.kind == tokenize.NAME]
