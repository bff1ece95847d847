"""The loader: each rank's micro-batches of each step, read ahead by a thread.

    with Loader(reader, first_step=0, num_steps=100, rows_per_device=4, accumulation=2, rank=0, world_size=2) as loader:
        for batches in loader:              # a list of `accumulation` batches for this rank
            ...

Step s is the global rows s * G .. s * G + G - 1, where G = rows_per_device * world_size * accumulation. Micro-batch m of rank k takes
rows s * G + (m * world_size + k) * rows_per_device + i: another world size deals the same rows to other hands. There is no state to save:
a run goes on with `first_step`. An exception while reading reaches the consumer as itself, in the step it belongs to.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from proxy_lm.data.rows import Batch, RowReader
from proxy_lm.errors import RequestError

_POLL_SECONDS = 0.05


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
        prefetch: int = 2,
    ) -> None:
        """`prefetch` steps are read ahead; 0 reads in the consumer's thread. Raises `RequestError` for steps beyond the plan."""
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
        self._steps = iter(range(first_step, first_step + num_steps))
        self._left = num_steps
        self._stop = threading.Event()
        self._queue: queue.Queue[list[Batch] | BaseException] = queue.Queue(maxsize=max(prefetch, 1))
        self._thread: threading.Thread | None = None
        if prefetch > 0 and num_steps > 0:
            # A daemon: a consumer that dies without close() must not be kept alive by its own read-ahead.
            self._thread = threading.Thread(target=self._read_ahead, name="loader", daemon=True)
            self._thread.start()

    def rows(self, step: int, micro_batch: int) -> range:
        """The global rows of one micro-batch of this rank."""
        first = step * self.rows_per_step + (micro_batch * self._world_size + self._rank) * self._rows_per_device
        return range(first, first + self._rows_per_device)

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        if self._left == 0 or self._stop.is_set():
            self.close()
            raise StopIteration
        began = time.perf_counter()
        try:
            got = self._read_step(next(self._steps)) if self._thread is None else self._queue.get()
        except BaseException:
            self.close()
            raise
        finally:
            self.wait_seconds += time.perf_counter() - began
        if isinstance(got, BaseException):
            self.close()
            raise got
        self._left -= 1
        return got

    def close(self) -> None:
        """Stop reading ahead and wait for the thread. Safe to call twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read_step(self, step: int) -> list[Batch]:
        return [self._reader.read(self.rows(step, micro_batch)) for micro_batch in range(self._accumulation)]

    def _read_ahead(self) -> None:
        for step in self._steps:
            try:
                item: list[Batch] | BaseException = self._read_step(step)
            except BaseException as error:  # handed to the consumer, who raises it
                item = error
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=_POLL_SECONDS)
                    break
                except queue.Full:
                    continue
            if self._stop.is_set() or isinstance(item, BaseException):
                return
