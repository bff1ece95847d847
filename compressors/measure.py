"""What a view does to documents, measured: bytes a symbol, speed both ways, and proof that every document comes back.

Called by `proxy-lm compressor train` (on held-out documents) and `proxy-lm compressor bench`. Speeds are of this machine, one thread, first
pass over documents not seen before, in the batches in which a corpus is encoded, compiled code loaded beforehand; everything else is a
function of the documents and the view.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from compressors.base import Compressor, Symbols
from compressors.errors import WorkError

_BATCH_BYTES: Final = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Totals over the documents of one measurement."""

    num_documents: int
    source_bytes: int
    num_raw_only: int
    """Documents that the view refused; they are used raw."""
    raw_only_bytes: int
    num_symbols: int
    """Of the documents that were not refused."""
    num_round_trips: int
    """Documents that were decoded again; of these, `num_exact` came back byte for byte."""
    num_exact: int
    encode_seconds: float
    decode_seconds: float
    entropy_bits: float
    """Order-0 entropy of a symbol over all documents: what a symbol costs when nothing but its frequency is known."""

    @property
    def told_bytes(self) -> int:
        """Bytes of the documents that the view accepted."""
        return self.source_bytes - self.raw_only_bytes

    @property
    def bytes_per_symbol(self) -> float | None:
        """Of the accepted documents; None where there is no symbol."""
        return self.told_bytes / self.num_symbols if self.num_symbols else None

    def report(self) -> dict[str, int | float | None]:
        """The fields and the rates made of them, as JSON. Speeds are in 10^6 bytes of document a second."""
        return {
            **asdict(self),
            "bytes_per_symbol": self.bytes_per_symbol,
            "encode_megabytes_per_second": self.source_bytes / 1e6 / self.encode_seconds if self.encode_seconds else None,
            "decode_megabytes_per_second": self.told_bytes / 1e6 / self.decode_seconds if self.decode_seconds else None,
            "raw_only_share": self.num_raw_only / self.num_documents if self.num_documents else None,
        }


def measure(compressor: Compressor, documents: Iterable[bytes]) -> Measurement:
    """Encode and decode every document. Raises `WorkError` when a view that promises exactness does not give a document back."""
    num_documents = source_bytes = num_raw_only = raw_only_bytes = num_symbols = num_exact = 0
    encode_seconds = decode_seconds = 0.0
    counts: dict[int, int] = {}
    _warm_up(compressor)
    for batch in _batches(documents):
        began = time.perf_counter()
        encoded = compressor.encode_batch(batch)
        encode_seconds += time.perf_counter() - began
        told = [index for index, symbols in enumerate(encoded) if symbols is not None]
        kept = [symbols for symbols in encoded if symbols is not None]
        began = time.perf_counter()
        decoded = compressor.decode_batch(kept)
        decode_seconds += time.perf_counter() - began
        for index, symbols, again in zip(told, kept, decoded, strict=True):
            num_symbols += len(symbols)
            num_exact += again == batch[index]
            if compressor.exact and again != batch[index]:
                raise WorkError(
                    f"view '{compressor.name}' promises exactness and did not give back document {num_documents + index} "
                    f"({len(batch[index])} bytes); do not use it before it is repaired"
                )
            for symbol, count in zip(*np.unique(symbols, return_counts=True), strict=True):
                counts[int(symbol)] = counts.get(int(symbol), 0) + int(count)
        batch_bytes = sum(map(len, batch))
        num_documents += len(batch)
        source_bytes += batch_bytes
        num_raw_only += len(batch) - len(told)
        raw_only_bytes += batch_bytes - sum(len(batch[index]) for index in told)
    return Measurement(
        num_documents=num_documents,
        source_bytes=source_bytes,
        num_raw_only=num_raw_only,
        raw_only_bytes=raw_only_bytes,
        num_symbols=num_symbols,
        num_round_trips=num_documents - num_raw_only,
        num_exact=num_exact,
        encode_seconds=encode_seconds,
        decode_seconds=decode_seconds,
        entropy_bits=_entropy_bits(np.array(list(counts.values()), dtype=np.float64)),
    )


def _warm_up(compressor: Compressor) -> None:
    """A few bytes through both directions, so that compiling and loading code is not taken for speed."""
    compressor.decode_batch([symbols for symbols in compressor.encode_batch([b"warm up\n"]) if symbols is not None])


def _batches(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Whole documents, about `_BATCH_BYTES` at a time."""
    batch: list[bytes] = []
    num_bytes = 0
    for document in documents:
        batch.append(document)
        num_bytes += len(document)
        if num_bytes >= _BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def entropy_bits(symbols: Symbols) -> float:
    """Order-0 entropy of one sequence, in bits a symbol; 0 for the empty one."""
    return _entropy_bits(np.unique(symbols, return_counts=True)[1].astype(np.float64))


def _entropy_bits(counts: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    shares = counts / counts.sum() if len(counts) else counts
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # + 0.0: no minus zero
