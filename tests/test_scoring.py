"""Bits per byte are right: windows cut as written, every byte scored once, models with known probabilities scored exactly."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressors.base import Compressor
from eval.scorer import Scorer, reading_of
from eval.windows import Window, cut
from proxy_lm.errors import NotRepresentableError, RequestError, WorkError
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.settings import ModelSettings
from proxy_lm.vocabulary import BOS, EOS, RAW_END, RAW_START, Vocabulary


class Uniform:
    """Every id equally likely."""

    def __init__(self, num_ids):
        self.num_ids = num_ids

    def target_nll(self, ids, segments, positions):
        return torch.full((ids.shape[0], ids.shape[1] - 1), math.log(self.num_ids), dtype=torch.float64)


class Bigram:
    """P(next | this) from a table [V, V] of nats."""

    def __init__(self, nats_VV):
        self.nats_VV = nats_VV

    def target_nll(self, ids, segments, positions):
        return self.nats_VV[ids[:, :-1], ids[:, 1:]]


class Recorder:
    """The nats of a target are the number of ids read before it: shows how much context each one had."""

    def __init__(self):
        self.rows = []

    def target_nll(self, ids, segments, positions):
        assert torch.equal(positions, torch.arange(ids.shape[1]).expand_as(positions))
        self.rows += [ids[b, : int((segments[b] == 0).sum())].tolist() for b in range(len(ids))]
        return torch.arange(1, ids.shape[1], dtype=torch.float64).repeat(len(ids), 1)


class Pairs(Compressor):
    """Two bytes a symbol, the last may stand for one; refuses documents with a NUL. Small enough to check by eye."""

    name = "pairs"
    exact = True
    alphabet_size = 65_536 + 256

    def encode(self, data):
        if 0 in data:
            raise NotRepresentableError("a NUL")
        whole = [data[i] * 256 + data[i + 1] for i in range(0, len(data) - 1, 2)]
        return np.array(whole + [65_536 + byte for byte in data[len(data) // 2 * 2 :]], dtype=np.uint32)

    def decode(self, symbols, max_bytes=1 << 30):
        return b"".join(bytes([s // 256, s % 256]) if s < 65_536 else bytes([s - 65_536]) for s in map(int, symbols))

    def spec(self):
        return {"name": "pairs"}

    def spans(self, data):
        return np.minimum(np.arange(0, len(data) + 2, 2), len(data)).astype(np.int64)

    @classmethod
    def from_artifact(cls, spec, files):
        return cls()


class Lump(Pairs):
    """As `Pairs`, but its symbols stand for no stretch of bytes."""

    name = "lump"

    def spans(self, data):
        return None


def raw_borders(size):
    return np.arange(size + 1, dtype=np.int64)


def test_windows_of_ten_bytes_by_eye():
    # ids: 0 BOS, 1 sentinel, 2..11 the bytes. Context 6 bytes, stride 2; the two opening ids count as bytes.
    assert cut(raw_borders(10), context_bytes=6, stride_bytes=2) == [
        Window(0, 1, 7),  # reads BOS, sentinel, b0..b3 and the target b4: scores the sentinel (no weight) and b0..b4
        Window(2, 7, 9),  # reads b0..b5, scores b5 and b6
        Window(4, 9, 11),  # reads b2..b7, scores b7 and b8
        Window(6, 11, 12),  # reads b4..b8, scores b9
    ]


def test_windows_without_overlap_still_read_the_byte_before():
    assert cut(raw_borders(7), context_bytes=4, stride_bytes=4, num_closing=2) == [Window(0, 1, 5), Window(4, 5, 9), Window(8, 9, 11)]


def test_windows_of_nothing_and_of_one_byte():
    assert cut(raw_borders(0), context_bytes=6, stride_bytes=2) == [Window(0, 1, 2)]
    assert cut(raw_borders(1), context_bytes=6, stride_bytes=2) == [Window(0, 1, 3)]


def test_a_straddling_symbol_belongs_where_it_begins_and_is_not_read_in_part():
    # symbols of 3 bytes: begin at 2, 5, 8, 11 on the axis where BOS is 0. Context 6, stride 3.
    borders = np.array([0, 3, 6, 9, 12], dtype=np.int64)
    assert cut(borders, context_bytes=6, stride_bytes=3) == [
        Window(0, 1, 4),  # scores ids that begin at 0 < x <= 6: sentinel, symbols at 2 and 5
        Window(3, 4, 5),  # begins at 3: reads the symbol at 5 and not the one at 2, whose span began before; scores the one at 8
        Window(4, 5, 6),  # begins at 6: reads the symbol at 8, scores the one at 11
    ]


def test_a_symbol_longer_than_the_context_still_leaves_one_id_to_read():
    borders = np.array([0, 50, 100], dtype=np.int64)
    assert cut(borders, context_bytes=4, stride_bytes=4) == [Window(0, 1, 3), Window(2, 3, 4)]


def test_a_view_with_more_ids_than_a_row_is_cut_further_and_says_so():
    borders = np.arange(0, 41, dtype=np.int64) // 8  # eight symbols a byte, five bytes
    windows = cut(borders, context_bytes=4, stride_bytes=2, max_ids=8)
    assert all(window.num_ids <= 8 for window in windows)
    assert any(window.short for window in windows)
    assert [i for w in windows for i in range(w.score_from, w.score_to)] == list(range(1, 42))


@given(
    widths=st.lists(st.integers(0, 9), max_size=60),
    context=st.integers(3, 20),
    stride=st.integers(1, 20),
    num_closing=st.sampled_from([0, 2]),
    max_ids=st.sampled_from([None, 2, 5, 9]),
)
def test_every_id_is_scored_once_from_at_most_the_context(widths, context, stride, num_closing, max_ids):
    stride = min(stride, context)
    borders = np.cumsum([0, *widths]).astype(np.int64)
    starts = np.concatenate([[0, 1], borders[:-1] + 2, borders[-1] + 2 + np.arange(num_closing)])
    windows = cut(borders, context_bytes=context, stride_bytes=stride, num_closing=num_closing, max_ids=max_ids)
    assert [i for w in windows for i in range(w.score_from, w.score_to)] == list(range(1, len(starts)))
    for window in windows:
        assert 0 <= window.read_from < window.score_from
        for i in range(window.score_from, window.score_to):
            assert starts[i] - starts[window.read_from] <= context or window.read_from == window.score_from - 1


@pytest.mark.parametrize(("context", "stride"), [(2, 1), (8, 0), (8, 9)])
def test_windows_that_cannot_work_are_refused(context, stride):
    with pytest.raises(RequestError, match="give"):
        cut(raw_borders(10), context_bytes=context, stride_bytes=stride)


def raw_scorer(model, **options):
    settings = {"row_length": 64, "context_bytes": 6, "stride_bytes": 2, "windows_per_batch": 3} | options
    return Scorer(model, reading_of(Vocabulary(), "raw"), **settings)


def pairs_scorer(model, compressor=None, **options):
    compressor = compressor or Pairs()
    vocabulary = Vocabulary([("pairs", compressor.alphabet_size)])
    settings = {"row_length": 64, "context_bytes": 6, "stride_bytes": 2, "windows_per_batch": 3} | options
    return Scorer(model, reading_of(vocabulary, "pairs", compressor), **settings)


def test_what_the_model_reads_is_a_row_of_training():
    model = Recorder()
    score = raw_scorer(model).rolling(b"abcdefgh")
    assert model.rows == [[BOS, RAW_START, *b"abcde"], [*b"abcdefg"], [*b"cdefgh"]]
    assert score.nll_nats.tolist() == [2, 3, 4, 5, 6, 5, 6, 5]


def test_the_end_is_scored_only_when_asked():
    assert raw_scorer(Uniform(8)).rolling(b"abc").end_nats == 0
    assert raw_scorer(Uniform(8), score_end=True).rolling(b"abc").end_nats == pytest.approx(2 * math.log(8))


@given(document=st.binary(max_size=80), context=st.integers(3, 40), stride=st.integers(1, 40))
def test_a_uniform_model_needs_log2_v_bits_for_each_byte(document, context, stride):
    score = raw_scorer(Uniform(1024), context_bytes=context, stride_bytes=min(stride, context)).rolling(document)
    assert len(score.nll_nats) == len(document)
    assert np.allclose(score.nll_nats, math.log(1024), rtol=1e-15)


def test_a_bigram_model_is_scored_exactly_over_any_window():
    generator = torch.Generator().manual_seed(1)
    nats_VV = -torch.log_softmax(torch.randn(320, 320, generator=generator, dtype=torch.float64), dim=1)
    document = bytes(range(97, 122)) * 3
    ids = [RAW_START, *document, RAW_END, EOS]
    expected = [float(nats_VV[a, b]) for a, b in pairwise(ids)]
    for context, stride in ((3, 1), (7, 7), (20, 3), (64, 64)):
        score = raw_scorer(Bigram(nats_VV), context_bytes=context, stride_bytes=stride, score_end=True).rolling(document)
        assert score.nll_nats.tolist() == expected[: len(document)]
        assert score.end_nats == pytest.approx(sum(expected[len(document) :]), rel=1e-15)


@given(document=st.binary(max_size=60))
def test_a_token_model_is_scored_over_its_own_segmentation(document):
    score = pairs_scorer(Uniform(16)).rolling(document)
    assert score.told_raw == (0 in document)
    assert len(score.nll_nats) == (len(document) if score.told_raw else -(-len(document) // 2))


def test_a_token_model_reads_its_sentinels_and_symbols():
    model = Recorder()
    view = Vocabulary([("pairs", 65_792)]).view("pairs")
    pairs_scorer(model, context_bytes=8, stride_bytes=8).rolling(b"abcdef")
    symbols = [view.first_id + 256 * a + b for a, b in (b"ab", b"cd", b"ef")]
    assert model.rows == [[BOS, view.start_id, *symbols]]


def test_a_document_the_view_cannot_express_is_read_raw_as_in_training():
    model = Recorder()
    assert pairs_scorer(model).rolling(b"a\0").told_raw
    assert model.rows == [[BOS, RAW_START, 97, 0]]


def test_a_document_the_view_does_not_give_back_is_read_raw_as_in_training():
    class Swaps(Pairs):
        """Promises exactness and breaks it for documents with an x."""

        def encode(self, data):
            return super().encode(data.replace(b"x", b"y"))

    vocabulary = Vocabulary([("pairs", Pairs.alphabet_size)])
    reading = reading_of(vocabulary, "pairs", Swaps())
    assert [reading.ids(document)[2] for document in (b"ab", b"axb")] == [False, True]


def test_a_view_that_promises_nothing_has_no_bits_per_byte():
    class Lossy(Pairs):
        exact = False

    with pytest.raises(RequestError, match="does not promise to give documents back"):
        reading_of(Vocabulary([("pairs", Pairs.alphabet_size)]), "pairs", Lossy())


def test_loglikelihood_is_the_part_of_rolling_that_belongs_to_the_continuation():
    scorer = raw_scorer(Uniform(4))
    assert scorer.loglikelihood(b"abcdef", b"ghi") == pytest.approx(-3 * math.log(4))
    assert scorer.loglikelihood(b"", b"ghi") == pytest.approx(-3 * math.log(4))
    assert scorer.loglikelihood(b"abc", b"") == 0


def test_a_symbol_across_the_border_of_a_continuation_is_charged_whole():
    assert pairs_scorer(Uniform(4)).loglikelihood(b"abc", b"def") == pytest.approx(-2 * math.log(4))  # cd and ef


def test_a_view_without_spans_is_scored_whole_or_refused_with_the_limit():
    scorer = pairs_scorer(Uniform(4), Lump(), row_length=8)
    assert len(scorer.rolling(b"ab" * 7).nll_nats) == 7
    with pytest.raises(RequestError, match="a row holds 8"):
        scorer.rolling(b"ab" * 8)
    with pytest.raises(RequestError, match="no spans"):
        scorer.loglikelihood(b"ab", b"cd")


def test_a_context_longer_than_the_rows_of_training_is_refused():
    with pytest.raises(RequestError, match="--context-bytes 64"):
        raw_scorer(Uniform(4), context_bytes=65)


def test_a_broken_model_is_an_error_and_not_a_number():
    with pytest.raises(WorkError, match="not finite"):
        raw_scorer(Bigram(torch.full((320, 320), float("nan")))).rolling(b"abc")


@pytest.fixture(scope="module")
def decoder():
    vocabulary = Vocabulary([("pairs", 65_792)])
    settings = ModelSettings(preset=None, width=16, depth=2, num_heads=2, hidden=24, init_std=0.2)
    return Decoder(settings, vocabulary.size, row_length=64, num_views=1, seed=3).eval()


DOCUMENTS = [b"def f(x):\n    return x + 1\n" * 3, b"", b"x", b"import numpy as np\n", b"\xff\x01caf\xc3\xa9" * 9, b"a" * 64]


@pytest.mark.parametrize("make", [raw_scorer, pairs_scorer])
def test_numbers_do_not_depend_on_the_batch(decoder, make):
    one = [make(decoder, windows_per_batch=1).rolling(document) for document in DOCUMENTS]
    for size in (2, 7, 100):
        many = make(decoder, windows_per_batch=size).rolling_many(DOCUMENTS)
        for a, b in zip(one, many, strict=True):
            assert np.allclose(a.nll_nats, b.nll_nats, rtol=1e-6, atol=1e-6)
            assert a.nll_nats.sum() == pytest.approx(b.nll_nats.sum(), rel=1e-6)


def test_no_row_sees_another_row_of_its_batch(decoder):
    """A released evaluator let the head of a row attend to the tail of the row before it; here the neighbours change nothing."""
    document = b"for i in range(10):\n    print(i)\n"
    alone = raw_scorer(decoder, windows_per_batch=8).rolling(document).nll_nats
    for neighbour in (b"z" * 33, b"\0" * 200, document):
        beside = raw_scorer(decoder, windows_per_batch=8).rolling_many([neighbour, document])[1].nll_nats
        assert np.allclose(alone, beside, rtol=1e-5, atol=1e-6)


def test_no_scored_byte_sees_itself_or_what_follows(decoder):
    scorer = raw_scorer(decoder, context_bytes=16, stride_bytes=8)
    a = scorer.rolling(b"abcdefghijklmnopqrstuvwxyz").nll_nats
    b = scorer.rolling(b"abcdefghijklmnopqrstZZZZZZ").nll_nats
    assert np.allclose(a[:20], b[:20], rtol=1e-5, atol=1e-6)
    assert not np.allclose(a[20:], b[20:], rtol=1e-3)


def test_the_context_is_bounded_in_bytes(decoder):
    scorer = raw_scorer(decoder, context_bytes=8, stride_bytes=4)
    a = scorer.rolling(b"A" * 20 + b"the same tail of text").nll_nats
    b = scorer.rolling(b"B" * 20 + b"the same tail of text").nll_nats
    assert np.allclose(a[20 + 9 :], b[20 + 9 :], rtol=1e-5, atol=1e-6)
    assert not np.allclose(a[20:24], b[20:24], rtol=1e-3)
