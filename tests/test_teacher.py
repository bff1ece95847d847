"""A byte model teaches raw bytes: the loss is the cross entropy of mixed targets, rows are the model's, runs repeat to the last bit.

Expected values come from torch's own cross entropy in double precision, and from a twin that asks the model byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from compressors.neural.counts import CountModel
from compressors.neural.models import TOTAL, load_model, save_model
from compressors.neural.static import StaticModel
from proxy_lm.config import validate
from proxy_lm.data.curves import Curve
from proxy_lm.data.soft_targets import TeacherSettings, check_teacher
from proxy_lm.errors import RequestError
from proxy_lm.model import loss as loss_module
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.loss import OutputHead
from proxy_lm.model.settings import ModelSettings
from proxy_lm.neural_training import network_of
from proxy_lm.train.__main__ import main
from proxy_lm.train.engine import Ranks
from proxy_lm.train.inputs import open_inputs
from proxy_lm.train.launch import detect
from proxy_lm.train.preflight import _shared_settings
from proxy_lm.train.settings import RunSettings
from proxy_lm.train.validate import Validation
from proxy_lm.vocabulary import RAW_CODE, RAW_VOCABULARY_SIZE

WIDTH, IDS = 16, 384


@pytest.fixture(scope="module")
def model_folder(tiny_run):
    """A count model of the train split."""
    folder = tiny_run.folder / "teacher" / "model"
    train = [tiny_run.corpus.document(i) for i in tiny_run.corpus.splits["train"]]
    save_model(CountModel.train(train, max_nodes=4096, num_starts=1 << 16), folder, {"training": {"cpu_seconds": 1.5}})
    return folder


@pytest.fixture(scope="module")
def settings_of(tiny_run, model_folder):
    """`settings_of(name, weight=1.0, **changes)`: plain settings of a run with that teacher; without one for weight None."""

    def settings(name, weight=1.0, **changes):
        teacher = {"model": str(model_folder), "weight": weight} if weight is not None else None
        return tiny_run.settings(f"teacher-{name}", teacher=teacher, **changes)

    return settings


def lines(tiny_run, name):
    path = tiny_run.folder / "runs" / f"teacher-{name}" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def digest_of_weights(tiny_run, name, step):
    folder = tiny_run.folder / "runs" / f"teacher-{name}" / "checkpoints" / f"step-{step}"
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(("share", "num_positions"), [(1.0, 1), (1.0, 200), (0.3, 200)])
def test_equals_cross_entropy_of_mixed_targets_in_double_precision(monkeypatch, share, num_positions):
    """Several chunks; positions that do not count, are not taught, have weights; most of them left out, or few."""
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", {"cpu": 1})
    monkeypatch.setattr(loss_module, "MIN_CHUNK_POSITIONS", 64)
    generator = torch.Generator().manual_seed(num_positions)
    head = OutputHead(WIDTH, IDS)
    with torch.no_grad():
        head.weight.copy_(torch.randn(IDS, WIDTH, generator=generator))
    hidden = torch.randn(num_positions, WIDTH, generator=generator).requires_grad_()
    is_taught = torch.arange(num_positions) % 3 != 1
    targets = torch.where(
        is_taught,
        torch.randint(0, 256, (num_positions,), generator=generator),
        torch.randint(0, IDS, (num_positions,), generator=generator),
    )
    counts = torch.rand(num_positions, generator=generator) < share
    weights = torch.rand(num_positions, generator=generator)
    soft = (torch.rand(num_positions, 256, generator=generator) ** 8 * 200).int() + 1
    soft[:, 7] += TOTAL - soft.sum(1)
    soft = (soft * is_taught.unsqueeze(1)).numpy().astype(np.uint16)
    assert set(soft.sum(1, dtype=np.int64)) <= {0, TOTAL}

    total, nll = head(hidden, targets, counts, weights, torch.from_numpy(soft), 0.7)
    (3.0 * total).backward()

    leaf, matrix = (x.detach().double().requires_grad_() for x in (hidden, head.weight))
    mixed = F.one_hot(targets, IDS).double()
    mixed[is_taught] *= 1 - 0.7
    mixed[:, :256] += 0.7 * torch.from_numpy(soft.astype(np.float64) / TOTAL)
    logits = leaf @ matrix.t()
    expected = (F.cross_entropy(logits, mixed, reduction="none") * counts * weights).sum()
    (3.0 * expected).backward()
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(nll.double(), F.cross_entropy(logits, targets, reduction="none") * counts, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(hidden.grad.double(), leaf.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.weight.grad.double(), matrix.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_left_of_equal_distributions_survives_in_short_dtypes(dtype):
    """Student and teacher agree to a hundredth; rounded before it is taken, the difference would be noise."""
    generator = torch.Generator().manual_seed(0)
    q = torch.full((64, 256), 20.0)
    q[:, 3] = TOTAL - 255 * 20
    head = OutputHead(256, 320).to(dtype)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:256] = torch.eye(256)
    hidden = (torch.log(q / TOTAL) + 0.01 * torch.randn(64, 256, generator=generator)).to(dtype).requires_grad_()
    total, _ = head(
        hidden, torch.full((64,), 3), torch.ones(64, dtype=torch.bool), None, torch.from_numpy(q.numpy().astype(np.uint16)), 1.0
    )
    total.backward()
    p = torch.softmax(torch.cat((hidden.detach().double(), torch.zeros(64, 64)), dim=1), dim=1)[:, :256]
    torch.testing.assert_close(hidden.grad.double(), p - q.double() / TOTAL, rtol=0.02, atol=2e-5)


@pytest.mark.parametrize("packing", ["cut", "fit"])
def test_rows_equal_a_twin_that_asks_the_model_byte_by_byte(tiny_run, settings_of, model_folder, packing):
    """Raw documents, pairs, splices and middles; rows that begin in a document and rows that hold several."""
    mix = {"rate": 0.2, "pair": 0.3, "fim": {"rate": 0.3}}
    model = {"preset": None, "width": 32, "depth": 2, "num_heads": 2, "hidden": 64, "num_raw_heads": 2}
    plain = settings_of(f"rows-{packing}", 0.5, mix=mix, model=model, packing=packing, row_length=700, num_steps=2)
    inputs = open_inputs(validate(RunSettings, plain, "test"), 1, verify=True)
    batch = inputs.reader.read(range(3, 11))
    assert batch.soft is not None
    assert batch.soft.shape == (8, 703, 256)
    assert batch.soft_weight == 0.5
    teacher = load_model(model_folder)
    taught = untaught = 0
    for row in range(8):
        said, asked = b"", True  # raw text since the segment began; whether nothing else stands before it
        for t in range(701):
            if t and batch.segments[row, t] != batch.segments[row, t - 1]:
                said, asked = b"", True
            is_raw = batch.views[row, t] == RAW_CODE and batch.segments[row, t] >= 0
            if is_raw and asked:
                expected = teacher.after(np.frombuffer(said, np.uint8)[None])[0]
                assert np.array_equal(batch.soft[row, t], expected), (row, t)
                said += bytes([batch.ids[row, t]])
                taught += 1
            else:
                assert not batch.soft[row, t].any(), (row, t)
                untaught += is_raw
                # What is no raw text ends a stretch, unless none has begun: sentinels may stand before it.
                asked = asked and not said and batch.views[row, t] in (RAW_CODE, 255)
    assert taught > 1000
    assert untaught > 100
    assert not batch.soft[:, 701:].any()  # the lookahead of the other heads


def test_nothing_is_asked_while_the_weight_is_zero(settings_of):
    inputs = open_inputs(validate(RunSettings, settings_of("zero", [[0, 0], [0.5, 0], [1, 1]], num_steps=4), "test"), 1, verify=False)
    read = [inputs.reader.read(range(8 * step, 8 * step + 2)) for step in range(4)]
    assert [batch.soft_weight for batch in read] == [0, 0, 0, 0.5]
    assert [batch.soft is None for batch in read] == [True, True, True, False]
    assert "model" not in vars(open_inputs(inputs.settings, 1, verify=False).teacher)  # nor is the model read before it is asked


CURVE = [[0, 1.0], [1, 0.3]]
RAW_ONLY = {"views": {}, "mix": {}, "checkpoint": {"every_steps": 5, "every_seconds": None}, "shuffle_rows": 8}
CHILD = Path(__file__).with_name("several_runs.py")


def train_several(tiny_run, *settings, ranks=1):
    tiny_run.train(*(tiny_run.write(plain) for plain in settings), ranks=ranks, script=CHILD)


@pytest.fixture(scope="module")
def taught(tiny_run, settings_of):
    """Runs of raw bytes on one rank, never interrupted; the configuration of the first."""
    speed = {**RAW_ONLY, "schedule": {"kind": "constant", "warmup_steps": 2}}
    train_several(
        tiny_run,
        settings_of("taught", CURVE, **RAW_ONLY),
        settings_of("none", None, **speed, num_steps=60),
        settings_of("nought", 0.0, **speed),
        settings_of("full", 1.0, **speed, num_steps=60),
    )
    return tiny_run.folder / "teacher-taught.yaml"


@pytest.mark.slow
def test_resumed_equals_uninterrupted_to_the_last_bit_and_another_teacher_is_refused(tiny_run, settings_of, taught, model_folder):
    whole = lines(tiny_run, "taught"), digest_of_weights(tiny_run, "taught", 10)
    run = tiny_run.folder / "runs" / "teacher-taught"
    record = json.loads((run / "run.json").read_text())
    assert record["identity"]["teacher"] == json.loads((model_folder / "model.json").read_text())["fingerprint"]
    assert 0 < record["teacher_seconds"] == pytest.approx(sum(line["teacher_seconds"] for line in whole[0]))
    shutil.rmtree(run / "checkpoints" / "step-10")
    (run / "run.json").unlink()
    other = tiny_run.folder / "teacher" / "other"
    save_model(CountModel.train([b"another text " * 99], num_starts=1000), other)
    assert "was trained with the teacher" in tiny_run.train(taught, f"teacher.model={other}", code=2)
    moved = shutil.copytree(model_folder, tiny_run.folder / "teacher" / "moved")
    assert "continues at step 5" in tiny_run.train(taught, f"teacher.model={moved}")  # the same model in another place
    assert digest_of_weights(tiny_run, "taught", 10) == whole[1]
    again = lines(tiny_run, "taught")
    assert [line["loss_hex"] for line in again] == [line["loss_hex"] for line in whole[0]]
    assert [line["objective"] for line in again] == [line["objective"] for line in whole[0]]


@pytest.mark.slow
def test_two_ranks_equal_one(tiny_run, settings_of, taught):
    """fp32 to rounding, bf16 on ZeRO 3 nearly: the same rows are taught the same."""
    short = {"zero": {"stage": 3}, "precision": "bf16"}
    train_several(tiny_run, settings_of("two", CURVE, **RAW_ONLY), settings_of("short", CURVE, **RAW_ONLY, **short), ranks=2)
    one = lines(tiny_run, "taught")
    for name, tolerance in (("two", 1e-5), ("short", 2e-2)):
        two = lines(tiny_run, name)
        for number in ("loss_nats", "objective"):
            np.testing.assert_allclose([line[number] for line in two], [line[number] for line in one], rtol=tolerance)
    assert one[0]["objective"] != pytest.approx(one[0]["loss_nats"], rel=1e-4)


@pytest.mark.slow
def test_a_weight_of_zero_is_no_teacher_and_a_teacher_teaches(tiny_run, taught):
    """The same rows, steps and weights at step 0: bits per byte on the valid split, which the teacher has not read."""
    none, nought = (lines(tiny_run, name) for name in ("none", "nought"))
    assert [line["loss_hex"] for line in nought] == [line["loss_hex"] for line in none[:10]]
    assert nought[-1]["teacher_seconds"] == 0
    assert "teacher_seconds" not in none[-1]
    records = [json.loads((tiny_run.folder / "runs" / f"teacher-{name}" / "run.json").read_text()) for name in ("none", "full")]
    without, taught_valid = (record["validation"][-1]["bits_per_byte"]["raw"] for record in records)
    assert taught_valid < without - 0.02


LEAD = {**RAW_ONLY, "validation": {"every_steps": 2, "max_bytes": 2000}}


@pytest.fixture(scope="module")
def led(tiny_run, settings_of, model_folder):
    """A run whose teacher's lead is lost on the way, and one whose teacher, of another text, has none from the start."""
    other = tiny_run.folder / "teacher" / "behind"
    save_model(CountModel.train([b"\x00\x01\x02" * 99], num_starts=1000), other)
    train_several(
        tiny_run,
        settings_of("lead", **LEAD) | {"teacher": {"model": str(model_folder), "weight": CURVE, "lead": 4.4}},
        settings_of("behind", **LEAD) | {"teacher": {"model": str(other), "weight": 0.01, "lead": 0.1}},
    )
    return tiny_run.folder / "teacher-lead.yaml"


