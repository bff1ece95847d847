"""Symbols a second and model FLOP/s of whole training steps, as a share of what a plain matrix product reaches on the same device.

    make gpu-check                                                  the `gpu` tests, then this
    python -m proxy_lm.train.gpu_check --presets 1.5b --json        one size; on a machine without CUDA a small size on its processor

The step is the trainer's: DeepSpeed engine, bf16, fused AdamW, compiled blocks, attention inside documents, chunked cross-entropy. Rows are
synthetic (documents of 4,096 symbols in the middle, lognormal), already on the device. FLOPs are what these documents need: matrices and
output rows by structure, attention by each document's own triangle. `flops.py`, which arms are charged by, counts the square of the row
instead; that figure stands beside it.

Not measured: reading rows (the trainer reads ahead and logs `data_wait_share`), communication between devices.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from compressors.files import write_json
from proxy_lm.config import validate
from proxy_lm.errors import ProxyError, RequestError
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.flops import forward_flops_per_symbol, num_parameters, training_flops_per_symbol
from proxy_lm.model.settings import PRESETS
from proxy_lm.progress import note
from proxy_lm.train import engine as deepspeed_engine
from proxy_lm.train.deepspeed_config import derive
from proxy_lm.train.engine import Engine, Ranks
from proxy_lm.train.launch import detect
from proxy_lm.train.loop import measure_peak_flops
from proxy_lm.train.settings import RunSettings, step_shape
from proxy_lm.vocabulary import RAW_VOCABULARY_SIZE

MEDIAN_DOCUMENT: Final = 4096
DOCUMENT_SIGMA: Final = 1.0
# A view of 16-bit symbols beside the bytes: the vocabulary at which the loss costs most.
WIDE_VOCABULARY: Final = RAW_VOCABULARY_SIZE + 65_536
AIM_PRESET, AIM_SHARE = "1.5b", 0.5
SEED: Final = 0


def rows_of_documents(num_rows: int, row_length: int, lookahead: int, vocabulary_size: int) -> dict[str, torch.Tensor]:
    """Synthetic rows on the CPU, each tensor [num_rows, row_length + lookahead]: ids, segments, positions, views."""
    random = np.random.default_rng(SEED)
    width = row_length + lookahead
    segments, positions = np.zeros((num_rows, width), np.int32), np.zeros((num_rows, width), np.int32)
    for row in range(num_rows):
        at = segment = 0
        while at < width:
            length = min(max(16, int(random.lognormal(np.log(MEDIAN_DOCUMENT), DOCUMENT_SIGMA))), width - at)
            segments[row, at : at + length], positions[row, at : at + length] = segment, np.arange(length)
            at, segment = at + length, segment + 1
    ids = random.integers(0, vocabulary_size, (num_rows, width))
    views = np.where(ids < RAW_VOCABULARY_SIZE, 0, 1).astype(np.uint8)
    return {name: torch.from_numpy(a) for name, a in (("ids", ids), ("segments", segments), ("positions", positions), ("views", views))}


def needed_flops(settings: RunSettings, vocabulary_size: int, segments: torch.Tensor) -> float:
    """FLOPs of forward and backward that these rows need: every matrix at every position, attention over each document's own triangle."""
    length = settings.row_length
    square = 4 * settings.model.resolved().depth * length * settings.model.resolved().width
    matrices = forward_flops_per_symbol(settings.model, vocabulary_size, length) - square
    attention = 0.0
    for row in segments[:, :length].numpy():
        sizes = np.bincount(row).astype(np.float64)
        attention += float((sizes * (sizes + 1) / 2).sum()) * square / length
    return 3 * (segments.shape[0] * length * matrices + attention)


