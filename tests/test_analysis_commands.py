"""`proxy-lm compressor analyse`: whole files or none, continued parts, one sentence for a wrong request."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pytest

from proxy_lm import cli
from proxy_lm.analysis import study
from proxy_lm.data.corpus import build_small

LINES = [b"def add(first, second):\n    return first + second\n", b"class Name:\n    value = 1\n", b"import sys\nprint(sys.argv)\n"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyse") / "corpus"
    documents = [LINES[k % 3] * (40 + 37 * k) for k in range(8)]
    build_small(folder, {"train": documents, "valid": documents[:2], "test": documents})
    return folder


@pytest.fixture
def call(capsys):
    def run(*words):
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_results_report_and_plots_are_whole(call, corpus, tmp_path):
    out = tmp_path / "out"
    code, printed, notes = call(*f"compressor analyse identity gzip doublebyte --corpus {corpus} --out {out} --json".split())
    assert code == 0, notes
    results = json.loads(printed)
    assert json.loads((out / "results.json").read_text())["views"] == results["views"]
    assert set(results["views"]["gzip"]["analyses"]) == set(study.ANALYSES)
    page = (out / "report.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)|@import|url\((?!#)|<script""", page)
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(plots) == 5
    for svg in plots:
        ET.fromstring(svg)
    text = (out / "report.md").read_text()
    assert f"{results['views']['gzip']['analyses']['density']['bytes_per_symbol']:.3f}" in text
    assert not list(out.rglob("*.tmp-*"))


def test_what_is_finished_is_kept(call, corpus, tmp_path, monkeypatch):
    words = f"compressor analyse identity --corpus {corpus} --out {tmp_path / 'out'} --only density transparency".split()
    assert call(*words)[0] == 0
    first = (tmp_path / "out" / "results.json").read_bytes()
    monkeypatch.setitem(study.ANALYSES, "density", lambda told, seed: pytest.fail("measured again"))
    code, printed, _ = call(*words)
    assert (code, (tmp_path / "out" / "results.json").read_bytes()) == (0, first)
    assert "identity" in printed
    monkeypatch.setitem(study.ANALYSES, "density", lambda told, seed: {"told_bytes": -1})
    assert study.part(tmp_path / "out" / "parts", {"another": 1}, lambda: {"made": True}) == {"made": True}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--corpus CORPUS", "nothing to analyse"),
        ("identity --corpus nowhere", "nowhere is not a folder"),
        ("nothing --corpus CORPUS", "'nothing' is neither a folder nor a view"),
        ("spm --corpus CORPUS", "needs training first"),
        ("identity identity --corpus CORPUS", "'identity' is named twice"),
        ("identity --corpus CORPUS --only densities", "unknown analysis 'densities'"),
        ("identity --corpus CORPUS --split tests", "no split 'tests'"),
        ("identity --corpus CORPUS --max-bytes 0", "--max-bytes 1"),
        ("identity --corpus CORPUS --seed -1", "--seed -1"),
        ("identity --corpus CORPUS --model nowhere", "there is no byte model in nowhere"),
    ],
)
def test_wrong_requests_are_one_sentence(call, corpus, tmp_path, words, sentence):
    words = words.replace("CORPUS", str(corpus))
    code, printed, notes = call("compressor", "analyse", *words.split(), "--out", tmp_path / "out")
    assert (code, printed, notes.count("\n")) == (2, "", 1)
    assert sentence in notes
    assert not (tmp_path / "out").exists()


def test_labels_tell_folders_of_one_name_apart():
    assert study.unique_labels(["a/table", "b/table", "views/spm", "gzip"]) == ["a/table", "b/table", "spm", "gzip"]
