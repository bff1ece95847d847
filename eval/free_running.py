"""Free running: the payload of known rows written by the model itself, greedily, from what stands before it.

    for index, written in write_rows(engine, rows, row_length=512):
        written.ids, written.ended        # of rows[index]; only ids of its alphabet, and whether the end sentinel came

Only the symbols of the row's own alphabet and its end sentinel can be written. A row is given up once it is a quarter longer than the right
answer, or full: it can no longer be right, and a model that never ends would fill every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from eval.stretches import I64, Row
from proxy_lm.infer.engine import Automaton, IdEngine, IdRequest

_MIN_EXTRA = 16


@dataclass(frozen=True)
class Written:
    """`ids` int64 [num_written] without the end sentinel; `ended`: it came."""

    ids: I64
    ended: bool


class _Ending:
    """Ends a row with the id `end_id`, which is kept."""

    def __init__(self, end_id: int) -> None:
        self.end_id = end_id

    def take(self, ids: Sequence[int]) -> int | None:
        """How many of the new ids are kept if the row ends with them; None to go on."""
        return ids.index(self.end_id) + 1 if self.end_id in ids else None


def only(allowed: I64, end_id: int, num_ids: int) -> Automaton:
    """Only the ids `allowed` and `end_id`. `num_ids` is the size of the vocabulary."""
    next_state = np.full((1, num_ids), -1, dtype=np.int16)
    next_state[0, allowed] = 0
    next_state[0, end_id] = 0
    return Automaton(next_state)


def max_ids(row: Row, row_length: int) -> int:
    """Ids that are written at most, the end sentinel included."""
    return min(row.num_payload + 1 + max(_MIN_EXTRA, row.num_payload // 4), row_length - row.first)


def write_rows(engine: IdEngine, rows: Sequence[Row], *, num_ids: int, row_length: int) -> Iterator[tuple[int, Written]]:
    """What is written for each row, as rows end. Greedy; the engine's other rows do not change it."""
    automata: dict[int, Automaton] = {}  # by end sentinel; rows of one alphabet share a table
    waiting = list(range(len(rows)))[::-1]
    busy: dict[int, tuple[int, IdRequest]] = {}  # by the identity of the request, which lives as long as it is here
    while waiting or busy:
        while waiting and engine.num_free:
            index = waiting.pop()
            row = rows[index]
            if row.end_id not in automata:
                automata[row.end_id] = only(row.allowed, row.end_id, num_ids)
            request = IdRequest(
                prompt_ids=row.ids[: row.first].tolist(),
                max_ids=max_ids(row, row_length),
                automaton=automata[row.end_id],
                watcher=_Ending(row.end_id),
            )
            busy[id(request)] = index, request
            engine.add(request)
        for result in engine.step():
            index, _ = busy.pop(id(result.request))
            ids = np.array(result.ids, dtype=np.int64)
            ended = bool(ids.size) and int(ids[-1]) == rows[index].end_id
            yield index, Written(ids[:-1] if ended else ids, ended)
