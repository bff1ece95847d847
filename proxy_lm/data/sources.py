"""SRC arguments of `proxy-lm prepare`, turned into units of reading that are the same on every machine and for any number of workers.

A SRC is a folder of code, a file, a container (`.jsonl[.gz|.zst]`, `.parquet`, `.tar[.gz|.zst]`), `hf:NAME[/CONFIG]` or `python:`. A folder
that holds nothing but containers is read as those containers, all of them, in the order of their names.

The corpus is described by source labels (a folder's or file's own name), never by where it lay on this machine.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from proxy_lm.data.folders import FileEntry, Listing, list_files
from proxy_lm.data.installed import INSTALLED, installed_project, installed_roots
from proxy_lm.data.streams import open_parquet
from proxy_lm.errors import RequestError

CONTAINERS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tar": "tar",
    ".tgz": "tar",
    ".tzst": "tar",
}
# A unit of loose files: enough that a worker's start and its spool file cost nothing, small enough that a killed run redoes little.
_UNIT_BYTES = 16_000_000
_UNIT_FILES = 4096
_PARQUET_UNIT_BYTES = 64_000_000


class UnitFile(NamedTuple):
    """One loose file of a unit: where it lies under the unit's root, its path in the corpus, its project (None: its own id)."""

    path: str
    shown_path: str
    project: str | None
    size_bytes: int


@dataclass(frozen=True)
class Unit:
    """What one worker reads in one go; made of plain values so that it travels to another process."""

    kind: str
    """`files`, `jsonl`, `parquet`, `tar` or `hub`."""
    source: str
    path: str
    """The root of loose files, the container, or the data set's name."""
    size_bytes: int
    """On disk; 0 where unknown. For the progress bar alone."""
    files: tuple[UnitFile, ...] = ()
    part: tuple[int, int] = (0, 1)
    """Row groups first to end of a parquet file; shard and number of shards of a hub data set."""
    config: str | None = None


@dataclass
class Source:
    """One SRC: its label in the corpus, its units in order, and what the listing itself skipped."""

    spec: str
    label: str
    origin: str
    """Where it is on this machine; recorded, never digested."""
    units: list[Unit] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    inventory: list[Any] = field(default_factory=list)
    """Names, sizes and times of change: tells whether an interrupted run still reads the same input."""


def open_sources(specs: Sequence[str], *, hub_split: str) -> list[Source]:
    """Look at every SRC. Raises `RequestError` for one that is missing, empty or not readable."""
    if not specs:
        raise RequestError("no source given; name a folder, a file, hf:NAME or python:")
    sources: list[Source] = []
    for spec in specs:
        source = _open_source(spec, hub_split)
        taken = [other for other in sources if other.label.partition("#")[0] == source.label]
        if any(other.origin == source.origin for other in taken):
            raise RequestError(f"the source {spec} is given twice; name each source once")
        if taken:
            source = _relabel(source, f"{source.label}#{len(taken) + 1}")
        sources.append(source)
    return sources


def source_origin(spec: str) -> str:
    """Where a SRC is on this machine: enough to tell whether a finished corpus was made from the same places."""
    if spec == INSTALLED:
        return f"{sys.base_prefix} {sys.prefix}"
    if spec.startswith("hf:"):
        folder = Path(spec.removeprefix("hf:"))
        return f"hf:{folder.resolve()}" if folder.is_dir() else spec
    return str(Path(spec).resolve())


def container_kind(name: str) -> str | None:
    """The kind of container that a file name announces, None for a plain document."""
    base = name.lower()
    if base.endswith(".json.gz"):
        return "jsonl"  # the spelling of several public corpora for compressed JSON lines
    base = base.removesuffix(".gz").removesuffix(".zst")
    suffix = base[base.rfind(".") :] if "." in base else ""
    return CONTAINERS.get(suffix)


def _open_source(spec: str, hub_split: str) -> Source:
    if spec == INSTALLED:
        return _open_installed(spec)
    if spec.startswith("hf:"):
        return _open_hub(spec, hub_split)
    path = Path(spec)
    if not path.exists():
        raise RequestError(f"the source {spec} does not exist; name a folder, a file, hf:NAME or python:")
    origin, label = source_origin(spec), path.resolve().name
    source = Source(spec, label, origin)
    if path.is_dir():
        _open_folder(source, Path(origin))
    elif not path.is_file():
        raise RequestError(f"the source {spec} is neither a folder nor a regular file; write it to a file first")
    else:
        status = path.stat()
        entry = FileEntry(label, status.st_size, status.st_mtime_ns)
        _add_listing(source, Path(origin).parent, Listing([entry]), [(label, None)])
    return source


