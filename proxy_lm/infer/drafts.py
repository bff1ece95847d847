"""Drafts: guesses at the ids to come, for the next pass to verify. From the extra heads, or from what the row said before.

    drafter = HeadDrafter(model, body)
    drafts, chances = drafter.draft(hidden, u, samplers)          # [B, num_heads] bytes, and the heads' word for each chain of them

    past = Past(prompt)                       # of one row
    past.add(new)
    past.continuation(most=7)                 # what followed these ids the last time they stood here, [] where they never did

    trust = Trust(num_kinds=8)                # how often chains of a kind were right, for the decision how long a draft is worth it

Head `raw_k` predicts the byte k columns ahead from the same hidden state as the first head, so after an id has been chosen the heads tell
of the ids behind it. A draft that is wrong costs the arithmetic of its position and changes nothing; so a draft goes on as long as chains
of its kind have been right often enough to pay. Kinds are told apart by what is known beforehand: the heads' own word, or how long the
row has been repeating itself.

Text that was there before costs no head at all: where the last `IDS_OF_A_MATCH` ids have occurred in the row, what followed them is the
draft (Yang and others, "Inference with Reference", arXiv 2304.04487). It needs no extra heads, and any symbols will do.

Not promised: the drafts themselves. They depend on the last bits of float32, and with them the number of passes; what is accepted does not.
"""

# B rows, J heads, N = B * J, V = 256 bytes

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proxy_lm.infer.cache import CachedBody
from proxy_lm.infer.draws import F64, Sampler
from proxy_lm.model.decoder import Decoder
from proxy_lm.vocabulary import NUM_BYTES

I64 = npt.NDArray[np.int64]

IDS_OF_A_MATCH = 5
_BITS_OF_AN_ID = 20  # of the key of a match; larger than any vocabulary here
# Of `Trust`: measured on greedy and sampled code (README.md); results depend on none of it, only speed.
_GUESS_WEIGHT = 4.0
_FADES_EVERY = 64
_FADES_TO = 0.7
_MATCH_MASK = (1 << _BITS_OF_AN_ID * IDS_OF_A_MATCH) - 1


class HeadDrafter:
    """Chains of bytes from the raw heads of a model."""

    def __init__(self, model: Decoder, body: CachedBody) -> None:
        self.num_heads = len(model.raw_heads)
        heads = [head.weight[:NUM_BYTES] for head in model.raw_heads]  # type: ignore[index]
        self._matrix = body.output_matrix(torch.cat(heads)) if heads else None

    @torch.inference_mode()
    def draft(self, hidden_BD: Tensor, u_BJ: F64, samplers: Sequence[Sampler]) -> tuple[I64, F64]:
        """Bytes [B, J], and for each the product of the greatest probabilities up to it [B, J]. `u_BJ` are the draws of the ids that are
        drafted. Of the samplers only the temperature is heeded: a filter would rarely change what a draw near the middle gives."""
        assert self._matrix is not None
        shape = hidden_BD.shape[0], self.num_heads
        logits_NV = torch.mm(hidden_BD, self._matrix).view(-1, NUM_BYTES)
        temperature_N = np.repeat([sampler.temperature for sampler in samplers], self.num_heads).astype(np.float32)
        drawn_N = temperature_N > 0
        if drawn_N.any():
            logits_NV = logits_NV / torch.from_numpy(np.where(drawn_N, temperature_N, 1)).to(logits_NV.device).unsqueeze(1)
        chances_NV = torch.softmax(logits_NV, dim=1)
        best = chances_NV.max(dim=1)
        chosen_N = best.indices.cpu().numpy()
        if drawn_N.any():
            bounds_NV = chances_NV.cumsum(dim=1)
            u_N1 = torch.from_numpy(u_BJ.reshape(-1).astype(np.float32)).to(bounds_NV.device).unsqueeze(1) * bounds_NV[:, -1:]
            passed_N = torch.searchsorted(bounds_NV, u_N1, right=True).clamp_(max=NUM_BYTES - 1).squeeze(1).cpu().numpy()
            chosen_N = np.where(drawn_N, passed_N, chosen_N)
        return chosen_N.reshape(shape), best.values.double().cpu().numpy().reshape(shape).cumprod(axis=1)


class Trust:
    """How often chains of each kind were right; a guess before anything is known, and again after long silence."""

    def __init__(self, guesses: Sequence[float]) -> None:
        """`guesses` by kind, worth as much as `_GUESS_WEIGHT` drafts."""
        self._guesses = np.array(guesses)
        self._tried = np.zeros(len(guesses))
        self._right = np.zeros(len(guesses))
        self.chances: list[float] = list(guesses)
        """By kind."""
        self._until_fading = _FADES_EVERY

    def learn(self, kinds: Sequence[int], num_right: int) -> None:
        """A chain whose draft j was of kind `kinds[j]` was right up to draft `num_right`."""
        for j, kind in enumerate(kinds):
            self._tried[kind] += 1
            self._right[kind] += j < num_right
        self._until_fading -= 1
        if not self._until_fading:
            self._until_fading = _FADES_EVERY
            self._tried *= _FADES_TO
            self._right *= _FADES_TO
        self.chances = ((self._right + _GUESS_WEIGHT * self._guesses) / (self._tried + _GUESS_WEIGHT)).tolist()

    def worth(self, kinds: Sequence[int], least_chance: float) -> int:
        """How many drafts of a chain with these kinds to try: up to the first that is right too rarely."""
        return next((j for j, kind in enumerate(kinds) if self.chances[kind] < least_chance), len(kinds))


class Past:
    """Where each stretch of `IDS_OF_A_MATCH` ids of one row last ended; constant time an id."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._ends: dict[int, int] = {}
        self._key = 0
        self._match: int | None = None
        self.add(ids)

    def add(self, ids: Sequence[int]) -> None:
        """The row goes on with these."""
        for one in ids:
            self._ids.append(one)
            self._key = (self._key << _BITS_OF_AN_ID | one) & _MATCH_MASK
            if len(self._ids) >= IDS_OF_A_MATCH:
                self._match = self._ends.get(self._key)
                self._ends[self._key] = len(self._ids)

    def continuation(self, most: int) -> list[int]:
        """At most `most` ids that followed the row's last ids the last time before; periods go on."""
        if self._match is None:
            return []
        found = self._ids[self._match : self._match + most]
        period = len(self._ids) - self._match
        while len(found) < most:  # then all that is known is one period
            found.append(found[-period])
        return found
