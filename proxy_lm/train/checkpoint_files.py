"""The files of one checkpoint folder: listing, digests, manifest, and every check that can be made without opening a pickle.

A folder `step-N` holds the files that the ranks wrote and `manifest.json`, written last: schema, step, world size, the run's state, name,
size and sha256 of every file, and a digest of the manifest itself. Everything here is about one folder and knows nothing of other ranks.

Covered: any accident to any file (bit, length, name, absence, excess, links). Not covered: a person who can write into the folder and
makes a manifest to match; a checkpoint is as trustworthy as the folder's permissions.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compressors.files import digest_of

if TYPE_CHECKING:
    from compressors.base import JSON

SCHEMA: Final = 1
KIND: Final = "proxy-lm checkpoint"
MANIFEST_NAME: Final = "manifest.json"
# The state of a run is some kilobytes; a manifest over this was not written by us and is not parsed.
MAX_MANIFEST_BYTES: Final = 64 << 20

_BLOCK_BYTES = 1 << 20
_STEP_NAME = re.compile(r"step-(0|[1-9][0-9]{0,17})")
_KEYS: Final = {"kind", "schema", "step", "world_size", "state", "files", "digest"}


def step_name(step: int) -> str:
    """Folder name of a committed step."""
    return f"step-{step}"


def parse_step(name: str) -> int | None:
    """The step that a folder name stands for; None for every other name, `step-7.tmp` and `step-007` included."""
    match = _STEP_NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def scan(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Regular files under `folder` as {relative name with '/': size in bytes}, the manifest left out, and what else is there in words."""
    sizes: dict[str, int] = {}
    problems: list[str] = []
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                name = prefix + entry.name
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    problems.append(f"{name} is a link")
                elif stat.S_ISDIR(mode):
                    waiting.append(name + "/")
                elif not stat.S_ISREG(mode):
                    problems.append(f"{name} is not a regular file")
                elif name != MANIFEST_NAME:
                    sizes[name] = entry.stat(follow_symlinks=False).st_size
    return dict(sorted(sizes.items())), sorted(problems)


def deal(sizes: Mapping[str, int], num_ranks: int) -> list[list[str]]:
    """Share files out so that the ranks read about the same number of bytes; the same answer on every rank."""
    shares: list[list[str]] = [[] for _ in range(num_ranks)]
    load_bytes = [0] * num_ranks
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        rank = min(range(num_ranks), key=lambda r: (load_bytes[r], r))
        shares[rank].append(name)
        load_bytes[rank] += size
    return shares


def seal(path: Path) -> dict[str, JSON]:
    """Digest a file as it was just written, then force it to the disk: {"size_bytes", "sha256"}."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        sha256, size = _digest(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return {"size_bytes": size, "sha256": sha256}


def sync_tree(folder: Path) -> None:
    """Make the names of all files in all subfolders durable, innermost first."""
    for inner, _, _ in os.walk(folder, topdown=False):
        descriptor = os.open(inner, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_manifest(*, step: int, world_size: int, state: Mapping[str, JSON], files: Mapping[str, Mapping[str, JSON]]) -> dict[str, Any]:
    """The manifest of a checkpoint; `files` maps names to what `seal` gave. Raises `ValueError` or `TypeError` for a non-JSON state."""
    body: dict[str, Any] = {
        "kind": KIND,
        "schema": SCHEMA,
        "step": step,
        "world_size": world_size,
        "state": dict(state),
        "files": [{"name": name, **files[name]} for name in sorted(files)],
    }
    return body | {"digest": digest_of(body)}


def spelled(manifest: Mapping[str, Any]) -> bytes:
    """The one spelling of a manifest, so that a change in any byte of the file is a change: indented for people, ASCII."""
    return (json.dumps(manifest, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode()


def check_structure(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Everything but the contents: manifest whole and ours, names plain, exactly the listed files with the listed sizes, no links.

    Returns the manifest (None where it cannot be used) and the problems in words. Reads no listed file.
    """
    step = parse_step(folder.name.removesuffix(".tmp"))
    try:
        if folder.is_symlink():
            return None, [f"{folder.name} is a link"]
        if not folder.is_dir():
            return None, [f"{folder.name} is not a folder"]
        found, problems = scan(folder)
        if problems:
            return None, problems  # opening a manifest that is a pipe would wait for ever
        manifest = _read_manifest(folder)
    except FileNotFoundError as error:
        return None, [f"{Path(str(error.filename)).name} is missing"]
    except OSError as error:
        return None, [f"{error.filename or folder.name} cannot be read: {error.strerror or error}"]
    except ValueError as error:
        return None, [str(error)]
    if manifest["step"] != step:
        problems.append(f"{MANIFEST_NAME} is of step {manifest['step']}")
    listed = listed_sizes(manifest)
    problems += [f"{name} is missing" for name in listed if name not in found]
    problems += [f"{name} is not in the manifest" for name in found if name not in listed]
    problems += [
        f"{name} has {found[name]} bytes instead of {size}" for name, size in listed.items() if name in found and found[name] != size
    ]
    return (None if problems else manifest), problems


