"""Can a small model learn what a view does: read it (decompress) and write it (compress)? The probes of arXiv 2404.03626, section 6.1.

    proxy-lm compressor probe views/table --corpus corpus --out probes

A small decoder is trained on crops of the corpus, each told twice in one segment: view then raw bytes (decompress), or raw bytes then view
(compress). On held-out crops it is asked for the second telling only. Beside it stands a control that never saw the first telling: raw
bytes alone, or the view alone, from as many crops. What the first telling is worth is the difference. A view that cannot be read by a model
teaches it nothing about bytes.

    probes/ probe.json crops/ views/<view>/ runs/<run>/ results.json report.md report.html

Killed anywhere and run again it continues; naming another view adds its runs only. Training goes through `proxy_lm.train`, as a DeepSpeed
child. Unlike in the paper the loss is taken on both tellings, as in a proxy run; only the measurement is of the second.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from compressors import registry
from compressors.base import Compressor
from compressors.files import read_json, write_json
from proxy_lm.analysis.study import unique_labels
from proxy_lm.analysis.told import JSON
from proxy_lm.config import Settings, merge, parse_override, validate
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.views import View, encode_corpus
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.neural_crops import crop_corpus
from proxy_lm.progress import note
from proxy_lm.train.child import LaunchSettings, require_deepspeed, train_run
from proxy_lm.train.settings import RunSettings, changed_settings
from proxy_lm.view_training import open_view, split_range

SCHEMA: Final = "proxy-lm probes 1"
Task = Literal["decompress", "compress"]
TASKS: Final[tuple[Task, ...]] = ("decompress", "compress")
VIEW: Final = "view"
# Sentinels of a document told once, and of one told twice.
_ONCE_IDS: Final = 4
_TWICE_IDS: Final = 6
_TRAINING: Final[dict[str, Any]] = {
    "model": {"preset": "nano"},
    "row_length": 1024,
    "rows_per_step": 8,
    "rows_per_device": 4,
    "optimizer": {"learning_rate": 3e-3},
    "schedule": {"kind": "cosine", "warmup_share": 0.04, "floor": 0.05},
    "checkpoint": {"every_seconds": 60.0},
    "validation": {"max_bytes": 0},
    "logging": {"tensorboard": False},
}


class ProbeSettings(Settings):
    """How the probes are trained and asked. The defaults end in some minutes on two cores for alphabets of a few thousand symbols; the cost
    of a step grows with the alphabet."""

    document_bytes: int = Field(default=256, ge=16, le=65_536)
    """Length of a crop; the paper's texts have 1,024 bytes."""

    num_documents: int = Field(default=6000, ge=1)
    """Crops that each run is told, once each."""

    num_held_out: int = Field(default=200, ge=2)
    """Crops of the held-out split that are asked."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Fixes crops, weights and order."""

    launch: LaunchSettings = LaunchSettings()
    """Ranks and threads of each run."""

    train: dict[str, Any] = Field(default_factory=dict)
    """Settings of `proxy_lm.train` over the probes' own: model, row_length, rows_per_step, optimizer, precision and so on."""


@dataclass(frozen=True)
class Run:
    """One training run: `task` None is a control, told one way only; `view` is None for the control of raw bytes."""

    name: str
    title: str
    settings: RunSettings


def probe_settings(overrides: Sequence[str]) -> ProbeSettings:
    """The defaults with NAME=VALUE over them. Raises `RequestError` for what is unknown or cannot be."""
    values: dict[str, Any] = {}
    for text in overrides:
        values = merge(values, parse_override(text))
    settings = validate(ProbeSettings, values, source="the settings of the probe")
    fixed = sorted({"corpus", "views", "mix", "name", "out", "num_steps", "num_symbols", "training_flops", "seed"} & set(settings.train))
    if fixed:
        raise RequestError(f"train.{fixed[0]} is the probe's own; set num_documents for the length and seed for the draws")
    validate(RunSettings, {**merge(_TRAINING, settings.train), "name": "probe", "corpus": "crops", "num_steps": 1}, source="train")
    return settings


