"""One request at work in an engine: its ids, where its draws and its rules stand, and what is guessed to come."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from proxy_lm.infer.automata import Table
from proxy_lm.infer.draws import F64, KeyedDraws, Sampler
from proxy_lm.infer.id_request import IdRequest, IdResult
from proxy_lm.infer.said import Told

I64 = npt.NDArray[np.int64]


class Row:
    """One request at work. `ids[:length]` are its ids; all but the last have been read."""

    def __init__(self, request: IdRequest) -> None:
        self.request = request
        self.result = IdResult(request)
        self.ids: I64 = np.empty(len(request.prompt_ids) + request.max_ids, dtype=np.int64)
        self.length = len(request.prompt_ids)
        self.ids[: self.length] = request.prompt_ids
        self.sampler = Sampler(request.temperature, request.top_p, request.top_k)
        self.draws = KeyedDraws(request.seed)
        self.state = request.automaton.start if request.automaton else 0
        self.drafts: list[int] = []
        self.kinds: list[int] = []
        self._told: Told | None = None

    @property
    def table(self) -> Table | None:
        """The rules of the request."""
        return self.request.automaton.next_state if self.request.automaton else None

    @property
    def told(self) -> Told:
        """Its ids as a list, for drafts; made when first asked for."""
        if self._told is None:
            self._told = Told(self.ids[: self.length].tolist())
        return self._told

    def draws_ahead(self, count: int) -> F64:
        """Draws of the next `count` ids; zeros for a greedy row, which has none."""
        if not self.sampler.temperature:
            return np.zeros(count)
        return self.draws.at(self.request.first_draw + len(self.result.ids), count)

    def go_on(self, new: list[int]) -> None:
        """The row has these ids now."""
        self.ids[self.length : self.length + len(new)] = new
        self.length += len(new)
        if self._told is not None:
            self._told.ids += new
