"""A training run from its settings to its last checkpoint. `train(settings)` is the program; `loop.run_steps` is the middle of it.

    deepspeed --num_accelerators 2 --module proxy_lm.train configs/x.yaml

The run folder: config.yaml and deepspeed.json (what was resolved), run.json (identity, status, final numbers), metrics.jsonl, tb/,
checkpoints/step-N/ (DeepSpeed's files, model.safetensors, manifest.json). Run again it continues; finished, it says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compressors.files import digest_of, read_json, write_bytes, write_json
from proxy_lm.config import dump_yaml
from proxy_lm.data.summary import PACKING_MEASURES
from proxy_lm.errors import RequestError
from proxy_lm.model.allocator import keep_freed_memory
from proxy_lm.model.decoder import Decoder
from proxy_lm.progress import note
from proxy_lm.train import engine as deepspeed_engine
from proxy_lm.train import spikes
from proxy_lm.train.agreement import agree, first_then_rest, together
from proxy_lm.train.checkpoint import Checkpoint, CheckpointManager
from proxy_lm.train.deepspeed_config import complete, derive
from proxy_lm.train.engine import DTYPES, Engine, Ranks
from proxy_lm.train.faults import FAULTS_NAME, PLANTED, FaultsFile, PlantedFaults
from proxy_lm.train.inputs import Inputs, describe_vocabulary, open_inputs
from proxy_lm.train.launch import Launch
from proxy_lm.train.loop import Job, checkpoint_state, measure_peak_flops, run_steps
from proxy_lm.train.metrics import Board, Counters, MetricsFile
from proxy_lm.train.preflight import preflight
from proxy_lm.train.provenance import completed, describe
from proxy_lm.train.run_files import CHECKPOINTS_NAME, CONFIG_NAME, DEEPSPEED_NAME, METRICS_NAME, RUN_NAME
from proxy_lm.train.run_lock import RunLock
from proxy_lm.train.settings import RunSettings, changed_settings
from proxy_lm.train.spikes import SpikeState, newest_good_step, state_of
from proxy_lm.train.stopping import EXIT_STOPPED, StopRequest
from proxy_lm.train.universal import count_ranks, load_checkpoint
from proxy_lm.train.validate import Validation
from proxy_lm.train.watchdog import Watchdog
from proxy_lm.train.weights import WEIGHTS_NAME, write_weights


def train(
    settings: RunSettings,
    launch: Launch,
    user_json: dict[str, Any] | None = None,
    source: str = "the DeepSpeed file",
    stop: StopRequest | None = None,
) -> int:
    """Train to the end or to a stop; returns the exit code (0 or 75). Every rank calls it. Raises `RequestError` and `WorkError`.

    `stop` is one that listens already; without it, one listens from here on."""
    if is_finished(settings):
        if launch.rank == 0:
            note(f"the run in {settings.folder} is finished; nothing to do (another `name` or `out` starts a new one)")
        return 0
    with contextlib.nullcontext(stop) if stop else StopRequest() as stop:
        with Watchdog("meeting the others", lambda: 0, settings.communication.timeout_seconds, launch):
            ranks = deepspeed_engine.start(settings.communication, launch, settings.sequence_parallel)
        keep_freed_memory()
        with deepspeed_engine.meeting():
            finished = not _stops_early(ranks, stop) and train_among(ranks, settings, stop, user_json, source)
    deepspeed_engine.stop()
    return 0 if finished else EXIT_STOPPED


def train_among(
    ranks: Ranks, settings: RunSettings, stop: StopRequest, user_json: dict[str, Any] | None = None, source: str = "the DeepSpeed file"
) -> bool:
    """Train among processes that have met; several runs in turn may share one meeting. True when the run reached its end."""
    inputs = first_then_rest(
        ranks,
        lambda: open_inputs(settings, ranks.world_size, verify=True),
        lambda: open_inputs(settings, ranks.world_size, verify=False),
    )
    derived = derive(settings, inputs.shape)
    config = agree(ranks, lambda: complete(derived, user_json, source) if user_json else derived)
    checked = preflight(inputs, ranks)
    with contextlib.ExitStack() as stack:
        with together():
            stack.enter_context(RunLock(settings.folder, ranks))
        return _train_locked(inputs, ranks, config, checked, stop)


def is_finished(settings: RunSettings) -> bool:
    """Whether this very run was already trained to its end. Raises `RequestError` if another one was, in the same folder."""
    path = settings.folder / RUN_NAME
    if not path.exists():
        return False
    run = read_json(path, "record of the run")
    if run.get("status") != "finished":
        return False
    _refuse_changes(run.get("settings", {}), settings, path)
    return True


def _train_locked(inputs: Inputs, ranks: Ranks, config: dict[str, Any], checked: dict[str, Any], stop: StopRequest) -> bool:
    settings = inputs.settings
    manager = CheckpointManager(
        settings.folder / CHECKPOINTS_NAME,
        keep_last=settings.checkpoint.keep_last,
        keep_every=settings.checkpoint.keep_every,
        collectives=ranks,
    )
    with together():
        checkpoint = manager.newest_valid()
    agree(ranks, lambda: check_resume(inputs, checkpoint))
    planted = PlantedFaults(os.environ.get(PLANTED, ""), ranks.rank)
    counters = Counters(**checkpoint.state["counters"]) if checkpoint else Counters()
    if checkpoint:
        counters.count_device_seconds(checkpoint.world_size)
    record = agree(ranks, lambda: _record(inputs, ranks, config, counters) if ranks.rank == 0 else {}) | {"preflight": checked}
    if ranks.rank == 0:
        _announce(inputs, ranks, checkpoint)
        settings.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(settings.folder / CONFIG_NAME, dump_yaml(settings).encode())
        write_json(settings.folder / DEEPSPEED_NAME, config)
        write_json(settings.folder / RUN_NAME, {**record, "status": "running"})

    def build(from_here: Checkpoint | None) -> Engine:
        with Watchdog("building or loading the model", lambda: 0, settings.communication.timeout_seconds, ranks):
            engine = agree(ranks, lambda: Engine(_model(inputs), settings, config, ranks))
            if from_here:
                load_checkpoint(engine, from_here, settings.folder, ranks)
        return engine

    def save(now: Counters) -> None:
        state = checkpoint_state(inputs, now, ranks.world_size, deepspeed_engine.versions())
        # Until a step was learnt after a rollback, a further one may need a checkpoint that is older still.
        rotate = not now.spikes.discarded_since_rollback
        manager.save(now.step, lambda folder: _write_checkpoint(job.engine, inputs, folder, now.step), state, rotate=rotate)

    def roll_back(now: Counters) -> None:
        with together():
            older = _from_before(now, manager, settings.checkpoint.every_steps)
        job.engine.close()
        job.engine = build(older)
        then = state_of(older.state["counters"].get("spikes", {})) if older else SpikeState()
        spikes.roll_back(now.spikes, then, at=now.step, to=older.step if older else 0)
        now.broken_steps = 0

    is_first = ranks.rank == 0
    job = Job(
        inputs=inputs,
        ranks=ranks,
        engine=build(checkpoint),
        validation=agree(ranks, lambda: Validation(inputs, ranks)),
        checkpoints=manager,
        save=save,
        roll_back=roll_back,
        stop=stop,
        peak_flops=settings.logging.peak_flops or measure_peak_flops(ranks.device, DTYPES[settings.precision]),
        metrics=MetricsFile(settings.folder / METRICS_NAME, counters.step) if is_first else None,
        faults=FaultsFile(settings.folder / FAULTS_NAME, counters.step) if is_first else None,
        planted=planted,
        board=Board(settings.folder / "tb", counters.step) if is_first and settings.logging.tensorboard else None,
    )
    with Watchdog("a step", lambda: counters.step, settings.communication.timeout_seconds, ranks):
        finished = counters.step == inputs.num_steps or (not _stops_early(ranks, stop) and run_steps(job, counters))
    for writer in (job.metrics, job.faults, job.board):
        if writer:
            writer.close()
    if is_first:
        write_json(
            settings.folder / RUN_NAME, {**record, "status": "finished" if finished else "stopped", **_totals(inputs, ranks, counters)}
        )
        done = "finished" if finished else f"stopped by {stop.name or 'a signal on another rank'} and saved; the same command continues"
        note(f"{settings.folder}: {done} at step {counters.step}")
    ranks.barrier()
    return finished


def _from_before(now: Counters, manager: CheckpointManager, every_steps: int | None) -> Checkpoint | None:
    """What a rollback takes: a checkpoint from before the bad steps, if possible one that the run has whatever the clock and the signals
    were, so that a run that was stopped in between takes the same. Collective."""
    limit, rolled = newest_good_step(now.spikes, now.step), {rollback["at"] for rollback in now.spikes.rollbacks}
    planned = manager.newest_valid(up_to=limit, only=lambda step: step in rolled or (every_steps is not None and step % every_steps == 0))
    return planned or manager.newest_valid(up_to=limit) or manager.newest_valid()


def _stops_early(ranks: Ranks, stop: StopRequest) -> bool:
    """Whether any rank was asked to stop before the first step of this start. Nothing was trained, so nothing is saved."""
    early = any(ranks.gather(stop.wanted))
    if early and ranks.rank == 0:
        note("asked to stop before the first step of this start: what was saved before stands, and the same command continues")
    return early


def _model(inputs: Inputs) -> Decoder:
    settings = inputs.settings
    return Decoder(
        settings.model,
        inputs.vocabulary.size,
        settings.row_length,
        num_views=len(inputs.views),
        activation_checkpointing=settings.activation_checkpointing,
        seed=settings.seed,
    )


def check_resume(inputs: Inputs, checkpoint: Checkpoint | None) -> None:
    """Refuse to continue something else. Raises `RequestError` with the difference."""
    settings = inputs.settings
    if checkpoint is None:
        if settings.resume == "must":
            raise RequestError(
                f"resume=must and {settings.folder / 'checkpoints'} has no checkpoint; check the run folder, or use resume=auto"
            )
        return
    if settings.resume == "never":
        raise RequestError(f"resume=never and {checkpoint.path} exists; choose another `name` or `out`, or move the folder away")
    state = checkpoint.state
    _refuse_changes(state["settings"], settings, checkpoint.path)
    for what, ours in inputs.identity().items():
        if state["identity"][what] != ours:
            raise RequestError(
                f"{checkpoint.path} was trained with the {what} {state['identity'][what]} and this run has {ours}; "
                "give back what it was trained on, or choose another `name` or `out`"
            )


def _refuse_changes(old: dict[str, Any], settings: RunSettings, where: Path) -> None:
    changes = changed_settings(completed(old), settings.model_dump(mode="json"))
    if changes:
        raise RequestError(
            f"{where} was made with other settings ({'; '.join(changes)}): put them back to continue it, or choose another `name` or `out`"
        )


def _write_checkpoint(engine: Engine, inputs: Inputs, folder: Path, step: int) -> None:
    """This rank's files. Everything collective comes first, so that an error on rank 0 leaves nobody waiting."""
    engine.save(folder)
    settings = inputs.settings
    metadata = {
        "format": "pt",
        "step": str(step),
        "model": settings.model.model_dump_json(),
        "vocabulary": json.dumps(describe_vocabulary(inputs.vocabulary)),
        "row_length": str(settings.row_length),
    }
    if inputs.vocabulary.literals:
        metadata["literals"] = json.dumps(inputs.vocabulary.literals)
    path = folder / WEIGHTS_NAME if engine.ranks.rank == 0 else None
    write_weights(path, engine.shapes(), engine.full_parameters(), metadata)


