"""Family `syntax`, statements: `for` and `while` told as each other, code that never runs, the two branches of an `if` exchanged.

Each is exact for every iterable, condition, `break` and `continue`, and leaves the text behind the cut as it is: a loop may begin before
the cut and end behind it.
"""

from __future__ import annotations

import libcst as cst

from eval.perturb.base import Draws, Edit, Perturbation, Snippet, edit_prompt, pick
from eval.perturb.source import Source


def _for_to_while(snippet: Snippet, draws: Draws) -> Snippet | None:
    """Half of the `for` loops become `while` loops: over `range` with a counter, over anything else with `iter` and `next`."""
    source = Source.of(snippet)
    if source is None or source.assigns(("range", "iter", "next", "StopIteration")):
        return None
    loops = [loop for loop in source.nodes(cst.For) if loop.asynchronous is None and loop.orelse is None and source.in_function(loop)]
    sites = [edits for loop in loops if (edits := _without_for(source, loop))]
    return edit_prompt(snippet, [edit for index in pick(draws, range(len(sites)), 0.5) for edit in sites[index]]) if sites else None


def _header(source: Source, loop: cst.For | cst.While) -> tuple[int, int, int, str, str] | None:
    """(start, end of the colon, start of the body's first line, indentation, that of the body) of a loop that begins before the cut."""
    start, indentation = source.span(loop)[0], source.indentation(loop)
    colon = source.colon_after(start)
    if indentation is None or colon is None or not isinstance(loop.body, cst.IndentedBlock):
        return None
    body = source.text.find("\n", colon) + 1
    inner = source.indentation(loop.body.body[0])
    return (start, colon, body, indentation, inner) if inner is not None and body <= source.border else None


def _without_for(source: Source, loop: cst.For) -> list[Edit] | None:
    header = _header(source, loop)
    if header is None:
        return None
    start, colon, body, indentation, inner = header
    target = source.code(loop.target)
    counted = _range_of(source, loop)
    if counted is not None:
        first, stop, step = counted
        at = source.new_name([f"next_{target}", "position"])
        before = f"{at} = {first}\n{indentation}"
        if not stop.isdigit():
            end = source.new_name([f"last_{target}", "end"])
            before, stop = f"{before}{end} = {stop}\n{indentation}", end
        sign = ">" if step.startswith("-") else "<"
        advance = f"{at} -= {step[1:]}" if step.startswith("-") else f"{at} += {step}"
        inside = f"{inner}{target} = {at}\n{inner}{advance}\n"
        return [Edit(start, colon, f"{before}while {at} {sign} {stop}:"), Edit(body, body, inside)]
    items = source.code(loop.iter)
    if isinstance(loop.iter, cst.Tuple) and not loop.iter.lpar:
        items = f"({items})"
    at = source.new_name(["items", "remaining", "iterator"])
    take = f"{inner}try:\n{inner}{source.step}{target} = next({at})\n{inner}except StopIteration:\n{inner}{source.step}break\n"
    return [Edit(start, colon, f"{at} = iter({items})\n{indentation}while True:"), Edit(body, body, take)]


def _range_of(source: Source, loop: cst.For) -> tuple[str, str, str] | None:
    """(start, stop, step) of a loop over `range` with a name for its target and a written step."""
    call = loop.iter
    if not isinstance(loop.target, cst.Name) or loop.target.lpar or not isinstance(call, cst.Call) or call.lpar:
        return None
    if not isinstance(call.func, cst.Name) or call.func.value != "range" or any(arg.star or arg.keyword for arg in call.args):
        return None
    words = [source.code(arg.value) for arg in call.args]
    if not 1 <= len(words) <= 3 or any(isinstance(arg.value, cst.GeneratorExp | cst.NamedExpr) for arg in call.args):
        return None
    first, stop = ("0", words[0]) if len(words) == 1 else (words[0], words[1])
    step = words[2] if len(words) == 3 else "1"
    digits = step.removeprefix("-")
    return (first, stop, step) if digits.isdigit() and int(digits) else None


def _while_to_for(snippet: Snippet, draws: Draws) -> Snippet | None:
    """Half of the `while` loops become `for` loops without end that leave when the condition fails."""
    source = Source.of(snippet)
    if source is None or source.assigns(("iter", "int")):
        return None
    sites = []
    for loop in source.nodes(cst.While):
        header = _header(source, loop) if loop.orelse is None and source.in_function(loop) else None
        if header is None:
            continue
        start, colon, body, _, inner = header
        test = source.code(loop.test)
        name = source.new_name(["turn", "step", "attempt"])
        leave = "" if test in ("True", "1") else f"{inner}if not {_bracketed(loop.test, test)}:\n{inner}{source.step}break\n"
        sites.append([Edit(start, colon, f"for {name} in iter(int, 1):"), *([Edit(body, body, leave)] if leave else [])])
    return edit_prompt(snippet, [edit for index in pick(draws, range(len(sites)), 0.5) for edit in sites[index]]) if sites else None


