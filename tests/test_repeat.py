"""Rows that say their first half twice: what they hold, which rows they are, and that every count is of what is told.

Expected values come from the plain plan's rows, cut and joined here, and from bytes counted one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from proxy_lm.config import validate
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import KnownLengths, Plan
from proxy_lm.data.rows import RowReader
from proxy_lm.errors import RequestError
from proxy_lm.train.inputs import open_inputs
from proxy_lm.train.settings import RunSettings
from proxy_lm.vocabulary import RAW_CODE, Vocabulary

SIZES = np.random.default_rng(0).lognormal(3.0, 1.0, 300).astype(np.int64)
LAYOUTS = {"rate": 0.3, "pair": 0.2, "parallel": 0.2}
FIELDS = ("ids", "views")


class Payloads:
    """Documents of known lengths whose symbols differ from each other."""

    def __init__(self, lengths, alphabet_size):
        self.lengths, self.alphabet_size = lengths, alphabet_size
        self.name = "v0"

    def slice(self, index, start, stop):
        return ((np.arange(start, stop) * 7 + index * 13) % self.alphabet_size).astype(np.uint16)


def make(mix: dict[str, Any], **changes: Any) -> tuple[Plan, RowReader]:
    vocabulary = Vocabulary([("v0", 100)])
    lengths = SIZES // 3
    arguments: dict[str, Any] = {"row_length": 64, "lookahead": 3, "num_rows": 960, "seed": 0, "shuffle_rows": 16} | changes
    plan = Plan(
        sizes=SIZES,
        documents=range(10, 290),
        views=[KnownLengths("v0", lengths)],
        vocabulary=vocabulary,
        mix=MixSettings.model_validate(mix),
        **arguments,
    )
    return plan, RowReader(Payloads(SIZES, 256), [Payloads(lengths, 100)], vocabulary, plan)


@pytest.mark.parametrize(("row_length", "lookahead"), [(64, 1), (64, 3), (65, 2), (2, 1), (16, 20)])
def test_a_row_is_its_first_half_twice_and_what_comes_after(row_length, lookahead):
    sizes = {"row_length": row_length, "lookahead": lookahead}
    _, plain = make(LAYOUTS, **sizes)
    plan, reader = make({**LAYOUTS, "repeat": 0.5}, **sizes)
    expected, batch = plain.read(range(960)), reader.read(range(960))
    is_repeating = plan.is_repeating(np.arange(960))
    assert 420 < is_repeating.sum() < 540
    half, width = row_length // 2, row_length + lookahead
    for name in FIELDS:
        ours, theirs = getattr(batch, name), getattr(expected, name)
        assert np.array_equal(ours[~is_repeating], theirs[~is_repeating])
        twice = np.concatenate([theirs[:, :half], theirs[:, :half], theirs[:, half:]], axis=1)[:, :width]
        assert np.array_equal(ours[is_repeating], twice[is_repeating])
    for name in ("segments", "positions"):
        assert np.array_equal(getattr(batch, name)[~is_repeating], getattr(expected, name)[~is_repeating])
    assert not batch.segments[is_repeating].any()
    assert (batch.positions[is_repeating] == np.arange(width)).all()


def test_the_share_follows_its_curve_and_ends_with_the_anneal():
    plan, _ = make({"repeat": [[0.0, 0.8], [0.5, 0.2], [1.0, 1.0]], "anneal": 0.25}, num_rows=80_000)
    share = plan.is_repeating(np.arange(80_000)).reshape(8, -1).mean(axis=1)
    np.testing.assert_allclose(share, [0.725, 0.575, 0.425, 0.275, 0.3, 0.5, 0.0, 0.0], atol=0.02)


def test_any_rows_are_reached_alone_and_in_any_order():
    plan, reader = make({**LAYOUTS, "repeat": 0.5})
    whole = plan.row_slices(0, 960)
    some = make({**LAYOUTS, "repeat": 0.5})[0].row_slices(501, 9)
    inside = (whole.row >= 501) & (whole.row < 510)
    for name in some.__dataclass_fields__:
        assert np.array_equal(getattr(some, name), getattr(whole, name)[inside]), name
    assert np.array_equal(reader.read([7, 3]).ids, reader.read([3, 7]).ids[::-1])
    assert make({**LAYOUTS, "repeat": 0.5}, seed=1)[0].is_repeating(np.arange(960)).tolist() != plan.is_repeating(np.arange(960)).tolist()


def test_plans_of_before_keep_their_digests_and_a_share_changes_it():
    none, some = make(LAYOUTS)[0], make({**LAYOUTS, "repeat": 0.5})[0]
    assert make({**LAYOUTS, "repeat": 0})[0].digest == none.digest != some.digest
    assert "repeat" not in none.mix.model_dump(exclude_defaults=True)
    # As the version of 2026-11-21, which had no such rows, made it.
    assert none.digest == "4a6693eeba1e512d460f9654d50742f8b247145ce58d7c040d197a3a0edd2a8f"
    assert some.step_digest(3, 8) != none.step_digest(3, 8)


@pytest.mark.parametrize("layouts", [{}, {"rate": 0.3}, LAYOUTS], ids=["raw", "view", "pairs"])
def test_the_summary_counts_what_the_rows_hold(layouts):
    """Source bytes, symbols and tellings of all batches; and each byte of a document once, marked one by one."""
    plan, reader = make({**layouts, "repeat": [[0.0, 0.7], [1.0, 0.2]]}, num_rows=300, lookahead=1)
    summary, whole = plan.summary(3), reader.read(range(300))
    views = summary["views"].values()
    assert [view["source_bytes"] for view in views] == whole.source_bytes.tolist()
    assert [view["num_documents"] for view in views] == whole.num_documents.tolist()
    assert [view["num_symbols"] for view in views] == whole.num_symbols.tolist()
    assert summary["source_bytes"] == whole.source_bytes.sum()
    assert summary["num_special_symbols"] == 300 * 64 - whole.num_symbols.sum()
    assert sum(layout["num_ids"] for layout in summary["by_layout"].values()) == 300 * 64
    for k, phase in enumerate(summary["phases"]):
        part = reader.read(range(100 * k, 100 * k + 100))
        assert [view["source_bytes"] for view in phase["views"].values()] == part.source_bytes.tolist()
    slices = plan.row_slices(0, 300)
    first, end = slices.payload_range(64)
    told = {index: {} for index in range(10, 290)}
    for k in range(len(slices)):
        if slices.code[k] == RAW_CODE:
            told[slices.document[k]].setdefault((slices.order[k], 0), set()).update(range(first[k], end[k]))
    if not layouts:
        best = [max((len(places) for places in tellings.values()), default=0) for tellings in told.values()]
        assert summary["unique_source_bytes"] == sum(best)
        assert summary["unique_documents"] == np.count_nonzero(best)
    plain = make(layouts, num_rows=300, lookahead=1)[0].summary()
    assert summary["unique_source_bytes"] < plain["unique_source_bytes"]
    assert summary["num_documents"] == plain["num_documents"]


def test_a_teacher_says_nothing_of_what_is_repeated(tiny_run, tmp_path):
    from compressors.neural.counts import CountModel
    from compressors.neural.models import save_model

    save_model(CountModel.train([tiny_run.corpus.document(0)], num_starts=1000), tmp_path)
    plain = tiny_run.settings("repeat-taught", views={}, mix={"repeat": 1.0}, teacher={"model": str(tmp_path), "weight": 1.0})
    batch = open_inputs(validate(RunSettings, plain, "test"), 1, verify=False).reader.read(range(16))
    taught = batch.soft.any(axis=2)
    assert taught[:, :32].any()
    assert not taught[:, 32:].any()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mix": {"repeat": 1.5}}, "share 1.5 is outside 0..1"),
        ({"mix": {"repeat": 0.5}, "packing": "fit"}, "mix.repeat with packing=fit is not offered.*use packing=cut or mix.repeat=0"),
    ],
)
def test_refused(tiny_run, changes, told):
    with pytest.raises(RequestError, match=told):
        open_inputs(validate(RunSettings, tiny_run.settings("repeat-refused", views={}, **changes), "test"), 1, verify=False)
