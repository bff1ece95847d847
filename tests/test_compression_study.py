"""Compression in a comparison: cells have their models' rates, compressors are measured once, the page is made from results alone."""

from __future__ import annotations

import gzip
import json
import math
import re

import pytest
import torch

import compressors.registry as registry
from eval import compression_study, further, kept, report, results, tables
from eval.compression_points import classical, points
from eval.report_compression import context, sizes, vocabularies
from eval.report_groups import groups
from eval.report_runs import Subject, summary
from proxy_lm.codec import open_predictor
from proxy_lm.config import validate
from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.errors import RequestError
from proxy_lm.train.restore import load_model
from proxy_lm.vocabulary import BOS, NUM_BYTES, RAW_START

TEXTS = [b"import os\n\n\ndef first_%d(value):\n    other = value + %d\n    return other\n\n\n" % (i, i) * 4 for i in range(30)]
ASKED = {"compression": {"chunk_bytes": [16, 64], "max_bytes": 300, "data_bytes": [100, 1000, 10**6], "verify": 2, "device": "cpu"}}


@pytest.fixture(scope="module")
def place(tmp_path_factory, saved_run):
    """A corpus, a run of bytes and one of SentencePiece symbols, and what a comparison asks of them."""
    folder = tmp_path_factory.mktemp("study")
    corpus = build_small(folder / "corpus", {"train": TEXTS[:20], "valid": TEXTS[20:22], "test": TEXTS[22:]})
    spm = registry.train("spm", TEXTS[:20], alphabet_size=300)
    registry.save(spm, folder / "spm")
    saved_run(folder / "bytes", corpus=corpus)
    saved_run(folder / "tokens", {"spm": (folder / "spm", spm.alphabet_size)}, corpus, mix={"rate": 1.0})
    return folder


@pytest.fixture(scope="module")
def cells(place):
    found = {name: further.measure(ASKED, place / name, {}, f"arm {name}") for name in ("bytes", "tokens")}
    assert not any(failures for _, failures in found.values())
    return {name: asked["compression-test"] for name, (asked, _) in found.items()}


def test_a_cell_codes_the_split_in_whole_chunks(place, cells):
    text = b"".join(TEXTS[22:])[:256]  # whole chunks of 64
    for name, view in (("bytes", "raw"), ("tokens", "spm")):
        cell, predictor = cells[name], open_predictor(place / name)
        assert (cell["view"], cell["num_bytes"], cell["num_parameters"]) == (view, 256, predictor.num_parameters)
        for row in cell["lengths"]:
            coded = predictor.encode([text[begin : begin + row["chunk_bytes"]] for begin in range(0, 256, row["chunk_bytes"])])
            assert row["coded_bytes"] == sum(len(one.payload) for one in coded)
            assert row["information_bits"] == pytest.approx(sum(one.information_bits for one in coded))
            assert (row["num_chunks"], row["num_verified"]) == (len(coded), 2)
        assert [row["chunk_bytes"] for row in cell["lengths"]] == [16, 64]


def test_the_code_is_hardly_more_than_the_information_and_that_no_more_than_the_model_says(place):
    """Of a group of chunks: the model's own softmax over bytes, the information of the integers, and the coded bytes."""
    chunks = [b"".join(TEXTS)[begin : begin + 50] for begin in range(0, 400, 50)]
    loaded = load_model(place / "bytes")
    model = loaded.model.double().eval()
    own = 0.0
    for chunk in chunks:
        ids = torch.tensor([[BOS, RAW_START, *chunk]])
        with torch.inference_mode():
            logits = model.logits(ids, torch.zeros_like(ids), torch.arange(ids.shape[1])[None])[0, 1:-1, :NUM_BYTES]
        own += float(-torch.log_softmax(logits, -1)[range(len(chunk)), list(chunk)].sum()) / math.log(2)
    coded = open_predictor(place / "bytes").encode(chunks)
    assert sum(one.information_bits for one in coded) <= 1.001 * own + 2 * len(chunks)
    assert all(len(one.payload) <= 1.001 * one.information_bits / 8 + 4 for one in coded)


def test_adjusted_rates_charge_the_model(cells):
    for cell in cells.values():
        raw = 100 * cell["lengths"][-1]["coded_bytes"] / 256
        for row in cell["adjusted"]:
            assert row["adjusted"] == pytest.approx(raw + 200 * cell["num_parameters"] / row["data_bytes"])
            assert row["adjusted_real"] == pytest.approx(raw + 100 * cell["num_parameter_bytes"] / row["data_bytes"])


