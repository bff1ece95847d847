"""How fast a training step of the bare model is on this machine, beside the fastest matrix product of the same shapes.

    pytest -m bench -s tests/test_bench_model.py        prints the table

One process, forward + backward + fused AdamW, no engine. On a CPU time is processor time, which other programs on the machine disturb
least; with more than one thread it is the sum over threads. Not measured: data loading, communication, the engine's own work.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from proxy_lm.model.attention import Path
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.flops import training_flops_per_symbol
from proxy_lm.model.settings import ModelSettings

SYMBOLS_PER_DOCUMENT = 200


def measure_step(
    settings: ModelSettings, vocabulary_size: int, *, rows: int, row_length: int, repeats: int = 5, attention: Path = "auto"
) -> dict[str, float]:
    """Best of `repeats` steps on the CPU: symbols_per_second, model_flops_per_second (by `training_flops_per_symbol`),
    peak_flops_per_second (best float32 product of [rows * row_length, width] with the feed-forward's matrix), share_of_peak."""
    model = Decoder(settings, vocabulary_size, row_length, attention=attention)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    columns = torch.arange(row_length + model.lookahead).expand(rows, -1)
    ids = torch.randint(0, 256, columns.shape, generator=torch.Generator().manual_seed(0))
    segments, positions = (columns // SYMBOLS_PER_DOCUMENT).int(), (columns % SYMBOLS_PER_DOCUMENT).int()
    views = torch.zeros_like(columns, dtype=torch.uint8)

    def step() -> None:
        model(ids, segments, positions, views).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    symbols_per_second = rows * row_length / best_seconds(step, repeats)
    flops = symbols_per_second * training_flops_per_symbol(settings, vocabulary_size, row_length)
    peak = matmul_flops_per_second(rows * row_length, model.sizes.width, model.sizes.hidden, repeats=repeats)
    return {
        "symbols_per_second": symbols_per_second,
        "model_flops_per_second": flops,
        "peak_flops_per_second": peak,
        "share_of_peak": flops / peak,
    }


def matmul_flops_per_second(num_rows: int, width: int, num_columns: int, *, dtype: torch.dtype = torch.float32, repeats: int = 5) -> float:
    """Rate of one product [num_rows, width] x [width, num_columns] on the CPU, best of `repeats`."""
    a, b = torch.randn(num_rows, width).to(dtype), torch.randn(num_columns, width).to(dtype).t()
    return 2 * num_rows * width * num_columns / best_seconds(lambda: a @ b, repeats)


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    """Least processor time of `repeats` calls, after one that warms up."""
    work()
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best
