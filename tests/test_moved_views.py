"""A folder with a neural view can be moved or renamed as a whole: what is in it is found again, and what is another view still refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from compressors import registry
from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.errors import RequestError
from proxy_lm.neural_training import train_neural
from proxy_lm.view_training import NEURAL, train_view

OPTIONS = {"model": "counts", "options": {"bits": 11}, "settings": ["num_starts=20000"]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Corpus:
    sources = sorted((pytestconfig.rootpath / "compressors").glob("*.py"))
    texts = [path.read_bytes()[:3000] for path in sources if path.stat().st_size > 1000]
    folder = tmp_path_factory.mktemp("moved") / "corpus"
    build_small(folder, {"train": texts[2:], "valid": texts[:2]})
    return Corpus.open(folder)


@pytest.fixture(scope="module")
def first(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first") / "view"
    train_view(NEURAL, corpus, out, options=OPTIONS)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_moved_folder_is_found_finished_and_left_as_it_is(corpus: Corpus, first: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "another-name"
    shutil.copytree(first, moved)
    before = contents(moved)
    found = train_view(NEURAL, corpus, moved, options=OPTIONS)
    assert found["fingerprint"] == registry.read_artifact(first)["fingerprint"]
    assert contents(moved) == before


def test_a_moved_folder_whose_view_is_to_be_made_again_gives_the_same(corpus: Corpus, first: Path, tmp_path: Path) -> None:
    """Its byte model was taken away: one is counted anew, in other seconds, and the view made of it has to be that which is there."""
    moved = tmp_path / "moved"
    shutil.copytree(first, moved)
    shutil.rmtree(moved / "model")
    assert train_view(NEURAL, corpus, moved, options=OPTIONS)["fingerprint"] == registry.read_artifact(first)["fingerprint"]


def test_another_view_in_a_moved_folder_is_refused_as_before(corpus: Corpus, first: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(first, moved)
    before = contents(moved)
    with pytest.raises(RequestError, match="a view of bits 11 where this is of 10"):
        train_view(NEURAL, corpus, moved, options=OPTIONS | {"options": {"bits": 10}})
    with pytest.raises(RequestError, match="num_starts: 20000 -> 30000"):
        train_neural(corpus, moved, model="counts", options={"bits": 11}, settings=["num_starts=30000"])
    assert contents(moved) == before


def test_a_table_of_a_model_elsewhere_still_says_which(corpus: Corpus, first: Path, tmp_path: Path) -> None:
    """Made by `compressor train table`: there the path is what was asked for."""
    own = tmp_path / "own"
    train_view("table", corpus, own, options={"bits": 11, "model": str(first / "model")})
    shutil.copytree(first / "model", tmp_path / "model")
    with pytest.raises(RequestError, match="a view of model"):
        train_view("table", corpus, own, options={"bits": 11, "model": str(tmp_path / "model")})
