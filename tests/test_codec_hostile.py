"""Containers that are damaged, cut, lengthened, put together wrongly or made up: refused or told exactly, in bounded memory, never wrongly.

The campaign is the same test with more draws: `pytest -m campaign -s tests/test_codec_hostile.py` (200,000 inputs, and every bit of 4 KiB).
"""

import contextlib
import hashlib
import io
import json
import random
import resource
import struct
import time
import zlib
from pathlib import Path

import pytest

from compressors.errors import DecodeError
from proxy_lm.codec import Coded
from proxy_lm.codec.compress import compress
from proxy_lm.codec.container import END, Foot, Header, pack_record, read_head, varint
from proxy_lm.codec.decompress import check_model, decompress, quick_foot
from proxy_lm.codec.salvage import salvage

CHUNK_BYTES = 16
CAP = 100_000
HEAD_ROOM_BYTES = 256 << 20


class Sums:
    """A whole-number predictor that is fast in Python: the code is how far the chunk is as a pattern, and the rest of it. It takes no part
    in the checks, which are the container's."""

    portable = True
    lanes = 3
    num_parameters = num_parameter_bytes = 64
    pattern = bytes(range(65, 65 + 64)) * 1024
    fingerprint = hashlib.sha256(pattern).hexdigest()

    def identity(self):
        return {"kind": "sums", "fingerprint": self.fingerprint}

    def encode(self, chunks):
        out = []
        for chunk in chunks:
            same = next((at for at, pair in enumerate(zip(chunk, self.pattern, strict=False)) if pair[0] != pair[1]), len(chunk))
            out.append(Coded(bytes([min(same, 255)]) + chunk[min(same, 255) :], 8.0))
        return out

    def decode(self, payloads, lengths):
        out = []
        for payload, length in zip(payloads, lengths, strict=True):
            if not payload or payload[0] + len(payload) - 1 != length:
                raise DecodeError("no encoder gives such a payload")
            out.append(self.pattern[: payload[0]] + payload[1:])
        return out


SUMS = Sums()
DATA = b"".join(SUMS.pattern[:at] + bytes(range(CHUNK_BYTES - at)) for at in (16, 9, 0, 5, 16, 12)) + b"AB!"


def made(data=DATA, predictor=SUMS, chunk_bytes=CHUNK_BYTES):
    out = io.BytesIO()
    compress(io.BytesIO(data), out, predictor, chunk_bytes=chunk_bytes)
    return out.getvalue()


GOOD = made()
HEAD_BYTES = len(Header(CHUNK_BYTES, SUMS.identity(), None).pack())


def forward(file, predictor=SUMS, cap=CAP):
    """As from a pipe."""
    source, out = io.BytesIO(file), io.BytesIO()
    header = read_head(source)
    check_model(header, predictor)
    decompress(source, out.write, header, predictor, cap=cap)
    return out.getvalue()


def looked_at(file, predictor=SUMS, cap=CAP):
    """As from a file, whose end is read first."""
    source = io.BytesIO(file)
    quick_foot(source, read_head(source), cap)
    return forward(file, predictor, cap)


def salvaged(file, predictor=SUMS, cap=CAP):
    source, out = io.BytesIO(file), io.BytesIO()
    header = read_head(source)
    check_model(header, predictor)
    found = salvage(source, out.write, header, predictor, cap=cap)
    assert found["bytes"] == len(out.getvalue())
    return out.getvalue(), found


def check_salvaged(file, data, predictor=SUMS):
    """Every byte outside the ranges that are told as lost is right, zeros stand in them, and what is not told is all there. The ranges."""
    got, found = salvaged(file, predictor)
    right = bytearray(data[: len(got)])
    assert len(right) == len(got), "more bytes than there were"
    for start, end, _ in found["lost"]:
        right[start:end] = bytes(len(right[start:end]))
    assert got == right
    assert len(got) == len(data) or found["lost"][-1][1] is None
    return found


