"""How much memory `proxy-lm prepare` may take: what `--max-memory` means for blocks, windows and tables, and tables that lie in files.

The cap is for what one process holds beside the program and its libraries with their buffers (about 150 MB together): documents on their
way, and what is known of each document. Documents' bytes are never all held, so a corpus may be many times the cap. What grows with the
number of documents lies in mapped files, whose pages the system takes back when it needs them, save for a few integers a document while
copies are searched. That is forecast as `BYTES_PER_DOCUMENT`, and a corpus of more documents than fit is refused before the search.

Not promised: a bound for hub data sets, which their own library reads, and for parquet files with pages larger than the cap.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compressors.files import disk_error
from proxy_lm.errors import RequestError

BYTES_PER_DOCUMENT = 256
"""Of unmapped memory in the process that compares and writes: 175 to 210 were measured, with a fifth of 200,000 documents near copies."""
DOCUMENT_FACTOR = 64
"""The cap holds so many of the largest wanted documents: a JSON line may be 8 times as long, and Python keeps 4 bytes a character."""
_BLOCK_BYTES, _BLOCK_DOCUMENTS = 16_000_000, 8192
_CACHE_BYTES = 1 << 26
_WINDOW_BYTES = 1 << 31  # what `zstd --long=31` writes


@dataclass(frozen=True)
class Memory:
    """Sizes that follow from the cap; plain values for worker processes. Nothing in the corpus depends on them."""

    max_bytes: int | None = None
    block_bytes: int = _BLOCK_BYTES
    """Documents gathered by a worker before they are written."""
    block_documents: int = _BLOCK_DOCUMENTS
    """And not more of them, however small they are: a signature is 512 bytes."""
    window_bytes: int = _WINDOW_BYTES
    """The farthest that a zstd stream may look back; larger windows are refused."""

    cache_bytes: int = _CACHE_BYTES
    """Shingles of documents that were just compared."""

    @classmethod
    def of(cls, max_bytes: int | None, max_bytes_per_document: int) -> Memory:
        """The sizes for a cap; None: no cap. Raises `RequestError` for one that does not hold the largest wanted document."""
        if max_bytes is None:
            return cls()
        if max_bytes < DOCUMENT_FACTOR * max_bytes_per_document:
            raise RequestError(
                f"--max-memory {max_bytes} is under {DOCUMENT_FACTOR} times --max-bytes-per-document {max_bytes_per_document}, which "
                f"reading may take; give at least {DOCUMENT_FACTOR * max_bytes_per_document}, or take smaller documents only"
            )
        return cls(
            max_bytes,
            block_bytes=min(_BLOCK_BYTES, max(max_bytes // 8, 1)),
            block_documents=min(_BLOCK_DOCUMENTS, max(max_bytes // 8192, 16)),
            cache_bytes=min(_CACHE_BYTES, max_bytes // 8),
            window_bytes=min(_WINDOW_BYTES, 1 << max((max_bytes // 2).bit_length() - 1, 10)),
        )

    def check(self, num_documents: int) -> None:
        """Raises `RequestError` where what is known of so many documents does not fit."""
        needed = BYTES_PER_DOCUMENT * num_documents
        if self.max_bytes is not None and needed > self.max_bytes:
            raise RequestError(
                f"comparing {num_documents} documents takes about {needed} bytes, over --max-memory {self.max_bytes}; give {needed} or "
                "more, or drop small documents with --min-bytes"
            )


def mapped(file: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros in a new file. Its place on the disk is taken now, where a full disk is an error; found while writing, it kills the process."""
    if 0 in shape:
        return np.zeros(shape, dtype)
    try:
        array = np.lib.format.open_memmap(file, mode="w+", dtype=np.dtype(dtype), shape=shape)
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    except OSError as error:
        raise disk_error(error, file) from error
    return array
