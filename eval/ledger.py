"""The ledger: what each arm is given and spends, counted from structure and lengths where that is exact, measured only where it must be.

Symbols, source bytes, documents and unique bytes come from the plan of rows, which is a pure function of the settings; FLOPs from the
model's structure; seconds from the run's `metrics.jsonl`; the compressors' cost from their artifacts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressors.files import read_json
from compressors.neural.models import MODEL_NAME
from compressors.registry import read_artifact
from eval.budget import Rates
from eval.plan import ArmRun
from eval.results import ArmResult, CompressorCost, Point
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.views import View
from proxy_lm.model.flops import num_parameters
from proxy_lm.train.child import read_metrics
from proxy_lm.train.inputs import open_inputs
from proxy_lm.train.settings import RunSettings
from proxy_lm.view_training import ASSUMED_OPERATIONS_PER_SECOND


@dataclass(frozen=True)
class Place:
    """Where a comparison keeps its things: the folder of the comparison and its corpus."""

    out: Path
    corpus: Path
    num_ranks: int


def rates(run: ArmRun, place: Place, seconds_per_step: float | None = None) -> Rates:
    """What a step of this arm costs. Raises `RequestError` for settings, corpus or views that do not fit together."""
    one = open_inputs(run.settings(place.out, place.corpus, num_steps=1), place.num_ranks, verify=False)
    told: dict[int, int] = {}

    def source_bytes(num_steps: int) -> int:
        if num_steps not in told:
            inputs = open_inputs(run.settings(place.out, place.corpus, num_steps), place.num_ranks, verify=False)
            told[num_steps] = int(inputs.plan.summary()["source_bytes"])
        return told[num_steps]

    return Rates(
        symbols_per_step=one.shape.symbols_per_step,
        flops_per_symbol=one.flops_per_symbol,
        source_bytes=source_bytes,
        seconds_per_step=seconds_per_step,
    )


def ledger(run: ArmRun, place: Place, num_steps: int) -> dict[str, Any]:
    """The fields of `ArmResult` that are known before the arm runs."""
    settings = run.settings(place.out, place.corpus, num_steps)
    inputs = open_inputs(settings, place.num_ranks, verify=False)
    summary = inputs.plan.summary()
    counts = num_parameters(settings.model, inputs.vocabulary.size)
    cost = compressor_cost(inputs.views)
    if inputs.teacher and run.needed_views != run.views:  # the cost of a view that is read holds that of its byte model
        cost = with_fitted_model(cost, inputs.teacher.folder)
    return {
        "training_flops": float(inputs.flops_per_symbol * summary["num_symbols"]),
        "flops_per_symbol": inputs.flops_per_symbol,
        "symbols": summary["num_symbols"],
        "source_bytes": summary["source_bytes"],
        **{
            field: {name: row[measure] for name, row in summary["views"].items()}
            for field, measure in (
                ("source_bytes_by_view", "source_bytes"),
                ("documents_by_view", "num_documents"),
                ("symbols_by_view", "num_symbols"),
            )
        },
        "unique_bytes": summary["unique_source_bytes"],
        "epochs": summary["epochs"],
        "num_steps": num_steps,
        "num_parameters": {**counts._asdict(), "total": counts.total},
        "compressor": cost,
        "compressor_flops": cost.flops,
        "compressor_seconds": cost.train_seconds + cost.encode_seconds,
        "final": {"plan_digest": inputs.plan.digest},
    }


def compressor_cost(views: Sequence[View]) -> CompressorCost:
    """What fitting and encoding the views took; seconds are of processors. `flops` is what an artifact or a view states of its own
    arithmetic, and where it states none an estimate from the seconds, at the rate that `proxy_lm.view_training` records."""
    train = encode = flops = 0.0
    for view in views:
        training = (read_artifact(view.path).get("measured") or {}).get("training") or {}
        train += float(training.get("cpu_seconds", 0.0))
        encode += float(view.manifest["encode_cpu_seconds"])
        flops += float(training.get("flops", training.get("estimated_flops", 0.0)))
        flops += float(view.manifest.get("encode_flops", view.manifest["encode_cpu_seconds"] * ASSUMED_OPERATIONS_PER_SECOND))
    return CompressorCost(train_seconds=train, encode_seconds=encode, flops=flops)


def with_fitted_model(cost: CompressorCost, folder: Path) -> CompressorCost:
    """The cost with that of fitting the byte model in `folder`, as `model.json` states it."""
    training = (read_json(folder / MODEL_NAME, "byte model").get("measured") or {}).get("training") or {}
    seconds = float(training.get("cpu_seconds", 0.0))
    flops = float(training.get("flops", seconds * ASSUMED_OPERATIONS_PER_SECOND))
    return cost.model_copy(update={"train_seconds": cost.train_seconds + seconds, "flops": cost.flops + flops})


def with_teaching(known: ArmResult, record: Mapping[str, Any]) -> ArmResult:
    """A finished arm with what asking its teacher took, by its run's record; unchanged where it has none."""
    seconds = float(record.get("teacher_seconds", 0.0))
    if seconds == 0.0:
        return known
    flops = known.compressor.flops + seconds * ASSUMED_OPERATIONS_PER_SECOND
    cost = known.compressor.model_copy(update={"teacher_seconds": seconds, "flops": flops})
    return known.model_copy(
        update={"compressor": cost, "compressor_flops": flops, "compressor_seconds": known.compressor_seconds + seconds}
    )


