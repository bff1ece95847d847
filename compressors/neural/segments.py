"""`segments`: the entropy segmentation of the proxy paper, exact. Hard bytes stay literal; what is easy between them becomes codes.

    proxy-lm compressor train segments --corpus corpus --out views/segments
    proxy-lm compressor train segments --corpus corpus --option reset=window --option hard=first --out views/borders

A byte model says how uncertain it is at each byte (entropy.py); a byte over either of two thresholds, quantiles of the training text, is
hard. Symbols 0 to 255 are hard bytes, told as they are. The stretches between them are segments, told by equal-info windows of 16 bits by
the exact rule "cells" (divide.py): symbol 256 + code, or with 8-bit symbols 256 + the code's bytes, the high one first. Both stand in one
stream in the order of the text, so a reader knows where a segment begins (after a literal) and ends without a list of lengths, and the last
window of a segment needs no padding.

With `reset=segment` the model goes on from window to window of a segment, as published, and decoding asks it for every byte. With
`reset=window` each window starts anew, so the windows are those of `table`: the view holds the table and decodes by looking strings up.
`hard=first`, only with that, codes a hard byte as the first of the segment it opens: no literals, a table cut at entropy borders.

Not promised: equal symbols from a network on two machines. Its borders are those of the machine that encodes; what is encoded decodes
everywhere, which is why a network is refused where decoding would need it (`reset=segment`). Speed: the model is asked at every byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, NamedTuple, Self, TypeAlias, TypeVar, cast, final

import numpy as np
import numpy.typing as npt

from compressors import symbols as symbol_checks
from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Borders, Compressor, Symbols
from compressors.errors import DecodeError, RequestError
from compressors.files import sha256_bytes
from compressors.neural.dictionary import Dictionary
from compressors.neural.models import ByteModel, load_model, model_class, model_from_files
from compressors.neural.training_text import cut_at
from compressors.options import Option

VERSION: Final = 1
TABLE_NAME: Final = "segments.dictionary"
BITS: Final = 16
MAX_SEGMENT_BYTES: Final = 255
NUM_LITERALS: Final = 256
_MAX_ENTROPY: Final = 8 << 16
_THRESHOLD_BYTES: Final = 2_000_000
_MEMO_BYTES: Final = 1 << 26
_MEMO_ENTRY_BYTES: Final = 300  # what Python spends on an entry beside its contents, roughly
_KEYS_AT_ONCE: Final = 1 << 14
_FACTS: Final = ("hard", "reset", "symbol_bits", "chunk_bytes", "above", "rise")
_BYTES: Final = [bytes([value]) for value in range(NUM_LITERALS)]
_LITERALS: Final = {byte: (np.uint32(byte[0]).tobytes(), b"\1") for byte in _BYTES}
V = TypeVar("V")
Report: TypeAlias = Callable[[int, int], None]


class _Told(NamedTuple):
    """What documents are told by, back to back."""

    symbols: Symbols
    lengths: npt.NDArray[np.uint8]
    """Bytes that each symbol stands for; all but the last symbol of a code stand for none."""
    counts: list[int]
    """Symbols of each document."""


@final
class Segments(Compressor):
    """Literals for hard bytes, exact windows for the stretches between them."""

    name: ClassVar[str] = "segments"
    exact: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True
    reports_progress: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        "global_quantile": Option(default=0.9, low=0, high=1, help="share of the bytes whose entropy is under the global threshold"),
        "monotonic_quantile": Option(default=0.9, low=0, high=1, help="share of the bytes whose entropy rises by less than its threshold"),
        "hard": Option(default="literal", help="'literal': hard bytes are told as they are; 'first': each opens a segment"),
        "reset": Option(default="segment", help="the model starts anew with each 'segment' or with each 'window'"),
        "symbol_bits": Option(default=16, low=8, high=16, help="16: one symbol a code; 8: two, the high byte first"),
        "chunk_bytes": Option(default=2048, low=2, high=1 << 20, help="entropies are taken in chunks of this many bytes"),
        "model": Option(default="", help="folder of a byte model; empty: counts of the documents"),
        "max_training_bytes": Option(default=100_000_000, low=1, help="documents are read until this many bytes"),
    }

    def __init__(self, *, model: ByteModel, facts: Mapping[str, JSON], table: Dictionary | None) -> None:
        """`facts` are hard, reset, symbol_bits, chunk_bytes, above and rise (the thresholds in 1/65536 bit). `table` is what windows are
        looked up in with reset=window, else None. Raises `RequestError` for what does not fit together."""
        _check_facts(facts)
        self.model = model
        self.table = table
        self._facts = {name: facts[name] for name in _FACTS}
        self._keep_literal = facts["hard"] == "literal"
        self._first_code = NUM_LITERALS if self._keep_literal else 0
        self._per_code = BITS // cast(int, facts["symbol_bits"])
        _check_model(model, cast(str, facts["reset"]))
        if (table is not None) != (facts["reset"] == "window"):
            raise RequestError("view 'segments' holds a table with reset=window and at no other time; train it anew")
        if table is not None and not (table.is_exact and table.num_codes == 1 << BITS):
            raise RequestError(
                f"the table of view 'segments' is exact and has {1 << BITS} codes; this one is of another view: train it anew"
            )
        self._table_data = table.to_bytes() if table is not None else b""
        self._memo: _Memo[tuple[bytes, bytes]] = _Memo()
        self._back_memo: _Memo[bytes | None] = _Memo()

    @property
    def alphabet_size(self) -> int:
        return self._first_code + (1 << BITS // self._per_code)

    def encode(self, data: bytes) -> Symbols:
        return self._tell([data]).symbols

    def encode_batch(self, documents: Sequence[bytes]) -> list[Symbols | None]:
        told = self._tell(documents)
        return list(np.split(told.symbols, np.cumsum(told.counts)[:-1])) if documents else []

    def spans(self, data: bytes) -> Borders:
        """Of two symbols that tell a code, the second stands for its bytes."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self._tell([data]).lengths, dtype=np.int64)])

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        """Raises `DecodeError` too for half a code, and with reset=segment for codes in a row that make more than a segment's 255 bytes."""
        values, is_code = self._items(symbols)
        if self.table is not None:
            of_byte = self.table.codes[1 : 1 + NUM_LITERALS]  # nodes 1 to 256 are the single bytes
            return self.table.decode(np.where(is_code, values, of_byte[values % NUM_LITERALS]), max_bytes)
        return self._joined(values, is_code, self._texts(set(_runs(values, is_code))), max_bytes)

    def decode_batch(self, symbols: Sequence[Symbols], max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> list[bytes | None]:
        """As `decode`; where the model is needed, it is asked for the segments of all documents together."""
        if self.table is None:
            wanted: set[bytes] = set()
            for one in symbols:
                try:
                    wanted.update(_runs(*self._items(one)))
                except DecodeError:
                    continue  # told below
            self._texts(wanted)
        return super().decode_batch(symbols, max_bytes)

    def spec(self) -> dict[str, JSON]:
        table = {"table_sha256": sha256_bytes(self._table_data)} if self.table is not None else {}
        return {"name": self.name, "version": VERSION, **self._facts, "model": self.model.spec(), **table}

    def files(self) -> dict[str, bytes]:
        return {**self.model.files(), **({TABLE_NAME: self._table_data} if self.table is not None else {})}

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        if spec.get("name") != cls.name or spec.get("version") != VERSION or not isinstance(spec.get("model"), dict):
            raise RequestError(
                f"this is view '{spec.get('name')}' version {spec.get('version')}, not {cls.name} version {VERSION}; train it anew"
            )
        models = dict(files)
        data = models.pop(TABLE_NAME, None)
        if (None if data is None else sha256_bytes(data)) != spec.get("table_sha256"):
            raise RequestError(f"view '{cls.name}' has not the {TABLE_NAME} that its spec names; train it anew")
        model = model_from_files(cast("Mapping[str, JSON]", spec["model"]), models)
        view = cls(model=model, facts=spec, table=None if data is None else Dictionary.from_bytes(data))
        if view.spec() != dict(spec):
            raise RequestError(f"the spec of view '{cls.name}' holds more than this version knows; train it anew")
        return view

    @classmethod
    def take_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        chosen = super().take_options(options)
        _check_choices(chosen)
        return chosen

    @classmethod
    def train(cls, documents: Iterable[bytes], *, report: Any = None, **options: JSON) -> Self:
        """Count the documents, or load `model`, and take the thresholds from the documents' first 2 MB. `report(done, total)` is called now
        and then."""
        chosen = cls.take_options(options)
        from compressors.neural import entropy

        kept = cut_at(documents, chosen["max_training_bytes"])
        given = chosen["model"]
        model = load_model(Path(given)) if given else model_class("counts").train(kept, report=_part(report, 0, 60))
        _check_model(model, chosen["reset"])
        thresholds = entropy.learn_thresholds(
            entropy.entropies_of(model, cut_at(kept, _THRESHOLD_BYTES), chunk_bytes=chosen["chunk_bytes"]),
            chunk_bytes=chosen["chunk_bytes"],
            global_quantile=float(chosen["global_quantile"]),
            monotonic_quantile=float(chosen["monotonic_quantile"]),
        )
        facts = {**chosen, "above": thresholds.above, "rise": thresholds.rise}
        return cls(model=model, facts=facts, table=_table(model, _part(report, 70, 100)) if chosen["reset"] == "window" else None)

    # ---- text to symbols

    def _tell(self, documents: Sequence[bytes]) -> _Told:
        from compressors.neural import entropy, segmentation

        chunk_bytes, thresholds = cast(int, self._facts["chunk_bytes"]), self._thresholds()
        entropies = entropy.entropies_of(self.model, documents, chunk_bytes=chunk_bytes)
        hard = [entropy.is_hard(some, thresholds, chunk_bytes=chunk_bytes) for some in entropies]
        offsets = np.cumsum([0, *map(len, documents)], dtype=np.int64)
        pieces = segmentation.cut(
            np.concatenate([np.zeros(0, bool), *hard]), offsets, keep_literal=self._keep_literal, max_bytes=MAX_SEGMENT_BYTES
        )
        text = b"".join(documents)
        edges = pieces.borders.tolist()
        spelled = [text[start:end] for start, end in pairwise(edges)]
        literal = pieces.is_literal.tolist()
        memo = self._memo.with_all({piece for piece, alone in zip(spelled, literal, strict=True) if not alone}, self._tell_segments)
        told = [_LITERALS[piece] if alone else memo[piece] for piece, alone in zip(spelled, literal, strict=True)]
        counts = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(lengths) for _, lengths in told], dtype=np.int64)])
        return _Told(
            np.frombuffer(b"".join(symbols for symbols, _ in told), np.uint32),
            np.frombuffer(b"".join(lengths for _, lengths in told), np.uint8),
            np.diff(counts[pieces.documents]).tolist(),
        )

    def _tell_segments(self, segments: list[bytes]) -> list[tuple[bytes, bytes]]:
        """Symbols (uint32) and their lengths (uint8) of each segment, as bytes."""
        if self.table is not None:
            coded = self.table.encode(segments)
            return [self._told_segment(codes, self.table.lengths[codes]) for codes in coded]
        from compressors.neural.windows import encode_windows

        told = encode_windows(self.model, segments, bits=BITS, depth=MAX_SEGMENT_BYTES, reset=0)
        return [self._told_segment(one.codes.view(">u2")[:, 0], np.diff(one.ends, prepend=0)) for one in told]

    def _told_segment(self, codes: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> tuple[bytes, bytes]:
        if self._per_code == 1:
            return (codes.astype(np.uint32) + np.uint32(self._first_code)).tobytes(), lengths.astype(np.uint8).tobytes()
        high_first = codes.astype(">u2").view(np.uint8).astype(np.uint32) + np.uint32(self._first_code)
        return high_first.tobytes(), np.stack([np.zeros_like(lengths), lengths], axis=1).astype(np.uint8).tobytes()

    def _thresholds(self) -> Any:
        from compressors.neural.entropy import Thresholds

        return Thresholds(above=cast(int, self._facts["above"]), rise=cast(int, self._facts["rise"]))

    # ---- symbols to text

    def _items(self, symbols: Any) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
        """Literals and codes of a document in order, and which are codes."""
        good = symbol_checks.checked(self.name, symbols, self.alphabet_size)
        is_code = good >= self._first_code
        if self._per_code == 1:
            return np.where(is_code, good - np.uint32(self._first_code), good), is_code
        number = np.cumsum(is_code)
        is_first, is_second = is_code & (number % 2 == 1), is_code & (number % 2 == 0)
        if (is_first[:-1] & ~is_second[1:]).any() or is_first[-1:].any():
            raise DecodeError(f"view '{self.name}' tells a code by two symbols in a row; here is one alone")
        parts = good - np.uint32(self._first_code)
        values = good.copy()
        values[is_first] = (parts[is_first] << np.uint32(8)) | parts[is_second]
        return values[~is_second], is_code[~is_second]

    def _joined(
        self, values: npt.NDArray[np.uint32], is_code: npt.NDArray[np.bool_], texts: Mapping[bytes, bytes | None], max_bytes: int
    ) -> bytes:
        runs = iter(_runs(values, is_code))
        opens = _opens(is_code)
        found = [texts[next(runs)] if code else _BYTES[value] for value, code in _pairs(values, is_code, ~is_code | opens)]
        whole = [text for text in found if text is not None]
        if len(whole) < len(found):
            raise DecodeError(f"view '{self.name}' has segments of at most {MAX_SEGMENT_BYTES} bytes; here are codes in a row for more")
        symbol_checks.check_size(self.name, sum(map(len, whole)), max_bytes)
        return b"".join(whole)

    def _texts(self, runs: set[bytes]) -> Mapping[bytes, bytes | None]:
        """The text of each run of codes; None where it would be longer than a segment can be."""
        return self._back_memo.with_all(runs, self._decode_runs)

    def _decode_runs(self, runs: list[bytes]) -> list[bytes | None]:
        from compressors.neural.lockstep import decode_windows

        codes = [np.frombuffer(run, np.uint8).reshape(-1, 2) for run in runs]
        return decode_windows(self.model, codes, bits=BITS, depth=MAX_SEGMENT_BYTES, reset=0, max_bytes=MAX_SEGMENT_BYTES)


class _Memo(Generic[V]):
    """What was made for keys before. A full memo is replaced, never emptied: another thread may be reading it."""

    def __init__(self) -> None:
        self._known: dict[bytes, V] = {}
        self._size_bytes = 0

    def with_all(self, wanted: set[bytes], make: Callable[[list[bytes]], Sequence[V]]) -> Mapping[bytes, V]:
        """A mapping that has all wanted keys; `make` gives the values of those that were not asked for before."""
        known, missing = self._known, [key for key in wanted if key not in self._known]
        if self._size_bytes > _MEMO_BYTES:
            known, missing, self._size_bytes = {}, list(wanted), 0
        for start in range(0, len(missing), _KEYS_AT_ONCE):
            some = missing[start : start + _KEYS_AT_ONCE]
            known.update(zip(some, make(some), strict=True))
            self._size_bytes += sum(map(len, some)) + _MEMO_ENTRY_BYTES * len(some)
        self._known = known
        return known


def _opens(is_code: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Where a run of codes begins."""
    opens = is_code.copy()
    opens[1:] &= ~is_code[:-1]
    return opens


def _runs(values: npt.NDArray[np.uint32], is_code: npt.NDArray[np.bool_]) -> list[bytes]:
    """Codes without a literal between them, uint16 big-endian: one segment each."""
    data = values[is_code].astype(">u2").tobytes()
    cuts = [*(2 * (np.cumsum(is_code)[_opens(is_code)] - 1)).tolist(), len(data)]
    return [data[start:end] for start, end in pairwise(cuts)]


def _pairs(values: npt.NDArray[np.uint32], is_code: npt.NDArray[np.bool_], chosen: npt.NDArray[np.bool_]) -> Iterator[tuple[int, bool]]:
    return zip(values[chosen].tolist(), is_code[chosen].tolist(), strict=True)


def _part(report: Report | None, first: int, last: int) -> Report:
    """What tells that a stage of the work, from `first` to `last` per cent of it, is so far."""

    def told(done: int, total: int) -> None:
        if report is not None:
            report(first + (last - first) * done // max(1, total), 100)

    return told


def _table(model: ByteModel, report: Report) -> Dictionary:
    """Every window of a model that starts anew with each window."""
    from compressors.neural.build import build

    strings = build(model, bits=BITS, rule="cells", depth=63, report=report)
    return Dictionary(labels=strings.labels, parents=strings.parents, codes=strings.codes, decode_nodes=strings.decode_nodes)


def _check_choices(chosen: Mapping[str, Any]) -> None:
    """Raises `RequestError` for words that are no choice, and for choices that exclude one another."""
    known: Mapping[str, tuple[Any, ...]] = {"hard": ("literal", "first"), "reset": ("segment", "window"), "symbol_bits": (16, 8)}
    for name, choices in known.items():
        if chosen.get(name) not in choices:
            raise RequestError(f"option {name}={chosen.get(name)!r} of view 'segments' must be {' or '.join(map(str, choices))}")
    if chosen["hard"] == "first" and chosen["reset"] == "segment":
        raise RequestError("with hard=first a reader cannot tell where a segment begins; add reset=window, or choose hard=literal")


def _check_model(model: ByteModel, reset: str) -> None:
    if reset == "segment" and not model.integer:
        raise RequestError(
            f"with reset=segment decoding asks the model, and a model of kind '{model.kind}' may answer otherwise on another machine; "
            "choose reset=window, or a model of kind counts"
        )


def _check_facts(facts: Mapping[str, Any]) -> None:
    _check_choices(facts)
    limits = {"chunk_bytes": (2, 1 << 20), "above": (0, _MAX_ENTROPY), "rise": (-_MAX_ENTROPY, _MAX_ENTROPY)}
    for name, (low, high) in limits.items():
        value = facts.get(name)
        if type(value) is not int or not low <= value <= high:
            raise RequestError(f"{name}={value!r} of view 'segments' must be a whole number from {low} to {high}; train it anew")
