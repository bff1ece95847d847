"""The bars of the neural views, all in one run on the installed Python, a tenth of it held out by project. Run by `make bench`.

The corpus, the byte models and the encoded views are kept under `.cache` between runs. Everything printed is a ratio or a median of
rounds that take turns.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from compressors import registry
from compressors.neural.build import build
from compressors.neural.dictionary import Dictionary
from compressors.neural.models import load_model
from compressors.neural.table import Table
from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.neural_bench import bench_corpus, direct_codes, documents_of, encode_rates, make_peers
from proxy_lm.neural_training import train_neural
from proxy_lm.view_training import train_view

pytestmark = pytest.mark.bench

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "bench-neural"
# Networks are trained for a minute or two: enough that their tables have the shape of a trained model's, and no more.
NETWORKS = {"0.7m": "num_steps=200", "3m": "num_steps=40"}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    found = bench_corpus(CACHE)
    sizes = {name: int(found.sizes[part.start : part.stop].sum()) for name, part in found.splits.items()}
    print("\ncorpus:", {name: f"{size / 1e6:.1f} MB" for name, size in sizes.items()}, "digest", found.digest[:16])
    assert sizes["test"] >= 20e6, "the held-out text is too small: install more packages, or bench on another Python"
    return found


@pytest.fixture(scope="module")
def views(corpus) -> Path:
    """Where what was learned from this very corpus is kept."""
    return CACHE.parent / "bench-views" / corpus.digest[:16]


@pytest.fixture(scope="module")
def table(corpus, views) -> Table:
    folder = views / "table"
    train_view("table", corpus, folder)
    found = registry.load(folder)
    assert isinstance(found, Table)
    return found


@pytest.fixture(scope="module")
def counts(corpus, views):
    train_neural(corpus, views / "counts", model="counts")
    return load_model(views / "counts" / "model")


@pytest.fixture(scope="module")
def network(corpus, views):
    def trained(preset):
        folder = views / f"network-{preset}"
        train_neural(corpus, folder, model="transformer", preset=preset, settings=[NETWORKS[preset]])
        return load_model(folder / "model")

    return trained


def test_encoding_beside_what_a_user_would_take(corpus, table):
    """At least 300 MB/s a core, 15 times tiktoken and 80 times SentencePiece on the same text, zstd level 1 and zlib beside it."""
    whole, part = documents_of(corpus, "test"), documents_of(corpus, "test", 2_000_000)
    text = dict.fromkeys(("tiktoken", "sentencepiece", "zlib-6"), part) | {"zstd-1": whole, "table": whole}
    ways = {"table": lambda documents: sum(map(len, table.encode_batch(documents))), **make_peers(corpus)}
    rates = encode_rates(ways, text, num_rounds=7)
    for name, rate in rates.items():
        ratio = rates["table"].median_megabytes_per_second / rate.median_megabytes_per_second
        print(
            f"{name:14} {rate.median_megabytes_per_second:8.1f} MB/s median, {rate.best_megabytes_per_second:8.1f} best, "
            f"{rate.bytes_per_symbol:.3f} bytes a symbol; table is {ratio:.2f} x"
        )
    assert rates["table"].median_megabytes_per_second >= 300
    assert rates["table"].median_megabytes_per_second >= 15 * rates["tiktoken"].median_megabytes_per_second
    assert rates["table"].median_megabytes_per_second >= 80 * rates["sentencepiece"].median_megabytes_per_second


def test_decoding(corpus, table):
    """At least 350 MB/s a core of decoded bytes."""
    documents = documents_of(corpus, "test")
    symbols = table.encode_batch(documents)
    num_bytes = sum(map(len, documents))
    assert table.decode_batch(symbols) == documents
    seconds = []
    for _ in range(9):
        began = time.process_time()
        table.decode_batch(symbols)
        seconds.append(time.process_time() - began)
    median = num_bytes / 1e6 / sorted(seconds)[len(seconds) // 2]
    print(f"\ndecode {median:.0f} MB/s median, {num_bytes / 1e6 / min(seconds):.0f} best")
    assert median >= 350


def test_every_document_of_the_corpus_comes_back(corpus, table):
    """And every code decodes to something."""
    for split in corpus.splits:
        documents = iter(documents_of(corpus, split))
        while some := list(itertools.islice(documents, 500)):
            assert table.decode_batch(table.encode_batch(some)) == some
    assert min(map(len, table.dictionary.strings())) >= 1
    assert len(table.dictionary.strings()) == table.alphabet_size == 65_536


@pytest.mark.parametrize(("what", "limit"), [("counts", 10), ("0.7m", 10), ("3m", 60)])
def test_building_16_bits(counts, network, what, limit):
    """At most 10 s from counts or a network of 0.7 million parameters, 60 s from one of 3 million, the model's training apart."""
    model = counts if what == "counts" else network(what)
    build(model, bits=10)  # compiles
    began = time.process_time()
    strings = build(model, bits=16)
    seconds = time.process_time() - began
    print(f"\nb=16 from {what}: {seconds:.1f} s, {len(strings.labels) - 1:,} strings")
    assert seconds <= limit


