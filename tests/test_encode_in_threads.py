"""A compressor that serves threads is encoded by threads: same bytes for any number, goes on after a kill, keeps nothing of damage."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import compressors
from compressors.base import Compressor
from compressors.errors import DecodeError
from compressors.files import atomic_writer, sha256_file
from compressors.identity import Identity
from compressors.neural.dictionary import Dictionary
from proxy_lm.cli import main
from proxy_lm.data import encoding
from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.data.parts import Part, encode_block
from proxy_lm.data.view_files import FILES
from proxy_lm.data.views import View, encode_corpus
from proxy_lm.errors import RequestError, WorkError

STRINGS = [*(bytes([byte]) for byte in range(256)), b"ab", b"abc", b"cab", b"ba", b"cc", b"aaa", b"bbbb"]


class Threaded(Compressor):
    """The dictionary's strings, by threads; it remembers which."""

    name = "identity"  # an artifact of this kind is there; what loads it is replaced
    exact = True
    in_threads = True
    alphabet_size = len(STRINGS)

    def __init__(self):
        self.dictionary = Dictionary.from_strings(STRINGS)
        self.threads: set[str] = set()

    def encode(self, data):
        return self.dictionary.encode([data])[0]

    def encode_batch(self, documents):
        self.threads.add(threading.current_thread().name)
        return list(self.dictionary.encode(documents))

    def decode(self, symbols, max_bytes=1 << 30):
        return self.dictionary.decode(symbols, max_bytes)

    def spec(self):
        return {"name": self.name, "version": 1}

    @classmethod
    def from_artifact(cls, spec, files):
        return cls()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """About 2 MB: dozens of blocks when blocks are small; documents of every size from 0 on."""
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.lognormal(6.5, 2.0, 800).astype(int), 200_000)
    documents = [rng.choice(np.frombuffer(b"aaabbc", np.uint8), size).tobytes() for size in sizes]
    return build_small(tmp_path_factory.mktemp("corpus") / "corpus", {"train": [b"", *documents]})