def _bracketed(node: cst.BaseExpression, text: str) -> str:
    simple = isinstance(node, cst.Name | cst.Call | cst.Attribute | cst.Subscript) or node.lpar
    return text if simple else f"({text})"


def _dead_code(snippet: Snippet, draws: Draws) -> Snippet | None:
    """Somewhere before a statement of a function: a block that never runs, with a copy of a statement of that function."""
    source = Source.of(snippet)
    sites = _places(source) if source else []
    return _inserted(snippet, source, sites[int(draws.integers(len(sites)))], draws) if source and sites else None


def _dead_code_at_end(snippet: Snippet, draws: Draws) -> Snippet | None:
    """The same just before the cut, where the model has to go on."""
    source = Source.of(snippet)
    if source is None or snippet.frozen:
        return None
    sites = [site for site in _places(source, behind=True) if site[0] == source.border]
    return _inserted(snippet, source, sites[0], draws) if sites else None


Place = tuple[int, str, cst.FunctionDef]


def _places(source: Source, *, behind: bool = False) -> list[Place]:
    """(start of a line, its indentation, function) of each statement that may have another before it."""
    found = []
    for function, block in source.blocks:
        for index, statement in enumerate(block.body):
            indentation = source.indentation(statement)
            start = source.line_at(source.span(statement)[0])
            # A decorated definition starts above its own line; before a docstring nothing may stand.
            decorated = isinstance(statement, cst.FunctionDef | cst.ClassDef) and bool(statement.decorators)
            if indentation and not decorated and not (index == 0 and _is_text(statement)) and (start < source.border or behind):
                found.append((start, indentation, function))
    return sorted(found, key=lambda place: place[0])


def _is_text(statement: cst.CSTNode) -> bool:
    if not isinstance(statement, cst.SimpleStatementLine):
        return False
    first = statement.body[0]
    return isinstance(first, cst.Expr) and isinstance(first.value, cst.SimpleString | cst.ConcatenatedString)


def _inserted(snippet: Snippet, source: Source, place: Place, draws: Draws) -> Snippet:
    at, indentation, function = place
    copies = [
        source.code(small)
        for owner, block in source.blocks
        if owner is function
        for statement in block.body
        if isinstance(statement, cst.SimpleStatementLine) and source.in_prompt(statement) and not _is_text(statement)
        for small in statement.body
        if isinstance(small, cst.Assign | cst.AugAssign | cst.Return | cst.Expr) and "\n" not in source.code(small)
    ]
    copied = copies[int(draws.integers(len(copies)))] if copies else f"{source.new_name(['unused'])} = 0"
    copied = copied.rstrip().rstrip(";").rstrip()
    head = ("if False:", "while False:")[int(draws.integers(2))]
    return edit_prompt(snippet, [Edit(at, at, f"{indentation}{head}\n{indentation}{source.step}{copied}\n")])


def _exchanged_branches(snippet: Snippet, draws: Draws) -> Snippet | None:
    """`if c: A else: B` becomes `if not c: B else: A`, for half of those that stand whole before the cut and hold no other of them."""
    source = Source.of(snippet)
    if source is None:
        return None
    sites: list[list[Edit]] = []
    for branch in source.nodes(cst.If):
        edits = _exchange(source, branch)
        if edits and not (sites and edits[0].start < sites[-1][-1].end):
            sites.append(edits)
    return edit_prompt(snippet, [edit for index in pick(draws, range(len(sites)), 0.5) for edit in sites[index]]) if sites else None


def _exchange(source: Source, branch: cst.If) -> list[Edit] | None:
    other = branch.orelse
    if not isinstance(other, cst.Else) or not source.in_prompt(branch) or source.indentation(branch) is None:
        return None
    if not isinstance(branch.body, cst.IndentedBlock) or not isinstance(other.body, cst.IndentedBlock):
        return None
    start = source.span(branch)[0]
    colon = source.colon_after(start)
    if colon is None or not source.text.startswith("if", start):  # `elif` is the `if` of the branch above it
        return None
    first, middle = source.text.find("\n", colon) + 1, source.line_at(source.span(other)[0])
    second, end = source.text.find("\n", middle) + 1, source.text.find("\n", source.span(other.body.body[-1])[1]) + 1
    then, otherwise = source.text[first:middle], source.text[second:end]
    test = source.code(branch.test)
    header = f"if not {_bracketed(branch.test, test)}:"
    return [Edit(start, colon, header), Edit(first, middle, otherwise), Edit(second, end, then)]


LOOPS = (
    Perturbation("for_to_while", "syntax", _for_to_while, partial=True),
    Perturbation("while_to_for", "syntax", _while_to_for, partial=True),
    Perturbation("dead_code", "syntax", _dead_code, partial=True),
    Perturbation("dead_code_at_end", "syntax", _dead_code_at_end, partial=True),
    Perturbation("exchanged_branches", "syntax", _exchanged_branches, partial=True),
)
