"""The plan is a pure function: same arguments, same rows, from any place; and its shares are the written ones."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import KnownLengths, Plan, step_digest
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import Vocabulary

SIZES = np.random.default_rng(0).lognormal(3.0, 1.0, 300).astype(np.int64)
VIEW = KnownLengths("v0", SIZES // 3)
RAMP = {"rate": [[0.0, 0.4], [0.2, 0.9]], "pair": [[0.0, 0.5], [0.2, 0.0]], "parallel": 0.2}


def make(**changes: Any) -> Plan:
    arguments: dict[str, Any] = {
        "sizes": SIZES,
        "documents": range(SIZES.size),
        "views": [VIEW],
        "vocabulary": Vocabulary([("v0", 100)]),
        "mix": RAMP,
        "seed": 0,
        "row_length": 64,
        "lookahead": 2,
        "num_rows": 960,
    }
    arguments |= changes
    arguments["mix"] = MixSettings.model_validate(arguments["mix"])
    return Plan(**arguments)


def test_same_arguments_give_the_same_plan_and_another_seed_another():
    """A1: which view tells a document was drawn without a seed, so that two runs of one configuration saw different data."""
    assert make().digest == make().digest
    assert make().row_slices(0, 960).digest() == make().row_slices(0, 960).digest()
    assert make().row_slices(0, 960).digest() != make(seed=1).row_slices(0, 960).digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"mix": {**RAMP, "raw_first": 0.6}},
        {"mix": {**RAMP, "rate": 0.4}},
        {"row_length": 65},
        {"lookahead": 3},
        {"num_rows": 961},
        {"documents": range(1, SIZES.size)},
        {"sizes": SIZES + (np.arange(SIZES.size) == 7)},
        {"views": [KnownLengths("v0", VIEW.lengths + (np.arange(SIZES.size) == 7))]},
        {"vocabulary": Vocabulary([("v0", 101)])},
        {"parents": ["another corpus"]},
    ],
    ids=" ".join,
)
def test_the_digest_names_every_argument(changes):
    assert make(**changes).digest != make().digest


@pytest.mark.parametrize("layout", [{"rate": 0.5}, {"pair": 1}, {"parallel": 1}], ids=["view", "pair", "parallel"])
def test_any_row_is_reached_without_the_rows_before_it(layout):
    whole = make(mix=layout).row_slices(0, 960)
    for first in np.random.default_rng(1).integers(0, 960, 30):
        fresh = make(mix=layout)  # nothing is remembered from the rows before
        count = min(7, 960 - int(first))
        some = fresh.row_slices(int(first), count)
        inside = (whole.row >= first) & (whole.row < first + count)
        for name in some.__dataclass_fields__:
            assert np.array_equal(getattr(some, name), getattr(whole, name)[inside]), name


def test_order_of_asking_does_not_matter():
    plan = make(sizes=np.full(300, 3), views=[KnownLengths("v0", np.full(300, 1))], num_rows=9000)
    assert plan.num_positions > 8 * 4096  # more spans than are kept
    backwards = [plan.row_slices(row, 1).digest() for row in range(8999, -1, -37)]
    assert backwards == [plan.row_slices(row, 1).digest() for row in range(8999, -1, -37)]
    assert backwards[::-1] == [plan.row_slices(row, 1).digest() for row in sorted(range(8999, -1, -37))]


def test_a_step_digest_covers_all_rows_of_the_step():
    plan = make()
    assert step_digest(plan, 3, 8) == plan.step_digest(3, 8) == plan.row_slices(24, 8).digest()
    assert len({step_digest(plan, step, 8) for step in range(120)}) == 120


def test_slices_cover_each_row_without_gap():
    plan = make()
    slices = plan.row_slices(0, 960)
    opens = np.diff(slices.row, prepend=-1) != 0
    assert np.array_equal(slices.column[~opens], (slices.column + slices.length)[:-1][~opens[1:]])
    assert (slices.column[opens] == 0).all()
    assert (np.bincount(slices.row, slices.length) == 66).all()
    assert (slices.length > 0).all()


def counted(mix: dict[str, Any], num_documents: int = 100_000, **changes: Any) -> tuple[Plan, dict[str, Any]]:
    """A plan over about one epoch of equal documents of 2900 bytes, 1000 symbols in a view: the reference's ratio of 2.9."""
    changes = {"sizes": np.full(num_documents, 2900), "views": [KnownLengths("v0", np.full(num_documents, 1000))]} | changes
    plan = make(documents=range(num_documents), mix=mix, row_length=4096, num_rows=num_documents * 1190 // 4096, **changes)
    return plan, plan.summary()


def near(share: float, expected: float, num_draws: int) -> bool:
    """Within five standard deviations of a binomial share."""
    return abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / num_draws)