def measure(ranks: Ranks, settings: RunSettings, vocabulary_size: int, *, seconds: float, peak_flops: float) -> dict[str, Any]:
    """Train on one synthetic micro-batch for about `seconds`; medians. Raises `torch.OutOfMemoryError` where it does not fit."""
    model = Decoder(settings.model, vocabulary_size, settings.row_length, num_views=1, seed=SEED)
    engine = Engine(model, settings, derive(settings, step_shape(settings, 1)), ranks)
    engine.train()
    cpu_rows = rows_of_documents(settings.rows_per_device, settings.row_length, model.lookahead, vocabulary_size)
    rows = [cpu_rows[name].to(ranks.device) for name in ("ids", "segments", "positions", "views")]
    times: list[float] = []
    num_warmup, began = 3, 0.0
    while len(times) < num_warmup + 5 or time.perf_counter() - began < seconds:
        if len(times) == num_warmup:
            began = time.perf_counter()
        start = time.perf_counter()
        losses = engine.forward(*rows)
        engine.backward(losses.loss)
        engine.step()
        loss = float(losses.loss.detach())  # waits for the device
        times.append(time.perf_counter() - start)
    step_seconds = statistics.median(times[num_warmup:])
    symbols = settings.rows_per_device * settings.row_length
    flops = needed_flops(settings, vocabulary_size, cpu_rows["segments"])
    return {
        "preset": settings.model.preset,
        "row_length": settings.row_length,
        "rows_per_device": settings.rows_per_device,
        "vocabulary_size": vocabulary_size,
        "num_parameters": num_parameters(settings.model, vocabulary_size).total,
        "symbols_per_second": symbols / step_seconds,
        "step_seconds": step_seconds,
        "num_steps": len(times) - num_warmup,
        "model_flops_per_second": flops / step_seconds,
        "share_of_matmul": flops / step_seconds / peak_flops,
        "charged_share": symbols
        * training_flops_per_symbol(settings.model, vocabulary_size, settings.row_length)
        / step_seconds
        / peak_flops,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if ranks.device.type == "cuda" else None,
        "last_loss": loss,
    }


def release(device_type: str) -> None:
    """Give the last model's memory back: engines hold themselves in cycles."""
    gc.collect()
    if device_type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def settings_for(preset: str, row_length: int, rows: int, device_type: str) -> RunSettings:
    """A run of this size as a user would write it; the corpus is named and never opened."""
    plain: dict[str, Any] = {
        "name": "gpu-check",
        "corpus": "none",
        "model": {"preset": preset},
        "row_length": row_length,
        "rows_per_device": rows,
        "rows_per_step": rows,
        "num_steps": 1,
        "precision": "bf16" if device_type == "cuda" else "fp32",
        "compile": "blocks" if device_type == "cuda" else "none",
        "zero": {"stage": 1},
    }
    return validate(RunSettings, plain, "the GPU check")


