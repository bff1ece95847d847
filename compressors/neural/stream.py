"""`stream`: a document through a byte model, without a reset or with one every few windows, as equal-info windows or plain arithmetic code.

    proxy-lm compressor train stream --corpus corpus --option bits=32 --out views/stream
    proxy-lm compressor train stream --corpus corpus --option coder=arithmetic symbol_bits=8 --out views/ac
    proxy-lm compressor train stream --corpus corpus --option model=static coder=arithmetic --out views/static-ac

`coder=windows` cuts windows of 16, 24, 32, 64 or 128 bits by the exact rule "cells" (`cutter.py`); a document's last window needs no length
and no end symbol. Where a window ended for want of a cell and the model reads on, the next one gives no cells to the bytes that cannot
follow (`exclude`, `exclusion.py`); the spec says `exclude` where it has an effect, so never with `reset=always`. `coder=arithmetic` is one
range code a document, which begins with the document's length in bytes (5 bits and its binary digits), so its end is exact as well. Symbols
are the code's bits, 8 or 16 a symbol, first bits most significant.

The byte model is part of the artifact: counted from the documents (`model=`, the default), the byte unigram (`model=static`), or a folder
that `save_model` wrote. A model in whole numbers gives equal symbols everywhere. One in floating point (`network`) may not: such a view
must have `verify=true`, which decodes every document here and refuses those that do not come back; it is a promise for this machine.

Equal-info windows with both resets are arXiv 2404.03626, section 3.3; without a reset of the model and without windows a language model
learned nothing from the symbols there. They are here to be compared with. Not promised: speed. Every byte asks the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import numpy as np

from compressors import symbols as symbol_checks
from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Borders, Compressor, Symbols
from compressors.errors import DecodeError, NotRepresentableError, RequestError
from compressors.neural import lockstep, packing, range_coder, windows
from compressors.neural.models import ByteModel, load_model, model_class, model_from_files
from compressors.options import Option

WINDOW_BITS: Final = (16, 24, 32, 64, 128)
MAX_DEPTH: Final = 1 << 20
MODEL_PREFIX: Final = "model-"
_LAYOUT: Final = ("coder", "bits", "reset", "symbol_bits", "depth")
_BYTES_AT_ONCE: Final = 1 << 22
_DOCUMENTS_AT_ONCE: Final = 256

MODEL_OPTIONS: Final[Mapping[str, Option]] = {
    "model": Option(default="", help="folder of a byte model, or 'static'; empty: counts of the documents"),
    "max_training_bytes": Option(default=50_000_000, low=1, help="documents are read until this many bytes"),
}


@final
class Stream(Compressor):
    """Equal-info windows or plain arithmetic code by a byte model that reads on, or is reset every few windows."""

    name: ClassVar[str] = "stream"
    exact: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True
    version: ClassVar[int] = 1
    options: ClassVar[Mapping[str, Option]] = {
        "coder": Option(default="windows", help="windows (equal-info) or arithmetic (the whole document)"),
        "bits": Option(default=16, help="bits a window: 16, 24, 32, 64 or 128"),
        "reset": Option(default="never", help="of the model: never, always (every window), or after so many windows"),
        "exclude": Option(
            default=True, help="a window's start has no cells for bytes that cannot follow the last one; no effect with reset=always"
        ),
        "symbol_bits": Option(default=16, help="bits a symbol: 8 or 16"),
        "depth": Option(default=windows.DEFAULT_DEPTH, low=1, high=MAX_DEPTH, help="most bytes of a window"),
        "verify": Option(default=False, help="decode each document and refuse it where it does not come back"),
        **MODEL_OPTIONS,
    }

    def __init__(
        self, *, model: ByteModel, coder: str, bits: int, reset: int, exclude: bool = False, symbol_bits: int, depth: int, verify: bool
    ) -> None:
        """`reset` counts windows, 0 for never. Raises `RequestError` for what cannot be."""
        check_layout(self.name, coder=coder, bits=bits, reset=reset, symbol_bits=symbol_bits, depth=depth)
        if type(verify) is not bool:
            raise RequestError(f"option verify={verify!r} of view '{self.name}' must be true or false")
        if not model.integer and not verify:
            raise RequestError(
                f"view '{self.name}' with a byte model of kind '{model.kind}', which is not in whole numbers, is exact only where each "
                "document is decoded: give verify=true, or take view 'stream-inexact' to encode without that promise"
            )
        self.model = model
        self.coder, self.bits, self.reset = coder, bits, reset
        self.exclude = excludes(self.name, exclude, coder, reset)
        self.symbol_bits, self.depth, self.verify = symbol_bits, depth, verify

    @property
    def alphabet_size(self) -> int:
        return 1 << self.symbol_bits

    @classmethod
    def planned_alphabet_size(cls, options: Mapping[str, Any]) -> int | None:
        return 1 << int(options.get("symbol_bits", cls.options["symbol_bits"].default))

    def encode(self, data: bytes) -> Symbols:
        check_size(self.name, self.model, data)
        symbols = self.encode_batch([data])[0]
        if symbols is None:
            raise NotRepresentableError(
                f"view '{self.name}': the document of {len(data)} bytes does not come back with this byte model on this machine"
            )
        return symbols

    def encode_batch(self, documents: Sequence[bytes]) -> list[Symbols | None]:
        """As `encode`, with one call to the model for many documents."""
        encoded: list[Symbols | None] = []
        for some in groups(documents):
            encoded += self._encode_some(some)
        return encoded

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        if self.coder == "arithmetic":
            return self._decode_range(symbols, max_bytes)
        good = symbol_checks.checked(self.name, symbols, self.alphabet_size)
        codes = packing.unpack_windows(self.name, good, self.symbol_bits, self.bits // 8)
        symbol_checks.check_size(self.name, len(codes), max_bytes)  # a window has a byte at least
        [text] = self._decode_windows([codes], max_bytes)
        if text is None:
            symbol_checks.check_size(self.name, max_bytes + 1, max_bytes)
        assert text is not None
        return text

    def decode_batch(self, symbols: Sequence[Symbols], max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> list[bytes | None]:
        """As `decode`, many documents in lockstep."""
        if self.coder == "arithmetic":
            return super().decode_batch(symbols, max_bytes)
        decoded: list[bytes | None] = [None] * len(symbols)
        codes = {}
        for index, one in enumerate(symbols):
            try:
                good = symbol_checks.checked(self.name, one, self.alphabet_size)
                codes[index] = packing.unpack_windows(self.name, good, self.symbol_bits, self.bits // 8)
            except DecodeError:
                continue
        order = sorted(codes, key=lambda index: len(codes[index]))  # neighbours end at about the same step
        for first in range(0, len(order), _DOCUMENTS_AT_ONCE):
            some = order[first : first + _DOCUMENTS_AT_ONCE]
            for index, text in zip(some, self._decode_windows([codes[index] for index in some], max_bytes), strict=True):
                decoded[index] = text
        return decoded

    def spans(self, data: bytes) -> Borders | None:
        if self.coder == "arithmetic":
            return None
        [found] = self._windows([data])
        return packing.borders(found.ends, self.symbol_bits, self.bits // 8)

    def spec(self) -> dict[str, JSON]:
        layout: dict[str, JSON] = {"coder": self.coder, "symbol_bits": self.symbol_bits, "verify": self.verify}
        if self.coder == "windows":
            layout |= {"bits": self.bits, "reset": self.reset, "depth": self.depth, **({"exclude": True} if self.exclude else {})}
        return {"name": self.name, "version": self.version, **layout, "model": self.model.spec()}

    def files(self) -> dict[str, bytes]:
        return model_files(self.model)

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        if spec.get("version") != cls.version:
            raise RequestError(f"view '{cls.name}' has version {cls.version}; this artifact is of {spec.get('version')}: train it anew")
        known: dict[str, Any] = {"bits": 16, "reset": 0, "depth": windows.DEFAULT_DEPTH} if spec.get("coder") == "arithmetic" else {}
        keys = ["coder", "symbol_bits", "verify", *(["bits", "reset", "depth"] if not known else [])]
        chosen: dict[str, Any] = {key: spec.get(key) for key in keys}
        # A spec without the word is of a view without it: those of before it was known, too.
        return cls(model=model_of(cls.name, spec, files), exclude=spec.get("exclude", False), **known, **chosen)  # type: ignore[arg-type]

    @classmethod
    def take_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """`reset` may be given as a number, and comes back as one."""
        chosen = super().take_options(with_reset_told(options))
        chosen["reset"] = reset_windows(cls.name, chosen["reset"])
        check_layout(cls.name, **{key: chosen[key] for key in _LAYOUT})
        return chosen

    @classmethod
    def train(cls, documents: Iterable[bytes], **options: JSON) -> Self:
        """Count the documents, or load the model."""
        chosen = cls.take_options(options)
        layout = {key: chosen[key] for key in _LAYOUT}
        model = model_for(chosen["model"], documents, chosen["max_training_bytes"])
        return cls(model=model, exclude=chosen["exclude"], verify=chosen["verify"], **layout)

    def _encode_some(self, documents: Sequence[bytes]) -> list[Symbols | None]:
        encoded: list[Symbols | None] = [None] * len(documents)
        told = [index for index, document in enumerate(documents) if is_tellable(self.model, document)]
        chosen = [documents[index] for index in told]
        if self.coder == "arithmetic":
            codes = encode_ranges(self.model, chosen)
        else:
            codes = [one.codes.reshape(-1) for one in self._windows(chosen)]
        for index, code in zip(told, codes, strict=True):
            encoded[index] = packing.pack(code, self.symbol_bits)
        if self.verify:
            again = self._read_back([encoded[index] for index in told], max(map(len, documents), default=0))
            for index, text in zip(told, again, strict=True):
                if text != documents[index]:
                    encoded[index] = None
        return encoded

    def _read_back(self, symbols: Sequence[Symbols | None], max_bytes: int) -> list[bytes | None]:
        """Decoding without the check that a range code is the one that `encode` gives, which would verify again."""
        if self.coder == "windows":
            return self.decode_batch([one for one in symbols if one is not None], max_bytes)
        codes = [packing.unpack(one, self.symbol_bits) for one in symbols if one is not None]
        told = [index for index, code in enumerate(codes) if len(code)]
        read = lockstep.decode_ranges(self.model, [codes[index] for index in told], max_bytes=max_bytes)
        texts: list[bytes | None] = [b""] * len(codes)
        for index, text in zip(told, read, strict=True):
            texts[index] = text
        return texts

    def _windows(self, documents: Sequence[bytes]) -> list[windows.Windows]:
        return windows.encode_windows(self.model, documents, bits=self.bits, depth=self.depth, reset=self.reset, exclude=self.exclude)

    def _decode_windows(self, codes: Sequence[windows.U8], max_bytes: int) -> list[bytes | None]:
        return lockstep.decode_windows(
            self.model, codes, bits=self.bits, depth=self.depth, reset=self.reset, exclude=self.exclude, max_bytes=max_bytes
        )

    def _decode_range(self, symbols: Symbols, max_bytes: int) -> bytes:
        good = symbol_checks.checked(self.name, symbols, self.alphabet_size)
        if not len(good):
            return b""
        code = packing.unpack(good, self.symbol_bits)
        num_bytes = range_coder.RangeDecoder(code).length()
        range_coder.check_length(self.name, num_bytes, len(code))
        symbol_checks.check_size(self.name, num_bytes, max_bytes)
        [text] = lockstep.decode_ranges(self.model, [code], max_bytes=num_bytes)
        assert text is not None
        [again] = encode_ranges(self.model, [text]) if is_tellable(self.model, text) else [code[:0]]
        if not np.array_equal(packing.pack(again, self.symbol_bits), good):
            raise DecodeError(f"view '{self.name}': these {len(good)} symbols are the arithmetic code of no document")
        return text


def encode_ranges(model: ByteModel, documents: Sequence[bytes]) -> list[windows.U8]:
    """The range code of each document, uint8 [num_bytes]: its length and its bytes. Empty for the empty document only."""
    parts: list[list[tuple[range_coder.U32, range_coder.U32]]] = [
        [range_coder.length_intervals(len(document))] if document else [] for document in documents
    ]
    for index, rows, data in windows.rows_of(model, documents):
        parts[index].append(range_coder.gather(rows, data))
    codes = []
    for part in parts:
        if not part:
            codes.append(np.zeros(0, np.uint8))
            continue
        code = range_coder.encode(np.concatenate([starts for starts, _ in part]), np.concatenate([sizes for _, sizes in part]))
        codes.append(code if len(code) else np.zeros(1, np.uint8))  # a code of no bits at all, all zeros, still is one
    return codes


def check_layout(view: str, *, coder: Any, bits: Any, reset: Any, symbol_bits: Any, depth: Any) -> None:
    """Raises `RequestError` naming the option, the value and the limit."""
    if coder not in ("windows", "arithmetic"):
        raise RequestError(f"option coder={coder!r} of view '{view}' must be windows or arithmetic")
    if type(bits) is not int or bits not in WINDOW_BITS:
        raise RequestError(f"option bits={bits!r} of view '{view}' must be one of {', '.join(map(str, WINDOW_BITS))}")
    if type(symbol_bits) is not int or symbol_bits not in (8, 16):
        raise RequestError(f"option symbol_bits={symbol_bits!r} of view '{view}' must be 8 or 16")
    if type(depth) is not int or not 1 <= depth <= MAX_DEPTH:
        raise RequestError(f"option depth={depth!r} of view '{view}' must be 1 to {MAX_DEPTH}")
    if type(reset) is not int or not 0 <= reset < 1 << 31:
        raise RequestError(f"option reset={reset!r} of view '{view}' must be never, always or a number of windows below {1 << 31}")
    if coder == "arithmetic" and reset != 0:
        raise RequestError(f"view '{view}' with coder=arithmetic has no windows to reset after; give reset=never or coder=windows")


def excludes(view: str, exclude: Any, coder: str, reset: int) -> bool:
    """Whether the option has an effect: windows, not all of which begin with a reset. Raises `RequestError`."""
    if type(exclude) is not bool:
        raise RequestError(f"option exclude={exclude!r} of view '{view}' must be true or false")
    return exclude and coder == "windows" and reset != 1


def with_reset_told(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with `reset` in words, where it may have been given as a number."""
    return {name: str(value) if name == "reset" else value for name, value in options.items()}


