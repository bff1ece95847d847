"""`proxy-lm-eval copying`: models whose copying is known, a slow twin, which text is asked, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import compressors.registry as registry
from eval import cli, report_numbers, report_runs
from eval.copying import LEFT_OUT_BYTES, CopyingSettings, choose, stretch_bits
from eval.report_numbers import asked, numbers_of
from proxy_lm.data.corpus import build_small
from proxy_lm.train.restore import load_model
from proxy_lm.vocabulary import BOS, RAW_START

CPU = torch.device("cpu")


def text(seed, size):
    return np.random.default_rng(seed).integers(32, 127, size).astype(np.uint8).tobytes()


class Copier:
    """Half of its mass on what stood `distance` ids before the target, the rest even; even alone where nothing stood there."""

    def __init__(self, distance):
        self.distance = distance

    def logits(self, ids, segments, positions):
        p = torch.full((*ids.shape, 512), 1 / 512, dtype=torch.float64)
        for row in range(ids.shape[0]):
            for t in range(self.distance - 1, ids.shape[1]):
                p[row, t] /= 2
                p[row, t, ids[row, t + 1 - self.distance]] += 0.5
        return p.log()


def test_what_copies_pays_for_the_first_telling_alone():
    size = 40
    bits = stretch_bits(Copier(size), [text(k, size) for k in range(3)], CPU)
    scored = size - LEFT_OUT_BYTES
    np.testing.assert_allclose(bits[:, 1], scored * -math.log2(0.5 + 1 / 1024), rtol=1e-6)
    # A stretch before the first telling there is no row, but for its two opening ids, which its last two bytes are not.
    np.testing.assert_allclose(bits[:, 0], 9 * (scored - 2) + 10 * 2, rtol=1e-6)
    assert (stretch_bits(Copier(size - 1), [text(9, size)], CPU)[0] > 8 * scored).all()  # another distance copies nothing


def test_equals_a_twin_that_asks_byte_by_byte(saved_run, tmp_path):
    model = load_model(saved_run(tmp_path / "run")).model
    stretch = text(1, 31)
    bits = stretch_bits(model, [text(2, 31), stretch], CPU)[1]
    ids, found = [BOS, RAW_START], [0.0, 0.0]
    for number, byte in enumerate(2 * stretch):
        row = torch.tensor([ids])
        logits = model.logits(row, torch.zeros_like(row, dtype=torch.int32), torch.arange(len(ids), dtype=torch.int32)[None])
        if number % 31 >= LEFT_OUT_BYTES:
            found[number // 31] -= torch.log_softmax(logits[0, -1].double(), 0)[byte].item() / math.log(2)
        ids.append(byte)
    np.testing.assert_allclose(bits, found, rtol=1e-5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    documents = [text(k, 20 + 6 * k) for k in range(20)]
    return build_small(tmp_path_factory.mktemp("corpus"), {"train": documents[:2], "valid": [b"short"], "test": documents[2:]})


def test_stretches_are_of_long_documents_one_each_and_projects_take_turns(corpus):
    stretches, projects = choose(corpus, CopyingSettings(limit=100), 60)
    documents = {corpus.document(i) for i in corpus.splits["test"] if corpus.sizes[i] >= 60}
    assert len(stretches) == len(projects) == len(documents)
    assert {next(d for d in documents if stretch in d) for stretch in stretches} == documents
    assert {len(stretch) for stretch in stretches} == {60}
    assert choose(corpus, CopyingSettings(limit=5), 60)[0] == stretches[:5]  # fewer are the first of more
    assert choose(corpus, CopyingSettings(limit=5, seed=1), 60)[0] != stretches[:5]
    first = projects[: len(set(projects))]
    assert len(set(first)) == len(first)


def test_the_command_writes_what_it_prints_and_a_report_reads_it(saved_run, corpus, tmp_path, capsys):
    run = saved_run(tmp_path / "run", corpus=corpus, row_length=128)
    assert cli.main(["copying", str(run), "--limit", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    result = json.loads((run / "eval" / "copying.json").read_text())
    assert {key: value for key, value in told.items() if key != "written"} == result
    assert (result["num_stretches"], result["stretch_bytes"]) == (4, 63)
    for k, key in enumerate(("first", "again")):
        assert result[key]["value"] == pytest.approx(np.array(result["bits"])[:, k].sum() / 4 / (63 - LEFT_OUT_BYTES))
        assert 5 < result[key]["value"] < 15  # weights were never trained
    assert [number.title for number in numbers_of("copying", result)] == ["bits per byte, first telling", "bits per byte, told again"]
    assert asked(result).startswith("4 stretches, ")
    assert cli.main(["copying", str(run), "--limit", "4"]) == 0
    assert "4 stretches of 63 bytes" in capsys.readouterr().out
    assert cli.main(["report", str(run), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert "Copying" in page
    assert f"{result['again']['value']:.4f}" in page


def test_every_kind_of_result_has_a_title_in_reports():
    assert set(report_runs._TITLES) == set(report_numbers.KINDS)


def test_what_cannot_be_asked_is_refused_with_the_remedy(saved_run, corpus, tmp_path, capsys):
    def said(*words):
        assert cli.main(["copying", *map(str, words)]) == 2
        return capsys.readouterr().err

    run = saved_run(tmp_path / "run", corpus=corpus, row_length=128)
    assert "unknown split 'dev'; the corpus has train, valid, test" in said(run, "--split", "dev")
    assert "no document of the valid split" in said(run, "--split", "valid")
    assert "limit" in said(run, "--limit", "0")
    assert str(tmp_path / "none") in said(tmp_path / "none")
    short = saved_run(tmp_path / "short", corpus=corpus, row_length=32)
    assert "ask a run with longer rows" in said(short)
    registry.save(registry.train("gzip", []), tmp_path / "gzip")
    zipped = saved_run(tmp_path / "zipped", {"gzip": (tmp_path / "gzip", 256)}, corpus, mix={"rate": 1.0}, row_length=128)
    assert "was told no raw bytes, only view 'gzip'" in said(zipped)
    assert not (run / "eval").exists()
