"""Machine code kept on the disk follows every file that went into it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLEE = """
from compressors.neural.jit import compiled
STEP = {step}
@compiled
def moved(value):
    return value + {plus}
"""
CALLER = """
from callee import STEP, moved
from compressors.neural.jit import compiled
@compiled
def twice(value):
    return _inner(value) * STEP
@compiled
def _inner(value):
    return moved(value)
"""


def answer(folder: Path, root: Path, *, plus: int, step: int, **environment: str) -> int:
    """What a process of its own computes; only `callee` is written."""
    (folder / "callee.py").write_text(CALLEE.format(plus=plus, step=step))
    program = "import caller; print(caller.twice(10))"
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{root}"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout)


def kept(folder: Path) -> set[Path]:
    return set(folder.rglob("caller*.nbc"))


def test_code_compiled_from_another_files_function_or_number_is_not_used_when_that_changes(tmp_path, root):
    (tmp_path / "caller.py").write_text(CALLER)
    assert answer(tmp_path, root, plus=1, step=2) == 22
    first = kept(tmp_path)
    assert first
    assert answer(tmp_path, root, plus=1, step=2) == 22
    assert kept(tmp_path) == first  # it was used again
    assert answer(tmp_path, root, plus=5, step=2) == 30
    assert answer(tmp_path, root, plus=5, step=3) == 45


@pytest.mark.parametrize("variable", ["NUMBA_CACHE_DIR", "XDG_CACHE_HOME"])
def test_a_folder_that_is_asked_for_or_a_source_that_cannot_be_written(tmp_path, root, variable):
    if variable == "XDG_CACHE_HOME" and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    (source / "caller.py").write_text(CALLER)
    (source / "callee.py").touch()
    if variable == "XDG_CACHE_HOME":
        source.chmod(0o555)
    assert answer(source, root, plus=1, step=2, **{variable: str(cache), "PYTHONDONTWRITEBYTECODE": "1"}) == 22
    assert kept(cache)
    assert not kept(source)
