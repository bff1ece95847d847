"""What a run will need, from structure alone: bytes of a device, of a host and of a checkpoint, and seconds of arithmetic.

    memory = device_memory(settings, vocabulary_size, world_size)          # of the run's own ZeRO stage
    checkpoint_bytes(settings, vocabulary_size); compute_seconds(flops, devices, peak, share)

`proxy_lm.model.memory` counts what the method needs (weights, gradients, moments, activations); this adds what DeepSpeed 0.19 holds beside
it. P parameters, N ranks, b bytes of the compute type, R `zero.reduce_bucket_size`, G the largest matrix, E = 500 million:

| stage       | held all the time                                 | in the backward pass                             | at the update     |
|-------------|---------------------------------------------------|--------------------------------------------------|-------------------|
| 0           |                                                   |                                                  | 4 min(P, E)       |
| 1 with bf16 | b P: gradients before they are added in float32   |                                                  | 4 min(P, E)       |
| 1, 2        |                                                   | bucket K = b max(R, G); in 16 bits a float32 copy | K + 4 P / N      |
| 3           | 4 R, 4 P / N, b min(P, 10**9) parameters gathered |                                                  |                   |

The peak is what is held and the largest of three: activations with the loss's chunk of logits; the bucket, its copy, and activations
without the chunk (a bucket that holds all gradients is copied when no activation is left); what the update needs. Within 20 % of the
largest sum of tensor bytes in a step that torch's CPU allocator saw, at every stage, in fp32 and bf16, on two ranks
(tests/test_forecast.py). Rougher with activation checkpointing (README.md). Not counted: the runtime (on CUDA about a gigabyte), slack
of the allocator, NCCL's own buffers, and on processors tensors that gloo's thread gives back late (now and then one copy of all
gradients). Muon is counted as AdamW, which keeps twice its state. Offload moves state to the host; its buffers are not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from proxy_lm.model.flops import num_parameters
from proxy_lm.model.loss import chunk_positions
from proxy_lm.model.memory import Offload, memory_per_device
from proxy_lm.train.settings import RunSettings

# DeepSpeed's own: elements of one all-reduce at stages 0 and bf16 1, and parameters that stage 3 keeps gathered (we set the latter).
LARGEST_REDUCE: Final = 500_000_000
MAX_LIVE: Final = 1_000_000_000
# Peak of dense 16-bit and of plain float32 arithmetic, FLOP/s, as the makers state them; memory as torch reports it.
GIB: Final = 2**30


Stage = Literal[0, 1, 2, 3]
STAGES: Final[tuple[Stage, ...]] = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of accelerator. Peaks are the maker's, without sparsity."""

    name: str
    memory_bytes: int
    peak_flops_16bit: float
    peak_flops_fp32: float

    def peak_flops(self, precision: str) -> float:
        """FLOP/s at this precision."""
        return self.peak_flops_fp32 if precision == "fp32" else self.peak_flops_16bit


DEVICES: Final = {
    device.name: device
    for device in (
        Device(name="a100-40", memory_bytes=39 * GIB, peak_flops_16bit=312e12, peak_flops_fp32=19.5e12),
        Device(name="a100", memory_bytes=79 * GIB, peak_flops_16bit=312e12, peak_flops_fp32=19.5e12),
        Device(name="h100", memory_bytes=79 * GIB, peak_flops_16bit=989e12, peak_flops_fp32=67e12),
        Device(name="h200", memory_bytes=139 * GIB, peak_flops_16bit=989e12, peak_flops_fp32=67e12),
    )
}


