"""`proxy-lm doctor` says what this machine has, quickly, without loading torch, and fails only where the default path would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from proxy_lm import machine
from proxy_lm.cli import main

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as TORCH_EXTENSIONS_DIR."""
    folder = tmp_path / "extensions"
    folder.mkdir()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return folder


def answer(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert main(["doctor", *words, "--json"]) == code
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return value


def feature(result: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = [row for row in result["features"] if name in row["feature"]]
    assert isinstance(row, dict)
    return row


def test_a_complete_installation_is_healthy_and_the_json_says_everything(extensions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = answer(capsys)
    assert result["missing"] == []
    assert result["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "deepspeed", "numpy"} <= {package["name"] for package in result["packages"] if package["ok"]}
    assert result["torch"]["error"] is None
    assert result["cores"]["usable"] == len(os.sched_getaffinity(0))
    assert 0 < result["memory"]["available_bytes"] <= result["memory"]["total_bytes"]
    assert result["disk"]["free_bytes"] > 0
    assert result["jit_locks"] == []
    assert all(row["why"] for row in result["features"])
    assert feature(result, "training on this CPU")["available"] is True
    gpus = feature(result, "training on GPUs")
    assert gpus["available"] is bool(result["torch"]["devices"])
    assert gpus["available"] or "skipped: torch" in gpus["why"]


def test_people_get_a_table(extensions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "near-duplicate removal" in out
    assert "Everything that the default path needs is here." in out


def test_as_a_process_it_loads_neither_torch_nor_deepspeed(extensions: Path) -> None:
    code = (
        "import sys; from proxy_lm.cli import main; code = main(['doctor', '--json']); "
        "print(code, [name for name in ('torch', 'deepspeed') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=True)
    assert done.stderr == "0 []\n"
    assert json.loads(done.stdout)["missing"] == []


def test_a_missing_package_is_exit_code_1_with_the_command_that_installs_it(
    extensions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [Requirement("surely-not-installed>=3,<4"), Requirement("numpy<1")]
    monkeypatch.setattr(machine, "_requirements", lambda: (wanted, None))
    assert main(["doctor", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["missing"][0] == "surely-not-installed is not installed: pip install 'surely-not-installed>=3,<4'"
    assert "numpy version " in captured.err
    assert "pip install 'numpy<1'" in captured.err
    assert captured.err.count("\n") == 1


def test_a_torch_that_cannot_be_imported_is_a_sentence() -> None:
    broken = machine.probe_torch([sys.executable, "-c", "raise ImportError('libtorch.so: no such file')"])
    assert broken == {"error": "importing torch failed: ImportError: libtorch.so: no such file"}
    crashed = machine.probe_torch([sys.executable, "-c", "import os; os.abort()"])
    assert crashed == {"error": "importing torch failed: exit code -6"}


def test_a_stale_lock_of_a_build_is_named_with_its_remedy_and_a_live_one_is_not(
    extensions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dead", "live"):
        (extensions / name).mkdir()
        (extensions / name / "lock").touch()
    with (extensions / "live" / "lock").open():
        result = answer(capsys)
    assert [(Path(lock["path"]).parent.name, lock["stale"]) for lock in result["jit_locks"]] == [("dead", True), ("live", False)]
    (warning,) = [sentence for sentence in result["warnings"] if "builds under" in sentence]
    assert warning.endswith(f"rm '{extensions}/dead/lock'")
    assert result["missing"] == []


def test_without_the_variable_locks_are_looked_for_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lock = tmp_path / "torch_extensions" / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert [found["path"] for found in machine.jit_locks(machine.extensions_folder())] == [str(lock)]


def test_offline_is_told(extensions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    row = feature(answer(capsys), "hub")
    assert (row["available"], row["why"]) == (False, "HF_HUB_OFFLINE is set: only local folders")


def test_a_missing_extra_is_a_feature_that_is_skipped() -> None:
    requirements = [Requirement("surely-not-installed>=1; extra == 'dedup'"), Requirement("numpy; extra == 'dedup'"), Requirement("numpy")]
    extra = machine.check_extra("dedup", requirements)
    assert extra["present"] is False
    assert extra["install"] == "pip install 'proxy-lm[dedup]'"
    assert [package["name"] for package in extra["packages"]] == ["surely-not-installed", "numpy"]


def test_every_extra_of_the_project_is_known() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(machine.EXTRAS) == set(project["optional-dependencies"]) - {"all"}


def test_a_missing_folder_is_exit_code_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "--folder", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