def check_every_bit(data, file, head_bytes, predictor):
    """C10. The bits of the head are refused; any other costs the one chunk it is in, or the certainty about the end."""
    chunk_bytes = Header(**json.loads(file[14 : head_bytes - 32])).chunk_bytes
    num_named = 0
    for bit in range(8 * len(file)):
        bad = bytearray(file)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecodeError):
            looked_at(bytes(bad), predictor)
        with pytest.raises(DecodeError):
            forward(bytes(bad), predictor)
        if bit < 8 * head_bytes:
            with pytest.raises(DecodeError):
                salvaged(bytes(bad), predictor)
            continue
        found = check_salvaged(bytes(bad), data, predictor)
        if found["index"] == "damaged":
            assert [lost[:2] for lost in found["lost"]] == [[len(data), None]], "every chunk is there, and the end is not sure"
        else:
            start, end, _ = found["lost"][0]
            assert (len(found["lost"]), found["num_lost"]) == (1, 1)
            assert start % chunk_bytes == 0
            assert end == min(len(data), start + chunk_bytes)
            num_named += 1
    return num_named


def test_every_bit_of_a_small_file():
    records = sum(len(record) for record in each_record(GOOD))
    assert check_every_bit(DATA, GOOD, HEAD_BYTES, SUMS) == 8 * records


