"""Whose drafts a row tries next, and how many of them: those that have paid lately.

    guesses = Guesses(model, body)
    guesses.draft(rows, hidden, last, allow_bytes)      # fills `drafts` of every row, perhaps with nothing
    guesses.learn(row, num_right)                       # after the pass

A chain of drafts is made id by id: what rows have said before (`said.py`) proposes one, the extra heads propose another, and the one is
taken that has been right more often. Which of them proposes, how sure it is, and whether the other agrees are the kind of a draft. The
product of the chances of its kinds is the chance that a chain is right so far, the sum of these products is the number of ids that it
will give, and the chain is cut where that number, less the time of the positions, is greatest. A pass for which all rows together promise
too little has no drafts. The past costs nothing to ask and is asked
first; the heads only while their answers add enough.

Not promised: the same drafts for a row in another batch. What comes out does not depend on them.
"""

# B rows, N ids of a pass, D width, J heads

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from proxy_lm.infer.cache import CachedBody
from proxy_lm.infer.drafts import HeadDrafter, Trust
from proxy_lm.infer.row import Row
from proxy_lm.infer.said import CONTEXT_LENGTHS, NUM_LEVELS, Said
from proxy_lm.model.decoder import Decoder

# With the id before them 24 positions: for one row passes of a multiple of 4 are made, as matrix products like them (3 rows take longer
# than 4, 7 than 8).
_MOST_DRAFTS = 23
_POSITIONS_TOGETHER = 4
# In passes of so many rows the search itself is felt: after some passes that were given no drafts it rests for some.
_MANY_ROWS = 4
_PASSES_IN_VAIN = 4
_PASSES_OF_REST = 8
# Right drafts that asking the heads must add to make it worth, as a running mean; how often they are asked all the same; and how many
# the past must promise alone, so that they are not.
_LEAST_GAIN = 0.5
_GAIN_SHARE = 0.05
_ASKED_ANYWAY_EVERY = 16
_PAST_IS_ENOUGH = 2.5
# Sureness of a head: its chance in half bits, the last all that is less.
_NUM_SURE = 5
# Kinds: of the past, by level, and by what the heads say (not asked; agree and how surely; disagree and how surely). Of the heads, by how
# surely, and by what the past says (nothing; something else, from a long context or a short one).
_PAST_WIDTH = 1 + 2 * _NUM_SURE
_FIRST_OF_HEADS = NUM_LEVELS * _PAST_WIDTH
_LONG_LEVELS = 6
# Before anything is known: what was counted on greedy code of a small model (README.md).
_CONTEXT_GUESSES = ((0.94, 0.97, 0.98), (0.88, 0.93, 0.95), (0.7, 0.84, 0.92), (0.66, 0.8, 0.87), (0.55, 0.72, 0.81))
_AGREED_GUESSES = (0.97, 0.96, 0.95, 0.92, 0.88)
_SHARE_IF_DISAGREED = (0.3, 0.4, 0.5, 0.75, 0.9)
_SURE_GUESSES = (0.95, 0.9, 0.8, 0.57, 0.29)


def _first_chances() -> list[float]:
    chances = []
    for guess in (guess for guesses in _CONTEXT_GUESSES for guess in guesses):
        agree = [max(guess, agreed) for agreed in _AGREED_GUESSES]
        chances += [guess, *agree, *(guess * share for share in _SHARE_IF_DISAGREED)]
    return chances + [guess * share for guess in _SURE_GUESSES for share in (1.0, 0.6, 0.8)]


def costs(num_rows: int) -> tuple[float, float]:
    """What drafts cost a pass of so many rows, in ids that it would give in the same time without: any at all, and each. Measured on one
    core (README.md)."""
    return 0.3 * num_rows, 0.4 * num_rows / (num_rows + 1)


