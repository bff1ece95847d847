"""What the engine cannot do is said in one sentence before anything is trained, and what it is told is what DeepSpeed is given."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from proxy_lm.config import merge, validate
from proxy_lm.errors import RequestError
from proxy_lm.machine import libaio_header
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.settings import ModelSettings
from proxy_lm.train.deepspeed_config import adopt, complete, derive
from proxy_lm.train.optimizers import parameter_groups, set_rates
from proxy_lm.train.settings import RunSettings, step_shape
from proxy_lm.train.settings_groups import OptimizerSettings

PLAIN = {"name": "x", "corpus": "c", "num_steps": 3, "rows_per_step": 16, "rows_per_device": 2}


def settings_of(**changes: Any) -> RunSettings:
    return validate(RunSettings, merge(PLAIN, changes), "test")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"zero": {"stage": 0, "offload_optimizer": "cpu"}}, "stage 1, 2 or 3"),
        ({"zero": {"stage": 2, "offload_parameters": "cpu"}}, "needs zero.stage=3 and it is 2"),
        ({"zero": {"stage": 3, "offload_optimizer": "nvme", "nvme_path": "/fast"}}, "use offload_optimizer=cpu"),
        ({"zero": {"stage": 3, "offload_parameters": "nvme"}}, "needs nvme_path"),
        ({"zero": {"stage": 0}, "precision": "bf16"}, "use zero.stage=1"),
        ({"optimizer": {"kind": "muon"}}, "optimizer.gradient_clip=0"),
        ({"optimizer": {"kind": "muon", "gradient_clip": 0}, "precision": "fp16"}, "use precision=bf16"),
        ({"optimizer": {"kind": "muon", "gradient_clip": 0}, "precision": "bf16", "zero": {"stage": 2}}, "use zero.stage=1 or 3"),
        (
            {"optimizer": {"kind": "muon", "gradient_clip": 0}, "zero": {"stage": 3, "offload_parameters": "nvme", "nvme_path": "/fast"}},
            "use cpu",
        ),
        ({"sequence_parallel": 3, "row_length": 1024}, "does not divide row_length=1024"),
        ({"sequence_parallel": 4, "row_length": 1024, "model": {"num_heads": 6, "width": 384}}, "does not divide model.num_heads=6"),
        ({"compile": "model"}, "compile"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as refused:
        settings_of(**changes)
    assert "\n" not in str(refused.value)


def test_at_stage_0_the_gradient_is_clipped_before_muon() -> None:
    assert settings_of(optimizer={"kind": "muon"}, zero={"stage": 0}).optimizer.gradient_clip == 1.0


def test_rows_are_dealt_to_groups_of_ranks_that_share_them() -> None:
    """16 rows, 4 ranks in pairs: 2 readers of 2 rows make 4 micro-batches. DeepSpeed counts 4 ranks with a part of each row."""
    settings = settings_of(sequence_parallel=2)
    shape = step_shape(settings, 4)
    assert (shape.num_readers, shape.accumulation, shape.symbols_per_step) == (2, 4, 16 * settings.row_length)
    config = derive(settings, shape)
    numbers = [config[key] for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")]
    assert numbers == [32, 2, 4]
    assert numbers[0] == numbers[1] * numbers[2] * 4
    with pytest.raises(RequestError, match="does not divide the world size 3"):
        step_shape(settings, 3)
    with pytest.raises(RequestError, match="world size 12 / sequence_parallel 2 = 12"):
        step_shape(settings, 12)


def test_fp16_is_told_to_deepspeed_with_its_scale() -> None:
    moving = settings_of(precision="fp16", loss_scale={"initial_power": 12, "window_steps": 50})
    config = derive(moving, step_shape(moving, 2))
    assert config["fp16"] == {
        "enabled": True,
        "auto_cast": False,
        "loss_scale": 0,
        "initial_scale_power": 12,
        "loss_scale_window": 50,
        "hysteresis": 2,
        "consecutive_hysteresis": False,
        "min_loss_scale": 1,
    }
    assert config["bf16"] == {"enabled": False}
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    fixed = settings_of(precision="fp16", loss_scale={"static": 128})
    assert derive(fixed, step_shape(fixed, 2))["fp16"]["loss_scale"] == 128


def test_nvme_and_muon_are_told_to_deepspeed() -> None:
    files = settings_of(zero={"stage": 3, "offload_optimizer": "cpu", "offload_parameters": "nvme", "nvme_path": "/fast"})
    zero = derive(files, step_shape(files, 2))["zero_optimization"]
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": False}
    assert zero["offload_param"] == {"device": "nvme", "pin_memory": False, "nvme_path": "/fast"}
    muon = settings_of(optimizer={"kind": "muon", "gradient_clip": 0}, zero={"stage": 3})
    config = derive(muon, step_shape(muon, 2))
    assert config["zero_optimization"]["reduce_scatter"] is False
    assert config["gradient_clipping"] == 0.0


def test_a_users_json_may_ask_for_nvme_and_repeat_the_optimizer() -> None:
    user = {
        "zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/fast"}},
        "optimizer": {"type": "Muon", "params": {"lr": "auto"}},
    }
    with pytest.raises(RequestError, match="AdamW and Muon"):
        adopt(settings_of(), user, "ds.json")
    del user["optimizer"]
    settings = adopt(settings_of(), user, "ds.json")
    assert (settings.zero.offload_parameters, settings.zero.nvme_path) == ("nvme", "/fast")
    config = complete(derive(settings, step_shape(settings, 2)), user, "ds.json")
    assert config["zero_optimization"]["offload_param"]["nvme_path"] == "/fast"


def small_model(**changes: Any) -> Decoder:
    sizes = {"preset": None, "width": 8, "depth": 1, "num_heads": 2, "hidden": 16, **changes}
    return Decoder(ModelSettings(**sizes), 320, seed=None)


def names_of(model: Decoder, group: dict[str, Any]) -> set[str]:
    own = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in own}


def test_muon_has_the_matrices_of_the_blocks_and_adamw_everything_else() -> None:
    model = small_model(num_raw_heads=1)
    decayed, plain, muon = parameter_groups(model, OptimizerSettings(kind="muon", weight_decay=0.3))
    attention = {f"blocks.0.attention.{part}.weight" for part in ("query", "key", "value", "output")}
    assert names_of(model, muon) == attention | {f"blocks.0.feed_forward.{part}.weight" for part in ("gate", "up", "down")}
    assert names_of(model, decayed) == {"head.weight", "raw_heads.0.weight"}
    gains = {"norm.weight", "blocks.0.attention_norm.weight", "blocks.0.feed_forward_norm.weight"}
    assert names_of(model, plain) == {"embedding.weight"} | gains
    assert [group["weight_decay"] for group in (decayed, plain, muon)] == [0.3, 0.0, 0.01]
    assert all(parameter.use_muon is group["use_muon"] for group in (decayed, plain, muon) for parameter in group["params"])


def test_adamw_alone_knows_nothing_of_muon() -> None:
    model = small_model()
    decayed, plain = parameter_groups(model, OptimizerSettings())
    assert {*decayed, *plain} == {"params", "weight_decay"}
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))
    assert not hasattr(model.embedding.weight, "use_muon")


def test_both_rates_follow_the_schedule_in_proportion() -> None:
    settings = OptimizerSettings(kind="muon", learning_rate=0.001, muon={"learning_rate": 0.02})  # type: ignore[arg-type]
    groups = parameter_groups(small_model(), settings)
    set_rates(groups, settings, 0.0005)
    assert [group["lr"] for group in groups] == pytest.approx([0.0005, 0.0005, 0.01])


@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusal is that of a CPU")
@pytest.mark.slow
def test_fp16_on_a_cpu_ends_in_one_sentence(tiny_run: Any) -> None:
    output = tiny_run.train(tiny_run.write(tiny_run.settings("half", precision="fp16")), code=2)
    assert "precision fp16" in output
    assert "Traceback" not in output


@pytest.mark.skipif(libaio_header() is not None and shutil.which("ninja") is not None, reason="offload to files can be built here")
@pytest.mark.slow
def test_offload_to_files_without_libaio_ends_in_one_sentence(tiny_run: Any) -> None:
    zero = {"stage": 3, "offload_parameters": "nvme", "nvme_path": str(tiny_run.folder / "nvme")}
    output = tiny_run.train(tiny_run.write(tiny_run.settings("files", zero=zero)), code=2)
    assert "libaio-dev" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_compilation_without_a_compiler_ends_in_one_sentence(tiny_run: Any) -> None:
    config = tiny_run.write(tiny_run.settings("uncompiled", compile="blocks"))
    output = tiny_run.train(config, code=2, PATH=str(tiny_run.folder))
    assert "use compile=none" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_two_halves_of_a_row_need_two_ranks(tiny_run: Any) -> None:
    output = tiny_run.train(tiny_run.write(tiny_run.settings("halves", sequence_parallel=2)), code=2)
    assert "start a multiple of 2 ranks" in output
    assert "Traceback" not in output