def test_compressors_are_measured_once_on_the_same_bytes(place, cells, tmp_path):
    corpus = Corpus.open(place / "corpus")
    first = further.measure_once(ASKED, corpus, tmp_path)["compression-test"]
    assert first["data"]["digest"] == cells["bytes"]["dataset"]["digest"]
    text = b"".join(TEXTS[22:])
    row = next(row for row in first["rows"] if row["name"] == "gzip-9")
    header = len(gzip.compress(b"\0", 9, mtime=0))
    counted = sum(len(gzip.compress(text[begin : begin + 64], 9, mtime=0)) for begin in range(0, 256, 64)) - 3 * header
    assert row["lengths"][1]["counted_bytes"] == counted
    whole = {cell["num_bytes"]: cell["counted_bytes"] for cell in row["whole"]}
    assert whole == {size: len(gzip.compress(text[:size], 9, mtime=0)) for size in (100, 256, 1000)}  # a million is not there
    path = tmp_path / "compression-test.json"
    kept_file = json.loads(path.read_text())
    path.write_text(json.dumps({**kept_file, "result": {"rows": []}}))
    assert further.measure_once(ASKED, corpus, tmp_path) == {"compression-test": {"rows": []}}  # found, not measured
    other = {"compression": {**ASKED["compression"], "chunk_bytes": [32]}}
    assert len(further.measure_once(other, corpus, tmp_path)["compression-test"]["rows"]) == len(first["rows"])
    assert further.measure_once({"lines": {"limit": 2}}, corpus, tmp_path) == {}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"chunk_bytes": [0]}, r"--chunk-bytes \[0\]: give sizes of 1 byte or more"),
        ({"chunk_bytes": [1 << 17]}, "65536 bytes at most"),
        ({"max_bytes": 100}, "max_bytes 100 holds no chunk of 2,048 bytes"),
        ({"split": "nope"}, "split 'nope' is none of: train, valid, test"),
        ({"limit_bytes": 100}, "its options: chunk_bytes, max_bytes, data_bytes"),
    ],
)
def test_a_plan_that_cannot_be_asked_is_refused(options, expected):
    with pytest.raises(RequestError, match=expected):
        further.check({"compression": options}, {})


def test_a_split_without_a_chunk_is_refused_before_anything_is_trained(place, tmp_path):
    asked = {"compression": {"chunk_bytes": [8192], "max_bytes": 10_000}}
    further.check(asked, {})
    with pytest.raises(RequestError, match=r"evaluations: compression: .*no whole chunk of 8192"):
        further.measure_once(asked, Corpus.open(place / "corpus"), tmp_path)


def told(rates, *, view="raw", parameters=1000):
    """A cell's result: coded bytes of 1,000 by the length of chunks, information content 10 bytes less."""
    lengths = [{"chunk_bytes": size, "num_bytes": 1000, "coded_bytes": n, "information_bits": 8 * n - 80} for size, n in rates.items()]
    adjusted = [{"data_bytes": 10**power, "adjusted": 0.0, "adjusted_real": 0.0} for power in range(5, 9)]
    settings = {"split": "test"}
    return {
        "schema": compression_study.SCHEMA,
        "run": {"name": "run", "checkpoint": {"step": 1}, "view": view},
        "dataset": {"name": "test split", "digest": "d", "num_items": 1000},
        "view": view,
        "num_bytes": 1000,
        "num_parameters": parameters,
        "num_parameter_bytes": 4 * parameters,
        "lengths": lengths,
        "adjusted": adjusted,
        "settings": settings,
    }


ONCE = {
    "compression-test": {
        "rows": [
            {
                "name": "gzip-9",
                "lengths": [{"chunk_bytes": size, "num_bytes": 1000, "counted_bytes": n} for size, n in ((64, 600), (2048, 400))],
                "whole": [
                    {"num_bytes": 1000, "counted_bytes": 390},
                    {"num_bytes": 10**5, "counted_bytes": 32_000},
                    {"num_bytes": 10**6, "counted_bytes": 300_000},
                ],
            }
        ]
    }
}
SCALES = {"s0": 30_000, "s1": 3_000_000}


