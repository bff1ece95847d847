"""`proxy-lm plan`: the table of sizes, devices and stages; every number comes from a formula that is tested elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import yaml

from proxy_lm.cli import main
from proxy_lm.config import validate
from proxy_lm.model.flops import num_parameters, training_flops_per_symbol
from proxy_lm.model.settings import ModelSettings
from proxy_lm.train.forecast import DEVICES, at_stage, building_bytes, compute_seconds, device_memory, kept_checkpoints
from proxy_lm.train.settings import RunSettings


def planned(capsys, *words: object) -> dict:
    assert main(["plan", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: object) -> str:
    assert main(["plan", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_without_words_it_plans_the_five_paper_sizes_on_8_64_and_512_devices(capsys):
    found = planned(capsys)
    assert [(plan["size"], plan["num_devices"]) for plan in found["plans"]] == [
        (size, devices) for size in ("0.5b", "1.5b", "4b", "7b", "14b") for devices in (8, 64, 512)
    ]
    assert found["ids"] == 320 + 65_536
    for plan in found["plans"]:
        assert list(plan["stages"]) == ["1", "2", "3"]  # stage 0 sums 16-bit gradients in 16 bits: refused
        assert plan["rows_raised"] == (plan["num_devices"] == 512)
        peaks = [stage["device_peak"] for stage in plan["stages"].values()]
        assert peaks[0] > peaks[1]
    by_size = {plan["size"]: plan for plan in found["plans"] if plan["num_devices"] == 8}
    assert [by_size[size]["fits_from"] for size in ("1.5b", "7b", "14b")] == [1, 2, 2]


def test_the_time_is_flops_over_devices_peak_and_share(capsys):
    words = ("--preset", "1.5b", "--devices", 8, "--device", "a100", "--share-of-peak", 0.5, "num_symbols=2097152000")
    plan = planned(capsys, *words)["plans"][0]
    flops = training_flops_per_symbol(ModelSettings(preset="1.5b"), 65_856, 16_384) * 2_097_152_000
    assert plan["training_flops"] == flops
    assert plan["seconds"] == pytest.approx(flops / (8 * 312e12 * 0.5))
    assert plan["symbols_per_second"] == pytest.approx(2_097_152_000 / plan["seconds"])
    assert plan["parameters"] == num_parameters(ModelSettings(preset="1.5b"), 65_856).total


def test_a_runs_own_yaml_is_planned_with_its_model_unless_presets_are_named(capsys, tmp_path):
    path = tmp_path / "x.yaml"
    plain = {"name": "x", "corpus": "c", "num_steps": 10, "model": {"preset": "nano", "num_raw_heads": 2}, "precision": "fp32"}
    path.write_text(yaml.safe_dump(plain))
    found = planned(capsys, path, "--devices", "2", "rows_per_step=32")
    assert [(plan["size"], plan["symbols"]) for plan in found["plans"]] == [("x", 10 * 32 * 1024)]
    assert found["ids"] == 320
    assert list(found["plans"][0]["stages"]) == ["0", "1", "2", "3"]
    settings = validate(RunSettings, {**plain, "zero": {"stage": 2}}, "test")
    assert {**found["plans"][0]["stages"]["2"], "fits": None} == {**device_memory(settings, 320, 2, "cuda"), "fits": None}
    with_heads = num_parameters(ModelSettings(preset="micro", num_raw_heads=2), 320).total
    assert planned(capsys, path, "--preset", "micro", "--devices", "2")["plans"][0]["parameters"] == with_heads


def test_ids_come_from_the_views_that_are_there(capsys, tiny_run):
    config = tiny_run.write(tiny_run.settings("planned"))
    assert planned(capsys, config, "--devices", 2)["ids"] == 320 + 256
    missing = tiny_run.write(tiny_run.settings("planned-missing", views={"spm": "nowhere/spm"}))
    assert "give --ids" in refused(capsys, missing, "--devices", 2)
    assert planned(capsys, missing, "--devices", 2, "--ids", 8512)["ids"] == 8512


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "tpu"], "unknown device 'tpu'; known: a100-40, a100, h100, h200, cpu, other"),
        (["--device", "other"], "--memory-gib and --peak-tflops"),
        (["--memory-gib", "3"], "--device other"),
        (["--peak-tflops", "-1"], "--peak-tflops -1.0"),
        (["--share-of-peak", "40"], "at most 1"),
        (["--preset", "2b"], "unknown preset '2b'"),
        (["--devices", "8,0"], "--devices '0'"),
        (["--ids", "5"], "bytes and specials alone are 320"),
        (["a.yaml", "b.yaml"], "one run is planned"),
        (["rows_per_stepp=3"], "did you mean 'rows_per_step'"),
    ],
)
def test_wrong_requests_give_one_sentence(capsys, words, said):
    assert said in refused(capsys, *words)


def test_the_table_for_people_and_no_torch(capsys):
    assert main(["plan", "--device", "other", "--memory-gib", "24", "--peak-tflops", "100", "--preset", "0.5b", "--devices", "8"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"size +parameters +devices +ZeRO 1 +ZeRO 2 +ZeRO 3 +fits +days +checkpoint", shown)
    assert re.search(r"0\.5b +0\.605 B +8 +\d+\.\d +\d+\.\d +\d+\.\d +from 1 ", shown)
    script = "import sys; from proxy_lm.cli import main; main(['plan', '--json']); sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_this_machine_can_be_planned_for(capsys):
    found = planned(capsys, "--device", "cpu", "--preset", "nano", "--devices", "1", "precision=fp32", "row_length=512")
    assert found["device"]["peak_flops"] > 1e8
    assert found["plans"][0]["fits_from"] == 0


# ---- formulas small enough to do by hand


def test_seconds_and_host_bytes_by_hand():
    assert compute_seconds(8e15, 8, 1e12, 0.5) == 2000.0
    settings = validate(RunSettings, {"name": "x", "corpus": "c", "num_steps": 3}, "test")
    assert building_bytes(settings, 320, 8) == 8 * 4 * num_parameters(ModelSettings(), 320).total
    assert DEVICES["h100"].peak_flops("bf16") > 10 * DEVICES["h100"].peak_flops("fp32")


@pytest.mark.parametrize(
    ("checkpoint", "fewest", "most"),
    [
        ({}, 1, 3),  # by the clock: one is sure, two are kept and one is being written
        ({"every_steps": 50}, 2, 3),
        ({"every_steps": 10, "keep_last": 4}, 5, 5),
        ({"every_steps": 10, "keep_every": 20}, 3, 8),
    ],
)
def test_checkpoints_that_are_sure_to_come_and_that_are_kept(checkpoint, fewest, most):
    settings = validate(RunSettings, {"name": "x", "corpus": "c", "num_steps": 100, "checkpoint": checkpoint}, "test")
    assert kept_checkpoints(settings, 100) == (fewest, most)


def test_another_stage_of_a_run_or_none_where_it_is_refused():
    bf16 = validate(RunSettings, {"name": "x", "corpus": "c", "num_steps": 3, "precision": "bf16"}, "test")
    assert at_stage(bf16, 0) is None
    stage3 = at_stage(bf16, 3)
    assert stage3 is not None
    assert stage3.zero.stage == 3
    offloaded = validate(
        RunSettings, {"name": "x", "corpus": "c", "num_steps": 3, "zero": {"stage": 3, "offload_parameters": "cpu"}}, "test"
    )
    assert at_stage(offloaded, 2) is None
