"""Drafts of the extra heads, and how far drafts of any kind can be trusted.

    drafter = HeadDrafter(model, body)
    drafts, chances = drafter.draft(hidden, u, samplers)          # [B, num_heads] bytes, and the heads' word for each of them

    trust = Trust([0.5, 0.9])                 # by kind: how often drafts of it were right where all drafts before them were

Head `raw_k` predicts the byte k columns ahead from the same hidden state as the first head, so after an id has been chosen the heads tell
of the ids behind it. A draft that is wrong costs the arithmetic of its position and changes nothing; so a draft goes on as long as what is
known of its kinds says that it pays. Kinds are what can be told beforehand: `guesses.py` has them.

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

# Of `Trust`: measured on greedy and sampled code (README.md); results depend on none of it, only speed.
_GUESS_WEIGHT = 4.0
_MOST_TRIED = 40.0


class HeadDrafter:
    """Chains of bytes from the raw heads of a model."""

    def __init__(self, model: Decoder, body: CachedBody) -> None:
        self.num_heads = len(model.raw_heads)
        heads = [head.weight[:NUM_BYTES] for head in model.raw_heads]  # type: ignore[index]
        self._matrix = body.output_matrix(torch.cat(heads)) if heads else None

    def draft(self, hidden_BD: Tensor, u_BJ: F64, samplers: Sequence[Sampler]) -> tuple[I64, npt.NDArray[np.float32]]:
        """Bytes [B, J], and the greatest probability of each head [B, J]. `u_BJ` are the draws of the ids that are
        drafted. Of the samplers only the temperature is heeded: a filter would rarely change what a draw near the middle gives."""
        assert self._matrix is not None
        shape = hidden_BD.shape[0], self.num_heads
        logits_NV = torch.mm(hidden_BD, self._matrix).view(-1, NUM_BYTES)
        drawn = any(sampler.temperature for sampler in samplers)
        if drawn:
            temperature_N = np.repeat([sampler.temperature or 1.0 for sampler in samplers], self.num_heads).astype(np.float32)
            logits_NV = logits_NV / torch.from_numpy(temperature_N).to(logits_NV.device).unsqueeze(1)
        chances_NV = torch.softmax(logits_NV, dim=1)
        best_N, most_N = chances_NV.max(dim=1)
        chosen_BJ = most_N.cpu().numpy().reshape(shape)
        if drawn:
            bounds_NV = chances_NV.cumsum(dim=1)
            u_N1 = torch.from_numpy(u_BJ.reshape(-1).astype(np.float32)).to(bounds_NV.device).unsqueeze(1) * bounds_NV[:, -1:]
            passed_N = torch.searchsorted(bounds_NV, u_N1, right=True).clamp_(max=NUM_BYTES - 1).squeeze(1).cpu().numpy()
            greedy_B1 = np.array([[sampler.temperature == 0] for sampler in samplers])
            chosen_BJ = np.where(greedy_B1, chosen_BJ, passed_N.reshape(shape))
        return chosen_BJ, best_N.cpu().numpy().reshape(shape)


class Trust:
    """How often drafts of each kind were right, behind right ones; a guess before anything is known."""

    def __init__(self, guesses: Sequence[float]) -> None:
        """`guesses` by kind, worth as much as `_GUESS_WEIGHT` drafts."""
        self.chances = list(guesses)
        """By kind."""
        self._guesses = guesses
        self._tried = [0.0] * len(guesses)
        self._right = [0.0] * len(guesses)

    def learn(self, kinds: Sequence[int], num_right: int) -> None:
        """The first `num_right` drafts of these kinds were right and the next, if there is one, was not."""
        for j, kind in enumerate(kinds[: num_right + 1]):
            self._tried[kind] += 1
            self._right[kind] += j < num_right
            if self._tried[kind] >= _MOST_TRIED:  # what was long ago counts for less
                self._tried[kind] /= 2
                self._right[kind] /= 2
            self.chances[kind] = (self._right[kind] + _GUESS_WEIGHT * self._guesses[kind]) / (self._tried[kind] + _GUESS_WEIGHT)
