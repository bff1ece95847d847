"""Byte models in whole numbers as coders: equal code on every machine.

    predictor = ByteModelPredictor(load_model(folder))

Rows of the model, the range coder of `compressors.neural`; no length in the code, since it is known. Decoding a count model follows its
trie chunk by chunk in one compiled loop; other models are asked for the next byte of all chunks at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compressors.base import JSON
from compressors.files import digest_of
from compressors.neural import range_coder
from compressors.neural.count_decode import _fresh, _read_range
from compressors.neural.counts import CountModel
from compressors.neural.models import PRECISION_BITS, ByteModel
from proxy_lm.codec.predictor import MAX_CHUNK_BYTES, Coded, check_chunks
from proxy_lm.errors import DecodeError, RequestError

U8 = npt.NDArray[np.uint8]


class ByteModelPredictor:
    """A `Predictor`. Safe to share between threads."""

    portable = True

    def __init__(self, model: ByteModel) -> None:
        """Raises `RequestError` for a model that is not in whole numbers."""
        if not model.integer:
            raise RequestError(
                f"a byte model of kind '{model.kind}' is not in whole numbers, so its code could not be read on another machine; give one "
                "of kind 'counts', or compile it into a view"
            )
        self.lanes = 64
        self._model = model
        self.num_parameter_bytes = sum(len(data) for data in model.files().values())
        self.num_parameters = model.num_nodes if isinstance(model, CountModel) else self.num_parameter_bytes // 2

    def identity(self) -> dict[str, JSON]:
        """As `Predictor.identity`."""
        coder: dict[str, JSON] = {"name": "range coder", "version": 1, "precision_bits": PRECISION_BITS}
        return {"kind": self._model.kind, "fingerprint": digest_of(self._model.spec()), "coder": coder}

    def encode(self, chunks: Sequence[bytes]) -> list[Coded]:
        """As `Predictor.encode`."""
        check_chunks(chunks)
        coded = []
        for first in range(0, len(chunks), self.lanes):
            some = chunks[first : first + self.lanes]
            for chunk, rows in zip(some, self._model.rows(some), strict=True):
                starts, sizes = range_coder.gather(rows, np.frombuffer(chunk, np.uint8))
                bits = float(len(sizes) * PRECISION_BITS - np.log2(sizes.astype(np.float64)).sum())
                coded.append(Coded(range_coder.encode(starts, sizes).tobytes(), bits))
        return coded

    def decode(self, payloads: Sequence[bytes], lengths: Sequence[int]) -> list[bytes]:
        """As `Predictor.decode`: a payload that `encode` does not make of what it decodes to is refused."""
        for index, (payload, length) in enumerate(zip(payloads, lengths, strict=True)):
            if not 0 <= length <= MAX_CHUNK_BYTES or len(payload) > 2 * length + 8:
                raise DecodeError(f"chunk {index}: {len(payload)} bytes of code and a length of {length} are no chunk; it is damaged")
        texts: list[bytes] = []
        for first in range(0, len(payloads), self.lanes):
            some, sizes = payloads[first : first + self.lanes], lengths[first : first + self.lanes]
            decoded = self._counted(some, sizes) if isinstance(self._model, CountModel) else self._asked(some, sizes)
            for index, (payload, coded) in enumerate(zip(some, self.encode(decoded), strict=True), first):
                if coded.payload != payload:
                    raise DecodeError(f"chunk {index}: no encoder makes this code of {len(payload)} bytes; it is damaged")
            texts += decoded
        return texts

    def _counted(self, payloads: Sequence[bytes], lengths: Sequence[int]) -> list[bytes]:
        assert isinstance(self._model, CountModel)
        texts = []
        for payload, length in zip(payloads, lengths, strict=True):
            decoder, text = range_coder.RangeDecoder(np.frombuffer(payload, np.uint8)), np.empty(length, np.uint8)
            _read_range(self._model.tables, decoder.words, decoder.state, *_fresh(), text)
            texts.append(text.tobytes())
        return texts

    def _asked(self, payloads: Sequence[bytes], lengths: Sequence[int]) -> list[bytes]:
        decoders = [range_coder.RangeDecoder(np.frombuffer(payload, np.uint8)) for payload in payloads]
        texts: U8 = np.empty((len(payloads), max(lengths, default=0)), np.uint8)
        seen = self._model.context_bytes
        for place in range(texts.shape[1]):
            active = [lane for lane, length in enumerate(lengths) if length > place]
            depth = place if seen is None else min(place, seen)
            rows = self._model.after(texts[active, place - depth : place])
            for lane, row in zip(active, rows, strict=True):
                texts[lane, place] = decoders[lane].next(row)
        return [text[:length].tobytes() for text, length in zip(texts, lengths, strict=True)]
