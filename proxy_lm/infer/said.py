"""What rows of an engine have said, for drafts: which id followed a context of some last ids the last time, whichever row it was in.

    said = Said()
    told = Told([7, 1, 2, 3])                  # the ids of one row
    said.add(told)                             # contexts of its ids are remembered, once
    said.following([4, 1, 2, 3])               # (id, level) that followed (1, 2, 3), None where no context of these ids is known

Contexts are of the lengths `CONTEXT_LENGTHS`; the longest that is known counts. The level says which it was and how often in a row the same
id followed it: chains of one level are right about equally often, which is for `Trust` to count.

Text that was there before costs the model nothing (Yang and others, "Inference with Reference", arXiv 2304.04487), any symbols will do, and
what other rows said helps too: completions of one model resemble each other more than they resemble its training.

Not promised: all that was said. Half of the contexts are forgotten, the oldest first, when there are `MOST_CONTEXTS` of a length.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

CONTEXT_LENGTHS = (16, 10, 6, 4, 3)
NUM_LEVELS = 3 * len(CONTEXT_LENGTHS)
MOST_CONTEXTS = 1 << 15  # of each length: some 40 MB in all
# Ids added at once from which on they are added without looking what stood there, which is several times as fast.
_MANY = 8


class Told:
    """The ids of one row, and how many of them have been added."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)
        self.num_added = 0


class Said:
    """Contexts of all rows together."""

    def __init__(self) -> None:
        # By length: the id that followed last, times 4, and in how many repeats (at most 2) it was the same.
        self._after: list[tuple[int, dict[tuple[int, ...], int]]] = [(length, {}) for length in CONTEXT_LENGTHS]

    def add(self, told: Told) -> None:
        """Remember what a row has said since it was last added."""
        ids, first = told.ids, told.num_added
        told.num_added = len(ids)
        if len(ids) - first >= _MANY:
            self._add_many(ids, first)
        else:
            self._add_few(ids, first)
        if len(self._after[0][1]) > MOST_CONTEXTS:  # the longest are the most
            self._forget()

    def _add_few(self, ids: list[int], first: int) -> None:
        for place in range(first, len(ids)):
            one = ids[place]
            for length, after in self._after:
                if length <= place:
                    context = tuple(ids[place - length : place])
                    before = after.get(context, -1)
                    after[context] = 4 * one if before >> 2 != one else before if before % 4 == 2 else before + 1

    def _add_many(self, ids: list[int], first: int) -> None:
        for length, after in self._after:
            begin = max(first, length)
            if begin >= len(ids):  # a short row
                continue
            contexts = zip(*(ids[begin - length + i : len(ids) - length + i] for i in range(length)), strict=True)
            after.update(zip(contexts, (4 * one for one in ids[begin:]), strict=True))

    def _forget(self) -> None:
        for i, (length, after) in enumerate(self._after):
            self._after[i] = length, dict(islice(after.items(), max(0, len(after) - MOST_CONTEXTS // 2), None))

    def following(self, ids: list[int]) -> tuple[int, int] | None:
        """The id that followed the longest known context at the end of `ids`, and the level of that context, below `NUM_LEVELS`."""
        level = 0
        for length, after in self._after:
            found = after.get(tuple(ids[-length:]))
            if found is not None:
                return found >> 2, level + found % 4
            level += 3
        return None
