"""Results of comparisons that stand in the repository: `configs/compare/results/NAME.json`, from which all published tables are written.

    proxy-lm-eval tables --keep runs/ladder

A kept file is the comparison's `results.json` without logs, samples shortened and folders of the machine told by their last part; all that
intervals, verdicts and reports are made from is in it, to the last digit. Each run is one line, so that two versions can be compared. To
the facts of a view comes how far its symbols move when 10 % of the characters are deleted (`compressors.stability`), over held-out
documents of the comparison's corpus.

Not promised: that a kept file says how a failed arm's log ended; its first sentence stands there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from compressors import registry
from compressors.files import write_bytes
from compressors.stability import distance_under_deletion
from eval import results
from eval.results import ArmResult, Results
from proxy_lm.config import read_yaml, validate
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import ProxyError, RequestError
from proxy_lm.progress import note

KEPT: Final = Path("configs/compare/results")
PLANS: Final = Path("configs/compare")
STABILITY: Final = "distance_under_deletion"
"""Key in the facts of a view: {share, split, num_documents, mean}."""
DELETED_SHARE: Final = 0.1
NUM_DOCUMENTS: Final = 32
_MOST_SAMPLES = 6
_MOST_SAMPLE_CHARACTERS = 600
_MOST_FAILURE_CHARACTERS = 300
_MANY_RUNS = 40
# An absolute path inside a sentence; neither an address nor a fraction.
_PATH = re.compile(r"(?<![\w.:/])(?:/[\w.+@-]+)+/([\w.+@-]+)")


def keep(folder: Path, kept: Path = KEPT) -> Path:
    """Write the kept file of the comparison in `folder`. Raises `RequestError` where there are no results, or none that finished."""
    found = results.load(folder)
    if not found.finished:
        raise RequestError(f"no arm of {folder / 'results.json'} has a score, so there is nothing to keep; finish the comparison first")
    path = kept / f"{found.name}.json"
    before = results.read(path).views if path.exists() else {}
    slim = slimmed(found.model_copy(update={"views": with_stability(found, folder, before)}))
    write_bytes(path, spelled(slim).encode())
    return path


def read_all(kept: Path = KEPT) -> dict[str, Results]:
    """All kept results by name, in the order of their names. Raises `RequestError` for a file that is damaged or named otherwise."""
    found = {}
    for path in sorted(kept.glob("*.json")):
        one = results.read(path)
        if one.name != path.stem:
            raise RequestError(f"{path} holds comparison '{one.name}'; name the file {one.name}.json")
        found[one.name] = one
    return found


def slimmed(found: Results) -> Results:
    """Without logs, with short samples, and without folders of this machine. Of many runs a robustness result keeps its families and not
    each perturbation, which would be most of the file."""
    many = len(found.finished) > _MANY_RUNS
    value = found.model_copy(update={"arms": [_slim_arm(arm, many) for arm in found.arms]}).model_dump(mode="json")
    return validate(Results, _without_paths(value), source=found.name)


def _slim_arm(arm: ArmResult, many: bool) -> ArmResult:
    evaluation = arm.evaluation
    if evaluation is not None:  # its sums by project stand in `nll_nats_by_project`, without the projects' names
        evaluation = {key: value for key, value in evaluation.items() if key != "by_project"}
    samples = arm.evaluations.get("samples")
    evaluations = arm.evaluations if samples is None else arm.evaluations | {"samples": _shortened(samples)}
    if many:
        evaluations = {stem: _families_alone(one) if stem.startswith("robustness") else one for stem, one in evaluations.items()}
    failure = None if arm.failure is None else arm.failure.strip().split("\n")[0][:_MOST_FAILURE_CHARACTERS]
    return arm.model_copy(update={"evaluation": evaluation, "evaluations": evaluations, "failure": failure})


def _families_alone(value: Any) -> Any:
    """Without what each perturbation did."""
    if not isinstance(value, dict):
        return value
    return {key: {} if key == "perturbations" else _families_alone(item) for key, item in value.items()}


def _shortened(value: Any) -> Any:
    """Few items of each list, and the beginning of each text."""
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value[:_MOST_SAMPLES]]
    return value[:_MOST_SAMPLE_CHARACTERS] if isinstance(value, str) else value


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):  # samples are what a model wrote, of whatever it was told
        return {name: item if name == "samples" else _without_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return _PATH.sub(r"\1", value) if isinstance(value, str) else value


def spelled(found: Results) -> str:
    """JSON with a line for each field and each run."""
    lines = []
    for name, value in found.model_dump(mode="json").items():
        if isinstance(value, list) and value:
            items = ",\n".join(_compact(item) for item in value)
            lines.append(f"{_compact(name)}: [\n{items}\n]")
        else:
            lines.append(f"{_compact(name)}: {_compact(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def with_stability(found: Results, folder: Path, before: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Facts of the views with their distance under deletion: as it is there, from `before` (an earlier kept file's) where the view is the
    same, or measured now. Where neither corpus nor view is at hand, without it, which is said."""
    facts = {name: dict(view) for name, view in found.views.items()}
    documents: Sequence[bytes] | None = None
    split = str(found.plan["evaluation"]["split"])
    for name, view in facts.items():
        old = before.get(name, {})
        if STABILITY not in view and old.get("fingerprint") == view.get("fingerprint") and STABILITY in old:
            view[STABILITY] = old[STABILITY]
        if STABILITY in view:
            continue
        try:
            if documents is None:
                documents = _held_out(found, folder, split)
            view[STABILITY] = _measured(folder / "views" / name, str(view["fingerprint"]), documents, split)
        except ProxyError as error:
            note(f"view {name}: kept without its stability under deletion: {error}")
    return facts


def _held_out(found: Results, folder: Path, split: str) -> list[bytes]:
    """The first documents of the split that was scored."""
    corpus = Corpus.open(_corpus_folder(found, folder))
    if corpus.digest != found.corpus["digest"]:
        raise RequestError(f"corpus {corpus.path} has digest {corpus.digest} and the comparison's has {found.corpus['digest']}")
    return [corpus.document(index) for index in corpus.splits[split][:NUM_DOCUMENTS]]


def _corpus_folder(found: Results, folder: Path) -> Path:
    """Results tell no folder of the machine, so a corpus that was there before is found by the settings of a run."""
    configs = [folder / arm.folder / "config.yaml" for arm in found.arms]
    used = next((str(read_yaml(config)["corpus"]) for config in configs if config.exists()), None)
    return folder / "corpus" if used is None or (folder / "corpus").is_dir() else Path(used)


def _measured(folder: Path, fingerprint: str, documents: Sequence[bytes], split: str) -> dict[str, Any]:
    compressor = registry.load(folder)
    actual = registry.fingerprint(compressor)
    if actual != fingerprint:
        raise RequestError(f"{folder} holds a view with fingerprint {actual} and the comparison's has {fingerprint}")
    moved = [distance_under_deletion(compressor, document, rate=DELETED_SHARE) for document in documents]
    known = [value for value in moved if value is not None]
    mean = sum(known) / len(known) if known else None
    return {"share": DELETED_SHARE, "split": split, "num_documents": len(known), "mean": mean}


def effective_views(found: Results, arm: str) -> tuple[str, ...]:
    """Views that an arm was told by."""
    return tuple(found.plan["arms"].get(arm, {}).get("views", ()))
