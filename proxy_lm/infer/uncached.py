"""Ids after ids without a cache: every step reads the whole row again. Slow and plain; the engine is held against it in tests.

engine = UncachedEngine(model, num_rows=16, max_positions=512)
engine.add(IdRequest(prompt_ids=[257, 259], max_ids=10, seed=1))
while engine.num_busy:
    for result in engine.step():
        print(result.ids)
"""

# B rows, T positions, V ids

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from proxy_lm.data.permutation import uniforms
from proxy_lm.infer.id_request import Automaton, IdRequest, IdResult, Watcher
from proxy_lm.model.decoder import Decoder
from proxy_lm.vocabulary import PAD

__all__ = ["Automaton", "IdRequest", "IdResult", "UncachedEngine", "Watcher"]


class UncachedEngine:
    """Rows come and go; a step gives every busy row one id."""

    def __init__(self, model: Decoder, num_rows: int, max_positions: int) -> None:
        self.model = model
        self.num_rows = num_rows
        self.max_positions = max_positions
        self._busy: list[tuple[IdResult, int]] = []

    @property
    def num_busy(self) -> int:
        """Rows at work."""
        return len(self._busy)

    @property
    def num_free(self) -> int:
        """Rows that can be added."""
        return self.num_rows - len(self._busy)

    def add(self, request: IdRequest) -> None:
        """Put a request in a free row."""
        assert self.num_free
        assert 0 < len(request.prompt_ids) <= self.max_positions
        self._busy.append((IdResult(request), request.automaton.start if request.automaton else 0))

    @torch.no_grad()
    def step(self) -> list[IdResult]:
        """One forward pass; the rows that ended with it."""
        rows = [[*result.request.prompt_ids, *result.ids] for result, _ in self._busy]
        length = max(map(len, rows))
        ids_BT = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
        segments_BT = torch.tensor([[0] * len(row) + [-1] * (length - len(row)) for row in rows], dtype=torch.int32)
        positions_BT = torch.arange(length, dtype=torch.int32).expand(len(rows), length)
        device = next(self.model.parameters()).device
        logits_BTV = self.model.logits(ids_BT.to(device), segments_BT.to(device), positions_BT.to(device))
        done, busy = [], []
        for row, logits_TV, (result, state) in zip(rows, logits_BTV.double().cpu().numpy(), self._busy, strict=True):
            chosen = _choose(logits_TV[len(row) - 1], result, state)
            if (automaton := result.request.automaton) is not None:
                state = int(automaton.next_state[state, chosen])
            result.ids.append(chosen)
            result.num_passes += 1
            kept = result.request.watcher.take([chosen]) if result.request.watcher else None
            if kept == 0:
                result.ids.pop()
            ended = kept is not None or len(result.ids) == result.request.max_ids or len(row) == self.max_positions
            done += [result] if ended else []
            busy += [] if ended else [(result, state)]
        self._busy = busy
        return done


def _choose(logits_V: npt.NDArray[np.float64], result: IdResult, state: int) -> int:
    request = result.request
    if request.automaton is not None:
        allowed = np.zeros(logits_V.size, dtype=np.bool_)
        allowed[: request.automaton.next_state.shape[1]] = request.automaton.next_state[state] >= 0
        logits_V = np.where(allowed, logits_V, -np.inf)
    if request.temperature == 0:
        return int(logits_V.argmax())
    weights = np.exp((logits_V - logits_V.max()) / request.temperature)
    order = np.argsort(-weights, kind="stable")
    if request.top_k:
        weights[order[request.top_k :]] = 0
    before = np.cumsum(weights[order]) - weights[order]
    weights[order[before >= request.top_p * weights.sum()]] = 0
    draw = uniforms(request.seed, np.array([request.first_draw + len(result.ids)]))[0]
    bounds = np.cumsum(weights)
    return int(np.searchsorted(bounds, draw * bounds[-1], side="right"))
