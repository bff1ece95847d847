"""The files of a folder of code, in one order on every machine, without what version control ignores.

Skipped and counted: symbolic links, special files, and what `.gitignore` files inside the folder exclude (an excluded folder counts once).
Skipped silently: the folders and files in which version control keeps its own data. A `.gitignore` above the folder is not looked at.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pathspec

from proxy_lm.errors import RequestError

VERSION_CONTROL = frozenset({".git", ".hg", ".svn", ".bzr", ".jj", ".pijul", "_darcs", "CVS"})


class FileEntry(NamedTuple):
    """One regular file: path relative to the root with `/` (undecodable names keep their surrogates), size, and time of change."""

    path: str
    size_bytes: int
    changed_ns: int


@dataclass
class Listing:
    """What a walk found, files in the order of their paths' bytes."""

    files: list[FileEntry] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


# Rules of the enclosing .gitignore files, outermost first: the folder that holds the file, relative and ending in "/", and its patterns.
_Rules = tuple[tuple[str, pathspec.GitIgnoreSpec], ...]


def list_files(root: Path, *, gitignore: bool = True, keep: Callable[[str, bool], bool] = lambda path, is_folder: True) -> Listing:
    """Walk `root`. `keep(relative path, is_folder)` prunes what a caller never wants, uncounted. Raises `RequestError` if unreadable."""
    listing = Listing()
    waiting: list[tuple[str, _Rules]] = [("", ())]
    while waiting:
        folder, rules = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                found = list(entries)
        except OSError as error:
            raise RequestError(f"could not read the folder {root / folder}: {error.strerror}; make it readable or leave it out") from error
        if gitignore and any(entry.name == ".gitignore" and entry.is_file(follow_symlinks=False) for entry in found):
            rules = (*rules, (folder, _read_rules(root / folder / ".gitignore")))
        for entry in found:
            if entry.name not in VERSION_CONTROL:
                _take(entry, folder + entry.name, rules, listing, waiting, keep)
    listing.files.sort(key=lambda file: os.fsencode(file.path))
    return listing


def _take(
    entry: os.DirEntry[str],
    path: str,
    rules: _Rules,
    listing: Listing,
    waiting: list[tuple[str, _Rules]],
    keep: Callable[[str, bool], bool],
) -> None:
    is_folder = entry.is_dir(follow_symlinks=False)
    if not keep(path, is_folder):
        return
    if entry.is_symlink():
        listing.skipped["symbolic link"] += 1
    elif is_ignored(path + "/" * is_folder, rules):
        listing.skipped["ignored by .gitignore"] += 1
    elif is_folder:
        waiting.append((path + "/", rules))
    elif entry.is_file(follow_symlinks=False):
        status = entry.stat(follow_symlinks=False)
        listing.files.append(FileEntry(path, status.st_size, status.st_mtime_ns))
    else:
        listing.skipped["special file"] += 1


def is_ignored(path: str, rules: _Rules) -> bool:
    """Whether the innermost .gitignore with an opinion on `path` excludes it."""
    for folder, spec in reversed(rules):
        verdict = spec.check_file(path[len(folder) :]).include
        if verdict is not None:
            return bool(verdict)
    return False


def _read_rules(file: Path) -> pathspec.GitIgnoreSpec:
    try:
        lines = file.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise RequestError(f"could not read {file}: {error.strerror}; make it readable or leave the folder out") from error
    return read_patterns(lines, str(file))


def read_patterns(lines: list[str], where: str) -> pathspec.GitIgnoreSpec:
    """Patterns as in .gitignore. Raises `RequestError` naming `where` they stand if one is malformed."""
    try:
        return pathspec.GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise RequestError(f"{where} has a pattern that git would not take: {error}") from error
