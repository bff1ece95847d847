"""`cached` gives the symbols of the direct way whatever its cache holds, is exact where it stops at what it lacks, and checks files."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import compressors
from compressors.errors import DecodeError, RequestError
from compressors.neural import windows
from compressors.neural.cached import BITS, Cached
from compressors.neural.counts import CountModel
from compressors.neural.models import save_model
from compressors.neural.window_cache import Cache

CODE = [
    b"def f%d(x, y):\n    return {'a': x + %d, \"b\": [y] * 2}\n\n\nclass C%d(Base):\n\tpass  # na\xc3\xafve\n" % (k, k, k)
    for k in range(30)
]
UNSEEN = [b"", b"\0", b"lambda: 0xff", bytes(range(256)), b"".join(CODE[:3]) + b"return", b" " * 500]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(CountModel.train(CODE, max_nodes=1500, depth=16), folder)
    return str(folder)


@pytest.fixture(scope="module")
def views(folder):
    return {
        (bits, misses): compressors.train("cached", CODE, model=folder, bits=bits, misses=misses)
        for bits in BITS
        for misses in ("model", "stop")
    }


@pytest.mark.parametrize("bits", BITS)
def test_symbols_are_those_of_the_direct_way(views, folder, bits):
    view = views[bits, "model"]
    direct = compressors.train("stream", [], model=folder, bits=bits if bits != 40 else 32, reset="always", depth=63)
    for document in [*CODE[:5], *UNSEEN]:
        [found] = windows.encode_windows(view.model, [document], bits=bits, depth=63, reset=1)
        assert view.spans(document)[-1] == len(document)
        symbols = view.encode(document)
        if bits != 40:
            assert symbols.tolist() == direct.encode(document).tolist()
        code = np.append(symbols.astype(">u2").view(np.uint8), 0)[: found.codes.size]
        assert code.tolist() == found.codes.reshape(-1).tolist()
        assert view.decode(symbols, max_bytes=len(document)) == document


@pytest.mark.parametrize("bits", BITS)
def test_what_training_saw_needs_no_model(views, bits):
    sure, alone = views[bits, "model"], views[bits, "stop"]
    assert alone.model is None
    assert set(alone.files()) == {"windows.cache"}
    for document in CODE:
        assert alone.encode(document).tolist() == sure.encode(document).tolist()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=st.binary(max_size=40) | st.lists(st.sampled_from([*CODE, *UNSEEN]), max_size=3).map(b"".join), bits=st.sampled_from(BITS))
def test_every_document_comes_back(views, document, bits):
    for misses in ("model", "stop"):
        view = views[bits, misses]
        symbols = view.encode(document)
        assert view.decode(symbols, max_bytes=len(document)) == document
        assert view.decode_batch([symbols]) == [document]
        borders = view.spans(document)
        assert (borders[0], borders[-1], len(borders)) == (0, len(document), len(symbols) + 1)
        if document:
            with pytest.raises(DecodeError, match="cap"):
                view.decode(symbols, max_bytes=len(document) - 1)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(symbols=st.lists(st.integers(0, 65535), max_size=30), bits=st.sampled_from(BITS), misses=st.sampled_from(["model", "stop"]))
def test_any_symbols_are_bytes_or_an_error(views, symbols, bits, misses):
    view = views[bits, misses]
    whole = len(symbols) * 16 // bits * bits // 16 if bits != 24 else len(symbols) // 3 * 3
    array = np.array(symbols[: whole - whole % (5 if bits == 40 else 1)], np.uint32)
    text = view.decode(array)
    assert len(array) * 16 // bits <= len(text) <= 63 * (len(array) * 16 // bits)


@pytest.mark.parametrize("misses", ["model", "stop"])
def test_an_artifact_is_the_view_again(views, misses, tmp_path):
    view = views[24, misses]
    compressors.save(view, tmp_path / "view")
    again = compressors.load(tmp_path / "view")
    assert again.spec() == view.spec()
    for document in [*CODE[:2], *UNSEEN]:
        assert again.encode(document).tolist() == view.encode(document).tolist()


def test_damaged_caches_are_refused(views):
    data = views[24, "stop"].files()["windows.cache"]
    assert Cache.from_bytes(data).to_bytes() == data
    header, node = 28, 21
    outside = bytearray(data)
    outside[header + 300 * node : header + 300 * node + 8] = struct.pack("<Q", (1 << 24) - 1)
    larger = bytearray(data)
    larger[header + 8 : header + 16] = struct.pack("<Q", 1 << 24)
    early = bytearray(data)
    early[header + 16 : header + 20] = struct.pack("<I", 9)
    twice = bytearray(data)
    twice[header + node : header + 2 * node] = data[header : header + node]
    num = (len(data) - header) // node
    short = data[:24] + struct.pack("<I", num - 1) + data[28:-node]
    headless = data[:24] + struct.pack("<I", num - 1) + data[28 + node :]
    assert Cache.from_bytes(short).num_nodes == num, "the last node is nobody's parent"
    for damaged in (
        b"",
        data[:-1],
        data + b"\0",
        b"x" + data[1:],
        data[:20] + b"\xff" + data[21:],
        outside,
        larger,
        early,
        twice,
        headless,
    ):
        with pytest.raises(RequestError, match="train the view anew"):
            Cache.from_bytes(bytes(damaged))


def test_specs_that_do_not_fit_are_refused(views):
    view = views[24, "model"]
    spec, files = view.spec(), view.files()
    changes = [("version", 2), ("bits", 32), ("symbol_bits", 4), ("depth", 0), ("depth", 300), ("misses", "guess"), ("num_nodes", 3)]
    for key, value in [*changes, ("cache_sha256", "0"), ("model", None)]:
        with pytest.raises(RequestError):
            Cached.from_artifact({**spec, key: value}, files)
    with pytest.raises(RequestError, match="misses=model or stop"):
        compressors.train("cached", CODE, misses="guess")
    with pytest.raises(RequestError, match="24, 32, 40"):
        compressors.train("cached", CODE, bits=16)
