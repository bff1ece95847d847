"""The processes of a run, once their process group exists: small JSON values, sums, and who shares rows with whom. No DeepSpeed.

ranks = engine.start(settings.communication, launch, settings.sequence_parallel)
totals = ranks.sum(numbers)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from compressors.files import canonical_json
from proxy_lm.errors import WorkError
from proxy_lm.train.launch import Launch


class Ranks:
    """The processes of this run. `Collectives` for small JSON on a gloo group of its own, and sums of float64 numbers."""

    def __init__(self, launch: Launch, timeout_seconds: float, sequence_parallel: int = 1, device: torch.device | None = None) -> None:
        """`sequence_parallel` neighbours share their rows: `reader` of `num_readers` says whose rows these are, `column_share` which of
        the shares of their columns this rank holds."""
        self.rank = launch.rank
        self.world_size = launch.world_size
        self.local_rank = launch.local_rank
        self.device = device or torch.device("cpu")
        self.sequence_parallel = sequence_parallel
        self.reader, self.column_share = divmod(launch.rank, sequence_parallel)
        self.num_readers = launch.world_size // sequence_parallel
        timeout = timedelta(seconds=timeout_seconds)
        self.sequence_group: dist.ProcessGroup | None = None
        if sequence_parallel > 1:
            for first in range(0, launch.world_size, sequence_parallel):  # every rank makes every group
                group = dist.new_group(range(first, first + sequence_parallel), timeout=timeout)
                if first == launch.rank - self.column_share:
                    self.sequence_group = group
        self._group = dist.new_group(backend="gloo", timeout=timeout) if launch.world_size > 1 else None

    def barrier(self) -> None:
        """Return when every rank has come here."""
        if self._group is not None:
            dist.barrier(group=self._group)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's JSON value on every rank."""
        if self._group is None:
            return value
        data = canonical_json(value) if self.rank == 0 else b""
        size = torch.tensor([len(data)])
        dist.broadcast(size, src=0, group=self._group)
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8) if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(buffer, src=0, group=self._group)
        return json.loads(buffer.numpy().tobytes())

    def gather(self, value: Any) -> list[Any]:
        """Every rank's JSON value, in order of rank, on every rank."""
        if self._group is None:
            return [value]
        data = canonical_json(value)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([len(data)]), group=self._group)
        longest = max(int(size) for size in sizes)
        mine = torch.frombuffer(bytearray(data.ljust(longest)), dtype=torch.uint8)
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        dist.all_gather(parts, mine, group=self._group)
        return [json.loads(part.numpy().tobytes()) for part in parts]

    def sum(self, numbers: Tensor) -> Tensor:
        """Sum of a float64 tensor over the ranks, on the CPU. One collective; on CUDA it is also the step's only synchronisation."""
        if self._group is not None:
            dist.all_reduce(numbers)
        return numbers.cpu()


@contextmanager
def meeting() -> Iterator[None]:
    """Around work with collectives: a rank that died ends the wait of the others as a sentence. Raises `WorkError`."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, dist.DistError) or "gloo" in text or "Connection closed by peer" in text:
            raise WorkError(
                f"lost another rank ({first_line(error)[:120]}); its own message says why, "
                "and the same command continues from the last checkpoint"
            ) from error
        raise


def device_name(device: torch.device) -> str:
    """The device as its maker calls it; empty for a CPU, which `run.json` describes elsewhere."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def first_line(error: BaseException) -> str:
    """The first line of an error of a library, which may have pages."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip()[:300] if lines else type(error).__name__
