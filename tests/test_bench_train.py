"""The step's cost over a bare PyTorch loop, measured in one run; `make bench` prints the ratios."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.bench
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_step_costs_at_most_a_tenth_more_than_a_bare_loop(ranks, capsys):
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone", "-m", "proxy_lm.train.bench"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    with capsys.disabled():
        print(f"\n{ranks} ranks: step / bare step {found['ratio']:.3f}, quartiles {found['quartiles']}, cpu {found['cpu_ratio']:.3f}")
    assert found["last_losses"][0] == pytest.approx(found["last_losses"][1], rel=0.05)
    assert found["ratio"] <= 1.10
