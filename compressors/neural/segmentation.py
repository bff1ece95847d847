"""Documents cut at their hard bytes: the pieces that the view `segments` tells, each a literal byte or a segment.

    pieces = cut(hard, offsets, keep_literal=True, max_bytes=255)

With `keep_literal` a hard byte stands alone and the bytes between are segments, as in the proxy paper (its gaps and windows). Without it a
hard byte opens a segment. A segment has at most `max_bytes` bytes: the byte that would be one more is cut as if it were hard.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled

Offsets = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Marks = npt.NDArray[np.uint8]

_INSIDE, _OPENS, _LITERAL = 0, 1, 2


class Pieces(NamedTuple):
    """Pieces of several documents that stand back to back."""

    borders: Offsets
    """Piece i is bytes borders[i] to borders[i + 1]; [num_pieces + 1]."""
    is_literal: Flags
    """[num_pieces]"""
    documents: Offsets
    """Document d has the pieces documents[d] to documents[d + 1]; [num_documents + 1]."""


def cut(hard: Flags, offsets: Offsets, *, keep_literal: bool, max_bytes: int) -> Pieces:
    """Pieces of the documents offsets[d] to offsets[d + 1], whose hard bytes are `hard` [num_bytes]."""
    marks = np.empty(len(hard), np.uint8)
    _mark(hard, offsets, keep_literal, max_bytes, marks)
    starts = np.flatnonzero(marks != _INSIDE)
    borders = np.append(starts, len(hard))
    return Pieces(borders, marks[starts] == _LITERAL, np.searchsorted(starts, offsets).astype(np.int64))


@compiled
def _mark(hard: Flags, offsets: Offsets, keep_literal: bool, max_bytes: int, marks: Marks) -> None:
    for document in range(len(offsets) - 1):
        length = 0  # of the segment before byte i; 0 where there is none
        for i in range(offsets[document], offsets[document + 1]):
            is_border = hard[i] or length == max_bytes
            if is_border and keep_literal:
                marks[i] = _LITERAL
                length = 0
            elif is_border or length == 0:
                marks[i] = _OPENS
                length = 1
            else:
                marks[i] = _INSIDE
                length += 1
