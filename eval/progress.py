"""Progress of a training arm in steps, with the time that is left: a live bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import MofNCompleteColumn

from proxy_lm.progress import PLAIN_INTERVAL_SECONDS, live_bar, note


class StepProgress:
    """`with StepProgress("arm bytes", 1000) as progress: progress.show(step, loss)`; steps may begin anywhere and repeat."""

    def __init__(self, title: str, num_steps: int) -> None:
        self.title = title
        self.num_steps = num_steps
        self._first: tuple[int, float] | None = None
        self._last_line = 0.0
        self._live = live_bar(MofNCompleteColumn())

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
            self._task = self._live.add_task(self.title, total=self.num_steps, state="starting")
        else:
            note(f"{self.title}: starting, {self.num_steps} steps")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self, step: int, loss: float | None) -> None:
        """The run has done `step` steps."""
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        state = "" if loss is None else f" loss {loss:.3f}"
        if self._live:
            self._live.update(self._task, completed=step, state=state.strip())
        elif now - self._last_line >= PLAIN_INTERVAL_SECONDS or step >= self.num_steps:
            self._last_line = now
            note(f"{self.title}: step {step} of {self.num_steps}{state}{self._left(step, now)}")

    def _left(self, step: int, now: float) -> str:
        assert self._first is not None
        done, seconds = step - self._first[0], now - self._first[1]
        return f", {seconds / done * (self.num_steps - step):.0f} s left" if done > 0 and step < self.num_steps else ""
