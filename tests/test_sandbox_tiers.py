"""Each tier that there is holds the whole battery: 0 attacks through, 0 forgers passed, the same verdicts under load, nothing left behind.

Every battery runs in a process of its own. As root, the tiers for everybody are tried as the user nobody.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.sandbox import TIERS

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534
# Only what the kernel or its configuration does not offer is a reason to skip.
KERNEL_SAYS_NO = ("bwrap: No permissions to create", "bwrap: setting up uid map", "bwrap: Creating new namespace", "Landlock has version")


@functools.cache
def start(tier: str) -> tuple[str, dict[str, Any]]:
    """(interpreter, settings of `subprocess.run`) for the user whom a tier is for; skips with the reason where it cannot be tried."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    settings: dict[str, Any] = {"env": environment, "cwd": "/", "capture_output": True, "text": True}
    if tier == "bwrap-uid" and os.geteuid() != 0:
        pytest.skip("tier bwrap-uid needs root")
    if tier.startswith("bwrap") and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: `make test` as root installs it, or `apt-get install bubblewrap`")
    if tier == "bwrap-uid" or os.geteuid() != 0:
        return sys.executable, settings
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *site.getsitepackages()])
    settings |= {"user": NOBODY, "group": NOBODY, "extra_groups": ()}
    system = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin")
    for python in filter(None, (sys.executable, system)):
        with contextlib.suppress(PermissionError):
            if subprocess.run([python, "-c", "import eval.sandbox.campaign"], check=False, **settings).returncode == 0:
                return python, settings
    pytest.skip(f"the user nobody can read no Python 3.{sys.version_info.minor} with numpy and rich here, or not this checkout")


@functools.cache
def campaign(tier: str, *words: str) -> dict[str, Any]:
    """What the campaign found. Skips where the kernel does not offer the tier to its user."""
    python, settings = start(tier)
    line = [python, "-m", "eval.sandbox.campaign", "--tier", tier, "--slots", "2", "--json", *words]
    done = subprocess.run(line, timeout=550, check=False, **settings)
    reason = done.stderr.strip().rpartition("\n")[2]
    if done.returncode == 2 and any(words in reason for words in KERNEL_SAYS_NO):
        pytest.skip(reason)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize("tier", TIERS)
def test_the_battery_holds(tier):
    """Where several tiers work, each has every attack; the judge is the same in all, so one has the forgers on every style of tests."""
    result = campaign(tier, "--runs", "60", *(() if tier == "bwrap-uid" or os.geteuid() != 0 else ("--short",)))
    assert result["tier"] == tier
    assert result["failures"] == []
    assert result["attacks"]["num_attacks"] >= 70
    assert result["forgers"]["num_forgers"] >= 50
    assert result["left_behind"] == []
    assert result["supervisor_peak_bytes"] < 150e6
    assert (result["uid"] == 0) == (tier == "bwrap-uid")


def test_verdicts_are_the_same_beside_eight_hogs():
    tier = "bwrap-uid" if os.geteuid() == 0 else "bwrap"
    result = campaign(tier, "--no-batteries", "--runs", "0", "--hogs", "8", "--load-limit", "0.8")
    assert result["load"]["num_programs"] >= 48
    assert result["failures"] == []


def test_the_campaign_tells_what_did_not_hold():
    from eval.sandbox.campaign import failures

    told = {
        "attacks": {"through": {"S07 write": "fail: done"}, "late": {"S01 a loop": 9.0}, "reached": ["the folder has changed"]},
        "forgers": {"passed": {"V03 a mock": ""}},
        "runs": {"wrong": ["1 right: fail"]},
        "load": {"flips": ["2 right: timeout"]},
        "left_behind": ["a process"],
    }
    assert failures(told) == [
        "left behind: a process",
        "attack S07 write: fail: done",
        "attack S01 a loop ran for 9.0 s",
        "attacks reached the folder has changed",
        "forger passed: V03 a mock",
        "wrong verdict: 1 right: fail",
        "verdict changed under load: 2 right: timeout",
    ]


@pytest.mark.bench
def test_programs_a_second():
    """At least 15 on 2 cores, start of the sandbox and verdict included; the mixture has right, wrong, raising and dying programs."""
    for tier in TIERS:
        result = campaign(tier, "--no-batteries", "--runs", "1000")
        print(f"\n{tier}: {result['runs']['programs_per_s']} programs a second in {result['num_slots']} slots")
        assert result["failures"] == []
        assert result["runs"]["programs_per_s"] >= 15
