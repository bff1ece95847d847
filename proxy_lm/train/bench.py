"""What our step costs over a bare PyTorch loop of the same model, rows and optimizer, on the ranks it is started with.

    python -m proxy_lm.train.bench                                             one process
    torchrun --nproc-per-node 2 -m proxy_lm.train.bench --stage 1              two ranks

Both loops live in the same processes and take turns, step by step, so that whatever else the machine does hits both; the number is the
median of the ratios of neighbours. Ours has the loader (reading in the foreground, so that no thread hides its cost in the other's turn),
the engine, the sum over the ranks, the metrics line and the batch digest. The bare loop has its tensors ready, one flat all-reduce of the
gradients, torch's clipping and torch's fused AdamW. Not in it: checkpoints, validation, TensorBoard.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from proxy_lm.config import validate
from proxy_lm.data.corpus import build_small
from proxy_lm.data.loader import Loader
from proxy_lm.model.allocator import keep_freed_memory
from proxy_lm.model.decoder import Decoder
from proxy_lm.train import engine as deepspeed_engine
from proxy_lm.train.checkpoint import CheckpointManager
from proxy_lm.train.deepspeed_config import derive
from proxy_lm.train.engine import Engine, Ranks
from proxy_lm.train.faults import PlantedFaults
from proxy_lm.train.inputs import Inputs, open_inputs
from proxy_lm.train.launch import detect
from proxy_lm.train.loop import Job, log_step, make_step
from proxy_lm.train.metrics import Counters, MetricsFile
from proxy_lm.train.optimizers import parameter_groups
from proxy_lm.train.schedule import learning_rate
from proxy_lm.train.settings import RunSettings
from proxy_lm.train.stopping import StopRequest
from proxy_lm.train.validate import Validation, to_tensors


class Ours:
    """The loop's step, as `loop.run_steps` makes it."""

    def __init__(self, inputs: Inputs, ranks: Ranks, folder: Path) -> None:
        settings, shape = inputs.settings, inputs.shape
        model = _model(inputs)
        self.job = Job(
            inputs=inputs,
            ranks=ranks,
            engine=Engine(model, settings, derive(settings, shape), ranks),
            validation=Validation(inputs, ranks),
            checkpoints=CheckpointManager(folder / "checkpoints", collectives=ranks),
            save=lambda _: None,
            roll_back=lambda _: None,
            stop=StopRequest(),
            peak_flops=1e12,
            metrics=MetricsFile(folder / "metrics.jsonl", 0) if ranks.rank == 0 else None,
            faults=None,
            planted=PlantedFaults("", ranks.rank),
            board=None,
        )
        self.counters = Counters()
        self.loader = _loader(inputs, ranks)

    def step(self) -> float:
        """One step; its loss."""
        job, settings = self.job, self.job.inputs.settings
        rate = learning_rate(settings.schedule, settings.optimizer.learning_rate, self.counters.step, job.inputs.num_steps)
        job.engine.set_learning_rate(rate)
        _, totals, verdict = make_step(job, self.counters, next(self.loader), self.loader.wait_seconds, False)
        self.counters.add(totals, job.inputs.view_names, job.inputs.shape.symbols_per_step, 1)
        log_step(job, self.counters, totals, rate, 1.0, verdict)
        return totals.loss_nats


