"""Any model of symbols in floating point as a coder of chunks: one parallel pass to encode, a step for each symbol to decode.

    predictor = SymbolPredictor(body, reading, identity)

A `Body` gives logits, a `Reading` says which symbols tell a chunk. A payload is: how the chunk is told (by the model; by counted bytes;
stored), then for the model the number of symbols where bytes do not tell it, then the symbols; before every `SEGMENT` symbols the phase
of their rounding (`frequencies.py`). A symbol is one interval, of an alphabet of more than 2^14 symbols two (`wide.py`). A chunk that the
view cannot tell exactly, one whose logits are not finite, and one that costs more by the model than by counted or stored bytes is told
without the model.

Why equal: both sides evaluate in float64, where another order of adding changes a logit by some 1e-13; the encoder takes only phases
that no logit comes nearer to than 2.2e-10 nats. No library has to promise anything about its order.

Decoding runs up to `lanes` chunks side by side. What was decoded is encoded again: a payload that no encoder makes is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compressors.base import JSON
from proxy_lm.codec.coder import Reader, encode, next_order0, next_stored, next_symbol, uniform_interval
from proxy_lm.codec.frequencies import (
    MAX_ALPHABET,
    NUM_PHASES,
    PRECISION_BITS,
    TOTAL,
    WEIGHTS,
    gather,
    information_bits,
    order0,
    stored,
)
from proxy_lm.codec.predictor import MAX_CHUNK_BYTES, Coded, check_chunks
from proxy_lm.codec.wide import WIDE_ALPHABET, WIDE_PHASES, WIDE_WEIGHTS, gather_wide, next_wide
from proxy_lm.errors import DecodeError, RequestError
from proxy_lm.infer.prompts import continued

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

SEGMENT: Final = 512
"""Symbols that share a phase."""
BY_MODEL, BY_COUNTS, STORED = range(3)
_WAYS: Final = np.array([250, 3, 3], np.int64) << (PRECISION_BITS - 8)
_PHASES: Final = np.array([4096 - 2 * (NUM_PHASES - 1)] + [2] * (NUM_PHASES - 1), np.int64) << (PRECISION_BITS - 12)
_ALL_UNSAFE: Final = (1 << 64) - 1
# Ids of chunks that are evaluated before their intervals are made, beside the next ones; and logits that are made at once.
_IDS_AT_ONCE: Final = 1 << 14
_LOGITS_AT_ONCE: Final = 1 << 20
_FEWEST_ROWS_AT_ONCE: Final = 16
_IDS_PER_STEP: Final = 2048


class Reading(Protocol):
    """How chunks are told in symbols. Symbols are columns of the logits here, from 0 on."""

    begin: list[int]
    """Ids before the first symbol."""
    ids: I64
    """The id of each column [C]."""
    num_bytes: I64 | None
    """How many bytes each column spells [C]; None where the number of symbols has to be coded."""

    def columns(self, chunk: bytes) -> I64 | None:
        """The columns that tell a chunk; None where `text` would not give it back."""

    def text(self, columns: I64, num_bytes: int) -> bytes:
        """The bytes told. Raises `DecodeError` where they are not `num_bytes`."""


class Lanes(Protocol):
    """Keys and values of several sequences."""

    def read(self, ids: Sequence[I64], first_positions: Sequence[int]) -> Tensor:
        """Read ids into the first lanes, from these positions on; the stream behind the last of each, float64 [B, D]."""

    def move(self, source: int, target: int, num_positions: int) -> None:
        """One lane goes on in the place of another."""


class Body(Protocol):
    """A causal model up to its logits, in float64."""

    row_length: int

    def parallel(self, rows: Sequence[I64], firsts: Sequence[int]) -> list[Tensor]:
        """Of each row of ids the stream behind the ids from `first` on, float64 [len(row) - first, D]."""

    def logits(self, stream_ND: Tensor) -> F64:
        """Logits of the reading's columns, float64 [N, C]."""

    def lanes(self, num: int, num_positions: int) -> Lanes:
        """Empty ones."""


