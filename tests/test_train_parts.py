"""The trainer's small parts, by eye: schedules, weights on disk, metric lines, agreement, validation that no world size can change."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from proxy_lm.config import validate
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.train.agreement import agree, is_shared
from proxy_lm.train.collectives import SingleProcess
from proxy_lm.train.schedule import ScheduleSettings, learning_rate
from proxy_lm.train.settings import RunSettings
from proxy_lm.train.weights import write_weights


def rates(num_steps: int, **settings) -> list[float]:
    return [round(learning_rate(ScheduleSettings(**settings), 1.0, step, num_steps), 4) for step in range(num_steps)]


def test_cosine_by_eye():
    assert rates(6, kind="cosine", warmup_steps=1, floor=0.0) == [0.5, 1.0, 0.8536, 0.5, 0.1464, 0.0]
    assert rates(3, kind="cosine", warmup_steps=0, floor=0.1) == [1.0, 0.55, 0.1]


def test_wsd_by_eye():
    assert rates(8, kind="wsd", warmup_steps=1, decay_share=0.5, floor=0.0) == [0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert rates(4, kind="wsd", warmup_share=0, decay_share=0) == [1.0, 1.0, 1.0, 1.0]
    assert rates(2, kind="constant", warmup_share=0) == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 50])
def test_rates_stay_between_nothing_and_the_peak(kind, num_steps):
    assert all(0 < rate <= 1 for rate in rates(num_steps, kind=kind, warmup_share=0.5))


def test_written_weights_are_what_safetensors_reads(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.tensor([0.5]), "none": torch.zeros(0, 4)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_weights(tmp_path / "w", shapes, iter(tensors.items()), {"step": "3"})
    found = load_file(tmp_path / "w")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {name: tensor.tolist() for name, tensor in tensors.items()}
    assert (tmp_path / "w").stat().st_size % 4 == 0


def test_weights_that_are_not_finite_are_refused_after_every_rank_has_gathered(tmp_path):
    asked = []

    def gathered():
        for name, value in (("a", 1.0), ("b", float("nan")), ("c", 2.0)):
            asked.append(name)
            yield name, torch.tensor([value])

    with pytest.raises(WorkError, match="first: b"):
        write_weights(tmp_path / "w", {"a": (1,), "b": (1,), "c": (1,)}, gathered(), {})
    assert asked == ["a", "b", "c"]


def test_metric_lines_after_the_step_and_torn_ones_are_cut_off(tmp_path):
    from proxy_lm.train.metrics import MetricsFile

    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step":1}\n{"step":2,"x":3}\n{"step":3}\n{"step":4,"lo')
    file = MetricsFile(path, 2)
    file.write({"step": 3, "x": 4.5})
    file.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}, {"step": 2, "x": 3}, {"step": 3, "x": 4.5}]


def test_a_line_that_cannot_be_read_is_not_dropped_in_silence(tmp_path, capsys):
    from proxy_lm.train.metrics import MetricsFile

    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step":1}\n{"stxp":2}\n{"step":3}\n{"step":4,"lo')
    MetricsFile(path, 3).close()
    assert f"{path}: 1 lines cannot be read and are dropped (2)" in capsys.readouterr().err
    assert path.read_text() == '{"step":1}\n{"step":3}\n'
    MetricsFile(path, 3).close()
    assert capsys.readouterr().err == "", "a whole file, and one that a kill has torn, say nothing"


def test_bits_per_byte_of_a_step_by_eye():
    from proxy_lm.train.metrics import StepTotals

    totals = StepTotals(
        objective=0.0,
        nll_nats=np.array([8 * math.log(2), 4 * math.log(2), 99.0]),
        num_targets=np.array([4.0, 3.0, 1.0]),
        head_nll_nats=np.zeros(0),
        head_num_targets=np.zeros(0),
        source_bytes=np.array([5.0, 16.0]),
        num_documents=np.zeros(2),
        num_symbols=np.zeros(2),
        rows_digest="",
        wait_seconds=0.0,
        flags=(),
    )
    assert totals.bits_per_byte(["raw", "spm"]) == {"raw": pytest.approx(2.0), "spm": pytest.approx(0.25)}
    assert totals.loss_nats == pytest.approx((12 * math.log(2) + 99) / 8)


def test_validation_reads_no_row_of_a_small_split_twice(tiny_run):
    from proxy_lm.train.inputs import open_inputs
    from proxy_lm.train.validate import Validation

    inputs = open_inputs(validate(RunSettings, {**tiny_run.settings("v"), "validation": {"max_bytes": 10**9}}, "test"), 1, verify=False)
    validation = Validation(inputs, SingleProcess())  # type: ignore[arg-type]
    valid = inputs.corpus.splits["valid"]
    ids = {"raw": inputs.corpus.sizes, "gzip": inputs.views[0].lengths}
    for name, rows in validation.rows.items():
        assert rows == list(range(int((ids[name][valid.start : valid.stop] + 4).sum()) // 64))
        assert validation.readers[name].read(rows).num_documents.sum() == len(valid)


def totals_of(loss_nats: float):
    from proxy_lm.train.metrics import StepTotals

    one = np.array([1.0])
    return StepTotals(
        objective=loss_nats,
        nll_nats=np.array([loss_nats]),
        num_targets=one,
        head_nll_nats=one,
        head_num_targets=one,
        source_bytes=one,
        num_documents=one,
        num_symbols=one,
        rows_digest="",
        wait_seconds=0.0,
        flags=(),
    )


def test_a_loss_that_stays_not_finite_ends_the_run_and_one_bad_step_does_not():
    from proxy_lm.train.loop import _check_loss
    from proxy_lm.train.metrics import Counters
    from proxy_lm.train.spikes import MAX_BAD_STEPS

    counters = Counters()
    for loss in (1.0, float("nan"), 2.0, *[float("inf")] * (MAX_BAD_STEPS - 1)):
        counters.add(totals_of(loss), ["raw"], symbols=1, flops=1)
        _check_loss(counters, finished=False)
    with pytest.raises(WorkError, match=f"in the last {MAX_BAD_STEPS - 1} of 12 steps"):
        _check_loss(counters, finished=True)
    counters.add(totals_of(float("nan")), ["raw"], symbols=1, flops=1)
    with pytest.raises(WorkError, match=r"lower optimizer\.learning_rate"):
        _check_loss(counters, finished=False)
    counters.add(totals_of(1.0), ["raw"], symbols=1, flops=1)
    _check_loss(counters, finished=True)


def test_board_points_are_on_the_disk_before_the_checkpoint(tmp_path):
    from proxy_lm.train.metrics import Board

    board = Board(tmp_path, 0)
    before = sum(path.stat().st_size for path in tmp_path.iterdir())
    board.write({"loss_nats": 1.5, "bits_per_byte": {"raw": 2.0, "spm": None}}, 1)
    board.flush()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > before
    board.close()


class Two(SingleProcess):
    """Rank 0 of two; what rank 1 says is fixed."""

    world_size = 2

    def __init__(self, other):
        self.other = other

    def gather(self, value):
        return [value, self.other]


def test_an_error_anywhere_is_an_error_everywhere():
    assert agree(SingleProcess(), lambda: 3) == 3
    assert agree(Two(None), lambda: 3) == 3
    with pytest.raises(WorkError, match="rank 1: disk full") as caught:
        agree(Two((1, "disk full")), lambda: 3)
    assert is_shared(caught.value)

    def refuse():
        raise RequestError("no")

    with pytest.raises(RequestError, match="no"):
        agree(Two((1, "disk full")), refuse)


def test_validation_gives_the_same_numbers_for_any_number_of_ranks(tiny_run):
    """Rows are dealt and padded; each is counted once, whoever reads it."""
    from proxy_lm.train.inputs import open_inputs
    from proxy_lm.train.validate import Validation

    plain = {**tiny_run.settings("v"), "validation": {"max_bytes": 5 * 64}, "rows_per_device": 4, "rows_per_step": 24}
    inputs = open_inputs(validate(RunSettings, plain, "test"), 1, verify=False)
    counted = {}
    for world_size in (1, 2, 3):
        rows, source_bytes, num_batches = [], 0, set()
        for rank in range(world_size):
            ranks = SingleProcess()
            ranks.reader, ranks.num_readers = rank, world_size  # type: ignore[attr-defined]
            validation = Validation(inputs, ranks)  # type: ignore[arg-type]
            batches = validation._batches(validation.readers["gzip"], validation.rows["gzip"])
            num_batches.add(len(batches))
            for batch in batches:
                rows += [tuple(ids) for ids, segments in zip(batch.ids.tolist(), batch.segments, strict=True) if segments[0] >= 0]
                source_bytes += int(batch.source_bytes.sum())
        assert len(num_batches) == 1
        counted[world_size] = (sorted(rows), source_bytes)
    assert counted[1] == counted[2] == counted[3]
    assert len(counted[1][0]) == 5
