"""Does a model copy? Bits per byte of held-out text, and of the same text said again right behind it in one row.

    proxy-lm-eval copying runs/nano
    evaluations: {copying: {limit: 200}}         # in a comparison's plan: every arm that reads raw bytes is asked the same

A stretch of half a row is told as the begin of a document, and then once more. A model that looks back finds the second telling almost
free; one that does not pays for it as for the first. The first bytes of both are left out: they do not show yet which text it is. Whether
a run has found out how to copy decides, at a few hundred thousand parameters, how many bits per byte it has (configs/README.md).

Documents are drawn by (seed, document), projects in turn. RUN/eval/copying.json has both numbers with intervals over projects, and the bits
of each stretch. Not promised: that what is copied at half a row's distance is copied at any other.
"""

# B stretches, T ids of a row

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from eval.envelope import Dataset, envelope, write_result
from eval.intervals import estimate
from eval.opened import open_run
from eval.samples import eval_folder
from eval.shown_samples import drawn
from eval.windows import NUM_OPENING_IDS
from proxy_lm.config import Settings
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import BOS, RAW_START

if TYPE_CHECKING:
    from proxy_lm.model.decoder import Decoder

SCHEMA: Final = "proxy-lm copying 1"
COMMAND: Final = "copying"
LEFT_OUT_BYTES: Final = 16
"""Of each telling."""
_RAW: Final = "raw"


class CopyingSettings(Settings):
    """What is asked."""

    split: str = "test"
    """Split of the run's corpus."""

    limit: int = Field(default=200, ge=1)
    """Stretches at most, one a document."""

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Which documents and places are drawn."""

    device: str = "auto"
    """'cpu', 'cuda', or 'auto'."""


def evaluate(run: Path, settings: CopyingSettings, *, corpus: Path | None = None) -> dict[str, Any]:
    """Measure a run; the result is also RUN/eval/copying.json. `corpus` stands in for the folder the run names, when that has moved.

    Raises `RequestError` for what is not a run, one that was told no raw bytes, rows too short to say anything twice, and a split without
    documents of half a row."""
    opened = open_run(run, device=settings.device)
    if opened.view != _RAW:
        raise RequestError(f"{run} was told no raw bytes, only view '{opened.view}'; copying is asked in raw bytes")
    size = (opened.row_length - NUM_OPENING_IDS) // 2
    if size <= LEFT_OUT_BYTES:
        raise RequestError(
            f"rows of {opened.row_length} ids hold two tellings of {size} bytes, of which the first {LEFT_OUT_BYTES} are left out; "
            "ask a run with longer rows"
        )
    held_out = opened.corpus(corpus)
    stretches, projects = choose(held_out, settings, size)
    started = time.monotonic()
    parts = [stretches[first : first + opened.num_rows] for first in range(0, len(stretches), opened.num_rows)]
    bits = np.concatenate([stretch_bits(opened.loaded.model, part, opened.device) for part in parts])
    num_bytes = np.full(len(stretches), size - LEFT_OUT_BYTES)
    dataset = Dataset(name=f"{settings.split} split of the corpus", digest=held_out.digest, num_items=len(stretches))
    found = {
        "num_stretches": len(stretches),
        "num_projects": len(set(projects)),
        "stretch_bytes": size,
        "first": estimate(projects, bits[:, 0], num_bytes).to_json(),
        "again": estimate(projects, bits[:, 1], num_bytes).to_json(),
        "bits": bits.tolist(),
    }
    result = envelope(SCHEMA, COMMAND, opened.identity, dataset, settings, time.monotonic() - started, found)
    # One that asked less takes the place too: it is made again in seconds.
    return result | {"written": write_result(run, COMMAND, "", result, eval_folder(run), ())}


def choose(corpus: Corpus, settings: CopyingSettings, size: int) -> tuple[list[bytes], list[str]]:
    """At most `limit` stretches of `size` bytes, one a document, the first of each project before the others; and their projects."""
    long_enough = (document for document in drawn(corpus, settings.split, settings.seed) if corpus.sizes[document] >= size)
    chosen = list(itertools.islice(long_enough, settings.limit))
    if not chosen:
        raise RequestError(
            f"no document of the {settings.split} split of {corpus.path} has {size} bytes, half a row of the run; give another --split"
        )
    names = corpus.column("project")
    stretches = []
    for document in chosen:
        draw = np.random.Generator(np.random.Philox(key=[settings.seed, 1 + document]))
        first = int(draw.integers(int(corpus.sizes[document]) - size + 1))
        stretches.append(corpus.slice(document, first, first + size).tobytes())
    return stretches, [str(names[document]) for document in chosen]


@torch.no_grad()
def stretch_bits(model: Decoder, stretches: list[bytes], device: torch.device) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Bits of the first telling and of the second, without what is left out of each, float64 [B, 2]. All stretches have one length."""
    size = len(stretches[0])
    ids = torch.tensor([[BOS, RAW_START, *stretch, *stretch] for stretch in stretches])
    segments = torch.zeros_like(ids, dtype=torch.int32)
    positions = torch.arange(ids.shape[1], dtype=torch.int32).expand_as(ids).contiguous()
    logits = model.logits(ids[:, :-1].to(device), segments[:, :-1], positions[:, :-1].to(device))
    nats = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten().to(device), reduction="none").view(len(stretches), -1)
    told = nats[:, NUM_OPENING_IDS - 1 :].double().cpu().reshape(len(stretches), 2, size)[:, :, LEFT_OUT_BYTES:]
    found: np.ndarray[Any, np.dtype[np.float64]] = (told.sum(2) / math.log(2)).numpy()
    return found
