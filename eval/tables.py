"""Tables of kept results in Markdown files: nothing that a comparison found is copied by hand.

    <!-- table: ladder main scale=s0 -->
    ...                                           what `proxy-lm-eval tables` wrote here, and writes again
    <!-- end -->

A mark names a kept comparison (`configs/compare/results/NAME.json`), a kind of table (`KINDS` of `table_kinds.py`, `answers`: the first
sentences of its report, or `plot`: its figures, see `kept_plots.py`) and its options. Kinds that look at several comparisons (`facts`,
`transfer`) take `all` for the name. A comparison that has a plan and no kept result is told as not run, with its command.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from compressors.files import write_bytes
from eval import facts, kept_plots, report, table_kinds, transfer, transfer_report
from eval.grid_analysis import Analysis, analyse
from eval.kept import KEPT, PLANS, read_all
from eval.results import Results
from proxy_lm import plotting
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.report import Table

DOCUMENTS: Final = ("README.md", "configs/README.md", "eval/README.md")
ALL: Final = "all"
ANSWERS: Final = "answers"
"""Not a table: the sentences that the report of a comparison begins with."""
COMMAND: Final = "proxy-lm-eval tables"
_MARK = re.compile(r"<!-- table: (?P<words>.*?) -->\s*\Z")
_END = "<!-- end -->"
_LIKE_A_MARK = re.compile(r"\s*<!--\s*(table|end)\b", re.IGNORECASE)
_WIDTH = 140


@dataclass
class Library:
    """The kept results and what they say, each analysed once."""

    kept: Mapping[str, Results]
    plots: dict[str, kept_plots.Drawn] = field(default_factory=dict)
    """Those that some mark asks for, by the names of their files."""
    _analyses: dict[tuple[str, tuple[tuple[str, str], ...], bool], Analysis] = field(default_factory=dict)

    def analysis(self, name: str, pairs: tuple[tuple[str, str], ...] = (), *, whole: bool = False) -> Analysis:
        """Of a kept comparison: points and verdicts, with those of further `pairs` (see `analyse`); `whole` has the rest too."""
        key = (name, pairs, whole)
        if key not in self._analyses:
            self._analyses[key] = analyse(self.kept[name], pairs=pairs, verdicts_only=not whole)
        return self._analyses[key]


@dataclass(frozen=True)
class Block:
    """A marked part of a file."""

    path: str
    """Relative to the repository."""
    line: int
    """Of the mark, from 1."""
    name: str
    kind: str
    options: Mapping[str, str]

    @property
    def place(self) -> str:
        """For sentences."""
        return f"{self.path}:{self.line} (table: {self.name} {self.kind})"


def in_step(root: Path, *, write: bool) -> list[str]:
    """Look at every marked block of `DOCUMENTS` under `root`: the places of those that differ from what the kept results say, written anew
    with `write`. Raises `RequestError` for a mark that names nothing, or is not ended."""
    library = Library(read_all(root / KEPT))
    out_of_step = []
    for name in DOCUMENTS:
        path = root / name
        if not path.exists():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"could not read {path}: {error}") from error
        changed, places = rewritten(text, name, partial(block_lines, library=library, root=root))
        out_of_step += places
        if write and places:
            write_bytes(path, changed.encode())
    return out_of_step + kept_plots.in_step(root, library.plots, write=write)


def check(root: Path) -> None:
    """Raises `WorkError` naming every block that is out of step."""
    places = in_step(root, write=False)
    if places:
        raise WorkError(f"out of step with {KEPT}: {'; '.join(places)}; run: {COMMAND}")


def write_reports(root: Path, folder: Path) -> list[Path]:
    """The report of each kept comparison in FOLDER/NAME, and FOLDER/transfer.html; the pages. Raises `RequestError` without matplotlib."""
    plotting.require()
    library = Library(read_all(root / KEPT))
    for name, results in library.kept.items():
        report.write(results, folder / name)
    transfer_report.write(transfer.recipes(library.kept, library.analysis), folder)
    return [*(folder / name / "report.html" for name in library.kept), folder / "transfer.html"]


def rewritten(text: str, path: str, lines_of: Callable[[Block], list[str]]) -> tuple[str, list[str]]:
    """`text` with every block's lines as `lines_of` makes them, and the places of blocks that were not so."""
    lines, out, places = text.split("\n"), [], []
    at = 0
    while at < len(lines):
        out.append(lines[at])
        found = _MARK.match(lines[at])
        at += 1
        if found is None:
            if _LIKE_A_MARK.match(lines[at - 1]):  # else its table would grow old unseen
                raise RequestError(
                    f"{path}:{at}: '{lines[at - 1].strip()}' begins or ends no table; write <!-- table: NAME KIND option=value ... --> "
                    f"at the start of a line, and {_END} on a line behind it"
                )
            continue
        block = _parse(found["words"], path, at)
        ends = [i for i in range(at, len(lines)) if lines[i].strip() == _END]
        begins = [i for i in range(at, len(lines)) if _MARK.match(lines[i])]
        if not ends or (begins and begins[0] < ends[0]):
            raise RequestError(f"{block.place} has no end; put the line {_END} behind it")
        wanted = ["", *lines_of(block), ""]
        if lines[at : ends[0]] != wanted:
            places.append(block.place)
        out += [*wanted, lines[ends[0]]]
        at = ends[0] + 1
    return "\n".join(out), places


