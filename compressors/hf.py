"""`hf`: any `tokenizer.json` of Hugging Face tokenizers as a view. Needs the extra: `pip install 'proxy-lm[hf]'`.

    proxy-lm compressor train hf --option tokenizer=path/to/tokenizer.json --corpus corpus --out views/hf

The file is used as it is; nothing is downloaded and nothing is trained. A document that does not come back byte for byte (not UTF-8, or
normalised away) is refused with `NotRepresentableError`, so the view is exact for all that it accepts. Special names such as `</s>`
inside a document are ordinary text and never become control symbols. Templates, padding and truncation in the file are switched off.

Not promised: equal symbols from another version of the library. The spec holds the digest of the symbols of a fixed probe text, and a
library that cuts it in another way is refused on loading.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import numpy as np

from compressors import options as view_options
from compressors import symbols as symbol_checks
from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Borders, Compressor, Symbols
from compressors.errors import DecodeError, NotRepresentableError, RequestError
from compressors.files import sha256_bytes
from compressors.options import Option

FILE_NAME: Final = "tokenizer.json"
PROBE: Final = (
    "def probe(self, x=0):\n    # naïve café, 北京 😀 \tand ▁\n    return [x ** 1234567890, '</s>']\n\n\nclass P:\r\n        pass  \n"
)
# The longest spelling of one byte inside a vocabulary, `<0x41>`; bounds the decoder's work before it starts.
_MAX_SPELLING_BYTES: Final = 6


@final
class HuggingFace(Compressor):
    """A tokenizer file, with every document checked to come back exactly."""

    name: ClassVar[str] = "hf"
    exact: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        "tokenizer": Option(default=None, kind=str, required=True, help="path of the tokenizer.json, required")
    }

    def __init__(self, *, model: bytes) -> None:
        """`model` is the content of a tokenizer.json. Raises `RequestError` for anything else, and where the library is missing."""
        self.model = model
        self._tokenizer = _read(model)
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise RequestError(f"the {FILE_NAME} of the hf view has an empty vocabulary; give another file")
        self._alphabet_size = max(vocabulary.values()) + 1
        self._spelling_bytes = np.full(self._alphabet_size, -1, dtype=np.int64)  # -1: a gap in the numbering
        for piece, symbol in vocabulary.items():
            self._spelling_bytes[symbol] = len(piece.encode("utf-8", "surrogatepass"))
        self._piece_bytes = _byte_level_pieces(vocabulary, self._alphabet_size) if _is_byte_level(model) else None
        probe = np.array(self._tokenizer.encode(PROBE, add_special_tokens=False).ids, dtype=np.uint32)
        self._probe = sha256_bytes(probe.tobytes())

    @property
    def alphabet_size(self) -> int:
        return self._alphabet_size

    def encode(self, data: bytes) -> Symbols:
        encoded = self.encode_batch([data])[0]
        if encoded is None:
            raise NotRepresentableError(f"view 'hf': a document of {len(data)} bytes does not come back from this tokenizer byte for byte")
        return encoded

    def encode_batch(self, documents: Sequence[bytes]) -> list[Symbols | None]:
        """Symbols or None for each document; in parallel where the library's own `TOKENIZERS_PARALLELISM` allows."""
        texts = [_text(document) for document in documents]
        good = [index for index, text in enumerate(texts) if text is not None]
        encoded = self._tokenizer.encode_batch_fast([texts[index] for index in good], add_special_tokens=False)
        ids = [one.ids for one in encoded]
        decoded = self._tokenizer.decode_batch(ids, skip_special_tokens=False)
        result: list[Symbols | None] = [None] * len(documents)
        for index, symbols, text in zip(good, ids, decoded, strict=True):
            if text == texts[index]:
                result[index] = np.array(symbols, dtype=np.uint32)
        return result

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        good = symbol_checks.checked(self.name, symbols, self.alphabet_size)
        spelling = self._spelling_bytes[good]
        if len(good) and int(spelling.min()) < 0:
            raise DecodeError(f"view 'hf': number {int(good[np.argmin(spelling)])} is a gap in the tokenizer's vocabulary")
        symbol_checks.check_size(self.name, int(spelling.sum()) // _MAX_SPELLING_BYTES, max_bytes)
        data: bytes = self._tokenizer.decode(good.tolist(), skip_special_tokens=False).encode("utf-8", "surrogatepass")
        symbol_checks.check_size(self.name, len(data), max_bytes)
        return data

    def spans(self, data: bytes) -> Borders | None:
        """From the pieces' bytes for byte-level tokenizers, else from the library's offsets where they tile the document, else None."""
        symbols = self.encode(data)
        if self._piece_bytes is not None:
            pieces = [self._piece_bytes[symbol] for symbol in symbols.tolist()]
            if b"".join(pieces) == data:
                return np.cumsum([0, *map(len, pieces)], dtype=np.int64)
        text = data.decode()
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        if [0, *(end for _, end in offsets)] != [*(start for start, _ in offsets), len(text)]:
            return None
        byte_at = np.concatenate([[0], np.cumsum([len(character.encode()) for character in text], dtype=np.int64)])
        return byte_at[[0, *(end for _, end in offsets)]]

    def spelling(self) -> list[bytes] | None:
        """For byte-level tokenizers. Where pieces join to bytes that are no UTF-8, `decode` has U+FFFD and this the bytes."""
        return None if self._piece_bytes is None else list(self._piece_bytes)

    def spec(self) -> dict[str, JSON]:
        return {
            "name": self.name,
            "version": 1,
            "alphabet_size": self.alphabet_size,
            "tokenizer_sha256": sha256_bytes(self.model),
            "probe_sha256": self._probe,
        }

    def files(self) -> dict[str, bytes]:
        return {FILE_NAME: self.model}

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        model = files.get(FILE_NAME, b"")
        if sha256_bytes(model) != spec.get("tokenizer_sha256"):
            raise RequestError(
                f"the hf view's spec names tokenizer {spec.get('tokenizer_sha256')}; got {sha256_bytes(model)}: train it anew"
            )
        view = cls(model=model)
        if view._probe != spec.get("probe_sha256"):
            raise RequestError(
                "the installed tokenizers library cuts the probe text differently from the version this hf view was made with; "
                "install that version (see 'made_with' in its artifact.json) or train the view anew"
            )
        return view

    @classmethod
    def train(cls, documents: Iterable[bytes], **options: JSON) -> Self:
        """Nothing is learned; the file named by the option `tokenizer` is taken in."""
        path = view_options.take(cls.name, cls.options, options)["tokenizer"]
        if path is None:
            raise RequestError("view 'hf' needs the path of a tokenizer.json: give the option tokenizer=PATH")
        try:
            return cls(model=Path(path).read_bytes())
        except OSError as error:
            raise RequestError(f"could not read the tokenizer {path}: {error.strerror or error}") from error


def _read(model: bytes) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise RequestError("view 'hf' needs the tokenizers library: pip install 'proxy-lm[hf]'") from error
    try:
        tokenizer = tokenizers.Tokenizer.from_str(model.decode())
    except Exception as error:  # the library raises bare Exception for a bad file
        raise RequestError(f"the hf view's {FILE_NAME} of {len(model)} bytes is not a tokenizer file ({error}); give another") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # their names inside a document are text
    return tokenizer


def _text(document: bytes) -> str | None:
    try:
        return document.decode()
    except UnicodeDecodeError:
        return None


def _is_byte_level(model: bytes) -> bool:
    decoder = json.loads(model).get("decoder")
    return isinstance(decoder, dict) and decoder.get("type") == "ByteLevel"


def _byte_level_pieces(vocabulary: Mapping[str, int], alphabet_size: int) -> list[bytes]:
    """Bytes of each symbol. Byte-level vocabularies spell printable bytes as themselves and the others as U+0100, U+0101 and so on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    byte_of = {chr(value): value for value in printable} | {chr(256 + k): value for k, value in enumerate(others)}
    pieces = [b""] * alphabet_size
    for piece, symbol in vocabulary.items():
        spelled = [byte_of.get(character) for character in piece]
        pieces[symbol] = piece.encode() if None in spelled else bytes(value for value in spelled if value is not None)
    return pieces
