"""Compressors as models of the next byte: lengths exact to the bit, distributions that sum to one, bytes that repeat by seed."""

import base64
import importlib.util
import json
import lzma
import math
import random
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.neural.models import save_model
from compressors.neural.static import StaticModel
from proxy_lm.cli import main
from proxy_lm.codec.compressor_model import CompressorModel, completed, continuation
from proxy_lm.codec.lengths import NAMES, DeflateLengths, ZstdLengths, open_lengths
from proxy_lm.codec.zstd_bits import information_bits
from proxy_lm.errors import RequestError

PPM = pytest.param("ppm", marks=pytest.mark.skipif(importlib.util.find_spec("pyppmd") is None, reason="needs pyppmd (extra compress)"))
EACH = [PPM if name == "ppm" else name for name in NAMES]
CODE = b"def area(width, height):\n    return width * height\n\n\ndef volume(width, height, depth):\n    return width * height * depth\n"
DOCUMENTS = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"a", b"ab", b"return ", b"\n    ", b"\x00\xff"]), max_size=80).map(b"".join),
)

# The slow readable twin: a reader of DEFLATE (RFC 1951) that counts bits.
LENGTHS = [(3 + n, 0) for n in range(8)] + [(((4 + n % 4) << (n // 4 - 1)) + 3, n // 4 - 1) for n in range(8, 28)] + [(258, 0)]
DISTANCES = [(1 + n, 0) for n in range(4)] + [(((2 + n % 2) << (n // 2 - 1)) + 1, n // 2 - 1) for n in range(4, 30)]


class BitReader:
    """Bits of a stream, lowest of each byte first."""

    def __init__(self, stream: bytes) -> None:
        self.stream, self.at = stream, 0

    def bits(self, count: int) -> int:
        value = 0
        for index in range(count):
            value |= (self.stream[self.at >> 3] >> (self.at & 7) & 1) << index
            self.at += 1
        return value

    def symbol(self, codes: dict[tuple[int, int], int]) -> int:
        code = length = 0
        while (length, code) not in codes:
            code, length = 2 * code + self.bits(1), length + 1
        return codes[length, code]


def canonical(lengths: list[int]) -> dict[tuple[int, int], int]:
    codes, code = {}, 0
    for length in range(1, 16):
        for symbol, own in enumerate(lengths):
            if own == length:
                codes[length, code] = symbol
                code += 1
        code *= 2
    return codes


def read_deflate(stream: bytes) -> tuple[bytes, int]:
    """The document, and the bits that were read for it."""
    reader, data, final = BitReader(stream), bytearray(), 0
    while not final:
        final, kind = reader.bits(1), reader.bits(2)
        if kind == 0:
            reader.at = (reader.at + 7) // 8 * 8
            count, inverse = reader.bits(16), reader.bits(16)
            assert count == inverse ^ 0xFFFF
            data += bytes(reader.bits(8) for _ in range(count))
            continue
        lengths, distances = ([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8, [5] * 30) if kind == 1 else dynamic_lengths(reader)
        symbols, places = canonical(lengths), canonical(distances)
        while (symbol := reader.symbol(symbols)) != 256:
            if symbol < 256:
                data.append(symbol)
                continue
            base, extra = LENGTHS[symbol - 257]
            length = base + reader.bits(extra)
            base, extra = DISTANCES[reader.symbol(places)]
            distance = base + reader.bits(extra)
            for _ in range(length):
                data.append(data[-distance])
    return bytes(data), reader.at


def dynamic_lengths(reader: BitReader) -> tuple[list[int], list[int]]:
    num_symbols, num_distances, num_codes = reader.bits(5) + 257, reader.bits(5) + 1, reader.bits(4) + 4
    order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
    lengths = [0] * 19
    for place in order[:num_codes]:
        lengths[place] = reader.bits(3)
    codes, told = canonical(lengths), []
    while len(told) < num_symbols + num_distances:
        symbol = reader.symbol(codes)
        if symbol < 16:
            told.append(symbol)
        elif symbol == 16:
            told += [told[-1]] * (3 + reader.bits(2))
        else:
            told += [0] * (3 + reader.bits(3) if symbol == 17 else 11 + reader.bits(7))
    return told[:num_symbols], told[num_symbols:]


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def test_small_lengths_checked_by_hand():
    # 3 bits of block header, 8 bits a literal below 144, 9 above, 7 bits for the end of the block.
    lengths = open_lengths("gzip")
    assert lengths.total(b"") == 3 + 7
    assert lengths.total(b"a") == 3 + 8 + 7
    assert lengths.total(b"\xff") == 3 + 9 + 7
    # zlib never matches position 0: four literals, then a match of length 5 (symbol 259, 7 bits, no extra) at distance 3 (5 bits).
    assert lengths.total(b"abcabcabc") == 3 + 4 * 8 + 7 + 5 + 7
    assert open_lengths("lzma").total(b"") == pytest.approx(0, abs=1e-6)
    # A first literal is a flag and eight bits, all of even chances.
    assert open_lengths("lzma").total(b"a") == pytest.approx(9, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS)
def test_deflate_ends_where_a_reader_of_the_format_ends(data):
    assert read_deflate(deflated(data)) == (data, open_lengths("gzip").total(data))


@pytest.mark.parametrize(
    "data",
    [random.Random(1).randbytes(3000), CODE * 20, bytes(2000), random.Random(2).randbytes(100_000), CODE + random.Random(3).randbytes(500)],
    ids=["stored", "matches", "zeros", "many-blocks", "mixed"],
)
def test_deflate_of_every_kind_of_block(data):
    assert read_deflate(deflated(data)) == (data, open_lengths("gzip").total(data))


@pytest.mark.parametrize("name", EACH)
def test_candidates_are_the_lengths_of_the_continued_documents(name):
    lengths, whole = open_lengths(name), open_lengths(name)
    # Longer, longer again, another document, and back: whatever is kept of the last one.
    for prefix in (b"", CODE[:40], CODE, b"another document", CODE):
        candidates = lengths.candidates(prefix)
        assert candidates.shape == (256,)
        for value in (0, 10, 101, 255):
            assert candidates[value] == whole.total(prefix + bytes([value]))


def test_deflate_candidates_after_blocks_that_are_written():
    prefix = random.Random(4).randbytes(70_000)
    lengths = DeflateLengths()
    lengths.candidates(prefix[:40_000])
    candidates = lengths.candidates(prefix)
    assert {candidates[value] - DeflateLengths().total(prefix + bytes([value])) for value in (0, 77, 255)} == {0}


@settings(max_examples=40, deadline=None)
@given(DOCUMENTS)
def test_lzma_bits_are_within_the_bytes_of_the_stream(data):
    bits, whole = open_lengths("lzma").total(data), open_lengths("lzma-bytes").total(data)
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 6, "dict_size": 4096, "mf": lzma.MF_BT3}]
    assert whole == 8 * len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))
    # A byte of begin, four of flushing, an end marker of about 40 bits, and up to a byte of rounding.
    assert 60 < whole - bits < 110


def test_the_small_match_finder_finds_what_the_preset_finds():
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 6}]
    for data in (CODE, CODE * 40 + random.Random(8).randbytes(900) + CODE * 2):
        assert open_lengths("lzma-bytes").total(data) <= 8 * len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters)) + 8


def test_documents_that_lzma_tells_in_every_way():
    noise = random.Random(5)
    words = [noise.randbytes(noise.randint(1, 40)) for _ in range(30)]
    for data in (noise.randbytes(3000), bytes(60_000), b"".join(noise.choice(words) for _ in range(800)), CODE * 300):
        gap = open_lengths("lzma-bytes").total(data) - open_lengths("lzma").total(data)
        assert 60 < gap < 110


@pytest.mark.parametrize("name", EACH)
def test_next_is_the_normalised_power_of_two(name):
    model = CompressorModel(open_lengths(name))
    chances = model.next(CODE)
    lengths = [open_lengths(name).total(CODE + bytes([value])) for value in range(256)]
    weights = [2.0 ** (open_lengths(name).total(CODE) - length) for length in lengths]
    np.testing.assert_allclose(chances, np.array(weights) / sum(weights), rtol=1e-9)
    assert chances.sum() == pytest.approx(1)
    assert (model.next(CODE) == chances).all()


def test_whole_bytes_hide_what_bits_tell():
    known = CODE + b"def area(width, heigh"
    bits = {name: -CompressorModel(open_lengths(name)).log2_next(known)[ord("t")] for name in ("gzip", "lzma", "lzma-bytes")}
    assert bits["gzip"] < 2
    assert bits["lzma"] < 2
    assert bits["lzma"] < bits["lzma-bytes"]


# A twin for zstd's literals: their codes' lengths, from the weights of a tree that is told in half bytes.
def test_zstd_literals_without_matches_are_the_sum_of_their_codes():
    lengths, num_checked = ZstdLengths(19), 0
    for seed in range(300):
        noise = random.Random(seed)
        data = bytes(noise.choices(range(10), [2**place for place in range(10)], k=noise.randint(70, 250)))
        frame = lengths._packer.compress(data)
        block = frame[5:]
        size_format, header = block[0] >> 2 & 3, int.from_bytes(block[:3], "little")
        size, coded_bytes = header >> 4 & 0x3FF, header >> 14
        if int.from_bytes(frame[2:5], "little") & 7 != 5 or block[0] & 3 != 2 or size_format or block[3] < 128 or size != len(data):
            continue  # several blocks, stored, several streams, a tree told otherwise, or matches
        num_weights = block[3] - 127
        weights = [block[4 + place // 2] >> (0 if place % 2 else 4) & 15 for place in range(num_weights)]
        left = sum(2**weight // 2 for weight in weights)
        most = left.bit_length()
        codes = [most + 1 - weight if weight else 0 for weight in [*weights, (2**most - left).bit_length()]]
        told = 8 * (len(frame) - (coded_bytes - 1 - (num_weights + 1) // 2)) + 1 + sum(codes[value] for value in data)
        assert (block[3 + coded_bytes], information_bits(frame)) == (0, told)
        num_checked += 1
    assert num_checked > 20


@settings(max_examples=40, deadline=None)
@given(DOCUMENTS, st.sampled_from([1, 3, 19]))
def test_zstd_bits_are_within_the_bytes_of_the_frame(data, level):
    lengths = ZstdLengths(level)
    # Four streams of literals, the tree's weights, the sequences: at most seven bits each.
    assert 0 <= 8 * len(lengths._packer.compress(data)) - lengths.total(data) <= 6 * 7


def test_zstd_of_every_kind_of_block():
    noise, lengths = random.Random(6), ZstdLengths(19)
    words = [noise.randbytes(noise.randint(1, 40)) for _ in range(30)]
    for data in (noise.randbytes(3000), bytes(300_000), b"".join(noise.choice(words) for _ in range(8000)), CODE * 300, b"a"):
        filling = 8 * len(lengths._packer.compress(data)) - lengths.total(data)
        assert 0 <= filling <= 42 * (1 + len(data) // 65_536)
    gaps = {8 * len(lengths._packer.compress(CODE[:size])) - lengths.total(CODE[:size]) for size in range(60, 120)}
    assert len(gaps) > 7  # bits, not bytes


@pytest.mark.skipif(importlib.util.find_spec("pyppmd") is None, reason="needs pyppmd (extra compress)")
def test_ppm_intervals_are_those_its_decoder_reads():
    import pyppmd

    from proxy_lm.codec.ppm_bits import PpmLengths

    lengths = PpmLengths()
    for prefix in (b"", CODE[:1], CODE[:70], CODE * 3, random.Random(7).randbytes(500)):
        borders = lengths.borders(prefix)
        assert [value for value, _, _ in borders] != sorted(value for value, _, _ in borders) or not prefix
        assert [end for _, _, end in borders[:-1]] == [begin for _, begin, _ in borders[1:]]
        for value, begin, end in borders[:: 1 + len(prefix) // 60]:
            for place in (begin, begin + (end - begin) // 2, end - 1):
                code = place.to_bytes(1 + lengths.num_code_bytes(prefix), "big") + bytes(8)
                assert pyppmd.Ppmd7Decoder(6, 1 << 24).decode(code, len(prefix) + 1) == prefix + bytes([value])
        whole = 8 * lengths.num_code_bytes(prefix) - math.log2(borders[-1][2] - borders[0][1])
        weights = np.exp2(whole - lengths.candidates(prefix))
        assert weights.sum() == pytest.approx(1, abs=1e-9)  # of all that is left of the interval but the end mark
    assert lengths.total(b"") == 0
    assert lengths.total(b"a") == pytest.approx(8, abs=0.02)  # one of 256 bytes, and the end mark


def test_ppm_without_its_library_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyppmd", None)
    with pytest.raises(RequestError, match=r"ppm needs pyppmd, which is not installed here .*pip install pyppmd"):
        open_lengths("ppm")


def test_bits_of_a_chunk_are_the_sum_over_its_bytes():
    model = CompressorModel(ZstdLengths(3))
    one, two = model.next(b"ab")[ord("a")], model.next(b"aba")[ord("b")]
    assert model.bits(b"ab", context=b"ab") == pytest.approx(-(math.log2(one) + math.log2(two)) / 2)


def test_one_byte_of_horizon_costs_gzip_more_than_the_whole_chunk():
    model = CompressorModel(open_lengths("gzip"))
    again = CODE[4:28]
    assert model.own_bits(again, context=CODE) < 1 < model.bits(again, context=CODE)
    assert model.own_bits(CODE) == open_lengths("gzip").total(CODE) / len(CODE)


def test_of_a_model_the_horizon_hides_nothing(tmp_path, generate):
    save_model(StaticModel.train([CODE * 3]), tmp_path / "static")
    lengths = open_lengths(str(tmp_path / "static"))
    model, chunk = CompressorModel(lengths), CODE[10:14]
    assert model.bits(chunk, context=CODE[:10]) == pytest.approx(model.own_bits(chunk, context=CODE[:10]), rel=1e-3)
    assert lengths.candidates(b"d")[101] == lengths.total(b"de")
    data = b"".join(continuation(model, b"def", max_bytes=3, seed=1))
    words = ["--prompt", "def", "--max-bytes", "3", "--temperature", "1", "--seed", "1", "--bytes"]
    assert generate("--from-compressor", str(tmp_path / "static"), *words)[:2] == (0, data)


def test_continuation_repeats_by_seed_and_by_nothing_else():
    def written(**how: int) -> bytes:
        return b"".join(continuation(CompressorModel(open_lengths("gzip")), CODE, max_bytes=12, **how))

    first = written(seed=1)
    assert len(first) == 12
    assert written(seed=1) == first
    assert len({first, written(seed=2), written(seed=1, sample=1)}) == 3
    model = CompressorModel(open_lengths("gzip"))
    assert b"".join(continuation(model, CODE, max_bytes=6, seed=1)) == first[:6]
    assert b"".join(continuation(model, b"abcabcabcabcabcabc", max_bytes=6, temperature=0)) == b"abcabc"


def test_completed_holds_back_what_may_be_a_stop():
    def pieces(data: bytes, *stops: bytes) -> list[tuple[bytes, bytes | None]]:
        return list(completed((bytes([value]) for value in data), stops))

    assert pieces(b"ab") == [(b"a", None), (b"b", None)]
    assert pieces(b"x\n\ny", b"\n\n") == [(b"x", None), (b"", None), (b"", b"\n\n")]
    assert pieces(b"x\ny", b"\n\n") == [(b"x", None), (b"\ny", None)]
    assert pieces(b"x\n", b"\n\n") == [(b"x", None), (b"\n", None)]


def test_refusals():
    with pytest.raises(RequestError, match="'bzip9' is no compressor and no folder; known: gzip, lzma"):
        open_lengths("bzip9")
    with pytest.raises(RequestError, match="empty chunk"):
        CompressorModel(open_lengths("gzip")).bits(b"")
    with pytest.raises(RequestError, match="65536 here"):
        CompressorModel(open_lengths("lzma")).own_bits(bytes(2), context=bytes(65_535))


@pytest.fixture
def generate(capfdbinary):
    """Run the command: (exit code, standard output, standard error)."""

    def started(*words: str) -> tuple[int, bytes, str]:
        code = main(["generate", *words])
        out, error = capfdbinary.readouterr()
        return code, out, error.decode()

    return started


def test_command(generate):
    words = ["--from-compressor", "gzip", "--prompt", CODE.decode(), "--max-bytes", "10", "--temperature", "1", "--seed", "3"]
    data = b"".join(continuation(CompressorModel(open_lengths("gzip")), CODE, max_bytes=10, seed=3))
    assert generate(*words, "--bytes")[:2] == (0, data)
    assert generate(*words, "--bytes", "--stream")[1] == data
    code, out, error = generate(*words)
    assert (code, out) == (0, data.decode(errors="replace").encode() + b"\n")
    assert "10 bytes in" in error
    assert "from code lengths of gzip in one bit, ended by --max-bytes" in error
    code, out, _ = generate(*words, "--num-samples", "2", "--json")
    result = json.loads(out)
    assert base64.b64decode(result["completions"][0]["data_base64"]) == data
    assert (result["num_bytes"], result["identity"]["level"], result["sampling"]["seed"]) == (20, 9, 3)


def test_command_stops(generate):
    code, out, _ = generate("--from-compressor", "gzip", "--prompt", "ab-cab-cab-cab-c", "--stop=-c", "--json")
    [one] = json.loads(out)["completions"]
    assert (code, one["text"], one["reason"], base64.b64decode(one["stop_base64"])) == (0, "ab", "stop", b"-c")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--from-compressor", "bzip9", "--prompt", "x"], "'bzip9' is no compressor"),
        (["some/run", "--from-compressor", "gzip", "--prompt", "x"], "the run some/run means nothing with --from-compressor gzip"),
        (["--from-compressor", "gzip", "--prompt", "x", "--top-k", "5"], "--top-k means nothing"),
        (["--from-compressor", "gzip", "--prompt", "x", "--temperature", "-1"], "temperature"),
        (["--from-compressor", "gzip", "--prompt", "x", "--max-bytes", "0"], "--max-bytes 0 leaves nothing"),
        (["--prompt", "x"], "there is no run"),
    ],
)
def test_command_refuses(generate, words, told):
    code, out, error = generate(*words)
    assert (code, out) == (2, b"")
    assert told in error
