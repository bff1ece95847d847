"""What a checkpoint costs beside writing the same bytes once. Run by `make bench`."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from proxy_lm.train.checkpoint import CheckpointManager

SIZE_BYTES = 256 << 20
NUM_FILES = 4
ROUNDS = 5

pytestmark = pytest.mark.bench


def test_checkpoint_megabytes_a_second(tmp_path, capsys):
    # The shape of a small run's checkpoint: a few large files of tensors. A save writes them, digests and forces each to the disk, and
    # reads the whole back from there before an older checkpoint goes. The peer writes the same files and forces them to the disk.
    parts = [torch.randn(SIZE_BYTES // 4 // NUM_FILES) for _ in range(NUM_FILES)]
    manager = CheckpointManager(tmp_path / "checkpoints", keep_last=2)

    def write(folder: Path) -> None:
        for k, part in enumerate(parts):
            torch.save(part, folder / f"part-{k}.pt")

    def bare(step: int) -> None:
        folder = tmp_path / f"bare-{step % 2}"
        folder.mkdir(exist_ok=True)
        write(folder)
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    seconds: dict[str, list[float]] = {"bare": [], "save": [], "load": [], "sha256": []}
    for step in range(1, ROUNDS + 3):
        work: dict[str, Callable[[], object]] = {
            "bare": partial(bare, step),
            "save": partial(manager.save, step, write, {}),
            "load": manager.newest_valid,
            "sha256": partial(hashlib.sha256, parts[0].numpy().data),
        }
        for name, one in work.items():
            began = time.perf_counter()
            one()
            if step > 2:  # from the third on a save also reads back and rotates
                seconds[name].append((time.perf_counter() - began) * (NUM_FILES if name == "sha256" else 1))
    rates = {name: SIZE_BYTES / 1e6 / statistics.median(times) for name, times in seconds.items()}
    ratio = statistics.median(save / peer for save, peer in zip(seconds["save"], seconds["bare"], strict=True))
    with capsys.disabled():
        print(
            f"\ncheckpoint of {SIZE_BYTES >> 20} MiB, one rank: save {rates['save']:.0f} MB/s (write, digest, force to disk, read back, "
            f"rotate), verify before a load {rates['load']:.0f} MB/s; torch.save and fsync alone {rates['bare']:.0f} MB/s, so a save takes "
            f"{ratio:.2f} x its time; sha256 {rates['sha256']:.0f} MB/s"
        )
    assert ratio < 8
