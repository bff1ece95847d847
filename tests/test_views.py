"""Encoding a corpus into a view: the same bytes whoever encodes them, restartable after a kill, and only symbols of its alphabet."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import compressors.registry as registry
from compressors.base import Compressor
from compressors.files import sha256_file
from proxy_lm.cli import main
from proxy_lm.data import encoding
from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import Plan
from proxy_lm.data.view_files import FILES, symbol_type, view_digest
from proxy_lm.data.views import View, encode_corpus
from proxy_lm.errors import NotRepresentableError, RequestError, WorkError
from proxy_lm.vocabulary import Vocabulary

DOCUMENTS = {"train": [b"hello", b"", b"\x00\xff\xfe invalid \xc3", b"<|bos|> <|/raw|>"], "valid": [b"v"], "test": [b"t" * 100]}


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return build_small(tmp_path / "corpus", DOCUMENTS)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """About 3 MB: twelve blocks when blocks are made small."""
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(7.0, 1.5, 1000).astype(int)
    documents = [rng.integers(97, 110, size, dtype=np.uint8).tobytes() for size in sizes]
    return build_small(tmp_path_factory.mktemp("larger") / "corpus", {"train": documents[:900], "test": documents[900:]})


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BLOCK_BYTES", 1 << 18)


def artifact(folder: Path) -> Path:
    registry.save(registry.train("gzip", []), folder)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in FILES}


def test_every_document_comes_back_from_its_symbols(corpus, tmp_path):
    folder = artifact(tmp_path / "view")
    manifest = encode_corpus(corpus, folder, folder, num_workers=1)
    view = View.open(folder, corpus, name="deflate")
    compressor = registry.load(folder)
    assert view.name == "deflate"
    assert view.alphabet_size == 256
    assert view.num_documents == 6
    assert view.lengths.sum() == manifest["num_symbols"]
    for index in range(6):
        symbols = view.slice(index, 0, int(view.lengths[index]))
        assert symbols.dtype == np.uint8
        assert compressor.decode(symbols.astype(np.uint32)) == corpus.document(index)
    assert manifest["num_round_trips_exact"] == manifest["num_round_trips_checked"] == 6
    assert manifest["num_raw_only"] == 0
    assert manifest["num_bytes"] == sum(len(d) for split in DOCUMENTS.values() for d in split)
    assert not (folder / encoding.PARTS).exists()


def test_an_encoded_view_into_a_folder_of_its_own(corpus, tmp_path):
    source = artifact(tmp_path / "artifact")
    encode_corpus(corpus, source, tmp_path / "view", num_workers=1)
    assert View.open(tmp_path / "view", corpus).fingerprint == registry.read_artifact(source)["fingerprint"]
    assert not (source / "manifest.json").exists()


@pytest.mark.usefixtures("small_blocks")
def test_any_number_of_workers_gives_the_same_bytes(larger, tmp_path):
    assert len(encoding.blocks_of(larger)) > 5
    digests = []
    for num_workers in (1, 2, 3):
        folder = artifact(tmp_path / f"view{num_workers}")
        digests.append((encode_corpus(larger, folder, folder, num_workers=num_workers)["digest"], content(folder)))
    assert digests[0] == digests[1] == digests[2]


def test_blocks_cover_the_corpus_in_order(corpus, larger, monkeypatch, tmp_path):
    for size in (1, 3, 1 << 10, 1 << 30):
        monkeypatch.setattr(encoding, "BLOCK_BYTES", size)
        for some in (corpus, larger) if size > 100 else (corpus,):
            blocks = encoding.blocks_of(some)
            assert [index for documents in blocks for index in documents] == list(range(some.num_documents))
            assert all(len(documents) for documents in blocks)
    assert encoding.blocks_of(build_small(tmp_path / "none", {})) == []


def test_symbols_take_the_smallest_type():
    assert [symbol_type(n).str for n in (2, 256, 257, 65_536, 65_537)] == ["|u1", "|u1", "<u2", "<u2", "<u4"]
    with pytest.raises(RequestError, match="larger than"):
        symbol_type(2**32 + 1)


class Picky(Compressor):
    """Bytes, but: documents with a q are refused, those with a z do not come back, and a ! is out of the alphabet."""

    name = "picky"
    exact = True
    alphabet_size = 128

    def encode(self, data):
        if b"q" in data:
            raise NotRepresentableError(f"{data!r} holds a q")
        return np.frombuffer(data.replace(b"!", b"\xff"), dtype=np.uint8).astype(np.uint32)

    def decode(self, symbols, max_bytes=1 << 30):
        return symbols.astype(np.uint8).tobytes().replace(b"z", b"Z")

    def spec(self):
        return {"name": "picky", "version": 1}

    @classmethod
    def from_artifact(cls, spec, files):
        return cls()


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The artifact of a compressor that is registered for this test."""
    monkeypatch.setitem(registry._BUILT_IN, "picky", "compressors.identity:Picky")
    monkeypatch.setattr("compressors.identity.Picky", Picky, raising=False)
    registry.save(Picky(), tmp_path / "picky")
    return tmp_path / "picky"


