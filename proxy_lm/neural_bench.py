"""The neural views against what a user would use instead, in one run. `make bench` prints it (`tests/test_bench_neural.py` holds the bars).

    corpus = bench_corpus(folder)          the installed Python, split by project, at least 20 MB held out; kept between runs
    peers = make_peers(corpus)             byte-level BPE in tiktoken, SentencePiece, zstd, zlib: 65,536 symbols where they have any
    encode_rates(ways, documents)          interleaved rounds, one thread, 10^6 bytes a second of CPU time, median and best

All speeds are of one thread, over whole documents, in rounds that take turns, so that a busy machine slows all alike; the ratio is the
result. Peers learn from less text than the views (their trainers are slow); that changes their speed little. Not measured here: GPUs.
"""

from __future__ import annotations

import io
import statistics
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compressors.neural.divide import divide_rows
from compressors.neural.models import ByteModel
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.errors import RequestError

PEER_SYMBOLS = 65_536
_PEER_TRAINING_BYTES = 8_000_000
# GPT-2's way to part text into words, in the syntax both libraries read.
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

Way = Callable[[Sequence[bytes]], int]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One way over the same documents, several rounds."""

    median_megabytes_per_second: float
    best_megabytes_per_second: float
    num_symbols: int
    bytes_per_symbol: float


def bench_corpus(folder: Path) -> Corpus:
    """The sources of the installed Python, a tenth of them held out by project. Made once; the same command finds it again."""
    settings = PrepareSettings(languages=("python",), min_bytes=64, max_bytes_per_document=400_000, valid_share=0.02, test_share=0.1)
    try:
        prepare(["python:"], folder, settings, num_workers=1)
    except RequestError:  # it was made of another Python
        prepare(["python:"], folder, settings, num_workers=1, force=True)
    return Corpus.open(folder, verify=False)


def documents_of(corpus: Corpus, split: str, max_bytes: int | None = None) -> list[bytes]:
    """Documents from the first of a split on, until the next would pass `max_bytes`."""
    chosen: list[bytes] = []
    num_bytes = 0
    for index in corpus.splits[split]:
        num_bytes += int(corpus.sizes[index])
        if max_bytes is not None and num_bytes > max_bytes:
            break
        chosen.append(corpus.document(index))
    return chosen


def make_peers(corpus: Corpus) -> dict[str, Way]:
    """Each peer as a function of documents that returns the number of symbols, or of bytes where it has none."""
    training = documents_of(corpus, "train", _PEER_TRAINING_BYTES)
    return {"tiktoken": tiktoken_way(training), "sentencepiece": sentencepiece_way(training), "zstd-1": zstd_way(1), "zlib-6": zlib_way(6)}


def tiktoken_way(training: Sequence[bytes]) -> Way:
    """Byte-level BPE: merges learned by `tokenizers`, applied by tiktoken, the fastest such program we know."""
    import tiktoken
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner.train_from_iterator(
        (document.decode("utf-8", "replace") for document in training),
        trainers.BpeTrainer(vocab_size=PEER_SYMBOLS, initial_alphabet=alphabet, show_progress=False),
    )
    bytes_of = _byte_level_characters()
    ranks = {bytes(bytes_of[c] for c in piece): rank for piece, rank in learner.get_vocab().items()}
    singles = sorted(piece for piece in ranks if len(piece) == 1)
    longer = sorted((piece for piece in ranks if len(piece) > 1), key=ranks.__getitem__)
    encoding = tiktoken.Encoding(
        "bench", pat_str=_WORDS, mergeable_ranks={piece: rank for rank, piece in enumerate(singles + longer)}, special_tokens={}
    )

    def encode(documents: Sequence[bytes]) -> int:
        return sum(len(encoding.encode_ordinary(document.decode("utf-8", "replace"))) for document in documents)

    return encode


def sentencepiece_way(training: Sequence[bytes]) -> Way:
    """SentencePiece BPE with pieces of spaces allowed, the setting that suits code best."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for document in training for line in document.decode("utf-8", "replace").split("\n") if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=PEER_SYMBOLS,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["\n", "\t"],
        num_threads=1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

    def encode(documents: Sequence[bytes]) -> int:
        return sum(len(processor.encode(document.decode("utf-8", "replace"), num_threads=1)) for document in documents)

    return encode


