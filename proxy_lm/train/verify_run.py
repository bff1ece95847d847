"""Everything on disk that a run consists of, checked against itself and against what it was trained on. `proxy-lm verify RUN` prints it.

    report = verify_run(Path("runs/x"))       # report["damage"] is empty for a whole run; report["resume"] says what would happen

Checked: every file of every checkpoint by digest, `metrics.jsonl` line by line and against the checkpoints, `config.yaml`, `deepspeed.json`
and the checkpoints' settings against `run.json`, corpus and views by digest where they can be reached, the rows of some steps against the
plan, leftovers. Nothing is written, and no process group, engine or torch is needed.

Not promised: safety from a person who can write into the folder (checkpoints are not signed), and a look into pickles: a checkpoint is held
to be whole when every byte is as it was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from compressors.files import digest_of, read_json
from proxy_lm.config import validate
from proxy_lm.errors import ProxyError, RequestError
from proxy_lm.progress import ProgressBar
from proxy_lm.train.checkpoint_files import check_contents, check_structure, listed_sizes, parse_step
from proxy_lm.train.metrics_lines import Line, read_faults, read_lines
from proxy_lm.train.provenance import KIND, completed
from proxy_lm.train.run_files import CHECKPOINTS_NAME, CONFIG_NAME, DEEPSPEED_NAME, FAULTS_NAME, METRICS_NAME, RUN_NAME, UNIVERSAL_NAME
from proxy_lm.train.run_lock import owner_of
from proxy_lm.train.settings import RunSettings, changed_settings
from proxy_lm.train.told_folders import ToldFolders

# Sentences about one kind of damage; the rest is counted.
MAX_SENTENCES: Final = 5
STEPS_COMPARED: Final = 100


@dataclass
class _Findings:
    """What is wrong (`damage`), and what is only worth knowing (`warnings`)."""

    damage: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def few(self, what: str, problems: list[str]) -> None:
        """Some of many problems of one kind, and how many more there are."""
        self.damage += [f"{what}: {problem}" for problem in problems[:MAX_SENTENCES]]
        if len(problems) > MAX_SENTENCES:
            self.damage.append(f"{what}: and {len(problems) - MAX_SENTENCES} problems more")


def verify_run(folder: Path, *, with_inputs: bool = True, steps_compared: int = STEPS_COMPARED) -> dict[str, Any]:
    """The report as plain JSON. `steps_compared` steps, evenly spaced, have their rows compared with the plan.

    Raises `RequestError` where `folder` is no run folder at all."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder; give a run folder (it holds {RUN_NAME}, {METRICS_NAME} and checkpoints/)")
    if not any((folder / name).exists() for name in (RUN_NAME, METRICS_NAME, CHECKPOINTS_NAME)):
        raise RequestError(f"{folder} holds no {RUN_NAME}, no {METRICS_NAME} and no checkpoints/, so it is no run folder; give one")
    owner = owner_of(folder)
    if owner is not None:
        raise RequestError(f"{folder} is being trained by {owner}, and its files change while they are read; verify it when that has ended")
    found = _Findings()
    record = _record(folder, found)
    checkpoints = _checkpoints(folder / CHECKPOINTS_NAME, found)
    valid = [entry for entry in checkpoints if entry["valid"]]
    newest = max(valid, key=lambda entry: entry["step"]) if valid else None
    lines = _metrics(folder, record, checkpoints, found)
    for entry in checkpoints:
        state = entry.pop("state", None)
        if record and state:
            for change in changed_settings(completed(state["settings"]), completed(record["settings"])):
                found.damage.append(f"checkpoint step-{entry['step']} has other settings than {RUN_NAME}: {change}")
            for what, digest in record["identity"].items():
                if state["identity"].get(what) != digest:
                    found.damage.append(f"checkpoint step-{entry['step']} was trained with another {what} than {RUN_NAME} says")
    if record.get("status") == "running":
        found.warnings.append(f"{RUN_NAME} says running and nobody holds the run's lock: it was killed, or its machine went down")
    inputs = _inputs(folder, record, lines, steps_compared, found) if with_inputs and record else {"checked": False}
    return {
        "run": str(folder),
        "status": record.get("status", "unknown") if record else "unknown",
        "num_steps": record.get("num_steps") if record else None,
        "metrics": {
            "lines": len(lines),
            "last_step": lines[-1].step if lines else None,
            "discarded_steps": [line.step for line in lines if line.discarded is not None],
        },
        "checkpoints": checkpoints,
        "inputs": inputs,
        "leftovers": _leftovers(folder),
        "damage": found.damage,
        "warnings": found.warnings,
        "resume": _resume(record, checkpoints, newest),
    }


