"""Run a comparison to its end: corpus, views, budget, search, cells, verdicts, report. Whatever is finished is found and kept.

    proxy-lm-eval compare configs/compare/quickstart.yaml

    out/ corpus/ views/<name>/ search/<try>/ arms/<cell>/ cells/<cell>.json plan.json results.json report.md report.html

Killed anywhere and run again it continues; a failed arm is reported as failed and the others go on. `results.json` is written after every
cell, so a part of a comparison can be read. Several processes may share one folder, each with cells of its own (`eval.compare_cells`).
"""

from __future__ import annotations

import fcntl
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import compressors.registry as registry
from compressors.files import read_json, write_json
from eval import dry_run, further, ledger, rate_search, report, results, schedule
from eval.budget import Rates
from eval.compare_cells import Grid, blank, finished, keep_failure, run_cell, state_of, without_folders
from eval.imported_cells import Theirs, tell_import
from eval.matching import describe_runs, solve_runs
from eval.plan import ArmRun, ComparePlan, arm_runs, differences
from eval.planned_windows import check_documents_fit
from eval.results import ArmResult, ChosenRate, Projects, Results
from eval.teacher_scores import teacher_scores
from eval.verdicts import with_verdicts
from proxy_lm import plotting
from proxy_lm.config import validate
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.encoding import encode_corpus
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.data.views import View
from proxy_lm.errors import RequestError
from proxy_lm.progress import note
from proxy_lm.train import child
from proxy_lm.view_training import train_view

_LIBRARIES = ("proxy-lm", "torch", "deepspeed", "numpy", "sentencepiece", "zstandard")
_PROBE_STEPS = 12
_WAIT_SECONDS = 5.0


@dataclass(frozen=True)
class Prepared:
    """A comparison whose corpus, views and budget are there."""

    grid: Grid
    resolved: dict[str, Any]
    corpus: Corpus
    views: dict[str, View]
    tries: list[ArmRun]
    runs: list[ArmRun]
    """Cells in the order of the plan, with the learning rates that the plan states."""
    costs: dict[str, Rates]
    """Of every run, by cell name."""
    jobs: int
    once: dict[str, dict[str, Any]]
    """What further evaluations measure once for all arms."""


def compare(plan: ComparePlan, out: Path, command: str, *, imported: Path | None = None, only_collect: bool = False) -> Results:
    """Everything, or with `only_collect` a report of what is finished. Raises `RequestError` before any work for a plan that cannot run
    or is not the one in `out`."""
    plotting.require()
    theirs = None if imported is None else Theirs.read(imported)
    ready = prepared(plan, out)
    grid = ready.grid
    tell_budget(plan, ready.runs, ready.costs, grid.steps)
    settled = settled_failures(ready)
    open_tries = [run for run in ready.tries if run.cell_name not in settled]
    if theirs is not None:
        tell_import(theirs, grid, open_tries)
    if not only_collect:
        _run(ready, open_tries, {}, "search", lambda: None)
    tried = {run.cell_name: cell for run in ready.tries if (cell := _kept_result(grid, run)) is not None}
    chosen = rate_search.choose(plan, rate_search.searched(ready.tries, tried))
    runs, unrated = rate_search.with_rates(plan, ready.runs, chosen)
    if theirs is not None:
        tell_import(theirs, grid, runs)
    cells = {run.cell_name: _kept_result(grid, run) or blank(grid, run) for run in runs}

    def save() -> Results:
        found = gathered(ready, command, runs, cells, tried, chosen)
        results.save(found, out)
        return found

    if not only_collect:
        for run in runs:
            if run.cell_name in unrated:
                cells[run.cell_name] = keep_failure(grid, run, cells[run.cell_name], unrated[run.cell_name])
        save()
        _run(ready, [run for run in runs if run.cell_name not in unrated], cells, "grid", save)
    found = with_verdicts(save())
    results.save(found, out)
    report.write(found, out)
    return found


