"""Which targets count: for each output head, the columns of a row from which it predicts, and the id that it predicts there.

    heads = head_targets(segments, views, row_length, num_raw_heads=1, num_symbol_heads=2)      # in the order of `head_names`

| head | predicts from column t | counted where |
|---|---|---|
| `next` | ids[t + 1] | both columns lie in one segment |
| `raw_k`, k = 2, 3, ... | ids[t + k] | ids[t + 1] to ids[t + k] are bytes of one raw piece in t's segment |
| `symbol_k`, k = 2, 3, ... | ids[t + k] | ids[t + 1] to ids[t + k] are payload of one piece, of whatever view, in t's segment |

Payload is what is no special; between two pieces of a segment stands a special always, so a run of one view without specials is one piece.
What a head may not count it does not count half: a sentinel, an end of document or a row's border anywhere on the way takes the column out.
"""

# B rows, L row length, H lookahead

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from proxy_lm.vocabulary import RAW_CODE, SPECIAL_CODE


class HeadTargets(NamedTuple):
    """One head's targets: column t of the row predicts column t + ahead where `counts_BL` is True."""

    ahead: int
    counts_BL: Tensor  # bool


def head_targets(segments: Tensor, views: Tensor, row_length: int, num_raw_heads: int = 0, num_symbol_heads: int = 0) -> list[HeadTargets]:
    """The table above for rows [B, L + H] of segment numbers (-1 padding) and view codes: `next`, the raw heads, the symbol heads."""
    here_BL = segments[:, :row_length]
    same_BL = here_BL >= 0
    first_BL = views[:, 1 : 1 + row_length]
    raw_BL = torch.ones_like(same_BL)
    piece_BL = first_BL != SPECIAL_CODE
    following, raw, symbol = [], [], []
    for ahead in range(1, 2 + max(num_raw_heads, num_symbol_heads)):
        columns = slice(ahead, ahead + row_length)
        same_BL = same_BL & (segments[:, columns] == here_BL)
        raw_BL = raw_BL & (views[:, columns] == RAW_CODE)
        piece_BL = piece_BL & (views[:, columns] == first_BL)
        if ahead == 1:
            following.append(HeadTargets(ahead, same_BL))
            continue
        if ahead <= 1 + num_raw_heads:
            raw.append(HeadTargets(ahead, same_BL & raw_BL))
        if ahead <= 1 + num_symbol_heads:
            symbol.append(HeadTargets(ahead, same_BL & piece_BL))
    return following + raw + symbol
