"""Work of an evaluation, cut into blocks of whole documents that are scored once, by whoever, and kept.

`plan_blocks` fixes the blocks from the sizes of the documents alone. Each worker appends a line per finished block to a file of its own in
the job's folder; a line carries a digest, so a torn or damaged one counts as not done. Whatever killed the workers, running again scores
only what is missing, and since a document's number depends on its block and not on the worker, any number of workers gives equal totals.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from compressors.files import digest_of
from proxy_lm.errors import WorkError

BLOCK_BYTES = 1 << 17
BLOCK_DOCUMENTS = 256


@dataclass(frozen=True)
class Block:
    """Documents first .. stop - 1 of the corpus."""

    index: int
    first: int
    stop: int
    num_bytes: int


def plan_blocks(sizes: npt.NDArray[np.int64], documents: range) -> list[Block]:
    """Consecutive documents up to 128 KiB or 256 documents a block, always at least one."""
    ends = np.cumsum(sizes[documents.start : documents.stop], dtype=np.int64)
    blocks: list[Block] = []
    at = 0
    while at < len(ends):
        done = int(ends[at - 1]) if at else 0
        stop = int(np.searchsorted(ends, done + BLOCK_BYTES, side="right"))
        stop = min(max(stop, at + 1), at + BLOCK_DOCUMENTS)
        blocks.append(Block(len(blocks), documents.start + at, documents.start + stop, int(ends[stop - 1]) - done))
        at = stop
    return blocks


def take_prefix(sizes: npt.NDArray[np.int64], documents: range, max_bytes: int | None) -> range:
    """The first documents of a split that together hold at most `max_bytes`, at least one; a prefix of a split is a fair sample."""
    if max_bytes is None or not len(documents):
        return documents
    ends = np.cumsum(sizes[documents.start : documents.stop], dtype=np.int64)
    return range(documents.start, documents.start + max(1, int(np.searchsorted(ends, max_bytes, side="right"))))


def read_done(folder: Path, blocks: Sequence[Block]) -> dict[int, dict[str, Any]]:
    """Results of the blocks that are done, by index. Lines that are torn, damaged or of other blocks are left out."""
    done: dict[int, dict[str, Any]] = {}
    for part in sorted(folder.glob("part-*.jsonl")):
        with part.open("rb") as file:
            for line in file:
                record = sound_record(line)
                if record is None or not 0 <= record["block"] < len(blocks):
                    continue
                block = blocks[record["block"]]
                if record["documents"] == [block.first, block.stop] and len(record["nll_nats"]) == block.stop - block.first:
                    done.setdefault(block.index, record)
    return done


def sound_record(line: bytes, num_digits: int | None = None) -> dict[str, Any] | None:
    """The JSON object of a line without its `digest`, which has so many digits of the digest of the rest (None: all). None for a line
    that is torn, damaged or no object."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.pop("digest", None) != digest_of(record)[:num_digits]:
        return None
    return record


def pending(folder: Path, blocks: Sequence[Block], rank: int, world_size: int) -> list[Block]:
    """What is left for this worker: of the blocks not done, every `world_size`-th.

    Workers start together and may see each other's first lines; then a block can be scored twice, with the same numbers, and counts once.
    """
    done = read_done(folder, blocks)
    return [block for block in blocks if block.index % world_size == rank and block.index not in done]


def work(folder: Path, todo: Sequence[Block], rank: int, score: Callable[[Block], dict[str, Any]]) -> Iterator[Block]:
    """Score `todo` and append a line for each; yields the block after its line is on the disk."""
    with _part(folder / f"part-{rank:04d}.jsonl") as file:
        for block in todo:
            started = time.monotonic()
            record = {"block": block.index, "documents": [block.first, block.stop], **score(block)}
            record["seconds"] = time.monotonic() - started
            record["digest"] = digest_of(record)
            file.write((json.dumps(record) + "\n").encode())
            file.flush()
            yield block


@contextmanager
def _part(path: Path) -> Iterator[IO[bytes]]:
    """A part file open for appending, after its last whole line, and ours alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkError(f"another evaluation is writing {path}; let it end, or stop it, and run this again") from error
        file.seek(0)
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)
        yield file
