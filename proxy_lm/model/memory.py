"""Bytes a training step needs on one device, from structure: what a dry run prints before anything is built.

P parameters, N ranks, b bytes of the compute dtype (4 or 2):

| component     | bytes                                     | divided by N from ZeRO stage |
|---------------|-------------------------------------------|------------------------------|
| parameters    | b * P                                     | 3                            |
| gradients     | 4 * P (accumulated in float32 always)     | 2                            |
| master        | 4 * P; 0 at stage 0 with float32          | 1                            |
| optimizer     | 8 * P (two float32 moments)               | 1                            |
| gathered      | stage 3: b * the largest module, twice (the one in use and the one fetched ahead) | never |
| activations   | see `activation_bytes`                    | never                        |
| logits        | one chunk, see `logits_bytes`             | never                        |

Shares are rounded up. Offload moves `master` and `optimizer` (from stage 2 also `gradients`) to the host, "parameters" moves `parameters`
too; those keys then begin with `host_`. Not counted: communication buckets, allocator slack, the runtime itself (on CUDA about 1 GB).
Parameters, gradients and moments are exact; activations are within a quarter of what autograd keeps (both tested).
"""

# B rows, L row length, D width, F feed-forward width, V ids

from __future__ import annotations

from typing import Literal

from proxy_lm.errors import RequestError
from proxy_lm.model.flops import num_parameters, output_rows
from proxy_lm.model.loss import chunk_positions
from proxy_lm.model.settings import ModelSettings

Dtype = Literal["fp32", "bf16", "fp16"]
Offload = Literal["none", "optimizer", "parameters"]

_DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def memory_per_device(
    settings: ModelSettings,
    vocabulary_size: int,
    *,
    rows_per_device: int,
    row_length: int,
    stage: int = 0,
    dtype: Dtype = "fp32",
    offload: Offload = "none",
    world_size: int = 1,
    activation_checkpointing: bool = False,
    device_type: str = "cpu",
) -> dict[str, int]:
    """Bytes by component (table above), with `device_total` and `host_total`. Raises `RequestError` for a stage or offload that
    ZeRO does not have."""
    if stage not in (0, 1, 2, 3):
        raise RequestError(f"ZeRO stage {stage}; there are 0, 1, 2 and 3")
    if offload != "none" and stage == 0:
        raise RequestError(f"offload '{offload}' at ZeRO stage 0; it needs stage 1 or more")
    if offload == "parameters" and stage != 3:
        raise RequestError(f"offload 'parameters' at ZeRO stage {stage}; it needs stage 3")
    size = _DTYPE_BYTES[dtype]
    total = num_parameters(settings, vocabulary_size).total

    def share(first_stage: int) -> int:
        return -(-total // world_size) if stage >= first_stage else total

    parts = {
        "parameters": size * share(3),
        "gradients": 4 * share(2),
        "master": 0 if stage == 0 and dtype == "fp32" else 4 * share(1),
        "optimizer": 8 * share(1),
        "gathered": 2 * size * _largest_module(settings, vocabulary_size) if stage == 3 else 0,
        "activations": activation_bytes(settings, rows_per_device, row_length, dtype, activation_checkpointing),
        "logits": logits_bytes(settings, vocabulary_size, rows_per_device * row_length, dtype, device_type),
    }
    moved = {"none": [], "optimizer": ["master", "optimizer"], "parameters": ["master", "optimizer", "parameters"]}[offload]
    if moved and stage >= 2:
        moved.append("gradients")
    named = {f"host_{name}" if name in moved else name: num_bytes for name, num_bytes in parts.items()}
    host_total = sum(num_bytes for name, num_bytes in named.items() if name.startswith("host_"))
    return {**named, "device_total": sum(named.values()) - host_total, "host_total": host_total}


def activation_bytes(settings: ModelSettings, rows: int, row_length: int, dtype: Dtype, activation_checkpointing: bool) -> int:
    """What autograd keeps between forward and backward. A block keeps, per position: what the two norms read and write (6 D, and
    a float32 copy each where the dtype is shorter), queries and the attention's output twice (3 D), keys and values, and four widths of
    the feed-forward (gate, its silu, up, their product). With activation checkpointing every block keeps its input only, and one block
    at a time is whole."""
    model = settings.resolved()
    size = _DTYPE_BYTES[dtype]
    key_width = model.num_kv_heads * model.head_width
    norm_copy = 0 if dtype == "fp32" else 4 * model.width
    per_position = size * (9 * model.width + 2 * key_width + 4 * model.hidden) + 2 * norm_copy
    stream = size * model.width
    blocks = model.depth * stream + per_position if activation_checkpointing else model.depth * per_position
    return rows * row_length * (blocks + 3 * stream + norm_copy)  # embedding, last norm


def logits_bytes(settings: ModelSettings, vocabulary_size: int, num_positions: int, dtype: Dtype, device_type: str = "cpu") -> int:
    """The loss: one chunk of logits with its softmax (float32), and until the backward pass the float32 gradients of the output
    matrices and the hidden states' gradient of every head."""
    model = settings.resolved()
    size = _DTYPE_BYTES[dtype]
    chunk = min(chunk_positions(vocabulary_size, device_type), num_positions)
    in_dtype = 0 if dtype == "fp32" else 2 * size
    matrices = 4 * model.width * output_rows(model, vocabulary_size)
    hidden = (1 + model.num_extra_heads) * num_positions * model.width * size
    return chunk * vocabulary_size * (8 + in_dtype) + matrices + hidden


def _largest_module(settings: ModelSettings, vocabulary_size: int) -> int:
    """Numbers in the largest single matrix: stage 3 gathers module by module."""
    model = settings.resolved()
    return model.width * max(vocabulary_size, model.hidden, model.width)
