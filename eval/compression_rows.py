"""Rows of a compression table: what each makes of a data set.

    ModelRow("nano", open_predictor(run), chunk_bytes=2048, seven_bit=False, verify=4).measure(data, advance)
    ClassicalRow(gzip, chunk_bytes=None).measure(data, advance)
    AsModelRow(open_lengths("gzip"), chunk_bytes=2048).measure(data, advance)

A model codes every chunk alone and for real; some chunks at equal distances, or all, are decoded and compared. Its code has no header. A
run tells a chunk by counts of the chunk's own bytes, or stored, where that costs less; the source has the model alone, at any price. How
many chunks the model told itself is counted.
What a container adds (lengths, checksums) is not in it, as it is not in the source: `proxy-lm compress` tells that.

The 7-bit mapping is that of Deletang et al. (ICLR 2024): of text and code, bytes of 128 and more lose their top bit; of anything else every
byte loses its lowest, by a shift to the right. One lost bit a byte that is changed so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from compressors.base import JSON
from eval.compression_data import DataSet, evenly
from proxy_lm.codec import Predictor
from proxy_lm.codec.classical import Classical, chunks_of, measure
from proxy_lm.codec.compressor_model import CompressorModel
from proxy_lm.codec.lengths import Lengths
from proxy_lm.errors import WorkError

Advance = Callable[[int], object]


class Row(Protocol):
    """A row. Equal identities give equal numbers (seconds aside) on equal bytes."""

    name: str
    group: str
    """classical, model, or next-byte: a compressor asked byte by byte."""
    chunk_bytes: int | None
    """None: the whole at once."""
    num_parameters: int
    num_parameter_bytes: int
    """Real bytes of the weights."""
    verify: int | None
    """Chunks to be decoded and compared; None: all."""

    def identity(self, data: DataSet) -> dict[str, JSON]:
        """All that the numbers depend on but the bytes."""
        ...

    def measure(self, data: DataSet, advance: Advance) -> dict[str, Any]:
        """Counts and seconds; `advance` is told the bytes that are done. Raises `WorkError` where a chunk is not had back."""
        ...


class ClassicalRow:
    """A compressor of `proxy_lm.codec.classical`; every chunk is decoded and compared."""

    group = "classical"
    num_parameters = num_parameter_bytes = 0
    verify: int | None = None

    def __init__(self, compressor: Classical, *, chunk_bytes: int | None) -> None:
        self.name, self.chunk_bytes, self.compressor = compressor.name, chunk_bytes, compressor

    def identity(self, data: DataSet) -> dict[str, JSON]:
        """As `Row.identity`."""
        return {"compressor": self.name, "library": self.compressor.library, "options": self.compressor.options}

    def measure(self, data: DataSet, advance: Advance) -> dict[str, Any]:
        """As `Row.measure`."""
        started = time.monotonic()
        found = measure(self.compressor, data.data, chunk_bytes=self.chunk_bytes, advance=advance)
        return {
            "num_bytes": found.num_bytes,
            "num_chunks": found.num_chunks,
            "coded_bytes": found.coded_bytes,
            "header_bytes": found.header_bytes,
            "counted_bytes": found.counted_bytes,
            "num_verified": found.num_chunks,
            "seconds": time.monotonic() - started,
        }


class ModelRow:
    """A model with its coder."""

    group = "model"
    chunk_bytes: int | None

    def __init__(self, name: str, predictor: Predictor, *, chunk_bytes: int, seven_bit: bool, verify: int | None) -> None:
        self.name, self.chunk_bytes, self.verify = name, chunk_bytes, verify
        self.predictor, self.seven_bit = predictor, seven_bit
        self.num_parameters, self.num_parameter_bytes = predictor.num_parameters, predictor.num_parameter_bytes

    def identity(self, data: DataSet) -> dict[str, JSON]:
        """As `Row.identity`."""
        mapping = mapping_of(data.kind) if self.seven_bit else None
        return {"model": self.predictor.identity(), "mapping": mapping}

    def measure(self, data: DataSet, advance: Advance) -> dict[str, Any]:
        """As `Row.measure`."""
        told, lost_bits = seven_bits(data.data, data.kind) if self.seven_bit else (data.data, 0)
        chunks = list(chunks_of(told, self.chunk_bytes))
        chosen = frozenset(range(len(chunks)) if self.verify is None else evenly(len(chunks), self.verify) if self.verify else [])
        step, coded_bytes, num_by_model, information_bits, encoding, decoding = self.predictor.lanes, 0, 0, 0.0, 0.0, 0.0
        waiting: list[tuple[int, bytes]] = []
        by_model = _asker(self.predictor)
        self.predictor.encode([b" "])  # compiles what is compiled at its first use, outside of the seconds
        for first in range(0, len(chunks), step):
            some = chunks[first : first + step]
            started = time.monotonic()
            coded = self.predictor.encode(some)
            encoding += time.monotonic() - started
            coded_bytes += sum(len(one.payload) for one in coded)
            num_by_model += sum(by_model(one.payload) for one in coded)
            information_bits += sum(one.information_bits for one in coded)
            waiting += [(index, one.payload) for index, one in enumerate(coded, first) if index in chosen]
            if len(waiting) >= self.predictor.lanes or first + step >= len(chunks):
                started = time.monotonic()
                self._compare(waiting, chunks, data)
                waiting = []
                decoding += time.monotonic() - started
            advance(sum(map(len, some)))
        return {
            "num_bytes": len(told),
            "num_chunks": len(chunks),
            "coded_bytes": coded_bytes,
            "header_bytes": 0,
            "counted_bytes": coded_bytes,
            "information_bits": information_bits,
            "lost_bits": lost_bits,
            "num_by_model": num_by_model,
            "num_verified": len(chosen),
            "seconds": encoding + decoding,
            "encode_seconds": encoding,
            "decode_seconds": decoding,
        }

    def _compare(self, waiting: Sequence[tuple[int, bytes]], chunks: Sequence[bytes], data: DataSet) -> None:
        decoded = self.predictor.decode([payload for _, payload in waiting], [len(chunks[index]) for index, _ in waiting])
        for (index, _), chunk in zip(waiting, decoded, strict=True):
            if chunk != chunks[index]:
                raise WorkError(f"{self.name} did not give chunk {index} of {data.name} back; its rate would mean nothing")


def _asker(predictor: Predictor) -> Callable[[bytes], bool]:
    """Tells of a payload whether the model told it; a byte model has no other way."""
    if predictor.portable:
        return lambda payload: True
    from proxy_lm.codec.symbol_model import by_model  # torch, which such a predictor has imported already

    return by_model


class AsModelRow:
    """A compressor as a model of the next byte, horizon one; nothing is coded, its information content is told."""

    group = "next-byte"
    num_parameters = num_parameter_bytes = 0
    verify: int | None = None
    chunk_bytes: int | None

    def __init__(self, lengths: Lengths, *, chunk_bytes: int) -> None:
        self.name, self.chunk_bytes, self.lengths = f"{lengths.name}, next byte", chunk_bytes, lengths

    def identity(self, data: DataSet) -> dict[str, JSON]:
        """As `Row.identity`."""
        return {"next byte": self.lengths.identity()}

    def measure(self, data: DataSet, advance: Advance) -> dict[str, Any]:
        """As `Row.measure`."""
        model, bits, own_bits, started = CompressorModel(self.lengths), 0.0, 0.0, time.monotonic()
        chunks = list(chunks_of(data.data, self.chunk_bytes))
        for chunk in chunks:
            for index, byte in enumerate(chunk):
                bits -= float(model.log2_next(chunk[:index])[byte])
                advance(1)
            own_bits += model.own_bits(chunk) * len(chunk)
        return {
            "num_bytes": len(data.data),
            "num_chunks": len(chunks),
            "coded_bytes": None,
            "header_bytes": 0,
            "counted_bytes": bits / 8,
            "information_bits": bits,
            "own_bits": own_bits,
            "num_verified": 0,
            "seconds": time.monotonic() - started,
        }


def mapping_of(kind: str) -> str:
    """How the source brings bytes of a kind to seven bits."""
    return "top bit cleared" if kind in ("text", "code") else "shifted right"


def seven_bits(data: bytes, kind: str) -> tuple[bytes, int]:
    """The bytes mapped to 0..127, and how many bits that lost."""
    given = np.frombuffer(data, np.uint8)
    if mapping_of(kind) == "shifted right":
        return (given >> 1).tobytes(), len(data)
    return (given & 127).tobytes(), int((given >= 128).sum())


def rates(
    cell: dict[str, Any], *, parameters: int, parameter_bytes: int, adjusted_for: int | None, accounting: str | None
) -> dict[str, Any]:
    """Percent of the raw size: `raw`, and with the model beside: `adjusted` at 2 bytes a parameter, `adjusted_real` at its real size, over
    `adjusted_for` bytes of data (None: those measured). `accounting` of lost bits: 'appended' (to the code) or 'scaled' (the rate of what
    is left is taken for the whole), None where none are lost."""
    raw_bits, counted_bits, lost_bits = 8 * cell["num_bytes"], 8 * cell["counted_bytes"], cell.get("lost_bits", 0)
    if accounting == "appended":
        counted_bits += lost_bits
    elif accounting == "scaled":
        counted_bits *= raw_bits / (raw_bits - lost_bits)
    rate, over = 100 * counted_bits / raw_bits, adjusted_for or cell["num_bytes"]
    return {"raw": rate, "adjusted": rate + 100 * 2 * parameters / over, "adjusted_real": rate + 100 * parameter_bytes / over}
