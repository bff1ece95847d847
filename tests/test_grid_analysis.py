"""A grid's analysis finds what was planted in made-up results, and says why where it finds nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.grid_analysis import analyse
from eval.multipliers import Multiplier, Ratio, fit_curve
from eval.results import ArmResult, CompressorCost, Projects, Results
from eval.scaling_fits import fit_parameters_and_data, why_not
from proxy_lm.errors import RequestError

SCALES = {"s0": 300_000, "s1": 1_000_000, "s2": 3_000_000}
NO_COST = CompressorCost(train_seconds=0, encode_seconds=0, flops=0)


def law(arm, flops):
    """The truth: bytes follow a power law of compute, a good arm is 1.5 times as fast, a bad one half as fast."""
    return 30 * (flops * {"bytes": 1.0, "good": 1.5, "bad": 0.5}.get(arm, 1.0)) ** -0.08


def cell(arm, scale, budget, seed, num_bytes, bits, *, flops, body, status="done", compressor_flops=0.0):
    """One run; `bits` are bits per byte of each project, None for a run without a score."""
    nats = None if bits is None else bits * num_bytes * math.log(2)
    return ArmResult(
        name=arm,
        scale=scale,
        budget=budget,
        seed=seed,
        folder=f"arms/{arm}-{scale}-{budget}-s{seed}",
        status=status,
        differs={},
        training_flops=flops,
        flops_per_symbol=1,
        symbols=1,
        source_bytes=int(flops / 6 / body),
        source_bytes_by_view={},
        documents_by_view={},
        symbols_by_view={},
        unique_bytes=1,
        epochs=1,
        num_steps=1,
        num_parameters={"body": body, "total": body + 1000},
        compressor_flops=compressor_flops,
        compressor=NO_COST,
        compressor_seconds=0,
        bits_per_byte=None if nats is None else float(nats.sum() / num_bytes.sum() / math.log(2)),
        nll_nats_by_project=None if nats is None else nats.tolist(),
    )


def made(
    arms=("bytes", "good"), scales=("s0",), budgets=(1, 4), seeds=(0, 1, 2), *, failed=(), num_projects=40, noise=1.0, draw=0, **options
):
    """Results of a grid: `truth(arm, flops)`, seeds apart by 0.004 bits per byte, arms by 0.01 a project, all times `noise`."""
    truth = options.get("truth", law)
    generator = np.random.default_rng(draw)
    num_bytes = np.round(np.exp(generator.normal(9, 0.8, num_projects)))
    level = generator.normal(0, 0.3, num_projects)
    level -= (level * num_bytes).sum() / num_bytes.sum()
    gaps = {arm: 0.01 * noise * generator.normal(size=num_projects) for arm in arms}
    runs = []
    for seed in seeds:
        for scale in scales:
            for budget in budgets:
                body, flops = SCALES[scale], 6.0 * SCALES[scale] ** 2 * 20 * budget
                for arm in arms:
                    own = noise * (0.004 * generator.normal() + 0.01 * generator.normal(size=num_projects))
                    lost = (arm, scale, budget, seed) in failed
                    bits = None if lost else truth(arm, flops) + level + gaps[arm] + own
                    extra = {"status": "failed" if lost else "done", "compressor_flops": 0.25 * flops if arm != "bytes" else 0.0}
                    runs.append(cell(arm, scale, f"x{budget}", seed, num_bytes, bits, flops=flops, body=body, **extra))
    nothing = {name: {} for name in ("plan", "versions", "machine", "corpus", "views", "match")}
    projects = Projects(num_bytes=num_bytes.tolist())
    return Results(name="made", question="", command="", baseline="bytes", arms=runs, projects=projects, **nothing)


def changed(results, index, **update):
    """The results with one run replaced."""
    arms = [arm.model_copy(update=update) if place == index else arm for place, arm in enumerate(results.arms)]
    return results.model_copy(update={"arms": arms})


def test_means_deviations_and_costs_by_eye():
    results = made(budgets=(1,))
    point = analyse(results).point("good", "s0", "x1")
    values = [arm.bits_per_byte for arm in results.arms if arm.name == "good"]
    assert point.values == tuple(values)
    assert (point.mean, point.seed_deviation) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert point.interval[0] < point.mean < point.interval[1]
    assert point.flops_with_compressor == pytest.approx(1.25 * point.flops)
    assert (point.seeds, point.failed, point.num_body_parameters, point.covers_seeds) == ((0, 1, 2), [], 300_000, True)


def test_verdicts_are_corrected_for_all_pairs():
    results = made(("bytes", "good", "bad", "same"), ("s0", "s1"))
    analysis = analyse(results)
    assert {v.arm: v.verdict for v in analysis.verdicts} == {"good": "better", "bad": "worse", "same": "tie"}
    assert [(v.num_pairs, v.against, v.reason) for v in analysis.verdicts] == [(12, "bytes", "")] * 12
    for pair in analysis.verdicts:
        assert pair.p_corrected >= pair.p
        low, high = pair.interval_corrected
        assert low <= pair.interval[0] < pair.difference < pair.interval[1] <= high
        assert (low > 0 or high < 0) == (pair.verdict in ("better", "worse"))
    assert analysis == analyse(results)
    assert analyse(results, verdicts_only=True).verdicts == analysis.verdicts


def test_a_pair_that_is_clear_alone_can_be_a_tie_among_many():
    results = made(("bytes", "good", *"abcdefghij"), budgets=(1,), noise=5.0, draw=5)
    pair = [arm for arm in results.arms if arm.name in ("bytes", "good")]
    alone = analyse(results.model_copy(update={"arms": pair})).verdict("good", "s0", "x1")
    among = analyse(results, verdicts_only=True).verdict("good", "s0", "x1")
    assert (alone.verdict, alone.num_pairs, alone.p_corrected) == ("better", 1, alone.p)
    assert (among.verdict, among.num_pairs) == ("tie", 11)
    assert 0.05 / 11 < among.p < 0.05


def test_other_pairs_are_judged_when_asked_and_counted():
    analysis = analyse(made(("bytes", "good", "bad"), budgets=(1,)), pairs=[("good", "bad"), ("good", "bytes")])
    assert [(v.arm, v.against) for v in analysis.verdicts] == [("good", "bytes"), ("bad", "bytes"), ("good", "bad")]
    assert (analysis.verdict("good", "s0", "x1", "bad").verdict, analysis.verdicts[0].num_pairs) == ("better", 3)
    with pytest.raises(RequestError, match="arm 'zip' is not in comparison 'made'; it has: bytes, good"):
        analyse(made(), pairs=[("good", "zip")])


def test_failed_seeds_are_listed_and_the_rest_is_judged():
    analysis = analyse(made(failed=[("good", "s0", 1, 1), ("good", "s0", 4, 0), ("good", "s0", 4, 1), ("good", "s0", 4, 2)]))
    part, none = analysis.point("good", "s0", "x1"), analysis.point("good", "s0", "x4")
    assert (part.seeds, part.failed, none.seeds, none.failed, none.mean, none.interval) == ((0, 2), [1], (), [0, 1, 2], None, None)
    found, lost = analysis.verdict("good", "s0", "x1"), analysis.verdict("good", "s0", "x4")
    assert (found.verdict, found.seeds, found.seeds_against, found.num_pairs) == ("better", (0, 2), (0, 1, 2), 1)
    assert (lost.verdict, lost.difference, lost.p, lost.reason) == ("not decided", None, None, "no run of 'good' finished")
    assert [m.budget for m in analysis.multipliers] == ["x1"]


def test_a_failed_baseline_decides_nothing():
    analysis = analyse(made(budgets=(1,), failed=[("bytes", "s0", 1, seed) for seed in (0, 1, 2)]))
    assert [(v.verdict, v.reason) for v in analysis.verdicts] == [("not decided", "no run of 'bytes' finished")]
    (one,) = analysis.multipliers
    assert (one.kind, one.value, one.text) == ("not defined", None, "-")


def test_one_seed_says_that_it_covers_projects_alone():
    analysis = analyse(made(seeds=(5,), budgets=(1,)))
    assert (analysis.verdicts[0].covers_seeds, analysis.points[0].covers_seeds, analysis.points[0].seed_deviation) == (False, False, None)
    (pair,) = analysis.verdicts
    assert (pair.seed_noise, analysis.seed_pools) == ("none", [])
    # Far apart by projects alone, and yet another seed may say otherwise.
    assert pair.interval[1] < 0
    assert (pair.verdict, pair.reason, pair.p, pair.num_pairs) == ("not judged", "one seed and none to borrow from", None, 0)
    assert analyse(made(budgets=(1,))).verdicts[0].covers_seeds


def test_without_seed_noise_no_margin_is_judged():
    analysis = analyse(made(seeds=(5,), budgets=(1,), scales=tuple(SCALES), truth=growing), num_draws=200)
    (line,) = analysis.by_scale
    assert line.interval[1] < 0
    assert (line.trend, line.everywhere, line.p_everywhere) == ("not judged", "not judged", None)
    few = analyse(made(seeds=(5,), budgets=(1,), num_projects=5)).verdicts[0]
    assert (few.verdict, few.reason) == ("not decided", "5 projects; fewer than 8 decide nothing")


def test_an_arm_of_one_seed_borrows_its_noise_where_others_have_several():
    lost = [("good", "s0", budget, seed) for budget in (1, 4) for seed in (1, 2)]
    analysis = analyse(made(("bytes", "good", "bad"), failed=lost))
    told = {v.arm: (v.seed_noise, v.covers_seeds) for v in analysis.verdicts if v.budget == "x1"}
    assert told == {"good": ("borrowed", True), "bad": (told["bad"][0], True)}
    assert told["bad"][0] in ("pooled", "own")
    (first, _) = analysis.seed_pools
    assert (first.scale, first.budget, first.degrees, first.num_arms, first.borrowers) == ("s0", "x1", 4, 2, ("good",))
    assert {m.seed_noise for m in analysis.multipliers if m.arm == "good"} == {"borrowed"}
    pair = analysis.verdict("good", "s0", "x1")
    # As wide as what a seed does, and wider than projects alone would be.
    assert pair.interval[1] - pair.interval[0] > 2 * 3.18 * first.deviation
    values = [np.array(p.values) for p in analysis.points if p.budget == "x1" and p.arm != "good"]
    assert first.deviation == pytest.approx(math.sqrt(sum(v.var(ddof=1) for v in values) / 2))
    # At x4 no arm has several seeds: the noise of x1 serves, one place and so one degree, and what uses it says so.
    lost = [(arm, "s0", 4, seed) for arm in ("bytes", "good", "bad") for seed in (1, 2)]
    bare = analyse(made(("bytes", "good", "bad"), failed=lost))
    (only,) = bare.seed_pools
    found, here = bare.verdict("good", "s0", "x4"), bare.verdict("good", "s0", "x1")
    assert (found.seed_noise, here.seed_noise, found.covers_seeds) == ("elsewhere", "pooled", True)
    assert found.interval[1] - found.interval[0] > 2 * 4.3 * only.deviation
    assert {m.seed_noise for m in bare.multipliers} == {"elsewhere"}


def test_few_projects_decide_nothing():
    seven, one = analyse(made(num_projects=7, budgets=(1,))).verdicts[0], analyse(made(num_projects=1, budgets=(1,))).verdicts[0]
    assert (seven.verdict, seven.p, seven.reason) == ("not decided", None, "7 projects; fewer than 8 decide nothing")
    assert seven.interval is not None
    assert (one.interval, one.verdict, one.difference is None) == (None, "not decided", False)


def test_results_that_do_not_fit_together_are_refused():
    results = made(budgets=(1,))
    with pytest.raises(RequestError, match=r"has 3 numbers and projects\.num_bytes 40"):
        analyse(changed(results, 1, nll_nats_by_project=[1.0, 2.0, 3.0]))
    with pytest.raises(RequestError, match=r"bits_per_byte is 1\.234000; one of them was changed by hand"):
        analyse(changed(results, 1, bits_per_byte=1.234))
    with pytest.raises(RequestError, match=r"arm 'good' .* has two results of one seed"):
        analyse(changed(results, 3, seed=0))
    with pytest.raises(RequestError, match=r"projects\.num_bytes of comparison 'made' must be 0 or more"):
        analyse(results.model_copy(update={"projects": Projects(num_bytes=[0.0] * 40)}))


def test_without_nats_there_are_means_and_no_intervals():
    results = made(budgets=(1, 4), scales=tuple(SCALES))
    bare = [arm.model_copy(update={"nll_nats_by_project": None}) for arm in results.arms]
    analysis = analyse(results.model_copy(update={"arms": bare}))
    assert (analysis.points[0].mean is None, analysis.points[0].interval, analysis.verdicts[0].interval) == (False, None, None)
    assert analysis.verdicts[0].reason == "the results hold no nats by project; run compare again to have them"
    assert (analysis.multipliers[0].value is None, analysis.multipliers[0].interval) == (False, None)
    assert (analysis.by_scale[0].slope is None, analysis.by_scale[0].interval, analysis.by_scale[0].everywhere) == (
        False,
        None,
        "not decided",
    )


def test_a_curve_goes_through_its_points_and_back():
    flops = np.array([1e13, 1e14, 9e14])
    for bits in (3 * (flops[:2] / 1e13) ** -0.1, 0.5 + 3 * (flops / 1e13) ** -0.2):
        curve = fit_curve(flops[: len(bits)], bits[None, :])
        assert [float(curve.bits_at(x)[0]) for x in flops[: len(bits)]] == pytest.approx(bits.tolist(), rel=1e-5)
        assert [float(curve.flops_at(np.array([y]))[0]) for y in bits] == pytest.approx(flops[: len(bits)].tolist(), rel=1e-3)
    # Bits that grow with compute have no curve; bits below the floor are never reached.
    assert np.isnan(fit_curve(flops[:2], np.array([[2.0, 2.1]])).flops_at(np.array([2.0])))
    assert np.isinf(fit_curve(flops, (0.5 + 3 * (flops / 1e13) ** -0.2)[None, :]).flops_at(np.array([0.4])))


def test_a_planted_multiplier_is_found_and_covered():
    within, widths, values = 0, [], []
    for draw in range(60):
        (first, last) = analyse(made(draw=draw), num_draws=500).multipliers
        assert (first.kind, last.kind, first.num_points, first.covers_seeds) == ("measured", "beyond the measured range", 2, True)
        low, high = first.interval
        within += low <= 1.5 <= high
        widths.append(high - low)
        values.append(first.value)
    # 95 %: fewer than 53 of 60 once in 80. The interval is of use, and its middle is right.
    assert within >= 53
    assert np.median(widths) < 0.35
    assert np.median(values) == pytest.approx(1.5, abs=0.03)


def test_the_compressor_is_charged():
    (first, _) = analyse(made(noise=0.01)).multipliers
    assert first.value == pytest.approx(1.5, abs=0.01)
    assert first.with_compressor.value == pytest.approx(1.5 / 1.25, abs=0.01)
    assert first.with_compressor.interval == pytest.approx(tuple(end / 1.25 for end in first.interval))


@pytest.mark.parametrize(("fixed", "share"), [(0.5, 0.0), (0.0, 0.5)], ids=["a fitted view", "a teacher that is asked"])
def test_the_baselines_compressor_is_charged_too(fixed, share):
    # At x1 the arm is worth 1.5 times the baseline's compute C. The baseline's views cost half of C once, or half of each run's own; the
    # arm's a quarter of C: (1.5 + 0.5) / 1.25, or (1.5 + 0.75) / 1.25.
    results = made(noise=0.01)
    first = results.arms[0].training_flops
    arms = [
        arm.model_copy(update={"compressor_flops": fixed * first + share * arm.training_flops}) if arm.name == "bytes" else arm
        for arm in results.arms
    ]
    (found, _) = analyse(results.model_copy(update={"arms": arms})).multipliers
    assert found.value == pytest.approx(1.5, abs=0.01)
    truth = (1.5 + fixed + 1.5 * share) / 1.25
    assert found.with_compressor.value == pytest.approx(truth, abs=0.01)
    assert found.with_compressor.interval[0] < truth < found.with_compressor.interval[1]


def test_one_budget_has_no_curve_but_scales_have():
    analysis = analyse(made(budgets=(1,), scales=tuple(SCALES), noise=0.1))
    assert {(m.kind, m.reason) for m in analysis.multipliers} == {
        ("not defined", "the baseline finished 1 budget at this scale; a curve needs two")
    }
    assert [(m.kind, m.along) for m in analysis.frontier_multipliers] == [
        ("measured", "scales"),
        ("measured", "scales"),
        ("beyond the measured range", "scales"),
    ]
    assert [m.value for m in analysis.frontier_multipliers] == pytest.approx([1.5] * 3, abs=0.06)


def test_far_outside_there_is_only_a_bound():
    far = made(truth=lambda arm, flops: law("bytes", flops * {"bytes": 1, "good": 100}[arm]))
    (first, _) = analyse(far).multipliers
    assert (first.kind, first.value, first.interval, first.bound) == ("beyond the measured range", None, None, pytest.approx(4))
    assert first.text == "more than 4"
    assert first.reason == "worth more than 4 times the largest compute that the baseline was measured at"
    poor = analyse(made(truth=lambda arm, flops: law("bytes", flops * {"bytes": 1, "good": 0.01}[arm]))).multipliers[0]
    assert (poor.text, poor.is_more) == ("less than 1", False)
    assert poor.reason == "worth more than 4 times less than the smallest compute that the baseline was measured at"
    rising = analyse(made(truth=lambda arm, flops: 2 + flops / 1e14)).multipliers[0]
    assert (rising.kind, rising.reason) == ("not defined", "the baseline's bits per byte do not fall with compute")


def test_multipliers_are_told_with_their_open_ends():
    told = [Ratio(1.5, None), Ratio(1.5, (1.2, 1.8)), Ratio(1.5, (1.2, math.inf)), Ratio(1.5, (0.0, 1.8)), Ratio(1.5, (0, math.inf))]
    assert [ratio.text for ratio in told] == ["1.5", "1.5 (1.2 to 1.8)", "1.5 (1.2 or more)", "1.5 (1.8 or less)", "1.5 (any)"]
    assert Ratio(None, None).text == "-"
    assert isinstance(analyse(made()).multipliers[0], Multiplier)


def growing(arm, flops):
    """A margin of 1 % at s0 that grows by 2 points per tenfold of parameters (compute goes with their square)."""
    tenfolds = math.log10(flops / (6 * 300_000**2 * 20)) / 2
    return law("bytes", flops) * (1 if arm == "bytes" else 0.99 - 0.02 * tenfolds)


def test_a_margin_that_grows_with_scale_is_seen():
    (row,) = analyse(made(budgets=(1,), scales=tuple(SCALES), truth=growing, noise=0.5)).by_scale
    assert [gap.percent for gap in row.gaps] == pytest.approx([-1, -2.05, -3], abs=0.3)
    assert row.interval[0] < -2 < row.interval[1] < 0
    assert (row.trend, row.everywhere, row.reason) == ("gains", "better", "")
    assert row.p_everywhere < 0.05
    (flat,) = analyse(made(("bytes", "same"), budgets=(1,), scales=tuple(SCALES))).by_scale
    assert (flat.trend, flat.everywhere) == ("not decided", "not decided")
    (single,) = analyse(made(budgets=(1,))).by_scale
    assert (single.slope, single.reason) == (None, "1 scale with numbers of both arms; a slope needs two")


def test_better_everywhere_needs_every_scale():
    lost = made(budgets=(1,), scales=tuple(SCALES), failed=[("good", "s1", 1, seed) for seed in (0, 1, 2)])
    (row,) = analyse(lost).by_scale
    assert (row.everywhere, row.p_everywhere, [gap.scale for gap in row.gaps]) == ("not decided", None, ["s0", "s2"])


def grid(generator, noise, ratios=(5, 20, 80, 320)):
    """Runs of a planted law at three scales and several amounts of data, three seeds each: N, D, bits."""
    rows = [(n, n * ratio) for n in (3e5, 1e6, 3e6) for ratio in ratios for _ in range(3)]
    n, d = np.array(rows).T
    return n, d, (0.6 + 60 * n**-0.35 + 200 * d**-0.37) * np.exp(noise * generator.normal(size=len(n)))


def test_the_fit_recovers_planted_exponents():
    exact = fit_parameters_and_data("bytes", *grid(np.random.default_rng(0), 0.0), num_draws=20)
    truth = {"E": 0.6, "A": 60, "alpha": 0.35, "B": 200, "beta": 0.37}
    assert exact.values == pytest.approx(truth, rel=0.05)
    assert exact.bits(parameters=1e6, data=2e7) == pytest.approx(0.6 + 60 * 1e6**-0.35 + 200 * 2e7**-0.37, rel=1e-4)
    within = dict.fromkeys(truth, 0)
    for draw in range(10):
        noisy = fit_parameters_and_data("bytes", *grid(np.random.default_rng(draw), 0.002), num_draws=60)
        assert (noisy.num_points, noisy.num_runs) == (12, 36)
        for name, (low, high) in noisy.intervals.items():
            within[name] += low <= truth[name] <= high
    assert min(within[name] for name in ("alpha", "beta")) >= 7  # 7 or fewer of 10 at 95 %: once in 90


def test_runs_that_cannot_tell_data_from_parameters_get_no_such_fit():
    scales = np.array([3e5, 1e6, 3e6])
    assert why_not(scales, 20 * scales) == "3 distinct points at 3 scales; five parameters need 6 at 3"
    six = np.geomspace(1e5, 1e7, 6)
    assert why_not(six, 20 * six).startswith("data grew in proportion to parameters in all runs")
    fits = {fit.arm: fit for fit in analyse(made(budgets=(1,), scales=tuple(SCALES), noise=0.1)).fits}
    assert (fits["bytes"].form, fits["bytes"].budget, fits["bytes"].num_runs) == ("compute", "x1", 9)
    low, high = fits["bytes"].intervals["gamma"]
    assert low < 0.08 < high
    assert fits["bytes"].bits(flops=1e14) == pytest.approx(law("bytes", 1e14), rel=0.01)
    few = analyse(made(budgets=(1,))).fits[0]
    assert (few.form, few.values, few.reason.endswith("1 scales at one budget, a power law of compute needs 3")) == ("none", {}, True)


def test_a_comparison_without_scales_and_budgets_is_analysed_too():
    results = made(budgets=(1,), seeds=(0,))
    plain = [arm.model_copy(update={"scale": None, "budget": None}) for arm in results.arms]
    analysis = analyse(results.model_copy(update={"arms": plain}))
    assert (analysis.verdict("good").verdict, analysis.point("bytes").scale) == ("not judged", None)
    empty = analyse(results.model_copy(update={"arms": []}))
    assert (empty.points, empty.verdicts, empty.fits) == ([], [], [])
