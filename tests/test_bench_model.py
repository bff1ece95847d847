"""Speed of the bare model: symbols a second, share of the machine's matrix-product rate, and what the fast attention path gains."""

import pytest
import torch

from proxy_lm.model.allocator import keep_freed_memory
from proxy_lm.model.loss_bench import compare, show
from proxy_lm.model.settings import ModelSettings
from proxy_lm.model.speed import measure_step

CASES = [("nano", 320, 8, 512), ("nano", 8512, 8, 512), ("nano", 320, 4, 1024), ("micro", 320, 8, 512)]


@pytest.mark.bench
def test_share_of_peak_and_gain_of_the_fast_attention() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        for preset, vocabulary_size, rows, row_length in CASES:
            settings = ModelSettings(preset=preset)
            fast = measure_step(settings, vocabulary_size, rows=rows, row_length=row_length)
            slow = measure_step(settings, vocabulary_size, rows=rows, row_length=row_length, repeats=2, attention="reference")
            gain = fast["symbols_per_second"] / slow["symbols_per_second"]
            print(
                f"\n{preset} V={vocabulary_size} {rows}x{row_length}: {fast['symbols_per_second']:,.0f} symbols/s, "
                f"{fast['model_flops_per_second'] / 1e9:.1f} of {fast['peak_flops_per_second'] / 1e9:.1f} GFLOP/s = "
                f"{fast['share_of_peak']:.2f} of peak; {gain:.2f} x the reference attention"
            )
            assert gain > 1.0
            assert fast["share_of_peak"] > 0.3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.bench
@pytest.mark.parametrize(("width", "num_positions"), [(128, 1024), (256, 2048)])
def test_the_loss_of_65536_ids_beside_plain_torch(width: int, num_positions: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        found = compare(65_536, width, num_positions, "cpu", "fp32", rounds=5)
    finally:
        torch.set_num_threads(threads)
    print("\n" + show(65_536, width, num_positions, found))
    assert found["time_ratio"] < 1.15
    assert found["memory_ratio"] < 0.5
