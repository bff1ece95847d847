"""What an analysis looks at: a sample of documents and, for one view, their symbols and where each symbol's bytes begin.

    sample = Sample.of_corpus(corpus, "test", max_bytes=4_000_000)
    told = Told(compressor, sample)
    told.symbols[3], told.borders[3]        # uint32 [num_symbols], int64 [num_symbols + 1]; None where there is none

Encoded when first asked for, once. A document that the view refuses has None for symbols.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeAlias

import numpy as np

from compressors.base import Borders, Compressor, Symbols
from proxy_lm.data.corpus import Corpus
from proxy_lm.view_training import split_range

JSON: TypeAlias = dict[str, Any]
# Called with the bytes of documents that are done.
Advance: TypeAlias = Callable[[int], None]

# Bytes of which dictionaries of Python objects are made.
MAX_TEXT_BYTES = 4_000_000
_BATCH_BYTES = 1 << 20


@dataclass(frozen=True)
class Sample:
    """The first documents of a split, in the corpus' own drawn order."""

    documents: list[bytes]
    languages: list[str]

    @classmethod
    def of_corpus(cls, corpus: Corpus, split: str, max_bytes: int) -> Self:
        """Whole documents from the first on, at least one, until the next would pass `max_bytes`."""
        documents: list[bytes] = []
        indexes: list[int] = []
        num_bytes = 0
        for index in split_range(corpus, split):
            num_bytes += int(corpus.sizes[index])
            if documents and num_bytes > max_bytes:
                break
            documents.append(corpus.document(index))
            indexes.append(index)
        column = corpus.column("language")
        return cls(documents, [column[index] or "(unknown)" for index in indexes])

    @property
    def num_bytes(self) -> int:
        """Bytes of all documents."""
        return sum(map(len, self.documents))

    def openings(self, num_documents: int, size_bytes: int) -> list[bytes]:
        """The first `size_bytes` of the first documents that have so many; at most `num_documents`."""
        return [document[:size_bytes] for document in self.documents if len(document) >= size_bytes][:num_documents]


class Told:
    """One view's telling of a sample."""

    def __init__(self, compressor: Compressor, sample: Sample, advance: Advance = lambda num_bytes: None) -> None:
        self.compressor = compressor
        self.sample = sample
        self._advance = advance

    @cached_property
    def symbols(self) -> list[Symbols | None]:
        """Symbols of every document; None where the view refuses it."""
        return encode_all(self.compressor, self.sample.documents, self._advance)

    @cached_property
    def borders(self) -> list[Borders | None] | None:
        """Borders of every told document; None for a view whose symbols stand for no stretch of bytes."""
        found: list[Borders | None] = []
        for document, symbols in zip(self.sample.documents, self.symbols, strict=True):
            borders = None if symbols is None else self.compressor.spans(document)
            if borders is None and symbols is not None:
                return None
            found.append(borders)
        return found

    @cached_property
    def texts(self) -> dict[int, Counter[bytes]]:
        """What each symbol stands for in the first `MAX_TEXT_BYTES` of the sample, and how often. Needs `borders`."""
        assert self.borders is not None
        found: dict[int, Counter[bytes]] = {}
        seen = 0
        for document, symbols, borders in zip(self.sample.documents, self.symbols, self.borders, strict=True):
            if symbols is None or borders is None or seen > MAX_TEXT_BYTES:
                continue
            seen += len(document)
            edges = borders.tolist()
            for k, symbol in enumerate(symbols.tolist()):
                found.setdefault(symbol, Counter())[document[edges[k] : edges[k + 1]]] += 1
        return found

    @property
    def flat(self) -> Symbols:
        """All symbols of all documents in order, uint32."""
        return np.concatenate([np.zeros(0, np.uint32), *(symbols for symbols in self.symbols if symbols is not None)])

    @property
    def told_bytes(self) -> int:
        """Bytes of the documents that the view did not refuse."""
        return sum(len(d) for d, symbols in zip(self.sample.documents, self.symbols, strict=True) if symbols is not None)


def encode_all(compressor: Compressor, documents: list[bytes], advance: Advance = lambda num_bytes: None) -> list[Symbols | None]:
    """`encode_batch` over batches of about a megabyte, so that progress can be told."""
    found: list[Symbols | None] = []
    batch: list[bytes] = []
    for index, document in enumerate(documents):
        batch.append(document)
        num_bytes = sum(map(len, batch))
        if num_bytes >= _BATCH_BYTES or index + 1 == len(documents):
            found += compressor.encode_batch(batch)
            advance(num_bytes)
            batch = []
    return found