@pytest.fixture
def threaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Threaded:
    compressors.save(Identity(), tmp_path / "view")
    one = Threaded()
    monkeypatch.setattr(encoding, "load", lambda folder: one)
    monkeypatch.setattr(encoding, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(encoding, "KEEP_AFTER_SECONDS", 0)
    return one


def content(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in FILES}


def test_any_number_of_threads_gives_the_same_bytes(corpus, threaded, tmp_path):
    contents = []
    for num_workers in (1, 2, 5):
        threaded.threads.clear()
        manifest = encode_corpus(corpus, tmp_path / "view", tmp_path / "view", num_workers=num_workers, force=True)
        contents.append(content(tmp_path / "view"))
        assert len(threaded.threads) <= num_workers
        assert (threading.main_thread().name in threaded.threads) == (num_workers == 1)
        assert manifest["num_round_trips_exact"] == manifest["num_round_trips_checked"] == corpus.num_documents
        assert manifest["encode_cpu_seconds"] > 0
    assert contents[0] == contents[1] == contents[2]
    symbols = np.fromfile(tmp_path / "view" / "symbols.bin", "<u2")
    offsets = np.fromfile(tmp_path / "view" / "symbols.idx", "<i8")
    for index in range(0, corpus.num_documents, 7):
        assert symbols[offsets[index] : offsets[index + 1]].tolist() == threaded.encode(corpus.document(index)).tolist()


def test_a_stopped_encode_in_threads_goes_on(corpus, threaded, tmp_path, monkeypatch, capsys):
    encode_corpus(corpus, tmp_path / "view", tmp_path / "view", num_workers=1)
    whole, left = content(tmp_path / "view"), threading.Semaphore(5)
    encode = encoding._encode_block

    def some_blocks(*args):
        if not left.acquire(blocking=False):
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(encoding, "_encode_block", some_blocks)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(corpus, tmp_path / "view", tmp_path / "view", num_workers=3, force=True)
    parts = sorted((tmp_path / "view" / encoding.PARTS).iterdir())
    assert [path.suffix for path in parts] == [".part"] * 5 + [".json"]  # and no half a file
    parts[2].write_bytes(b"")
    monkeypatch.setattr(encoding, "_encode_block", encode)
    encode_corpus(corpus, tmp_path / "view", tmp_path / "view", num_workers=2)
    assert f"4 of {len(encoding.blocks_of(corpus))} blocks are there" in capsys.readouterr().err
    assert content(tmp_path / "view") == whole
    assert not (tmp_path / "view" / encoding.PARTS).exists()


def test_a_short_run_keeps_no_parts_and_is_begun_anew(corpus, threaded, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "KEEP_AFTER_SECONDS", 1000)
    left, encode = threading.Semaphore(5), encoding._encode_block

    def some_blocks(*args):
        if not left.acquire(blocking=False):
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(encoding, "_encode_block", some_blocks)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(corpus, tmp_path / "view", tmp_path / "view", num_workers=2)
    assert [path.name for path in (tmp_path / "view" / encoding.PARTS).iterdir()] == ["key.json"]
    monkeypatch.setattr(encoding, "_encode_block", encode)
    manifest = encode_corpus(corpus, tmp_path / "view", tmp_path / "view", num_workers=2)
    assert manifest["num_round_trips_exact"] == corpus.num_documents


def test_an_error_in_a_thread_names_the_documents(corpus, threaded, tmp_path, monkeypatch):
    def fail(documents):
        raise ValueError("a stranger's mistake")

    monkeypatch.setattr(threaded, "encode_batch", fail)
    with pytest.raises(WorkError, match=r"view 'identity' failed in documents 0\.\.\d+ \(ValueError: a stranger's mistake\)"):
        encode_corpus(corpus, tmp_path / "view", tmp_path / "view", num_workers=2)


def test_nothing_is_kept_of_a_damaged_corpus(corpus, threaded, tmp_path):
    damaged = tmp_path / "damaged"
    build_small(damaged, {"train": [b"abc" * 1000, b"cab" * 1000]})
    raw = bytearray((damaged / "raw.bin").read_bytes())
    raw[10] ^= 1
    (damaged / "raw.bin").write_bytes(raw)
    opened = Corpus.open(damaged, verify=False)
    for num_workers in (1, 2):
        with pytest.raises(RequestError, match=r"raw\.bin has the digest .* so it is damaged"):
            encode_corpus(opened, tmp_path / "view", tmp_path / "view", num_workers=num_workers, verify_corpus=True)
        assert list((tmp_path / "view" / encoding.PARTS).glob("*.part")) == []
    words = ["encode", "--corpus", str(damaged), "--view", str(tmp_path / "view"), "--workers"]
    assert [main([*words, num_workers]) for num_workers in ("1", "2")] == [2, 2]


def test_the_digests_are_checked_where_the_view_is_there_already(tmp_path):
    compressors.save(Identity(), tmp_path / "view")
    small = build_small(tmp_path / "small", {"train": [b"abc"]})
    encode_corpus(small, tmp_path / "view", tmp_path / "view", num_workers=1)
    (small.path / "raw.bin").write_bytes(b"abd")
    with pytest.raises(RequestError, match="so it is damaged"):
        encode_corpus(small, tmp_path / "view", tmp_path / "view", num_workers=1, verify_corpus=True)


def test_a_part_comes_back_from_its_file(corpus, threaded, tmp_path):
    part = encode_block(threaded, corpus, range(3, 90), verify_every=2)
    assert part.header["round_trips_checked"] == part.header["round_trips_exact"] == 43
    part.write(tmp_path / "one.part")
    again = Part.read(tmp_path / "one.part", 87, threaded.alphabet_size)
    assert again is not None
    assert again.header == part.header
    assert again.lengths.tolist() == part.lengths.tolist()
    assert again.symbols.tolist() == part.symbols.tolist()
    good = (tmp_path / "one.part").read_bytes()
    for damaged in (b"", good[:-1], good[:200], good[:-1] + bytes([good[-1] ^ 1]), b"\n" + good, b"[]\n" + good):
        (tmp_path / "one.part").write_bytes(damaged)
        assert Part.read(tmp_path / "one.part", 87, threaded.alphabet_size) is None
    assert Part.read(tmp_path / "two.part", 87, threaded.alphabet_size) is None


def test_a_batch_decodes_as_its_documents_do():
    class Fussy(Identity.__mro__[1]):  # the contract alone
        name = "fussy"
        exact = False
        alphabet_size = 256

        def encode(self, data):
            return np.frombuffer(data, np.uint8).astype(np.uint32)

        def decode(self, symbols, max_bytes=1 << 30):
            if len(symbols) > max_bytes:
                raise DecodeError("more than the cap")
            return symbols.astype(np.uint8).tobytes()

        def spec(self):
            return {"name": self.name}

        @classmethod
        def from_artifact(cls, spec, files):
            return cls()

    documents = [b"", b"ab", b"abcd"]
    assert Fussy.in_threads is False
    assert Fussy().decode_batch(Fussy().encode_batch(documents), max_bytes=3) == [b"", b"ab", None]


def test_a_file_that_need_not_last_is_whole_or_absent_too(tmp_path):
    with pytest.raises(TypeError), atomic_writer(tmp_path / "x", durable=False) as file:
        file.writelines([b"half", None])
    assert list(tmp_path.iterdir()) == []
    with atomic_writer(tmp_path / "x", durable=False) as file:
        file.write(b"whole")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


RUN = """
import sys
from pathlib import Path
from proxy_lm.data import encoding
from proxy_lm.data.corpus import Corpus

if __name__ == "__main__":
    encoding.BLOCK_BYTES = 1 << 14
    encoding.KEEP_AFTER_SECONDS = 0
    encoding.encode_corpus(Corpus.open(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[2]), num_workers=2)
"""


def test_a_table_that_is_killed_at_any_time_goes_on(corpus, tmp_path):
    # Python's text is not needed: any bytes have a table.
    documents = [corpus.document(index) for index in range(200)]
    compressors.save(compressors.train("table", documents, bits=10), tmp_path / "killed")
    compressors.save(compressors.train("table", documents, bits=10), tmp_path / "whole")
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, str(tmp_path / "run.py"), str(corpus.path), str(tmp_path / "killed")]
    for num_parts in (1, 20):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 100
        while len(list((tmp_path / "killed").glob(f"{encoding.PARTS}/*.part"))) < num_parts and process.poll() is None:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Traceback" not in finished.stderr
    encode_corpus(corpus, tmp_path / "whole", tmp_path / "whole", num_workers=1)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert View.open(tmp_path / "killed", corpus).num_documents == corpus.num_documents
    assert not (tmp_path / "killed" / encoding.PARTS).exists()


@pytest.mark.parametrize("view", ["segments", "table"])
def test_a_command_does_not_import_what_it_does_not_need(view):
    program = (
        "import sys\n"
        "from proxy_lm.cli import main\n"
        "assert main(['encode', '--help']) == 0\n"
        f"import compressors; compressors.registry.get('{view}')\n"
        "assert not {'numba', 'torch', 'scipy'} & set(sys.modules)\n"
        "import compressors.neural.jit\n"
        "assert not {'torch', 'scipy.linalg'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
