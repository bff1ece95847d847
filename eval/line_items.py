"""What `lines` asks: places in held-out documents, each a prompt and the bytes that really follow.

    documents = of_corpus(corpus, "test")            # or of_files(["src/**/*.py"])
    items = choose(documents, settings)

`line`: the next line, cut at its start. `identifier`: the rest of an identifier, cut inside it. `sweep`: the rest of a line, cut at every
byte offset of it. A prompt is the bytes before the cut from the start of a line on, at most `prompt_bytes`, told as the begin of a
document: it is equal for every arm, whatever the arm reads. In turn each document gives one place, then each a second, and so on; places
within a document are drawn by (seed, index of the document), so fewer items are the first of more items and no arm changes the choice.

Not asked: blank lines, lines longer than `max_bytes`, a last line without its newline, and places with less than 16 bytes before them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from compressors.files import sha256_bytes
from eval.identifiers import Span, identifiers, place, words
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.languages import language_of_path
from proxy_lm.errors import RequestError
from proxy_lm.progress import note

MIN_PROMPT_BYTES: Final = 16
MIN_IDENTIFIER_BYTES: Final = 4
NEWLINE: Final = b"\n"
TASKS: Final = ("line", "identifier", "sweep")


@dataclass(frozen=True)
class Documents:
    """Held-out documents, read when they are asked for."""

    name: str
    digest: str
    projects: Sequence[str]
    languages: Sequence[str]
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.projects)


@dataclass(frozen=True)
class Item:
    """One place. `prompt + target` stands in the document; a line's and a sweep's target ends before the newline."""

    key: str
    task: str
    project: str
    language: str
    prompt: bytes
    target: bytes
    group: str
    """Sweep: the kind of place (`identifiers.PLACES`). Identifier: 'seen' or 'new' in the prompt. Line: the language."""
    line_start: int = 0
    """Sweep: where in the prompt the line begins."""

    @property
    def told(self) -> bytes:
        """What the teacher-forced half tells: the target, and the newline where the task is to end the line."""
        return self.target if self.task == "identifier" else self.target + NEWLINE


def of_corpus(corpus: Corpus, split: str) -> Documents:
    """A split of a corpus. Raises `RequestError` for an unknown or an empty one."""
    if split not in corpus.splits:
        raise RequestError(f"unknown split '{split}'; the corpus has {', '.join(corpus.splits)}")
    some = corpus.splits[split]
    if not len(some):
        raise RequestError(f"split '{split}' of {corpus.path} has no documents; prepare the corpus with a larger share for it")
    columns = {name: corpus.column(name)[some.start : some.stop] for name in ("project", "language")}
    return Documents(
        f"{split} split of the corpus", corpus.digest, columns["project"], columns["language"], lambda i: corpus.document(some.start + i)
    )


def of_files(patterns: Sequence[str], held_out_from: Corpus | None = None) -> tuple[Documents, int]:
    """Files by path or glob, sorted; a folder means every file below it. Files that are documents of the train split of `held_out_from` are
    left out; their number is the second value. Raises `RequestError` where nothing is left."""
    paths = sorted({path for pattern in patterns for path in _matching(pattern)})
    data = [path.read_bytes() for path in paths]
    trained: set[str] = set()
    if held_out_from is not None:
        train = held_out_from.splits["train"]
        trained = set(held_out_from.column("id")[train.start : train.stop])
    kept = [i for i, one in enumerate(data) if one and sha256_bytes(one) not in trained]
    if not kept:
        found = f"{len(paths)} file{'s' * (len(paths) != 1)}"
        raise RequestError(f"{' '.join(patterns)} gives {found} and none that is held out and not empty; name other files")
    empty = [str(path) for path, one in zip(paths, data, strict=True) if not one]
    if empty:
        some = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
        note(f"lines: {some}: {len(empty)} of {len(paths)} files are empty and give nothing")
    digest = hashlib.sha256(b"".join(hashlib.sha256(data[i]).digest() for i in kept)).hexdigest()
    projects = [paths[i].parent.name or "." for i in kept]
    documents = Documents("files", digest, projects, [language_of_path(str(paths[i])) for i in kept], lambda i: data[kept[i]])
    return documents, len([one for one in data if one]) - len(kept)


def _matching(pattern: str) -> Iterator[Path]:
    if not pattern:
        raise RequestError("an empty name is no file to ask about; give a file, a folder ('.' is this one) or a pattern")
    path = Path(pattern)
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (inner for inner in path.rglob("*") if inner.is_file())
    else:
        root = Path(path.anchor) if path.is_absolute() else Path()
        try:
            yield from (inner for inner in root.glob(str(path.relative_to(root) if path.is_absolute() else path)) if inner.is_file())
        except ValueError as error:
            raise RequestError(f"'{pattern}' is no path and no pattern: {error}") from error


def choose(
    documents: Documents, *, num_lines: int, num_identifiers: int, num_sweep_lines: int, prompt_bytes: int, max_bytes: int, seed: int
) -> list[Item]:
    """All items, in the order in which they are asked: lines, identifiers, then the offsets of each line of the sweep."""
    chooser = _Chooser(documents, prompt_bytes, max_bytes, seed)
    lines = chooser.take("line", num_lines)
    found = [*lines, *chooser.take("identifier", num_identifiers), *chooser.take("sweep", num_sweep_lines)]
    if not found:
        raise RequestError(
            f"no line of {len(documents)} documents ({documents.name}) is at most {max_bytes} bytes with {MIN_PROMPT_BYTES} before it; "
            "give other files, or a larger --max-bytes"
        )
    return found


class _Chooser:
    """Takes places in turn from all documents; a document is read and searched once."""

    def __init__(self, documents: Documents, prompt_bytes: int, max_bytes: int, seed: int) -> None:
        self.documents = documents
        self.prompt_bytes = prompt_bytes
        self.max_bytes = max_bytes
        self.seed = seed
        self._places: dict[tuple[str, int], list[tuple[int, int, int]]] = {}

    def take(self, task: str, number: int) -> list[Item]:
        """Items of the first `number` places; a place of the sweep is a line and gives an item an offset."""
        found: list[list[Item]] = []
        for turn in range(number):
            before = len(found)
            for index in range(len(self.documents)):
                if len(found) == number:
                    break
                places = self._drawn(task, index)
                if turn < len(places):
                    found.append(self._items(task, index, *places[turn]))
            if len(found) in (before, number):
                break
        return [item for items in found for item in items]

    def _drawn(self, task: str, index: int) -> list[tuple[int, int, int]]:
        """Places of a document as (start of the line or identifier, cut, stop), in the order drawn."""
        if (task, index) not in self._places:
            document = self.documents.read(index)
            key = [self.seed, index * len(TASKS) + TASKS.index(task)]
            draw = np.random.Generator(np.random.Philox(key=key))
            if task == "identifier":  # somewhere inside, at least one byte on each side
                spans = self._identifiers(document, self.documents.languages[index])
                found = [(start, int(draw.integers(start + 1, stop)), stop) for start, stop in spans]
            else:
                found = [(start, start, stop) for start, stop in self._lines(document)]
            self._places[task, index] = [found[i] for i in draw.permutation(len(found))]
        return self._places[task, index]

    def _lines(self, document: bytes) -> list[Span]:
        found, start = [], 0
        while (stop := document.find(NEWLINE, start)) >= 0:
            if start >= MIN_PROMPT_BYTES and stop - start <= self.max_bytes and document[start:stop].strip():
                found.append((start, stop))
            start = stop + 1
        return found

    def _identifiers(self, document: bytes, language: str) -> list[Span]:
        longest = min(self.max_bytes, self.prompt_bytes)
        spans = identifiers(document, language)
        return [(a, b) for a, b in spans if a >= MIN_PROMPT_BYTES and MIN_IDENTIFIER_BYTES <= b - a <= longest]

    def _items(self, task: str, index: int, start: int, cut: int, stop: int) -> list[Item]:
        document = self.documents.read(index)
        project, language = str(self.documents.projects[index]), str(self.documents.languages[index])
        first = _prompt_start(document, cut, self.prompt_bytes)
        key = f"{task}-{index}-{cut}"
        if task == "line":
            return [Item(key, task, project, language, document[first:cut], document[cut:stop], language)]
        if task == "identifier":
            before, name = document[first:start], document[start:stop]
            group = "seen" if any(before[a:b] == name for a, b in words(before)) else "new"
            return [Item(key, task, project, language, document[first:cut], document[cut:stop], group)]
        line = document[start:stop]
        return [
            Item(f"{key}-{at}", task, project, language, document[first : start + at], line[at:], place(line, at), start - first)
            for at in range(len(line))
        ]


def _prompt_start(document: bytes, cut: int, prompt_bytes: int) -> int:
    """The first start of a line at most `prompt_bytes` before the cut; within a longer line the first start of a character."""
    first = max(0, cut - prompt_bytes)
    if first == 0:
        return 0
    found = document.find(NEWLINE, first - 1, cut)
    if 0 <= found < cut - MIN_PROMPT_BYTES:
        return found + 1
    while first < cut - 1 and document[first] & 0xC0 == 0x80:
        first += 1
    return first
