"""From logits to ids: greedy, or drawn at a place that has its own number, so that the same request always draws the same.

    chosen, unsure = choose(logits, u, temperature, top_p, top_k)       # many rows at once
    id = choose_exactly(logits_of_one_row, u, temperature, top_p, top_k)  # what the numbers mean, written out

A draw is the first id, in the order of ids, at which the cumulative probability passes u. With equal u, two nearly equal distributions
nearly always draw the same id: so drafts are drawn with the u of the place they are drafts for, and a draft is right exactly where plain
sampling would have drawn it. No draw is rejected and drawn again; what comes out is plain sampling, id for id.

Logits of another batch differ in their last bits. A choice that they could change is called unsure: it is the caller's to repeat it on
logits that have bits to spare. `choose_exactly` reads logits as multiples of 2**-30, so that what is equal in exact arithmetic is equal
there; of equals the lowest id is taken.

Order of the filters, as elsewhere: temperature, top_k, top_p. Forbidden ids have logits of -inf.
"""

# N rows, V ids

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proxy_lm.data.permutation import uniforms

F64 = npt.NDArray[np.float64]

# Bound on the error of a float32 logit, per unit of the largest one. Measured against float64 (README.md): at most 4e-6 of it.
LOGIT_TOLERANCE = 5e-5
# Of a cumulative probability, beyond what an error of the logits makes: sums of float64.
_SUM_TOLERANCE = 1e-9
_UNITS_PER_LOGIT = 2.0**30
_DRAWS_AT_ONCE = 256


class Sampler(NamedTuple):
    """How one row chooses. `temperature` 0 is greedy, `top_k` 0 keeps all."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


class KeyedDraws:
    """Numbers in [0, 1) by index: draw i of a key is the same whoever asks, in whatever order."""

    def __init__(self, key: int) -> None:
        self.key = key
        self._block = -1
        self._numbers: F64 = np.empty(0)

    def at(self, first: int, count: int) -> F64:
        """Draws first .. first + count - 1, float64."""
        block, begin = divmod(first, _DRAWS_AT_ONCE)
        if block != self._block or begin + count > len(self._numbers):
            # Twice what a block needs: a pass that begins in one block may end in the next.
            self._block = block
            length = max(2 * _DRAWS_AT_ONCE, begin + count)
            self._numbers = uniforms(self.key, np.arange(block * _DRAWS_AT_ONCE, block * _DRAWS_AT_ONCE + length))
        return self._numbers[begin : begin + count]


def choose(logits_NV: Tensor, u_N: F64, samplers: Sequence[Sampler]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Column chosen in every row, and whether an error of `LOGIT_TOLERANCE` could have changed it. One `Sampler` a row."""
    greedy_N = np.fromiter((sampler.temperature == 0 for sampler in samplers), dtype=np.bool_, count=len(samplers))
    if greedy_N.all():
        return _greedy(logits_NV)
    if not greedy_N.any():
        return _sampled(logits_NV, u_N, samplers)
    chosen, unsure = _greedy(logits_NV)
    drawn = [n for n, sampler in enumerate(samplers) if sampler.temperature]
    logits_drawn = logits_NV[torch.tensor(drawn, device=logits_NV.device)]
    chosen[drawn], unsure[drawn] = _sampled(logits_drawn, u_N[drawn], [samplers[n] for n in drawn])
    return chosen, unsure


def choose_exactly(logits_V: F64, u: float, sampler: Sampler) -> int:
    """The choice from float64 logits of one row."""
    logits_V = np.rint(logits_V * _UNITS_PER_LOGIT) / _UNITS_PER_LOGIT
    if sampler.temperature == 0:
        return int(logits_V.argmax())
    weights = np.exp((logits_V - logits_V.max()) / sampler.temperature)
    best_first = np.argsort(-weights, kind="stable")
    if sampler.top_k:
        weights[best_first[sampler.top_k :]] = 0
    if sampler.top_p < 1:
        before = np.cumsum(weights[best_first]) - weights[best_first]
        weights[best_first[before >= sampler.top_p * weights.sum()]] = 0
    bounds = np.cumsum(weights)
    return int(np.searchsorted(bounds, u * bounds[-1], side="right"))


