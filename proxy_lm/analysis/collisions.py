"""Does a telling come back, and where it does not, how much of it does: collisions and longest common prefixes.

Two texts collide when they have the same symbol. A rule that pads a window with zeros (arXiv 2404.03626, section 3.3) has such collisions;
the proxy-compression experiments report that over 90 % of colliding texts share 0.8 of their length as a common prefix and differ in spaces
and line ends.

* `exact_documents`: documents that decode to themselves; `document_prefix_share`: of the others, the common beginning of document and
  decoded document over the longer of the two.
For views that do not promise exactness and whose symbols stand for stretches of bytes also

* `wrong_window_share`: of all windows, those whose symbol, decoded alone, is not the text it was made from; symbols that decode to nothing
  alone are not counted. Where a symbol's meaning depends on those before it (no reset) this says nothing.
* `colliding_window_share`: windows whose symbol stands for another text elsewhere in the sample; `prefix_ratio`: over pairs of different
  texts of one symbol, weighted by the rarer one, the common prefix over the longer text; `prefix_ratio_at_least_0.8` the share of pairs.
"""

from __future__ import annotations

from itertools import combinations
from typing import Final

import numpy as np

from compressors.base import Compressor
from compressors.errors import DecodeError
from proxy_lm.analysis.told import JSON, Told

# Texts of one symbol that are paired: the most frequent ones.
MAX_TEXTS: Final = 16
_HIGH: Final = 0.8


def collisions(told: Told) -> JSON:
    """Counts and shares of this module's text."""
    exact = num_told = 0
    shares: list[float] = []
    for document, symbols in zip(told.sample.documents, told.symbols, strict=True):
        if symbols is None:
            continue
        num_told += 1
        again = _decoded(told.compressor, symbols, len(document))
        if again == document:
            exact += 1
        elif again is not None:
            shares.append(common_prefix(document, again) / max(len(document), len(again)))
    found: JSON = {
        "promises_exactness": told.compressor.exact,
        "num_documents": num_told,
        "exact_documents": exact,
        "document_prefix_share": float(np.mean(shares)) if shares else None,
    }
    if told.compressor.exact:
        return found
    if told.borders is None:
        return {**found, "reason": "no symbol stands for a stretch of bytes"}
    return {**found, **_windows(told)}


def common_prefix(a: bytes, b: bytes) -> int:
    """Length of the common beginning in bytes."""
    length = min(len(a), len(b))
    differ = np.flatnonzero(np.frombuffer(a, np.uint8, length) != np.frombuffer(b, np.uint8, length))
    return int(differ[0]) if len(differ) else length


def _windows(told: Told) -> JSON:
    texts = told.texts
    total = sum(counter.total() for counter in texts.values())
    alone = {s: _decoded(told.compressor, np.array([s], dtype=np.uint32), 1 << 16) for s in texts}
    tested = sum(counter.total() for s, counter in texts.items() if alone[s])
    wrong = sum(counter.total() - counter[meaning] for s, counter in texts.items() if (meaning := alone[s]))
    several = [counter for counter in texts.values() if len(counter) > 1]
    ratios, weights = [], []
    for counter in several:
        for (a, times_a), (b, times_b) in combinations(counter.most_common(MAX_TEXTS), 2):
            ratios.append(common_prefix(a, b) / max(len(a), len(b), 1))
            weights.append(min(times_a, times_b))
    return {
        "num_windows": total,
        "symbols_seen": len(texts),
        "colliding_symbols": len(several),
        "colliding_window_share": sum(c.total() for c in several) / total if total else None,
        "wrong_window_share": wrong / tested if tested else None,
        "num_pairs": len(ratios),
        "prefix_ratio": float(np.average(ratios, weights=weights)) if ratios else None,
        "prefix_ratio_at_least_0.8": float(np.average(np.array(ratios) >= _HIGH, weights=weights)) if ratios else None,
    }


def _decoded(compressor: Compressor, symbols: np.ndarray[tuple[int], np.dtype[np.uint32]], size_bytes: int) -> bytes | None:
    """The decoded bytes, at most twice as many as expected; None where the view refuses."""
    try:
        return compressor.decode(symbols, max_bytes=max(64, 2 * size_bytes))
    except DecodeError:
        return None