def one_cell(plan: ComparePlan, out: Path, name: str, *, imported: Path | None = None) -> ArmResult:
    """Run one cell of the grid or one try of the search, for array jobs. Raises `RequestError` for a name that is none of them, for a cell
    that another process runs, and for one whose learning rate is not chosen yet."""
    names = {run.cell_name for run in (*rate_search.tries(plan), *arm_runs(plan))}
    if name not in names:
        raise RequestError(f"'{name}' is no cell of this comparison; --cells lists its {len(names)} cells")
    theirs = None if imported is None else Theirs.read(imported)
    ready = prepared(plan, out, jobs=1)
    grid, known = ready.grid, {run.cell_name: run for run in (*ready.tries, *ready.runs)}
    settled = settled_failures(ready)
    if theirs is not None:
        tell_import(theirs, grid, [run for run in ready.tries if run.cell_name not in settled])
    run = known[name]
    if name in settled:
        return settled[name]
    tell_budget(plan, [run], ready.costs, grid.steps)
    if run.tried_rate is None:
        run = rated_cell(ready, run)
        if theirs is not None:
            tell_import(theirs, grid, [run])
    result = run_cell(grid, run)
    if result.status == "not run":
        raise RequestError(f"cell {name} is being run by another process; wait for it, or run another cell")
    return result


def settled_failures(ready: Prepared) -> dict[str, ArmResult]:
    """Tries that failed and stay so, by cell name: cells have begun with the rate that the others of their arm and scale gave, which
    would not fit another choice."""
    plan, out = ready.grid.plan, ready.grid.out
    kept = {one.cell_name: found for one in ready.tries if (found := _kept_result(ready.grid, one)) is not None}
    failed = {one.cell_name: one for one in ready.tries if one.cell_name in kept and kept[one.cell_name].status == "failed"}
    if not failed:
        return {}
    rated, _ = rate_search.with_rates(plan, ready.runs, rate_search.choose(plan, rate_search.searched(ready.tries, kept)))
    begun = {
        (run.arm, rate_search.searched_scale(plan, run))
        for run, stated in zip(rated, ready.runs, strict=True)
        if run is not stated and ((out / run.folder / "run.json").exists() or _is_done(ready.grid, run))
    }
    settled = {name: kept[name] for name, one in failed.items() if (one.arm, one.scale) in begun}
    for name in settled:
        note(f"{name} failed and stays so: cells of its arm are trained with the best of its other rates")
    return settled


def rated_cell(ready: Prepared, run: ArmRun) -> ArmRun:
    """The cell with the learning rate that the search chose."""
    plan = ready.grid.plan
    tried = {one.cell_name: kept for one in ready.tries if (kept := _kept_result(ready.grid, one)) is not None}
    missing = [one.cell_name for one in ready.tries if one.arm == run.arm and one.cell_name not in tried]
    if missing:
        raise RequestError(f"the learning rate of {run.cell_name} is not chosen yet: run first --cell {' and --cell '.join(missing)}")
    (rated,), failures = rate_search.with_rates(plan, [run], rate_search.choose(plan, rate_search.searched(ready.tries, tried)))
    if failures:
        raise RequestError(f"cell {run.cell_name} has {failures[run.cell_name]}")
    return rated


def prepared(plan: ComparePlan, out: Path, *, jobs: int | None = None) -> Prepared:
    """Corpus, views and budget, made as far as they are not there; one process at a time makes them, others wait. `jobs` stands in for
    the plan's, where another program decides how many run here."""
    child.require_deepspeed()
    dry_run.check(plan, out)
    resolved = plan.model_dump(mode="json")
    jobs = jobs or schedule.num_jobs(plan)
    plan = schedule.shared_out(plan, jobs)
    with _one_prepares(out):
        check_same_plan(out, resolved)
        write_json(out / "plan.json", resolved)
        corpus = prepare_corpus(plan, out)
        once = further.measure_once(plan.evaluations, corpus, out / "once")
        views = {name: make_view(plan, name, corpus, out) for name in plan.views}
        place = ledger.Place(out, corpus.path, plan.launch.num_ranks)
        runs, tries = list(arm_runs(plan)), rate_search.tries(plan)
        check_documents_fit(plan, runs, corpus, views)
        costs = {run.cell_name: ledger.rates(run, place, _pace(plan, run, place)) for run in (*runs, *tries)}
    steps = solve_runs(plan, runs, costs) | solve_runs(plan, tries, costs, tolerance=rate_search.TOLERANCE)
    grid = Grid(
        plan=plan,
        place=place,
        steps=steps,
        flops={name: float(costs[name].flops_per_step * steps[name]) for name in steps},
        corpus_digest=corpus.digest,
        view_digests={name: view.digest for name, view in views.items()},
        machine=_machine(),
        evaluation_workers=_evaluation_workers(plan),
    )
    return Prepared(grid, resolved, corpus, views, tries, runs, costs, jobs, once)


