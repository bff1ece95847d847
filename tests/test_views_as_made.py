"""A view is read as it was made, or refused: another corpus, another compressor, any changed file; a folder that holds one is kept."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import compressors.registry as registry
from compressors.files import sha256_bytes, sha256_file
from proxy_lm.cli import main
from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import Plan
from proxy_lm.data.rows import RowReader
from proxy_lm.data.view_files import FILES
from proxy_lm.data.views import View, encode_corpus
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import Vocabulary

DOCUMENTS = {"train": [b"hello", b"", b"\x00\xff\xfe invalid \xc3", b"<|bos|> <|/raw|>"], "valid": [b"v"], "test": [b"t" * 100]}


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return build_small(tmp_path / "corpus", DOCUMENTS)


def artifact(folder: Path, kind: str = "gzip") -> Path:
    registry.save(registry.train(kind, []), folder)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in FILES}


@pytest.fixture
def view_folder(corpus, tmp_path) -> Path:
    folder = artifact(tmp_path / "view")
    encode_corpus(corpus, folder, folder, num_workers=1)
    return folder


def test_a_view_of_another_corpus_is_refused_with_both_digests(corpus, view_folder, tmp_path):
    other = build_small(tmp_path / "other", {"train": [b"another"]})
    with pytest.raises(RequestError, match=f"made from the corpus {corpus.digest} and .* is {other.digest}"):
        View.open(view_folder, other)
    assert View.open(view_folder, None).num_documents == 6


def test_a_view_of_another_compressor_is_refused_with_both_digests(corpus, view_folder):
    before = registry.read_artifact(view_folder)["fingerprint"]
    artifact(view_folder, "identity")
    after = registry.read_artifact(view_folder)["fingerprint"]
    with pytest.raises(RequestError, match=f"made by the compressor {before} and the artifact beside them is {after}"):
        View.open(view_folder, corpus)
    with pytest.raises(RequestError, match=f"of the compressor {before} and its artifact is now {after}; give --force"):
        encode_corpus(corpus, view_folder, view_folder, num_workers=1)
    encode_corpus(corpus, view_folder, view_folder, num_workers=1, force=True)
    assert View.open(view_folder, corpus).lengths.tolist() == corpus.sizes.tolist()


@pytest.mark.parametrize("name", FILES)
def test_any_changed_file_is_refused(corpus, view_folder, name):
    path = view_folder / name
    good = path.read_bytes()
    path.write_bytes(good + b"\0")
    for verify in (False, True):
        with pytest.raises(RequestError, match=f"{name} has {len(good) + 1} bytes and its manifest records {len(good)}"):
            View.open(view_folder, corpus, verify=verify)
    path.unlink()
    with pytest.raises(RequestError, match=f"{name} is missing or unreadable"):
        View.open(view_folder, corpus)
    if good:
        recorded = sha256_bytes(good)
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(RequestError, match=f"{name} has the digest {sha256_file(path)} and its manifest records {recorded}"):
            View.open(view_folder, corpus)
    path.write_bytes(good)
    View.open(view_folder, corpus)


def test_swapped_files_are_refused(corpus, view_folder, tmp_path):
    other = artifact(tmp_path / "other", "identity")
    encode_corpus(corpus, other, other, num_workers=1)
    shutil.copy(other / "symbols.idx", view_folder / "symbols.idx")
    with pytest.raises(RequestError, match=r"symbols.idx has the digest \w{64} and its manifest records \w{64}"):
        View.open(view_folder, corpus)
    with pytest.raises(RequestError, match="does not fit 6 documents"):
        View.open(view_folder, corpus, verify=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (b"[]", "holds a list where the view manifest is a JSON object"),
        (b"{", "is not readable JSON"),
        (b"{}", "has the schema None and this program reads 'proxy-lm view 1'"),
        (b'{"schema": "proxy-lm view 1"}', "lacks or misspells 'corpus_digest'"),
    ],
)
def test_a_damaged_manifest_is_one_sentence(corpus, view_folder, change, said):
    (view_folder / "manifest.json").write_bytes(change)
    with pytest.raises(RequestError, match=re.escape(said)):
        View.open(view_folder, corpus)


def test_an_edited_manifest_is_refused(corpus, view_folder):
    text = (view_folder / "manifest.json").read_text()
    (view_folder / "manifest.json").write_text(text.replace(corpus.digest, "0" * 64))
    with pytest.raises(RequestError, match="says its digest is"):
        View.open(view_folder, corpus)


def test_a_folder_that_holds_another_view_is_kept_unless_forced(corpus, view_folder, tmp_path, capsys):
    before = content(view_folder)
    other = build_small(tmp_path / "other", {"train": [b"another"]})
    command = ["encode", "--corpus", str(other.path), "--view", str(view_folder), "--workers", "1"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert corpus.digest in error
    assert other.digest in error
    assert "--force" in error
    assert content(view_folder) == before
    assert main([*command, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["corpus_digest"] == other.digest
    assert View.open(view_folder, other).num_documents == 1


def test_encoding_again_finds_the_work_done(corpus, view_folder, capsys):
    stamp = (view_folder / "symbols.bin").stat().st_mtime_ns
    encode_corpus(corpus, view_folder, view_folder, num_workers=1)
    assert "holds this view already" in capsys.readouterr().err
    assert (view_folder / "symbols.bin").stat().st_mtime_ns == stamp
    (view_folder / "symbols.bin").write_bytes(b"")
    with pytest.raises(RequestError, match=r"symbols\.bin has 0 bytes"):
        encode_corpus(corpus, view_folder, view_folder, num_workers=1)


def test_rows_of_a_real_view_hold_its_symbols(corpus, view_folder):
    view = View.open(view_folder, corpus, name="deflate")
    vocabulary = Vocabulary([("deflate", view.alphabet_size)])
    mix = MixSettings.model_validate({"pair": 1, "raw_first": 1})
    plan = Plan.for_corpus(corpus, [view], vocabulary=vocabulary, mix=mix, seed=0, row_length=50, lookahead=1, num_rows=6)
    batch = RowReader(corpus, [view], vocabulary, plan).read(range(6))
    stream = batch.ids[:, :50].reshape(-1)
    codes = batch.views[:, :50].reshape(-1)
    order = list(dict.fromkeys(plan.row_slices(0, 6).document.tolist()))
    document = order[0]
    raw = stream[codes == 0][: corpus.sizes[document]]
    symbols = stream[codes == 1][: view.lengths[document]] - vocabulary.view("deflate").first_id
    assert raw.astype(np.uint8).tobytes() == corpus.document(document)
    assert registry.load(view_folder).decode(symbols.astype(np.uint32)) == corpus.document(document)
    with pytest.raises(RequestError, match="has no split 'dev'; known: train, valid, test"):
        Plan.for_corpus(corpus, [view], vocabulary=vocabulary, mix=mix, seed=0, row_length=8, lookahead=1, num_rows=1, split="dev")


def test_a_plan_for_another_corpus_is_not_read(corpus, view_folder, tmp_path):
    view = View.open(view_folder, corpus, name="deflate")
    vocabulary = Vocabulary([("deflate", 256)])
    plan = Plan.for_corpus(corpus, [view], vocabulary=vocabulary, mix=MixSettings(), seed=0, row_length=8, lookahead=1, num_rows=1)
    other = build_small(tmp_path / "other", DOCUMENTS | {"test": [b"another"]})
    with pytest.raises(RequestError, match=rf"plan was made for the corpus and views \['{corpus.digest}'.*these are \['{other.digest}'"):
        RowReader(other, [view], vocabulary, plan)
