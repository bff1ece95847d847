"""A corpus gives back every byte, and a folder that is not exactly what its manifest says is refused by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_lm.data.corpus import COLUMNS, FILES, Corpus, build_small
from proxy_lm.errors import RequestError

SMALL = {"train": [b"ab", b"", b"\xff\x00\r\n"], "valid": [], "test": [b"\xef\xbb\xbfx"]}


def test_small_corpus_by_eye(tmp_path: Path) -> None:
    corpus = build_small(tmp_path / "c", SMALL)
    assert corpus.offsets.tolist() == [0, 2, 2, 6, 10]
    assert corpus.sizes.tolist() == [2, 0, 4, 4]
    assert corpus.splits == {"train": range(3), "valid": range(3, 3), "test": range(3, 4)}
    assert [corpus.document(i) for i in range(4)] == [b"ab", b"", b"\xff\x00\r\n", b"\xef\xbb\xbfx"]
    assert corpus.slice(2, 1, 3).tolist() == [0, 13]
    assert corpus.slice(1, 0, 0).tolist() == []
    assert corpus.column("project") == ["p0", "p1", "p2", "p3"]
    assert corpus.column("split") == ["train", "train", "train", "test"]
    assert corpus.column("size_bytes") == [2, 0, 4, 4]
    assert corpus.column("id")[1] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert (tmp_path / "c" / "raw.idx").read_bytes() == np.array([0, 2, 2, 6, 10], "<i8").tobytes()


@pytest.mark.parametrize("documents", [{}, {"train": []}, {"test": [b""]}])
def test_nothing_at_all_is_a_corpus(tmp_path: Path, documents: dict[str, list[bytes]]) -> None:
    corpus = build_small(tmp_path / "c", documents)
    assert corpus.num_documents == sum(map(len, documents.values()))
    assert all(corpus.column(name) == [] or corpus.num_documents for name in COLUMNS)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.binary(max_size=40), max_size=3))
def test_every_byte_comes_back(tmp_path_factory: pytest.TempPathFactory, train: list[bytes], test: list[bytes]) -> None:
    corpus = build_small(tmp_path_factory.mktemp("corpus") / "c", {"train": train, "test": test})
    assert [corpus.document(i) for i in range(corpus.num_documents)] == train + test
    assert [corpus.document(i) for i in corpus.splits["test"]] == test


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    one, two = build_small(tmp_path / "1", SMALL), build_small(tmp_path / "2", SMALL)
    moved = build_small(tmp_path / "3", {"train": [b"a", b"b", b"\xff\x00\r\n"], "test": SMALL["test"]})
    assert one.digest == two.digest != moved.digest


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    build_small(tmp_path / "c", SMALL)
    (tmp_path / "c" / name).unlink()
    with pytest.raises(RequestError, match=name):
        Corpus.open(tmp_path / "c")


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    build_small(tmp_path / "c", SMALL)
    file = tmp_path / "c" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(RequestError, match=f"{name} has the digest .*prepare"):
        Corpus.open(tmp_path / "c")


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_truncation_is_found_without_reading_the_files(tmp_path: Path, name: str, verify: bool) -> None:
    build_small(tmp_path / "c", SMALL)
    file = tmp_path / "c" / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RequestError, match=f"{name} has .* bytes where the manifest says"):
        Corpus.open(tmp_path / "c", verify=verify)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "proxy-lm corpus 999"}, "999"),
        ({"splits": {"train": [0, 3], "valid": [3, 3], "test": [3, 3]}}, "splits|digest"),
        ({"splits": {}}, "manifest.json lacks"),
        ({"digest": "0"}, "digest"),
        ({"settings": {"seed": 1}}, "digest"),
        ({"files": []}, "manifest.json"),
    ],
)
def test_edited_manifest_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    build_small(tmp_path / "c", SMALL)
    file = tmp_path / "c" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RequestError, match=words):
        Corpus.open(tmp_path / "c")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_broken_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    build_small(tmp_path / "c", SMALL)
    (tmp_path / "c" / "manifest.json").write_bytes(content)
    with pytest.raises(RequestError, match="manifest"):
        Corpus.open(tmp_path / "c")


def test_what_is_no_corpus_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="proxy-lm prepare"):
        Corpus.open(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="manifest"):
        Corpus.open(tmp_path)
    with pytest.raises(RequestError, match="unknown split 'dev'"):
        build_small(tmp_path / "c", {"dev": [b"x"]})
    with pytest.raises(RequestError, match="not an empty folder"):
        build_small(build_small(tmp_path / "d", SMALL).path, SMALL)
    with pytest.raises(RequestError, match="no column 'author'"):
        build_small(tmp_path / "e", SMALL).column("author")


def test_a_moved_corpus_is_the_same_corpus(tmp_path: Path) -> None:
    first = build_small(tmp_path / "c", SMALL)
    shutil.copytree(tmp_path / "c", tmp_path / "elsewhere")
    assert Corpus.open(tmp_path / "elsewhere").digest == first.digest
