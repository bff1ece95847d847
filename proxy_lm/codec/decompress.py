"""A container back to its bytes, or an error: what is not as it was written is refused before a wrong byte is given.

    header = read_head(source); check_model(header, predictor)
    decompress(source, sink.write, header, predictor, cap=1 << 30)

It reads forward only, so it takes pipes. Each chunk has been compared with its checksum before it is written, and the whole with its
SHA-256 before the function returns. Memory: one group of records and their chunks. Time: that of the predictor for `cap` bytes at most.
`salvage.py` takes what is whole out of a damaged file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Final, TypeVar

from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON
from compressors.files import canonical_json, digest_of
from proxy_lm.codec.container import Foot, Header, Record, check_end, read_foot, read_record, varint
from proxy_lm.codec.guard import decode_group, lanes_of
from proxy_lm.codec.predictor import Predictor
from proxy_lm.errors import DecodeError

DEFAULT_CAP_BYTES: Final = DEFAULT_MAX_DECODED_BYTES
_SHOWN_CHARACTERS: Final = 64

Write = Callable[[bytes], object]
Item = TypeVar("Item")


def check_model(header: Header, predictor: Predictor) -> None:
    """Raises `DecodeError` that names what differs, where this is not the model of the encoder."""
    here = predictor.identity()
    if digest_of(here) == digest_of(header.model):
        return
    names = [
        name for name in dict.fromkeys(("kind", "fingerprint", *here, *header.model)) if _text(here, name) != _text(header.model, name)
    ]
    told = "; ".join(f"{name}: the file's {_text(header.model, name)}, this model's {_text(here, name)}" for name in names[:3])
    raise DecodeError(f"the file was coded with another model ({told}); give that one with --model")


def _text(values: dict[str, JSON], name: str) -> str:
    value = values.get(name)
    if value is None:
        return "none"
    text = value if isinstance(value, str) and value.isprintable() else canonical_json(value).decode()
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}... ({digest_of(value)[:8]})"


def check_cap(cap: int, raw_bytes: int) -> None:
    """Raises `DecodeError` for more bytes than are allowed."""
    if raw_bytes > cap:
        raise DecodeError(f"the file holds {raw_bytes:,} bytes or more and {cap:,} are allowed; give --cap BYTES if you trust it")


def quick_foot(source: IO[bytes], header: Header, cap: int) -> Foot:
    """The foot of a file that can be sought in, before any model computes: cut, lengthened or too large files end here. `source` stands
    where it stood. Raises `DecodeError`."""
    position = source.tell()
    foot = read_foot(source, header)
    check_cap(cap, foot.raw_bytes)
    source.seek(position)
    return foot


def decompress(
    source: IO[bytes],
    write: Write,
    header: Header,
    predictor: Predictor,
    *,
    cap: int = DEFAULT_CAP_BYTES,
    report: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Decode all that follows the head, which was read from `source`; `write` gets right bytes only, in order. Raises `DecodeError` at the
    first thing that is not as `compress` wrote it; then what `write` got is a begin and no more. Returns counts as JSON."""
    index, raw = hashlib.sha256(), hashlib.sha256()
    num_chunks = num_stored = raw_bytes = index_bytes = 0
    for group in grouped(_records(source, header, cap), lanes_of(predictor, header.chunk_bytes)):
        for record, chunk in zip(group, decode_group(predictor, group, header.chunk_bytes), strict=True):
            if isinstance(chunk, DecodeError):
                raise chunk
            size = varint(record.size_bytes)
            index.update(size)
            index_bytes += len(size)
            raw.update(chunk)
            write(chunk)
            num_chunks += 1
            num_stored += record.stored
            raw_bytes += len(chunk)
        if report is not None:
            report(sum(record.raw_bytes for record in group))
    check_end(source, header, Foot(num_chunks, raw_bytes, index_bytes, raw.digest()), index.digest())
    return {"bytes": raw_bytes, "num_chunks": num_chunks, "num_stored": num_stored, "chunk_bytes": header.chunk_bytes}


def _records(source: IO[bytes], header: Header, cap: int) -> Iterator[Record]:
    """Up to the end mark."""
    number = raw_bytes = 0
    short = False
    while (record := _named(source, number, header)) is not None:
        if short:
            raise DecodeError(f"chunk {number} follows a short one, which is the last; the file is damaged")
        short = record.raw_bytes < header.chunk_bytes
        raw_bytes += record.raw_bytes
        check_cap(cap, raw_bytes)
        yield record
        number += 1


def _named(source: IO[bytes], number: int, header: Header) -> Record | None:
    """The record; a damaged one is told with its range of bytes and the remedy."""
    try:
        return read_record(source, number, header.chunk_bytes)
    except DecodeError as error:
        raise DecodeError(
            f"{error} (from byte {number * header.chunk_bytes} of the original on); `--salvage` writes what is whole"
        ) from error


def grouped(items: Iterable[Item], number: int) -> Iterator[list[Item]]:
    """Lists of `number` items, the last of fewer."""
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) == number:
            yield group
            group = []
    if group:
        yield group
