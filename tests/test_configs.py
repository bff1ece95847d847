"""Every shipped configuration is valid as it stands, and fits a screen."""

from pathlib import Path

import pytest

from eval.plan import ComparePlan, arm_runs, check_arms
from proxy_lm.config import load
from proxy_lm.train.settings import RunSettings, step_shape

ROOT = Path(__file__).resolve().parent.parent
RUNS = sorted((ROOT / "configs").glob("*.yaml"))
PLANS = sorted((ROOT / "configs" / "compare").glob("*.yaml"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_run(path):
    settings = load(RunSettings, path)
    assert step_shape(settings, 2).accumulation >= 1
    assert settings.name == path.stem


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_plan(path):
    plan = load(ComparePlan, path)
    check_arms(plan)
    assert {run.arm for run in arm_runs(plan)} == set(plan.arms)


def test_they_are_short_and_listed():
    listed = (ROOT / "configs" / "README.md").read_text()
    for path in RUNS + PLANS:
        assert len(path.read_text().splitlines()) <= 80
        assert f"`{path.relative_to(ROOT / 'configs')}`" in listed
