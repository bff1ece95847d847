"""`proxy-lm compress` and `decompress` where files stand in each other's way, disks are full and models are not what they were."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import struct
import sys
from pathlib import Path

import pytest

from compressors.neural.counts import CountModel
from compressors.neural.models import save_model
from proxy_lm.cli import main

SOURCE = Path(__file__).read_bytes()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    save_model(CountModel.train([SOURCE] * 4, max_nodes=2048, num_starts=1 << 14), folder)
    return folder


@pytest.fixture
def words(tmp_path, model, capsys):
    """`words("compress", "in", "out", ...)` runs the command in an empty folder that has `in`; its exit code and errors."""
    (tmp_path / "in").write_bytes(SOURCE)

    def run(command, file, out, *more, with_model=model):
        code = main([command, str(tmp_path / file), "--model", str(with_model), "--out", out if out == "-" else str(tmp_path / out), *more])
        return code, capsys.readouterr().err

    run.folder = tmp_path
    return run


def left(words):
    return sorted(path.name for path in words.folder.iterdir())


@pytest.mark.parametrize("name", ["x.partial", "x.partial.json"])
@pytest.mark.parametrize("start", [b"", b"\x89PLMC\r\n\x1a", b"{}"])
def test_an_input_that_the_partial_files_would_overwrite_is_refused(words, name, start):
    (words.folder / name).write_bytes(start + SOURCE)
    code, err = words("compress", name, "x", "--force")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{name}, where" in err
    assert (words.folder / name).read_bytes() == start + SOURCE
    assert left(words) == ["in", name]


@pytest.mark.parametrize("chunk_bytes", [1, 65_536])
def test_the_shortest_and_the_longest_chunks(words, chunk_bytes):
    data = SOURCE[:300] if chunk_bytes == 1 else SOURCE * 20
    (words.folder / "in").write_bytes(data)
    assert words("compress", "in", "coded", "--chunk-bytes", str(chunk_bytes))[0] == 0
    assert words("decompress", "coded", "back")[0] == 0
    assert (words.folder / "back").read_bytes() == data


def test_chunks_far_longer_than_the_rows_of_a_run(words, tmp_path, saved_run):
    run = saved_run(tmp_path / "run")  # rows of 64 ids
    (words.folder / "in").write_bytes(SOURCE[:1500])
    assert words("compress", "in", "coded", "--chunk-bytes", "65536", with_model=run)[0] == 0
    assert words("decompress", "coded", "back", with_model=run)[0] == 0
    assert (words.folder / "back").read_bytes() == SOURCE[:1500]


def test_weights_changed_by_one_bit_are_refused(words, tmp_path, saved_run):
    from proxy_lm.train.weights import WEIGHTS_NAME

    run = saved_run(tmp_path / "run")
    assert words("compress", "in", "coded", with_model=run)[0] == 0
    (weights,) = run.rglob(WEIGHTS_NAME)
    data = bytearray(weights.read_bytes())
    value = struct.unpack("<f", data[-4:])[0]
    data[-4] ^= 1  # the last place of the last number
    assert struct.unpack("<f", data[-4:])[0] == pytest.approx(value, rel=1e-6)
    weights.write_bytes(data)
    code, err = words("decompress", "coded", "back", with_model=run)
    assert (code, err.count("\n")) == (1, 1)  # no checkpoint of it is whole
    assert not (words.folder / "back").exists()


def test_a_run_saved_anew_with_weights_changed_by_one_place_is_refused(words, tmp_path, saved_run):
    # Digests that fit, another model: `init_std` a hair larger moves every weight by some units in the last place.
    run, other = saved_run(tmp_path / "run", init_std=0.2), saved_run(tmp_path / "other", init_std=0.2 * (1 + 2**-22))
    assert words("compress", "in", "coded", with_model=run)[0] == 0
    code, err = words("decompress", "coded", "back", with_model=other)
    assert code == 2
    assert "coded with another model (fingerprint: the file's" in err
    assert not (words.folder / "back").exists()


def test_a_count_model_changed_by_one_bit_is_refused(words, model, tmp_path):
    assert words("compress", "in", "coded")[0] == 0
    other = tmp_path / "other"
    shutil.copytree(model, other)
    data = bytearray((other / "counts.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (other / "counts.bin").write_bytes(data)
    code, err = words("decompress", "coded", "back", with_model=other)
    assert (code, "has not the digest" in err) == (2, True)
    assert not (words.folder / "back").exists()


def test_decompressing_onto_a_full_disk_leaves_nothing(words):
    assert words("compress", "in", "coded")[0] == 0
    before = left(words)
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        code, err = words("decompress", "coded", "back")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (code, err.count("\n")) == (1, 1)
    assert left(words) == before
    assert words("decompress", "coded", "back")[0] == 0
    assert (words.folder / "back").read_bytes() == SOURCE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_standard_output_that_takes_nothing_is_told(words, monkeypatch, command):
    assert words("compress", "in", "coded")[0] == 0
    full = open("/dev/full", "w")  # noqa: SIM115 - closed below, where it fails
    monkeypatch.setattr(sys, "stdout", full)
    code, err = words(command, "in" if command == "compress" else "coded", "-")
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        full.close()
    assert code == 1
    assert "could not write to standard output: No space left" in err


def test_folders_and_odd_files_in_the_place_of_files(words):
    (words.folder / "folder").mkdir()
    assert words("compress", "in", "coded")[0] == 0
    for command, file, out in (
        ("compress", "folder", "x"),
        ("decompress", "folder", "x"),
        ("compress", "in", "folder"),
        ("decompress", "coded", "folder"),
        ("decompress", "coded", "coded"),
        ("compress", "in", "in"),
    ):
        code, err = words(command, file, out, "--force")
        assert (code, err.count("\n")) == (2, 1), err
    assert left(words) == ["coded", "folder", "in"]
    assert (words.folder / "in").read_bytes() == SOURCE
    (words.folder / "under").write_bytes(b"")
    assert words("compress", "in", "under/x")[0] in (1, 2)  # a file where a folder is due
    assert left(words) == ["coded", "folder", "in", "under"]
