"""Names of what lies in a run folder, for those who write it and those who only look. No torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from proxy_lm.errors import RequestError
from proxy_lm.train.checkpoint_files import MANIFEST_NAME, parse_step

CONFIG_NAME: Final = "config.yaml"
DEEPSPEED_NAME: Final = "deepspeed.json"
RUN_NAME: Final = "run.json"
METRICS_NAME: Final = "metrics.jsonl"
FAULTS_NAME: Final = "faults.jsonl"
CHECKPOINTS_NAME: Final = "checkpoints"
# A checkpoint being converted for another number of ranks; the next start deletes what a kill leaves of it.
UNIVERSAL_NAME: Final = "universal.tmp"
_NUM_NAMED: Final = 3


def check_run(path: Path) -> None:
    """Raise `RequestError` where `path` is neither a run folder nor one checkpoint of it, by the names in it alone."""
    what = "give a run folder (it holds checkpoints/) or one checkpoint (step-N)"
    if not path.is_dir():
        raise RequestError(f"{path} is not a folder; {what}")
    if (path / CHECKPOINTS_NAME).is_dir() or (parse_step(path.name) is not None and (path / MANIFEST_NAME).exists()):
        return
    if (path / "plan.json").exists() and any((path / name).exists() for name in ("arms", "cells", "results.json")):
        raise RequestError(f"{path} is a comparison, no run; {_arms_of(path)}")
    inside = sorted(path.iterdir())
    steps = [step for one in inside if (step := parse_step(one.name)) is not None]
    if steps:
        around = os.path.normpath(path / os.pardir)
        raise RequestError(f"{path} is inside a run; give the run folder {around}, or one checkpoint of it: {path / f'step-{max(steps)}'}")
    runs = [one for one in inside if (one / CHECKPOINTS_NAME).is_dir()]
    if runs:
        raise RequestError(f"{path} is no run, it holds {len(runs)}; give one of them: {runs[0]}")
    raise RequestError(f"{path} has no checkpoint: it is no run, or its training has not saved yet; {what}")


def _arms_of(comparison: Path) -> str:
    """What to give in a comparison's place."""
    folder = comparison / "arms"
    arms = sorted(one for one in folder.iterdir() if (one / CHECKPOINTS_NAME).is_dir()) if folder.is_dir() else []
    if not arms:
        return f"none of its arms has a checkpoint in {folder}; train them with proxy-lm-eval compare, then give one of the folders there"
    named = ", ".join(map(str, arms[:_NUM_NAMED])) + (f" and {len(arms) - _NUM_NAMED} more" if len(arms) > _NUM_NAMED else "")
    return f"give one of its arms: {named}" if len(arms) > 1 else f"give its arm: {named}"
