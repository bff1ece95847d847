"""A corpus ten times the cap is made within it, a cap that cannot hold is refused with the number that can, and bombs do not break it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zstandard

from proxy_lm.data.corpus import Corpus
from proxy_lm.data.memory import BYTES_PER_DOCUMENT, Memory
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.errors import RequestError

CAP = 32_000_000
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}


class Watch(threading.Thread):
    """The most private memory (bytes that no file holds) of any process of a session while it runs."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.session, self.peak, self.ended = session, 0, False
        self.start()

    def run(self) -> None:
        while not self.ended:
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    if os.getsid(int(status.parent.name)) == self.session:
                        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                        self.peak = max(self.peak, int(lines.get("RssAnon", "0 kB").split()[0]) << 10)
                except OSError:
                    continue
            time.sleep(0.02)


def peak_of(*words: object) -> int:
    command = [sys.executable, "-m", "proxy_lm", "prepare", *map(str, words), "--workers", "2"]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    watch = Watch(process.pid)
    _, said = process.communicate(timeout=300)
    watch.ended = True
    watch.join()
    assert process.returncode == 0, said
    return watch.peak


def end_of_tar() -> bytes:
    """A small member and the two empty blocks that end an archive."""
    member = tarfile.TarInfo("one.py")
    member.size = 3
    return member.tobuf() + b"one".ljust(512, b"\0") + bytes(1024)


