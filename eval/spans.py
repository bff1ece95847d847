"""Spans: short parts of stretches that begin and end at borders of the view's symbols, and their mean hidden states by layer.

    spans = draw_spans(stretches, span_bytes=32, num_spans=1000, seed=0)
    states = mean_states(model, rows, places, rows_per_pass=16, device=device)     # float32 [num_spans, num_layers, width]

Spans are drawn evenly over documents: one of each document before the second of any. Equal bytes are taken once, since nothing could tell
which of two is meant. Not promised: spans of equal length; each is the shortest run of whole symbols that has `span_bytes`.
"""

# B rows, T positions, S spans of a row, D width

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from eval.stretches import I64, Stretch
from eval.teacher import Model, padded, passes
from proxy_lm.data.cuts import symbol_borders
from proxy_lm.data.permutation import hashes, key_of


@dataclass(frozen=True)
class Span:
    """Bytes first_byte .. end_byte - 1 of a stretch, which are its symbols first_symbol .. end_symbol - 1."""

    stretch: int
    first_byte: int
    end_byte: int
    first_symbol: int
    end_symbol: int


def cut_spans(stretch: Stretch, index: int, span_bytes: int) -> Iterator[Span]:
    """Consecutive spans of a stretch; what is left at its end and is shorter is none."""
    assert stretch.borders is not None
    byte, symbol = symbol_borders(stretch.borders, len(stretch.data))
    byte = np.concatenate([[0], byte, [len(stretch.data)]])
    symbol = np.concatenate([[0], symbol, [len(stretch.symbols)]])
    at = 0
    while (end := int(np.searchsorted(byte, byte[at] + span_bytes))) < len(byte):
        yield Span(index, int(byte[at]), int(byte[end]), int(symbol[at]), int(symbol[end]))
        at = end


def draw_spans(stretches: Sequence[Stretch], *, span_bytes: int, num_spans: int, seed: int) -> list[Span]:
    """Up to `num_spans` spans of different bytes, in the order of the stretches."""
    seen: set[bytes] = set()
    by_document: dict[int, list[Span]] = defaultdict(list)
    for index, stretch in enumerate(stretches):
        for span in cut_spans(stretch, index, span_bytes):
            data = stretch.data[span.first_byte : span.end_byte]
            if data not in seen:
                seen.add(data)
                by_document[stretch.document].append(span)
    ranked: list[tuple[int, int, Span]] = []
    for document, spans in by_document.items():
        drawn = hashes(key_of(seed, f"align {document}"), np.arange(len(spans), dtype=np.int64))
        order = np.argsort(drawn, kind="stable").tolist()
        ranked += [(rank, int(drawn[place]), spans[place]) for rank, place in enumerate(order)]
    ranked.sort(key=lambda one: one[:2])
    return sorted((span for _, _, span in ranked[:num_spans]), key=lambda span: (span.stretch, span.first_byte))


@torch.no_grad()
def mean_states(
    model: Model, rows: Sequence[I64], places: Sequence[Sequence[tuple[int, int]]], *, rows_per_pass: int, device: torch.device
) -> npt.NDArray[np.float32]:
    """Mean over positions first .. end - 1 of row b, for each (first, end) of `places[b]`: float32 [num_spans, num_layers, D], in the order
    of rows and places."""
    firsts = np.cumsum([0, *map(len, places)]).tolist()
    found: npt.NDArray[np.float32] | None = None
    for some in passes([len(row) for row in rows], rows_per_pass):
        batch = padded([rows[i] for i in some], device)
        most = max(len(places[i]) for i in some)
        weights_BST = torch.zeros(len(some), most, batch[0].shape[1], device=device)
        for b, i in enumerate(some):
            for s, (first, end) in enumerate(places[i]):
                weights_BST[b, s, first:end] = 1.0 / (end - first)
        layers = [(weights_BST @ x_BTD.float()).cpu().numpy() for x_BTD in model.states(*batch)]
        if found is None:
            found = np.zeros((firsts[-1], len(layers), layers[0].shape[2]), dtype=np.float32)
        for layer, means_BSD in enumerate(layers):
            for b, i in enumerate(some):
                found[firsts[i] : firsts[i + 1], layer] = means_BSD[b, : len(places[i])]
    assert found is not None, "no rows"
    return found
