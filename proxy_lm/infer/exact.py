"""Logits of one row in float64, for the choices that float32 cannot make: near-ties, and draws near a border.

    settler = Float64Rows(model, num_rows=16, num_slots=512)
    logits = settler.logits(row, ids, columns)             # float64 [C] behind the last of all the row's ids

The row is read alone, so the answer does not depend on what else is generated. Each row keeps its float64 keys and values, and reads only
what came since it was last asked: a run that asks at every id costs one float64 pass over it. The weights are copied, and the memory of
the cache is taken, at the first question.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proxy_lm.infer.cache import Cache, CachedBody
from proxy_lm.model.decoder import Decoder

_IDS_AT_ONCE = 256


class Float64Rows:
    """The decoder in float64 with a cache of its own."""

    def __init__(self, model: Decoder, num_rows: int, num_slots: int) -> None:
        self._model = model
        self._num_slots = num_slots
        self._num_read = [0] * num_rows
        self._body: CachedBody | None = None
        self._cache: Cache | None = None
        self._head: Tensor | None = None

    def forget(self, row: int) -> None:
        """Another document begins in this row."""
        self._num_read[row] = 0

    def move(self, source: int, target: int) -> None:
        """The document of one row goes on in another."""
        if self._cache is not None:
            self._cache.copy_row(source, target, self._num_read[source])
        self._num_read[target], self._num_read[source] = self._num_read[source], 0

    @torch.inference_mode()
    def logits(self, row: int, ids: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Float64 [C], the logits of `columns` behind the last of `ids`, which extend those of the row's last question."""
        if self._body is None or self._cache is None or self._head is None:
            self._body = CachedBody(self._model, torch.float64)
            self._cache = self._body.new_cache(len(self._num_read), self._num_slots)
            self._head = self._model.head.weight.detach()
        first = min(self._num_read[row], len(ids) - 1)
        while first < len(ids):
            stop = min(len(ids), first + _IDS_AT_ONCE)
            hidden_ND = self._body.read(self._cache, [ids[first:stop]], [first], [row])
            first = stop
        self._num_read[row] = len(ids)
        head_DC = self._body.output_matrix(self._head[torch.from_numpy(columns).to(self._head.device)])
        return torch.mm(hidden_ND[-1:], head_DC)[0].cpu().numpy()  # type: ignore[no-any-return]
