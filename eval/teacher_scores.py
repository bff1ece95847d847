"""How good the teachers of a comparison are themselves: bits per byte of their byte models on the bytes that every arm is scored on.

    found = teacher_scores(plan, corpus, out)        by view; kept in OUT/once, so that the second time costs nothing

The same documents, windows and denominator as for the arms (`windows.py`), the end of a document not charged. A model is reset where a
window begins.

Not promised: an interval; a teacher is one model, fitted once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from compressors.neural.models import PRECISION_BITS, ByteModel, load_model, model_identity
from eval.blocks import take_prefix
from eval.once import measured_once
from eval.plan import ComparePlan, arm_runs
from eval.planned_teacher import teacher_view
from eval.results import Results
from eval.windows import NUM_OPENING_IDS, cut
from proxy_lm.data.corpus import Corpus
from proxy_lm.neural_training import MODEL_FOLDER

SCHEMA: Final = "proxy-lm teacher 1"


def teacher_scores(plan: ComparePlan, corpus: Corpus, out: Path) -> dict[str, dict[str, Any]]:
    """The score of each view's byte model that teaches an arm, by the view's name; those whose model is not there yet are left out."""
    views = dict.fromkeys(view for run in arm_runs(plan) if (view := teacher_view(run.values)) is not None)
    folders = {view: out / "views" / view / MODEL_FOLDER for view in views}
    kept = out / "once"
    return {view: _score(plan, corpus, folder, kept / f"teacher-{view}.json") for view, folder in folders.items() if folder.is_dir()}


def _score(plan: ComparePlan, corpus: Corpus, folder: Path, path: Path) -> dict[str, Any]:
    asked = plan.evaluation
    settings = {name: getattr(asked, name) for name in ("split", "context_bytes", "stride_bytes", "max_bytes")}
    kind, fingerprint = model_identity(folder)

    def measure() -> dict[str, Any]:
        model = load_model(folder)
        documents = take_prefix(corpus.sizes, corpus.splits[asked.split], asked.max_bytes)
        nats, num_bytes = 0.0, 0
        for index in documents:
            document = corpus.document(index)
            nats += document_nats(model, document, asked.context_bytes, asked.stride_bytes)
            num_bytes += len(document)
        bits = nats / math.log(2) / num_bytes if num_bytes else None
        return {"kind": kind, "fingerprint": fingerprint, "bits_per_byte": bits, "num_bytes": num_bytes, "num_documents": len(documents)}

    return measured_once(path, [SCHEMA, settings, fingerprint, corpus.digest], measure)


def document_nats(model: ByteModel, document: bytes, context_bytes: int, stride_bytes: int) -> float:
    """Nats of all bytes of a document, each scored once, in the windows in which a byte model of the comparison is asked."""
    nats = 0.0
    borders = np.arange(len(document) + 1, dtype=np.int64)
    for window in cut(borders, context_bytes=context_bytes, stride_bytes=stride_bytes):
        first, end = (max(0, place - NUM_OPENING_IDS) for place in (window.read_from, window.score_to))
        scored = max(0, window.score_from - NUM_OPENING_IDS)
        if scored < end:
            stretch = document[first:end]
            rows = model.rows([stretch])[0]
            chosen = rows[np.arange(scored - first, end - first), np.frombuffer(stretch, np.uint8)[scored - first :]]
            nats += float(PRECISION_BITS * math.log(2) * len(chosen) - np.log(chosen.astype(np.float64)).sum())
    return nats


def said(results: Results) -> list[str]:
    """A sentence for each teacher with a score."""
    taught: dict[str, list[str]] = {}
    for name, arm in results.plan.get("arms", {}).items():
        view = teacher_view(_only(arm))
        if view is not None:
            taught.setdefault(view, []).append(name)
    return [
        f"The teacher itself, the byte model of view {view}{_whom(taught.get(view, []))}: {found['bits_per_byte']:.3f} bits per byte on "
        f"the same bytes.{_outgrown(results, found['bits_per_byte'])}"
        for view, found in results.teachers.items()
        if found.get("bits_per_byte") is not None
    ]


def _outgrown(results: Results, of_teacher: float) -> str:
    """Where the baseline, taught by nobody, has come further than this teacher, whose pupils it then holds back."""
    found: dict[str, list[float]] = {}
    for arm in results.finished:
        if arm.name == results.baseline and arm.bits_per_byte is not None:
            found.setdefault(" ".join(filter(None, (arm.scale, arm.budget))), []).append(arm.bits_per_byte)
    ahead = {place: mean for place, bits in found.items() if (mean := sum(bits) / len(bits)) < of_teacher}
    if not ahead:
        return ""
    places = ",".join(f" at {place} ({mean:.3f})" if place else f" ({mean:.3f})" for place, mean in ahead.items())
    return f" Without it {results.baseline} has fewer{places}: there this teacher can hold a student back."


def _only(arm: Mapping[str, Any]) -> dict[str, Any]:
    return {"teacher": arm["teacher"]} if arm.get("teacher") else {}


def _whom(arms: list[str]) -> str:
    return f" ({', '.join(arms)})" if arms else ""
