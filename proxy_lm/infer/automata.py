"""Which ids may follow, for many rows at once: the tables of all requests in one, over the columns that any of them allows.

    rules = Rules([table, None], vocabulary_size=65_856)
    logits = hidden @ head[:, rules.columns]            # an output matrix of 258 columns instead of 65,856
    logits += rules.bias[rules.walk(k, state, drafts)]

Only columns that some state of some table allows are ever computed: to ask a proxy-trained model for bytes costs what a byte model costs.
"""

# Q states of all tables, V ids, C columns

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import NUM_BYTES

Table = npt.NDArray[np.int16]


class Rules:
    """Several tables [num_states, V] (None: everything may follow) as one."""

    def __init__(self, tables: Sequence[Table | None], vocabulary_size: int, device: torch.device | str = "cpu") -> None:
        """Raises `RequestError` for a table with more columns than the model has ids."""
        self.tables = list(tables)  # held, so that their identities stay theirs
        allowed = [np.ones((1, vocabulary_size), dtype=np.bool_) if table is None else _allowed(table, vocabulary_size) for table in tables]
        self._first_states = np.cumsum([0, *map(len, allowed)])[:-1].tolist()
        whole_QV = np.concatenate(allowed)
        self.columns: npt.NDArray[np.int64] = np.flatnonzero(whole_QV.any(axis=0))
        """Ids, ascending."""
        allowed_QC = whole_QV[:, self.columns]
        self.bias: Tensor | None = None
        """Float32 [Q, C], 0 or -inf; None where every state allows all columns."""
        if not allowed_QC.all():
            bias_QC = np.zeros(allowed_QC.shape, dtype=np.float32)  # np.where would cost ten times as much
            bias_QC[~allowed_QC] = -np.inf
            self.bias = torch.from_numpy(bias_QC).to(device)
        self.allows_bytes = [bool(part[:, :NUM_BYTES].any()) for part in allowed]

    def walk(self, which: int, state: int, ids: Sequence[int]) -> list[int]:
        """Rows of `bias` for table `which` before the first id, after it, ...: len(ids) + 1 of them. Behind a forbidden id they mean
        nothing."""
        return [self._first_states[which] + one for one in self.states(which, state, ids)]

    def states(self, which: int, state: int, ids: Sequence[int]) -> list[int]:
        """The same in states of the table itself."""
        table = self.tables[which]
        if table is None or len(table) == 1:
            return [state] * (len(ids) + 1)
        states = [state]
        for one in ids:
            state = max(0, int(table[state, one]))
            states.append(state)
        return states


def _allowed(table: Table, vocabulary_size: int) -> npt.NDArray[np.bool_]:
    if table.shape[1] > vocabulary_size:
        raise RequestError(f"rules for {table.shape[1]} ids and a model of {vocabulary_size}; make them from the model's vocabulary")
    allowed = np.zeros((len(table), vocabulary_size), dtype=np.bool_)
    allowed[:, : table.shape[1]] = table >= 0
    return allowed
