"""A model of the next byte that is counted, not trained: frequent strings and how each goes on. Integers only, seconds to make.

    model = CountModel.train(documents)                       # 2^20 strings, from up to 2^24 random starts
    model.after(prefixes), model.rows(stretches)              # see models.py

The strings that at least a few of the starts begin with form a trie (`count_trie.py`); after a prefix the longest of its suffixes in the
trie predicts, mixed with its own suffixes (`count_follow.py`). For whole prefixes the shares are those among the starts, so the counts of
a window are the counts of windows that began as it did; for suffixes they are counted where the longer strings fail (the update
exclusion of prediction by partial matching, Cleary and Witten 1984), with absolute discounts (Kneser and Ney 1995). What the stretch itself
has said before is matched on top of that (`count_match.py`), unless `repeats=False`.

Not promised: that equal documents in another order give the equal model; the starts are drawn by place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Final, Self, final

import numpy as np
import numpy.typing as npt

from compressors.base import JSON
from compressors.errors import RequestError
from compressors.files import sha256_bytes
from compressors.neural import count_follow, count_match, count_trie
from compressors.neural.count_follow import I64, U8, U16, U32
from compressors.neural.count_trie import Report
from compressors.neural.models import TOTAL, ByteModel, Frequencies, Prefixes
from compressors.neural.training_text import cut_at
from compressors.options import Option, take

# For each document the places in it where windows start, int64, rising.
Starts = Callable[[Sequence[bytes]], Sequence[I64]]

_FILE: Final = "counts.bin"
_LEAST_COUNT: Final = 8
_HOLD_EVERY: Final = 50  # documents: one in so many is not counted, so that repeats are weighed against an honest trie
_SURPRISE_BYTES: Final = 24_000_000  # of the documents, to count what the suffixes are asked
_MATCH_BYTES: Final = 2_000_000


@final
class CountModel(ByteModel):
    """Frequent strings with shares. Equal files, equal rows, everywhere."""

    kind: ClassVar[str] = "counts"
    integer: ClassVar[bool] = True
    version: ClassVar[int] = 2
    options: ClassVar[Mapping[str, Option]] = {
        "max_nodes": Option(default=1 << 20, low=512, high=1 << 24, help="strings kept; 7 bytes each in the file"),
        "num_starts": Option(default=1 << 24, low=1, high=1 << 30, help="random starts counted; 16 bytes of memory each"),
        "depth": Option(default=63, low=1, high=count_trie.MAX_DEPTH, help="bytes of the longest string"),
        "max_training_bytes": Option(default=1 << 28, low=1, high=1 << 31, help="documents are read up to this many bytes"),
        "repeats": Option(default=True, help="also match what the stretch itself has said"),
        "seed": Option(default=0, low=0, help="of the random starts"),
    }

    def __init__(self, labels: U8, first: U32, start_shares: U16, shares: U16, match_shares: U16) -> None:
        """As in the file; `from_files` checks them. `match_shares` of no size: repeats are not looked for."""
        # For loops that read along, see count_match.py.
        self.tables = count_follow.tables(labels, first, start_shares, shares, match_shares)
        self._data = _packed(labels, first, start_shares, shares, match_shares)

    @property
    def num_nodes(self) -> int:
        """Strings kept, the empty one included."""
        return len(self.tables.edges)

    @property
    def repeats(self) -> bool:
        """Whether repeats inside a stretch are looked for."""
        return self.tables.match_shares.size > 0

    @property
    def context_bytes(self) -> int | None:
        """One more than the longest string: with so many bytes it is plain that the whole prefix is not in the trie."""
        return None if self.repeats else int(self.tables.depths.max()) + 1

    def after(self, prefixes: Prefixes) -> Frequencies:
        rows = np.empty((len(prefixes), 256), np.uint16)
        text = np.ascontiguousarray(prefixes, np.uint8).reshape(-1)
        count_match.rows_after(self.tables, text, prefixes.shape[1], rows)
        return rows

    def rows(self, stretches: Sequence[bytes]) -> list[Frequencies]:
        offsets = np.cumsum([0, *map(len, stretches)])
        rows = np.empty((int(offsets[-1]), 256), np.uint16)
        count_match.rows_along(self.tables, np.frombuffer(b"".join(stretches), np.uint8), offsets, rows)
        return [rows[start:end] for start, end in pairwise(offsets)]

    def spec(self) -> dict[str, JSON]:
        return {
            "kind": self.kind,
            "version": self.version,
            "num_nodes": self.num_nodes,
            "repeats": self.repeats,
            "sha256": sha256_bytes(self._data),
        }

    def files(self) -> dict[str, bytes]:
        return {_FILE: self._data}

    @classmethod
    def from_files(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        if spec.get("kind") != cls.kind or spec.get("version") != cls.version:
            raise RequestError(
                f"byte model {spec.get('kind')} version {spec.get('version')} is not counts version {cls.version}; train it anew"
            )
        if set(files) != {_FILE} or sha256_bytes(files[_FILE]) != spec.get("sha256"):
            raise RequestError(f"a byte model of kind 'counts' holds {_FILE} alone, with the digest its spec records; train it anew")
        return cls(*_unpacked(files[_FILE], spec.get("num_nodes"), spec.get("repeats")))

    @classmethod
    def train(cls, documents: Iterable[bytes], *, starts: Starts | None = None, report: Report | None = None, **options: Any) -> Self:
        """Count. `starts` names the places where windows start (a view's own borders, say); without it they are drawn at random.
        `report(done, total)` is called as levels of the trie are done. Raises `RequestError` for unknown options and no text."""
        chosen = take("counts", cls.options, options)
        kept = cut_at(documents, chosen["max_training_bytes"])
        if not kept:
            raise RequestError("there is no text to count: give at least one document that is not empty")
        held = kept[_HOLD_EVERY - 1 :: _HOLD_EVERY]
        text, offsets = _joined([document for i, document in enumerate(kept) if (i + 1) % _HOLD_EVERY] if held else kept)
        places = _drawn(text, offsets, starts, chosen["num_starts"], chosen["seed"])
        trie = count_trie.grow(text, places, min_count=_LEAST_COUNT, max_nodes=chosen["max_nodes"], depth=chosen["depth"], report=report)
        del places
        parents = np.repeat(np.arange(len(trie.labels)), np.diff(trie.first).astype(np.int64))
        start_shares = _shares(trie.counts, trie.goes_on, parents)
        none = np.zeros((0, 0), np.uint16)
        bare = count_follow.tables(trie.labels, trie.first, start_shares, np.zeros_like(start_shares), none)
        hits, misses = np.zeros(len(trie.labels), np.int64), np.zeros(len(trie.labels), np.int64)
        count_follow.count_surprises(text, _first_of(offsets, _SURPRISE_BYTES), bare.heads, bare.edges, hits, misses)
        met = misses + np.bincount(parents, hits[1:], len(hits)).astype(np.int64)
        shares = _shares(hits, met, parents)
        if not chosen["repeats"]:
            return cls(trie.labels, trie.first, start_shares, shares, none)
        text, offsets = _joined(held or kept)
        whole = count_follow.tables(trie.labels, trie.first, start_shares, shares, np.ones((1, 1), np.uint16))
        true, seen = np.zeros((2, count_match.LENGTHS, count_match.ODDS), np.int64)
        count_match.count_matches(whole, text, _first_of(offsets, _MATCH_BYTES), true, seen)
        return cls(trie.labels, trie.first, start_shares, shares, count_match.match_shares(true, seen))


def _first_of(offsets: I64, max_bytes: int) -> I64:
    """Offsets of the first documents, up to so many bytes; of one at least."""
    return offsets[: max(2, int(np.searchsorted(offsets, max_bytes, "right")))]


def _joined(documents: Sequence[bytes]) -> tuple[U8, I64]:
    """Bytes and offsets [num_documents + 1]."""
    return np.frombuffer(b"".join(documents), np.uint8), np.cumsum([0, *map(len, documents)])


def _drawn(text: U8, offsets: I64, starts: Starts | None, num_starts: int, seed: int) -> npt.NDArray[np.uint64]:
    """Starts as `count_trie.grow` takes them: every place, or one in each of `num_starts` equal stretches, or those given."""
    if starts is not None:
        documents = [text[a:b].tobytes() for a, b in pairwise(offsets)]
        places = np.concatenate([a + p for a, p in zip(offsets[:-1], starts(documents), strict=True)]).astype(np.uint64)
    else:
        places = np.empty(min(num_starts, len(text)), np.uint64)
        count_trie.draw(len(text), seed, places)
    count_trie.pack_room(offsets, places)
    return places


def _shares(counts: I64, totals: I64, parents: I64) -> U16:
    """Of each node among its parent's: (count - discount) / total in 1/65536, rounded down; under 1. The discount is 1/2 + 3/5 of the
    count's square root: what is frequent in some documents is often so in those alone."""
    tenths = np.maximum(10 * counts[1:] - 5 - np.floor(np.sqrt(36.0 * counts[1:])).astype(np.int64), 0)
    shares = tenths * TOTAL // np.maximum(10 * totals[parents], 1)
    return np.concatenate([[0], np.minimum(shares, TOTAL - 1)]).astype(np.uint16)


def _packed(labels: U8, first: U32, start_shares: U16, shares: U16, match_shares: U16) -> bytes:
    numbers = [np.diff(first), start_shares, shares, match_shares]
    return b"".join([labels.tobytes(), *(one.astype("<u2").tobytes() for one in numbers)])


def _unpacked(data: bytes, num_nodes: JSON, repeats: JSON) -> tuple[U8, U32, U16, U16, U16]:
    match_shape = (count_match.LENGTHS, count_match.ODDS) if repeats is True else (0, 0)
    if not isinstance(num_nodes, int) or not isinstance(repeats, bool) or num_nodes < 257:
        raise RequestError(f"a byte model of kind 'counts' with num_nodes={num_nodes!r} and repeats={repeats!r}; train it anew")
    if len(data) != 7 * num_nodes + 2 * match_shape[0] * match_shape[1]:
        raise RequestError(f"{_FILE} has {len(data)} bytes, which is not 7 for each of {num_nodes} strings; train the model anew")
    labels = np.frombuffer(data, np.uint8, num_nodes)
    numbers = np.frombuffer(data, "<u2", 3 * num_nodes, num_nodes).astype(np.uint16).reshape(3, num_nodes)
    match_shares = np.frombuffer(data, "<u2", offset=7 * num_nodes).astype(np.uint16).reshape(match_shape)
    first = np.concatenate([[1], 1 + np.cumsum(numbers[0], dtype=np.int64)])
    rising = np.diff(labels.astype(np.int64)) > 0
    rising[first[first < num_nodes] - 1] = True  # the first child of a node need not follow its elder cousin
    before = first[:-1] > np.arange(num_nodes)
    if first[-1] != num_nodes or numbers[0][0] != 256 or not rising[1:].all() or not before.all():
        raise RequestError(f"{_FILE} is no trie in breadth-first order with all 256 bytes; train the model anew")
    end = 1
    for _ in range(count_trie.MAX_DEPTH):
        end = int(first[end])  # past the last node of the next level
    if end != num_nodes:
        raise RequestError(f"{_FILE} has strings of more than {count_trie.MAX_DEPTH} bytes; train the model anew")
    parents = np.repeat(np.arange(num_nodes), numbers[0])
    for shares in numbers[1:]:
        if np.bincount(parents, shares[1:], num_nodes).max() > TOTAL:
            raise RequestError(f"the shares in {_FILE} add up to more than all at some node; train the model anew")
    return labels, first.astype(np.uint32), numbers[1], numbers[2], match_shares
