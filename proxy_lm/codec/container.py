"""The container of `proxy-lm compress`: head, one record a chunk, index, foot. It knows bytes and checksums, and no model.

    writer = Writer(file, Header(chunk_bytes=2048, model=predictor.identity(), view=None))
    writer.add(coded=payload, raw=chunk)          # per chunk, in order
    writer.finish(raw_sha256)
    header = read_head(file); foot = read_foot(file, header); record = read_record(file, 0, header.chunk_bytes)

The format to the byte is in README.md beside this file. Everything read is taken for hostile: no number that was read makes anything
larger than `MAX_HEADER_BYTES` or one chunk, and every reader here raises `DecodeError` alone.

Not promised: protection from forgery. The checksums find damage; whoever writes a file on purpose writes checksums that fit.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Final

from compressors.base import JSON
from compressors.files import canonical_json
from proxy_lm.codec.predictor import MAX_CHUNK_BYTES
from proxy_lm.errors import DecodeError

MAGIC: Final = b"\x89PLMC\r\n\x1a"
"""Not text, and spoilt by whatever changes line ends."""
TAIL: Final = b"PLMCend\n"
VERSION: Final = 1
MAX_HEADER_BYTES: Final = 65_536
MAX_VIEW_CHARACTERS: Final = 256

_HEAD: Final = struct.Struct("<8sHI")
_CHECKS: Final = struct.Struct("<II")
_COUNTS: Final = struct.Struct("<QQQ")
_FOOT: Final = struct.Struct("<24s32s32s8s")
FOOT_BYTES: Final = _FOOT.size
DIGEST_BYTES: Final = 32
END: Final = b"\x00"

_STORED, _SHORT = 1, 2
_BLOCK_BYTES: Final = 1 << 16
_MAX_VARINT_BYTES: Final = 4  # 4 * 65,536 + 4 needs three; a size in the index needs three


class DamagedRecordError(DecodeError):
    """The bytes of a whole record were read and do not fit its checksum: what is next stands, perhaps, right behind it."""


@dataclass(frozen=True)
class Header:
    """What decoding depends on."""

    chunk_bytes: int
    """Raw bytes of each chunk but the last, which may have fewer: 1 to 65,536."""
    model: dict[str, JSON]
    """`Predictor.identity()` of the encoder."""
    view: str | None
    """The view that the model was asked for, as `open_predictor` takes it."""

    def pack(self) -> bytes:
        """The head of a file, its digest included."""
        return self._packed

    @cached_property
    def _packed(self) -> bytes:
        text = canonical_json({"chunk_bytes": self.chunk_bytes, "model": self.model, "view": self.view})
        assert len(text) <= MAX_HEADER_BYTES
        head = _HEAD.pack(MAGIC, VERSION, len(text)) + text
        return head + hashlib.sha256(head).digest()

    @property
    def digest(self) -> bytes:
        """The 32 bytes that end the head."""
        return self.pack()[-DIGEST_BYTES:]


@dataclass(frozen=True)
class Record:
    """One chunk as it stands in the file."""

    number: int
    raw_bytes: int
    stored: bool
    """The payload is the chunk itself."""
    payload: bytes
    raw_crc: int
    size_bytes: int
    """Of the whole record."""


@dataclass(frozen=True)
class Foot:
    """What is known of the whole file at its end."""

    num_chunks: int
    raw_bytes: int
    index_bytes: int
    raw_sha256: bytes

    def pack(self, head_digest: bytes, index_sha256: bytes) -> bytes:
        """The last `FOOT_BYTES` of a file."""
        counts = _COUNTS.pack(self.num_chunks, self.raw_bytes, self.index_bytes)
        check = hashlib.sha256(head_digest + END + index_sha256 + counts + self.raw_sha256).digest()
        return _FOOT.pack(counts, self.raw_sha256, check, TAIL)


class Writer:
    """Writes records in order and keeps the index beside them."""

    def __init__(self, file: IO[bytes], index: IO[bytes], header: Header) -> None:
        """`file` is written from its position on; `index` is an empty scratch file that can be read again."""
        self.header = header
        self.num_chunks = self.raw_bytes = self.size_bytes = 0
        self._file, self._index = file, index
        self._digest = hashlib.sha256()
        self._ended = False
        self._write(header.pack())

    def add(self, code: bytes, raw: bytes) -> bool:
        """The next chunk, 1 to `chunk_bytes` raw bytes, as its code; or as itself where the code is not smaller. Whether it was stored."""
        assert 1 <= len(raw) <= self.header.chunk_bytes
        assert not self._ended, "a chunk after a short one"
        stored = len(code) >= len(raw)
        short = len(raw) < self.header.chunk_bytes
        self._ended = short  # only the last chunk may be short
        record = pack_record(self.num_chunks, raw if stored else code, zlib.crc32(raw), stored, len(raw) if short else None)
        self._write(record)
        self._index.write(varint(len(record)))
        self.num_chunks += 1
        self.raw_bytes += len(raw)
        return stored

    def take(self, record: Record) -> None:
        """Count a record that the file has already and that is not the last."""
        assert record.raw_bytes == self.header.chunk_bytes
        self._index.write(varint(record.size_bytes))
        self._digest.update(pack_record(record.number, record.payload, record.raw_crc, record.stored, None))
        self.size_bytes += record.size_bytes
        self.num_chunks += 1
        self.raw_bytes += record.raw_bytes

    def sha256(self) -> str:
        """Hex digest of all that the file has so far."""
        return self._digest.hexdigest()

    def finish(self, raw_sha256: bytes) -> None:
        """End mark, index and foot. Nothing can be added afterwards."""
        self._ended = True
        index_bytes = self._index.tell()
        self._index.seek(0)
        digest = hashlib.sha256()
        self._write(END)
        while block := self._index.read(_BLOCK_BYTES):
            digest.update(block)
            self._write(block)
        foot = Foot(self.num_chunks, self.raw_bytes, index_bytes, raw_sha256)
        self._write(foot.pack(self.header.digest, digest.digest()))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size_bytes += len(data)


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first, the top bit on all but the last."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def pack_record(number: int, payload: bytes, raw_crc: int, stored: bool, short_bytes: int | None) -> bytes:
    """A record. `short_bytes` is the raw length of a chunk that is shorter than the others."""
    kind = (_STORED if stored else 0) | (_SHORT if short_bytes is not None else 0)
    lengths = varint(4 * len(payload) + kind + 1) + (varint(short_bytes) if short_bytes is not None else b"")
    return lengths + _CHECKS.pack(_code_crc(number, lengths, raw_crc, payload), raw_crc) + payload


def _code_crc(number: int, lengths: bytes, raw_crc: int, payload: bytes) -> int:
    """Over all of the record but itself, and its number: a record in another's place is damage."""
    return zlib.crc32(payload, zlib.crc32(lengths + struct.pack("<QI", number, raw_crc)))