@pytest.mark.slow
def test_the_teacher_is_heard_as_long_as_it_leads_on_the_valid_rows(tiny_run, settings_of, taught, led, model_folder):
    record = json.loads((tiny_run.folder / "runs" / "teacher-lead" / "run.json").read_text())
    watched = record["validation"]
    inputs = open_inputs(validate(RunSettings, settings_of("lead", 1.0, **LEAD), "test"), 1, verify=False)
    assert watched[0]["teacher_bits_per_byte"] == pytest.approx(own_bits(inputs, load_model(model_folder)), rel=1e-9)
    leads = [now["bits_per_byte"]["raw"] - now["teacher_bits_per_byte"] for now in watched]
    assert [now["teacher_done"] for now in watched] == [min(leads[: k + 1]) < 4.4 for k in range(5)]
    taught_steps = 2 * next(k + 1 for k, lead in enumerate(leads) if lead < 4.4)
    assert 2 <= taught_steps < 10
    expected = [1 - 0.7 * step / 10 if step < taught_steps else 0.0 for step in range(10)]
    assert [line["teacher_weight"] for line in lines(tiny_run, "lead")] == pytest.approx(expected, rel=1e-12)
    # Beside the run without a lead: other targets in the step after the lead was lost, other weights from there on.
    without, ours = lines(tiny_run, "taught"), lines(tiny_run, "lead")
    assert [a["objective"] == b["objective"] for a, b in zip(without, ours, strict=True)] == [step < taught_steps for step in range(10)]
    assert [a["loss_hex"] == b["loss_hex"] for a, b in zip(without, ours, strict=True)] == [step <= taught_steps for step in range(10)]