def _greedy(logits_NV: Tensor) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    if logits_NV.shape[1] == 1:
        return np.zeros(len(logits_NV), dtype=np.int64), np.zeros(len(logits_NV), dtype=np.bool_)
    best = torch.topk(logits_NV, 2, dim=1)
    values, columns = best.values.cpu().numpy(), best.indices.cpu().numpy()
    gap = values[:, 0] - values[:, 1]
    return columns[:, 0].copy(), gap <= 2 * LOGIT_TOLERANCE * np.maximum(1.0, np.abs(values[:, 0]))


def _sampled(logits_NV: Tensor, u_N: F64, samplers: Sequence[Sampler]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    device = logits_NV.device
    temperature_N = np.array([sampler.temperature for sampler in samplers])
    scores_NV = logits_NV.double() / torch.from_numpy(temperature_N).to(device).unsqueeze(1)
    error_N = LOGIT_TOLERANCE * np.maximum(np.abs(logits_NV.amax(dim=1).cpu().numpy()), 1.0) / temperature_N
    unsure_N = np.zeros(len(samplers), dtype=np.bool_)
    if any(sampler.top_k or sampler.top_p < 1 for sampler in samplers):
        scores_NV, unsure_N = _filtered(scores_NV, torch.from_numpy(error_N).to(device).unsqueeze(1), samplers)
    bounds_NV = torch.softmax(scores_NV, dim=1).cumsum(dim=1)
    wanted_N1 = torch.from_numpy(u_N).to(device).unsqueeze(1) * bounds_NV[:, -1:]
    chosen_N1 = torch.searchsorted(bounds_NV, wanted_N1, right=True).clamp_(max=scores_NV.shape[1] - 1)
    # The bounds on both sides of u. A shift of the logits by e at most moves a bound c by 2 e c (1 - c) at most.
    sides_N2 = torch.cat([chosen_N1, (chosen_N1 - 1).clamp_(min=0)], dim=1)
    above_N, below_N = bounds_NV.gather(1, sides_N2).cpu().numpy().T
    chosen_N = chosen_N1.squeeze(1).cpu().numpy()
    for bound_N in (above_N, np.where(chosen_N > 0, below_N, -1.0)):
        moved_N = 2 * error_N * np.maximum(bound_N * (1 - bound_N), 0) + _SUM_TOLERANCE
        unsure_N |= np.abs(bound_N - u_N) <= moved_N
    return chosen_N, unsure_N


def _filtered(scores_NV: Tensor, error_N1: Tensor, samplers: Sequence[Sampler]) -> tuple[Tensor, npt.NDArray[np.bool_]]:
    """Scores with -inf below what top_k and top_p keep, and whether an error of the scores could keep another set."""
    num_ids, device = scores_NV.shape[1], scores_NV.device
    kept_N1 = torch.tensor([[min(sampler.top_k or num_ids, num_ids)] for sampler in samplers], device=device)
    best_NV = scores_NV.sort(dim=1, descending=True).values
    ranks_V = torch.arange(num_ids, device=device)
    share_NV = torch.softmax(best_NV.masked_fill(ranks_V >= kept_N1, float("-inf")), dim=1)
    before_NV = share_NV.cumsum(dim=1) - share_NV
    top_p_N1 = torch.tensor([[sampler.top_p] for sampler in samplers], dtype=torch.float64, device=device)
    filters_N1 = top_p_N1 < 1
    passed_NV = (before_NV < top_p_N1) | ~filters_N1
    number_N1 = torch.minimum(passed_NV.sum(dim=1, keepdim=True), kept_N1)
    last_N1 = best_NV.gather(1, number_N1 - 1)
    next_N1 = torch.where(number_N1 < num_ids, best_NV.gather(1, number_N1.clamp(max=num_ids - 1)), float("-inf"))
    unsure_N1 = (last_N1 - next_N1 <= 2 * error_N1) & last_N1.isfinite()
    moved_NV = 2 * error_N1 * (before_NV * (1 - before_NV)).clamp_(min=0) + _SUM_TOLERANCE
    near_NV = ((before_NV - top_p_N1).abs() <= moved_NV) & (ranks_V < kept_N1)
    unsure_N1 |= near_NV.any(dim=1, keepdim=True) & filters_N1
    return scores_NV.masked_fill(scores_NV < last_N1, float("-inf")), unsure_N1.squeeze(1).cpu().numpy()
