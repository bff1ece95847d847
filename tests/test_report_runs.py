"""`proxy-lm-eval report` on runs that every command has really measured: complete, paired by eye, honest about what is not alike."""

from __future__ import annotations

import json
import math

import pytest

import compressors.registry as registry
from eval import cli
from eval.envelope import Dataset
from eval.report_numbers import dataset_of, numbers_of
from eval.report_pairs import differences, pairs_of
from proxy_lm.data.corpus import build_small
from proxy_lm.errors import RequestError

TEXTS = [
    b"import os\n\n\ndef count_%d(items):\n    total = %d\n    for item in items:\n        total += item\n    return total\n" % (i, i)
    for i in range(30)
]
LINES = ["--num-lines", "6", "--num-identifiers", "4", "--num-sweep-lines", "1"]
FURTHER = {
    "translate": ["--limit", "6", "--num-free", "1", "--num-untrained", "1"],
    "align": ["--limit", "8", "--span-bytes", "8"],
    "robustness": ["--bits-only", "--limit", "2", "--seeds", "1", "--files", "2"],
}


def measure(command, run, *words, code=0):
    assert cli.main([command, str(run), *map(str, words), "--device", "cpu", "--json"]) == code


@pytest.fixture(scope="module")
def runs(tmp_path_factory, saved_run):
    """A raw run, a run of symbols and a mixed one, all of one corpus, measured by every command that suits them."""
    folder = tmp_path_factory.mktemp("report")
    corpus = build_small(folder / "corpus", {"train": TEXTS[:20], "valid": TEXTS[20:22], "test": TEXTS[22:]})
    spm = registry.train("spm", TEXTS[:20], alphabet_size=300)
    registry.save(spm, folder / "spm")
    views = {"spm": (folder / "spm", spm.alphabet_size)}
    saved_run(folder / "bytes", corpus=corpus, row_length=128)
    saved_run(folder / "tokens", views, corpus, mix={"rate": 1.0}, row_length=128)
    saved_run(folder / "proxy", views, corpus, mix={"rate": 0.5, "pair": 0.5}, row_length=128)
    for name in ("bytes", "tokens", "proxy"):
        measure("bpb", folder / name, "--context-bytes", 128, "--stride-bytes", 64)
        measure("lines", folder / name, *LINES)
    for command, words in FURTHER.items():
        measure(command, folder / "proxy", *words)
    return folder


def stored(run):
    return {path.stem: json.loads(path.read_text()) for path in (run / "eval").glob("*.json")}


