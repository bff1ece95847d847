"""`proxy-lm compressor` and `proxy-lm inspect`: what they print, what they write, what they refuse."""

from __future__ import annotations

import html.parser
import json

import pytest

import compressors
from compressors.base import Compressor
from compressors.errors import WorkError
from compressors.identity import Identity
from compressors.measure import entropy_bits, measure
from compressors.stability import delete_characters, distance_under_deletion
from proxy_lm import cli
from proxy_lm.data.corpus import build_small

CODE = [b"def f%d(x):\n    return {'a': x + %d}\n\n\nclass Counter%d(dict):\n    pass\n" % (k, k, k) for k in range(80)]


@pytest.fixture
def corpus(tmp_path):
    build_small(tmp_path / "corpus", {"train": CODE[:60], "valid": [*CODE[60:70], b"\xff\0"], "test": CODE[70:]})
    return str(tmp_path / "corpus")


@pytest.fixture
def call(capsys):
    """Run a command; (exit code, standard output, standard error)."""

    def run(*words):
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


def test_train_writes_an_artifact_with_its_proof_and_cost(call, corpus, tmp_path):
    out = tmp_path / "views" / "spm"
    code, printed, notes = call(*f"compressor train spm --corpus {corpus} --option alphabet_size=300 --out".split(), out)
    assert code == 0
    assert "11 of 11 documents came back exactly" in printed
    assert "learning from 60 documents" in notes
    artifact = json.loads((out / "artifact.json").read_text())
    training, held_out = artifact["measured"]["training"], artifact["measured"]["held_out"]
    assert training["source_bytes"] == sum(map(len, CODE[:60]))
    assert training["num_documents"] == 60
    assert training["options"] == {"alphabet_size": 300}
    assert training["seconds"] > 0
    assert training["estimated_flops"] == training["cpu_seconds"] * training["assumed_operations_per_second"]
    assert (held_out["num_exact"], held_out["num_round_trips"], held_out["num_raw_only"]) == (11, 11, 0)
    assert held_out["bytes_per_symbol"] > 1.2
    assert compressors.load(out).alphabet_size == 300


def test_train_again_is_the_same_view_and_another_view_is_refused(call, corpus, tmp_path):
    words = f"compressor train gzip --corpus {corpus} --out {tmp_path / 'v'}".split()
    assert call(*words)[0] == 0
    assert call(*words)[0] == 0
    before = (tmp_path / "v" / "artifact.json").read_bytes()
    code, _, notes = call(*words, "--option", "level=1")
    assert code == 2
    assert "--force" in notes
    assert (tmp_path / "v" / "artifact.json").read_bytes() == before
    assert call(*words, "--option", "level=1", "--force")[0] == 0


def test_another_view_is_refused_before_it_is_learned(call, corpus, tmp_path):
    words = f"compressor train spm --corpus {corpus} --out {tmp_path / 'v'} --option".split()
    assert call(*words, "alphabet_size=300")[0] == 0
    code, _, notes = call(*words, "alphabet_size=290")
    assert (code, notes.count("\n"), "alphabet_size 300 where this is of 290" in notes) == (2, 1, True)
    code, _, notes = call(*words, "alphabet_size=300", "--split", "test")
    assert (code, "split train where this is of test" in notes) == (2, True)
    code, _, notes = call(*f"compressor train zstd --corpus {corpus} --out {tmp_path / 'v'}".split())
    assert (code, "the view 'spm' where this is 'zstd'" in notes) == (2, True)
    assert call(*words, "alphabet_size=300", "max_training_bytes=50_000_000")[0] == 0, "a default that is spelled out is the same view"
    (tmp_path / "v" / "artifact.json").write_text("{")
    code, _, notes = call(*words, "alphabet_size=300")
    assert (code, "--force" in notes) == (2, True)
    assert call(*words, "alphabet_size=300", "--force")[0] == 0


