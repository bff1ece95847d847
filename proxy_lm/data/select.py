"""Which spooled documents stay: exact copies, near copies, benchmark problems and the total size, in this order, every drop counted.

Everything is decided by the documents' bytes, the seed and the order of the sources; how many workers looked at them changes nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compressors.files import atomic_writer
from proxy_lm.data.decontaminate import Problems, load_problems
from proxy_lm.data.dedup import NUM_VALUES, near_duplicates, signature
from proxy_lm.data.engines import Engine
from proxy_lm.data.memory import mapped
from proxy_lm.data.spool import Spool, block_documents
from proxy_lm.progress import ProgressBar

Indexes = npt.NDArray[np.int64]

EXACT, NEAR, CONTAMINATED, OVER_TOTAL = "exact duplicate", "near duplicate", "holds a problem of --against", "over --max-bytes"
# With --max-bytes only a sample is compared for near copies; this much more than what is wanted, since some of it will be dropped.
_FIRST_SAMPLE = 1.3
_AT_ONCE = 65_536


@dataclass
class Selection:
    """The documents that stay, in their final order (before they are dealt to splits), and what was dropped."""

    kept: Indexes
    drops: dict[str, list[int]] = field(default_factory=dict)
    """Reason -> [documents, bytes]."""
    matched: dict[str, int] = field(default_factory=dict)
    """Problem -> documents dropped for it."""


def select(
    spool: Spool, *, seed: int, near: float | None, against: Sequence[Path], max_bytes: int | None, engine: Engine, cache_bytes: int
) -> Selection:
    """Drop copies, problems and what is over the total size. `near` is the similarity from which on documents are near copies."""
    is_distinct = _marked(spool, first_copies(spool.ids))
    drops = {EXACT: _count(spool, np.flatnonzero(~is_distinct))}
    candidates = shuffled(spool.ids, seed)
    candidates = candidates[is_distinct[candidates]]
    del is_distinct
    examiner = _Examiner(spool, near, tuple(map(str, against)), engine, cache_bytes)
    wanted = int(spool.sizes[candidates].sum()) if max_bytes is None else int(_FIRST_SAMPLE * max_bytes)
    while True:
        sample = candidates[: _prefix(spool.sizes[candidates], wanted) + 1]
        copies, problems = examiner.examine(np.sort(sample))
        kept = sample[~_marked(spool, [*copies, *problems])[sample]]
        if max_bytes is None or int(spool.sizes[kept].sum()) >= max_bytes or len(sample) == len(candidates):
            break
        wanted *= 2
    if max_bytes is not None:
        kept = kept[: _prefix(spool.sizes[kept], max_bytes)]
    seen = np.array(sorted({*copies, *problems}), np.int64)
    drops[NEAR] = _count(spool, np.array(sorted(copies), np.int64))
    drops[CONTAMINATED] = _count(spool, np.array(sorted(problems), np.int64))
    drops[OVER_TOTAL] = _count(spool, candidates[~(_marked(spool, kept) | _marked(spool, seen))[candidates]])
    matched = Counter(examiner.problems.names[problem] for problem in problems.values()) if problems else Counter[str]()
    return Selection(kept, {reason: count for reason, count in drops.items() if count[0]}, dict(sorted(matched.items())))


def shuffled(ids: npt.NDArray[np.uint8], seed: int) -> Indexes:
    """Documents in the order of a keyed digest of their ids [num_documents, 32]: every prefix is a fair sample."""
    key = b"%d" % seed
    drawn = np.zeros((len(ids), 16), np.uint8)
    for row, identity in enumerate(ids):
        drawn[row] = np.frombuffer(hashlib.blake2b(identity.tobytes(), digest_size=16, key=key).digest(), np.uint8)
    return np.lexsort(drawn.view(">u8").T[::-1])


def first_copies(ids: npt.NDArray[np.uint8]) -> Indexes:
    """The first document of each digest, rising."""
    columns = np.ascontiguousarray(ids).view(">u8").reshape(-1, 4)
    order = np.lexsort(columns.T)
    is_new = np.ones(len(order), np.bool_)
    for first in range(1, len(order), _AT_ONCE):
        last = min(first + _AT_ONCE, len(order))
        is_new[first:last] = (columns[order[first:last]] != columns[order[first - 1 : last - 1]]).any(axis=1)
    return np.sort(order[is_new])


def examine_block(folder: str, name: str, out: str, chosen: npt.NDArray[np.int32], near: bool, against: tuple[str, ...]) -> int:
    """Signatures and matched problems of some documents of a block, into the file `out`; does nothing if it stands. Returns their bytes."""
    target, num_bytes = Path(out), 0
    problems = load_problems_once(against)
    signatures = np.zeros((len(chosen) if near else 0, NUM_VALUES), np.uint32)
    matches = np.full(len(chosen) if against else 0, -1, np.int32)
    if not target.exists():
        for row, data in enumerate(block_documents(Path(folder), name, chosen)):
            num_bytes += len(data)
            if near:
                signatures[row] = signature(data)
            if against and (problem := problems.match(data)) is not None:
                matches[row] = problem
        with atomic_writer(target) as file:
            np.savez(file, chosen=np.asarray(chosen, np.int64), signatures=signatures, matches=matches)
    return num_bytes


@lru_cache(maxsize=1)
def load_problems_once(against: tuple[str, ...]) -> Problems:
    """Problem files, read once a process."""
    return load_problems([Path(path) for path in against])


class _Examiner:
    """Signatures and problem matches of growing samples; each document is looked at once."""

    def __init__(self, spool: Spool, near: float | None, against: tuple[str, ...], engine: Engine, cache_bytes: int) -> None:
        self.spool, self.near, self.against, self.engine, self.cache_bytes = spool, near, against, engine, cache_bytes
        self.problems = load_problems_once(against)
        self._files: list[tuple[int, Path]] = []
        self._seen = np.zeros(0, np.int64)
        self._round = 0

    def examine(self, sample: Indexes) -> tuple[dict[int, int], dict[int, int]]:
        """(near copy -> what it is like, contaminated document -> problem) in a sample, rising, that holds all earlier ones."""
        if self.near is None and not self.against:
            return {}, {}
        fresh = np.setdiff1d(sample, self._seen, assume_unique=True)
        self._seen, self._round = sample, self._round + 1
        total = int(self.spool.sizes[fresh].sum())
        with ProgressBar("compare", total) as bar:
            for num_bytes in self.engine.run(examine_block, self._tasks(fresh), seal=self.spool.seal, num_bytes=total):
                bar.advance(num_bytes)
        return self._judge(sample)

    def _tasks(self, fresh: Indexes) -> list[tuple[str, str, str, npt.NDArray[np.int32], bool, tuple[str, ...]]]:
        first = self.spool.first_documents
        borders = np.searchsorted(fresh, first)
        tasks = []
        for block, name in enumerate(self.spool.blocks):
            chosen = (fresh[borders[block] : borders[block + 1]] - first[block]).astype(np.int32)
            if len(chosen):
                out = self.spool.folder.parent / "examined" / f"{self._round}-{name}.npz"
                self._files.append((first[block], out))
                tasks.append((str(self.spool.folder), name, str(out), chosen, self.near is not None, self.against))
        return tasks

    def _judge(self, sample: Indexes) -> tuple[dict[int, int], dict[int, int]]:
        signatures = None
        problems: dict[int, int] = {}
        if self.near is not None and len(sample):
            file = self.spool.folder.parent / "signatures.npy"
            signatures = mapped(file, (len(sample), NUM_VALUES), np.uint32)
        for first, path in self._files:
            with np.load(path) as stored:
                indexes = stored["chosen"] + first
                if signatures is not None:
                    signatures[np.searchsorted(sample, indexes)] = stored["signatures"]
                if self.against:
                    hits = stored["matches"] >= 0
                    problems.update(zip(indexes[hits].tolist(), stored["matches"][hits].tolist(), strict=True))
        if signatures is None or self.near is None:
            return {}, problems
        rows = near_duplicates(signatures, lambda row: self.spool.read(int(sample[row])), self.near, self.cache_bytes)
        copies = {int(sample[row]): int(sample[other]) for row, other in rows.items()}
        # A near copy of a problem goes as a copy, and the document it is like goes as the problem.
        return copies, {index: problem for index, problem in problems.items() if index not in copies}


def _marked(spool: Spool, indexes: Sequence[int] | Indexes) -> npt.NDArray[np.bool_]:
    """For each spooled document whether it is among `indexes`."""
    marks = np.zeros(spool.num_documents, np.bool_)
    marks[np.asarray(indexes, np.int64)] = True
    return marks


def _prefix(sizes: npt.NDArray[np.int64], max_bytes: int) -> int:
    """How many documents from the first on fit into `max_bytes`."""
    return int(np.searchsorted(np.cumsum(sizes), max_bytes, side="right"))


def _count(spool: Spool, indexes: Indexes) -> list[int]:
    return [len(indexes), int(spool.sizes[indexes].sum())]
