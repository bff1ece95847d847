"""The container and what goes through it: round trips of every kind of bytes, the format to the byte, wrong answers contained."""

import gzip
import hashlib
import importlib.util
import io
import json
import random
import unicodedata
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from compressors.errors import DecodeError, RequestError, WorkError
from proxy_lm.codec import Coded
from proxy_lm.codec.compress import compress
from proxy_lm.codec.container import FOOT_BYTES, MAGIC, TAIL, Header, decode_varint, read_head, read_record, varint
from proxy_lm.codec.salvage import salvage

SPEC = importlib.util.spec_from_file_location("byte_pairs", Path(__file__).with_name("byte_pairs.py"))
BYTE_PAIRS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BYTE_PAIRS)
TEXT, BytePairs, packed, unpacked = BYTE_PAIRS.TEXT, BYTE_PAIRS.BytePairs, BYTE_PAIRS.packed, BYTE_PAIRS.unpacked


@pytest.fixture(scope="module")
def pairs():
    return BytePairs()


def kinds():
    draw = random.Random(7)
    noise = draw.randbytes(5000)
    accents = "Ångström, naïve café, 한글, ﬁne\n" * 20
    return {
        "empty": b"",
        "all values": bytes(range(256)),
        "one megabyte of one byte": b"a" * 1_000_000,
        "random": noise,
        "gzip": gzip.compress(TEXT, mtime=0),
        "zstd": zstandard.ZstdCompressor().compress(TEXT),
        "invalid utf-8": b"ok \xc3( \xed\xa0\x80 \xf0\x28\x8c\xbc \xff\xfe end",
        "nfc": unicodedata.normalize("NFC", accents).encode(),
        "nfd": unicodedata.normalize("NFD", accents).encode(),
        "bom, crlf, tabs, separators": "\ufeffa\r\nb\rc\n\td \u2028 \ufffd e\u0301 👩‍👩‍👧 \r\n".encode() * 9,
        "nul": b"\0" * 300,
        "source code": TEXT,
        "long runs, one change": b"x" * 700 + b"y" + b"x" * 700,
        "a container": b"",
    }


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_kind_of_bytes_comes_back(kind, pairs):
    data = kinds()[kind] if kind != "a container" else packed(TEXT, pairs)
    file = packed(data, pairs, 2048)
    assert unpacked(file, pairs) == data
    assert len(file) <= len(data) + 600 + 14 * (len(data) // 2048 + 1)  # stored where the code is not smaller


def test_every_single_byte_and_every_length_around_a_chunk(pairs):
    for byte in range(256):
        assert unpacked(packed(bytes([byte]), pairs), pairs) == bytes([byte])
    for length in (*range(20), 31, 32, 33, 63, 64, 65, 127, 128, 129):
        assert unpacked(packed(TEXT[:length], pairs, 16), pairs) == TEXT[:length]
        assert unpacked(packed(TEXT[:length], pairs, 1), pairs) == TEXT[:length]
    assert unpacked(packed(TEXT * 40, pairs, 65_536), pairs) == TEXT * 40


@given(data=st.binary(max_size=600), chunk_bytes=st.integers(1, 80), lanes=st.integers(1, 5))
def test_any_bytes_come_back_and_groups_change_nothing(data, chunk_bytes, lanes):
    predictor = ONE
    file = packed(data, predictor, chunk_bytes)
    predictor.lanes = lanes
    assert packed(data, predictor, chunk_bytes) == file
    assert unpacked(file, predictor) == data


ONE = BytePairs()


def test_the_format_to_the_byte(pairs):
    """Written out by hand: head, a coded chunk, a stored one that is short, end mark, index, foot."""
    data = TEXT[:16] + b"\xfe\xfd"
    code = pairs.encode([TEXT[:16]])[0].payload
    assert len(code) < 16 <= len(pairs.encode([b"\xfe\xfd"])[0].payload) * 16
    header = json.dumps({"chunk_bytes": 16, "model": pairs.identity(), "view": None}, sort_keys=True, separators=(",", ":")).encode()
    head = b"\x89PLMC\r\n\x1a" + b"\x01\x00" + len(header).to_bytes(4, "little") + header
    head += hashlib.sha256(head).digest()

    def record(number, lengths, raw, payload):
        raw_crc = zlib.crc32(raw).to_bytes(4, "little")
        code_crc = zlib.crc32(lengths + number.to_bytes(8, "little") + raw_crc + payload).to_bytes(4, "little")
        return lengths + code_crc + raw_crc + payload

    first = record(0, bytes([4 * len(code) + 1]), TEXT[:16], code)
    second = record(1, bytes([4 * 2 + 3 + 1, 2]), b"\xfe\xfd", b"\xfe\xfd")
    index = bytes([len(first), len(second)])
    counts = b"".join(number.to_bytes(8, "little") for number in (2, 18, 2))
    raw_sha256 = hashlib.sha256(data).digest()
    check = hashlib.sha256(head[-32:] + b"\0" + hashlib.sha256(index).digest() + counts + raw_sha256).digest()
    assert packed(data, pairs, 16) == head + first + second + b"\0" + index + counts + raw_sha256 + check + TAIL
    assert (head[:8], FOOT_BYTES) == (MAGIC, 96)


def test_an_empty_file_is_head_end_and_foot(pairs):
    file = packed(b"", pairs)
    assert len(file) == len(Header(64, pairs.identity(), None).pack()) + 1 + FOOT_BYTES
    assert unpacked(file, pairs) == b""


def test_numbers_in_few_bytes():
    assert [varint(number) for number in (0, 1, 127, 128, 300, 262_148)] == [b"\0", b"\1", b"\x7f", b"\x80\1", b"\xac\2", b"\x84\x80\x10"]
    assert [decode_varint(varint(number)) for number in (0, 127, 128, 262_148)] == [0, 127, 128, 262_148]


def test_counts_are_told(pairs):
    out = io.BytesIO()
    found = compress(io.BytesIO(TEXT[:64] + random.Random(1).randbytes(64) + TEXT[:20]), out, pairs, chunk_bytes=64)
    first, _, last = (pairs.encode([chunk])[0] for chunk in (TEXT[:64], b"?", TEXT[:20]))
    assert found["bytes"] == 148
    assert found["coded_bytes"] == len(out.getvalue())
    assert (found["num_chunks"], found["num_stored"]) == (3, 1)
    assert found["payload_bytes"] == len(first.payload) + 64 + len(last.payload)
    assert 8 * len(first.payload) - first.information_bits < 9


def test_another_model_view_or_version_is_refused(pairs):
    file = packed(TEXT, pairs)
    other = BytePairs(TEXT[::-1])
    with pytest.raises(DecodeError, match=r"another model \(fingerprint: the file's .* this model's"):
        unpacked(file, other)
    other.rows = pairs.rows
    other.identity = lambda: {**pairs.identity(), "precision_bits": 15}
    with pytest.raises(DecodeError, match="precision_bits: the file's 16, this model's 15"):
        unpacked(file, other)
    with pytest.raises(DecodeError, match="format version 2 and this program reads version 1"):
        unpacked(file[:8] + b"\2" + file[9:], pairs)
    assert unpacked(packed(TEXT, pairs, view="raw"), pairs) == TEXT


def test_code_that_another_machine_cannot_follow_is_named_and_the_rest_is_saved():
    """A predictor in floating point that computes otherwise where it decodes: no byte of it passes."""
    there, here = BytePairs(), BytePairs()
    there.portable = here.portable = False
    here.rows = here.rows.copy()
    here.rows[ord("r"), ord("e")] -= 1
    here.rows[ord("r"), ord("z")] += 1
    here.identity = there.identity
    data = b"on and on " * 7 + b"there or here " * 9
    file = packed(data, there, 70)
    with pytest.raises(DecodeError, match=r"chunk 1 \(bytes 70 to 139\) decodes to other bytes .* computes otherwise here"):
        unpacked(file, here)
    out = io.BytesIO()
    source = io.BytesIO(file)
    found = salvage(source, out.write, read_head(source), here)
    assert found["lost"][0][:2] == [70, 196]
    assert out.getvalue() == data[:70] + bytes(126)


def test_check_stores_what_does_not_come_back():
    """Of a predictor whose decoder cannot follow, each chunk is kept as it is."""
    predictor = BytePairs()
    decode = predictor.decode
    predictor.decode = lambda payloads, lengths: [one.replace(b"x", b"X") for one in decode(payloads, lengths)]
    data = TEXT[:640]
    file = packed(data, predictor, 64, check=True)
    assert unpacked(file, predictor) == data
    out = io.BytesIO()
    found = compress(io.BytesIO(data), out, predictor, chunk_bytes=64, check=True)
    assert found["num_stored"] == sum(b"x" in data[start : start + 64] for start in range(0, 640, 64)) > 0


class Strange(BytePairs):
    """Answers as it is told."""

    def __init__(self, encode=None, decode=None):
        super().__init__()
        if encode:
            self.encode = encode
        if decode:
            self.decode = decode


def raising(error):
    def answer(*given):
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (raising(ValueError("no")), "the model failed when it encoded the 4 chunks from 0 on: ValueError: no"),
        (raising(MemoryError()), "MemoryError"),
        (lambda chunks: None, "gave a NoneType for the 4 chunks"),
        (lambda chunks: [], "gave a list of 0 for the 4 chunks from 0 on where a list of 4 codes was due"),
        (lambda chunks: [b"x"] * len(chunks), "gave a bytes of 1 for chunk 0 where a code of bytes was due"),
        (lambda chunks: [Coded("x", 1.0)] * len(chunks), "for chunk 0"),
        (lambda chunks: [Coded(b"x", float("nan"))] * len(chunks), "gave chunk 0 an information content of nan bits"),
    ],
)
def test_a_predictor_that_answers_wrongly_is_contained_when_it_encodes(answer, message, tmp_path):
    with pytest.raises(WorkError, match=message):
        compress(io.BytesIO(TEXT), tmp_path / "out", Strange(encode=answer), chunk_bytes=64)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (raising(ValueError("no")), WorkError, "the model failed when it decoded the 4 chunks from 0 on: ValueError: no"),
        (lambda payloads, lengths: (), WorkError, "gave a tuple of 0 for the 4 chunks from 0 on"),
        (
            lambda payloads, lengths: ["x" * n for n in lengths],
            WorkError,
            "gave a str of 64 in the 4 chunks from 0 on where 64 bytes were due",
        ),
        (lambda payloads, lengths: [b"x" * (n + 1) for n in lengths], WorkError, "gave a bytes of 65 in"),
        (lambda payloads, lengths: [bytearray(n) for n in lengths], WorkError, "gave a bytearray"),
        (lambda payloads, lengths: [b"x" * n for n in lengths], DecodeError, r"chunk 0 \(bytes 0 to 63\) decodes to other bytes"),
        (raising(DecodeError("never")), DecodeError, r"chunk 0 \(bytes 0 to 63\) cannot be decoded: never"),
    ],
)
def test_a_predictor_that_answers_wrongly_is_contained_when_it_decodes(answer, error, message, pairs):
    with pytest.raises(error, match=message):
        unpacked(packed(TEXT, pairs), Strange(decode=answer))


def test_codes_that_are_too_long_are_stored_and_lanes_are_bounded(pairs):
    long = Strange(encode=lambda chunks: [Coded(b"z" * 100_000, 1.0) for _ in chunks])
    file = packed(TEXT, long)
    assert unpacked(file, pairs) == TEXT
    for lanes in (0, -1, 10**9, 2.0, None):
        predictor = BytePairs(lanes=lanes)
        with pytest.raises(WorkError, match="chunks at once; from 1 to 4096 can be given"):
            packed(TEXT, predictor)


def test_chunk_lengths_are_bounded(pairs):
    for chunk_bytes in (0, -1, 65_537):
        with pytest.raises(RequestError, match="a chunk has 1 to 65536 bytes"):
            packed(TEXT, pairs, chunk_bytes)


def test_records_read_one_by_one(pairs):
    source = io.BytesIO(packed(TEXT[:100], pairs))
    header = read_head(source)
    records = [read_record(source, number, header.chunk_bytes) for number in range(3)]
    assert [record and record.raw_bytes for record in records] == [64, 36, None]
