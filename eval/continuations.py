"""What given bytes cost a model after given bytes, the symbols cut where a caller's prompt cuts them. The teacher-forced half of `lines`.

    costs = Continuations(opened).nats([(b"def f(x):\\n    retu", b"rn x\\n")])

A raw model reads the bytes of both. A model that reads a view is asked as its generator is (`proxy_lm.infer.prompts`): the prompt is
encoded alone, and the rest is encoded alone after it. So a prompt that ends inside a symbol pays for the cut, which is what is measured.
Healed, the last symbols of the prompt are told again together with the rest; while they are spelled each symbol is charged what it costs
among those that spell the prompt, exactly as a healed generator draws it. Nats are over the whole joint vocabulary otherwise.

None where the view cannot tell the two stretches apart: it cannot express the rest alone, or its symbols would mean other bytes there.
A telling of more ids than a row is read from its last row of ids on, without sentinels, as a continued row.
"""

# T positions, D width, C targets, V ids

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eval.opened import Opened
from eval.teacher import padded, passes
from proxy_lm.errors import DecodeError, NotRepresentableError, RequestError, WorkError
from proxy_lm.infer.asked import Prompt
from proxy_lm.infer.prompts import PromptTeller

_TARGETS_PER_CHUNK = 256  # of logits held at once


@dataclass(frozen=True)
class _Row:
    """`ids` from `first` on are charged. `allowed` row j holds the ids that could stand there while the prompt's tail is spelled."""

    ids: npt.NDArray[np.int64]
    first: int
    allowed: npt.NDArray[np.bool_] | None = None


class Continuations:
    """Asks one opened run. Not safe to share between threads."""

    def __init__(self, opened: Opened) -> None:
        """Raises `RequestError` where the view cannot be continued after a part of a document."""
        compressor = opened.reading.compressor
        if compressor is not None and compressor.spans(b"") is None:
            raise RequestError(
                f"the symbols of view '{opened.view}' stand for no stretch of bytes, so no line of a document can be asked for; "
                "ask in another view of the run, or measure whole documents with bpb"
            )
        self.opened = opened
        self.compressor = compressor
        self.teller = PromptTeller(opened.loaded, opened.view, compressor, healing=opened.healing)

    def nats(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[float | None]:
        """Nats of the second bytes of each pair after the first."""
        if self.compressor is None:
            return self._of_bytes(pairs)
        rows = [self._row(prompt, rest) for prompt, rest in pairs]
        asked = [row for row in rows if row is not None]
        found = iter(self._ask(asked))
        return [None if row is None else float(next(found).sum()) for row in rows]

    def _of_bytes(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[float | None]:
        """Each document once, however many offsets it is cut at: the cost of its rest is a sum over its last bytes."""
        firsts: dict[bytes, int] = {}
        for prompt, rest in pairs:
            firsts[prompt + rest] = min(len(prompt), firsts.get(prompt + rest, len(prompt)))
        rows = []
        for document, first in firsts.items():
            ids = np.array(self.teller.tell(Prompt(data=document)).ids, dtype=np.int64)
            rows.append(self._fitted(ids, len(ids) - (len(document) - first)))
        costs = dict(zip(firsts, self._ask(rows), strict=True))
        return [float(costs[prompt + rest][len(costs[prompt + rest]) - len(rest) :].sum()) for prompt, rest in pairs]

    def _row(self, prompt: bytes, rest: bytes) -> _Row | None:
        assert self.compressor is not None
        told = self.teller.tell(Prompt(data=prompt))
        if told.raw:
            return self._fitted(np.array([*told.ids, *rest], dtype=np.int64), len(told.ids))
        again = told.tail + rest
        try:
            symbols = self.compressor.encode(again)
            whole = np.concatenate([np.array(told.symbols, dtype=np.uint32), symbols])
            if self.compressor.decode(whole) != prompt + rest:
                return None
        except (NotRepresentableError, DecodeError):
            return None
        view = self.teller.view
        assert view is not None
        ids = np.concatenate([np.array(told.ids, dtype=np.int64), view.to_ids(symbols)])
        allowed = self._allowed(told.tail, symbols) if told.tail else np.zeros((0, 0), dtype=np.bool_)
        return None if allowed is None else self._fitted(ids, len(told.ids), allowed)

    def _allowed(self, tail: bytes, symbols: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_] | None:
        """bool [num constrained targets, V]: what a healed generator may draw until the tail is spelled; None where it could not say
        these symbols."""
        healer, view = self.teller.healer, self.teller.view
        assert healer is not None
        assert view is not None
        next_states = healer.next_states(tail, np.zeros((1, len(healer.spelling)), dtype=np.int16), 0)
        state, rows = 0, []
        for symbol in symbols.tolist():
            if state >= len(tail):
                break
            row = np.zeros(self.opened.loaded.vocabulary.size, dtype=np.bool_)
            row[view.to_ids(np.arange(view.alphabet_size))] = next_states[state] >= 0  # equal where two symbols share an id
            rows.append(row)
            state = int(next_states[state, symbol])
            if state < 0:
                return None
        return np.stack(rows)

    def _fitted(self, ids: npt.NDArray[np.int64], first: int, allowed: npt.NDArray[np.bool_] | None = None) -> _Row:
        """The last ids that a row can read; at least one is read before the first that is charged."""
        cut = max(0, len(ids) - 1 - self.opened.row_length)
        if cut >= first:
            raise RequestError(
                f"{len(ids) - first} ids of view '{self.opened.view}' are asked for at once and a row holds {self.opened.row_length}; "
                "give a smaller --max-bytes"
            )
        return _Row(ids[cut:], first - cut, allowed if allowed is not None and len(allowed) else None)

    @torch.no_grad()
    def _ask(self, rows: Sequence[_Row]) -> list[npt.NDArray[np.float64]]:
        """Nats of the charged ids of each row."""
        found: dict[int, npt.NDArray[np.float64]] = {}
        model, device = self.opened.loaded.model, self.opened.device
        for some in passes([len(row.ids) for row in rows], self.opened.num_rows):
            *_, hidden_BTD = model.states(*padded([rows[i].ids[:-1] for i in some], device))
            for b, i in enumerate(some):
                row = rows[i]
                hidden_CD = hidden_BTD[b, row.first - 1 : len(row.ids) - 1]
                found[i] = self._charged(row, hidden_CD).double().cpu().numpy()
                if not np.isfinite(found[i]).all():
                    raise WorkError(
                        "the model gives a loss that is not finite: its weights are broken; train it again with a lower learning rate"
                    )
        return [found[i] for i in range(len(rows))]

    def _charged(self, row: _Row, hidden_CD: Tensor) -> Tensor:
        """Nats [C] of the targets, those that spell the prompt's tail among the ids that can."""
        targets = torch.from_numpy(row.ids[row.first :]).to(hidden_CD.device)
        parts = []
        for at in range(0, len(targets), _TARGETS_PER_CHUNK):
            logits_CV = self.opened.loaded.model.head(hidden_CD[at : at + _TARGETS_PER_CHUNK])
            if row.allowed is not None and at < len(row.allowed):
                allowed_CV = torch.from_numpy(row.allowed[at : at + _TARGETS_PER_CHUNK]).to(logits_CV.device)
                logits_CV[: len(allowed_CV)] = logits_CV[: len(allowed_CV)].masked_fill(~allowed_CV, -torch.inf)
            parts.append(logits_CV.logsumexp(1) - logits_CV.gather(1, targets[at : at + _TARGETS_PER_CHUNK, None]).squeeze(1))
        return torch.cat(parts)
