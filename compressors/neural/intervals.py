"""Equal-info windows as published, over plain intervals, for comparison with the exact rule: `paper`, `delay`, `canonical`.

    replicate(model, documents, bits=16, rule="paper", reset=1)       # sizes, and how many windows would not come back

A window's interval is narrowed byte by byte while a whole cell, one of the 2^bits equal parts of [0, 1), still lies inside:

* `paper`: as many bytes as fit; the code is the start of the largest such dyadic interval, the leftmost (the shortest code, padded with
  zeros). Not one to one: the decoder, which goes on while the code stays the same, may run on past the window (arXiv 2404.03626,
  section 3.3 and appendix D.5).
* `delay`: of those bytes the fewest that have the same code; the decoder stops at the first prefix that has it (appendix, "Delay").
* `canonical`: as many bytes as own a cell, one that no longer string's interval holds; the code is the first such cell.

Everything is Python integers, rounded down, 46 bits to the unit interval or 30 more than the window has; for 16 bits with a reset the
windows are those of `rules.py`. Not promised: speed (some 10 us a byte), and the bits of any published program, whose rounding is not
known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from compressors.errors import RequestError
from compressors.neural.models import PRECISION_BITS, ByteModel, Frequencies

RULES: Final = ("paper", "delay", "canonical")
_UNIT_BITS: Final = 46
_SPARE_BITS: Final = 30

Row = npt.NDArray[np.uint16]
Interval = tuple[int, int]
"""Start and end, in units."""


@dataclass(frozen=True, kw_only=True)
class Replication:
    """What a rule does to some documents."""

    rule: str
    bits: int
    reset: int
    """Windows between resets of the model, 0 for none."""
    num_bytes: int
    num_windows: int
    num_collisions: int
    """Windows whose code the rule's decoder, given all text before, takes for another text."""

    @property
    def bytes_per_window(self) -> float:
        return self.num_bytes / self.num_windows if self.num_windows else 0.0

    @property
    def bit_ratio(self) -> float:
        """Bits of text a bit of code, the paper's compression ratio."""
        return 8 * self.bytes_per_window / self.bits

    @property
    def collision_rate(self) -> float:
        return self.num_collisions / self.num_windows if self.num_windows else 0.0


def replicate(model: ByteModel, documents: Sequence[bytes], *, bits: int, rule: str, reset: int, depth: int = 1 << 20) -> Replication:
    """Cut the documents by a published rule and count the windows that would not come back. `bits` 16 or more."""
    num_windows = num_collisions = 0
    for document in documents:
        for window in cut(model, document, bits=bits, rule=rule, reset=reset, depth=depth):
            num_windows += 1
            num_collisions += window.is_collision
    return Replication(
        rule=rule,
        bits=bits,
        reset=reset,
        num_bytes=sum(map(len, documents)),
        num_windows=num_windows,
        num_collisions=num_collisions,
    )


@dataclass(frozen=True)
class Window:
    """A window, its end in the document, and whether its decoder would take it for another text."""

    code: int
    end: int
    is_collision: bool


