"""`stream-inexact`: streams that do not promise to come back, for comparison and for training on views nobody decodes.

    proxy-lm compressor train stream-inexact --corpus corpus --option rule=paper bits=32 --out views/paper
    proxy-lm compressor train stream-inexact --corpus corpus --option rule=cells model=models/network --out views/network

The rules `paper`, `delay` and `canonical` are those of `intervals.py`. `cells` is the rule of `stream` for a model in floating point
without decoding each document: what one machine encodes, another may not read. How many held-out documents came back is measured when
the view is trained, and stands in its artifact.

Not promised: equal symbols from another machine with a network; speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Self, final

import numpy as np

from compressors import symbols as symbol_checks
from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Borders, Compressor, Symbols
from compressors.errors import RequestError
from compressors.neural import count_decode, intervals, lockstep, packing, stream, windows
from compressors.neural.counts import CountModel
from compressors.neural.models import ByteModel
from compressors.options import Option

RULES: Final = ("cells", *intervals.RULES)
_LAYOUT: Final = ("bits", "reset", "symbol_bits", "depth")


@final
class StreamInexact(Compressor):
    """Equal-info windows by the published rules, or by a model that other machines may not agree with."""

    name: ClassVar[str] = "stream-inexact"
    exact: ClassVar[bool] = False
    needs_training: ClassVar[bool] = True
    version: ClassVar[int] = 1
    options: ClassVar[Mapping[str, Option]] = {
        "rule": Option(default="paper", help="how a window ends: cells, paper, delay or canonical"),
        **{key: stream.Stream.options[key] for key in (*_LAYOUT, "exclude")},
        **stream.MODEL_OPTIONS,
    }

    def __init__(self, *, model: ByteModel, rule: str, bits: int, reset: int, symbol_bits: int, depth: int, exclude: bool = False) -> None:
        """As `Stream`. Raises `RequestError` for what cannot be."""
        _check(self.name, rule, {"bits": bits, "reset": reset, "symbol_bits": symbol_bits, "depth": depth})
        self.model, self.rule = model, rule
        self.bits, self.reset, self.symbol_bits, self.depth = bits, reset, symbol_bits, depth
        self.exclude = stream.excludes(self.name, exclude, "windows", reset) and rule == "cells"

    @property
    def alphabet_size(self) -> int:
        return 1 << self.symbol_bits

    def encode(self, data: bytes) -> Symbols:
        stream.check_size(self.name, self.model, data)
        return self._symbols(self._windows([data]))[0]

    def encode_batch(self, documents: Sequence[bytes]) -> list[Symbols | None]:
        """As `encode`, with one call to the model for many documents under `cells`."""
        encoded: list[Symbols | None] = []
        for some in stream.groups(documents):
            told = [document for document in some if stream.is_tellable(self.model, document)]
            symbols = iter(self._symbols(self._windows(told)))
            encoded += [next(symbols) if stream.is_tellable(self.model, document) else None for document in some]
        return encoded

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        good = symbol_checks.checked(self.name, symbols, self.alphabet_size)
        codes = packing.unpack_windows(self.name, good, self.symbol_bits, self.bits // 8)
        symbol_checks.check_size(self.name, len(codes), max_bytes)
        if self.rule != "cells":
            text = self._read(codes, max_bytes)
        else:
            [found] = lockstep.decode_windows(
                self.model, [codes], bits=self.bits, depth=self.depth, reset=self.reset, exclude=self.exclude, max_bytes=max_bytes
            )
            text = bytes(max_bytes + 1) if found is None else found
        symbol_checks.check_size(self.name, len(text), max_bytes)
        return text

    def spans(self, data: bytes) -> Borders:
        return packing.borders(self._windows([data])[0].ends, self.symbol_bits, self.bits // 8)

    def spec(self) -> dict[str, JSON]:
        layout: dict[str, JSON] = {key: getattr(self, key) for key in ("rule", *_LAYOUT)}
        if self.exclude:
            layout["exclude"] = True
        return {"name": self.name, "version": self.version, **layout, "model": self.model.spec()}

    def files(self) -> dict[str, bytes]:
        return stream.model_files(self.model)

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        if spec.get("version") != cls.version:
            raise RequestError(f"view '{cls.name}' has version {cls.version}; this artifact is of {spec.get('version')}: train it anew")
        chosen: dict[str, Any] = {key: spec.get(key) for key in ("rule", *_LAYOUT)}
        return cls(model=stream.model_of(cls.name, spec, files), exclude=spec.get("exclude", False), **chosen)  # type: ignore[arg-type]

    @classmethod
    def take_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """As `Stream.take_options`."""
        chosen = super().take_options(stream.with_reset_told(options))
        chosen["reset"] = stream.reset_windows(cls.name, chosen["reset"])
        _check(cls.name, chosen["rule"], {key: chosen[key] for key in _LAYOUT})
        return chosen

    @classmethod
    def train(cls, documents: Iterable[bytes], **options: JSON) -> Self:
        """As `Stream.train`."""
        chosen = cls.take_options(options)
        layout = {key: chosen[key] for key in _LAYOUT}
        model = stream.model_for(chosen["model"], documents, chosen["max_training_bytes"])
        return cls(model=model, rule=chosen["rule"], exclude=chosen["exclude"], **layout)

    def _windows(self, documents: Sequence[bytes]) -> list[windows.Windows]:
        if self.rule == "cells":
            return windows.encode_windows(self.model, documents, bits=self.bits, depth=self.depth, reset=self.reset, exclude=self.exclude)
        return [self._cut(document) for document in documents]

    def _cut(self, document: bytes) -> windows.Windows:
        found = list(intervals.cut(self.model, document, bits=self.bits, rule=self.rule, reset=self.reset, depth=self.depth))
        code = b"".join(window.code.to_bytes(self.bits // 8, "big") for window in found)
        codes = np.frombuffer(code, np.uint8).reshape(-1, self.bits // 8)
        return windows.Windows(codes, np.array([window.end for window in found], np.int64))

    def _symbols(self, found: Sequence[windows.Windows]) -> list[Symbols]:
        return [packing.pack(one.codes.reshape(-1), self.symbol_bits) for one in found]

    def _read(self, codes: windows.U8, max_bytes: int) -> bytes:
        """Text of windows by the rule's decoder; a byte too many where it is longer than `max_bytes`."""
        cells = intervals.Cells(self.bits, self.rule)
        text = _Growing(self.model)
        for number, code in enumerate(codes):
            if self.reset and number % self.reset == 0:
                text.reset()
            if len(text) > max_bytes:
                break
            text.window(cells, int.from_bytes(code.tobytes(), "big"), self.depth, max_bytes)
        return text.done()


