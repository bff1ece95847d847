"""A wish to stop: SIGTERM, SIGUSR1 and SIGINT set a flag, the loop reads it once a step and all ranks leave at the same step."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Final, Self

EXIT_STOPPED: Final = 75  # EX_TEMPFAIL: the work is not done and the same command continues it
SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Context manager that takes the three signals. A second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.wanted = False
        self.name = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted, self.name = True, signal.Signals(number).name
