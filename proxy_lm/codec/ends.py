"""The two ends of `compress` and `decompress`: an input that is a file or standard input, an output that is a file or standard output."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from proxy_lm.errors import RequestError, WorkError

STANDARD: Final = "-"


@contextmanager
def open_input(name: str) -> Iterator[IO[bytes]]:
    """A binary file at its begin, or standard input for `-`. Raises `RequestError` for what cannot be read."""
    if name == STANDARD:
        if sys.stdin is None or sys.stdin.isatty():
            raise RequestError("standard input is the terminal; pipe a file in, or name one")
        yield sys.stdin.buffer
        return
    path = Path(name)
    if path.is_dir():
        raise RequestError(f"{path} is a folder; name a file (pack a folder with tar first)")
    try:
        file = path.open("rb")
    except OSError as error:
        raise RequestError(f"could not read {path}: {error.strerror or error}; name a file that can be read") from error
    with file:
        yield file


@contextmanager
def open_standard_output() -> Iterator[IO[bytes]]:
    """Standard output for bytes, written out at the end. Raises `WorkError` where it takes no more (a reader that has gone is a
    `BrokenPipeError`, as elsewhere)."""
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still kept for it would fail again at the exit
        raise WorkError(f"could not write to standard output: {error.strerror or error}; what it took is no whole file") from error


def size_of(file: IO[bytes]) -> int | None:
    """Bytes of a regular file; None for a pipe."""
    found = os.fstat(file.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def check_ends(name: str, out: str, *, force: bool, json: bool) -> Path | None:
    """The path to write, None for standard output. Raises `RequestError` where it is there already, is no plain file or is the input."""
    if out == STANDARD:
        if json:
            raise RequestError("--json and --out - would both be on standard output; name a file with --out, or leave out --json")
        if sys.stdout is None or sys.stdout.isatty():
            raise RequestError("standard output is the terminal, and the result is no text; name a file with --out, or pipe it on")
        return None
    path = Path(out)
    if path.is_dir():
        raise RequestError(f"--out {path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise RequestError(f"--out {path} is no plain file; name one, or give --out - for standard output")
    if name != STANDARD and path.exists() and Path(name).exists() and path.samefile(name):
        raise RequestError(f"--out {path} is the input itself; choose another name")
    if path.exists() and not force:
        raise RequestError(f"--out {path} exists; give --force to replace it, or choose another name")
    return path


def check_model_folder(model: Path) -> None:
    """Raises `RequestError` where there is no folder, before torch is imported, which takes seconds."""
    if not model.is_dir():
        raise RequestError(f"--model {model} is not a folder; give a run, a byte model (VIEW/model) or a Hugging Face model")
