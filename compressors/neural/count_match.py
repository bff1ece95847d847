"""What a text has said before, and the finished rows: the second half of `counts.CountModel`.

While the last bytes of a stretch repeat earlier bytes of the same stretch, the byte that followed those is the *candidate*. How often
candidates come true was counted in training by the length of the repeat and by what the trie gives the candidate: `match_shares`. The
candidate gets that share, all others are scaled to what is left (a match model with an adaptive probability map, as in Mahoney's PAQ, but
counted once and for all). The earlier place is looked up by the last 8, 5 or 2 bytes; a repeat shorter than that gives way to a longer.

A row gives 1 of 65,536 to each byte, its share of the other 65,280 rounded down, and what is over to the most probable byte (the lowest of
equals). Only places since the reset are seen, so a row stays a function of the bytes since the reset.

Not promised: bounds; and texts of 2^32 bytes or more together.
"""

from __future__ import annotations

import numpy as np

from compressors.neural.count_follow import I64, U8, U32, WHOLE_BITS, Tables, Whole, mix, step
from compressors.neural.jit import compiled
from compressors.neural.models import TOTAL, Frequencies

LENGTHS = 19
"""Classes of lengths of a repeat: 0 to 15, 16 to 23, 24 to 31, 32."""
ODDS = 64
"""Classes of what the trie gives a candidate: half octaves, of the mass up to a half and of the rest above."""
NUM_ORDERS = 3
PLACE_BITS = 14

_LONGEST = 32
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, 2^64 over the golden ratio
_SCALE_BITS = 14
_LEAST_SEEN = 8  # a cell of `match_shares` is used where so many candidates were counted

# The state of one text: trie node; place of the candidate or -1; length of the repeat; place after the last byte read; place of the first
# byte since the reset; last 8 bytes. Beside it `places` uint32 [NUM_ORDERS, 2^PLACE_BITS]: by their hash the place after the latest such
# bytes, plus 1.
NODE, CANDIDATE, LENGTH, PLACE, START, RECENT = range(6)
NUM_FIELDS = 6


@compiled
def _order(k: Whole) -> Whole:
    return 8 if k == 0 else 5 if k == 1 else 2


@compiled
def restart(state: I64, place: Whole) -> None:
    """Forget everything: the text since the reset starts at `place`."""
    state[NODE] = 0
    state[CANDIDATE] = -1
    state[LENGTH] = 0
    state[PLACE] = place
    state[START] = place
    state[RECENT] = 0


@compiled
def read(tables: Tables, text: U8, state: I64, places: U32) -> None:
    """Go over one byte of the text."""
    byte = np.int64(text[state[PLACE]])
    state[NODE] = step(tables.heads, tables.edges, state[NODE], byte)
    if tables.match_shares.size == 0:
        state[PLACE] += 1
        return
    if state[CANDIDATE] >= 0 and text[state[CANDIDATE]] == byte:
        state[CANDIDATE] += 1
        state[LENGTH] = min(state[LENGTH] + 1, _LONGEST)
    else:
        state[CANDIDATE] = -1
        state[LENGTH] = 0
    state[PLACE] += 1
    state[RECENT] = (state[RECENT] << 8) | byte
    _look(text, state, places)


@compiled
def _look(text: U8, state: I64, places: U32) -> None:
    """Find a longer repeat where the present one is short, and note the place."""
    place, start = state[PLACE], state[START]
    is_looking = True
    for k in range(NUM_ORDERS):
        order = _order(k)
        if place - start < order:
            continue
        recent = np.uint64(state[RECENT])
        if order < 8:
            recent &= (np.uint64(1) << np.uint64(8 * order)) - np.uint64(1)
        slot = (recent * np.uint64(_MULTIPLIER)) >> np.uint64(64 - PLACE_BITS)
        if state[LENGTH] >= order:
            is_looking = False
        if is_looking:
            found = np.int64(places[k, slot]) - 1
            length = 0
            while length < _LONGEST and found - length > start and text[found - 1 - length] == text[place - 1 - length]:
                length += 1
            if length >= order:
                state[CANDIDATE] = found
                state[LENGTH] = length
                is_looking = False
        places[k, slot] = place + 1


@compiled
def length_class(length: Whole) -> Whole:
    """Length of a repeat, 0 to 32 -> 0 to LENGTHS - 1."""
    return length if length < 16 else 14 + (length >> 3)


