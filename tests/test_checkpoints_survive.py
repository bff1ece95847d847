"""A checkpoint is whole or absent: kills, I/O errors, damage, a full disk and failing ranks never lose or invent a committed step."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from compressors.files import digest_of
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.train.checkpoint import CheckpointManager
from proxy_lm.train.checkpoint_files import deal, spelled
from proxy_lm.train.run_lock import RunLock

CHILDREN = Path(__file__).with_name("checkpoint_children.py")


@pytest.fixture(scope="session")
def children() -> ModuleType:
    spec = importlib.util.spec_from_file_location("checkpoint_children", CHILDREN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def two(tmp_path: Path, children: ModuleType) -> CheckpointManager:
    """A manager over valid checkpoints of steps 10 and 20."""
    manager = CheckpointManager(tmp_path / "checkpoints")
    for step in (10, 20):
        manager.save(step, children.writer(step), {"step": step})
    return manager


def run_child(*words: object, cwd: Path | None = None) -> Any:
    done = subprocess.run(
        [sys.executable, str(CHILDREN), *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- worked examples


def test_a_fresh_folder_has_no_checkpoint_and_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert CheckpointManager(tmp_path / "checkpoints").newest_valid() is None
    assert capsys.readouterr().err == ""


def test_what_was_saved_comes_back(two: CheckpointManager, children: ModuleType) -> None:
    newest = two.newest_valid()
    assert newest is not None
    assert (newest.path, newest.step, newest.state, newest.world_size) == (two.folder / "step-20", 20, {"step": 20}, 1)
    assert newest.file("model.safetensors").read_bytes() == children.payload(20)["model.safetensors"]
    assert two.verify(newest.path) == []


def test_the_manifest_lists_every_file_with_size_and_sha256(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)

    def write(folder: Path) -> None:
        (folder / "engine").mkdir()
        (folder / "engine" / "a.pt").write_bytes(b"abc")

    path = manager.save(7, write, {"config": "x"})
    manifest = json.loads((path / "manifest.json").read_bytes())
    digest = manifest.pop("digest")
    assert manifest == {
        "kind": "proxy-lm checkpoint",
        "schema": 1,
        "step": 7,
        "world_size": 1,
        "state": {"config": "x"},
        "files": [
            {
                "name": "engine/a.pt",
                "size_bytes": 3,
                "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            }
        ],
    }
    assert digest == digest_of(manifest)


def test_a_file_that_the_manifest_does_not_list_is_not_given_out(two: CheckpointManager) -> None:
    newest = two.newest_valid()
    assert newest is not None
    for name in ("../step-10/model.safetensors", "/etc/passwd", "manifest.json", "engine"):
        with pytest.raises(RequestError, match="has no file"):
            newest.file(name)


def test_the_same_step_saved_twice_is_written_once(two: CheckpointManager) -> None:
    def never(folder: Path) -> None:
        raise AssertionError("a valid checkpoint was written again")

    assert two.save(20, never, {"step": 20}) == two.folder / "step-20"


def test_an_invalid_namesake_is_replaced(two: CheckpointManager, children: ModuleType) -> None:
    (two.folder / "step-20" / "model.safetensors").write_bytes(b"")
    two.save(20, children.writer(20), {"step": 20})
    assert names(two.folder) == ["step-10", "step-20"]
    assert two.verify(two.folder / "step-20") == []


def test_rotation_keeps_the_last_and_the_multiples(tmp_path: Path, children: ModuleType) -> None:
    manager = CheckpointManager(tmp_path, keep_last=3, keep_every=4)
    for step in range(1, 11):
        manager.save(step, children.writer(step), {})
    assert names(tmp_path) == ["step-10", "step-4", "step-8", "step-9"]


def test_rotation_does_not_count_on_a_damaged_checkpoint(two: CheckpointManager, children: ModuleType) -> None:
    """keep_last = 2 would leave 30 and the damaged 20: 10 has to stay until there is another valid one."""
    (two.folder / "step-20" / "model.safetensors").write_bytes(b"12345")
    two.save(30, children.writer(30), {})
    assert names(two.folder) == ["step-10", "step-20", "step-30"]
    two.save(40, children.writer(40), {})
    assert names(two.folder) == ["step-30", "step-40"]


def test_nothing_is_deleted_when_the_new_checkpoint_does_not_read_back(
    two: CheckpointManager, children: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk lies: what is read after the commit is not what was written."""
    commit = sys.modules["proxy_lm.train.checkpoint"]._commit  # type: ignore[attr-defined]

    def commit_and_rot(temporary: Path, final: Path) -> None:
        commit(temporary, final)
        (final / "model.safetensors").write_bytes(b"12345")

    monkeypatch.setattr("proxy_lm.train.checkpoint._commit", commit_and_rot)
    with pytest.raises(WorkError, match="step-30 does not read back as it was written"):
        two.save(30, children.writer(30), {})
    assert names(two.folder) == ["step-10", "step-20", "step-30"]
    newest = two.newest_valid()
    assert newest is not None
    assert newest.step == 20


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


