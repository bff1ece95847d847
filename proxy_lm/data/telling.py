"""Telling: which document each position of the global order tells, and how. Draws and lengths; no rows, no payload.

    teller = Teller(sizes=sizes, documents=range(100), views=views, mix=mix, seed=0, cuts={})
    draws = teller.draw(first=0, count=4096)
    layout, ids = teller.layouts(draws, slice(0, 4096), progress)

Position p tells document `permute(seed, p)`, each document once an epoch. Draws keyed by (seed, p), one for each decision, settle view,
layout, order and cuts against the shares at p's progress, which the caller knows. One draw decides one thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

from proxy_lm.data.fim import Fim
from proxy_lm.data.mixing import MAX_CUTS, MixSettings, Shares
from proxy_lm.data.permutation import hashes, key_of, permute, uniforms
from proxy_lm.data.pieces import NUM_FIM_CUTS, OVERHEAD, OVERHEAD_PER_CUT, UNCUT, CutPoints, Layout, Told, stream_lengths
from proxy_lm.errors import RequestError

if TYPE_CHECKING:
    from proxy_lm.data.cuts import CutTable

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

_PURPOSES: Final = ("document", "view", "rate", "pair", "order", "number of cuts", "cut")
_PAIR: Final = np.uint8(Layout.PAIR)
_PARALLEL: Final = np.uint8(Layout.PARALLEL)
_NEVER: Final = np.iinfo(np.uint64).max


class ViewLengths(Protocol):
    """What the plan needs of a view; `proxy_lm.data.views.View` is one."""

    @property
    def name(self) -> str:
        """The view's name in the run."""

    @property
    def lengths(self) -> I64:
        """Symbols of every document of the corpus, int64 [num_documents], -1 where the document is raw only."""


@dataclass(frozen=True)
class KnownLengths:
    """A view of which only the lengths are known: for dry runs and tests."""

    name: str
    lengths: I64


@dataclass(frozen=True)
class Draws:
    """What does not depend on progress, for consecutive positions."""

    position: I64
    document: I64  # in the range
    size_bytes: I64
    view: U8  # code; where weights move, 0 until `Teller` knows the progress
    view_length: I64
    rate_draw: F64
    layout_draw: F64

    def __getitem__(self, some: slice) -> Draws:
        return Draws(*(getattr(self, field.name)[some] for field in fields(self)))


@dataclass(frozen=True)
class _Splices:
    """Documents told in turn, one row each: edges of the stretches, 0 and the whole document included; the last is repeated."""

    byte: I64  # [num_splices, max_cuts + 2]
    symbol: I64  # [num_splices, max_cuts + 2]
    num_cuts: I64  # [num_splices]

    def lengths(self, raw_first: npt.NDArray[np.bool_]) -> I64:
        """Ids of each document in the stream, int64 [num_splices]."""
        even = np.arange(self.byte.shape[1] - 1) % 2 == 0
        payload: I64 = np.where(raw_first[:, None] == even, np.diff(self.byte, axis=1), np.diff(self.symbol, axis=1)).sum(axis=1)
        payload += OVERHEAD[Layout.SPLICE] + OVERHEAD_PER_CUT * self.num_cuts
        return payload


