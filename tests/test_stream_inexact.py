"""Streams agree with tables where both exist, and the published rules lose exactly the windows they are said to lose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import compressors
from compressors.errors import DecodeError, RequestError
from compressors.neural import intervals, windows
from compressors.neural.build import build
from compressors.neural.counts import CountModel
from compressors.neural.dictionary import Dictionary
from compressors.neural.models import ByteModel, save_model
from compressors.neural.static import StaticModel

CODE = [
    b"def f%d(x, y):\n    return {'a': x + %d, \"b\": [y] * 2}\n\n\nclass C%d(Base):\n\tpass  # na\xc3\xafve\n" % (k, k, k)
    for k in range(30)
]
DOCUMENTS = [b"", b"\0", b"class C1(Base):", b"".join(CODE[:4]), bytes(range(0, 256, 3)), b" " * 300]


@pytest.fixture(scope="module")
def model() -> CountModel:
    return CountModel.train(CODE, max_nodes=1500, depth=16)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder)
    return str(folder)


def dictionary(model: ByteModel, rule: str, bits: int, depth: int) -> Dictionary:
    strings = build(model, bits=bits, rule=rule, depth=depth)
    return Dictionary(labels=strings.labels, parents=strings.parents, codes=strings.codes, decode_nodes=strings.decode_nodes)


@pytest.mark.parametrize("depth", [5, 63])
def test_cells_with_a_full_reset_is_the_table(model, depth):
    table = dictionary(model, "cells", 16, depth)
    found = windows.encode_windows(model, DOCUMENTS, bits=16, depth=depth, reset=1)
    for one, codes in zip(found, table.encode(DOCUMENTS), strict=True):
        assert one.codes.reshape(-1).view(">u2").tolist() == codes.tolist()
        assert [0, *one.ends.tolist()] == table.borders(codes).tolist()


@pytest.mark.parametrize("rule", ["paper", "canonical"])
def test_published_rules_with_a_full_reset_are_the_tables(model, rule):
    table = dictionary(model, rule, 16, 40)
    for document, codes in zip(DOCUMENTS, table.encode(DOCUMENTS), strict=True):
        found = list(intervals.cut(model, document, bits=16, rule=rule, reset=1, depth=40))
        assert [window.code for window in found] == codes.tolist()


def come_back(model: ByteModel, document: bytes, *, bits: int, rule: str, reset: int) -> list[bool]:
    """Of each window: whether its code is read as its text, when all text before is known."""
    cells = intervals.Cells(bits, rule)
    found = list(intervals.cut(model, document, bits=bits, rule=rule, reset=reset, depth=500))
    starts = [0, *(window.end for window in found)]
    good = []
    for number, window in enumerate(found):
        first = starts[number - number % reset] if reset else 0

        def next_row(text: bytes, known: bytes = document[first : starts[number]]) -> np.ndarray:
            return model.after(np.frombuffer(known + text, np.uint8)[None])[0]

        text = intervals.read(cells, window.code, next_row, depth=500, room=1000)
        good.append(text == document[starts[number] : window.end])
    assert starts[-1] == len(document)
    return good


@pytest.mark.parametrize("reset", [0, 1, 2])
@pytest.mark.parametrize("bits", [16, 24, 32, 64, 128])
@pytest.mark.parametrize("rule", intervals.RULES)
def test_a_window_that_does_not_come_back_is_a_collision(model, rule, bits, reset):
    document = b"".join(CODE[3:6])
    good = come_back(model, document, bits=bits, rule=rule, reset=reset)
    found = intervals.replicate(model, [document], bits=bits, rule=rule, reset=reset, depth=500)
    assert (found.num_windows, found.num_collisions) == (len(good), good.count(False))
    if rule != "paper":
        assert found.num_collisions == 0


def test_the_paper_rule_loses_windows_and_holds_less(model):
    document = b"".join(CODE)
    paper = intervals.replicate(model, [document], bits=16, rule="paper", reset=0)
    delay = intervals.replicate(model, [document], bits=16, rule="delay", reset=0)
    exact = windows.encode_windows(model, [document], bits=16, depth=1 << 20, reset=0)[0]
    assert 0.05 < paper.collision_rate < 0.6
    assert paper.bit_ratio == 8 * len(document) / (16 * paper.num_windows)
    assert len(exact.ends) <= paper.num_windows < delay.num_windows


def test_a_window_by_eye():
    """Half of the probability on 'a', nearly all of the rest on 'b'."""
    model = StaticModel([1] * 97 + [32768, 65536 - 97 - 32768 - 157] + [1] * 157)
    cells = intervals.Cells(16, "paper")
    row = model.after(np.zeros((1, 0), np.uint8))[0]
    a = cells.part(cells.whole, row, 97)
    assert a == (97 << 30, (97 + 32768) << 30), "in units of 2^-46"
    assert cells.shortest(a) == 16384, "[1/4, 1/2) is the largest dyadic interval inside"
    assert cells.holds(a, 97)
    assert not cells.holds(a, 96)
    assert cells.byte_at(cells.whole, row, 97) == 97
    assert cells.byte_at(cells.whole, row, 96) == 96
    found = list(intervals.cut(model, b"a", bits=16, rule="paper", reset=0, depth=10))
    # 'aa' is [97/65536 + 97/131072, ... + 1/4): its largest dyadic interval is [1/8, 1/4), so code 8192, and 'a' is told from it.
    assert [(window.code, window.is_collision) for window in found] == [(16384, False)]


@pytest.mark.parametrize(
    "options", [{"rule": "cells"}, {"rule": "paper"}, {"rule": "delay", "bits": 64}, {"rule": "canonical", "reset": 1}]
)
def test_the_view_saves_loads_and_decodes(folder, options, tmp_path):
    view = compressors.train("stream-inexact", CODE, model=folder, **options)
    assert not view.exact
    compressors.save(view, tmp_path / "view")
    again = compressors.load(tmp_path / "view")
    encoded = view.encode_batch(DOCUMENTS)
    for document, symbols in zip(DOCUMENTS, encoded, strict=True):
        assert again.encode(document).tolist() == symbols.tolist()
        borders = view.spans(document)
        assert (borders[0], borders[-1], len(borders)) == (0, len(document), len(symbols) + 1)
        decoded = view.decode(symbols, max_bytes=10_000)
        assert options["rule"] == "paper" or decoded == document


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    symbols=st.lists(st.integers(0, 65535), max_size=10), rule=st.sampled_from([*intervals.RULES, "cells"]), reset=st.sampled_from([0, 1])
)
def test_any_symbols_are_bytes_or_an_error(folder, symbols, rule, reset):
    options = {"rule": rule, "reset": "always" if reset else "never", "model": folder, "depth": 60}
    view = compressors.train("stream-inexact", [], **options)
    try:
        decoded = view.decode(np.array(symbols, np.uint32), max_bytes=200)
    except DecodeError:
        return
    assert len(symbols) <= len(decoded) <= 200


def test_unknown_rules_and_too_few_bits_are_refused(folder, model):
    with pytest.raises(RequestError, match="cells, paper, delay, canonical"):
        compressors.train("stream-inexact", CODE, model=folder, rule="huffman")
    with pytest.raises(RequestError, match="known: paper, delay, canonical"):
        intervals.replicate(model, [b"a"], bits=16, rule="cells", reset=0)
    with pytest.raises(RequestError, match="give 16 or more"):
        intervals.replicate(model, [b"a"], bits=12, rule="paper", reset=0)
