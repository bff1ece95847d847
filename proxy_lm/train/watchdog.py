"""Ends a rank that waits for a silent one: a process that is stopped, or a host that is gone without closing its connections.

    with Watchdog("a step", lambda: counters.step, limit_seconds=1800, ranks=ranks): run_steps(...)

Collectives have a time limit of their own, and not all keep to it: gloo's gather into one tensor, with which every ZeRO update ends, waits
for ever, and a rank whose first one was killed as they met waits for twice the limit and more (torch 2.13). Here a thread looks at a
number; where it stands still for longer than `communication.timeout_seconds`, the rank says so and leaves with exit code 1. The rank that
does not say it is the silent one. A rank alone waits for nobody and is not watched.

Not promised: to tell a silent rank from a step that really takes so long, validation and checkpoint included; raise the limit for those.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from proxy_lm.errors import WorkError


class Member(Protocol):
    """Who I am among the ranks: `launch.Launch` before they have met, `ranks.Ranks` after it."""

    @property
    def rank(self) -> int:
        """From 0."""

    @property
    def world_size(self) -> int:
        """How many there are."""


class Watchdog:
    """A thread beside work that waits for others, for as long as the context is open."""

    def __init__(self, what: str, progress: Callable[[], int], limit_seconds: float, ranks: Member) -> None:
        """`what` takes no longer than the limit, and `progress` changes with every one of it."""
        self._what = what
        self._progress = progress
        self._limit_seconds = limit_seconds
        self._ranks = ranks
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        if self._ranks.world_size > 1:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        seen, since = self._progress(), time.monotonic()
        while not self._closed.wait(min(1.0, self._limit_seconds / 4)):
            now = self._progress()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > self._limit_seconds:
                print(
                    f"proxy_lm.train: rank {self._ranks.rank} lost another rank: {self._what} has taken over {self._limit_seconds:.0f} s "
                    "(communication.timeout_seconds). The rank that does not say this is the silent one; the same command continues from "
                    "the last checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(WorkError.exit_code)  # the main thread waits inside a collective and cannot be woken
