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

MOST_OF_PAST = 7
# How often a chain must be right so that one more draft pays: the time of a position over that of an id without it (README.md).
LEAST_CHANCE = 0.2
# The same for asking the heads at all: right drafts per question.
_LEAST_GAIN = 0.25
_GAIN_SHARE = 0.05
_ASKED_ANYWAY_EVERY = 16
# Kinds of chains. Of the heads: the chance that they give it, in halves. Of the past: how many chains in a row were right to their end,
# and how long this one is.
_HEAD_KINDS = 8
_PAST_GUESSES = (0.5, 0.7, 0.85, 0.95)


class Guesses:
    """Drafts for the rows of one engine."""

    def __init__(
        self, model: Decoder, body: CachedBody, *, heads: bool = True, past: bool = True, least_chance: float = LEAST_CHANCE
    ) -> None:
        """`heads`, `past`: whether drafts may come from there."""
        self.least_chance = LEAST_CHANCE
        """0 tries whatever there is."""
        self._drafter = HeadDrafter(model, body) if heads and len(model.raw_heads) else None
        self._past = past
        of_heads = [0.75 * 0.5**kind for kind in range(_HEAD_KINDS)]
        of_past = [guess**length for guess in _PAST_GUESSES for length in range(1, 1 + MOST_OF_PAST)]
        self._trust = {
            (source, drawn): Trust(guesses)
            for source, guesses in ((Drafted.HEADS, of_heads), (Drafted.PAST, of_past))
            for drawn in (False, True)
        }
        self._gain = {False: 1.0, True: 1.0}
        self._num_calls = 0

    def draft(self, rows: Sequence[Row], hidden_ND: Tensor, last_B: Sequence[int], allow_bytes: Sequence[bool]) -> None:
        """Guess what follows the last id of each row. `last_B` are the places in `hidden_ND` of the ids before those."""
        self._num_calls += 1
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
        found = row.past.continuation(MOST_OF_PAST)
        if not found:
            row.num_repeats = 0
            return False
        first = MOST_OF_PAST * min(row.num_repeats, len(_PAST_GUESSES) - 1)
        kinds = list(range(first, first + len(found)))
        number = self._trust[Drafted.PAST, row.sampler.temperature > 0].worth(kinds, self.least_chance)
        if number:
            row.drafts, row.kinds, row.drafted = found[:number], kinds, Drafted.PAST
        return number > 0

    def _worth_asking(self, row: Row) -> bool:
        gain = self._gain[row.sampler.temperature > 0]
        return gain >= _LEAST_GAIN or self.least_chance == 0 or self._num_calls % _ASKED_ANYWAY_EVERY == 0

    def _from_heads(self, rows: Sequence[Row], hidden_ND: Tensor, last_B: Sequence[int]) -> None:
        assert self._drafter is not None
        hidden_BD = hidden_ND.index_select(0, torch.tensor(last_B, device=hidden_ND.device))
        # The draws of the very ids that are drafted: those behind the id just chosen.
        u_BJ = np.stack([row.draws_ahead(self._drafter.num_heads) for row in rows])
        drafts_BJ, chances_BJ = self._drafter.draft(hidden_BD, u_BJ, [row.sampler for row in rows])
        for row, drafts, chances in zip(rows, drafts_BJ.tolist(), chances_BJ.tolist(), strict=True):
            kinds = [min(_HEAD_KINDS - 1, int(-math.log2(max(chance, 1e-9)))) for chance in chances]
            number = self._trust[Drafted.HEADS, row.sampler.temperature > 0].worth(kinds, self.least_chance)
            row.drafts, row.kinds, row.drafted = drafts[:number], kinds, Drafted.HEADS