def test_all_damaged_is_never_a_silent_step_0(two: CheckpointManager) -> None:
    for step in (10, 20):
        (two.folder / f"step-{step}" / "manifest.json").write_bytes(b"")
    with pytest.raises(WorkError, match=r"none of the 2 checkpoints in .* is valid \(.*step-20 is damaged: manifest.json \(0 bytes\)"):
        two.newest_valid()
    assert names(two.folder) == ["step-10", "step-20"]


def test_an_older_one_is_found_among_those_asked_for_and_damage_there_ends_nothing(
    two: CheckpointManager, children: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    two.save(25, children.writer(25), {"step": 25}, rotate=False)
    assert names(two.folder) == ["step-10", "step-20", "step-25"], "two are kept, and this save deleted none"
    found = [two.newest_valid(up_to=limit) for limit in (30, 24, 19, 9)]
    assert [checkpoint and checkpoint.step for checkpoint in found] == [25, 20, 10, None]
    even = two.newest_valid(up_to=30, only=lambda step: step % 10 == 0)
    assert even is not None
    assert even.step == 20
    next((two.folder / "step-10").glob("*.json")).write_bytes(b"")
    capsys.readouterr()
    assert two.newest_valid(up_to=15) is None
    assert "step-10 is damaged: " in capsys.readouterr().err
    two.save(30, children.writer(30), {"step": 30})
    assert names(two.folder) == ["step-25", "step-30"]


def test_a_forecast_over_the_free_space_writes_nothing(two: CheckpointManager, children: ModuleType) -> None:
    with pytest.raises(WorkError, match=r"step 30 was not saved: .* needs about 1100000000000000000 bytes and \d+ are free"):
        two.save(30, children.writer(30), {}, forecast_bytes=10**18)
    assert names(two.folder) == ["step-10", "step-20"]


@pytest.mark.parametrize(("counts", "message"), [({"keep_last": 1}, "keep_last = 1"), ({"keep_every": 0}, "keep_every = 0")])
def test_counts_that_would_leave_too_few_are_refused(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        CheckpointManager(tmp_path, **counts)


def test_state_that_is_not_json_saves_nothing(two: CheckpointManager, children: ModuleType) -> None:
    with pytest.raises(WorkError, match="state is not plain JSON"):
        two.save(30, children.writer(30), {"loss": float("nan")})
    assert names(two.folder) == ["step-10", "step-20"]


def test_files_are_dealt_evenly() -> None:
    assert deal({"a": 5, "b": 4, "c": 3, "d": 2}, 2) == [["a", "d"], ["b", "c"]]
    assert deal({"a": 5}, 3) == [["a"], [], []]
    assert deal({}, 2) == [[], []]


def test_looking_for_a_checkpoint_loads_no_engine_and_no_unpickler_of_tensors() -> None:
    code = "import sys, proxy_lm.train.checkpoint; print([name for name in ('torch', 'deepspeed') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


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


# ---- damage


def rewrite(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A manifest changed by hands that know how to digest it."""

    def damage(path: Path) -> None:
        manifest = json.loads((path / "manifest.json").read_bytes())
        del manifest["digest"]
        change(manifest)
        (path / "manifest.json").write_bytes(spelled(manifest | {"digest": digest_of(manifest)}))

    return damage


def rename_entry(name: str) -> Callable[[Path], None]:
    return rewrite(lambda manifest: manifest["files"][0].update(name=name))


def swap(first: str, second: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / first).rename(path / "aside")
        (path / second).rename(path / first)
        (path / "aside").rename(path / second)

    return damage


def replaced(name: str, make: Callable[[Path, bytes], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = (path / name).read_bytes()
        (path / name).unlink()
        make(path / name, data)

    return damage


def linked_outside(path: Path, data: bytes) -> None:
    other = path.parents[2] / "outside"
    other.write_bytes(data)
    path.symlink_to(other)


def folder_as_link(path: Path) -> None:
    path.rename(path.parent / "real")
    path.symlink_to("real")


def faults() -> Iterator[tuple[str, Callable[[Path], Any]]]:
    draw = random.Random(7)
    for name in ("engine/rank_0.pt", "engine/deep/rank_1.pt", "model.safetensors", "manifest.json"):
        for k in range(6):
            place = draw.random()
            bit = 1 << draw.randrange(8)

            def flip(path: Path, name: str = name, place: float = place, bit: int = bit) -> None:
                data = bytearray((path / name).read_bytes())
                data[int(place * len(data))] ^= bit
                (path / name).write_bytes(data)

            yield f"flip-{k}-{name}", flip
        for cut in ("zero", "one", "half", "last"):
            length = {"zero": lambda n: 0, "one": lambda n: 1, "half": lambda n: n // 2, "last": lambda n: n - 1}[cut]
            yield f"truncate-{cut}-{name}", replaced(name, lambda p, data, length=length: p.write_bytes(data[: length(len(data))]))
        yield f"delete-{name}", replaced(name, lambda p, data: None)
        yield f"append-{name}", replaced(name, lambda p, data: p.write_bytes(data + (b"}" if p.suffix == ".json" else b"\0")))
        yield f"link-{name}", replaced(name, linked_outside)
        yield f"folder-{name}", replaced(name, lambda p, data: p.mkdir())
        yield f"pipe-{name}", replaced(name, lambda p, data: os.mkfifo(p))
    yield "swap", swap("engine/rank_0.pt", "engine/deep/rank_1.pt")
    yield "swap-manifest", swap("model.safetensors", "manifest.json")
    yield "extra-file", lambda path: (path / "engine" / "extra.pt").write_bytes(b"")
    yield "extra-link", lambda path: (path / "engine" / "extra").symlink_to("/")
    yield "folder-is-a-link", folder_as_link
    yield "folder-is-a-file", lambda path: (shutil.rmtree(path), path.write_bytes(b""))
    yield "folder-is-empty", lambda path: (shutil.rmtree(path), path.mkdir())
    for text in ("", "[]", "null", "1", '"x"', "{}", "NaN", '{"schema": 1}', "[" * 100_000, "\xff", '{"schema": 1, "schema": 1}'):
        yield f"manifest-{text[:20]}", lambda path, text=text: (path / "manifest.json").write_bytes(text.encode("latin-1"))
    yield "other-schema", rewrite(lambda manifest: manifest.update(schema=2))
    yield "other-kind", rewrite(lambda manifest: manifest.update(kind="shard"))
    yield "other-step", rewrite(lambda manifest: manifest.update(step=21))
    yield "step-is-true", rewrite(lambda manifest: manifest.update(step=True))
    yield "extra-key", rewrite(lambda manifest: manifest.update(extra=0))
    yield "no-files", rewrite(lambda manifest: manifest.update(files=[]))
    yield "files-is-an-object", rewrite(lambda manifest: manifest.update(files={"a": 1}))
    yield "state-is-a-list", rewrite(lambda manifest: manifest.update(state=[]))
    yield "entry-is-text", rewrite(lambda manifest: manifest["files"].append("model.safetensors"))
    yield "entry-twice", rewrite(lambda manifest: manifest["files"].append(manifest["files"][0]))
    yield "size-is-text", rewrite(lambda manifest: manifest["files"][0].update(size_bytes="3000"))
    for name in ("../step-10/model.safetensors", "/etc/passwd", "engine/../model.safetensors", "engine//x", "a\\b", "./x", "", ".", "x\0y"):
        yield f"name-{name!r}", rename_entry(name)


FAULTS = dict(faults())


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) >= 60


@pytest.mark.parametrize("name", FAULTS)
def test_damage_is_seen_and_the_previous_checkpoint_is_used(
    two: CheckpointManager, name: str, capsys: pytest.CaptureFixture[str], children: ModuleType
) -> None:
    FAULTS[name](two.folder / "step-20")
    assert two.verify(two.folder / "step-20")
    capsys.readouterr()
    newest = two.newest_valid()
    assert newest is not None
    assert newest.step == 10
    assert children.holds_payload(newest.path, 10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert f"{two.folder / 'step-20'} is damaged: " in lines[0]
    assert lines[0].endswith("; using step 10 instead")
    assert os.path.lexists(two.folder / "step-20"), "evidence was deleted"


def test_a_checkpoint_under_the_name_of_another_step_is_refused(two: CheckpointManager) -> None:
    (two.folder / "step-20").rename(two.folder / "step-30")
    assert two.verify(two.folder / "step-30") == ["manifest.json is of step 20"]


def test_other_names_are_not_taken_for_checkpoints(two: CheckpointManager) -> None:
    for name in ("step-020", "step-30.tmp", "step-", "step--1", "step-3e1", "best"):
        shutil.copytree(two.folder / "step-20", two.folder / name)
    newest = two.newest_valid()
    assert newest is not None
    assert newest.step == 20


@given(
    keep_last=st.integers(2, 4),
    keep_every=st.none() | st.integers(2, 4),
    moves=st.lists(st.tuples(st.integers(1, 3), st.sets(st.integers(0, 4), max_size=3)), min_size=1, max_size=8),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_rotation_invariants(
    tmp_path_factory: pytest.TempPathFactory,
    children: ModuleType,
    keep_last: int,
    keep_every: int | None,
    moves: list[tuple[int, set[int]]],
) -> None:
    """Each move damages some of the newest checkpoints (0 is the newest) and saves one more, some steps on."""
    manager = CheckpointManager(tmp_path_factory.mktemp("rotation"), keep_last=keep_last, keep_every=keep_every)
    step = 0
    for advance, damaged in moves:
        present = sorted((int(name[5:]) for name in names(manager.folder)), reverse=True)
        for index in damaged:
            if index < len(present):
                (manager.folder / f"step-{present[index]}" / "model.safetensors").write_bytes(b"12345")
        valid_before = children.valid_steps(manager)
        step += advance
        manager.save(step, children.writer(step), {"step": step})
        valid = children.valid_steps(manager)
        after = sorted((int(name[5:]) for name in names(manager.folder)), reverse=True)
        named = sorted([step, *present], reverse=True)
        must_stay = set(named[:keep_last]) | {s for s in named if keep_every and s % keep_every == 0}
        assert must_stay <= set(after)
        assert valid[-2:] == sorted([*valid_before, step])[-2:]
        assert set(after) - must_stay <= set(valid[-2:]), "more is kept than the counts and two valid ones"


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
