"""How many bytes a symbol stands for: over all, by language, and by position in the document.

Bytes a symbol are also said in bits: `uniform_bits_per_byte` is what a byte costs when every symbol is equally likely (log2 of the alphabet
over bytes a symbol; arXiv 2404.03626, section 4), `unigram_bits_per_byte` when only the symbols' frequencies in this sample are known. The
second is estimated from the very symbols it is charged to, so it is low where symbols are many and the sample is small.

By position: a symbol belongs to the place where its bytes begin. A view whose symbols stand for no stretch of bytes (gzip) is asked for
prefixes instead: what a place costs is what the longer prefix has more symbols than the shorter one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from compressors.base import Compressor
from compressors.measure import entropy_bits
from proxy_lm.analysis.told import JSON, Told

# Borders of the positions in bytes.
POSITIONS: Final = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
# Documents whose prefixes are encoded for a view without spans; each costs an encode a position.
MAX_PREFIX_DOCUMENTS: Final = 40


def density(told: Told) -> JSON:
    """Totals, `by_language` and `by_position` as JSON."""
    counts: dict[str, list[int]] = {}
    for document, language, symbols in zip(told.sample.documents, told.sample.languages, told.symbols, strict=True):
        row = counts.setdefault(language, [0, 0, 0, 0])
        row[0] += 1
        if symbols is None:
            row[3] += 1
        else:
            row[1] += len(document)
            row[2] += len(symbols)
    num_bytes, num_symbols = sum(row[1] for row in counts.values()), sum(row[2] for row in counts.values())
    per_symbol = num_bytes / num_symbols if num_symbols else None
    return {
        "num_documents": len(told.symbols),
        "num_raw_only": sum(row[3] for row in counts.values()),
        "told_bytes": num_bytes,
        "num_symbols": num_symbols,
        "bytes_per_symbol": per_symbol,
        "uniform_bits_per_byte": math.log2(max(2, told.compressor.alphabet_size)) / per_symbol if per_symbol else None,
        "unigram_bits_per_byte": entropy_bits(told.flat) / per_symbol if per_symbol else None,
        "by_language": {
            language: {
                "num_documents": row[0],
                "num_raw_only": row[3],
                "told_bytes": row[1],
                "num_symbols": row[2],
                "bytes_per_symbol": row[1] / row[2] if row[2] else None,
            }
            for language, row in sorted(counts.items(), key=lambda item: -item[1][1])
        },
        "by_position": _by_position(told),
    }


def _by_position(told: Told) -> JSON:
    """Bytes a symbol between consecutive `POSITIONS`; None where no document reaches."""
    edges = np.array(POSITIONS, dtype=np.int64)
    told_bytes, num_symbols = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    borders = told.borders
    if borders is not None:
        for some in borders:
            if some is None or len(some) < 2:
                continue
            starts, lengths = some[:-1], np.diff(some)
            place = np.searchsorted(edges, starts, side="right") - 1
            inside = place < len(told_bytes)
            told_bytes += np.bincount(place[inside], weights=lengths[inside], minlength=len(told_bytes))
            num_symbols += np.bincount(place[inside], minlength=len(told_bytes))
    else:
        accepted = [d for d, symbols in zip(told.sample.documents, told.symbols, strict=True) if symbols is not None]
        for document in accepted[:MAX_PREFIX_DOCUMENTS]:
            reached = [int(edge) for edge in edges if edge <= len(document)]
            sizes = _prefix_symbols(told.compressor, document, reached)
            told_bytes[: len(reached) - 1] += np.diff(reached)
            num_symbols[: len(reached) - 1] += np.diff(sizes)
    return {
        "from_bytes": list(POSITIONS[:-1]),
        "to_bytes": list(POSITIONS[1:]),
        "bytes_per_symbol": [float(b / n) if n > 0 and b else None for b, n in zip(told_bytes, num_symbols, strict=True)],
        "how": "spans" if borders is not None else "prefixes",
    }


def _prefix_symbols(compressor: Compressor, document: bytes, sizes: Sequence[int]) -> list[int]:
    encoded = compressor.encode_batch([document[:size] for size in sizes])
    counts: list[int] = []
    for symbols in encoded:  # a refused prefix costs what the one before costs; the difference goes to the next
        counts.append(counts[-1] if symbols is None and counts else 0 if symbols is None else len(symbols))
    return counts
