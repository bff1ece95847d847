"""Ids: the only file that knows which integer means what.

0..255 are the byte values. 256..319 are 64 named specials. The symbols of view k follow from 320 up, one range a view, in the order in
which the run names its views. Nothing else computes an id and no vocabulary size is typed by hand. A model is exported with the first
320 rows: raw bytes need no more.

A run may let views share their literals: a symbol that stands for one byte wherever it stands then has that byte's id, and only the others
have ids in the view's range. What the run learns of such a symbol it learns of the byte.

Specials inside a document's text are bytes like any other: an id from 256 up never comes out of the document itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from compressors.errors import RequestError

I64 = npt.NDArray[np.int64]
Literals = tuple[tuple[int, int], ...]
"""(symbol, byte) of the symbols that have a byte's id, symbols ascending. Two symbols may share one byte."""
LiteralsSetting = Literal["separate", "shared"]

NUM_BYTES: Final = 256
NUM_SPECIALS: Final = 64
RAW_VOCABULARY_SIZE: Final = NUM_BYTES + NUM_SPECIALS
MAX_VIEWS: Final = 16

# Names that editors and servers already use keep their usual spelling.
SPECIAL_NAMES: Final[tuple[str, ...]] = (
    "<|pad|>",
    "<|bos|>",
    "<|eos|>",
    "<|raw|>",
    "<|/raw|>",
    *(name for k in range(MAX_VIEWS) for name in (f"<|view_{k}|>", f"<|/view_{k}|>")),
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<|splice|>",
    *(f"<|reserved_{k}|>" for k in range(20)),
)
assert len(SPECIAL_NAMES) == NUM_SPECIALS

_SPECIAL_IDS: Final = {name: NUM_BYTES + index for index, name in enumerate(SPECIAL_NAMES)}


def special_id(name: str) -> int:
    """Id of a special by name. Raises `RequestError` for a name that is not one of the 64."""
    if name not in _SPECIAL_IDS:
        raise RequestError(f"unknown special '{name}'; known: {', '.join(SPECIAL_NAMES)}")
    return _SPECIAL_IDS[name]


PAD: Final = special_id("<|pad|>")
BOS: Final = special_id("<|bos|>")
EOS: Final = special_id("<|eos|>")
RAW_START: Final = special_id("<|raw|>")
RAW_END: Final = special_id("<|/raw|>")

# Codes of the per-position `views` array: 0 is the raw view, k + 1 is view k, the last marks a special.
RAW_CODE: Final = 0
SPECIAL_CODE: Final = 255


@dataclass(frozen=True)
class ViewRange:
    """The ids of one view's symbols, between the sentinels start_id and end_id: its own are first_id .. first_id + num_own_ids - 1, and
    those of `literals` are bytes'."""

    name: str
    alphabet_size: int
    first_id: int
    start_id: int
    end_id: int
    code: int
    literals: Literals = ()

    @property
    def num_own_ids(self) -> int:
        """Ids, and rows of the model's matrices, that are this view's alone."""
        return self.alphabet_size - len(self.literals)

    @cached_property
    def ids(self) -> I64:
        """The ids that can stand in the view, ascending, each once."""
        return np.unique(self._ids_by_symbol)

    def to_ids(self, symbols: npt.NDArray[Any], out: I64 | None = None) -> I64:
        """Ids of symbols, in the same shape; written to `out` where it is given."""
        if self.literals:
            return np.take(self._ids_by_symbol, symbols, out=out)
        found: I64 = np.add(symbols, self.first_id, out=out, dtype=np.int64)
        return found

    def to_symbols(self, ids: I64) -> I64:
        """Symbols of ids that can stand in the view, in the same shape. Of several symbols that share a byte, the first."""
        if not self.literals:
            return ids - self.first_id
        return self._symbols_by_id[ids]

    def to_symbol(self, one: int) -> int:
        """`to_symbols` of a single id."""
        return int(self._symbols_by_id[one]) if self.literals else one - self.first_id

    @cached_property
    def _ids_by_symbol(self) -> I64:
        table = np.full(self.alphabet_size, -1, dtype=np.int64)
        for symbol, byte in self.literals:
            table[symbol] = byte
        table[table < 0] = np.arange(self.first_id, self.first_id + self.num_own_ids)
        return table

    @cached_property
    def _symbols_by_id(self) -> I64:
        found, first = np.unique(self._ids_by_symbol, return_index=True)
        table = np.full(self.first_id + self.num_own_ids, -1, dtype=np.int64)
        table[found] = first
        return table


def literals_of(name: str, spelling: Sequence[bytes] | None) -> Literals:
    """The literals of view `name`, from what its symbols spell (`Compressor.spelling`). Raises `RequestError` where it has none."""
    if spelling is None:
        raise RequestError(
            f"literals=shared and the symbols of view '{name}' do not stand for the same bytes wherever they stand, so none can have a "
            "byte's id; use literals=separate, or another view"
        )
    found = tuple((symbol, text[0]) for symbol, text in enumerate(spelling) if len(text) == 1)
    if not found:
        raise RequestError(
            f"literals=shared and no symbol of view '{name}' stands for one byte, so there is nothing to share; use literals=separate"
        )
    return found


class Vocabulary:
    """The joint id space of a run: bytes, specials, then the views in the order given."""

    def __init__(self, views: Sequence[tuple[str, int]] = (), literals: Mapping[str, Literals] | None = None) -> None:
        """`views` are (name, alphabet_size) pairs; `literals` by view are those that have bytes' ids, none where a view is not named.
        Raises `RequestError` for too many views, a name used twice, and literals that are none of the view."""
        if len(views) > MAX_VIEWS:
            raise RequestError(f"{len(views)} views in one run; at most {MAX_VIEWS} have sentinels: drop some")
        names = [name for name, _ in views]
        if len(set(names)) != len(names):
            raise RequestError(f"two views have the same name in {names}; give each its own")
        ranges = []
        next_id = RAW_VOCABULARY_SIZE
        for k, (name, alphabet_size) in enumerate(views):
            if alphabet_size < 1:
                raise RequestError(f"view '{name}' has an alphabet of {alphabet_size} symbols; at least 1 is needed")
            start_id = special_id(f"<|view_{k}|>")
            shared = tuple((literals or {}).get(name, ()))
            _check_literals(name, alphabet_size, shared)
            ranges.append(ViewRange(name, alphabet_size, next_id, start_id, start_id + 1, k + 1, shared))
            next_id += ranges[-1].num_own_ids
        self.views: tuple[ViewRange, ...] = tuple(ranges)
        self.num_ids: int = next_id

    @property
    def size(self) -> int:
        """Rows of the embedding and of the output matrix: every id, rounded up to a multiple of 64 for the kernels."""
        return -(-self.num_ids // 64) * 64

    @property
    def literals(self) -> dict[str, Literals]:
        """The literals that have bytes' ids, by view; empty where they are separate."""
        return {view.name: view.literals for view in self.views if view.literals}

    def view(self, name: str) -> ViewRange:
        """The range of a view by name."""
        for view in self.views:
            if view.name == name:
                return view
        raise RequestError(f"unknown view '{name}'; known: {', '.join(v.name for v in self.views) or 'none'}")


def _check_literals(name: str, alphabet_size: int, literals: Literals) -> None:
    last = -1
    for symbol, byte in literals:
        if not (last < symbol < alphabet_size and 0 <= byte < NUM_BYTES):
            raise RequestError(
                f"({symbol}, {byte}) is no literal of view '{name}': symbols ascend below {alphabet_size}, bytes are below "
                f"{NUM_BYTES}; use the literals of the view's own spelling"
            )
        last = symbol
