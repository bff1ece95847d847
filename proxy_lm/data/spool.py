"""The spool of a running `proxy-lm prepare`: documents as read and filtered, in blocks that are whole or absent.

Unit number u gives blocks `u-0`, `u-1`, ... (`.bin` the bytes, `.parquet` what is known of each document, written after the bytes) and
at its end a report `u.json`. A killed run keeps the blocks that stand; their content does not depend on who wrote them, so the next run
goes on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pathspec

from compressors.files import atomic_writer, disk_error, read_json, write_bytes, write_json
from proxy_lm.data.languages import OTHER, language_of_name, language_of_path
from proxy_lm.data.memory import Memory, mapped
from proxy_lm.data.records import DAMAGED, Bad, Fields, Found, read_unit
from proxy_lm.data.sources import Unit
from proxy_lm.errors import RequestError

BINARY_PREFIX_BYTES = 8192  # git looks for a NUL byte in the first 8,000; same rule, rounded
_EXAMPLES = 5
_ENOUGH_TO_JUDGE = 1000
_OPEN_FILES = 256

TOO_SMALL, BINARY, OTHER_LANGUAGE, NOT_INCLUDED = "under --min-bytes", "binary (NUL byte)", "other language", "excluded by pattern"
TOO_LARGE = "over --max-bytes-per-document"


@dataclass(frozen=True)
class Filters:
    """What a single document must be to enter the spool; plain values for worker processes."""

    min_bytes: int
    max_document_bytes: int
    keep_binary: bool
    languages: tuple[str, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    max_bad_share: float
    fields: Fields
    hub_split: str
    memory: Memory


@dataclass
class Report:
    """What became of one unit's records."""

    num_blocks: int = 0
    num_records: int = 0
    num_read_bytes: int = 0
    drops: dict[str, list[int]] = field(default_factory=dict)
    """Reason -> [documents, bytes]."""
    examples: list[str] = field(default_factory=list)
    """The first few damaged records, with their places."""

    def drop(self, reason: str, size_bytes: int) -> None:
        """Count one document that goes no further."""
        count = self.drops.setdefault(reason, [0, 0])
        count[0] += 1
        count[1] += size_bytes


class DocumentFilter:
    """Decides about one document after the other; the reason for leaving it out, or None, and its language."""

    def __init__(self, filters: Filters) -> None:
        self.filters = filters
        self._include = pathspec.GitIgnoreSpec.from_lines(filters.include) if filters.include else None
        self._exclude = pathspec.GitIgnoreSpec.from_lines(filters.exclude) if filters.exclude else None

    def judge(self, found: Found) -> tuple[str | None, str]:
        """(reason to drop or None, language by suffix, else by the record's own word)."""
        filters, size = self.filters, len(found.data)
        language = language_of_path(found.path)
        if language == OTHER and found.language:
            language = language_of_name(found.language)
        reason = None
        if (self._include and not self._include.match_file(found.path)) or (self._exclude and self._exclude.match_file(found.path)):
            reason = NOT_INCLUDED
        elif filters.languages and language not in filters.languages:
            reason = OTHER_LANGUAGE
        elif size > filters.max_document_bytes:
            reason = TOO_LARGE
        elif size < filters.min_bytes:
            reason = TOO_SMALL
        elif not filters.keep_binary and found.data.find(b"\0", 0, BINARY_PREFIX_BYTES) >= 0:
            reason = BINARY
        return reason, language


def spool_unit(folder: Path, number: int, unit: Unit, filters: Filters) -> int:
    """Read one unit into its blocks and report; does nothing if the report stands. Returns the unit's size in bytes (for progress)."""
    done = folder / f"{number:06d}.json"
    if done.exists():
        return unit.size_bytes
    report, block, judge = Report(), Block(), DocumentFilter(filters)
    bad = 0
    memory = filters.memory
    for found in read_unit(unit, filters.fields, filters.max_document_bytes, filters.hub_split, memory.window_bytes):
        if isinstance(found, Bad):
            if not found.reason:
                continue  # a folder in a tar archive holds no document
            bad += _count_bad(found, report)
        else:
            report.num_records += 1
            report.num_read_bytes += len(found.data)
            reason, language = judge.judge(found)
            if reason:
                report.drop(reason, len(found.data))
            else:
                block.add(found, language)
                if block.num_bytes >= memory.block_bytes or len(block.sizes) == memory.block_documents:
                    block.write(folder, number, report)
                    block = Block()
        if report.num_records % _ENOUGH_TO_JUDGE == 0:
            _check_damage(unit, report, bad, filters)
    _check_damage(unit, report, bad, filters)
    if block.sizes:
        block.write(folder, number, report)
    write_json(done, asdict(report))
    return unit.size_bytes