def test_every_evaluation_stands_beside_bits_per_byte(runs, capsys, tmp_path):
    folders = [str(runs / name) for name in ("bytes", "tokens", "proxy")]
    assert cli.main(["report", *folders, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == {key: value for key, value in found.items() if key != "out"}
    proxy = found["runs"][2]
    assert {stem.split("-")[0] for stem in proxy["numbers"]} == {"bpb", "lines", "translate", "align", "robustness"}
    for stem, numbers in proxy["numbers"].items():
        assert numbers, stem
        for one in numbers:
            assert set(one) == {"name", "way", "value", "interval", "reason"}
            assert one["value"] is None or math.isfinite(one["value"])
    assert found["summary"]["columns"] == ["", "bytes", "tokens", "tokens, healed", "proxy"]
    titles = [row[0] for row in found["summary"]["rows"]]
    for wanted in ("bpb-test, bits per byte", "lines-test, next line: exact, %", "lines-test, sweep: first byte, %"):
        assert wanted in titles
    assert any(title.startswith("translate-") for title in titles)
    assert any(title.startswith("align-") for title in titles)
    assert any(title.startswith("robustness-") for title in titles)
    rows = {row[0]: row[1:] for row in found["summary"]["rows"]}
    assert rows["lines-test, asked"][0].startswith("6 lines; 4 identifiers; 1 swept line (")
    assert rows["robustness-graded, asked"] == ["-", "-", "-", "2 tasks, 1 seed, 2 files"]
    assert rows["translate-test-spm, asked"][3].startswith("6 stretches, ")
    assert rows["align-test-spm, asked"][3].startswith("8 spans, ")
    assert rows["align-test-spm, chance: retrieved among 8, %"][3] == "12.50"
    assert rows["align-test-spm, best layer, whitened: its number (0: embedding)"][3].isdigit()
    assert any("that layer, whitened, untrained weights: retrieved among 8, raw to spm, %" in row for row in rows)
    assert "-" not in rows["translate-test-spm, raw bytes, untrained weights: symbols right, teacher-forced, %"][3:]
    assert found["not_alike"] == []
    page, text = ((tmp_path / "out" / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert page.count("<svg") == page.count("</svg>") > 3
    assert page.count("by layer (dashed: untrained)") >= 3  # the plots of align
    assert "| **robustness-graded: 2 tasks, 1 seed, 2 files** | | | | |" in text  # above the numbers, in no cell
    assert page.count(">tokens, healed</text>") >= 3  # the marks of a plot are labelled with the runs' names
    assert "Asked of each: 6 lines of 6 documents in 6 projects; 4 identifiers of 4 documents" in text
    for title in ("Beside each other", "Bits per byte", "Lines", "Translation", "Alignment", "Robustness", "What is not claimed"):
        assert f"## {title}" in text
        assert title in page
    assert str(tmp_path) not in page + text
    assert str(runs) not in page + text + json.dumps(found["runs"])


def test_one_run_alone_has_a_report_and_no_pairs(runs, capsys, tmp_path):
    assert cli.main(["report", str(runs / "bytes"), "--out", str(tmp_path)]) == 0
    assert "bpb-test, bits per byte" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["runs"][0]["pairs"] == {}


def test_pairs_are_the_differences_of_the_numbers(runs):
    mine, baseline = (stored(runs / name)["lines-test"] for name in ("tokens", "bytes"))
    pairs = {(pair.way, pair.task, pair.metric): pair for pair in pairs_of("lines-test", mine, baseline)}
    assert {way for way, _, _ in pairs} == {"plain", "healed"}  # a raw baseline stands for both
    for (way, task, metric), pair in pairs.items():
        expected = mine["prompts"][way][task][metric]["value"] - baseline["prompts"]["plain"][task][metric]["value"]
        assert pair.difference == pytest.approx(expected, abs=1e-9)
        if pair.interval is not None:
            assert pair.interval[0] - 1e-9 <= pair.difference <= pair.interval[1] + 1e-9
    for pair in pairs_of("lines-test", baseline, baseline):
        assert (pair.difference, pair.verdict) == (0, "not decided")  # six places at most


def test_bits_per_byte_of_whole_documents_are_paired_too(runs):
    mine, baseline = (stored(runs / name)["bpb-test"] for name in ("tokens", "bytes"))
    (pair,) = pairs_of("bpb-test", mine, baseline)
    assert pair.difference == pytest.approx(mine["bits_per_byte"] - baseline["bits_per_byte"])
    assert pair.interval[0] <= pair.difference <= pair.interval[1]
    assert list(pairs_of("bpb-test", {**mine, "by_project": None}, baseline)) == []
    assert list(pairs_of("bpb-test", {**mine, "stride_bytes": 1}, baseline)) == []


def test_translations_are_paired(runs):
    (stem,) = (stem for stem in stored(runs / "proxy") if stem.startswith("translate-"))
    result = stored(runs / "proxy")[stem]
    shifted = json.loads(json.dumps(result))
    tops, bottoms = shifted["by_project"]["raw_change"]
    shifted["by_project"]["raw_change"][0] = [top - 0.25 * size for top, size in zip(tops, bottoms, strict=True)]
    pairs = {pair.metric: pair for pair in pairs_of(stem, shifted, result)}
    assert set(pairs) == {"raw_change", "view_change", "view_to_raw_accuracy", "raw_to_view_accuracy"}
    assert pairs["raw_change"].difference == pytest.approx(-0.25)
    assert pairs["raw_change"].num_projects == result["num_projects"] < 8
    assert (pairs["raw_change"].verdict, pairs["view_change"].verdict) == ("not decided", "not decided")


def sums(tops, projects=tuple("abcdefgh")):
    return {
        "projects": list(projects),
        "bits_per_byte": [list(tops), [10.0] * len(projects)],
        "exact": [list(tops), [10.0] * len(projects)],
    }


def line_result(tops, digest="0" * 64, **settings):
    measured = {"by_project": {"plain": {"line": sums(tops)}}, "settings": {"seed": 0, "device": "cpu", **settings}}
    return {"schema": "proxy-lm lines 1", "dataset": {"name": "test", "digest": digest, "num_items": 40}, **measured}


def test_verdicts_know_which_way_is_better():
    low, high = line_result([1.0, 2.0, 1.5, 1.0] * 2), line_result([3.0, 4.0, 3.5, 3.0] * 2)
    assert {pair.metric: pair.verdict for pair in pairs_of("lines-test", low, high)} == {"bits_per_byte": "better", "exact": "worse"}
    assert {pair.metric: pair.verdict for pair in pairs_of("lines-test", high, low)} == {"bits_per_byte": "worse", "exact": "better"}
    assert [pair.difference for pair in pairs_of("lines-test", low, high)] == pytest.approx([-0.2, -0.2])


def test_fewer_than_eight_projects_decide_nothing_however_many_offsets_they_hold():
    low, high = line_result([1.0, 2.0, 1.5, 1.0] * 2), line_result([3.0, 4.0, 3.5, 3.0] * 2)
    for result in (low, high):  # one of the eight has no item
        for tops, bottoms in (result["by_project"]["plain"]["line"][name] for name in ("bits_per_byte", "exact")):
            tops[7], bottoms[7], bottoms[0] = 0.0, 0.0, 5000.0
    pairs = list(pairs_of("lines-test", low, high))
    assert [(pair.verdict, pair.num_projects) for pair in pairs] == [("not decided", 7)] * 2
    assert all(pair.interval[1] < 0 for pair in pairs)


def test_what_is_not_alike_is_said_and_never_paired(runs, capsys, tmp_path):
    low = line_result([1.0, 2.0, 1.5, 1.0] * 2)
    for other, said in ((line_result([1.0] * 8, "1" * 64), "digest"), (line_result([1.0] * 8, seed=1), "seed: 1 and 0")):
        assert said in differences(low, other)[0]
        assert list(pairs_of("lines-test", low, other)) == []
    assert differences(low, line_result([1.0] * 8, device="cuda")) == []
    again = tmp_path / "bytes" / "eval"
    again.mkdir(parents=True)
    for stem, result in stored(runs / "bytes").items():
        (again / f"{stem}.json").write_text(json.dumps({**result, "context_bytes": 7} if stem == "bpb-test" else result))
    assert cli.main(["report", str(runs / "bytes"), str(again.parent), "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["not_alike"]) == 1
    assert "context_bytes: 128 and 7" in found["not_alike"][0]
    rows = {row[0]: row[1:] for row in found["summary"]["rows"]}
    (left, right), alike = rows["bpb-test, bits per byte"], rows["lines-test, next line: bits per byte"]
    assert right == f"{left} (*)"  # marked where it stands
    assert alike[0] == alike[1]
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.index("Marked (*)") < text.index("context_bytes: 128 and 7") < text.index("| **bpb-test: ")
    assert [run["name"].endswith("/bytes") for run in found["runs"]] == [True, True]  # told apart by the folder before


def test_results_that_cannot_be_read_are_refused(runs, capsys, tmp_path):
    def refused(*words):
        assert cli.main(["report", *map(str, words)]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "is not a folder" in refused(tmp_path / "none")
    assert f"is a folder of runs (bytes, proxy, tokens); name each: proxy-lm-eval report {runs}/*" in refused(runs)
    assert "holds no result" in refused(tmp_path)
    assert "given twice" in refused(runs / "bytes", runs / "bytes")
    (tmp_path / "eval").mkdir()
    for result, expected in (
        ({"schema": "mine 3"}, "has schema 'mine 3'"),
        ({"schema": "proxy-lm lines 1"}, "is no whole result of lines"),
    ):
        (tmp_path / "eval" / "lines-test.json").write_text(json.dumps(result))
        assert expected in refused(tmp_path)
    with pytest.raises(RequestError, match="no whole result of code"):
        numbers_of("code-graded", {"schema": "proxy-lm code 1"})


def test_programs_are_told_plain_and_healed_with_their_reasons():
    """The shape of `proxy-lm-eval code run`; its own tests make one."""
    bits = {"value": None, "interval": None, "reason": "the view cannot be asked"}
    found = {"pass@1": 0.25, "intervals": {"pass@1": {"interval": [0.1, 0.5], "method": "m"}}, "gold_bits_per_byte": bits}
    numbers = numbers_of("code-graded", {"schema": "proxy-lm code 1", "healing": False, **found, "healed": {**found, "pass@1": 0.5}})
    assert [(one.way, one.name, one.value, one.interval, one.reason) for one in numbers] == [
        ("plain", "programs: pass@1, %", 25.0, (10.0, 50.0), None),
        ("plain", "gold solutions: bits per byte", None, None, "the view cannot be asked"),
        ("healed", "programs: pass@1, %", 50.0, (10.0, 50.0), None),
        ("healed", "gold solutions: bits per byte", None, None, "the view cannot be asked"),
    ]
    assert numbers[0].full_text == "25.0 (10.0 to 50.0)"
    assert numbers[1].full_text == "-"


def test_every_result_says_what_it_was_measured_on(runs):
    for stem, result in stored(runs / "proxy").items():
        found = dataset_of(result)
        assert isinstance(found, Dataset), stem
        assert len(found.digest) == 64
        assert found.num_items > 0