def reset_windows(view: str, reset: str) -> int:
    """never, always or a number -> windows between resets, 0 for never. Raises `RequestError`."""
    if reset in ("never", "always"):
        return int(reset == "always")
    if not reset.isascii() or not reset.isdigit() or int(reset[:12]) == 0:
        raise RequestError(f"option reset={reset!r} of view '{view}' must be never, always or a number of windows, 1 or more")
    return int(reset[:12])


def is_tellable(model: ByteModel, document: bytes) -> bool:
    """Its rows fit into memory, and its length into a range code."""
    return len(document) <= (windows.MAX_UNBOUNDED_BYTES if model.context_bytes is None else (1 << 32) - 1)


def check_size(view: str, model: ByteModel, document: bytes) -> None:
    """Raises `NotRepresentableError` for a document that is too long for the model."""
    if not is_tellable(model, document):
        raise NotRepresentableError(
            f"view '{view}' with a byte model of kind '{model.kind}' takes documents of up to {windows.MAX_UNBOUNDED_BYTES} bytes; "
            f"this one has {len(document)}"
        )


def groups(documents: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    """Runs of documents that are worked on together: some MB each."""
    sizes = list(accumulate(map(len, documents), initial=0))
    first = 0
    for last in range(1, len(documents) + 1):
        if last == len(documents) or sizes[last + 1] - sizes[first] > _BYTES_AT_ONCE:
            yield documents[first:last]
            first = last


def model_for(model: str, documents: Iterable[bytes], max_training_bytes: int) -> ByteModel:
    """The byte model that an option names. Raises `RequestError` for a folder without one, and for no text to count."""
    if model not in ("", "static"):
        return load_model(Path(model))
    return model_class(model or "counts").train(documents, max_training_bytes=max_training_bytes)


def model_files(model: ByteModel) -> dict[str, bytes]:
    """The model's files under names that are free in the view's artifact."""
    return {MODEL_PREFIX + name: data for name, data in model.files().items()}


def model_of(view: str, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> ByteModel:
    """The model of an artifact. Raises `RequestError` where spec and files do not fit together."""
    known = spec.get("model")
    if not isinstance(known, dict):
        raise RequestError(f"the spec of view '{view}' says nothing of its byte model; train the view anew")
    return model_from_files(known, {name.removeprefix(MODEL_PREFIX): data for name, data in files.items() if name.startswith(MODEL_PREFIX)})
