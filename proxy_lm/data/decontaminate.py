"""Training documents that hold benchmark problems, found by shared word n-grams: `proxy-lm prepare ... --against FILE`.

FILE is JSON lines (or a JSON array) of problems in the format of HumanEval (`prompt`, `canonical_solution`, `test`) or MBPP (`text` or
`prompt`, `code`, `test_list`), optionally compressed. A problem has parts (its prompt, its solution, its tests, and all of them together).
A document is contaminated when it holds at least `MIN_SHARE` of the distinct 5-word runs of one part. That survives other spacing, added
comments and a renamed function; it does not see paraphrases, translations or a solution in which every name was changed.
A part with fewer than `MIN_RUNS` runs is too common to accuse anyone; a problem whose parts are all that short is counted as not checkable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compressors.files import sha256_bytes
from proxy_lm.data.shingles import Hashes, distinct, ngram_hashes, word_hashes
from proxy_lm.data.streams import open_stream
from proxy_lm.errors import RequestError

RUN_WORDS = 5
MIN_SHARE = 0.5
MIN_RUNS = 8

_PARTS = {
    "prompt": ("prompt", "text", "question", "instruction"),
    "solution": ("canonical_solution", "code", "solution"),
    "tests": ("test", "tests", "test_list", "test_code"),
}
_MAX_PROBLEM_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class Problems:
    """The runs of all checkable parts of all problem files; plain values, so that it travels to worker processes."""

    names: tuple[str, ...]
    """One a problem: file name and task id."""
    runs: Hashes
    """Distinct runs of all parts, sorted."""
    owners: npt.NDArray[np.int32]
    """Parts that hold each run, joined; run i's are owners[starts[i]:starts[i + 1]]."""
    starts: npt.NDArray[np.int64]
    part_problems: npt.NDArray[np.int32]
    """The problem of each part."""
    part_runs: npt.NDArray[np.int64]
    """Number of distinct runs of each part."""
    num_too_short: int
    digests: tuple[str, ...]
    """SHA-256 of each file."""

    def match(self, data: bytes) -> int | None:
        """The problem that a document holds (the one with the largest share), or None."""
        found = ngram_hashes(word_hashes(data), RUN_WORDS)
        if not len(self.runs) or not len(found):
            return None
        # A table of 2^16 bits settles nearly every run without a search.
        found = distinct(found[self._sieve[(found & np.uint64(0xFFFF)).astype(np.int64)]])
        places = np.searchsorted(self.runs, found)
        places = places[self.runs[np.minimum(places, len(self.runs) - 1)] == found]
        if not len(places):
            return None
        owned = np.concatenate([self.owners[self.starts[place] : self.starts[place + 1]] for place in places])
        shares = np.bincount(owned, minlength=len(self.part_runs)) / self.part_runs
        best = int(shares.argmax())
        return int(self.part_problems[best]) if shares[best] >= MIN_SHARE else None

    @property
    def _sieve(self) -> npt.NDArray[np.bool_]:
        table: npt.NDArray[np.bool_] | None = self.__dict__.get("_table")
        if table is None:
            table = np.zeros(1 << 16, np.bool_)
            table[(self.runs & np.uint64(0xFFFF)).astype(np.int64)] = True
            self.__dict__["_table"] = table
        return table


def load_problems(paths: Sequence[Path]) -> Problems:
    """Read problem files. Raises `RequestError` for a file that is missing, malformed, or has no known field."""
    names: list[str] = []
    parts: list[tuple[int, Hashes]] = []
    num_too_short = 0
    digests = []
    for path in paths:
        content = _read(path)
        digests.append(sha256_bytes(content))
        for number, record in enumerate(_parse(path, content), 1):
            problem = len(names)
            names.append(f"{path.name}:{record.get('task_id', number)}")
            checkable = [runs for runs in _part_runs(path, number, record) if len(runs) >= MIN_RUNS]
            parts += [(problem, runs) for runs in checkable]
            num_too_short += not checkable
    lengths = np.array([len(runs) for _, runs in parts], np.int64)
    joined = np.concatenate([runs for _, runs in parts]) if parts else np.zeros(0, np.uint64)
    order = np.argsort(joined, kind="stable")
    distinct, starts = np.unique(joined[order], return_index=True)
    return Problems(
        names=tuple(names),
        runs=distinct,
        owners=np.repeat(np.arange(len(parts), dtype=np.int32), lengths)[order],
        starts=np.r_[starts, len(joined)].astype(np.int64),
        part_problems=np.array([problem for problem, _ in parts], np.int32),
        part_runs=lengths,
        num_too_short=num_too_short,
        digests=tuple(digests),
    )


def _part_runs(path: Path, number: int, record: Mapping[str, Any]) -> list[Hashes]:
    texts = [text for names in _PARTS.values() if (text := _text(record, names))]
    if not texts:
        known = ", ".join(name for names in _PARTS.values() for name in names)
        there = ", ".join(sorted(map(str, record))) or "no fields at all"
        raise RequestError(f"problem {number} of {path} has none of the fields {known}; it has: {there}")
    if len(texts) > 1:
        texts.append("\n".join(texts))
    return [distinct(ngram_hashes(word_hashes(text.encode("utf-8", "replace")), RUN_WORDS)) for text in texts]


def _text(record: Mapping[str, Any], names: Sequence[str]) -> str:
    for name in names:
        value = record.get(name)
        if isinstance(value, list):
            value = "\n".join(str(line) for line in value)
        if isinstance(value, str) and value.strip():
            return value
    return ""


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise RequestError(f"the problem file {path} does not exist; give --against a .jsonl or .json file of problems")
    with open_stream(path) as file:
        content = file.read(_MAX_PROBLEM_FILE_BYTES + 1)
    if len(content) > _MAX_PROBLEM_FILE_BYTES:
        raise RequestError(f"the problem file {path} is over {_MAX_PROBLEM_FILE_BYTES >> 30} GiB; that is a corpus, not a set of problems")
    return content


def _parse(path: Path, content: bytes) -> list[Mapping[str, Any]]:
    try:
        if content.lstrip()[:1] == b"[":
            values = json.loads(content)
        else:
            values = [json.loads(line) for line in content.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the problem file {path} is not JSON lines or a JSON array ({error})") from error
    if not values or not all(isinstance(value, dict) for value in values):
        raise RequestError(
            f"the problem file {path} holds {'something else than objects' if values else 'no problems'}; each line is one problem"
        )
    return list(values)