def _run(ready: Prepared, runs: Sequence[ArmRun], cells: dict[str, ArmResult], what: str, keep: Callable[[], object]) -> None:
    """Run what is not done, cheap cells first, and wait for what other processes run; `cells` gets the results, `keep` is called after
    each."""
    todo = [run for run in runs if not _is_done(ready.grid, run)]
    elsewhere: list[ArmRun] = []

    def found(run: ArmRun, result: ArmResult) -> None:
        cells[run.cell_name] = result
        if result.status == "not run":
            elsewhere.append(run)
        keep()

    while todo:
        ordered = schedule.in_order(todo, ready.grid.flops, ready.grid.plan.seeds)
        schedule.run_cells(ready.grid, ordered, ready.jobs, found, what, num_done=len(runs) - len(todo))
        if elsewhere:
            note(f"{what}: waiting for {len(elsewhere)} cells that other processes run")
            while all(state_of(ready.grid.out, run) == "running" for run in elsewhere):
                time.sleep(_WAIT_SECONDS)
        todo, elsewhere = elsewhere, []


def _kept_result(grid: Grid, run: ArmRun) -> ArmResult | None:
    kept = finished(grid, run)
    return None if kept is None else kept.result


def _is_done(grid: Grid, run: ArmRun) -> bool:
    kept = finished(grid, run)
    return kept is not None and kept.result.status == "done"


def check_same_plan(out: Path, resolved: dict[str, Any]) -> None:
    """Raise `RequestError` with the differences when finished work in `out` was made by another plan."""
    path = out / "plan.json"
    if not path.exists() or not any((out / name).exists() for name in ("corpus", "views", "arms", "probes")):
        return
    changed = differences(read_json(path, "plan of the comparison"), resolved)
    if not any((out / name).exists() for name in ("arms", "probes")):
        changed = [line for line in changed if line.startswith(("corpus", "views"))]  # nothing else has been made yet
    if changed:
        raise RequestError(
            f"{out} holds work of another plan ({'; '.join(changed)}); take the change back, or give another folder with --out"
        )


def prepare_corpus(plan: ComparePlan, out: Path) -> Corpus:
    """The plan's corpus, made if it is not there yet."""
    if plan.corpus.path is not None:
        return Corpus.open(Path(plan.corpus.path))
    settings = validate(PrepareSettings, plan.corpus.options, source="corpus.options")
    prepare(plan.corpus.sources, out / "corpus", settings, num_workers=schedule.num_cores())
    return Corpus.open(out / "corpus")


def make_view(plan: ComparePlan, name: str, corpus: Corpus, out: Path) -> View:
    """Fit and encode one view, as far as that is not done yet."""
    wanted, folder = plan.views[name], out / "views" / name
    if not _fitted(folder, wanted.kind, wanted.options, corpus):
        train_view(wanted.kind, corpus, folder, options=wanted.options)
    encode_corpus(corpus, folder, folder, num_workers=schedule.num_cores())
    return View.open(folder, corpus, name=name)


def _fitted(folder: Path, kind: str, options: dict[str, Any], corpus: Corpus) -> bool:
    """Whether this very view was fitted before; fitting again would only cost time, since it gives the same symbols."""
    if not (folder / registry.ARTIFACT_NAME).exists():
        return False
    artifact = registry.read_artifact(folder)
    training = (artifact.get("measured") or {}).get("training") or {}
    return bool(artifact["kind"] == kind and training.get("options") == options and training.get("corpus_digest") == corpus.digest)


