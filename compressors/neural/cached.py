"""`cached`: equal-info windows of 24 to 40 bits with a full reset, through a cache of the windows that the training text visits.

    proxy-lm compressor train cached --corpus corpus --option bits=32 --out views/cached

A tree of 2^32 cells is no table, but text visits few of its nodes. Training walks the documents in lockstep, asks the model once for each
new node, many in a call, and keeps what it said; the cache is part of the artifact. What is met later and is not there:

* `misses=model` (a model in whole numbers only): the model is asked, so the symbols are those of `stream` with `reset=always`, byte for
  byte, whatever the cache holds. Decoding asks the model too.
* `misses=stop`: the window ends, which is always exact. The view needs no model to encode or decode and works for a network as well; what
  the cache lacks costs symbols.

Not promised: a small artifact. A node has 21 bytes, and 32 bits visit some 0.1 new nodes a byte for long.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Self, final

import numpy as np

from compressors import symbols as symbol_checks
from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Borders, Compressor, Symbols
from compressors.errors import DecodeError, RequestError
from compressors.files import sha256_bytes
from compressors.neural import cutter, lockstep, packing, stream, window_cache
from compressors.neural.models import ByteModel
from compressors.neural.training_text import whole_until
from compressors.neural.window_cache import Cache
from compressors.neural.windows import Windows
from compressors.options import Option

FILE: Final = "windows.cache"
BITS: Final = (24, 32, 40)
MISSES: Final = ("model", "stop")
MAX_DEPTH: Final = 255
_GROWTH_NODES: Final = 1 << 20


@final
class Cached(Compressor):
    """Equal-info windows of 24 to 40 bits with a full reset, kept in a cache of what text visits."""

    name: ClassVar[str] = "cached"
    exact: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True
    version: ClassVar[int] = 1
    options: ClassVar[Mapping[str, Option]] = {
        "bits": Option(default=24, help="bits a window: 24, 32 or 40"),
        "misses": Option(default="model", help="where the cache knows no more: ask the model, or stop the window"),
        "symbol_bits": Option(default=16, help="bits a symbol: 8 or 16"),
        "depth": Option(default=63, low=1, high=MAX_DEPTH, help="most bytes of a window"),
        "model": stream.MODEL_OPTIONS["model"],
        "max_training_bytes": Option(default=20_000_000, low=1, help="documents are read until this many bytes"),
    }

    def __init__(self, *, cache: Cache, model: ByteModel | None, symbol_bits: int, depth: int) -> None:
        """`model` None: a miss stops the window. Raises `RequestError` for what cannot be."""
        stream.check_layout(self.name, coder="windows", bits=32, reset=1, symbol_bits=symbol_bits, depth=depth)
        if cache.bits not in BITS or depth > MAX_DEPTH:
            raise RequestError(f"view '{self.name}' has windows of {', '.join(map(str, BITS))} bits and {MAX_DEPTH} bytes at most")
        if model is not None and not model.integer:
            raise RequestError(
                f"view '{self.name}' with misses=model needs a model in whole numbers, and kind '{model.kind}' is none; give misses=stop"
            )
        self.cache, self.model, self.symbol_bits, self.depth = cache, model, symbol_bits, depth
        self._data = cache.to_bytes()
        self._grown: Cache | None = None
        self._lock = threading.Lock()
        real = np.flatnonzero(cache.cells > 0)[1:]
        self._by_low = real[np.argsort(cache.lows[real], kind="stable")].astype(np.int64)
        self._sorted_lows = cache.lows[self._by_low]

    @property
    def alphabet_size(self) -> int:
        return 1 << self.symbol_bits

    def encode(self, data: bytes) -> Symbols:
        return self._symbols([data])[0]

    def encode_batch(self, documents: Sequence[bytes]) -> list[Symbols | None]:
        """As `encode`, with one call to the model for what many documents lack."""
        return [one for some in stream.groups(documents) for one in self._symbols(some)]

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        good = symbol_checks.checked(self.name, symbols, self.alphabet_size)
        codes = packing.unpack_windows(self.name, good, self.symbol_bits, self.cache.bits // 8)
        symbol_checks.check_size(self.name, len(codes), max_bytes)
        if self.model is not None:
            [text] = lockstep.decode_windows(self.model, [codes], bits=self.cache.bits, depth=self.depth, reset=1, max_bytes=max_bytes)
        else:
            text = self._spell(cutter.code_numbers(codes).astype(np.int64), max_bytes)
        if text is None:
            raise DecodeError(f"view '{self.name}': the document has more than {max_bytes} bytes, the cap; raise max_bytes if it is yours")
        return text

    def spans(self, data: bytes) -> Borders:
        [found] = self._windows([data])
        return packing.borders(found.ends, self.symbol_bits, self.cache.bits // 8)

    def spec(self) -> dict[str, JSON]:
        return {
            "name": self.name,
            "version": self.version,
            "bits": self.cache.bits,
            "misses": "stop" if self.model is None else "model",
            "symbol_bits": self.symbol_bits,
            "depth": self.depth,
            "num_nodes": self.cache.num_nodes,
            "cache_sha256": sha256_bytes(self._data),
            "model": None if self.model is None else self.model.spec(),
        }

    def files(self) -> dict[str, bytes]:
        return {FILE: self._data, **({} if self.model is None else stream.model_files(self.model))}

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        if spec.get("version") != cls.version or sha256_bytes(files.get(FILE, b"")) != spec.get("cache_sha256"):
            raise RequestError(f"view '{cls.name}' version {cls.version} holds {FILE} with the digest its spec names; train it anew")
        layout: dict[str, Any] = {key: spec.get(key) for key in ("symbol_bits", "depth")}
        model = None if spec.get("misses") == "stop" else stream.model_of(cls.name, spec, files)
        view = cls(cache=Cache.from_bytes(files[FILE]), model=model, **layout)
        if view.spec() != dict(spec):
            raise RequestError(f"the spec of view '{cls.name}' does not fit its {FILE}; train it anew")
        return view

    @classmethod
    def take_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        chosen = super().take_options(options)
        if chosen["misses"] not in MISSES or chosen["bits"] not in BITS or chosen["symbol_bits"] not in (8, 16):
            raise RequestError(
                f"view '{cls.name}' has misses=model or stop, bits {', '.join(map(str, BITS))} and symbol_bits 8 or 16; "
                f"got {chosen['misses']}, {chosen['bits']} and {chosen['symbol_bits']}"
            )
        return chosen

    @classmethod
    def train(cls, documents: Iterable[bytes], **options: JSON) -> Self:
        """Count the documents or load the model, then fill the cache with their windows. They are kept in memory."""
        chosen = cls.take_options(options)
        text = whole_until(documents, chosen["max_training_bytes"])
        model = stream.model_for(chosen["model"], text, chosen["max_training_bytes"])
        cache = Cache(chosen["bits"])
        _add_root(cache, model)
        for some in stream.groups(text):
            cut_cached(cache, model, some, chosen["depth"])
        shipped = model if chosen["misses"] == "model" else None
        return cls(cache=cache, model=shipped, symbol_bits=chosen["symbol_bits"], depth=chosen["depth"])

    def _symbols(self, documents: Sequence[bytes]) -> list[Symbols]:
        found = self._windows(documents)
        return [packing.pack(one.codes.reshape(-1), self.symbol_bits) for one in found]

    def _windows(self, documents: Sequence[bytes]) -> list[Windows]:
        """By the cache, or by a copy that grows with what the model says: the symbols are the same, the next call is faster."""
        if self.model is None:
            return cut_cached(self.cache, None, documents, self.depth)
        with self._lock:
            if self._grown is None or self._grown.num_nodes > 2 * self.cache.num_nodes + _GROWTH_NODES:
                self._grown = self.cache.copy()
            return cut_cached(self._grown, self.model, documents, self.depth)

    def _spell(self, codes: window_cache.I64, max_bytes: int) -> bytes | None:
        """Text of codes by the cache alone: of each the deepest node that holds it."""
        lows, cells, parents, labels = self.cache.lows, self.cache.cells, self.cache.parents, self.cache.labels
        parts: list[bytes] = []
        num_bytes = 0
        for code, at in zip(codes.tolist(), np.searchsorted(self._sorted_lows, codes, "right").tolist(), strict=True):
            node = int(self._by_low[at - 1])  # the root's children hold all cells, so there is one
            while code >= lows[node] + cells[node]:
                node = int(parents[node])
            letters = bytearray()
            while node:
                letters.append(int(labels[node]))
                node = int(parents[node])
            num_bytes += len(letters)
            if num_bytes > max_bytes:
                return None
            parts.append(bytes(reversed(letters)))
        return b"".join(parts)


def cut_cached(cache: Cache, model: ByteModel | None, documents: Sequence[bytes], depth: int) -> list[Windows]:
    """Windows of documents by a cache, in lockstep. What it lacks is asked of the model and added; without a model it ends the window."""
    data = [np.frombuffer(document, np.uint8) for document in documents]
    states = np.zeros((len(documents), 4), np.int64)
    codes = [np.empty(len(one), np.int64) for one in data]
    ends = [np.empty(len(one), np.int64) for one in data]
    active = list(range(len(documents)))
    while active:
        missing = []
        tables = cache.slots, cache.parents, cache.labels, cache.lows, cache.cells
        for i in active:
            if window_cache.walk(*tables, data[i], depth, model is None, states[i], codes[i], ends[i]) == window_cache.MISSING:
                missing.append(i)
        if missing:
            assert model is not None
            _ask(cache, model, [data[i][states[i, 2] - states[i, 1] : states[i, 2] + 1] for i in missing], states[missing, 0])
        active = missing
    found = []
    for state, numbers, places in zip(states, codes, ends, strict=True):
        num = int(state[3])
        found.append(Windows(cutter.code_bytes(numbers[:num].astype(np.uint64), cache.bits), places[:num]))
    return found


def _ask(cache: Cache, model: ByteModel, windows: Sequence[window_cache.U8], nodes: window_cache.I64) -> None:
    """Add the child that the last byte of each window leads to, from the node of the others."""
    lengths = np.array([len(window) - 1 for window in windows])
    labels = np.array([window[-1] for window in windows], np.uint8)
    lows, cells = np.empty(len(windows), np.int64), np.empty(len(windows), np.int64)
    for length in sorted(set(lengths.tolist())):
        some = np.flatnonzero(lengths == length).tolist()
        rows = model.after(np.stack([windows[i][:length] for i in some]))
        for i, row in zip(some, np.ascontiguousarray(rows), strict=True):
            node = nodes[i]
            low, num = cutter.child(row, np.int64(labels[i]), cache.lows[node], cache.cells[node], length == 0)
            lows[i], cells[i] = low, num
    cache.add(nodes.astype(np.uint32), labels, lows, cells)


def _add_root(cache: Cache, model: ByteModel) -> None:
    """The children of the root, which every cache holds."""
    row = np.ascontiguousarray(model.after(np.zeros((1, 0), np.uint8)))[0]
    parts = [cutter.child(row, np.int64(byte), np.int64(0), np.int64(1 << cache.bits), True) for byte in range(256)]
    lows, cells = np.array(parts, np.int64).T
    cache.add(np.zeros(256, np.uint32), np.arange(256).astype(np.uint8), np.ascontiguousarray(lows), np.ascontiguousarray(cells))