def test_documents_that_a_view_cannot_tell_are_raw_only_with_their_reason(picky, tmp_path, capsys):
    corpus = build_small(tmp_path / "corpus", {"train": [b"abc", b"aqa", b"z", b"d", b"qq"]})
    manifest = encode_corpus(corpus, picky, picky, num_workers=1)
    view = View.open(picky, corpus)
    assert view.lengths.tolist() == [3, -1, -1, 1, -1]
    assert view.slice(3, 0, 1).tolist() == [ord("d")]
    assert manifest["num_raw_only"] == 3
    assert manifest["raw_only_bytes"] == 6
    assert manifest["raw_only_reasons"] == {"not_representable": 2, "round_trip_differs": 1}
    assert manifest["raw_only_examples"] == [
        "document 1: b'aqa' holds a q",
        "document 2: round_trip_differs",
        "document 4: b'qq' holds a q",
    ]
    assert (manifest["num_round_trips_exact"], manifest["num_round_trips_checked"]) == (2, 3)
    assert main(["encode", "--corpus", str(corpus.path), "--view", str(picky), "--workers", "1"]) == 0
    assert "raw only: 3 documents, 0.000 MB (not_representable 2, round_trip_differs 1)" in capsys.readouterr().out
    plan = Plan.for_corpus(
        corpus,
        [view],
        vocabulary=Vocabulary([("picky", 128)]),
        mix=MixSettings.model_validate({"rate": 1}),
        seed=0,
        row_length=8,
        lookahead=1,
        num_rows=20,
    )
    summary = plan.summary()
    assert summary["num_raw_only"] == summary["layouts"]["raw"] > 0


def test_round_trips_can_be_sampled(picky, tmp_path):
    corpus = build_small(tmp_path / "corpus", {"train": [b"abc", b"z", b"d", b"z"]})
    assert encode_corpus(corpus, picky, picky, num_workers=1, verify_every=2)["num_round_trips_checked"] == 2
    assert View.open(picky, corpus).lengths.tolist() == [3, 1, 1, 1]
    assert encode_corpus(corpus, picky, picky, num_workers=1, verify_round_trip=False, force=True)["num_round_trips_checked"] == 0


def test_a_symbol_outside_the_alphabet_is_refused_when_encoded(picky, tmp_path):
    corpus = build_small(tmp_path / "corpus", {"train": [b"abc", b"!"]})
    with pytest.raises(WorkError, match=r"view 'picky' emitted the symbol 255 for document 1, and its alphabet ends at 127"):
        encode_corpus(corpus, picky, picky, num_workers=1)
    with pytest.raises(RequestError, match="holds no encoded view"):
        View.open(picky, corpus)


def test_a_symbol_outside_the_alphabet_is_refused_when_read(picky, tmp_path):
    # A forged file whose digests fit: the ids of the next view, or none, would be trained.
    corpus = build_small(tmp_path / "corpus", {"train": [b"abc"]})
    encode_corpus(corpus, picky, picky, num_workers=1)
    (picky / "symbols.bin").write_bytes(b"a\x80c")
    forge(picky)
    with pytest.raises(RequestError, match="holds the symbol 128 and its alphabet ends at 127"):
        View.open(picky, corpus)


