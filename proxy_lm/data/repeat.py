"""Rows that say their first half twice: the second telling sees the first, byte for byte, half a row away.

    slices = repeat_half(slices, is_repeating, row_length=512, lookahead=1)        # what `Plan` does for mix.repeat

In short rows the second telling of a pair hardly ever sees the first: a document is longer than half a row. Here it always does, and a
model that has yet to learn to look back finds within its first megabytes that it pays.

Columns 0 .. h - 1 of a row (h half its length) are told, told again, and what comes after them is told as far as the row goes; the rest of
the row's stretch of the stream is not told, and no other row moves because of it. All of such a row is one segment.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from proxy_lm.data.pieces import I64, Bools
from proxy_lm.data.slices import Slices


def repeat_half(slices: Slices, is_repeating: Bools, row_length: int, lookahead: int) -> Slices:
    """`is_repeating` bool [num_slices]: the slice lies in such a row. Rows have no gaps; slices come and go in (row, column)
    order."""
    if not is_repeating.any():
        return slices
    half, width = row_length // 2, row_length + lookahead
    mine = slices.take(np.flatnonzero(is_repeating))
    parts = [
        slices.take(np.flatnonzero(~is_repeating)),
        _moved(mine, 0, half, 0),
        _moved(mine, 0, half, half),
        _moved(mine, half, width - half, half),
    ]
    joined = Slices.join(parts)
    return joined.take(np.lexsort((joined.column, joined.row)))


def _moved(slices: Slices, first: int, end: int, by: int) -> Slices:
    """What lies in columns first .. end - 1, `by` columns further on, in one segment with all of the row."""
    begin = np.maximum(slices.column, first)
    length: I64 = np.minimum(slices.column + slices.length, end) - begin
    some = np.flatnonzero(length > 0)
    column = begin[some] + by
    offset = slices.offset[some] + (begin - slices.column)[some]
    return replace(slices.take(some), column=column, offset=offset, length=length[some], segment=np.zeros_like(column), position=column)
