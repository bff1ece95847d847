"""What predicts the raw-byte gain: rank correlations over recipes are those that were planted, and too few recipes decide nothing."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import kept, report, transfer_report
from eval.cli import main
from eval.grid_analysis import analyse
from eval.tables import Library, in_step
from eval.transfer import PREDICTORS, Recipe, association, associations, recipes, spearman

TRANSLATION, ACCURACY, RETRIEVAL, MOVED = PREDICTORS


def correlation(a, b, times=None):
    """Of one draw, every point once unless said otherwise."""
    return float(spearman(np.array(a, float), np.array(b, float), np.array([times or [1] * len(a)], float))[0])


def test_correlations_by_eye():
    assert correlation([1, 2, 3], [10, 20, 21]) == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # Squared differences of ranks 1, 1, 1, 1, 0: 1 - 6 * 4 / (5 * 24) = 0.8.
    assert correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(0.8)
    assert np.isnan(correlation([1, 1, 1], [1, 2, 3]))
    assert np.isnan(correlation([1, 2], [1, 2]))


@given(points=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=8))
def test_a_point_taken_twice_is_two_points(points):
    a, b, times = (list(column) for column in zip(*points, strict=True))
    twin = slow_spearman([x for x, _, k in points for _ in range(k)], [y for _, y, k in points for _ in range(k)])
    found = correlation(a, b, times)
    assert (twin is None and np.isnan(found)) or found == pytest.approx(twin)


def slow_spearman(a, b):
    """By its definition: Pearson's correlation of mean ranks."""
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    x, y = ([sum(o < v for o in side) + (side.count(v) + 1) / 2 for v in side] for side in (a, b))
    return float(np.corrcoef(x, y)[0, 1])


def points(values, scale="s0", shift=0.0):
    """Recipes r0, r1, ... with (predictor, gain)."""
    return [Recipe("search", f"r{i}", scale, None, gain + shift, {"retrieval": x + shift}, "f") for i, (x, gain) in enumerate(values)]


def test_a_larger_scale_that_is_better_at_everything_predicts_nothing():
    # In each scale the gain falls with retrieval; over both together it would seem to rise.
    falling = [(1.0, 4.0), (2.0, 3.0), (3.0, 2.0), (4.0, 1.0), (5.0, 0.0)]
    found = association([*points(falling), *points(falling, "s1", shift=100.0)], RETRIEVAL)
    assert found.value == pytest.approx(-1)
    assert (found.num_drawn, found.num_points) == (5, 10)
    assert found.verdict == "predicts the opposite"


def test_a_planted_correlation_is_found_and_none_is_not():
    draw = np.random.default_rng(3)
    x = draw.normal(size=24)
    told = association(points(zip(x, x + draw.normal(0, 0.3, 24), strict=True)), RETRIEVAL, num_draws=300)
    assert told.verdict == "predicts"
    assert told.interval[0] < told.value < told.interval[1]
    noise = association(points(zip(x, draw.normal(size=24), strict=True)), RETRIEVAL, num_draws=300)
    assert noise.verdict == "tells nothing that we can see"


def test_the_interval_over_recipes_covers():
    # Correlated normals with Pearson 0.6: Spearman's truth is 6 / pi * asin(0.3) = 0.582.
    covered = 0
    for trial in range(60):
        draw = np.random.default_rng(trial)
        x = draw.normal(size=20)
        y = 0.6 * x + 0.8 * draw.normal(size=20)
        low, high = association(points(zip(x, y, strict=True)), RETRIEVAL, num_draws=200).interval
        covered += low <= 0.582 <= high
    assert covered >= 51  # 95 % of 60 are 57; a percentile interval of 20 points is somewhat narrow


def test_ten_recipes_of_three_views_are_three_facts():
    moved = {"a": 0.3, "b": 0.5, "c": 0.9}
    told = [Recipe("search", f"r{i}", None, None, -i, {"moved": moved[view]}, view) for i, view in enumerate("aaabbbbccc")]
    found = association(told, MOVED)
    assert found.value > 0.9 or found.value < -0.9
    assert (found.interval, found.p, found.reason) == (None, None, "too few: 3 views have both numbers, 5 are needed")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([(1.0, 1.0), (2.0, 2.0)], "too few: 0 recipes beside each other have both numbers, 5 are needed"),
        ([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)], "too few: 3 recipes have both numbers, 5 are needed"),
        ([(1.0, 1.0)] * 6, "it is the same for all recipes"),
    ],
)
def test_too_little_decides_nothing(values, reason):
    found = association(points(values), RETRIEVAL)
    assert (found.interval, found.verdict, found.reason) == (None, "not decided", reason)


