"""Encode a corpus under a compressor: `proxy-lm encode --corpus corpus --view views/spm`.

The corpus is cut into blocks of about 4 MB at borders that depend on the corpus alone. Processes (threads, for a compressor that says so)
encode blocks and write each as one file, whole or absent, under `encode.parts/` (see `proxy_lm.data.parts`); the same command after a kill
keeps the finished ones, which threads write after the first `KEEP_AFTER_SECONDS`. The parts are joined in order as they come, so the result
is the same for any number of workers, and the manifest is written last. Until then the symbols need twice their space.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import itertools
import math
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from compressors.base import Compressor
from compressors.files import atomic_writer, disk_error, read_json, sha256_bytes, write_json
from compressors.registry import load, read_artifact, save
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.engines import Engine, idle
from proxy_lm.data.parts import NUM_EXAMPLES, Joiner, Part, encode_block
from proxy_lm.data.view_files import FILES, INDEX, MANIFEST, RAW_ONLY, SCHEMA, SYMBOLS, read_manifest, symbol_type, view_digest
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.progress import ProgressBar, note

BLOCK_BYTES: Final = 4 << 20
PARTS: Final = "encode.parts"
KEY: Final = "key.json"
KEEP_AFTER_SECONDS: Final = 2.0
"""Threads keep parts only when they have worked for so long: to keep one takes as long as to make it, and a shorter run is begun anew."""
_Future: TypeAlias = "concurrent.futures.Future[Any]"


@dataclass(frozen=True)
class _Job:
    """What a worker needs to know; small, so that it is sent to each."""

    corpus: Path
    artifact: Path
    parts: Path
    corpus_digest: str
    verify_every: int  # decode each k-th document again; 0: none
    began: float  # on the monotonic clock


def encode_corpus(
    corpus: Corpus,
    compressor_dir: Path,
    out: Path,
    *,
    num_workers: int = 1,
    engine: Engine | None = None,
    verify_round_trip: bool = True,
    verify_every: int = 1,
    verify_corpus: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Symbols of every document of `corpus` into the folder `out`, which may be `compressor_dir` itself; returns the manifest.

    `engine` encodes the blocks; by default `num_workers` threads or processes here do. `verify_every` k decodes each k-th document again.
    `verify_corpus` checks the corpus's digests before anything is kept, while the compressor is loaded and the first blocks are encoded.
    `force` replaces what an encode of another corpus or compressor left in `out`.
    Raises `RequestError` for a folder that holds another view, and `WorkError` for a full disk or a worker that died: finished blocks stay.
    """
    num_workers = engine.num_workers if engine else num_workers
    if num_workers < 1:
        raise RequestError(f"{num_workers} workers encode nothing; give at least 1 worker")
    if verify_every < 0:
        raise RequestError(f"verify_every {verify_every} is negative; give k to decode each k-th document again, 0 for none")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        checked = pool.submit(corpus.check_digests if verify_corpus else lambda: None)
        compressor = load(compressor_dir)
        artifact = read_artifact(compressor_dir)
        fingerprint = artifact["fingerprint"]
        with _alone_in(out):
            done = _finished(corpus, fingerprint, out, force)
            if done is not None:
                checked.result()
                note(f"encode: {out} holds this view already")
                return done
            if out.resolve() != compressor_dir.resolve():
                save(compressor, out, artifact.get("measured"))
            verify_every = verify_every if verify_round_trip else 0
            out = out.absolute()  # workers on other machines stand elsewhere
            job = _Job(corpus.path.absolute(), out, out / PARTS, corpus.digest, verify_every, time.monotonic())
            with idle(job.parts / KEY):
                _open_parts(job, fingerprint, force)
            joined = _encode_and_join(job, corpus, compressor, engine or num_workers, checked)
            manifest = _finish(job, corpus, compressor, fingerprint, joined, num_workers)
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
    path = job.parts / KEY
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


def _encode_and_join(job: _Job, corpus: Corpus, compressor: Compressor, workers: int | Engine, checked: _Future) -> Joiner:
    """Make the parts that are missing, and join all in order as they come. The joined file waits among the parts, whole or absent."""
    blocks = blocks_of(corpus)
    missing = [documents for documents in blocks if _read_part(job, compressor, documents) is None]
    if len(missing) < len(blocks):
        note(f"encode: {len(blocks) - len(missing)} of {len(blocks)} blocks are there from an earlier run")
    total_bytes = sum(_num_bytes(corpus, documents) for documents in missing)
    with (
        atomic_writer(job.parts / SYMBOLS) as file,
        ProgressBar(f"encode {compressor.name}", total_bytes) as bar,
        _made(job, corpus, compressor, missing, workers, checked) as made,
    ):
        joiner = Joiner(file)
        left = set(missing)
        if not missing:
            checked.result()
        for documents in blocks:
            part = next(made) if documents in left else None
            part = part or _read_part(job, compressor, documents)
            if part is None:
                path = _part_path(job.parts, documents)
                raise WorkError(f"{path} vanished or was damaged while the parts were joined; run the same command again")
            joiner.add(part)
            if documents in left:
                bar.advance(_num_bytes(corpus, documents))
    return joiner


def _read_part(job: _Job, compressor: Compressor, documents: range) -> Part | None:
    return Part.read(_part_path(job.parts, documents), len(documents), compressor.alphabet_size)


