"""The count model's rows are those of a slow twin in Python integers, for prefixes and for whole stretches, from any batch."""

from __future__ import annotations

import numpy as np
import pytest

from compressors.errors import RequestError
from compressors.files import sha256_bytes
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


def test_batches_and_calls_do_not_matter(model: CountModel) -> None:
    texts = [b"the cat sat on the mat. the cat", b"", b"sat", bytes(range(256)) * 3, b"the cat sat on the mat. the cat"]
    together = model.rows(texts)
    assert all((model.rows([text])[0] == rows).all() for text, rows in zip(texts, together, strict=True))
    prefixes = np.frombuffer(b"the cat sat on ze mat the cat sat", np.uint8).reshape(11, 3)
    alone = np.concatenate([model.after(prefixes[i : i + 1]) for i in range(11)])
    assert (model.after(prefixes) == alone).all()


def test_training_again_gives_the_same_file() -> None:
    documents = [text * 3 for text in DOCUMENTS]
    first = CountModel.train(documents, max_nodes=520, num_starts=900, seed=4)
    assert CountModel.train(iter(documents), max_nodes=520, num_starts=900, seed=4).files() == first.files()
    assert CountModel.train(documents, max_nodes=520, num_starts=900, seed=5).files() != first.files()
    # Written out once: another machine and another day give this too. A change of it is a new `version`.
    assert first.num_nodes == 459
    assert first.spec()["sha256"] == "91567b2574e893078339ce3cac8abe5d25e253965cd9dccba54cdb0687cd9c1a"
    rows = first.rows([b"the cat sat on the log. the cat"])[0]
    assert sha256_bytes(rows.astype("<u2").tobytes()) == "c23683cafaf188d7534afd377a92314e5e0906aadee16e5c6428659f502e6e8c"


def test_given_starts_are_the_only_ones_counted_for_whole_prefixes() -> None:
    """Windows start at line starts only, so the first byte of a window is the first of a line."""
    document = b"one line\nor two\n" * 40

    def line_starts(documents: list[bytes]) -> list[np.ndarray]:
        return [np.flatnonzero(np.frombuffer(b"\n" + text[:-1], np.uint8) == 10) for text in documents]

    model = CountModel.train([document], starts=line_starts)  # type: ignore[arg-type]  # a list is a sequence
    first_byte = model.rows([b"o"])[0][0]
    assert first_byte[ord("o")] > 0.85 * TOTAL
    assert CountModel.train([document]).rows([b"o"])[0][0][ord("o")] < 0.25 * TOTAL


def test_repeats_in_the_stretch_are_learned() -> None:
    """Every document names its own thing and says the name again: a name is dear once and cheap from then on."""
    names = [sha256_bytes(bytes([k]))[:10].encode() for k in range(250)]
    documents = [b"let %s = 1; use %s; drop %s" % (name, name, name) for name in names]
    stretch = b"let zqxjkvwpyg = 1; use zqxjkvwpyg; "
    both = [CountModel.train(documents, repeats=repeats).rows([stretch])[0] for repeats in (True, False)]
    told, silent = ([float(np.log2(TOTAL / row[byte])) for row, byte in zip(rows, stretch, strict=True)] for rows in both)
    assert sum(silent[26:34]) > 8 * 7
    assert sum(told[26:34]) < 8 * 2


def test_files_that_lie_are_refused(model: CountModel) -> None:
    good = model.files()["counts.bin"]
    num = model.num_nodes

    def load(data: bytes, **changed: object) -> None:
        spec = model.spec() | {"sha256": sha256_bytes(data)} | changed
        CountModel.from_files(spec, {"counts.bin": data})  # type: ignore[arg-type]  # hostile

    load(good)
    shares_at = num + 2 * num  # after labels and numbers of children
    all_shares = good[:shares_at] + b"\xff\xff" * num + good[shares_at + 2 * num :]
    no_children = good[:num] + b"\0\0" + good[num + 2 :]
    falling = bytes([0, 9, 8]) + good[3:]
    length = 257 + 255  # "a", then one node a byte
    children = np.zeros(length, "<u2")
    children[0], children[1 + ord("a")], children[257:-1] = 256, 1, 1
    chain = bytes([0, *range(256), *b"a" * 255]) + children.tobytes() + bytes(4 * length)
    for data, changed, told in [
        (good[:-1], {}, "bytes"),
        (good, {"num_nodes": num + 1}, "bytes"),
        (good, {"num_nodes": True}, "num_nodes"),
        (good, {"repeats": 1}, "repeats"),
        (good, {"version": 1}, "version"),
        (all_shares, {}, "add up"),
        (no_children, {}, "breadth-first"),
        (falling, {}, "breadth-first"),
        (chain, {"num_nodes": length, "repeats": False}, "more than 255 bytes"),
        (b"", {"num_nodes": 0}, "num_nodes"),
    ]:
        with pytest.raises(RequestError, match=told):
            load(data, **changed)


def test_options_are_checked() -> None:
    with pytest.raises(RequestError, match="max_nodes"):
        CountModel.train(DOCUMENTS, max_nodes=10)
    with pytest.raises(RequestError, match="did you mean 'depth'"):
        CountModel.train(DOCUMENTS, depht=4)
    with pytest.raises(RequestError, match="65536"):
        StaticModel([1] * 256)


def test_progress_is_reported() -> None:
    told: list[tuple[int, int]] = []
    CountModel.train(DOCUMENTS, depth=5, report=lambda done, total: told.append((done, total)))
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