def each_record(file):
    """The records of a good file, cut where its index says."""
    index = file[-96 - (len(DATA) + CHUNK_BYTES - 1) // CHUNK_BYTES : -96]
    place, out = HEAD_BYTES, []
    for size in index:
        out.append(file[place : place + size])
        place += size
    return out


def test_cut_at_every_byte():
    """C11. Refused; what is whole in front is saved."""
    sizes = [len(record) for record in each_record(GOOD)]
    for length in range(len(GOOD)):
        for read in (forward, looked_at):
            with pytest.raises(DecodeError):
                read(GOOD[:length])
        if length < HEAD_BYTES:
            with pytest.raises(DecodeError):
                salvaged(GOOD[:length])
            continue
        found = check_salvaged(GOOD[:length], DATA)
        num_whole = sum(HEAD_BYTES + sum(sizes[: k + 1]) <= length for k in range(len(sizes)))
        assert found["bytes"] == min(num_whole * CHUNK_BYTES, len(DATA))


def test_bytes_behind_the_end():
    for more in (b"\0", b"\n", b"x" * 100, GOOD, GOOD[-96:], b"\0" * 100_000):
        for read in (forward, looked_at):
            with pytest.raises(DecodeError, match=r"bytes follow|does not end as it was written|end is damaged"):
                read(GOOD + more)
        assert check_salvaged(GOOD + more, DATA)["bytes"] == len(DATA)
    with pytest.raises(DecodeError, match="is no file of"):
        forward(b"\n" + GOOD)


def test_records_in_another_order_or_of_another_file():
    first, second, *rest = each_record(GOOD)
    tail = GOOD[HEAD_BYTES + sum(map(len, (first, second, *rest))) :]
    head = GOOD[:HEAD_BYTES]
    swapped = head + second + first + b"".join(rest) + tail
    twice = head + first + first + b"".join(rest) + tail
    without = head + second + b"".join(rest) + tail
    for bad in (swapped, twice, without):
        for read in (forward, looked_at):
            with pytest.raises(DecodeError):
                read(bad)
        check_salvaged(bad, DATA)
    other = bytes(SUMS.pattern[:9] + bytes(7)) + DATA[16:]
    strange = each_record(made(other))[0]
    mixed = head + strange + second + b"".join(rest) + tail
    with pytest.raises(DecodeError, match="does not fit what stands before it"):
        looked_at(mixed)


def forged(payloads, *, chunk_bytes=CHUNK_BYTES, counts=None, sizes=None, header=None):
    """A file with right checksums over whatever it says. `payloads`: (payload, raw, stored, short) of each record."""
    if header is None:
        head = Header(chunk_bytes, SUMS.identity(), None).pack()
    else:
        start = struct.pack("<8sHI", b"\x89PLMC\r\n\x1a", 1, len(header)) + header
        head = start + hashlib.sha256(start).digest()
    records = [pack_record(k, payload, zlib.crc32(raw), stored, short) for k, (payload, raw, stored, short) in enumerate(payloads)]
    index = b"".join(varint(size) for size in (sizes if sizes is not None else map(len, records)))
    raw = b"".join(one[1] for one in payloads)
    told = counts or (len(records), len(raw), len(index))
    foot = Foot(*told, hashlib.sha256(raw).digest()).pack(head[-32:], hashlib.sha256(index).digest())
    return head + b"".join(records) + END + index + foot


def coded(raw):
    return SUMS.encode([raw])[0].payload, raw, False, None


PLAIN = coded(SUMS.pattern[:CHUNK_BYTES])


def test_a_forged_file_that_says_the_truth_is_a_good_one():
    assert looked_at(forged([PLAIN, PLAIN])) == PLAIN[1] * 2


@pytest.mark.parametrize(
    "bad",
    [
        forged([PLAIN], counts=(1, 2**64 - 1, 1)),
        forged([PLAIN], counts=(2**64 - 1, 16, 1)),
        forged([PLAIN], counts=(2**60, 2**64 - 1, 1)),
        forged([PLAIN], counts=(1, 16, 2**64 - 1)),
        forged([PLAIN], counts=(1, 16, 2**63)),
        forged([PLAIN], counts=(1, 17, 1)),
        forged([PLAIN], counts=(1, 0, 1)),
        forged([PLAIN], counts=(0, 16, 1)),
        forged([PLAIN, PLAIN], counts=(1, 16, 2)),
        forged([PLAIN, PLAIN], sizes=[11, 9]),
        forged([PLAIN, PLAIN], sizes=[10, 10, 0]),
        forged([PLAIN, PLAIN], sizes=[2**27, 10]),
        forged([PLAIN, PLAIN], sizes=[0, 20]),
        forged([(b"", b"", False, 0)]),
        forged([(b"", b"", True, 0)]),
        forged([(b"abc", b"abc", True, 3), PLAIN]),
        forged([(b"A" * 17, b"A" * 17, False, None)]),
        forged([(b"A" * 60_000, b"A" * 60_000, True, None)]),
        forged([(b"\x10x", b"A" * 16, False, None)]),
        forged([(PLAIN[0], b"A" * 16, False, None)]),
        forged([PLAIN], header=b"{}"),
        forged([PLAIN], header=b"[" * 60_000),
        forged([PLAIN], header=b"1e999"),
        forged([PLAIN], header=b'{"chunk_bytes":0,"model":{},"view":null}'),
        forged([PLAIN], header=b'{"chunk_bytes":1000000000000,"model":{},"view":null}'),
        forged([PLAIN], header=b'{"chunk_bytes":true,"model":{},"view":null}'),
        forged([PLAIN], header=b'{"chunk_bytes":16,"model":[],"view":null}'),
        forged([PLAIN], header=b'{"chunk_bytes":16,"model":{"a":"' + b"x" * 60_000 + b'"},"view":null}'),
        forged([PLAIN], header=b'{"chunk_bytes":16,"model":{},"view":"\\ud800"}'),
        forged([PLAIN], header=b'{"chunk_bytes":16,"model":{},"view":"../../etc"}'),
        GOOD[:10] + b"\xff\xff\xff\xff" + GOOD[14:],
        GOOD[:HEAD_BYTES] + b"\xff" * 200,
        GOOD[:HEAD_BYTES] + b"\x80" * 200,
        GOOD[:HEAD_BYTES] + b"\x81\x00" + GOOD[HEAD_BYTES + 1 :],
        b"",
        b"\x89PLMC\r\n\x1a",
    ],
)
def test_claims_that_cannot_be(bad, under_limit):
    for read in (forward, looked_at):
        with pytest.raises(DecodeError):
            read(bad)
    try:
        salvaged(bad)
    except DecodeError:
        return


def test_a_bomb_stops_at_the_cap(under_limit):
    """A megabyte of records that say 64 KiB each in two bytes of code: no more work than the cap allows, and nothing at all where the file
    can be looked at."""
    chunk = SUMS.pattern[: 1 << 16]
    bomb = forged([(b"", chunk, False, None)] * 400, chunk_bytes=1 << 16)
    started = time.process_time()
    for read, seen in ((forward, []), (looked_at, [])):
        counting = Sums()
        counting.decode = lambda payloads, lengths, seen=seen: seen.extend(lengths) or [chunk[:length] for length in lengths]
        with pytest.raises(DecodeError, match="are allowed; give --cap BYTES"):
            read(bomb, counting, 1 << 20)
        assert sum(seen) <= (1 << 20 if read is forward else 0)
    assert time.process_time() - started < 5


@pytest.fixture
def under_limit():
    """An address space of what is mapped now and 256 MB (numba alone maps more than that, so the limit is on what is added)."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + HEAD_ROOM_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def mutant(draw):
    """(a file, whether it is a changed good one)."""
    kind = draw.randrange(9)
    if kind == 0:
        return draw.randbytes(draw.randrange(400)), False
    if kind == 1:
        return GOOD[: draw.randrange(HEAD_BYTES + 3)] + draw.randbytes(draw.randrange(400)), True
    bad = bytearray(GOOD)
    at, length = draw.randrange(HEAD_BYTES if draw.random() < 0.8 else 0, len(GOOD)), draw.randrange(1, 40)
    if kind == 2:
        for _ in range(draw.randrange(1, 9)):
            place = draw.randrange(at, len(bad))
            bad[place] ^= 1 << draw.randrange(8)
    elif kind == 3:
        del bad[at : at + length]
    elif kind == 4:
        bad[at:at] = bad[draw.randrange(len(bad)) :][:length]
    elif kind == 5:
        bad[at : at + length] = draw.choice((b"\xff", b"\0", b"\x80")) * length
    elif kind == 6:
        bad[at : at + length] = draw.randbytes(length)
    elif kind == 7:
        value = {
            "chunk_bytes": draw.choice((0, 1, 16, 65_536, 65_537, -1, 2**70, 1.5, None)),
            "model": draw.choice((SUMS.identity(), SUMS.identity(), {}, 3)),
            "view": draw.choice((None, None, "raw", "\ud800", 5)),
        }
        header = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        return forged([PLAIN] * draw.randrange(4), header=header), False
    else:
        return invented(draw), False
    return bytes(bad), True


def invented(draw):
    """Right checksums over records, an index and counts of whatever size."""
    chunk_bytes = draw.choice((1, 2, 16, 300, 65_536))
    payloads = []
    for _ in range(draw.randrange(6)):
        raw = SUMS.pattern[: draw.choice((chunk_bytes, chunk_bytes, draw.randrange(chunk_bytes + 1)))]
        short = draw.choice((None, None, draw.randrange(chunk_bytes + 2))) if len(raw) == chunk_bytes else len(raw)
        payload = draw.choice((SUMS.encode([raw])[0].payload, raw, draw.randbytes(draw.randrange(20)), b""))
        payloads.append((payload, raw, draw.random() < 0.3 or payload is raw, short))
    sizes = [draw.choice((0, 1, 10, 127, 128, 2**20)) for _ in payloads] if draw.random() < 0.3 else None
    counts = None
    if draw.random() < 0.4:
        counts = (draw.choice((0, 1, 5, 2**63)), draw.choice((0, 16, 2**40, 2**64 - 1)), draw.choice((0, 1, 5, 200, 2**64 - 1)))
    return forged(payloads, chunk_bytes=chunk_bytes, counts=counts, sizes=sizes)


def check_mutants(number, seed):
    """C13. Only the declared error, or right bytes, or told ranges where it is salvaged. (refused, decoded, slowest seconds)."""
    draw, refused, decoded, slowest = random.Random(seed), 0, 0, 0.0
    for _ in range(number):
        bad, of_good = mutant(draw)
        started = time.process_time()
        for read in (forward, looked_at):
            try:
                got = read(bad)
            except DecodeError:
                refused += 1
                continue
            decoded += 1
            assert not of_good or got == DATA
        with contextlib.suppress(DecodeError):
            _ = check_salvaged(bad, DATA) if of_good else salvaged(bad)
        slowest = max(slowest, time.process_time() - started)
    return refused, decoded, slowest


def test_thousands_of_mutants(under_limit):
    refused, decoded, _ = check_mutants(3000, seed=1)
    assert refused > 5_000
    assert decoded > 50


@pytest.mark.campaign
def test_campaign_of_mutants(under_limit):
    started = time.monotonic()
    refused, decoded, slowest = check_mutants(200_000, seed=2)
    told = f"{refused} refused, {decoded} decoded, slowest {slowest:.2f} s, all {time.monotonic() - started:.0f} s"
    print(f"\n200,000 inputs, read three ways: {told}")
    assert slowest < 5


@pytest.mark.campaign
def test_campaign_of_bits():
    """Every bit of a container of 4 KiB."""
    draw = random.Random(4)
    data = b"".join(SUMS.pattern[: (at := draw.randrange(65))] + draw.randbytes(64 - at) for _ in range(88))
    file = made(data, chunk_bytes=64)
    named = check_every_bit(data, file, len(Header(64, SUMS.identity(), None).pack()), SUMS)
    print(f"\n{8 * len(file)} bits of a file of {len(file)} bytes: none gave wrong bytes, {named} named their chunk alone")
    assert len(file) >= 4096
