"""Many engine configurations in one start of several ranks, and the same steps in a bare loop: a start is what costs time.

    torchrun --nproc-per-node 2 tests/engine_children.py RUN.yaml CASES.json RESULTS.json

CASES: name -> {"settings": changes to RUN, "bare": true, "poison": step, "discard": step, "reload_at": step, "against": another name}. A
bare loop in bf16 takes "sums", the dtype in which it adds up micro-batches. Rank 0 writes for each case: losses and gradient norms of each
step, the distance of the final weights from those of the case named in "against", skipped steps, source bytes and symbols told, seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import yaml

from proxy_lm.config import merge, validate
from proxy_lm.model.decoder import Decoder
from proxy_lm.train import engine as ds
from proxy_lm.train.deepspeed_config import derive
from proxy_lm.train.engine import Engine
from proxy_lm.train.inputs import Inputs, open_inputs
from proxy_lm.train.launch import detect
from proxy_lm.train.metrics import Tally
from proxy_lm.train.optimizers import is_muon_matrix, parameter_groups
from proxy_lm.train.schedule import learning_rate
from proxy_lm.train.settings import RunSettings
from proxy_lm.train.validate import to_tensors


def model_of(inputs: Inputs) -> Decoder:
    settings = inputs.settings
    return Decoder(
        settings.model,
        inputs.vocabulary.size,
        settings.row_length,
        num_views=len(inputs.views),
        seed=7,
        activation_checkpointing=settings.activation_checkpointing,
    )


class SlowMuon(torch.optim.Optimizer):
    """Muon as its author's page describes it, in the dtype of the weights: the slow twin of DeepSpeed's."""

    def __init__(self, params, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["m"] = torch.zeros_like(p)
                m, beta = state["m"], group["momentum"]
                m.mul_(beta).add_(p.grad, alpha=1 - beta)
                x = (1 - beta) * p.grad + beta * m
                if x.shape[0] > x.shape[1]:
                    x = x.T
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                if p.shape[0] > p.shape[1]:
                    x = x.T
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(x, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def in_16_bits(model: Decoder, inputs: Inputs, first_row: int, sums: torch.dtype) -> tuple[float, int]:
    """Gradients of one step as bf16 training means them: passes in bf16, micro-batch by micro-batch, summed in `sums` and left in the
    fp32 model. Returns the sums that make the loss."""
    settings = inputs.settings
    passes = model_of(inputs)
    passes.load_state_dict(model.state_dict())
    passes = passes.to(torch.bfloat16)
    nll, targets, rows = 0.0, 0, settings.rows_per_device
    totals = [torch.zeros_like(p, dtype=sums) for p in model.parameters()]
    for first in range(first_row, first_row + settings.rows_per_step, rows):
        out = passes(*to_tensors(inputs.reader.read(range(first, first + rows)), torch.device("cpu")))
        out.loss.backward()
        for total, p in zip(totals, passes.parameters(), strict=True):
            total += p.grad.to(sums)
            p.grad = None
        nll, targets = nll + float(out.nll_nats.sum()), targets + int(out.num_targets.sum())
    for total, p in zip(totals, model.parameters(), strict=True):
        p.grad = total.float() * (rows / settings.rows_per_step)
    return nll, targets


def bare(settings: RunSettings, sums: torch.dtype) -> tuple[dict, dict[str, torch.Tensor]]:
    """No engine: the whole global step on this rank, torch's optimizer, torch's clipping."""
    inputs = open_inputs(settings, 1, verify=False)
    model, o = model_of(inputs), settings.optimizer
    if settings.precision == "bf16":  # DeepSpeed's fp32 weights start as what is left of them in bf16
        model.to(torch.bfloat16).to(torch.float32)
    muon = [p for name, p in model.named_parameters() if o.kind == "muon" and is_muon_matrix(name, p)]
    groups = [group for group in parameter_groups(model, o) if not group.get("use_muon")]
    adam = torch.optim.AdamW(groups, lr=1.0, betas=o.betas, eps=o.eps)
    optimizers = [(adam, o.learning_rate)]
    if muon:
        optimizers.append((SlowMuon(muon, o.muon.momentum, o.muon.weight_decay), o.muon.learning_rate))
    losses, norms, told = [], [], [0.0, 0.0]
    for step in range(inputs.num_steps):
        rows = settings.rows_per_step
        batch = inputs.reader.read(range(step * rows, step * rows + rows))
        told = [told[0] + float(batch.source_bytes.sum()), told[1] + float(batch.num_symbols.sum())]
        if settings.precision == "bf16":
            nll, targets = in_16_bits(model, inputs, step * rows, sums)
        else:
            out = model(*to_tensors(batch, torch.device("cpu")))
            out.loss.backward()
            nll, targets = float(out.nll_nats.sum()), int(out.num_targets.sum())
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), o.gradient_clip or float("inf"))))
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings.schedule, peak, step, inputs.num_steps)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(nll / targets)
    return {"losses": losses, "norms": norms, "told": told}, {name: p.detach().double() for name, p in model.named_parameters()}


def with_engine(settings: RunSettings, ranks: ds.Ranks, case: dict, folder: Path) -> tuple[dict, dict]:
    poison, reload_at, discard = (case.get(name) for name in ("poison", "reload_at", "discard"))
    inputs = open_inputs(settings, ranks.world_size, verify=False)
    engine = Engine(model_of(inputs), settings, derive(settings, inputs.shape), ranks)
    losses, norms, rows, told = [], [], settings.rows_per_device, [0.0, 0.0]
    for step in range(inputs.num_steps):
        if step == reload_at:
            engine.save(folder)
            ranks.barrier()
            engine = Engine(model_of(inputs), settings, derive(settings, inputs.shape), ranks)
            engine.load(folder)
        engine.set_learning_rate(learning_rate(settings.schedule, settings.optimizer.learning_rate, step, inputs.num_steps))
        tally = Tally(ranks, len(inputs.views))
        for micro in range(inputs.shape.accumulation):
            first = step * settings.rows_per_step + (micro * ranks.num_readers + ranks.reader) * rows
            batch = inputs.reader.read(range(first, first + rows))
            out = engine.forward(*to_tensors(batch, engine.device))
            # A gradient that is not finite, on one rank and in one micro-batch only.
            bad = poison == step and ranks.rank == 1 and micro == 0
            engine.backward(out.loss * float("nan") if bad else out.loss)
            engine.step(discard=discard == step and micro == inputs.shape.accumulation - 1)
            tally.add(out, batch)
        totals = tally.reduce()
        losses.append(totals.loss_nats)
        told = [told[0] + float(totals.source_bytes.sum()), told[1] + float(totals.num_symbols.sum())]
        norms.append(str(engine.gradient_norm))
    weights = dict(engine.full_parameters())
    assert list(weights) == list(engine.shapes())
    done = {"losses": losses, "norms": norms, "skipped": engine.skipped_steps, "told": told}
    return done, {name: tensor.double() for name, tensor in weights.items() if tensor is not None}


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Largest over the parameters: norm of the difference over norm."""
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


