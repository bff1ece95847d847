"""One document cut into stretches of whole lines: what `proxy-lm prepare --cut-bytes N` does to each document that it keeps.

A stretch is as many whole lines as fit into N bytes; of a line longer than N, N bytes. Joined again, the stretches are the document, byte
for byte. A line ends with a newline byte, which belongs to it, so CR LF stays together unless N bytes end between the two.

Not promised: whole characters. Documents are bytes, and a long line is cut after N of them wherever that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MIN_CUT_BYTES: Final = 16
"""Each telling of a stretch has four special ids beside its bytes: below 16 bytes they would be more than a fifth of what is told."""


def stretches(data: bytes, max_bytes: int) -> Iterator[bytes]:
    """The stretches of a document in order, none longer than `max_bytes`. An empty document is one empty stretch, no other is empty."""
    start = 0
    while len(data) - start > max_bytes:
        stop = data.rfind(b"\n", start, start + max_bytes) + 1 or start + max_bytes
        yield data[start:stop]
        start = stop
    yield data[start:]
