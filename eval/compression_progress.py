"""Progress of a compression table on standard error: which cell is measured, how far it is, how long it still takes.

    with TableProgress(len(cells)) as progress:
        progress.begin("gzip-9, whole, on code", num_bytes)
        progress.advance(2048)
        progress.end()

Rows differ in speed by a factor of a million, so there is no time left of a table, only of a cell, and no rate but a cell's.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import MofNCompleteColumn

from proxy_lm.progress import PLAIN_INTERVAL_SECONDS, live_bar, note, span


class TableProgress:
    """A live bar of cells on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        self.num_done = self.num_kept = 0
        self._what, self._num_bytes, self._done_bytes = "", 0, 0
        self._started = self._cell_started = self._last_line = time.monotonic()
        self._live = live_bar(MofNCompleteColumn())

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
            self._task = self._live.add_task("compression: cells", total=self.num_cells, state="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
        if kind is None:
            kept = f", {self.num_kept:,} of them kept from before" if self.num_kept else ""
            note(f"compression: {self.num_done:,} cells in {span(time.monotonic() - self._started)}{kept}")

    def begin(self, what: str, num_bytes: int) -> None:
        """The next cell: its name, and the bytes it has to do."""
        self._what, self._num_bytes, self._done_bytes, self._cell_started = what, num_bytes, 0, time.monotonic()

    def advance(self, num_bytes: int) -> None:
        """So many bytes of the cell more are done; told when it is time."""
        self._done_bytes += num_bytes
        now = time.monotonic()
        if self._live:
            self._live.update(self._task, state=self._state(now))
        elif now - self._last_line >= PLAIN_INTERVAL_SECONDS:
            self._last_line = now
            note(f"compression: cell {self.num_done + 1:,} of {self.num_cells:,}: {self._state(now)}")

    def end(self, *, kept: bool = False) -> None:
        """The cell is done, or was kept from before."""
        self.num_done += 1
        self.num_kept += kept
        if self._live:
            self._live.update(self._task, advance=1)

    def _state(self, now: float) -> str:
        seconds = max(now - self._cell_started, 1e-9)
        left = seconds / max(1, self._done_bytes) * (self._num_bytes - self._done_bytes)
        told = f"{self._what}: {self._done_bytes:,} of {self._num_bytes:,} bytes"
        return f"{told}, {span(left)} left of it" if self._done_bytes < self._num_bytes else told
