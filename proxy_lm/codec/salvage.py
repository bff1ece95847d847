"""What is whole of a damaged container: every good chunk at its place, zeros for the others, and the ranges that are lost.

    result = salvage(source, sink.write, header, predictor, cap=1 << 30)
    result["lost"]                  # [[2048, 4096, "chunk 1 does not fit its checksum; ..."]]

The file must be one that can be sought in, with a whole head. With a whole index every record is found, however its neighbours look;
bytes that are missing between, or too many, cost the chunks they hit. Without one (a cut file, above all) the records are walked, over a
damaged one too, where the next one stands where the length says; a damaged length then ends the walk. A good chunk fits two checksums of
32 bits, of its code and of its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

from proxy_lm.codec.container import END, FOOT_BYTES, DamagedRecordError, Foot, Header, Record, index_sizes, read_foot, read_record
from proxy_lm.codec.decompress import DEFAULT_CAP_BYTES, Write, check_cap, grouped
from proxy_lm.codec.guard import decode_group, lanes_of
from proxy_lm.codec.predictor import Predictor
from proxy_lm.errors import DecodeError

_MAX_RANGES: Final = 1000


@dataclass(frozen=True)
class Lost:
    """A chunk that is not there. `raw_bytes` None: all from `start` on, however much that was."""

    start: int
    raw_bytes: int | None
    why: str


def salvage(
    source: IO[bytes],
    write: Write,
    header: Header,
    predictor: Predictor,
    *,
    cap: int = DEFAULT_CAP_BYTES,
    report: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write what is whole. Returns counts, and under `lost` ranges [start, end, why] in bytes of the original, end None where it is not
    known. Raises `DecodeError` for more than `cap` bytes, and for an index that no encoder wrote."""
    ranges: list[list[Any]] = []
    try:
        foot, trouble = read_foot(source, header), ""
    except DecodeError as error:
        foot, trouble = None, str(error)
    check_cap(cap, foot.raw_bytes if foot else 0)
    source.seek(len(header.pack()))
    found = _by_index(source, header, foot) if foot else _by_walking(source, header)
    position = num_chunks = num_lost = lost_bytes = 0
    for group in grouped(found, lanes_of(predictor, header.chunk_bytes)):
        before = position
        for one in _decoded(predictor, group, header.chunk_bytes):
            num_chunks += 1
            if isinstance(one, Lost):
                num_lost += 1
                lost_bytes += one.raw_bytes or 0
                _add_range(ranges, one)
            data = bytes(one.raw_bytes or 0) if isinstance(one, Lost) else one
            position += len(data)
            check_cap(cap, position)
            write(data)
        if report is not None:
            report(position - before)
    if foot is None and not (ranges and ranges[-1][1] is None):
        _add_range(ranges, Lost(position, None, f"whether the file went on here is not known: {trouble}"))
    return {
        "bytes": position,
        "num_chunks": num_chunks,
        "num_lost": num_lost,
        "lost_bytes": lost_bytes,
        "lost": ranges,
        "index": "whole" if foot is not None else "damaged",
        "chunk_bytes": header.chunk_bytes,
    }


def _decoded(predictor: Predictor, group: Sequence[Record | Lost], chunk_bytes: int) -> Iterator[bytes | Lost]:
    records = [one for one in group if isinstance(one, Record)]
    chunks = iter(decode_group(predictor, records, chunk_bytes))
    for one in group:
        if isinstance(one, Lost):
            yield one
            continue
        chunk = next(chunks)
        yield Lost(one.number * chunk_bytes, one.raw_bytes, str(chunk)) if isinstance(chunk, DecodeError) else chunk


def _add_range(ranges: list[list[Any]], lost: Lost) -> None:
    """Neighbours become one range with the first reason; past the thousandth all is one."""
    end = None if lost.raw_bytes is None else lost.start + lost.raw_bytes
    if ranges and (ranges[-1][1] == lost.start or len(ranges) == _MAX_RANGES):
        ranges[-1][1] = end
    else:
        ranges.append([lost.start, end, lost.why])


def _by_index(source: IO[bytes], header: Header, foot: Foot) -> Iterator[Record | Lost]:
    """Every chunk, from the place that the index tells: counted from the begin of the file, or from its end, where bytes are missing
    between or too many."""
    offset = len(header.pack())
    records_end = source.seek(0, 2) - FOOT_BYTES - foot.index_bytes - len(END)
    shift = records_end - offset - sum(index_sizes(source, foot))
    for number, size in enumerate(index_sizes(source, foot)):
        start = number * header.chunk_bytes
        raw_bytes = min(header.chunk_bytes, foot.raw_bytes - start)
        found = _at(source, offset, size, number, header, raw_bytes)
        if shift and not isinstance(found, Record):
            again = _at(source, max(0, offset + shift), size, number, header, raw_bytes)
            found = again if isinstance(again, Record) else found
        yield found
        offset += size


def _at(source: IO[bytes], offset: int, size: int, number: int, header: Header, raw_bytes: int) -> Record | Lost:
    source.seek(offset)
    start = number * header.chunk_bytes
    try:
        record = read_record(source, number, header.chunk_bytes)
    except DecodeError as error:
        return Lost(start, raw_bytes, str(error))
    if record is None or (record.size_bytes, record.raw_bytes) != (size, raw_bytes):
        return Lost(start, raw_bytes, f"chunk {number} has other lengths than the index says; the file is damaged")
    return record


def _by_walking(source: IO[bytes], header: Header) -> Iterator[Record | Lost]:
    """Chunks from the first on, as long as one stands behind the other."""
    number = 0
    while True:
        start = number * header.chunk_bytes
        try:
            record = read_record(source, number, header.chunk_bytes)
        except DamagedRecordError as error:
            behind = source.tell()
            if not _stands(source, number + 1, header):
                yield Lost(start, None, str(error))
                return
            source.seek(behind)
            yield Lost(start, header.chunk_bytes, str(error))
        except DecodeError as error:
            yield Lost(start, None, str(error))
            return
        else:
            if record is None:
                return
            yield record
            if record.raw_bytes < header.chunk_bytes:
                return
        number += 1


def _stands(source: IO[bytes], number: int, header: Header) -> bool:
    """Whether a whole record of this number is next. The end mark, a single byte, would prove nothing."""
    try:
        return read_record(source, number, header.chunk_bytes) is not None
    except DecodeError:
        return False