def test_building_20_bits(counts):
    """At most 60 s from counts."""
    build(counts, bits=10)
    began = time.process_time()
    strings = build(counts, bits=20)
    seconds = time.process_time() - began
    print(f"\nb=20 from counts: {seconds:.1f} s, {len(strings.labels) - 1:,} strings")
    assert seconds <= 60


@pytest.mark.parametrize("what", ["counts", "0.7m"])
def test_the_table_is_the_same_for_every_batch_and_thread_count(counts, network, what):
    """Batches of 3, 64 and 2,048 prefixes, one thread and two."""
    import torch

    model = counts if what == "counts" else network(what)
    found = set()
    before = torch.get_num_threads()
    for rows_per_call, threads in ((3, 1), (64, 1), (2048, 1), (64, 2), (2048, 2)):
        torch.set_num_threads(threads)
        made = build(model, bits=16 if rows_per_call > 3 or what == "counts" else 13, rows_per_call=rows_per_call)
        if rows_per_call == 3 and what != "counts":
            assert _bytes(made) == _bytes(build(model, bits=13, rows_per_call=2048)), "b=13 in batches of 3"
            continue
        found.add(_bytes(made))
    torch.set_num_threads(before)
    assert len(found) == 1


def _bytes(strings) -> bytes:
    return Dictionary(labels=strings.labels, parents=strings.parents, codes=strings.codes, decode_nodes=strings.decode_nodes).to_bytes()


def test_ten_thousand_times_the_direct_encoder_at_equal_symbols(corpus, views, network):
    """The same codes by running the network for every byte, all documents in lockstep."""
    model = network("0.7m")
    table = registry.load(views / "network-0.7m")
    documents = [document[:2000] for document in documents_of(corpus, "test")[:64]]
    began = time.process_time()
    direct = direct_codes(model, documents, bits=16, max_depth=63)
    slow = sum(map(len, documents)) / (time.process_time() - began)
    walked = table.encode_batch(documents)
    for one, other in zip(direct, walked, strict=True):
        np.testing.assert_array_equal(one, other)
    whole = documents_of(corpus, "test")
    table.encode_batch(whole)
    seconds = []
    for _ in range(7):
        began = time.process_time()
        table.encode_batch(whole)
        seconds.append(time.process_time() - began)
    fast = sum(map(len, whole)) / sorted(seconds)[3]
    print(f"\ndirect {slow / 1e3:.2f} kB/s, table {fast / 1e6:.0f} MB/s: {fast / slow:,.0f} x")
    print(f"all {len(documents)} documents have equal symbols")
    assert fast >= 10_000 * slow


def test_encoding_a_corpus_beside_sentencepiece(corpus, views, table, tmp_path):
    """`proxy-lm encode` of the whole corpus with the table against SentencePiece over 5 MB, both as programs, start-up included."""
    peer = views / "spm"
    train_view("spm", corpus, peer, options={"alphabet_size": 65_536, "max_training_bytes": 20_000_000})
    five = tmp_path / "five"
    build_small(five, {"train": documents_of(corpus, "test", 5_000_000), "valid": [b"x = 1\n"], "test": [b"y = 2\n"]})

    def wall(view: Path, text: Path) -> float:
        command = [sys.executable, "-m", "proxy_lm", "encode", "--corpus", str(text), "--view", str(view), "--force"]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return time.monotonic() - began

    def bare() -> float:
        program = (
            "import sys, sentencepiece\n"
            "processor = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])\n"
            "processor.encode(open(sys.argv[2], 'rb').read().decode('utf-8', 'replace').split('\\n'), num_threads=1)\n"
        )
        command = [sys.executable, "-c", program, str(peer / "sentencepiece.model"), str(five / "raw.bin")]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        return time.monotonic() - began

    ours = sorted(wall(views / "table", corpus.path) for _ in range(3))
    theirs = sorted(wall(peer, five) for _ in range(3))
    size = int(corpus.offsets[-1]) / 1e6
    library = sorted(bare() for _ in range(3))
    print(
        f"\nencode {size:.0f} MB with the table, proved: {ours[1]:.2f} s; 5 MB with view spm, proved: {theirs[1]:.2f} s; "
        f"5 MB through the SentencePiece library alone, nothing read back or written: {library[1]:.2f} s (medians of 3)"
    )
    assert size >= 200
    assert ours[1] < theirs[1]
