"""Errors that all ranks meet together. Without this, one rank leaves with a sentence and the others wait for it in a collective.

corpus = agree(ranks, lambda: Corpus.open(path))       # raises on every rank when it raised on any
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from proxy_lm.errors import ProxyError, RequestError, WorkError
from proxy_lm.train.collectives import Collectives

T = TypeVar("T")
ON_EVERY_RANK: Final = "raised on every rank"


def agree(ranks: Collectives, work: Callable[[], T]) -> T:
    """`work` on every rank at once; if it fails anywhere, the first failing rank's error is raised everywhere."""
    value, problem = _attempt(work)
    failed = [(rank, problem) for rank, problem in enumerate(ranks.gather(problem)) if problem is not None]
    if failed:
        rank, (code, sentence) = failed[0]
        error = (RequestError if code == RequestError.exit_code else WorkError)(sentence if rank == 0 else f"rank {rank}: {sentence}")
        error.add_note(ON_EVERY_RANK)
        raise error
    return value  # type: ignore[return-value]


def first_then_rest(ranks: Collectives, first: Callable[[], T], rest: Callable[[], T]) -> T:
    """`first` on rank 0 while the others wait, then `rest` on the others: rank 0 checks what all will read."""
    made = agree(ranks, lambda: first() if ranks.rank == 0 else None)
    other = agree(ranks, lambda: None if ranks.rank == 0 else rest())
    return made if ranks.rank == 0 else other  # type: ignore[return-value]


@contextmanager
def together() -> Iterator[None]:
    """Around calls that promise to raise the same error on every rank: marks it, so that only rank 0 prints it."""
    try:
        yield
    except ProxyError as error:
        error.add_note(ON_EVERY_RANK)
        raise


def is_shared(error: ProxyError) -> bool:
    """Whether rank 0 has the same error."""
    return ON_EVERY_RANK in getattr(error, "__notes__", [])


def _attempt(work: Callable[[], T]) -> tuple[T | None, tuple[int, str] | None]:
    try:
        return work(), None
    except ProxyError as error:
        return None, (error.exit_code, str(error))