def probe(
    corpus: Corpus,
    views: Sequence[str],
    out: Path,
    settings: ProbeSettings,
    *,
    tasks: Sequence[Task] = TASKS,
    split: str = "train",
    held_out: str = "test",
) -> JSON:
    """Train what is not trained yet, ask all, write the results; returns what `results.json` holds."""
    from proxy_lm.analysis import probe_report
    from proxy_lm.analysis.probe_score import compare, score

    for name in (split, held_out):
        split_range(corpus, name)
    labels = unique_labels(views)
    opened = {label: open_view(name) for label, name in zip(labels, views, strict=True)}
    require_deepspeed()
    # Not under the name `corpus`: a training run may go on with its corpus in another place, and `changed_settings` lets that pass.
    request = {"text_digest": corpus.digest, "split": split, "held_out": held_out, **settings.model_dump(mode="json")}
    _refuse_another(out / "probe.json", request)
    crops = crop_corpus(
        corpus,
        out / "crops",
        train=split,
        held_out=held_out,
        lengths=[settings.document_bytes],
        num_bytes=settings.num_documents * settings.document_bytes,
        held_out_bytes=settings.num_held_out * settings.document_bytes,
        seed=settings.seed,
    )
    write_json(out / "probe.json", request)  # only now: crops that cannot be drawn leave the folder as it was
    documents = [crops.document(index) for index in crops.splits["valid"]]
    raw_run = _train(out, settings, "raw", None, None, [])
    raw = score(raw_run.settings.folder, None, documents, None)
    found: JSON = {}
    for label, compressor in opened.items():
        folder, lengths = _encoded(crops, compressor, label, out)
        found[label] = _describe(compressor, lengths)
        for task in tasks:
            run = _train(out, settings, label, folder, task, lengths)
            if task == "decompress":
                control = raw
            else:
                control = score(_train(out, settings, label, folder, None, lengths).settings.folder, compressor, documents, None)
            asked = score(run.settings.folder, compressor, documents, task)
            other = score(run.settings.folder, compressor, documents, task, other_input=True)
            found[label][task] = {"num_steps": run.settings.num_steps, **compare(asked, control, other, seed=settings.seed)}
    results: JSON = {
        "schema": SCHEMA,
        "corpus_digest": corpus.digest,
        "split": split,
        "held_out": held_out,
        "settings": settings.model_dump(mode="json"),
        "training": raw_run.settings.model_dump(mode="json"),
        "views": found,
    }
    write_json(out / "results.json", results)
    probe_report.write(results, out)
    return results


def _refuse_another(path: Path, request: JSON) -> None:
    """Raises `RequestError` where the folder holds probes of another request."""
    if not path.exists():
        return
    differences = [line for line in changed_settings(read_json(path, "request of the probes"), request) if not line.startswith("launch.")]
    if differences:
        raise RequestError(f"{path.parent} holds probes of another request ({'; '.join(differences)}); choose another folder")


def _encoded(crops: Corpus, compressor: Compressor, label: str, out: Path) -> tuple[Path, list[int]]:
    """The view of the crops: its folder, and symbols of every crop of the train split (-1 where it refuses one)."""
    folder = out / "views" / _folder_name(label, compressor)
    if not (folder / registry.ARTIFACT_NAME).exists():
        registry.save(compressor, folder)
    encode_corpus(crops, folder, folder, num_workers=1)
    lengths = View.open(folder, crops, verify=False).lengths
    return folder, lengths[crops.splits["train"].start : crops.splits["train"].stop].tolist()


def _folder_name(label: str, compressor: Compressor) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', label).strip('-') or 'view'}-{registry.fingerprint(compressor)[:8]}"


def _describe(compressor: Compressor, lengths: list[int]) -> JSON:
    told = [length for length in lengths if length >= 0]
    return {
        "kind": compressor.name,
        "alphabet_size": compressor.alphabet_size,
        "exact": compressor.exact,
        "fingerprint": registry.fingerprint(compressor),
        "symbols_per_document": sum(told) / len(told) if told else None,
        "num_refused": len(lengths) - len(told),
    }


def _train(out: Path, settings: ProbeSettings, label: str, view: Path | None, task: Task | None, lengths: list[int]) -> Run:
    """Train one run to its end, or find it there. Raises `WorkError` where it fails."""
    run = _run(out, settings, label, view, task, lengths)
    outcome = train_run(run.settings, settings.launch, run.title)
    if outcome.failure is not None:
        raise WorkError(f"{run.title}: {outcome.failure}")
    return run


def _run(out: Path, settings: ProbeSettings, label: str, view: Path | None, task: Task | None, lengths: list[int]) -> Run:
    """The run whose ids are `num_documents` crops, each told once; so task and control see the same number of targets."""
    raw, told = float(settings.document_bytes), sum(max(0, length) for length in lengths) / max(1, len(lengths))
    if view is None:
        name, mix, ids = "raw", {"rate": 0.0, "pair": 0.0}, raw + _ONCE_IDS
        title = "probe control: raw bytes"
    elif task is None:
        name, mix, ids = f"{view.name}-alone", {"rate": 1.0, "pair": 0.0}, told + _ONCE_IDS
        title = f"probe control: {label} alone"
    else:
        name, mix, ids = f"{view.name}-{task}", {"rate": 0.0, "pair": 1.0, "raw_first": float(task == "compress")}, raw + told + _TWICE_IDS
        title = f"probe: {task} {label}"
    values = merge(_TRAINING, settings.train)
    per_step = values["rows_per_step"] * values["row_length"]
    values |= {
        "name": name,
        "out": str(out / "runs" / name),
        "corpus": str(out / "crops"),
        "views": {} if view is None else {VIEW: str(view)},
        "mix": mix,
        "num_steps": max(1, round(settings.num_documents * ids / per_step)),
        "seed": settings.seed,
    }
    note(f"{title}: {values['num_steps']} steps of {per_step} ids")
    return Run(name, title, validate(RunSettings, values, source="the settings of the probe"))
