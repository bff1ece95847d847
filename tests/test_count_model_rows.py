"""The count model's rows are those of a slow twin in Python integers, for prefixes and for whole stretches, from any batch."""

from __future__ import annotations

import numpy as np
import pytest

from compressors.errors import RequestError
from compressors.neural.counts import CountModel
from compressors.neural.models import TOTAL, load_model, save_model
from compressors.neural.static import StaticModel

DOCUMENTS = [b"the cat sat on the mat. " * 8, b"the dog sat on the log. " * 8, bytes(range(256)), b"", b"x"]


@pytest.fixture(scope="module")
def model() -> CountModel:
    return CountModel.train(DOCUMENTS, max_nodes=600, depth=12)


def test_rows_sum_to_the_total_and_have_no_zero(model: CountModel) -> None:
    rows = model.rows([b"the cat", b"", b"\x00\xff"])
    assert [row.shape for row in rows] == [(7, 256), (0, 256), (2, 256)]
    assert all((row.sum(1, dtype=np.int64) == TOTAL).all() and row.min(initial=1) == 1 for row in rows)


def test_rows_are_after_each_prefix(model: CountModel) -> None:
    text = b"sat on the unheard-of mat. the cat sat on the mat"
    rows = model.rows([text])[0]
    for length in range(len(text)):
        prefix = np.frombuffer(text[:length], np.uint8).reshape(1, length)
        assert (model.after(prefix)[0] == rows[length]).all()


def test_a_folder_gives_the_same_rows(model: CountModel, tmp_path) -> None:  # type: ignore[no-untyped-def]
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert (again.rows([b"the cat sat"])[0] == model.rows([b"the cat sat"])[0]).all()
    damaged = bytearray((tmp_path / "counts.bin").read_bytes())
    damaged[5] ^= 1
    (tmp_path / "counts.bin").write_bytes(bytes(damaged))
    with pytest.raises(RequestError, match="digest"):
        load_model(tmp_path)


def test_no_text_is_refused() -> None:
    with pytest.raises(RequestError, match="no text"):
        CountModel.train([b"", b""])


def test_static_is_the_share_of_each_byte() -> None:
    model = StaticModel.train([b"aab"])
    row = model.rows([b"zz"])[0][1]
    assert row[[ord("a"), ord("b"), 0]].tolist() == [1 + 43520, 1 + 21760, 1]
    assert (StaticModel.from_files(model.spec(), model.files()).after(np.zeros((3, 2), np.uint8)) == row).all()
