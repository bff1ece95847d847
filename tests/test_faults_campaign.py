"""The campaign in small: every kind of kill, signal and damage on real two-rank runs, and a campaign that is cut off goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy_lm.train.campaign import Campaign
from proxy_lm.train.campaign_manager import is_sound

RANK_KILLS, SIGNALS, CORRUPTIONS = 6, 6, 60


def campaign(out: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "proxy_lm.train.campaign", "--out", str(out), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("campaign")
    counts = ("--manager-kills", 0, "--corruptions", CORRUPTIONS, "--rank-kills", RANK_KILLS, "--signals", SIGNALS)
    done = campaign(out, *counts, "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    again = campaign(out, *counts, "--json")  # nothing is left to do
    assert json.loads(again.stdout)["rows"] == json.loads(done.stdout)["rows"]
    assert "undisturbed" not in again.stderr
    return out, json.loads(done.stdout)


def trials(out: Path, battery: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    return [line for line in lines if line["battery"] == battery]


@pytest.mark.slow
def test_six_kills_of_two_ranks_end_in_the_uninterrupted_bits(small) -> None:
    records = trials(small[0], "rank kills")
    assert [record["kind"] for record in records] == ["step", "save", "rotation", "load", "step", "save"]
    assert all(record["equal"] and record["ok"] for record in records), records
    assert all(record["sprung"] for record in records if record["kind"] in ("rotation", "load")), "a kill never came"
    assert all(record["widow_seconds"] < 60 for record in records)


@pytest.mark.slow
def test_a_signal_in_any_phase_is_committed_in_time(small) -> None:
    records = trials(small[0], "signals")
    assert [record["kind"] for record in records] == ["import", "start", "load", "step", "evaluation", "save"]
    for record in records:
        assert record["codes"] == [75, 75] or record["finished"], record
        assert record["stop_seconds"] <= 25 + record.get("import_seconds", 0.0), record
        assert record["equal"], record


@pytest.mark.slow
def test_sixty_corruptions_of_a_two_rank_checkpoint_and_no_silent_load(small) -> None:
    records = trials(small[0], "corruptions")
    assert len(records) == CORRUPTIONS
    assert all(record["ok"] for record in records), [record for record in records if not record["ok"]]
    assert len({record["what"].split()[0] for record in records}) > 5, "hardly any variety"


@pytest.mark.slow
def test_the_table_has_a_date_and_every_kind(small) -> None:
    text = (small[0] / "campaign.md").read_text()
    assert text.startswith(small[1]["date"])
    assert f"{CORRUPTIONS + RANK_KILLS + SIGNALS} trials, {CORRUPTIONS + RANK_KILLS + SIGNALS} recovered." in text
    assert text.count("\n| ") == 2 + 1 + 4 + 6 - 1


def test_a_campaign_goes_on_behind_a_torn_line_and_a_failure_is_not_forgotten(tmp_path: Path) -> None:
    made: list[tuple[int, float]] = []

    def trial(number: int, draw: Any) -> dict[str, Any]:
        made.append((number, draw.random()))
        return {"ok": number != 1}

    Campaign(tmp_path, seed=3).run("corruptions", 3, trial)
    with (tmp_path / "trials.jsonl").open("ab") as file:
        file.write(b'{"battery": "corruptions", "tri')
    second = Campaign(tmp_path, seed=3)
    second.run("corruptions", 5, trial)
    assert [number for number, _ in made] == [0, 1, 2, 3, 4]
    assert len({value for _, value in made}) == 5
    assert second.count("corruptions") == (5, 4)
    assert second.report()["recovered"] == 4


def test_a_lost_checkpoint_a_half_one_and_a_wrong_one_are_not_sound() -> None:
    good = {"killed": True, "reported": 30, "found": 31, "content": True, "valid": [25, 30, 31], "half": [], "debris": []}
    assert is_sound(good)
    for change in ({"found": 29}, {"half": [31]}, {"content": False}, {"valid": [30, 31]}, {"valid": [31]}, {"killed": False}):
        assert not is_sound({**good, **change}), change


def test_counts_below_zero_are_refused(tmp_path: Path) -> None:
    done = campaign(tmp_path / "none", "--signals", -1)
    assert done.returncode == 2
    assert "counts are from 0 up" in done.stderr
    assert not (tmp_path / "none").exists()