def own_bits(inputs, model):
    """What the model has of the raw rows that a validation reads, asked byte by byte."""
    found = []
    validation = Validation(inputs, Ranks(detect({}), timeout_seconds=1.0))
    for row in validation.rows["raw"]:
        batch = validation.readers["raw"].read([row])
        said = b""
        for t in range(inputs.settings.row_length + 1):
            if t and batch.segments[0, t] != batch.segments[0, t - 1]:
                said = b""
            if batch.views[0, t] == RAW_CODE:
                byte = batch.ids[0, t]
                if t:
                    found.append(-np.log2(model.after(np.frombuffer(said, np.uint8)[None])[0][byte] / TOTAL))
                said += bytes([byte])
    return np.mean(found)


@pytest.mark.slow
def test_a_teacher_without_a_lead_is_not_asked_again(tiny_run, led):
    record = json.loads((tiny_run.folder / "runs" / "teacher-behind" / "run.json").read_text())
    assert all(now["teacher_done"] for now in record["validation"])
    seconds = [line["teacher_seconds"] for line in lines(tiny_run, "behind")]
    assert all(seconds[:2])
    assert not any(seconds[6:])  # four steps may have been read ahead
    weights = [line["teacher_weight"] for line in lines(tiny_run, "behind")]
    assert weights == [0.01] * 2 + [0.0] * 8