def main() -> None:
    plain = yaml.safe_load(Path(sys.argv[1]).read_text())
    cases, out = json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    launch = detect(os.environ)
    ways = {case["settings"].get("sequence_parallel", 1) for case in cases.values()}
    groups = {number: ds.start(validate(RunSettings, plain, "test").communication, launch, number) for number in sorted(ways)}
    ranks = next(iter(groups.values()))
    assert ranks.broadcast({"from": ranks.rank}) == {"from": 0}
    assert ranks.gather(["x" * ranks.rank, None])[-1] == ["x" * (ranks.world_size - 1), None]
    results: dict[str, dict] = {}
    final: dict[str, dict[str, torch.Tensor]] = {}
    for name, case in cases.items():
        settings = validate(RunSettings, merge(plain, case["settings"]), name)
        began = time.monotonic()
        if case.get("bare"):
            results[name], final[name] = bare(settings, getattr(torch, case.get("sums", "float32")))
        else:
            folder = out.with_name(f"{out.stem}-{name.replace(' ', '-')}")
            own = groups[settings.sequence_parallel]
            results[name], final[name] = with_engine(settings, own, case, folder)
        results[name]["seconds"] = time.monotonic() - began
        if launch.rank == 0:
            results[name]["finite"] = all(bool(torch.isfinite(tensor).all()) for tensor in final[name].values())
            if "against" in case:
                results[name]["distance"] = distance(final[name], final[case["against"]])
                pairs = zip(results[name]["losses"], results[case["against"]]["losses"], strict=True)
                results[name]["loss_difference"] = max(abs(ours / theirs - 1) for ours, theirs in pairs)
    if launch.rank == 0:
        out.write_text(json.dumps(results))
    ranks.barrier()
    ds.stop()


if __name__ == "__main__":
    main()
