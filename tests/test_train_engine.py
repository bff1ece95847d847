"""DeepSpeed's stages against a bare PyTorch loop on the same rows: two ranks, one start, every stage and precision that the CPU has."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import yaml

STEPS = 10

CHILD = '''
import json, os, sys
from pathlib import Path
import torch, yaml
from proxy_lm.config import validate
from proxy_lm.model.decoder import Decoder
from proxy_lm.train import engine as ds
from proxy_lm.train.deepspeed_config import derive
from proxy_lm.train.engine import Engine
from proxy_lm.train.optimizers import parameter_groups
from proxy_lm.train.inputs import open_inputs
from proxy_lm.train.launch import detect
from proxy_lm.train.metrics import Tally
from proxy_lm.train.schedule import learning_rate
from proxy_lm.train.settings import RunSettings
from proxy_lm.train.validate import to_tensors

launch = detect(os.environ)
plain = yaml.safe_load(Path(sys.argv[1]).read_text())
STEPS = plain["num_steps"]


def settings_for(**changes):
    return validate(RunSettings, {**plain, **changes}, "test")


def model_of(inputs):
    settings = inputs.settings
    return Decoder(settings.model, inputs.vocabulary.size, 64, num_views=1, seed=7,
                   activation_checkpointing=settings.activation_checkpointing)


def bare(settings):
    """No engine: the whole global step on this rank, torch's AdamW, torch's clipping."""
    inputs = open_inputs(settings, 1, verify=False)
    model = model_of(inputs)
    o = settings.optimizer
    optimizer = torch.optim.AdamW(parameter_groups(model, o), lr=1.0, betas=o.betas, eps=o.eps)
    losses, norms = [], []
    for step in range(STEPS):
        batch = inputs.reader.read(range(step * 8, step * 8 + 8))
        out = model(*to_tensors(batch, torch.device("cpu")))
        out.loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), o.gradient_clip)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings.schedule, o.learning_rate, step, STEPS)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(out.nll_nats.sum() / out.num_targets.sum()))
    return {"losses": losses, "norms": norms, "sum": sum(float(p.double().abs().sum()) for p in model.parameters())}


def with_engine(settings, ranks, poison=None, reload_at=None):
    inputs = open_inputs(settings, ranks.world_size, verify=False)
    engine = Engine(model_of(inputs), settings, derive(settings, inputs.shape), ranks)
    losses, norms = [], []
    for step in range(STEPS):
        if step == reload_at:
            folder = Path(sys.argv[2] + f".{settings.precision}-{settings.zero.stage}")
            engine.save(folder)
            ranks.barrier()
            engine = Engine(model_of(inputs), settings, derive(settings, inputs.shape), ranks)
            engine.load(folder)
        engine.set_learning_rate(learning_rate(settings.schedule, settings.optimizer.learning_rate, step, STEPS))
        tally = Tally(ranks, 1)
        for micro in range(inputs.shape.accumulation):
            first = step * 8 + (micro * ranks.world_size + ranks.rank) * 2
            batch = inputs.reader.read(range(first, first + 2))
            out = engine.forward(*to_tensors(batch, engine.device))
            # A gradient that is not finite, on one rank and in one micro-batch only.
            bad = poison == step and ranks.rank == 1 and micro == 0
            engine.backward(out.loss * float("nan") if bad else out.loss)
            engine.step()
            tally.add(out, batch)
        losses.append(tally.reduce().loss_nats)
        norms.append(str(engine.gradient_norm))
    total, finite, order = 0.0, True, []
    for name, tensor in engine.full_parameters():
        order.append(name)
        if tensor is not None:
            total += float(tensor.double().abs().sum())
            finite = finite and bool(torch.isfinite(tensor).all())
    assert order == list(engine.shapes())
    return {"losses": losses, "norms": norms, "sum": total, "finite": finite, "skipped": engine.skipped_steps}


ranks = ds.start(settings_for().communication, launch)
assert ranks.broadcast({"from": ranks.rank}) == {"from": 0}
assert ranks.gather(["x" * ranks.rank, None]) == [["", None], ["x", None]]
results = {"bare": bare(settings_for())}
for stage in (0, 1, 2, 3):
    results[f"fp32 {stage}"] = with_engine(settings_for(zero={"stage": stage}), ranks)
for stage in (1, 2, 3):
    results[f"bf16 {stage}"] = with_engine(settings_for(zero={"stage": stage}, precision="bf16"), ranks)
results["offload"] = with_engine(settings_for(zero={"stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"}), ranks)
results["recomputed"] = with_engine(settings_for(zero={"stage": 1}, activation_checkpointing=True), ranks)
for stage in (0, 1, 2, 3):
    results[f"reloaded fp32 {stage}"] = with_engine(settings_for(zero={"stage": stage}), ranks, reload_at=5)
results["reloaded bf16 1"] = with_engine(settings_for(zero={"stage": 1}, precision="bf16"), ranks, reload_at=5)
for stage in (0, 2):
    results[f"poisoned {stage}"] = with_engine(settings_for(zero={"stage": stage}), ranks, poison=4)
if ranks.rank == 0:
    Path(sys.argv[2]).write_text(json.dumps(results))
ranks.barrier()
ds.stop()
'''


@pytest.fixture(scope="module")
def results(tiny_run) -> dict:
    """Everything in one start of two ranks: a start is what costs time."""
    script = tiny_run.folder / "stages.py"
    script.write_text(CHILD)
    config = tiny_run.folder / "stages.yaml"
    config.write_text(yaml.safe_dump(tiny_run.settings("stages", num_steps=STEPS)))
    out = tiny_run.folder / "stages.json"
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script), str(config), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_zero_stage_follows_the_bare_loop(results, stage):
    bare, ours = results["bare"], results[f"fp32 {stage}"]
    assert len(set(bare["losses"])) == STEPS
    assert ours["losses"] == pytest.approx(bare["losses"], rel=1e-5)
    assert [float(norm) for norm in ours["norms"]] == pytest.approx(bare["norms"], rel=1e-4)
    assert ours["sum"] == pytest.approx(bare["sum"], rel=1e-5)
    assert ours["skipped"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_trains_close_to_fp32_and_its_stages_agree(results, stage):
    ours = results[f"bf16 {stage}"]
    assert ours["losses"] == pytest.approx(results["bare"]["losses"], rel=0.02)
    assert ours["losses"] == pytest.approx(results["bf16 2"]["losses"], rel=1e-3)
    assert ours["losses"][-1] < ours["losses"][0]


@pytest.mark.slow
def test_offload_and_recomputation_change_no_number(results):
    assert results["offload"]["losses"] == pytest.approx(results["fp32 3"]["losses"], rel=1e-6)
    assert results["recomputed"]["losses"] == pytest.approx(results["fp32 1"]["losses"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fp32 0", "fp32 1", "fp32 2", "fp32 3", "bf16 1"])
def test_saved_and_loaded_half_way_changes_no_bit(results, kind):
    reloaded, whole = results[f"reloaded {kind}"], results[kind]
    assert reloaded["losses"] == whole["losses"]
    assert reloaded["sum"] == whole["sum"]
    assert reloaded["norms"] == whole["norms"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
def test_a_gradient_that_is_not_finite_skips_the_update_and_is_counted(results, stage):
    poisoned, whole = results[f"poisoned {stage}"], results[f"fp32 {stage}"]
    assert poisoned["skipped"] == 1
    assert poisoned["finite"]
    assert not math.isfinite(float(poisoned["norms"][4]))
    assert poisoned["losses"][:5] == whole["losses"][:5]
    assert poisoned["losses"][5:] != whole["losses"][5:]