@contextmanager
def _made(
    job: _Job, corpus: Corpus, compressor: Compressor, missing: list[range], workers: int | Engine, checked: _Future
) -> Iterator[Iterator[Part | None]]:
    """Parts of the missing blocks in order; None where another process wrote it."""
    if isinstance(workers, Engine):
        checked.result()
        tasks = [(replace(job, began=-math.inf), documents) for documents in missing]
        num_bytes = sum(_num_bytes(corpus, documents) for documents in missing)
        yield _in_turn(workers.run(encode_documents, tasks, seal=job.parts / KEY, num_bytes=num_bytes), missing)
        return
    num_workers = min(workers, len(missing))
    if num_workers <= 1:
        yield (_encode_block(job, corpus, compressor, checked, documents) for documents in missing)
        return
    pool: concurrent.futures.Executor
    if compressor.in_threads:
        pool = concurrent.futures.ThreadPoolExecutor(num_workers)
        told = _in_order(pool, partial(_encode_block, job, corpus, compressor, checked), missing, 2 * num_workers)
    else:
        checked.result()
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(num_workers, context, _start_worker, (job,))
        told = _in_order(pool, _work, missing, len(missing))
    try:
        yield told
    except BrokenProcessPool as error:
        raise WorkError(
            "an encoding process died (killed, or out of memory); the finished blocks are kept: "
            "run the same command again, with fewer --workers if memory is short"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: concurrent.futures.Executor, make: Callable[[range], Part | None], missing: list[range], num_ahead: int
) -> Iterator[Part | None]:
    """What `make` returns for each block. At most `num_ahead` results wait, so that memory is bounded."""
    waiting: deque[concurrent.futures.Future[Part | None]] = deque()
    for documents in missing:
        waiting.append(pool.submit(make, documents))
        if len(waiting) == num_ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _in_turn(finished: Iterator[int], missing: list[range]) -> Iterator[None]:
    """None for each missing block in order, each when it is among the `finished`, whatever their order."""
    done: set[int] = set()
    for documents in missing:
        while documents.start not in done:
            done.add(next(finished))
        yield None


def encode_documents(job: _Job, documents: range) -> int:
    """Make the part file of one block, in a process that may do many. Returns its first document."""
    _encode_block(job, *_opened(job), documents)
    return documents.start


@lru_cache(maxsize=1)
def _opened(job: _Job) -> tuple[Corpus, Compressor, _Future]:
    corpus = Corpus.open(job.corpus, verify=False)
    if corpus.digest != job.corpus_digest:
        raise WorkError(f"the corpus {job.corpus} changed while it was being encoded; run the same command again")
    checked: _Future = concurrent.futures.Future()
    checked.set_result(None)  # by whoever asks for the work
    return corpus, load(job.artifact), checked


def _num_bytes(corpus: Corpus, documents: range) -> int:
    return int(corpus.offsets[documents.stop] - corpus.offsets[documents.start])


_job: _Job | None = None


def _start_worker(job: _Job) -> None:
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which stops the pool
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _opened(job)
    _job = job


def _leave_with_parent() -> None:
    """A pool's processes outlive a parent that was killed, and would write on. This one goes with it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _work(documents: range) -> None:
    assert _job is not None
    encode_documents(_job, documents)


def _encode_block(job: _Job, corpus: Corpus, compressor: Compressor, checked: _Future, documents: range) -> Part:
    part = encode_block(compressor, corpus, documents, job.verify_every)
    checked.result()  # raises where the corpus is damaged; no part is made of that
    if not compressor.in_threads or time.monotonic() - job.began >= KEEP_AFTER_SECONDS:
        part.write(_part_path(job.parts, documents))
    return part


def _finish(job: _Job, corpus: Corpus, compressor: Compressor, fingerprint: str, joined: Joiner, num_workers: int) -> dict[str, Any]:
    """Move the joined symbols to their place, write the two indices and, last, the manifest."""
    os.replace(job.parts / SYMBOLS, job.artifact / SYMBOLS)
    totals = joined.totals
    files: dict[str, dict[str, Any]] = {SYMBOLS: {"size_bytes": joined.size_bytes, "sha256": joined.sha256}}
    raw_only = np.flatnonzero(joined.lengths < 0)
    offsets = np.concatenate([[0], np.cumsum(np.maximum(joined.lengths, 0))])
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
        "symbol_bytes": symbol_type(compressor.alphabet_size).itemsize,
        "num_documents": corpus.num_documents,
        "num_bytes": int(corpus.offsets[-1]),
        "num_symbols": int(offsets[-1]),
        "num_raw_only": int(raw_only.size),
        "raw_only_bytes": int(corpus.sizes[raw_only].sum()),
        "raw_only_reasons": dict(sorted(totals.reasons.items())),
        "raw_only_examples": totals.examples[:NUM_EXAMPLES],
        "num_round_trips_checked": totals.checked,
        "num_round_trips_exact": totals.exact,
        "encode_cpu_seconds": totals.cpu_seconds,
        "encode_wall_seconds": time.monotonic() - job.began,
        "encode_workers": num_workers,
        "files": {name: files[name] for name in FILES},
    }
    manifest["digest"] = view_digest(manifest)
    write_json(job.artifact / MANIFEST, manifest)
    return manifest