@pytest.fixture
def studied(comparison):
    """Bytes and tokens at two scales: the larger codes in 30 %, the smaller in 40 %; seeds 0, 1, 2 cost 0, 10, 20 bytes more."""

    def asked(arm, scale, seed):
        parameters = SCALES[scale] * 2
        first, second = (450, 400) if scale == "s0" else (400, 300)
        rates = {64: first + 10 * seed, 2048: second + 10 * seed}
        return {"compression-test": told(rates, view="spm" if arm == "tokens" else "raw", parameters=parameters)}

    made = comparison("study", {"bytes": 2.5, "tokens": 2.2}, scales=SCALES, views={"tokens": "spm"}, alone=("tokens",), evaluations=asked)
    bits = {
        "schema": "proxy-lm bits per byte 1",
        "bits_per_byte": 2.0,
        "interval": [1.9, 2.1],
        "checkpoint": {"step": 1},
        "by_project": None,
    }
    arms = [arm.model_copy(update={"evaluation": {**(arm.evaluation or {}), **bits}}) for arm in made.arms]
    return made.model_copy(update={"once": ONCE, "arms": arms})


def test_points_by_eye(studied):
    found = points(studied)
    assert [(point.arm, point.scale, point.view, point.alphabet, point.num_seeds) for point in found] == [
        ("bytes", "s0", "raw", 256, 3),
        ("tokens", "s0", "spm", 256, 3),
        ("bytes", "s1", "raw", 256, 3),
        ("tokens", "s1", "spm", 256, 3),
    ]
    assert found[0].lengths[64] == pytest.approx((46.0, 45.0, 47.0))
    assert found[0].raw == pytest.approx((41.0, 40.0, 42.0))
    assert found[0].information[2048] == pytest.approx((40.0, 39.0, 41.0))
    assert found[0].adjusted(120_000) == pytest.approx((141.0, 140.0, 142.0))  # 60,000 parameters, 2 bytes each
    assert found[0].adjusted(120_000, real=True).mean == pytest.approx(241.0)
    assert all(point.of_vocabulary for point in found)
    (gzip_row,) = classical(studied)
    assert [gzip_row.at(size) for size in (500, 10**5, 5 * 10**5, 10**9)] == pytest.approx([39.0, 32.0, 32.0, 30.0])


def analysis_of(found):
    from eval.grid_analysis import analyse

    return analyse(found, verdicts_only=True), groups(found)


def words(svg):
    return re.findall(r">([^<>]+)</text>", svg)


def test_the_best_size_depends_on_the_data(studied):
    (section,) = sizes(studied, *analysis_of(studied))
    assert section.points == [
        "100 kB: bytes, s0 with 161.0 %, more than gzip-9's 32.0 %.",
        "1 MB: bytes, s0 with 53.0 %, more than gzip-9's 30.0 %.",
        "10 MB: bytes, s0 with 42.2 %, more than gzip-9's 30.0 % (of 1 MB).",
        "100 MB: bytes, s0 with 41.1 %, more than gzip-9's 30.0 % (of 1 MB).",
    ]
    assert section.table.rows[0] == [
        "bytes",
        "s0",
        "60 k",
        "41.00 (40.00 to 42.00)",
        "161.0 (281.0)",
        "53.0 (65.0)",
        "42.2 (43.4)",
        "41.1 (41.2)",
    ]
    assert section.table.rows[-1] == ["gzip-9", "-", "-", "-", "32.0", "30.0", "-", "-"]
    figures = section.figures()
    assert len(figures) == 2  # one an arm
    assert {"s0", "s1", "gzip-9", "100 kB", "100 MB"} <= set(words(figures[0]))


def test_the_curve_over_lengths_has_arms_beside_each_other(studied):
    (section,) = context(studied, *analysis_of(studied))
    assert list(section.table.columns) == ["arm", "scale", "seeds", "64", "2,048"]
    assert section.table.rows[0] == ["bytes", "s0", "3", "46.0 (45.0)", "41.0 (40.0)"]
    assert section.table.rows[-1] == ["gzip-9", "-", "-", "60.0", "40.0"]
    figures = section.figures()
    assert len(figures) == 2  # one a scale
    assert {"bytes", "tokens", "gzip-9", "64", "2,048", "percent of the raw size"} <= set(words(figures[0]))


