"""The order of rows: a bijection inside windows, and the same rows whatever is asked for at once."""

import numpy as np
import pytest

from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import KnownLengths, Plan
from proxy_lm.data.row_order import default_window, stream_rows
from proxy_lm.vocabulary import Vocabulary


@pytest.mark.parametrize(("num_rows", "window"), [(1, 1), (1, 5), (7, 7), (10, 4), (64, 16), (1000, 37)])
def test_every_row_once_and_inside_its_window(num_rows, window):
    rows = np.arange(num_rows, dtype=np.int64)
    order = stream_rows(3, rows, num_rows, window)
    assert sorted(order.tolist()) == rows.tolist()
    assert (order // window == rows // window).all()


def test_windows_are_shuffled_each_in_its_own_way():
    order = stream_rows(0, np.arange(256, dtype=np.int64), 256, 64).reshape(4, 64) % 64
    assert len({tuple(window) for window in order.tolist()}) == 4
    assert (order != np.arange(64)).mean() > 0.9


def test_any_row_without_the_others():
    whole = stream_rows(5, np.arange(100, dtype=np.int64), 100, 30)
    assert [int(stream_rows(5, np.array([row], dtype=np.int64), 100, 30)[0]) for row in (99, 0, 31)] == whole[[99, 0, 31]].tolist()


def test_default_window_is_a_sixteenth_of_the_run_and_bounded():
    assert [default_window(n) for n in (1, 16, 3200, 10**6)] == [1, 1, 200, 4096]


def make(shuffle_rows: int) -> Plan:
    sizes = np.arange(500, dtype=np.int64) % 97 * 3
    views = [KnownLengths("spm", (sizes + 2) // 3)]
    mix = MixSettings.model_validate({"rate": [[0.0, 0.2], [1.0, 0.9]], "pair": 0.3})
    vocabulary = Vocabulary([("spm", 50)])
    settings = {"row_length": 16, "lookahead": 2, "num_rows": 1200, "seed": 1, "mix": mix, "vocabulary": vocabulary}
    return Plan(sizes=sizes, documents=range(500), views=views, shuffle_rows=shuffle_rows, **settings)


def test_a_shuffled_plan_holds_the_rows_of_the_stream_in_another_order():
    stream, shuffled = make(1), make(100)
    order = stream_rows(1, np.arange(1200, dtype=np.int64), 1200, 100)
    whole = shuffled.row_slices(0, 1200)
    assert (np.diff(whole.row) >= 0).all()
    for row in (0, 1, 99, 100, 777, 1199):
        mine, there = shuffled.row_slices(row, 1), stream.row_slices(int(order[row]), 1)
        for name in ("column", "offset", "length", "document", "code", "segment", "position"):
            assert getattr(mine, name).tolist() == getattr(there, name).tolist()
            assert getattr(whole, name)[whole.row == row].tolist() == getattr(mine, name).tolist()
    assert stream.digest != shuffled.digest


def test_a_step_of_short_rows_meets_many_documents():
    sizes = np.full(400, 4000, dtype=np.int64)
    settings = {"row_length": 64, "lookahead": 1, "num_rows": 8000, "seed": 0, "mix": MixSettings(), "vocabulary": Vocabulary()}
    documents = [
        len(set(Plan(sizes=sizes, documents=range(400), views=[], shuffle_rows=w, **settings).row_slices(160, 16).document.tolist()))
        for w in (1, 500)
    ]
    assert documents[0] <= 2
    assert documents[1] >= 6