def forge(folder: Path, **changes) -> None:
    """A manifest that fits the files as they are."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    manifest["files"] = {n: {"size_bytes": (folder / n).stat().st_size, "sha256": sha256_file(folder / n)} for n in FILES}
    manifest["digest"] = view_digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.usefixtures("small_blocks")
def test_a_stopped_encode_goes_on_and_gives_the_same_bytes(larger, tmp_path, monkeypatch, capsys):
    whole, stopped = artifact(tmp_path / "whole"), artifact(tmp_path / "stopped")
    encode_corpus(larger, whole, whole, num_workers=1)
    encode, left = encoding._encode_block, iter(range(4))

    def four_blocks(*args):
        if next(left, None) is None:
            raise KeyboardInterrupt
        encode(*args)

    monkeypatch.setattr(encoding, "_encode_block", four_blocks)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(larger, stopped, stopped, num_workers=1)
    monkeypatch.setattr(encoding, "_encode_block", encode)
    parts = sorted((stopped / encoding.PARTS).glob("*.part"))
    assert len(parts) == 4
    with pytest.raises(RequestError, match="holds no encoded view"):
        View.open(stopped, larger)
    parts[1].write_bytes(parts[1].read_bytes()[:-1])  # a part that was damaged since is made anew
    (stopped / encoding.PARTS / "x.part.tmp-1").write_bytes(b"left by a kill")
    encode_corpus(larger, stopped, stopped, num_workers=1)
    assert f"3 of {len(encoding.blocks_of(larger))} blocks are there" in capsys.readouterr().err
    assert content(stopped) == content(whole)
    assert View.open(stopped, larger).digest == View.open(whole, larger).digest


@pytest.mark.usefixtures("small_blocks")
def test_parts_of_another_encode_are_kept_unless_forced(corpus, larger, tmp_path, monkeypatch):
    folder = artifact(tmp_path / "view")

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "_encode_block", stop)
        with pytest.raises(KeyboardInterrupt):
            encode_corpus(larger, folder, folder, num_workers=1)
    with pytest.raises(RequestError, match=f"parts of an encode of the corpus {larger.digest}.*this one is of {corpus.digest}"):
        encode_corpus(corpus, folder, folder, num_workers=1)
    encode_corpus(corpus, folder, folder, num_workers=1, force=True)
    assert View.open(folder, corpus).num_documents == 6


RUN = """
import sys
from pathlib import Path
from proxy_lm.data import encoding
from proxy_lm.data.corpus import Corpus

if __name__ == "__main__":
    encoding.BLOCK_BYTES = 1 << 16
    encoding.encode_corpus(Corpus.open(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[2]), num_workers=int(sys.argv[3]))
"""


def children_of(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def test_a_killed_encode_goes_on_and_leaves_no_process(larger, tmp_path, monkeypatch):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    folder = artifact(tmp_path / "killed")
    command = [sys.executable, str(script), str(larger.path), str(folder), "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(folder.glob(f"{encoding.PARTS}/*.part"))) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None, "the encode ended before it could be killed; give it more to do"
        time.sleep(0.001)
    workers = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "manifest.json").exists()
    while any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(list(folder.glob(f"{encoding.PARTS}/*.part"))) >= 3
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "blocks are there from an earlier run" in finished.stderr
    whole = artifact(tmp_path / "whole")
    encode_corpus(larger, whole, whole, num_workers=1)
    assert content(folder) == content(whole)


def test_two_encodes_of_one_folder_do_not_meet(corpus, tmp_path):
    folder = artifact(tmp_path / "view")
    with encoding._alone_in(folder), pytest.raises(RequestError, match="another process is encoding into"):
        encode_corpus(corpus, folder, folder, num_workers=1)
    encode_corpus(corpus, folder, folder, num_workers=1)


def test_a_file_that_cannot_grow_is_one_sentence_and_leaves_nothing_half(larger, tmp_path):
    # The system refuses to let files grow over 100 kB, as a full disk does, in a process of its own.
    folder = artifact(tmp_path / "view")
    command = [sys.executable, "-m", "proxy_lm", "encode", "--corpus", str(larger.path), "--view", str(folder), "--workers", "1"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("could not write") == 1
    assert "Traceback" not in done.stderr
    assert {path.name for path in folder.rglob("*")} <= {"artifact.json", ".encode.lock", encoding.PARTS, "key.json"}
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert View.open(folder, larger).num_documents == 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--corpus", "nowhere", "--view", "VIEW"], "nowhere"),
        (["--corpus", "CORPUS", "--view", "nowhere"], "nowhere"),
        (["--corpus", "CORPUS", "--view", "VIEW", "--workers", "0"], "at least 1 worker"),
        (["--corpus", "CORPUS", "--view", "VIEW", "--verify-every", "-1"], "verify_every -1"),
    ],
)
def test_a_wrong_request_is_one_sentence(corpus, tmp_path, capsys, words, said):
    folder = artifact(tmp_path / "view")
    words = [{"CORPUS": str(corpus.path), "VIEW": str(folder)}.get(word, word) for word in words]
    assert main(["encode", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("nowhere").exists()
