"""What streams waste over the ideal, and what their loops cost a byte, beside the bars. `pytest -m bench -s tests/test_bench_stream.py`"""

from __future__ import annotations

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
    num_windows = dict.fromkeys(stream.WINDOW_BITS, 0)
    lost: dict[int, list[np.ndarray]] = {bits: [] for bits in stream.WINDOW_BITS}
    for _, rows, data in windows.rows_of(model, documents):
        for bits in stream.WINDOW_BITS:
            found = windows.cut(rows, data, bits=bits)
            worth = windows.window_bits(rows, data, found.ends)
            num_windows[bits] += len(found.ends)
            lost[bits].append(bits - worth)
        ideal += float(worth.sum())
    code_bytes = sum(len(code) for some in stream.groups(documents) for code in stream.encode_ranges(model, some))
    print(f"\n{kind}: {num_bytes / 1e6:.1f} MB, {ideal / num_bytes:.4f} bits a byte")
    print(f"  arithmetic code with lengths: {8 * code_bytes / ideal - 1:.5f} over the ideal")
    for bits in stream.WINDOW_BITS:
        all_lost = np.concatenate(lost[bits])
        median, p99 = np.percentile(all_lost, [50, 99])
        print(
            f"  b={bits:3d}: waste {bits * num_windows[bits] / ideal - 1:.4f}, {num_bytes / num_windows[bits]:.3f} bytes a window, "
            f"bits lost a window: mean {all_lost.mean():.3f}, median {median:.3f}, p99 {p99:.2f}"
            + (" (bar: waste 0.09)" if bits == 16 else "")
        )
        assert all_lost.mean() <= 2, "emitted size is within 2 bits a window of the model's own information"


def test_what_the_loops_cost(corpus, model):
    document = b"".join(documents_of(corpus, "test", 2 * SPEED_BYTES))[:SPEED_BYTES]
    rows, data = model.rows([document])[0], np.frombuffer(document, np.uint8)
    starts, sizes = range_coder.gather(rows, data)
    print(f"\nrange coder: {nanoseconds(lambda: range_coder.encode(starts, sizes), len(data)):.1f} ns a byte (bar: a few)")
    print(f"gathering its intervals: {nanoseconds(lambda: range_coder.gather(rows, data), len(data)):.0f} ns a byte")
    print(f"count model's rows: {nanoseconds(lambda: model.rows([document]), len(data)):.0f} ns a byte")
    for bits in stream.WINDOW_BITS:
        cost = nanoseconds(lambda bits=bits: windows.cut(rows, data, bits=bits), len(data))
        print(f"cutter, b={bits}: {cost:.0f} ns a byte (bar: 200 to 330)")
    codes = [windows.cut(rows, data, bits=16).codes]
    layout = {"bits": 16, "depth": windows.DEFAULT_DEPTH, "reset": 0, "max_bytes": len(data)}
    cost = nanoseconds(lambda: lockstep.decode_windows(model, codes, **layout), len(data))
    print(f"decoding windows of 16 bits, the count model's rows included: {cost:.0f} ns a byte")
    assert lockstep.decode_windows(model, codes, **layout) == [document]


def test_every_held_out_document_comes_back(corpus, model):
    documents = documents_of(corpus, "test")
    for changes in ({"coder": "windows"}, {"coder": "arithmetic"}):
        view = stream.Stream(model=model, **{"bits": 16, "reset": 0, "symbol_bits": 16, "depth": 4095, "verify": False} | changes)
        encoded = view.encode_batch(documents)
        assert view.decode_batch(encoded) == documents
        num_symbols = sum(map(len, encoded))
        print(f"\n{changes['coder']}: {len(documents)} documents came back, {sum(map(len, documents)) / num_symbols:.3f} bytes a symbol")