@dataclass(frozen=True)
class _Told:
    """Intervals of one chunk."""

    starts: list[U32]
    sizes: list[U32]

    def coded(self) -> Coded:
        sizes = np.concatenate(self.sizes)
        return Coded(encode(np.concatenate(self.starts), sizes), information_bits(sizes))

    def add(self, start: int, size: int) -> None:
        self.starts.append(np.array([start], np.uint32))
        self.sizes.append(np.array([size], np.uint32))


class SymbolPredictor:
    """A `Predictor`. Not safe to share between threads."""

    portable = False

    def __init__(self, body: Body, reading: Reading, identity: dict[str, JSON], num_parameters: int, num_parameter_bytes: int) -> None:
        """Raises `RequestError` for an alphabet or a row that cannot be coded with."""
        if not 0 < len(reading.ids) <= MAX_ALPHABET:
            raise RequestError(f"a view of {len(reading.ids)} symbols; 1 to {MAX_ALPHABET} can be coded: choose another view")
        if body.row_length < len(reading.begin) + 1 or body.row_length < 4:
            raise RequestError(f"rows of {body.row_length} ids are too short to code with; 4 at least: choose another run")
        self.lanes = 32
        self.num_parameters = num_parameters
        self.num_parameter_bytes = num_parameter_bytes
        self._body, self._reading, self._identity = body, reading, identity
        self._wide = len(reading.ids) > WIDE_ALPHABET
        self._phases = WIDE_PHASES if self._wide else _PHASES

    def identity(self) -> dict[str, JSON]:
        """As `Predictor.identity`."""
        coder: dict[str, JSON] = {"name": "float64 logits, range coder", "version": 1, "precision_bits": PRECISION_BITS}
        if self._wide:
            coder["intervals_per_symbol"] = 2
        return {**self._identity, "coder": coder, "row_length": self._body.row_length}

    # Encoding

    def encode(self, chunks: Sequence[bytes]) -> list[Coded]:
        """As `Predictor.encode`. Intervals and codes of one group of chunks are made beside the evaluation of the next."""
        check_chunks(chunks)
        told = [self._reading.columns(chunk) if chunk else None for chunk in chunks]
        told = [None if one is not None and len(one) > len(chunk) else one for one, chunk in zip(told, chunks, strict=True)]
        coded: list[Future[Coded]] = []
        with ThreadPoolExecutor(1) as beside:
            for group in self._groups(told):
                streams = iter(self._streams([columns for index in group if (columns := told[index]) is not None]))
                for index in group:
                    columns = told[index]
                    stream = None if columns is None else next(streams)
                    coded.append(beside.submit(self._code, chunks[index], columns, stream))
        return [one.result() for one in coded]

    def _groups(self, told: Sequence[I64 | None]) -> Iterator[range]:
        first = num_ids = 0
        for index, columns in enumerate(told):
            num_ids += 0 if columns is None else len(columns)
            if num_ids >= _IDS_AT_ONCE or index == len(told) - 1:
                yield range(first, index + 1)
                first, num_ids = index + 1, 0

    @torch.inference_mode()
    def _streams(self, told: Sequence[I64]) -> list[list[Tensor]]:
        """Of each chunk the stream before each of its symbols, in parts [n, D]."""
        length, num_begin = self._body.row_length, len(self._reading.begin)
        rows, firsts, counts = [], [], []
        for columns in told:
            ids = np.concatenate([self._reading.begin, self._reading.ids[columns]])
            # The row that predicts ids[i] is the one that `continued` names; a row but the first has been told before up to its half.
            num_rows = continued(len(ids) - 1, length)[1] + 1
            step = length - length // 2
            rows += [ids[k * step : min(k * step + length, len(ids) - 1)] for k in range(num_rows)]
            firsts += [num_begin - 1] + [length // 2] * (num_rows - 1)
            counts.append(num_rows)
        streams = iter(self._body.parallel(rows, firsts))
        return [[next(streams) for _ in range(count)] for count in counts]

    def _code(self, chunk: bytes, columns: I64 | None, stream: list[Tensor] | None) -> Coded:
        if not chunk:
            return Coded(b"", 0.0)
        data = np.frombuffer(chunk, np.uint8)
        found = [_with_way(BY_COUNTS, *order0(data)), _with_way(STORED, *stored(data))]
        if columns is not None and stream is not None:
            by_model = self._intervals(columns, torch.cat(stream), len(chunk))
            if by_model is not None:
                found.insert(0, by_model)
        best = min(found, key=lambda one: sum(information_bits(sizes) for sizes in one.sizes))
        return best.coded()

    @torch.inference_mode()
    def _intervals(self, columns: I64, stream_ND: Tensor, num_bytes: int) -> _Told | None:
        """None where some row has no safe phase: it is not finite."""
        told = _with_way(BY_MODEL)
        if self._reading.num_bytes is None:
            told.add(*uniform_interval(len(columns), num_bytes + 1))
        for first in range(0, len(columns), SEGMENT):
            segment = slice(first, first + SEGMENT)
            phase = 0
            starts, sizes, unsafe = self._gather(stream_ND[segment], columns[segment], phase)
            if unsafe == _ALL_UNSAFE:
                return None
            if unsafe & 1:
                phase = next(phase for phase in range(NUM_PHASES) if not unsafe >> phase & 1)
                starts, sizes, _ = self._gather(stream_ND[segment], columns[segment], phase)
            told.add(int(self._phases[:phase].sum()), int(self._phases[phase]))
            told.starts.append(starts)
            told.sizes.append(sizes)
        return told

    def _gather(self, stream_ND: Tensor, columns: I64, phase: int) -> tuple[U32, U32, int]:
        each = 2 if self._wide else 1
        starts, sizes = np.empty(each * len(columns), np.uint32), np.empty(each * len(columns), np.uint32)
        unsafe, num = 0, max(_FEWEST_ROWS_AT_ONCE, _LOGITS_AT_ONCE // len(self._reading.ids))
        for first in range(0, len(columns), num):
            some, told = slice(first, first + num), slice(each * first, each * (first + num))
            logits_NC = self._body.logits(stream_ND[some])
            if self._wide:
                unsafe |= int(gather_wide(logits_NC, columns[some], phase, WIDE_WEIGHTS, starts[told], sizes[told]))
            else:
                unsafe |= int(gather(logits_NC, columns[some], phase, WEIGHTS, starts[told], sizes[told]))
        return starts, sizes, unsafe

    # Decoding

    def decode(self, payloads: Sequence[bytes], lengths: Sequence[int]) -> list[bytes]:
        """As `Predictor.decode`."""
        decoded: list[bytes] = [b""] * len(payloads)
        waiting: list[_Lane] = []
        for index, (payload, length) in enumerate(zip(payloads, lengths, strict=True)):
            if not 0 <= length <= MAX_CHUNK_BYTES or len(payload) > 4 * length + 8:
                raise DecodeError(f"chunk {index}: {len(payload)} bytes of code and a length of {length} are no chunk; it is damaged")
            if length == 0:
                if payload:
                    raise DecodeError(f"chunk {index}: {len(payload)} bytes of code for no bytes; it is damaged")
                continue
            reader = Reader(payload)
            way = reader.among(_WAYS)
            if way == BY_MODEL:
                waiting.append(self._lane(index, payload, length, reader))
                continue
            decoded[index] = (next_order0 if way == BY_COUNTS else next_stored)(length, reader)
            data = np.frombuffer(decoded[index], np.uint8)
            _check(_with_way(way, *(order0 if way == BY_COUNTS else stored)(data)), payload, index)
        for first in range(0, len(waiting), self.lanes):
            some = waiting[first : first + self.lanes]
            self._decode_lanes(some)
            for lane in some:
                decoded[lane.index] = self._reading.text(lane.columns(), lane.num_bytes)
                _check(lane.told, lane.payload, lane.index)
        return decoded

    def _lane(self, index: int, payload: bytes, num_bytes: int, reader: Reader) -> _Lane:
        num_symbols = None
        told = _with_way(BY_MODEL)
        if self._reading.num_bytes is None:
            num_symbols = reader.uniform(num_bytes + 1)
            told.add(*uniform_interval(num_symbols, num_bytes + 1))
        ids = np.empty(len(self._reading.begin) + num_bytes, np.int64)
        ids[: len(self._reading.begin)] = self._reading.begin
        return _Lane(index, payload, num_bytes, num_symbols, reader, told, ids)

    @torch.inference_mode()
    def _decode_lanes(self, lanes: list[_Lane]) -> None:
        """All of them have as many ids, since each has got one symbol a step."""
        reading, length, num_begin = self._reading, self._body.row_length, len(self._reading.begin)
        active = [lane for lane in lanes if not lane.done]
        num_slots = min(length, num_begin + max((lane.num_bytes for lane in active), default=0))
        cache = self._body.lanes(len(active), num_slots)
        num_ids, base, num_read = num_begin, 0, 0
        scratch, interval = np.empty(len(reading.ids), np.int64), np.empty(4 if self._wide else 2, np.uint32)
        while active:
            if num_ids - base > length:  # the last half is read again
                base = num_read = base + length - length // 2
            width = max(1, _IDS_PER_STEP // len(active))
            while num_read < num_ids:
                part = slice(num_read, min(num_ids, num_read + width))
                stream_BD = cache.read([lane.ids[part] for lane in active], [num_read - base] * len(active))
                num_read = part.stop
            logits_BC = self._body.logits(stream_BD)
            for lane, logits in zip(active, logits_BC, strict=True):
                lane.advance(reading, logits, num_ids - num_begin, scratch, interval)
            num_ids += 1
            going_on = [slot for slot, lane in enumerate(active) if not lane.done]
            holes = [slot for slot in range(len(going_on)) if active[slot].done]
            tail = [slot for slot in going_on if slot >= len(going_on)]
            for hole, slot in zip(holes, tail, strict=True):
                cache.move(slot, hole, num_read - base)
                active[hole] = active[slot]
            del active[len(going_on) :]


@dataclass
class _Lane:
    """One chunk that is being decoded."""

    index: int
    payload: bytes
    num_bytes: int
    num_symbols: int | None
    reader: Reader
    told: _Told
    ids: I64
    phase: int = 0
    num_told: int = 0
    """Symbols so far."""
    num_spelled: int = 0

    def __post_init__(self) -> None:
        self._columns: list[int] = []

    @property
    def done(self) -> bool:
        return self.num_spelled == self.num_bytes if self.num_symbols is None else self.num_told == self.num_symbols

    def columns(self) -> I64:
        return np.array(self._columns, np.int64)

    def advance(self, reading: Reading, logits: F64, index: int, scratch: I64, interval: U32) -> None:
        """Read symbol number `index` from its logits [C]; `interval` [2], or [4] where the alphabet is wide."""
        if index % SEGMENT == 0:
            phases = WIDE_PHASES if len(interval) > 2 else _PHASES
            self.phase = self.reader.among(phases)
            self.told.add(int(phases[: self.phase].sum()), int(phases[self.phase]))
        if len(interval) > 2:
            column = int(next_wide(logits, self.phase, WIDE_WEIGHTS, scratch, self.reader.words, self.reader.state, interval))
        else:
            column = int(next_symbol(logits, self.phase, WEIGHTS, scratch, self.reader.words, self.reader.state, interval))
        if column < 0:
            raise DecodeError(f"chunk {self.index}: the model's numbers are not finite behind symbol {index}; the chunk is damaged")
        for start, size in interval.reshape(-1, 2).tolist():
            self.told.add(start, size)
        self._columns.append(column)
        self.ids[len(reading.begin) + index] = reading.ids[column]
        self.num_told += 1
        if reading.num_bytes is not None:
            self.num_spelled += int(reading.num_bytes[column])
            if self.num_spelled > self.num_bytes:
                raise DecodeError(f"chunk {self.index}: its symbols spell more than {self.num_bytes} bytes; it is damaged")


def by_model(payload: bytes) -> bool:
    """Whether a chunk that is not empty was told by the model: counted or stored bytes did not cost less."""
    return Reader(payload).among(_WAYS) == BY_MODEL


def _with_way(way: int, starts: U32 | None = None, sizes: U32 | None = None) -> _Told:
    told = _Told([], [])
    told.add(int(_WAYS[:way].sum()), int(_WAYS[way]))
    if starts is not None and sizes is not None:
        told.starts.append(starts)
        told.sizes.append(sizes)
    return told


def _check(told: _Told, payload: bytes, index: int) -> None:
    if told.coded().payload != payload:
        raise DecodeError(f"chunk {index}: no encoder makes this code of {len(payload)} bytes; it is damaged")


assert _WAYS.sum() == TOTAL
assert _PHASES.sum() == TOTAL