def test_the_chance_of_a_correlation_is_that_of_exchanges_by_eye():
    # Of the 120 orders of five recipes two have a correlation of 1 or -1.
    perfect = association(points([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (4.0, 4.0), (5.0, 5.0)]), RETRIEVAL)
    assert (perfect.value, perfect.p, perfect.verdict) == (pytest.approx(1), pytest.approx(2 / 120), "predicts")
    # At two scales the recipes change places in both together: it is still five recipes.
    twice = [*points([(i, i) for i in range(5)]), *points([(i, i) for i in range(5)], "s1")]
    assert association(twice, RETRIEVAL).p == pytest.approx(2 / 120)
    # Those that stand at one scale alone change places among themselves: 2 of 3! * 2!.
    part = association([*points([(i, i) for i in range(5)]), *points([(i, i) for i in range(3)], "s1")], RETRIEVAL)
    assert part.p == pytest.approx(1 / 12)


def test_correlations_are_corrected_for_all_that_are_reported():
    # Four predictors of five recipes, each perfect: alone each is clear, of four none is (4 * 2 / 120 = 0.067).
    values = [
        Recipe("search", f"r{i}", None, None, i, {"translation": i, "accuracy": i, "retrieval": i, "moved": -i}, f"view{i}")
        for i in range(5)
    ]
    assert association(values, RETRIEVAL).verdict == "predicts"
    assert [(one.p_corrected, one.verdict) for one in associations(values)] == [
        (pytest.approx(8 / 120), "tells nothing that we can see")
    ] * 4
    text, told = transfer_report.table(values)
    assert "corrected for the 4 correlations that can be tested (Holm)" in text[0]
    assert [row[4] for row in told.rows] == ["0.067"] * 4
    # What has too few numbers is no test, and is not corrected for.
    fewer = [replace(r, measured={"retrieval": r.gain, "accuracy": 1.0} if r.gain < 3 else {"retrieval": r.gain}) for r in values]
    text, told = transfer_report.table(fewer)
    assert "corrected for the 1 correlation that can be tested" in text[0]
    assert told.rows[1][5] == "it is the same for all recipes"
    assert [row[4] for row in told.rows] == ["-", "-", "0.017", "-"]


def test_chance_correlations_are_rarely_called_predictions():
    wrong = 0
    for trial in range(150):
        draw = np.random.default_rng(trial)
        found = [
            Recipe(
                "search",
                f"r{i}",
                None,
                None,
                gain,
                dict(zip(("translation", "accuracy", "retrieval", "moved"), draw.normal(size=4), strict=True)),
                f"v{i}",
            )
            for i, gain in enumerate(draw.normal(size=6))
        ]
        wrong += any(one.verdict.startswith("predicts") for one in associations(found, num_draws=100))
    assert wrong <= 14  # 5 % of 150 are 7.5; without the correction it would be 25 or so


GAINS = {"r1": 2.45, "r2": 2.40, "r3": 2.35, "r4": 2.30, "r5": 2.25}


def asked(arm, _scale, seed):
    """Retrieval grows with the number of the recipe, translation falls; stored as the evaluations store them."""
    if arm not in GAINS:
        return {}
    number = int(arm[1]) + 0.01 * seed
    change = {"value": number / 10, "interval": None}
    shares = {way: {"value": number / 10} for way in ("raw_to_view", "view_to_raw")}
    return {
        "translate-test-spm": {
            "bits_per_byte": {"raw_change": {"value": 9.0}, "raw_change_beside_stranger": change},
            "view_to_raw": {"teacher_forced": {"accuracy": {"value": 0.5}, "accuracy_without": {"value": 0.5 - number / 100}}},
        },
        "align-test-spm": {"best_layer": {"rotated": 1}, "layers": [{}, {"rotated": {"retrieval": shares}}]},
    }


@pytest.fixture
def search(comparison):
    """Five recipes that gain 2, 4, 6, 8 and 10 %, a token baseline, and how far their views move."""
    views = {name: f"view{name[1]}" for name in GAINS} | {"tokens": "view1"}
    found = comparison("search", {"bytes": 2.5, "tokens": 2.0, **GAINS}, views=views, alone=("tokens",), evaluations=asked)
    moved = {view: facts | {kept.STABILITY: {"mean": 1 - int(view[4]) / 10}} for view, facts in found.views.items()}
    return found.model_copy(update={"views": moved})


