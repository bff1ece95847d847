"""`proxy-lm-eval align`: likeness of clouds against slow twins, spans by eye, and a model whose two views are one by construction."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import compressors.registry as registry
from eval import cli
from eval.similarity import SHRINKAGE, centred, cka, cosines, reciprocal_ranks, retrieved, rotated, whitened
from eval.spans import Span, cut_spans, draw_spans, mean_states
from eval.stretches import Stretch
from eval.two_views import TwoViews
from proxy_lm.data.corpus import build_small
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.settings import ModelSettings
from proxy_lm.vocabulary import RAW_START

BOTH = {"rate": 0.5, "pair": 0.4}


def cloud(seed, count=40, width=8):
    return np.random.default_rng(seed).normal(size=(count, width))


def turn(seed, width=8):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


def test_whitening_is_that_of_the_shrunk_covariance():
    x = cloud(0) @ np.diag(np.arange(1.0, 9.0)) + 5
    moved = x - x.mean(axis=0)
    covariance = moved.T @ moved / 39
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / 8 * np.eye(8)
    values, directions = np.linalg.eigh(shrunk)
    np.testing.assert_allclose(whitened(x), moved @ directions @ np.diag(values**-0.5) @ directions.T, atol=1e-10)
    assert not whitened(np.ones((5, 3))).any()
    wide = cloud(1, count=5, width=9)
    assert whitened(wide).shape == (5, 9)


def test_the_unbiased_cka_is_the_mean_over_all_fours_of_spans():
    x, y = cloud(2, 7, 3), cloud(3, 7, 5) + 1

    def hsic(k, m):
        fours = list(itertools.permutations(range(7), 4))
        return sum(k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in fours) / len(fours)

    k, m = (centred(one) @ centred(one).T for one in (x, y))
    assert cka(x, y) == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))
    assert cka(x[:3], y[:3]) is None
    assert cka(x, np.ones_like(y)) is None


def test_clouds_that_are_turned_copies_are_found_by_cka_and_by_the_rotation_only():
    x = cloud(4, 200, 8)
    y = 3 * x @ turn(5) + 7
    assert cka(x, y) == pytest.approx(1.0)
    assert retrieved(cosines(centred(x), centred(y))).mean() < 0.2
    forward, backward = rotated(x, y, [f"p{i % 10}" for i in range(200)])
    assert retrieved(forward).mean() > 0.99
    assert retrieved(backward).mean() > 0.99
    assert rotated(x, y, [f"p{i % 4}" for i in range(200)]) is None  # fewer groups than folds


def test_clouds_that_have_nothing_in_common_are_at_chance():
    x, y = cloud(6, 300, 64), cloud(7, 300, 64)
    assert abs(cka(x, y)) < 0.1
    forward, _ = rotated(x, y, [f"p{i % 20}" for i in range(300)])
    assert retrieved(forward).mean() < 0.03  # a rotation fitted on the asked pairs themselves would find most of them


def test_a_tie_finds_nothing_and_ranks_last():
    cosine = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.3, 0.2, 0.1]])
    assert retrieved(cosine).tolist() == [True, False, False]
    assert reciprocal_ranks(cosine).tolist() == [1.0, 0.5, 1 / 3]
    assert not retrieved(cosines(np.ones((4, 3)), np.ones((4, 3)))).any()
    assert cosines(np.zeros((1, 3)), np.ones((1, 3))).tolist() == [[0.0]]


def stretch(data, document=0):
    compressor = registry.train("doublebyte", [])
    return Stretch(document, f"p{document}", 0, data, compressor.encode(data).astype(np.int64), compressor.spans(data))


def test_spans_end_at_symbols_and_the_short_rest_is_none():
    assert list(cut_spans(stretch(b"abcdefghij"), 3, 3)) == [Span(3, 0, 4, 0, 2), Span(3, 4, 8, 2, 4)]
    assert list(cut_spans(stretch(b"abcdefg"), 0, 3)) == [Span(0, 0, 4, 0, 2), Span(0, 4, 7, 2, 4)]
    assert list(cut_spans(stretch(b"ab"), 0, 3)) == []


def test_spans_are_drawn_over_documents_first_and_no_bytes_twice():
    stretches = [stretch(bytes(range(k * 40, k * 40 + 40)), k) for k in range(5)] + [stretch(bytes(range(40)), 9)]
    spans = draw_spans(stretches, span_bytes=4, num_spans=10, seed=0)
    assert sorted(span.stretch for span in spans) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]  # document 9 repeats document 0
    assert spans == sorted(spans, key=lambda span: (span.stretch, span.first_byte))
    assert spans == draw_spans(stretches, span_bytes=4, num_spans=10, seed=0)
    assert spans != draw_spans(stretches, span_bytes=4, num_spans=10, seed=1)
    assert len(draw_spans(stretches, span_bytes=4, num_spans=1000, seed=0)) == 50


def test_mean_states_are_those_of_each_row_read_alone():
    model = Decoder(ModelSettings(preset=None, width=16, depth=2, num_heads=2, hidden=24, init_std=0.3), 320, 64, seed=1).eval()
    rows = [np.array([257, 259, *range(40, 40 + size)]) for size in (5, 12, 7)]
    places = [[(2, 4), (4, 7)], [(2, 14)], [(3, 4), (5, 9), (2, 9)]]
    found = mean_states(model, rows, places, rows_per_pass=2, device=torch.device("cpu"))
    assert found.shape == (6, 4, 16)
    at = 0
    for row, inside in zip(rows, places, strict=True):
        ids = torch.from_numpy(row)[None]
        positions = torch.arange(len(row), dtype=torch.int32)[None]
        layers = [x[0].numpy() for x in model.states(ids, torch.zeros_like(positions), positions)]
        logits = model.head(torch.from_numpy(layers[-1]))
        torch.testing.assert_close(logits, model.logits(ids, torch.zeros_like(positions), positions)[0])
        for first, end in inside:
            np.testing.assert_allclose(found[at], [x[first:end].mean(axis=0) for x in layers], atol=1e-5)
            at += 1


@pytest.fixture(scope="module")
def place(tmp_path_factory, saved_run):
    """Runs of a view with spans and of one without."""
    folder = tmp_path_factory.mktemp("align")
    generator = np.random.default_rng(0)
    words = [b"return ", b"self.", b"for x in ", b"def f():\n", b"    ", b"y = x + 1\n", b"caf\xc3\xa9 "]
    test = [b"".join(words[i] for i in generator.integers(0, len(words), 30)) for _ in range(8)]
    corpus = build_small(folder / "corpus", {"train": [b"a"], "valid": [b"b"], "test": test})
    for kind in ("identity", "gzip"):
        registry.save(registry.train(kind, []), folder / kind)
    for name in ("same", "killed"):
        saved_run(folder / name, {"identity": (folder / "identity", 256)}, corpus, mix=BOTH, row_length=96)
    saved_run(folder / "zipped", {"gzip": (folder / "gzip", 256)}, corpus, mix=BOTH, row_length=96)
    saved_run(folder / "bytes", corpus=corpus)
    return folder


def align(capsys, *words, code=0):
    """The result as JSON, or the sentence of a refusal."""
    assert cli.main(["align", *map(str, words), "--device", "cpu", "--json"]) == code
    told = capsys.readouterr()
    if code:
        assert told.out == ""
        return told.err.strip().splitlines()[-1]
    result = json.loads(told.out)
    written = result.pop("written")  # of this machine, and not in the file
    assert Path(written["path"]).is_file()
    return result


def test_views_that_are_one_by_construction_are_found_in_every_layer(place, capsys, monkeypatch):
    """The identity view with the embeddings of the bytes themselves: both tellings are one row to the model."""

    def tied(self):
        model, view = self.opened.loaded.model, self.view
        with torch.no_grad():
            model.embedding.weight[view.first_id : view.first_id + 256] = model.embedding.weight[:256]
            model.embedding.weight[view.start_id] = model.embedding.weight[RAW_START]
        return model

    monkeypatch.setattr(TwoViews, "model", property(tied))
    result = align(capsys, place / "same", "--span-bytes", 8, "--limit", 60, "--plot", place / "same.png")
    assert [layer["name"] for layer in result["layers"]] == ["embedding", "block 1", "block 2", "final norm"]
    assert result["num_spans"] == 60
    assert (result["num_documents"], result["num_projects"]) == (8, 8)
    for layer in result["layers"]:
        for way in ("plain", "centred", "whitened"):
            assert layer[way]["similarity"]["same_span"] == pytest.approx(1.0)
            assert layer[way]["retrieval"]["raw_to_view"]["value"] == 1.0
            assert layer[way]["retrieval"]["mean_reciprocal_rank"]["view_to_raw"] == 1.0
        assert layer["centred"]["similarity"]["gap"]["value"] > 0.5
        assert layer["cka"] == pytest.approx(1.0)
    found = [layer["whitened"]["retrieval"]["raw_to_view"]["value"] for layer in result["untrained"]]
    assert max(found) < 0.2  # the same weights without the tie
    assert (place / "same.png").read_bytes().startswith(b"\x89PNG")


def test_the_result_is_complete_and_a_killed_evaluation_continues_to_it(place, capsys):
    words = [place / "killed", "--span-bytes", 8, "--limit", 30]
    result = align(capsys, *words)
    folder = place / "killed" / "eval"
    assert json.loads((folder / "align-test-identity.json").read_text()) == result
    assert b"<svg" in (folder / "align-test-identity.svg").read_bytes()
    assert (result["schema"], result["command"], result["chance"]) == ("proxy-lm alignment 1", "align", 1 / 30)
    assert set(result["best_layer"]) == {"plain", "centred", "whitened", "rotated"}
    for layer in (*result["layers"], *result["untrained"]):
        assert set(layer) == {"layer", "name", "cka", "plain", "centred", "whitened", "rotated"}
        for way in ("plain", "centred", "whitened", "rotated"):
            assert set(layer[way]["similarity"]) == {"same_span", "other_documents", "other_documents_same_place", "gap", "gap_same_place"}
            for name in ("raw_to_view", "view_to_raw"):
                found = layer[way]["retrieval"][name]
                if found["value"] in (0, 1):  # of none or of all there is no interval
                    assert found["interval"] is None
                else:
                    assert found["interval"][0] <= found["value"] <= found["interval"][1]
    (samples,) = folder.glob("align-test-identity-*/samples.jsonl")
    lines = samples.read_bytes().splitlines(keepends=True)
    samples.write_bytes(lines[0])  # the trained states are kept, the untrained are made again
    again = align(capsys, *words)
    assert again["layers"] == result["layers"]
    assert again["untrained"] == result["untrained"]
    assert samples.read_bytes() == b"".join(lines)
    next(samples.parent.glob("trained-*.npy")).write_bytes(b"torn")
    said = align(capsys, *words, code=1)
    assert "is missing or damaged; delete" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bytes"], "was told raw bytes only"),
        (["zipped"], "the symbols of view 'gzip' stand for no stretch of bytes"),
        (["killed", "--span-bytes", "4000"], "gives 0 different spans of 4000 bytes and at least 4 are compared"),
        (["killed", "--plot", "plot.pdf"], "a plot cannot be written as '.pdf'"),
        (["killed", "--limit", "3"], "limit"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_aligned_is_refused_with_the_reason(place, capsys, words, said):
    assert said in align(capsys, place / words[0], *words[1:], code=2)


def test_it_is_shown_as_a_table(place, capsys):
    assert cli.main(["align", str(place / "same"), "--span-bytes", "8", "--limit", "20", "--device", "cpu", "--no-untrained"]) == 0
    shown = capsys.readouterr().out
    assert "final norm" in shown
    assert "chance 5.00 %" in shown
    folder = place / "same" / "eval"
    *_, where, why, plot = shown.splitlines()  # the test above asked more
    path = Path(where.removeprefix("result: "))
    assert (path.name, path.parent.parent) == ("result.json", folder)
    assert f"asked less than {folder / 'align-test-identity.json'} (num_items: 20 and 60, untrained: 0 and 1)" in why
    assert plot == f"plot: {path.with_suffix('.svg')}"
    assert json.loads((folder / "align-test-identity.json").read_text())["num_spans"] == 60