class Cells:
    """The geometry of windows of some bits."""

    def __init__(self, bits: int, rule: str) -> None:
        """Raises `RequestError` for an unknown rule, and for so few bits that a byte may have no cell."""
        if rule not in RULES:
            raise RequestError(f"unknown rule '{rule}' of windows over intervals; known: {', '.join(RULES)}")
        if bits < PRECISION_BITS:
            raise RequestError(f"windows of {bits} bits may have no cell for a byte; give {PRECISION_BITS} or more")
        self.rule = rule
        units = max(_UNIT_BITS, bits + _SPARE_BITS) if bits > 32 else _UNIT_BITS
        self.unit = 1 << (units - bits)
        self.whole: Interval = (0, 1 << units)

    def part(self, interval: Interval, row: Row, byte: int) -> Interval:
        """The interval of the string one byte longer."""
        start, width = interval[0], interval[1] - interval[0]
        below, own = int(row[:byte].sum(dtype=np.int64)), int(row[byte])
        return start + (width * below >> PRECISION_BITS), start + (width * (below + own) >> PRECISION_BITS)

    def byte_at(self, interval: Interval, row: Row, cell: int) -> int:
        """The byte whose part the start of a cell inside the interval falls in."""
        start, width, point = interval[0], interval[1] - interval[0], cell * self.unit
        edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(row, dtype=np.int64)]).tolist()
        low, high = 0, 255
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if start + (width * edges[middle] >> PRECISION_BITS) <= point else (low, middle - 1)
        return low

    def holds(self, interval: Interval, cell: int | None = None) -> bool:
        """Whether a whole cell, or this one, lies inside."""
        start, end = interval
        first = -(-start // self.unit) if cell is None else cell
        return first * self.unit >= start and (first + 1) * self.unit <= end

    def shortest(self, interval: Interval) -> int:
        """The first cell of the largest dyadic interval inside, the leftmost of its size."""
        start, end = interval
        size = self.unit
        while -(-start // (2 * size)) * 2 * size + 2 * size <= end:
            size *= 2
        return -(-start // size) * size // self.unit

    def owned(self, interval: Interval, row: Row) -> int | None:
        """The first cell inside that lies in no byte's part, so it has an edge between two parts within it."""
        start, width = interval[0], interval[1] - interval[0]
        for edge in np.cumsum(row, dtype=np.int64)[:-1].tolist():
            point = start + (width * edge >> PRECISION_BITS)
            cell: int = point // self.unit
            if point % self.unit and self.holds(interval, cell):
                return cell
        return None


def cut(model: ByteModel, document: bytes, *, bits: int, rule: str, reset: int, depth: int) -> Iterator[Window]:
    """The windows of one document."""
    cells = Cells(bits, rule)
    start = 0
    first_look = len(document) if reset == 0 else max(64, bits * reset)
    look = first_look
    while start < len(document):
        text = document[start : start + look]
        [rows] = model.rows([text + b"\0"])  # one more, for what follows the text; its distribution does not depend on the zero
        is_rest = start + look >= len(document)
        windows = _cut_some(cells, rows, text, depth, reset or len(document), is_rest)
        if windows is None:
            look *= 2
            continue
        for window in windows:
            yield Window(window.code, start + window.end, window.is_collision)
        start += windows[-1].end
        look = first_look


def _cut_some(cells: Cells, rows: Frequencies, text: bytes, depth: int, num_windows: int, is_rest: bool) -> list[Window] | None:
    """Up to `num_windows` windows; None where the text, not being the rest of the document, is too short for them."""
    found: list[Window] = []
    first = 0
    while first < len(text) and len(found) < num_windows:
        path = [cells.whole]
        while first + len(path) - 1 < len(text) and len(path) <= depth:
            place = first + len(path) - 1
            longer = cells.part(path[-1], rows[place], text[place])
            if not cells.holds(longer):
                break
            path.append(longer)
        if first + len(path) - 1 == len(text) and not is_rest:
            return None
        found.append(_window(cells, path, rows[first:], first))
        first = found[-1].end
    return found if is_rest or len(found) == num_windows else None


def _window(cells: Cells, path: list[Interval], rows: Frequencies, first: int) -> Window:
    """The window of the longest string that fits, whose prefixes' intervals are `path`; row i is of the byte after i bytes."""
    longest = len(path) - 1
    code = cells.shortest(path[longest])
    if cells.rule == "canonical":
        for length in range(longest, 0, -1):
            owned = cells.owned(path[length], rows[length])
            if owned is not None:
                return Window(owned, first + length, False)
        return Window(code, first + longest, True)
    shortest = next(length for length in range(1, longest + 1) if cells.shortest(path[length]) == code)
    if cells.rule == "delay":
        return Window(code, first + shortest, False)
    is_cut_short = any(cells.shortest(path[length]) != code for length in range(shortest, longest))
    after = cells.part(path[longest], rows[longest], cells.byte_at(path[longest], rows[longest], code))
    runs_on = cells.holds(after) and cells.shortest(after) == code
    return Window(code, first + longest, is_cut_short or runs_on)


def read(cells: Cells, code: int, next_row: Callable[[bytes], Row], depth: int, room: int) -> bytes:
    """What the rule's decoder takes a code for: a byte at least, `depth` at most. `next_row` gives the distribution after the window's
    bytes so far. Stops at `room` + 1 bytes."""
    interval, text = cells.whole, b""
    while len(text) < min(depth, room + 1):
        has_code = text != b"" and cells.rule != "canonical" and cells.shortest(interval) == code
        if has_code and cells.rule == "delay":
            break
        row = next_row(text)
        byte = cells.byte_at(interval, row, code)
        longer = cells.part(interval, row, byte)
        goes_on = cells.holds(longer, code if cells.rule == "canonical" else None)
        if text and not (goes_on and (not has_code or cells.shortest(longer) == code)):
            break
        interval, text = longer, text + bytes([byte])
    return text