def read_head(file: IO[bytes]) -> Header:
    """The header at the file's position. Raises `DecodeError` for what is no such file, another version, or damage."""
    start = file.read(_HEAD.size)
    if start[: len(MAGIC)] != MAGIC:
        raise DecodeError("this is no file of `proxy-lm compress` (its first 8 bytes are others); name one, or see whether it is damaged")
    if len(start) < _HEAD.size:
        raise DecodeError("the file ends within its head; copy it again")
    _, version, num_bytes = _HEAD.unpack(start)
    if version != VERSION:
        raise DecodeError(f"the file has format version {version} and this program reads version {VERSION}; use the one that wrote it")
    if num_bytes > MAX_HEADER_BYTES:
        raise DecodeError(f"the file claims a header of {num_bytes} bytes, and {MAX_HEADER_BYTES} are the most; it is damaged")
    text = file.read(num_bytes)
    digest = file.read(DIGEST_BYTES)
    if hashlib.sha256(start + text).digest() != digest:
        raise DecodeError("the file's head is damaged or cut off, and without it nothing can be decoded; copy it again")
    return _header(text)


def _header(text: bytes) -> Header:
    """Out of JSON whose digest was right, which a hostile file's is too."""
    try:
        value = json.loads(text)
        canonical = canonical_json(value) == text
    except (ValueError, RecursionError):
        canonical = False
    if not canonical or not isinstance(value, dict) or set(value) != {"chunk_bytes", "model", "view"}:
        raise DecodeError("the file's header is not as `proxy-lm compress` writes it; it was made by something else")
    chunk_bytes, model, view = value["chunk_bytes"], value["model"], value["view"]
    if type(chunk_bytes) is not int or not 1 <= chunk_bytes <= MAX_CHUNK_BYTES:
        raise DecodeError(f"the file's chunks are said to have other than 1 to {MAX_CHUNK_BYTES} bytes; it was made by something else")
    named = view is None or (isinstance(view, str) and len(view) <= MAX_VIEW_CHARACTERS and view.isprintable())
    if not isinstance(model, dict) or not named:
        raise DecodeError("the file's header names no model or a view that cannot be; it was made by something else")
    return Header(chunk_bytes, model, view)


def read_record(file: IO[bytes], number: int, chunk_bytes: int) -> Record | None:
    """The record of chunk `number` at the file's position; None at the end mark. Raises `DecodeError`, as `DamagedRecordError` where a
    whole record was read that does not fit its checksum."""
    lengths = read_varint(file, number)
    coded = decode_varint(lengths)
    if coded == 0:
        return None
    payload_bytes, kind = divmod(coded - 1, 4)
    raw_bytes = chunk_bytes
    if kind & _SHORT:
        short = read_varint(file, number)
        raw_bytes = decode_varint(short)
        lengths += short
        if not 1 <= raw_bytes < chunk_bytes:
            raise DecodeError(f"chunk {number} has lengths that cannot be; the file is damaged")
    stored = bool(kind & _STORED)
    if payload_bytes > raw_bytes or stored != (payload_bytes == raw_bytes):
        raise DecodeError(f"chunk {number} has lengths that cannot be; the file is damaged")
    checks = file.read(_CHECKS.size)
    payload = file.read(payload_bytes)
    if len(checks) < _CHECKS.size or len(payload) < payload_bytes:
        raise DecodeError(f"the file ends within chunk {number}; it is cut off")
    code_crc, raw_crc = _CHECKS.unpack(checks)
    if _code_crc(number, lengths, raw_crc, payload) != code_crc:
        raise DamagedRecordError(f"chunk {number} does not fit its checksum; the file is damaged")
    if stored and zlib.crc32(payload) != raw_crc:
        raise DamagedRecordError(f"chunk {number} does not fit its checksum; the file is damaged")
    return Record(number, raw_bytes, stored, payload, raw_crc, len(lengths) + _CHECKS.size + payload_bytes)


