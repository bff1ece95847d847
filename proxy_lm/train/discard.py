"""An update thrown away after the backward pass: DeepSpeed's own handling of an overflow, asked for.

    with discarding(engine.optimizer): engine.step()         # clears every gradient and buffer; weights, moments and counts stay

DeepSpeed knows how to forget a step, with all that its stages, offload and Muon have prepared for it: it does so when a gradient is not
finite. Here one step is told that it is so. fp16's scale does not move, since the gradient says nothing about it.

Not promised: DeepSpeed versions beyond those of pyproject.toml; the names below are its internals, and tests/test_faults_spikes.py
compares the weights after a discarded step, bit for bit, with those before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def discarding(optimizer: Any) -> Iterator[None]:
    """While this is open, `step` of a ZeRO optimizer of DeepSpeed (stages 1 to 3, and the one for bf16) only clears."""
    before = dict(vars(optimizer))
    forced = _forced(optimizer)
    vars(optimizer).update(forced)
    try:
        yield
    finally:
        for name in forced:
            if name in before:
                setattr(optimizer, name, before[name])
            else:
                delattr(optimizer, name)


def drop_stale_sums(optimizer: Any) -> None:
    """After the last micro-batch of a step: clear what DeepSpeed 0.19.8 forgets where it made no update. At stages 1 and 2 in 16 bits, with
    the optimizer in host memory, the fp32 sums of the step's gradients stay, and the next step is added to them."""
    if getattr(optimizer, "cpu_offload", False) and optimizer.overflow and hasattr(optimizer, "averaged_gradients"):
        optimizer.averaged_gradients.update(dict.fromkeys(optimizer.averaged_gradients))


def _forced(optimizer: Any) -> dict[str, Any]:
    def overflow(*words: Any, **more: Any) -> bool:
        optimizer.overflow = True
        return True

    def clear(closure: None = None) -> None:
        optimizer.overflow = True
        optimizer._global_grad_norm = float("inf")
        optimizer.clear_hp_grads()
        optimizer.clear_lp_grads()

    def keep_scale(has_overflow: bool = False) -> None:
        pass

    if hasattr(optimizer, "clear_hp_grads"):  # the bf16 optimizer of stage 1 decides inside of its step: this is that branch of it
        return {"step": clear}
    return {
        "check_grad_overflow": True,  # stages 1 and 2 ask only then
        "check_overflow": overflow,
        "_overflow_check_and_loss_scale_update": overflow,  # stage 3
        "_update_scale": keep_scale,
    }
