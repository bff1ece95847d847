"""`proxy-lm-eval translate`: exact for models with known answers, the same after a kill, generation agrees with teacher forcing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import compressors.registry as registry
from eval import cli
from eval.free_running import max_ids, write_rows
from eval.stretches import Stretch, told_after
from eval.teacher import ask
from eval.translate import compared
from eval.two_views import TwoViews
from proxy_lm.data.corpus import build_small
from proxy_lm.infer.engine import IdEngine
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.settings import ModelSettings
from proxy_lm.vocabulary import RAW_END, RAW_START, Vocabulary

TEXTS = [b"def f%d(count):\n    total = count + %d\n    return total\n" % (i, i) for i in range(12)]
BOTH = {"rate": 0.5, "pair": 0.4}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory, saved_run):
    """A corpus with a test split of 8 documents, two views, and runs that were told both views, one, or several."""
    folder = tmp_path_factory.mktemp("translate")
    corpus = build_small(folder / "corpus", {"train": TEXTS[:3], "valid": TEXTS[3:4], "test": TEXTS[4:]})
    for kind in ("nibble", "gzip"):
        registry.save(registry.train(kind, []), folder / kind)
    nibble, gzip = (folder / "nibble", 16), (folder / "gzip", 256)
    for name in ("mixed", "knowing"):
        saved_run(folder / name, {"nibble": nibble}, corpus, mix=BOTH, row_length=96)
    saved_run(folder / "zipped", {"gzip": gzip}, corpus, mix=BOTH, row_length=96)
    saved_run(folder / "bytes", corpus=corpus)
    saved_run(folder / "tokens", {"nibble": nibble}, corpus, mix={"rate": 1.0})
    saved_run(folder / "several", {"nibble": nibble, "gzip": gzip}, corpus, mix=BOTH)
    saved_run(folder / "short", {"nibble": nibble}, corpus, mix=BOTH, row_length=8)
    return folder


def translate(capsys, *words, code=0):
    """The result as JSON, or the sentence of a refusal."""
    assert cli.main(["translate", *map(str, words), "--device", "cpu", "--json"]) == code
    told = capsys.readouterr()
    if code:
        assert told.out == ""
        return told.err.strip().splitlines()[-1]
    result = json.loads(told.out)
    written = result.pop("written")  # of this machine, and not in the file
    assert Path(written["path"]).is_file()
    return result


class Translator:
    """Knows that a nibble is half a byte: after another telling it is sure of what follows, and at a loss elsewhere."""

    def __init__(self, vocabulary):
        self.view, self.size = vocabulary.view("nibble"), vocabulary.size

    def states(self, ids, segments, positions):
        logits = torch.zeros(*ids.shape, self.size)
        for b, row in enumerate(ids.tolist()):
            end = self.view.end_id if row[1] == self.view.start_id else RAW_END
            if end not in row:
                continue
            first = row[2 : row.index(end)]
            if end == RAW_END:
                wanted = [self.view.first_id + half for byte in first for half in divmod(byte, 16)] + [self.view.end_id]
            else:
                halves = [one - self.view.first_id for one in first]
                wanted = [16 * a + b for a, b in zip(halves[::2], halves[1::2], strict=True)] + [RAW_END]
            at = len(first) + 3
            for k, one in enumerate(wanted[: len(row) - at]):
                logits[b, at + k, one] = 60.0
        yield logits

    def head(self, hidden_CD):
        return hidden_CD


def test_a_model_that_translates_has_all_of_it_and_uses_its_own_context(place, capsys, monkeypatch):
    monkeypatch.setattr(TwoViews, "model", property(lambda self: Translator(self.opened.loaded.vocabulary)))
    result = translate(capsys, place / "knowing", "--num-free", 0, "--num-untrained", 0)
    bits, size = result["bits_per_byte"], 384
    assert bits["raw"]["value"] == pytest.approx(math.log2(size))
    assert bits["view"]["value"] == pytest.approx(2 * math.log2(size))
    assert bits["raw_after_view"]["value"] == pytest.approx(0, abs=1e-6)
    assert bits["raw_change"]["value"] == pytest.approx(-math.log2(size), rel=1e-6)
    assert bits["raw_change"]["interval"] == pytest.approx([-math.log2(size)] * 2, rel=1e-6)
    assert bits["raw_after_stranger"]["value"] > 2 * math.log2(size)  # it trusts the wrong context
    assert bits["raw_change_beside_stranger"]["value"] == pytest.approx(-bits["raw_after_stranger"]["value"], rel=1e-6)
    for way in ("view_to_raw", "raw_to_view"):
        forced = result[way]["teacher_forced"]
        assert {name: forced[name]["value"] for name in ("accuracy", "byte_accuracy", "exact_match")} == dict.fromkeys(
            ("accuracy", "byte_accuracy", "exact_match"), 1.0
        )
        assert forced["exact_match"]["interval"] is None  # all of a few are right, which is not certainty
        assert forced["accuracy_without"]["value"] < 0.2
        assert result[way]["free"] is None
    assert result["untrained"] is None
    assert result["pairs_told"] == pytest.approx({"mean_share": 0.4, "share_at_end": 0.4, "share_that_fit_a_row": 0.0})


def test_the_result_is_complete_and_a_killed_evaluation_continues_to_it(place, capsys):
    words = [place / "mixed", "--limit", 6, "--num-free", 3, "--num-untrained", 4]
    result = translate(capsys, *words)
    assert json.loads((place / "mixed" / "eval" / "translate-test-nibble.json").read_text()) == result
    assert (result["schema"], result["command"], result["view"]) == ("proxy-lm translation 1", "translate", "nibble")
    assert (result["num_stretches"], result["num_free"], result["untrained"]["num_stretches"]) == (6, 3, 4)
    assert result["num_symbols"] == 2 * result["num_bytes"]
    assert result["dataset"]["num_items"] == 6
    assert result["bits_per_byte"]["raw_change"]["value"] == pytest.approx(
        result["bits_per_byte"]["raw_after_view"]["value"] - result["bits_per_byte"]["raw"]["value"]
    )
    for metric, value in (
        ("raw_change", result["bits_per_byte"]["raw_change"]),
        ("raw_to_view_accuracy", result["raw_to_view"]["teacher_forced"]["accuracy"]),
    ):
        tops, bottoms = result["by_project"][metric]
        assert len(tops) == len(result["by_project"]["projects"]) == result["num_projects"]
        assert sum(tops) / sum(bottoms) == pytest.approx(value["value"])
    free = result["raw_to_view"]["free"]
    assert {"exact_match", "exact_bytes", "byte_accuracy", "bytes_before_error", "edit_similarity", "num_not_decoded"} <= set(free)
    (samples,) = (place / "mixed" / "eval").glob("translate-test-nibble-*/samples.jsonl")
    lines = samples.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6 + 4 + 2 * 3
    samples.write_bytes(b"".join(lines[:4]) + lines[4][:30])
    again = translate(capsys, *words, "--rows-per-pass", 3)
    assert_alike(again, result)
    assert samples.read_bytes().splitlines(keepends=True)[:4] == lines[:4]


def assert_alike(ours, theirs):
    """Equal but for what says how it was made, and for float rounding."""
    if isinstance(ours, dict):
        assert set(ours) == set(theirs)
        for name in set(ours) - {"seconds", "settings"}:
            assert_alike(ours[name], theirs[name])
    elif isinstance(ours, list):
        for one, other in zip(ours, theirs, strict=True):
            assert_alike(one, other)
    else:
        assert ours == (pytest.approx(theirs, abs=1e-5) if isinstance(ours, float) else theirs)


def test_symbols_that_stand_for_no_bytes_are_translated_without_byte_accuracy(place, capsys):
    result = translate(capsys, place / "zipped", "--limit", 4, "--num-free", 2, "--num-untrained", 0)
    forced = result["raw_to_view"]["teacher_forced"]
    assert forced["byte_accuracy"] is None
    assert "no stretch of bytes" in forced["byte_accuracy_reason"]
    assert result["view_to_raw"]["teacher_forced"]["byte_accuracy"] is not None
    assert result["raw_to_view"]["free"]["num_not_decoded"] <= 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bytes"], "was told raw bytes only, so it has no second view"),
        (["tokens"], "was told by nibble and never raw bytes"),
        (["several"], "was told by 2 views; choose one with --view: nibble, gzip"),
        (["mixed", "--view", "spm"], "was not told by a view 'spm'; it was told by: nibble"),
        (["mixed", "--split", "best"], "unknown split 'best'; the corpus has train, valid, test"),
        (["short"], "no document of split 'test' gives a stretch whose two tellings fit a row of 8 ids"),
        (["mixed", "--limit", "0"], "limit"),
        (["nothing"], "is not a folder"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_translated_is_refused_with_the_reason(place, capsys, words, said):
    assert said in translate(capsys, place / words[0], *words[1:], code=2)


def test_it_is_shown_as_tables(place, capsys):
    assert cli.main(["translate", str(place / "mixed"), "--limit", "3", "--num-free", "1", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "free: whole stretches" in shown
    assert "pairs told: 40.0 %" in shown
    assert "(0.0 to 0.0)" not in shown  # of nothing right no certainty is told
    assert "change beside a stranger's" in shown  # a pipe is not 80 columns wide
    aside = shown.splitlines()[-2]  # the test above asked more
    assert aside.startswith("result: ") or shown.splitlines()[-1].startswith("result: ")


def memorised(rows, vocabulary):
    """A small decoder that was shown these rows until it knew most of them."""
    sizes = ModelSettings(preset=None, width=48, depth=2, num_heads=2, hidden=64)
    model = Decoder(sizes, vocabulary.size, 64, num_views=1, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows])
    segments = torch.tensor([[0] * len(row.ids) + [-1] * (width - len(row.ids)) for row in rows], dtype=torch.int32)
    positions = torch.arange(width, dtype=torch.int32).expand(len(rows), width)
    for _ in range(60):
        optimizer.zero_grad()
        model(ids, segments, positions, torch.zeros_like(ids, dtype=torch.uint8)).loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def greedy(model, row):
    """A slow twin: the whole row read again for every id."""
    ids, allowed = row.ids[: row.first].tolist(), [*row.allowed, row.end_id]
    while len(ids) < row.first + max_ids(row, 64):
        places = torch.arange(len(ids), dtype=torch.int32)[None]
        logits = model.logits(torch.tensor([ids]), torch.zeros_like(places), places)[0, -1]
        ids.append(min(allowed, key=lambda one: (-float(logits[one]), one)))
        if ids[-1] == row.end_id:
            return ids[row.first : -1]
    return ids[row.first :]


def test_what_is_right_throughout_teacher_forced_is_what_generation_gives_back():
    vocabulary = Vocabulary([("nibble", 16)])
    compressor, view = registry.train("nibble", []), vocabulary.view("nibble")
    generator = np.random.default_rng(1)
    stretches = []
    for i in range(8):
        data = generator.integers(0, 256, 6 + i).astype(np.uint8).tobytes()
        stretches.append(Stretch(i, "p", 0, data, compressor.encode(data).astype(np.int64), None))
    rows = [told_after("view", one, "raw", one, view) for one in stretches] + [
        told_after("raw", one, "view", one, view) for one in stretches
    ]
    model = memorised(rows[:4] + rows[8:12], vocabulary)
    answers = ask(model, rows, rows_per_pass=4, device=CPU)
    written = dict(write_rows(IdEngine(model, 4, 64), rows, num_ids=vocabulary.size, row_length=64))
    exact = []
    for index, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        right = row.ids[row.first : row.first + row.num_payload]
        exact.append(written[index].ended and written[index].ids.tolist() == right.tolist())
        assert exact[-1] == answer.exact
        assert written[index].ids.tolist() == greedy(model, row)
        assert set(written[index].ids.tolist()) <= set(row.allowed)
        assert len(written[index].ids) + written[index].ended <= max_ids(row, 64)
    assert 4 <= sum(exact) < len(rows)


def test_bytes_are_compared_by_eye():
    assert compared(b"abcd", b"abXd") == {
        "decodes": True,
        "exact_bytes": False,
        "right_bytes": 3,
        "before_error": 2,
        "longest": 4,
        "similarity": 0.75,
    }
    assert compared(b"ab", b"abcd")["before_error"] == 2
    assert compared(b"abcdef", b"abcd") | {"similarity": None} == {
        "decodes": True,
        "exact_bytes": False,
        "right_bytes": 4,
        "before_error": 4,
        "longest": 6,
        "similarity": None,
    }
    assert compared(None, b"ab") == {
        "decodes": False,
        "exact_bytes": False,
        "right_bytes": 0,
        "before_error": 0,
        "longest": 2,
        "similarity": 0.0,
    }
    assert compared(b"ab", b"ab")["exact_bytes"]


def test_a_row_is_given_up_a_quarter_beyond_the_right_answer_or_where_it_is_full():
    view = Vocabulary([("nibble", 16)]).view("nibble")
    one = Stretch(0, "p", 0, bytes(100), np.zeros(200, dtype=np.int64), None)
    row = told_after("view", one, "raw", one, view)
    assert row.ids[row.first - 1] == RAW_START
    assert max_ids(row, 512) == 100 + 1 + 25
    assert max_ids(row, 306) == 306 - 204
