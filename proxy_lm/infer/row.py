"""One request at work in an engine: its ids, where its draws and its rules stand, and what is guessed to come."""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from proxy_lm.infer.automata import Table
from proxy_lm.infer.drafts import Past
from proxy_lm.infer.draws import F64, KeyedDraws, Sampler
from proxy_lm.infer.id_request import IdRequest, IdResult

I64 = npt.NDArray[np.int64]


class Drafted(enum.Enum):
    """Whence a row's drafts are."""

    NOTHING = enum.auto()
    HEADS = enum.auto()
    PAST = enum.auto()


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
        self.drafted = Drafted.NOTHING
        self.kinds: list[int] = []
        self.num_repeats = 0
        self._past: Past | None = None

    @property
    def table(self) -> Table | None:
        """The rules of the request."""
        return self.request.automaton.next_state if self.request.automaton else None

    @property
    def past(self) -> Past:
        """What was said, for drafts; made when first asked for."""
        if self._past is None:
            self._past = Past(self.ids[: self.length].tolist())
        return self._past

    def draws_ahead(self, count: int) -> F64:
        """Draws of the next `count` ids; zeros for a greedy row, which has none."""
        if not self.sampler.temperature:
            return np.zeros(count)
        return self.draws.at(self.request.first_draw + len(self.result.ids), count)

    def go_on(self, new: list[int]) -> None:
        """The row has these ids now."""
        self.ids[self.length : self.length + len(new)] = new
        self.length += len(new)
        if self._past is not None:
            self._past.add(new)
