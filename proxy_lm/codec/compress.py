"""A file through a predictor into a container: chunks in groups of `predictor.lanes`, bounded memory for any size, resumable.

    result = compress(source, Path("x.plmc"), predictor, chunk_bytes=2048)

Memory: one group of chunks and their codes; the index waits in a scratch file. A chunk whose code is not smaller than the chunk is stored
as it is. The bytes written are a function of the input, the model and the chunk length alone.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from compressors.files import canonical_json, disk_error
from proxy_lm.codec.container import MAX_HEADER_BYTES, Header, Writer
from proxy_lm.codec.guard import DEFAULT_CHUNK_BYTES, encode_group, lanes_of
from proxy_lm.codec.partial import Partial, Totals
from proxy_lm.codec.predictor import MAX_CHUNK_BYTES, Predictor
from proxy_lm.errors import RequestError, WorkError

COMMIT_SECONDS: Final = 2.0
"""At most so often is a partial file committed; a kill loses this much and the group it was at."""
_INDEX_MEMORY_BYTES: Final = 1 << 20

# (raw bytes, code bytes so far) of what is done
Report = Callable[[int, int], None]


def make_header(predictor: Predictor, *, chunk_bytes: int, view: str | None) -> Header:
    """The header of what this predictor codes. Raises `RequestError` for a chunk length that cannot be."""
    if not 1 <= chunk_bytes <= MAX_CHUNK_BYTES:
        raise RequestError(f"--chunk-bytes {chunk_bytes}: a chunk has 1 to {MAX_CHUNK_BYTES} bytes")
    identity = predictor.identity()
    if not isinstance(identity, dict) or len(canonical_json([identity, view])) > MAX_HEADER_BYTES - 256:
        raise WorkError(f"the model's identity is no object of at most {MAX_HEADER_BYTES - 256} bytes; it cannot be told in a header")
    return Header(chunk_bytes, identity, view)


def compress(
    source: IO[bytes],
    out: Path | IO[bytes],
    predictor: Predictor,
    *,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    view: str | None = None,
    force: bool = False,
    check: bool = False,
    report: Report | None = None,
    commit_seconds: float | None = None,
) -> dict[str, Any]:
    """Code all of `source` (from its begin; a file or a pipe) into `out`, a path or a stream that is only written. A path appears when all
    is done; see `partial.py` for what a kill leaves. `check` decodes every group again. Raises `RequestError` and `WorkError`; returns the
    counts as JSON."""
    header = make_header(predictor, chunk_bytes=chunk_bytes, view=view)
    with tempfile.SpooledTemporaryFile(_INDEX_MEMORY_BYTES) as index:
        if not isinstance(out, Path):
            writer, totals = Writer(out, index, header), Totals()
            _encode(source, writer, predictor, hashlib.sha256(), totals, check, report or _silent, None, 0.0)
            out.flush()
            return _result(writer, totals, resumed_bytes=0)
        try:
            with Partial(out) as partial:
                writer, digest, totals = partial.begin(header, index, source, force=force)
                resumed_bytes = writer.raw_bytes
                pause = COMMIT_SECONDS if commit_seconds is None else commit_seconds
                (report or _silent)(resumed_bytes, writer.size_bytes)
                _encode(source, writer, predictor, digest, totals, check, report or _silent, partial, pause)
                partial.finish()
        except OSError as error:
            raise disk_error(error, out) from error
        return _result(writer, totals, resumed_bytes=resumed_bytes)


def _encode(
    source: IO[bytes],
    writer: Writer,
    predictor: Predictor,
    digest: Any,
    totals: Totals,
    check: bool,
    report: Report,
    partial: Partial | None,
    commit_seconds: float,
) -> None:
    """All that is left of `source`, and the end."""
    chunk_bytes, last_commit = writer.header.chunk_bytes, time.monotonic()
    for data in _groups(source, chunk_bytes * lanes_of(predictor, chunk_bytes)):
        chunks = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
        for chunk, one in zip(chunks, encode_group(predictor, chunks, writer.num_chunks, check=check), strict=True):
            stored = writer.add(one.payload, chunk)
            totals.num_stored += stored
            totals.payload_bytes += len(chunk if stored else one.payload)
            totals.information_bits += float(one.information_bits)
        digest.update(data)
        report(len(data), writer.size_bytes)
        now = time.monotonic()
        if partial is not None and now - last_commit >= commit_seconds and len(data) % chunk_bytes == 0:
            partial.commit(writer, digest.hexdigest(), totals)
            last_commit = now
    writer.finish(digest.digest())


def _groups(source: IO[bytes], num_bytes: int) -> Iterator[bytes]:
    while True:
        try:
            data = source.read(num_bytes)
        except OSError as error:
            raise WorkError(f"could not read the input: {error.strerror or error}; run the same command again") from error
        if not data:
            return
        yield data


def _result(writer: Writer, totals: Totals, *, resumed_bytes: int) -> dict[str, Any]:
    return {
        "bytes": writer.raw_bytes,
        "coded_bytes": writer.size_bytes,
        "payload_bytes": totals.payload_bytes,
        "information_bits": totals.information_bits,
        "num_chunks": writer.num_chunks,
        "num_stored": totals.num_stored,
        "chunk_bytes": writer.header.chunk_bytes,
        "resumed_bytes": resumed_bytes,
    }


def _silent(raw_bytes: int, coded_bytes: int) -> None:
    pass
