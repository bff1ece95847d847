"""The training loop, readable top to bottom. `run.py` builds the parts and hands them over as a `Job`.

A step is: read this rank's micro-batches, forward and backward each, one sum over the ranks of everything that is logged, and one update,
unless the sum says that this step is not to be learnt from (`spikes.py`). The state is `Counters`; nothing else moves from step to step but
the engine's weights and moments. No random number is drawn here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from proxy_lm.data.loader import Loader
from proxy_lm.data.rows import Batch
from proxy_lm.errors import WorkError
from proxy_lm.progress import note
from proxy_lm.train.agreement import together
from proxy_lm.train.checkpoint import CheckpointManager
from proxy_lm.train.engine import Engine, Ranks
from proxy_lm.train.faults import FAULTS_NAME, FaultsFile, MicroBatch, PlantedFaults, discarded, gather_micro_batches
from proxy_lm.train.inputs import Inputs
from proxy_lm.train.metrics import Board, Counters, MetricsFile, StepTotals, Tally, finite, step_record
from proxy_lm.train.schedule import learning_rate
from proxy_lm.train.spikes import MAX_BAD_STEPS, Verdict, count, give_up_after, judge, wants_rollback
from proxy_lm.train.stopping import StopRequest
from proxy_lm.train.validate import Validation, soft_tensors, to_tensors


@dataclass(kw_only=True)
class Job:
    """Everything the loop works with."""

    inputs: Inputs
    ranks: Ranks
    engine: Engine
    validation: Validation
    checkpoints: CheckpointManager
    save: Callable[[Counters], None]
    """Commit a checkpoint of these counters; collective."""
    roll_back: Callable[[Counters], None]
    """Put an engine with older weights into `engine` and commit that; collective."""
    stop: StopRequest
    peak_flops: float
    """Of one rank's device."""
    metrics: MetricsFile | None
    """None on every rank but 0."""
    faults: FaultsFile | None
    planted: PlantedFaults
    board: Board | None


def run_steps(job: Job, counters: Counters) -> bool:
    """Train from `counters.step` to the end. True when the last step is done, False when a signal asked to stop and all is saved."""
    settings, inputs = job.inputs.settings, job.inputs
    console = Console(job, counters)
    began = time.monotonic() - counters.seconds
    last_save = step_began = time.monotonic()
    saved_step = counters.step
    reader = inputs.reader
    if counters.teacher_done:
        reader.teacher = None
    loader = Loader(
        reader,
        first_step=counters.step,
        num_steps=inputs.num_steps - counters.step,
        rows_per_device=inputs.shape.rows_per_device,
        accumulation=inputs.shape.accumulation,
        rank=job.ranks.reader,
        world_size=job.ranks.num_readers,
        workers=settings.loader.workers,
        prefetch_steps=settings.loader.prefetch_steps,
    )
    job.engine.train()
    with loader:
        for batches in loader:
            # The step. Signals and rank 0's clock travel with its one sum over the ranks, so that every rank decides the same.
            rate = learning_rate(settings.schedule, settings.optimizer.learning_rate, counters.step, inputs.num_steps)
            job.engine.set_learning_rate(rate)
            save_is_due = _is_over(settings.checkpoint.every_seconds, last_save) and job.ranks.rank == 0
            tally, totals, verdict = make_step(job, counters, batches, loader.wait_seconds, save_is_due)
            stop_now, save_now = totals.flags
            loader.wait_seconds = 0.0
            symbols = inputs.shape.symbols_per_step
            counters.add(totals, inputs.view_names, symbols, symbols * inputs.flops_per_symbol)
            now = time.monotonic()
            counters.seconds, step_seconds, step_began = now - began, now - step_began, now
            log_step(job, counters, totals, rate, step_seconds, verdict)
            console.show(totals, step_seconds)
            finished = counters.step == inputs.num_steps
            if verdict.discard:
                rows = [loader.rows(counters.step - 1, number) for number in range(len(batches))]
                _tell_discarded(job, counters, totals, verdict, tally, rows)
                if wants_rollback(settings.spikes, counters.spikes) and not finished:
                    _roll_back(job, counters)
                    saved_step, last_save = counters.step, time.monotonic()
            with together():
                _check_loss(counters, finished, give_up_after(settings.spikes, counters.spikes))

            # Once in a while. While steps are being discarded nothing is saved for the clock's sake: what a rollback needs stays.
            save_now = (save_now or _is_multiple(counters.step, settings.checkpoint.every_steps)) and not counters.spikes.in_row
            if finished or _is_multiple(counters.step, settings.validation.every_steps):
                _validate(job, counters)
                if counters.teacher_done:
                    reader.teacher = None  # what was read ahead is not used
                step_began = time.monotonic()
            if finished or stop_now or save_now:
                counters.seconds = time.monotonic() - began
                _save(job, counters)
                saved_step, last_save = counters.step, time.monotonic()
                step_began = last_save
            if stop_now and not finished:
                return False
    assert saved_step == inputs.num_steps
    return True


