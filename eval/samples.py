"""What an evaluation has made so far, one JSON line a sample: append-only, resumable, one writer at a time.

    with Samples.open(work_folder(run, "lines", "test", job), job) as samples:
        for item in items:
            if item.key not in samples.done:
                samples.append(item.key, {"completion": ...})

    RUN/eval/lines-test-0123456789abcdef/  job.json  samples.jsonl     RUN/eval/lines-test.json (the result, written last)

`job` is a plain JSON object of all that can change a sample: identity of the run, digest of the data, settings; never paths, batch sizes or
devices. Its digest names the folder, so another job has a folder of its own. Each line holds `key` and a digest: a torn last line is cut
off, a damaged line is dropped and said, and its sample is made again.

Not promised: that the last samples outlive a loss of power; they are made again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from compressors.files import atomic_writer, canonical_json, digest_of, disk_error, read_json, write_json
from eval.blocks import sound_record
from proxy_lm.errors import RequestError
from proxy_lm.progress import note
from proxy_lm.train.checkpoint_files import MANIFEST_NAME, parse_step

NAME = "samples.jsonl"
_DIGITS = 16  # of a line's digest


def eval_folder(run: Path) -> Path:
    """Where everything measured of `run` is kept: RUN/eval. Of one checkpoint it is RUN/eval/step-N, since a checkpoint that held anything
    that its manifest does not list would count as damaged."""
    if parse_step(run.name) is None or not (run / MANIFEST_NAME).exists():
        return run / "eval"
    place = run.absolute().parent
    return (place.parent if place.name == "checkpoints" else place) / "eval" / run.name


def work_folder(run: Path, command: str, set_name: str, job: Mapping[str, Any]) -> Path:
    """Where the samples of a job are kept: RUN/eval/<command>-<set>-<16 digits of the job's digest>."""
    return eval_folder(run) / f"{command}-{set_name}-{digest_of(job)[:16]}"


def result_path(run: Path, command: str, set_name: str) -> Path:
    """Where the result stands: RUN/eval/<command>-<set>.json, or <command>.json of a command that has one result ('' for its set)."""
    return eval_folder(run) / f"{'-'.join(filter(None, (command, set_name)))}.json"


class Samples:
    """The samples of one job. Use `Samples.open` as a context manager; not safe to share between threads."""

    folder: Path
    done: dict[str, dict[str, Any]]
    """Records by key, in the order in which they were made; without `key` and `digest`."""

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        self.folder = folder
        self.done = {}
        self._job = json.loads(canonical_json(job))
        self._opened = ExitStack()
        self._file: IO[bytes] | None = None

    @classmethod
    def open(cls, folder: Path, job: Mapping[str, Any]) -> Self:
        """The samples in `folder`, made if it is not there. Entering raises `RequestError` where another process writes it, or it holds
        another job's samples."""
        return cls(folder, job)

    @property
    def path(self) -> Path:
        """The file of samples."""
        return self.folder / NAME

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = opened.enter_context((self.folder / ".lock").open("ab"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise RequestError(f"another process is writing {self.path}; wait for it, or stop it, and run this again") from error
                self._check_job()
                self.done = _read(self.path)
                self._file = opened.enter_context(self.path.open("ab"))
            except OSError as error:
                raise disk_error(error, self.path) from error
            self._opened = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._file is not None
        with self._opened:
            try:
                os.fsync(self._file.fileno())  # `append` has flushed
            except OSError as failure:
                if kind is None:  # else the first error is on its way
                    raise disk_error(failure, self.path) from failure
        self._file = None

    def append(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep one sample; it is in the file when this returns. A key that is done already is our bug."""
        assert self._file is not None, "the samples are not open; use them in a with block"
        assert key not in self.done, f"sample {key} was made twice"
        assert not {"key", "digest"} & set(record), "a record has no fields 'key' and 'digest' of its own"
        line = {"key": key, **record}
        try:
            self._file.write(json.dumps({**line, "digest": digest_of(line)[:_DIGITS]}, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise disk_error(error, self.path) from error
        self.done[key] = dict(record)

    def _check_job(self) -> None:
        path = self.folder / "job.json"
        if not path.exists():
            write_json(path, self._job)
            return
        found = read_json(path, "job of these samples")
        if found != self._job:
            changed = sorted(name for name in {**found, **self._job} if found.get(name) != self._job.get(name))
            raise RequestError(
                f"{self.folder} holds samples of another job (different: {', '.join(changed)}); name another folder, or delete this one"
            )


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Samples by key. The file is left with whole and sound lines only."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
    sound, done = [], {}
    for line in lines:
        record = sound_record(line, _DIGITS)
        if record is not None and isinstance(record.get("key"), str) and record["key"] not in done:
            sound.append(line)
            done[record.pop("key")] = record
    if len(sound) < len(lines):
        note(f"{path}: {len(lines) - len(sound)} of {len(lines)} lines are damaged or repeated; these samples are made again")
    kept = b"".join(sound)
    if kept != data:
        with atomic_writer(path) as file:
            file.write(kept)
    return done
