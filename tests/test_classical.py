"""Classical compressors as rows: had back byte for byte, headers counted once, the missing ones named."""

import gzip
import lzma
import random
import sys
import zlib

import pytest

from proxy_lm.codec.classical import Classical, chunks_of, classical_compressors, closest_factors, measure
from proxy_lm.errors import RequestError, WorkError

FOUND, MISSING = classical_compressors()
CODE = b"".join(b"def area_%d(width, height):\n    return %d * width * height\n\n" % (n, n * n) for n in range(120))


def named(name: str) -> Classical:
    return next(one for one in FOUND if one.name == name)


@pytest.mark.parametrize("compressor", FOUND, ids=lambda one: one.name)
@pytest.mark.parametrize(
    "data",
    [b"\0", b"a", bytes(range(256)), CODE[:2048], CODE[:1999], random.Random(1).randbytes(2048), random.Random(2).randbytes(4099)],
    ids=["zero", "one", "all-bytes", "chunk", "prime", "noise", "noise-prime"],
)
def test_what_is_coded_is_had_back(compressor, data):
    assert compressor.decompress(compressor.compress(data)) == data


def test_every_row_is_here_or_named_with_its_remedy():
    names = [one.name for one in FOUND] + [one.name for one in MISSING]
    assert sorted(names) == sorted(["gzip-9", "zstd-19", "zstd-3", "lzma2", "lzma2-9e", "brotli-11", "png", "flac"])
    for name, reason, pip_name in MISSING:
        assert reason.endswith(f"pip install {pip_name}"), name


def test_what_is_not_installed_is_told(monkeypatch):
    for module in ("brotli", "PIL.Image", "soundfile"):
        monkeypatch.setitem(sys.modules, module, None)  # Python's own way to say that there is no such module
    found, missing = classical_compressors()
    assert [one.name for one in found] == ["gzip-9", "zstd-19", "zstd-3", "lzma2", "lzma2-9e"]
    assert [(one.name, one.reason) for one in missing] == [
        ("brotli-11", "brotli is not installed; pip install brotli"),
        ("png", "pillow is not installed; pip install pillow"),
        ("flac", "soundfile is not installed; pip install soundfile"),
    ]


def test_the_header_is_counted_once():
    chunks = [CODE[:2048], CODE[2048:4096], CODE[4096:4500]]
    measured = measure(named("gzip-9"), CODE[:4500], chunk_bytes=2048)
    sizes = [len(gzip.compress(chunk, 9)) for chunk in chunks]
    # A gzip file of one zero byte: 18 bytes around a block of 3 bytes.
    assert measured.header_bytes == 21
    assert (measured.num_chunks, measured.coded_bytes) == (3, sum(sizes))
    assert measured.counted_bytes == sum(sizes) - 2 * 21
    assert measured.rate == measured.counted_bytes / 4500
    assert measure(named("gzip-9"), chunks, chunk_bytes=2048) == measured


def test_whole_counts_its_one_header():
    whole = measure(named("gzip-9"), CODE, chunk_bytes=None)
    assert (whole.num_chunks, whole.counted_bytes) == (1, len(gzip.compress(CODE, 9)))
    assert measure(named("gzip-9"), [CODE[:100], CODE[100:]], chunk_bytes=None) == whole
    assert whole.rate < measure(named("gzip-9"), CODE, chunk_bytes=512).rate


@pytest.mark.parametrize(("name", "preset"), [("lzma2", 6), ("lzma2-9e", 9 | lzma.PRESET_EXTREME)])
def test_a_dictionary_that_fits_codes_as_small_as_the_preset(name, preset):
    for data in (b"\0", CODE[:2048], CODE):
        assert len(named(name).compress(data)) == len(lzma.compress(data, preset=preset))


def test_noise_is_not_compressed():
    noise = random.Random(3).randbytes(20_480)
    for name in ("gzip-9", "zstd-19", "lzma2"):
        assert 1.0 <= measure(named(name), noise, chunk_bytes=2048).rate < 1.01


def test_a_wrong_decoder_is_noticed():
    wrong = Classical(name="wrong", library="", options={}, compress=zlib.compress, decompress=lambda coded: zlib.decompress(coded)[::-1])
    with pytest.raises(WorkError, match="wrong did not give chunk 1 of 2 bytes back"):
        measure(wrong, b"aaxy", chunk_bytes=2)
    assert measure(wrong, b"aaxy", chunk_bytes=2, check=False).checked is False


def test_small_helpers():
    assert [closest_factors(number) for number in (1, 2, 7, 12, 2048, 1999)] == [(1, 1), (1, 2), (1, 7), (3, 4), (32, 64), (1, 1999)]
    assert list(chunks_of(b"abcde", 2)) == [b"ab", b"cd", b"e"]
    assert list(chunks_of(b"abcde", None)) == [b"abcde"]
    assert list(chunks_of(b"", None)) == []
    for data, chunk_bytes in ((b"", 2048), (b"a", 0)):
        with pytest.raises(RequestError):
            measure(named("gzip-9"), data, chunk_bytes=chunk_bytes)
