"""Chunks of any bytes as ids of a Hugging Face tokenizer, and back without it.

    reading = reading_of(tokenizer, num_rows)       # a `symbol_model.Reading`
    reading.columns(b"caf\\xc3\\xa9 \\xff")           # the last byte by the id that spells this byte alone

Ids come from the tokenizer, bytes from a table: what each id spells. Three ways of writing bytes in a vocabulary are known, and the one
that gives a sample text back is taken: GPT-2's characters for bytes, SentencePiece's U+2581 for a space with <0xNN> for bytes, ByT5's
characters U+0000 to U+00FF. Names of specials inside a text are text; specials and ids that spell nothing have no column.

A chunk need not be text, nor end between characters. What is no UTF-8 is told by ids that spell one byte. Of a stretch that does not come
back (a normalising tokenizer), the halves are tried, and halves of halves; a single character that does not come back is told by its
bytes. So a chunk of text costs one call of the tokenizer. Where an id for a byte is missing, there are no columns: counts tell the chunk.

A tokenizer that puts a space in front of a text is given a line end before it, and both are cut off: chunks begin anywhere.

Not promised: that ids are those that the model saw in training for such bytes; only that they come back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proxy_lm.codec.symbol_model import Reading
from proxy_lm.errors import DecodeError, RequestError
from proxy_lm.export.tokenizer import byte_characters

I64 = npt.NDArray[np.int64]
Spell = Callable[[str], bytes]

_SAMPLES: Final = ("Ab é 日本\n\tif x_1 == '€':  # ok\n", "Ab c\n\tif x_1 == 2:  # ok\n", "the cat, and a dog")
_ANCHORS: Final = ("", "\n", ".")
_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# What `surrogateescape` makes of bytes that are no UTF-8.
_NO_TEXT: Final = re.compile("([\udc80-\udcff]+)")


def reading_of(tokenizer: Any, num_rows: int, fallback_begin: int | None) -> Reading:
    """The reading of a tokenizer of transformers; `num_rows`: ids that the model has logits of; `fallback_begin`: the id to begin with
    where the tokenizer names none. Raises `RequestError` for a tokenizer that cannot tell bytes."""
    encode = _encoder(tokenizer)
    begin = _begin(tokenizer, encode, num_rows, fallback_begin)
    found = _spelling(tokenizer, encode)
    if found is None:
        raise RequestError(
            f"the tokenizer ({type(tokenizer).__name__}) does not give text back: it drops or changes characters of {_SAMPLES[-1]!r}; "
            "only models of bytes and of byte-level or SentencePiece tokens can code files"
        )
    table, anchor = found
    spelled = {number: text for number, text in sorted(table.items()) if text and 0 <= number < num_rows}
    if not spelled:
        raise RequestError("no id of the tokenizer is one that the model knows; do the two belong together?")
    reading = TokenReading(encode, spelled, anchor, begin)
    return ByteReading(reading) if reading.is_bytes else reading


class TokenReading:
    """Ids of a tokenizer, each of which spells the same bytes wherever it stands."""

    def __init__(self, encode: Callable[[str], list[int]], spelled: Mapping[int, bytes], anchor: str, begin: list[int]) -> None:
        """`spelled`: the bytes of each id, in order of ids; `anchor`: text that is put before each stretch and cut off again."""
        self.begin = begin
        self.ids: I64 = np.array(list(spelled), np.int64)
        self.num_bytes: I64 | None = np.array([len(text) for text in spelled.values()], np.int64)
        self.spelled = list(spelled.values())
        self._encode, self._anchor = encode, anchor
        self._column = {number: column for column, number in enumerate(spelled)}
        self._byte_column: dict[int, int] = {}
        for column, text in enumerate(self.spelled):
            if len(text) == 1:
                self._byte_column.setdefault(text[0], column)

    @property
    def is_bytes(self) -> bool:
        """Whether the columns are the 256 bytes and nothing else."""
        return len(self.spelled) == 256 == len(self._byte_column)

    def byte_columns(self) -> I64:
        """Of a reading of bytes the column of each [256]."""
        return np.array([self._byte_column[value] for value in range(256)], np.int64)

    def columns(self, chunk: bytes) -> I64 | None:
        """As `Reading.columns`."""
        told: list[int] = []
        for number, stretch in enumerate(_NO_TEXT.split(chunk.decode("utf-8", "surrogateescape"))):
            if stretch:
                found = self._bytes(stretch.encode("utf-8", "surrogateescape")) if number % 2 else self._stretch(stretch)
                if found is None:
                    return None
                told += found
        return np.array(told, np.int64)

    def text(self, columns: I64, num_bytes: int) -> bytes:
        """As `Reading.text`."""
        text = b"".join([self.spelled[column] for column in columns.tolist()])
        if len(text) != num_bytes:
            raise DecodeError(f"tokens spell {len(text)} bytes in place of {num_bytes}; the chunk is damaged")
        return text

    def whole(self, text: str) -> list[int] | None:
        """Columns of a text in one call of the tokenizer; None where they do not spell it."""
        columns = [self._column.get(number, -1) for number in self._encode(self._anchor + text)]
        anchor, first, wanted = self._anchor.encode(), 0, text.encode()
        spelled = b""
        while first < len(columns) and columns[first] >= 0 and len(spelled.lstrip(b" ")) < len(anchor.lstrip(b" ")):
            spelled += self.spelled[columns[first]]
            first += 1
        columns = columns[first:]
        if spelled.removeprefix(b" ") != anchor or min(columns, default=0) < 0:
            return None
        return columns if b"".join([self.spelled[column] for column in columns]) == wanted else None

    def _stretch(self, text: str) -> list[int] | None:
        """Of text; recursion goes as deep as the text can be halved."""
        found = self.whole(text)
        if found is not None:
            return found
        if len(text) == 1:
            return self._bytes(text.encode())
        first = self._stretch(text[: len(text) // 2])
        second = None if first is None else self._stretch(text[len(text) // 2 :])
        return None if first is None or second is None else first + second

    def _bytes(self, data: bytes) -> list[int] | None:
        found = [self._byte_column.get(value, -1) for value in data]
        return None if min(found) < 0 else found


class ByteReading:
    """A vocabulary of bytes, without a tokenizer in the way."""

    def __init__(self, reading: TokenReading) -> None:
        """Of a reading that is one of bytes."""
        order = reading.byte_columns()
        self.begin = reading.begin
        self.ids: I64 = reading.ids[order]
        self.num_bytes: I64 | None = np.ones(256, np.int64)

    def columns(self, chunk: bytes) -> I64 | None:
        """As `Reading.columns`."""
        return np.frombuffer(chunk, np.uint8).astype(np.int64)

    def text(self, columns: I64, num_bytes: int) -> bytes:
        """As `Reading.text`."""
        assert len(columns) == num_bytes
        return columns.astype(np.uint8).tobytes()


def _encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Text to ids, specials' names being text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda text: list(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text, split_special_tokens=True)))
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return lambda text: list(backend.encode(text, add_special_tokens=False).ids)


def _begin(tokenizer: Any, encode: Callable[[str], list[int]], num_rows: int, fallback: int | None) -> list[int]:
    """The ids that the tokenizer puts before a text; else its first special that begins or ends documents."""
    whole, plain = list(tokenizer("a")["input_ids"]), encode("a")
    for first in range(len(whole) - len(plain) + 1):
        if plain and whole[first : first + len(plain)] == plain:
            begin = whole[:first]
            break
    else:
        begin = []
    if not begin:
        named = [tokenizer.bos_token_id, fallback, tokenizer.eos_token_id, tokenizer.pad_token_id, 0]
        begin = [next(number for number in named if number is not None)]
    if not all(0 <= number < num_rows for number in begin):
        raise RequestError(f"the tokenizer begins a text with ids {begin}, and the model knows {num_rows}; do the two belong together?")
    return begin


def _spelling(tokenizer: Any, encode: Callable[[str], list[int]]) -> tuple[dict[int, bytes], str] | None:
    """What each id spells, and the anchor; None where nothing gives a sample back."""
    added = tokenizer.added_tokens_decoder
    named = {number: b"" if token.special else str(token.content).encode() for number, token in added.items()}
    named |= dict.fromkeys(tokenizer.all_special_ids, b"")
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    for sample in _SAMPLES:
        for spell in (_byte_level(), _sentence_piece, _latin):
            table = {number: spell(token) for token, number in vocabulary.items()} | named
            spelled = {number: text for number, text in sorted(table.items()) if text}
            for anchor in _ANCHORS:
                if TokenReading(encode, spelled, anchor, []).whole(sample) is not None:
                    return table, anchor
    return None


def _byte_level() -> Spell:
    table = {character: value for value, character in enumerate(byte_characters())}

    def spell(token: str) -> bytes:
        found = [table.get(character, -1) for character in token]
        return b"" if min(found, default=-1) < 0 else bytes(found)

    return spell


def _sentence_piece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode("utf-8", "surrogatepass")


def _latin(token: str) -> bytes:
    return token.encode("latin-1") if len(token) == 1 and ord(token) < 256 else b""
