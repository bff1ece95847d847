"""Bad steps on record: `faults.jsonl` beside `metrics.jsonl`, one line for each discarded step and each rollback, documents by name.

    {"step": 812, "event": "discarded", "why": "spike", "loss_nats": 9.1, "expected_nats": 2.2, "limit_over_expected_nats": 0.6,
     "micro_batches": [...],
     "documents": [{"row": 6493, "document": 71, "id": "...", "path": "a/b.py", "view": "raw"}, ...], "num_documents": 3}
    {"step": 819, "event": "rolled back", "to": 750}

Named are the documents of the micro-batches whose own loss was bad; where none stands out, of the worst one. Faults can be planted, to see
a run survive them: PROXY_LM_FAULTS="nan@5 spike@9:1 gradient@12" breaks steps 5, 9 (on rank 1 only) and 12.

Not promised: which document of a micro-batch was the bad one; losses are summed over its rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from proxy_lm.errors import RequestError
from proxy_lm.train.metrics import MetricsFile, StepTotals, finite
from proxy_lm.train.spikes import Verdict

if TYPE_CHECKING:
    from proxy_lm.data.corpus import Corpus
    from proxy_lm.model.decoder import Losses
    from proxy_lm.train.engine import Ranks
    from proxy_lm.train.inputs import Inputs

FAULTS_NAME: Final = "faults.jsonl"
PLANTED: Final = "PROXY_LM_FAULTS"
MAX_NAMED: Final = 100
_WORD = re.compile(r"(nan|inf|spike|gradient)@([1-9][0-9]*)(?::([0-9]+))?")
# What the losses are multiplied by. `gradient` touches only what goes backward: the loss that is told stays good.
_FACTORS: Final = {"nan": math.nan, "inf": math.inf, "spike": 1000.0, "gradient": math.nan}


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one rank: global rows, the first head's summed loss and targets."""

    rows: range
    nll_nats: float
    num_targets: float

    @property
    def loss_nats(self) -> float:
        """Mean over its targets."""
        return self.nll_nats / max(self.num_targets, 1.0)


class PlantedFaults:
    """Faults that the environment asks for; none in an ordinary run."""

    def __init__(self, text: str, rank: int) -> None:
        """`text`: words KIND@STEP or KIND@STEP:RANK. Raises `RequestError` for others."""
        self._kinds: dict[int, str] = {}
        for word in text.split():
            match = _WORD.fullmatch(word)
            if match is None:
                raise RequestError(f"{PLANTED} has the word '{word}'; give KIND@STEP or KIND@STEP:RANK, KIND of {', '.join(_FACTORS)}")
            if match.group(3) is None or int(match.group(3)) == rank:
                self._kinds[int(match.group(2))] = match.group(1)

    def plant(self, step: int, losses: Losses) -> Losses:
        """The losses of a micro-batch of this step (from 1, as `metrics.jsonl` counts), broken where that is wanted."""
        kind = self._kinds.get(step)
        if kind is None:
            return losses
        broken = losses._replace(loss=losses.loss * _FACTORS[kind])
        return broken if kind == "gradient" else broken._replace(nll_nats=losses.nll_nats * _FACTORS[kind])


class FaultsFile:
    """`faults.jsonl`; it comes into being with the first fault. Only rank 0 makes one."""

    def __init__(self, path: Path, step: int) -> None:
        """Lines after `step` are cut off, as in `metrics.jsonl`: those steps will be made again."""
        self.path = path
        self._step = step
        self._file = MetricsFile(path, step) if path.exists() else None

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one fault."""
        if self._file is None:
            self._file = MetricsFile(self.path, self._step)
        self._file.write(record)

    def sync(self) -> None:
        """On the disk before a checkpoint of these steps is."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """No more lines."""
        if self._file is not None:
            self._file.close()


def gather_micro_batches(ranks: Ranks, mine: Sequence[MicroBatch]) -> list[MicroBatch]:
    """Every rank's micro-batches in order of rows; ranks that share rows have their parts added up. Collective."""
    told = [[m.rows.start, m.rows.stop, m.nll_nats.hex(), m.num_targets.hex()] for m in mine]  # JSON has no NaN
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for first, end, nll, targets in (entry for part in ranks.gather(told) for entry in part):
        before = found.get((first, end), (0.0, 0.0))
        found[first, end] = (before[0] + float.fromhex(nll), before[1] + float.fromhex(targets))
    return [MicroBatch(range(*rows), *numbers) for rows, numbers in sorted(found.items())]


def discarded(
    inputs: Inputs, step: int, totals: StepTotals, verdict: Verdict, micro_batches: Sequence[MicroBatch], in_row: int
) -> dict[str, Any]:
    """The line of a discarded step."""
    bad = suspects(micro_batches, verdict)
    documents = _documents(inputs, [row for batch in bad for row in batch.rows])
    return {
        "step": step,
        "event": "discarded",
        "why": verdict.why,
        "in_row": in_row,
        "loss_nats": finite(totals.loss_nats),
        "loss_hex": totals.loss_nats.hex(),
        "expected_nats": verdict.expected_nats,
        "limit_over_expected_nats": verdict.limit_nats,
        "micro_batches": [{"rows": [m.rows.start, m.rows.stop], "loss_nats": finite(m.loss_nats), "bad": m in bad} for m in micro_batches],
        "documents": documents[:MAX_NAMED],
        "num_documents": len(documents),
    }


def suspects(micro_batches: Sequence[MicroBatch], verdict: Verdict) -> list[MicroBatch]:
    """Those to blame: not finite; else over expectation and limit; else the worst one."""
    bad = [m for m in micro_batches if not math.isfinite(m.loss_nats)]
    if not bad and verdict.expected_nats is not None and verdict.limit_nats is not None:
        limit = verdict.expected_nats + verdict.limit_nats
        bad = [m for m in micro_batches if m.loss_nats > limit]
    return bad or [max(micro_batches, key=lambda m: m.loss_nats)]


def _documents(inputs: Inputs, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Every (document, view) of these rows once, in order of rows, by its names in the corpus."""
    names = inputs.view_names
    told: dict[tuple[int, int], int] = {}
    for row in rows:
        slices = inputs.plan.row_slices(row, 1)
        for document, code in zip(slices.document.tolist(), slices.code.tolist(), strict=True):
            told.setdefault((document, code), row)
    known = _columns(inputs.corpus, {document for document, _ in told})
    return [{"row": row, "document": document, **known[document], "view": names[code]} for (document, code), row in told.items()]


def _columns(corpus: Corpus, documents: set[int]) -> dict[int, dict[str, str]]:
    """{document: {"id", "path"}}, read group by group of the table: a corpus may have more documents than memory has room for."""
    import pyarrow.parquet as pq

    found: dict[int, dict[str, str]] = {}
    with pq.ParquetFile(corpus.path / "documents.parquet") as file:
        ends = np.cumsum([file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)])
        for group in sorted({int(np.searchsorted(ends, document, side="right")) for document in documents}):
            table = file.read_row_group(group, columns=["id", "path"])
            first = int(ends[group]) - table.num_rows
            for document in documents:
                if first <= document < int(ends[group]):
                    found[document] = {name: table[name][document - first].as_py() for name in ("id", "path")}
    return found