def view_facts(view: View) -> dict[str, Any]:
    """What the report says of a view."""
    artifact = read_artifact(view.path)
    manifest = view.manifest
    told = manifest["num_bytes"] - manifest["raw_only_bytes"]
    return {
        "kind": artifact["kind"],
        "fingerprint": view.fingerprint,
        "digest": view.digest,
        "alphabet_size": view.alphabet_size,
        "bytes_per_symbol": told / max(1, manifest["num_symbols"]),
        "num_raw_only": manifest["num_raw_only"],
        "train_cpu_seconds": float(((artifact.get("measured") or {}).get("training") or {}).get("cpu_seconds", 0.0)),
        "encode_cpu_seconds": float(manifest["encode_cpu_seconds"]),
    }


def corpus_facts(corpus: Corpus) -> dict[str, Any]:
    """What the report says of the corpus."""
    splits = {}
    projects = corpus.column("project")
    for name, documents in corpus.splits.items():
        splits[name] = {
            "num_documents": len(documents),
            "num_bytes": int(corpus.sizes[documents.start : documents.stop].sum()),
            "num_projects": len(set(projects[documents.start : documents.stop])),
        }
    facts = {"digest": corpus.digest, "splits": splits, "drops": corpus.manifest.get("drops", {})}
    if "installed" in corpus.manifest:
        facts["installed"] = corpus.manifest["installed"]
    return facts


def spent(settings: RunSettings) -> dict[str, Any]:
    """What the run itself measured, as fields of `ArmResult`: seconds of its steps, ranks. From whatever there is, also of a failed run."""
    records = read_metrics(settings.folder)
    if not records:
        return {}
    run = read_json(settings.folder / "run.json", "record of the run")
    seconds = sum(record["step_seconds"] for record in records)
    return {"seconds": seconds, "device_seconds": seconds * run["world_size"], "world_size": run["world_size"]}


def curve(settings: RunSettings, run: Mapping[str, Any], view: str) -> dict[str, Any]:
    """The validations of a finished run in the view in which it is asked, each with what had been spent by then."""
    by_step: dict[int, tuple[dict[str, Any], float]] = {}
    seconds = 0.0
    for record in read_metrics(settings.folder):
        seconds += record["step_seconds"]
        by_step[record["step"]] = record, seconds
    points = []
    for validation in run["validation"]:
        bits = validation["bits_per_byte"].get(view)
        if bits is None or validation["step"] not in by_step:
            continue
        record, seconds = by_step[validation["step"]]
        points.append(
            Point(
                step=record["step"],
                training_flops=record["total_training_flops"],
                symbols=record["total_symbols"],
                source_bytes=record["total_source_bytes"],
                seconds=seconds,
                bits_per_byte=bits,
            )
        )
    return {"curve": points, "curve_view": view}


def seconds_per_step(records: Sequence[dict[str, Any]]) -> float | None:
    """Median over the later half of a run's steps, so that start-up does not count."""
    seconds = sorted(record["step_seconds"] for record in records[len(records) // 2 :] if "step_seconds" in record)
    return seconds[len(seconds) // 2] if seconds else None