def read_varint(file: IO[bytes], number: int) -> bytes:
    """The bytes of one number; `number` is the chunk's, for the error."""
    out = b""
    while True:
        byte = file.read(1)
        if not byte:
            raise DecodeError(f"the file ends before chunk {number} or within it; it is cut off")
        out += byte
        if byte[0] < 128:
            break
        if len(out) == _MAX_VARINT_BYTES:
            raise DecodeError(f"chunk {number} has lengths that cannot be; the file is damaged")
    if byte == END and len(out) > 1:
        raise DecodeError(f"chunk {number} has a length that is written in more bytes than it needs; the file is damaged")
    return out


def decode_varint(data: bytes) -> int:
    """The number that `varint` wrote."""
    return sum((byte & 127) << 7 * place for place, byte in enumerate(data))


def check_end(file: IO[bytes], header: Header, found: Foot, index_sha256: bytes) -> None:
    """Read what follows the end mark and compare it with what was `found` on the way there; then the file must end."""
    digest = hashlib.sha256()
    for block in _blocks(file, found.index_bytes):
        digest.update(block)
    foot = file.read(FOOT_BYTES)
    if digest.digest() != index_sha256 or foot != found.pack(header.digest, index_sha256):
        raise DecodeError("the file's end does not fit what stands before it; it is damaged or cut off")
    if file.read(1):
        raise DecodeError("bytes follow the file's end; it is not as it was written")


def read_foot(file: IO[bytes], header: Header) -> Foot:
    """The foot of a file that can be sought in, its index read and compared with the digest. Raises `DecodeError` for a file that is cut
    off, has bytes behind its end, or is damaged there. Leaves the position anywhere."""
    head_bytes = len(header.pack())
    size = file.seek(0, 2)
    if size < head_bytes + len(END) + FOOT_BYTES:
        raise DecodeError("the file is cut off: it has no end; `--salvage` writes the chunks that are whole")
    file.seek(size - FOOT_BYTES)
    counts, raw_sha256, check, tail = _FOOT.unpack(file.read(FOOT_BYTES))
    num_chunks, raw_bytes, index_bytes = _COUNTS.unpack(counts)
    foot = Foot(num_chunks, raw_bytes, index_bytes, raw_sha256)
    start = size - FOOT_BYTES - foot.index_bytes
    if tail != TAIL or start < head_bytes + len(END):
        raise DecodeError(
            "the file does not end as it was written: it is cut off, bytes follow its end, or the end is damaged; `--salvage` writes the "
            "chunks that are whole"
        )
    file.seek(start - len(END))
    mark, digest = file.read(len(END)), hashlib.sha256()
    for block in _blocks(file, foot.index_bytes):
        digest.update(block)
    told = foot.pack(header.digest, digest.digest())
    if mark != END or told != _FOOT.pack(counts, raw_sha256, check, tail):
        raise DecodeError("the file's end is damaged; `--salvage` writes the chunks that are whole")
    most, least = foot.num_chunks * header.chunk_bytes, (foot.num_chunks - 1) * header.chunk_bytes + 1
    if not (least <= foot.raw_bytes <= most if foot.num_chunks else foot.raw_bytes == 0):
        raise DecodeError(
            f"the file claims {foot.raw_bytes} bytes in {foot.num_chunks} chunks of {header.chunk_bytes}; it is no right file"
        )
    return foot


def index_sizes(source: IO[bytes], foot: Foot) -> Iterator[int]:
    """The size of each record by the index; the position may be moved between two. Raises `DecodeError` for another number of sizes than
    there are chunks."""
    place, left, data = source.seek(0, 2) - FOOT_BYTES - foot.index_bytes, foot.index_bytes, b""
    for number in range(foot.num_chunks):
        if len(data) < _MAX_VARINT_BYTES and left:
            source.seek(place)
            more = source.read(min(left, _BLOCK_BYTES))
            place, left, data = place + len(more), left - len(more), data + more
        told = read_varint(io.BytesIO(data[:_MAX_VARINT_BYTES]), number)
        data = data[len(told) :]
        yield decode_varint(told)
    if left or data:
        raise DecodeError("the file's index has more sizes than there are chunks; it was made by something else")


def _blocks(file: IO[bytes], num_bytes: int) -> Iterator[bytes]:
    while num_bytes > 0 and (block := file.read(min(num_bytes, _BLOCK_BYTES))):
        num_bytes -= len(block)
        yield block
