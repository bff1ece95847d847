"""Two runs on the same bytes: the difference of bits per byte and of every `lines` number, its interval, and a verdict.

    pairs_of("lines-test", mine, baseline)

Results carry the sums of each metric by project, so pairing needs nothing but the two files: projects are drawn again, the same for both.
A pair is made only where both runs were asked the same places; a number that one of them has of fewer places is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from eval.intervals import estimate
from eval.report_numbers import PLAIN, kind_of

_LOWER_IS_BETTER: Final = ("bits_per_byte", "stumbles")
_UNPAIRED: Final = ("projects", "stumbles")  # how many offsets can be stumbles is the run's own doing


@dataclass(frozen=True)
class Pair:
    """A run against the baseline: `difference` is the run's value minus the baseline's."""

    task: str
    """Of `lines`; '' for the bits per byte of whole documents."""
    metric: str
    way: str
    difference: float
    interval: tuple[float, float] | None
    verdict: str
    """'better', 'worse', 'tie', or 'not decided' with fewer than two projects."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def pairs_of(stem: str, mine: Mapping[str, Any], baseline: Mapping[str, Any]) -> Iterator[Pair]:
    """Each number of a result against the baseline's. Healed prompts are set against healed ones where the baseline was asked so, else
    against its plain ones. Nothing for kinds of results without sums by project."""
    kind = kind_of(stem, mine)
    if kind not in ("bpb", "lines") or not same_items(mine, baseline):
        return
    if kind == "bpb":
        sums, other = (_of_documents(result.get("by_project")) for result in (mine, baseline))
        if sums is not None and other is not None and other["projects"] == sums["projects"]:
            yield _pair("", "bits_per_byte", "", sums, other)
        return
    for way, tasks in mine["by_project"].items():
        against = baseline["by_project"].get(way, baseline["by_project"].get(PLAIN, {}))
        for task, sums in tasks.items():
            other = against.get(task)
            if other is None or other["projects"] != sums["projects"]:
                continue
            for metric in sums:
                if metric not in _UNPAIRED and metric in other and other[metric][1] == sums[metric][1]:
                    yield _pair(task, metric, way, sums, other)


def _of_documents(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The sums of bits per byte in the shape of those of `lines`."""
    if found is None:
        return None
    return {"projects": found["projects"], "bits_per_byte": [[nats / math.log(2) for nats in found["nll_nats"]], found["num_bytes"]]}


def _pair(task: str, metric: str, way: str, mine: Mapping[str, Any], baseline: Mapping[str, Any]) -> Pair:
    gaps = [a - b for a, b in zip(mine[metric][0], baseline[metric][0], strict=True)]
    found = estimate(mine["projects"], gaps, mine[metric][1])
    assert found.value is not None, "a metric without a place is not in the sums"
    verdict = "not decided"
    if found.interval is not None:
        low, high = found.interval
        below, above = ("better", "worse") if metric in _LOWER_IS_BETTER else ("worse", "better")
        verdict = below if high < 0 else above if low > 0 else "tie"
    return Pair(task, metric, way, found.value, found.interval, verdict)


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
