"""A comparison's arm names a view of the plan as its teacher: where the model lies, what it costs, what is refused. Nothing is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressors.neural.models import save_model
from compressors.neural.static import StaticModel
from eval.compare_cells import key_of
from eval.ledger import with_fitted_model
from eval.plan import ComparePlan, arm_runs
from eval.results import CompressorCost
from proxy_lm.config import validate
from proxy_lm.errors import RequestError

VIEWS = {
    "stream": {"kind": "neural", "options": {"model": "counts", "view": "stream"}},
    "network": {"kind": "neural", "options": {"model": "transformer", "preset": "nano"}},
    "spm": {"kind": "spm"},
}


def plan_of(**arms):
    plain = {"name": "taught", "corpus": {"path": "corpus"}, "views": VIEWS, "arms": {"bytes": {}, **arms}, "match": {"flops": 1e12}}
    return validate(ComparePlan, {**plain, "base": {"row_length": 512}, "evaluation": {"context_bytes": 512}}, "test")


def test_the_teacher_is_the_model_beside_the_view_and_the_key_has_its_digest():
    taught = {"teacher": {"view": "stream", "weight": [[0, 1.0], [1, 0.5]]}}
    plan = plan_of(taught=taught, proxy={"views": ["stream"], **taught}, both={"views": ["spm"], **taught})
    runs = {run.arm: run for run in arm_runs(plan)}
    assert runs["bytes"].settings(Path("out"), Path("corpus"), 3).teacher is None
    teacher = runs["taught"].settings(Path("out"), Path("corpus"), 3).teacher
    assert teacher.model == "out/views/stream/model"
    assert teacher.weight.points == ((0, 1.0, "linear"), (1, 0.5, "linear"))
    digests = {"stream": "1", "network": "2", "spm": "3"}
    keys = {arm: key_of(plan, run, 3, "0", digests) for arm, run in runs.items()}
    assert [keys[arm]["views"] for arm in ("bytes", "taught", "proxy", "both")] == [
        {}, {"stream": "1"}, {"stream": "1"}, {"spm": "3", "stream": "1"},
    ]  # fmt: skip
    assert keys["taught"]["settings"]["teacher"]["view"] == "stream"  # no folder of this machine


def test_a_lead_reaches_the_run_which_is_validated_along_the_way():
    plan = plan_of(led={"teacher": {"view": "stream", "weight": 1.0, "lead": 0.8}})
    settings = {run.arm: run.settings(Path("out"), Path("corpus"), 3) for run in arm_runs(plan)}["led"]
    assert settings.teacher.lead == 0.8
    assert settings.validation.every_steps == 1


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        ({"view": "gzip", "weight": 1}, "arm 'taught' is taught by view 'gzip'; the plan has: stream, network, spm"),
        ({"view": "spm", "weight": 1}, "view 'spm', which has no count model beside it; make it of kind neural"),
        ({"view": "network", "weight": 1}, "view 'network', which has no count model beside it"),
        ({"model": "views/stream/model", "weight": 1}, "teacher of arm 'taught'"),
        ({"view": "stream", "weight": 1.5}, "share 1.5 is outside 0..1"),
        ({"view": "stream", "weight": 1, "lead": -1}, "lead.*greater than 0"),
    ],
)
def test_refused(teacher, told):
    with pytest.raises(RequestError, match=told):
        plan_of(taught={"teacher": teacher})


def test_fitting_costs_what_the_model_says(tmp_path):
    cost = CompressorCost(train_seconds=1, encode_seconds=2, flops=5e9)
    for number, (training, expected) in enumerate(
        [(None, (1, 5e9)), ({"cpu_seconds": 3.0}, (4, 8e9)), ({"cpu_seconds": 3.0, "flops": 1e9}, (4, 6e9))]
    ):
        folder = tmp_path / str(number)
        save_model(StaticModel.train([b"text"]), folder, {"training": training} if training else None)
        found = with_fitted_model(cost, folder)
        assert (found.train_seconds, found.flops) == expected
        assert found.encode_seconds == 2
