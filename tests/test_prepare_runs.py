"""One corpus whatever the workers, the hash seed, the folder stood in, and however often the run was killed; bad input is one sentence."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from proxy_lm.cli import main
from proxy_lm.data import prepare as prepare_module
from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.data.memory import mapped
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.errors import RequestError, WorkError


def make(out: Path, *sources: object, num_workers: int = 1, force: bool = False, **options: Any) -> Corpus:
    prepare([str(source) for source in sources], out, PrepareSettings(**options), num_workers=num_workers, force=force)
    return Corpus.open(out)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def write_source(folder: Path, num_files: int) -> Path:
    """About 20 KB a file, with copies and near copies between projects."""
    chance = random.Random(7)
    for number in range(num_files):
        body = " ".join(f"w{chance.randrange(5000)}" for _ in range(3500))
        for name in [f"p{number % 11}/f{number}.py"] + [f"p{chance.randrange(11)}/copy{number}.py"] * (number % 5 == 0):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(body + (" changed" if number % 10 == 0 and "copy" in name else ""))
    return folder


def living(session: int) -> list[str]:
    """Processes of a session that still run (a zombie does not)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, leader = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if leader == str(session) and state != "Z":
            found.append(stat.parent.name)
    return found


def command(*words: object, **environment: str) -> list[str]:
    return [sys.executable, "-m", "proxy_lm", "prepare", *map(str, words)]


def test_workers_hash_seed_locale_and_folder_change_nothing(tmp_path: Path) -> None:
    source = write_source(tmp_path / "src", 400)
    alone = make(tmp_path / "alone", source)
    assert alone.manifest["num_read_bytes"] > 4_000_000  # else one process reads it all
    environment = os.environ | {"PYTHONHASHSEED": "99", "LC_ALL": "C", "PYTHONPATH": str(Path(__file__).parent.parent)}
    words = command("../src", "--out", "../both", "--workers", 2, "--json")
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(words, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] == alone.digest
    assert digests(tmp_path / "both") == digests(tmp_path / "alone")
    assert {"exact duplicate", "near duplicate"} <= set(alone.manifest["drops"])
    assert not list(tmp_path.glob("*.partial"))


def test_killed_at_four_moments_and_run_again_gives_the_same_corpus(tmp_path: Path) -> None:
    source = write_source(tmp_path / "src", 400)
    expected = make(tmp_path / "whole", source)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    words = command(source, "--out", tmp_path / "killed", "--workers", 2)
    num_killed = 0
    marks = ["spool", "spool/000000.json", "examined", "corpus"]  # what must stand before the kill: four different moments
    for mark in marks:
        process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        give_up = time.monotonic() + 60
        while process.poll() is None and not (tmp_path / "killed.partial" / mark).exists() and time.monotonic() < give_up:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)  # the parent alone: its workers must end by themselves
        num_killed += process.wait() == -signal.SIGKILL
        while living(process.pid) and time.monotonic() < give_up:
            time.sleep(0.01)
        assert not living(process.pid)
        assert not (tmp_path / "killed").exists() or Corpus.open(tmp_path / "killed").digest == expected.digest
    assert num_killed >= 2
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert Corpus.open(tmp_path / "killed").digest == expected.digest
    assert not (tmp_path / "killed.partial").exists()


def test_an_interrupted_run_goes_on_from_its_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_source(tmp_path / "src", 60)
    expected = make(tmp_path / "whole", source).digest
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_publish", lambda staging, out: os.kill(os.getpid(), signal.SIGINT))
        inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
        try:
            with pytest.raises(KeyboardInterrupt):
                make(tmp_path / "out", source)
        finally:
            signal.signal(signal.SIGINT, inherited)
    block = tmp_path / "out.partial" / "spool" / "000000-000000.bin"
    before = block.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_publish", lambda staging, out: None)
        prepare([str(source)], tmp_path / "out", PrepareSettings())
    assert block.stat().st_mtime_ns == before
    assert "continuing the interrupted run" in capsys.readouterr().err
    # Other input: what was read before is of no use.
    (source / "p0" / "f0.py").write_text("something else")
    assert make(tmp_path / "out", source).digest != expected
    assert "starting anew" in capsys.readouterr().err


def test_a_finished_corpus_is_found_and_other_settings_are_refused(tmp_path: Path) -> None:
    source = write_source(tmp_path / "src", 5)
    first = make(tmp_path / "out", source)
    stamp = (tmp_path / "out" / "raw.bin").stat().st_mtime_ns
    manifest, made = prepare([str(source)], tmp_path / "out", PrepareSettings())
    assert not made
    assert manifest["digest"] == first.digest
    assert (tmp_path / "out" / "raw.bin").stat().st_mtime_ns == stamp
    with pytest.raises(RequestError, match=r"made with other settings: seed 0 \(now 5\)\. .*--force"):
        make(tmp_path / "out", source, seed=5)
    with pytest.raises(RequestError, match="other settings: sources"):
        make(tmp_path / "out", write_source(tmp_path / "more", 5))
    assert Corpus.open(tmp_path / "out").digest == first.digest
    assert make(tmp_path / "out", source, seed=5, force=True).digest != first.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["more", "out", "src"]


