"""Learning the strings of `phrases`: parse, join the neighbours that meet most, drop what is missed least, again.

    dictionary = learn(documents, LearnSettings(alphabet_size=65_536))

The dictionary starts with the 256 bytes. Each round parses the text with what there is (dictionary.py) and adds the pairs of neighbouring
symbols that meet most often as new strings, a quarter more at a time. Past the wanted size the least useful strings are dropped again:
the loss of a string is how often it is used times what its spelling without it costs more. Some rounds of adding and dropping follow at
full size, so that early strings which later ones replaced give their codes back. Joining pairs by count is byte pair encoding (P. Gage,
1994); parsing with the fewest symbols instead of repeating the joins, and dropping again, is what this adds. No phrase stops at a space or
a word's end unless `borders` says so.

Small dictionaries are learned from a fair part of the documents (every 2nd, 4th, ...), which changes nothing but the time. Documents and
settings alone decide the result: all counts are integers and ties go to the lower codes.

Not promised: the best dictionary. The strings that a corpus of one kind teaches serve text of that kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from compressors.errors import RequestError
from compressors.neural import phrases_count
from compressors.neural.dictionary import NO_CODE, Dictionary, Parse

Borders: TypeAlias = Literal["none", "lines", "words"]
Report: TypeAlias = Callable[[int, int], None]
Array: TypeAlias = npt.NDArray[Any]

_GROWTH: Final = 0.25  # of the dictionary, each round
_OVERSHOOT: Final = 0.2  # of the wanted size, before strings are dropped
_REFINEMENTS: Final = 2
_BYTES_PER_CODE: Final = 4096  # text looked at for each code the dictionary has
_LEAST_TABLE_BITS: Final = 16
# `lines`: after a line's end a phrase holds only line ends and indentation. `words`: nothing but a word's own bytes after its first one.
_AFTER_LINE: Final = re.compile(rb"\n[\r\n]*[ \t]*[^ \t\r\n]")
_AFTER_WORD: Final = re.compile(rb"[0-9A-Za-z_\x80-\xff][^0-9A-Za-z_\x80-\xff]")


@dataclass(frozen=True, kw_only=True)
class LearnSettings:
    """What is learned; see the options of the view (phrases.py)."""

    alphabet_size: int
    parse: Parse = "fewest"
    borders: Borders = "none"
    max_phrase_bytes: int = 32
    max_repeats: int = 2
    min_documents: int = 2


def learn(documents: Sequence[bytes], settings: LearnSettings, report: Report | None = None) -> Dictionary:
    """A dictionary of `alphabet_size` strings, bytes first. `report(done, total)` counts strings on the way. Raises `RequestError` where
    the documents have not so many phrases."""
    size = settings.alphabet_size
    strings = [bytes([value]) for value in range(256)]
    exhausted = False
    for refinement in range(_REFINEMENTS + 1):
        most = size + round(size * _OVERSHOOT / (1 + refinement / 2))
        while len(strings) < most:
            texts = documents if exhausted else _part(documents, len(strings))
            found = _Parsed(strings, texts, settings).pairs(min(most - len(strings), max(64, round(len(strings) * _GROWTH))))
            strings += found
            if report is not None:
                report(min(len(strings), size), size)
            if not found and len(texts) == len(documents):
                break
            exhausted = exhausted or not found
        if len(strings) < size:
            raise RequestError(
                f"the documents have phrases for {len(strings)} symbols, bytes included, with min_documents={settings.min_documents} and "
                f"borders '{settings.borders}', and the view is to have {size}; give more documents, or a smaller alphabet_size"
            )
        strings = _Parsed(strings, documents, settings).most_missed(size)
    return Dictionary.from_strings(strings)


class _Parsed:
    """Documents parsed with a dictionary of `strings`."""

    def __init__(self, strings: list[bytes], documents: Sequence[bytes], settings: LearnSettings) -> None:
        self._settings = settings
        self._strings = strings
        self._dictionary = Dictionary.from_strings(strings)
        data = np.frombuffer(b"".join(documents), dtype=np.uint8)
        offsets = np.array([0, *accumulate(map(len, documents))], dtype=np.int64)
        self._codes, self._offsets = self._dictionary.encode_flat(data, offsets, parse=settings.parse)

    def pairs(self, num_wanted: int) -> list[bytes]:
        """The new strings that the most frequent pairs spell, at most `num_wanted`, the most frequent first."""
        keys, counts, documents = self._counted_pairs()
        good = (counts > 1) & (documents >= self._settings.min_documents)
        keys, counts = keys[good], counts[good]
        known = set(self._strings)
        found: list[bytes] = []
        for place in np.lexsort((keys, -counts)).tolist():
            if len(found) == num_wanted:
                break
            first, second = divmod(int(keys[place]), 1 << 32)
            text = self._strings[first] + self._strings[second]
            if text not in known and _within_borders(text, self._settings.borders):
                known.add(text)
                found.append(text)
        return found

    def most_missed(self, num_wanted: int) -> list[bytes]:
        """The `num_wanted` strings, all bytes among them, whose loss would cost the most symbols, in their old order."""
        dictionary = self._dictionary
        used = np.zeros(dictionary.num_codes, dtype=np.int64)
        phrases_count.count_symbols(self._codes, self._offsets, self._settings.max_repeats, used)
        costs = phrases_count.costs_without(dictionary.labels, dictionary.parents, dictionary.codes != NO_CODE, dictionary.depths)
        loss = used * (costs[dictionary.decode_nodes] - 1)
        loss[:256] = np.iinfo(np.int64).max
        kept = np.sort(np.argsort(-loss, kind="stable")[:num_wanted])
        return [self._strings[code] for code in kept.tolist()]

    def _counted_pairs(self) -> tuple[Array, Array, Array]:
        settings = self._settings
        for bits in range(_LEAST_TABLE_BITS, 63):
            keys = np.full(1 << bits, phrases_count.NO_PAIR, dtype=np.uint64)
            counts, documents = np.zeros((2, 1 << bits), dtype=np.int32)
            most_bytes, most_repeats = settings.max_phrase_bytes, settings.max_repeats
            lengths = self._dictionary.lengths
            if phrases_count.count_pairs(self._codes, self._offsets, lengths, most_bytes, most_repeats, keys, counts, documents) >= 0:
                return keys, counts, documents
        raise AssertionError("a table of 2**62 pairs is too small")


def _within_borders(text: bytes, borders: Borders) -> bool:
    """Whether a phrase may read `text`."""
    if borders == "lines":
        return not _AFTER_LINE.search(text)
    return borders == "none" or not _AFTER_WORD.search(text)


def _part(documents: Sequence[bytes], num_codes: int) -> Sequence[bytes]:
    """Every k-th document, k a power of two such that about `_BYTES_PER_CODE` bytes a code are left."""
    stride, size = 1, sum(map(len, documents))
    while size > 2 * stride * num_codes * _BYTES_PER_CODE and len(documents) > 64 * stride:
        stride *= 2
    return documents[::stride]
