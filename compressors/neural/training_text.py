"""The part of the documents that a view or a byte model is trained on: the first ones, up to `max_training_bytes`."""

from __future__ import annotations

from collections.abc import Iterable


def cut_at(documents: Iterable[bytes], max_bytes: int) -> list[bytes]:
    """The first documents that are not empty, the last one cut where they have `max_bytes` (at least 1) together."""
    kept: list[bytes] = []
    num_left = max_bytes
    for document in documents:
        if document:
            kept.append(document[:num_left])
            num_left -= len(kept[-1])
        if num_left == 0:
            break
    return kept


def whole_until(documents: Iterable[bytes], max_bytes: int) -> list[bytes]:
    """The first documents until they have `max_bytes` (at least 1) together, the last one whole."""
    kept: list[bytes] = []
    num_left = max_bytes
    for document in documents:
        kept.append(document)
        num_left -= len(document)
        if num_left <= 0:
            break
    return kept