def test_rate_is_the_share_of_documents_and_symbol_share_follows_from_lengths():
    _, summary = counted({"rate": 0.9})
    views, num = summary["views"], summary["num_documents"]
    assert num > 90_000
    assert near(views["v0"]["document_share"], 0.9, num)
    # 10 % of the documents raw is 24.4 % of the symbols at 2.9 bytes a symbol, and 10 % of the source bytes.
    assert abs(views["raw"]["symbol_share"] - 0.244) < 0.004
    assert near(views["raw"]["source_share"], 0.1, num)


def test_half_plain_and_a_quarter_of_each_order_is_what_is_measured():
    """B5: documented as 50, 25 and 25 %, it gave 38, 25 and 37 %, because a second draw decided again what the first had decided."""
    plan, summary = counted({"pair": 0.5, "raw_first": 0.5}, num_documents=60_000)
    num = summary["num_documents"]
    raw_first = view_first = 0
    for pieces in plan.pieces():
        begins = (np.diff(pieces.position, prepend=-1) != 0) & (pieces.start < plan.num_symbols) & (pieces.layout == 2)
        raw_first += int((pieces.code[begins] == 0).sum())
        view_first += int((pieces.code[begins] == 1).sum())
    for share, expected in ((summary["layouts"]["raw"], 0.5), (raw_first, 0.25), (view_first, 0.25)):
        assert near(share / num, expected, num), (share / num, expected)


def test_written_shares_of_layouts_are_measured():
    """B5: the rate itself was not calibrated either."""
    _, summary = counted({"rate": 0.8, "pair": 0.3, "parallel": 0.2}, num_documents=60_000)
    num, layouts = summary["num_documents"], summary["layouts"]
    expected = {"raw": 0.5 * 0.2, "view": 0.5 * 0.8, "pair": 0.3, "parallel": 0.2}
    for layout, share in expected.items():
        assert near(layouts[layout] / num, share, num), (layout, layouts[layout] / num)


def test_raw_first_is_the_share_of_pairs_that_begin_raw():
    plan, _ = counted({"pair": 1, "raw_first": 0.25}, num_documents=20_000)
    first, num = 0, 0
    for pieces in plan.pieces():
        begins = np.diff(pieces.position, prepend=-1) != 0
        num += int(begins.sum())
        first += int((pieces.code[begins] == 0).sum())
    assert near(first / num, 0.25, num)


def test_views_are_drawn_by_weight():
    lengths = np.full(100_000, 1000)
    views = [KnownLengths(name, lengths) for name in ("a", "b", "c")]
    vocabulary = Vocabulary([("a", 9), ("b", 9), ("c", 9)])
    _, summary = counted({"rate": 1, "weights": {"a": 1, "b": 3, "c": 0}}, views=views, vocabulary=vocabulary)
    num = summary["num_documents"]
    assert near(summary["views"]["a"]["document_share"], 0.25, num)
    assert near(summary["views"]["b"]["document_share"], 0.75, num)
    assert summary["views"]["c"]["num_documents"] == summary["views"]["raw"]["num_documents"] == 0


def test_curves_are_followed_in_progress_by_symbols():
    _, summary = counted({"rate": [[0.0, 0.4], [0.2, 0.9]], "pair": [[0.5, 0.0], [1.0, 1.0]]})
    for k, phase in enumerate(summary["phases"]):
        num = sum(phase["layouts"].values())
        once = phase["layouts"]["raw"] + phase["layouts"]["view"]
        middle = (k + 0.5) / 10
        # A phase in symbols holds a few more short documents than long ones, so a curve that moves inside it needs a little room.
        pair, rate = max(0.0, 2 * (middle - 0.5)), min(0.9, 0.4 + 2.5 * middle)
        assert abs(phase["layouts"]["pair"] / num - pair) < 0.02, k
        if once > 1000:
            assert abs(phase["layouts"]["view"] / once - rate) < 0.02, k