def _record(folder: Path, found: _Findings) -> dict[str, Any]:
    """`run.json`, once it agrees with itself and its neighbours; {} where it cannot be used."""
    try:
        record = read_json(folder / RUN_NAME, "record of the run")
        if record.get("kind") != KIND or not isinstance(record["settings"], dict):
            raise RequestError(f"{folder / RUN_NAME} is not the record of a run")
        missing = [key for key in ("identity", "versions", "num_steps", "status", "symbols_per_step", "world_size") if key not in record]
        if missing:
            raise RequestError(f"{folder / RUN_NAME} does not say {', '.join(missing)}")
    except (ProxyError, KeyError, OSError) as error:
        found.damage.append(str(error))
        return {}
    settings = record["settings"]
    if digest_of(settings) != record.get("config_digest"):
        found.damage.append(f"{RUN_NAME}: the settings do not match config_digest {str(record.get('config_digest'))[:12]}")
    try:
        written = yaml.safe_load((folder / CONFIG_NAME).read_bytes())
        if validate(RunSettings, written, "config.yaml") != validate(RunSettings, settings, RUN_NAME):
            found.damage.append(f"config.yaml and {RUN_NAME} say different settings")
    except (OSError, yaml.YAMLError) as error:
        found.damage.append(f"config.yaml cannot be read: {str(error).splitlines()[0]}")
    except RequestError as error:
        found.warnings.append(f"the settings are not those of this version: {error}")
    if "deepspeed_digest" in record:
        try:
            if digest_of(read_json(folder / DEEPSPEED_NAME, "DeepSpeed configuration")) != record["deepspeed_digest"]:
                found.damage.append(f"deepspeed.json is not the one that {RUN_NAME} names")
        except (ProxyError, OSError) as error:
            found.damage.append(str(error))
    return record


def _checkpoints(folder: Path, found: _Findings) -> list[dict[str, Any]]:
    """Every committed checkpoint, oldest first; `state` is for the caller and only of valid ones."""
    steps = sorted(step for path in folder.iterdir() if (step := parse_step(path.name)) is not None) if folder.is_dir() else []
    structures = {step: check_structure(folder / f"step-{step}") for step in steps}
    sizes = {step: listed_sizes(manifest) if manifest else {} for step, (manifest, _) in structures.items()}
    entries = []
    with ProgressBar("verify checkpoints", sum(sum(of_step.values()) for of_step in sizes.values())) as bar:
        for step in steps:
            manifest, problems = structures[step]
            if manifest is not None:
                for name, size in sizes[step].items():
                    problems = problems + check_contents(folder / f"step-{step}", manifest, [name])
                    bar.advance(size)
            found.few(f"checkpoint step-{step}", problems)
            entry: dict[str, Any] = {"step": step, "valid": not problems, "size_bytes": sum(sizes[step].values()), "problems": problems}
            if manifest is not None and not problems:
                entry |= {"world_size": manifest["world_size"], "state": manifest["state"]}
            entries.append(entry)
    return entries


def _metrics(folder: Path, record: dict[str, Any], checkpoints: list[dict[str, Any]], found: _Findings) -> list[Line]:
    """The whole lines. They must be steps 1, 2, 3, ... up to the newest checkpoint or beyond, and say what the checkpoints say."""
    finished = record.get("status") == "finished"
    needed = max((entry["step"] for entry in checkpoints if entry["valid"]), default=0)
    if not (folder / METRICS_NAME).exists():
        if needed or finished:
            found.damage.append(f"{METRICS_NAME} is missing")
        return []
    lines, problems, torn = read_lines(folder / METRICS_NAME)
    found.few(METRICS_NAME, problems)
    if torn:
        sentence = f"{METRICS_NAME} ends in the middle of a line"
        (found.damage if finished else found.warnings).append(sentence + ("" if finished else "; the next start cuts it off"))
    steps = [line.step for line in lines]
    gaps = [f"step {b} follows step {a}" for a, b in zip([0, *steps], steps, strict=False) if b != a + 1]
    found.few(METRICS_NAME, gaps)
    if steps and max(steps) < needed:
        found.damage.append(f"{METRICS_NAME} ends at step {max(steps)}, before the checkpoint of step {needed}")
    by_step = {line.step: line for line in lines}
    for entry in checkpoints:
        line, state = by_step.get(entry["step"]), entry.get("state")
        if line and state and state["counters"]["final_loss_hex"] != line.loss_hex:
            found.damage.append(
                f"{METRICS_NAME}: step {line.step} has loss {line.loss_hex} and its checkpoint {state['counters']['final_loss_hex']}"
            )
    if record:
        wrong = [line.step for line in lines if line.total_symbols != line.step * record["symbols_per_step"]]
        found.few(
            METRICS_NAME, [f"step {step} does not have {record['symbols_per_step']} symbols more than the one before" for step in wrong]
        )
    if finished:
        last = lines[-1] if lines else None
        if last is None or last.step != record["num_steps"] or last.loss_hex != record.get("final_loss_hex"):
            found.damage.append(f"{RUN_NAME} says finished at step {record['num_steps']} and the last line of {METRICS_NAME} does not")
    _faults(folder / FAULTS_NAME, lines, found)
    return lines


