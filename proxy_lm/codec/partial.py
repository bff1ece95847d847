"""A container that is being written: OUT.partial, and in OUT.partial.json what of it is committed.

Killed and run again, the same command goes on behind the last commit and makes the bytes that it would have made undisturbed. What was
committed is read again and compared by digest, the file and the input up to there. A partial file of another model, view or chunk length,
or of an input that has other bytes, is refused unless forced, and then begun anew; a damaged one is begun anew. An interrupt or an error
before the first commit leaves nothing. Two writers of one OUT: the second is refused (not promised on network file systems that do not
carry `flock`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from compressors.files import read_json, sync_folder, write_json
from proxy_lm.codec.container import MAGIC, Header, Writer, read_record
from proxy_lm.errors import DecodeError, RequestError
from proxy_lm.progress import note

SCHEMA: Final = 1
_BLOCK_BYTES: Final = 1 << 20


@dataclass
class Totals:
    """Sums over chunks."""

    payload_bytes: int = 0
    """Codes and stored chunks, without lengths and checksums."""
    information_bits: float = 0.0
    num_stored: int = 0


@dataclass(frozen=True)
class _Committed:
    schema: int
    head_sha256: str
    num_chunks: int
    file_bytes: int
    file_sha256: str
    raw_bytes: int
    raw_sha256: str
    payload_bytes: int
    information_bits: float
    num_stored: int


class Partial:
    """`with Partial(out) as partial: writer, digest, totals = partial.begin(...); ...; partial.commit(...); partial.finish()`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = out.with_name(f"{out.name}.partial")
        self.journal = out.with_name(f"{out.name}.partial.json")
        self._nothing_yet = False

    def refuse_input(self, source: IO[bytes]) -> None:
        """Raises `RequestError` where the input is one of the two files that are written beside OUT: it would be emptied or removed."""
        read = os.fstat(source.fileno())
        for path in (self.path, self.journal):
            if path.exists() and os.path.samestat(read, path.stat()):
                raise RequestError(f"the input is {path}, where {self.out} is kept while it is written; choose another --out")

    def __enter__(self) -> Self:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise RequestError(f"could not open {self.path}: {error.strerror or error}; remove it or choose another --out") from error
        self.file = os.fdopen(descriptor, "r+b")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            whole = os.fstat(descriptor).st_ino == os.stat(self.path).st_ino  # its writer may just have finished and renamed it
        except (BlockingIOError, FileNotFoundError):
            whole = False
        if not whole:
            self.file.close()
            raise RequestError(f"{self.out} is being written by another process; wait for it or choose another --out")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and self._nothing_yet:
            self.journal.unlink(missing_ok=True)  # of what was there before and is begun anew
            self.path.unlink(missing_ok=True)
        self.file.close()

    def begin(self, header: Header, index: IO[bytes], source: IO[bytes], *, force: bool) -> tuple[Writer, Any, Totals]:
        """The writer, the SHA-256 of the raw bytes so far, and the sums so far; `source` stands behind what is committed, or at its
        begin."""
        committed = self._read()
        if committed is not None and committed.head_sha256 != header.digest.hex():
            self._refuse("with another model, view or --chunk-bytes", force)
            committed = None
        if committed is not None:
            writer = self._read_again(committed, header, index)
            if writer is not None:
                digest, same = _skip(source, committed)
                if same:
                    totals = Totals(committed.payload_bytes, committed.information_bits, committed.num_stored)
                    return writer, digest, totals
                self._refuse("of other input", force)
                if not source.seekable():
                    raise RequestError(f"{self.path} is of other input, and this one cannot be read again; remove it and try again")
                source.seek(0)
        self._nothing_yet = True
        self.file.seek(0)
        self.file.truncate()
        index.seek(0)
        index.truncate()
        self.journal.unlink(missing_ok=True)
        return Writer(self.file, index, header), hashlib.sha256(), Totals()

    def commit(self, writer: Writer, raw_sha256: str, totals: Totals) -> None:
        """All that was written so far is on the disk and is not made again."""
        self.file.flush()
        os.fsync(self.file.fileno())
        done = _Committed(
            schema=SCHEMA,
            head_sha256=writer.header.digest.hex(),
            num_chunks=writer.num_chunks,
            file_bytes=writer.size_bytes,
            file_sha256=writer.sha256(),
            raw_bytes=writer.raw_bytes,
            raw_sha256=raw_sha256,
            **asdict(totals),
        )
        self._nothing_yet = False  # before the journal is there: an interrupt may come right behind it
        write_json(self.journal, asdict(done))

    def finish(self) -> None:
        """The whole file under its name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.path.replace(self.out)
        self._nothing_yet = False
        sync_folder(self.out.parent)
        self.journal.unlink(missing_ok=True)

    def _refuse(self, what: str, force: bool) -> None:
        if not force:
            raise RequestError(f"{self.path} was begun {what}; repeat that command to end it, give --force to begin anew, or another --out")
        note(f"compress: {self.path} was begun {what}; it is begun anew")

    def _read(self) -> _Committed | None:
        """What the journal says; None where nothing was committed or it cannot be believed."""
        start = self.file.read(len(MAGIC))
        if start and start != MAGIC[: len(start)]:
            raise RequestError(f"{self.path} is in the way and is not ours; move it or choose another --out")
        if not self.journal.exists():
            return None
        try:
            value = read_json(self.journal, "state of the partial file")
            known: dict[str, Any] = {field.name: value.get(field.name) for field in fields(_Committed)}
        except RequestError:
            known = {}
        whole = ("num_chunks", "file_bytes", "raw_bytes", "payload_bytes", "num_stored")
        good = known.get("schema") == SCHEMA and all(type(known[name]) is int and known[name] >= 0 for name in whole)
        if not good or not isinstance(known["information_bits"], float):
            note(f"compress: {self.journal} is damaged or of another version; begun anew")
            return None
        return _Committed(**known)

    def _read_again(self, committed: _Committed, header: Header, index: IO[bytes]) -> Writer | None:
        """A writer behind the committed records; None where they are not as they were committed."""
        writer = self._walk(committed, header, index)
        if writer is None:
            note(f"compress: {self.path} is not as it was committed; begun anew")
            return None
        self.file.truncate(writer.size_bytes)
        self.file.seek(writer.size_bytes)
        return writer

    def _walk(self, committed: _Committed, header: Header, index: IO[bytes]) -> Writer | None:
        if os.fstat(self.file.fileno()).st_size < committed.file_bytes:
            return None
        self.file.seek(0)
        writer = Writer(self.file, index, header)  # writes the head anew, which is equal
        try:
            for number in range(committed.num_chunks):
                record = read_record(self.file, number, header.chunk_bytes)
                if record is None or record.raw_bytes != header.chunk_bytes:
                    return None
                writer.take(record)
        except DecodeError:
            return None
        same = (writer.size_bytes, writer.raw_bytes, writer.sha256()) == (committed.file_bytes, committed.raw_bytes, committed.file_sha256)
        return writer if same else None


def _skip(source: IO[bytes], committed: _Committed) -> tuple[Any, bool]:
    """Read what was committed of the input; its SHA-256, and whether it is the same."""
    digest, left = hashlib.sha256(), committed.raw_bytes
    read: Callable[[int], bytes] = source.read
    while left and (block := read(min(left, _BLOCK_BYTES))):
        digest.update(block)
        left -= len(block)
    return digest, left == 0 and digest.hexdigest() == committed.raw_sha256
