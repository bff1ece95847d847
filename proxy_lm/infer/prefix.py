"""What the rows of a cache hold, and from which of them a new prompt can be begun.

    held = HeldPrefixes(num_rows)
    held.set(3, ids)                          # row 3: these ids, from position 0
    held.best(prompt)                         # (3, 120): its first 120 positions are those of row 3

A row keeps its content after its request has ended, until another takes its place, so samples of one prompt and prompts with a common head
find it without a memory of their own. Two prompts share a position when all ids up to it are equal.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
_NOTHING: I64 = np.empty(0, dtype=np.int64)


def common_length(one: I64, other: I64) -> int:
    """Number of leading ids that are equal."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


class HeldPrefixes:
    """The ids whose keys and values are in each row of a cache."""

    def __init__(self, num_rows: int) -> None:
        self._ids = [_NOTHING] * num_rows

    def set(self, row: int, ids: I64) -> None:
        """Row `row` holds exactly these ids, from position 0 on."""
        self._ids[row] = ids

    def move(self, source: int, target: int) -> None:
        """What was in `source` is in `target`, and `source` is empty."""
        self._ids[target], self._ids[source] = self._ids[source], _NOTHING

    def length(self, row: int) -> int:
        """Positions of a row that are known."""
        return len(self._ids[row])

    def best(self, ids: I64) -> tuple[int, int]:
        """(row, positions) of the longest common begin; of equals the lowest row. (0, 0) where there is none."""
        lengths = [common_length(held, ids) for held in self._ids]
        row = int(np.argmax(lengths))
        return row, lengths[row]
