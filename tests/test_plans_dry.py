"""Every plan of the repository can be asked what it would train, before a view is fitted and a corpus is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressors import registry
from eval import cli

PLANS = sorted((Path(__file__).parent.parent / "configs" / "compare").glob("*.yaml"))


@pytest.mark.parametrize("plan", PLANS, ids=lambda path: path.stem)
def test_a_dry_run_of_each_plan_has_a_row_for_each_cell_and_makes_nothing(plan, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", str(plan), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["dry_run"]
    assert len(found["arms"]) > 1
    assert all(row["num_steps"] > 0 for row in found["arms"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{}, {"symbol_bits": 8}, {"symbol_bits": 16, "coder": "arithmetic"}])
def test_the_alphabet_of_a_stream_is_known_before_it_is_trained(options):
    trained = registry.train("stream", [b"def f(x):\n    return x\n" * 50], **options)
    assert registry.get("stream").planned_alphabet_size(options) == trained.alphabet_size