def make_step(
    job: Job, counters: Counters, batches: Sequence[Batch], wait_seconds: float, save_is_due: bool
) -> tuple[Tally, StepTotals, Verdict]:
    """One step over this rank's micro-batches: the update is made, or on all ranks discarded, after the sum over the ranks is known."""
    tally = Tally(job.ranks, len(job.inputs.views))
    weights = loss_weights(job, counters.step)
    for number, batch in enumerate(batches, 1):
        device = job.engine.device
        soft, soft_weight = soft_tensors(batch, device, counters.teacher_done)
        losses = job.engine.forward(*to_tensors(batch, device), weights, soft=soft, soft_weight=soft_weight)
        losses = job.planted.plant(counters.step + 1, losses)
        job.engine.backward(losses.loss)
        tally.add(losses, batch)
        if number < len(batches):
            job.engine.step()
    totals = tally.reduce(wait_seconds, [job.stop.wanted, save_is_due])
    settings, sums = job.inputs.settings, (totals.nll_nats.tolist(), totals.num_targets.tolist())
    verdict = judge(settings.spikes, counters.spikes, *sums)
    skipped_before = job.engine.skipped_steps
    job.engine.step(discard=verdict.discard)
    if not verdict.discard and job.engine.skipped_steps > skipped_before and settings.precision != "fp16":
        # DeepSpeed's own doing, on all ranks: its norm is global. In fp16 it is the search for a scale, and nothing is wrong.
        verdict = replace(verdict, why="gradient not finite")
    count(settings.spikes, counters.spikes, verdict, *sums)
    return tally, totals, verdict


def loss_weights(job: Job, step: int) -> torch.Tensor | None:
    """Weights of the targets by code in the step after `step` finished ones, float32 [num_views + 2]; None where all are 1."""
    mix, inputs = job.inputs.settings.mix, job.inputs
    if not mix.loss_weights:
        return None
    weights = mix.loss_weights_at(step / inputs.num_steps, [view.name for view in inputs.views])
    return torch.from_numpy(weights).to(job.engine.device)


