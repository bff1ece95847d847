"""`stream` as a view: every document comes back, artifacts are checked, hostile symbols are bounded, and no unsure model is trusted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import compressors
from compressors.errors import DecodeError, NotRepresentableError, RequestError
from compressors.neural import lockstep, range_coder, stream, windows
from compressors.neural.counts import CountModel
from compressors.neural.models import ByteModel, save_model

CODE = [
    b"def f%d(x, y):\n    return {'a': x + %d, \"b\": [y] * 2}\n\n\nclass C%d(Base):\n\tpass  # na\xc3\xafve\n" % (k, k, k)
    for k in range(40)
]
EDGES = [b"", b"\0", b"x", b"a\0", b"\0" * 300, bytes(range(256)), b" " * 5000, b"".join(CODE), "▁ 北京\r\n".encode()]
SETTINGS = [
    {"coder": "arithmetic", "symbol_bits": 8},
    {"coder": "arithmetic", "symbol_bits": 16},
    {"coder": "arithmetic", "model": "static"},
    *({"bits": bits, "symbol_bits": symbol_bits} for bits in stream.WINDOW_BITS for symbol_bits in (8, 16)),
    {"bits": 16, "reset": "always"},
    {"bits": 24, "reset": 3},
    {"bits": 16, "exclude": False},
    {"bits": 128, "reset": 2, "exclude": False},
    {"bits": 64, "reset": "2", "verify": True, "depth": 7},
    {"bits": 32, "model": "static"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(CountModel.train(CODE, max_nodes=2000, depth=20), folder)
    return str(folder)


@pytest.fixture(scope="module")
def views(folder):
    return [compressors.train("stream", CODE, **{"model": folder, **options}) for options in SETTINGS]


class Unsure(ByteModel):
    """A count model that says of itself that it is not in whole numbers, and from some length of prefix on is not."""

    kind = "unsure"
    integer = False

    def __init__(self, inner: ByteModel, trouble: int) -> None:
        self.inner, self.trouble = inner, trouble

    def after(self, prefixes):
        rows = self.inner.after(prefixes)
        return rows if prefixes.shape[1] < self.trouble else rows[:, ::-1]

    def rows(self, stretches):
        return self.inner.rows(stretches)

    def spec(self):
        return self.inner.spec()

    def files(self):
        return self.inner.files()

    @classmethod
    def from_files(cls, spec, files):
        raise AssertionError("not saved")


@pytest.fixture(scope="module")
def model(views):
    return views[0].model


def test_every_edge_comes_back(views):
    for view in views:
        encoded = view.encode_batch(EDGES)
        assert view.decode_batch(encoded) == EDGES
        for document, symbols in zip(EDGES, encoded, strict=True):
            assert symbols.dtype == np.uint32
            assert symbols.max(initial=0) < view.alphabet_size
            assert view.decode(symbols, max_bytes=len(document)) == document
            assert view.encode(document).tolist() == symbols.tolist()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=st.binary(max_size=60) | st.lists(st.sampled_from(CODE), max_size=3).map(b"".join), which=st.integers(0, len(SETTINGS) - 1))
def test_every_document_comes_back(views, document, which):
    view = views[which]
    symbols = view.encode(document)
    assert view.decode(symbols, max_bytes=len(document)) == document
    borders = view.spans(document)
    if view.coder == "arithmetic":
        assert borders is None
        return
    assert len(borders) == len(symbols) + 1
    assert (borders[0], borders[-1]) == (0, len(document))
    assert (np.diff(borders) >= 0).all()


def test_a_long_document_comes_back_and_costs_little(views):
    document = b"".join(CODE) * 20
    for view in (views[0], views[3]):
        symbols = view.encode(document)
        assert len(symbols) < len(document) / 4
        assert view.decode(symbols) == document


def test_the_two_ways_to_decode_agree(model):
    """The loop that knows the count model, and lockstep with nothing but `after`."""
    plain = Unsure(model, trouble=1 << 30)
    documents = [*CODE[:2], b"", b"\0\0", bytes(range(0, 256, 5))]
    for bits, reset, exclude in itertools.product((16, 32, 128), (0, 1, 2), (False, True)):
        layout = {"bits": bits, "depth": 50, "reset": reset, "exclude": exclude}
        codes = [one.codes for one in windows.encode_windows(model, documents, **layout)]
        assert lockstep.decode_windows(plain, codes, **layout, max_bytes=1000) == documents
        assert lockstep.decode_windows(model, codes, **layout, max_bytes=1000) == documents
        for cap in (0, 1, 30, 51, 52):
            expected = [document if len(document) <= cap else None for document in documents]
            assert lockstep.decode_windows(plain, codes, **layout, max_bytes=cap) == expected
            assert lockstep.decode_windows(model, codes, **layout, max_bytes=cap) == expected
    codes = stream.encode_ranges(model, [*CODE[:2], b"\0"])
    assert lockstep.decode_ranges(plain, codes, max_bytes=1000) == [*CODE[:2], b"\0"]
    assert lockstep.decode_ranges(model, codes, max_bytes=1000) == [*CODE[:2], b"\0"]


def test_arithmetic_code_is_within_its_stated_overhead(model):
    """5 bits and the digits of the length, one bit for the end, up to 7 to fill the last byte."""
    for document in [b"x", *CODE, b"".join(CODE)]:
        rows, data = model.rows([document])[0], np.frombuffer(document, np.uint8)
        ideal = float(windows.window_bits(rows, data, np.array([len(data)])).sum())
        [code] = stream.encode_ranges(model, [document])
        assert ideal <= 8 * len(code) <= ideal + 5 + len(document).bit_length() + 1 + 7


def test_windows_are_worth_their_bits(views, model):
    """In total, windows of 16 to 128 bits are within 2 bits of what the model holds them to be worth. They may even win: where it is very
    sure, the cells too few for bytes it holds unlikely go to the likely one."""
    document = b"".join(CODE)
    rows, data = model.rows([document])[0], np.frombuffer(document, np.uint8)
    for bits, exclude in itertools.product(stream.WINDOW_BITS, (False, True)):
        found = windows.cut(rows, data, bits=bits, exclude=exclude)
        lost = bits - windows.window_bits(rows, data, found.ends)
        assert abs(lost[:-1].mean()) < 2
        assert np.median(lost) < 2


def test_unsure_models_are_decoded_before_they_are_believed(model):
    layout = {"coder": "windows", "bits": 16, "reset": 0, "symbol_bits": 16, "depth": 4095}
    with pytest.raises(RequestError, match="verify=true"):
        stream.Stream(model=Unsure(model, 1000), verify=False, **layout)
    for changed in ({}, {"coder": "arithmetic"}):
        view = stream.Stream(model=Unsure(model, 60), verify=True, **(layout | changed))
        short, long = b"def f1(x, y):", b"".join(CODE[:3])
        assert view.encode_batch([b"", short, long, short])[2] is None
        assert view.decode(view.encode(short)) == short
        with pytest.raises(NotRepresentableError, match="does not come back"):
            view.encode(long)


def test_documents_too_long_for_a_model_without_bounds_are_refused(model, monkeypatch):
    monkeypatch.setattr(windows, "MAX_UNBOUNDED_BYTES", 100)
    view = stream.Stream(model=Unsure(model, 60), verify=True, coder="windows", bits=16, reset=0, symbol_bits=16, depth=4095)
    with pytest.raises(NotRepresentableError, match="documents of up to 100 bytes; this one has 101"):
        view.encode(bytes(101))
    assert view.encode_batch([bytes(101), b"a"])[0] is None


@pytest.mark.parametrize("which", [0, 3, 4, 8, -2, -1])
def test_an_artifact_is_the_view_again(views, which, tmp_path):
    view = views[which]
    compressors.save(view, tmp_path / "view")
    again = compressors.load(tmp_path / "view")
    assert again.spec() == view.spec()
    assert again.encode(CODE[0]).tolist() == view.encode(CODE[0]).tolist()


def test_exclusion_saves_windows_and_the_spec_says_where_it_does(folder):
    def view(**options):
        return compressors.train("stream", [], model=folder, **options)

    kept, all_bytes = view(), view(exclude=False)
    assert kept.spec() == {**all_bytes.spec(), "exclude": True}
    document = b"".join(CODE)[::-1]
    assert len(kept.encode(document)) < 0.97 * len(all_bytes.encode(document))
    for options in ({"reset": "always"}, {"coder": "arithmetic"}):
        assert view(**options).spec() == view(**options, exclude=False).spec()
        assert "exclude" not in view(**options).spec()
    old = stream.Stream.from_artifact(all_bytes.spec(), all_bytes.files())
    assert old.exclude is False
    assert old.encode(document).tolist() == all_bytes.encode(document).tolist()
    for rule, says in (("cells", True), ("paper", None)):
        inexact = compressors.train("stream-inexact", [], model=folder, rule=rule)
        assert inexact.spec().get("exclude") is says
        assert inexact.from_artifact(inexact.spec(), inexact.files()).encode(document).tolist() == inexact.encode(document).tolist()
        assert rule == "paper" or inexact.encode(document).tolist() == kept.encode(document).tolist()
        assert rule == "paper" or inexact.decode(inexact.encode(document)) == document


def test_damaged_artifacts_are_refused(views):
    view = views[3]
    spec, files = view.spec(), view.files()
    kind = type(view)
    [name] = files
    with pytest.raises(RequestError):
        kind.from_artifact(spec, {})
    for damaged in (files[name][:-1], files[name] + b"\0", bytes([files[name][0] ^ 1]) + files[name][1:], b""):
        with pytest.raises(RequestError):
            kind.from_artifact(spec, {name: damaged})
    changes = [
        ("version", 2),
        ("coder", "huffman"),
        ("bits", 20),
        ("bits", True),
        ("reset", -1),
        ("reset", "never"),
        ("symbol_bits", 4),
        ("exclude", 1),
    ]
    for key, value in [
        *changes,
        ("depth", 0),
        ("exclude", 1),
        ("verify", None),
        ("model", None),
        ("model", {"kind": "counts"}),
        ("model", {"kind": "oracle"}),
    ]:
        with pytest.raises(RequestError):
            kind.from_artifact({**spec, key: value}, files)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"coder": "huffman"}, "windows or arithmetic"),
        ({"bits": 20}, "one of 16, 24, 32, 64, 128"),
        ({"symbol_bits": 12}, "8 or 16"),
        ({"reset": "sometimes"}, "never, always or a number"),
        ({"reset": 0}, "1 or more"),
        ({"coder": "arithmetic", "reset": "always"}, "no windows to reset after"),
        ({"depth": 0}, "must be 1 to"),
        ({"model": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_bad_options_are_one_sentence(options, said):
    with pytest.raises(RequestError, match=said):
        compressors.train("stream", CODE, **options)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), which=st.integers(0, len(SETTINGS) - 1))
def test_hostile_symbols_give_bytes_or_a_decode_error(views, data, which):
    view = views[which]
    symbols = data.draw(st.lists(st.integers(0, view.alphabet_size - 1) | st.integers(0, 3), max_size=30))
    if data.draw(st.booleans()):
        symbols = view.encode(CODE[0]).tolist()[: data.draw(st.integers(0, 20))] + symbols
    array = np.array(symbols, dtype=np.uint32)
    try:
        found = view.decode(array, max_bytes=1000)
    except DecodeError:
        assert view.decode_batch([array], max_bytes=1000) == [None]
        return
    assert len(found) <= 1000
    if view.coder == "arithmetic":
        assert view.encode(found).tolist() == symbols, "every code is the one code of its document"


def test_a_code_that_claims_too_much_is_refused_at_once(views):
    starts, sizes = range_coder.length_intervals(1 << 31)
    symbols = range_coder.encode(starts, sizes).astype(np.uint32)
    with pytest.raises(DecodeError, match="can hold"):
        views[0].decode(symbols, max_bytes=1 << 40)


@pytest.mark.parametrize("which", [0, 3])
def test_the_cap_holds(views, which):
    view, document = views[which], b"".join(CODE)
    symbols = view.encode(document)
    for cap in (0, 1, len(document) - 1):
        with pytest.raises(DecodeError, match="cap"):
            view.decode(symbols, max_bytes=cap)
