"""A byte model that is a network: a Llama-shaped decoder over bytes since a reset, evaluated here by a few lines of torch.

    model = load_model(folder)                  # kind "network"; made by `proxy-lm compressor train neural --model transformer`
    model.after(prefixes)                       # float64 on the CPU: what tables are built from
    model.on("cuda", "bfloat16").rows(documents)    # teacher-forced, batched, made integers on the device

The context is a begin symbol, a symbol "bytes follow" and then the bytes since the reset. The softmax runs over the 256 bytes alone.
Past the longest context that training has seen, chunks are read that overlap by half: a byte's prediction reads half of that or more.

`after` keeps the keys and values of prefixes that it has met, so that the next level of a table costs one position a prefix. In float64
its integers did not depend on batch size or threads wherever that was measured (README.md). Not promised: that `rows`, in float32 or
bfloat16, give the same integers on another device or build; what is coded with them must be verified by decoding. The only file here that
imports torch.
"""

# B rows, T positions, D width, H query heads, K key heads, G query heads a key head, E width of a head, N prefixes or bytes

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import Tensor

from compressors.base import JSON
from compressors.errors import RequestError
from compressors.files import sha256_bytes
from compressors.neural.models import TOTAL, ByteModel, Frequencies, Prefixes
from compressors.neural.quantise import LARGEST_STEP, NOT_FINITE, STEPS_PER_NAT, WEIGHTS, quantise

NETWORK_VERSION: Final = 1
WEIGHTS_NAME: Final = "weights.safetensors"
BEGIN: Final = 256
BYTES_FOLLOW: Final = 257
NUM_INPUTS: Final = 258
DTYPES: Final[Mapping[str, torch.dtype]] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

# One product of 1 to 3 rows takes another path through the library than the same rows among others.
_MIN_ROWS: Final = 4
_MAX_STEP_ROWS: Final = 2048
# Set aside at once, used as prefixes come: 20,000 prefixes of 41 million parameters, all of a table of 20 bits with 0.7 million.
_MAX_KEPT_BYTES: Final = 3 << 30
_POSITIONS_PER_BATCH: Final = {"cpu": 1 << 11, "cuda": 1 << 18}

