"""Views that learn nothing: their symbols written out by hand, no window, zero byte or last byte lost, a bomb stopped."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import compressors
from compressors.errors import DecodeError


def test_worked_examples():
    def encode(kind, data, **options):
        return compressors.train(kind, [], **options).encode(data).tolist()

    assert encode("identity", b"a\xff") == [97, 255]
    blanks = compressors.train("blanks", [])
    assert [blanks.spelling()[s] for s in blanks.encode(b"a:\n    b  c\n\n        d\n").tolist()] == [
        *(b"a", b":", b"\n    ", b"b", b"  ", b"c", b"\n\n        ", b"d", b"\n")
    ]
    assert encode("nibble", b"\x4f\xa0") == [4, 15, 10, 0]
    assert encode("dibit", b"\x1b") == [0, 1, 2, 3]
    assert encode("bit", b"\x81") == [1, 0, 0, 0, 0, 0, 0, 1]
    assert encode("doublebyte", b"\x01\x02\x03") == [0x0102, 65536 + 3]
    assert encode("as-bytes", b"\x01\x02\x03", inner="doublebyte") == [0, 1, 2, 1, 0, 3]
    assert encode("gzip", b"") == [3, 0]
    assert compressors.train("doublebyte", []).spans(b"abc").tolist() == [0, 2, 3]
    assert compressors.train("nibble", []).spans(b"ab").tolist() == [0, 0, 1, 1, 2]


def test_no_window_of_a_short_code_is_lost():
    """B2: three bytes became one symbol, one byte none."""
    double = compressors.train("doublebyte", [])
    assert [len(double.encode(b"x" * n)) for n in range(6)] == [0, 1, 1, 2, 2, 3]
    assert [double.decode(double.encode(b"x" * n)) for n in range(4)] == [b"", b"x", b"xx", b"xxx"]


def test_a_last_zero_byte_is_kept():
    """B3: an even document that ends in a zero byte lost it, as padding."""
    double = compressors.train("doublebyte", [])
    documents = [b"", b"\0", b"a", b"a\0", b"\0\0", b"ab\0", b"abc\0"]
    assert [double.decode(double.encode(d)) for d in documents] == documents
    assert len({tuple(double.encode(d).tolist()) for d in documents}) == len(documents)


def test_doublebyte_has_one_last_byte():
    with pytest.raises(DecodeError, match="symbol 65537 at 1 "):
        compressors.train("doublebyte", []).decode(np.array([5, 65537, 65538], dtype=np.uint32))


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_a_bomb_is_stopped_before_it_fills_memory(name):
    """A small stream for half a gigabyte, under a cap of a megabyte, in a process that may not take that much memory."""
    import zlib

    import zstandard

    if name == "gzip":
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        stream = b"".join(packer.compress(bytes(1 << 20)) for _ in range(512)) + packer.flush()
    else:
        parameters = zstandard.ZstdCompressionParameters(compression_level=1, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0)
        stream = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(1 << 29))
    child = (
        "import resource, sys, numpy, compressors\n"
        "view = compressors.train(sys.argv[1], [])\n"
        "symbols = numpy.frombuffer(sys.stdin.buffer.read(), dtype=numpy.uint8).astype(numpy.uint32)\n"
        "view.decode(view.encode(b'warm'))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    view.decode(symbols, max_bytes=1 << 20)\n"
        "except compressors.errors.DecodeError as error:\n"
        "    print(error, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", child, name], input=stream, capture_output=True, check=True)
    message, _, grown_megabytes = done.stdout.decode().strip().rpartition(" ")
    assert "more than 1048576 bytes" in message
    assert int(grown_megabytes) <= 66
