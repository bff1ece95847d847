"""Files read as streams of bytes, plain or compressed (`.gz`, `.zst`), whose damage is always noticed.

A truncated file, a checksum that does not fit and bytes after the last frame that are no frame raise `RequestError` with the file's name.
Several gzip members or zstd frames in a row are one stream. Memory stays bounded however well the file compresses.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import zstandard

from proxy_lm.errors import RequestError

# One compressed piece of this size unpacks to at most about 8 MB (zstd's best rate), and normally to about 1 KB.
_COMPRESSED_PIECE_BYTES = 256
MAX_WINDOW_BYTES = 1 << 31  # what `zstd --long=31` writes


@contextmanager
def open_stream(path: Path, max_window_bytes: int = MAX_WINDOW_BYTES) -> Iterator[IO[bytes]]:
    """The unpacked bytes of `path`, by its suffix; a zstd window over `max_window_bytes` is refused.

    Raises `RequestError` from inside the block when the file turns out damaged.
    """
    try:
        with path.open("rb") as file:
            if path.suffix in (".gz", ".tgz"):
                yield io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 18)  # type: ignore[type-var]
            elif path.suffix in (".zst", ".tzst"):
                yield io.BufferedReader(ZstdStream(file, max_window_bytes), 1 << 18)
            else:
                yield file
    except EOFError as error:
        raise RequestError(f"{path} is truncated: its last compressed block is incomplete; fetch or make the file again") from error
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        if "too much memory" in str(error):
            raise RequestError(
                f"{path} was packed with a window over {max_window_bytes} bytes, the most that may be held; give a larger --max-memory, or "
                "pack the file again without --long"
            ) from error
        raise RequestError(f"{path} is damaged or has bytes after its end ({error}); fetch or make the file again") from error
    except OSError as error:
        raise RequestError(f"could not read {path}: {error.strerror or error}") from error


def open_parquet(path: Path) -> Any:
    """A parquet file's reader. Raises `RequestError` if it is none, or truncated."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, buffer_size=1 << 20)  # else a whole column of a row group is read at once
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"{path} is not a whole parquet file ({str(error).splitlines()[0]}); fetch or make the file again") from error


class ZstdStream(io.RawIOBase):
    """All zstd frames of a file as one stream. The library's own reader takes a truncated file for a short one; this raises `EOFError`."""

    def __init__(self, file: IO[bytes], max_window_bytes: int = MAX_WINDOW_BYTES) -> None:
        self._file = file
        self._context = zstandard.ZstdDecompressor(max_window_size=max_window_bytes)
        self._frame: Any = None
        self._packed = b""
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with what comes next; 0 at the end of the last frame."""
        while not self._unpacked:
            if not self._packed:
                self._packed = self._file.read(_COMPRESSED_PIECE_BYTES)
                if not self._packed:
                    if self._frame is not None:
                        raise EOFError("a zstd frame ends early")
                    return 0
            self._unpack()
        count = min(len(buffer), len(self._unpacked))
        buffer[:count] = self._unpacked[:count]
        self._unpacked = self._unpacked[count:]
        return count

    def _unpack(self) -> None:
        if self._frame is None:
            self._frame = self._context.decompressobj()
        self._unpacked = memoryview(self._frame.decompress(self._packed))
        self._packed = b""
        if self._frame.eof:
            self._packed = self._frame.unused_data
            self._frame = None
