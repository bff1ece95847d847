"""Best-fit packing: no unit is split that fits into a row, hardly anything is padding, and a slow twin gives the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_lm.data.bench import made_up_sizes, pack_rate, plan_rate
from proxy_lm.data.fit import pack


def packed(lengths: list[int], row_length: int) -> tuple[list[tuple[int, int, int]], int]:
    """((whole_row, row, column) of each unit, number of rows)."""
    found = pack(np.array(lengths, dtype=np.int64), row_length)
    return list(zip(found.whole_row.tolist(), found.row.tolist(), found.column.tolist(), strict=True)), int(found.num_rows[0])


def pictures(lengths: list[int], row_length: int) -> list[str]:
    """Rows as text: unit 0 is a, 1 is b; what is free is a dot."""
    units, num_rows = packed(lengths, row_length)
    rows = [["."] * row_length for _ in range(num_rows)]
    for unit, (length, (whole_row, row, column)) in enumerate(zip(lengths, units, strict=True)):
        num_whole, rest = (length - 1) // row_length, (length - 1) % row_length + 1
        for at in [(whole_row + k, c) for k in range(num_whole) for c in range(row_length)] + [(row, column + c) for c in range(rest)]:
            assert rows[at[0]][at[1]] == "."
            rows[at[0]][at[1]] = chr(ord("a") + unit)
    return ["".join(row) for row in rows]


def twin(lengths: list[int], row_length: int) -> tuple[list[tuple[int, int, int]], int]:
    """The slow twin: every bin is looked at for every unit."""
    rest = [(length - 1) % row_length + 1 for length in lengths]
    bins: list[dict[str, int]] = []
    bin_of = {}
    for clock, unit in enumerate(sorted(range(len(lengths)), key=lambda unit: (-rest[unit], unit))):
        fitting = [one for one in bins if one["free"] >= rest[unit]]
        if fitting:
            chosen = min(fitting, key=lambda one: (one["free"], -one["changed"]))
        else:
            chosen = {"free": row_length, "used": 0}
            bins.append(chosen)
        chosen["free"] -= rest[unit]
        chosen["changed"] = clock
        bin_of[unit] = chosen
    num_rows, units = 0, []
    for unit, length in enumerate(lengths):
        whole_row, chosen = num_rows, bin_of[unit]
        num_rows += (length - 1) // row_length
        if "row" not in chosen:
            chosen["row"] = num_rows
            num_rows += 1
        units.append((whole_row, chosen["row"], chosen["used"]))
        chosen["used"] += rest[unit]
    return units, num_rows


def test_nothing_one_and_two():
    assert pictures([], 4) == []
    assert pictures([1], 4) == ["a..."]
    assert pictures([4], 4) == ["aaaa"]
    assert pictures([2, 3], 4) == ["aa..", "bbb."]
    assert pictures([1, 3], 4) == ["abbb"]


def test_each_goes_where_the_least_is_left_over():
    # From long to short: b opens a row, d opens one; a (3) fits beside b (5 of 8) exactly, c (2) into d's.
    assert pictures([3, 5, 2, 4], 8) == ["aaabbbbb", "ccdddd.."]
    # First fit would put c beside a (3 left over), best fit puts it beside b (1 left over).
    assert pictures([5, 6, 2], 8) == ["aaaaa...", "bbbbbbcc"]


def test_rows_and_their_units_stand_in_the_order_of_positions():
    assert pictures([1, 7, 4, 4, 7, 1], 8) == ["aeeeeeee", "bbbbbbbf", "ccccdddd"]


def test_a_unit_longer_than_a_row_fills_rows_and_its_rest_is_packed():
    assert pictures([10], 4) == ["aaaa", "aaaa", "aa.."]
    assert pictures([1, 10, 1], 4) == ["abbc", "bbbb", "bbbb"]  # the rest stands where it fits best
    assert pictures([5, 7], 4) == ["aaaa", "abbb", "bbbb"]
    assert pictures([8], 4) == ["aaaa", "aaaa"]  # no row for an empty rest


def test_rows_of_one_id():
    assert pictures([1, 3, 1], 1) == ["a", "b", "b", "b", "c"]


@settings(max_examples=300, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), max_size=40), row_length=st.integers(1, 40))
def test_the_twin_packs_the_same(lengths, row_length):
    assert packed(lengths, row_length) == twin(lengths, row_length)
    rows = pictures(lengths, row_length)  # asserts that no place is taken twice
    assert sum(len(row) - row.count(".") for row in rows) == sum(lengths)
    for unit, length in enumerate(lengths):
        holding = [row for row in rows if chr(ord("a") + unit) in row]
        assert len(holding) == -(-length // row_length)  # whole where it fits, and in as few rows as it needs where not
    half_full = sum(row.count(".") * 2 >= row_length for row in rows)
    assert half_full <= 1  # two of them would have been one


@pytest.mark.parametrize(("row_length", "most"), [(1024, 0.001), (4096, 0.001), (16384, 0.002)])
def test_lengths_like_those_of_source_files_leave_hardly_any_padding(row_length, most):
    lengths = made_up_sizes(40_960) + 4
    ids = sum(pack(lengths[first : first + 4096], row_length).num_rows[0] * row_length for first in range(0, lengths.size, 4096))
    assert ids / int(lengths.sum()) - 1 <= most


@pytest.mark.bench
def test_a_million_units_a_second_are_packed():
    best = max((pack_rate() for _ in range(3)), key=lambda rate: rate["units_per_second"])
    print("fit:", {name: round(value, 5) for name, value in best.items()})
    assert best["units_per_second"] >= 1e6


@pytest.mark.bench
def test_packed_rows_and_middles_are_planned_far_faster_than_any_device_trains():
    # A document is about a thousand ids here: a rank would have to train hundreds of millions of ids a second to wait for its plan.
    for what, changes in (("fit", {"packing": "fit"}), ("fim", {"fim_rate": 0.5})):
        best = max((plan_rate(500_000, **changes) for _ in range(3)), key=lambda rate: rate["documents_per_second"])
        print(f"plan, {what}:", {name: round(value) for name, value in best.items()})
        assert best["documents_per_second"] >= 0.3e6, what
