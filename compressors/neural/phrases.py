"""`phrases`: a dictionary of the phrases that serve the text best, and the parse with the fewest symbols. The densest view here.

    proxy-lm compressor train phrases --corpus corpus --out views/phrases
    proxy-lm compressor train phrases --corpus corpus --option parse=greedy --out views/phrases-fast
    proxy-lm compressor train phrases --corpus corpus --option borders=words --out views/phrases-words

A symbol stands for a fixed string of bytes. The first 256 are the bytes themselves, so every document can be told and comes back; the
others are learned from text (phrases_learn.py) and may hold spaces, punctuation and ends of lines: `self.assertEqual(` is one symbol. No
model and no library takes part in encoding: dictionary.py parses and looks up.

After an edit the symbols to its right are those of before as soon as one border is shared, which takes a few bytes. README.md has what was
measured, against `table`, and what each option costs.

Not promised: how well a language model learns from these symbols; that is what the comparisons measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Final, Self, cast, final

import numpy as np

from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Borders, Compressor, Symbols
from compressors.errors import DecodeError, RequestError
from compressors.files import sha256_bytes
from compressors.neural.dictionary import Dictionary, Parse
from compressors.neural.training_text import cut_at
from compressors.options import Option
from compressors.symbols import checked

FILE: Final = "phrases.dictionary"
VERSION: Final = 1
_CHOICES: Final = {"parse": ("fewest", "greedy"), "borders": ("none", "lines", "words")}


@final
class Phrases(Compressor):
    """Learned phrases with codes of their own."""

    name: ClassVar[str] = "phrases"
    exact: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True
    in_threads: ClassVar[bool] = True
    reports_progress: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        "alphabet_size": Option(default=65_536, low=257, high=1 << 18, help="number of symbols, the 256 bytes included"),
        "parse": Option(default="fewest", help="fewest: the fewest symbols; greedy: the longest phrase at each place, faster to encode"),
        "borders": Option(
            default="none", help="where phrases must stop: none; lines: only blanks after a line's end; words: only after a word's end"
        ),
        "max_phrase_bytes": Option(default=32, low=2, high=255, help="bytes of the longest phrase"),
        "max_repeats": Option(default=2, low=1, high=1 << 30, help="a phrase counts this often in one document at most"),
        "min_documents": Option(default=2, low=1, help="two symbols are joined where they meet in this many documents or more"),
        "max_training_bytes": Option(default=250_000_000, low=1, help="documents are read until this many bytes"),
    }

    def __init__(self, *, dictionary: Dictionary, parse: str) -> None:
        """Raises `RequestError` for an unknown parse, and for a dictionary whose first 256 codes are not the bytes in order."""
        _check_choice("parse", parse)
        if not dictionary.is_exact or dictionary.gives_back.any() or dictionary.decode_nodes[:256].tolist() != list(range(1, 257)):
            raise RequestError(
                "the dictionary of view 'phrases' has the 256 bytes first and a code of its own for each phrase; train it anew"
            )
        self.dictionary = dictionary
        self.parse = parse
        self._data = dictionary.to_bytes()
        self._sha256 = sha256_bytes(self._data)

    @property
    def alphabet_size(self) -> int:
        return self.dictionary.num_codes

    def encode(self, data: bytes) -> Symbols:
        return self._encode([data])[0]

    def encode_batch(self, documents: Sequence[bytes]) -> list[Symbols | None]:
        return list(self._encode(documents))

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        return self.dictionary.decode(checked(self.name, symbols, self.alphabet_size), max_bytes)

    def decode_batch(self, symbols: Sequence[Symbols], max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> list[bytes | None]:
        """As `decode`, all documents in one pass where they are good."""
        try:
            codes = [checked(self.name, one, self.alphabet_size) for one in symbols]
        except DecodeError:
            return super().decode_batch(symbols, max_bytes)
        if not codes or any(int(self.dictionary.lengths[one].sum()) > max_bytes for one in codes):
            return super().decode_batch(symbols, max_bytes)
        offsets = np.cumsum([0, *map(len, codes)], dtype=np.int64)
        data, ends = self.dictionary.decode_flat(np.concatenate(codes), offsets, max_bytes=max_bytes * len(codes))
        text, cuts = data.tobytes(), ends.tolist()
        return [text[start:end] for start, end in pairwise(cuts)]

    def spans(self, data: bytes) -> Borders:
        return self.dictionary.borders(self.encode(data))

    def spelling(self) -> list[bytes]:
        return self.dictionary.strings()

    def spec(self) -> dict[str, JSON]:
        return {
            "name": self.name,
            "version": VERSION,
            "alphabet_size": self.alphabet_size,
            "parse": self.parse,
            "dictionary_sha256": self._sha256,
        }

    def files(self) -> dict[str, bytes]:
        return {FILE: self._data}

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        if spec.get("name") != cls.name or spec.get("version") != VERSION:
            raise RequestError(
                f"this is view '{spec.get('name')}' version {spec.get('version')}, not phrases version {VERSION}; train it anew"
            )
        if set(files) != {FILE} or sha256_bytes(files[FILE]) != spec.get("dictionary_sha256"):
            raise RequestError(f"view 'phrases' holds {FILE} alone, with the digest {spec.get('dictionary_sha256')}; train it anew")
        view = cls(dictionary=Dictionary.from_bytes(files[FILE]), parse=str(spec.get("parse")))
        if view.spec() != dict(spec):
            raise RequestError(f"the spec of view 'phrases' does not tell the sizes of its {FILE}; train it anew")
        return view

    @classmethod
    def take_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        chosen = super().take_options(options)
        for name in _CHOICES:
            _check_choice(name, chosen[name])
        return chosen

    @classmethod
    def train(cls, documents: Iterable[bytes], *, report: Any = None, **options: JSON) -> Self:
        """Learn the phrases from the first `max_training_bytes` of documents. Equal documents and options give equal phrases.
        `report(done, total)` counts symbols learned on the way."""
        chosen = cls.take_options(options)
        from compressors.neural.phrases_learn import LearnSettings, learn  # brings numba

        texts = cut_at(documents, chosen.pop("max_training_bytes"))
        return cls(dictionary=learn(texts, LearnSettings(**chosen), report), parse=chosen["parse"])

    def _encode(self, documents: Sequence[bytes]) -> list[Symbols]:
        return self.dictionary.encode(documents, parse=cast(Parse, self.parse))


def _check_choice(name: str, value: str) -> None:
    if value not in _CHOICES[name]:
        raise RequestError(f"option {name}={value!r} of view 'phrases' must be one of: {', '.join(_CHOICES[name])}")