def _record(inputs: Inputs, ranks: Ranks, config: dict[str, Any], counters: Counters) -> dict[str, Any]:
    """What `run.json` says from the start on. `starts` is the run's history: what each start continued, and on what."""
    record = describe(inputs)
    record |= {
        "world_size": ranks.world_size,
        "device": str(ranks.device.type),
        "device_name": deepspeed_engine.device_name(ranks.device),
        "deepspeed_digest": digest_of(config),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    path = inputs.settings.folder / RUN_NAME
    earlier = read_json(path, "record of the run").get("starts", []) if counters.step and path.exists() else []
    start = {"step": counters.step, **{key: record[key] for key in ("started", "world_size", "device", "versions", "git", "machine")}}
    return {**record, "starts": [*earlier, start]}


def _totals(inputs: Inputs, ranks: Ranks, counters: Counters) -> dict[str, Any]:
    """The ledger of a run, as the comparison reads it."""
    done = asdict(counters)
    done["final_step"] = done.pop("step")
    # Of the whole plan, hence known to be told at the end only; a signal also leaves no time to count it.
    plan = inputs.plan.summary() if counters.step == inputs.num_steps else None
    done["spikes"] = {name: done["spikes"][name] for name in ("num_discarded", "rollbacks")}
    return {
        **done,
        "source_bytes": counters.source_bytes,
        "unique_bytes": plan["unique_source_bytes"] if plan else None,
        "packing": {name: plan[name] for name in PACKING_MEASURES} if plan else None,
        "device_seconds": counters.device_seconds(ranks.world_size),
    }


def _announce(inputs: Inputs, ranks: Ranks, checkpoint: Checkpoint | None) -> None:
    shape, settings = inputs.shape, inputs.settings
    begin = f"continues at step {checkpoint.step}" if checkpoint else "starts at step 0"
    dealt = f"{count_ranks(ranks.world_size)} x {shape.rows_per_device} rows x {shape.accumulation} = {shape.rows_per_step} rows"
    note(
        f"{settings.folder} {begin} of {inputs.num_steps}: {dealt} of {settings.row_length} ids a step, {settings.precision}, "
        f"ZeRO {settings.zero.stage} on {ranks.device.type}"
    )
    now = deepspeed_engine.versions()
    others = (
        [f"{name} {version}" for name, version in checkpoint.state["versions"].items() if now.get(name) != version] if checkpoint else []
    )
    if checkpoint and others:
        here = ", ".join(f"{name} {version}" for name, version in now.items())
        note(f"{checkpoint.path} was written with {' and '.join(others)}; here is {here}: the same rows, losses to rounding")
