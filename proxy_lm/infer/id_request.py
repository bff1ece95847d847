"""What an engine of ids is asked and what it answers; `engine.py` answers."""

# V ids

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

_LEAST_TEMPERATURE: Final = 1e-6


def _not_all_but_greedy(temperature: float) -> float:
    if 0 < temperature < _LEAST_TEMPERATURE:
        raise ValueError(f"nothing is drawn below {_LEAST_TEMPERATURE:g}, and quotients overflow; give 0 for the most probable")
    return temperature


Temperature = Annotated[float, Field(ge=0.0, le=100.0), AfterValidator(_not_all_but_greedy)]
"""Of a sampling: 0 (greedy), or 1e-6 to 100."""


@dataclass(frozen=True)
class Automaton:
    """Which ids may follow: int16 [num_states, V], the state after an id, -1 where it is forbidden. Engines keep what they derive from a
    table, so requests that are held to the same rules should share the array; it is never changed."""

    next_state: npt.NDArray[np.int16]
    start: int = 0


class Watcher(Protocol):
    """Looks at the ids of one row as they are accepted."""

    def take(self, ids: Sequence[int]) -> int | None:
        """Given the new ids, how many of them to keep if the row ends there; None to go on."""
        ...


@dataclass(frozen=True, kw_only=True)
class IdRequest:
    """What follows `prompt_ids`, which are never empty."""

    prompt_ids: Sequence[int]
    max_ids: int
    seed: int = 0
    """Key of the draws."""
    first_draw: int = 0
    """Index of the first draw: that of a row that goes on where another ended."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all."""
    speculate: bool = True
    automaton: Automaton | None = None
    watcher: Watcher | None = None


@dataclass
class IdResult:
    """`ids` are those that were kept."""

    request: IdRequest
    ids: list[int] = field(default_factory=list)
    num_passes: int = 0
    """Forward passes that this row took part in, its prompt apart."""
    num_drafted: int = 0
    """Ids that were guessed ahead, and how many of them were right."""
    num_accepted: int = 0
    num_shared: int = 0
    """Prompt ids whose keys and values were copied from another row, or still lay in this one."""
    num_repeated: int = 0
    """Choices near a border, repeated on float64 logits."""
