"""Progress on standard error: a live bar on a terminal, a plain line every few seconds elsewhere. Standard output stays clean."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

PLAIN_INTERVAL_SECONDS = 10.0


def note(message: str) -> None:
    """One line on standard error."""
    print(message, file=sys.stderr, flush=True)


def span(seconds: float) -> str:
    """`45 s`, `12 min`, `2 h 10 min`, `3 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def console_of(pipe_width: int, *, stderr: bool = False) -> Console:
    """Where a command prints its tables: as wide as the terminal, and in a pipe or a file wide enough that they are not squeezed."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=pipe_width)


def live_bar(count: ProgressColumn) -> Progress | None:
    """A bar on standard error whose middle column counts in the caller's unit and whose tasks have a `state` text; None off a terminal."""
    if not sys.stderr.isatty():
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), count, TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


class ProgressBar:
    """Work in bytes: `with ProgressBar("prepare", total_bytes) as bar: bar.advance(n)`. `total_bytes` may be None when unknown."""

    def __init__(self, title: str, total_bytes: int | None) -> None:
        self.title = title
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self._told_bytes = 0
        self._started = self._last_line = time.monotonic()
        self._live = live_bar(TaskProgressColumn())

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
            self._task = self._live.add_task(self.title, total=self.total_bytes, state="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
        # Not where nothing was left to do, or the last line has told of all.
        if kind is None and self.total_bytes != 0 and (self.done_bytes != self._told_bytes or not self.done_bytes):
            note(f"{self.title}: {self._state()}")

    def advance(self, num_bytes: int, detail: str = "") -> None:
        """Count `num_bytes` more as done and show it when it is time."""
        self.done_bytes += num_bytes
        state = f"{self._state()} {detail}".rstrip()
        if self._live:
            self._live.update(self._task, advance=num_bytes, state=state)
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_INTERVAL_SECONDS:
            self._last_line, self._told_bytes = now, self.done_bytes
            share = f"{100 * self.done_bytes / self.total_bytes:.0f} % " if self.total_bytes else ""
            note(f"{self.title}: {share}{state}")

    def _state(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        return f"{_amount(self.done_bytes)} at {_amount(self.done_bytes / seconds)}/s"


class StepProgress:
    """`with StepProgress("arm bytes", 1000) as progress: progress.show(step, loss)`; steps may begin anywhere and repeat."""

    def __init__(self, title: str, num_steps: int) -> None:
        self.title = title
        self.num_steps = num_steps
        self._first: tuple[int, float] | None = None
        self._last_line = 0.0
        self._step_told: int | None = None
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
        elif now - self._last_line >= PLAIN_INTERVAL_SECONDS or (step >= self.num_steps and step != self._step_told):
            self._last_line, self._step_told = now, step
            note(f"{self.title}: step {step} of {self.num_steps}{state}{self._left(step, now)}")

    def _left(self, step: int, now: float) -> str:
        assert self._first is not None
        done, seconds = step - self._first[0], now - self._first[1]
        return f", {seconds / done * (self.num_steps - step):.0f} s left" if done > 0 and step < self.num_steps else ""


class CountProgress:
    """Work in things: `with CountProgress("judging", len(programs)) as progress: progress.advance()`."""

    def __init__(self, title: str, num_things: int) -> None:
        self.title = title
        self.num_things = num_things
        self.num_done = self._num_told = 0
        self._started = self._last_line = time.monotonic()
        self._live = live_bar(MofNCompleteColumn())

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
            self._task = self._live.add_task(self.title, total=self.num_things, state="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
        if kind is None and self.num_things and (self.num_done != self._num_told or not self.num_done):
            note(f"{self.title}: {self._state()}")

    def advance(self, num_things: int = 1) -> None:
        """Count so many more as done and show it when it is time."""
        self.num_done += num_things
        if self._live:
            self._live.update(self._task, advance=num_things)
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_INTERVAL_SECONDS:
            self._last_line, self._num_told = now, self.num_done
            note(f"{self.title}: {self._state()}")

    def _state(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        return f"{self.num_done} of {self.num_things} at {self.num_done / seconds:.1f}/s"


def _amount(num_bytes: float) -> str:
    if num_bytes < 1e3:
        return f"{num_bytes:.0f} bytes"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.1f} kB"