def check(ranks: Ranks, presets: Sequence[str], row_lengths: Sequence[int], symbols: int, seconds: float) -> dict[str, Any]:
    """Every preset at every row length, over bytes alone and with a wide view; halves the rows until they fit."""
    device_type = ranks.device.type
    peak_flops = measure_peak_flops(ranks.device, torch.bfloat16 if device_type == "cuda" else torch.float32, 2.0)
    found = []
    for preset in presets:
        for row_length in row_lengths:
            for vocabulary_size in (RAW_VOCABULARY_SIZE, WIDE_VOCABULARY) if preset == AIM_PRESET else (RAW_VOCABULARY_SIZE,):
                release(device_type)
                rows = max(1, symbols // row_length)
                while rows:
                    note(f"{preset}, rows of {row_length}, {rows} a step, {vocabulary_size} ids")
                    try:
                        settings = settings_for(preset, row_length, rows, device_type)
                        found.append(measure(ranks, settings, vocabulary_size, seconds=seconds, peak_flops=peak_flops))
                        break
                    except torch.OutOfMemoryError:
                        note(f"{preset} with {rows} rows of {row_length} does not fit; halving")
                        rows //= 2
                    release(device_type)
                else:
                    found.append(
                        {"preset": preset, "row_length": row_length, "vocabulary_size": vocabulary_size, "skipped": "out of memory"}
                    )
    name = torch.cuda.get_device_name() if device_type == "cuda" else f"{torch.get_num_threads()} threads of a processor"
    return {"device": name, "device_type": device_type, "matmul_flops_per_second": peak_flops, "torch": torch.__version__, "results": found}


def show(report: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"{report['device']}: a matrix product reaches {report['matmul_flops_per_second'] / 1e12:.4g} TFLOP/s; torch {report['torch']}",
        "  preset  rows of     ids  rows    symbols/s   TFLOP/s of matmul as charged   memory",
    ]
    for one in report["results"]:
        head = f"{one['preset']:>8} {one['row_length']:>8} {one['vocabulary_size']:>7}"
        if "skipped" in one:
            lines.append(f"{head} skipped: {one['skipped']}")
            continue
        memory = f"{one['peak_memory_bytes'] / 2**30:.1f} G" if one["peak_memory_bytes"] else "-"
        lines.append(
            f"{head} {one['rows_per_device']:>5} {one['symbols_per_second']:>12,.0f} {one['model_flops_per_second'] / 1e12:>9.4g} "
            f"{one['share_of_matmul']:>9.2f} {one['charged_share']:>10.2f} {memory:>8}"
        )
    return "\n".join([*lines, *report["skipped"]])


def main(argv: Sequence[str] | None = None) -> int:
    """Read the words, measure, print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="proxy_lm.train.gpu_check",
        description="Speed of training steps beside a matrix product on this device.",
        epilog="example: python -m proxy_lm.train.gpu_check --presets 125m,1.5b --row-lengths 4096 --out gpu.json",
    )
    parser.add_argument("--presets", help="sizes, comma between (default 125m,350m,1.5b; without CUDA: nano)")
    parser.add_argument("--row-lengths", help="ids of a row, comma between (default 4096,16384; without CUDA: 512)")
    parser.add_argument(
        "--symbols", type=int, help="ids of a step (default 32768; without CUDA: 4096); rows are halved where they do not fit"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time of each line (default 10)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers there as JSON")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output, nothing else")
    words = parser.parse_args(argv)
    cuda = torch.cuda.is_available()
    try:
        presets = (words.presets or ("125m,350m,1.5b" if cuda else "nano")).split(",")
        unknown = [name for name in presets if name not in PRESETS]
        if unknown:
            raise RequestError(f"unknown preset '{unknown[0]}'; known: {', '.join(PRESETS)}")
        row_lengths = _numbers(words.row_lengths or ("4096,16384" if cuda else "512"))
        launch = detect(os.environ)
        if launch.world_size > 1:
            raise RequestError(f"the check measures one device and {launch.world_size} ranks were started; start it without a launcher")
        ranks = deepspeed_engine.start(settings_for(presets[0], row_lengths[0], 1, "cpu").communication, launch)
        report = check(ranks, presets, row_lengths, words.symbols or (32_768 if cuda else 4096), words.seconds)
        report["skipped"] = _skipped(report, cuda)
        if words.out:
            write_json(words.out, report)
    except ProxyError as error:
        print(f"proxy_lm.train.gpu_check: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(report) if words.json else show(report))
    deepspeed_engine.stop()
    return 0


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 2:
        raise RequestError(f"--row-lengths {text} must be whole numbers from 2 up with commas between, for example 4096,16384")
    return numbers


def _skipped(report: dict[str, Any], cuda: bool) -> list[str]:
    """What this machine could not show, in words."""
    if not cuda:
        return ["skipped: no CUDA device on this machine, so 125m, 350m and 1.5b in bf16, compiled blocks and both CUDA attention paths"]
    best = max((one["share_of_matmul"] for one in report["results"] if one["preset"] == AIM_PRESET and "skipped" not in one), default=None)
    if best is None:
        return [f"skipped: {AIM_PRESET} was not measured, whose aim is {AIM_SHARE:.0%} of a matrix product"]
    return [f"aim at {AIM_PRESET}: {AIM_SHARE:.0%} of a matrix product; reached {best:.0%}"]


if __name__ == "__main__":
    sys.exit(main())
