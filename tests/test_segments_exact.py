"""The view `segments` is what its page says: a twin in Python integers agrees on every symbol, and every document comes back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import compressors
from compressors.errors import DecodeError, RequestError
from compressors.neural import entropy, segmentation
from compressors.neural.counts import CountModel
from compressors.neural.divide import children
from compressors.neural.models import TOTAL, ByteModel, save_model
from compressors.neural.segments import MAX_SEGMENT_BYTES, Segments
from compressors.neural.static import StaticModel

TRAINING = [
    *(b"class C%d(Base):\n    def m%d(self, x):\n        return self.x + %d\n\n" % (k, k, k) for k in range(60)),
    b"def f(x):\n    return {'a': x ** 2}\n\n\n" * 10,
]
DOCUMENTS = [
    b"",
    b"x",
    b"def f(x):\n    return self.x + 1\n\n",
    b"class C9(Base):\n    def m9(self, x):\n        return x ** 2\n" * 3,
    b" " * 1000,
    bytes(range(256)) * 2,
    b"\xff\xfe\x00" * 30,
    b"self.x" * 400,
]
VARIANTS = {
    "published": {},
    "8 bits": {"symbol_bits": 8},
    "window": {"reset": "window"},
    "window, 8 bits": {"reset": "window", "symbol_bits": 8},
    "borders only": {"reset": "window", "hard": "first"},
    "many borders": {"global_quantile": 0.3, "monotonic_quantile": 0.0, "chunk_bytes": 16},
    "no borders": {"global_quantile": 1.0, "monotonic_quantile": 1.0, "chunk_bytes": 1 << 20},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("counts")
    save_model(CountModel.train(TRAINING, max_nodes=1500), path)
    return path


@pytest.fixture(scope="module")
def views(folder: Path) -> dict[str, Segments]:
    return {name: Segments.train(TRAINING, model=str(folder), **options) for name, options in VARIANTS.items()}


# ---- the twin


def hard_places(view: Segments, document: bytes) -> list[bool]:
    """By the definition: over a threshold, or a rise inside a chunk that is over the other."""
    facts = view.spec()
    bits = entropy.log2_table().tolist()
    hard: list[bool] = []
    for start in range(0, len(document), facts["chunk_bytes"]):
        before = None
        (rows,) = view.model.rows([document[start : start + facts["chunk_bytes"]]])
        for row in rows.tolist():
            now = sum(f * bits[f] for f in row) // TOTAL
            hard.append(now > facts["above"] or (before is not None and now - before > facts["rise"]))
            before = now
    return hard


def windows_of(view: Segments, segment: bytes) -> list[int]:
    """Codes of one segment, each window cut by the rule as it is written in divide.py."""
    by_window = view.spec()["reset"] == "window"
    codes, start = [], 0
    while start < len(segment):
        low, cells, end = 0, 1 << 16, start
        while end < len(segment) and end - start < (63 if by_window else 255):
            since = segment[start if by_window else 0 : end]
            (row,) = view.model.after(np.frombuffer(since, np.uint8).reshape(1, -1))
            given = children(cells, row, end == start).tolist() if cells > 1 else [0] * 256
            if given[segment[end]] == 0:
                break
            low += (end > start) + sum(given[: segment[end]])
            cells = given[segment[end]]
            end += 1
        codes.append(low)
        start = end
    return codes


def twin(view: Segments, document: bytes) -> list[int]:
    """Symbols of a document."""
    facts = view.spec()
    literal = facts["hard"] == "literal"
    pieces: list[tuple[str, bytes]] = []
    for byte, hard in zip(document, hard_places(view, document), strict=True):
        one = bytes([byte])
        goes_on = bool(pieces) and pieces[-1][0] == "segment"
        is_full = goes_on and len(pieces[-1][1]) == 255
        if literal and (hard or is_full):
            pieces.append(("literal", one))
        elif goes_on and not hard and not is_full:
            pieces[-1] = ("segment", pieces[-1][1] + one)
        else:
            pieces.append(("segment", one))
    symbols: list[int] = []
    first = 256 if literal else 0
    for kind, piece in pieces:
        codes = [] if kind == "literal" else windows_of(view, piece)
        if kind == "literal":
            symbols.append(piece[0])
        elif facts["symbol_bits"] == 16:
            symbols += [first + code for code in codes]
        else:
            symbols += [first + part for code in codes for part in divmod(code, 256)]
    return symbols


TEXTS = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"self", b".x", b"    ", b"\n", b"return ", b"class C1(", b"def m", b"\xff", b"q"]), max_size=60).map(
        b"".join
    ),
)


@pytest.mark.parametrize("name", VARIANTS)
def test_symbols_are_those_of_the_twin(views, name):
    view = views[name]
    for document in [*(document[:700] for document in DOCUMENTS), TRAINING[0]]:
        assert view.encode(document).tolist() == twin(view, document), document


@pytest.mark.parametrize("name", ["published", "window", "borders only", "many borders"])
@settings(max_examples=15, deadline=None)
@given(document=TEXTS)
def test_symbols_of_any_text_are_those_of_the_twin(views, name, document):
    assert views[name].encode(document).tolist() == twin(views[name], document)


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=60, deadline=None)
@given(documents=st.lists(TEXTS, max_size=4))
def test_every_document_comes_back_alone_and_in_a_batch(views, name, documents):
    view = views[name]
    together = view.encode_batch(documents)
    assert [symbols.tolist() for symbols in together] == [view.encode(document).tolist() for document in documents]
    assert view.decode_batch(together) == documents
    for document, symbols in zip(documents, together, strict=True):
        assert symbols.dtype == np.uint32
        assert symbols.max(initial=0) < view.alphabet_size
        assert view.decode(symbols, max_bytes=len(document)) == document
        spans = view.spans(document)
        assert spans.tolist() == sorted(spans.tolist())
        assert (len(spans), spans[0], spans[-1]) == (len(symbols) + 1, 0, len(document))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_edge_comes_back(views, name):
    assert views[name].decode_batch(views[name].encode_batch(DOCUMENTS)) == DOCUMENTS


# ---- by eye


def test_entropies_by_eye():
    uniform, sure = np.full(256, 256, np.uint16), np.ones(256, np.uint16)
    sure[97] = TOTAL - 255
    half = np.ones(256, np.uint16)
    half[:2] = (TOTAL - 254) // 2
    bits = [8.0, *(sum(f / TOTAL * math.log2(TOTAL / f) for f in row.tolist()) for row in (sure, half))]
    told = entropy.row_entropies(np.stack([uniform, sure, half]))
    assert told[0] == 8 * 65536
    assert np.allclose(told / 65536, bits, atol=2e-5)
    assert entropy.entropies_of(StaticModel(uniform.tolist()), [b"ab", b"", b"c"], chunk_bytes=2)[0].tolist() == [8 * 65536] * 2


def test_the_logarithms_are_right_to_the_last_unit():
    table = entropy.log2_table()
    exact = [65536 * (16 - math.log2(f)) for f in range(1, 65537)]
    assert [table[1], table[2], table[32768], table[65536]] == [16 * 65536, 15 * 65536, 65536, 0]
    assert np.abs(table[1:] - np.array(exact)).max() <= 1
    assert (np.diff(table[1:].astype(int)) <= 0).all()


def test_thresholds_by_eye():
    entropies = [np.array([5, 1, 9, 2], np.uint32), np.array([7, 7, 8], np.uint32)]
    # Rises inside chunks of two bytes: 1 - 5, 2 - 9 and 7 - 7.
    found = entropy.learn_thresholds(entropies, chunk_bytes=2, global_quantile=0.5, monotonic_quantile=0.9)
    assert found == entropy.Thresholds(above=7, rise=0)
    assert entropy.is_hard(entropies[0], found, chunk_bytes=2).tolist() == [False, False, True, False]
    assert entropy.is_hard(entropies[0], entropy.Thresholds(above=9, rise=0), chunk_bytes=4).tolist() == [False, False, True, False]
    assert entropy.learn_thresholds([], chunk_bytes=2, global_quantile=0.5, monotonic_quantile=1) == entropy.Thresholds(above=0, rise=0)


def test_pieces_by_eye():
    hard = np.array([1, 1, 0, 0, 0, 0, 0, 1, 0, 0], bool)
    offsets = np.array([0, 9, 9, 10])
    # Bytes:        h h s s s l s h s | s            with segments of at most three bytes
    pieces = segmentation.cut(hard, offsets, keep_literal=True, max_bytes=3)
    assert pieces.borders.tolist() == [0, 1, 2, 5, 6, 7, 8, 9, 10]
    assert pieces.is_literal.tolist() == [True, True, False, True, False, True, False, False]
    assert pieces.documents.tolist() == [0, 7, 7, 8]
    pieces = segmentation.cut(hard, offsets, keep_literal=False, max_bytes=3)
    assert pieces.borders.tolist() == [0, 1, 4, 7, 9, 10]
    assert not pieces.is_literal.any()


def test_what_is_easy_is_dense_and_what_is_hard_is_literal(views):
    text = TRAINING[7] * 3
    symbols = views["published"].encode(text)
    spans = views["published"].spans(text)
    hard = hard_places(views["published"], text)
    literals = [i for i, symbol in enumerate(symbols.tolist()) if symbol < 256]
    assert [int(spans[i]) for i in literals] == [place for place, is_hard in enumerate(hard) if is_hard]
    assert len(text) / len(symbols) > 2


def test_a_long_segment_is_cut_by_a_literal(views):
    symbols = views["no borders"].encode(b" " * 256)
    assert symbols[-1] == ord(" ")
    assert (symbols[:-1] >= 256).all()


# ---- symbols and artifacts from outside


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), size=st.integers(0, 40))
def test_decoding_random_symbols_is_total_and_bounded(views, name, seed, size):
    view = views[name]
    symbols = np.random.default_rng(seed).integers(0, view.alphabet_size, size, dtype=np.uint32)
    (batch,) = view.decode_batch([symbols], max_bytes=100)
    try:
        alone = view.decode(symbols, max_bytes=100)
    except DecodeError:
        alone = None
    assert alone == batch
    assert alone is None or len(alone) <= 100


def test_every_code_decodes(views):
    for name in ("published", "window"):
        told = [np.array([256 + code, 10], np.uint32) for code in range(0, 1 << 16, 7)]
        assert all(text is not None and 2 <= len(text) <= 256 and text.endswith(b"\n") for text in views[name].decode_batch(told))


def test_symbols_that_encode_cannot_have_made_are_refused(views):
    with pytest.raises(DecodeError, match="two symbols in a row; here is one alone"):
        views["8 bits"].decode(np.array([256, 10, 300], np.uint32))
    with pytest.raises(DecodeError, match="two symbols in a row"):
        views["8 bits"].decode(np.array([256, 257, 256], np.uint32))
    spaces = views["no borders"].encode(b" " * 255)
    assert views["no borders"].decode(spaces) == b" " * MAX_SEGMENT_BYTES
    with pytest.raises(DecodeError, match="segments of at most 255 bytes"):
        views["no borders"].decode(np.concatenate([spaces, spaces]))
    with pytest.raises(DecodeError, match="symbols 0 to 65791; got 65792"):
        views["published"].decode(np.array([65792], np.uint32))
    with pytest.raises(DecodeError, match="more than 3 bytes"):
        views["published"].decode(np.array([1, 2, 3, 4], np.uint32), max_bytes=3)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_artifact_gives_the_same_symbols(views, name, tmp_path):
    compressors.save(views[name], tmp_path / "view")
    again = compressors.load(tmp_path / "view")
    for document in DOCUMENTS:
        assert again.encode(document).tolist() == views[name].encode(document).tolist()
    assert {path.name for path in (tmp_path / "view").iterdir()} == {"artifact.json", *views[name].files()}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("published", {"version": 2}, "version 2, not segments version 1"),
        ("published", {"model": None}, "train it anew"),
        ("published", {"above": -1}, "above=-1 of view 'segments' must be a whole number from 0 to 524288"),
        ("published", {"rise": 0.5}, "rise=0.5"),
        ("published", {"chunk_bytes": 0}, "chunk_bytes=0"),
        ("published", {"hard": "first"}, "cannot tell where a segment begins"),
        ("published", {"reset": "window"}, "holds a table with reset=window"),
        ("published", {"table_sha256": "0" * 64}, "has not the segments.dictionary"),
        ("published", {"extra": 1}, "more than this version knows"),
        ("window", {"reset": "segment"}, "holds a table with reset=window and at no other time"),
        ("window", {"table_sha256": "0" * 64}, "has not the segments.dictionary"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(views, name, change, said):
    with pytest.raises(RequestError, match=said):
        Segments.from_artifact(views[name].spec() | change, views[name].files())


def test_files_that_do_not_fit_are_refused(views):
    spec, files = views["window"].spec(), views["window"].files()
    for name in files:
        with pytest.raises(RequestError):
            Segments.from_artifact(spec, {key: data for key, data in files.items() if key != name})
        with pytest.raises(RequestError):
            Segments.from_artifact(spec, files | {name: files[name][:-1]})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hard": "soft"}, "hard='soft' of view 'segments' must be literal or first"),
        ({"reset": "never"}, "reset='never' of view 'segments' must be segment or window"),
        ({"symbol_bits": 12}, "symbol_bits=12 of view 'segments' must be 16 or 8"),
        ({"hard": "first"}, "add reset=window, or choose hard=literal"),
        ({"global_quantile": 1.5}, "must be 0 to 1"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_a_wrong_option_is_one_sentence(options, said):
    with pytest.raises(RequestError, match=said):
        Segments.train(iter(()), **options)


class Wavering(ByteModel):
    """Uniform, but it does not promise to stay so."""

    kind = "wavering"
    integer = False

    def after(self, prefixes):
        return np.full((len(prefixes), 256), 256, np.uint16)

    def rows(self, stretches):
        return [np.full((len(stretch), 256), 256, np.uint16) for stretch in stretches]

    def spec(self):
        return {"kind": self.kind}

    def files(self):
        return {}

    @classmethod
    def from_files(cls, spec, files):
        return cls()


def test_a_model_that_may_answer_otherwise_elsewhere_is_not_asked_by_decoders(views):
    facts = {name: views["published"].spec()[name] for name in ("hard", "reset", "symbol_bits", "chunk_bytes", "above", "rise")}
    with pytest.raises(RequestError, match="a model of kind 'wavering' may answer otherwise on another machine; choose reset=window"):
        Segments(model=Wavering(), facts=facts, table=None)
    table = views["window"].table
    view = Segments(model=Wavering(), facts=facts | {"reset": "window"}, table=table)
    assert view.decode_batch(view.encode_batch(DOCUMENTS)) == DOCUMENTS
