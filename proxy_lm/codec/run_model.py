"""Runs of ours as coders: the decoder in float64, whole rows at once to encode, with kept keys and values to decode.

    predictor = run_predictor(Path("runs/nano"), view=None, device="cpu")

A chunk is told as a document's begin: BOS, the sentinel, its bytes or symbols; its length is known, so the end has no probability, and
only the asked view's ids have any. Rows hold as many ids as in training; where a chunk has more, the last half of the full row is read
again as a continued row, without a sentinel, as generating does (`proxy_lm.infer.prompts.continued`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

import compressors.registry as registry
from compressors.base import JSON, Compressor
from proxy_lm.codec import processor
from proxy_lm.codec.symbol_model import SymbolPredictor
from proxy_lm.errors import DecodeError, NotRepresentableError, RequestError
from proxy_lm.infer.cache import Cache, CachedBody
from proxy_lm.model.decoder import Decoder
from proxy_lm.reading import compressor_of, device_named, reading_view
from proxy_lm.train.restore import LoadedModel, load_model
from proxy_lm.train.weights import WEIGHTS_NAME
from proxy_lm.vocabulary import BOS, NUM_BYTES, RAW_START, ViewRange

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

# Ids of one parallel pass: more run no faster, since the stream then leaves the processor's cache.
_IDS_PER_PASS = 4096


def run_predictor(run: Path, *, view: str | None = None, device: str = "cpu") -> SymbolPredictor:
    """The newest valid checkpoint of a run folder, or a checkpoint folder. Raises `RequestError` as loading does."""
    loaded = load_model(run, device=device_named(device))
    name = view or reading_view(loaded.settings)
    compressor = compressor_of(loaded, name)
    reading = RawReading() if compressor is None else ViewReading(compressor, loaded.vocabulary.view(name))
    digest = next(str(entry["sha256"]) for entry in loaded.manifest["files"] if entry["name"] == WEIGHTS_NAME)
    identity: dict[str, JSON] = {
        "kind": "run",
        "fingerprint": digest,
        "view": name,
        "compressor": None if compressor is None else registry.fingerprint(compressor),
    }
    body = DecoderBody(loaded.model, reading.ids, loaded.settings.row_length)
    parameters = list(loaded.model.parameters())
    return SymbolPredictor(body, reading, identity, sum(p.numel() for p in parameters), _weights_size(loaded))


def _weights_size(loaded: LoadedModel) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in loaded.model.parameters())


class RawReading:
    """Bytes are symbols."""

    def __init__(self) -> None:
        self.begin = [BOS, RAW_START]
        self.ids: I64 = np.arange(NUM_BYTES)
        self.num_bytes: I64 | None = np.ones(NUM_BYTES, np.int64)

    def columns(self, chunk: bytes) -> I64 | None:
        """As `Reading.columns`."""
        return np.frombuffer(chunk, np.uint8).astype(np.int64)

    def text(self, columns: I64, num_bytes: int) -> bytes:
        """As `Reading.text`."""
        assert len(columns) == num_bytes
        return columns.astype(np.uint8).tobytes()


class ViewReading:
    """Symbols of a view. Where they spell the same wherever they stand, a chunk ends when its bytes are spelled; else their number is
    coded."""

    def __init__(self, compressor: Compressor, view: ViewRange) -> None:
        """Raises `RequestError` for a view that does not promise to give documents back."""
        if not compressor.exact:
            raise RequestError(f"view '{view.name}' does not promise to give documents back, so nothing is coded in it; choose another")
        self.begin = [BOS, view.start_id]
        self._compressor = compressor
        spelling = compressor.spelling()
        ids = view.ids
        symbols = view.to_symbols(ids)
        self._spelled: list[bytes] | None = None
        self.num_bytes: I64 | None = None
        if spelling is not None:  # a symbol that no document has spells nothing: it has no column
            symbols = np.array([symbol for symbol in symbols.tolist() if spelling[symbol]], np.int64)
            ids = view.to_ids(symbols)
            self._spelled = [spelling[symbol] for symbol in symbols.tolist()]
            self.num_bytes = np.array([len(text) for text in self._spelled], np.int64)
        self.ids: I64 = ids
        self._symbols = symbols
        self._view = view
        self._columns_by_id = np.full(int(ids.max(initial=0)) + 1, -1, np.int64)
        self._columns_by_id[ids] = np.arange(len(ids))

    def columns(self, chunk: bytes) -> I64 | None:
        """As `Reading.columns`."""
        try:
            ids = self._view.to_ids(self._compressor.encode(chunk))
        except NotRepresentableError:
            return None
        if ids.max(initial=0) >= len(self._columns_by_id) or not len(ids):
            return None
        columns: I64 = self._columns_by_id[ids]
        if columns.min() < 0:
            return None
        try:
            back = self.text(columns, len(chunk))
        except DecodeError:
            return None
        return columns if back == chunk else None

    def text(self, columns: I64, num_bytes: int) -> bytes:
        """As `Reading.text`."""
        if self._spelled is not None:
            text = b"".join([self._spelled[column] for column in columns.tolist()])
        else:
            text = self._compressor.decode(self._symbols[columns].astype(np.uint32), max_bytes=max(1, num_bytes))
        if len(text) != num_bytes:
            raise DecodeError(f"symbols decode to {len(text)} bytes in place of {num_bytes}; the chunk is damaged")
        return text


class DecoderBody(CachedBody):
    """A decoder with one reading's output matrix."""

    def __init__(self, model: Decoder, ids: I64, row_length: int) -> None:
        super().__init__(model, torch.float64)
        self.row_length = row_length
        self._head_DC = self.output_matrix(model.head.weight.detach()[self._to(ids)])
        self._rows = self.new_cache(1, row_length)  # fills the tables of rotations
        self._on_processor = self.device.type == "cpu"
        self._product = processor.product if self._on_processor else torch.mm
        self._add_product = processor.add_product if self._on_processor else Tensor.addmm_

    def logits(self, stream_ND: Tensor) -> F64:
        """As `Body.logits`."""
        found: F64 = self._product(stream_ND, self._head_DC).cpu().numpy()
        return found

    def lanes(self, num: int, num_positions: int) -> CacheLanes:
        """As `Body.lanes`."""
        return CacheLanes(self, self.new_cache(num, num_positions))

    def parallel(self, rows: Sequence[I64], firsts: Sequence[int]) -> list[Tensor]:
        """As `Body.parallel`. Rows of about equal length share a pass; the shorter ones are filled up at their end, which none of their
        ids sees."""
        order = sorted(range(len(rows)), key=lambda i: (firsts[i], -len(rows[i])))
        streams: dict[int, Tensor] = {}
        while order:
            length, first = len(rows[order[0]]), firsts[order[0]]
            num = max(1, _IDS_PER_PASS // length)
            some = [i for i in order[:num] if firsts[i] == first]
            order = order[len(some) :]
            ids_BT = np.zeros((len(some), length), np.int64)
            for ids, i in zip(ids_BT, some, strict=True):
                ids[: len(rows[i])] = rows[i]
            found_BTD = self._pass(self._to(ids_BT), first)
            for stream_TD, i in zip(found_BTD, some, strict=True):
                streams[i] = stream_TD[: len(rows[i]) - first]
        return [streams[i] for i in range(len(rows))]

    def _pass(self, ids_BT: Tensor, first: int) -> Tensor:
        """[B, T - first, D] behind the last norm. The last block computes nothing that only positions before `first` need."""
        num_rows, length = ids_BT.shape
        x_ND = self._embedding.index_select(0, ids_BT.flatten())
        last = len(self._blocks) - 1
        for index, block in enumerate(self._blocks):
            skipped = first if index == last else 0
            out_ND = self._whole_rows(self._normed(x_ND), block.qkv, num_rows, skipped)
            if skipped:
                x_ND = x_ND.view(num_rows, length, -1)[:, skipped:].reshape(out_ND.shape[0], -1)
            self._add_product(x_ND[:, : self.sizes.width], out_ND, block.output)
            gate_up = self._product(self._normed(x_ND), block.gate_up)
            hidden = self.sizes.hidden
            self._add_product(x_ND[:, : self.sizes.width], F.silu(gate_up[:, :hidden]).mul_(gate_up[:, hidden:]), block.down)
        return self._normed(x_ND).reshape(num_rows, length - (first if last >= 0 else 0), -1)

    def _whole_rows(self, normed_ND: Tensor, qkv: Tensor, num_rows: int, skipped: int) -> Tensor:
        """Attention over whole rows, queries from position `skipped` on: [B * (T - skipped), D]."""
        num_queries, num_kv, width = self.sizes.num_heads, self.sizes.num_kv_heads, self.sizes.head_width
        length = normed_ND.shape[0] // num_rows
        heads = self._product(normed_ND, qkv).view(num_rows, length, num_queries + 2 * num_kv, width)
        pairs = torch.view_as_complex(heads.view(num_rows, length, num_queries + 2 * num_kv, width // 2, 2))
        pairs[:, :, : num_queries + num_kv].mul_(self._rotation[:length].unsqueeze(1))
        if self._on_processor:
            return processor.causal_attention(heads, num_queries, skipped).view(-1, self.sizes.width)
        heads = heads.transpose(1, 2)
        q, k, v = heads[:, :num_queries, skipped:], heads[:, num_queries : num_queries + num_kv], heads[:, num_queries + num_kv :]
        bias = None
        if skipped:
            bias = torch.zeros((length - skipped, length), dtype=self.dtype, device=self.device)
            bias.masked_fill_(torch.ones_like(bias, dtype=torch.bool).triu_(skipped + 1), float("-inf"))
        group = num_queries != num_kv
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None, enable_gqa=group)
        return out.transpose(1, 2).reshape(num_rows * (length - skipped), self.sizes.width)


class CacheLanes:
    """Lanes of a decoder."""

    def __init__(self, body: CachedBody, cache: Cache) -> None:
        self._body, self._cache = body, cache

    def read(self, ids: Sequence[I64], first_positions: Sequence[int]) -> Tensor:
        """As `Lanes.read`."""
        stream_ND = self._body.read(self._cache, ids, first_positions, range(len(ids)))
        return stream_ND.view(len(ids), -1, stream_ND.shape[-1])[:, -1]

    def move(self, source: int, target: int, num_positions: int) -> None:
        """As `Lanes.move`."""
        self._cache.copy_row(source, target, num_positions)
