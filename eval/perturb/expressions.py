"""Family `syntax`, expressions and names: comparisons turned round, De Morgan's laws, variables under other names.

Comparisons are turned only between names, written numbers and strings and `len` of a name, whose order of evaluation cannot show. De Morgan
is used under `not` and in conditions, where only truth counts. A variable is renamed where Python's own symbol tables say that its name
belongs to functions alone and nothing outside can see it: not a global, an import, a keyword argument, or a word of a string or comment.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import libcst as cst

from eval.perturb.base import Draws, Edit, Perturbation, Snippet, apply_edits, edit_prompt, pick
from eval.perturb.source import Source
from eval.perturb.words import PLAIN_NAMES

_TURNED: dict[type[cst.BaseCompOp], str] = {
    cst.LessThan: ">",
    cst.GreaterThan: "<",
    cst.LessThanEqual: ">=",
    cst.GreaterThanEqual: "<=",
    cst.Equal: "==",
    cst.NotEqual: "!=",
}


def _turned_comparisons(snippet: Snippet, draws: Draws) -> Snippet | None:
    """`a < b` becomes `b > a`, for half of the comparisons."""
    source = Source.of(snippet)
    if source is None:
        return None
    sites = []
    for node in source.nodes(cst.Comparison):
        if len(node.comparisons) != 1 or not source.in_prompt(node):
            continue
        operator, right = node.comparisons[0].operator, node.comparisons[0].comparator
        sign = _TURNED.get(type(operator))
        if sign and _is_still(node.left) and _is_still(right):
            start, end = source.span(node)
            turned = f"{source.code(right)} {sign} {source.code(node.left)}"
            sites.append(Edit(start, end, _apart(source.text[:start], turned, source.text[end:])))
    return edit_prompt(snippet, [sites[index] for index in pick(draws, range(len(sites)), 0.5)]) if sites else None


def _apart(before: str, text: str, behind: str) -> str:
    """The text, with a blank where it would grow together with a word beside it: `not(x) < y` has none."""
    left = " " if re.search(r"\w$", before) and re.match(r"\w", text) else ""
    right = " " if re.search(r"\w$", text) and re.match(r"\w", behind) else ""
    return left + text + right


def _is_still(node: cst.BaseExpression) -> bool:
    """Whether evaluating it earlier or later is the same."""
    if isinstance(node, cst.UnaryOperation):
        return isinstance(node.operator, cst.Minus) and isinstance(node.expression, cst.Integer | cst.Float)
    if isinstance(node, cst.Call):
        named = isinstance(node.func, cst.Name) and node.func.value == "len"
        return named and len(node.args) == 1 and isinstance(node.args[0].value, cst.Name)
    return isinstance(node, cst.Name | cst.Integer | cst.Float | cst.SimpleString)


def _de_morgan(snippet: Snippet, draws: Draws) -> Snippet | None:
    """`not (a and b)` becomes `not a or not b`; a condition `a and b` becomes `not (not a or not b)`; and with `or` likewise."""
    source = Source.of(snippet)
    if source is None:
        return None
    sites: list[Edit] = []
    for node in source.nodes(cst.UnaryOperation):
        inner = node.expression
        if isinstance(node.operator, cst.Not) and isinstance(inner, cst.BooleanOperation) and source.in_prompt(node):
            text = _dual(source, inner)
            sites.append(Edit(*source.span(node), text if node.lpar else f"({text})"))
    conditions = [
        *(node.test for node in source.nodes(cst.If)),
        *(node.test for node in source.nodes(cst.While)),
        *(node.test for node in source.nodes(cst.IfExp)),
        *(node.test for node in source.nodes(cst.CompIf)),
    ]
    for test in conditions:
        if isinstance(test, cst.BooleanOperation) and source.in_prompt(test):
            sites.append(Edit(*source.span(test), f"not ({_dual(source, test)})"))
    sites.sort(key=lambda edit: (edit.start, -edit.end))
    apart: list[Edit] = []
    for edit in sites:  # of two that lie in each other, the outer
        if not apart or edit.start >= apart[-1].end:
            apart.append(edit)
    return edit_prompt(snippet, [apart[index] for index in pick(draws, range(len(apart)), 0.5)]) if apart else None


def _dual(source: Source, node: cst.BooleanOperation) -> str:
    word = "or" if isinstance(node.operator, cst.And) else "and"
    return f"{_negated(source, node.left)} {word} {_negated(source, node.right)}"


def _negated(source: Source, node: cst.BaseExpression) -> str:
    text = source.code(node)
    loose = isinstance(node, cst.BooleanOperation | cst.IfExp | cst.Lambda | cst.NamedExpr) and not node.lpar
    return f"not ({text})" if loose else f"not {text}"


def _renaming(rename: Callable[[Source, str, Draws], str]) -> Callable[[Snippet, Draws], Snippet | None]:
    """A perturbation that renames the variable which the prompt uses most."""

    def apply(snippet: Snippet, draws: Draws) -> Snippet | None:
        source = Source.of(snippet)
        if source is None:
            return None
        uses = _variables(source)
        counts = Counter({name: sum(start < source.border for start, _ in places) for name, places in uses.items()})
        name, count = max(counts.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        if not count:
            return None
        new = rename(source, name, draws)
        border = source.border
        before = [Edit(start, end, new) for start, end in uses[name] if start < border]
        behind = [Edit(start - border, end - border, new) for start, end in uses[name] if start >= border]
        return replace(snippet, prompt=apply_edits(snippet.prompt, before), rest=apply_edits(snippet.rest, behind))

    return apply


class _Names(cst.CSTVisitor):
    """Names that are variables, and words that only look like it."""

    def __init__(self) -> None:
        self.variables: list[cst.Name] = []
        self.outside: set[str] = set()
        self.texts: list[str] = []

    def visit_Name(self, node: cst.Name) -> None:
        self.variables.append(node)

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        node.value.visit(self)
        return False

    def visit_Arg(self, node: cst.Arg) -> bool:
        if node.keyword is not None:
            self.outside.add(node.keyword.value)
        node.value.visit(self)
        return False

    def visit_MatchKeywordElement(self, node: cst.MatchKeywordElement) -> bool:
        node.pattern.visit(self)
        return False

    def visit_FormattedStringExpression(self, node: cst.FormattedStringExpression) -> None:
        if node.equal is not None:  # f"{x=}" writes the name
            self.texts.append(cst.Module([]).code_for_node(node.expression))

    def visit_FormattedStringText(self, node: cst.FormattedStringText) -> None:
        self.texts.append(node.value)

    def visit_SimpleString(self, node: cst.SimpleString) -> None:
        self.texts.append(node.value)

    def visit_Comment(self, node: cst.Comment) -> None:
        self.texts.append(node.value)


def _variables(source: Source) -> dict[str, list[tuple[int, int]]]:
    """Places of each variable that may have another name."""
    seen = _Names()
    source.module.visit(seen)
    barred = seen.outside | {"self", "cls"} | set(re.findall(r"\w+", " ".join(seen.texts)))
    free: dict[str, bool] = {}
    for table in source.scopes:
        for symbol in table.get_symbols():
            name = symbol.get_name()
            inner = symbol.is_local() or symbol.is_free()
            own = table.get_type() == "function" and inner and not symbol.is_imported() and not symbol.is_namespace()
            free[name] = free.get(name, True) and own
    beyond = source.snippet.tests + (source.snippet.rest if source.snippet.frozen else "")
    barred |= set(re.findall(r"\b(\w+)\s*=(?!=)", source.snippet.tests))
    if source.snippet.frozen:
        barred |= set(re.findall(r"\w+", beyond))
    places: dict[str, list[tuple[int, int]]] = {}
    for node in seen.variables:
        if free.get(node.value) and node.value not in barred and not node.value.startswith("_"):
            places.setdefault(node.value, []).append(source.span(node))
    return places


def _numbered(source: Source, name: str, draws: Draws) -> str:
    return source.new_name(["var_0", "var_1"])


def _random_letters(source: Source, name: str, draws: Draws) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    while True:
        new = "".join(letters[int(at)] for at in draws.integers(len(letters), size=max(3, len(name))))
        if source.is_new(new):
            return new


def _plain(source: Source, name: str, draws: Draws) -> str:
    order = [PLAIN_NAMES[int(at)] for at in draws.permutation(len(PLAIN_NAMES))]
    return source.new_name([word for word in order if word != name])


EXPRESSIONS = (
    Perturbation("turned_comparisons", "syntax", _turned_comparisons, partial=True),
    Perturbation("de_morgan", "syntax", _de_morgan, partial=True),
    Perturbation("variable_numbered", "syntax", _renaming(_numbered), random=False, partial=True),
    Perturbation("variable_random", "syntax", _renaming(_random_letters), partial=True),
    Perturbation("variable_plain_word", "syntax", _renaming(_plain), partial=True),
)
