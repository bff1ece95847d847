"""What ranks say to each other outside of the training step: small JSON values, in lock step.

The trainer makes one over `torch.distributed`; `SingleProcess` serves one process, evaluation and tests. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Any, Protocol


class Collectives(Protocol):
    """Every rank makes the same calls in the same order. Values are plain JSON.

    An implementation needs a time limit: a rank that died must end the wait of the others with an error. It should also have a process
    group of its own, so that its messages never meet those of the engine.
    """

    @property
    def rank(self) -> int:
        """0 .. world_size - 1."""

    @property
    def world_size(self) -> int:
        """Number of ranks, at least 1."""

    def barrier(self) -> None:
        """Return when every rank has come here."""

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value on every rank; what the others pass is ignored."""

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in order of rank, on every rank."""


class SingleProcess:
    """The collectives of a world of one."""

    rank: int = 0
    world_size: int = 1

    def barrier(self) -> None:
        """Nobody to wait for."""

    def broadcast(self, value: Any) -> Any:
        """The value itself."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """The value, alone in a list."""
        return [value]
