"""`proxy-lm verify RUN`: a whole run passes, every kind of damage is named and ends in exit code 1, and what would be resumed is said."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from proxy_lm.cli import main
from proxy_lm.errors import RequestError
from proxy_lm.train.verify_run import verify_run

STEPS = 8


@pytest.fixture(scope="module")
def trained(tiny_run) -> Path:
    """A finished run with the checkpoints of steps 3, 6 and 8."""
    settings = tiny_run.settings("verified", num_steps=STEPS, checkpoint={"every_steps": 3, "keep_last": 9})
    tiny_run.train(tiny_run.write(settings))
    return tiny_run.folder / "runs" / "verified"


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def metrics(run: Path) -> list[bytes]:
    return (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.slow
def test_a_whole_run_has_no_damage_and_is_told_to_the_last_line(run):
    report = verify_run(run)
    assert report["damage"] == report["warnings"] == report["leftovers"] == []
    assert (report["status"], report["num_steps"], report["metrics"]) == (
        "finished",
        STEPS,
        {"lines": STEPS, "last_step": STEPS, "discarded_steps": []},
    )
    assert [(entry["step"], entry["valid"], entry["world_size"]) for entry in report["checkpoints"]] == [
        (3, True, 1),
        (6, True, 1),
        (8, True, 1),
    ]
    assert report["inputs"] == {"checked": True, "steps_compared": STEPS}
    assert report["resume"] == {"step": STEPS, "says": "finished: the same command says so and does nothing"}
    assert verify_run(run, steps_compared=3)["inputs"]["steps_compared"] == 3
    assert verify_run(run, with_inputs=False)["inputs"] == {"checked": False}


@pytest.mark.slow
def test_run_json_says_all_that_is_needed_to_repeat_the_run(run):
    record = json.loads((run / "run.json").read_text())
    assert Path(record["settings"]["corpus"]).is_dir()
    assert record["settings"]["seed"] == record["seed"] == record["seeds"]["run"] == 0
    assert set(record["identity"]) == {"corpus", "views", "vocabulary", "plan"}
    assert len(record["identity"]["corpus"]) == len(record["identity"]["views"]["gzip"]) == len(record["identity"]["plan"]) == 64
    assert set(record["fingerprints"]) == {"gzip"}
    assert {"proxy_lm", "python", "torch", "deepspeed", "numpy", "numba", "zstandard"} <= set(record["versions"])
    assert record["versions"]["deepspeed"].startswith("0.19")
    assert record["git"] is None or len(record["git"]["commit"]) == 40
    assert record["machine"]["num_cores"] >= 1
    assert record["machine"]["environment"]["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"]
    assert [(start["step"], start["world_size"]) for start in record["starts"]] == [(0, 1)]
    assert (record["world_size"], record["device"], record["status"]) == (1, "cpu", "finished")


@pytest.mark.slow
def test_the_dry_run_says_the_same_before_the_run(run, capsys):
    from proxy_lm.train.__main__ import main as train

    record = json.loads((run / "run.json").read_text())
    config = str(run / "config.yaml")
    assert train([config, "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["record"]
    for key in ("settings", "config_digest", "identity", "fingerprints", "versions", "seeds", "num_steps", "vocabulary"):
        assert said[key] == record[key], key
    assert train([config, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"plan {record['identity']['plan'][:12]}, settings {record['config_digest'][:12]}, seed 0" in shown
    assert f"deepspeed {record['versions']['deepspeed']}" in shown


@pytest.mark.slow
def test_damage_of_every_kind_is_named(run):
    spoiled = {
        "a bit of the optimizer": lambda: flip(run / "checkpoints/step-6/engine/zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        "a bit of the weights": lambda: flip(run / "checkpoints/step-3/model.safetensors"),
        "another seed": lambda: change(run / "run.json", settings={**json.loads((run / "run.json").read_text())["settings"], "seed": 5}),
        "the engine's settings": lambda: change(run / "deepspeed.json", train_batch_size=99),
    }
    for spoil in spoiled.values():
        spoil()
    damage = verify_run(run, with_inputs=False)["damage"]
    for wanted in (
        "checkpoint step-6: engine/zero_pp_rank_0_mp_rank_00_optim_states.pt has digest",
        "checkpoint step-3: model.safetensors has digest",
        "run.json: the settings do not match config_digest",
        "config.yaml and run.json say different settings",
        "deepspeed.json is not the one that run.json names",
        "checkpoint step-8 has other settings than run.json: seed: 0 -> 5",
    ):
        assert any(sentence.startswith(wanted) for sentence in damage), (wanted, damage)
    assert len(damage) == 6


@pytest.mark.slow
def test_metrics_are_checked_line_by_line(run):
    whole = metrics(run)
    other = json.loads(whole[4])

    def damage_of(lines: list[bytes]) -> list[str]:
        (run / "metrics.jsonl").write_bytes(b"".join(lines))
        return verify_run(run, steps_compared=99)["damage"]

    assert damage_of(whole) == []
    assert damage_of(whole[:4] + whole[5:]) == ["metrics.jsonl: step 6 follows step 4"]
    assert damage_of([*whole[:5], whole[4], *whole[5:]]) == ["metrics.jsonl: step 5 follows step 5"]
    assert damage_of(whole[:-1])[0] == f"metrics.jsonl ends at step {STEPS - 1}, before the checkpoint of step {STEPS}"
    assert "ends in the middle of a line" in damage_of([*whole[:-1], whole[-1][:-1]])[0]
    assert "line 5 is not the line of a step" in damage_of([*whole[:4], b'{"step": 5}\n', *whole[5:]])[0]
    wrong_loss = json.dumps(other | {"loss_nats": other["loss_nats"] + 1}).encode() + b"\n"
    assert "line 5 is not the line of a step (ValueError: loss_nats" in damage_of([*whole[:4], wrong_loss, *whole[5:]])[0]
    for digest in ("batch_digest", "rows_digest"):  # what the plan held, and what the ranks really read
        other_rows = json.dumps(other | {digest: "0" * len(other[digest])}).encode() + b"\n"
        assert damage_of([*whole[:4], other_rows, *whole[5:]]) == [
            "metrics.jsonl: step 5 was not trained on the rows that the plan has for it"
        ]
    symbols = json.dumps(other | {"total_symbols": 7}).encode() + b"\n"
    assert damage_of([*whole[:4], symbols, *whole[5:]]) == ["metrics.jsonl: step 5 does not have 512 symbols more than the one before"]
    sixth = json.loads(whole[5])
    loss = sixth["loss_nats"] + 1
    exchanged = json.dumps(sixth | {"loss_nats": loss, "loss_hex": loss.hex()}).encode() + b"\n"
    assert "step 6 has loss " in damage_of([*whole[:5], exchanged, *whole[6:]])[0]
    (run / "metrics.jsonl").unlink()
    assert "metrics.jsonl is missing" in verify_run(run)["damage"]


@pytest.mark.slow
def test_discarded_steps_must_be_told_of_and_no_others(run):
    whole = metrics(run)
    discarded = json.dumps(json.loads(whole[4]) | {"discarded": "spike"}).encode() + b"\n"
    (run / "metrics.jsonl").write_bytes(b"".join([*whole[:4], discarded, *whole[5:]]))
    report = verify_run(run, with_inputs=False)
    assert report["metrics"]["discarded_steps"] == [5]
    assert report["damage"] == ["faults.jsonl: step 5 was discarded and is not told of"]
    told = b'{"step": 5, "event": "discarded", "why": "spike"}\n{"step": 5, "event": "rolled back", "to": 3}\n{"step": 6, "ev'
    (run / "faults.jsonl").write_bytes(told)
    assert verify_run(run, with_inputs=False)["damage"] == []
    (run / "metrics.jsonl").write_bytes(b"".join(whole))
    said = verify_run(run, with_inputs=False)["damage"]
    assert said == ["faults.jsonl: step 5 is told of and metrics.jsonl does not say that it was discarded"]


@pytest.mark.slow
def test_an_unfinished_run_says_where_it_would_go_on(run):
    change(run / "run.json", status="running")
    shutil.rmtree(run / "checkpoints" / "step-8")
    (run / "checkpoints" / "step-9.tmp").mkdir()
    (run / "universal.tmp").mkdir()
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 9, "loss')
    report = verify_run(run, with_inputs=False)
    assert report["damage"] == []
    assert report["leftovers"] == ["checkpoints/step-9.tmp", "universal.tmp"]
    assert report["warnings"] == [
        "metrics.jsonl ends in the middle of a line; the next start cuts it off",
        "run.json says running and nobody holds the run's lock: it was killed, or its machine went down",
    ]
    assert report["resume"]["step"] == 6
    assert report["resume"]["says"] == "the same command continues at step 6, written by 1 rank (other numbers by conversion)"
    flip(run / "checkpoints" / "step-6" / "model.safetensors")
    assert verify_run(run, with_inputs=False)["resume"]["says"].startswith(
        "the same command continues at step 3, past 1 damaged newer checkpoint"
    )
    flip(run / "checkpoints" / "step-3" / "model.safetensors")
    assert verify_run(run, with_inputs=False)["resume"] == {
        "step": None,
        "says": "the same command is refused: there are checkpoints and none is valid",
    }
    shutil.rmtree(run / "checkpoints")
    assert verify_run(run, with_inputs=False)["resume"]["step"] == 0


@pytest.mark.slow
def test_other_inputs_are_damage_and_absent_ones_a_warning(run, tmp_path):
    record = json.loads((run / "run.json").read_text())
    shutil.copytree(record["settings"]["corpus"], tmp_path / "corpus")

    def moved(corpus: Path) -> dict:
        settings = {**record["settings"], "corpus": str(corpus)}
        from compressors.files import digest_of
        from proxy_lm.config import dump_yaml, validate
        from proxy_lm.train.settings import RunSettings

        change(run / "run.json", settings=settings, config_digest=digest_of(settings))
        (run / "config.yaml").write_text(dump_yaml(validate(RunSettings, settings, "test")))
        return verify_run(run)

    assert moved(tmp_path / "corpus")["damage"] == []  # the same bytes elsewhere
    flip(tmp_path / "corpus" / "raw.bin")
    assert "raw.bin" in moved(tmp_path / "corpus")["damage"][0]
    gone = moved(tmp_path / "gone")
    assert gone["damage"] == []
    assert gone["inputs"] == {"checked": False, "missing": [f"corpus ({tmp_path / 'gone'})"]}
    assert "not reached from here" in gone["warnings"][0]
    shutil.copytree(record["settings"]["corpus"], tmp_path / "beside")  # `run` was copied here, away from the folder that it names
    assert moved(Path(record["settings"]["out"]).parent / "beside")["inputs"]["checked"]


@pytest.mark.slow
def test_the_command_ends_with_1_on_damage_and_2_where_there_is_no_run(run, tmp_path, capsys):
    assert main(["verify", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["damage"] == []
    assert main(["verify", str(run), "--no-inputs"]) == 0
    said = capsys.readouterr().out
    assert "finished, 8 of 8 steps told" in said
    assert "corpus, views and plan: not checked" in said
    flip(run / "checkpoints" / "step-8" / "model.safetensors")
    assert main(["verify", str(run), "--json"]) == 1
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["damage"]) == 1
    assert "is damaged (1 finding): checkpoint step-8: model.safetensors has digest" in captured.err
    (run / "run.json").write_text("{")
    assert main(["verify", str(run)]) == 1
    assert "Traceback" not in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / "empty")]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "absent")]) == 2
    assert main(["verify", str(run), "--steps", "-1"]) == 2


def test_a_run_that_is_being_trained_is_not_read(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with (tmp_path / "run.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"pid": 41, "host": "here"}))
        file.flush()
        with pytest.raises(RequestError, match=r"is being trained by process 41 on host here"):
            verify_run(tmp_path)
    assert verify_run(tmp_path)["damage"]


def test_settings_that_have_come_since_a_run_was_saved_are_at_their_default(tiny_run):
    from proxy_lm.config import validate
    from proxy_lm.train.provenance import completed
    from proxy_lm.train.settings import RunSettings, changed_settings

    now = validate(RunSettings, tiny_run.settings("saved"), "test").model_dump(mode="json")
    older = {key: value for key, value in now.items() if key not in ("loader", "packing")}
    assert changed_settings(older, now) == ["packing: None -> 'cut'"]  # what a run of before `packing` was once refused for
    assert completed(older) == now
    unknown = {**older, "packed": "cut"}
    assert completed(unknown) == unknown