def test_nothing_that_is_no_corpus_is_replaced(tmp_path: Path) -> None:
    source = write_source(tmp_path / "src", 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(RequestError, match="is no corpus"):
        make(tmp_path / "out", source, force=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="is no corpus"):
        make(tmp_path / "file", source, force=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"
    # A build_small corpus was not made by this request either.
    build_small(tmp_path / "small", {"train": [b"x"]})
    with pytest.raises(RequestError, match="--force"):
        make(tmp_path / "small", source)


def test_two_at_once_into_one_place_are_refused(tmp_path: Path) -> None:
    source = write_source(tmp_path / "src", 3)
    with prepare_module._locked(tmp_path / "out.partial"), pytest.raises(RequestError, match="another prepare is at work"):
        make(tmp_path / "out", source)
    assert make(tmp_path / "out", source).num_documents


def tar_of(num_bytes: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("a.py")
        member.size = num_bytes
        archive.addfile(member, io.BytesIO(random.Random(1).randbytes(num_bytes)))
    return packed.getvalue()


def parquet_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


LINES = b"".join(json.dumps({"text": f"document {number} {'x' * (number % 99)}"}).encode() + b"\n" for number in range(2000))
ZST = zstandard.ZstdCompressor().compress(LINES)
GZ = gzip.compress(LINES)
PARQUET = parquet_of(pa.table({"text": [f"document {number}" for number in range(5000)]}))
BAD: dict[str, tuple[bytes, str]] = {
    "truncated.jsonl.zst": (ZST[: len(ZST) // 2], "truncated"),
    "one_short.jsonl.zst": (ZST[:-1], "truncated"),
    "garbage.jsonl.zst": (ZST + b"garbage after the last frame", "damaged or has bytes after its end"),
    "flipped.jsonl.zst": (ZST[:40] + bytes([ZST[40] ^ 255]) + ZST[41:], "damaged|truncated"),
    "truncated.jsonl.gz": (GZ[: len(GZ) // 2], "truncated"),
    "garbage.jsonl.gz": (GZ + b"garbage", "damaged or has bytes after its end"),
    "wrong_sum.jsonl.gz": (GZ[:-8] + b"\0\0\0\0" + GZ[-4:], "damaged"),
    "plain.jsonl.gz": (LINES, "damaged"),
    "no_text.jsonl": (b'{"body": "x", "name": "y"}\n' * 3, "none of the text fields content, text, code; it has: body, name.*--text-field"),
    "scalars.jsonl": (b"1\n2\n", "damaged, more than --max-bad-share 0.01"),
    "not_json.jsonl": (b"what is this\n", r"not_json.jsonl line 1 \(byte 0\)"),
    "late.jsonl": (LINES + b'{"text": 1}\n' * 100, "damaged, more than --max-bad-share"),
    "deep.jsonl": (b"[" * 100_000 + b"\n", "damaged"),
    "not.parquet": (b"PAR1 but no", "not a whole parquet file"),
    "short.parquet": (PARQUET[:-100], "not a whole parquet file"),
    "torn.parquet": (PARQUET[:100] + b"\xff" * 500 + PARQUET[600:], "damaged near row|not a whole"),
    "no_text.parquet": (parquet_of(pa.table({"body": ["x"]})), "none of the text columns .* it has: body"),
    "not.tar": (b"not a tar archive at all", "not a whole tar archive"),
    "cut.tar": (tar_of(50_000)[:30_000], "not a whole tar archive|truncated"),
    "no_end.tar": (tar_of(512)[:1024], "truncated"),
    "empty.jsonl": (b"\n\n", "no document is left"),
    "binary.dat": (b"\0" * 100, "no document is left .*binary"),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_input_is_one_sentence(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=words) as caught:
        make(tmp_path / "out", tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or "no document" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{}/nowhere"], "does not exist"),
        (["{}/empty"], "has no file to read"),
        (["{}/src", "{}/src"], "given twice"),
        (["hf:"], "neither hf:OWNER/NAME"),
        (["hf:owner/name"], "HF_HUB_OFFLINE"),
        (["{}/src", "--languages", "pyhton"], "unknown language 'pyhton'"),
        (["{}/src", "--near-duplicates", "2"], "--near-duplicates "),
        (["{}/src", "--near-duplicates", "most"], "--near-duplicates "),
        (["{}/src", "--valid-share", "0.6", "--test-share", "0.5"], "leaves nothing to train on"),
        (["{}/src", "--text-field", "a", "--bytes-field", "b"], "exclude each other"),
        (["{}/src", "--workers", "0"], "--workers 0"),
        (["{}/src", "--against", "{}/nowhere.jsonl"], "does not exist"),
        (["{}/src", "--min-bytes", "99", "--max-bytes-per-document", "9"], "over max_bytes_per_document"),
        (["{}/src", "--exclude", "*"], "no document is left"),
    ],
)
def test_bad_requests_exit_with_2(tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    write_source(tmp_path / "src", 3)
    assert main(["prepare", *(word.format(tmp_path) for word in words), "--out", str(tmp_path / "out")]) == 2
    heard = capsys.readouterr()
    assert message in heard.err
    assert "Traceback" not in heard.err
    assert heard.out == ""
    assert not (tmp_path / "out").exists()


def test_corrupt_records_are_counted_with_their_place(tmp_path: Path) -> None:
    """A6: corrupt JSON was logged and not counted, and an empty document crashed whoever met it."""
    lines = LINES.split(b"\n")[:1000]
    lines[3] = b'{"text": "cut off'
    lines[5] = b'{"text": ""}'
    lines[7] = b'{"text": null}'
    lines[9] = b'{"text": "\xff"}'
    (tmp_path / "d.jsonl").write_bytes(b"\n".join(lines))
    corpus = make(tmp_path / "out", tmp_path / "d.jsonl", min_bytes=0, near_duplicates=None)
    assert corpus.num_documents == 997
    assert b"" in {corpus.document(i) for i in range(997)}
    assert {reason: count["documents"] for reason, count in corpus.manifest["drops"].items()} == {
        "malformed record": 2,
        "record without text": 1,
    }
    place = sum(len(line) + 1 for line in lines[:3])
    assert corpus.manifest["damaged_examples"][0].startswith(f"malformed record: d.jsonl line 4 (byte {place}): ")
    with pytest.raises(RequestError, match="max-bad-share 0 allows"):
        make(tmp_path / "strict", tmp_path / "d.jsonl", max_bad_share=0)


def test_a_line_larger_than_memory_should_be_is_passed_over(tmp_path: Path) -> None:
    long = json.dumps({"text": "y" * 300_000}).encode()
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "one"}\n' + long + b'\n{"text": "two"}\n' + long)
    corpus = make(tmp_path / "out", tmp_path / "d.jsonl", max_bytes_per_document=1000)
    assert sorted(corpus.document(i) for i in range(corpus.num_documents)) == [b"one", b"two"]
    assert corpus.manifest["drops"] == {"over --max-bytes-per-document": {"documents": 2, "bytes": 2 * len(long) + 1}}


def limited(num_bytes: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def test_a_disk_that_takes_no_more_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    source = write_source(tmp_path / "src", 30)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    words = command(source, "--out", tmp_path / "out", "--workers", 1)
    failed = subprocess.run(words, env=environment, preexec_fn=limited(100_000), capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-1].startswith("proxy-lm: could not write")
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "out").exists()
    again = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again.stderr
    assert "continuing the interrupted run" in again.stderr


def test_a_disk_that_is_full_is_met_before_a_mapped_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write into a mapped hole of a full disk is SIGBUS, which nobody catches."""
    held = mapped(tmp_path / "held.npy", (1000,), np.int64)
    file = tmp_path / "held.npy"
    assert not held.any()
    assert file.stat().st_blocks * 512 >= file.stat().st_size >= held.nbytes

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(WorkError, match="no space left while writing"):
        make(tmp_path / "out", write_source(tmp_path / "src", 5))
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    assert make(tmp_path / "out", tmp_path / "src").num_documents


def test_the_command_prints_every_drop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_source(tmp_path / "src", 6)
    assert main(["prepare", str(source), "--out", str(tmp_path / "out"), "--languages", "python,rust", "--near-duplicates", "off"]) == 0
    shown = capsys.readouterr().out
    assert "dropped: exact duplicate" in shown
    assert Corpus.open(tmp_path / "out").digest in shown
    assert (
        main(["prepare", str(source), "--out", str(tmp_path / "out"), "--languages", "rust,python", "--near-duplicates", "off", "--json"])
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["made"] is False
    assert sum(count["documents"] for count in result["drops"].values()) + result["num_documents"] == result["num_records"]


def test_help_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; from proxy_lm.cli import main; main(['prepare', '--help']); print(sorted({'torch', 'datasets'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert shown.rstrip().endswith("[]")
    assert "--near-duplicates" in shown