def test_recipes_are_the_arms_that_are_asked_in_raw_bytes_and_told_by_views(search):
    library = Library({"search": search})
    found = recipes(library.kept, library.analysis)
    assert [recipe.arm for recipe in found] == list(GAINS)
    assert [round(recipe.gain) for recipe in found] == [2, 4, 6, 8, 10]
    # Means over seeds 0, 1 and 2: the number of the recipe and 0.01.
    assert found[2].measured == pytest.approx({"translation": -0.301, "accuracy": 3.01, "retrieval": 30.1, "moved": 0.7})
    assert association(found, RETRIEVAL).verdict == "predicts"
    assert association(found, TRANSLATION).verdict == "predicts the opposite"
    assert association(found, ACCURACY).value == pytest.approx(1)
    assert association(found, MOVED).verdict == "predicts"  # the less it moves the more it gains
    # Three seeds are three runs of one recipe: drawn, and no points of their own.
    assert [len(recipe.runs) for recipe in found] == [3] * 5
    assert np.mean([gain for gain, _ in found[2].runs]) == pytest.approx(found[2].gain)
    assert [told["retrieval"] for _, told in found[2].runs] == pytest.approx([30.0, 30.1, 30.2])
    assert association(found, RETRIEVAL).num_points == 5


def test_the_report_of_a_comparison_has_the_plots_from_its_results_alone(search):
    told, numbers = transfer_report.sections(search, analyse(search))
    assert [row[0].split(":")[0] for row in told.table.rows] == ["translation", "translation", "alignment", "instability"]
    figures = told.figures()
    assert [sorted(re.findall(r">(r\d)<", figure)) for figure in figures] == [list(GAINS)] * 4
    assert len(numbers.table.rows) == 5
    # Evaluations here are too short for the sections that spell them; stability is a fact of the views.
    short = search.model_copy(update={"arms": stripped(search)})
    titles = {section.title: section for section in report.content(short).sections}
    assert len(titles["What transfers"].figures()) == 1
    assert "What transfers" not in {section.title for section in report.content(short.model_copy(update={"views": {}})).sections}


def test_a_view_whose_stability_is_not_known_is_no_point(search):
    views = {**search.views, "view3": {key: value for key, value in search.views["view3"].items() if key != kept.STABILITY}}
    library = Library({"search": search.model_copy(update={"views": views})})
    assert association(recipes(library.kept, library.analysis), MOVED).num_points == 4


def test_the_reports_have_the_runs_as_points(search, tmp_path, capsys):
    (tmp_path / kept.KEPT).mkdir(parents=True)
    (tmp_path / kept.KEPT / "search.json").write_text(kept.spelled(kept.slimmed(search.model_copy(update={"arms": stripped(search)}))))
    assert main(["tables", "--root", str(tmp_path), "--reports", str(tmp_path / "reports")]) == 0
    assert "transfer.html" in capsys.readouterr().out
    page = (tmp_path / "reports" / "transfer.html").read_text()
    assert page.count("<svg") == 1  # stability alone has numbers here
    assert sorted(re.findall(r">(r\d)<", page[page.index("<svg") : page.index("</svg>")])) == list(GAINS)
    assert "| search | r5 | +9.9" in (tmp_path / "reports" / "transfer.md").read_text()
    assert (tmp_path / "reports" / "search" / "report.html").stat().st_size > 10_000


def test_a_readme_can_show_the_plots(search, tmp_path):
    (tmp_path / kept.KEPT).mkdir(parents=True)
    (tmp_path / kept.KEPT / "search.json").write_text(kept.spelled(kept.slimmed(search)))
    (tmp_path / "README.md").write_text("<!-- table: search plot of=transfer -->\n<!-- end -->\n")
    in_step(tmp_path, write=True)
    assert len(list((tmp_path / kept.KEPT).glob("search-transfer-*.svg"))) == 4
    assert "![What transfers](configs/compare/results/search-transfer-4.svg)" in (tmp_path / "README.md").read_text()


def stripped(results):
    """Runs without the evaluations, which are too short for a report."""
    return [arm.model_copy(update={"evaluations": {}}) for arm in results.arms]
