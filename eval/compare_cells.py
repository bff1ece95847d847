"""One cell of a comparison: trained, scored, asked further, and kept, so that it is never done twice and any process may do it.

    OUT/cells/<cell>.json             what was found, with the key of everything it depends on; written last, atomically
    OUT/cells/.<cell>.lock            held by the process that runs it, and let go with that process, however it ends
    OUT/arms/<cell>/                  its run folder; OUT/search/<try>/ that of a try of the search for learning rates

A kept cell counts only while its key is that of the plan. A failed one is kept with its reason, and tried again by the next command.
Whatever goes wrong in a cell fails that cell; only what cannot be written down ends the grid.
"""

from __future__ import annotations

import fcntl
import json
import math
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compressors.files import read_json, write_json
from eval import further, ledger
from eval.bpb import evaluate
from eval.plan import ArmRun, ComparePlan
from eval.results import ArmResult
from proxy_lm.config import Settings, validate
from proxy_lm.errors import ProxyError
from proxy_lm.progress import note
from proxy_lm.train import child
from proxy_lm.train.settings import RunSettings

CELL_SCHEMA = "proxy-lm cell 1"
_NUM_PLACES = 3
CellState = Literal["done", "failed", "running", "waiting"]


class KeptCell(Settings):
    """A file of OUT/cells."""

    cell_schema: Literal["proxy-lm cell 1"] = "proxy-lm cell 1"
    key: dict[str, Any]
    """All that the result depends on; see `key_of`."""
    result: ArmResult
    num_bytes_by_project: list[float] | None = None
    """Bytes of the scored projects, in the order of `result.nll_nats_by_project`."""
    machine: dict[str, Any]
    """Where it was run: kind of device, cores."""


@dataclass(frozen=True)
class Grid:
    """What a process must know to run any cell of a comparison; plain values, so that it can be sent to another process."""

    plan: ComparePlan
    place: ledger.Place
    steps: Mapping[str, int]
    """Steps of every run, by cell name."""
    flops: Mapping[str, float]
    """Training FLOPs of every run, by cell name."""
    corpus_digest: str
    view_digests: Mapping[str, str]
    machine: Mapping[str, Any]
    evaluation_workers: int

    @property
    def out(self) -> Path:
        """The comparison's folder."""
        return self.place.out


def key_of(plan: ComparePlan, run: ArmRun, num_steps: int, corpus_digest: str, view_digests: Mapping[str, str]) -> dict[str, Any]:
    """Everything the result of a cell depends on, as JSON: equal keys, equal numbers up to rounding. Folders and devices are not in it."""
    evaluation = plan.evaluation.model_dump(mode="json", exclude={"windows_per_batch", "device"})
    key = {
        "settings": dict(run.values),
        "views": {view: view_digests[view] for view in run.needed_views},
        "corpus": corpus_digest,
        "match": {plan.match.kind: run.target},
        "seed": run.seed,
        "num_steps": num_steps,
        "evaluation": evaluation if run.tried_rate is None else None,
        "evaluations": without_folders(plan.evaluations) if run.tried_rate is None else None,
    }
    found: dict[str, Any] = json.loads(json.dumps(key))
    return found