def write_lines(file: Path, num_documents: int, mean_bytes: int) -> int:
    """JSON lines of words drawn at random, a tenth of them near copies; their size."""
    rng = np.random.default_rng(3)
    with file.open("w") as lines:
        text = ""
        for number in range(num_documents):
            if number % 10 != 9:
                letters = rng.integers(97, 123, int(rng.integers(mean_bytes // 2, 3 * mean_bytes // 2)), dtype=np.uint8)
                letters[rng.integers(0, len(letters), len(letters) // 7)] = 32
                text = letters.tobytes().decode()
            lines.write(json.dumps({"text": text + "." * (number % 10 == 9), "repo": f"p{number % 50}"}) + "\n")
    return file.stat().st_size


def test_a_corpus_ten_times_the_cap_is_made_within_it(tmp_path):
    sizes = [write_lines(tmp_path / f"{name}.jsonl", count, 27_500) for name, count in (("one", 1200), ("ten", 12_000))]
    assert sizes[1] >= 10 * CAP
    options = ("--max-memory", CAP, "--max-bytes-per-document", 200_000)
    peaks = [peak_of(tmp_path / f"{name}.jsonl", "--out", tmp_path / name, *options) for name in ("one", "ten")]
    print(
        f"\n{sizes[0] / 1e6:.0f} MB of documents: {peaks[0] / 1e6:.0f} MB in one process; {sizes[1] / 1e6:.0f} MB: {peaks[1] / 1e6:.0f} MB"
    )
    assert peaks[1] - peaks[0] <= CAP
    assert peaks[1] < sizes[1] // 2  # the program itself included
    corpus = Corpus.open(tmp_path / "ten")
    assert corpus.manifest["drops"]["near duplicate"]["documents"] > 1000
    assert corpus.manifest["num_bytes"] > 8 * CAP


def test_a_cap_changes_nothing_in_the_corpus(tmp_path):
    write_lines(tmp_path / "d.jsonl", 300, 500)
    manifests = []
    for name, cap in (("free", None), ("capped", 80_000)):  # blocks of 10 kB, sixteen documents
        settings = PrepareSettings(max_bytes_per_document=1000)
        manifests.append(prepare([str(tmp_path / "d.jsonl")], tmp_path / name, settings, max_memory=cap)[0])
    assert manifests[0] == manifests[1]
    assert Memory.of(80_000, 1000).block_bytes == 10_000


def test_a_killed_run_with_another_cap_is_begun_anew(tmp_path, monkeypatch, capsys):
    """Blocks of another size end at other documents: to go on from them would tell some twice."""
    write_lines(tmp_path / "d.jsonl", 300, 500)
    settings = PrepareSettings(max_bytes_per_document=1000)
    with monkeypatch.context() as patch:
        patch.setattr("proxy_lm.data.prepare._publish", lambda staging, out: None)
        prepare([str(tmp_path / "d.jsonl")], tmp_path / "out", settings, max_memory=80_000)
    assert len(list((tmp_path / "out.partial" / "spool").glob("*.bin"))) > 10
    manifest, _ = prepare([str(tmp_path / "d.jsonl")], tmp_path / "out", settings)
    assert "starting anew" in capsys.readouterr().err
    assert manifest["num_records"] == 300
    assert manifest["num_documents"] == 300 - manifest["drops"]["near duplicate"]["documents"]


def test_what_does_not_fit_is_refused_with_the_number_that_does(tmp_path):
    write_lines(tmp_path / "d.jsonl", 500, 200)
    with pytest.raises(RequestError, match=r"--max-memory 999 is under 64 times --max-bytes-per-document 1048576.*give at least 67108864"):
        prepare([str(tmp_path / "d.jsonl")], tmp_path / "out", PrepareSettings(), max_memory=999)
    needed = 500 * BYTES_PER_DOCUMENT
    settings = PrepareSettings(max_bytes_per_document=400)
    with pytest.raises(
        RequestError, match=f"comparing 500 documents takes about {needed} bytes, over --max-memory 40000; give {needed} or more"
    ):
        prepare([str(tmp_path / "d.jsonl")], tmp_path / "out", settings, max_memory=40_000)
    assert prepare([str(tmp_path / "d.jsonl")], tmp_path / "out", settings, max_memory=needed)[0]["num_records"] == 500


def test_a_window_over_the_cap_is_refused_and_read_without_one(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=25)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    lines = b"".join(b'{"text": "number %d"}\n' % number for number in range(100))
    (tmp_path / "d.jsonl.zst").write_bytes(packed.compress(lines) + packed.flush())
    settings = PrepareSettings(max_bytes_per_document=1000)
    with pytest.raises(RequestError, match=r"d\.jsonl\.zst was packed with a window over 524288 bytes.*larger --max-memory"):
        prepare([str(tmp_path / "d.jsonl.zst")], tmp_path / "out", settings, max_memory=1 << 20)
    assert prepare([str(tmp_path / "d.jsonl.zst")], tmp_path / "out", settings)[0]["num_records"] == 100


@pytest.mark.parametrize("kind", ["line", "lines", "tar"])
def test_a_bomb_stays_under_the_cap(tmp_path, kind):
    """A few kilobytes that unpack to 300 MB: one line, lines without end, or a tar member."""
    unpacked = 300_000_000
    piece = {"line": b"x" * 1_000_000, "lines": b'{"text": "%s"}\n' % (b"a" * 399_987) * 5, "tar": bytes(1 << 20)}[kind]
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    name = tmp_path / ("d.tar.zst" if kind == "tar" else "d.jsonl.zst")
    with name.open("wb") as file:
        if kind == "tar":
            header = tarfile.TarInfo("large.py")
            header.size = (unpacked >> 20) << 20
            file.write(compressor.compress(header.tobuf()))
        for _ in range(unpacked // len(piece)):
            file.write(compressor.compress(piece))
        file.write(compressor.compress(b'\n{"text": "one"}\n' if kind != "tar" else end_of_tar()) + compressor.flush())
    assert name.stat().st_size < 200_000
    (tmp_path / "small.jsonl").write_text('{"text": "one"}\n{"text": "another"}\n')
    options = ("--max-memory", CAP, "--max-bytes-per-document", 400_000, "--near-duplicates", "off")
    program = peak_of(tmp_path / "small.jsonl", "--out", tmp_path / "small", *options)
    peak = peak_of(name, "--out", tmp_path / "out", *options)
    assert peak - program <= CAP
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.num_documents <= 2
