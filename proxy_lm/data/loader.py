"""The loader: each rank's micro-batches of each step, read ahead by threads.

    with Loader(reader, first_step=0, num_steps=100, rows_per_device=4, accumulation=2, rank=0, world_size=2) as loader:
        for batches in loader:              # a list of `accumulation` batches for this rank
            ...

Step s is the global rows s * G .. s * G + G - 1, where G = rows_per_device * world_size * accumulation. Micro-batch m of rank k takes
rows s * G + (m * world_size + k) * rows_per_device + i: another world size deals the same rows to other hands. There is no state to save:
a run goes on with `first_step`. A worker reads whole steps; whichever is ready first, they are handed over in order, so the number of
workers changes no id. An exception while reading reaches the consumer as itself, in the step it belongs to.

Not promised: that two workers read twice as fast as one. What they do under the interpreter lock (deciding spans, one call a slice) they
do in turn; what they do outside it (copying, waiting for a disk) they do at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from pydantic import Field

from proxy_lm.config import Settings
from proxy_lm.data.rows import Batch, RowReader
from proxy_lm.errors import RequestError


class LoaderSettings(Settings):
    """How rows are read. No value changes which ids a step holds."""

    workers: int = Field(default=1, ge=0, le=64)
    """Threads of each rank that read steps ahead of the training; 0 reads each step when it is wanted, in the training thread."""

    prefetch_steps: int = Field(default=2, ge=1, le=1024)
    """Steps that may be ready or in the making before they are wanted; at least one for each worker. Each takes the memory of its rows."""


class Loader:
    """Iterator over the steps first_step .. first_step + num_steps - 1. `wait_seconds` is the time the consumer has waited for data."""

    def __init__(
        self,
        reader: RowReader,
        *,
        first_step: int,
        num_steps: int,
        rows_per_device: int,
        accumulation: int,
        rank: int,
        world_size: int,
        workers: int = 1,
        prefetch_steps: int = 2,
    ) -> None:
        """`workers` and `prefetch_steps`: see `LoaderSettings`. Raises `RequestError` for steps beyond the plan."""
        for what, value in (("rows_per_device", rows_per_device), ("accumulation", accumulation), ("world_size", world_size)):
            if value < 1:
                raise RequestError(f"{what} is {value}; at least 1 is needed")
        assert 0 <= rank < world_size
        assert first_step >= 0
        self.rows_per_step = rows_per_device * world_size * accumulation
        last_row = (first_step + num_steps) * self.rows_per_step
        if last_row > reader.plan.num_rows:
            raise RequestError(
                f"step {first_step + num_steps - 1} ends at row {last_row - 1}, and the plan has {reader.plan.num_rows} rows; "
                "plan num_steps * rows_per_step rows"
            )
        self.wait_seconds = 0.0
        self._reader = reader
        self._rows_per_device, self._accumulation = rows_per_device, accumulation
        self._rank, self._world_size = rank, world_size
        self._wanted = first_step  # the step that is handed over next
        self._end = first_step + num_steps
        # Under the condition: the step that is read next, what has been read and not handed over, and whether to go on at all.
        self._changed = threading.Condition()
        self._unread = first_step
        self._ready: dict[int, list[Batch] | BaseException] = {}
        self._closed = False
        self._ahead = max(prefetch_steps, workers)
        # Daemons: a consumer that dies without close() must not be kept alive by its own read-ahead.
        self._threads = [threading.Thread(target=self._work, name="loader", daemon=True) for _ in range(min(workers, num_steps))]
        for thread in self._threads:
            thread.start()

    def rows(self, step: int, micro_batch: int) -> range:
        """The global rows of one micro-batch of this rank."""
        first = step * self.rows_per_step + (micro_batch * self._world_size + self._rank) * self._rows_per_device
        return range(first, first + self._rows_per_device)

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        if self._wanted == self._end or self._closed:
            self.close()
            raise StopIteration
        began = time.perf_counter()
        try:
            got = self._take()
        except BaseException:
            self.close()
            raise
        finally:
            self.wait_seconds += time.perf_counter() - began
        if isinstance(got, BaseException):
            self.close()
            raise got
        return got

    def close(self) -> None:
        """Stop reading ahead and wait for the threads. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read_step(self, step: int) -> list[Batch]:
        return [self._reader.read(self.rows(step, micro_batch)) for micro_batch in range(self._accumulation)]

    def _take(self) -> list[Batch] | BaseException:
        """The wanted step: read here without workers, else what a worker has made of it, as soon as that is there."""
        if not self._threads:
            self._wanted += 1
            return self._read_step(self._wanted - 1)
        with self._changed:
            self._changed.wait_for(lambda: self._wanted in self._ready)
            got = self._ready.pop(self._wanted)
            self._wanted += 1
            self._changed.notify_all()
            return got

    def _work(self) -> None:
        """One worker: the next unread step that is near enough to the wanted one, again and again."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._unread == self._end or self._unread < self._wanted + self._ahead)
                if self._closed or self._unread == self._end:
                    return
                step = self._unread
                self._unread += 1
            try:
                item: list[Batch] | BaseException = self._read_step(step)
            except BaseException as error:  # handed to the consumer, who raises it
                item = error
            with self._changed:
                if self._closed:
                    return
                self._ready[step] = item
                self._changed.notify_all()
                if isinstance(item, BaseException):
                    self._unread = self._end  # nothing after the error is ever handed over
