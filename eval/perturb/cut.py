"""Where a program is cut in two: the prompt that holds the first half of a solution, and the head of a held-out file.

    partial(snippet)                        # the nominal of the families `syntax` and `format`; None for a solution of one statement
    head(text, head_bytes=512, rest_bytes=256)

Both cuts lie at the start of a line that starts a statement, so what stands before is a program, or the beginning of one.
"""

from __future__ import annotations

import ast
from dataclasses import replace

from eval.perturb.base import Snippet, has_plain_lines, line_starts, tree_of


def partial(snippet: Snippet) -> Snippet | None:
    """The snippet with the statements of the first half of its reference solution moved into the prompt.

    The cut is at the statement, at any depth, that is nearest to the middle line of the solution and not the first. None where there is
    no such statement, where the text does not compile, or where the prompt does not end with its line.
    """
    if snippet.frozen or not snippet.prompt.endswith("\n") or not has_plain_lines(snippet.program):
        return None
    tree = tree_of(snippet.program)
    if tree is None:
        return None
    starts = line_starts(snippet.program)
    first = len(line_starts(snippet.prompt))  # the line of the program on which the rest begins, from 1
    last = first + len(line_starts(snippet.rest.rstrip())) - 1
    code = [line for line in _statement_lines(tree, snippet.program) if first <= line <= last]
    if len(code) < 2:
        return None
    line = min(code[1:], key=lambda line: (abs(2 * line - first - last - 1), line))
    at = starts[line - 1]
    return replace(snippet, prompt=snippet.program[:at], rest=snippet.program[at:])


def _statement_lines(tree: ast.AST, source: str) -> list[int]:
    """Lines, from 1, whose first words begin a statement; a decorated definition and an `elif` are not cut off from what is before."""
    lines = source.split("\n")
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or getattr(node, "decorator_list", None):
            continue
        before = lines[node.lineno - 1].encode()[: node.col_offset]
        if not before.strip() and not lines[node.lineno - 1].lstrip().startswith("elif"):
            found.add(node.lineno)
    return sorted(found)


def head(text: str, *, head_bytes: int, rest_bytes: int) -> Snippet | None:
    """The first statements of a file as the prompt, at most `head_bytes` of them, and the whole lines that follow, at most `rest_bytes`.

    None for a file that does not compile, or that has no statement of its top level to cut at with at least a quarter of `head_bytes`
    before it and a line of at most `rest_bytes` after it.
    """
    tree = tree_of(text) if has_plain_lines(text) else None
    if tree is None:
        return None
    starts = line_starts(text)
    decorated = ((min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))])) for node in tree.body)
    offsets = [starts[line - 1] for line in decorated if not text[starts[line - 1] :][:1].isspace()]
    fitting = [at for at in offsets if head_bytes // 4 <= len(text[:at].encode()) <= head_bytes]
    if not fitting:
        return None
    at = fitting[-1]
    rest = text[at:].encode()[:rest_bytes].decode(errors="ignore")  # a character cut in two is left out
    rest = rest if len(rest) == len(text) - at else rest[: rest.rfind("\n") + 1]
    return Snippet(prompt=text[:at], rest=rest, frozen=True) if rest.strip() else None