def _parse(words: str, path: str, line: int) -> Block:
    parts = words.split()
    if len(parts) < 2 or any("=" not in part for part in parts[2:]):
        raise RequestError(f"{path}:{line}: '<!-- table: {words} -->' is no mark; write <!-- table: NAME KIND option=value ... -->")
    pairs = [(part.split("=", 1)[0], part.split("=", 1)[1]) for part in parts[2:]]
    return Block(path, line, parts[0], parts[1], dict(pairs))


def block_lines(block: Block, library: Library, root: Path) -> list[str]:
    """What stands between the marks of a block. Raises `RequestError` for a comparison, kind or option that is not there."""
    if block.kind in _OF_MANY:
        if block.name != ALL or block.options:
            raise RequestError(f"{block.place}: this kind looks at all kept results; write <!-- table: {ALL} {block.kind} -->")
        text, table = _OF_MANY[block.kind](library)
        return [*_wrapped(text), "", *table_lines(table), *_below(table)]
    if block.kind not in (*table_kinds.KINDS, ANSWERS, kept_plots.KIND):
        known = ", ".join([*table_kinds.KINDS, ANSWERS, kept_plots.KIND, *_OF_MANY])
        raise RequestError(f"{block.place}: '{block.kind}' is no kind of table; known: {known}")
    if block.name not in library.kept:
        plan = PLANS / f"{block.name}.yaml"
        if not (root / plan).exists():
            known = ", ".join(library.kept) or "none"
            raise RequestError(f"{block.place}: neither {KEPT / block.name}.json nor {plan} is there; kept results: {known}")
        return [f"Not run, or its results are not kept: `proxy-lm-eval compare {plan}`, then `{COMMAND} --keep runs/{block.name}`."]
    source = table_kinds.provenance(library.kept[block.name])
    if block.kind == ANSWERS:
        if block.options:
            raise RequestError(f"{block.place}: this kind has no options; write <!-- table: {block.name} {ANSWERS} -->")
        return [*_wrapped([source]), "", *_listed(report.answers(library.kept[block.name]))]
    try:
        if block.kind == kept_plots.KIND:
            results, analysis = library.kept[block.name], library.analysis(block.name, whole=True)
            plots = kept_plots.drawn(results, analysis, block.options)
            library.plots |= plots
            return [*_wrapped([source]), "", *kept_plots.lines(plots, kept_plots.said(results, analysis, block.options), block.path)]
        analysis = library.analysis(block.name, whole=block.kind in table_kinds.WHOLE)
        sentence, table = table_kinds.KINDS[block.kind](library.kept[block.name], analysis, block.options)
    except RequestError as error:
        raise RequestError(f"{block.place}: {error}") from error
    return [*_wrapped([f"{source} {sentence}"]), "", *table_lines(table), *_below(table)]


def _facts(library: Library) -> tuple[list[str], Table]:
    return facts.table(library.kept, library.analysis)


def _transfer(library: Library) -> tuple[list[str], Table]:
    return transfer_report.table(transfer.recipes(library.kept, library.analysis))


_OF_MANY: Final[Mapping[str, Callable[[Library], tuple[list[str], Table]]]] = {"facts": _facts, "transfer": _transfer}


def _below(table: Table) -> list[str]:
    """What the marks in the table mean, under it."""
    notes = table_kinds.below(table)
    return ["", *_wrapped([" ".join(notes)])] if notes else []


def _wrapped(paragraphs: list[str]) -> list[str]:
    """Paragraphs as lines, with an empty one between."""
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += [*([""] if lines else []), *textwrap.wrap(paragraph, _WIDTH, break_long_words=False, break_on_hyphens=False)]
    return lines


def _listed(sentences: list[str]) -> list[str]:
    """Sentences as the points of a list."""
    return [line for one in sentences for line in textwrap.wrap(f"* {one}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)]


def table_lines(table: Table) -> list[str]:
    """A table in Markdown."""

    def row(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join(":--" if index in table.left else "--:" for index in range(len(table.columns))) + "|"
    return [row(list(table.columns)), rule, *(row(list(cells)) for cells in table.rows)]
