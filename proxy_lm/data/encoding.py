"""Encode a corpus under a compressor: `proxy-lm encode --corpus corpus --view views/spm`.

The corpus is cut into blocks of about 4 MB at borders that depend on the corpus alone. Processes encode blocks and write each as one
file, whole or absent, under `encode.parts/`; the same command after a kill keeps the finished ones. Then the parts are joined in order, so
the result is the same for any number of workers, and the manifest is written last. Until the join is done the symbols need twice their
space.

Each document of a compressor that promises exactness is decoded again (all, or each k-th): one that does not come back is marked raw
only, like one that the compressor refuses, and counted by reason. Not promised: that an inexact view decodes; its rate is measured.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import hashlib
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.base import Compressor, Symbols
from compressors.errors import DecodeError, NotRepresentableError, ProxyError
from compressors.files import atomic_writer, canonical_json, disk_error, read_json, sha256_bytes, write_json
from compressors.registry import load, read_artifact, save
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.view_files import FILES, INDEX, MANIFEST, RAW_ONLY, SCHEMA, SYMBOLS, read_manifest, symbol_type, view_digest
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.progress import ProgressBar, note

BLOCK_BYTES: Final = 4 << 20
PARTS: Final = "encode.parts"
NOT_REPRESENTABLE: Final = "not_representable"
ROUND_TRIP_DIFFERS: Final = "round_trip_differs"
_NUM_EXAMPLES: Final = 10


@dataclass(frozen=True)
class _Job:
    """What a worker needs to know; small, so that it is sent to each."""

    corpus: Path
    artifact: Path
    parts: Path
    corpus_digest: str
    verify_every: int  # decode each k-th document again; 0: none


def encode_corpus(
    corpus: Corpus,
    compressor_dir: Path,
    out: Path,
    *,
    num_workers: int,
    verify_round_trip: bool = True,
    verify_every: int = 1,
    force: bool = False,
) -> dict[str, Any]:
    """Symbols of every document of `corpus` into the folder `out`, which may be `compressor_dir` itself; returns the manifest.

    `verify_every` k decodes each k-th document again. `force` replaces what an encode of another corpus or compressor left in `out`.
    Raises `RequestError` for a folder that holds another view, and `WorkError` for a full disk or a worker that died: finished blocks stay.
    """
    if num_workers < 1:
        raise RequestError(f"{num_workers} workers encode nothing; give at least 1 worker")
    if verify_every < 0:
        raise RequestError(f"verify_every {verify_every} is negative; give k to decode each k-th document again, 0 for none")
    compressor = load(compressor_dir)
    artifact = read_artifact(compressor_dir)
    fingerprint = artifact["fingerprint"]
    with _alone_in(out):
        done = _finished(corpus, fingerprint, out, force)
        if done is not None:
            note(f"encode: {out} holds this view already")
            return done
        if out.resolve() != compressor_dir.resolve():
            save(compressor, out, artifact.get("measured"))
        job = _Job(corpus.path, out, out / PARTS, corpus.digest, verify_every if verify_round_trip else 0)
        _open_parts(job, fingerprint, force)
        began = time.monotonic()
        _encode_blocks(job, corpus, compressor, num_workers)
        manifest = _join(job, corpus, compressor, fingerprint, time.monotonic() - began, num_workers)
        shutil.rmtree(job.parts)
    return manifest


def blocks_of(corpus: Corpus) -> list[range]:
    """The documents of each block, in order; a function of the documents' sizes alone."""
    places = np.arange(0, int(corpus.offsets[-1]) + 1, BLOCK_BYTES)
    borders = np.unique([*np.searchsorted(corpus.offsets[:-1], places).tolist(), corpus.num_documents])
    return [range(first, end) for first, end in itertools.pairwise(borders.tolist())]


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """One encode a folder at a time; the lock goes with the process, however it ends."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / ".encode.lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise disk_error(error, out) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RequestError(f"another process is encoding into {out}; wait for it, or choose another folder") from error
    finally:
        os.close(descriptor)


def _finished(corpus: Corpus, fingerprint: str, out: Path, force: bool) -> dict[str, Any] | None:
    """The manifest if `out` holds this very view already. With `force`, what is there stops being a view."""
    if not (out / MANIFEST).exists():
        return None
    if force:
        (out / MANIFEST).unlink()
        return None
    manifest = read_manifest(out)
    if manifest["corpus_digest"] != corpus.digest:
        raise RequestError(
            f"{out} holds symbols of the corpus {manifest['corpus_digest']} and {corpus.path} is {corpus.digest}; "
            "encode into another folder, or give --force to replace them"
        )
    if manifest["fingerprint"] != fingerprint:
        raise RequestError(
            f"{out} holds symbols of the compressor {manifest['fingerprint']} and its artifact is now {fingerprint}; "
            "give --force to replace them"
        )
    from proxy_lm.data.views import View  # which offers encode_corpus under its own name, hence not at the top

    View.open(out, corpus)  # says what is wrong if a file was damaged since
    return manifest


def _open_parts(job: _Job, fingerprint: str, force: bool) -> None:
    """An `encode.parts` folder for this corpus and compressor; one of another is replaced by `force` only."""
    key = {"schema": SCHEMA, "corpus_digest": job.corpus_digest, "fingerprint": fingerprint, "verify_every": job.verify_every}
    path = job.parts / "key.json"
    try:
        if path.exists() and (found := read_json(path, "encode key")) != key:
            if not force:
                raise RequestError(
                    f"{job.parts} holds parts of an encode of the corpus {found.get('corpus_digest')} by the compressor "
                    f"{found.get('fingerprint')} with verify_every {found.get('verify_every')}, and this one is of {job.corpus_digest} by "
                    f"{fingerprint} with {job.verify_every}; finish that one, or give --force to drop them"
                )
            shutil.rmtree(job.parts)
        write_json(path, key)
        for old in job.parts.glob("*.tmp-*"):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, job.parts) from error


def _part_path(parts: Path, documents: range) -> Path:
    return parts / f"{documents.start:012d}-{documents.stop:012d}.part"


def _encode_blocks(job: _Job, corpus: Corpus, compressor: Compressor, num_workers: int) -> None:
    blocks = blocks_of(corpus)
    todo = [documents for documents in blocks if _read_part(_part_path(job.parts, documents)) is None]
    if len(todo) < len(blocks):
        note(f"encode: {len(blocks) - len(todo)} of {len(blocks)} blocks are there from an earlier run")
    total_bytes = sum(_num_bytes(corpus, documents) for documents in todo)
    with ProgressBar(f"encode {compressor.name}", total_bytes) as bar:
        if num_workers == 1 or len(todo) <= 1:
            for documents in todo:
                _encode_block(job, corpus, compressor, documents)
                bar.advance(_num_bytes(corpus, documents))
            return
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(min(num_workers, len(todo)), context, _start_worker, (job,)) as pool:
            futures = {pool.submit(_work, documents): documents for documents in todo}
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
                    bar.advance(_num_bytes(corpus, futures[future]))
            except concurrent.futures.process.BrokenProcessPool as error:
                raise WorkError(
                    "an encoding process died (killed, or out of memory); the finished blocks are kept: "
                    "run the same command again, with fewer --workers if memory is short"
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _num_bytes(corpus: Corpus, documents: range) -> int:
    return int(corpus.offsets[documents.stop] - corpus.offsets[documents.start])


_worker: tuple[_Job, Corpus, Compressor] | None = None


def _start_worker(job: _Job) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which stops the pool
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    corpus = Corpus.open(job.corpus, verify=False)
    if corpus.digest != job.corpus_digest:
        raise WorkError(f"the corpus {job.corpus} changed while it was being encoded; run the same command again")
    _worker = (job, corpus, load(job.artifact))


def _leave_with_parent() -> None:
    """A pool's processes outlive a parent that was killed, and would write on. This one goes with it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _work(documents: range) -> None:
    assert _worker is not None
    _encode_block(*_worker, documents)