class Guesses:
    """Drafts for the rows of one engine."""

    def __init__(self, model: Decoder, body: CachedBody, *, heads: bool = True, past: bool = True) -> None:
        """`heads`, `past`: whether drafts may come from there."""
        self.tries_all = False
        """For measuring: every draft is tried, however often its kind was wrong."""
        self._drafter = HeadDrafter(model, body) if heads and len(model.raw_heads) else None
        self._said = Said() if past else None
        self._trust = {drawn: Trust(_first_chances()) for drawn in (False, True)}
        self._gain = {False: 1.0, True: 1.0}
        self._num_calls = 0
        self._num_in_vain = 0

    def draft(self, rows: Sequence[Row], hidden_ND: Tensor, last_B: Sequence[int], allow_bytes: Sequence[bool]) -> None:
        """Guess what follows the last id of each row. `last_B` are the places in `hidden_ND` of the ids before those."""
        self._num_calls += 1
        if len(rows) >= _MANY_ROWS and self._num_in_vain >= _PASSES_IN_VAIN and not self.tries_all:
            self._num_in_vain = (self._num_in_vain + 1) % (_PASSES_IN_VAIN + _PASSES_OF_REST)
            return
        at_all, each = (0.0, 0.0) if self.tries_all else costs(len(rows))
        together = _POSITIONS_TOGETHER if len(rows) == 1 else 1
        asked: list[tuple[Row, int, float]] = []
        total = 0.0
        for row, last, allows_bytes in zip(rows, last_B, allow_bytes, strict=True):
            gives = 0.0
            if self._said is not None:
                self._said.add(row.told)
                gives = self._chain(row, [], [], each, together)
            total += gives
            if allows_bytes and self._drafter is not None and self._worth_asking(row, gives):
                asked.append((row, last, gives))
        if asked:
            total += self._ask_heads(asked, hidden_ND, each, together)
        # Tried now and then all the same: what is never tried is never found to be better than it was.
        if total < at_all and self._num_calls % _ASKED_ANYWAY_EVERY:
            for row in rows:
                row.drafts = []
        self._num_in_vain = 0 if any(row.drafts for row in rows) else self._num_in_vain + 1

    def learn(self, row: Row, num_right: int) -> None:
        """So many of the row's drafts were right."""
        if row.drafts:
            self._trust[row.sampler.temperature > 0].learn(row.kinds[: len(row.drafts)], num_right)

    def _worth_asking(self, row: Row, gives: float) -> bool:
        if self.tries_all or self._num_calls % _ASKED_ANYWAY_EVERY == 0:
            return True
        return gives < _PAST_IS_ENOUGH and self._gain[row.sampler.temperature > 0] >= _LEAST_GAIN

    def _ask_heads(self, asked: list[tuple[Row, int, float]], hidden_ND: Tensor, each: float, together: int) -> float:
        """Draft with the heads; how many ids that adds."""
        assert self._drafter is not None
        rows, places = [row for row, _, _ in asked], [last for _, last, _ in asked]
        hidden_BD = hidden_ND[places[0] : places[0] + 1] if len(places) == 1 else hidden_ND[places]
        # The draws of the very ids that are drafted: those behind the id just chosen.
        u_BJ = np.stack([row.draws_ahead(self._drafter.num_heads) for row in rows])
        drafts_BJ, sure_BJ = self._drafter.draft(hidden_BD, u_BJ, [row.sampler for row in rows])
        total = 0.0
        for (row, _, gives), drafts, sure in zip(asked, drafts_BJ.tolist(), sure_BJ.tolist(), strict=True):
            drawn = row.sampler.temperature > 0
            added = self._chain(row, drafts, sure, each, together) - gives
            total += added
            self._gain[drawn] += _GAIN_SHARE * (added - self._gain[drawn])
        return total

    def _chain(self, row: Row, of_heads: list[int], sure: list[float], each: float, together: int) -> float:
        """Set a row's drafts; how many ids they will give, less what `each` costs. `together`: positions of a pass that cost as one."""
        chances, said = self._trust[row.sampler.temperature > 0].chances, self._said
        ids = row.told.ids[-CONTEXT_LENGTHS[0] :]
        first = len(ids)
        kinds: list[int] = []
        chance, gives, best, number = 1.0, 0.0, 0.0, 0
        for place in range(_MOST_DRAFTS):
            found = None if said is None else said.following(ids)
            if place < len(of_heads):
                surely = min(_NUM_SURE - 1, int(-2 * math.log2(max(sure[place], 1e-9))))
                one, kind = self._better(chances, found, of_heads[place], surely)
            elif found is not None:
                one, kind = found[0], found[1] * _PAST_WIDTH
            else:
                break
            chance *= chances[kind]
            if chance < each and (place + 1) % together == 0:
                break
            gives += chance - each
            ids.append(one)
            kinds.append(kind)
            if gives > best:
                best, number = gives, len(kinds)
        if self.tries_all:
            number = len(kinds)
        elif number:
            number += -(number + 1) % together
        row.drafts, row.kinds = ids[first : first + number], kinds
        return best

    @staticmethod
    def _better(chances: list[float], found: tuple[int, int] | None, other: int, surely: int) -> tuple[int, int]:
        """An id and its kind: the past's or the heads'."""
        if found is None:
            return other, _FIRST_OF_HEADS + 3 * surely
        one, level = found
        if one == other:
            return one, level * _PAST_WIDTH + 1 + surely
        of_past = level * _PAST_WIDTH + 1 + _NUM_SURE + surely
        of_heads = _FIRST_OF_HEADS + 3 * surely + (1 if level < _LONG_LEVELS else 2)
        return (one, of_past) if chances[of_past] >= chances[of_heads] else (other, of_heads)
