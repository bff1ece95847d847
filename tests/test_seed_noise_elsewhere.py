"""Scales with one seed of every arm: their noise is that of the other scales and budgets, since taking none calls a model unlike itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from eval import report, results, table_kinds
from eval.grid_analysis import analyse
from eval.grid_cells import cells_of
from eval.results import Results
from eval.seed_intervals import Sample, uncertain
from eval.seed_noise import SeedPool, called_unlike, from_elsewhere
from proxy_lm.config import validate

ARMS = {"bytes": 2.5, "taught": 2.48, "other": 2.52}
SCALES = {"small": 30_000, "middle": 100_000, "large": 1_000_000}


def with_seed_noise(found: Results, deviation: float) -> Results:
    """The same with a shift of each run, drawn by its arm, scale and seed."""
    value = found.model_dump(mode="json")
    size = sum(value["projects"]["num_bytes"])
    for place, run in enumerate(value["arms"]):
        if run["status"] == "done":
            shift = float(np.random.default_rng([7, place]).normal(0, deviation))
            run["bits_per_byte"] += shift
            nats = np.array(run["nll_nats_by_project"])
            shares = np.array(value["projects"]["num_bytes"]) / size
            run["nll_nats_by_project"] = (nats + shift * np.log(2) * size * shares).tolist()
    return validate(Results, value, "results")


def one_seed_at(comparison, *scales):
    lost = frozenset((arm, scale, None, seed) for arm in ARMS for scale in scales for seed in (1, 2))
    return with_seed_noise(comparison("elsewhere", ARMS, scales=SCALES, failed=lost), 0.05)


def pool(deviation):
    return SeedPool("s", None, deviation, 6, 3, ())


def test_the_largest_noise_serves_with_a_degree_for_each_place():
    sample = Sample((0,), np.array([[400.0, 500.0]]), np.array([100.0, 100.0]))
    found = from_elsewhere({"a": sample}, [pool(0.05), pool(0.2), pool(0.1)])["a"].seed_noise
    assert (found.variance, found.degrees, found.kind) == (pytest.approx(0.04), 3, "elsewhere")
    assert from_elsewhere({"a": sample}, [])["a"].seed_noise.kind == "none"


def test_a_scale_of_one_seed_borrows_from_the_others_and_says_so(comparison):
    found = one_seed_at(comparison, "large")
    analysis = analyse(found)
    widest = max(one.deviation for one in analysis.seed_pools)
    assert len(analysis.seed_pools) == 2
    for arm in ("taught", "other"):
        pair = analysis.verdict(arm, "large")
        assert (pair.seed_noise, pair.covers_seeds) == ("elsewhere", True)
        assert pair.interval[1] - pair.interval[0] > 2 * 2.5 * widest  # two runs, and few degrees of freedom
        assert analysis.verdict(arm, "small").seed_noise in ("pooled", "own")
    told = " ".join(report.answers(found))
    assert "One seed of every arm at large: the seed noise is the largest of the other scales and budgets" in told
    assert "2 of 6 verdicts rest on that, marked §" in told
    assert "%§" in told
    assert "†" not in told


def test_where_no_scale_has_several_seeds_there_is_nothing_to_borrow_and_nothing_is_judged(comparison):
    found = one_seed_at(comparison, *SCALES)
    analysis = analyse(found)
    assert {(verdict.seed_noise, verdict.verdict) for verdict in analysis.verdicts} == {("none", "not judged")}
    told = " ".join(report.answers(found))
    assert "taught: against bytes 3 not judged of 3 comparisons†. Not judged at every scale" not in told
    assert "taught: against bytes 3 not judged of 3 comparisons†." in told
    assert "not judged (one seed and none to borrow from): " in told
    for kind in ("main", "growth"):
        table = table_kinds.KINDS[kind](found, analysis, {})[1]
        words = {cell for row in table.rows for cell in row}
        assert "not judged†" in words
        assert not any("better" in word or "worse" in word or "grows" in word for word in words)
    (page,) = [one for one in report.content(found).sections if one.title == "Difference from the baseline by scale"]
    assert {row[2] for row in page.table.rows} == {"not judged"}


def test_pairs_that_documents_alone_call_unlike():
    """Three runs of two projects: two that differ by as much in each, which leaves no noise of projects, and one between them by chance."""
    sample = Sample((0, 1, 2), np.array([[100.0, 200.0], [110.0, 220.0], [130.0, 190.0]]), np.array([50.0, 100.0]))
    assert called_unlike(sample) == (1, 3)


def test_the_kept_byte_models_of_one_size_are_called_unlike_each_other_without_seed_noise_and_alike_with_it(root):
    """They differ in their seed alone: every verdict on two of them is false."""
    ladder = results.read(root / "configs" / "compare" / "results" / "ladder.json")
    sample = cells_of(ladder)["bytes", "30k", "x1"].sample
    assert len(sample.seeds) >= 12
    unlike, pairs = called_unlike(sample)
    assert unlike > 0.4 * pairs
    others = [one for one in analyse(ladder, verdicts_only=True).seed_pools if (one.scale, one.budget) != ("30k", "x1")]
    alone = {k: Sample((k,), sample.bits_RJ[k : k + 1], sample.num_bytes_J) for k in range(len(sample.seeds))}
    told = from_elsewhere(alone, others)
    found = [uncertain(told[mine], told[base]).p < 0.05 for mine, base in itertools.combinations(alone, 2)]
    assert sum(found) <= 0.05 * pairs