def _open_folder(source: Source, root: Path) -> None:
    listing = list_files(root)
    if not listing.files:
        skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(listing.skipped.items())) or "it is empty"
        raise RequestError(f"the source {source.spec} has no file to read ({skipped}); name a folder with files")
    # A folder that is itself one repository is one project; else each folder in it is one.
    is_repository = any((root / name).exists() for name in (".git", ".hg", ".svn"))
    shown: list[tuple[str, str | None]] = []
    for file in listing.files:
        top, slash, _ = file.path.partition("/")
        shown.append((file.path, top if slash and not is_repository else source.label))
    _add_listing(source, root, listing, shown, loose=not all(container_kind(file.path) for file in listing.files))


def _add_listing(source: Source, root: Path, listing: Listing, shown: Sequence[tuple[str, str | None]], loose: bool = False) -> None:
    """Units for listed files: containers one by one unless `loose`, plain files in groups."""
    source.skipped.update(listing.skipped)
    source.inventory += [[printable(file.path), file.size_bytes, file.changed_ns] for file in listing.files]
    group: list[UnitFile] = []
    group_bytes = 0
    for file, (shown_path, project) in zip(listing.files, shown, strict=True):
        kind = None if loose else container_kind(file.path)
        if kind:
            source.units += _container_units(kind, source.label, root / file.path, file.size_bytes)
            continue
        group.append(UnitFile(file.path, printable(shown_path), project and printable(project), file.size_bytes))
        group_bytes += file.size_bytes
        if len(group) == _UNIT_FILES or group_bytes >= _UNIT_BYTES:
            source.units.append(_file_unit(source, root, group))
            group, group_bytes = [], 0
    if group:
        source.units.append(_file_unit(source, root, group))


def _file_unit(source: Source, root: Path, group: list[UnitFile]) -> Unit:
    return Unit("files", source.label, str(root), sum(member.size_bytes for member in group), files=tuple(group))


def _container_units(kind: str, label: str, path: Path, size_bytes: int) -> list[Unit]:
    if kind != "parquet":
        return [Unit(kind, label, str(path), size_bytes)]
    groups = open_parquet(path).metadata
    units, first, packed = [], 0, 0
    for number in range(groups.num_row_groups):
        packed += groups.row_group(number).total_byte_size
        if packed >= _PARQUET_UNIT_BYTES or number + 1 == groups.num_row_groups:
            share = size_bytes * (number + 1 - first) // groups.num_row_groups
            units.append(Unit(kind, label, str(path), share, part=(first, number + 1)))
            first, packed = number + 1, 0
    return units


def _open_installed(spec: str) -> Source:
    source = Source(spec, spec, source_origin(spec))
    for root in installed_roots():
        shown = [(f"{root.name}/{file.path}", installed_project(root.name, file)) for file in root.listing.files]
        _add_listing(source, root.folder, root.listing, shown, loose=True)
    return source


def _open_hub(spec: str, hub_split: str) -> Source:
    from proxy_lm.data.hub import open_hub, parse_hub

    name, config = parse_hub(spec)
    dataset = open_hub(name, config, hub_split)
    is_folder = Path(name).is_dir()
    label = f"hf:{Path(name).resolve().name}" if is_folder else spec
    source = Source(spec, label, source_origin(spec))
    count = max(dataset.num_shards, 1)
    source.units = [Unit("hub", label, name, 0, part=(number, count), config=config) for number in range(count)]
    source.inventory = [[name, config, hub_split, count]]
    if is_folder:
        source.inventory += [list(file) for file in list_files(Path(name), gitignore=False).files]
    return source


def _relabel(source: Source, label: str) -> Source:
    units = [replace(unit, source=label) for unit in source.units]
    return replace(source, label=label, units=units)


def printable(text: str) -> str:
    """A file name as text that can be stored: bytes that are no UTF-8 become backslash escapes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
