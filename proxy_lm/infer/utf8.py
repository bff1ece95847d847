"""UTF-8 as an automaton over bytes: which byte may follow, where characters end.

    state = state_after(b"caf\xc3")          # ONE_MORE
    TRANSITIONS[state, 0xA9]                 # START: the character is complete; -1 where the byte cannot follow

Eight states, after the table of well-formed byte sequences in the Unicode Standard (chapter 3, table 3-7): overlong forms, surrogates and
code points above U+10FFFF have no path. Not covered: which characters are assigned, or normalisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

START: Final = 0
"""Between characters: the only state in which text may end."""
ONE_MORE: Final = 1
TWO_MORE: Final = 2
THREE_MORE: Final = 3
AFTER_E0: Final = 4
AFTER_ED: Final = 5
AFTER_F0: Final = 6
AFTER_F4: Final = 7
NUM_STATES: Final = 8

_LONGEST: Final = 4

# state, first byte, last byte, next state
_RANGES: Final = (
    (START, 0x00, 0x7F, START),
    (START, 0xC2, 0xDF, ONE_MORE),
    (START, 0xE0, 0xE0, AFTER_E0),
    (START, 0xE1, 0xEC, TWO_MORE),
    (START, 0xED, 0xED, AFTER_ED),
    (START, 0xEE, 0xEF, TWO_MORE),
    (START, 0xF0, 0xF0, AFTER_F0),
    (START, 0xF1, 0xF3, THREE_MORE),
    (START, 0xF4, 0xF4, AFTER_F4),
    (ONE_MORE, 0x80, 0xBF, START),
    (TWO_MORE, 0x80, 0xBF, ONE_MORE),
    (THREE_MORE, 0x80, 0xBF, TWO_MORE),
    (AFTER_E0, 0xA0, 0xBF, ONE_MORE),
    (AFTER_ED, 0x80, 0x9F, ONE_MORE),
    (AFTER_F0, 0x90, 0xBF, TWO_MORE),
    (AFTER_F4, 0x80, 0x8F, TWO_MORE),
)


def _table() -> npt.NDArray[np.int16]:
    table = np.full((NUM_STATES, 256), -1, dtype=np.int16)
    for state, first, last, following in _RANGES:
        table[state, first : last + 1] = following
    table.flags.writeable = False
    return table


TRANSITIONS: Final[npt.NDArray[np.int16]] = _table()
"""int16 [8, 256]: the state after a byte, -1 where the byte cannot stand there."""


def state_after(data: bytes) -> int:
    """The state at the end of `data`: inside a character if its last bytes begin one, else START, whatever stands before them."""
    for length in range(min(_LONGEST - 1, len(data)), 0, -1):
        state = _walk(START, data[len(data) - length :])
        if state > START:
            return state
    return START


def whole_characters(data: bytes, state: int = START) -> int:
    """How many bytes of valid text, read from `state` on, end with a character."""
    end = 0
    for index, byte in enumerate(data):
        state = int(TRANSITIONS[state, byte])
        assert state >= 0, f"byte {byte:#04x} at {index} cannot follow in UTF-8"
        if state == START:
            end = index + 1
    return end


def spelled_transitions(spelling: Sequence[bytes]) -> npt.NDArray[np.int16]:
    """int16 [8, num_symbols]: the state after all bytes of a symbol, -1 where some cannot stand there. A symbol that spells nothing leads
    nowhere."""
    table = np.full((NUM_STATES, len(spelling)), -1, dtype=np.int16)
    lengths = np.array([len(text) for text in spelling], dtype=np.int64)
    for length in np.unique(lengths[lengths > 0]).tolist():
        some = np.flatnonzero(lengths == length)
        texts = np.frombuffer(b"".join(spelling[index] for index in some.tolist()), dtype=np.uint8).reshape(-1, length)
        states = np.repeat(np.arange(NUM_STATES, dtype=np.int16)[:, None], len(some), axis=1)
        for column in range(length):
            states = np.where(states >= 0, TRANSITIONS[states, texts[:, column]], np.int16(-1))
        table[:, some] = states
    return table


def _walk(state: int, data: Iterable[int]) -> int:
    for byte in data:
        if state < 0:
            break
        state = int(TRANSITIONS[state, byte])
    return state