@pytest.mark.slow
def test_a_run_with_a_lead_continues_to_the_last_bit_under_the_same_validation_alone(tiny_run, led):
    run = tiny_run.folder / "runs" / "teacher-lead"
    whole = lines(tiny_run, "lead"), digest_of_weights(tiny_run, "lead", 10)
    shutil.rmtree(run / "checkpoints" / "step-10")
    (run / "run.json").unlink()
    assert "validation.every_steps: 2 -> 3" in tiny_run.train(led, "validation.every_steps=3", code=2)
    assert "continues at step 5" in tiny_run.train(led)
    assert digest_of_weights(tiny_run, "lead", 10) == whole[1]
    again = lines(tiny_run, "lead")
    assert [line["objective"] for line in again] == [line["objective"] for line in whole[0]]
    assert [line["teacher_weight"] for line in again] == [line["teacher_weight"] for line in whole[0]]


def test_ranks_whose_folders_differ_agree_where_the_model_is_the_same(settings_of, model_folder, tmp_path):
    """What the preflight compares."""

    def shared(folder):
        plain = {**settings_of("agree"), "teacher": {"model": str(folder), "weight": 0.5}}
        return _shared_settings(open_inputs(validate(RunSettings, plain, "test"), 1, verify=False))

    other = tmp_path / "other"
    save_model(StaticModel.train([b"another text"]), other)
    assert shared(shutil.copytree(model_folder, tmp_path / "moved")) == shared(model_folder)
    assert shared(other) != shared(model_folder)


