"""Checkpoints that are whole or absent: digests around the engine's files, manifest last, one rename; the newest valid one wins.

    manager = CheckpointManager(run / "checkpoints", keep_last=2, keep_every=1000, collectives=collectives)
    newest = manager.newest_valid()                       # None: a fresh run. Damage everywhere: WorkError, never a silent step 0
    manager.save(step, write, state)                      # every rank; `write(folder)` makes this rank's files

`step-N.tmp` is written, synced and digested by all ranks, then renamed to `step-N`; there is no `latest` to fall behind. Older checkpoints
go (by way of `step-N.trash`) only after the new one was read back. A kill at any instant leaves every committed checkpoint that was due to
stay. Each stage ends with the ranks telling each other how it went, so an error on one is an error on all.

Not promised: safety from a person who may write into the folder (the manifest is not signed), and a way out for a rank that waits inside
`write` for one that failed there: that wait is ended by the engine's own time limit. The failing rank says its error at once.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from compressors.files import canonical_json, sync_folder, write_bytes
from proxy_lm.errors import ProxyError, RequestError, WorkError
from proxy_lm.progress import note
from proxy_lm.train.checkpoint_files import (
    MANIFEST_NAME,
    check_contents,
    check_structure,
    deal,
    listed_sizes,
    make_manifest,
    parse_step,
    scan,
    seal,
    spelled,
    step_name,
    sync_tree,
)
from proxy_lm.train.collectives import Collectives, SingleProcess

if TYPE_CHECKING:
    from compressors.base import JSON

__all__ = ["Checkpoint", "CheckpointManager", "Collectives", "SingleProcess"]

T = TypeVar("T")

# One damaged checkpoint must always leave another, whatever the settings say.
MIN_VALID: Final = 2
# Room for a state that grew a little since the last save.
SPACE_MARGIN_PERCENT: Final = 110


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint whose every file matched its digest when this object was made."""

    path: Path
    step: int
    state: dict[str, Any]
    """What the trainer passed to `save`, as JSON gives it back."""
    manifest: dict[str, Any]

    @property
    def world_size(self) -> int:
        """Number of ranks that wrote it."""
        return int(self.manifest["world_size"])

    def file(self, name: str) -> Path:
        """Path of a listed file. Nothing else in the folder is to be opened: what the manifest lists is what was verified."""
        if name not in listed_sizes(self.manifest):
            raise RequestError(f"{self.path} has no file '{name}'; it lists {', '.join(listed_sizes(self.manifest))}")
        return self.path / name


