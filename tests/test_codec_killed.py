"""One input and one model make one file: killed and run again, beside partial files of all kinds, and in another process."""

import hashlib
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from compressors.errors import RequestError
from proxy_lm.codec.compress import compress

SPEC = importlib.util.spec_from_file_location("byte_pairs", Path(__file__).with_name("byte_pairs.py"))
BYTE_PAIRS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BYTE_PAIRS)
TEXT, BytePairs, packed = BYTE_PAIRS.TEXT, BYTE_PAIRS.BytePairs, BYTE_PAIRS.packed


@pytest.fixture(scope="module")
def pairs():
    return BytePairs()


class Cut(Exception):
    """The moment of a kill."""


def begin(path, data, predictor, groups, **options):
    """Compress to `path` and die at a group."""
    seen = []

    def report(raw, coded):
        seen.append(raw)
        if len(seen) == groups + 1:  # the first report is of what was resumed
            raise Cut

    with pytest.raises(Cut):
        compress(io.BytesIO(data), path, predictor, chunk_bytes=64, report=report, commit_seconds=0, **options)


def test_killed_and_run_again_makes_the_same_bytes(tmp_path, pairs):
    whole = packed(TEXT, pairs)
    for groups in (1, 2, 3, 5):
        path = tmp_path / f"out{groups}"
        begin(path, TEXT, pairs, groups)
        assert not path.exists()
        found = compress(io.BytesIO(TEXT), path, pairs, chunk_bytes=64, commit_seconds=0)
        assert found["resumed_bytes"] == (groups - 1) * 4 * 64
        assert path.read_bytes() == whole
        again = compress(io.BytesIO(TEXT), io.BytesIO(), pairs, chunk_bytes=64)
        assert {**found, "resumed_bytes": 0} == {**again, "information_bits": pytest.approx(again["information_bits"])}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out1", "out2", "out3", "out5"]


def test_a_partial_file_of_other_input_or_settings_is_refused_unless_forced(tmp_path, pairs):
    path = tmp_path / "out"
    for data, chunk_bytes, what in (
        (TEXT[:100] + b"!" + TEXT[101:], 64, "of other input"),
        (TEXT, 63, "with another model, view or --chunk"),
    ):
        begin(path, TEXT, pairs, 3)
        with pytest.raises(RequestError, match=what):
            compress(io.BytesIO(data), path, pairs, chunk_bytes=chunk_bytes)
        found = compress(io.BytesIO(data), path, pairs, chunk_bytes=chunk_bytes, force=True)
        assert found["resumed_bytes"] == 0
        assert path.read_bytes() == packed(data, pairs, chunk_bytes)
    begin(path, TEXT, pairs, 3)
    compress(io.BytesIO(TEXT), path, pairs, chunk_bytes=64, force=True)
    assert path.read_bytes() == packed(TEXT, pairs)


def test_a_damaged_partial_file_is_begun_anew(tmp_path, pairs, capsys):
    path, partial = tmp_path / "out", tmp_path / "out.partial"
    journal = tmp_path / "out.partial.json"
    begin(path, TEXT, pairs, 3)
    size = json.loads(journal.read_text())["file_bytes"]
    for damage in (
        lambda: partial.write_bytes(partial.read_bytes()[: size - 1]),
        lambda: partial.write_bytes(partial.read_bytes()[: size - 1] + b"\0"),
        lambda: partial.write_bytes(b""),
        partial.unlink,
        lambda: journal.write_text("{"),
        lambda: journal.write_text(journal.read_text().replace('"file_bytes": ', '"file_bytes": -')),
        journal.unlink,
    ):
        begin(path, TEXT, pairs, 3, force=True)
        damage()
        assert compress(io.BytesIO(TEXT), path, pairs, chunk_bytes=64)["resumed_bytes"] == 0
        assert path.read_bytes() == packed(TEXT, pairs)
        path.unlink()
    partial.write_bytes(b"somebody's notes")
    with pytest.raises(RequestError, match="is in the way and is not ours"):
        compress(io.BytesIO(TEXT), path, pairs, chunk_bytes=64)
    assert partial.read_bytes() == b"somebody's notes"


def test_a_second_writer_is_refused(tmp_path, pairs):
    seen = []

    def report(raw, coded):
        if not seen:
            seen.append(True)
            with pytest.raises(RequestError, match="is being written by another process"):
                compress(io.BytesIO(TEXT), tmp_path / "out", pairs, chunk_bytes=64)

    compress(io.BytesIO(TEXT), tmp_path / "out", pairs, chunk_bytes=64, report=report)
    assert seen
    assert (tmp_path / "out").read_bytes() == packed(TEXT, pairs)


def test_bytes_are_a_function_of_input_and_model_alone(tmp_path):
    """Another process, hash seed, folder, time zone, host name and number of threads."""
    program = (
        "import sys, io; sys.path.insert(0, sys.argv[1]); import hashlib, importlib.util as u\n"
        "spec = u.spec_from_file_location('t', sys.argv[1] + '/byte_pairs.py'); t = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(t); print(hashlib.sha256(t.packed(t.TEXT, t.BytePairs())).hexdigest())"
    )
    folder = __file__.rpartition("/")[0]
    environment = {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "2", "HOSTNAME": "elsewhere", "PATH": "/usr/bin:/bin"}
    words = [sys.executable, "-c", program, folder]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(packed(TEXT, BytePairs())).hexdigest()
