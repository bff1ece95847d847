"""Published plots are drawn from kept results: a missing, old or unasked file is out of step, and the mark shows those that are there."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from eval import kept, tables
from proxy_lm.errors import RequestError

MARK = "# Title\n\n<!-- table: ladder plot of={} -->\n<!-- end -->\n"


@pytest.fixture
def repository(tmp_path, comparison):
    found = comparison("ladder", {"bytes": 2.5, "tokens": 2.2, "proxy": 2.9}, scales={"s0": 300_000, "s1": 1_000_000})
    (tmp_path / kept.KEPT).mkdir(parents=True)
    (tmp_path / kept.KEPT / "ladder.json").write_text(kept.spelled(kept.slimmed(found)))
    (tmp_path / "configs" / "README.md").write_text(MARK.format("main"))
    return tmp_path


def test_a_plot_is_drawn_beside_its_results_and_shown_from_where_the_readme_stands(repository):
    file = "configs/compare/results/ladder-main-1.svg"
    assert tables.in_step(repository, write=True) == ["configs/README.md:3 (table: ladder plot)", file]
    assert tables.in_step(repository, write=False) == []
    shown = (repository / "configs" / "README.md").read_text()
    assert "![Bits per byte against training FLOPs](compare/results/ladder-main-1.svg)" in shown
    path = repository / kept.KEPT / "ladder-main-1.svg"
    words = " ".join(ElementTree.fromstring(path.read_text()).itertext())
    assert all(word in words for word in ("bits per byte", "bytes", "tokens", "proxy"))
    assert "var(--arm-0)" in path.read_text()
    assert "--arm-0:" in words  # the file has the colours that the page's style sheet gives elsewhere


def test_old_missing_and_unasked_plots_are_out_of_step(repository):
    tables.in_step(repository, write=True)
    path = repository / kept.KEPT / "ladder-main-1.svg"
    results = repository / kept.KEPT / "ladder.json"
    results.write_text(results.read_text() + "\n")
    assert tables.in_step(repository, write=True) == ["configs/compare/results/ladder-main-1.svg"]
    path.unlink()
    assert tables.in_step(repository, write=True) == ["configs/compare/results/ladder-main-1.svg"]
    (repository / "configs" / "README.md").write_text(MARK.format("margins"))
    tables.in_step(repository, write=True)
    assert sorted(one.name for one in path.parent.glob("*.svg")) == ["ladder-margins-1.svg"]


@pytest.mark.parametrize(
    ("asked", "expected"), [("everything", "asks for no plot; give of=main or"), ("ablations", "has no plot 'ablations': it has too few")]
)
def test_a_plot_that_is_not_there_is_refused(repository, asked, expected):
    (repository / "configs" / "README.md").write_text(MARK.format(asked))
    with pytest.raises(RequestError, match=expected):
        tables.in_step(repository, write=True)
    assert not list((repository / kept.KEPT).glob("*.svg"))
