"""Run a comparison to its end: corpus, views, budget, arms, scores, verdicts, report. Whatever is finished is found and kept.

    proxy-lm-eval compare configs/compare/quickstart.yaml

    out/ corpus/ views/<name>/ arms/<arm>[-<scale>][-s<seed>]/ plan.json results.json report.md report.html

Killed anywhere and run again it continues; a failed arm is reported as failed and the others go on. `results.json` is written after every
arm, so a part of a comparison can be read.
"""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import compressors.registry as registry
from compressors.files import read_json, write_json
from eval import dry_run, further, intervals, ledger, report, results
from eval.bpb import Measured, evaluate
from eval.budget import Rates, describe, solve
from eval.plan import ArmRun, ComparePlan, arm_runs, differences
from eval.results import ArmResult, Results, Verdict
from proxy_lm import plotting
from proxy_lm.config import validate
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.encoding import encode_corpus
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.data.views import View
from proxy_lm.errors import ProxyError, RequestError
from proxy_lm.progress import note
from proxy_lm.train import child
from proxy_lm.view_training import train_view

_LIBRARIES = ("proxy-lm", "torch", "deepspeed", "numpy", "sentencepiece", "zstandard")
_PROBE_STEPS = 12


def compare(plan: ComparePlan, out: Path, command: str) -> Results:
    """Everything. Raises `RequestError` before any work for a plan that cannot run or is not the one in `out`."""
    plotting.require()
    child.require_deepspeed()
    dry_run.check(plan, out)
    resolved = plan.model_dump(mode="json")
    with _alone_in(out):
        check_same_plan(out, resolved)
        write_json(out / "plan.json", resolved)
        corpus = prepare_corpus(plan, out)
        views = {name: make_view(plan, name, corpus, out) for name in plan.views}
        place = ledger.Place(out, corpus.path, plan.launch.num_ranks)
        runs = list(arm_runs(plan))
        steps = solve_budget(plan, runs, place)
        found = blank_results(plan, resolved, command, corpus, views, runs, place, steps)
        results.save(found, out)
        scores: dict[str, Measured] = {}
        for index, run in enumerate(runs):
            arm, measured = run_arm(plan, run, place, steps[run.folder_name], found.arms[index])
            if measured is not None:
                scores[run.folder_name] = measured
            found = found.model_copy(update={"arms": [*found.arms[:index], arm, *found.arms[index + 1 :]]})
            results.save(found, out)
        found = found.model_copy(update={"arms": with_verdicts(plan, runs, found.arms, scores)})
        results.save(found, out)
        report.write(found, out)
    return found


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
    prepare(plan.corpus.sources, out / "corpus", settings, num_workers=_num_cores())
    return Corpus.open(out / "corpus")


def make_view(plan: ComparePlan, name: str, corpus: Corpus, out: Path) -> View:
    """Fit and encode one view, as far as that is not done yet."""
    wanted, folder = plan.views[name], out / "views" / name
    if not _fitted(folder, wanted.kind, wanted.options, corpus):
        train_view(wanted.kind, corpus, folder, options=wanted.options)
    encode_corpus(corpus, folder, folder, num_workers=_num_cores())
    return View.open(folder, corpus, name=name)


def _fitted(folder: Path, kind: str, options: dict[str, Any], corpus: Corpus) -> bool:
    """Whether this very view was fitted before; fitting again would only cost time, since it gives the same symbols."""
    if not (folder / registry.ARTIFACT_NAME).exists():
        return False
    artifact = registry.read_artifact(folder)
    training = (artifact.get("measured") or {}).get("training") or {}
    return bool(artifact["kind"] == kind and training.get("options") == options and training.get("corpus_digest") == corpus.digest)


def solve_budget(plan: ComparePlan, runs: Sequence[ArmRun], place: ledger.Place) -> dict[str, int]:
    """Steps of every run; says on standard error what each was given."""
    costs = {run.folder_name: ledger.rates(run, place, _pace(plan, run, place)) for run in runs}
    steps = solve(costs, plan.match)
    tell_budget(costs, steps, plan)
    return steps


def tell_budget(costs: dict[str, Rates], steps: dict[str, int], plan: ComparePlan) -> None:
    """One line an arm on standard error."""
    note(f"budget: equal {plan.match.kind}, {plan.match.target:.4g}")
    for row in describe(costs, steps, plan.match):
        note(
            f"  {row['arm']}: {row['num_steps']} steps, {row['symbols']:,} symbols, {row['training_flops']:.4g} FLOPs "
            f"({100 * row['off_target']:+.2f} % from the target)"
        )


def _pace(plan: ComparePlan, run: ArmRun, place: ledger.Place) -> float | None:
    """Seconds of a step, from a short run of its own that is kept, so that a continued comparison has the same budget."""
    if plan.match.kind != "seconds":
        return None
    folder = place.out / "probes" / run.folder_name
    path = folder / "pace.json"
    if not path.exists():
        settings = run.settings(place.out, place.corpus, _PROBE_STEPS).model_copy(update={"out": str(folder)})
        outcome = child.train_run(settings, plan.launch, f"pace of {run.folder_name}")
        pace = ledger.seconds_per_step(child.read_metrics(folder))
        if outcome.failure is not None or pace is None:
            raise RequestError(f"the pace of arm '{run.folder_name}' could not be measured: {outcome.failure}")
        write_json(path, {"seconds_per_step": pace})
    return float(read_json(path, "pace of an arm")["seconds_per_step"])


