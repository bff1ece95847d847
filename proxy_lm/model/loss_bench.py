"""The chunked cross-entropy beside torch's plain one: time and memory of forward + backward.

    python -m proxy_lm.model.loss_bench --ids 65536 --width 512 --positions 1024

Both take turns in one process, so that whatever else the machine does hits both; the time is the median of the ratios of neighbours. Memory
is measured for each in a process of its own: on a CPU the largest resident size over that before, with memory handed back as soon as it is
freed (under `keep_freed_memory` its holes come on top), on CUDA torch's count. The plain one is `F.cross_entropy` of all
logits in float32. Not measured: a fused kernel of another library.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from proxy_lm.errors import RequestError, WorkError
from proxy_lm.model.allocator import keep_freed_memory
from proxy_lm.model.loss import OutputHead

KINDS = ("chunked", "plain")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def loss_step(kind: str, num_ids: int, width: int, num_positions: int, device: str, dtype: torch.dtype) -> Callable[[], None]:
    """A function that makes one forward and backward of the loss; every second call's gradients take the place of the last one's."""
    generator = torch.Generator().manual_seed(0)
    head = OutputHead(width, num_ids)
    with torch.no_grad():
        head.weight.normal_(0.0, width**-0.5, generator=generator)
    head = head.to(device, dtype)
    hidden_ND = torch.randn(num_positions, width, generator=generator).to(device, dtype).requires_grad_()
    targets_N = torch.randint(0, num_ids, (num_positions,), generator=generator).to(device)
    counts_N = torch.ones(num_positions, dtype=torch.bool, device=device)

    def step() -> None:
        hidden_ND.grad = head.weight.grad = None
        if kind == "chunked":
            total, _ = head(hidden_ND, targets_N, counts_N)
        else:
            total = F.cross_entropy(F.linear(hidden_ND, head.weight).float(), targets_N, reduction="sum")
        (total / num_positions).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def measure_times(num_ids: int, width: int, num_positions: int, device: str, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Median seconds of each, and the median over rounds of chunked over plain."""
    steps = {kind: loss_step(kind, num_ids, width, num_positions, device, dtype) for kind in KINDS}
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for kind, step in steps.items():
            start = clock()
            step()
            seconds[kind].append(clock() - start)
    ratios = [ours / plain for ours, plain in zip(seconds["chunked"], seconds["plain"], strict=True)]
    return {**{f"{kind}_seconds": statistics.median(seconds[kind]) for kind in KINDS}, "time_ratio": statistics.median(ratios)}


def measure_memory(kind: str, num_ids: int, width: int, num_positions: int, device: str, dtype: torch.dtype) -> int:
    """Bytes at the peak of two steps beyond what was held before them, gradients included. On a CPU: of this whole process."""
    step = loss_step(kind, num_ids, width, num_positions, device, dtype)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    before = _status_bytes("VmRSS")
    step()
    return _status_bytes("VmHWM") - before


def compare(num_ids: int, width: int, num_positions: int, device: str, dtype: str, rounds: int) -> dict[str, float]:
    """Times and `chunked_bytes`, `plain_bytes`, `memory_ratio`. Raises `WorkError` when a measuring process fails."""
    found = measure_times(num_ids, width, num_positions, device, DTYPES[dtype], rounds)
    for kind in KINDS:
        words = [
            "--ids",
            num_ids,
            "--width",
            width,
            "--positions",
            num_positions,
            "--device",
            device,
            "--dtype",
            dtype,
            "--memory-of",
            kind,
        ]
        done = subprocess.run(
            [sys.executable, "-m", "proxy_lm.model.loss_bench", *map(str, words)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise WorkError(f"measuring the memory of the {kind} loss failed: {done.stderr.strip()[-300:]}; give fewer --positions")
        found[f"{kind}_bytes"] = float(done.stdout)
    return {**found, "memory_ratio": found["chunked_bytes"] / found["plain_bytes"]}


def _status_bytes(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. 0 done, 1 failed, 2 asked wrongly."""
    parser = argparse.ArgumentParser(
        prog="python -m proxy_lm.model.loss_bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ids", type=int, default=65536, help="size of the vocabulary")
    parser.add_argument("--width", type=int, default=512, help="width of the model")
    parser.add_argument("--positions", type=int, default=1024, help="positions of a micro-batch: rows times row length")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one object")
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    words = parser.parse_args(arguments)
    if not words.memory_of:
        keep_freed_memory()
    try:
        for name in ("ids", "width", "positions", "rounds"):
            if getattr(words, name) < 1:
                raise RequestError(f"--{name} {getattr(words, name)}; at least 1 is needed")
        size = (words.ids, words.width, words.positions, words.device)
        if words.memory_of:
            print(measure_memory(words.memory_of, *size, DTYPES[words.dtype]))
            return 0
        found = compare(*size, words.dtype, words.rounds)
    except (RequestError, WorkError) as error:
        print(f"loss_bench: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(found) if words.json else show(words.ids, words.width, words.positions, found))
    return 0


def show(num_ids: int, width: int, num_positions: int, found: dict[str, float]) -> str:
    """One line for people."""
    times, memory = ([f"{found[f'{kind}_{unit}'] * scale:,.0f}" for kind in KINDS] for unit, scale in (("seconds", 1e3), ("bytes", 2**-20)))
    return (
        f"cross-entropy of {num_positions:,} positions, {num_ids:,} ids, width {width}: chunked {times[0]} ms, {memory[0]} MiB; plain "
        f"{times[1]} ms, {memory[1]} MiB; {found['time_ratio']:.2f} of the time, {found['memory_ratio']:.2f} of the memory"
    )


if __name__ == "__main__":
    sys.exit(main())
