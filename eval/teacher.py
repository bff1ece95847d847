"""Teacher forcing: what a model says of known rows, id by id. `translate` asks it; nothing here knows what the rows mean.

    answers = ask(model, rows, rows_per_pass=16, device=device)      # one `Answer` a row, in the order of the rows

Nats are over the whole joint vocabulary, as everywhere in this room. Whether an id was right is asked among the ids that generation may
emit at its place, so a row that is right throughout, end included, is one that greedy generation gives back. The number of rows in a pass
changes float rounding only.
"""

# B rows, T positions, D width, C positions of a chunk, A possible ids, V ids

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eval.stretches import Row
from proxy_lm.errors import WorkError
from proxy_lm.vocabulary import PAD

_POSITIONS_PER_CHUNK = 64  # of logits held at once: few fit a cache, and 65,536 ids are wide


class Model(Protocol):
    """What is needed of a model; `proxy_lm.model.decoder.Decoder` is one."""

    def states(self, ids: Tensor, segments: Tensor, positions: Tensor) -> Iterator[Tensor]:
        """Hidden states by layer, [B, T, D] each; the last is what the head reads."""
        ...

    def head(self, hidden_CD: Tensor) -> Tensor:
        """Logits, float32 [C, V]."""
        ...


@dataclass(frozen=True)
class Answer:
    """The payload of a row and, last, its end sentinel: arrays of [num_payload + 1]."""

    nats: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]

    @property
    def payload_nats(self) -> float:
        """Nats of the payload, without the end."""
        return float(self.nats[:-1].sum())

    @property
    def exact(self) -> bool:
        """Every id right, the end too: greedy generation gives the payload back and stops."""
        return bool(self.right.all())


def padded(rows: Sequence[npt.NDArray[np.int64]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(ids [B, T] int64, segments int32, positions int32): each row one segment from position 0, padding behind the short ones."""
    longest = max(map(len, rows))
    ids_BT = np.full((len(rows), longest), PAD, dtype=np.int64)
    segments_BT = np.full((len(rows), longest), -1, dtype=np.int32)
    for b, row in enumerate(rows):
        ids_BT[b, : len(row)] = row
        segments_BT[b, : len(row)] = 0
    positions_BT = np.broadcast_to(np.arange(longest, dtype=np.int32), ids_BT.shape).copy()
    return tuple(torch.from_numpy(part).to(device) for part in (ids_BT, segments_BT, positions_BT))  # type: ignore[return-value]


def passes(lengths: Sequence[int], rows_per_pass: int) -> Iterator[list[int]]:
    """Indexes of rows of like length together, the longest first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for at in range(0, len(order), rows_per_pass):
        yield order[at : at + rows_per_pass]


@torch.no_grad()
def ask(model: Model, rows: Sequence[Row], *, rows_per_pass: int, device: torch.device) -> list[Answer]:
    """One answer a row. Raises `WorkError` where the model gives a loss that is not finite."""
    answers: dict[int, Answer] = {}
    for some in passes([len(row.ids) for row in rows], rows_per_pass):
        # The last id asked for is the end sentinel: what follows it is not read, nor is it itself.
        read = [rows[i].ids[: rows[i].first + rows[i].num_payload] for i in some]
        hidden_BTD = None
        for hidden_BTD in model.states(*padded(read, device)):  # noqa: B007 - the last one is wanted
            pass
        assert hidden_BTD is not None
        for b, i in enumerate(some):
            answers[i] = _answer(model, rows[i], hidden_BTD[b])
    return [answers[i] for i in range(len(rows))]


def _answer(model: Model, row: Row, hidden_TD: Tensor) -> Answer:
    targets = torch.from_numpy(row.ids[row.first : row.first + row.num_payload + 1]).to(hidden_TD.device)
    hidden_CD = hidden_TD[row.first - 1 : row.first + row.num_payload]
    # Ascending: of equal logits the smaller id is chosen, as in generation.
    possible_A = torch.from_numpy(np.sort(np.append(row.allowed, row.end_id))).to(hidden_TD.device)
    nats, right = [], []
    for at in range(0, len(targets), _POSITIONS_PER_CHUNK):
        logits_CV = model.head(hidden_CD[at : at + _POSITIONS_PER_CHUNK])
        wanted_C = targets[at : at + _POSITIONS_PER_CHUNK]
        nats.append(logits_CV.logsumexp(1) - logits_CV.gather(1, wanted_C[:, None]).squeeze(1))
        right.append(possible_A[logits_CV.index_select(1, possible_A).argmax(dim=1)] == wanted_C)
    found = torch.cat(nats).double().cpu().numpy()
    if not np.isfinite(found).all():
        raise WorkError("the model gives a loss that is not finite: its weights are broken; train it again with a lower learning rate")
    return Answer(found, torch.cat(right).cpu().numpy())