class Bare:
    """The same arithmetic in plain torch."""

    def __init__(self, inputs: Inputs, ranks: Ranks) -> None:
        self.inputs, self.ranks = inputs, ranks
        self.model = _model(inputs).to(ranks.device, deepspeed_engine.DTYPES[inputs.settings.precision])
        self.parameters = list(self.model.parameters())
        o = inputs.settings.optimizer
        groups = parameter_groups(self.model, o)
        self.optimizer = torch.optim.AdamW(groups, lr=o.learning_rate, betas=o.betas, eps=o.eps, fused=True)
        loader = _loader(inputs, ranks)
        self.steps = [[to_tensors(batch, ranks.device) for batch in batches] for batches in loader]
        self.done = 0

    def step(self) -> float:
        """One step; this rank's loss."""
        settings, batches = self.inputs.settings, self.steps[self.done]
        nll = targets = 0.0
        for tensors in batches:
            losses = self.model(*tensors)
            (losses.loss / len(batches)).backward()
            nll += float(losses.nll_nats.sum())
            targets += float(losses.num_targets.sum())
        if self.ranks.world_size > 1:
            flat = torch.cat([parameter.grad.flatten() for parameter in self.parameters if parameter.grad is not None])
            dist.all_reduce(flat)
            flat /= self.ranks.world_size
            for parameter, part in zip(self.parameters, torch.split(flat, [p.numel() for p in self.parameters]), strict=True):
                parameter.grad = part.view_as(parameter)
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.optimizer.gradient_clip)
        rate = learning_rate(settings.schedule, settings.optimizer.learning_rate, self.done, self.inputs.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        return nll / targets


def measure(inputs: Inputs, ranks: Ranks, folder: Path, warmup: int) -> dict[str, Any]:
    """Take turns; seconds are this rank's, from one meeting of the ranks to the next."""
    ours, bare = Ours(inputs, ranks, folder), Bare(inputs, ranks)
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    cpu_seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    losses: list[tuple[float, float]] = []
    for step in range(inputs.num_steps):
        # Who goes first changes, so that neither always finds the caches of the other.
        pair = [("ours", ours.step), ("bare", bare.step)]
        found = {}
        for name, one in pair if step % 2 else reversed(pair):
            ranks.barrier()
            began, cpu_began = time.perf_counter(), time.process_time()
            found[name] = one()
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            cpu_seconds[name].append(time.process_time() - cpu_began)
            ranks.barrier()
            seconds[name].append(time.perf_counter() - began)
        losses.append((found["ours"], found["bare"]))
    ratios, cpu_ratios = (
        [a / b for a, b in zip(table["ours"][warmup:], table["bare"][warmup:], strict=True)] for table in (seconds, cpu_seconds)
    )
    return {
        "ratio": statistics.median(ratios),
        # Of processor time: steady where other programs share the machine, blind to waiting for the other ranks and for a GPU.
        "cpu_ratio": statistics.median(cpu_ratios),
        "quartiles": [round(value, 4) for value in statistics.quantiles(ratios, n=4)],
        "ours_seconds": statistics.median(seconds["ours"][warmup:]),
        "bare_seconds": statistics.median(seconds["bare"][warmup:]),
        "num_steps": len(ratios),
        "last_losses": losses[-1],
    }


def _loader(inputs: Inputs, ranks: Ranks) -> Loader:
    """This rank's rows, read in the foreground; both loops get the same."""
    return Loader(
        inputs.reader,
        first_step=0,
        num_steps=inputs.num_steps,
        rows_per_device=inputs.shape.rows_per_device,
        accumulation=inputs.shape.accumulation,
        rank=ranks.rank,
        world_size=ranks.world_size,
        workers=0,
    )


def _model(inputs: Inputs) -> Decoder:
    return Decoder(inputs.settings.model, inputs.vocabulary.size, inputs.settings.row_length, seed=0)


def main() -> None:
    """Read the words, build a corpus of this project's own sources, measure, print one JSON line on rank 0."""
    parser = argparse.ArgumentParser(prog="proxy_lm.train.bench", description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--preset", default="nano", help="size of the model")
    parser.add_argument("--stage", type=int, default=1, help="ZeRO stage of our loop")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--row-length", type=int, default=512)
    parser.add_argument("--rows-per-device", type=int, default=8)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    words, _ = parser.parse_known_args()
    launch = detect(os.environ)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = sorted(Path(__file__).resolve().parents[1].rglob("*.py"))
        build_small(folder / "corpus", {"train": [path.read_bytes() for path in sources if path.stat().st_size]})
        plain = {
            "name": "bench",
            "corpus": str(folder / "corpus"),
            "model": {"preset": words.preset},
            "row_length": words.row_length,
            "rows_per_device": words.rows_per_device,
            "rows_per_step": words.rows_per_device * launch.world_size * words.accumulation,
            "num_steps": words.steps,
            "precision": words.precision,
            "zero": {"stage": words.stage},
            "validation": {"max_bytes": 0},
        }
        settings = validate(RunSettings, plain, "the bench")
        ranks = deepspeed_engine.start(settings.communication, launch)
        keep_freed_memory()
        found = measure(open_inputs(settings, launch.world_size, verify=False), ranks, folder, warmup=min(5, words.steps // 2))
        if ranks.rank == 0:
            layout = {"world_size": launch.world_size, "device": ranks.device.type, **vars(words)}
            print(json.dumps({**layout, **found}), flush=True)
        ranks.barrier()
    deepspeed_engine.stop()


if __name__ == "__main__":
    main()