def test_scales_of_one_arm_are_named_alone_and_seeds_on_both_sides_of_a_compressor_decide_nothing(studied):
    only = studied.model_copy(update={"arms": [arm for arm in studied.arms if arm.name == "bytes"]})
    once = json.loads(json.dumps(ONCE))
    once["compression-test"]["unavailable"] = [{"name": "brotli-11", "reason": "brotli is not installed", "pip_name": "brotli"}]
    once["compression-test"]["rows"][0]["whole"][2]["counted_bytes"] = 410_600
    (section,) = sizes(only.model_copy(update={"once": once}), *analysis_of(only))
    assert list(section.table.columns)[:3] == ["scale", "parameters", "raw, %"]
    assert [row[0] for row in section.table.rows] == ["s0", "s1", "gzip-9"]
    assert section.points[-1] == "100 MB: s0 with 41.1 %, seeds on both sides of gzip-9's 41.1 % (of 1 MB)."
    assert section.text[-1] == "Not measured: brotli-11: brotli is not installed."
    assert len(section.figures()) == 1


def test_vocabularies_need_three(studied, comparison):
    assert vocabularies(studied, *analysis_of(studied)) == []
    names = {"spm_a": 512, "spm_b": 2048}

    def asked(arm, scale, seed):
        return {"compression-test": told({2048: 400 - names.get(arm, 0) // 16}, view=arm if arm in names else "raw")}

    made = comparison(
        "vocabulary", {"bytes": 2.5, "spm_a": 2.4, "spm_b": 2.3}, views={n: n for n in names}, alone=tuple(names), evaluations=asked
    )
    views = {name: {**facts, "kind": "spm", "alphabet_size": names[name]} for name, facts in made.views.items()}
    made = made.model_copy(update={"views": views})
    (section,) = vocabularies(made, *analysis_of(made))
    assert [row[:2] for row in section.table.rows] == [["256", "40.00"], ["512", "36.80"], ["2,048", "27.20"]]
    (figure,) = section.figures()
    assert {"256", "512", "2,048"} <= set(words(figure))


def test_everything_is_made_from_the_file_of_results_alone(studied, tmp_path):
    results.save(studied, tmp_path)
    again = results.load(tmp_path)
    report.write(again, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Compression: rate against chunk length" in page
    assert "Compression: model size against data size" in page
    assert "10 MB: bytes, s0 with 42.2 %" in (tmp_path / "report.md").read_text()
    (tmp_path / kept.KEPT).mkdir(parents=True)
    (tmp_path / kept.KEPT / "study.json").write_text(kept.spelled(kept.slimmed(again)))
    marks = [f"<!-- table: study {what} -->\n<!-- end -->\n" for what in ("plot of=context", "plot of=sizes", "chunks", "sizes")]
    (tmp_path / "README.md").write_text("\n".join(marks))
    tables.in_step(tmp_path, write=True)
    assert tables.in_step(tmp_path, write=False) == []
    shown = (tmp_path / "README.md").read_text()
    assert "![Compression: model size against data size](configs/compare/results/study-sizes-1.svg)" in shown
    assert "| bytes | s0 | 3 | 46.0 (45.0) | 41.0 (40.0) |" in shown
    (tmp_path / "README.md").write_text("<!-- table: study vocabularies -->\n<!-- end -->\n")
    tables.in_step(tmp_path, write=True)
    (tmp_path / "README.md").write_text("<!-- table: study chunks scale=s0 -->\n<!-- end -->\n")
    with pytest.raises(RequestError, match="option 'scale' is none of this table"):
        tables.in_step(tmp_path, write=True)


def test_a_comparison_that_was_not_asked_says_nothing(comparison):
    made = comparison("plain", {"bytes": 2.5, "tokens": 2.2})
    assert [*context(made, *analysis_of(made)), *sizes(made, *analysis_of(made)), *vocabularies(made, *analysis_of(made))] == []
    assert validate(results.Results, {k: v for k, v in made.model_dump(mode="json").items() if k != "once"}, source="old").once == {}


def test_runs_stand_beside_each_other(cells):
    table = summary([Subject(name, {"compression-test": cell}) for name, cell in cells.items()])
    assert list(table.rows[0]) == ["compression-test, asked", "256 bytes", "256 bytes"]
    assert table.rows[1][0] == "compression-test, raw rate, chunks of 64, %"
    assert table.rows[1][1] == f"{100 * cells['bytes']['lengths'][-1]['coded_bytes'] / 256:.2f}"
