"""The documents inside one unit of reading, whatever it is: loose files, JSON lines, parquet rows, tar members, hub records.

Every reader yields `Found` for a document and `Bad` for what it had to leave out, with the reason; nothing is left out silently. Bytes are
passed on as found. JSON text has no bytes of its own: it is written as UTF-8, and text that has no UTF-8 form (a lone surrogate) is `Bad`.

Not promised: which of two equal keys of one JSON object counts.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from proxy_lm.data.hub import hub_records
from proxy_lm.data.sources import Unit
from proxy_lm.data.streams import MAX_WINDOW_BYTES, open_parquet, open_stream
from proxy_lm.errors import RequestError

TEXT_FIELDS = ("content", "text", "code")
PROJECT_FIELDS = ("repo_name", "repository", "project", "max_stars_repo_name", "repo")
PATH_FIELDS = ("path", "file_path", "max_stars_repo_path", "filename", "file_name")
LANGUAGE_FIELDS = ("language", "lang", "programming_language")

MALFORMED, NO_TEXT, SURROGATE = "malformed record", "record without text", "text with a lone surrogate"
UNREADABLE, TOO_LARGE, NOT_A_FILE, UNSAFE_NAME = "unreadable file", "over --max-bytes-per-document", "tar link or device", "tar unsafe name"
# These say that the input is damaged, not that it holds something else; too many of them stop the run.
DAMAGED = frozenset({MALFORMED, NO_TEXT, UNREADABLE})

_LINE_FACTOR = 8  # a JSON line may be this much longer than the largest wanted document: escapes and other fields
_PARQUET_BATCH = 16


class Fields(NamedTuple):
    """Where records keep things; None means: guess."""

    text: str | None = None
    binary: str | None = None
    """Base64 in JSON, binary columns in parquet. Excludes `text`."""
    project: str | None = None


class Found(NamedTuple):
    """One document as found."""

    data: bytes
    path: str
    project: str | None
    language: str | None = None


class Bad(NamedTuple):
    """Something that gives no document, why, and where it stands."""

    reason: str
    where: str
    size_bytes: int = 0


def read_unit(
    unit: Unit, fields: Fields, max_document_bytes: int, hub_split: str, max_window_bytes: int = MAX_WINDOW_BYTES
) -> Iterator[Found | Bad]:
    """All of a unit, in its order. Raises `RequestError` when the container as a whole is damaged or has no text field."""
    if unit.kind == "files":
        return _read_files(unit, max_document_bytes)
    if unit.kind == "jsonl":
        return _read_jsonl(Path(unit.path), fields, max_document_bytes, max_window_bytes)
    if unit.kind == "parquet":
        return _read_parquet(Path(unit.path), unit.part, fields)
    if unit.kind == "tar":
        return _read_tar(Path(unit.path), max_document_bytes, max_window_bytes)
    shard, num_shards = unit.part
    return _read_hub(unit.path, unit.config, hub_split, shard, num_shards, fields)


def _read_files(unit: Unit, max_document_bytes: int) -> Iterator[Found | Bad]:
    root = Path(unit.path)
    for file in unit.files:
        if file.size_bytes > max_document_bytes:
            yield Bad(TOO_LARGE, file.shown_path, file.size_bytes)
            continue
        try:
            data = (root / file.path).read_bytes()
        except OSError as error:
            yield Bad(UNREADABLE, f"{file.shown_path}: {error.strerror}")
            continue
        yield Found(data, file.shown_path, file.project)


def json_lines(file: IO[bytes], name: str, max_line_bytes: int) -> Iterator[tuple[Mapping[str, Any] | Bad, str]]:
    """Each line of a stream as an object, or as what is wrong with it, with its place in words. Blank lines are passed over."""
    number = offset = 0
    while line := file.readline(max_line_bytes + 1):
        number += 1
        where, size = f"{name} line {number} (byte {offset})", len(line)
        if size > max_line_bytes and not line.endswith(b"\n"):
            while (rest := file.readline(max_line_bytes)) and not rest.endswith(b"\n"):
                size += len(rest)
            size += len(rest)
            offset += size
            yield Bad(TOO_LARGE, where, size), where
            continue
        offset += size
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Bad(MALFORMED, f"{where}: {error}", size), where
            continue
        yield (value if isinstance(value, dict) else Bad(MALFORMED, f"{where}: not an object", size)), where


def _read_jsonl(path: Path, fields: Fields, max_document_bytes: int, max_window_bytes: int) -> Iterator[Found | Bad]:
    reader = RecordReader(str(path), fields)
    with open_stream(path, max_window_bytes) as file:
        for record, where in json_lines(file, path.name, _LINE_FACTOR * max_document_bytes + 65536):
            yield record if isinstance(record, Bad) else reader.document(record, where)


class RecordReader:
    """Turns the records of one container into documents; the text field is settled by the first record and the same for all."""

    def __init__(self, name: str, fields: Fields) -> None:
        self.name = name
        self.fields = fields
        self.text: str | None = fields.binary or fields.text
        self.num_records = 0

    def document(self, record: Mapping[str, Any], where: str) -> Found | Bad:
        """One record's document. Raises `RequestError` naming the fields if the very first one has no text."""
        self.num_records += 1
        if self.text is None:
            self.text = guess_text_field(self.name, record)
        elif self.num_records == 1 and self.text not in record:
            raise RequestError(f"the first record of {self.name} has no field '{self.text}'; it has: {_names(record)}")
        value = record.get(self.text)
        data = self._bytes(value, where)
        if isinstance(data, Bad):
            return data
        language = _first_text(record, LANGUAGE_FIELDS)
        project_fields = (self.fields.project,) if self.fields.project else PROJECT_FIELDS
        path = _first_text(record, PATH_FIELDS) or where.partition(" (byte")[0].replace(" line ", ":")
        return Found(data, path, _first_text(record, project_fields), language)

    def _bytes(self, value: Any, where: str) -> bytes | Bad:
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            return Bad(NO_TEXT, f"{where}: field '{self.text}' is {'absent' if value is None else 'a ' + type(value).__name__}")
        try:
            if self.fields.binary:
                return base64.b64decode(value, validate=True)
            return value.encode()
        except binascii.Error as error:
            return Bad(MALFORMED, f"{where}: {error}", len(value))
        except UnicodeEncodeError:
            return Bad(SURROGATE, where, len(value))


