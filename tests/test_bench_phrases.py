"""`phrases` on held-out Python: as dense as it says, and after an edit sooner the same again than `table`. Run by `make bench`.

Minutes: both views learn from all the Python of the machine, less what is held out by project.
"""

from __future__ import annotations

import time

import pytest

from compressors.base import Compressor
from compressors.neural.phrases import Phrases
from compressors.neural.table import Table
from proxy_lm.analysis.edits import resynchronisation
from proxy_lm.analysis.told import Sample, Told

pytestmark = pytest.mark.bench

BYTES_PER_SYMBOL = 5.5


@pytest.fixture(scope="module")
def corpus(request):
    from proxy_lm.neural_bench import bench_corpus

    return bench_corpus(request.config.rootpath / ".cache" / "bench-neural")


def test_density_round_trip_and_agreement_after_an_edit(corpus):
    held_out = Sample.of_corpus(corpus, "test", 1 << 40)
    assert held_out.num_bytes >= 20_000_000
    views: dict[str, Compressor] = {}
    for kind in (Table, Phrases):
        started = time.process_time()
        views[kind.name] = kind.train(corpus.document(index) for index in corpus.splits["train"])
        print(f"\n{kind.name}: {views[kind.name].alphabet_size} symbols learned in {time.process_time() - started:.0f} CPU s")
    edits, density = {}, {}
    for name, view in views.items():
        told = Told(view, held_out)
        density[name] = held_out.num_bytes / sum(len(symbols) for symbols in told.symbols)
        edits[name] = resynchronisation(told)["bytes_after"]
        assert view.decode_batch(told.symbols) == held_out.documents
        print(f"{name}: {density[name]:.3f} bytes a symbol (bar for phrases: {BYTES_PER_SYMBOL}); bytes to agree again: {edits[name]}")
    assert views["phrases"].alphabet_size == 65_536
    assert density["phrases"] >= BYTES_PER_SYMBOL
    assert all(edits["phrases"][quantile] <= edits["table"][quantile] for quantile in ("median", "p90", "p99"))
