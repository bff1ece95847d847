"""A prompt read as a syntax tree by libcst: nodes with offsets, names that are free, and where code may be put.

Changes are made as edits of the text at the places of nodes, so every byte that is not changed stays, comments and the reference solution
behind the cut included. Needs the extra `eval` (libcst).
"""

from __future__ import annotations

import builtins
import keyword
import re
import symtable
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from eval.perturb.base import Snippet, has_plain_lines, line_starts, parses
from eval.perturb.tokens import Token, tokens_of

N = TypeVar("N", bound=cst.CSTNode)

# Programs that look at their own variables are left alone: a new name would show.
_REFLECTION = frozenset({"locals", "vars", "dir", "eval", "exec", "globals", "inspect", "_getframe", "__dict__", "getsource"})


class Source:
    """The program of a snippet, parsed. `Source.of` gives None for what cannot be changed safely."""

    def __init__(self, snippet: Snippet, module: cst.Module) -> None:
        wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
        self.snippet = snippet
        self.module = wrapper.module
        self.text = snippet.program
        self.border = len(snippet.prompt)
        """Offset of the cut: edits at or behind it are not allowed."""
        self._positions = wrapper.resolve(PositionProvider)
        self._starts = line_starts(self.text)
        self._given: set[str] = set()

    @classmethod
    def of(cls, snippet: Snippet) -> Source | None:
        """None where the program does not compile, has lines that readers of Python count differently, or looks at its own variables."""
        text = snippet.program
        if not has_plain_lines(text) or not snippet.prompt.endswith("\n") or text.startswith("\ufeff") or not parses(text):
            return None
        if _REFLECTION & set(re.findall(r"\w+", text)):
            return None
        try:
            module = cst.parse_module(text)
        except (cst.ParserSyntaxError, RecursionError):  # libcst is behind the newest grammar, or the nesting is too deep
            return None
        return cls(snippet, module)

    def span(self, node: cst.CSTNode) -> tuple[int, int]:
        """(start, end) of a node in `text`, its own brackets left out."""
        place = self._positions[node]
        return (
            self._starts[place.start.line - 1] + place.start.column,
            self._starts[place.end.line - 1] + place.end.column,
        )

    def code(self, node: cst.CSTNode) -> str:
        """The text of a node, its own brackets included."""
        return self.module.code_for_node(node)

    def in_prompt(self, node: cst.CSTNode) -> bool:
        """Whether the whole node stands before the cut."""
        return self.span(node)[1] < self.border

    def line_at(self, offset: int) -> int:
        """Offset of the start of the line that holds `offset`."""
        return self.text.rfind("\n", 0, offset) + 1

    def indentation(self, node: cst.CSTNode) -> str | None:
        """What stands before a statement on its line; None where that is more than blanks."""
        start = self.span(node)[0]
        before = self.text[self.line_at(start) : start]
        return None if before.strip() else before

    @cached_property
    def step(self) -> str:
        """One step of indentation."""
        return self.module.default_indent

    @cached_property
    def tokens(self) -> list[Token]:
        """Tokens of the whole program."""
        return tokens_of(self.text)

    def colon_after(self, start: int) -> int | None:
        """Offset just behind the colon that ends a block's header beginning at `start`; None where a lambda makes that unclear."""
        depth = next((token.depth for token in self.tokens if token.start == start), 0)
        for token in self.tokens:
            if token.start < start or token.depth > depth:
                continue
            if token.text == "lambda":
                return None
            if token.text == ":":
                return token.end
        return None

    @cached_property
    def words(self) -> frozenset[str]:
        """Every word of program, rest and tests, strings and comments included."""
        return frozenset(re.findall(r"\w+", self.text + self.snippet.rest + self.snippet.tests))

    def is_new(self, name: str) -> bool:
        """Whether a name is nowhere used, means nothing yet, and has not been given out."""
        taken = keyword.iskeyword(name) or hasattr(builtins, name) or name in self.words or name in self._given
        return name.isidentifier() and not taken

    def new_name(self, wishes: Sequence[str]) -> str:
        """The first new name of `wishes`, or the first with the lowest number behind it that makes it new; it is new once."""
        numbers = range(len(self.words) + len(self._given) + 1)
        names = (f"{wish}{number or ''}" for number in numbers for wish in wishes)
        name = next(name for name in names if self.is_new(name))
        self._given.add(name)
        return name

    def assigns(self, names: Sequence[str]) -> bool:
        """Whether the program gives any of these names (of builtins) a meaning of its own, in any scope."""
        return any(
            symbol.get_name() in names and (symbol.is_assigned() or symbol.is_imported() or symbol.is_parameter())
            for table in self.scopes
            for symbol in table.get_symbols()
        )

    @cached_property
    def scopes(self) -> list[symtable.SymbolTable]:
        """The symbol tables of the program, as Python's compiler makes them: module, classes, functions, lambdas, comprehensions."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            todo = [symtable.symtable(self.text, "<perturbed>", "exec")]
        found = []
        while todo:
            table = todo.pop()
            found.append(table)
            todo += table.get_children()
        return found

    def nodes(self, kind: type[N]) -> list[N]:
        """All nodes of a class, in the order of the text."""
        found: list[N] = []
        _collect(self.module, kind, found)
        found.sort(key=lambda node: (self.span(node)[0], -self.span(node)[1]))
        return found

    @cached_property
    def blocks(self) -> list[tuple[cst.FunctionDef, cst.IndentedBlock]]:
        """Every indented block of code with the function whose scope it is in; nested functions and classes are left to themselves."""
        found: list[tuple[cst.FunctionDef, cst.IndentedBlock]] = []
        for function in self.nodes(cst.FunctionDef):
            blocks: list[cst.IndentedBlock] = []
            _collect(function.body, cst.IndentedBlock, blocks, stop=(cst.FunctionDef, cst.ClassDef, cst.Lambda))
            found += [(function, block) for block in blocks]
        return found

    def in_function(self, node: cst.CSTNode) -> bool:
        """Whether a statement belongs to the scope of a function, and not of a class or the module."""
        return any(statement is node for _, block in self.blocks for statement in block.body)


def _collect(node: cst.CSTNode, kind: type[N], found: list[N], *, stop: tuple[type[cst.CSTNode], ...] = ()) -> None:
    if isinstance(node, kind):
        found.append(node)
    for child in node.children:
        if not isinstance(child, stop):
            _collect(child, kind, found, stop=stop)
