"""The defects of a published trainer of this kind, each held by a test that would have caught it: the index, and what has no better home.

A test's docstring begins with the label and says what went wrong there. A, data: A1 draws without a seed; A2 resumed one document off;
A3 a schedule per micro-batch; A4 surplus files dropped; A5 state for one number of ranks; A6 damage not counted; A7 ids beyond the
vocabulary. B, views: B1 a layout that never ran; B2 a short tail lost; B3 a zero byte lost; B4 another tokenizer's control symbols;
B5 shares other than written; B7 no proof of a round trip. C, training and measuring: C3 token arms without a number; C4 attention across
rows; C9 no chunk for short rows.

    grep -rnw A3: tests
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from proxy_lm.config import validate
from proxy_lm.data.bench import MemoryDocuments
from proxy_lm.data.loader import Loader
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import Plan
from proxy_lm.data.rows import RowReader
from proxy_lm.errors import RequestError
from proxy_lm.train.inputs import open_inputs
from proxy_lm.train.settings import RunSettings
from proxy_lm.vocabulary import Vocabulary

LABELS = ("A1", "A2", "A3", "A4", "A5", "A6", "A7", "B1", "B2", "B3", "B4", "B5", "B7", "C3", "C4", "C9")

DRAWS = """
import numpy as np
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import KnownLengths, Plan
from proxy_lm.vocabulary import Vocabulary
n = np.full(500, 90)
plan = Plan(sizes=n, documents=range(500), views=[KnownLengths("v", n // 3)], vocabulary=Vocabulary([("v", 9)]),
            mix=MixSettings.model_validate({"rate": RATE}), seed=SEED, row_length=64, lookahead=1, num_rows=300)
print(*[int(code) for pieces in plan.pieces() for code in pieces.code], sep="")
"""


def labelled() -> dict[str, list[str]]:
    """Label -> the tests whose docstring begins with it."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (match := re.match(r"([ABC][0-9]+): ", ast.get_docstring(node) or "")):
                found.setdefault(match[1], []).append(f"{path.name}::{node.name}")
    return found


@pytest.mark.parametrize("label", LABELS)
def test_every_defect_has_a_test(label):
    assert labelled().get(label), f"no test in tests/ has a docstring that begins with '{label}: '"


def test_every_label_is_in_the_index():
    assert set(labelled()) <= set(LABELS)
    assert all(f"{label} " in str(__doc__) for label in LABELS)


@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_two_programs_draw_the_same_views(rate):
    """A1: the draws had no seed; two starts of one configuration differed at rates of 0.5 and 0.9."""

    def draw(seed: int, hash_seed: str) -> str:
        code = DRAWS.replace("RATE", str(rate)).replace("SEED", str(seed))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env={"PYTHONHASHSEED": hash_seed}
        )
        return done.stdout.strip()

    first = draw(3, "0")
    assert first == draw(3, "1") != draw(4, "0")
    assert len(first) > 250
    assert abs(first.count("1") / len(first) - rate) < 0.15


@pytest.mark.parametrize("accumulation", [1, 8])
@pytest.mark.parametrize("first_step", [0, 9])
def test_a_rate_that_jumps_half_way_jumps_half_way_in_the_steps_trained(accumulation, first_step):
    """A3: with k micro-batches a step the jump came at 1/k of the way, earlier by the queue, and elsewhere again after a resume."""
    sizes = np.full(400, 30)
    raw, view = MemoryDocuments(sizes, 256, seed=1), MemoryDocuments(sizes, 100, seed=2)
    vocabulary = Vocabulary([("made-up", 100)])
    plan = Plan(
        sizes=sizes,
        documents=range(400),
        views=[view],
        vocabulary=vocabulary,
        mix=MixSettings.model_validate({"rate": [[0.4999, 0.0], [0.5, 1.0]]}),
        seed=0,
        row_length=34,  # a row is a document
        lookahead=1,
        num_rows=20 * 8,
    )
    loader = Loader(
        RowReader(raw, [view], vocabulary, plan),
        first_step=first_step,
        num_steps=20 - first_step,
        rows_per_device=8 // accumulation,
        accumulation=accumulation,
        rank=0,
        world_size=1,
        prefetch_steps=6,
    )
    told = [sum(batch.num_documents for batch in batches).tolist() for batches in loader]
    assert told == [[8, 0]] * (10 - first_step) + [[0, 8]] * 10


def test_every_id_of_a_run_is_below_its_vocabulary(tiny_run):
    """A7: the vocabulary's size was typed by hand and its check commented out; an id beyond it was an assertion on the device."""
    inputs = open_inputs(validate(RunSettings, tiny_run.settings("ids"), "test"), 1, verify=False)
    batch = inputs.reader.read(range(inputs.plan.num_rows))
    assert 320 < batch.ids.max() < inputs.vocabulary.num_ids == 320 + 256 <= inputs.vocabulary.size
    for size in (320, 512, inputs.vocabulary.size + 64):
        with pytest.raises(RequestError, match=f"vocabulary_size = {size} and the views"):
            open_inputs(validate(RunSettings, tiny_run.settings("ids", vocabulary_size=size), "test"), 1, verify=False)
