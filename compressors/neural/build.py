"""Compile a byte model into a table: every string that one window can hold, and its code, level by level.

    strings = build(model, bits=16, rule="cells")
    Dictionary(labels=strings.labels, parents=strings.parents, codes=strings.codes, decode_nodes=strings.decode_nodes)

With a full reset a window's code depends on the window's own bytes alone, so the model is asked once for each string that may go on: some
18,000 to 45,000 times with 16 bits, after which it is not needed any more. The model sees whole levels in calls of at most
`rows_per_call` prefixes; no arithmetic here is in floating point, so equal rows give equal tables whatever the calls and threads.

Not promised: that two builds of a floating point model agree (a network is evaluated in float64 and does, on one machine). Ship the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from compressors.errors import RequestError
from compressors.neural import rules
from compressors.neural.divide import MIN_BITS, Cells
from compressors.neural.models import TOTAL, ByteModel, Prefixes
from compressors.neural.numbering import Strings, Trie, number_cells, number_most_probable, number_owners, number_shortest

MAX_BITS: Final = 20
MAX_DEPTH: Final = 63
"""Longest string of a table, in bytes. Only runs of one character reach it."""
ROWS_PER_CALL: Final = 2048

# called as report(done, total) with cells of the root; `done` never falls
Report: TypeAlias = Callable[[int, int], None]
Split: TypeAlias = Callable[[Cells, Cells, Any, bool, int, Cells, rules.Labels, Cells, Cells], int]


def build(
    model: ByteModel,
    *,
    bits: int = 16,
    rule: str = "cells",
    alphabet_size: int | None = None,
    depth: int = MAX_DEPTH,
    rows_per_call: int = ROWS_PER_CALL,
    report: Report | None = None,
) -> Strings:
    """The strings of windows of `bits` bits under a rule of `rules.RULES`.

    Without `alphabet_size` there are 2^bits codes (`canonical` adds one for each byte that owns no cell). With it, only codes that stand
    for a string of their own are kept, the largest `alphabet_size` of them where there are more (and all 256 bytes), numbered in the order
    of their cells. Raises `RequestError` for bits, depths, alphabets and rules that do not fit together.
    """
    check(bits=bits, rule=rule, alphabet_size=alphabet_size, depth=depth)
    grow = _Grower(model, depth, rows_per_call, report)
    if rule == "cells":
        trie = grow(rules.split_cells, 1 << bits, least=1, leaf=1)
        return number_cells(trie, 1 << bits, alphabet_size)
    if rule == "top":
        wanted = alphabet_size or 1 << bits
        return number_most_probable(_most_probable(grow, wanted), wanted)
    trie = grow(rules.split_intervals, 1 << rules.UNIT_BITS, least=1 << (rules.UNIT_BITS - bits), leaf=0)
    if rule == "canonical":
        return number_owners(trie, bits, alphabet_size)
    return number_shortest(trie, bits, alphabet_size, to_longest=rule == "paper")


def check(*, bits: int, rule: str, alphabet_size: int | None, depth: int) -> None:
    """Raises `RequestError` for what `build` does not make, before anything is trained."""
    if rule not in rules.RULES:
        raise RequestError(f"unknown rule '{rule}' of a table; known: {', '.join(rules.RULES)}")
    if not MIN_BITS <= bits <= MAX_BITS:
        raise RequestError(f"a table of {bits} bits is not made; choose {MIN_BITS} to {MAX_BITS}, or view 'stream' for wider windows")
    if rule in rules.ENCLOSING and bits < 16:
        raise RequestError(f"rule '{rule}' with {bits} bits would leave bytes without a code; choose 16 bits or more, or rule cells or top")
    if alphabet_size is not None and not 257 <= alphabet_size <= 1 << bits:
        raise RequestError(f"alphabet_size={alphabet_size} must be 257 to {1 << bits} with {bits} bits; choose another, or more bits")
    if not 1 <= depth <= 255:
        raise RequestError(f"depth={depth} of a table must be 1 to 255 bytes")


class _Grower:
    """Level after level of one trie."""

    def __init__(self, model: ByteModel, depth: int, rows_per_call: int, report: Report | None) -> None:
        assert rows_per_call >= 1
        self._model = model
        self._depth = depth
        self._rows_per_call = rows_per_call
        self._report = report
        self._done = 0

    def __call__(self, split: Split, root: int, *, least: int, leaf: int) -> Trie:
        """The trie of `split` from a root of size `root`. A node of a size (`second`, or `first` under `top`) of at most `leaf` is not
        asked about."""
        top = split is rules.split_probabilities
        labels = [np.zeros(1, np.uint8)]
        parents = [np.zeros(1, np.uint32)]
        firsts, seconds = [np.array([root if top else 0], np.int64)], [np.array([0 if top else root], np.int64)]
        prefixes: Prefixes = np.zeros((1, 0), np.uint8)
        level_start, num_nodes = 0, 1
        for level in range(self._depth):
            first, second = firsts[-1], seconds[-1]
            inner = np.flatnonzero((first if top else second) > leaf)
            parts = [
                self._expand(split, prefixes, inner[start : start + self._rows_per_call], first, second, level == 0, least)
                for start in range(0, len(inner), self._rows_per_call)
            ]
            rows, next_labels, next_first, next_second = (np.concatenate(part) for part in zip(*parts, strict=True))
            if len(rows) == 0:
                break
            prefixes = np.concatenate([prefixes[rows], next_labels[:, None]], axis=1)
            labels.append(next_labels)
            parents.append((rows + level_start).astype(np.uint32))
            firsts.append(next_first)
            seconds.append(next_second)
            level_start = num_nodes
            num_nodes += len(rows)
            sizes = next_first if top else next_second
            going = int(sizes[sizes > leaf].sum())
            self._tell(root - going, root)
            if going == 0:
                break
        return Trie(
            labels=np.concatenate(labels), parents=np.concatenate(parents), first=np.concatenate(firsts), second=np.concatenate(seconds)
        )

    def _tell(self, done: int, total: int) -> None:
        self._done = max(self._done, done)
        if self._report is not None:
            self._report(self._done, total)

    def _expand(
        self, split: Split, prefixes: Prefixes, nodes: npt.NDArray[np.int64], first: Cells, second: Cells, is_root: bool, least: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], Cells, Cells]:
        """Children of some nodes of a level: (node in the level, label, state)."""
        asked = np.ascontiguousarray(self._model.after(np.ascontiguousarray(prefixes[nodes])))
        if (
            asked.shape != (len(nodes), 256)
            or asked.dtype != np.uint16
            or (asked == 0).any()
            or (asked.sum(axis=1, dtype=np.int64) != TOTAL).any()
        ):
            raise RequestError(f"the byte model '{self._model.kind}' gives rows that do not sum to {TOTAL} or hold zeros; train it anew")
        room = 256 * len(nodes)
        rows, labels = np.empty(room, np.int64), np.empty(room, np.uint8)
        out_first, out_second = np.empty(room, np.int64), np.empty(room, np.int64)
        count = split(first[nodes], second[nodes], asked, is_root, least, rows, labels, out_first, out_second)
        return nodes[rows[:count]], labels[:count].copy(), out_first[:count].copy(), out_second[:count].copy()


def _most_probable(grow: _Grower, wanted: int) -> Trie:
    """A trie that holds the `wanted` most probable strings and not many more. The least probability that is asked for falls until they are
    there: by the count where that says enough, by a half where it does not."""
    least = (4 << rules.UNIT_BITS) // wanted
    while True:
        trie = grow(rules.split_probabilities, 1 << rules.UNIT_BITS, least=least, leaf=least - 1)
        found = int((trie.first[1:] >= least).sum())
        if max(found, 256) >= wanted or least == 1:
            return trie
        least = max(1, min(least // 2, least * found // (wanted + wanted // 8)))
