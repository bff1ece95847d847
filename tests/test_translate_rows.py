"""Stretches fit a row and end at borders of the view; rows are told as training tells pairs; answers are the model's own, id by id."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import compressors.registry as registry
from eval.stretches import Stretch, alone_fits, cut_document, pair_fits, strangers, take_stretches, told_after, told_alone
from eval.teacher import ask
from proxy_lm.data.corpus import build_small
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import Plan
from proxy_lm.data.rows import RowReader
from proxy_lm.errors import WorkError
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.settings import ModelSettings
from proxy_lm.vocabulary import BOS, EOS, RAW_END, RAW_START, Vocabulary

TEXTS = [b"def f%d(x):\n    return x + %d\n" % (i, i) for i in range(40)]
CPU = torch.device("cpu")


def stretch(data, symbols, borders=None, *, document=0, project="p"):
    borders = None if borders is None else np.array(borders, dtype=np.int64)
    return Stretch(document, project, 0, data, np.array(symbols, dtype=np.int64), borders)


@pytest.fixture(scope="module")
def compressors():
    return {
        "nibble": registry.train("nibble", []),
        "doublebyte": registry.train("doublebyte", []),
        "gzip": registry.train("gzip", []),
        "spm": registry.train("spm", TEXTS, alphabet_size=300),
    }


def test_a_document_of_eleven_bytes_is_cut_by_eye(compressors):
    # A pair of n bytes and n / 2 symbols has 6 ids more; rows of 12 hold 4 bytes and 2 symbols.
    found = list(cut_document(b"abcdefghijk", compressors["doublebyte"], pair_fits(12), 1, 1024))
    assert [(first, data, symbols.tolist(), borders.tolist()) for first, data, symbols, borders in found] == [
        (0, b"abcd", [0x6162, 0x6364], [0, 2, 4]),
        (4, b"efgh", [0x6566, 0x6768], [0, 2, 4]),
        (8, b"ijk", [0x696A, 65_536 + 0x6B], [0, 2, 3]),
    ]
    # Alone each telling has 4 ids more: rows of 12 hold 8 bytes. The rest is shorter than 4 bytes and passed over.
    assert [data for _, data, _, _ in cut_document(b"abcdefghijk", compressors["doublebyte"], alone_fits(12), 4, 1024)] == [b"abcdefgh"]
    assert [data for _, data, _, _ in cut_document(b"abcdefghijk", compressors["doublebyte"], alone_fits(12), 1, 5)] == [
        b"abcd",
        b"efgh",
        b"ijk",
    ]
    assert list(cut_document(b"", compressors["nibble"], pair_fits(12), 1, 1024)) == []
    assert list(cut_document(b"ab", compressors["doublebyte"], pair_fits(8), 1, 1024)) == []


@given(
    st.sampled_from(["nibble", "doublebyte", "gzip", "spm"]),
    st.binary(max_size=60) | st.sampled_from([b"".join(TEXTS[:4]), b"  x\n" * 30]),
    st.integers(8, 60),
)
@settings(max_examples=60, deadline=None)
@example("gzip", TEXTS[0] * 9, 40)
def test_stretches_follow_each_other_fit_and_could_not_be_longer(compressors, kind, document, row_length):
    compressor, fits = compressors[kind], pair_fits(row_length)
    spans = compressor.spans(document)
    places = np.unique(np.arange(len(document) + 1) if spans is None else spans).tolist()
    reached = 0
    for first, part, symbols, borders in cut_document(document, compressor, fits, 1, 1024):
        assert document[first : first + len(part)] == part
        assert first >= reached
        assert {first, first + len(part)} <= {*places, len(document)}
        assert symbols.tolist() == compressor.encode(part).tolist()
        assert fits(len(part), len(symbols))
        assert (borders is None) == (kind == "gzip")
        reached = first + len(part)
        later = [place for place in places if place > reached]
        if later and kind in ("nibble", "doublebyte"):  # whose symbols are the same inside a document and alone
            longer = document[first : later[0]]
            assert not fits(len(longer), len(compressor.encode(longer)))


def test_rows_are_what_training_tells(compressors):
    view = Vocabulary([("other", 5), ("nibble", 16)]).view("nibble")
    one = stretch(b"az", [6, 1, 7, 10], [0, 0, 1, 1, 2])
    n = view.first_id
    alone = told_alone("raw", one, view)
    assert alone.ids.tolist() == [BOS, RAW_START, 97, 122, RAW_END, EOS]
    assert (alone.first, alone.num_payload, alone.allowed.tolist(), alone.end_id) == (2, 2, [*range(256)], RAW_END)
    pair = told_after("raw", one, "view", one, view)
    assert pair.ids.tolist() == [BOS, RAW_START, 97, 122, RAW_END, view.start_id, n + 6, n + 1, n + 7, n + 10, view.end_id, EOS]
    assert (pair.first, pair.num_payload, pair.allowed.tolist(), pair.end_id) == (6, 4, [*range(n, n + 16)], view.end_id)
    # A context that does not fit loses its end: of 10 ids, 6 are signs and 2 the payload.
    cut = told_after("view", one, "raw", one, view, row_length=10)
    assert cut.ids.tolist() == [BOS, view.start_id, n + 6, n + 1, view.end_id, RAW_START, 97, 122, RAW_END, EOS]


@pytest.mark.parametrize("raw_first", [0, 1])
def test_a_pair_is_the_row_that_the_trainer_reads(tmp_path, compressors, raw_first):
    from proxy_lm.data.encoding import encode_corpus
    from proxy_lm.data.views import View

    corpus = build_small(tmp_path / "corpus", {"train": [TEXTS[0]], "valid": [b"v"], "test": [b"t"]})
    registry.save(compressors["spm"], tmp_path / "spm")
    encode_corpus(corpus, tmp_path / "spm", tmp_path / "spm", num_workers=1)
    view, vocabulary = View.open(tmp_path / "spm", corpus), Vocabulary([("spm", compressors["spm"].alphabet_size)])
    symbols = compressors["spm"].encode(TEXTS[0]).astype(np.int64)
    one = stretch(TEXTS[0], symbols)
    sides = ("raw", "view") if raw_first else ("view", "raw")
    row = told_after(sides[0], one, sides[1], one, vocabulary.view("spm"))
    plan = Plan.for_corpus(
        corpus,
        [view],
        vocabulary=vocabulary,
        mix=MixSettings.model_validate({"pair": 1.0, "raw_first": raw_first}),
        seed=0,
        row_length=len(row.ids),
        lookahead=1,
        num_rows=1,
    )
    assert RowReader(corpus, [view], vocabulary, plan).read([0]).ids[0, :-1].tolist() == row.ids.tolist()


def test_stretches_are_taken_in_order_and_documents_without_are_counted(tmp_path, compressors):
    corpus = build_small(tmp_path / "corpus", {"train": [b"t"], "valid": [b"v"], "test": [b"x" * 40, b"", b"y" * 10, b"z" * 40]})
    taken, without = take_stretches(
        corpus, corpus.splits["test"], compressors["nibble"], pair_fits(36), limit=9, per_document=2, min_bytes=8
    )
    assert [(one.document, one.project, one.first_byte, one.data) for one in taken] == [
        (2, "p2", 0, b"x" * 10),
        (2, "p2", 10, b"x" * 10),
        (4, "p4", 0, b"y" * 10),
        (5, "p5", 0, b"z" * 10),
        (5, "p5", 10, b"z" * 10),
    ]
    assert without == 1
    assert [one.key for one in taken[:2]] == ["2:0:10", "2:10:10"]
    some, _ = take_stretches(corpus, corpus.splits["test"], compressors["nibble"], pair_fits(36), limit=3, per_document=2, min_bytes=8)
    assert [one.key for one in some] == [one.key for one in taken[:3]]


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30))
def test_strangers_are_of_other_projects_where_that_can_be(names):
    found = [stretch(b"a", [0], document=i, project=str(name)) for i, name in enumerate(names)]
    partner = strangers(found)
    assert sorted(partner) == list(range(len(names)))
    assert all(partner[i] != i for i in range(len(names)))
    if 2 * max(names.count(name) for name in names) <= len(names):
        assert all(names[partner[i]] != names[i] for i in range(len(names)))
    assert strangers(found[:1]) is None


@pytest.fixture(scope="module")
def model():
    sizes = ModelSettings(preset=None, width=16, depth=2, num_heads=2, hidden=24, init_std=0.3)
    return Decoder(sizes, Vocabulary([("nibble", 16)]).size, 64, num_views=1, seed=3).eval()


def rows_of(generator, count):
    view = Vocabulary([("nibble", 16)]).view("nibble")
    rows = []
    for _ in range(count):
        data = generator.integers(0, 256, generator.integers(1, 20)).astype(np.uint8).tobytes()
        one = stretch(data, registry.train("nibble", []).encode(data))
        rows += [told_alone("raw", one, view), told_after("raw", one, "view", one, view), told_after("view", one, "raw", one, view)]
    return rows


def test_answers_are_the_models_own_whatever_shares_the_pass(model):
    rows = rows_of(np.random.default_rng(0), 7)
    together = ask(model, rows, rows_per_pass=5, device=CPU)
    for row, answer in zip(rows, together, strict=True):
        ids = torch.from_numpy(row.ids)[None]
        zeros, places = torch.zeros_like(ids, dtype=torch.int32), torch.arange(ids.shape[1], dtype=torch.int32)[None]
        wanted = slice(row.first - 1, row.first + row.num_payload)
        np.testing.assert_allclose(answer.nats, model.target_nll(ids, zeros, places)[0, wanted].numpy(), atol=2e-5)
        logits = model.logits(ids, zeros, places)[0, wanted].detach().numpy()
        forbidden = np.ones(logits.shape[1], dtype=bool)
        forbidden[[*row.allowed, row.end_id]] = False
        logits[:, forbidden] = -np.inf
        assert (logits.argmax(1) == row.ids[row.first : row.first + row.num_payload + 1]).tolist() == answer.right.tolist()
        assert answer.payload_nats == pytest.approx(math.fsum(answer.nats[:-1]))


class Fixed:
    """Says the same logits everywhere, [V]."""

    def __init__(self, logits_V):
        self.logits_V = torch.tensor(logits_V, dtype=torch.float32)

    def states(self, ids, segments, positions):
        yield torch.zeros(*ids.shape, 1)

    def head(self, hidden_CD):
        return self.logits_V.expand(len(hidden_CD), -1)


def test_of_equal_logits_the_smaller_id_is_right_and_forbidden_ids_never_are():
    view = Vocabulary([("nibble", 16)]).view("nibble")
    one = stretch(b"\0\0", [0, 0, 0, 0])
    size = Vocabulary([("nibble", 16)]).size
    answers = ask(Fixed([0.0] * size), [told_alone("raw", one, view), told_alone("view", one, view)], rows_per_pass=2, device=CPU)
    assert answers[0].right.tolist() == [True, True, False]  # byte 0 comes before the end sentinel
    assert answers[1].right.tolist() == [False] * 4 + [True]  # the end sentinel comes before the view's symbols
    assert not answers[0].exact
    np.testing.assert_allclose(answers[0].nats, math.log(size), rtol=1e-6)
    loud = [0.0] * size
    loud[EOS], loud[7] = 9.0, 1.0
    (answer,) = ask(Fixed(loud), [told_alone("raw", stretch(b"\7", [0, 7]), view)], rows_per_pass=1, device=CPU)
    assert answer.right.tolist() == [True, False]


def test_broken_weights_are_said():
    view = Vocabulary([("nibble", 16)]).view("nibble")
    with pytest.raises(WorkError, match="not finite"):
        ask(Fixed([float("nan")] * 384), [told_alone("raw", stretch(b"a", [6, 1]), view)], rows_per_pass=1, device=CPU)