@compiled
def odds_class(mass: Whole) -> Whole:
    """Mass of a candidate, 0 to 2^32 -> 0 to ODDS - 1."""
    is_high = mass >> (WHOLE_BITS - 1) != 0
    small = (1 << WHOLE_BITS) - mass if is_high else mass
    octave = 0
    while small >> (octave + 17) != 0:
        octave += 1
    found = min(2 * octave + ((small >> (octave + 15)) & 1), ODDS // 2 - 1)
    return ODDS - 1 - found if is_high else found


@compiled
def write_row(tables: Tables, text: U8, state: I64, masses: U32, row: Frequencies) -> None:
    """The row of a state. `masses` is working space, uint32 [256]."""
    mix(tables, state[NODE], tables.depths[state[NODE]] == state[PLACE] - state[START], masses)
    share, byte = np.int64(0), np.int64(0)
    if state[CANDIDATE] >= 0:
        byte = np.int64(text[state[CANDIDATE]])
        share = np.int64(tables.match_shares[length_class(state[LENGTH]), odds_class(np.int64(masses[byte]))])
    factor, shift = np.int64(TOTAL - 256), np.int64(WHOLE_BITS)
    if share != 0:
        # All other masses, which add up to `rest` at most, are stretched or shrunk to what the candidate leaves.
        rest = (np.int64(1) << WHOLE_BITS) - np.int64(masses[byte])
        shift = np.int64(_SCALE_BITS)
        while rest >> (shift - _SCALE_BITS) > 1:
            shift += 1
        factor = (((TOTAL - share) * (TOTAL - 256) >> 16) << shift) // rest
        masses[byte] = 0
    given = np.int64(0)
    wide = np.uint64(np.uint32(factor))  # known to have 32 bits, so that eight products are made at once
    for s in range(256):
        row[s] = np.uint16(1) + np.uint16((np.uint64(masses[s]) * wide) >> np.uint64(shift))
    for s in range(256):
        given += row[s]
    if share != 0:
        extra = (share * (TOTAL - 256)) >> 16
        row[byte] += extra
        given += extra
    most = np.uint16(0)
    for s in range(256):
        most = max(most, row[s])
    best = 0
    while row[best] != most:
        best += 1
    row[best] += TOTAL - given


@compiled
def rows_along(tables: Tables, text: U8, offsets: I64, rows: Frequencies) -> None:
    """The row before each byte of each stretch `offsets[i]` to `offsets[i + 1]`: uint16 [len(text), 256]."""
    masses = np.zeros(256, np.uint32)
    state = np.zeros(NUM_FIELDS, np.int64)
    places = np.zeros((NUM_ORDERS, 1 << PLACE_BITS), np.uint32)
    for stretch in range(len(offsets) - 1):
        restart(state, offsets[stretch])
        for i in range(offsets[stretch], offsets[stretch + 1]):
            write_row(tables, text, state, masses, rows[i])
            read(tables, text, state, places)


@compiled
def rows_after(tables: Tables, text: U8, length: Whole, rows: Frequencies) -> None:
    """The row after each of len(rows) prefixes that lie back to back, `length` bytes each."""
    masses = np.zeros(256, np.uint32)
    state = np.zeros(NUM_FIELDS, np.int64)
    places = np.zeros((NUM_ORDERS, 1 << PLACE_BITS), np.uint32)
    for i in range(len(rows)):
        restart(state, i * length)
        for _ in range(length):
            read(tables, text, state, places)
        write_row(tables, text, state, masses, rows[i])


@compiled
def count_matches(tables: Tables, text: U8, offsets: I64, hits: I64, seen: I64) -> None:
    """Candidates in the documents and how many came true, by class: int64 [LENGTHS, ODDS] each."""
    masses = np.zeros(256, np.uint32)
    state = np.zeros(NUM_FIELDS, np.int64)
    places = np.zeros((NUM_ORDERS, 1 << PLACE_BITS), np.uint32)
    for document in range(len(offsets) - 1):
        restart(state, offsets[document])
        for i in range(offsets[document], offsets[document + 1]):
            if state[CANDIDATE] >= 0:
                mix(tables, state[NODE], tables.depths[state[NODE]] == state[PLACE] - state[START], masses)
                byte = np.int64(text[state[CANDIDATE]])
                length, odds = length_class(state[LENGTH]), odds_class(np.int64(masses[byte]))
                seen[length, odds] += 1
                hits[length, odds] += byte == text[i]
            read(tables, text, state, places)


def match_shares(hits: I64, seen: I64) -> Frequencies:
    """Counts to shares of 65,536. A class with too few candidates to say has the share of all candidates of its length that the trie
    gives less than a half, or 0, no say, where it gives more."""
    low, high = slice(0, ODDS // 2), slice(ODDS // 2, ODDS)
    pooled = np.empty_like(hits), np.empty_like(seen)
    for counts, pool in zip((hits, seen), pooled, strict=True):
        pool[:, low] = counts[:, low].sum(1, keepdims=True)
        pool[:, high] = 0
    is_clear = seen >= _LEAST_SEEN
    hits, seen = np.where(is_clear, hits, pooled[0]), np.where(is_clear, seen, pooled[1])
    shares = np.clip((2 * hits + 1) * TOTAL // (2 * seen + 2), 1, TOTAL - 1)
    return np.where(seen < _LEAST_SEEN, 0, shares).astype(np.uint16)
