"""Can one see the text through the symbols: does a symbol always stand for one text, and is a word always told in the same way?

* `repeated_share`: of the symbols that occur in 20 documents cut to 1,024 bytes, the share that occurs more than once (arXiv 2404.03626,
  section 6.2: 34.5 % for 16-bit windows).
* `texts_per_symbol`: different byte strings that a symbol stands for over the whole sample, mean over the symbols seen, and
  `main_text_share`: of all occurrences, those in which the symbol stands for its own most frequent text. 1 and 1 for a dictionary.
* `tellings_per_word`: for frequent words, the different ways in which 20 occurrences are cut ("elephants" is cut three ways in one sentence
  of the paper): the symbols that the word's bytes touch and where the word begins in the first of them.

The last two need a view whose symbols stand for stretches of bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

import numpy as np

from proxy_lm.analysis.told import JSON, MAX_TEXT_BYTES, Sample, Told

NUM_SHORT_DOCUMENTS: Final = 20
SHORT_BYTES: Final = 1024
NUM_WORDS: Final = 300
OCCURRENCES: Final = 20
_WORD: Final = re.compile(rb"[A-Za-z_][A-Za-z_0-9]{2,}")


def transparency(told: Told) -> JSON:
    """The shares and means of this module's text, and a few symbols with their texts."""
    short = [s for s in told.compressor.encode_batch(told.sample.openings(NUM_SHORT_DOCUMENTS, SHORT_BYTES)) if s is not None]
    counts = np.bincount(np.concatenate([np.zeros(0, np.uint32), *short]), minlength=1)
    attested = int(np.count_nonzero(counts))
    found: JSON = {
        "num_short_documents": len(short),
        "short_bytes": SHORT_BYTES,
        "attested_symbols": attested,
        "repeated_share": float(np.count_nonzero(counts > 1)) / attested if attested else None,
    }
    if told.borders is None:
        return {**found, "reason": "no symbol stands for a stretch of bytes"}
    return {**found, **_texts(told), **_words(told)}


def _texts(told: Told) -> JSON:
    texts = told.texts
    total = sum(counter.total() for counter in texts.values())
    several = sorted((s for s in texts if len(texts[s]) > 1), key=lambda s: (-texts[s].total(), s))
    return {
        "texts_per_symbol": float(np.mean([len(counter) for counter in texts.values()])) if texts else None,
        "main_text_share": sum(counter.most_common(1)[0][1] for counter in texts.values()) / total if total else None,
        "symbols_with_several_texts": len(several),
        "examples": [{"symbol": s, "texts": [[repr(text)[2:-1], count] for text, count in texts[s].most_common(4)]} for s in several[:8]],
    }


def _words(told: Told) -> JSON:
    """Different tellings among the first 20 occurrences of the most frequent words."""
    words = _frequent(told.sample)
    tellings: dict[bytes, list[tuple[int, ...]]] = {word: [] for word in words}
    assert told.borders is not None
    seen = 0
    for document, symbols, borders in zip(told.sample.documents, told.symbols, told.borders, strict=True):
        if symbols is None or borders is None or len(symbols) == 0 or seen > MAX_TEXT_BYTES:
            continue
        seen += len(document)
        for match in _WORD.finditer(document):
            known = tellings.get(match.group())
            if known is None or len(known) >= OCCURRENCES:
                continue
            first = int(np.searchsorted(borders, match.start(), side="right")) - 1
            last = int(np.searchsorted(borders, match.end(), side="left"))
            known.append((match.start() - int(borders[first]), *symbols[first:last].tolist()))
    full = {word: found for word, found in tellings.items() if len(found) == OCCURRENCES}
    return {
        "num_words": len(full),
        "occurrences": OCCURRENCES,
        "tellings_per_word": float(np.mean([len(set(found)) for found in full.values()])) if full else None,
        "word_examples": [
            {"word": word.decode(), "tellings": len(set(found))}
            for word, found in sorted(full.items(), key=lambda item: (-len(item[0]), item[0]))[:8]
        ],
    }


def _frequent(sample: Sample) -> list[bytes]:
    counts: Counter[bytes] = Counter()
    for document in sample.documents:
        counts.update(_WORD.findall(document))
    return sorted(counts, key=lambda word: (-counts[word], word))[:NUM_WORDS]
