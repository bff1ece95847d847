"""What streams waste over the ideal, and what their loops cost a byte, beside the bars. `pytest -m bench -s tests/test_bench_stream.py`"""

from __future__ import annotations

import itertools
import statistics
import time

import numpy as np
import pytest

from compressors.neural import lockstep, range_coder, stream, windows
from compressors.neural.counts import CountModel
from compressors.neural.static import StaticModel
from proxy_lm.neural_bench import bench_corpus, documents_of

pytestmark = pytest.mark.bench
NUM_ROUNDS = 7
SPEED_BYTES = 1 << 18


@pytest.fixture(scope="module")
def corpus(request):
    return bench_corpus(request.config.rootpath / ".cache" / "bench-neural")


@pytest.fixture(scope="module")
def model(corpus):
    return CountModel.train(documents_of(corpus, "train", 50_000_000))


def nanoseconds(call, num_bytes):
    """Median over rounds, of this thread's CPU time."""
    call()
    found = []
    for _ in range(NUM_ROUNDS):
        started = time.thread_time()
        call()
        found.append((time.thread_time() - started) / num_bytes * 1e9)
    return statistics.median(found)


@pytest.mark.parametrize("kind", ["counts", "counts, 3 MB, no repeats", "static"])
def test_what_windows_waste(corpus, model, kind):
    if kind == "static":
        model = StaticModel.train(documents_of(corpus, "train", 3_000_000))
    elif kind != "counts":
        model = CountModel.train(documents_of(corpus, "train", 3_000_000), repeats=False)
    documents = documents_of(corpus, "test", 1 << 40 if kind == "counts" else 5_000_000)
    ideal, num_bytes, code_bytes = 0.0, sum(map(len, documents)), 0
    ways = list(itertools.product(stream.WINDOW_BITS, (False, True)))
    lost: dict[tuple[int, bool], list[np.ndarray]] = {way: [] for way in ways}
    for _, rows, data in windows.rows_of(model, documents):
        for bits, exclude in ways:
            found = windows.cut(rows, data, bits=bits, exclude=exclude)
            worth = windows.window_bits(rows, data, found.ends)
            lost[bits, exclude].append(bits - worth)
        ideal += float(worth.sum())
    code_bytes = sum(len(code) for some in stream.groups(documents) for code in stream.encode_ranges(model, some))
    print(f"\n{kind}: {num_bytes / 1e6:.1f} MB, {ideal / num_bytes:.4f} bits a byte")
    print(f"  arithmetic code with lengths: {8 * code_bytes / ideal - 1:.5f} over the ideal")
    for bits, exclude in ways:
        all_lost = np.concatenate(lost[bits, exclude])
        least, median, p99 = np.percentile(all_lost, [1, 50, 99])
        waste = bits * len(all_lost) / ideal - 1
        print(
            f"  b={bits:3d}, exclude={exclude!s:5}: waste {waste:.4f}, {num_bytes / len(all_lost):.3f} bytes a window, bits lost: "
            f"{all_lost.sum():.0f} of {ideal:.0f} in total, a window mean {all_lost.mean():.3f}, p1 {least:.2f}, median {median:.3f}, "
            f"p99 {p99:.2f}, at most 2 in {(abs(all_lost) <= 2).mean():.3f} of windows"
            + (" (bars: waste 0.09, mean 2)" if bits == 16 and exclude else "")
        )
        assert abs(all_lost.mean()) <= 2, "emitted size is within 2 bits a window of the model's own information"
        assert not exclude or waste <= 0.09


def test_what_the_loops_cost(corpus, model):
    document = b"".join(documents_of(corpus, "test", 2 * SPEED_BYTES))[:SPEED_BYTES]
    rows, data = model.rows([document])[0], np.frombuffer(document, np.uint8)
    starts, sizes = range_coder.gather(rows, data)
    print(f"\nrange coder: {nanoseconds(lambda: range_coder.encode(starts, sizes), len(data)):.1f} ns a byte (bar: a few)")
    print(f"gathering its intervals: {nanoseconds(lambda: range_coder.gather(rows, data), len(data)):.0f} ns a byte")
    print(f"count model's rows: {nanoseconds(lambda: model.rows([document]), len(data)):.0f} ns a byte")
    for bits, exclude in itertools.product(stream.WINDOW_BITS, (False, True)):
        cost = nanoseconds(lambda bits=bits, exclude=exclude: windows.cut(rows, data, bits=bits, exclude=exclude), len(data))
        print(f"cutter, b={bits}, exclude={exclude}: {cost:.0f} ns a byte (bar: 200 to 330)")
    for exclude in (False, True):
        codes = [windows.cut(rows, data, bits=16, exclude=exclude).codes]
        layout = {"bits": 16, "depth": windows.DEFAULT_DEPTH, "reset": 0, "exclude": exclude, "max_bytes": len(data)}
        cost = nanoseconds(lambda codes=codes, layout=layout: lockstep.decode_windows(model, codes, **layout), len(data))
        print(f"decoding windows of 16 bits, exclude={exclude}, the count model's rows included: {cost:.0f} ns a byte")
        assert lockstep.decode_windows(model, codes, **layout) == [document]


def test_every_held_out_document_comes_back(corpus, model):
    documents = documents_of(corpus, "test")
    same = {"bits": 16, "reset": 0, "symbol_bits": 16, "depth": 4095, "verify": False}
    for changes in ({"coder": "windows", "exclude": True}, {"coder": "windows"}, {"coder": "arithmetic"}):
        view = stream.Stream(model=model, **same, **changes)
        encoded = view.encode_batch(documents)
        assert view.decode_batch(encoded) == documents
        num_symbols = sum(map(len, encoded))
        print(f"\n{changes}: {len(documents)} documents came back, {sum(map(len, documents)) / num_symbols:.3f} bytes a symbol")