def test_bench_measures_folders_and_kinds(call, corpus, tmp_path):
    call(*f"compressor train spm --corpus {corpus} --option alphabet_size=300 --out {tmp_path / 'spm'}".split())
    code, printed, _ = call(*f"compressor bench --corpus {corpus} identity doublebyte {tmp_path / 'spm'} --stability 3 --json".split())
    rows = json.loads(printed)["views"]
    assert code == 0
    assert [row["bytes_per_symbol"] for row in rows[:1]] == [1.0]
    assert rows[1]["bytes_per_symbol"] > 1.9
    assert all(row["num_exact"] == row["num_documents"] == 11 for row in rows)
    assert all(0 < row["distance_under_deletion"] < 1 for row in rows)
    code, printed, _ = call(*f"compressor bench --corpus {corpus} identity bit".split())
    assert code == 0
    assert "0.125" in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("compressor bench --corpus CORPUS spm", "needs training first"),
        ("compressor bench --corpus CORPUS ./nothing", "does not exist"),
        ("compressor bench --corpus CORPUS gzip --split tests", "no split 'tests'"),
        ("compressor bench --corpus nowhere gzip", "nowhere"),
        ("compressor bench --corpus CORPUS nothing", "'nothing' is neither a folder nor a view"),
        ("compressor bench --corpus CORPUS gzip --max-bytes 0", "--max-bytes 0"),
        ("compressor bench --corpus CORPUS gzip --stability -1", "--stability -1"),
        ("inspect FILE --show-bytes -1", "--show-bytes -1"),
        ("compressor train spn --corpus CORPUS --out x", "did you mean 'spm'"),
        ("compressor train spm --corpus CORPUS --out x --option alphabet_size", "NAME=VALUE"),
        ("compressor train spm --corpus CORPUS --out x --option alphabet_size=1e3", "must be a whole number"),
        ("inspect nothing.py", "nothing.py is not a file"),
        ("inspect FILE --max-bytes 0", "--max-bytes 0"),
        ("inspect FILE --delete 2", "cannot be deleted"),
        ("inspect FILE --seed -1", "--seed -1"),
        ("inspect FILE --view spm", "needs training first"),
    ],
)
def test_wrong_requests_are_one_sentence(call, corpus, words, sentence):
    code, printed, notes = call(*(corpus if word == "CORPUS" else __file__ if word == "FILE" else word for word in words.split()))
    assert code == 2
    assert printed == ""
    assert sentence in notes
    assert notes.count("\n") == 1


def test_a_view_that_breaks_its_promise_is_not_used():
    """B7: no view had a decoder test."""

    class Broken(Compressor):
        name, exact, alphabet_size = "broken", True, 256
        encode, decode = Identity.encode, lambda self, symbols, max_bytes=0: b"wrong"
        spec, from_artifact = Identity.spec, Identity.from_artifact

    with pytest.raises(WorkError, match="did not give back document 0"):
        measure(Broken(), [b"abc"])


def test_measurement_counts_by_hand():
    found = measure(compressors.train("nibble", []), [b"", b"\x00\x11", b"\x01"])
    assert (found.num_documents, found.source_bytes, found.num_symbols, found.num_exact) == (3, 3, 6, 3)
    assert found.bytes_per_symbol == 0.5
    assert found.entropy_bits == 1.0  # three zeros, three ones
    assert measure(compressors.train("nibble", []), []).bytes_per_symbol is None
    assert entropy_bits(compressors.train("identity", []).encode(b"aaaa")) == 0


def test_a_tenth_of_the_characters_is_deleted():
    text = "añb" * 100
    less = delete_characters(text.encode(), 0.1, seed=0).decode()
    assert len(less) == 270
    assert set(less) == set("añb")
    assert delete_characters(text.encode(), 0.1, seed=0).decode() == less
    assert delete_characters(text.encode(), 0.1, seed=1).decode() != less
    assert delete_characters(b"\xff\xfe", 0.5, seed=0) in (b"\xff", b"\xfe")
    assert delete_characters(b"", 0.1, seed=0) == b""


def test_bytes_move_by_what_is_deleted_and_gzip_by_all():
    document = b"".join(CODE)
    assert distance_under_deletion(compressors.train("identity", []), document) == pytest.approx(0.1, abs=0.001)
    assert distance_under_deletion(compressors.train("gzip", []), document) > 0.7
    assert distance_under_deletion(compressors.train("gzip", []), document, rate=0.0) == 0


def test_inspect_tells_spans_symbols_and_numbers(call, tmp_path):
    (tmp_path / "f.py").write_bytes(b"ab\xff")
    code, printed, _ = call("inspect", tmp_path / "f.py", "--view", "doublebyte", "--view", "gzip", "--json")
    double, deflate = json.loads(printed)["views"]
    assert code == 0
    assert (double["symbols"], double["borders"], double["bytes_per_symbol"]) == ([0x6162, 65536 + 255], [0, 2, 3], 1.5)
    assert double["round_trip"] is True
    assert deflate["borders"] is None
    code, printed, _ = call("inspect", tmp_path / "f.py", "--view", "doublebyte", "--view", "bit")
    assert code == 0
    assert "ab|\\xff|" in printed
    assert "·|·|·|·|·|·|·|a|" in printed


@pytest.mark.parametrize("content", [b"", b"\xff", b"x" * 9000, CODE[0]])
def test_inspect_takes_any_file(call, tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    code, printed, _ = call("inspect", tmp_path / "f", "--html", tmp_path / "p.html")
    assert code == 0
    assert "identity" in printed
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")


class Tags(html.parser.HTMLParser):
    """Names of the elements, and their addresses."""

    def __init__(self):
        super().__init__()
        self.names, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.links += [value for key, value in attrs if key in {"src", "href", "action"}]


def test_the_page_stands_alone_and_escapes_the_document(call, tmp_path):
    (tmp_path / "<b>&.py").write_bytes(b"</pre><script>alert('1')</script><img src=x onerror=y> $title ${rows}\n")
    code, _, _ = call("inspect", tmp_path / "<b>&.py", "--view", "identity", "--view", "gzip", "--html", tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert code == 0
    assert tags.names.count("script") == 1
    assert "img" not in tags.names
    assert "b" not in tags.names
    assert tags.links == []
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in text
