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
from math import isqrt
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from compressors.errors import RequestError
from compressors.neural import rules
from compressors.neural.dictionary import MAX_NUM_NODES
from compressors.neural.divide import MIN_BITS, Cells
from compressors.neural.models import TOTAL, ByteModel, Prefixes
from compressors.neural.numbering import Strings, Trie, number_cells, number_most_probable, number_owners, number_shortest

MAX_BITS: Final = 20
MAX_DEPTH: Final = 63
"""Longest string of a table, in bytes. Only runs of one character reach it."""
ROWS_PER_CALL: Final = 2048

# called as report(done, total) with cells of the root; `done` never falls
Report: TypeAlias = Callable[[int, int], None]
# children found: the parent's index in its level, label, state
Part: TypeAlias = tuple[npt.NDArray[np.int64], rules.Labels, Cells, Cells]
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
        return number_cells(_whole(grow(rules.split_cells, 1 << bits, leaf=1)), 1 << bits, alphabet_size)
    if rule == "top":
        wanted = alphabet_size or 1 << bits
        return number_most_probable(_most_probable(grow, wanted), wanted)
    trie = _whole(grow(rules.split_intervals, 1 << rules.UNIT_BITS, least=1 << (rules.UNIT_BITS - bits)))
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

    def __call__(
        self, split: Split, root: int, *, least: int = 1, leaf: int = 0, most: int = MAX_NUM_NODES, most_least: int | None = None
    ) -> Trie | None:
        """The trie of `split` from a root of size `root`; None where it has more than `most` nodes. A node of a size of at most `leaf` is
        not asked about. Of the nodes of the size `least`, only the first `most_least` are kept, if that is given."""
        labels, parents = [np.zeros(1, np.uint8)], [np.zeros(1, np.uint32)]
        firsts, seconds = [np.zeros(1, np.int64)], [np.array([root], np.int64)]
        prefixes: Prefixes = np.zeros((1, 0), np.uint8)
        level_start, num_nodes = 0, 1
        for level in range(self._depth):
            inner = np.flatnonzero(seconds[-1] > leaf)
            parts, num_found = [], 0
            for start in range(0, len(inner), self._rows_per_call):
                part = self._expand(split, prefixes, inner[start : start + self._rows_per_call], firsts[-1], seconds[-1], level == 0, least)
                if most_least is not None:
                    part, most_least = _only_first(part, least, most_least)
                parts.append(part)
                num_found += len(part[0])
                if num_nodes + num_found > most:
                    return None
            rows, next_labels, next_first, next_second = (np.concatenate(part) for part in zip(*parts, strict=True))
            prefixes = np.concatenate([prefixes[rows], next_labels[:, None]], axis=1)
            labels.append(next_labels)
            parents.append((rows + level_start).astype(np.uint32))
            firsts.append(next_first)
            seconds.append(next_second)
            level_start = num_nodes
            num_nodes += len(rows)
            going = int(next_second[next_second > leaf].sum())
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
    ) -> Part:
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


def _whole(trie: Trie | None) -> Trie:
    """Raises `RequestError` for a trie that grew out of all bounds: a model that is sure of long runs and of nothing else."""
    if trie is None:
        raise RequestError(f"the table would have more than {MAX_NUM_NODES} nodes; choose fewer bits, a smaller depth or rule cells")
    return trie


def _only_first(part: Part, size: int, most: int) -> tuple[Part, int]:
    """Children without those of a size after the first `most`, and how many of these are left to take."""
    equal = part[3] == size
    kept = ~equal | (np.cumsum(equal) <= most)
    rows, labels, first, second = part
    return (rows[kept], labels[kept], first[kept], second[kept]), most - int((equal & kept).sum())


def _most_probable(grow: _Grower, wanted: int) -> Trie:
    """A trie that holds the `wanted` most probable strings and not many more: all strings of a least probability, which falls by their
    number until there are enough, and is searched for between the last two where they were too many. Of equal probabilities the first in
    breadth-first order are kept, so that one unit less never adds too many."""
    most = min(MAX_NUM_NODES, 257 + 8 * wanted)
    too_many, too_few = 0, 1 << rules.UNIT_BITS
    least = (4 << rules.UNIT_BITS) // wanted
    while True:
        trie = grow(rules.split_probabilities, 1 << rules.UNIT_BITS, least=least, leaf=least - 1, most=most, most_least=wanted)
        found = 0 if trie is None else max(256, int((trie.second[1:] >= least).sum()))
        if trie is not None and (found >= wanted or least == 1):
            return trie
        if trie is None:
            too_many = least
        else:
            too_few = least
        if too_many:
            least = max(too_many + 1, isqrt(too_many * too_few))
        else:
            least = max(1, min(least // 2, least * found // (wanted + wanted // 8)))
        assert too_many < least < too_few
