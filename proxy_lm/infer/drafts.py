"""Drafts: what the extra heads think comes after the next id, for a later pass to verify.

    drafter = HeadDrafter(model, body)
    drafts, lengths = drafter.draft(hidden, u, samplers)          # [B, num_heads] bytes, and how many of each row are worth a try

Head `raw_k` predicts the byte k columns ahead from the same hidden state as the first head, so after an id has been chosen the heads tell
of the ids behind it. A draft that is wrong costs the arithmetic of its position and changes nothing; so a row's drafts end before the head
at which the probability that all of them are right, by the heads' own word, falls under a threshold.

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
        chosen_N, _ = choose(logits_NV, u_BJ.reshape(-1), [sampler for sampler in samplers for _ in range(self.num_heads)])
        drafts_BJ = chosen_N.reshape(num_rows, self.num_heads)
        best_N = torch.exp(logits_NV.amax(dim=1) - logits_NV.logsumexp(dim=1))
        chance_BJ = best_N.cpu().numpy().reshape(num_rows, self.num_heads).cumprod(axis=1)
        return drafts_BJ, (chance_BJ >= self.least_chance).sum(axis=1)