def _faults(path: Path, lines: list[Line], found: _Findings) -> None:
    """Every step that was not learnt from must be told of, and no other."""
    told, problems = read_faults(path) if path.exists() else (set(), [])
    found.few(FAULTS_NAME, problems)
    discarded = {line.step for line in lines if line.discarded is not None}
    found.few(FAULTS_NAME, [f"step {step} was discarded and is not told of" for step in sorted(discarded - told)])
    learnt = {line.step for line in lines} - discarded
    found.few(
        FAULTS_NAME, [f"step {step} is told of and {METRICS_NAME} does not say that it was discarded" for step in sorted(told & learnt)]
    )


def _inputs(folder: Path, record: dict[str, Any], lines: list[Line], steps_compared: int, found: _Findings) -> dict[str, Any]:
    """Corpus, views and plan against the record, where they can be reached from here."""
    try:
        told = ToldFolders(validate(RunSettings, record["settings"], RUN_NAME), folder, record)
    except RequestError:
        return {"checked": False}  # said before, with the settings
    settings = told.here()
    paths = {"corpus": Path(settings.corpus), **{f"view {name}": Path(path) for name, path in settings.views.items()}}
    if settings.teacher is not None:
        paths["teacher"] = Path(settings.teacher.model)
    missing = [f"{what} ({path})" for what, path in paths.items() if not path.is_dir()]
    if missing:
        found.warnings.append(
            f"not reached from here, hence not checked: {', '.join(missing)}; verify where the run was started, on a machine that has them"
        )
        return {"checked": False, "missing": missing}
    from proxy_lm.train.inputs import open_inputs
    from proxy_lm.train.rows_read import marks, rows_digest

    try:
        inputs = open_inputs(settings, record["world_size"], verify=True)
    except RequestError as error:
        found.damage.append(str(error))
        return {"checked": True, "steps_compared": 0}
    for what, digest in inputs.identity().items():
        if record["identity"].get(what) != digest:
            found.damage.append(f"the run was trained with the {what} {record['identity'].get(what)} and here is {digest}")
    if record["identity"].get("plan") != inputs.plan.digest:
        return {"checked": True, "steps_compared": 0}
    chosen = [lines[k] for k in _spread(len(lines), steps_compared)]
    reader, num_rows = inputs.reader, settings.rows_per_step
    other = []
    for line in chosen:
        rows = range((line.step - 1) * num_rows, line.step * num_rows)
        read = line.rows_digest is None or line.rows_digest == rows_digest(marks(reader.read(rows)))
        if not read or inputs.plan.step_digest(line.step - 1, num_rows) != line.batch_digest:
            other.append(line.step)
    found.few(METRICS_NAME, [f"step {step} was not trained on the rows that the plan has for it" for step in other])
    return {"checked": True, "steps_compared": len(chosen)}


def _spread(number: int, wanted: int) -> Iterator[int]:
    """Up to `wanted` of `number` places, evenly spaced, the first and the last among them."""
    wanted = min(wanted, number)
    for k in range(wanted):
        yield 0 if wanted == 1 else k * (number - 1) // (wanted - 1)


def _leftovers(folder: Path) -> list[str]:
    """What interrupted work has left: the next start or save removes it."""
    here = [f"checkpoints/{path.name}" for path in sorted((folder / CHECKPOINTS_NAME).glob("step-*")) if path.suffix in (".tmp", ".trash")]
    here += [UNIVERSAL_NAME] if (folder / UNIVERSAL_NAME).exists() else []
    return here + [path.name for path in sorted(folder.glob("*.tmp-*"))]


def _resume(record: dict[str, Any], checkpoints: list[dict[str, Any]], newest: dict[str, Any] | None) -> dict[str, Any]:
    """What the same command would do now."""
    if record.get("status") == "finished":
        says = "finished: the same command says so and does nothing"
        damaged = [entry["step"] for entry in checkpoints if not entry["valid"] and (newest is None or entry["step"] > newest["step"])]
        if damaged and newest is not None:
            says += (
                f". Its last checkpoint is damaged: move {RUN_NAME} and {CHECKPOINTS_NAME}/step-{max(damaged)} away, and the same command "
                f"makes the steps after {newest['step']} again"
            )
        return {"step": record["num_steps"], "says": says}
    if newest is None:
        if checkpoints:
            return {"step": None, "says": "the same command is refused: there are checkpoints and none is valid"}
        return {"step": 0, "says": "the same command starts at step 0: there is no checkpoint"}
    ranks = newest["world_size"]
    passed = sum(entry["step"] > newest["step"] for entry in checkpoints)
    over = f", past {passed} damaged newer checkpoint{'s' if passed > 1 else ''}" if passed else ""
    others = "any number of ranks" if record.get("settings", {}).get("zero", {}).get("stage", 0) == 0 else "other numbers by conversion"
    says = f"the same command continues at step {newest['step']}{over}, written by {ranks} rank{'s' if ranks > 1 else ''} ({others})"
    return {"step": newest["step"], "says": says}