Weights = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """Every number of the decoder."""

    width: int
    depth: int
    num_heads: int
    num_kv_heads: int
    hidden: int
    rope_theta: float
    norm_eps: float
    context_bytes: int
    """Longest stretch since a reset that training has seen; even."""

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.width // self.num_heads

    @property
    def kept_bytes(self) -> int:
        """Memory of one prefix that is kept: keys and values of a position in float64, frequencies, and its name."""
        return self.depth * 2 * self.num_kv_heads * self.head_width * 8 + 256 * 2 + 256

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight; a matrix is [out, in], `embedding` has a row a byte, then BEGIN and BYTES_FOLLOW."""
        d, kv = self.width, self.num_kv_heads * self.head_width
        shapes: dict[str, tuple[int, ...]] = {"embedding": (NUM_INPUTS, d), "norm": (d,), "head": (256, d)}
        for block in range(self.depth):
            parts: dict[str, tuple[int, ...]] = {"attention_norm": (d,), "feed_forward_norm": (d,)}
            parts |= {"attention.query": (d, d), "attention.key": (kv, d), "attention.value": (kv, d), "attention.output": (d, d)}
            parts |= {"feed_forward.gate": (self.hidden, d), "feed_forward.up": (self.hidden, d), "feed_forward.down": (d, self.hidden)}
            shapes |= {f"blocks.{block}.{name}": shape for name, shape in parts.items()}
        return shapes


class NetworkModel(ByteModel):
    """A trained decoder. `device` and `dtype` are those of `rows`; `after` is float64 on the CPU always."""

    kind: ClassVar[str] = "network"
    integer: ClassVar[bool] = False

    def __init__(self, shape: NetworkShape, weights: Weights, *, device: str = "cpu", dtype: str = "float32") -> None:
        """Raises `RequestError` for weights that are not this shape's or not finite."""
        _check_shape(shape)
        expected = shape.tensors()
        if set(weights) != set(expected):
            odd = sorted(set(weights) ^ set(expected))
            raise RequestError(f"the network's weights differ from its shape in {len(odd)} tensors (first: {odd[0]}); train the model anew")
        for name, tensor in weights.items():
            if tensor.shape != expected[name] or tensor.dtype != np.float32 or not np.isfinite(tensor).all():
                raise RequestError(
                    f"weight '{name}' is {tensor.dtype} {tensor.shape} or not finite, and float32 {expected[name]} is needed: train anew"
                )
        if dtype not in DTYPES:
            raise RequestError(f"unknown type of numbers '{dtype}'; known: {', '.join(DTYPES)}")
        self.shape = shape
        self.device = device
        self.dtype = dtype
        self._weights = dict(weights)
        self._lock = threading.Lock()
        self._kept: _Kept | None = None
        self._fast: _Decoder | None = None

    def on(self, device: str, dtype: str = "float32") -> Self:
        """The same model with `rows` on another device or in another type of numbers."""
        return type(self)(self.shape, self._weights, device=device, dtype=dtype)

    def after(self, prefixes: Prefixes) -> Frequencies:
        prefixes = prefixes[:, _chunk_start(prefixes.shape[1], self.shape.context_bytes) :]
        num, depth = prefixes.shape
        out = np.empty((num, 256), dtype=np.uint16)
        with self._lock, torch.inference_mode():
            if self._kept is None:
                self._kept = _Kept(_Decoder(self.shape, self._weights, "cpu", torch.float64))
            step = max(_MIN_ROWS, min(_MAX_STEP_ROWS, self._kept.num_most // (depth + 3)))
            for first in range(0, num, step):
                out[first : first + step] = self._kept.after([row.tobytes() for row in prefixes[first : first + step]])
        return out

    def rows(self, stretches: Sequence[bytes]) -> list[Frequencies]:
        out = [np.empty((len(stretch), 256), dtype=np.uint16) for stretch in stretches]
        for batch, logits_NB in self._logits(stretches):
            frequencies = quantise_on_device(logits_NB).to(torch.int32).cpu().numpy().astype(np.uint16)
            at = 0
            for chunk in batch:
                out[chunk.stretch][chunk.first : chunk.stop] = frequencies[at : at + chunk.stop - chunk.first]
                at += chunk.stop - chunk.first
        return out

    def intervals(self, stretches: Sequence[bytes]) -> list[npt.NDArray[np.uint32]]:
        """What an arithmetic coder of whole documents needs of `rows`: uint32 [n, 2] a stretch, for each byte the sum of the frequencies
        below it and its own. 8 bytes come back from the device for each byte instead of 512."""
        out = [np.empty((len(stretch), 2), dtype=np.uint32) for stretch in stretches]
        for batch, logits_NB in self._logits(stretches):
            frequencies = quantise_on_device(logits_NB)
            told = np.concatenate([np.frombuffer(stretches[c.stretch][c.first : c.stop], np.uint8) for c in batch])
            byte_N1 = torch.from_numpy(told.astype(np.int64)).to(frequencies.device).unsqueeze(1)
            own_N1 = frequencies.gather(1, byte_N1)
            low_N1 = frequencies.cumsum(1).gather(1, byte_N1) - own_N1
            both = torch.cat([low_N1, own_N1], dim=1).to(torch.int32).cpu().numpy().astype(np.uint32)
            at = 0
            for chunk in batch:
                out[chunk.stretch][chunk.first : chunk.stop] = both[at : at + chunk.stop - chunk.first]
                at += chunk.stop - chunk.first
        return out

    def logits(self, stretches: Sequence[bytes]) -> list[npt.NDArray[np.float32]]:
        """The logits behind `rows`, float32 [n, 256] a stretch: for tests and measurements."""
        out = [np.empty((len(stretch), 256), dtype=np.float32) for stretch in stretches]
        for batch, logits_NB in self._logits(stretches):
            found, at = logits_NB.to(torch.float32).cpu().numpy(), 0
            for chunk in batch:
                out[chunk.stretch][chunk.first : chunk.stop] = found[at : at + chunk.stop - chunk.first]
                at += chunk.stop - chunk.first
        return out

    def spec(self) -> dict[str, JSON]:
        return {
            "kind": self.kind,
            "version": NETWORK_VERSION,
            "shape": asdict(self.shape),
            "rows": self.dtype,
            "weights_sha256": sha256_bytes(self._file()),
        }

    def files(self) -> dict[str, bytes]:
        return {WEIGHTS_NAME: self._file()}

    @classmethod
    def from_files(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        if spec.get("version") != NETWORK_VERSION or spec.get("kind") != cls.kind:
            raise RequestError(
                f"the byte model is a '{spec.get('kind')}' of version {spec.get('version')!r} where a network of version "
                f"{NETWORK_VERSION} is read; train it anew"
            )
        shape, dtype, data = spec.get("shape"), spec.get("rows"), files.get(WEIGHTS_NAME)
        if not isinstance(shape, dict) or set(shape) != {field.name for field in fields(NetworkShape)} or not isinstance(dtype, str):
            raise RequestError("the network's description lacks its shape or the type of its numbers; train the model anew")
        if data is None or sha256_bytes(data) != spec.get("weights_sha256"):
            raise RequestError(f"the network's {WEIGHTS_NAME} is missing or has another digest than its description; train the model anew")
        numbers: dict[str, Any] = dict(shape)
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers.values()):
            raise RequestError(f"the network's shape {numbers} is not all numbers; train the model anew")
        try:
            weights = load_tensors(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise RequestError(f"the network's {WEIGHTS_NAME} cannot be read ({error}); train the model anew") from error
        return cls(NetworkShape(**numbers), weights, dtype=dtype)

    def _file(self) -> bytes:
        data: bytes = save_tensors({name: np.ascontiguousarray(self._weights[name]) for name in sorted(self._weights)})
        return data

    def _logits(self, stretches: Sequence[bytes]) -> Iterator[tuple[list[_Chunk], Tensor]]:
        """Batches of chunks of about one length, with the logits [N, 256] of the bytes that they predict, chunk after chunk."""
        if self._fast is None:
            self._fast = _Decoder(self.shape, self._weights, self.device, DTYPES[self.dtype])
        chunks = [chunk for index, stretch in enumerate(stretches) for chunk in _chunks(index, len(stretch), self.shape.context_bytes)]
        by_length: dict[int, list[_Chunk]] = {}
        for chunk in chunks:
            by_length.setdefault(_padded(chunk.stop - chunk.start, self.shape.context_bytes), []).append(chunk)
        most = _POSITIONS_PER_BATCH.get(torch.device(self.device).type, 1 << 13)
        for length, group in sorted(by_length.items()):
            size = max(1, most // length)
            for first in range(0, len(group), size):
                batch = group[first : first + size]
                ids = np.zeros((max(len(batch), -(-_MIN_ROWS // (length + 1))), length + 1), dtype=np.int64)
                ids[:, 0], ids[:, 1:2] = BEGIN, BYTES_FOLLOW
                wanted = np.zeros(ids.shape, dtype=np.bool_)
                for row, chunk in enumerate(batch):
                    told = stretches[chunk.stretch][chunk.start : chunk.stop - 1]
                    ids[row, 2 : 2 + len(told)] = np.frombuffer(told, np.uint8)
                    wanted[row, 1 + chunk.first - chunk.start : 1 + chunk.stop - chunk.start] = True
                with torch.inference_mode():
                    yield batch, self._fast.logits(torch.from_numpy(ids), torch.from_numpy(wanted))


def quantise_on_device(logits_NB: Tensor) -> Tensor:
    """`compressors.neural.quantise.quantise` on the logits' own device: float of any kind [N, 256] -> int64 [N, 256]."""
    rows = logits_NB.to(torch.float64)
    if not torch.isfinite(rows).all():
        raise RequestError(NOT_FINITE)
    distance = (rows.amax(1, keepdim=True) - rows) * STEPS_PER_NAT
    steps = (distance + 0.5).clamp(max=float(LARGEST_STEP)).to(torch.int64)
    weights = torch.from_numpy(WEIGHTS.copy()).to(rows.device)[steps]
    factors = torch.div(torch.full_like(weights[:, :1], (TOTAL - 256) << 32), weights.sum(1, keepdim=True), rounding_mode="floor")
    frequencies = 1 + ((weights * factors) >> 32)
    left = TOTAL - frequencies.sum(1, keepdim=True)
    return frequencies.scatter_add_(1, frequencies.argmax(1, keepdim=True), left)


class _Decoder:
    """The decoder's arithmetic in one dtype on one device."""

    def __init__(self, shape: NetworkShape, weights: Weights, device: str, dtype: torch.dtype) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = torch.device(device)
        self.weights = {name: torch.from_numpy(np.array(tensor)).to(self.device, dtype) for name, tensor in weights.items()}
        inverse = shape.rope_theta ** -(torch.arange(0, shape.head_width, 2, dtype=torch.float64) / shape.head_width)
        angles = torch.arange(shape.context_bytes + 2, dtype=torch.float64).unsqueeze(1) * inverse
        angles = torch.cat([angles, angles], dim=1).to(self.device)
        self.cos_T1E, self.sin_T1E = angles.cos().to(dtype).unsqueeze(1), angles.sin().to(dtype).unsqueeze(1)

    def logits(self, ids_BT: Tensor, wanted_BT: Tensor) -> Tensor:
        """Logits of the bytes that follow the wanted positions, [N, 256]."""
        x_BTD = self.weights["embedding"][ids_BT.to(self.device)]
        rows, positions, _ = x_BTD.shape
        turn = self.cos_T1E[:positions], self.sin_T1E[:positions]
        for block in range(self.shape.depth):
            q, k, v = (part.transpose(1, 2) for part in self.heads(x_BTD, block, turn))
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
            x_BTD = self.rest(x_BTD, out.transpose(1, 2).reshape(rows, positions, -1), block)
        return self.output(x_BTD[wanted_BT.to(self.device)])

    def heads(self, x: Tensor, block: int, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Query [..., H, E], key and value [..., K, E] of a block, query and key turned by their positions."""
        normed = self._norm(x, f"blocks.{block}.attention_norm")
        named = (self.weights[f"blocks.{block}.attention.{name}"] for name in ("query", "key", "value"))
        q, k, v = (F.linear(normed, weight).view(*normed.shape[:-1], -1, self.shape.head_width) for weight in named)
        return _rotate(q, *turn), _rotate(k, *turn), v

    def rest(self, x: Tensor, attended: Tensor, block: int) -> Tensor:
        """The stream after a block, from the stream before it and what its heads read."""
        w = self.weights
        x = x + F.linear(attended, w[f"blocks.{block}.attention.output"])
        normed = self._norm(x, f"blocks.{block}.feed_forward_norm")
        gate, up = (F.linear(normed, w[f"blocks.{block}.feed_forward.{name}"]) for name in ("gate", "up"))
        return x + F.linear(F.silu(gate) * up, w[f"blocks.{block}.feed_forward.down"])

    def output(self, x_ND: Tensor) -> Tensor:
        """Logits [N, 256] of positions."""
        return F.linear(self._norm(x_ND, "norm"), self.weights["head"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, (self.shape.width,), self.weights[name], self.shape.norm_eps)


class _Kept:
    """Prefixes met so far, as a trie: node 0 is BEGIN, node 1 BYTES_FOLLOW (the empty prefix); each node keeps its keys and values."""

    def __init__(self, decoder: _Decoder) -> None:
        self.decoder = decoder
        shape = decoder.shape
        self.num_most = max(_MAX_KEPT_BYTES // shape.kept_bytes, 4 * _MIN_ROWS * (shape.context_bytes + 3))
        # Memory that is never written to is never taken from the machine.
        room = (shape.depth, self.num_most, shape.num_kv_heads, shape.head_width)
        self.keys, self.values = torch.empty(room, dtype=decoder.dtype), torch.empty(room, dtype=decoder.dtype)
        self.parents = np.zeros(self.num_most, dtype=np.int64)
        self.frequencies = np.empty((self.num_most, 256), dtype=np.uint16)
        self._begin()

    def after(self, prefixes: list[bytes]) -> Frequencies:
        """Frequencies after prefixes of one length."""
        known = all(prefix[:-1] in self.node_of for prefix in prefixes)
        most_new = len(prefixes) if known else len(prefixes) * (len(prefixes[0]) + 1)
        if self.num_nodes + most_new + _MIN_ROWS > self.num_most:
            self._begin()
        return self.frequencies[self._nodes(prefixes)]

    def _begin(self) -> None:
        self.num_nodes = 0
        self.node_of: dict[bytes, int] = {}
        self._add(np.zeros(1, np.int64), np.array([BEGIN]), 0)
        self._add(np.zeros(1, np.int64), np.array([BYTES_FOLLOW]), 1)
        self.node_of[b""] = 1

    def _nodes(self, prefixes: list[bytes]) -> npt.NDArray[np.int64]:
        missing = list(dict.fromkeys(prefix for prefix in prefixes if prefix not in self.node_of))
        if missing:
            parents = self._nodes([prefix[:-1] for prefix in missing])
            first = self.num_nodes
            self._add(parents, np.array([prefix[-1] for prefix in missing]), len(missing[0]) + 1)
            self.node_of.update(zip(missing, range(first, self.num_nodes), strict=True))
        return np.array([self.node_of[prefix] for prefix in prefixes], dtype=np.int64)

    def _add(self, parents: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64], position: int) -> None:
        """Nodes at `position` under their parents, each one position through the network."""
        num = len(parents)
        padded = max(num, _MIN_ROWS)
        nodes = np.arange(self.num_nodes, self.num_nodes + padded)
        self.parents[nodes] = np.resize(parents, padded)
        path = np.empty((padded, position + 1), dtype=np.int64)
        path[:, position] = nodes
        for at in range(position - 1, -1, -1):
            path[:, at] = self.parents[path[:, at + 1]]
        x_ND = self.decoder.weights["embedding"][torch.from_numpy(np.resize(tokens, padded))]
        turn = self.decoder.cos_T1E[position], self.decoder.sin_T1E[position]
        path_NT, span = torch.from_numpy(path), slice(self.num_nodes, self.num_nodes + padded)
        for block in range(self.decoder.shape.depth):
            q_NHE, self.keys[block, span], self.values[block, span] = self.decoder.heads(x_ND, block, turn)
            k_NKET = self.keys[block][path_NT].permute(0, 2, 3, 1)
            v_NKTE = self.values[block][path_NT].permute(0, 2, 1, 3)
            q_NKGE = q_NHE.view(padded, k_NKET.shape[1], -1, q_NHE.shape[2])
            share_NKGT = torch.softmax(q_NKGE @ k_NKET / math.sqrt(q_NHE.shape[2]), dim=3)
            x_ND = self.decoder.rest(x_ND, (share_NKGT @ v_NKTE).reshape(padded, -1), block)
        self.frequencies[span] = quantise(self.decoder.output(x_ND).numpy())
        self.num_nodes += num


@dataclass(frozen=True)
class _Chunk:
    """Bytes start .. stop of a stretch are read together; rows first .. stop come of it."""

    stretch: int
    start: int
    first: int
    stop: int


def _chunks(stretch: int, length: int, context: int) -> Iterator[_Chunk]:
    first = 0
    while first < length:
        start = _chunk_start(first, context)
        stop = min(length, start + context)
        yield _Chunk(stretch, start, first, stop)
        first = stop


def _chunk_start(place: int, context: int) -> int:
    """First byte that the prediction of byte `place` reads: chunks of `context` bytes, each half over the one before it."""
    return 0 if place < context else ((place - context) // (context // 2) + 1) * (context // 2)


def _padded(length: int, context: int) -> int:
    """Lengths are rounded up to few values, so that a stretch meets the same products whatever is beside it."""
    return min(context, max(15, (1 << length.bit_length()) - 1))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _check_shape(shape: NetworkShape) -> None:
    numbers = (shape.width, shape.depth, shape.num_heads, shape.num_kv_heads, shape.hidden, shape.context_bytes)
    good = all(isinstance(number, int) and 1 <= number <= 1 << 20 for number in numbers)
    good = good and shape.width % shape.num_heads == 0 and shape.head_width % 2 == 0 and shape.num_heads % shape.num_kv_heads == 0
    good = good and 4 * _MIN_ROWS * (shape.context_bytes + 3) * shape.kept_bytes <= _MAX_KEPT_BYTES
    if not good or shape.context_bytes % 2 or shape.rope_theta <= 1 or not 0 < shape.norm_eps < 1:
        raise RequestError(f"{shape} does not fit together as a decoder, or its context into memory; train the model anew")
