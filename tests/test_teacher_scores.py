"""The teacher on the bytes that its pupils are scored on: each byte once, in the same windows; kept, and told beside the table."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from compressors.neural.counts import CountModel
from compressors.neural.models import TOTAL, save_model
from eval import report, table_kinds, teacher_scores
from eval.grid_analysis import analyse
from eval.plan import ComparePlan
from eval.teacher_scores import document_nats
from proxy_lm.config import validate
from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.report import markdown

TEXT = [b"def f(x):\n    return x + 1\n" * 9, b"for i in range(3):\n    print(i)\n" * 7]


@pytest.fixture(scope="module")
def model():
    return CountModel.train(TEXT, num_starts=20_000)


def by_hand(model, document, context, stride):
    """Byte i is id i + 2; window 0 predicts ids up to C, window k those in (C + (k - 1) S, C + k S] from bytes of k S on."""
    nats = 0.0
    for at in range(len(document)):
        window = max(0, math.ceil((at + 2 - context) / stride))
        prefix = document[max(0, window * stride - 2) : at]
        row = model.after(np.frombuffer(prefix, np.uint8).reshape(1, -1))[0]
        nats -= math.log(row[document[at]] / TOTAL)
    return nats


@pytest.mark.parametrize(("context", "stride"), [(1024, 512), (32, 16), (17, 17), (8, 3)])
@pytest.mark.parametrize("size", [0, 1, 7, 100])
def test_every_byte_is_scored_once_in_the_windows_of_the_arms(model, context, stride, size):
    document = TEXT[1][:size]
    assert document_nats(model, document, context, stride) == pytest.approx(by_hand(model, document, context, stride))


@pytest.fixture
def plan():
    return validate(
        ComparePlan,
        {
            "name": "teachers",
            "question": "Does it?",
            "corpus": {"path": "corpus"},
            "views": {"taught": {"kind": "neural", "options": {"model": "counts"}}, "other": {"kind": "spm"}},
            "arms": {"bytes": {}, "pupil": {"teacher": {"view": "taught", "weight": 1.0}}},
            "match": {"flops": 1e9},
            "evaluation": {"context_bytes": 32, "stride_bytes": 16, "max_bytes": 500},
        },
        source="test",
    )


def test_a_teacher_is_scored_on_the_documents_of_the_arms_and_kept(model, plan, tmp_path):
    build_small(tmp_path / "corpus", {"train": TEXT, "valid": TEXT[:1], "test": [TEXT[1], TEXT[0], TEXT[0]]})
    corpus = Corpus.open(tmp_path / "corpus")
    assert teacher_scores.teacher_scores(plan, corpus, tmp_path) == {}  # its view is not there yet
    save_model(model, tmp_path / "views" / "taught" / "model")
    found = teacher_scores.teacher_scores(plan, corpus, tmp_path)
    assert list(found) == ["taught"]
    told = [corpus.document(index) for index in corpus.splits["test"]][:2]
    assert (found["taught"]["num_documents"], found["taught"]["num_bytes"]) == (2, sum(map(len, told)))
    nats = sum(by_hand(model, one, 32, 16) for one in told)
    assert found["taught"]["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(map(len, told)))
    path = tmp_path / "once" / "teacher-taught.json"
    path.write_text(path.read_text().replace('"num_documents": 2', '"num_documents": 77'))
    assert teacher_scores.teacher_scores(plan, corpus, tmp_path)["taught"]["num_documents"] == 77  # read, not measured again
    other = plan.model_copy(update={"evaluation": plan.evaluation.model_copy(update={"context_bytes": 64})})
    assert teacher_scores.teacher_scores(other, corpus, tmp_path)["taught"]["num_documents"] == 2


def test_it_is_told_beside_the_table_and_in_the_report(comparison):
    found = comparison("pupils", {"bytes": 2.5, "pupil": 2.4})
    plan = found.plan | {"arms": {"bytes": {}, "pupil": {"teacher": {"view": "taught", "weight": 1.0}}}}
    plain = found.model_copy(update={"plan": plan})
    assert "teacher itself" not in table_kinds.main(plain, analyse(plain), {})[0]
    told = plain.model_copy(update={"teachers": {"taught": {"bits_per_byte": 1.65432, "num_bytes": 500}}})
    sentence = "The teacher itself, the byte model of view taught (pupil): 1.654 bits per byte on the same bytes."
    assert sentence in table_kinds.main(told, analyse(told), {})[0]
    assert sentence in markdown(report.content(told))
    assert "hold a student back" not in table_kinds.main(told, analyse(told), {})[0]  # bytes has 2.5
    poor = plain.model_copy(update={"teachers": {"taught": {"bits_per_byte": 2.6, "num_bytes": 500}}})
    assert re.search(
        r"Without it bytes has fewer \(2\.5\d\d\): there this teacher can hold a student back\.",
        table_kinds.main(poor, analyse(poor), {})[0],
    )
