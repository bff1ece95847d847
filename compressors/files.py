"""Files that are whole or absent: atomic writes, digests, canonical JSON.

Everything the project saves goes through here: written beside its place under a temporary name, flushed to the disk, then renamed. A
killed process leaves at most a `*.tmp-<machine>-<pid>` file, never half a file under the real name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from compressors.errors import RequestError, WorkError

_BLOCK_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value that is digested: sorted keys, no spaces, ASCII. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """Hex digest of a JSON value in its canonical spelling."""
    return sha256_bytes(canonical_json(value))


@contextmanager
def atomic_writer(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` only when the block ends without an error. Disk errors become `WorkError`.

    A `durable` file is on the disk when the block has ended. Any other outlives this process and not a loss of power: it is for files
    that are made again when their digest does not fit.
    """
    # The machine is in the name too: two that share a folder may have processes of one number.
    temporary = path.with_name(f"{path.name}.tmp-{os.uname().nodename}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        with suppress(OSError):  # where a file stands in a folder's place, say; what went wrong before is what the user has to hear
            temporary.unlink()


def disk_error(error: OSError, path: Path) -> WorkError:
    """The sentence for a failed read or write; a full disk gets the free space and the remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(folder).free
        return WorkError(
            f"no space left while writing {path}: {free / 1e6:.1f} MB free there; free some or choose another folder, "
            "then run the same command again"
        )
    return WorkError(f"could not write {path}: {error.strerror or error}; what was there before is untouched")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_writer(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented for people."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file. Raises `RequestError` that says `what` the file should have been."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RequestError(f"{path} does not exist, so there is no {what} in {path.parent}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not readable JSON ({error}); the {what} is damaged: make it anew") from error
    except OSError as error:
        raise RequestError(f"could not read the {what} {path}: {error.strerror or error}") from error
    if not isinstance(value, dict):
        raise RequestError(f"{path} holds a {type(value).__name__} where the {what} is a JSON object; make it anew")
    return value


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
