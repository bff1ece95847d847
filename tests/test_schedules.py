"""Schedules: curves have the written shape, shares that cannot be are refused, the paper's recipe gives the paper's table, and runs of one
kind (raw alone, views alone, several views) are special cases of the same plan."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_lm.config import validate
from proxy_lm.data.curves import Curve
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import KnownLengths, Plan
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import Vocabulary


def mix_of(**values: Any) -> MixSettings:
    return validate(MixSettings, values, "test")


def plan_of(mix: dict[str, Any], num_documents: int, *, names: tuple[str, ...] = ("v",), row_length: int = 4096, **changes: Any) -> Plan:
    """A plan over about one epoch of equal documents of 290 bytes, 100 symbols in each view."""
    lengths = np.full(num_documents, 100)
    arguments: dict[str, Any] = {
        "sizes": np.full(num_documents, 290),
        "documents": range(num_documents),
        "views": [KnownLengths(name, lengths) for name in names],
        "vocabulary": Vocabulary([(name, 500) for name in names]),
        "mix": MixSettings.model_validate(mix),
        "seed": 0,
        "row_length": row_length,
        "lookahead": 1,
        "num_rows": num_documents * 125 // row_length,
    }
    return Plan(**arguments | changes)


def test_ways_between_points():
    curve = Curve.model_validate([[0.2, 0.0], [0.6, 1.0, "cosine"], [1.0, 0.5]])
    # Half a cosine: a half in the middle, (1 - cos 45 degrees) / 2 after a quarter. Then a straight line.
    assert np.allclose(curve([0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0]), [0, 0, (1 - 0.5**0.5) / 2, 0.5, 1, 0.75, 0.5])
    assert curve.model_dump() == [[0.2, 0.0], [0.6, 1.0, "cosine"], [1.0, 0.5]]
    assert float(curve(0.4)) == 0.5
    with pytest.raises(ValueError, match="has nothing before it"):
        Curve.model_validate([[0.0, 0.1, "cosine"], [0.5, 0.2]])
    with pytest.raises(ValueError, match="is not a \\[progress, value\\] pair"):
        Curve.model_validate([[0.0, 0.1], [0.5, 0.2, "sine"]])


POINTS = st.tuples(st.integers(0, 64).map(lambda k: k / 64), st.floats(0, 1), st.sampled_from(["linear", "cosine"]))


@given(st.lists(POINTS, min_size=1, max_size=5, unique_by=lambda point: point[0]))
def test_curves_stay_between_their_points(points):
    points = sorted(points)
    curve = Curve.model_validate([points[0][:2], *points[1:]])
    values = curve(np.linspace(0, 1, 101))
    assert values.min() >= min(p[1] for p in points) - 1e-9
    assert values.max() <= max(p[1] for p in points) + 1e-9
    assert np.allclose(curve([p[0] for p in points]), [p[1] for p in points])
    assert Curve.model_validate(curve.model_dump()).model_dump() == curve.model_dump()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pair": 0.6, "splice": 0.5}, "pair 0.6 + splice 0.5 = 1.1 of the documents at progress 0, more than all of them"),
        ({"pair": [[0, 0], [1, 0.6]], "parallel": [[0, 0], [1, 0.6]]}, "pair 0.6 + parallel 0.6 = 1.2 of the documents at progress 1,"),
        ({"preset": "paper", "pair": 0.1}, "preset=paper sets the shares and pair is given too"),
        ({"preset": "papers"}, "preset"),
        ({"anneal": 1.5}, "anneal"),
        ({"max_cuts": 17}, "max_cuts"),
        ({"weights": {"a": [[0, 0], [1, 0]]}}, "all weights are 0"),
        ({"loss_weights": {"raw": 1001}}, "weight 1001.0 is outside 0..1000"),
    ],
)
def test_shares_that_cannot_be_are_refused_with_numbers(values, said):
    with pytest.raises(RequestError, match=re.escape(said)) as caught:
        mix_of(**values)
    assert "\n" not in str(caught.value)


def test_two_cosines_may_meet_above_all_of_the_documents_between_their_points():
    up, down = [[0, 0.2], [1, 0.8, "cosine"]], [[0, 0.8], [0.5, 0.75], [1, 0.2, "cosine"]]
    with pytest.raises(RequestError, match="more than all of them"):
        mix_of(pair=up, splice=down)
    mix_of(pair=up, splice=[[0, 0.8], [1, 0.2, "cosine"]])  # these sum to 1 all along


def test_the_paper_preset_gives_the_papers_table_at_a_million_documents():
    """Pairs are derived so that r stays the share of tellings by the view. The plan is the ordinary one; around the progress at which r
    has a row's value, its documents are counted."""
    num = 1_000_000
    plan = plan_of({"preset": "paper"}, num, sizes=np.full(num, 30), views=[KnownLengths("v", np.full(num, 10))], num_rows=num * 24 // 4096)
    expected = {  # r: (pair, view only, raw only)
        0.40: (2 / 3, 0.0, 1 / 3),
        0.45: (0.818, 0.0, 0.182),
        0.50: (1.0, 0.0, 0.0),
        0.60: (2 / 3, 1 / 3, 0.0),
        0.70: (0.429, 0.571, 0.0),
        0.80: (0.25, 0.75, 0.0),
        0.90: (0.111, 0.889, 0.0),
    }
    progress, layout, raw_first = [], [], []
    for pieces in plan.pieces():
        opens = np.diff(pieces.position, prepend=-1) != 0
        progress.append(plan.progress(pieces.start[opens]))
        layout.append(pieces.layout[opens])
        raw_first.append(pieces.code[opens][pieces.layout[opens] == 2] == 0)
    at, told = np.concatenate(progress), np.concatenate(layout)
    assert at.size >= 900_000
    r_of = 0.4 + 0.5 * at / 0.2
    pair_of = np.where(r_of <= 0.5, r_of / (1 - r_of), 1 / r_of - 1)
    for r, shares in expected.items():
        pair = r / (1 - r) if r <= 0.5 else 1 / r - 1
        assert np.allclose((pair, 0 if r <= 0.5 else 1 - pair, 1 - pair if r <= 0.5 else 0), shares, atol=6e-4)
        near = (np.abs(r_of - r) < 0.02) & (at < 0.2)
        num_near = int(near.sum())
        assert num_near > 3_000
        wanted = {2: pair_of, 1: np.where(r_of > 0.5, 1 - pair_of, 0), 0: np.where(r_of <= 0.5, 1 - pair_of, 0)}
        for kind, of_each in wanted.items():
            share = of_each[near].mean()
            # The sampling error, and what a block's share lags behind its documents: 512 of them, 1/1000 of r, at most 4 times that.
            assert abs((told[near] == kind).mean() - share) < 5 * np.sqrt(share * (1 - share) / num_near) + 0.005, (r, kind)
    after = told[at >= 0.201]  # the block that lies across the end of the fifth begins before it
    assert not np.isin(after, (2, 3, 4)).any()
    assert abs((after == 1).mean() - 0.9) < 5 * np.sqrt(0.09 / after.size)
    # The mean over the ramp, 54 % of its documents in pairs, of equal parts of progress.
    parts = [(told[(at >= k / 500) & (at < (k + 1) / 500)] == 2).mean() for k in range(100)]
    assert abs(np.mean(parts) - 0.54) < 0.01
    first = np.concatenate(raw_first)
    assert abs(first.mean() - 0.5) < 5 * np.sqrt(0.25 / first.size)


def test_the_recipes_shares_are_exact_at_the_rows_of_the_table():
    for r in (0.4, 0.45, 0.5, 0.6, 0.7, 0.8):
        shares = mix_of(preset="paper").shares(0.2 * (r - 0.4) / 0.5)
        view_only = (1 - shares.pair) * shares.rate
        assert np.isclose((shares.pair + view_only) / (1 + shares.pair), r)  # tellings by the view among all tellings
        assert np.isclose(shares.pair, r / (1 - r) if r <= 0.5 else 1 / r - 1)
        assert shares.parallel == shares.splice == 0
        control = mix_of(preset="paper-parallel").shares(0.2 * (r - 0.4) / 0.5)
        assert (control.parallel, control.pair) == (shares.pair, 0)
    for progress in (0.2, 0.5, 1.0):
        assert mix_of(preset="paper").shares(progress)[:3] == (0.9, 0.0, 0.0)


def test_the_raw_end_wins_over_all():
    mix = {"rate": 1, "pair": 0.5, "parallel": 0.25, "anneal": 0.25}
    phases = plan_of(mix, 20_000).summary(4)["phases"]
    assert phases[3]["layouts"]["raw"] > 1000
    assert phases[3]["views"]["v"]["num_documents"] <= 2  # the document that began before
    assert all(phase["layouts"]["raw"] == 0 for phase in phases[:3])
    assert plan_of({"preset": "paper", "anneal": 0.25}, 20_000).summary(4)["phases"][3]["layouts"]["view"] <= 1


def test_order_is_a_curve_too():
    plan = plan_of({"pair": 1, "raw_first": [[0.49, 0.0], [0.51, 1.0]]}, 20_000)
    for pieces in plan.pieces():
        opens = np.diff(pieces.position, prepend=-1) != 0
        at = plan.progress(pieces.start[opens])
        assert (pieces.code[opens][at < 0.48] == 1).all()
        assert (pieces.code[opens][(at > 0.52) & (at < 1)] == 0).all()


def test_views_take_turns_by_weight():
    mix = {"rate": 1, "weights": {"a": [[0, 1], [1, 0]], "b": [[0, 0], [1, 1]], "c": 0}}
    for k, phase in enumerate(plan_of(mix, 60_000, names=("a", "b", "c")).summary(4)["phases"]):
        counts = [phase["views"][name]["num_documents"] for name in ("raw", "a", "b", "c")]
        assert counts[0] == counts[3] == 0
        assert abs(counts[1] / sum(counts) - (1 - (k + 0.5) / 4)) < 0.02
    with pytest.raises(RequestError, match=r"gives no view of the run a weight above 0 at progress 1;"):
        plan_of({"rate": 1, "weights": {"v": [[0, 1], [1, 0]]}}, 100, row_length=10)


def test_one_kind_of_telling_is_a_special_case_of_the_same_plan():
    only_view = plan_of({"rate": 1}, 5_000)
    assert not only_view.mix.tells_raw
    assert only_view.summary()["views"]["raw"]["num_documents"] == 0
    no_views = plan_of({}, 5_000, names=())
    raw_only = plan_of({"rate": 0}, 5_000)
    assert no_views.mix.tells_raw
    assert raw_only.summary()["views"]["v"]["num_documents"] == 0
    assert no_views.row_slices(0, 100).digest() == raw_only.row_slices(0, 100).digest()  # a view nobody draws changes no row
    both = plan_of({"rate": 0.5, "pair": 0.25}, 20_000, names=("a", "b"))
    views = both.summary()["views"]
    assert abs(views["a"]["num_documents"] / views["b"]["num_documents"] - 1) < 0.1


def test_loss_weights_by_view():
    mix = mix_of(loss_weights={"raw": [[0, 1], [1, 2]], "b": 0.5})
    assert mix.loss_weights_at(0.5, ["a", "b"]).tolist() == [1.5, 1.0, 0.5, 1.0]  # raw, a, b, specials
    assert mix.loss_weights_at(0.5, ["a", "b"]).dtype == np.float32
    assert mix_of().loss_weights_at(0.5, []).tolist() == [1.0, 1.0]
    with pytest.raises(RequestError, match=r"mix.loss_weights names the view 'gzip', which the run does not have; known: raw, spm"):
        mix_of(loss_weights={"gzip": 1}).check_names(["spm"])


def test_the_saved_mix_is_the_written_mix():
    values = {
        "preset": "paper",
        "raw_first": [[0.0, 0.1], [1.0, 0.9, "cosine"]],
        "weights": {"a": 2.0, "b": [[0.0, 1.0], [0.5, 0.0]]},
        "loss_weights": {"raw": 1.5},
        "anneal": 0.05,
    }
    saved = mix_of(**values).model_dump(mode="json")
    assert {key: saved[key] for key in values} == values
    assert mix_of(**saved) == mix_of(**values)
