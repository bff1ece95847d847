"""How much of what pairs tell twice stands in one row: against a twin that looks at every byte of every row."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.pieces import Layout, Opening
from proxy_lm.data.plan import KnownLengths, Plan
from proxy_lm.train.__main__ import main
from proxy_lm.vocabulary import Vocabulary

SIZES = np.random.default_rng(3).lognormal(3.5, 0.8, 300).astype(np.int64)


def plan_of(mix, lengths=SIZES, **changes):
    return Plan(
        sizes=SIZES,
        documents=range(SIZES.size),
        views=[KnownLengths("v0", lengths)],
        vocabulary=Vocabulary([("v0", 100)]),
        mix=MixSettings.model_validate(mix),
        **{"seed": 0, "row_length": 64, "lookahead": 2, "num_rows": 700, "shuffle_rows": 16} | changes,
    )


def seen_share(plan):
    """A view of one symbol a byte, so that bytes can be marked one by one."""
    told = seen = 0
    slices = plan.row_slices(0, plan.num_rows)
    first, end = slices.payload_range(plan.row_length)
    rows = defaultdict(lambda: defaultdict(set))
    for k in np.flatnonzero(slices.layout == Layout.PAIR):
        rows[slices.row[k], slices.order[k]][slices.opening[k] == Opening.START].update(range(first[k], end[k]))
    for tellings in rows.values():
        told += len(tellings[True])
        seen += len(tellings[True] & tellings[False])
    return seen / told


@pytest.mark.parametrize("mix", [{"pair": 1.0}, {"pair": 0.5, "rate": 0.5}, {"pair": 0.3, "parallel": 0.5, "raw_first": 1.0}])
@pytest.mark.parametrize("changes", [{}, {"row_length": 256}, {"packing": "fit", "row_length": 256}], ids=["short", "long", "packed"])
def test_equals_bytes_marked_one_by_one(mix, changes):
    plan = plan_of(mix, **changes)
    found = plan.summary()["pair_bytes_seen_share"]
    assert found == pytest.approx(seen_share(plan), rel=1e-12)
    assert 0.1 < found < 0.9 if not changes else found > 0.4


def test_symbols_count_in_proportion_and_repeated_rows_do_not():
    short = plan_of({"pair": 1.0}, SIZES // 3).summary()["pair_bytes_seen_share"]
    assert short > plan_of({"pair": 1.0}).summary()["pair_bytes_seen_share"]
    assert plan_of({"pair": 1.0, "repeat": 0.5}, SIZES // 3).summary()["pair_bytes_seen_share"] == short
    assert plan_of({"parallel": 1.0}).summary()["pair_bytes_seen_share"] is None


def test_the_dry_run_says_when_pairs_do_not_meet(tiny_run, capsys):
    def said(row_length):
        plain = tiny_run.settings("pairs-seen", mix={"pair": 0.5}, row_length=row_length, num_steps=6400 // row_length)
        assert main([str(tiny_run.write(plain)), "--dry-run"]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("pairs "))

    assert "have their first telling in the same row: the others teach nothing of the two together; longer rows" in said(32)
    assert said(2048).endswith("have their first telling in the same row")
