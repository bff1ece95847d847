"""A run is asked from any folder: its corpus and views are found beside it too, moved with it or not, and a stranger is never taken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import compressors.registry as registry
from eval.compression_data import open_data
from eval.opened import open_run
from proxy_lm.codec import open_predictor
from proxy_lm.config import dump_yaml
from proxy_lm.data.corpus import build_small
from proxy_lm.errors import RequestError
from proxy_lm.train.restore import load_model


@pytest.fixture
def told_run(saved_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`work/mine/arms/nibbles`, made in `work`, with corpus and view of `work/mine` named as seen from there; the tests stand elsewhere."""
    for folder in ("work", "elsewhere"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    corpus = build_small(Path("mine/corpus"), {"train": [b"x" * 100], "valid": [b"y" * 100], "test": [b"z" * 200]})
    nibble = registry.train("nibble", [])
    registry.save(nibble, Path("mine/views/nibble"))
    views = {"nibble": (Path("mine/views/nibble"), nibble.alphabet_size)}
    run = saved_run(Path("mine/arms/nibbles"), views, corpus, mix={"rate": 1.0})
    (run / "config.yaml").write_text(dump_yaml(load_model(run).settings))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "work" / run


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("step", ["", "checkpoints/step-1"])
def test_view_and_corpus_stand_beside_the_run(told_run: Path, tmp_path: Path, moved: bool, step: str) -> None:
    if moved:
        shutil.move(tmp_path / "work" / "mine", tmp_path / "yours")
        told_run = tmp_path / "yours" / "arms" / "nibbles"
    predictor = open_predictor(told_run / step)
    [coded] = predictor.encode([b"some bytes"])
    assert predictor.decode([coded.payload], [10]) == [b"some bytes"]
    opened = open_run(told_run / step, device="cpu")
    assert opened.corpus().path == told_run.parent.parent / "corpus"
    assert load_model(told_run / step).views == {"nibble": told_run.parent.parent / "views" / "nibble"}


def test_a_run_reached_by_a_link_is_looked_for_where_it_is(told_run: Path) -> None:
    Path("link").symlink_to(told_run)
    assert open_run(Path("link"), device="cpu").corpus().path == told_run.parent.parent / "corpus"


def test_what_is_seen_from_here_and_right_is_taken_first(told_run: Path) -> None:
    shutil.copytree(told_run.parent.parent / "views", "mine/views")
    assert load_model(told_run).views == {"nibble": Path("mine/views/nibble")}


def test_a_stranger_of_the_same_name_is_passed_over_and_alone_refused(told_run: Path) -> None:
    registry.save(registry.train("dibit", []), Path("mine/views/nibble"))
    assert load_model(told_run).views == {"nibble": told_run.parent.parent / "views" / "nibble"}
    shutil.rmtree(told_run.parent.parent / "views")
    with pytest.raises(RequestError, match="mine/views/nibble now holds"):
        open_predictor(told_run)


def test_where_it_is_nowhere_all_places_are_told(told_run: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(told_run, tmp_path / "alone" / "nibbles")
    with pytest.raises(RequestError) as refused:
        open_predictor(alone)
    assert str(refused.value) == (
        f"the run names its view 'nibble' by the folder mine/views/nibble, which is not there seen from {Path.cwd()}, nor beside the run "
        f"({tmp_path / 'views' / 'nibble'}), nor seen from a folder above the run; put it at one of these places, or run the command in "
        "the folder where the run was trained"
    )
    shutil.copytree(told_run.parent.parent / "views", tmp_path / "views")
    opened = open_run(alone, device="cpu")
    with pytest.raises(RequestError, match=r"its corpus by the folder mine/corpus, .* beside the run .*; give its folder with --corpus"):
        opened.corpus()


def test_a_compression_table_finds_the_corpus_of_a_run(told_run: Path) -> None:
    [data] = open_data(f"test={told_run}", split="test", limit_bytes=None, multiple=100)
    assert data.data == b"z" * 200
    shutil.rmtree(told_run.parent.parent / "corpus")
    with pytest.raises(RequestError, match=r"nor beside the run .*give the folder of the corpus"):
        open_data(f"test={told_run}", split="test", limit_bytes=None, multiple=100)