class CheckpointManager:
    """The checkpoints of one run. Every method but `verify` is collective: all ranks call it, in the same order."""

    def __init__(self, folder: Path, *, keep_last: int = 2, keep_every: int | None = None, collectives: Collectives | None = None) -> None:
        """`keep_last` newest checkpoints stay, and for ever those whose step is a multiple of `keep_every`. The folder must be one that
        all ranks see. Raises `RequestError` for counts that would leave fewer than two."""
        if keep_last < MIN_VALID:
            raise RequestError(f"keep_last = {keep_last}: at least {MIN_VALID} checkpoints are kept, so that a damaged one leaves another")
        if keep_every is not None and keep_every < 1:
            raise RequestError(f"keep_every = {keep_every}: give a number of steps from 1 up, or null to keep none for ever")
        self.folder = Path(folder)
        self.keep_last = keep_last
        self.keep_every = keep_every
        self.collectives: Collectives = collectives or SingleProcess()
        self._newest: Path | None = None  # the last that this object saved or found

    def save(
        self,
        step: int,
        write: Callable[[Path], object],
        state: Mapping[str, JSON],
        *,
        forecast_bytes: int | None = None,
        rotate: bool = True,
    ) -> Path:
        """Commit a checkpoint of `step` and, where `rotate` says so, delete what is over the counts; returns its folder.

        `write(folder)` is called on every rank with the same empty folder and returns when this rank's files are closed. `state` is the
        trainer's JSON (rank 0's counts): progress, digests of config and data, versions. `forecast_bytes` is the expected size where it
        is known; the previous checkpoint is a forecast too. A valid `step-N` is kept as it is. Raises `WorkError` on every rank if
        anything fails on any; older checkpoints are then untouched and nothing is committed.
        """
        assert step >= 0, step
        final = self.folder / step_name(step)
        temporary = final.with_name(final.name + ".tmp")
        self._on_first(step, "while preparing", lambda: self._prepare(final, temporary, state))
        if self._on_first(step, "while looking for an older copy", final.exists) and not self._problems_together(final)[1]:
            if rotate:
                self._rotate(step, final)  # a kill may have come between its commit and its rotation
            self._newest = final
            return final
        self._on_first(step, "while checking the free space", lambda: self._start(step, temporary, forecast_bytes))
        try:
            self._write(step, temporary, write, state)
            self._on_first(step, "while committing", lambda: _commit(temporary, final))
        except WorkError:
            if self.collectives.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)  # gives the space back now; what stays is removed by the next save
            raise
        self._newest = final
        self._delete([_trash(final)])
        if rotate:
            self._rotate(step, final)
        return final

    def newest_valid(self, *, up_to: int | None = None, only: Callable[[int], bool] | None = None) -> Checkpoint | None:
        """The newest checkpoint whose every file matches its digest, the same on every rank; None where no checkpoint was ever committed.

        Damaged ones are named on standard error and left where they are. Raises `WorkError` if there are checkpoints and none is valid.
        With `up_to`, only checkpoints of that step or an earlier one exist, of those the steps that `only` is true for, and None where no
        such one is valid: newer ones may be.
        """
        steps, leftovers = self._on_first(None, "while listing", self._listing)
        if up_to is not None:
            steps, leftovers = [step for step in steps if step <= up_to and (only is None or only(step))], []
        damaged: list[str] = []
        chosen: Checkpoint | None = None
        for step in steps:
            path = self.folder / step_name(step)
            manifest, problems = self._problems_together(path)
            if manifest is not None and not problems:
                chosen = Checkpoint(path=path, step=step, state=manifest["state"], manifest=manifest)
                break
            more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
            damaged.append(f"{path} is damaged: {problems[0]}{more}")
        if chosen is None and up_to is None and (damaged or any(name.endswith(".trash") for name in leftovers)):
            reason = damaged[0] if damaged else f"only the deleted {leftovers[0]} is left"
            raise WorkError(
                f"none of the {len(damaged)} checkpoints in {self.folder} is valid ({reason}); put back a good copy, "
                "or start from step 0 on purpose by moving this folder away"
            )
        self._newest = chosen.path if chosen else None
        if self.collectives.rank == 0:
            for sentence in damaged:
                note(f"{sentence}; using step {chosen.step} instead" if chosen else sentence)
            if chosen is None and leftovers:
                note(f"{self.folder} holds only {', '.join(leftovers)} of a save that was cut off; starting at step 0")
        return chosen

    def verify(self, path: Path) -> list[str]:
        """Everything that is wrong with a checkpoint folder, in words; empty when it is valid. Not collective."""
        manifest, problems = check_structure(path)
        return check_contents(path, manifest, list(listed_sizes(manifest))) if manifest is not None else problems

    # ---- one save, stage by stage

    def _prepare(self, final: Path, temporary: Path, state: Mapping[str, JSON]) -> None:
        try:
            canonical_json(dict(state))
        except (TypeError, ValueError) as error:
            raise WorkError(f"the state is not plain JSON ({error})") from error
        if self._newest is not None and not self._newest.exists():
            raise WorkError(
                f"{self._newest} was there and is not any more: was the folder moved, deleted or unmounted? Put it back, and the same "
                "command continues"
            )
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            sync_folder(self.folder.parent)
        for name in self._listing()[1]:
            _remove(self.folder / name)
        assert not temporary.exists(), temporary

    def _start(self, step: int, temporary: Path, forecast_bytes: int | None) -> None:
        expected_bytes = forecast_bytes or 0
        for older in self._listing()[0]:
            manifest, _ = check_structure(self.folder / step_name(older))
            if manifest is not None:
                expected_bytes = max(expected_bytes, sum(listed_sizes(manifest).values()))
                break
        needed_bytes = expected_bytes * SPACE_MARGIN_PERCENT // 100
        free_bytes = shutil.disk_usage(self.folder).free
        if free_bytes < needed_bytes:
            raise WorkError(
                f"it needs about {needed_bytes} bytes and {free_bytes} are free in {self.folder}; free "
                f"{needed_bytes - free_bytes} bytes or more and run the same command again"
            )
        temporary.mkdir()

    def _write(self, step: int, temporary: Path, write: Callable[[Path], object], state: Mapping[str, JSON]) -> None:
        rank, world_size = self.collectives.rank, self.collectives.world_size

        def write_here() -> None:
            if not temporary.is_dir():
                raise WorkError(f"{temporary} is not visible here: checkpoints need a folder that all hosts share")
            write(temporary)

        self._everywhere(step, "while writing its files", write_here)
        sizes = self._on_first(step, "while listing its files", lambda: _written(temporary))
        share = deal(sizes, world_size)[rank]
        sealed = self._everywhere(step, "while forcing its files to the disk", lambda: {name: seal(temporary / name) for name in share})

        def finish() -> None:
            files = {name: entry for part in sealed for name, entry in part.items()}
            changed = [name for name, size in sizes.items() if files[name]["size_bytes"] != size]
            if changed:
                raise WorkError(f"{changed[0]} was still being written after `write` had returned")
            sync_tree(temporary)
            manifest = make_manifest(step=step, world_size=world_size, state=state, files=files)
            write_bytes(temporary / MANIFEST_NAME, spelled(manifest))

        self._on_first(step, "while writing the manifest", finish)

    def _rotate(self, step: int, new: Path) -> None:
        """Delete what is over the counts, once the new checkpoint was read back and two valid ones are sure to stay."""
        steps = self._on_first(step, "while listing", self._listing)[0]
        keep = set(steps[: self.keep_last]) | {s for s in steps if self.keep_every and s % self.keep_every == 0} | {step}
        doomed = [s for s in steps if s not in keep]
        if not doomed:
            return
        problems = self._problems_together(new, from_disk=True)[1]
        if problems:
            raise WorkError(f"checkpoint {new} does not read back as it was written ({problems[0]}); the older ones are kept")
        num_valid = 1
        for older in steps:
            if num_valid == MIN_VALID:
                break
            if older != step and not self._problems_together(self.folder / step_name(older))[1]:
                num_valid += 1
                keep.add(older)
        self._delete([self.folder / step_name(old) for old in sorted(set(doomed) - keep)])

    def _delete(self, paths: list[Path]) -> None:
        """Rank 0 deletes; the others wait, so that all leave a save together."""
        if self.collectives.rank == 0:
            for path in paths:
                try:
                    _discard(path)
                except OSError as error:
                    # The new checkpoint is safe; a folder that cannot be deleted is no reason to end a run.
                    note(f"could not delete the old checkpoint {path}: {error.strerror or error}")
        self.collectives.barrier()

    # ---- what the ranks do together

    def _problems_together(self, path: Path, *, from_disk: bool = False) -> tuple[dict[str, Any] | None, list[str]]:
        """`verify` with the digests shared out among the ranks: the manifest (None if unusable) and the problems, equal on every rank."""
        doing = f"while checking {path}"
        manifest, problems = self._on_first(None, doing, lambda: check_structure(path))
        if manifest is None:
            return None, problems
        share = deal(listed_sizes(manifest), self.collectives.world_size)[self.collectives.rank]
        reports = self._everywhere(None, doing, lambda: check_contents(path, manifest, share, from_disk=from_disk))
        return manifest, [problem for report in reports for problem in report]

    def _everywhere(self, step: int | None, doing: str, work: Callable[[], T]) -> list[T]:
        """`work` on every rank; the values of all, or an error on all."""
        value, error = _attempt(work)
        report = _words(error, self.folder) if error else None
        if report and self.collectives.world_size > 1:
            note(f"rank {self.collectives.rank} failed {doing}: {report}")
        answers = self.collectives.gather({"value": value, "error": report})
        self._raise_together(step, doing, error, [answer["error"] for answer in answers])
        return [answer["value"] for answer in answers]

    def _on_first(self, step: int | None, doing: str, work: Callable[[], T]) -> T:
        """`work` on rank 0; its value, or its error, on all."""
        value, error = _attempt(work) if self.collectives.rank == 0 else (None, None)
        answer = self.collectives.broadcast({"value": value, "error": _words(error, self.folder) if error else None})
        self._raise_together(step, doing, error, [answer["error"]])
        result: T = answer["value"]
        return result

    def _raise_together(self, step: int | None, doing: str, error: Exception | None, reports: list[str | None]) -> None:
        failed = [rank for rank, report in enumerate(reports) if report is not None]
        if not failed:
            return
        if error is not None and not isinstance(error, (OSError, RuntimeError, ProxyError)):
            raise error  # our own bug keeps its traceback on the rank that has it
        what = "could not read the checkpoints" if step is None else f"checkpoint of step {step} was not saved"
        who = f" on rank {failed[0]}" if self.collectives.world_size > 1 else ""
        raise WorkError(f"{what}: {doing}{who}, {reports[failed[0]]}; the older checkpoints are untouched") from error

    def _listing(self) -> tuple[list[int], list[str]]:
        """Committed steps, newest first, and the names of unfinished saves and deletions."""
        names = sorted(os.listdir(self.folder)) if self.folder.is_dir() else []
        steps = sorted((step for step in map(parse_step, names) if step is not None), reverse=True)
        debris = [name for name in names if name.endswith((".tmp", ".trash")) and parse_step(name.rsplit(".", 1)[0]) is not None]
        return steps, debris


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """The value or the error. The error is not lost: the caller tells it to all ranks and raises it."""
    try:
        return work(), None
    except Exception as error:
        return None, error


