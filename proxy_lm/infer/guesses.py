"""Whose drafts a row tries next, and how many of them: those that have paid lately.

    guesses = Guesses(model, body)
    guesses.draft(rows, hidden, last, allow_bytes)      # fills `drafts` of every row, perhaps with nothing
    guesses.learn(row, num_right)                       # after the pass

What the row has said before is tried first, since it costs nothing to ask; then the extra heads. Greedy and drawn rows are judged apart.

Not promised: the same drafts for a row in another batch. What comes out does not depend on them.
"""

# B rows, N ids of a pass, D width, J heads

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from proxy_lm.infer.cache import CachedBody
from proxy_lm.infer.drafts import HeadDrafter, Trust
from proxy_lm.infer.row import Drafted, Row
from proxy_lm.model.decoder import Decoder

# Drafts of the past: at first, and once a chain was right to its end.
_MOST_OF_PAST = (7, 15)
# Right drafts per question that make it worth to ask the heads, its running mean, and how often they are asked all the same.
_LEAST_GAIN = 0.5
_GAIN_SHARE = 0.05
_ASKED_ANYWAY_EVERY = 16
# Kinds of chains. Of the heads: the chance that they give it, in halves. Of the past: how many chains in a row were right to their end,
# and how long this one is. The guesses are hopeful, so that every kind is tried before it is judged.
_HEAD_GUESSES = (0.9, 0.7, 0.5, 0.4, 0.35, 0.3, 0.25, 0.25)
_PAST_GUESSES = ((0.6, 0.5, 0.4, 0.35, 0.3, 0.25, 0.25), (0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35), (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.7))


def least_chance(num_rows: int) -> float:
    """How often a chain must be right so that one more draft pays, in a pass of so many rows: the time of a position over that of an id
    without it. Measured on one core: 0.12 for one row, 0.23 for 16 (README.md)."""
    return 0.25 * num_rows / (num_rows + 1)


class Guesses:
    """Drafts for the rows of one engine."""

    def __init__(self, model: Decoder, body: CachedBody, *, heads: bool = True, past: bool = True) -> None:
        """`heads`, `past`: whether drafts may come from there."""
        self.tries_all = False
        """For measuring: every draft is tried, however often its kind was wrong."""
        self._drafter = HeadDrafter(model, body) if heads and len(model.raw_heads) else None
        self._past = past
        of_past = [guess for guesses in _PAST_GUESSES for guess in guesses]
        self._trust = {
            (source, drawn): Trust(guesses)
            for source, guesses in ((Drafted.HEADS, _HEAD_GUESSES), (Drafted.PAST, of_past))
            for drawn in (False, True)
        }
        self._gain = {False: 1.0, True: 1.0}
        self._num_calls = 0
        self._least = 0.0

    def draft(self, rows: Sequence[Row], hidden_ND: Tensor, last_B: Sequence[int], allow_bytes: Sequence[bool]) -> None:
        """Guess what follows the last id of each row. `last_B` are the places in `hidden_ND` of the ids before those."""
        self._num_calls += 1
        self._least = 0.0 if self.tries_all else least_chance(len(rows))
        asked: list[tuple[Row, int]] = []
        for row, last, allows_bytes in zip(rows, last_B, allow_bytes, strict=True):
            row.drafted = Drafted.NOTHING
            if self._past and self._from_past(row):
                continue
            if allows_bytes and self._drafter is not None and self._worth_asking(row):
                asked.append((row, last))
        if asked:
            self._from_heads([row for row, _ in asked], hidden_ND, [last for _, last in asked])

    def learn(self, row: Row, num_right: int) -> None:
        """So many of the row's drafts were right."""
        if row.drafted is Drafted.NOTHING:
            return
        drawn, kinds = row.sampler.temperature > 0, row.kinds[: len(row.drafts)]
        self._trust[row.drafted, drawn].learn(kinds, num_right)
        if row.drafted is Drafted.PAST:
            row.num_repeats = row.num_repeats + 1 if num_right == len(row.drafts) else 0
        else:
            self._gain[drawn] += _GAIN_SHARE * (num_right - self._gain[drawn])

    def _from_past(self, row: Row) -> bool:
        found = row.past.continuation(_MOST_OF_PAST[min(row.num_repeats, 1)])
        if not found:
            row.num_repeats = 0
            return False
        lengths = len(_PAST_GUESSES[0])
        first = lengths * min(row.num_repeats, len(_PAST_GUESSES) - 1)
        kinds = [first + min(j, lengths - 1) for j in range(len(found))]
        number = self._trust[Drafted.PAST, row.sampler.temperature > 0].worth(kinds, self._least)
        if number:
            row.drafts, row.kinds, row.drafted = found[:number], kinds, Drafted.PAST
        return number > 0

    def _worth_asking(self, row: Row) -> bool:
        gain = self._gain[row.sampler.temperature > 0]
        return gain >= _LEAST_GAIN or self.tries_all or self._num_calls % _ASKED_ANYWAY_EVERY == 0

    def _from_heads(self, rows: Sequence[Row], hidden_ND: Tensor, last_B: Sequence[int]) -> None:
        assert self._drafter is not None
        hidden_BD = hidden_ND.index_select(0, torch.tensor(last_B, device=hidden_ND.device))
        # The draws of the very ids that are drafted: those behind the id just chosen.
        u_BJ = np.stack([row.draws_ahead(self._drafter.num_heads) for row in rows])
        drafts_BJ, chances_BJ = self._drafter.draft(hidden_BD, u_BJ, [row.sampler for row in rows])
        for row, drafts, chances in zip(rows, drafts_BJ.tolist(), chances_BJ.tolist(), strict=True):
            kinds = [min(len(_HEAD_GUESSES) - 1, int(-math.log2(max(chance, 1e-9)))) for chance in chances]
            number = self._trust[Drafted.HEADS, row.sampler.temperature > 0].worth(kinds, self._least)
            row.drafts, row.kinds, row.drafted = drafts[:number], kinds, Drafted.HEADS