def _encode_block(job: _Job, corpus: Corpus, compressor: Compressor, documents: range) -> None:
    """One part: a line of JSON, then int64 lengths (-1: raw only), then the symbols."""
    began = time.process_time()
    data = [corpus.document(index) for index in documents]
    try:
        encoded = compressor.encode_batch(data)
    except ProxyError:
        raise
    except Exception as error:  # whatever a stranger's compressor raises, the user learns whose it is and where
        what = f"{type(error).__name__}: {error}"
        raise WorkError(f"view '{compressor.name}' failed in documents {documents.start}..{documents.stop - 1} ({what})") from error
    assert len(encoded) == len(data)
    checked = exact = 0
    reasons: dict[int, str] = {}
    for index, document, symbols in zip(documents, data, encoded, strict=True):
        if symbols is None:
            reasons[index] = NOT_REPRESENTABLE
        elif symbols.size and int(symbols.max()) >= compressor.alphabet_size:
            raise WorkError(
                f"view '{compressor.name}' emitted the symbol {int(symbols.max())} for document {index}, and its alphabet ends at "
                f"{compressor.alphabet_size - 1}; the compressor is wrong and nothing was kept"
            )
        elif job.verify_every and index % job.verify_every == 0:
            checked += 1
            same = comes_back(compressor, document, symbols)
            exact += same
            if compressor.exact and not same:
                reasons[index] = ROUND_TRIP_DIFFERS
    kept = [None if index in reasons else symbols for index, symbols in zip(documents, encoded, strict=True)]
    lengths = np.array([-1 if symbols is None else symbols.size for symbols in kept], dtype="<i8")
    flat = np.concatenate([np.zeros(0, np.uint32), *(symbols for symbols in kept if symbols is not None)])
    body = lengths.tobytes() + flat.astype(symbol_type(compressor.alphabet_size)).tobytes()
    header = {
        "num_documents": len(documents),
        "body_sha256": sha256_bytes(body),
        "round_trips_checked": checked,
        "round_trips_exact": exact,
        "raw_only": {str(index): reason for index, reason in sorted(reasons.items())},
        "examples": _why(compressor, corpus, reasons),
        "cpu_seconds": time.process_time() - began,
    }
    with atomic_writer(_part_path(job.parts, documents)) as file:
        file.write(canonical_json(header) + b"\n" + body)