def check_contents(folder: Path, manifest: Mapping[str, Any], names: Sequence[str], *, from_disk: bool = False) -> list[str]:
    """Digest the named files and compare; the problems in words. `from_disk` first drops them from the page cache where that works."""
    wanted = {entry["name"]: entry["sha256"] for entry in manifest["files"]}
    problems = []
    for name in names:
        try:
            descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if from_disk:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                sha256, _ = _digest(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror or error}")
            continue
        if sha256 != wanted[name]:
            problems.append(f"{name} has digest {sha256[:12]} instead of {wanted[name][:12]}")
    return problems


def listed_sizes(manifest: Mapping[str, Any]) -> dict[str, int]:
    """{name: size in bytes} of the files that a manifest lists."""
    return {entry["name"]: entry["size_bytes"] for entry in manifest["files"]}


def _digest(descriptor: int) -> tuple[str, int]:
    digest = hashlib.sha256()
    size_bytes = 0
    while block := os.read(descriptor, _BLOCK_BYTES):
        digest.update(block)
        size_bytes += len(block)
    return digest.hexdigest(), size_bytes


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest if every byte, field and type is as `make_manifest` gives it. Raises `ValueError` with the problem, or `OSError`."""
    descriptor = os.open(folder / MANIFEST_NAME, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise ValueError(f"{MANIFEST_NAME} is over {MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{MANIFEST_NAME} ({len(text)} bytes) is not JSON") from None
    if not isinstance(manifest, dict):
        raise ValueError(f"{MANIFEST_NAME} holds a {type(manifest).__name__} instead of an object")
    if manifest.get("schema") != SCHEMA:
        raise ValueError(f"{MANIFEST_NAME} has schema {str(manifest.get('schema'))[:40]}; this program reads schema {SCHEMA}")
    if set(manifest) != _KEYS or manifest["kind"] != KIND:
        raise ValueError(f"{MANIFEST_NAME} does not have the fields of a {KIND}")
    try:
        digest = digest_of({key: value for key, value in manifest.items() if key != "digest"})
    except (ValueError, RecursionError):
        raise ValueError(f"{MANIFEST_NAME} holds values that no checkpoint has") from None
    if digest != manifest["digest"] or text != spelled(manifest):
        raise ValueError(f"{MANIFEST_NAME} does not match its own digest")
    _check_types(manifest)
    return manifest


def _check_types(manifest: dict[str, Any]) -> None:
    """What the digest does not prove: a manifest made by other hands may still name files outside of the folder."""
    for key in ("step", "world_size"):
        if type(manifest[key]) is not int or manifest[key] < 0:
            raise ValueError(f"{MANIFEST_NAME}: {key} is not a count")
    if not isinstance(manifest["state"], dict) or not isinstance(manifest["files"], list) or not manifest["files"]:
        raise ValueError(f"{MANIFEST_NAME}: state is not an object, or files is not a list of at least one")
    seen: set[str] = set()
    for entry in manifest["files"]:
        if not isinstance(entry, dict) or set(entry) != {"name", "size_bytes", "sha256"}:
            raise ValueError(f"{MANIFEST_NAME}: an entry of files does not have exactly name, size_bytes and sha256")
        name = entry["name"]
        if not isinstance(name, str) or not _is_plain(name):
            raise ValueError(f"{MANIFEST_NAME}: file name {str(name)[:80]!r} is not a plain relative name")
        if name in seen:
            raise ValueError(f"{MANIFEST_NAME}: file name {name[:80]!r} stands twice")
        seen.add(name)
        if type(entry["size_bytes"]) is not int or entry["size_bytes"] < 0 or not isinstance(entry["sha256"], str):
            raise ValueError(f"{MANIFEST_NAME}: size or digest of {name[:80]!r} has the wrong type")


def _is_plain(name: str) -> bool:
    """Whether a name stays inside of the folder on every system: no root, no '..', no backslash, no NUL, not the manifest itself."""
    parts = name.split("/")
    return name != MANIFEST_NAME and not any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts)
