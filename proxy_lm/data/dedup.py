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

import itertools
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

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
_ROWS_AT_ONCE = 16_384


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


def near_duplicates(signatures: Signatures, read: Callable[[int], bytes], threshold: float, cache_bytes: int = 1 << 26) -> dict[int, int]:
    """For each document to drop, the kept one it is like. `signatures` [num_documents, NUM_VALUES] may be memory-mapped.

    `read(index)` gives a document's bytes; it is called for documents that share a band with an earlier one, and no others;
    what it gave is remembered as shingles, `cache_bytes` of them.
    """
    pairs = _shared_buckets(signatures, threshold)
    kept = np.zeros(len(pairs.buckets), np.int64)  # of each bucket the documents that stay, from `pairs.starts` on
    num_kept = np.zeros(len(pairs.starts), np.int32)
    sets: OrderedDict[int, Hashes] = OrderedDict()
    cached = [0]
    copies: dict[int, int] = {}

    def shingles(index: int) -> Hashes:
        if index not in sets:
            sets[index] = found = shingle_set(read(index), SHINGLE_WORDS)
            cached[0] += found.nbytes
            while cached[0] > cache_bytes and len(sets) > 1:
                cached[0] -= sets.popitem(last=False)[1].nbytes
        return sets[index]

    borders = (
        np.flatnonzero(np.r_[True, pairs.documents[1:] != pairs.documents[:-1], True]) if len(pairs.documents) else np.zeros(0, np.int64)
    )
    for first, end in itertools.pairwise(borders):
        index, mine = int(pairs.documents[first]), pairs.buckets[first:end]
        starts = pairs.starts[mine]
        earlier = np.unique(np.concatenate([kept[start : start + count] for start, count in zip(starts, num_kept[mine], strict=True)]))
        if len(earlier):
            alike = np.mean(signatures[earlier] == signatures[index], axis=1) >= threshold - _ESTIMATE_SLACK
            for other in earlier[alike].tolist():
                if jaccard(shingles(index), shingles(other)) >= threshold:
                    copies[index] = other
                    break
        if index not in copies:
            kept[starts + num_kept[mine]] = index
            num_kept[mine] += 1
    return copies


class _Pairs(NamedTuple):
    """Documents and the buckets they share with others, one pair a row, by document and then by band."""

    documents: npt.NDArray[np.int64]
    buckets: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    """Of each bucket: how many pairs earlier buckets have."""


def _shared_buckets(signatures: Signatures, threshold: float) -> _Pairs:
    """Documents that share a band's bucket with another. A band at a time, so that memory stays at a few integers a document."""
    num_bands, width = bands(threshold)
    has_words = np.zeros(len(signatures), np.bool_)
    for first in range(0, len(signatures), _ROWS_AT_ONCE):
        has_words[first : first + _ROWS_AT_ONCE] = (signatures[first : first + _ROWS_AT_ONCE] != _NOTHING).any(axis=1)
    with_words = np.flatnonzero(has_words)
    documents, buckets, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    num_buckets = 0
    for band in range(num_bands):
        keys = np.zeros(len(with_words), np.uint64)
        for first in range(0, len(with_words), _ROWS_AT_ONCE):
            some = with_words[first : first + _ROWS_AT_ONCE]
            keys[first : first + _ROWS_AT_ONCE] = _band_keys(signatures[some, band * width : (band + 1) * width])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.int64)
        sizes = np.diff(np.r_[starts, len(keys)])
        documents.append(with_words[order[np.repeat(sizes > 1, sizes)]])
        counts.append(sizes[sizes > 1])
        buckets.append(np.repeat(np.arange(num_buckets, num_buckets + len(counts[-1]), dtype=np.int32), counts[-1]))
        num_buckets += len(counts[-1])
    joined = np.concatenate(documents)
    by_document = np.argsort(joined, kind="stable")
    sizes = np.concatenate(counts)
    return _Pairs(joined[by_document], np.concatenate(buckets)[by_document], np.cumsum(sizes) - sizes)


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
