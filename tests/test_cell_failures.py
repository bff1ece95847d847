"""What goes wrong in a cell is that cell's failure, told with its reason, and the grid goes on; what cannot be written down ends it."""

from __future__ import annotations

import json
import os
import random

import pytest
import yaml

from eval import cli
from eval.compare_cells import reason_of
from proxy_lm.data.corpus import build_small
from proxy_lm.errors import RequestError

PLAN = {
    "name": "cellfailures",
    "corpus": {"path": "corpus"},
    "views": {},
    "base": {
        "row_length": 64,
        "rows_per_step": 8,
        "rows_per_device": 8,
        "model": {"preset": None, "width": 16, "depth": 1, "num_heads": 2, "hidden": 32},
        "logging": {"tensorboard": False, "peak_flops": 1.0e9},
    },
    "arms": {"bytes": {}, "other": {"optimizer": {"learning_rate": 0.001}}},
    "match": {"symbols": 512 * 50},
    "launch": {"jobs": 1},
    "evaluation": {"context_bytes": 64, "stride_bytes": 64, "device": "cpu"},
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a small corpus and a plan of two arms, each with a folder where its trainer's log belongs."""
    draw = random.Random(0)
    documents = [b"".join(b"def f%d(x):\n    return x\n" % draw.randrange(99) for _ in range(20)) for _ in range(40)]
    build_small(tmp_path / "corpus", {"train": documents[:30], "valid": documents[30:35], "test": documents[35:]})
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    for arm in PLAN["arms"]:
        (tmp_path / "out" / "arms" / arm / "train.log").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_error_that_nobody_foresaw_fails_its_cell_and_the_next_one_runs(place, capsys):
    """An OSError from inside the run folder, as on a full disk: the grid used to end here with a traceback and no report."""
    assert cli.main(["compare", "plan.yaml", "--out", str(place / "out")]) == 1
    told = capsys.readouterr().err
    found = {arm["name"]: arm for arm in json.loads((place / "out" / "results.json").read_text())["arms"]}
    for arm in PLAN["arms"]:
        assert (found[arm]["status"], found[arm]["bits_per_byte"]) == ("failed", None)
        reason, *places = found[arm]["failure"].splitlines()
        assert reason.startswith("IsADirectoryError: ")
        assert f"arms/{arm}/train.log" in reason
        assert str(place) not in reason
        assert "child.py" in places[-2] + places[-1]
        assert json.loads((place / "out" / "cells" / f"{arm}.json").read_text())["result"]["failure"] == found[arm]["failure"]
    assert told.count("Traceback (most recent call last)") == 2
    assert "2 of 2 arms failed" in told
    assert "IsADirectoryError" in (place / "out" / "report.md").read_text()


def test_a_cell_that_cannot_be_kept_ends_the_grid_and_says_so(place, capsys):
    in_the_way = place / "out" / "cells" / f"bytes.json.tmp-{os.uname().nodename}-{os.getpid()}"
    in_the_way.mkdir(parents=True)
    assert cli.main(["compare", "plan.yaml", "--out", str(place / "out")]) == 1
    told = capsys.readouterr().err
    assert "proxy-lm-eval: could not write" in told
    assert "bytes.json" in told.splitlines()[-1]
    assert not (place / "out" / "cells" / "other.json").exists()


def test_a_reason_has_the_type_where_the_message_alone_says_little():
    assert reason_of(RequestError("rows_per_step=3 is no multiple of 2")) == "rows_per_step=3 is no multiple of 2"
    try:
        raise MemoryError
    except MemoryError as error:
        first, last = reason_of(error).splitlines()
    assert first == "MemoryError"
    assert last.startswith("  test_cell_failures.py:")
    assert reason_of(KeyError("bits")) == "KeyError: 'bits'"
