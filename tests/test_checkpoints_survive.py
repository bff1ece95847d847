"""A checkpoint is whole or absent: kills, I/O errors, a full disk and failing ranks never lose or invent a committed step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from proxy_lm.errors import RequestError
from proxy_lm.train import campaign_manager
from proxy_lm.train.checkpoint import CheckpointManager
from proxy_lm.train.run_lock import RunLock

CHILDREN = Path(__file__).with_name("checkpoint_children.py")


@pytest.fixture(scope="session")
def children() -> ModuleType:
    return campaign_manager


def run_child(*words: object, cwd: Path | None = None) -> Any:
    done = subprocess.run(
        [sys.executable, str(CHILDREN), *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- order and debris


def test_files_are_on_the_disk_before_the_checkpoint_has_its_name(
    tmp_path: Path, children: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(descriptor: int) -> None:
        done.append(("fsync", os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path)))
        fsync(descriptor)

    def recorded_rename(old: str, new: str, **options: Any) -> None:
        done.append(("rename", os.path.relpath(new, tmp_path)))
        rename(old, new, **options)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    monkeypatch.setattr(os, "replace", recorded_rename)
    CheckpointManager(tmp_path).save(1, children.writer(1), {})
    commit = done.index(("rename", "step-1"))
    manifest = done.index(("rename", "step-1.tmp/manifest.json"))
    synced_first = {name for verb, name in done[:manifest] if verb == "fsync"}
    listed = {f"step-1.tmp/{name}" for name in children.payload(1)}
    assert listed | {"step-1.tmp", "step-1.tmp/engine", "step-1.tmp/engine/deep"} <= synced_first
    assert ("fsync", "step-1.tmp") in done[manifest:commit]
    assert done[commit + 1] == ("fsync", ".")


def test_only_debris_is_a_fresh_start_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "step-5.tmp").mkdir()
    assert CheckpointManager(tmp_path).newest_valid() is None
    assert "step-5.tmp" in capsys.readouterr().err


# ---- kills and errors


def test_60_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    records = run_child("kills", tmp_path / "checkpoints", 60, 20_240_607)
    assert len(records) == 60
    assert all(record["killed"] for record in records)
    for record in records:
        assert record["content"], record
        assert record["half"] == [], record
        # The child may die between the rename and its report, so one more than it reported may be there; never one fewer.
        assert record["found"] in (record["reported"], record["reported"] + 1), record
        assert len(record["valid"]) >= min(2, record["reported"]), record
    last = records[-1]["found"]
    assert last >= 30, "the children hardly saved: the kills came too early to prove anything"
    assert [step for step in records[-1]["valid"] if step % 25 == 0] == list(range(25, last + 1, 25))
    assert any(record["debris"] for record in records), "no kill fell into a save"


@pytest.mark.parametrize("mode", ["kill", "fail"])
def test_a_fault_at_any_file_operation_of_a_save_loses_nothing(tmp_path: Path, mode: str) -> None:
    records = run_child("points", tmp_path / "checkpoints", mode)
    both = ["step-2", "step-3"]
    healed = {"first": ["step-3"], "rotation": both, "replacement": both, "alone": ["step-3"], "debris": both}
    # What is found when the fault came before the commit; -1 is the error that says that no checkpoint is valid.
    earlier = {"first": 0, "rotation": 2, "replacement": 2, "alone": -1, "debris": 2}
    for name in healed:
        mine = [record for record in records if record["scenario"] == name]
        assert len(mine) > 30
        assert mine[-1]["code"] == 0
        assert {record["found"] for record in mine} == {earlier[name], 3}
    for record in records:
        assert record["code"] in ((0, -9) if mode == "kill" else (0, 1)), record
        assert record["contents"], record
        assert record["half"] == [], record
        assert record["code"] != 0 or record["found"] == 3, record
        assert len(record["after"]) >= min(2, len(record["before"])), record
        assert record["healed"] == healed[record["scenario"]], record


# ---- disk, ranks, lock


def test_a_full_disk_leaves_the_older_checkpoints_and_a_sentence(tmp_path: Path) -> None:
    inside = f"mount -t tmpfs -o size=1m none {tmp_path} && exec {sys.executable} {CHILDREN} full {tmp_path}"
    for unshare in (["unshare", "-m"], ["unshare", "-rm"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*unshare, "sh", "-c", f"mount -t tmpfs none {tmp_path}"], capture_output=True, check=False).returncode == 0
        ):
            break
    else:
        pytest.skip("no private mount namespace for a small disk here (needs unshare and root or user namespaces)")
    done = subprocess.run([*unshare, "sh", "-c", inside], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)
    errors = [record["error"] for record in records]
    assert "needs about" in errors[0]
    assert any(error and "No space left on device (0 bytes are free in" in error for error in errors), "no write met the full disk"
    assert any(error and "while writing the manifest" in error for error in errors), "the manifest never met the full disk"
    assert errors[-1] is None
    for record in records:
        assert record["debris"] == []
        expected = (2, [1, 2]) if record["error"] else (3, [2, 3])
        assert (record["found"], record["valid"]) == expected, record


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("well", None),
        ("oserror-0", "while writing its files on rank 0, planted input/output error"),
        ("oserror-1", "while writing its files on rank 1, planted input/output error"),
        ("runtime-1", "while writing its files on rank 1, stream writer failed"),
        ("unshared-1", "is not visible here: checkpoints need a folder that all hosts share"),
        ("bug-1", "while writing its files on rank 1, planted bug"),
    ],
)
def test_an_error_on_one_rank_is_an_error_on_both(tmp_path: Path, case: str, message: str | None) -> None:
    answers = two_ranks(tmp_path, case)
    if message is None:
        assert [answer["saved"] for answer in answers] == ["step-2", "step-2"]
        assert [answer["found"] for answer in answers] == [[2, {"from_rank": 0}, 2]] * 2
        listed = json.loads((tmp_path / "checkpoints/step-2/manifest.json").read_bytes())["files"]
        assert [(entry["name"], entry["size_bytes"]) for entry in listed] == [("rank_0.pt", 1000), ("rank_1.pt", 1001)]
        return
    assert [answer["saved"] for answer in answers] == [None, None]
    assert message in answers[0]["error"]
    # A bug keeps its own class and traceback where it happened; the other rank is told.
    assert [answer["kind"] for answer in answers] == ["WorkError", "TypeError" if case == "bug-1" else "WorkError"]
    if case != "bug-1":
        assert answers[0]["error"] == answers[1]["error"]
        assert "step-2.tmp" not in names(tmp_path / "checkpoints")
    assert "step-2" not in names(tmp_path / "checkpoints")


@pytest.mark.parametrize("rank", [0, 1])
def test_damage_in_the_share_of_either_rank_is_known_to_both(tmp_path: Path, rank: int) -> None:
    answers = two_ranks(tmp_path, f"damage-{rank}")
    assert answers[0]["found"] == answers[1]["found"]
    assert f"rank_{rank}.pt has digest" in answers[0]["found"]


def two_ranks(folder: Path, case: str) -> list[dict[str, Any]]:
    ranks = [
        subprocess.Popen(
            [sys.executable, str(CHILDREN), "rank", "checkpoints" if case != "unshared-1" else folder / "checkpoints", str(rank), case],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=60) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], outputs
    return [json.loads(output) for output, _ in outputs]


def test_a_second_trainer_on_a_run_folder_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, str(CHILDREN), "lock", str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        told = json.loads(first.stdout.readline())
        try:
            with pytest.raises(RequestError, match=f"is being trained by process {told['pid']} on host"), RunLock(tmp_path):
                pass
            first.kill()
            first.wait()
            os.kill(told["worker"], 0)  # its forked worker still lives, and must not hold the lock
            with RunLock(tmp_path):
                assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
        finally:
            first.kill()
            os.kill(told["worker"], signal.SIGKILL)
    with RunLock(tmp_path):
        pass
