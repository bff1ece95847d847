"""The dry run says and draws what the plan will tell, before any device is taken: by phase and layout, in documents, symbols and bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import compressors.registry as registry
from proxy_lm.data.corpus import build_small
from proxy_lm.data.encoding import encode_corpus
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import KnownLengths, Plan
from proxy_lm.train.__main__ import main
from proxy_lm.train.plan_report import bars, draw_picture, table
from proxy_lm.vocabulary import Vocabulary


def plan_of(mix: dict[str, Any]) -> Plan:
    lengths = np.full(4000, 20)
    return Plan(
        sizes=np.full(4000, 60),
        documents=range(4000),
        views=[KnownLengths("v", lengths)],
        vocabulary=Vocabulary([("v", 9)]),
        mix=MixSettings.model_validate(mix),
        seed=0,
        row_length=64,
        lookahead=1,
        num_rows=1000,
    )


def test_table_and_bars_by_eye():
    # Half of the run raw alone, half by the view alone: 64 ids tell 60 bytes raw, 24 ids by the view.
    summary = plan_of({"rate": [[0.5, 0], [0.50001, 1]]}).summary(2)
    lines = table(summary)
    assert re.split(" *share of ", lines[0])[1:] == ["documents", "symbols", "source bytes"]
    assert [lines[0].index("share of s"), lines[0].index("share of so")] == [12 + 24, 12 + 48]  # headings stand over their columns
    assert lines[1].split() == ["progress", *["raw", "view"] * 3]
    assert lines[2].split()[0] == "all"
    assert [float(word) for word in lines[2].split()[1:]] == pytest.approx([24 / 88, 64 / 88, 0.5, 0.5, 24 / 88, 64 / 88], abs=0.003)
    assert lines[3].split() == ["0.00-0.50", *["1.000", "0.000"] * 3]
    assert [float(word) for word in lines[4].split()[1:]] == pytest.approx([0, 1] * 3, abs=0.005)  # the block across the middle
    drawn = bars(summary)
    assert drawn[0] == "layouts: r raw, v view"
    assert drawn[2:] == [f"0.00-0.50 {' '.join(['r' * 30] * 3)}", f"0.50-1.00 {' '.join(['v' * 30] * 3)}"]
    # Thirds of 30 letters, however the remainders fall.
    thirds = bars(plan_of({"pair": 1 / 3, "parallel": 1 / 3}).summary(1))[2].split()
    assert all(len(bar) == 30 for bar in thirds[1:])
    assert [abs(thirds[1].count(letter) - 10) <= 1 for letter in "rp="] == [True] * 3


def test_a_long_document_counts_in_every_phase_in_which_it_stands():
    # One document of 996 bytes, 1,000 ids with its four specials, told twice over ten rows of 200: each fifth holds 400 ids of raw text.
    sizes = np.array([996])
    plan = Plan(
        sizes=sizes,
        documents=range(1),
        views=[],
        vocabulary=Vocabulary([]),
        mix=MixSettings(),
        seed=0,
        row_length=200,
        lookahead=1,
        num_rows=10,
    )
    phases = plan.summary(5)["phases"]
    assert [phase["by_layout"]["raw"]["num_ids"] for phase in phases] == [400] * 5
    assert [phase["by_layout"]["raw"]["num_documents"] for phase in phases] == [1, 0, 1, 0, 0]  # they begin at ids 0 and 1,000
    told = [phase["by_layout"]["raw"]["source_bytes"] for phase in phases]
    assert sum(told) == 2 * 996
    assert all(abs(part - 398.4) < 2 for part in told)


def test_shares_by_layout_sum_to_one_and_to_the_counts_by_view():
    summary = plan_of({"rate": 0.5, "pair": 0.2, "parallel": 0.1}).summary(3)
    for part in (summary, *summary["phases"]):
        for share in ("document_share", "symbol_share", "source_share"):
            assert sum(layout[share] for layout in part["by_layout"].values()) == pytest.approx(1)
        assert {name: layout["num_documents"] for name, layout in part["by_layout"].items()} == part["layouts"]
        assert sum(layout["source_bytes"] for layout in part["by_layout"].values()) == part["source_bytes"]
        symbols = sum(view["num_symbols"] for view in part["views"].values())
        assert sum(layout["num_ids"] for layout in part["by_layout"].values()) == symbols + part["num_special_symbols"]


@pytest.mark.parametrize("suffix", [".svg", ".png", ".html"])
def test_the_picture_in_each_format(tmp_path: Path, suffix: str):
    plan = plan_of({"rate": [[0, 0], [1, 1]], "pair": 0.2})
    draw_picture(plan, tmp_path / f"a{suffix}", "made-up")
    data = (tmp_path / f"a{suffix}").read_bytes()
    assert data.startswith({".svg": b"<?xml", ".png": b"\x89PNG", ".html": b"<!doctype html>"}[suffix])
    if suffix != ".png":
        text = data.decode()
        assert all(word in text for word in ("raw", "view", "pair", "share of symbols", "share of source bytes"))
        assert text.count("<svg") == (3 if suffix == ".html" else 1)
        assert len(re.findall(r"<path d=\"M [^\"]*\" clip-path", text)) >= 3 * 3 * 39  # a bar a phase, layout and kind of share
        assert "#01030" not in text  # no stand-in for a colour is left
    draw_picture(plan, tmp_path / f"b{suffix}", "made-up")
    assert (tmp_path / f"b{suffix}").read_bytes() == data  # no date, no random name


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every layout over a corpus of lines and a view of its bytes."""
    folder = tmp_path_factory.mktemp("report")
    texts = [b"line %d of a document\n" % k * (k % 7 + 1) for k in range(40)] + [b"x"]
    corpus = build_small(folder / "corpus", {"train": texts, "valid": [b"valid"], "test": [b"test"]})
    registry.save(registry.train("identity", texts), folder / "bytes")
    encode_corpus(corpus, folder / "bytes", folder / "bytes", num_workers=1)
    settings = {
        "name": "report",
        "out": str(folder / "run"),
        "corpus": str(folder / "corpus"),
        "views": {"bytes": str(folder / "bytes")},
        "mix": {"rate": 0.5, "pair": 0.2, "parallel": 0.2, "splice": 0.4, "loss_weights": {"bytes": 0.5}},
        "model": {"preset": None, "width": 32, "depth": 1, "num_heads": 2, "hidden": 64},
        "row_length": 64,
        "rows_per_step": 8,
        "num_steps": 50,
    }
    path = folder / "report.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_the_command_makes_the_table_of_cuts_and_the_picture_and_no_run(config: Path, capsys: pytest.CaptureFixture[str]):
    picture = config.parent / "plan.svg"
    assert main([str(config), "--dry-run", "--picture", str(picture)]) == 0
    said = capsys.readouterr()
    assert "documents have no border inside: splices are told whole" in said.out
    assert re.search(r"progress +raw +view +pair +parallel +splice", said.out)
    assert "layouts: r raw, v view, p pair, = parallel, s splice" in said.out
    assert "bytes/cuts is made once: where documents may be cut" in said.err
    assert picture.exists()
    assert not (config.parent / "run").exists()
    assert main([str(config), "--dry-run", "--json"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["plan"]["by_layout"]["splice"]["num_documents"] > 20
    assert "is made once" not in again.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dry-run", "--picture", "plan.pdf"], "--picture plan.pdf ends in '.pdf'; known: .svg, .png, .html"),
        (["--picture", "plan.svg"], "--picture plan.svg is for --dry-run"),
        (["--dry-run", "mix.splice=0.9"], "pair 0.2 + parallel 0.2 + splice 0.9 = 1.3 of the documents"),
    ],
    ids=["format", "no dry run", "too much"],
)
def test_what_cannot_be_drawn_is_one_sentence(config: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str):
    assert main([str(config), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
