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
    """Statements of a file's top level that follow each other as the prompt, and the whole lines behind them, at most `rest_bytes`, as the
    rest. Of all such prompts of at most `head_bytes` the one that holds most statements, at any depth: there is most to perturb.

    None for a file that does not compile or whose statements of the top level are all longer, and for a rest of blank lines.
    """
    tree = tree_of(text) if has_plain_lines(text) else None
    if tree is None:
        return None
    starts = line_starts(text)
    lines = [min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))]) for node in tree.body]
    offsets = list(dict.fromkeys(starts[line - 1] for line in lines))  # of two statements in a line, the first
    counts = dict.fromkeys(offsets, 0)
    for line, node in zip(lines, tree.body, strict=True):
        counts[starts[line - 1]] += sum(isinstance(inner, ast.stmt) for inner in ast.walk(node))
    sizes = [len(text[at:end].encode()) for at, end in zip(offsets, [*offsets[1:], len(text)], strict=True)]
    best, chosen = 0, None
    first = size = held = 0
    for index, at in enumerate(offsets[:-1]):
        size, held = size + sizes[index], held + counts[at]
        while size > head_bytes:
            size, held, first = size - sizes[first], held - counts[offsets[first]], first + 1
        if held > best:
            best, chosen = held, (offsets[first], offsets[index + 1])
    if chosen is None:
        return None
    begin, end = chosen
    rest = text[end:].encode()[:rest_bytes].decode(errors="ignore")  # a character cut in two is left out
    rest = rest if len(rest) == len(text) - end else rest[: rest.rfind("\n") + 1]
    return Snippet(prompt=text[begin:end], rest=rest, frozen=True) if rest.strip() else None