def guess_text_field(name: str, record: Mapping[str, Any]) -> str:
    """The first of `content`, `text`, `code` that holds text, else the first that is there at all: a record may lack its text.

    Raises `RequestError` with the names that are there instead."""
    for field in (*(name for name in TEXT_FIELDS if isinstance(record.get(name), str | bytes)), *TEXT_FIELDS):
        if field in record:
            return field
    raise RequestError(f"{name} has none of the text fields {', '.join(TEXT_FIELDS)}; it has: {_names(record)}. Name one with --text-field")


def _names(record: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, record))) or "no fields at all"


def _first_text(record: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = record.get(name)
        if isinstance(value, str) and value:
            return value.encode("utf-8", "backslashreplace").decode()
    return None


def _read_parquet(path: Path, row_groups: tuple[int, int], fields: Fields) -> Iterator[Found | Bad]:
    import pyarrow as pa

    file = open_parquet(path)
    columns = file.schema_arrow.names
    text = fields.binary or fields.text or next((name for name in TEXT_FIELDS if name in columns), None)
    if text is None or text not in columns:
        wanted = f"no column '{text}'" if text else f"none of the text columns {', '.join(TEXT_FIELDS)}"
        raise RequestError(f"{path} has {wanted}; it has: {', '.join(columns)}. Name one with --text-field or --bytes-field")
    # Binary columns need no base64; texts come as the bytes they are stored as.
    reader = RecordReader(str(path), Fields(text=text, project=fields.project))
    wanted_columns = [text, *((fields.project,) if fields.project else PROJECT_FIELDS), *PATH_FIELDS, *LANGUAGE_FIELDS]
    row = sum(file.metadata.row_group(number).num_rows for number in range(row_groups[0]))
    try:
        batches = file.iter_batches(_PARQUET_BATCH, list(range(*row_groups)), [name for name in columns if name in wanted_columns])
        for batch in batches:
            position = batch.schema.get_field_index(text)
            values = batch.column(position)
            if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
                values = values.cast(pa.large_binary() if pa.types.is_large_string(values.type) else pa.binary())
            others = batch.drop_columns([text]).to_pylist()
            for value, record in zip(values.to_pylist(), others, strict=True):
                row += 1
                yield reader.document({**record, text: value}, f"{path.name} line {row}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is damaged near row {row} ({str(error).splitlines()[0]}); fetch or make the file again") from error


def _read_tar(path: Path, max_document_bytes: int, max_window_bytes: int) -> Iterator[Found | Bad]:
    with open_stream(path, max_window_bytes) as stream:
        watched = _Watched(stream)
        try:
            # Mode r| never seeks: members are read in passing and never touch the disk.
            with tarfile.open(fileobj=watched, mode="r|", errors="surrogateescape") as archive:
                for member in archive:
                    yield _tar_member(archive, member, max_document_bytes)
        except tarfile.TarError as error:
            raise RequestError(f"{path} is not a whole tar archive ({error}); fetch or make the file again") from error
        while watched.read(1 << 18):
            continue
        if watched.last.strip(b"\0"):
            raise RequestError(f"{path} is truncated: the archive has no end mark; fetch or make the file again")


def _tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo, max_document_bytes: int) -> Found | Bad:
    name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").removeprefix("./")
    if member.isdir():
        return Bad("", name)
    if not member.isreg():
        return Bad(NOT_A_FILE, name)
    if name.startswith("/") or ".." in name.split("/"):
        return Bad(UNSAFE_NAME, name, member.size)
    if member.size > max_document_bytes:
        return Bad(TOO_LARGE, name, member.size)
    content = archive.extractfile(member)
    assert content is not None
    data = content.read()
    top, slash, _ = name.partition("/")
    return Found(data, name, top if slash else None)


class _Watched(io.RawIOBase):
    """A stream that remembers the last 512 bytes it gave: a whole tar archive ends in zeros."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.last = b"\1"

    def read(self, size: int = -1) -> bytes:
        """As the stream's own."""
        data = self._stream.read(size)
        self.last = data[-512:] if len(data) >= 512 else (self.last + data)[-512:]
        return data


def _read_hub(name: str, config: str | None, split: str, shard: int, num_shards: int, fields: Fields) -> Iterator[Found | Bad]:
    reader = RecordReader(f"hf:{name}", fields)
    label = f"{Path(name).name}-{shard}"
    for number, record in enumerate(hub_records(name, config, split, shard, num_shards), 1):
        yield reader.document(record, f"{label} line {number}")
