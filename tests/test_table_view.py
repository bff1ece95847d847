"""The views `table` and `table-paper`: every document comes back where that is promised, and what is not one of theirs is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import compressors
from compressors.errors import DecodeError, RequestError
from compressors.files import sha256_bytes
from compressors.neural.counts import CountModel
from compressors.neural.dictionary import Dictionary
from compressors.neural.models import save_model
from compressors.neural.prune import most_used, sizes
from compressors.neural.table import FILE, Table, TablePaper

CODE = [
    b"def f%d(x, y):\n    return x + y * %d\n\n\nclass Counter%d(dict):\n    def get(self):\n        pass\n" % (k, k, k) for k in range(200)
]
TEXT = CODE[7] + b"\0\xff\xfe" + CODE[150][:31]
VIEWS = {
    "cells": {},
    "top": {"rule": "top", "bits": 12},
    "delay": {"rule": "delay"},
    "canonical": {"rule": "canonical"},
    "bits-9": {"bits": 9},
    "8-bit": {"symbol_bits": 8},
    "fewest": {"parse": "fewest", "bits": 11},
    "used": {"bits": 14, "alphabet_size": 1000, "keep": "used", "parse": "fewest"},
    "8-bit-used": {"bits": 18, "rule": "top", "alphabet_size": 5000, "keep": "used", "symbol_bits": 8},
    "17-canonical": {"rule": "canonical", "bits": 17, "alphabet_size": 3000, "symbol_bits": 8},
}


@cache
def view(name):
    return compressors.train("table", CODE, **VIEWS[name])


@cache
def paper():
    return compressors.train("table-paper", CODE)


def documents():
    words = st.sampled_from([b"def ", b"return x", b"    ", b"\n", b"class Counter1", b"=" * 70, b"\0", b"\xff"])
    return st.lists(st.one_of(words, st.binary(max_size=5)), max_size=10).map(b"".join)


@pytest.mark.parametrize("name", VIEWS)
@given(document=documents())
@settings(deadline=None, max_examples=60)
def test_every_document_comes_back(name, document):
    symbols = view(name).encode(document)
    assert view(name).decode(symbols) == document
    assert symbols.dtype == np.uint32
    assert symbols.max(initial=0) < view(name).alphabet_size


@pytest.mark.parametrize("name", VIEWS)
def test_all_one_byte_documents_come_back_and_spans_cover(name):
    for document in (b"", *(bytes([byte]) for byte in range(256)), TEXT):
        symbols, borders = view(name).encode(document), view(name).spans(document)
        assert view(name).decode(symbols) == document
        assert len(borders) == len(symbols) + 1
        assert (borders[0], borders[-1]) == (0, len(document))
        assert (np.diff(borders) >= 0).all()


@pytest.mark.parametrize("name", VIEWS)
def test_batches_are_one_document_each(name):
    several = [b"", TEXT, b"x", *CODE[:5]]
    encoded = view(name).encode_batch(several)
    assert [one.tolist() for one in encoded] == [view(name).encode(document).tolist() for document in several]
    assert view(name).decode_batch(encoded) == several
    assert view(name).decode_batch([]) == []
    outside = np.array([0, view(name).alphabet_size], np.uint32)
    assert view(name).decode_batch([encoded[1], outside, encoded[2]]) == [TEXT, None, b"x"]
    assert view(name).decode_batch([encoded[1], encoded[2]], max_bytes=5) == [None, b"x"]


@pytest.mark.parametrize("name", VIEWS)
def test_any_symbols_decode_to_something_bounded(name):
    longest = int(view(name).dictionary.lengths.max())
    draws = np.random.default_rng(0)
    for size in (2, 1000):
        symbols = draws.integers(0, view(name).alphabet_size, size).astype(np.uint32)
        if name in ("8-bit-used", "17-canonical"):  # pairs of bytes that are no code
            symbols = view(name).encode(TEXT * 10)[:size]
        assert len(view(name).decode(symbols)) <= longest * size
    with pytest.raises(DecodeError, match="more than 3 bytes"):
        view(name).decode(view(name).encode(TEXT), max_bytes=3)
    every = np.arange(view(name).dictionary.num_codes, dtype=np.uint32)
    assert len(view(name).dictionary.decode(every)) == view(name).dictionary.lengths.sum() >= len(every)


def test_eight_bit_symbols_are_the_halves_of_a_code():
    (codes,) = view("8-bit").codes([TEXT])
    symbols = view("8-bit").encode(TEXT).tolist()
    assert symbols == [half for code in codes.tolist() for half in (code // 256, code % 256)]
    assert codes.tolist() == view("cells").encode(TEXT).tolist()
    borders = view("cells").spans(TEXT).tolist()
    # the first half tells no byte yet
    assert view("8-bit").spans(TEXT).tolist() == [border for border in borders for _ in range(2)][:-1]
    with pytest.raises(DecodeError, match="odd"):
        view("8-bit").decode(np.array(symbols[:-1], np.uint32))
    with pytest.raises(DecodeError):
        view("8-bit-used").decode(np.array([255, 255], np.uint32))


def test_fewest_is_never_more_than_greedy():
    greedy = compressors.train("table", CODE, bits=11)
    assert greedy.files() == view("fewest").files()
    assert len(view("fewest").encode(TEXT)) <= len(greedy.encode(TEXT))


def test_the_paper_does_not_come_back_and_says_how_often():
    spec = paper().spec()
    assert not TablePaper.exact
    windows = wrong = 0
    for document in CODE:
        borders, codes = paper().spans(document), paper().encode(document)
        assert borders[-1] == len(document)
        for start, end, code in zip(borders, borders[1:], codes, strict=False):
            windows += 1
            told = paper().decode(np.array([code], np.uint32))
            assert told.startswith(document[start:end])
            wrong += told != document[start:end]
    assert (spec["training_windows"], spec["training_collisions"]) == (windows, wrong)
    assert 0 < wrong < windows


def test_a_model_folder_gives_the_table_of_its_counts(tmp_path):
    save_model(CountModel.train(CODE), tmp_path / "model")
    again = compressors.train("table", [], model=str(tmp_path / "model"))
    assert again.spec() == view("cells").spec()
    with pytest.raises(RequestError, match="there is no byte model in"):
        compressors.train("table", CODE, model=str(tmp_path / "nothing"))


def test_most_used_is_what_a_slow_parse_uses_most():
    strings = [bytes([byte]) for byte in range(256)] + [b"ab", b"abc", b"bc", b"bcd", b"cd", b"zz"]
    found = most_used(Dictionary.from_strings(strings), [b"abcd" * 3 + b"cd" * 2 + b"ab", b""], num_codes=258, parse="greedy")
    # greedy: abc d abc d abc d cd cd ab: abc 3 times, cd twice, ab once
    assert found.strings() == [*strings[:256], b"abc", b"cd"]
    assert most_used(found, [], num_codes=300, parse="greedy").strings() == found.strings()
    assert sizes(1000, 256, "greedy") == [600, 360, 256]
    assert sizes(1000, 256, "fewest") == [350, 256]


def test_equal_documents_train_equal_views_and_others_do_not():
    assert compressors.train("table", iter(CODE)).spec() == view("cells").spec()
    assert compressors.train("table", CODE[:100]).spec() != view("cells").spec()
    few = compressors.train("table", CODE, max_training_bytes=1)  # the first document, whole
    assert few.spec() == compressors.train("table", CODE[:1]).spec()


def test_no_text_is_said():
    with pytest.raises(RequestError, match="no text"):
        compressors.train("table", [])
    with pytest.raises(RequestError, match="keep=used needs documents"):
        compressors.train("table", [b""], alphabet_size=300, keep="used")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "paper"}, "must be cells or top"),
        ({"parse": "shortest"}, "must be greedy or fewest"),
        ({"keep": "all"}, "must be probable or used"),
        ({"keep": "used"}, "give alphabet_size"),
        ({"symbol_bits": 12}, "must be 8 or 16"),
        ({"symbol_bits": 8, "bits": 12}, "choose bits=16"),
        ({"symbol_bits": 8, "bits": 20}, "alphabet_size=65536"),
        ({"symbol_bits": 8, "rule": "canonical"}, "alphabet_size=65536"),
        ({"rule": "delay", "parse": "fewest"}, "parse=greedy"),
        ({"rule": "delay", "keep": "used", "alphabet_size": 300}, "keep=probable"),
        ({"rule": "canonical", "bits": 12}, "16 bits or more"),
        ({"bits": 21}, "9 to 20"),
        ({"bit": 16}, "did you mean 'bits'"),
    ],
)
def test_options_that_do_not_fit_are_said_before_anything_is_read(options, words):
    def documents():
        raise AssertionError("read a document")
        yield b""

    with pytest.raises(RequestError, match=words):
        compressors.train("table", documents(), **options)


# ---- artifacts


@pytest.mark.parametrize("name", VIEWS)
def test_an_artifact_comes_back_saved_and_pickled(name, tmp_path):
    compressors.save(view(name), tmp_path)
    for again in (compressors.load(tmp_path), pickle.loads(pickle.dumps(view(name)))):
        assert again.spec() == view(name).spec()
        assert again.encode(TEXT).tolist() == view(name).encode(TEXT).tolist()


def test_an_artifact_of_65536_strings_is_half_a_megabyte():
    assert len(view("cells").files()[FILE]) < 500_000


def changed(spec, **changes):
    return {key: value for key, value in {**spec, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, "version 2"),
        ({"name": "table-paper"}, "'table-paper'"),
        ({"rule": "paper"}, "rule 'paper'"),
        ({"rule": None}, "rule None"),
        ({"bits": 16.0}, "bits 16.0"),
        ({"bits": 64}, "bits 64"),
        ({"symbol_bits": 4}, "symbol_bits 4"),
        ({"symbol_bits": [8]}, r"symbol_bits \[8\]"),
        ({"parse": "lazy"}, "parse 'lazy'"),
        ({"alphabet_size": 300}, "sizes"),
        ({"num_codes": 300}, "sizes"),
        ({"symbol_bits": 8}, "sizes"),
        ({"dictionary_sha256": "0" * 64}, "digest"),
        ({"dictionary_sha256": None}, "digest"),
    ],
)
def test_a_changed_spec_is_refused(changes, words):
    with pytest.raises(RequestError, match=words):
        Table.from_artifact(changed(view("cells").spec(), **changes), view("cells").files())


def test_a_dictionary_of_another_view_is_refused():
    def spec_for(spec, data):
        return changed(spec, dictionary_sha256=sha256_bytes(data))

    inexact = paper().files()[FILE]
    with pytest.raises(RequestError, match="decodes to other strings"):
        Table.from_artifact(spec_for(view("cells").spec(), inexact), {FILE: inexact})
    exact = view("cells").files()[FILE]
    with pytest.raises(RequestError, match="the view is 'table'"):
        TablePaper.from_artifact(spec_for(paper().spec(), exact), {FILE: exact})
    delay = view("delay").files()[FILE]
    with pytest.raises(RequestError, match="only 'greedy' parses"):
        Table.from_artifact(spec_for(view("fewest").spec(), delay), {FILE: delay})
    many = compressors.train("table", CODE, bits=17).files()[FILE]
    with pytest.raises(RequestError, match="at most 65536 codes"):
        Table.from_artifact(spec_for(view("8-bit").spec(), many), {FILE: many})


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_damaged_dictionary_is_refused_even_with_its_own_digest(cut):
    data = view("bits-9").files()[FILE]
    for damaged in (data[:cut], data + b"\0", data[:200] + bytes([data[200] ^ 1]) + data[201:]):
        spec = changed(view("bits-9").spec(), dictionary_sha256=sha256_bytes(damaged))
        with pytest.raises(RequestError):
            Table.from_artifact(spec, {FILE: damaged})
    for files in ({}, {FILE: data, "more": b""}, {"other": data}):
        with pytest.raises(RequestError, match="alone"):
            Table.from_artifact(view("bits-9").spec(), files)


def test_listing_views_does_not_load_numba_or_torch():
    program = "import sys, compressors.neural.table; print(sorted({'numba', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
