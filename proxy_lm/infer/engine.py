"""Ids after ids for many rows at once: cached, continuous, speculative, and for each request what it would have got alone.

    engine = IdEngine(model, num_rows=16, max_positions=512)
    engine.add(IdRequest(prompt_ids=[257, 259], max_ids=10, seed=1))
    while engine.num_busy:
        for result in engine.step():
            print(result.ids)

A step reads, in one forward pass, the last id of every row and the drafts behind it. The first id behind is chosen from its logits as
plain decoding would choose it; while a choice equals the next draft, the choice behind that draft counts too. Choices are made with the
draw of their index (`draws.py`), so what comes out is plain decoding, id for id, whatever was drafted.

Rows enter as others end. A prompt's begin is copied from a row that holds it (`prefix.py`); the rest is read in chunks. Rows of different
lengths share a pass and see only themselves. A choice that float32's rounding could change is made from float64 logits of the row alone
(`exact.py`): so results do not depend on the batch, its size, the chunks or the drafts.

Not promised: float32 weights only; equal results on another device where it rounds worse than `draws.LOGIT_TOLERANCE`.
"""

# B rows, T positions of a pass, V ids, C columns

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proxy_lm.errors import RequestError
from proxy_lm.infer.automata import Rules
from proxy_lm.infer.cache import CachedBody
from proxy_lm.infer.draws import choose, choose_exactly
from proxy_lm.infer.exact import Float64Rows
from proxy_lm.infer.guesses import Guesses
from proxy_lm.infer.id_request import Automaton, IdRequest, IdResult, Watcher
from proxy_lm.infer.prefix import HeldPrefixes, common_length
from proxy_lm.infer.row import Row
from proxy_lm.model.decoder import Decoder

__all__ = ["Automaton", "IdEngine", "IdRequest", "IdResult", "Watcher"]

I64 = npt.NDArray[np.int64]

# Ids of prompts read in one pass, and most of one row.
_IDS_PER_CHUNK = 1024
_IDS_PER_ROW = 256
# A prompt waits a round for another of the same round when that shares so many more ids with it than any row does.
_WORTH_WAITING = 16
# Rules and output matrices kept: requests of one kind share theirs.
_KEPT_RULES = 4


