"""Where a document is cut when it is scored: windows in bytes, the same for every arm.

    windows = cut(borders, context_bytes=1024, stride_bytes=512, num_closing=0, max_ids=1024)

A document is a list of ids: two that open it (BOS and the start sentinel of the view), its symbols, and, where its end is scored, two that
close it (the end sentinel and EOS). Each id has a place on one axis of bytes: the opening ids stand for two bytes before byte 0, so symbol
i begins at 2 + borders[i], and the closing ids begin after the last byte. With context C and stride S:

* window k reads the ids that begin in [k S, k S + C) and predicts the id after each;
* window 0 scores everything it predicts; window k > 0 scores the ids that begin in (C + (k - 1) S, C + k S]: what no earlier one scored.

So every id but BOS is scored by exactly one window, from at most C bytes before it and, once the document is long enough, from at least
C - S + 1. For raw bytes window 0 is exactly the first row of C ids that training would make of the document, and a later window is a
continued row: no sentinel, positions from 0. A symbol that straddles a border belongs to the window in which its span begins, and a
window never reads a symbol whose span began before it, so a token never sees more bytes than a byte model does. The exception: the symbol
just before a scored one is always read, else there would be nothing to predict from.

Not promised: a window of at most `max_ids` ids keeps all its context. A view that spends several symbols on a byte can overflow the rows
the model was trained on; such a window is cut further, keeps at least half of `max_ids` as context, and is counted as `short`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compressors.errors import RequestError

NUM_OPENING_IDS = 2  # BOS and the start sentinel
NUM_CLOSING_IDS = 2  # the end sentinel and EOS


@dataclass(frozen=True)
class Window:
    """Ids `read_from .. score_to - 1` go in, ids `score_from .. score_to - 1` are scored; indexes into the document's ids, BOS is 0."""

    read_from: int
    score_from: int
    score_to: int
    short: bool = False

    @property
    def num_ids(self) -> int:
        """Ids the model reads: the last scored one is only a target."""
        return self.score_to - 1 - self.read_from


def cut(
    borders: npt.NDArray[np.int64], *, context_bytes: int, stride_bytes: int, num_closing: int = 0, max_ids: int | None = None
) -> list[Window]:
    """Windows of a document whose symbol i stands for bytes borders[i] .. borders[i + 1].

    Every id from 1 (the start sentinel) to the last is in exactly one window's scored range; the caller gives the sentinel no weight.
    Raises `RequestError` for a context or a stride that cannot work.
    """
    check(context_bytes, stride_bytes)
    starts = _starts(borders, num_closing)
    owner = np.maximum(0, -(-(starts - context_bytes) // stride_bytes))  # ceiling division: the window that scores each id
    owner[0] = -1  # BOS is given
    firsts = np.flatnonzero(np.diff(owner)) + 1
    windows: list[Window] = []
    for first, last in zip(firsts, [*firsts[1:], len(starts)], strict=True):
        read_from = int(np.searchsorted(starts, int(owner[first]) * stride_bytes, side="left"))
        windows += _fit(min(read_from, int(first) - 1), int(first), int(last), max_ids)
    assert sum(w.score_to - w.score_from for w in windows) == len(starts) - 1, "an id was scored twice or never"
    return windows


def whole(num_symbols: int, num_closing: int) -> Window:
    """The one window of a document whose symbols stand for no stretch of bytes."""
    return Window(0, 1, NUM_OPENING_IDS + num_symbols + num_closing)


def check(context_bytes: int, stride_bytes: int) -> None:
    """Raise `RequestError` unless 3 <= context and 1 <= stride <= context."""
    if context_bytes < NUM_OPENING_IDS + 1:
        raise RequestError(f"a context of {context_bytes} bytes has no room; give at least {NUM_OPENING_IDS + 1}")
    if not 1 <= stride_bytes <= context_bytes:
        raise RequestError(f"a stride of {stride_bytes} bytes would skip or repeat bytes; give 1 to {context_bytes}, the context")


def _starts(borders: npt.NDArray[np.int64], num_closing: int) -> npt.NDArray[np.int64]:
    """The byte at which each id begins, counted from BOS: never decreasing, so that equal owners are neighbours."""
    opening = np.arange(NUM_OPENING_IDS, dtype=np.int64)
    closing = NUM_OPENING_IDS + borders[-1] + np.arange(num_closing, dtype=np.int64)
    return np.concatenate([opening, NUM_OPENING_IDS + borders[:-1], closing])


def _fit(read_from: int, score_from: int, score_to: int, max_ids: int | None) -> list[Window]:
    if max_ids is None or score_to - 1 - read_from <= max_ids:
        return [Window(read_from, score_from, score_to)]
    keep = max(1, max_ids // 2)
    windows = []
    while score_from < score_to:
        read_from = max(read_from, score_from - keep)
        end = min(score_to, read_from + max_ids + 1)
        windows.append(Window(read_from, score_from, end, short=True))
        score_from = end
    return windows