def device_memory(settings: RunSettings, vocabulary_size: int, world_size: int, device_type: str = "cpu") -> dict[str, int]:
    """`memory_per_device` of the run's stage, with `buffers` beside it and `device_peak`, the bytes a device must have."""
    zero, precision = settings.zero, settings.precision
    parts = memory_per_device(
        settings.model,
        vocabulary_size,
        rows_per_device=settings.rows_per_device,
        row_length=-(-settings.row_length // settings.sequence_parallel),
        stage=zero.stage,
        dtype=precision,
        offload=offload_of(settings),
        world_size=world_size,
        activation_checkpointing=settings.activation_checkpointing,
        device_type=device_type,
    )
    total = num_parameters(settings.model, vocabulary_size).total
    largest = settings.model.resolved().width * max(vocabulary_size, settings.model.resolved().hidden)
    held, backward, update = _buffers(settings, total, largest, world_size)
    if zero.stage == 3:
        held -= parts["gathered"]  # counted in what stays gathered
    passing = parts["activations"] + parts["logits"]
    positions = settings.rows_per_device * settings.row_length // settings.sequence_parallel
    chunk = logits_chunk_bytes(vocabulary_size, positions, precision, device_type)
    bucket, copy = backward
    in_backward = bucket + (max(passing - chunk, copy) if zero.reduce_bucket_size >= total else passing - chunk + copy)
    buffers = held + max(0, in_backward - passing, update - passing)
    return {**parts, "buffers": buffers, "device_peak": parts["device_total"] + buffers}


def logits_chunk_bytes(vocabulary_size: int, num_positions: int, precision: str, device_type: str) -> int:
    """What `memory.logits_bytes` counts for one chunk of logits: it is given back before the backward pass."""
    return min(chunk_positions(vocabulary_size, device_type), num_positions) * vocabulary_size * (8 if precision == "fp32" else 12)


def _buffers(settings: RunSettings, total: int, largest: int, world_size: int) -> tuple[int, tuple[int, int], int]:
    """(held all the time, (bucket, its copy) in the backward pass, needed at the update), bytes; the table above."""
    size = 4 if settings.precision == "fp32" else 2
    share, stage = -(-total // world_size), settings.zero.stage
    if stage == 3:
        return 4 * settings.zero.reduce_bucket_size + 4 * share + size * min(total, MAX_LIVE), (0, 0), 0
    if stage == 0 or (stage == 1 and settings.precision == "bf16"):
        return (size * total if stage else 0), (0, 0), 4 * min(total, LARGEST_REDUCE)
    numbers = max(settings.zero.reduce_bucket_size, largest)
    bucket, copy = size * numbers, 4 * min(total, numbers) if size == 2 else 0
    return 0, (bucket, copy), bucket + 4 * share


def offload_of(settings: RunSettings) -> Offload:
    """The run's offload in the words of `memory_per_device`."""
    if settings.zero.offload_parameters != "none":
        return "parameters"
    return "optimizer" if settings.zero.offload_optimizer != "none" else "none"


def building_bytes(settings: RunSettings, vocabulary_size: int, ranks_on_host: int) -> int:
    """Host memory while the model is built: every rank draws all weights in float32 before they are sharded."""
    return 4 * num_parameters(settings.model, vocabulary_size).total * ranks_on_host


def checkpoint_bytes(settings: RunSettings, vocabulary_size: int) -> int:
    """One checkpoint: DeepSpeed's files (weights as computed with unless stage 3, master weights and two moments) and fp32 weights."""
    total = num_parameters(settings.model, vocabulary_size).total
    size = 4 if settings.precision == "fp32" else 2
    own = {0: 12, 3: 12}.get(settings.zero.stage, size + 12)
    return (own + 4) * total


def kept_checkpoints(settings: RunSettings, num_steps: int) -> tuple[int, int]:
    """(fewest, most) checkpoints on the disk at once: what is kept, and the one being written. Fewest is what is sure to come."""
    saving = settings.checkpoint
    saves = 1 if saving.every_steps is None else -(-num_steps // saving.every_steps)
    for_good = 0 if saving.keep_every is None else num_steps // saving.keep_every
    most = saving.keep_last + 1 + for_good
    return min(saves, saving.keep_last + 1), most


def compute_seconds(flops: float, num_devices: int, peak_flops: float, share_of_peak: float) -> float:
    """Seconds of arithmetic, and only that: `share_of_peak` is what the whole step, communication included, reaches of the peak."""
    return flops / (num_devices * peak_flops * share_of_peak)


def at_stage(settings: RunSettings, stage: Stage) -> RunSettings | None:
    """The same run at another ZeRO stage; None where the combination is refused (stage 0 in 16 bits, offload the stage has not)."""
    plain: dict[str, Any] = settings.model_dump(mode="json")
    plain["zero"]["stage"] = stage
    try:
        return RunSettings.model_validate(plain)
    except ValueError:
        return None
