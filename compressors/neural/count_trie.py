"""The strings that are frequent at given starts, as a trie: the structure under `counts.CountModel`.

    trie = grow(text, starts, room, min_count=16, max_nodes=1 << 20, depth=63)

Nodes stand in breadth-first order, node 0 is the empty string, the children of node v are `first[v] .. first[v + 1]` in byte order. Level
by level, the starts of a node are parted by their next byte and the children with too few starts are dropped with their starts. Needs
16 bytes a start beside the text. Integers only: equal input gives the equal trie everywhere.

Not promised: substrings that cross the end of a document are not counted, so the starts of a node may outnumber those of its children.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compressors.neural.jit import compiled

# called as report(done, total) while a model is trained
Report = Callable[[int, int], None]

ROOM_BITS = 8
MAX_DEPTH = 255


@dataclass(frozen=True, kw_only=True)
class Trie:
    """Shapes [num_nodes], `first` one more."""

    labels: npt.NDArray[np.uint8]
    """The last byte of each node's string; 0 for the root."""
    first: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.int64]
    """Starts that go through the node."""
    goes_on: npt.NDArray[np.int64]
    """Those of them that have a further byte in their document."""


def grow(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.uint64],
    *,
    min_count: int,
    max_nodes: int,
    depth: int,
    report: Report | None = None,
) -> Trie:
    """The trie of all strings of at most `depth` bytes that at least `min_count` of the starts begin with, and of all 256 bytes.

    `starts`: position << 8 | bytes left in the document (at most 255), uint64 [num_starts]; overwritten. Where more than `max_nodes`
    strings are frequent enough the count asked for is raised until they fit.
    """
    assert 1 <= depth <= MAX_DEPTH, depth
    assert min_count >= 1, min_count
    assert max_nodes > 256, max_nodes
    spare = np.empty_like(starts)
    bounds = np.array([0, len(starts)], np.int64)
    labels, counts, goes_on = [np.zeros(1, np.uint8)], [np.array([len(starts)], np.int64)], []
    num_children = []
    for level in range(depth):
        least = min_count if level else 0
        next_bounds, next_labels, children, going = _part(text, starts, spare, bounds, level, least)
        goes_on.append(going)
        num_children.append(children)
        if len(next_labels) == 0:
            break
        labels.append(next_labels)
        counts.append(np.diff(next_bounds))
        bounds, starts, spare = next_bounds, spare, starts
        if report is not None:
            report(level + 1, depth)
    else:
        goes_on.append(np.zeros(len(labels[-1]), np.int64))
        num_children.append(np.zeros(len(labels[-1]), np.int64))
    full = Trie(
        labels=np.concatenate(labels),
        first=_first(np.concatenate(num_children)),
        counts=np.concatenate(counts),
        goes_on=np.concatenate(goes_on),
    )
    return _cut(full, max_nodes)


def keep(trie: Trie, kept: npt.NDArray[np.bool_]) -> tuple[Trie, npt.NDArray[np.int64]]:
    """The trie of the nodes marked, with their old numbers. A child must not be kept without its parent."""
    old = np.flatnonzero(kept)
    running = np.concatenate([[0], np.cumsum(kept[1:])]) + 1  # how many kept nodes stand before node v + 1
    ends = running[trie.first[1:][old].astype(np.int64) - 1]
    first = np.concatenate([[1], ends]).astype(np.uint32)
    cut = Trie(labels=trie.labels[old], first=first, counts=trie.counts[old], goes_on=trie.goes_on[old])
    return cut, old


def _first(num_children: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    return np.concatenate([[1], 1 + np.cumsum(num_children)]).astype(np.uint32)


def _cut(trie: Trie, max_nodes: int) -> Trie:
    """Raise the least count until at most `max_nodes` nodes are left; the root and the single bytes always stay."""
    if len(trie.labels) <= max_nodes:
        return trie
    order = np.sort(trie.counts[257:])[::-1]
    least = int(order[max_nodes - 257]) + 1
    kept = trie.counts >= least
    kept[:257] = True
    return keep(trie, kept)[0]


@compiled
def draw(num_places: int, seed: int, places: npt.NDArray[np.uint64]) -> None:
    """One place of each of len(places) stretches of equal length, drawn by (seed, number): rising, uint64 [num_starts]."""
    num = len(places)
    for i in range(num):
        low, high = i * num_places // num, (i + 1) * num_places // num
        # Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators": the finaliser of SplitMix64.
        bits = np.uint64(seed) * np.uint64(0xD1B54A32D192ED03) + np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = (bits ^ (bits >> np.uint64(31))) >> np.uint64(32)
        places[i] = np.uint64(low) + ((bits * np.uint64(high - low)) >> np.uint64(32))


@compiled
def pack_room(offsets: npt.NDArray[np.int64], places: npt.NDArray[np.uint64]) -> None:
    """Rising places in the joined documents to what `grow` takes, in place."""
    document = 0
    for i in range(len(places)):
        place = np.int64(places[i])
        while offsets[document + 1] <= place:
            document += 1
        places[i] = (place << ROOM_BITS) | min(offsets[document + 1] - place, MAX_DEPTH)


@compiled
def _part(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.uint64],
    out: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    level: int,
    least: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """One level: the starts of group g (`bounds[g]` to `bounds[g + 1]`) parted by byte `level`, stable, groups under `least` dropped.
    With `least` 0 all 256 groups are made. Returns the new bounds and labels, and each old group's children and starts that go on."""
    num_groups = len(bounds) - 1
    most = 256 * num_groups if least == 0 else min(256 * num_groups, bounds[num_groups] // least)
    new_bounds = np.zeros(most + 1, np.int64)
    labels = np.zeros(most, np.uint8)
    children = np.zeros(num_groups, np.int64)
    going = np.zeros(num_groups, np.int64)
    place = np.zeros(256, np.int64)
    made = 0
    end = 0
    for g in range(num_groups):
        place[:] = 0
        total = 0
        for i in range(bounds[g], bounds[g + 1]):
            packed = np.int64(starts[i])
            if packed & 255 > level:
                place[text[(packed >> 8) + level]] += 1
                total += 1
        going[g] = total
        before = made
        for s in range(256):
            if place[s] >= least:
                labels[made] = s
                made += 1
                count = place[s]
                place[s] = end
                end += count
                new_bounds[made] = end
            else:
                place[s] = -1
        children[g] = made - before
        if made == before:
            continue
        for i in range(bounds[g], bounds[g + 1]):
            packed = np.int64(starts[i])
            if packed & 255 > level:
                s = text[(packed >> 8) + level]
                if place[s] >= 0:
                    out[place[s]] = starts[i]
                    place[s] += 1
    return new_bounds[: made + 1].copy(), labels[:made].copy(), children, going
