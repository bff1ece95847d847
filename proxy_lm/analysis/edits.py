"""What a small edit of a document does to its symbols: how soon they are the same again, and how far they move.

`resynchronisation` inserts or deletes one byte at a drawn place and compares the two tellings from both ends: the symbols that differ in
the middle, how many bytes after the edit the last of them ends, and how many bytes before the edit the first begins. A view that never
agrees again before the stretch ends (a stream without reset, gzip) is counted as such: then the number is the length of what was left.

`stability` is the experiment of arXiv 2404.03626, section 6.2: 500 words, each put before one fixed text, and the distance between all
pairs of tellings; and that of the proxy-compression experiments: 10 % of the characters deleted. Distance is Levenshtein's over the longer
length: 0 equal, 1 nothing kept.

Needs the extra `inspect` (rapidfuzz) for `stability`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.base import Compressor, Symbols
from compressors.errors import RequestError
from compressors.stability import distance_under_deletion
from proxy_lm.analysis.told import JSON, Sample, Told, encode_all

STRETCH_BYTES: Final = 4096
NUM_EDITS: Final = 1000
NUM_PREFIXES: Final = 500
NUM_COMMON_WORDS: Final = 3000
NUM_DELETION_DOCUMENTS: Final = 50
DELETED_SHARE: Final = 0.1
# What the prefixes stand before. The paper's text is one English sentence; ours is a function, since our text is code.
FIXED_TEXT: Final = b'''(path, mode="r", encoding=None):
    """Return the lines of a file as a list, without the line ends."""
    with open(path, mode, encoding=encoding) as handle:
        lines = [line.rstrip("\\n") for line in handle]
    if not lines:
        raise ValueError("nothing to read in %r" % path)
    return lines
'''
_WORD: Final = re.compile(rb"[A-Za-z_][A-Za-z_0-9]{2,}")
_QUANTILES: Final = (0.5, 0.9, 0.99)


def resynchronisation(told: Told, *, num_edits: int = NUM_EDITS, seed: int = 0) -> JSON:
    """Quantiles of what an edit changes, in symbols and (where symbols stand for bytes) in bytes after and before the edit."""
    stretches = told.sample.openings(num_edits, STRETCH_BYTES)
    if not stretches:
        return {"num_edits": 0, "reason": f"no document of the sample has {STRETCH_BYTES} bytes"}
    draw = np.random.Generator(np.random.Philox(key=seed))
    before: list[bytes] = []
    after: list[bytes] = []
    places: list[int] = []
    for k in range(num_edits):
        text = stretches[k % len(stretches)]
        place = int(draw.integers(STRETCH_BYTES // 8, STRETCH_BYTES // 2))
        inserted = text[int(draw.integers(len(text)))].to_bytes(1, "little") if k % 2 else b""
        before.append(text)
        after.append(text[:place] + inserted + text[place + (not inserted) :])
        places.append(place)
    old = encode_all(told.compressor, stretches)
    new = encode_all(told.compressor, after)
    changes = []
    refused = 0
    for k, symbols in enumerate(new):
        one = old[k % len(stretches)]
        if one is None or symbols is None:
            refused += 1
            continue
        changes.append(change(told.compressor, (before[k], one), (after[k], symbols), places[k]))
    return {"num_edits": len(changes), "num_refused": refused, "stretch_bytes": STRETCH_BYTES, **_summary(changes)}


def change(compressor: Compressor, old: tuple[bytes, Symbols], new: tuple[bytes, Symbols], place: int) -> dict[str, Any]:
    """What differs between two tellings (text, symbols) of texts that differ by one byte at `place`: `symbols` of the new one that are
    neither in the common beginning nor in the common end, `bytes_after` and `bytes_before` the edit that they stand for, `never` when there
    is no common end."""
    head = _common(old[1], new[1])
    tail = _common(old[1][::-1], new[1][::-1])
    # In a run of equal symbols the two may overlap: the edit can be told in several ways, all of them short.
    found: dict[str, Any] = {"symbols": max(0, len(new[1]) - head - tail), "never": tail == 0}
    borders = compressor.spans(new[0])
    if borders is not None:
        # The edit ends where the rest of the old text begins; what is equal from there on is counted as agreed.
        end = len(new[0]) - (len(old[0]) - place - (len(new[0]) < len(old[0])))
        found["bytes_after"] = max(0, int(borders[len(new[1]) - tail]) - end)
        found["bytes_before"] = max(0, place - int(borders[head]))
    return found


def stability(told: Told, *, seed: int = 0) -> JSON:
    """Distances between all pairs of the 500 prefixed texts, of the same in bytes, and under deletion of 10 % of the characters."""
    words = prefix_words(told.sample, seed)
    pairs = _pair_distances(told.compressor, [word + FIXED_TEXT for word in words])
    raw = _pair_distances(None, [word + FIXED_TEXT for word in words])
    documents = told.sample.documents[:NUM_DELETION_DOCUMENTS]
    deleted = [distance_under_deletion(told.compressor, document, rate=DELETED_SHARE, seed=seed) for document in documents]
    moved = [value for value in deleted if value is not None]
    return {
        "num_prefixes": len(words),
        "num_pairs": len(pairs),
        "fixed_text_bytes": len(FIXED_TEXT),
        "prefix_distance": _moments(pairs),
        "prefix_distance_of_bytes": _moments(raw),
        "histogram": np.histogram(pairs, bins=50, range=(0, 1))[0].tolist(),
        "deletion": {"share": DELETED_SHARE, "num_documents": len(moved), **_moments(np.array(moved))},
    }


def prefix_words(sample: Sample, seed: int) -> list[bytes]:
    """500 words (fewer in a small sample) drawn from the 3,000 most frequent names and words of the sample, ties by spelling."""
    counts: Counter[bytes] = Counter()
    for document in sample.documents:
        counts.update(_WORD.findall(document))
    common = sorted(counts, key=lambda word: (-counts[word], word))[:NUM_COMMON_WORDS]
    draw = np.random.Generator(np.random.Philox(key=seed))
    chosen = draw.permutation(len(common))[:NUM_PREFIXES]
    return [common[index] for index in chosen.tolist()]


def _pair_distances(compressor: Compressor | None, texts: Sequence[bytes]) -> npt.NDArray[np.float64]:
    """float64 [num_pairs], every pair once. Raises `RequestError` where rapidfuzz is missing."""
    try:
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist
    except ImportError as error:
        raise RequestError("stability is measured by rapidfuzz, which is not installed: pip install 'proxy-lm[inspect]'") from error
    told = [list(text) for text in texts] if compressor is None else [s.tolist() for s in compressor.encode_batch(texts) if s is not None]
    if len(told) < 2:
        return np.zeros(0)
    table = cdist(told, told, scorer=Levenshtein.normalized_distance, dtype=np.float32)
    return np.asarray(table[np.triu_indices(len(told), 1)], dtype=np.float64)


def _common(a: Symbols, b: Symbols) -> int:
    """Length of the common beginning."""
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if len(differ) else length


def _summary(changes: Sequence[dict[str, Any]]) -> JSON:
    found: JSON = {"never_share": float(np.mean([c["never"] for c in changes])) if changes else None}
    for key in ("symbols", "bytes_after", "bytes_before"):
        values = [c[key] for c in changes if key in c]
        found[key] = {_name(q): float(np.quantile(values, q, method="higher")) for q in _QUANTILES} if values else None
    lengths = [c["bytes_after"] for c in changes if "bytes_after" in c]
    if lengths:
        grid = [0, *(1 << k for k in range(13))]
        found["cumulative"] = {"bytes": grid, "share": [float(np.mean(np.array(lengths) <= g)) for g in grid]}
    return found


def _name(quantile: float) -> str:
    return "median" if quantile == 0.5 else f"p{round(100 * quantile)}"


def _moments(values: npt.NDArray[np.float64]) -> JSON:
    if not len(values):
        return {"mean": None, "median": None, "p90": None}
    return {"mean": float(values.mean()), "median": float(np.median(values)), "p90": float(np.quantile(values, 0.9))}
