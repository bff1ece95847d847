"""Token healing: the end of a prompt told again, so that a symbol may reach across it.

    healer = Healer(compressor.spelling())
    healed = healer.heal(b"x = retur", symbols)      # healed.num_kept symbols stay, healed.tail == b"retur" is told again

A prompt that ends inside what the model knows as one symbol is cut where training would not have cut. So the last symbols are taken back,
and the first generated ones are held to spell their bytes: each either begins with all that is left of them (and may go on), or is a part
of it. Taken back is everything from the last border at or before the first byte from which one symbol could reach past the prompt's end;
nothing, where none could. What the model then spells with is free, so no cut of the tokenizer near the border is forced on it.

Not promised: that the prompt's earlier symbols are those of the whole document; a tokenizer may look further ahead than a symbol is long.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from proxy_lm.infer import utf8

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Healed:
    """`num_kept` symbols of the prompt are read; the bytes of the others are told again."""

    num_kept: int
    tail: bytes


class Healer:
    """Knows what every symbol of one view spells."""

    def __init__(self, spelling: Sequence[bytes]) -> None:
        """`spelling` by symbol, as `Compressor.spelling` gives it; symbols that spell nothing are never allowed."""
        self.spelling = spelling
        self.longest = max(map(len, spelling), default=0)
        pairs = sorted((text, symbol) for symbol, text in enumerate(spelling) if text)
        self._texts = [text for text, _ in pairs]
        self._symbols = np.array([symbol for _, symbol in pairs], dtype=np.int64)

    def heal(self, prompt: bytes, symbols: Sequence[int]) -> Healed:
        """What to keep of a prompt told by `symbols`, which may spell only a part of its begin: the rest is told again in any case."""
        ends = np.cumsum([0, *(len(self.spelling[symbol]) for symbol in symbols)])
        first = min(int(ends[-1]), self._first_reaching(prompt))
        num_kept = int(np.searchsorted(ends, first, side="right")) - 1
        return Healed(num_kept, prompt[int(ends[num_kept]) :])

    def _first_reaching(self, prompt: bytes) -> int:
        """The first byte of the prompt from which a symbol could reach past its end; the end where none could."""
        for length in range(min(self.longest - 1, len(prompt)), 0, -1):
            low, high = self._beginning_with(prompt[len(prompt) - length :])
            if high > low and len(self._texts[high - 1]) > length:  # sorted: the text itself, if it is one, stands first
                return len(prompt) - length
        return len(prompt)

    def _beginning_with(self, text: bytes) -> tuple[int, int]:
        """The range of sorted symbols whose text begins with `text`."""
        low = bisect_left(self._texts, text)
        return low, bisect_left(self._texts, text + b"\xff" * (self.longest + 1), lo=low)

    def next_states(self, tail: bytes, free_states: npt.NDArray[np.int16], after_tail: int) -> npt.NDArray[np.int16]:
        """int16 [len(tail), num_symbols]: row j is for a row that has spelled `j` bytes of the tail, -1 where a symbol cannot stand.

        State j < len(tail) is such a row; the states behind are free ones, len(tail) + q for row q of `free_states` [num_free,
        num_symbols], and `after_tail` is q at the end of the prompt. 8 rows are those of UTF-8: what lies beyond the tail obeys them."""
        table = np.full((len(tail), len(self.spelling)), -1, dtype=np.int16)
        alive = np.zeros(len(tail) + 1, dtype=np.bool_)
        alive[-1] = True
        checked = len(free_states) == utf8.NUM_STATES
        for offset in reversed(range(len(tail))):
            rest = tail[offset:]
            low, high = self._beginning_with(rest)
            reaching = self._symbols[low:high]
            state = np.full(len(reaching), after_tail, dtype=np.int16)
            if checked:
                beyond = [text[len(rest) :] for text in self._texts[low:high]]
                found = utf8.spelled_transitions(beyond)[after_tail]
                state = np.where([not text for text in beyond], state, found)
            table[offset, reaching] = np.where(state >= 0, len(tail) + state, -1)
            for length in range(1, len(rest)):
                at = bisect_left(self._texts, rest[:length])
                while at < len(self._texts) and self._texts[at] == rest[:length]:  # several symbols may spell the same
                    if alive[offset + length]:
                        table[offset, self._symbols[at]] = offset + length
                    at += 1
            alive[offset] = bool((table[offset] >= 0).any())
        return table