def run_arm(plan: ComparePlan, run: ArmRun, place: ledger.Place, num_steps: int, blank: ArmResult) -> tuple[ArmResult, Measured | None]:
    """Train and score one arm. A failure is a result, not an exception."""
    settings = run.settings(place.out, place.corpus, num_steps)
    title = f"arm {run.folder_name}"
    outcome = child.train_run(settings, plan.launch, title)
    spent = ledger.spent(settings)
    known = blank.model_copy(update={**spent, "wall_seconds": outcome.wall_seconds})
    if outcome.failure is not None:
        note(f"{title}: failed; {outcome.failure}")
        return known.model_copy(update={"status": "failed", "failure": outcome.failure}), None
    try:
        measured = evaluate(settings.folder, plan.evaluation, num_workers=_evaluation_workers(plan))
    except ProxyError as error:
        note(f"{title}: could not be scored: {error}")
        return known.model_copy(update={"status": "failed", "failure": f"trained, but not scored: {error}"}), None
    score = measured.result
    record = child.finished_run(settings)
    assert record is not None
    note(f"{title}: {score['bits_per_byte']:.4f} bits per byte")
    asked, failures = further.measure(plan.evaluations, settings.folder, {name: place.out / "views" / name for name in plan.views}, title)
    update = {
        "status": "done",
        "bits_per_byte": score["bits_per_byte"],
        "interval": tuple(score["interval"]) if score["interval"] else None,
        "evaluation": score,
        "view": score["view"],
        "final": {**known.final, "loss_hex": record["final_loss_hex"], "checkpoint": score["checkpoint"]},
        **ledger.curve(settings, record, score["view"]),
        "evaluations": asked,
        "evaluation_failures": failures,
    }
    return known.model_copy(update=update), measured


def with_verdicts(plan: ComparePlan, runs: Sequence[ArmRun], found: Sequence[ArmResult], scores: dict[str, Measured]) -> list[ArmResult]:
    """Every arm against the baseline of its scale, over the seeds that both finished."""
    judged = []
    for run, arm in zip(runs, found, strict=True):
        if run.folder_name not in scores:
            judged.append(arm)
            continue
        mine = {other.seed: scores[other.folder_name] for other in runs if _same(other, run.arm, run.scale) and other.folder_name in scores}
        base = {
            other.seed: scores[other.folder_name]
            for other in runs
            if _same(other, plan.judged_against, run.scale) and other.folder_name in scores
        }
        seeds = [seed for seed in mine if seed in base]
        if not seeds:
            judged.append(arm)
            continue
        outcome = intervals.compare([mine[seed].clusters for seed in seeds], [base[seed].clusters for seed in seeds])
        facts = outcome.to_json()
        if run.arm == plan.judged_against:
            facts |= {"verdict": "baseline", "difference": 0.0, "interval": None}
        judged.append(arm.model_copy(update={"verdict": Verdict.model_validate({"baseline": plan.judged_against, **facts})}))
    return judged


def _same(run: ArmRun, arm: str, scale: str | None) -> bool:
    return run.arm == arm and run.scale == scale


def blank_results(
    plan: ComparePlan,
    resolved: dict[str, Any],
    command: str,
    corpus: Corpus,
    views: dict[str, View],
    runs: Sequence[ArmRun],
    place: ledger.Place,
    steps: dict[str, int],
) -> Results:
    """Results in which no arm has run yet: the ledger is known, the scores are not."""
    blanks = [
        ArmResult(
            name=run.arm,
            scale=run.scale,
            seed=run.seed,
            folder=f"arms/{run.folder_name}",
            status="not run",
            differs=plan.arms[run.arm],
            **ledger.ledger(run, place, steps[run.folder_name]),
        )
        for run in runs
    ]
    return Results(
        name=plan.name,
        question=plan.question,
        command=command,
        plan=_without_paths(resolved),
        versions={"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
        machine=_machine(),
        corpus=ledger.corpus_facts(corpus),
        views={name: ledger.view_facts(view) for name, view in views.items()},
        match={"kind": plan.match.kind, "target": plan.match.target},
        baseline=plan.judged_against,
        arms=blanks,
    )


def _without_paths(resolved: dict[str, Any]) -> dict[str, Any]:
    """The plan for readers elsewhere: folders of this machine are told by their last part."""
    corpus = dict(resolved["corpus"])
    if corpus["path"]:
        corpus["path"] = Path(corpus["path"]).name
    corpus["sources"] = [Path(source).name if source.startswith("/") else source for source in corpus["sources"]]
    evaluations = {
        name: {key: Path(value).name if isinstance(value, str) and value.startswith("/") else value for key, value in options.items()}
        for name, options in resolved["evaluations"].items()
    }
    return {**resolved, "corpus": corpus, "evaluations": evaluations}


def _machine() -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    return {"device": device, "num_cores": _num_cores()}


def _evaluation_workers(plan: ComparePlan) -> int:
    import torch

    if plan.launch.evaluation_workers is not None:
        return plan.launch.evaluation_workers
    return 1 if torch.cuda.is_available() else min(plan.launch.num_ranks, _num_cores())


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """One comparison a folder at a time; the lock goes with the process, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".compare.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(f"another comparison is running in {out}; wait for it, or give another folder with --out") from error
        yield
