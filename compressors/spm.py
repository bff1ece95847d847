"""`spm`: SentencePiece byte pair encoding, exact for every byte string.

    proxy-lm compressor train spm --corpus corpus --option alphabet_size=8192 --out views/spm

Symbols 0 to 255 are the byte values; the learned pieces follow. A document is first cut before every run of spaces that follows something
else, a place that no piece crosses (checked when the model is loaded), so each chunk has the same symbols wherever it stands. Repeated
chunks are remembered, which is where the speed comes from. Within a chunk

* bytes that are not UTF-8, U+2581 (SentencePiece's own sign for a space) and NUL are emitted directly as byte symbols;
* everything else goes through SentencePiece, and its pieces must spell the chunk; a chunk they do not spell is emitted as byte symbols.

So exactness does not rest on the library. Its flags are those that keep code whole: no normalisation, no dummy prefix, no trimming of
spaces, byte fallback, pieces of spaces only (indentation), single digits. Pieces may join letters and punctuation and may hold newlines:
on held-out files of the standard library that gave 3.7 instead of 3.1 bytes a symbol with 8,192 symbols.

Not promised: equal models from another sentencepiece version. A trained model is a file with a digest, and the spec holds the digest of
the symbols of a fixed probe text, so a library that would cut text in another way is refused on loading.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, Self, final

import numpy as np
import sentencepiece

from compressors import options as view_options
from compressors import symbols as symbol_checks
from compressors.base import DEFAULT_MAX_DECODED_BYTES, JSON, Borders, Compressor, Symbols
from compressors.errors import RequestError
from compressors.files import sha256_bytes
from compressors.options import Option

MODEL_NAME: Final = "sentencepiece.model"
_SPACE_SIGN: Final = "\u2581"
_CHUNKS: Final = re.compile(rb" +[^ ]*|[^ ]+")
# Stray bytes appear as lone surrogates after decoding with surrogateescape.
_DIRECT: Final = re.compile("([\udc80-\udcff\u2581\x00]+)")
# SentencePiece reserves U+2585 in training and skips a whole sentence that has it.
_UNTRAINABLE: Final = re.compile("[\udc80-\udcff\u2581\u2585\x00]+")
_TRAINING_CHUNK_CHARACTERS: Final = 4000
_MEMO_BYTES: Final = 1 << 27
_MEMO_ENTRY_BYTES: Final = 200  # what Python spends on an entry beside its contents, roughly
_SYMBOL: Final = np.dtype(np.uint32)
_PROBE_TEXT: Final = (
    "def probe(self, x=0):\n    # naïve café, 北京 😀 \tand ▁\n    return [x ** 1234567890, 'y']\n\n\nclass P:\r\n        pass  \n"
)
PROBE: Final = _PROBE_TEXT.encode() + bytes(range(256))


@final
class SentencePiece(Compressor):
    """Byte pair encoding by SentencePiece with byte symbols for whatever its text model cannot say."""

    name: ClassVar[str] = "spm"
    exact: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        "alphabet_size": Option(default=8192, low=258, high=1 << 20, help="number of symbols, the 256 byte symbols included"),
        "max_training_bytes": Option(default=50_000_000, low=1, help="documents are read until this many bytes"),
    }

    def __init__(self, *, model: bytes) -> None:
        """`model` is a SentencePiece model as `train` makes it. Raises `RequestError` for any other."""
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, ValueError) as error:
            raise RequestError(f"the spm view's {MODEL_NAME} of {len(model)} bytes is not a SentencePiece model; train it anew") from error
        self._pieces = _piece_bytes(self._processor)
        self._lengths = np.array([len(piece) for piece in self._pieces], dtype=np.int64)
        self._memo: dict[bytes, bytes] = {}
        self._memo_bytes = 0
        self._probe = sha256_bytes(self.encode(PROBE).tobytes())

    @property
    def alphabet_size(self) -> int:
        return len(self._pieces)

    def encode(self, data: bytes) -> Symbols:
        return self._join(_CHUNKS.findall(data), num_threads=1)

    def encode_batch(self, documents: Sequence[bytes]) -> list[Symbols | None]:
        """As `encode`, with new chunks of all documents in one call; `OMP_NUM_THREADS` threads, one by default."""
        chunks = [_CHUNKS.findall(document) for document in documents]
        self._learn({chunk for some in chunks for chunk in some}, int(os.environ.get("OMP_NUM_THREADS") or 1))
        return [self._join(some, num_threads=1) for some in chunks]

    def decode(self, symbols: Symbols, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> bytes:
        good = symbol_checks.checked(self.name, symbols, self.alphabet_size)
        symbol_checks.check_size(self.name, int(self._lengths[good].sum()), max_bytes)
        return b"".join(map(self._pieces.__getitem__, good.tolist()))

    def spans(self, data: bytes) -> Borders:
        lengths = self._lengths[self.encode(data)]
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])

    def spelling(self) -> list[bytes]:
        return list(self._pieces)

    def spec(self) -> dict[str, JSON]:
        return {
            "name": self.name,
            "version": 1,
            "alphabet_size": self.alphabet_size,
            "model_sha256": sha256_bytes(self.model),
            "probe_sha256": self._probe,
        }

    def files(self) -> dict[str, bytes]:
        return {MODEL_NAME: self.model}

    @classmethod
    def from_artifact(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        model = files.get(MODEL_NAME, b"")
        if sha256_bytes(model) != spec.get("model_sha256"):
            raise RequestError(f"the spm view's spec names model {spec.get('model_sha256')}; got {sha256_bytes(model)}: train it anew")
        view = cls(model=model)
        if view._probe != spec.get("probe_sha256"):
            raise RequestError(
                f"sentencepiece {sentencepiece.__version__} cuts the probe text differently from the version this spm view was made with; "
                "install that version (see 'made_with' in its artifact.json) or train the view anew"
            )
        return view

    @classmethod
    def train(cls, documents: Iterable[bytes], **options: JSON) -> Self:
        """Learn the pieces from the first `max_training_bytes` of documents. Equal documents and options give an equal model."""
        chosen = view_options.take(cls.name, cls.options, options)
        return cls(model=_train_model(documents, chosen["alphabet_size"], chosen["max_training_bytes"]))

    def _join(self, chunks: list[bytes], num_threads: int) -> Symbols:
        memo = self._memo
        try:
            return np.frombuffer(b"".join(map(memo.__getitem__, chunks)), dtype=_SYMBOL)
        except KeyError:
            memo = self._learn(set(chunks), num_threads)
            return np.frombuffer(b"".join(map(memo.__getitem__, chunks)), dtype=_SYMBOL)

    def _learn(self, chunks: set[bytes], num_threads: int) -> dict[bytes, bytes]:
        """A memo that has all of `chunks`. A full memo is replaced, never emptied: another thread may be reading it."""
        memo = self._memo
        missing = [chunk for chunk in chunks if chunk not in memo]
        if self._memo_bytes > _MEMO_BYTES:
            memo, missing, self._memo_bytes = {}, list(chunks), 0
        for chunk, symbols in zip(missing, self._encode_chunks(missing, num_threads), strict=True):
            memo[chunk] = symbols
            self._memo_bytes += len(chunk) + len(symbols) + _MEMO_ENTRY_BYTES
        self._memo = memo
        return memo

    def _encode_chunks(self, chunks: list[bytes], num_threads: int) -> Iterator[bytes]:
        """The uint32 symbols of each chunk, as bytes."""
        parts = [_DIRECT.split(chunk.decode("utf-8", "surrogateescape")) for chunk in chunks]
        texts = [text for some in parts for text in some[::2]]  # the odd ones are the direct bytes
        encoded = iter(self._processor.encode(texts, out_type=int, num_threads=num_threads))
        for chunk, some in zip(chunks, parts, strict=True):
            symbols: list[int] = []
            for index, text in enumerate(some):
                # Piece 0 is the unknown piece, which byte fallback leaves without use; symbol s is piece s + 1.
                symbols += text.encode("utf-8", "surrogateescape") if index % 2 else [piece - 1 for piece in next(encoded)]
            if min(symbols, default=0) < 0 or b"".join(map(self._pieces.__getitem__, symbols)) != chunk:
                symbols = list(chunk)
            yield np.array(symbols, dtype=_SYMBOL).tobytes()


def _piece_bytes(processor: Any) -> list[bytes]:
    """What each symbol stands for. Raises `RequestError` for a model laid out in another way than `_train_model` does."""
    num_pieces = processor.get_piece_size()
    pieces = [bytes([value]) for value in range(256)]
    good = num_pieces > 256 and processor.is_unknown(0) and all(processor.id_to_piece(i + 1) == f"<0x{i:02X}>" for i in range(256))
    for piece in range(257, num_pieces):
        text = processor.id_to_piece(piece)
        good = good and not (processor.is_control(piece) or processor.is_unknown(piece) or processor.is_byte(piece))
        good = good and _SPACE_SIGN not in text.lstrip(_SPACE_SIGN)
        pieces.append(text.replace(_SPACE_SIGN, " ").encode())
    if not good:
        raise RequestError(
            "this SentencePiece model was not trained by this view (pieces in another order); train it anew, or use view 'hf'"
        )
    return pieces


def _train_model(documents: Iterable[bytes], alphabet_size: int, max_training_bytes: int) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_training_text(documents, max_training_bytes),
            model_writer=model,
            model_type="bpe",
            vocab_size=alphabet_size + 1,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            byte_fallback=True,
            split_digits=True,
            split_by_unicode_script=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=8 * _TRAINING_CHUNK_CHARACTERS,
            shuffle_input_sentence=False,
            input_sentence_size=0,
            num_threads=1,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise RequestError(f"SentencePiece cannot learn {alphabet_size} symbols from these documents; {_remedy(str(error))}") from error
    return model.getvalue()


def _remedy(reason: str) -> str:
    """The library's limits count its unknown piece as well, hence the - 1."""
    if most := re.search(r"value <= (\d+)", reason):
        return f"they have pieces for alphabet_size up to {int(most[1]) - 1}: choose one, or give more documents"
    if least := re.search(r"required_chars\. \d+ vs (\d+)", reason):
        return f"their characters need alphabet_size {int(least[1]) - 1} or more"
    return "give it at least some valid UTF-8 text" + (f" ({reason.splitlines()[0]})" if reason.strip() else "")


def _training_text(documents: Iterable[bytes], max_training_bytes: int) -> Iterator[str]:
    """Text for the trainer, in stretches that end where no piece can cross, without the characters it stumbles over."""
    num_left = max_training_bytes
    for document in documents:
        if num_left <= 0:
            return
        text = document[:num_left].decode("utf-8", "surrogateescape")
        num_left -= len(document)
        for stretch in _UNTRAINABLE.split(text):
            start = 0
            while start < len(stretch):
                end = stretch.find(" ", start + _TRAINING_CHUNK_CHARACTERS)
                end = len(stretch) if end < 0 else end
                for cut in range(start, end, 2 * _TRAINING_CHUNK_CHARACTERS):  # text without spaces is cut anyway: it only counts pairs
                    yield stretch[cut : min(cut + 2 * _TRAINING_CHUNK_CHARACTERS, end)]
                start = end
