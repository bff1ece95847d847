"""Two runs on the same bytes: the differences of bits per byte, of `lines` and of `translate`, their intervals, and verdicts.

    pairs_of("lines-test", mine, baseline)

Results carry the sums of each metric by project, so pairing needs nothing but the two files: projects are drawn again, the same for both.
A pair is made only where both runs were asked the same places; a number that one of them has of fewer places is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from eval.intervals import MIN_PROJECTS, estimate
from eval.report_numbers import PLAIN, kind_of

_LOWER_IS_BETTER: Final = ("bits_per_byte", "raw_change", "view_change")
_UNPAIRED: Final = ("projects", "stumbles")  # how many offsets can be stumbles is the run's own doing


@dataclass(frozen=True)
class Pair:
    """A run against the baseline: `difference` is the run's value minus the baseline's."""

    task: str
    """Of `lines`; '' elsewhere."""
    metric: str
    way: str
    difference: float
    interval: tuple[float, float] | None
    verdict: str
    """'better', 'worse', 'tie', or 'not decided' with fewer than `MIN_PROJECTS` projects."""
    num_projects: int
    """Those that have an item of this number."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def pairs_of(stem: str, mine: Mapping[str, Any], baseline: Mapping[str, Any]) -> Iterator[Pair]:
    """Each number of a result against the baseline's. Healed prompts are set against healed ones where the baseline was asked so, else
    against its plain ones. Nothing for kinds of results without sums by project."""
    kind = kind_of(stem, mine)
    if kind not in ("bpb", "lines", "translate") or not same_items(mine, baseline):
        return
    if kind == "bpb":
        yield from _all("", "", _of_documents(mine.get("by_project")), _of_documents(baseline.get("by_project")))
    elif kind == "translate":
        yield from _all("", "", mine.get("by_project"), baseline.get("by_project"))
    else:
        for way, tasks in mine["by_project"].items():
            against = baseline["by_project"].get(way, baseline["by_project"].get(PLAIN, {}))
            for task, sums in tasks.items():
                yield from _all(task, way, sums, against.get(task))


def _all(task: str, way: str, mine: Mapping[str, Any] | None, baseline: Mapping[str, Any] | None) -> Iterator[Pair]:
    """Every metric that both have of the same projects and as many bytes or places in each."""
    if mine is None or baseline is None or mine["projects"] != baseline["projects"]:
        return
    for metric in mine:
        if metric not in _UNPAIRED and metric in baseline and baseline[metric][1] == mine[metric][1]:
            yield _pair(task, metric, way, mine, baseline)


def _of_documents(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The sums of bits per byte in the shape of those of `lines`."""
    if found is None:
        return None
    return {"projects": found["projects"], "bits_per_byte": [[nats / math.log(2) for nats in found["nll_nats"]], found["num_bytes"]]}


def _pair(task: str, metric: str, way: str, mine: Mapping[str, Any], baseline: Mapping[str, Any]) -> Pair:
    gaps = [a - b for a, b in zip(mine[metric][0], baseline[metric][0], strict=True)]
    found = estimate(mine["projects"], gaps, mine[metric][1])
    assert found.value is not None, "a metric without a place is not in the sums"
    verdict, num_projects = "not decided", sum(size > 0 for size in mine[metric][1])
    if found.interval is not None and num_projects >= MIN_PROJECTS:
        low, high = found.interval
        below, above = ("better", "worse") if metric in _LOWER_IS_BETTER else ("worse", "better")
        verdict = below if high < 0 else above if low > 0 else "tie"
    return Pair(task, metric, way, found.value, found.interval, verdict, num_projects)


def same_items(mine: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two results of one command were made of the same items, asked alike."""
    return not differences(mine, other)


def differences(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What keeps the numbers of two results from standing beside each other, as sentences; empty where nothing does."""
    if "dataset" not in mine or "dataset" not in other:
        keys = ("split", "context_bytes", "stride_bytes", "max_bytes", "end_scored", "corpus_digest")
        return [f"{key}: {other.get(key)} and {mine.get(key)}" for key in keys if mine.get(key) != other.get(key)]
    found = [
        f"dataset {key}: {other['dataset'][key]} and {mine['dataset'][key]}"
        for key in ("digest", "num_items")
        if mine["dataset"][key] != other["dataset"][key]
    ]
    free = ("view", "device", "num_rows", "rows_per_pass")
    names = [name for name in {**mine["settings"], **other["settings"]} if name not in free]
    return found + [
        f"{name}: {other['settings'].get(name)} and {mine['settings'].get(name)}"
        for name in names
        if mine["settings"].get(name) != other["settings"].get(name)
    ]