class Teller:
    """Decides positions; a pure function of its arguments, so threads may share it."""

    def __init__(
        self,
        *,
        sizes: I64,
        documents: range,
        views: Sequence[ViewLengths],
        mix: MixSettings,
        seed: int,
        cuts: Mapping[str, CutTable],
        lines: CutTable | None = None,
        ahead: float = 0.0,
    ) -> None:
        """`sizes` int64 [num_documents of the corpus] in bytes; `documents` the range to tell; `cuts` by view, for those that are spliced;
        `lines` of the corpus, where fill-in-the-middle is cut at lines; `ahead` as in `MixSettings.shares`.

        Raises `RequestError` for a mix that the views cannot follow."""
        names = [view.name for view in views]
        mix.check_names(names)
        self.mix = mix
        self.num_views = len(views)
        self.first_document = documents.start
        self.sizes = np.asarray(sizes[documents.start : documents.stop])
        self.lengths = [np.asarray(view.lengths[documents.start : documents.stop]) for view in views]
        self._names = names
        self._ahead = ahead
        self._borders = mix.cumulative_weights(names) if mix.weights_are_constant else None
        self._keys = {what: key_of(seed, what) for what in _PURPOSES}
        self._fim = None if mix.fim.rate.is_zero else Fim(mix.fim, seed, sizes.size, lines)
        self._splices = not mix.share_is_zero("splice")
        self._pairs_only = not self._splices and mix.share_is_zero("parallel")
        self._cuts = [_of_documents(cuts, name, sizes.size, mix) for name in names] if self._splices else []

    def draw(self, first: int, count: int) -> Draws:
        """Positions first .. first + count - 1."""
        position = np.arange(first, first + count, dtype=np.int64)
        document = permute(self._keys["document"], self.sizes.size, position)
        if self._borders is None:
            view, view_length = np.zeros(count, dtype=np.uint8), np.full(count, -1, dtype=np.int64)
        else:
            view, view_length = self._views(position, document, self._borders)
        return Draws(
            position=position,
            document=document,
            size_bytes=self.sizes[document],
            view=view,
            view_length=view_length,
            rate_draw=uniforms(self._keys["rate"], position),
            layout_draw=uniforms(self._keys["pair"], position),
        )

    def stream_length(self, draws: Draws, progress: float) -> int:
        """Ids that these positions add to the stream, all at one progress."""
        return int(self._lengths(*self._layouts_at(draws, progress), progress).sum())

    def unit_lengths(self, draws: Draws, progress: float) -> I64:
        """Ids of the segments of these positions in any order, int64 [num_units]: a document, or each of its tellings in parallel."""
        draws, layout = self._layouts_at(draws, progress)
        lengths = self._lengths(draws, layout, progress)
        parallel = layout == Layout.PARALLEL
        raw = draws.size_bytes[parallel] + OVERHEAD[Layout.RAW]
        return np.concatenate([lengths[~parallel], raw, lengths[parallel] - raw])

    def _layouts_at(self, draws: Draws, progress: float) -> tuple[Draws, U8]:
        draws, _, layout = self._decide(draws, np.float64(progress), 1)
        return draws, layout

    def _lengths(self, draws: Draws, layout: U8, progress: float) -> I64:
        """Ids of each document in the stream, all told at one progress, int64 [num_positions]."""
        lengths = stream_lengths(layout, draws.size_bytes, draws.view_length)
        if self._splices:
            spliced = np.flatnonzero(layout == Layout.SPLICE)
            raw_first = self._raw_first(draws.position[spliced], np.float64(progress))
            lengths[spliced] = self._splices_of(draws, spliced).lengths(raw_first)
        return lengths

    def told(self, draws: Draws, progress: F64, block_positions: int) -> Told:
        """The positions decided; `progress` is one value a block of `block_positions`, the last of which may be short."""
        draws, shares, layout = self._decide(draws, progress, block_positions)
        at = _spread(progress, block_positions, draws.position.size)
        asked = (draws.rate_draw < shares.rate) | (draws.layout_draw < shares.pair + shares.parallel + shares.splice)
        missing = np.where(asked & (draws.view_length < 0), draws.view, np.uint8(0))
        cuts = None
        if self._splices or self._fim is not None:
            cuts, uncut = self._cut_points(draws, layout)
            if self._splices:
                uncut |= self._is_splice(draws, shares) & (layout != Layout.SPLICE)
            missing[uncut & (missing == 0)] = UNCUT
        return Told(
            position=draws.position,
            document=draws.document + self.first_document,
            size_bytes=draws.size_bytes,
            layout=layout,
            view=draws.view,
            view_length=draws.view_length,
            raw_first=self._raw_first(draws.position, at),
            missing=missing,
            cuts=cuts,
        )

    def _cut_points(self, draws: Draws, layout: U8) -> tuple[CutPoints, npt.NDArray[np.bool_]]:
        """Cuts of the spliced documents and of those whose middle comes last; and which of the latter were to be cut at lines in vain."""
        num_cuts = NUM_FIM_CUTS[layout]
        spliced = np.flatnonzero(layout == Layout.SPLICE)
        found = self._splices_of(draws, spliced) if self._splices else None
        if found is not None:
            num_cuts[spliced] = found.num_cuts
        borders = np.concatenate([[0], np.cumsum(num_cuts)])
        byte, symbol = np.zeros(borders[-1], dtype=np.int64), np.zeros(borders[-1], dtype=np.int64)
        uncut = np.zeros(layout.size, dtype=np.bool_)
        if found is not None:
            inner = np.arange(1, found.byte.shape[1] - 1) <= found.num_cuts[:, None]
            of_splice = np.repeat(layout == Layout.SPLICE, num_cuts)
            byte[of_splice], symbol[of_splice] = found.byte[:, 1:-1][inner], found.symbol[:, 1:-1][inner]
        if self._fim is not None:
            some = np.flatnonzero(layout >= Layout.FIM_PSM)
            first, end, uncut[some] = self._fim.middles(
                draws.position[some], draws.document[some] + self.first_document, draws.size_bytes[some]
            )
            byte[borders[some]] = first
            byte[borders[some + 1] - 1] = end
        return CutPoints(borders, byte, symbol), uncut

    def _decide(self, draws: Draws, progress: F64 | np.float64, block_positions: int) -> tuple[Draws, Shares, U8]:
        """Draws with their views, the shares of each position (or of all), and layouts: the shares of told twice and told in turn stand
        side by side on one draw; what is left is told by a view or raw by another. Raw where the view cannot express the document."""
        count = draws.position.size
        shares = self.mix.shares(progress, self._ahead)
        if np.ndim(progress):
            shares = Shares(*(_spread(share, block_positions, count) for share in shares))
        if self._borders is None:
            borders = self.mix.cumulative_weights(self._names, progress)
            borders = _spread(borders, block_positions, count) if np.ndim(progress) else borders
            view, view_length = self._views(draws.position, draws.document, borders)
            kept = {field.name: getattr(draws, field.name) for field in fields(draws)}
            draws = Draws(**kept | {"view": view, "view_length": view_length})
        layout = (draws.rate_draw < shares.rate).view(np.uint8)
        if self._pairs_only:
            layout = np.where(draws.layout_draw < shares.pair, _PAIR, layout)
        else:
            twice = shares.pair + shares.parallel
            if self._splices:
                layout[self._is_splice(draws, shares) & (self._num_candidates(draws) > 0)] = Layout.SPLICE
            layout = np.where(draws.layout_draw < twice, np.where(draws.layout_draw < shares.pair, _PAIR, _PARALLEL), layout)
        layout[draws.view_length < 0] = Layout.RAW
        if self._fim is not None:
            rate = self.mix.fim.rate(progress)
            self._fim.decide(layout, draws.position, draws.size_bytes, _spread(rate, block_positions, count) if np.ndim(rate) else rate)
        return draws, shares, layout

    @staticmethod
    def _is_splice(draws: Draws, shares: Shares) -> npt.NDArray[np.bool_]:
        """Drawn as splices, whether or not they have a border inside."""
        twice = shares.pair + shares.parallel
        drawn: npt.NDArray[np.bool_] = (draws.layout_draw >= twice) & (draws.layout_draw < twice + shares.splice)
        return drawn

    def _views(self, position: I64, document: I64, borders: F64) -> tuple[U8, I64]:
        """Code of the drawn view and symbols of each document in it. `borders` [num_views], or [num_positions, num_views]."""
        if self.num_views == 0:
            return np.zeros(position.size, dtype=np.uint8), np.full(position.size, -1, dtype=np.int64)
        if self.num_views == 1:
            return np.ones(position.size, dtype=np.uint8), self.lengths[0][document]
        draw = uniforms(self._keys["view"], position)
        index = np.searchsorted(borders, draw, side="right") if borders.ndim == 1 else (draw[:, None] >= borders).sum(axis=1)
        view_length = np.empty(position.size, dtype=np.int64)
        for k, lengths in enumerate(self.lengths):
            mine = index == k
            view_length[mine] = lengths[document[mine]]
        return (index + 1).astype(np.uint8), view_length

    def _raw_first(self, position: I64, progress: F64 | np.float64) -> npt.NDArray[np.bool_]:
        first: npt.NDArray[np.bool_] = uniforms(self._keys["order"], position) < self.mix.raw_first(progress)
        return first

    def _num_candidates(self, draws: Draws) -> I64:
        found = np.zeros(draws.position.size, dtype=np.int64)
        for k, table in enumerate(self._cuts):
            if table is not None:
                mine = np.flatnonzero(draws.view == k + 1)
                found[mine] = table.num_candidates(draws.document[mine] + self.first_document)
        return found

    def _splices_of(self, draws: Draws, some: npt.NDArray[np.intp]) -> _Splices:
        """Number and places of the cuts of the documents at the indices `some`, all of which have candidates.

        The number is drawn evenly from 1 up; then so many of the candidates are taken as have the smallest keyed hashes: an even draw."""
        size, symbols = draws.size_bytes[some], draws.view_length[some]
        available = self._num_candidates(draws)[some]
        most = np.minimum(available, self.mix.max_cuts)
        num_cuts = 1 + (uniforms(self._keys["number of cuts"], draws.position[some]) * most).astype(np.int64)
        order = np.arange(MAX_CUTS)
        hashed = hashes(self._keys["cut"], draws.position[some, None] * MAX_CUTS + order)
        hashed[order >= available[:, None]] = _NEVER
        width = self.mix.max_cuts
        taken = np.argsort(hashed, axis=1, kind="stable")[:, :width]
        taken = np.sort(np.where(np.arange(width) < num_cuts[:, None], taken, MAX_CUTS), axis=1)
        byte, symbol = np.repeat(size[:, None], width + 2, axis=1), np.repeat(symbols[:, None], width + 2, axis=1)
        byte[:, 0] = symbol[:, 0] = 0
        for k, table in enumerate(self._cuts):
            mine = np.flatnonzero(draws.view[some] == k + 1)
            if table is None or mine.size == 0:
                continue
            row, column = np.nonzero(taken[mine] < MAX_CUTS)
            at = table.borders[draws.document[some][mine[row]] + self.first_document] + taken[mine[row], column]
            byte[mine[row], column + 1], symbol[mine[row], column + 1] = table.byte[at], table.symbol[at]
        return _Splices(byte, symbol, num_cuts)


def _spread(of_blocks: F64, block_positions: int, count: int) -> F64:
    """Values of blocks for each of `count` positions; a single block is left to numpy, which spreads it without a copy."""
    return of_blocks if len(of_blocks) == 1 else np.repeat(of_blocks, block_positions, axis=0)[:count]


def _of_documents(cuts: Mapping[str, CutTable], name: str, num_documents: int, mix: MixSettings) -> CutTable | None:
    table = cuts.get(name)
    if table is None and mix.can_be_drawn(name):
        raise RequestError(
            f"mix.splice asks for cuts in the view '{name}' and the plan has no table of them; give `cuts` for it, set mix.splice=0, "
            f"or give it no weight in mix.weights"
        )
    if table is not None and table.borders.size != num_documents + 1:
        raise RequestError(
            f"the cuts of view '{name}' are of {table.borders.size - 1} documents and the corpus has {num_documents}; make them anew"
        )
    return table
