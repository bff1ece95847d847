"""A folder that is whole or absent: made beside its place, then renamed.

    with new_folder(out, replace=False) as stage:
        write_json(stage / "config.json", ...)

A killed process leaves at most a `NAME.tmp-<machine>-<pid>` folder. Only a folder that an export has made is ever replaced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from compressors.files import disk_error, sync_folder
from proxy_lm.errors import RequestError

RECORD_NAME: Final = "export.json"


@contextmanager
def new_folder(out: Path, *, replace: bool) -> Iterator[Path]:
    """An empty folder that takes the name `out` when the block ends without an error, and is deleted otherwise. Raises `RequestError` where
    something stands under that name that may not be replaced."""
    check_free(out, replace=replace)
    stage = out.with_name(f"{out.name}.tmp-{os.uname().nodename}-{os.getpid()}")
    try:
        try:
            stage.mkdir(parents=True)
        except OSError as error:
            raise disk_error(error, stage) from error
        yield stage
        try:
            _put(stage, out)
        except OSError as error:
            raise disk_error(error, out) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def check_free(out: Path, *, replace: bool) -> None:
    """Refuse an output folder that holds anything, but for an earlier export that is to be replaced."""
    if not out.name:
        raise RequestError(f"'{out}' is where this command runs or the root, and an export makes its folder; give it a name")
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / RECORD_NAME).is_file():
        raise RequestError(f"{out} exists and is no earlier export (it has no {RECORD_NAME}); give a name that is free")
    if not replace:
        raise RequestError(f"{out} holds an earlier export; give --replace to put the new one in its place, or another name")


def _put(stage: Path, out: Path) -> None:
    for path in stage.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(stage)
    old = stage.with_name(stage.name + "-old")
    if out.exists():
        out.rename(old)
    stage.rename(out)
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)