def tell_budget(plan: ComparePlan, runs: Sequence[ArmRun], costs: Mapping[str, Rates], steps: Mapping[str, int]) -> None:
    """One line a cell on standard error; where all seeds are given the same, of one seed."""
    first = [run for run in runs if run.seed == runs[0].seed] if plan.match.kind in ("flops", "symbols") else runs
    target = "" if plan.budgets else f", {plan.match.target:.4g}"
    note(f"budget: equal {plan.match.kind}{target}, {len(runs)} {'cell' if len(runs) == 1 else 'cells'}")
    for row in describe_runs(plan, first, costs, steps):
        note(
            f"  {row['arm']}: {row['num_steps']} steps, {row['symbols']:,} symbols, {row['training_flops']:.4g} FLOPs "
            f"({100 * row['off_target']:+.2f} % from the target)"
        )


def _pace(plan: ComparePlan, run: ArmRun, place: ledger.Place) -> float | None:
    """Seconds of a step, from a short run of its own that is kept, so that a continued comparison has the same budget."""
    if plan.match.kind != "seconds":
        return None
    name = "-".join([run.arm, *([run.scale] if run.scale else [])])  # seed, budget and learning rate change no pace
    folder = place.out / "probes" / name
    path = folder / "pace.json"
    if not path.exists():
        settings = run.settings(place.out, place.corpus, _PROBE_STEPS).model_copy(update={"out": str(folder)})
        outcome = child.train_run(settings, plan.launch, f"pace of {name}")
        pace = ledger.seconds_per_step(child.read_metrics(folder))
        if outcome.failure is not None or pace is None:
            raise RequestError(f"the pace of arm '{name}' could not be measured: {outcome.failure}")
        write_json(path, {"seconds_per_step": pace})
    return float(read_json(path, "pace of an arm")["seconds_per_step"])


def gathered(
    ready: Prepared,
    command: str,
    runs: Sequence[ArmRun],
    cells: Mapping[str, ArmResult],
    tried: Mapping[str, ArmResult],
    chosen: Sequence[ChosenRate],
) -> Results:
    """Results as far as there are any; verdicts are added at the end."""
    grid, plan = ready.grid, ready.grid.plan
    kept = [found for run in (*runs, *ready.tries) if (found := finished(grid, run)) is not None]
    num_bytes = [cell.num_bytes_by_project for cell in kept if cell.num_bytes_by_project is not None]
    if any(one != num_bytes[0] for one in num_bytes):
        raise RequestError(f"cells in {grid.out / 'cells'} were scored on different documents; delete the ones that do not belong there")
    others = [machine for cell in kept if (machine := cell.machine) != grid.machine]
    machine = {**grid.machine, **({"others": [one for index, one in enumerate(others) if one not in others[:index]]} if others else {})}
    return Results(
        name=plan.name,
        question=plan.question,
        command=command,
        plan=_without_paths(ready.resolved),
        versions={"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
        machine=machine,
        corpus=ledger.corpus_facts(ready.corpus),
        views={name: ledger.view_facts(view) for name, view in ready.views.items()},
        match={"kind": plan.match.kind, "target": plan.match.target},
        baseline=plan.judged_against,
        arms=[cells[run.cell_name] for run in runs],
        projects=Projects(num_bytes=num_bytes[0]) if num_bytes else None,
        once=ready.once,
        teachers=teacher_scores(plan, ready.corpus, grid.out),
        searched=rate_search.searched(ready.tries, tried),
        chosen=list(chosen),
    )


def _without_paths(resolved: dict[str, Any]) -> dict[str, Any]:
    """The plan for readers elsewhere: folders of this machine are told by their last part."""
    corpus = dict(resolved["corpus"])
    if corpus["path"]:
        corpus["path"] = Path(corpus["path"]).name
    corpus["sources"] = [Path(source).name if source.startswith("/") else source for source in corpus["sources"]]
    return {**resolved, "corpus": corpus, "evaluations": without_folders(resolved["evaluations"])}


def _machine() -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    return {"device": device, "num_cores": schedule.num_cores()}


def _evaluation_workers(plan: ComparePlan) -> int:
    import torch

    if plan.launch.evaluation_workers is not None:
        return plan.launch.evaluation_workers
    return 1 if torch.cuda.is_available() else min(plan.launch.num_ranks, schedule.num_cores())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def _one_prepares(out: Path) -> Iterator[None]:
    """One process a folder at a time; the lock goes with the process, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".prepare.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"another process prepares {out}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