def without_folders(evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Options of evaluations for readers elsewhere: folders of this machine are told by their last part."""
    return {
        name: {key: Path(value).name if isinstance(value, str) and value.startswith("/") else value for key, value in options.items()}
        for name, options in evaluations.items()
    }


def cell_key(grid: Grid, run: ArmRun) -> dict[str, Any]:
    """`key_of` a run of this grid."""
    return key_of(grid.plan, run, grid.steps[run.cell_name], grid.corpus_digest, grid.view_digests)


def kept_path(out: Path, run: ArmRun) -> Path:
    """Where a cell is kept."""
    return out / "cells" / f"{run.cell_name}.json"


def read_kept(out: Path, run: ArmRun) -> KeptCell | None:
    """A cell as it was kept, whatever its key; None where there is none."""
    path = kept_path(out, run)
    return validate(KeptCell, read_json(path, "a kept cell"), source=str(path)) if path.exists() else None


def finished(grid: Grid, run: ArmRun) -> KeptCell | None:
    """The kept cell, when it was made of what the plan says now; its status may be 'failed'."""
    kept = read_kept(grid.out, run)
    return kept if kept is not None and kept.key == cell_key(grid, run) else None


def keep(grid: Grid, run: ArmRun, result: ArmResult, num_bytes: list[float] | None, machine: Mapping[str, Any] | None = None) -> ArmResult:
    """Write a cell down; the same result."""
    kept = KeptCell(
        key=cell_key(grid, run), result=result, num_bytes_by_project=num_bytes, machine=dict(grid.machine if machine is None else machine)
    )
    write_json(kept_path(grid.out, run), kept.model_dump(mode="json"))
    return result


def state_of(out: Path, run: ArmRun) -> CellState:
    """What can be seen of a cell from outside. One that was made of an older plan counts as done until a command that runs cells looks."""
    kept = read_kept(out, run)
    if kept is not None and kept.result.status == "done":
        return "done"
    if _lock_path(out, run).exists():
        with only_one(out, run, patience_seconds=0) as free:
            if not free:
                return "running"
    return "failed" if kept is not None else "waiting"


@contextmanager
def only_one(out: Path, run: ArmRun, *, patience_seconds: float = 2.0) -> Iterator[bool]:
    """Whether this process has the cell for itself while the block runs. The patience is for those who only look whether it is free."""
    path = _lock_path(out, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_seconds
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    yield False
                    return
                time.sleep(0.1)
                continue
            yield True
            return


def _lock_path(out: Path, run: ArmRun) -> Path:
    path = kept_path(out, run)
    return path.with_name(f".{path.stem}.lock")


def blank(grid: Grid, run: ArmRun) -> ArmResult:
    """A cell that has not run: its ledger is known, its score is not."""
    num_steps = grid.steps[run.cell_name]
    return ArmResult(
        name=run.arm,
        scale=run.scale,
        budget=run.budget,
        seed=run.seed,
        learning_rate=run.settings(grid.out, grid.place.corpus, num_steps).optimizer.learning_rate,
        folder=run.folder,
        status="not run",
        differs=grid.plan.arms[run.arm],
        **ledger.ledger(run, grid.place, num_steps),
    )


def run_cell(grid: Grid, run: ArmRun) -> ArmResult:
    """A cell that is done: found, or trained and scored now. A failure is a result with a reason, not an exception; a cell that another
    process runs is 'not run', and says so. Raises `WorkError` where the cell cannot be kept."""
    with only_one(grid.out, run) as free:
        if not free:
            return blank(grid, run).model_copy(update={"failure": "another process is running it"})
        kept = finished(grid, run)
        if kept is not None and kept.result.status == "done":
            return kept.result
        empty = blank(grid, run)
        try:
            result, num_bytes = _trained(grid, run, empty)
        except Exception as error:  # also a bug, a full disk in its folder, no memory: the other cells may well go on
            if not isinstance(error, ProxyError):
                traceback.print_exception(error)
            failure = child.without_places(reason_of(error), grid.out / run.folder)
            note(f"{_title(run)}: failed; {failure}")
            result, num_bytes = empty.model_copy(update={"status": "failed", "failure": failure}), None
        return keep(grid, run, result, num_bytes)


def reason_of(error: Exception) -> str:
    """Why a cell failed: the sentence of an error that has one, of any other its type, its message, and the last places it came through."""
    if isinstance(error, ProxyError):
        return str(error)
    places = traceback.extract_tb(error.__traceback__)[-_NUM_PLACES:]
    lines = [f"  {Path(place.filename).name}:{place.lineno}, in {place.name}" for place in places]
    return "\n".join([": ".join(part for part in (type(error).__name__, str(error)) if part), *lines])


def keep_failure(grid: Grid, run: ArmRun, known: ArmResult, failure: str) -> ArmResult:
    """A cell that failed for a reason outside it."""
    return keep(grid, run, known.model_copy(update={"status": "failed", "failure": failure}), None)


def _title(run: ArmRun) -> str:
    return f"{'arm' if run.tried_rate is None else 'try'} {run.folder_name}"


def _trained(grid: Grid, run: ArmRun, empty: ArmResult) -> tuple[ArmResult, list[float] | None]:
    settings = run.settings(grid.out, grid.place.corpus, grid.steps[run.cell_name])
    title = _title(run)
    outcome = child.train_run(settings, grid.plan.launch, title)
    known = empty.model_copy(update={**ledger.spent(settings), "wall_seconds": outcome.wall_seconds})
    if outcome.failure is not None:
        note(f"{title}: failed; {outcome.failure}")
        return known.model_copy(update={"status": "failed", "failure": outcome.failure}), None
    record = child.finished_run(settings)
    assert record is not None
    known = ledger.with_teaching(known, record).model_copy(update={"finished_on": time.strftime("%Y-%m-%d")})
    if run.tried_rate is not None:
        return _tried(known, settings, record), None
    return _scored(grid, known, settings, record, title)


def _tried(known: ArmResult, settings: RunSettings, record: dict[str, Any]) -> ArmResult:
    """A try is judged by its last validation; a whole evaluation would cost as much as the try."""
    from proxy_lm.reading import reading_view  # torch

    found = ledger.curve(settings, record, reading_view(settings))
    points = [point for point in found["curve"] if math.isfinite(point.bits_per_byte)]
    if not points or points[-1].step != settings.num_steps:
        return known.model_copy(update={"status": "failed", "failure": "diverged: the last validation gave no number"})
    bits = points[-1].bits_per_byte
    return known.model_copy(update={"status": "done", "bits_per_byte": bits, "view": found["curve_view"], **found, "curve": points})


def _scored(
    grid: Grid, known: ArmResult, settings: RunSettings, record: dict[str, Any], title: str
) -> tuple[ArmResult, list[float] | None]:
    """Bits per byte, and then what else the plan asks."""
    try:
        measured = evaluate(settings.folder, grid.plan.evaluation, num_workers=grid.evaluation_workers)
    except ProxyError as error:
        note(f"{title}: could not be scored: {error}")
        return known.model_copy(update={"status": "failed", "failure": f"trained, but not scored: {error}"}), None
    score = measured.result
    note(f"{title}: {score['bits_per_byte']:.4f} bits per byte")
    views = {name: grid.out / "views" / name for name in grid.plan.views}
    asked, failures = further.measure(grid.plan.evaluations, settings.folder, views, title)
    update = {
        "status": "done",
        "bits_per_byte": score["bits_per_byte"],
        "interval": tuple(score["interval"]) if score["interval"] else None,
        "nll_nats_by_project": measured.clusters.nll_nats.tolist(),
        "evaluation": score,
        "view": score["view"],
        "final": {**known.final, "loss_hex": record["final_loss_hex"], "checkpoint": score["checkpoint"]},
        **ledger.curve(settings, record, score["view"]),
        "evaluations": asked,
        "evaluation_failures": failures,
    }
    return known.model_copy(update=update), measured.clusters.num_bytes.tolist()
