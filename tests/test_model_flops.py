"""Counted FLOPs and bytes are those that the reference path runs and the model holds."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from proxy_lm.errors import RequestError
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.flops import forward_flops_per_symbol, num_parameters, training_flops_per_symbol
from proxy_lm.model.memory import activation_bytes, logits_bytes, memory_per_device
from proxy_lm.model.settings import ModelSettings

ROWS, LENGTH = 2, 48
CASES = [
    (ModelSettings(preset="nano"), 320),
    (ModelSettings(preset="nano", width=32, depth=2, num_heads=4, num_kv_heads=1, hidden=48), 1024),
    (ModelSettings(preset="nano", width=32, depth=1, num_heads=2, num_kv_heads=2, hidden=40, num_raw_heads=2), 640),
    (ModelSettings(preset="nano", width=32, depth=1, num_heads=2, hidden=40, num_raw_heads=1, num_symbol_heads=3), 640),
]


def rows(model: Decoder, length: int = LENGTH) -> tuple[torch.Tensor, ...]:
    shape = (ROWS, length + model.lookahead)
    zeros = torch.zeros(shape, dtype=torch.int32)
    return torch.zeros(shape, dtype=torch.int64), zeros, torch.arange(shape[1], dtype=torch.int32).expand(shape), zeros.to(torch.uint8)


@pytest.mark.parametrize(("settings", "vocabulary_size"), CASES)
def test_forward_flops_equal_the_counter(settings: ModelSettings, vocabulary_size: int) -> None:
    model = Decoder(settings, vocabulary_size, attention="reference")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*rows(model))
    assert counter.get_total_flops() == ROWS * LENGTH * forward_flops_per_symbol(settings, vocabulary_size, LENGTH)


@pytest.mark.parametrize(("settings", "vocabulary_size"), CASES)
def test_training_flops_equal_the_counter_over_forward_and_backward(settings: ModelSettings, vocabulary_size: int) -> None:
    model = Decoder(settings, vocabulary_size, attention="reference")
    with FlopCounterMode(display=False) as counter:
        model(*rows(model)).loss.backward()
    assert counter.get_total_flops() == ROWS * LENGTH * training_flops_per_symbol(settings, vocabulary_size, LENGTH)


def test_flops_of_a_model_small_enough_to_do_by_hand() -> None:
    settings = ModelSettings(preset=None, width=4, depth=1, num_heads=2, num_kv_heads=1, hidden=6)
    # query and output 16 each, key and value 8 each, three times 24, 320 output rows of 4; attention 4 * 10 * 4.
    assert forward_flops_per_symbol(settings, 320, row_length=10) == 2 * (32 + 16 + 72 + 1280) + 160


@pytest.mark.parametrize(("settings", "vocabulary_size"), CASES)
def test_parameters_are_counted_without_building(settings: ModelSettings, vocabulary_size: int) -> None:
    model = Decoder(settings, vocabulary_size)
    held = dict.fromkeys(("body", "embedding", "output", "raw_heads", "symbol_heads"), 0)
    names = {"embedding": "embedding", "head": "output", "raw_heads": "raw_heads", "symbol_heads": "symbol_heads"}
    for name, parameter in model.named_parameters():
        held[names.get(name.split(".")[0], "body")] += parameter.numel()
    assert num_parameters(settings, vocabulary_size)._asdict() == held


@pytest.mark.parametrize(("settings", "vocabulary_size"), CASES)
def test_parameter_gradient_and_optimizer_bytes_are_what_a_step_leaves(settings: ModelSettings, vocabulary_size: int) -> None:
    model = Decoder(settings, vocabulary_size)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(*rows(model)).loss.backward()
    optimizer.step()
    expected = memory_per_device(settings, vocabulary_size, rows_per_device=ROWS, row_length=LENGTH)
    assert expected["parameters"] == sum(p.nbytes for p in model.parameters())
    assert expected["gradients"] == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert expected["optimizer"] == sum(m.nbytes for m in moments)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activation_bytes_are_near_what_autograd_keeps(dtype: Any, checkpointing: bool) -> None:
    settings, vocabulary_size, length = ModelSettings(preset="nano", depth=4), 320, 128
    model = Decoder(settings, vocabulary_size, activation_checkpointing=checkpointing)
    model = model.bfloat16() if dtype == "bf16" else model
    ours = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in ours:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = model(*rows(model, length))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    chunk = ROWS * length * vocabulary_size * (8 if dtype == "fp32" else 12)  # gone when the forward ends
    expected = (
        activation_bytes(settings, ROWS, length, dtype, checkpointing)
        + logits_bytes(settings, vocabulary_size, ROWS * length, dtype)
        - chunk
    )
    if checkpointing:  # the one whole block exists only during the backward pass
        expected -= activation_bytes(settings, ROWS, length, dtype, False) - activation_bytes(
            ModelSettings(preset="nano", depth=3), ROWS, length, dtype, False
        )
    assert losses.loss.isfinite()
    assert measured == pytest.approx(expected, rel=0.25)


def test_stages_and_ranks_divide_what_they_shard() -> None:
    settings = ModelSettings(preset="nano")
    total = num_parameters(settings, 320).total

    def plan(stage: int, **options: Any) -> dict[str, int]:
        return memory_per_device(settings, 320, rows_per_device=1, row_length=8, stage=stage, dtype="bf16", world_size=2, **options)

    assert [plan(stage)["parameters"] for stage in range(4)] == [2 * total, 2 * total, 2 * total, total]
    assert [plan(stage)["gradients"] for stage in range(4)] == [4 * total, 4 * total, 2 * total, 2 * total]
    assert [plan(stage)["optimizer"] for stage in range(4)] == [8 * total, 4 * total, 4 * total, 4 * total]
    offloaded = plan(3, offload="parameters")
    assert offloaded["host_total"] == total + 2 * total + 2 * total + 4 * total
    assert offloaded["device_total"] == plan(3)["device_total"] - offloaded["host_total"]


@pytest.mark.parametrize(("stage", "offload"), [(4, "none"), (0, "optimizer"), (2, "parameters")])
def test_what_zero_does_not_have_is_refused(stage: int, offload: Any) -> None:
    with pytest.raises(RequestError, match=f"stage {stage}"):
        memory_per_device(ModelSettings(), 320, rows_per_device=1, row_length=8, stage=stage, offload=offload)
