"""The plan: which document, told how, fills which columns of which row. A pure function; it holds lengths and never sees a payload.

    plan = Plan.for_corpus(corpus, views, vocabulary=vocabulary, mix=mix, seed=0, row_length=2048, lookahead=1, num_rows=4096)
    plan.row_slices(first_row=1000, num_rows=8)

How each position of the global order is told is decided by `telling`, against the mix at the position's progress. Progress is known for
blocks of positions: a curve's value is taken at the stream length before the block. One pass over the lengths stores that stream length
for each block, the *anchors*, and nothing else; a row is found by binary search in the anchors, and the blocks around it are decided anew.
With `packing="cut"` the stream has no gaps and rows are cut out of it; with "fit" each block is packed into rows of its own (`fit`), so
that an anchor is a whole number of rows and progress counts padding.
The stream's rows are trained on in the shuffled order of `row_order`. World size, micro-batch, restarts and threads do not enter: the
arguments of the constructor are all there is, and `digest` names them.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from compressors.files import digest_of
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.permutation import PERMUTATION_VERSION, key_of, uniforms
from proxy_lm.data.pieces import OVERHEAD, Bools, Layout, Pieces
from proxy_lm.data.repeat import repeat_half
from proxy_lm.data.row_order import default_window, stream_rows
from proxy_lm.data.slices import Slices, cut
from proxy_lm.data.telling import Draws, KnownLengths, Teller, ViewLengths
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from proxy_lm.data.corpus import Corpus
    from proxy_lm.data.cuts import CutTable
    from proxy_lm.data.views import View

__all__ = ["KnownLengths", "Plan", "ViewLengths", "step_digest"]

I64 = npt.NDArray[np.int64]
T = TypeVar("T")
Packing = Literal["cut", "fit"]

# 3: pair, parallel and splice are shares of their own, on one draw.
PLAN_VERSION: Final = 3
# Positions that are decided in one go: large enough to hide numpy's cost per call, small enough for the second-level cache.
SPAN: Final = 4096
# Positions that the planning pass draws in one go: with more, numpy's arrays come fresh from the system and cost twice as much.
_WALKED: Final = 4 * SPAN
# A run has at least about this many blocks, so that curves are smooth in short runs too.
_MIN_BLOCKS: Final = 1024
# Rows that are packed together, if a run is long enough, and the fewest such blocks of a run.
_PACKED_ROWS: Final = 256
_MIN_PACKED_BLOCKS: Final = 16
# Enough for the rows of one shuffled window of common documents; each is a few hundred kilobytes.
_KEPT_SPANS: Final = 48


class Plan:
    """Rows 0 .. num_rows - 1 of `row_length` ids (plus `lookahead` of the next row) over one range of documents.

    Thread-safe; picklable is not promised (each process builds its own, from the same arguments). Memory: the sizes and lengths it is
    given, 8 bytes a block of up to 4096 positions, and a few decided spans."""

    def __init__(
        self,
        *,
        sizes: I64,
        documents: range,
        views: Sequence[ViewLengths],
        vocabulary: Vocabulary,
        mix: MixSettings,
        seed: int,
        row_length: int,
        lookahead: int,
        num_rows: int,
        shuffle_rows: int = 1,
        parents: Sequence[str] = (),
        cuts: Mapping[str, CutTable] | None = None,
        packing: Packing = "cut",
        lines: CutTable | None = None,
    ) -> None:
        """`sizes` int64 [num_documents] in bytes; `documents` the range of the split; `views` in the vocabulary's order; `parents` digests
        of the corpus and the views, for the plan's own digest; `cuts` where splices may be cut, by view; `packing` "cut" or "fit"; `lines`
        of the corpus, where fill-in-the-middle is cut at lines.

        Raises `RequestError` for settings that cannot be planned."""
        _check_request(sizes, documents, views, vocabulary, row_length, lookahead, num_rows)
        if packing not in get_args(Packing):
            raise RequestError(f"packing is {packing!r}; known: {', '.join(get_args(Packing))}")
        if packing == "fit" and not mix.repeat.is_zero:
            raise RequestError(
                "mix.repeat with packing=fit is not offered: a packed row may end before its half; use packing=cut or mix.repeat=0"
            )
        self.parents = tuple(parents)
        self.documents = documents
        self.vocabulary = vocabulary
        self.mix = mix
        self.seed = seed
        self.row_length = row_length
        self.lookahead = lookahead
        self.num_rows = num_rows
        self.shuffle_rows = shuffle_rows
        self.num_views = len(views)
        self.view_names = tuple(view.name for view in views)
        self.cut_digests = {name: table.digest for name, table in sorted((cuts or {}).items())}
        if lines is not None:
            self.cut_digests["raw"] = lines.digest
        self.packing = packing
        mean_length = float(sizes[documents.start : documents.stop].mean()) + float(OVERHEAD[Layout.RAW])
        self.block_positions = _block_size(num_rows, row_length, mean_length, packing)
        # Blocks are small with "cut". With "fit" the raw-only end may be shorter than one, so the block that reaches into it is raw.
        ahead = min(self.block_positions * mean_length / self.num_symbols, 1 / _MIN_PACKED_BLOCKS) if packing == "fit" else 0.0
        self._teller = Teller(sizes=sizes, documents=documents, views=views, mix=mix, seed=seed, cuts=cuts or {}, lines=lines, ahead=ahead)
        self._repeat_key = key_of(seed, "rows that repeat")
        self._spans: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self.digest = self._digest()
        self._anchors = self._walk()

    @classmethod
    def for_corpus(
        cls,
        corpus: Corpus,
        views: Sequence[View],
        *,
        vocabulary: Vocabulary,
        mix: MixSettings,
        seed: int,
        row_length: int,
        lookahead: int,
        num_rows: int,
        split: str = "train",
        shuffle_rows: int | None = None,
        cuts: Mapping[str, CutTable] | None = None,
        packing: Packing = "cut",
        lines: CutTable | None = None,
    ) -> Plan:
        """The plan over one split of a corpus; `shuffle_rows` None takes the window of `row_order`; `cuts` as `open_cuts` gives them.

        Raises `RequestError` for a split the corpus does not have."""
        if split not in corpus.splits:
            raise RequestError(f"the corpus {corpus.path} has no split '{split}'; known: {', '.join(corpus.splits)}")
        return cls(
            sizes=corpus.sizes,
            documents=corpus.splits[split],
            views=views,
            vocabulary=vocabulary,
            mix=mix,
            seed=seed,
            row_length=row_length,
            lookahead=lookahead,
            num_rows=num_rows,
            shuffle_rows=default_window(num_rows) if shuffle_rows is None else shuffle_rows,
            parents=[corpus.digest, *(view.digest for view in views)],
            cuts=cuts,
            packing=packing,
            lines=lines,
        )

    @property
    def num_documents(self) -> int:
        """Documents of the range: the length of an epoch in positions."""
        return len(self.documents)

    @property
    def num_symbols(self) -> int:
        """Ids in the rows' own columns, lookahead not counted twice."""
        return self.num_rows * self.row_length

    @property
    def num_positions(self) -> int:
        """Positions whose documents begin inside the planned stream, rounded up to a block."""
        return (self._anchors.size - 1) * self.block_positions

    def row_slices(self, first_row: int, num_rows: int) -> Slices:
        """What fills rows first_row .. first_row + num_rows - 1. Raises `RequestError` for rows that are not planned."""
        slices = self.slices_before_repeats(first_row, num_rows)
        if self.mix.repeat.is_zero:
            return slices
        return repeat_half(slices, self.is_repeating(slices.row), self.row_length, self.lookahead)

    def slices_before_repeats(self, first_row: int, num_rows: int) -> Slices:
        """As `row_slices`, without `mix.repeat`: the stretches of the stream that the rows are made of."""
        if num_rows < 1 or first_row < 0 or first_row + num_rows > self.num_rows:
            raise RequestError(
                f"rows {first_row}..{first_row + num_rows - 1} are not in this plan of {self.num_rows} rows; plan a longer run (num_steps)"
            )
        rows = np.arange(first_row, first_row + num_rows, dtype=np.int64)
        places = stream_rows(self.seed, rows, self.num_rows, self.shuffle_rows)
        firsts = self._span_at(places * self.row_length)
        if self.packing == "fit":
            return self._packed_slices(rows, places, firsts)
        lasts = self._span_at((places + 1) * self.row_length + self.lookahead - 1)
        # Rows that lie in the same spans are cut together; neighbours in the stream always do, whatever their order in the run.
        parts = []
        for first, last in sorted(set(zip(firsts.tolist(), lasts.tolist(), strict=True))):
            mine = (firsts == first) & (lasts == last)
            begin, end = int(places[mine].min()) * self.row_length, int(places[mine].max() + 1) * self.row_length + self.lookahead
            pieces = Pieces.join([self._kept(number, self._decide_span).between(begin, end) for number in range(first, last + 1)])
            parts.append(cut(pieces, rows[mine], places[mine], self.row_length, self.lookahead))
        return parts[0] if len(parts) == 1 else Slices.join(parts).by_row()

    def is_repeating(self, rows: I64) -> Bools:
        """Which of these rows of the run say their first half twice (`repeat.py`), bool of their shape."""
        return uniforms(self._repeat_key, rows) < self.mix.share_of_rows_that_repeat(rows / self.num_rows)

    def step_digest(self, step: int, rows_per_step: int) -> str:
        """Digest of all rows of one global step; the same for every world size."""
        return self.row_slices(step * rows_per_step, rows_per_step).digest()

    def pieces(self) -> Iterator[Pieces]:
        """All pieces of the planned stream in order, a span of positions at a time; the last ones may reach beyond the last row. With "fit"
        their places are those before packing: see `laid`."""
        for number in range(-(-self.num_positions // SPAN)):
            yield self._decide_span(number)

    def laid(self) -> Iterator[tuple[Pieces, Slices, I64]]:
        """With "fit", a span of positions at a time: pieces, where they lie in the stream's rows, the piece of each slice (`fit.lay`)."""
        for number in range(-(-self.num_positions // SPAN)):
            yield self._lay_span(number)

    def progress(self, stream_place: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Share of the run that is done at `stream_place`, 0 to 1. With "fit" the places before it include padding."""
        return np.minimum(np.asarray(stream_place, dtype=np.float64) / self.num_symbols, 1.0)

    def summary(self, num_phases: int = 10) -> dict[str, Any]:
        """Counts and shares of the whole run and of its phases, as JSON; see `proxy_lm.data.summary`. One pass over the lengths."""
        from proxy_lm.data.summary import summarise

        return summarise(self, num_phases)

    def _walk(self) -> I64:
        """The planning pass: the stream length before each block, int64 [num_blocks + 1]."""
        wanted = self.num_symbols + self.lookahead
        anchors = [0]
        for first in range(0, 1 << 62, _WALKED):
            draws = self._teller.draw(first, _WALKED)
            for at in range(0, _WALKED, self.block_positions):
                some = draws[at : at + self.block_positions]
                anchors.append(anchors[-1] + self._block_length(some, anchors[-1]))
                if anchors[-1] >= wanted:
                    return np.array(anchors, dtype=np.int64)
        raise AssertionError("every document adds ids to the stream, so it reaches any length")

    def _block_length(self, draws: Draws, anchor: int) -> int:
        """Ids of the stream that the positions of one block fill."""
        progress = self.progress(anchor)
        if self.packing == "cut":
            return self._teller.stream_length(draws, float(progress))
        from proxy_lm.data.fit import pack  # brings numba

        packed = pack(self._teller.unit_lengths(draws, float(progress)), self.row_length)
        return int(packed.num_rows[0]) * self.row_length

    def _decide_span(self, number: int) -> Pieces:
        """The pieces of positions number * SPAN .. number * SPAN + SPAN - 1, as far as they are planned."""
        first = number * SPAN
        draws = self._teller.draw(first, min(SPAN, self.num_positions - first))
        first_block = first // self.block_positions
        anchors = self._anchors[first_block : first_block + -(-draws.position.size // self.block_positions)]
        return Pieces.of(self._teller.told(draws, self.progress(anchors), self.block_positions), int(anchors[0]))

    def _span_at(self, stream_places: I64) -> I64:
        blocks: I64 = np.searchsorted(self._anchors, stream_places, side="right") - 1
        return blocks * self.block_positions // SPAN

    def _packed_slices(self, rows: I64, places: I64, spans: I64) -> Slices:
        from proxy_lm.data.fit import pick

        parts = []
        for number in sorted(set(spans.tolist())):
            mine = spans == number
            parts.append(pick(self._kept(number, self._packed_span), rows[mine], places[mine]))
        return parts[0] if len(parts) == 1 else Slices.join(parts).by_row()

    def _lay_span(self, number: int) -> tuple[Pieces, Slices, I64]:
        """The pieces of span `number`, packed block by block into the rows from each block's anchor on."""
        from proxy_lm.data.fit import lay

        pieces = self._decide_span(number)
        first_block = number * SPAN // self.block_positions
        anchors = self._anchors[:-1][first_block : first_block + SPAN // self.block_positions]
        return pieces, *lay(pieces, self.block_positions, anchors // self.row_length, self.row_length, self.lookahead)

    def _packed_span(self, number: int) -> Slices:
        """The slices of span `number` in row order."""
        laid = self._lay_span(number)[1]
        return laid.take(np.lexsort((laid.column, laid.row)))

    def _kept(self, number: int, decide: Callable[[int], T]) -> T:
        """Span `number` as `decide` makes it, kept for a while."""
        with self._lock:
            span: T | None = self._spans.get(number)
            if span is None:
                span = self._spans[number] = decide(number)
                if len(self._spans) > _KEPT_SPANS:
                    self._spans.popitem(last=False)
            else:
                self._spans.move_to_end(number)
            return span

    def _digest(self) -> str:
        lengths = hashlib.sha256()
        for array in (self._teller.sizes, *self._teller.lengths):
            lengths.update(np.ascontiguousarray(array, dtype="<i8").data)
        what: dict[str, Any] = {
            "version": [PLAN_VERSION, PERMUTATION_VERSION],
            "parents": list(self.parents),
            "lengths": lengths.hexdigest(),
            "documents": [self.documents.start, self.documents.stop],
            "views": [[view.name, view.alphabet_size] for view in self.vocabulary.views],
            # Plans from before rows could repeat keep their digests.
            "mix": self.mix.model_dump(mode="json", exclude={"repeat"} if self.mix.repeat.is_zero else None),
            "cuts": self.cut_digests,
            "seed": self.seed,
            "row_length": self.row_length,
            "lookahead": self.lookahead,
            "num_rows": self.num_rows,
            "packing": self.packing,
            "shuffle_rows": self.shuffle_rows,
        }
        return digest_of(what)


def step_digest(plan: Plan, step: int, rows_per_step: int) -> str:
    """Digest of all rows of one global step; the same for every world size."""
    return plan.step_digest(step, rows_per_step)


def _block_size(num_rows: int, row_length: int, mean_length: float, packing: Packing) -> int:
    """Positions that share one value of the curves: a power of two up to SPAN, small in short runs. Packing needs a choice of units, and
    leaves the last row of a block half empty, so there a block is larger: in short runs a curve has 16 steps."""
    rows = num_rows / _MIN_BLOCKS
    if packing == "fit":
        rows = max(rows, min(_PACKED_ROWS, num_rows / _MIN_PACKED_BLOCKS))
    expected = rows * row_length / mean_length
    return min(SPAN, 1 << max(0, int(expected).bit_length() - 1))


def _check_request(
    sizes: I64,
    documents: range,
    views: Sequence[ViewLengths],
    vocabulary: Vocabulary,
    row_length: int,
    lookahead: int,
    num_rows: int,
) -> None:
    for what, value, least in (("row_length", row_length, 1), ("lookahead", lookahead, 1), ("num_rows", num_rows, 1)):
        if value < least:
            raise RequestError(f"{what} is {value}; at least {least} is needed")
    if documents.step != 1 or len(documents) == 0 or documents.stop > sizes.size:
        raise RequestError(
            f"the documents to plan over are {documents.start}..{documents.stop - 1} of a corpus of {sizes.size}: none to train on; "
            "check the split, or prepare a larger corpus"
        )
    names = [view.name for view in views]
    known = [view.name for view in vocabulary.views]
    if names != known:
        raise RequestError(f"the views {names} are not the vocabulary's {known}; give both in the same order")
    for view in views:
        if view.lengths.size != sizes.size:
            raise RequestError(f"view '{view.name}' has {view.lengths.size} documents and the corpus {sizes.size}; encode the view anew")
