"""Numbers of each step: summed over micro-batches and ranks in one collective, then one line of `metrics.jsonl` and TensorBoard points.

Not promised: anything per rank. Times are rank 0's; losses, shares and counts are of the whole global step.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressors.files import disk_error, write_bytes
from proxy_lm.data.rows import Batch
from proxy_lm.model.decoder import Losses
from proxy_lm.progress import note
from proxy_lm.train.engine import Ranks
from proxy_lm.train.rows_read import NUM_PARTS, marks, rows_digest
from proxy_lm.train.spikes import SpikeState, state_of


@dataclass(frozen=True)
class StepTotals:
    """One global step, or one validation pass, over all ranks. Codes: 0 raw, k + 1 view k; nll and targets have specials last."""

    objective: float
    """The trained loss, averaged over micro-batches and ranks."""
    nll_nats: np.ndarray[Any, np.dtype[np.float64]]
    num_targets: np.ndarray[Any, np.dtype[np.float64]]
    head_nll_nats: np.ndarray[Any, np.dtype[np.float64]]
    """Of every output head, in the order of `ResolvedModel.head_names`; so with `head_num_targets`."""
    head_num_targets: np.ndarray[Any, np.dtype[np.float64]]
    source_bytes: np.ndarray[Any, np.dtype[np.float64]]
    num_documents: np.ndarray[Any, np.dtype[np.float64]]
    num_symbols: np.ndarray[Any, np.dtype[np.float64]]
    rows_digest: str
    """Of the rows that the ranks were given, whichever rank read which."""
    wait_seconds: float
    """Waiting for data, averaged over ranks."""
    flags: tuple[bool, ...]
    """True where any rank raised its flag."""
    teacher_seconds: float = 0.0
    """Of processors, spent on soft targets, summed over ranks."""

    @property
    def loss_nats(self) -> float:
        """Mean over all targets of the first head."""
        return float(self.nll_nats.sum() / max(self.num_targets.sum(), 1.0))

    def head_loss_nats(self, head_names: Sequence[str]) -> dict[str, float | None]:
        """Mean over each output head's own targets; None where it had none, or where the mean is not finite."""
        means = zip(head_names, self.head_nll_nats, self.head_num_targets, strict=True)
        return {name: finite(float(nll) / float(number)) if number else None for name, nll, number in means}

    def bits_per_byte(self, names: Sequence[str], inexact: Collection[str] = ()) -> dict[str, float | None]:
        """Bits per source byte by view. Raw targets are bytes themselves; a view's symbols are charged to the bytes they tell. None for a
        view that does not give documents back: what its symbols cost is no likelihood of the text."""
        told = [self.num_targets[0], *self.source_bytes[1:]]
        return {
            name: finite(float(nll) / math.log(2) / float(size)) if size and name not in inexact else None
            for name, nll, size in zip(names, self.nll_nats[:-1], told, strict=True)
        }


class Tally:
    """Adds up micro-batches on the device, then over the ranks."""

    def __init__(self, ranks: Ranks, num_views: int) -> None:
        self.ranks = ranks
        self.num_views = num_views
        self._losses: list[torch.Tensor] = []
        self._num_heads = 0
        self._teacher_seconds = 0.0
        self._counts = np.zeros(3 * (num_views + 1) + NUM_PARTS)

    def add(self, losses: Losses, batch: Batch) -> None:
        """One micro-batch of this rank. Nothing is read back from the device yet."""
        parts = (losses.loss.detach().reshape(1), losses.nll_nats, losses.num_targets, losses.head_nll_nats, losses.head_num_targets)
        self._losses.append(torch.cat([part.double() for part in parts]))
        self._num_heads = len(losses.head_nll_nats)
        if self.ranks.column_share == 0:  # ranks that share rows have the same ones, and different losses
            self._teacher_seconds += batch.teacher_seconds
            self._counts += np.concatenate((batch.source_bytes, batch.num_documents, batch.num_symbols, marks(batch)))

    def each(self) -> list[tuple[float, float]]:
        """(summed loss of the first head in nats, its targets) of every micro-batch of this rank. Waits for the device."""
        codes = self.num_views + 2
        return [(float(part[1 : 1 + codes].sum()), float(part[1 + codes : 1 + 2 * codes].sum())) for part in self._losses]

    def reduce(self, wait_seconds: float = 0.0, flags: Sequence[bool] = ()) -> StepTotals:
        """The sums over all ranks; every rank gets the same."""
        mine = torch.stack(self._losses).sum(dim=0)
        rest = torch.from_numpy(np.concatenate((self._counts, [wait_seconds, self._teacher_seconds], np.array(flags, dtype=np.float64))))
        total = self.ranks.sum(torch.cat((mine, rest.to(mine.device)))).numpy()
        codes, heads, views = self.num_views + 2, self._num_heads, self.num_views + 1
        parts = np.split(total, np.cumsum([1, codes, codes, heads, heads, views, views, views, NUM_PARTS, 1, 1]))
        world = self.ranks.world_size
        return StepTotals(
            objective=float(parts[0][0]) / (world * len(self._losses)),
            nll_nats=parts[1],
            num_targets=parts[2],
            head_nll_nats=parts[3],
            head_num_targets=parts[4],
            source_bytes=parts[5],
            num_documents=parts[6],
            num_symbols=parts[7],
            rows_digest=rows_digest(parts[8]),
            wait_seconds=float(parts[9][0]) / world,
            flags=tuple(bool(flag > 0) for flag in parts[11]),
            teacher_seconds=float(parts[10][0]),
        )


