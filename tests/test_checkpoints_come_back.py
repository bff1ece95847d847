"""What was saved comes back: its files as listed, the last ones and the multiples kept, and damage named and the one before it used."""

from __future__ import annotations

import json
import os
import random
import shutil
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
from proxy_lm.train import campaign_manager
from proxy_lm.train.checkpoint import CheckpointManager
from proxy_lm.train.checkpoint_files import deal, spelled


@pytest.fixture(scope="session")
def children() -> ModuleType:
    return campaign_manager


@pytest.fixture
def two(tmp_path: Path, children: ModuleType) -> CheckpointManager:
    """A manager over valid checkpoints of steps 10 and 20."""
    manager = CheckpointManager(tmp_path / "checkpoints")
    for step in (10, 20):
        manager.save(step, children.writer(step), {"step": step})
    return manager


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