def comes_back(compressor: Compressor, document: bytes, symbols: Symbols) -> bool:
    """Whether symbols decode to the document, byte for byte."""
    try:
        return compressor.decode(symbols, max_bytes=max(len(document), 1)) == document
    except DecodeError:
        return False


def _why(compressor: Compressor, corpus: Corpus, reasons: dict[int, str]) -> list[str]:
    """The first few refusals in the compressor's own words."""
    said = []
    for index, reason in list(reasons.items())[:_NUM_EXAMPLES]:
        try:
            compressor.encode(corpus.document(index))
            said.append(f"document {index}: {reason}")
        except NotRepresentableError as error:
            said.append(f"document {index}: {error}")
    return said


def _read_part(path: Path) -> tuple[dict[str, Any], bytes] | None:
    """Header and body of a finished part; None where there is none, or a damaged one."""
    try:
        line, _, body = path.read_bytes().partition(b"\n")
        header = json.loads(line)
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise disk_error(error, path) from error
    if not isinstance(header, dict) or header.get("body_sha256") != sha256_bytes(body):
        return None
    return header, body


def _join(job: _Job, corpus: Corpus, compressor: Compressor, fingerprint: str, wall_seconds: float, num_workers: int) -> dict[str, Any]:
    """Concatenate the parts, then write the manifest."""
    kind = symbol_type(compressor.alphabet_size)
    lengths: list[npt.NDArray[np.int64]] = []
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    examples: list[str] = []
    cpu_seconds = 0.0
    files: dict[str, dict[str, Any]] = {}
    digest = hashlib.sha256()
    with atomic_writer(job.artifact / SYMBOLS) as file:
        for documents in blocks_of(corpus):
            path = _part_path(job.parts, documents)
            part = _read_part(path)
            if part is None:
                raise WorkError(f"{path} vanished or was damaged while the parts were joined; run the same command again")
            header, body = part
            split = 8 * len(documents)
            lengths.append(np.frombuffer(body[:split], dtype="<i8"))
            file.write(memoryview(body)[split:])
            digest.update(memoryview(body)[split:])
            totals["bytes"] += len(body) - split
            totals["checked"] += header["round_trips_checked"]
            totals["exact"] += header["round_trips_exact"]
            reasons.update(header["raw_only"].values())
            examples += header["examples"]
            cpu_seconds += header["cpu_seconds"]
    files[SYMBOLS] = {"size_bytes": totals["bytes"], "sha256": digest.hexdigest()}
    length = np.concatenate([np.zeros(0, np.int64), *lengths])
    raw_only = np.flatnonzero(length < 0)
    offsets = np.concatenate([[0], np.cumsum(np.maximum(length, 0))])
    for name, array in ((INDEX, offsets), (RAW_ONLY, raw_only)):
        data = array.astype("<i8").tobytes()
        with atomic_writer(job.artifact / name) as file:
            file.write(data)
        files[name] = {"size_bytes": len(data), "sha256": sha256_bytes(data)}
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "corpus_digest": corpus.digest,
        "fingerprint": fingerprint,
        "kind": compressor.name,
        "exact": compressor.exact,
        "alphabet_size": compressor.alphabet_size,
        "symbol_bytes": kind.itemsize,
        "num_documents": corpus.num_documents,
        "num_bytes": int(corpus.offsets[-1]),
        "num_symbols": int(offsets[-1]),
        "num_raw_only": int(raw_only.size),
        "raw_only_bytes": int(corpus.sizes[raw_only].sum()),
        "raw_only_reasons": dict(sorted(reasons.items())),
        "raw_only_examples": examples[:_NUM_EXAMPLES],
        "num_round_trips_checked": totals["checked"],
        "num_round_trips_exact": totals["exact"],
        "encode_cpu_seconds": cpu_seconds,
        "encode_wall_seconds": wall_seconds,
        "encode_workers": num_workers,
        "files": {name: files[name] for name in FILES},
    }
    manifest["digest"] = view_digest(manifest)
    write_json(job.artifact / MANIFEST, manifest)
    return manifest
