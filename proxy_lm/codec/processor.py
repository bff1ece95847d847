"""Whole rows in float64 on a processor: the products of the parallel pass, by numpy's BLAS, and attention made of them.

    product(x_NK, weight_KM)                           # x @ weight
    add_product(out_NM, x_NK, weight_KM)               # out += x @ weight
    causal_attention(heads_BTHE, num_queries, first)   # queries from position `first` on

Torch's own products in float64 run at half to nine tenths of this speed, and its attention at half (one core, `tests/test_bench_codec.py`
has the sum). Which library adds in which order does not matter to the coder: see `frequencies.py`.
"""

# B rows, T positions, H heads (queries, then keys, then values), E width of a head, K key heads, G = queries of a key head, N ids

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

# Positions whose queries are multiplied at once: few of a short row, so that little is computed that no query sees.
_SHORT_ROW: Final = 768
_POSITIONS_AT_ONCE: Final = (64, 128)


def product(x_NK: Tensor, weight_KM: Tensor) -> Tensor:
    """[N, M] of the same dtype."""
    return torch.from_numpy(np.matmul(x_NK.numpy(), weight_KM.numpy()))


def add_product(out_NM: Tensor, x_NK: Tensor, weight_KM: Tensor) -> None:
    """In place."""
    out = out_NM.numpy()
    out += np.matmul(x_NK.numpy(), weight_KM.numpy())


def causal_attention(heads_BTHE: Tensor, num_queries: int, first: int) -> Tensor:
    """What each position from `first` on sees of itself and those before: [B, T - first, num_queries, E]. The queries of one key head stand
    together."""
    num_rows, length, num_heads, width = heads_BTHE.shape
    num_kv = (num_heads - num_queries) // 2
    group = num_queries // num_kv
    at_once = _POSITIONS_AT_ONCE[length > _SHORT_ROW]
    hidden = torch.full((at_once, at_once), float("-inf"), dtype=heads_BTHE.dtype).triu_(1).unsqueeze(1)
    out_BTQE = np.empty((num_rows, length - first, num_queries, width), heads_BTHE.numpy().dtype)
    scale = width**-0.5
    for row in range(num_rows):
        heads = heads_BTHE[row].numpy()
        for kv in range(num_kv):
            queries = slice(kv * group, (kv + 1) * group)
            keys_ET = np.ascontiguousarray(heads[:, num_queries + kv].T)
            values_TE = np.ascontiguousarray(heads[:, num_queries + num_kv + kv])
            for start in range(first, length, at_once):
                stop = min(start + at_once, length)
                q = np.multiply(heads[start:stop, queries], scale).reshape(-1, width)
                scores = torch.from_numpy(np.matmul(q, keys_ET[:, :stop]))
                scores.view(stop - start, group, stop)[:, :, start:].add_(hidden[: stop - start, :, : stop - start])
                torch.softmax(scores, 1, out=scores)
                seen = np.matmul(scores.numpy(), values_TE[:stop])
                out_BTQE[row, start - first : stop - first, queries] = seen.reshape(-1, group, width)
    return torch.from_numpy(out_BTQE)