def test_what_cannot_teach_is_refused_before_anything_is_read(tiny_run, settings_of, model_folder, tmp_path, capsys):
    """By the program itself, in the words that a user reads."""

    def told(changes, *words):
        config = tiny_run.write(settings_of("refused", 0.5, **changes))
        assert main([str(config), "--dry-run", *words]) == 2
        return capsys.readouterr().err

    assert "there is no byte model in" in told({}, f"teacher.model={tmp_path}")
    assert "a share is a number from 0 to 1" in told({}, "teacher.weight=true")
    assert "share 1.5 is outside 0..1" in told({}, "teacher.weight=1.5")
    assert "greater than 0" in told({}, "teacher.lead=0")
    assert "this run has no such rows or no validation before its end (validation.every_steps=None" in told({}, "teacher.lead=1")
    assert "use sequence_parallel=1, or take the teacher out" in told({"sequence_parallel": 2})
    damaged = shutil.copytree(model_folder, tmp_path / "damaged")
    data = bytearray((damaged / "counts.bin").read_bytes())
    data[1000] ^= 1
    (damaged / "counts.bin").write_bytes(data)
    plain = validate(RunSettings, {**settings_of("refused"), "teacher": {"model": str(damaged), "weight": 1}}, "test")
    with pytest.raises(RequestError, match=r"counts\.bin has not the digest that model\.json records"):
        open_inputs(plain, 1, verify=True)


def test_a_model_whose_rows_depend_on_the_machine_is_refused(tmp_path):
    sizes = ModelSettings(preset=None, width=16, depth=1, num_heads=1, hidden=16)
    save_model(network_of(Decoder(sizes, RAW_VOCABULARY_SIZE, 64, seed=3), 60), tmp_path)
    with pytest.raises(RequestError, match=r"of kind 'network', whose rows depend on the machine.*teach with one of kind 'counts'"):
        check_teacher(TeacherSettings(model=str(tmp_path), weight=Curve.constant(1.0)))
