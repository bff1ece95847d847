"""Bits per byte of a trained run on the raw bytes of a corpus split. Settings, the measurement, and what its JSON means.

    proxy-lm-eval bpb runs/nano --split test --context-bytes 1024 --stride-bytes 512

Bits per byte is the sum of the nats of every payload symbol over ln 2 and over the number of bytes of the documents: the denominator is
bytes for every arm, whatever it reads. `README.md` of this room says what is charged and what is free; `windows.py` how documents are cut.
Results are kept block by block, so a killed evaluation continues; `RUN/eval/bpb-<split>.json` is written last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from compressors.files import digest_of
from eval.blocks import Block, read_done, take_prefix
from eval.envelope import write_result
from eval.intervals import Clusters, bits_per_byte, interval
from eval.samples import eval_folder
from proxy_lm.config import Settings
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import RequestError, WorkError

SCHEMA = "proxy-lm bits per byte 1"
MOST_PROJECTS = 10_000


class EvaluationSettings(Settings):
    """How bits per byte is measured; the same for every arm of a comparison."""

    split: str = "test"
    """Split of the corpus: train, valid or test."""

    context_bytes: int = Field(default=1024, ge=3)
    """No byte is predicted from more bytes than this; the two ids that open a document count as two of them."""

    stride_bytes: int = Field(default=512, ge=1)
    """How far a window moves; every byte beyond the first window has at least context - stride + 1 bytes before it."""

    max_bytes: int | None = Field(default=None, ge=1)
    """Measure only the first documents of the split, up to so many bytes; None: all."""

    windows_per_batch: int = Field(default=16, ge=1)
    """Windows in one forward pass; changes speed and memory, not the numbers."""

    score_end: bool = False
    """Charge the end of the document too (the end sentinel and EOS). Off: payload only, the length of a document is free for every arm."""

    view: str | None = None
    """Reading: 'raw' or a view of the run. None: raw if the run was told any raw bytes, else its only view."""

    device: str = "auto"
    """'cpu', 'cuda', or 'auto'."""


@dataclass(frozen=True)
class Job:
    """Everything the number depends on; its digest names the folder of finished blocks."""

    run: Path
    corpus: Path
    settings: EvaluationSettings
    view: str
    checkpoint_step: int
    checkpoint_digest: str
    """Of the weights alone: equal weights give equal numbers, however the run came to them."""
    corpus_digest: str

    @property
    def key(self) -> str:
        """Digest of all that can change the number; not paths, batch sizes or devices."""
        settings = self.settings.model_dump(mode="json", exclude={"windows_per_batch", "device", "view"})
        return digest_of([SCHEMA, settings, self.view, self.checkpoint_step, self.checkpoint_digest, self.corpus_digest])

    @property
    def folder(self) -> Path:
        """Where finished blocks are kept."""
        return eval_folder(self.run) / f"bpb-{self.settings.split}-{self.key[:16]}"

    def documents(self, corpus: Corpus) -> range:
        """The documents that are measured. Raises `RequestError` for an unknown or an empty split."""
        split = self.settings.split
        if split not in corpus.splits:
            raise RequestError(f"unknown split '{split}'; the corpus has {', '.join(corpus.splits)}")
        documents = take_prefix(corpus.sizes, corpus.splits[split], self.settings.max_bytes)
        if not len(documents) or not int(corpus.sizes[documents.start : documents.stop].sum()):
            raise RequestError(f"split '{split}' of {self.corpus} has no bytes to measure; prepare the corpus with a larger share for it")
        return documents


@dataclass(frozen=True)
class Measured:
    """A finished evaluation: `result` is plain JSON; the arrays are per document, in the order of the split."""

    result: dict[str, Any]
    clusters: Clusters
    written: dict[str, Any] = field(default_factory=dict)
    """Where the result stands; see `eval.envelope.write_result`."""


def evaluate(run: Path, settings: EvaluationSettings, *, num_workers: int = 1, corpus: Path | None = None) -> Measured:
    """Measure a run, continuing what an earlier call left, and write `RUN/eval/bpb-<split>.json`.

    `corpus` stands in for the folder the run names, when that has moved; its digest must be the run's. Raises `RequestError` for what is
    not a run, has no valid checkpoint, or does not fit its corpus; `WorkError` when workers died.
    """
    from eval.workers import run_workers  # torch

    job, opened, blocks = run_workers(run, settings, num_workers=num_workers, corpus=corpus)
    measured = merge(job, opened, blocks)
    written = write_result(job.run, "bpb", settings.split, measured.result, job.folder, ("num_documents",))
    return replace(measured, written=written)


def merge(job: Job, corpus: Corpus, blocks: list[Block]) -> Measured:
    """Add up finished blocks. Sums are exact (`math.fsum`), so the order in which blocks came does not show."""
    done = read_done(job.folder, blocks)
    missing = [block.index for block in blocks if block.index not in done]
    if missing:
        raise WorkError(f"{len(missing)} of {len(blocks)} blocks were not scored; run the same command again to continue")
    records = [done[block.index] for block in blocks]
    documents = range(blocks[0].first, blocks[-1].stop)
    sizes = corpus.sizes[documents.start : documents.stop].astype(np.float64)
    payload = np.array([nats for record in records for nats in record["nll_nats"]])
    ends = np.array([nats for record in records for nats in record["end_nats"]])
    assert len(payload) == len(ends) == len(documents) == len(sizes)
    nats = payload + ends
    projects = corpus.column("project")[documents.start : documents.stop]
    clusters = Clusters.of_documents(projects, nats, sizes)
    bounds = interval(clusters)
    total, num_bytes = math.fsum(nats), int(sizes.sum())
    result = {
        "schema": SCHEMA,
        "bits_per_byte": bits_per_byte(total, num_bytes),
        "interval": None if bounds is None else list(bounds),
        "interval_means": "95 %, bootstrap over projects"
        if bounds is not None
        else "no interval: the documents measured are of one project",
        "nll_nats": total,
        "end_nats": math.fsum(ends),
        "num_bytes": num_bytes,
        "num_documents": len(documents),
        "num_projects": len(clusters.names),
        "num_symbols": sum(record["num_symbols"] for record in records),
        "num_windows": sum(record["num_windows"] for record in records),
        "num_short_windows": sum(record["num_short_windows"] for record in records),
        "num_documents_read_raw": sum(record["num_told_raw"] for record in records),
        "split": job.settings.split,
        "view": job.view,
        "context_bytes": job.settings.context_bytes,
        "stride_bytes": job.settings.stride_bytes,
        "max_bytes": job.settings.max_bytes,
        "end_scored": job.settings.score_end,
        "by_project": by_project(clusters),
        "by_language": by_language(corpus.column("language")[documents.start : documents.stop], nats, sizes),
        "checkpoint": {"step": job.checkpoint_step, "digest": job.checkpoint_digest},
        "corpus_digest": job.corpus_digest,
        "seconds": math.fsum(record["seconds"] for record in records),
    }
    return Measured(result, clusters)


def by_project(clusters: Clusters) -> dict[str, Any] | None:
    """Sums by project, from which two results are paired without their runs; None for more projects than a result should hold."""
    if len(clusters.names) > MOST_PROJECTS:
        return None
    return {"projects": list(clusters.names), "nll_nats": clusters.nll_nats.tolist(), "num_bytes": clusters.num_bytes.tolist()}


def by_language(
    languages: list[str], nats: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]
) -> Mapping[str, Mapping[str, float | int | None]]:
    """Bits per byte, bytes and documents of each language, the largest first."""
    rows = Clusters.of_documents([str(language) for language in languages], nats, sizes)
    counts = Clusters.of_documents([str(language) for language in languages], nats, np.ones(len(sizes))).num_bytes
    order = np.argsort(-rows.num_bytes, kind="stable")
    return {
        rows.names[i]: {
            "bits_per_byte": bits_per_byte(float(rows.nll_nats[i]), float(rows.num_bytes[i])) if rows.num_bytes[i] else None,
            "num_bytes": int(rows.num_bytes[i]),
            "num_documents": int(counts[i]),
        }
        for i in order
    }
