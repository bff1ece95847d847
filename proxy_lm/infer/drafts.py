"""Drafts: guesses at the ids to come, for the next pass to verify. From the extra heads, or from what the row said before.

    drafter = HeadDrafter(model, body, least_chance=0.1)
    drafts, lengths = drafter.draft(hidden, u, samplers)          # [B, num_heads] bytes, and how many of each row are worth a try

    past = Past(prompt)                       # of one row
    past.add(new)
    past.continuation(most=7)                 # what followed these ids the last time they stood here, [] where they never did

Head `raw_k` predicts the byte k columns ahead from the same hidden state as the first head, so after an id has been chosen the heads tell
of the ids behind it. A draft that is wrong costs the arithmetic of its position and changes nothing; so a row's drafts end before the head
at which the probability that all of them are right, by the heads' own word, falls under a threshold.

Text that was there before costs no head at all: where the last `IDS_OF_A_MATCH` ids have occurred in the row, what followed them is the
draft (Yang and others, "Inference with Reference", arXiv 2304.04487). It needs no extra heads, and any symbols will do.

Not promised: the drafts themselves. They depend on the last bits of float32, and with them the number of passes; what is accepted does not.
"""

# B rows, J heads, V = 256 bytes

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proxy_lm.infer.cache import CachedBody
from proxy_lm.infer.draws import F64, Sampler, choose
from proxy_lm.model.decoder import Decoder
from proxy_lm.vocabulary import NUM_BYTES

I64 = npt.NDArray[np.int64]

IDS_OF_A_MATCH = 5
_BITS_OF_AN_ID = 20  # of the key of a match; larger than any vocabulary here
_MATCH_MASK = (1 << _BITS_OF_AN_ID * IDS_OF_A_MATCH) - 1


class HeadDrafter:
    """Chains of bytes from the raw heads of a model."""

    def __init__(self, model: Decoder, body: CachedBody, *, least_chance: float) -> None:
        """`least_chance` of a whole chain, 0 to try all heads always."""
        self.num_heads = len(model.raw_heads)
        self.least_chance = least_chance
        heads = [head.weight[:NUM_BYTES] for head in model.raw_heads]  # type: ignore[index]
        self._matrix = body.output_matrix(torch.cat(heads)) if heads else None

    @torch.inference_mode()
    def draft(self, hidden_BD: Tensor, u_BJ: F64, samplers: Sequence[Sampler]) -> tuple[I64, I64]:
        """Bytes [B, J] and how many of each row to try [B]. `u_BJ` are the draws of the ids that are drafted."""
        assert self._matrix is not None
        num_rows = hidden_BD.shape[0]
        logits_NV = torch.mm(hidden_BD, self._matrix).view(-1, NUM_BYTES)
        chances_NV = torch.softmax(logits_NV, dim=1)
        best_chance_N, chosen = chances_NV.max(dim=1)
        chosen_N = chosen.cpu().numpy()
        if any(sampler.temperature for sampler in samplers):
            chosen_N, _ = choose(logits_NV, u_BJ.reshape(-1), [sampler for sampler in samplers for _ in range(self.num_heads)])
        all_right_BJ = best_chance_N.view(num_rows, self.num_heads).cumprod(dim=1).cpu().numpy()
        return chosen_N.reshape(num_rows, self.num_heads), (all_right_BJ >= self.least_chance).sum(axis=1)


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
