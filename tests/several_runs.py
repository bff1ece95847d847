"""The program of `python -m proxy_lm.train`, for several runs in one start of the ranks: `several_runs.py CONFIG ...`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from proxy_lm.config import load
from proxy_lm.train import engine
from proxy_lm.train.launch import detect
from proxy_lm.train.run import train_among
from proxy_lm.train.settings import RunSettings
from proxy_lm.train.stopping import StopRequest

runs = [load(RunSettings, Path(path), []) for path in sys.argv[1:]]
with StopRequest() as stop:
    ranks = engine.start(runs[0].communication, detect(os.environ))
    for settings in runs:
        assert train_among(ranks, settings, stop)
engine.stop()
