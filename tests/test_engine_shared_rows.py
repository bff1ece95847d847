"""A whole run whose ranks share their rows is the run of one rank: same rows, losses and validation, and it may go on with whole rows."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.slow

STEPS = 6


def lines_of(tiny_run: Any, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tiny_run.folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def numbers(found: dict[str, float | None]) -> dict[str, float]:
    """None, where nothing was told, is -1."""
    return {name: -1.0 if value is None else value for name, value in found.items()}


@pytest.fixture(scope="module")
def runs(tiny_run: Any) -> dict[str, Any]:
    """One rank; two that share from the first step to the last; two that share for the first half, and one that goes on."""
    heads = {"num_raw_heads": 1, "preset": None, "width": 32, "depth": 2, "num_heads": 2, "hidden": 64}
    common = {"num_steps": STEPS, "zero": {"stage": 0}, "model": heads, "schedule": {"warmup_steps": 1}}
    saving = {"checkpoint": {"every_steps": 3}}
    for name in ("undivided", "shared"):
        config = tiny_run.write(tiny_run.settings(name, **common, **saving))
        if name == "undivided":
            tiny_run.train(config)
        else:
            tiny_run.train(config, "sequence_parallel=2", ranks=2)
    # The second half again, by one rank: the last checkpoint is as good as lost.
    folder = tiny_run.folder / "runs" / "shared"
    done = {name: lines_of(tiny_run, name) for name in ("undivided", "shared")}
    record = {name: json.loads((tiny_run.folder / "runs" / name / "run.json").read_text()) for name in ("undivided", "shared")}
    (folder / "run.json").unlink()
    (folder / "checkpoints" / f"step-{STEPS}").rename(tiny_run.folder / "shared-last")
    latest = folder / "checkpoints" / "latest"
    if latest.exists():
        latest.unlink()
    output = tiny_run.train(tiny_run.folder / "shared.yaml")
    assert "continues at step 3" in output
    return {"lines": {**done, "continued": lines_of(tiny_run, "shared")}, "record": record}


@pytest.mark.parametrize("name", ["shared", "continued"])
def test_every_step_has_the_same_rows_and_the_same_loss(runs: dict[str, Any], name: str) -> None:
    whole, ours = runs["lines"]["undivided"], runs["lines"][name]
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    for key in ("batch_digest", "rows_digest", "document_share", "source_byte_share", "total_source_bytes"):
        assert [line[key] for line in ours] == [line[key] for line in whole], key
    for key in ("loss_nats", "objective", "gradient_norm"):
        assert [line[key] for line in ours] == pytest.approx([line[key] for line in whole], rel=1e-5), key
    for key in ("head_loss_nats", "bits_per_byte"):
        for mine, theirs in zip(ours, whole, strict=True):
            assert numbers(mine[key]) == pytest.approx(numbers(theirs[key]), rel=1e-5), key


def test_validation_reads_every_row_once(runs: dict[str, Any]) -> None:
    whole, shared = (runs["record"][name]["validation"] for name in ("undivided", "shared"))
    assert [found["step"] for found in shared] == [found["step"] for found in whole]
    for mine, theirs in zip(shared, whole, strict=True):
        assert numbers(mine["bits_per_byte"]) == pytest.approx(numbers(theirs["bits_per_byte"]), rel=1e-5)
