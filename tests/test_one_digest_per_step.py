"""One nano run, one data digest a step: for one and two ranks, micro-batches of 1, 2 and 4 rows, 0 and 2 loader threads, and three kills.

`rows_digest` is of the ids that the ranks were really given; `batch_digest` of what the plan has for the step. Real DeepSpeed, real kills.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from pathlib import Path

import pytest

STEPS = 30
MICRO_BATCHES = (1, 2, 4)
WORKERS = (0, 2)

CHILD = Path(__file__).with_name("several_runs.py")


def settings_of(tiny_run, name: str, rows_per_device: int, workers: int, **more) -> Path:
    return tiny_run.write(
        tiny_run.settings(
            name,
            num_steps=STEPS,
            rows_per_device=rows_per_device,
            loader={"workers": workers},
            model={"preset": None, "width": 16, "depth": 1, "num_heads": 1, "hidden": 32},
            validation={"max_bytes": 0},
            **more,
        )
    )


def digests(run: Path) -> list[tuple[int, str, str]]:
    """Of every whole line; a kill may have torn the last one."""
    found = []
    for text in (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]:
        line = json.loads(text)
        found.append((line["step"], line["batch_digest"], line["rows_digest"]))
    return found


@pytest.fixture(scope="module")
def whole(tiny_run) -> dict[tuple[int, int, int], Path]:
    """{(ranks, rows of a micro-batch, workers): run folder}, all of one number of ranks in one start."""
    runs = {}
    for ranks in (1, 2):
        configs = []
        for rows, workers in itertools.product(MICRO_BATCHES, WORKERS):
            name = f"digest-{ranks}-{rows}-{workers}"
            runs[ranks, rows, workers] = tiny_run.folder / "runs" / name
            configs.append(settings_of(tiny_run, name, rows, workers, checkpoint={"every_steps": None, "every_seconds": None}))
        tiny_run.train(*configs, ranks=ranks, script=CHILD)
    return runs


@pytest.mark.slow
def test_ranks_micro_batches_and_workers_change_no_row_of_any_step(whole):
    first = digests(whole[1, 1, 0])
    assert [step for step, _, _ in first] == list(range(1, STEPS + 1))
    assert len({rows for _, _, rows in first}) == STEPS  # and the steps do differ
    for which, run in whole.items():
        assert digests(run) == first, which


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss_nats"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_and_their_losses_agree_to_rounding(whole):
    first = losses(whole[1, 1, 0])
    for which, run in whole.items():
        assert losses(run) == pytest.approx(first, rel=1e-5), which


def num_lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_three_kills_and_moves_between_one_and_two_ranks_change_no_row_of_any_step(tiny_run, whole):
    """1 rank, killed; 2 ranks, killed; 1 rank, killed; 2 ranks to the end: with another micro-batch and other workers each time."""
    wanted = digests(whole[1, 1, 0])
    run = tiny_run.folder / "runs" / "digest-killed"
    moments = random.Random(os.urandom(8))
    seen: list[tuple[int, str, str]] = []
    for kill, (ranks, rows, workers) in enumerate(((1, 1, 0), (2, 2, 2), (1, 4, 2))):
        config = settings_of(tiny_run, "digest-killed", rows, workers, checkpoint={"every_steps": 2})
        process = tiny_run.start(config, ranks=ranks)
        target, end = 4 + 8 * kill + moments.randint(0, 4), time.monotonic() + 120
        while num_lines(run) < target:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < end, "no progress"
            time.sleep(0.002)
        time.sleep(moments.random() * 0.1)
        process.kill()
        process.communicate()
        seen += digests(run)
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    config = settings_of(tiny_run, "digest-killed", 1, 0, checkpoint={"every_steps": 2})
    output = tiny_run.train(config, ranks=2)
    assert digests(run) == wanted, output
    assert set(seen) <= set(wanted)  # the steps that were lost and made again, too
    assert losses(run) == pytest.approx(losses(whole[1, 1, 0]), rel=1e-5)
    starts = json.loads((run / "run.json").read_text())["starts"]
    assert [start["world_size"] for start in starts] == [1, 2, 1, 2]
    assert starts[0]["step"] == 0 < starts[1]["step"] <= starts[2]["step"] <= starts[3]["step"]
