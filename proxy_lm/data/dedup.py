"""Near duplicates: found by MinHash signatures in bands, confirmed by the true Jaccard similarity of the documents.

A document is dropped if it shares at least `threshold` of its distinct 5-word shingles (Jaccard similarity) with a document that is kept
and comes earlier, in the order of the sources and of the paths inside them. Nothing is dropped for being like a dropped one, so no chain of
small changes removes what differs. Permutations and the number of bands come from the `datasketch` library (extra `dedup`). A signature is
the library's own (tested), computed a document at a time in numpy: 90 MB/s against 43 by the library's calls, on one core.
Sources: Broder 1997 for MinHash; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4, for the bands.

Exact: no document below the threshold is ever dropped. Not exact: a pair is found with a probability that its similarity decides; at the
default threshold (14 bands of 9 values) that is 0.87 at the very threshold of 0.8, 0.97 at 0.85 and above 0.998 at 0.9.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from proxy_lm.data.shingles import Hashes, jaccard, shingle_set
from proxy_lm.errors import RequestError

Signatures: TypeAlias = npt.NDArray[np.uint32]

NUM_VALUES = 128
SHINGLE_WORDS = 5
SEED = 1
SCHEME = "affine32"
_NOTHING = np.uint32(0xFFFFFFFF)
# How the library weighs false candidates against missed pairs: a false one costs one comparison here, a missed one stays in the corpus.
_WEIGHTS = (0.1, 0.9)
_VALUES_AT_ONCE = 256  # shingles permuted at a time: their table of 128 columns stays in the processor's cache
_ESTIMATE_SLACK = 0.15  # over three standard deviations of an estimate from 128 values
_CACHED_SETS = 4096


def check_library() -> None:
    """Raises `RequestError` naming the extra when the library is not installed."""
    try:
        import datasketch  # noqa: F401
    except ImportError as error:
        raise RequestError(
            "near duplicates need the library datasketch: pip install 'proxy-lm[dedup]', or give --near-duplicates off"
        ) from error


def signature(data: bytes) -> Signatures:
    """The MinHash signature of a document's shingles, shape [NUM_VALUES]. A document without words has all values at their maximum."""
    factors, terms = _permutations()
    values = _mix32((shingle_set(data, SHINGLE_WORDS) >> np.uint64(32)).astype(np.uint32))
    least = np.full(NUM_VALUES, _NOTHING)
    for first in range(0, len(values), _VALUES_AT_ONCE):
        permuted = values[first : first + _VALUES_AT_ONCE, None] * factors
        permuted += terms
        np.minimum(least, permuted.min(axis=0), out=least)
    return least


def _mix32(values: Signatures) -> Signatures:
    """The finalizer of MurmurHash3 for 32 bits, which the library applies before its permutations."""
    values = values ^ (values >> np.uint32(16))
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values *= np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def near_duplicates(signatures: Signatures, read: Callable[[int], bytes], threshold: float) -> dict[int, int]:
    """For each document to drop, the kept one it is like. `signatures` [num_documents, NUM_VALUES] may be memory-mapped.

    `read(index)` gives a document's bytes; it is called for documents that share a band with an earlier one, and no others.
    """
    buckets = _shared_buckets(signatures, threshold)
    kept: defaultdict[int, list[int]] = defaultdict(list)
    sets: OrderedDict[int, Hashes] = OrderedDict()
    copies: dict[int, int] = {}

    def shingles(index: int) -> Hashes:
        if index not in sets:
            sets[index] = shingle_set(read(index), SHINGLE_WORDS)
            if len(sets) > _CACHED_SETS:
                sets.popitem(last=False)
        return sets[index]

    for index, mine in buckets:
        earlier = sorted({other for bucket in mine for other in kept[bucket]})
        if earlier:
            alike = np.mean(signatures[earlier] == signatures[index], axis=1) >= threshold - _ESTIMATE_SLACK
            for other in np.asarray(earlier)[alike].tolist():
                if jaccard(shingles(index), shingles(other)) >= threshold:
                    copies[index] = other
                    break
        if index not in copies:
            for bucket in mine:
                kept[bucket].append(index)
    return copies


def _shared_buckets(signatures: Signatures, threshold: float) -> list[tuple[int, list[int]]]:
    """Documents that share a band's bucket with another, in order, each with its buckets' numbers.

    One band at a time, so that memory stays at a few integers a document whatever the number of bands.
    """
    num_bands, width = bands(threshold)
    with_words = np.flatnonzero((signatures != _NOTHING).any(axis=1)) if len(signatures) else np.zeros(0, np.int64)
    members: defaultdict[int, list[int]] = defaultdict(list)
    next_bucket = 0
    for band in range(num_bands):
        keys = _band_keys(signatures[with_words, band * width : (band + 1) * width])
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]]) if len(keys) else np.zeros(0, np.int64)
        counts = np.diff(np.r_[starts, len(keys)])
        for start, count in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            for index in with_words[order[start : start + count]].tolist():
                members[index].append(next_bucket)
            next_bucket += 1
    return sorted(members.items())


def _band_keys(band: Signatures) -> npt.NDArray[np.uint64]:
    """One number for each row of a band; equal rows, equal numbers. Two rows that meet by chance cost one comparison."""
    keys = np.zeros(len(band), np.uint64)
    for column in range(band.shape[1]):
        keys = (keys ^ band[:, column].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


@lru_cache(maxsize=8)
def bands(threshold: float) -> tuple[int, int]:
    """Number of bands and values a band for a similarity threshold, by the library's optimisation."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=NUM_VALUES, weights=_WEIGHTS)
    return int(index.b), int(index.r)


@lru_cache(maxsize=1)
def _permutations() -> tuple[Signatures, Signatures]:
    """Factors and terms of the library's permutations modulo 2^32, shape [NUM_VALUES] each."""
    from datasketch import MinHash

    # The scheme is named because another one gives other signatures, and the corpus digest would depend on the library's release.
    factors, terms = MinHash(NUM_VALUES, seed=SEED, hashfunc=int, scheme=SCHEME).permutations
    return np.asarray(factors, np.uint32), np.asarray(terms, np.uint32)
