"""How a run is started and refused: launchers, DeepSpeed's own words and files, and one sentence for every wrong request."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from proxy_lm.config import load, validate
from proxy_lm.data.corpus import build_small
from proxy_lm.errors import RequestError
from proxy_lm.train.__main__ import main, parse
from proxy_lm.train.deepspeed_config import adopt, complete, derive, read_user_json
from proxy_lm.train.launch import detect, first_host, free_port
from proxy_lm.train.settings import RunSettings, changed_settings, num_steps, step_shape


def settings_of(**changes) -> RunSettings:
    return validate(RunSettings, {"name": "x", "corpus": "c", "num_steps": 3, "rows_per_step": 16, "rows_per_device": 2, **changes}, "test")


# ---- words


@pytest.mark.parametrize(
    ("words", "config", "overrides", "deepspeed"),
    [
        (["x.yaml"], "x.yaml", [], None),
        (["--local_rank=1", "x.yaml", "a.b=c"], "x.yaml", ["a.b=c"], None),
        (["--local-rank", "1", "x.yaml", "--a.b=c"], "x.yaml", ["--a.b=c"], None),
        (["x.yaml", "--deepspeed", "ds.json"], "x.yaml", [], "ds.json"),
        (["--deepspeed", "ds.json", "x.yaml", "seed=1"], "x.yaml", ["seed=1"], "ds.json"),
        (["--deepspeed", "x.yaml"], "x.yaml", [], None),
        (["--deepspeed", "--deepspeed_config", "ds.json", "x.yaml"], "x.yaml", [], "ds.json"),
        (["x.yaml", "--deepspeed", "--deepspeed_config=ds.json"], "x.yaml", [], "ds.json"),
        (["a.b=c", "x.yaml", "d=e", "--resume"], "x.yaml", ["a.b=c", "d=e", "resume=must"], None),
    ],
)
def test_every_spelling_of_the_command_line(words, config, overrides, deepspeed):
    read = parse(words)
    assert (str(read.config), read.overrides) == (config, overrides)
    assert (str(read.deepspeed) if read.deepspeed else None) == deepspeed


@pytest.mark.parametrize(
    "words", [[], ["a=b"], ["x.yaml", "y.yaml"], ["x.yaml", "--wat"], ["x.yaml", "--deepspeed=a.json", "--deepspeed_config=b.json"]]
)
def test_words_that_nobody_knows_are_refused(words):
    with pytest.raises(RequestError):
        parse(words)


def test_help_shows_examples_and_imports_no_torch(tiny_run):
    assert "srun" in tiny_run.train("--help", launcher="python")
    script = "import sys; from proxy_lm.train.__main__ import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


# ---- launchers


def test_environments_of_launchers():
    one: dict[str, str] = {}
    assert detect(one).world_size == 1
    assert one["MASTER_ADDR"] == "127.0.0.1"
    two = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1", "LOCAL_SIZE": "2", "CROSS_SIZE": "1"}
    assert (detect(two).rank, detect(two).how) == (1, "the DeepSpeed launcher")
    slurm = {
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_NODELIST": "gpu[03-05,9]",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
        "SLURM_JOB_ID": "41234",
    }
    launch = detect(slurm)
    assert (launch.rank, launch.local_rank, launch.world_size, launch.local_world_size, launch.how) == (5, 1, 8, 4, "srun")
    assert (slurm["MASTER_ADDR"], slurm["MASTER_PORT"]) == ("gpu03", "21234")
    assert slurm["RANK"] == "5"
    assert "GLOO_SOCKET_IFNAME" not in slurm


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a", "a"), ("a,b", "a"), ("n[1-3]", "n1"), ("n[07,9]-ib", "n07-ib"), ("n[07,9]-ib,m", "n07-ib"), ("dgx-01,dgx-02", "dgx-01")],
)
def test_first_host_of_a_slurm_list(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0"},
        {"RANK": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
        {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
    ],
)
def test_half_an_environment_is_refused(environment):
    with pytest.raises(RequestError):
        detect(environment)


@pytest.mark.slow
def test_torchrun_and_srun_train_the_same_with_deepspeed_files(tiny_run):
    """Two real ranks each way, with a DeepSpeed JSON in both spellings; the losses are those of two equal runs."""
    ds = tiny_run.folder / "ds.json"
    ds.write_text(
        json.dumps({"train_batch_size": "auto", "zero_optimization": {"stage": 2, "overlap_comm": False}, "gradient_clipping": "auto"})
    )
    short = {"num_steps": 3, "validation": {"max_bytes": 0}}
    tiny_run.train(tiny_run.write(tiny_run.settings("t", **short)), "--deepspeed", ds, ranks=2, launcher="torchrun")
    config = tiny_run.write(tiny_run.settings("s", **short))
    port = str(free_port())
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_TASKS_PER_NODE": "2", "MASTER_PORT": port}
    words = ("--deepspeed", "--deepspeed_config", ds, config)
    ranks = [tiny_run.start(*words, launcher="python", SLURM_PROCID=str(k), SLURM_LOCALID=str(k), **slurm) for k in (0, 1)]
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert "2 ranks" in outputs[0]
    texts = [(tiny_run.folder / "runs" / name / "metrics.jsonl").read_text() for name in "ts"]
    one, two = ([json.loads(line)["loss_hex"] for line in text.splitlines()] for text in texts)
    assert len(one) == 3
    assert one == two
    saved = load(RunSettings, tiny_run.folder / "runs" / "t" / "config.yaml")
    assert saved.zero.stage == 2
    assert json.loads((tiny_run.folder / "runs" / "t" / "deepspeed.json").read_text())["train_batch_size"] == 8


# ---- the DeepSpeed dict


def test_every_silent_default_is_spoken():
    config = derive(settings_of(), step_shape(settings_of(), 4))
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (16, 2, 2)
    assert config["gradient_clipping"] == 1.0
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert config["checkpoint"]["tag_validation"] == "Fail"
    assert config["steps_per_print"] > 10**9
    assert {"reduce_bucket_size", "allgather_bucket_size"} <= set(config["zero_optimization"])
    assert "auto" not in json.dumps(config).replace("auto_cast", "").replace("torch_autocast", "")


def test_a_users_json_fills_what_the_yaml_leaves_open():
    user = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": "auto",
        "bf16": {"enabled": True},
        "zero_optimization": {
            "stage": 3,
            "stage3_prefetch_bucket_size": "auto",
            "overlap_comm": True,
            "offload_optimizer": {"device": "cpu"},
        },
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.95], "eps": "auto", "weight_decay": "auto"}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}},
        "comms_logger": {"enabled": False},
    }
    open_yaml = validate(RunSettings, {"name": "x", "corpus": "c", "num_steps": 3, "rows_per_step": 16}, "test")
    settings = adopt(open_yaml, user, "ds.json")
    assert (settings.zero.stage, settings.precision, settings.rows_per_device, settings.zero.offload_optimizer) == (3, "bf16", 4, "cpu")
    config = complete(derive(settings, step_shape(settings, 2)), user, "ds.json")
    assert config["zero_optimization"]["overlap_comm"] is True
    assert config["zero_optimization"]["stage3_prefetch_bucket_size"] == settings.zero.reduce_bucket_size
    assert config["comms_logger"] == {"enabled": False}
    assert "optimizer" not in config
    assert "scheduler" not in config


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"train_micro_batch_size_per_gpu": 4}, "rows_per_device"),
        ({"gradient_accumulation_steps": 3}, "gradient_accumulation_steps"),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "only one"),
        ({"optimizer": {"type": "Lamb"}}, "AdamW"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 0.5}}}, "optimizer.learning_rate"),
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}}, "schedule"),
        ({"zero_optimization": {"stage": 1, "zero_hpz_partition_size": "auto"}}, "auto"),
        ({"zero_optimization": {"stage": "two"}}, "stage"),
        ({"fp16": {"enabled": True}, "zero_optimization": {"stage": 0}}, "zero.stage=1"),
    ],
)
def test_contradictions_and_leftover_autos_are_refused(user, words):
    def resolve():
        settings = adopt(settings_of(), user, "ds.json")
        complete(derive(settings, step_shape(settings, 2)), user, "ds.json")

    with pytest.raises(RequestError, match=words):
        resolve()


@pytest.mark.parametrize("user", [{"curriculum_learning": {"enabled": True}}, {"amp": {}}, {"zero_optimization": {"mics_shard_size": 2}}])
def test_keys_that_deepspeed_removed_are_refused_by_name(user, tmp_path):
    (tmp_path / "ds.json").write_text(json.dumps(user))
    with pytest.raises(RequestError, match="has removed"):
        read_user_json(tmp_path / "ds.json")


@pytest.mark.parametrize("text", ["", "[]", "{", "nope"])
def test_a_file_that_is_no_json_object_is_refused(text, tmp_path):
    (tmp_path / "ds.json").write_text(text)
    with pytest.raises(RequestError):
        read_user_json(tmp_path / "ds.json")


# ---- settings


def test_rows_that_do_not_divide_name_the_numbers_and_a_remedy():
    with pytest.raises(RequestError, match=r"rows_per_step=16 .* rows_per_device=3 .* 2 = 6; rows_per_device can be 1, 2, 4, 8"):
        step_shape(settings_of(rows_per_device=3), 2)
    with pytest.raises(RequestError, match="multiple of 3"):
        step_shape(settings_of(rows_per_device=1), 3)
    assert step_shape(settings_of(), 2).accumulation == 4


def test_a_budget_is_one_of_three_and_becomes_steps():
    assert num_steps(settings_of(num_steps=7), 10) == 7
    of_symbols = settings_of(num_steps=None, num_symbols=16 * 1024 * 3 + 100)
    assert num_steps(of_symbols, 10) == 3
    assert num_steps(settings_of(num_steps=None, training_flops=16 * 1024 * 10 * 4.4), 10) == 4
    for wrong in ({"num_steps": None}, {"num_symbols": 5}):
        with pytest.raises(RequestError, match="exactly one of"):
            settings_of(**wrong)
    assert num_steps(settings_of(num_steps=None, num_symbols=16 * 1024 // 2), 10) == 1
    for less in ({"num_symbols": 16 * 1024 // 2 - 1}, {"training_flops": 1.0}):
        with pytest.raises(RequestError, match="does not pay for one step"):
            num_steps(settings_of(num_steps=None, **less), 10)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"optimizer": {"betas": [0.9, 1.0]}}, "optimizer.betas.1"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas.1"),
        ({"communication": {"timeout_seconds": 1e300}}, "communication.timeout_seconds"),
    ],
)
def test_a_value_that_torch_would_refuse_is_refused_here(values, said):
    with pytest.raises(RequestError, match=f"'{said}'"):
        settings_of(**values)


def test_a_view_is_not_called_raw():
    with pytest.raises(RequestError, match="a view cannot be called 'raw'"):
        settings_of(views={"raw": "gzip"})


def test_changes_that_matter_are_listed_and_the_others_are_not():
    old = settings_of().model_dump(mode="json")
    safe = settings_of(name="y", rows_per_device=4, checkpoint={"every_steps": 9}, logging={"tensorboard": False}).model_dump(mode="json")
    assert changed_settings(old, safe) == []
    assert changed_settings(old, settings_of(seed=3, schedule={"kind": "wsd"}).model_dump(mode="json")) == [
        "schedule.kind: 'cosine' -> 'wsd'",
        "seed: 0 -> 3",
    ]


# ---- one sentence, exit code 2


def refused(capsys, *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_wrong_requests_give_one_sentence(tiny_run, tmp_path, capsys):
    config = tiny_run.write(tiny_run.settings("wrong"))
    assert "did you mean 'rows_per_step'" in refused(capsys, config, "rows_per_stepp=3", "--dry-run")
    assert "leave vocabulary_size out" in refused(capsys, config, "vocabulary_size=320", "--dry-run")
    assert "not a folder" in refused(capsys, config, f"corpus={tmp_path / 'nowhere'}", "--dry-run")
    other = build_small(tmp_path / "other", {"train": [b"other"], "valid": [], "test": []})
    said = refused(capsys, config, f"corpus={other.path}", "--dry-run")
    assert other.digest in said
    assert tiny_run.corpus.digest in said
    assert "could not read" in refused(capsys, tmp_path / "no.yaml")


@pytest.mark.slow
def test_two_ranks_leave_together_with_one_sentence(tiny_run):
    """Damage that only rank 0 looks for: rank 1 must not wait for it."""
    broken = tiny_run.folder / "broken"
    if not broken.exists():
        build_small(broken, {"train": [b"some bytes of a document" * 9], "valid": [], "test": []})
        data = bytearray((broken / "raw.bin").read_bytes())
        data[7] ^= 1
        (broken / "raw.bin").write_bytes(data)
    config = tiny_run.write(tiny_run.settings("broken-run", corpus=str(broken), views={}, mix={}))
    output = tiny_run.train(config, ranks=2, launcher="deepspeed", code=2)
    assert output.count("proxy_lm.train: ") == 1
    assert "damaged" in output
    assert "Traceback" not in output
    assert not (tiny_run.folder / "runs" / "broken-run").exists()


def test_a_dry_run_counts_and_writes_nothing(tiny_run, capsys):
    config = tiny_run.write(tiny_run.settings("dry"))
    before = sorted(Path(tiny_run.folder).rglob("*"))
    assert main([str(config), "--dry-run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["symbols"] == 10 * 8 * 64
    assert report["training_flops"] == report["symbols"] * report["training_flops_per_symbol"]
    assert set(report["memory_bytes_per_device"]) == {"0", "1", "2", "3"}
    assert report["plan"]["num_symbols"] == report["symbols"]
    assert report["deepspeed"]["train_batch_size"] == 8
    assert main([str(config), "--dry-run"]) == 0
    assert "no run folder is written" in capsys.readouterr().out
    assert main([str(config), "--dry-run", "--ranks", "4", "rows_per_device=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["world_size"] == 4
    assert main([str(config), "--ranks", "4"]) == 2
    assert sorted(Path(tiny_run.folder).rglob("*")) == before
