"""The view `phrases` is exact for every byte string, small edits stay small, and an artifact that is not whole is refused."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import compressors
from compressors.errors import DecodeError, RequestError
from compressors.neural.dictionary import Dictionary
from compressors.neural.phrases import FILE, Phrases

CODE = [
    b'def get_%d(self, name, default=None):\n    """Value %d."""\n    return self.values.get(name, default)\n\n\n' % (k, k)
    for k in range(90)
]
PIECES = [b"def ", b"self", b"\n    ", b"return", b"get", b"\xff", b"\0", b"  ", b"values.", "é".encode(), b"name, default"]
TEXTS = st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join))


@pytest.fixture(scope="module", params=["fewest", "greedy"])
def view(request):
    return Phrases.train(CODE, alphabet_size=400, parse=request.param)


@given(document=TEXTS)
@settings(max_examples=400, deadline=None)
def test_every_document_comes_back(view, document):
    symbols = view.encode(document)
    assert symbols.dtype == np.uint32
    assert view.decode(symbols) == document
    assert symbols.max(initial=0) < view.alphabet_size
    borders = view.spans(document)
    assert borders[0] == 0
    assert borders[-1] == len(document)
    assert len(borders) == len(symbols) + 1
    told = [document[start:end] for start, end in itertools.pairwise(borders)]
    assert told == [view.dictionary.strings()[symbol] for symbol in symbols]


def test_empty_and_one_byte_documents(view):
    assert view.encode(b"").tolist() == []
    assert view.decode(np.zeros(0, np.uint32)) == b""
    for value in range(256):
        assert view.encode(bytes([value])).tolist() == [value]


@given(documents=st.lists(TEXTS, max_size=5))
@settings(max_examples=50, deadline=None)
def test_a_batch_equals_one_by_one(view, documents):
    encoded = view.encode_batch(documents)
    assert [one.tolist() for one in encoded] == [view.encode(document).tolist() for document in documents]
    assert view.decode_batch(encoded) == documents


@given(symbols=st.lists(st.integers(0, 399), max_size=50))
@settings(max_examples=100, deadline=None)
def test_any_symbols_decode(view, symbols):
    strings = view.dictionary.strings()
    assert view.decode(np.array(symbols, dtype=np.uint32)) == b"".join(strings[symbol] for symbol in symbols)


def test_symbols_outside_the_alphabet_and_documents_over_the_cap_are_refused(view):
    with pytest.raises(DecodeError, match="symbols 0 to 399; got 400"):
        view.decode(np.array([5, 400]))
    longest = int(view.dictionary.lengths.argmax())
    with pytest.raises(DecodeError, match="more than 7 bytes, the cap"):
        view.decode(np.array([longest] * 9), max_bytes=7)
    assert view.decode_batch([np.array([65]), np.array([400]), np.array([longest] * 9)], max_bytes=7) == [b"A", None, None]


def test_phrases_are_dense_where_the_text_is_like_what_was_learned(view):
    document = CODE[0].replace(b"get", b"find")
    assert len(view.encode(CODE[0])) * 6 < len(CODE[0])
    assert len(view.encode(document)) * 4 < len(document)


def test_fewest_is_never_more_than_greedy():
    dictionary = Phrases.train(CODE, alphabet_size=400).dictionary
    fewest, greedy = Phrases(dictionary=dictionary, parse="fewest"), Phrases(dictionary=dictionary, parse="greedy")
    for document in [*CODE[:9], bytes(range(256)), b"self.values.default.name\n" * 9]:
        assert len(fewest.encode(document)) <= len(greedy.encode(document))


def test_after_an_edit_the_borders_meet_again(view):
    """Median over the places of one byte less, in bytes from the place on."""
    document = b"".join(CODE[:20])
    whole = set(view.spans(document).tolist())
    met = []
    for place in range(500, 1500, 7):
        borders = view.spans(document[:place] + document[place + 1 :])
        met.append(min(int(border) for border in borders if border >= place and border + 1 in whole) - place)
    assert np.median(met) <= 40
    assert max(met) < 400


def test_training_is_repeatable_and_stops_at_its_limit():
    def learned(documents, limit):
        return compressors.fingerprint(Phrases.train(documents, alphabet_size=300, max_training_bytes=limit))

    limit = sum(map(len, CODE[:20])) + 9
    assert learned(CODE, limit) == learned(iter(CODE), limit) == learned([*CODE[:20], CODE[20][:9]], 1 << 20)
    assert learned(CODE, limit) != learned(CODE, 1 << 20)


def test_saved_and_loaded_is_equal(view, tmp_path):
    compressors.save(view, tmp_path)
    again = compressors.load(tmp_path)
    assert again.encode(CODE[3]).tolist() == view.encode(CODE[3]).tolist()
    assert again.spec() == view.spec()
    assert pickle.loads(pickle.dumps(view)).spec() == view.spec()


def test_what_is_no_whole_artifact_is_refused(view):
    spec, files = view.spec(), view.files()
    bytes_only = Dictionary.from_strings([bytes([255 - value]) for value in range(256)])
    for changed, given_files, told in [
        ({**spec, "version": 9}, files, "not phrases version 1"),
        ({**spec, "name": "table"}, files, "not phrases version 1"),
        (spec, {}, "holds phrases.dictionary alone"),
        (spec, {FILE: files[FILE][:-40]}, "holds phrases.dictionary alone"),
        ({**spec, "parse": "widest"}, files, "must be one of: fewest, greedy"),
        ({**spec, "alphabet_size": 500}, files, "does not tell the sizes"),
        ({**spec, "extra": 1}, files, "does not tell the sizes"),
    ]:
        with pytest.raises(RequestError, match=told):
            Phrases.from_artifact(changed, given_files)
    shared = view.dictionary.codes.copy()
    shared[257] = shared[view.dictionary.parents[257]]
    one = view.dictionary
    gives_back = Dictionary(labels=one.labels, parents=one.parents, codes=shared, decode_nodes=one.decode_nodes)
    for dictionary in (bytes_only, gives_back):
        with pytest.raises(RequestError, match="has the 256 bytes first"):
            Phrases(dictionary=dictionary, parse="fewest")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"parse": "best"}, "parse='best' of view 'phrases' must be one of: fewest, greedy"),
        ({"borders": "tokens"}, "must be one of: none, lines, words"),
        ({"alphabet_size": 256}, "must be 257 to 262144"),
        ({"alphabetsize": 300}, "did you mean 'alphabet_size'"),
    ],
)
def test_bad_options_are_one_sentence(options, told):
    with pytest.raises(RequestError, match=told):
        Phrases.train(CODE, **options)


def test_learning_shows_how_far_it_is(tmp_path, capsys, monkeypatch):
    from proxy_lm import view_training
    from proxy_lm.data.corpus import build_small

    monkeypatch.setattr(view_training, "PLAIN_INTERVAL_SECONDS", 0.0)
    corpus = build_small(tmp_path / "corpus", {"train": CODE, "valid": CODE[:2]})
    artifact = view_training.train_view("phrases", corpus, tmp_path / "view", options={"alphabet_size": 400})
    assert artifact["alphabet_size"] == 400
    assert "train phrases: learning, 80 % done" in capsys.readouterr().err
