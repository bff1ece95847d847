"""Asks a probe: the nats and the hits of the second telling of each held-out crop, given the first.

The softmax runs over the whole vocabulary of the run and a hit is the right id having the highest logit of all. Sentinels are not counted.
A crop that the view refuses is left out of both, probe and control.
"""

# B crops, T positions, V ids

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from compressors.base import Compressor
from proxy_lm.analysis.told import JSON
from proxy_lm.model.decoder import Decoder
from proxy_lm.train.restore import LoadedModel, load_model
from proxy_lm.vocabulary import BOS, EOS, PAD, RAW_END, RAW_START, Vocabulary

# Logits in memory at once, in numbers.
_MAX_LOGITS = 1 << 26
_NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Asked:
    """Per crop, 0 targets where it was refused: sums of nats, right answers, targets; float64 [num_crops] each."""

    nats: npt.NDArray[np.float64]
    hits: npt.NDArray[np.float64]
    targets: npt.NDArray[np.float64]


def score(run: Path, compressor: Compressor | None, documents: Sequence[bytes], task: str | None, *, other_input: bool = False) -> Asked:
    """Ask the newest checkpoint of a run: `task` decompress or compress, or None for a control, which is told one way only (the view's
    where there is a compressor, else raw). `other_input` gives each crop the first telling of the next one."""
    loaded = load_model(run)
    inputs = [*documents[1:], *documents[:1]] if other_input else documents
    told = [ids_of(loaded.vocabulary, compressor, document, task, given) for document, given in zip(documents, inputs, strict=True)]
    nats, hits, targets = (np.zeros(len(documents)) for _ in range(3))
    order = sorted((k for k, row in enumerate(told) if row is not None), key=lambda k: -_length(told[k]))
    at = 0
    while at < len(order):
        longest = _length(told[order[at]])
        some = order[at : at + max(1, _MAX_LOGITS // (longest * loaded.vocabulary.size))]
        at += len(some)
        rows = [row for k in some if (row := told[k]) is not None]
        for k, (nat, hit, count) in zip(some, _ask(loaded, rows), strict=True):
            nats[k], hits[k], targets[k] = nat, hit, count
    return Asked(nats, hits, targets)


def ids_of(
    vocabulary: Vocabulary, compressor: Compressor | None, document: bytes, task: str | None, given: bytes
) -> tuple[npt.NDArray[np.int64], int, int] | None:
    """(ids from BOS to EOS, first target, end of the targets), as a plan lays out a pair; the first telling is of `given`. None where the
    view refuses."""
    raw_of, coded_of = (given, document) if task == "compress" else (document, given if task else document)
    raw = np.concatenate([[RAW_START], np.frombuffer(raw_of, np.uint8), [RAW_END]]).astype(np.int64)
    if compressor is None:
        pieces = [raw]
    else:
        symbols = compressor.encode_batch([coded_of])[0]
        if symbols is None:
            return None
        (view,) = vocabulary.views
        coded = np.concatenate([[view.start_id], view.to_ids(symbols), [view.end_id]])
        pieces = {"decompress": [coded, raw], "compress": [raw, coded], None: [coded]}[task]
    ids = np.concatenate([[BOS], *pieces, [EOS]])
    return ids, len(ids) - len(pieces[-1]), len(ids) - 2


def compare(asked: Asked, control: Asked, other: Asked, *, seed: int) -> JSON:
    """Accuracy and nats a target of a probe, of its control and of the probe given another crop's first telling, over the crops that all
    were asked; what the probe gains on both, with 95 % bootstrap intervals."""
    both = (asked.targets > 0) & (control.targets > 0) & (other.targets > 0)
    count = asked.targets[both]
    found: JSON = {"num_documents": int(both.sum()), "num_targets": int(count.sum())}
    if not both.any():
        return {**found, "reason": "the view refuses every held-out crop"}
    draw = np.random.Generator(np.random.Philox(key=seed)).integers(0, len(count), (_NUM_RESAMPLES, len(count)))
    for name, one in (("", asked), ("control_", control), ("other_", other)):
        found[f"{name}accuracy"] = float(one.hits[both].sum() / count.sum())
        found[f"{name}nats"] = float(one.nats[both].sum() / count.sum())
    for name, one in (("gain", control), ("read", other)):
        difference = one.nats[both] - asked.nats[both]
        low, high = np.quantile(difference[draw].sum(axis=1) / count[draw].sum(axis=1), [0.025, 0.975])
        found[f"{name}_nats"] = float(difference.sum() / count.sum())
        found[f"{name}_interval"] = [float(low), float(high)]
    return found


def _length(row: tuple[npt.NDArray[np.int64], int, int] | None) -> int:
    return 0 if row is None else len(row[0])


@torch.no_grad()
def _ask(loaded: LoadedModel, rows: Sequence[tuple[npt.NDArray[np.int64], int, int]]) -> list[tuple[float, int, int]]:
    """(nats, hits, targets) of each row; one forward pass."""
    model: Decoder = loaded.model
    length = max(len(ids) for ids, _, _ in rows)
    ids_BT = torch.full((len(rows), length), PAD, dtype=torch.int64)
    segments_BT = torch.full((len(rows), length), -1, dtype=torch.int32)
    for b, (ids, _, _) in enumerate(rows):
        ids_BT[b, : len(ids)] = torch.from_numpy(ids)
        segments_BT[b, : len(ids)] = 0
    positions_BT = torch.arange(length, dtype=torch.int32).expand(len(rows), length)
    logits_BTV = model.logits(ids_BT, segments_BT, positions_BT)
    found = []
    for b, (_, first, end) in enumerate(rows):
        logits_NV, target_N = logits_BTV[b, first - 1 : end - 1], ids_BT[b, first:end]
        nats = F.cross_entropy(logits_NV, target_N, reduction="sum").item() if len(target_N) else 0.0
        found.append((nats, int((logits_NV.argmax(dim=1) == target_N).sum()), len(target_N)))
    return found