class IdEngine:
    """Not safe to share between threads."""

    def __init__(self, model: Decoder, num_rows: int = 16, max_positions: int = 1024, *, heads: bool = True, past: bool = True) -> None:
        """`max_positions` of a row: as many as in training. `heads`, `past`: whence drafts are taken, where a request wants any.
        Raises `RequestError` for weights that are not float32."""
        if model.head.weight.dtype != torch.float32:
            raise RequestError(f"the engine reads float32 weights and these are {model.head.weight.dtype}; load the model as it was saved")
        if num_rows < 1 or max_positions < 1:
            raise RequestError(f"{num_rows} rows of {max_positions} positions generate nothing; give at least 1 of each")
        self.num_rows = num_rows
        self.max_positions = max_positions
        self._model = model
        self._body = CachedBody(model)
        self._cache = self._body.new_cache(num_rows, max_positions)
        self._guesses = Guesses(model, self._body, heads=heads, past=past)
        self._exact = Float64Rows(model, num_rows, max_positions)
        self._held = HeldPrefixes(num_rows)
        self._rows: list[Row | None] = [None] * num_rows
        self._queue: list[Row] = []
        self._rules: OrderedDict[tuple[int, ...], tuple[Rules, Tensor]] = OrderedDict()

    @property
    def num_busy(self) -> int:
        """Requests that have not ended."""
        return sum(row is not None for row in self._rows) + len(self._queue)

    @property
    def num_free(self) -> int:
        """Requests that can be added."""
        return self.num_rows - self.num_busy

    def add(self, request: IdRequest) -> None:
        """Take a request; its prompt is read at the next step."""
        assert self.num_free, "add() with no free row"
        assert 0 < len(request.prompt_ids) <= self.max_positions, f"{len(request.prompt_ids)} ids do not fit a row"
        assert request.max_ids > 0, "a request for no ids"
        self._queue.append(Row(request))

    def clear(self) -> None:
        """Drop what is at work. Read prompts stay for others to share."""
        self._queue.clear()
        self._rows = [None] * self.num_rows

    @torch.inference_mode()
    def step(self) -> list[IdResult]:
        """One forward pass for all rows, after the prompts of new ones; those that ended with it."""
        self._admit()
        self._close_ranks()
        rows = [row for row in self._rows if row is not None]
        return self._pass(rows) if rows else []

    # Rows come in

    def _admit(self) -> None:
        while self._queue:
            wave: list[tuple[int, Row, int]] = []
            later: list[Row] = []
            for row in self._queue:
                prompt = row.ids[: row.length - 1]
                donor, shared = self._held.best(prompt)
                if any(common_length(other.ids[: other.length - 1], prompt) >= shared + _WORTH_WAITING for _, other, _ in wave):
                    later.append(row)
                    continue
                slot = self._slot_for(donor)
                self._cache.copy_row(donor, slot, shared)
                self._held.set(slot, prompt[:shared])
                self._exact.forget(slot)
                self._rows[slot] = row
                row.result.num_shared = shared
                wave.append((slot, row, shared))
            self._read_prompts(wave)
            self._queue = later

    def _slot_for(self, donor: int) -> int:
        """The donor itself if it is free: then nothing is copied. Else the free slot that holds least."""
        if self._rows[donor] is None:
            return donor
        return min((slot for slot, row in enumerate(self._rows) if row is None), key=self._held.length)

    def _read_prompts(self, wave: list[tuple[int, Row, int]]) -> None:
        todo = wave
        while todo := [(slot, row, first) for slot, row, first in todo if first < row.length - 1]:
            width = min(_IDS_PER_ROW, max(1, _IDS_PER_CHUNK // len(todo)), max(row.length - 1 - first for _, row, first in todo))
            parts = [row.ids[first : min(first + width, row.length - 1)] for _, row, first in todo]
            self._body.read(self._cache, parts, [first for _, _, first in todo], [slot for slot, _, _ in todo])
            todo = [(slot, row, first + width) for slot, row, first in todo]
        for slot, row, _ in wave:
            self._held.set(slot, row.ids[: row.length - 1])

    def _close_ranks(self) -> None:
        """Rows at work stand at the front, so that a pass reads a slice of the cache and copies none of it."""
        last = self.num_rows - 1
        for slot in range(self.num_rows):
            while last > slot and self._rows[last] is None:
                last -= 1
            moved = self._rows[last]
            if self._rows[slot] is None and last > slot and moved is not None:
                self._cache.copy_row(last, slot, moved.length - 1)
                self._held.move(last, slot)
                self._exact.move(last, slot)
                self._rows[slot], self._rows[last] = moved, None

    # One pass

    def _pass(self, rows: list[Row]) -> list[IdResult]:
        rules, matrix, which = self._rules_of(rows)
        for row in rows:
            room = min(self.max_positions - row.length, row.request.max_ids - len(row.result.ids) - 1)
            del row.drafts[max(0, room) :]
        lengths = [1 + len(row.drafts) for row in rows]
        new = [np.array([row.ids[row.length - 1], *row.drafts]) for row in rows]
        hidden_ND = self._body.read(self._cache, new, [row.length - 1 for row in rows], range(len(rows)))
        logits_NC = torch.mm(hidden_ND, matrix)
        if rules.bias is not None:
            states_N = [s for row, k in zip(rows, which, strict=True) for s in rules.walk(k, row.state, row.drafts)]
            logits_NC += rules.bias[torch.tensor(states_N, device=self._body.device)]
        samplers_N = [row.sampler for row, length in zip(rows, lengths, strict=True) for _ in range(length)]
        u_N = np.concatenate([row.draws_ahead(length) for row, length in zip(rows, lengths, strict=True)])
        chosen_N, unsure_N = choose(logits_NC, u_N, samplers_N)
        chosen_N = rules.columns[chosen_N]
        ended, last_B, first = [], [], 0
        for b, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            chosen = chosen_N[first : first + length].tolist()
            num_right = self._accepted(b, row, chosen, unsure_N[first : first + length].tolist(), rules, which[b])
            last_B.append(first + num_right)
            first += length
            if self._take(row, chosen[: num_right + 1], rules, which[b]):
                self._held.set(b, row.ids[: row.length - 1])
                self._rows[b] = None
                ended.append(row.result)
        going_on = [b for b, row in enumerate(rows) if self._rows[b] is row]
        for b in going_on:
            rows[b].drafts = []
        asking = [b for b in going_on if rows[b].request.speculate]
        last = [last_B[b] for b in asking]
        self._guesses.draft([rows[b] for b in asking], hidden_ND, last, [rules.allows_bytes[which[b]] for b in asking])
        return ended

    def _accepted(self, slot: int, row: Row, chosen: list[int], unsure: list[bool], rules: Rules, which: int) -> int:
        """How many drafts of a row were right. Unsure choices on the way are made again, in place."""
        for t in range(len(row.drafts) + 1):
            if unsure[t]:
                chosen[t] = self._settled(slot, row, t, rules, which)
            if t == len(row.drafts) or chosen[t] != row.drafts[t]:
                break
        row.result.num_passes += 1
        row.result.num_drafted += len(row.drafts)
        row.result.num_accepted += t
        self._guesses.learn(row, t)
        return t

    def _settled(self, slot: int, row: Row, num_drafts: int, rules: Rules, which: int) -> int:
        """The choice behind the row's ids and so many of its drafts, from float64 logits."""
        drafts = row.drafts[:num_drafts]
        ids = np.concatenate([row.ids[: row.length], np.array(drafts, dtype=np.int64)])
        logits_C = self._exact.logits(slot, ids, rules.columns)
        if rules.bias is not None:
            state = rules.walk(which, row.state, drafts)[-1]
            logits_C = logits_C + rules.bias[state].double().cpu().numpy()
        row.result.num_repeated += 1
        return int(rules.columns[choose_exactly(logits_C, float(row.draws_ahead(num_drafts + 1)[-1]), row.sampler)])

    def _take(self, row: Row, new: list[int], rules: Rules, which: int) -> bool:
        """Give a row its new ids; True when it ends."""
        request, result = row.request, row.result
        kept = request.watcher.take(new) if request.watcher else None
        row.go_on(new)
        row.state = rules.states(which, row.state, new)[-1]
        result.ids += new if kept is None else new[:kept]
        return kept is not None or len(result.ids) == request.max_ids or row.length > self.max_positions

    def _rules_of(self, rows: list[Row]) -> tuple[Rules, Tensor, list[int]]:
        """The rules of these rows together, their output matrix, and which table each row has."""
        distinct = {id(row.table): row.table for row in rows}
        key = tuple(sorted(distinct))  # the same tables in whatever order of rows
        tables = [distinct[one] for one in key]
        which = [key.index(id(row.table)) for row in rows]
        if key not in self._rules:
            rules = Rules(tables, self._model.vocabulary_size, self._body.device)
            same = (matrix for other, matrix in self._rules.values() if np.array_equal(other.columns, rules.columns))
            matrix = next(same, None)
            if matrix is None:
                matrix = self._body.output_matrix(self._model.head.weight[torch.from_numpy(rules.columns).to(self._body.device)])
            self._rules[key] = rules, matrix
            if len(self._rules) > _KEPT_RULES:
                self._rules.popitem(last=False)
        self._rules.move_to_end(key)
        return *self._rules[key], which
