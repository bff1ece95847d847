"""Probes ask for the second telling only, beside a control of as many crops; trained once, they are found again."""

from __future__ import annotations

import json

import numpy as np
import pytest

import compressors
from proxy_lm import cli
from proxy_lm.analysis.probe import ProbeSettings, _run, probe_settings
from proxy_lm.analysis.probe_score import Asked, compare, ids_of
from proxy_lm.data.corpus import build_small
from proxy_lm.data.mixing import Curve
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import BOS, EOS, RAW_END, RAW_START, Vocabulary


def test_what_is_asked_is_the_second_telling():
    vocabulary = Vocabulary([("view", 16)])
    view = vocabulary.view("view")
    nibble = compressors.train("nibble", [])
    coded, raw = [view.start_id, 320 + 4, 320 + 1, view.end_id], [RAW_START, 0x41, RAW_END]
    expected = {
        "decompress": ([BOS, *coded, *raw, EOS], 6, 7),
        "compress": ([BOS, *raw, *coded, EOS], 5, 7),
        None: ([BOS, *coded, EOS], 2, 4),
    }
    for task, (ids, first, end) in expected.items():
        found = ids_of(vocabulary, nibble, b"A", task, b"A")
        assert (found[0].tolist(), *found[1:]) == (ids, first, end)
    found = ids_of(Vocabulary(), None, b"A", None, b"A")
    assert (found[0].tolist(), *found[1:]) == ([BOS, *raw, EOS], 2, 3)
    other = [view.start_id, 320 + 4, 320 + 2, view.end_id]
    assert ids_of(vocabulary, nibble, b"A", "decompress", b"B")[0].tolist() == [BOS, *other, *raw, EOS]
    assert ids_of(vocabulary, nibble, b"B", "compress", b"A")[0].tolist() == [BOS, *raw, *other, EOS]


def test_gains_by_hand():
    asked = Asked(nats=np.array([1.0, 0.0, 4.0]), hits=np.array([3.0, 0.0, 1.0]), targets=np.array([4.0, 0.0, 4.0]))
    control = Asked(nats=np.array([5.0, 9.0, 8.0]), hits=np.array([2.0, 1.0, 0.0]), targets=np.array([4.0, 4.0, 4.0]))
    other = Asked(nats=np.array([3.0, 9.0, 6.0]), hits=np.zeros(3), targets=np.array([4.0, 4.0, 4.0]))
    found = compare(asked, control, other, seed=0)
    assert (found["num_documents"], found["num_targets"], found["accuracy"], found["control_accuracy"]) == (2, 8, 0.5, 0.25)
    assert (found["nats"], found["control_nats"], found["gain_nats"]) == (5 / 8, 13 / 8, 1.0)
    assert found["gain_interval"] == [1.0, 1.0], "both crops gain one nat a target, so every resample does"
    assert (found["read_nats"], found["read_interval"], found["other_accuracy"]) == (0.5, [0.5, 0.5], 0.0)
    none = Asked(nats=np.zeros(1), hits=np.zeros(1), targets=np.zeros(1))
    assert "accuracy" not in compare(none, none, none, seed=0)


def test_task_and_control_are_told_as_many_crops(tmp_path):
    settings = ProbeSettings(document_bytes=100, num_documents=2000, train={"row_length": 100, "rows_per_step": 10})
    steps = {}
    for task in ("decompress", "compress", None):
        steps[task] = _run(tmp_path, settings, "v", tmp_path / "v", task, [50, 50, -1, 52]).settings
    raw = _run(tmp_path, settings, "raw", None, None, []).settings
    assert raw.num_steps == 2000 * 104 // 1000
    assert steps["compress"].num_steps == 2000 * (100 + 38 + 6) // 1000
    assert steps[None].num_steps == 2000 * (38 + 4) // 1000
    assert [run.mix.raw_first for run in (steps["decompress"], steps["compress"])] == [Curve.constant(0.0), Curve.constant(1.0)]
    assert (raw.views, raw.mix.pair.is_zero, steps["compress"].mix.pair.is_zero) == ({}, True, False)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("document_byte=3", "did you mean 'document_bytes'"),
        ("document_bytes=3", "greater than or equal to 16"),
        ("train.modle.preset=nano", "did you mean 'model'"),
        ("train.num_steps=3", "train.num_steps is the probe's own"),
        ("launch.num_ranks=0", "launch.num_ranks"),
        ("seed", "NAME=VALUE"),
    ],
)
def test_wrong_settings_are_one_sentence(override, sentence):
    with pytest.raises(RequestError, match=sentence):
        probe_settings([override])


@pytest.fixture
def call(capsys):
    def run(*words):
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe") / "corpus"
    draw = np.random.Generator(np.random.Philox(key=5))
    documents = [bytes(draw.choice(np.frombuffer(b"abcd", np.uint8), 400)) for _ in range(12)]
    build_small(folder, {"train": documents[:8], "valid": documents[8:10], "test": documents[10:]})
    return folder


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("nothing --corpus CORPUS", "'nothing' is neither a folder nor a view"),
        ("nibble --corpus CORPUS --tasks read", "unknown task 'read'"),
        ("nibble --corpus CORPUS --split nowhere", "no split 'nowhere'"),
        ("nibble --corpus nowhere", "nowhere is not a folder"),
        ("nibble --corpus CORPUS --set document_bytes=5000", "a crop of 5000 bytes is wanted"),
    ],
)
def test_wrong_requests_are_one_sentence(call, corpus, tmp_path, words, sentence):
    code, printed, notes = call("compressor", "probe", *words.replace("CORPUS", str(corpus)).split(), "--out", tmp_path / "out")
    assert (code, printed, notes.count("\n")) == (2, "", 1)
    assert sentence in notes
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_probes_is_refused(call, corpus, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "probe.json").write_text('{"text_digest": "another"}')
    code, _, notes = call("compressor", "probe", "nibble", "--corpus", corpus, "--out", tmp_path / "out")
    assert (code, notes.count("\n"), "text_digest: 'another' -> " in notes) == (2, 1, True)


@pytest.mark.slow
def test_a_model_reads_what_it_copies_and_is_found_again(call, corpus, tmp_path):
    """Random letters have nothing to predict, so the control stays at two bits a byte; the view tells them all."""
    words = f"compressor probe nibble --corpus {corpus} --out {tmp_path / 'out'} --tasks decompress --json --set".split()
    words += ["document_bytes=16", "num_documents=3000", "num_held_out=30", "launch.threads_per_rank=1", "train.row_length=216"]
    words += [f"train.model.{name}" for name in ("preset=null", "width=64", "depth=2", "num_heads=2", "hidden=128")]
    code, printed, notes = call(*words)
    assert code == 0, notes
    found = json.loads(printed)["views"]["nibble"]["decompress"]
    assert found["num_targets"] == 30 * 16
    assert found["control_nats"] > 1.2
    assert found["gain_interval"][0] > 0
    assert found["read_interval"][0] > 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*") if path.is_file()}
    code, again, notes = call(*words)
    assert (code, json.loads(again)) == (0, json.loads(printed))
    assert notes.count("trained already") == 2
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*") if path.is_file()}
    words[words.index("document_bytes=16")] = "document_bytes=20"
    code, _, notes = call(*words)
    assert (code, "document_bytes: 16 -> 20" in notes) == (2, True)
