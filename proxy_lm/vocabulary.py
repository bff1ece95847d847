"""Ids: the only file that knows which integer means what.

0..255 are the byte values. 256..319 are 64 named specials. The symbols of view k follow from 320 up, one range a view, in the order in
which the run names its views. Nothing else computes an id and no vocabulary size is typed by hand. A model is exported with the first
320 rows: raw bytes need no more.

Specials inside a document's text are bytes like any other: an id from 256 up never comes out of the document itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from compressors.errors import RequestError

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
    """The ids of one view's symbols: first_id .. first_id + alphabet_size - 1, between the sentinels start_id and end_id."""

    name: str
    alphabet_size: int
    first_id: int
    start_id: int
    end_id: int
    code: int


class Vocabulary:
    """The joint id space of a run: bytes, specials, then the views in the order given."""

    def __init__(self, views: Sequence[tuple[str, int]] = ()) -> None:
        """`views` are (name, alphabet_size) pairs. Raises `RequestError` for too many views, or a name used twice."""
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
            ranges.append(ViewRange(name, alphabet_size, next_id, start_id, start_id + 1, k + 1))
            next_id += alphabet_size
        self.views: tuple[ViewRange, ...] = tuple(ranges)
        self.num_ids: int = next_id

    @property
    def size(self) -> int:
        """Rows of the embedding and of the output matrix: every id, rounded up to a multiple of 64 for the kernels."""
        return -(-self.num_ids // 64) * 64

    def view(self, name: str) -> ViewRange:
        """The range of a view by name."""
        for view in self.views:
            if view.name == name:
                return view
        raise RequestError(f"unknown view '{name}'; known: {', '.join(v.name for v in self.views) or 'none'}")
