"""Cells for other schedulers: what there is to run, and a job file for Slurm.

    proxy-lm-eval compare PLAN --cells                    name, state and forecast of every cell
    proxy-lm-eval compare PLAN --slurm > grid.sh          then: bash grid.sh, where sbatch is

The job file submits itself four times, each after the other: corpus and views; an array of the tries of the search, where there is one; an
array of the cells; the report. All nodes see the folder of the comparison. Not promised: that locks of cells hold on a file system
without `flock`; there, run no cell twice at once.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from eval import rate_search
from eval.compare_cells import read_kept, state_of
from eval.plan import ArmRun, ComparePlan, arm_runs

_DEFAULT_CORES = 4


def listing(plan: ComparePlan, out: Path) -> list[dict[str, Any]]:
    """One row a try or cell: {cell, state, target, forecast_seconds}; makes nothing. The forecast is that of finished cells of the same
    scale, or else of all, in proportion to the budget; None before there are any."""
    runs = [*rate_search.tries(plan), *arm_runs(plan)]
    paces: dict[str | None, list[float]] = {}
    for run in runs:
        kept = read_kept(out, run)
        if kept is not None and kept.result.status == "done" and kept.result.wall_seconds is not None:
            scored = float((kept.result.evaluation or {}).get("seconds", 0.0))
            paces.setdefault(run.scale, []).append((kept.result.wall_seconds + scored) / run.target)
    every = [pace for of_scale in paces.values() for pace in of_scale]
    rows = []
    for run in runs:
        pace = median(paces.get(run.scale) or every) if every else None
        forecast = None if pace is None else pace * run.target
        rows.append({"cell": run.cell_name, "state": state_of(out, run), "target": run.target, "forecast_seconds": forecast})
    return rows


def slurm_script(plan: ComparePlan, command: Sequence[str]) -> str:
    """A bash file that submits the whole grid; `command` is the comparison's, without what tells it to print this."""
    tries, cells = rate_search.tries(plan), list(arm_runs(plan))
    ranks = plan.launch.num_ranks
    cores = ranks * (plan.launch.threads_per_rank or _DEFAULT_CORES)
    search = (
        f"""  after=$(submit --array=0-{len(tries) - 1} --dependency="afterok:$after" "$0" try)
"""
        if tries
        else ""
    )
    return f"""#!/bin/bash
# The comparison '{plan.name}' as jobs for Slurm: `bash THIS-FILE` submits them, one array element a cell. Submitted again it continues.
# GPUS=0 is for processors alone; CPUS, GPUS and TIME are of one cell, SBATCH_PARTITION and its like are sbatch's own.
set -euo pipefail
COMPARE=({shlex.join(command)})
TRIES=({_names(tries)})
CELLS=({_names(cells)})
OPTIONS=(--parsable --ntasks=1 --cpus-per-task="${{CPUS:-{cores}}}" --time="${{TIME:-24:00:00}}" --signal=B:TERM@120 --open-mode=append)
if [ "${{GPUS:-{ranks}}}" -gt 0 ]; then OPTIONS+=(--gpus-per-task="${{GPUS:-{ranks}}}"); fi

submit() {{ sbatch "${{OPTIONS[@]}}" --job-name={plan.name} --output={plan.name}-%j.log "$@" | cut -d';' -f1; }}

# Near the end of its time a cell saves a checkpoint and goes back into the queue.
one() {{
  "${{COMPARE[@]}}" --cell "$1" & pid=$!
  trap 'kill -TERM $pid; wait $pid || true; scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"; exit 0' TERM
  wait $pid
}}

case "${{1:-submit}}" in
submit)
  after=$(submit "$0" prepare)
{search}  after=$(submit --array=0-{len(cells) - 1} --dependency="{"afterany" if tries else "afterok"}:$after" "$0" cell)
  submit --dependency="afterany:$after" "$0" collect ;;
prepare) "${{COMPARE[@]}}" --prepare ;;
try) one "${{TRIES[$SLURM_ARRAY_TASK_ID]}}" ;;
cell) one "${{CELLS[$SLURM_ARRAY_TASK_ID]}}" ;;
collect) "${{COMPARE[@]}}" --collect ;;
esac
"""


def _names(runs: Sequence[ArmRun]) -> str:
    return " ".join(run.cell_name for run in runs)
