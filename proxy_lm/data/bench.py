"""How fast planning and reading are, on made-up documents. `make bench` prints it; `tests/test_bench_plan.py` holds it to the promise.

    plan_rate()      documents a second on one core: planning pass and slicing of all rows
    pack_rate()      units a second that best-fit packing lays into rows, and the padding it leaves
    reader_rate()    megabytes of source, and ids, a second that one thread assembles out of a corpus in memory
    wait_share()     share of its time that a consumer which computes for 200 ms a step waits for the loader

The first two are in CPU time, so that a busy machine gives the same numbers. Not measured here: a cold disk, and the wait of a real run
(`Loader.wait_seconds`, which is in its metrics).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from proxy_lm.data.curves import Curve
from proxy_lm.data.fim import FimSettings
from proxy_lm.data.loader import Loader
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import KnownLengths, Packing, Plan
from proxy_lm.data.rows import RowReader
from proxy_lm.vocabulary import Vocabulary

# A ramp with pairs, both orders, some of them parallel: every branch of the plan is taken.
_MIX = MixSettings.model_validate(
    {"rate": [[0.0, 0.4], [0.2, 0.9]], "pair": [[0.0, 0.4], [0.2, 0.08]], "parallel": [[0.0, 0.1], [0.2, 0.02]]}
)
_ALPHABET_SIZE = 16_384


class MemoryDocuments:
    """Documents of given lengths with the same random payload, read like a corpus or a view."""

    def __init__(self, lengths: npt.NDArray[np.int64], alphabet_size: int, seed: int) -> None:
        self.name = "made-up"
        self.alphabet_size = alphabet_size
        self.lengths = lengths
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])
        kind = np.uint8 if alphabet_size <= 256 else np.uint16
        self._payload = np.random.default_rng(seed).integers(0, alphabet_size, int(self._offsets[-1]), dtype=kind)

    def slice(self, index: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Payload start..stop of a document."""
        first = int(self._offsets[index])
        return self._payload[first + start : first + stop]


def made_up_sizes(num_documents: int, median_bytes: float = 2_000.0) -> npt.NDArray[np.int64]:
    """Log-normal sizes in bytes, [num_documents]: source files are about as skewed."""
    return np.random.default_rng(0).lognormal(np.log(median_bytes), 1.2, num_documents).astype(np.int64)


def plan_rate(num_documents: int = 2_000_000, row_length: int = 8_192, packing: Packing = "cut", fim_rate: float = 0.0) -> dict[str, float]:
    """Documents a second of CPU time: of the planning pass, of slicing every row, and of both together."""
    if packing == "fit":
        pack_rate(num_units=1_000)  # compiled
    sizes = made_up_sizes(num_documents)
    views = [KnownLengths("made-up", sizes // 3)]
    num_rows = int(sizes.sum()) // 2 // row_length
    began = time.process_time()
    plan = Plan(
        sizes=sizes,
        documents=range(num_documents),
        views=views,
        vocabulary=Vocabulary([("made-up", _ALPHABET_SIZE)]),
        mix=_MIX.model_copy(update={"fim": FimSettings(rate=Curve.constant(fim_rate))}),
        seed=0,
        row_length=row_length,
        lookahead=1,
        num_rows=num_rows,
        packing=packing,
    )
    planned = time.process_time()
    num_slices = 0
    for first in range(0, num_rows, 4096):
        num_slices += len(plan.row_slices(first, min(4096, num_rows - first)))
    sliced = time.process_time()
    told = plan.num_positions
    return {
        "num_documents": told,
        "num_slices": num_slices,
        "planning_documents_per_second": told / (planned - began),
        "slicing_documents_per_second": told / (sliced - planned),
        "documents_per_second": told / (sliced - began),
    }


def pack_rate(num_units: int = 1_000_000, row_length: int = 4_096) -> dict[str, float]:
    """Units a second of CPU time that best-fit packing lays into rows, in blocks as the plan does, and the share of padding it leaves."""
    from proxy_lm.data.fit import pack  # brings numba

    lengths = made_up_sizes(num_units) + 4
    pack(lengths[:100], row_length)  # compiled
    num_rows = 0
    began = time.process_time()
    for first in range(0, num_units, 4096):
        num_rows += int(pack(lengths[first : first + 4096], row_length).num_rows[0])
    seconds = time.process_time() - began
    return {"units_per_second": num_units / seconds, "padding_share": 1 - int(lengths.sum()) / (num_rows * row_length)}


def made_up_reader(num_documents: int, median_bytes: float, row_length: int, num_rows: int) -> RowReader:
    """A reader over made-up documents and one view of them, a third as long."""
    sizes = made_up_sizes(num_documents, median_bytes)
    raw = MemoryDocuments(sizes, 256, seed=1)
    view = MemoryDocuments(sizes // 3, _ALPHABET_SIZE, seed=2)
    vocabulary = Vocabulary([("made-up", _ALPHABET_SIZE)])
    plan = Plan(
        sizes=sizes,
        documents=range(num_documents),
        views=[view],
        vocabulary=vocabulary,
        mix=_MIX,
        seed=0,
        row_length=row_length,
        lookahead=1,
        num_rows=num_rows,
    )
    return RowReader(raw, [view], vocabulary, plan)


def reader_rate(
    num_documents: int = 20_000, row_length: int = 2_048, rows_per_read: int = 16, median_bytes: float = 2_000.0, num_reads: int = 200
) -> dict[str, float]:
    """Documents, ids and source bytes that `RowReader.read` assembles in a second of CPU time, in one thread."""
    reader = made_up_reader(num_documents, median_bytes, row_length, num_reads * rows_per_read)
    plan = reader.plan
    source_bytes = num_told = 0
    began = time.process_time()
    for first in range(0, plan.num_rows, rows_per_read):
        batch = reader.read(range(first, first + rows_per_read))
        source_bytes += int(batch.source_bytes.sum())
        num_told += int(batch.num_documents.sum())
    seconds = time.process_time() - began
    return {
        "num_ids": plan.num_symbols,
        "documents_per_second": num_told / seconds,
        "ids_per_second": plan.num_symbols / seconds,
        "source_megabytes_per_second": source_bytes / 1e6 / seconds,
        "milliseconds_per_read": 1e3 * seconds / num_reads,
    }


def wait_share(
    step_seconds: float = 0.2, row_length: int = 2_048, rows_per_device: int = 16, num_steps: int = 30, median_bytes: float = 2_000.0
) -> dict[str, float]:
    """Share of its time that a consumer waits for data while it keeps a core busy with matrix products, as training on a CPU does."""
    reader = made_up_reader(20_000, median_bytes, row_length, rows_per_device * num_steps)
    matrix = np.random.default_rng(0).standard_normal((256, 256))
    with Loader(reader, first_step=0, num_steps=num_steps, rows_per_device=rows_per_device, accumulation=1, rank=0, world_size=1) as loader:
        next(loader)  # the first step has nothing to hide behind
        waited, began = loader.wait_seconds, time.perf_counter()
        for _ in loader:
            until = time.perf_counter() + step_seconds
            while time.perf_counter() < until:
                matrix @ matrix
        seconds = time.perf_counter() - began
        waited = loader.wait_seconds - waited
    return {"wait_share": waited / seconds, "wait_milliseconds_per_step": 1e3 * waited / (num_steps - 1)}
