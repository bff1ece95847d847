"""The replication measures what it says, on examples it can count, and says whether what must hold holds."""

from __future__ import annotations

import json
import math
import zlib

import pytest

from compressors.files import sha256_bytes
from compressors.neural.models import load_model
from proxy_lm import cli
from proxy_lm.analysis.published import DIFFERS, SETTINGS
from proxy_lm.analysis.replicate import checks, examples_of, row_names
from proxy_lm.data.corpus import build_small


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("replicate") / "corpus"
    sources = [path.read_bytes() for path in sorted((request.config.rootpath / "proxy_lm").rglob("*.py"))]
    build_small(folder, {"train": sources[10:], "valid": sources[:2], "test": sources[:10]})
    return folder


@pytest.fixture
def call(capsys):
    def run(*words):
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_rows_of_the_issue_are_all_there():
    assert row_names() == ["A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "A9", "A10", "A21", "A30"]
    assert set(DIFFERS) == {*row_names(), "all"}
    assert len({setting.what for setting in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:  # the paper's own identity: a 16-bit symbol stands for twice the bytes of an 8-bit one
        if 16 in setting.paper:
            assert setting.paper[16] == pytest.approx(2 * setting.paper[8], abs=0.011)


def test_examples_drop_the_rest():
    assert examples_of(b"abcdefg", 3) == [b"abc", b"def"]
    assert examples_of(b"ab", 3) == []


def test_numbers_are_of_the_examples(call, corpus, tmp_path):
    words = f"compressor replicate --corpus {corpus} --out {tmp_path / 'out'} --max-bytes 60000 --rows A1 A3 A4 A10".split()
    code, printed, notes = call(*words, "--json")
    assert code == 0, notes
    results = json.loads(printed)
    rows = {row["what"]: row for row in results["rows"]}
    text = b"".join(path for path in _documents(corpus, 60_000))
    examples = examples_of(text, 10_240)
    assert rows["byte model"]["num_examples"] == len(examples) > 2
    deflated = 0
    for example in examples:
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        deflated += len(packer.compress(example) + packer.flush())
    assert rows["gzip without header and trailer, 8-bit symbols"]["bytes_per_symbol"] == pytest.approx(10_240 * len(examples) / deflated)
    framed = rows["gzip with header and trailer, 8-bit symbols"]
    assert framed["uniform_bits_per_byte"] == pytest.approx(8 * (deflated + 18 * len(examples)) / (10_240 * len(examples)))
    frequencies = load_model(tmp_path / "out" / "static").spec()["frequencies"]
    bits = sum(-math.log2(frequencies[byte] / 65_536) for example in examples for byte in example)
    static = rows["arithmetic code of the byte unigram, 8-bit symbols"]
    assert 8 * 10_240 * len(examples) / static["bytes_per_symbol"] == pytest.approx(bits, rel=0.002)
    assert [check["holds"] for check in results["checks"]] == [True, True]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 2
    assert f"{static['bytes_per_symbol']:.3f}" in (tmp_path / "out" / "report.md").read_text()
    before = sha256_bytes((tmp_path / "out" / "results.json").read_bytes())
    code, printed, notes = call(*words)
    assert (code, "A10" in printed, "A4" in notes) == (0, True, False), "what is measured is not measured again"
    assert sha256_bytes((tmp_path / "out" / "results.json").read_bytes()) == before


def test_windows_come_back_under_the_exact_rule_only(call, corpus, tmp_path):
    code, printed, notes = call(
        *f"compressor replicate --corpus {corpus} --out {tmp_path / 'out'} --max-bytes 21000 --rows A5 A7 A8 --json".split()
    )
    assert code == 0, notes
    results = json.loads(printed)
    published, exact = (row for row in results["rows"] if row["row"] == "A7")
    assert exact["exact_examples"] == exact["num_examples"]
    assert published["exact_examples"] < published["num_examples"]
    assert 0 < published["wrong_window_share"] < 0.5
    windows = [row for row in results["rows"] if row["row"] == "A5"]
    ratios = [row["bytes_per_symbol"] for row in windows]
    assert ratios == sorted(ratios)
    quotients = [row["exact_bytes_per_symbol"] / row["bytes_per_symbol"] for row in windows]
    assert quotients[0] > 1.0, quotients
    assert all(0.95 < quotient < 1.3 for quotient in quotients), quotients
    delay = next(row["bytes_per_symbol"] for row in results["rows"] if row["row"] == "A8" and row["symbol_bits"] == 8)
    assert 0.7 < delay / ratios[0] < 0.95, "the paper: 2.20 / 2.66 = 0.83"


def test_a_check_can_fail():
    row = {"row": "A3", "symbol_bits": 8, "paper": {}}
    model = {"row": "A1", "what": "byte model", "bits_per_byte": 2.0}
    coded = {**row, "what": "arithmetic code, 8-bit symbols", "bytes_per_symbol": 3.9, "order": 3}
    others = [{**row, "what": f"w{k}", "row": "A5", "bytes_per_symbol": ratio, "order": k} for k, ratio in ((0, 2.0), (2, 4.0))]
    gzip = {**row, "row": "A10", "what": "gzip", "bytes_per_symbol": 2.5, "order": 1}
    found = [(check["holds"], check["detail"]) for check in checks([model, coded, *others, gzip])]
    assert found == [(False, "1.02564"), (False, "2.000, 4.000, 3.900"), (False, "2.500, 2.000")]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--corpus CORPUS --rows A99", "unknown row 'A99'"),
        ("--corpus CORPUS --max-bytes 100", "less than one example"),
        ("--corpus CORPUS --split tests", "no split 'tests'"),
        ("--corpus CORPUS --model nowhere", "there is no byte model in nowhere"),
        ("--corpus CORPUS --max-training-bytes 0", "give 1 or more"),
        ("--corpus nowhere", "nowhere is not a folder"),
    ],
)
def test_wrong_requests_are_one_sentence(call, corpus, tmp_path, words, sentence):
    code, printed, notes = call("compressor", "replicate", *words.replace("CORPUS", str(corpus)).split(), "--out", tmp_path / "out")
    assert (code, printed, notes.count("\n")) == (2, "", 1)
    assert sentence in notes
    assert not (tmp_path / "out").exists()


def _documents(corpus, max_bytes):
    from proxy_lm.analysis.told import Sample
    from proxy_lm.data.corpus import Corpus

    return Sample.of_corpus(Corpus.open(corpus), "test", max_bytes).documents
