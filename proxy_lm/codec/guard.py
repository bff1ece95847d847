"""What a predictor answers, looked at before it is believed: its type, its number, its lengths, and the checksum of every chunk.

    encode_group(predictor, chunks, first=0)       # list[Coded]
    decode_group(predictor, records, chunk_bytes)  # of each record its bytes, or the DecodeError that says which chunk and why

A predictor that raises, or answers with something else than it promised, ends the work with one sentence that names the chunks. Not
contained: one that never answers, or that takes the process with it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Final

from proxy_lm.codec.container import Record
from proxy_lm.codec.predictor import Coded, Predictor
from proxy_lm.errors import DecodeError, ProxyError, WorkError

DEFAULT_CHUNK_BYTES: Final = 2048
_MOST_LANES: Final = 4096


def lanes_of(predictor: Predictor, chunk_bytes: int) -> int:
    """Chunks that are given at once: `predictor.lanes`, of long chunks fewer, so that memory does not grow with their length. Raises
    `WorkError` where the predictor names no number from 1 to 4,096."""
    lanes = predictor.lanes
    if type(lanes) is not int or not 1 <= lanes <= _MOST_LANES:
        raise WorkError(f"the model asks for {lanes!r} chunks at once; from 1 to {_MOST_LANES} can be given")
    return max(1, min(lanes, lanes * DEFAULT_CHUNK_BYTES // chunk_bytes))


def encode_group(predictor: Predictor, chunks: Sequence[bytes], first: int, *, check: bool) -> list[Coded]:
    """The codes of chunks `first` and following. With `check` they are decoded again, and a chunk that comes back as something else gets
    its own bytes for a code, which is then stored. Raises `WorkError` for what no predictor may answer."""
    where = _where(first, len(chunks))
    try:
        coded = predictor.encode(chunks)
    except ProxyError:
        raise
    except Exception as error:
        raise WorkError(f"the model failed when it encoded {where}: {_told(error)}") from error
    if not isinstance(coded, list) or len(coded) != len(chunks):
        raise WorkError(f"the model gave {_what(coded)} for {where} where a list of {len(chunks)} codes was due")
    for number, one in enumerate(coded, first):
        if not isinstance(one, Coded) or type(one.payload) is not bytes or not isinstance(one.information_bits, int | float):
            raise WorkError(f"the model gave {_what(one)} for chunk {number} where a code of bytes was due")
        if not math.isfinite(one.information_bits) or one.information_bits < 0:
            raise WorkError(f"the model gave chunk {number} an information content of {one.information_bits} bits, which cannot be")
    if not check:
        return coded
    back = _decode(predictor, [one.payload for one in coded], [len(chunk) for chunk in chunks], first)
    return [one if got == chunk else Coded(chunk, one.information_bits) for one, chunk, got in zip(coded, chunks, back, strict=True)]


def decode_group(predictor: Predictor, records: Sequence[Record], chunk_bytes: int) -> list[bytes | DecodeError]:
    """Of each record its chunk, which fits its checksum, or the error that names it. Raises `WorkError` for a predictor that fails."""
    coded = [record for record in records if not record.stored]
    first = coded[0].number if coded else 0
    found = _decode(predictor, [record.payload for record in coded], [record.raw_bytes for record in coded], first) if coded else []
    answers = iter(found)
    out: list[bytes | DecodeError] = []
    for record in records:
        if record.stored:
            out.append(record.payload)
            continue
        answer = next(answers)
        start = record.number * chunk_bytes
        named = f"chunk {record.number} (bytes {start} to {start + record.raw_bytes - 1})"
        if isinstance(answer, DecodeError):
            out.append(DecodeError(f"{named} cannot be decoded: {answer}"))
        elif zlib.crc32(answer) != record.raw_crc:
            out.append(DecodeError(f"{named} decodes to other bytes than were coded: {_why(predictor)}"))
        else:
            out.append(answer)
    return out


def _why(predictor: Predictor) -> str:
    if predictor.portable:
        return "its code is whole, so it was made by something else or damaged before it was written"
    return (
        "its code is whole, so this model computes otherwise here than where it was coded (another processor, device, number of threads or "
        "torch); decode it there"
    )


def _decode(predictor: Predictor, payloads: Sequence[bytes], lengths: Sequence[int], first: int) -> list[bytes | DecodeError]:
    """All at once; where that is refused, one by one, to learn which."""
    where = _where(first, len(payloads))
    try:
        found = predictor.decode(payloads, lengths)
    except DecodeError as error:
        if len(payloads) == 1:
            return [error]
        return [one for pair in zip(payloads, lengths, strict=True) for one in _decode(predictor, [pair[0]], [pair[1]], first)]
    except ProxyError:
        raise
    except Exception as error:
        raise WorkError(f"the model failed when it decoded {where}: {_told(error)}") from error
    if not isinstance(found, list) or len(found) != len(payloads):
        raise WorkError(f"the model gave {_what(found)} for {where} where a list of {len(payloads)} chunks was due")
    for one, length in zip(found, lengths, strict=True):
        if type(one) is not bytes or len(one) != length:
            raise WorkError(f"the model gave {_what(one)} in {where} where {length} bytes were due")
    return list(found)


def _where(first: int, number: int) -> str:
    return f"chunk {first}" if number == 1 else f"the {number} chunks from {first} on"


def _what(value: object) -> str:
    size = f" of {len(value)}" if isinstance(value, list | tuple | bytes | str) else ""
    return f"a {type(value).__name__}{size}"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