def _count_bad(bad: Bad, report: Report) -> int:
    report.num_records += 1
    report.num_read_bytes += bad.size_bytes
    report.drop(bad.reason, bad.size_bytes)
    if bad.reason not in DAMAGED:
        return 0
    if len(report.examples) < _EXAMPLES:
        report.examples.append(f"{bad.reason}: {bad.where}")
    return 1


def _check_damage(unit: Unit, report: Report, bad: int, filters: Filters) -> None:
    if bad > filters.max_bad_share * report.num_records:
        what = unit.path if unit.kind != "files" else unit.source
        raise RequestError(
            f"{bad} of the first {report.num_records} records of {what} are damaged, more than --max-bad-share {filters.max_bad_share:g} "
            f"allows; first: {report.examples[0]}"
        )


class Block:
    """Documents gathered for one block file pair."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.sizes: list[int] = []
        self._data = io.BytesIO()
        self._columns: dict[str, list[Any]] = {"id": [], "project": [], "path": [], "language": []}

    def add(self, found: Found, language: str) -> None:
        """Append one document."""
        self._data.write(found.data)
        self.num_bytes += len(found.data)
        self.sizes.append(len(found.data))
        row = (hashlib.sha256(found.data).digest(), found.project, found.path, language)
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)

    def write(self, folder: Path, unit: int, report: Report) -> None:
        """Write the block as the unit's next; one that stands already is left as it is."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        name = f"{unit:06d}-{report.num_blocks:06d}"
        report.num_blocks += 1
        if (folder / f"{name}.parquet").exists():
            return
        # Released by hand: a failed write would leave the buffer in a cycle, and Python 3.12's collector crashes on such a cycle.
        with self._data.getbuffer() as data:
            write_bytes(folder / f"{name}.bin", data)  # type: ignore[arg-type]
        types = {"id": pa.binary(32), "project": pa.string(), "path": pa.string(), "language": pa.string()}
        arrays = {column: pa.array(values, types[column]) for column, values in self._columns.items()}
        with atomic_writer(folder / f"{name}.parquet") as file:
            pq.write_table(pa.table({**arrays, "size_bytes": pa.array(self.sizes, pa.int64())}), file)


def load_report(folder: Path, number: int) -> Report:
    """The report of a finished unit."""
    return Report(**read_json(folder / f"{number:06d}.json", "report of a finished unit"))


class Facts(NamedTuple):
    """What is known of a spooled document beside its bytes."""

    source: str
    project: str
    """Empty where it is of none."""
    path: str
    language: str