@dataclass
class Counters:
    """What has been done since step 0; saved in every checkpoint and taken up from there."""

    step: int = 0
    symbols: int = 0
    training_flops: int = 0
    seconds: float = 0.0
    """Wall time of the loop on rank 0, validation and checkpoints included; time lost by a kill is not in it."""
    earlier_seconds: float = 0.0
    """Of `seconds`, those before this start."""
    earlier_device_seconds: float = 0.0
    """The same times the number of ranks that each start had."""
    teacher_seconds: float = 0.0
    """Of processors, spent on soft targets by all ranks."""
    teacher_done: bool = False
    """Whether the teacher's lead over the student was found too small."""
    source_bytes_by_view: dict[str, int] = field(default_factory=dict)
    documents_by_view: dict[str, int] = field(default_factory=dict)
    symbols_by_view: dict[str, int] = field(default_factory=dict)
    final_loss_hex: str = ""
    broken_steps: int = 0
    """Steps up to now, in an unbroken row, whose loss was not finite."""
    validation: list[dict[str, Any]] = field(default_factory=list)
    spikes: SpikeState = field(default_factory=SpikeState)
    """What decides which steps are learnt from."""

    def __post_init__(self) -> None:
        self.spikes = state_of(self.spikes)

    def add(self, totals: StepTotals, names: Sequence[str], symbols: int, flops: int) -> None:
        """One more step."""
        self.step += 1
        self.symbols += symbols
        self.training_flops += flops
        self.teacher_seconds += totals.teacher_seconds
        self.final_loss_hex = totals.loss_nats.hex()
        self.broken_steps = 0 if math.isfinite(totals.loss_nats) else self.broken_steps + 1
        for into, numbers in (
            (self.source_bytes_by_view, totals.source_bytes),
            (self.documents_by_view, totals.num_documents),
            (self.symbols_by_view, totals.num_symbols),
        ):
            for name, number in zip(names, numbers, strict=True):
                into[name] = into.get(name, 0) + int(number)

    def device_seconds(self, world_size: int) -> float:
        """Seconds of all ranks over all starts; `world_size` is of the present one."""
        return self.earlier_device_seconds + (self.seconds - self.earlier_seconds) * world_size

    def count_device_seconds(self, world_size: int) -> None:
        """A start of `world_size` ranks has ended here and another begins."""
        self.earlier_device_seconds, self.earlier_seconds = self.device_seconds(world_size), self.seconds

    @property
    def source_bytes(self) -> int:
        """Bytes of source told, a document told twice counted twice."""
        return sum(self.source_bytes_by_view.values())


def step_record(
    totals: StepTotals, names: Sequence[str], symbols: int, inexact: Collection[str] = (), *, head_names: Sequence[str]
) -> dict[str, Any]:
    """The part of a step's line that depends on nothing but data and weights."""
    return {
        "loss_nats": finite(totals.loss_nats),
        "loss_hex": totals.loss_nats.hex(),
        "rows_digest": totals.rows_digest,
        "head_loss_nats": totals.head_loss_nats(head_names),
        "objective": finite(totals.objective),
        "bits_per_byte": totals.bits_per_byte(names, inexact),
        "document_share": _shares(names, totals.num_documents, float(totals.num_documents.sum())),
        "symbol_share": _shares(names, totals.num_symbols, float(symbols)),
        "source_byte_share": _shares(names, totals.source_bytes, float(totals.source_bytes.sum())),
    }


class MetricsFile:
    """`metrics.jsonl`, appended; one line a step. Only rank 0 makes one."""

    def __init__(self, path: Path, step: int) -> None:
        """Lines after `step` are cut off: they belong to steps that will be made again. Lines that cannot be read are named and dropped."""
        self.path = path
        lines, unreadable = _lines(path)
        kept = [line for line in lines if line[0] <= step]
        if unreadable:
            numbers = f"{', '.join(map(str, unreadable[:5]))}{', ...' if len(unreadable) > 5 else ''}"
            note(f"{path}: {len(unreadable)} lines cannot be read and are dropped ({numbers}); `proxy-lm verify` names their steps")
        write_bytes(path, b"".join(text + b"\n" for _, text in kept))
        self._file = path.open("ab")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one step."""
        try:
            self._file.write(json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise disk_error(error, self.path) from error

    def sync(self) -> None:
        """On the disk before a checkpoint of these steps is."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more lines."""
        self._file.close()


class Board:
    """TensorBoard events with the scalars of the lines. Only rank 0 makes one, and only where asked for."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, record: Mapping[str, Any], step: int) -> None:
        """Every number of a record, groups as `group/name`."""
        for name, value in record.items():
            for key, number in value.items() if isinstance(value, dict) else [(None, value)]:
                if isinstance(number, (int, float)) and name != "step":
                    self._writer.add_scalar(f"{name}/{key}" if key else name, number, step)

    def flush(self) -> None:
        """Hand the points over to the disk: a run that goes on from the checkpoint of these steps does not make them again."""
        self._writer.flush()

    def close(self) -> None:
        """Flush the events."""
        self._writer.close()


def finite(number: float) -> float | None:
    """JSON has no NaN: None in its place."""
    return number if math.isfinite(number) else None


def _shares(names: Sequence[str], numbers: Any, total: float) -> dict[str, float]:
    return {name: float(number) / total if total else 0.0 for name, number in zip(names, numbers, strict=True)}


def _lines(path: Path) -> tuple[list[tuple[int, bytes]], list[int]]:
    """(step, text) of every line, and the numbers of those that are none; not of the last one, which a kill may have torn."""
    lines: list[tuple[int, bytes]] = []
    unreadable: list[int] = []
    texts = path.read_bytes().split(b"\n") if path.exists() else []
    for number, text in enumerate(texts, 1):
        try:
            lines.append((int(json.loads(text)["step"]), text))
        except (ValueError, KeyError, TypeError):
            if number < len(texts):
                unreadable.append(number)
    return lines, unreadable