def measure_peak_flops(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """FLOP/s of a square matrix product on this device, best of several. A yardstick for this machine as it is loaded now."""
    size = 8192 if device.type == "cuda" else 768
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.monotonic() + seconds
    while time.monotonic() < end or best == float("inf"):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _check_loss(counters: Counters, finished: bool, limit: int = MAX_BAD_STEPS) -> None:
    """A bad step may pass: its update is discarded. Raises `WorkError`, on every rank, for many in a row and for a bad end."""
    bad, steps = counters.spikes.in_row, counters.step
    if counters.broken_steps >= limit or (finished and counters.broken_steps):
        raise WorkError(
            f"the loss was not finite in the last {counters.broken_steps} of {steps} steps, so this model no longer learns; start "
            "a new run (another `name` or `out`) with a lower optimizer.learning_rate or a longer schedule.warmup_steps"
        )
    if bad >= limit:
        raise WorkError(
            f"the last {bad} of {steps} steps were not learnt from and {len(counters.spikes.rollbacks)} rollbacks were made; {FAULTS_NAME} "
            "names their documents. If such losses are to be expected, continue with spikes.skip=false; else start a new run with a lower "
            "optimizer.learning_rate"
        )


def _tell_discarded(job: Job, counters: Counters, totals: StepTotals, verdict: Verdict, tally: Tally, rows: Sequence[range]) -> None:
    """Name the step's documents on rank 0; every rank tells what its micro-batches lost."""
    found = gather_micro_batches(job.ranks, [MicroBatch(at, *sums) for at, sums in zip(rows, tally.each(), strict=True)])
    if job.faults is None:
        return
    record = discarded(job.inputs, counters.step, totals, verdict, found, counters.spikes.in_row)
    job.faults.write(record)
    first = record["documents"][0]["path"] if record["documents"] else "none"
    note(
        f"step {counters.step}: {verdict.why} ({totals.loss_nats:.4f} nats), its update is discarded on all ranks; "
        f"{record['num_documents']} documents in {FAULTS_NAME}, first {first}"
    )


def _roll_back(job: Job, counters: Counters) -> None:
    """Older weights, and on with the next step; on the record before anything else happens."""
    bad = counters.spikes.in_row
    job.roll_back(counters)
    job.engine.train()
    to = counters.spikes.rollbacks[-1]["to"]
    if job.faults:
        job.faults.write({"step": counters.step, "event": "rolled back", "to": to})
        note(f"step {counters.step}: {bad} steps in a row were discarded; weights and moments go back to those of step {to}")
    _save(job, counters)


def _validate(job: Job, counters: Counters) -> None:
    found = job.validation.run(job.engine)
    if not found:
        return
    counters.validation.append({"step": counters.step, "bits_per_byte": found, **_heed_teacher(job, counters, found.get("raw"))})
    if job.board:
        job.board.write({"validation_bits_per_byte": found}, counters.step)
    if job.ranks.rank == 0:
        parts = ", ".join(f"{name} {value:.4f}" if value is not None else f"{name} none" for name, value in found.items())
        note(f"step {counters.step}: validation bits per byte {parts}")


def _heed_teacher(job: Job, counters: Counters, student_bits: float | None) -> dict[str, Any]:
    """End the teaching where the teacher has lost its lead, the same on every rank."""
    teacher, own_bits, was_done = job.inputs.teacher, job.validation.teacher_bits, counters.teacher_done
    if teacher is None or own_bits is None or student_bits is None:
        return {}
    counters.teacher_done = was_done or not teacher.is_ahead(student_bits, own_bits)
    if job.ranks.rank == 0 and counters.teacher_done and not was_done:
        note(
            f"step {counters.step}: the teacher's {own_bits:.4f} bits per byte are less than {teacher.lead:g} ahead of the student's "
            f"{student_bits:.4f}; from here on the student learns from the text alone"
        )
    return {"teacher_bits_per_byte": own_bits, "teacher_done": counters.teacher_done}


def _save(job: Job, counters: Counters) -> None:
    if job.metrics:
        job.metrics.sync()
    if job.faults:
        job.faults.sync()
    if job.board:
        job.board.flush()
    with together():
        job.save(counters)


def log_step(job: Job, counters: Counters, totals: StepTotals, rate: float, step_seconds: float, verdict: Verdict) -> None:
    """One line of `metrics.jsonl` and, when it is time, its TensorBoard points; only rank 0 has where to write."""
    if job.metrics is None:
        return
    inputs = job.inputs
    symbols = inputs.shape.symbols_per_step
    flops_per_second = symbols * inputs.flops_per_symbol / step_seconds
    first_row = (counters.step - 1) * inputs.settings.rows_per_step
    teacher_weight = inputs.teacher.weight_at(first_row) if inputs.teacher and not counters.teacher_done else 0.0
    record: dict[str, Any] = {
        "step": counters.step,
        **step_record(totals, inputs.view_names, symbols, inputs.inexact_names, head_names=inputs.settings.model.resolved().head_names),
        "learning_rate": rate,
        "gradient_norm": finite(job.engine.gradient_norm),
        "loss_scale": job.engine.loss_scale,
        "skipped_steps": job.engine.skipped_steps,
        "discarded": verdict.why,
        "symbols_per_second": symbols / step_seconds,
        "source_bytes_per_second": float(totals.source_bytes.sum()) / step_seconds,
        "model_flops_per_second": flops_per_second,
        "peak_share": flops_per_second / (job.peak_flops * job.ranks.world_size),
        "data_wait_share": min(totals.wait_seconds / step_seconds, 1.0),
        "step_seconds": step_seconds,
        "total_symbols": counters.symbols,
        "total_source_bytes": counters.source_bytes,
        "total_training_flops": counters.training_flops,
        "total_seconds": counters.seconds,
        **({"teacher_seconds": totals.teacher_seconds, "teacher_weight": teacher_weight} if inputs.teacher else {}),
        "batch_digest": inputs.plan.step_digest(counters.step - 1, inputs.settings.rows_per_step),
    }
    job.metrics.write(record)
    if job.board and counters.step % inputs.settings.logging.tensorboard_every_steps == 0:
        job.board.write(record, counters.step)


class Console:
    """A short line on rank 0's standard error every few seconds."""

    def __init__(self, job: Job, counters: Counters) -> None:
        self.job = job
        self.counters = counters
        self._every = job.inputs.settings.logging.console_seconds
        self._last = time.monotonic()
        self._seconds_per_step = 0.0

    def show(self, totals: StepTotals, step_seconds: float) -> None:
        """Count a step; print when it is time, and at the last one."""
        old = self._seconds_per_step
        self._seconds_per_step = step_seconds if old == 0 else 0.9 * old + 0.1 * step_seconds
        step, last_step = self.counters.step, self.job.inputs.num_steps
        if self.job.ranks.rank or (time.monotonic() - self._last < self._every and step != last_step):
            return
        self._last = time.monotonic()
        rate = self.job.inputs.shape.symbols_per_step / max(step_seconds, 1e-9)
        parts = " ".join(
            f"{n} {v:.3f}"
            for n, v in totals.bits_per_byte(self.job.inputs.view_names, self.job.inputs.inexact_names).items()
            if v is not None
        )
        left = int(self._seconds_per_step * (last_step - step))
        eta = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        note(f"step {step}/{last_step} loss {totals.loss_nats:.4f} nats, bits per byte {parts}, {rate:,.0f} symbols/s, {eta} left")


def checkpoint_state(job_inputs: Inputs, counters: Counters, world_size: int, versions: dict[str, str]) -> dict[str, Any]:
    """What a checkpoint's manifest says of the run: counters, identity of the data, the whole resolved configuration."""
    return {
        "counters": asdict(counters),
        "identity": job_inputs.identity(),
        "fingerprints": {view.name: view.fingerprint for view in job_inputs.views},
        "settings": job_inputs.settings.model_dump(mode="json"),
        "world_size": world_size,
        "num_steps": job_inputs.num_steps,
        "versions": versions,
    }


def _is_over(seconds: float | None, since: float) -> bool:
    return seconds is not None and time.monotonic() - since >= seconds


def _is_multiple(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