def _words(error: Exception, folder: Path) -> str:
    """An error as a clause. A full disk says what is free; engines report one as a RuntimeError about their stream."""
    if isinstance(error, ProxyError):
        return str(error)
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, OSError):
        text = f"{error.strerror or text}" + (f" ({error.filename})" if error.filename else "")
    if isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
        here = next(p for p in (folder, *folder.parents) if p.exists())
        text += f" ({shutil.disk_usage(here).free} bytes are free in {here})"
    return text


def _written(temporary: Path) -> dict[str, int]:
    sizes, problems = scan(temporary)
    if problems:
        raise WorkError(f"{problems[0]}; a checkpoint is made of regular files")
    if not sizes:
        raise WorkError(f"nothing was written into {temporary}")
    return sizes


def _commit(temporary: Path, final: Path) -> None:
    """The moment of truth: before the rename the checkpoint does not exist, after it it is whole. An invalid namesake makes room first."""
    if final.exists() or final.is_symlink():
        final.rename(_trash(final))
    temporary.rename(final)
    sync_folder(final.parent)


def _discard(path: Path) -> None:
    """Delete a checkpoint so that no instant shows half of one under a valid name."""
    if path != _trash(path):
        _remove(_trash(path))
        path.rename(_trash(path))
        sync_folder(path.parent)
    _remove(_trash(path))


def _trash(path: Path) -> Path:
    return path if path.name.endswith(".trash") else path.with_name(path.name + ".trash")


def _remove(path: Path) -> None:
    """Delete a folder, file or link of ours by name; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
