"""Crops are stretches of the text, drawn from (seed, number) alone, and their corpus is whole or absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.data.permutation import key_of
from proxy_lm.errors import RequestError
from proxy_lm.neural_crops import Draw, crop_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return build_small(tmp_path / "corpus", {"train": [b"abcdefgh", b"xy", b"0123456789"], "valid": [b"ABCDEFGH"]})


def crops(corpus: Corpus, out: Path, **changes: object) -> Corpus:
    wanted = {"train": "train", "held_out": "valid", "lengths": (4, 6), "num_bytes": 200, "held_out_bytes": 20, "seed": 1, **changes}
    return crop_corpus(corpus, out, **wanted)  # type: ignore[arg-type]


def test_every_crop_stands_in_a_document_of_its_split(corpus: Corpus, tmp_path: Path) -> None:
    made = crops(corpus, tmp_path / "crops")
    told = [made.document(index) for index in made.splits["train"]]
    assert {len(crop) for crop in told} == {4, 6}
    assert all(crop in b"abcdefgh" or crop in b"0123456789" for crop in told)
    assert 200 <= sum(map(len, told)) < 206
    assert all(made.document(index) in b"ABCDEFGH" for index in made.splits["valid"])


def test_every_place_is_as_likely_as_any_other(corpus: Corpus) -> None:
    # Crops of 4 fit at 5 places of the first document and at 7 of the third; the second is too short.
    document, offset, length = Draw(corpus, corpus.splits["train"], (4,), key_of(0, "test")).crops(0, 12_000)
    places, counts = np.unique(document * 100 + offset, return_counts=True)
    assert places.tolist() == [0, 1, 2, 3, 4, 200, 201, 202, 203, 204, 205, 206]
    assert (length == 4).all()
    assert counts.min() > 850
    assert counts.max() < 1150


def test_a_crop_depends_on_its_number_and_on_nothing_before_it(corpus: Corpus) -> None:
    draw = Draw(corpus, corpus.splits["train"], (4, 4, 6), key_of(0, "test"))
    whole = draw.crops(0, 50)
    part = draw.crops(20, 10)
    assert [array.tolist() for array in part] == [array[20:30].tolist() for array in whole]


def test_equal_requests_give_equal_corpora_and_another_seed_another(corpus: Corpus, tmp_path: Path) -> None:
    assert crops(corpus, tmp_path / "a").digest == crops(corpus, tmp_path / "b").digest
    assert crops(corpus, tmp_path / "c", seed=2).digest != crops(corpus, tmp_path / "a").digest


def test_whole_ones_are_taken_as_they_are_and_halves_made_again(corpus: Corpus, tmp_path: Path) -> None:
    made = crops(corpus, tmp_path / "crops")
    before = (tmp_path / "crops" / "raw.bin").stat().st_mtime_ns
    assert crops(corpus, tmp_path / "crops").digest == made.digest
    assert (tmp_path / "crops" / "raw.bin").stat().st_mtime_ns == before
    # What a killed writer leaves: a folder beside, and nothing under the name.
    (tmp_path / "crops").rename(tmp_path / "crops.tmp-1")
    (tmp_path / "crops.tmp-1" / "manifest.json").unlink()
    assert crops(corpus, tmp_path / "crops").digest == made.digest
    assert not (tmp_path / "crops.tmp-1").exists()


def test_crops_longer_than_every_document_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a crop of 11 bytes is wanted and the longest of 3 documents has 10"):
        crops(corpus, tmp_path / "crops", lengths=(4, 11))
    assert not (tmp_path / "crops").exists()