def _check(view: str, rule: str, layout: Mapping[str, Any]) -> None:
    """Raises `RequestError` for what cannot be."""
    stream.check_layout(view, coder="windows", **layout)
    if rule not in RULES:
        raise RequestError(f"option rule={rule!r} of view '{view}' must be one of {', '.join(RULES)}")


class _Growing:
    """A text that is being decoded, and the model that follows it."""

    def __init__(self, model: ByteModel) -> None:
        self._model = model
        self._follower = count_decode.Follower(model) if isinstance(model, CountModel) else None
        self._data = np.zeros((1, 256), np.uint8)
        self._length = self._since = 0

    def __len__(self) -> int:
        return self._length

    def reset(self) -> None:
        """The model forgets."""
        self._since = 0

    def window(self, cells: intervals.Cells, code: int, depth: int, max_bytes: int) -> None:
        """Append one window's text."""
        start = len(self)

        def next_row(text: bytes) -> intervals.Row:
            self._put(text[len(self) - start :])
            return self._row()

        self._put(intervals.read(cells, code, next_row, depth, max_bytes - start)[len(self) - start :])

    def done(self) -> bytes:
        """All of it."""
        return self._data[0, : len(self)].tobytes()

    def _put(self, more: bytes) -> None:
        if len(self) + len(more) > self._data.shape[1]:
            self._data = np.concatenate([self._data, np.zeros((1, max(len(more), self._data.shape[1])), np.uint8)], axis=1)
        self._data[0, len(self) : len(self) + len(more)] = np.frombuffer(more, np.uint8)
        self._length += len(more)
        self._since += len(more)

    def _row(self) -> intervals.Row:
        if self._follower is not None:
            return self._follower.row(self._data[0], len(self), self._since)
        depth = self._since
        if self._model.context_bytes is not None:
            depth = min(depth, self._model.context_bytes)
        found: intervals.Row = self._model.after(self._data[:, len(self) - depth : len(self)])[0]
        return found