class Spool:
    """All spooled documents in the order of sources and of what they hold: global index -> facts and bytes.

    Tables of all documents lie in mapped files beside the spool, and names in one file of JSON lines; the documents' bytes are read when
    they are asked for. What stays in memory is the distinct project names.
    """

    sizes: npt.NDArray[np.int64]
    """In bytes, [num_documents], mapped like the next two."""
    ids: npt.NDArray[np.uint8]
    """The SHA-256 digests, [num_documents, 32]."""
    project_codes: npt.NDArray[np.int32]
    """The place of each document's project in `projects`, -1 for none; [num_documents]."""

    def __init__(self, folder: Path, units: Sequence[Unit], seal: Path) -> None:
        import pyarrow.parquet as pq

        self.folder = folder
        self.seal = seal
        """The file that says which run this is (see `proxy_lm.data.engines`)."""
        self.reports = [load_report(folder, number) for number in range(len(units))]
        self.blocks = [f"{unit:06d}-{block:06d}" for unit, report in enumerate(self.reports) for block in range(report.num_blocks)]
        counts = [pq.read_metadata(folder / f"{name}.parquet").num_rows for name in self.blocks]
        self.first_documents: list[int] = [0, *np.cumsum(counts, dtype=np.int64).tolist()]
        self.num_documents = self.first_documents[-1]
        self.projects: list[str] = []
        self._files: OrderedDict[int, int] = OrderedDict()
        self._fill([units[int(name[:6])].source for name in self.blocks])

    def _fill(self, sources: Sequence[str]) -> None:
        import pyarrow.parquet as pq

        tables, count = self.folder.parent, self.num_documents
        self.sizes = mapped(tables / "sizes.npy", (count,), np.int64)
        self.ids = mapped(tables / "ids.npy", (count, 32), np.uint8)
        self.project_codes = mapped(tables / "projects.npy", (count,), np.int32)
        self._starts = mapped(tables / "starts.npy", (count,), np.int64)
        self._fact_ends = mapped(tables / "facts.npy", (count,), np.int64)
        codes: dict[str, int] = {}
        end = 0
        try:
            with (tables / "facts.jsonl").open("wb") as file:
                for first, name, source in zip(self.first_documents, self.blocks, sources, strict=False):
                    table = pq.read_table(self.folder / f"{name}.parquet")
                    here = slice(first, first + len(table))
                    sizes = table["size_bytes"].to_numpy()
                    self.sizes[here] = sizes
                    self._starts[here] = np.cumsum(sizes) - sizes
                    self.ids[here] = np.frombuffer(b"".join(table["id"].to_pylist()), np.uint8).reshape(-1, 32)
                    projects = [project or "" for project in table["project"].to_pylist()]
                    self.project_codes[here] = [codes.setdefault(project, len(codes)) if project else -1 for project in projects]
                    lines = [
                        json.dumps((source, *row)).encode() + b"\n"
                        for row in zip(projects, table["path"].to_pylist(), table["language"].to_pylist(), strict=True)
                    ]
                    file.writelines(lines)
                    self._fact_ends[here] = end + np.cumsum([len(line) for line in lines])
                    end = int(self._fact_ends[here.stop - 1])
        except OSError as error:
            raise disk_error(error, tables / "facts.jsonl") from error
        self.projects = list(codes)
        self._facts = os.open(tables / "facts.jsonl", os.O_RDONLY)

    def block_of(self, index: int) -> int:
        """The number of the block that holds a document."""
        return int(np.searchsorted(self.first_documents, index, side="right")) - 1

    def read(self, index: int) -> bytes:
        """The bytes of one document."""
        block = self.block_of(index)
        if block not in self._files:
            self._files[block] = os.open(self.folder / f"{self.blocks[block]}.bin", os.O_RDONLY)
            if len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(block)
        return os.pread(self._files[block], int(self.sizes[index]), int(self._starts[index]))

    def facts(self, index: int) -> Facts:
        """What is known of one document."""
        start = int(self._fact_ends[index - 1]) if index else 0
        return Facts(*json.loads(os.pread(self._facts, int(self._fact_ends[index]) - start, start)))

    def close(self) -> None:
        """Close the files."""
        os.close(self._facts)
        while self._files:
            os.close(self._files.popitem()[1])

    def total_drops(self) -> tuple[dict[str, list[int]], list[str]]:
        """Drops by reason over all units, and the first few damaged records."""
        drops: dict[str, Counter[int]] = {}
        examples: list[str] = []
        for report in self.reports:
            examples += report.examples[: _EXAMPLES - len(examples)]
            for reason, (count, size) in report.drops.items():
                drops.setdefault(reason, Counter()).update({0: count, 1: size})
        return {reason: [count[0], count[1]] for reason, count in drops.items()}, examples


def block_documents(folder: Path, name: str, chosen: Sequence[int] | npt.NDArray[np.int32]) -> Iterator[bytes]:
    """Bytes of some documents (numbers inside the block, rising) of one block."""
    import pyarrow.parquet as pq

    sizes = pq.read_table(folder / f"{name}.parquet", columns=["size_bytes"])["size_bytes"].to_numpy()
    starts = np.cumsum(sizes) - sizes
    with (folder / f"{name}.bin").open("rb") as file:
        for number in map(int, chosen):
            file.seek(int(starts[number]))
            yield file.read(int(sizes[number]))
