"""How far the symbols move when the text moves a little: delete 10 % of the characters, encode again, compare.

The published proxy-compression experiments explain by this why gzip teaches a model nothing and pieces do: the distance between the two
symbol sequences is small for pieces and close to 1 for gzip. Distance is Levenshtein's, divided by the longer length: 0 equal, 1 nothing
kept.

Needs the extra `inspect` (rapidfuzz): `pip install 'proxy-lm[inspect]'`.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

from compressors.base import Compressor
from compressors.errors import RequestError

# The distance takes time in proportion to the square of the length; this much of a document is compared.
MAX_DOCUMENT_BYTES: Final = 16_384


def delete_characters(data: bytes, rate: float, seed: int) -> bytes:
    """`data` without round(rate * n) of its n characters, drawn by (seed, content). A byte that is not UTF-8 counts as one character."""
    if not 0 <= rate <= 1:
        raise RequestError(f"a share of {rate} of the characters cannot be deleted; give 0 to 1")
    characters = np.array(list(data.decode("utf-8", "surrogateescape")), dtype=object)
    content = int.from_bytes(hashlib.sha256(data).digest()[:8], "little")
    draw = np.random.Generator(np.random.Philox(key=[seed, content]))
    kept = np.ones(len(characters), dtype=bool)
    kept[draw.choice(len(characters), size=round(rate * len(characters)), replace=False)] = False
    return "".join(characters[kept]).encode("utf-8", "surrogateescape")


def distance_under_deletion(compressor: Compressor, document: bytes, *, rate: float = 0.1, seed: int = 0) -> float | None:
    """Normalised Levenshtein distance, 0 to 1, between the symbols of (the beginning of) a document and of the same with `rate` of its
    characters deleted. None where the view refuses one of the two. Raises `RequestError` where rapidfuzz is missing."""
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise RequestError("stability is measured by rapidfuzz, which is not installed: pip install 'proxy-lm[inspect]'") from error
    whole = document[:MAX_DOCUMENT_BYTES]
    before, after = compressor.encode_batch([whole, delete_characters(whole, rate, seed)])
    if before is None or after is None:
        return None
    return float(Levenshtein.normalized_distance(before.tolist(), after.tolist()))
