"""Parts of an encoded view: the symbols of one block of documents, in memory and as a file. `proxy-lm encode` makes and joins them.

A part file is a line of JSON, then int64 lengths (-1: raw only), then the symbols. It is not flushed to the disk: its line holds the digest
of the rest, and a part that a loss of power left damaged is made anew, like one that is missing.

Each document of a compressor that promises exactness is decoded again (all, or each k-th): one that does not come back is marked raw
only, like one that the compressor refuses, and counted by reason. Not promised: that an inexact view decodes; its rate is measured.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

import numpy as np
import numpy.typing as npt

from compressors.base import Compressor, Symbols
from compressors.errors import NotRepresentableError, ProxyError
from compressors.files import atomic_writer, canonical_json, disk_error
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.view_files import symbol_type
from proxy_lm.errors import WorkError

NOT_REPRESENTABLE: Final = "not_representable"
ROUND_TRIP_DIFFERS: Final = "round_trip_differs"
NUM_EXAMPLES: Final = 10
"""Refusals that are told in the compressor's own words: of each part, and of the whole."""


@dataclass(frozen=True)
class Part:
    """Symbols of one block."""

    header: dict[str, Any]
    """Counts, reasons and the digest of the two arrays."""
    lengths: npt.NDArray[np.int64]
    """Symbols of each document, [num_documents]; -1 where it is raw only."""
    symbols: npt.NDArray[Any]
    """All symbols back to back, [num_symbols], in the type of the file."""

    def write(self, path: Path) -> None:
        """Make the part file. Raises `WorkError` for a full disk."""
        with atomic_writer(path, durable=False) as file:
            file.write(canonical_json(self.header) + b"\n")
            file.write(self.lengths.data)
            file.write(self.symbols.data)

    @classmethod
    def read(cls, path: Path, num_documents: int, alphabet_size: int) -> Self | None:
        """A finished part; None where there is none, or a damaged one."""
        try:
            line, _, body = path.read_bytes().partition(b"\n")
            header = json.loads(line)
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise disk_error(error, path) from error
        if not isinstance(header, dict) or header.get("body_sha256") != hashlib.sha256(body).hexdigest():
            return None
        lengths = np.frombuffer(body, "<i8", num_documents)
        return cls(header, lengths, np.frombuffer(body, symbol_type(alphabet_size), offset=lengths.nbytes))


@dataclass
class Totals:
    """What is counted over all parts."""

    checked: int = 0
    exact: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0


class Joiner:
    """Appends parts, given in order, to one file of symbols."""

    def __init__(self, file: IO[bytes]) -> None:
        self.totals = Totals()
        self.size_bytes = 0
        self._file = file
        self._digest = hashlib.sha256()
        self._lengths = [np.zeros(0, np.int64)]

    def add(self, part: Part) -> None:
        """The next block."""
        self._file.write(part.symbols.data)
        self._digest.update(part.symbols.data)
        self.size_bytes += part.symbols.nbytes
        self._lengths.append(part.lengths)
        self.totals.checked += part.header["round_trips_checked"]
        self.totals.exact += part.header["round_trips_exact"]
        self.totals.reasons.update(part.header["raw_only"].values())
        self.totals.examples += part.header["examples"]
        self.totals.cpu_seconds += part.header["cpu_seconds"]

    @property
    def sha256(self) -> str:
        """Hex digest of the symbols so far."""
        return self._digest.hexdigest()

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Symbols of every document so far, -1 where it is raw only."""
        return np.concatenate(self._lengths)


def encode_block(compressor: Compressor, corpus: Corpus, documents: range, verify_every: int) -> Part:
    """Encode a block and decode each `verify_every`-th of its documents again (0: none).

    Raises `WorkError` where the compressor fails or emits a symbol outside its alphabet.
    """
    clock = time.thread_time if compressor.in_threads else time.process_time
    began = clock()
    data = corpus.documents(documents)
    with _blamed_on(compressor, documents):
        encoded = compressor.encode_batch(data)
    assert len(encoded) == len(data)
    flat = _joined(encoded)
    if flat.size and int(flat.max()) >= compressor.alphabet_size:
        raise _outside_alphabet(compressor, documents, encoded)
    reasons = {index: NOT_REPRESENTABLE for index, symbols in zip(documents, encoded, strict=True) if symbols is None}
    checked = exact = 0
    if verify_every:
        places = [place for place, index in enumerate(documents) if index % verify_every == 0 and encoded[place] is not None]
        with _blamed_on(compressor, documents):
            same = _come_back(compressor, [data[place] for place in places], [encoded[place] for place in places])
        checked, exact = len(same), sum(same)
        if compressor.exact and exact < checked:
            for place in (place for place, back in zip(places, same, strict=True) if not back):
                reasons[documents[place]] = ROUND_TRIP_DIFFERS
                encoded[place] = None
            flat = _joined(encoded)
            reasons = dict(sorted(reasons.items()))
    lengths = np.array([-1 if symbols is None else symbols.size for symbols in encoded], dtype="<i8")
    symbols = flat.astype(symbol_type(compressor.alphabet_size))
    digest = hashlib.sha256(lengths.data)
    digest.update(symbols.data)
    header = {
        "num_documents": len(documents),
        "body_sha256": digest.hexdigest(),
        "round_trips_checked": checked,
        "round_trips_exact": exact,
        "raw_only": {str(index): reason for index, reason in reasons.items()},
        "examples": _why(compressor, corpus, reasons),
        "cpu_seconds": clock() - began,
    }
    return Part(header, lengths, symbols)


def comes_back(compressor: Compressor, document: bytes, symbols: Symbols) -> bool:
    """Whether symbols decode to the document, byte for byte."""
    return _come_back(compressor, [document], [symbols])[0]


def _come_back(compressor: Compressor, documents: Sequence[bytes], symbols: Sequence[Any]) -> list[bool]:
    decoded = compressor.decode_batch(symbols, max_bytes=max((len(document) for document in documents), default=0) or 1)
    return [one == document for one, document in zip(decoded, documents, strict=True)]


def _joined(encoded: Sequence[Symbols | None]) -> Symbols:
    return np.concatenate([np.zeros(0, np.uint32), *(symbols for symbols in encoded if symbols is not None)])


@contextmanager
def _blamed_on(compressor: Compressor, documents: range) -> Iterator[None]:
    """Whatever a stranger's compressor raises, the user learns whose it is and where."""
    try:
        yield
    except ProxyError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise WorkError(f"view '{compressor.name}' failed in documents {documents.start}..{documents.stop - 1} ({what})") from error


def _outside_alphabet(compressor: Compressor, documents: range, encoded: Sequence[Symbols | None]) -> WorkError:
    largest = [int(symbols.max()) if symbols is not None and symbols.size else -1 for symbols in encoded]
    place = next(place for place, symbol in enumerate(largest) if symbol >= compressor.alphabet_size)
    return WorkError(
        f"view '{compressor.name}' emitted the symbol {largest[place]} for document {documents[place]}, and its alphabet ends at "
        f"{compressor.alphabet_size - 1}; the compressor is wrong and nothing was kept"
    )


def _why(compressor: Compressor, corpus: Corpus, reasons: Mapping[int, str]) -> list[str]:
    """The first few refusals in the compressor's own words."""
    said = []
    for index, reason in list(reasons.items())[:NUM_EXAMPLES]:
        try:
            compressor.encode(corpus.document(index))
            said.append(f"document {index}: {reason}")
        except NotRepresentableError as error:
            said.append(f"document {index}: {error}")
    return said