def test_short_runs_follow_their_curves_too():
    # 300 documents in the whole run: one value for all of them would not be a curve.
    summary = make(mix={"rate": [[0.0, 0.0], [0.5, 0.0], [0.50001, 1.0]]}, num_rows=100).summary(num_phases=2)
    assert summary["phases"][0]["layouts"]["view"] == 0
    assert summary["phases"][1]["layouts"]["raw"] <= 1  # at most the document that lies across the middle
    assert summary["phases"][1]["layouts"]["view"] > 50


def test_the_summary_adds_up():
    plan = make()
    summary = plan.summary()
    assert summary["num_symbols"] == 960 * 64
    assert summary["num_padding"] == 0
    assert summary["epochs"] == summary["num_documents"] / 300 > 1
    assert summary["unique_documents"] == 300
    assert summary["unique_source_bytes"] == SIZES.sum()
    assert sum(summary["layouts"].values()) == summary["num_documents"]
    for part in ("num_documents", "num_symbols", "source_bytes"):
        for view in ("raw", "v0"):
            assert sum(phase["views"][view][part] for phase in summary["phases"]) == summary["views"][view][part]
    assert sum(view["num_symbols"] for view in summary["views"].values()) + summary["num_special_symbols"] == summary["num_symbols"]
    slices = plan.row_slices(0, 960)
    own = slices.column < 64
    rows_of = [set(slices.row[own & (slices.order == p)].tolist()) for p in range(summary["num_documents"])]
    assert summary["num_split_documents"] == sum(len(rows) > 1 for rows in rows_of) > 100


def test_a_run_shorter_than_an_epoch_counts_what_it_tells():
    # 64 ids: one document of 100 bytes does not end in them; its first 62 bytes do.
    summary = make(sizes=np.full(300, 100), mix={}, num_rows=1).summary()
    assert summary["unique_documents"] == summary["num_documents"] == 1
    assert summary["unique_source_bytes"] == summary["source_bytes"] == 62
    assert summary["num_split_documents"] == 0


def test_documents_planned_beyond_the_last_row_are_not_counted():
    # 2050 documents of 3 bytes fill the rows exactly; the last block holds two more for the lookahead.
    lengths = np.full(5000, 3)
    plan = make(sizes=lengths, documents=range(5000), views=[KnownLengths("v0", lengths)], mix={}, row_length=7, num_rows=2050)
    assert (plan.block_positions, plan.num_positions) == (2, 2052)
    summary = plan.summary()
    assert summary["num_documents"] == summary["unique_documents"] == summary["layouts"]["raw"] == 2050
    assert summary["unique_source_bytes"] == 3 * 2050
    assert summary["num_split_documents"] == 0


def test_memory_is_lengths_and_anchors_only():
    plan = make(sizes=np.full(300, 3), views=[KnownLengths("v0", np.full(300, 1))], mix={"rate": 1}, row_length=4096, num_rows=1000)
    assert plan.num_positions >= 4096 * 1000 // 5
    assert plan._anchors.size <= 2048 + 1
    assert len(plan._spans) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"documents": range(0)}, "none to train on"),
        ({"documents": range(301)}, "of a corpus of 300"),
        ({"row_length": 0}, "row_length is 0; at least 1 is needed"),
        ({"lookahead": 0}, "lookahead is 0; at least 1 is needed"),
        ({"num_rows": 0}, "num_rows is 0; at least 1 is needed"),
        ({"views": []}, "the views [] are not the vocabulary's ['v0']"),
        ({"views": [KnownLengths("v0", VIEW.lengths[:10])]}, "view 'v0' has 10 documents and the corpus 300"),
        ({"views": [], "vocabulary": Vocabulary()}, "asks for views, but the run names none"),
        ({"mix": {"weights": {"spm": 1.0}}}, "mix.weights names the view 'spm'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,  # no addresses: two processes must agree on names
)
def test_what_cannot_be_planned_is_one_sentence(changes, said):
    with pytest.raises(RequestError, match=re.escape(said)):
        make(**changes)


def test_rows_beyond_the_plan_are_refused():
    plan = make()
    plan.row_slices(959, 1)
    for first, count in ((959, 2), (960, 1), (-1, 1), (0, 0)):
        with pytest.raises(RequestError, match="not in this plan of 960 rows"):
            plan.row_slices(first, count)