def zstd_way(level: int) -> Way:
    """zstd, each document by itself; the result is in bytes."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=level)
    return lambda documents: sum(len(compressor.compress(document)) for document in documents)


def zlib_way(level: int) -> Way:
    """zlib, each document by itself; the result is in bytes."""
    return lambda documents: sum(len(zlib.compress(document, level)) for document in documents)


def encode_rates(ways: Mapping[str, Way], documents: Mapping[str, Sequence[bytes]], num_rounds: int) -> dict[str, Rate]:
    """Every way over its documents `num_rounds` times, taking turns. The slow ones may be given fewer documents than the fast ones."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    num_symbols: dict[str, int] = {}
    for name, way in ways.items():
        num_symbols[name] = way(documents[name])  # the first round compiles and fills caches, and does not count
    for _ in range(num_rounds):
        for name, way in ways.items():
            began = time.process_time()
            way(documents[name])
            seconds[name].append(time.process_time() - began)
    rates = {}
    for name in ways:
        num_bytes = sum(map(len, documents[name]))
        rates[name] = Rate(
            median_megabytes_per_second=num_bytes / 1e6 / statistics.median(seconds[name]),
            best_megabytes_per_second=num_bytes / 1e6 / min(seconds[name]),
            num_symbols=num_symbols[name],
            bytes_per_symbol=num_bytes / num_symbols[name],
        )
    return rates


def _byte_level_characters() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level BPE files: printable Latin-1 for itself, the rest from U+0100 up."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in set(itself)]
    return {chr(value): value for value in itself} | {chr(0x100 + index): value for index, value in enumerate(others)}


def direct_codes(model: ByteModel, documents: Sequence[bytes], bits: int, max_depth: int) -> list[npt.NDArray[np.int64]]:
    """Codes of equal-info windows under `cells` with a full reset, made the direct way: the model runs for every byte, all documents in
    lockstep, one batch for all windows of equal depth. What a table is compiled to avoid; equal to it symbol by symbol."""
    texts = [np.frombuffer(document, dtype=np.uint8) for document in documents]
    sizes = np.array([len(text) for text in texts])
    flat = np.concatenate([*texts, np.zeros(1, np.uint8)])
    base = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    place = np.zeros(len(texts), np.int64)  # of the next byte in its document
    depth = np.zeros(len(texts), np.int64)
    low = np.zeros(len(texts), np.int64)
    cells = np.full(len(texts), 1 << bits, np.int64)
    codes: list[list[int]] = [[] for _ in texts]
    alive = np.flatnonzero(sizes > 0)
    while len(alive):
        for level in np.unique(depth[alive]):
            group = alive[depth[alive] == level]
            at = base[group] + place[group]
            going = (place[group] < sizes[group]) & (cells[group] > 1) & (level < max_depth)
            taken = np.zeros(len(group), dtype=bool)
            if going.any():
                some = group[going]
                prefixes = flat[at[going][:, None] + np.arange(-level, 0)[None, :]].astype(np.uint8)
                shares = divide_rows(cells[some], model.after(prefixes), bool(level == 0))
                mine = flat[at[going]].astype(np.int64)
                rows = np.arange(len(some))
                below = np.cumsum(shares, axis=1)[rows, mine] - shares[rows, mine]
                fits = shares[rows, mine] > 0
                taken[going] = fits
                moved = some[fits]
                low[moved] += (0 if level == 0 else 1) + below[fits]
                cells[moved] = shares[rows, mine][fits]
                place[moved] += 1
                depth[moved] += 1
            for index in group[~taken]:
                codes[index].append(int(low[index]))
                low[index], cells[index], depth[index] = 0, 1 << bits, 0
        alive = np.flatnonzero((place < sizes) | (depth > 0))
    return [np.array(some, dtype=np.int64) for some in codes]
