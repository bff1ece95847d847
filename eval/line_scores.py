"""From the samples of `lines` to its numbers. What a completion is worth stands here; nothing here knows a model.

    found = summarise(items, records, ["plain", "healed"], reference)

* exact: the bytes that follow, and the end: of the line, or of the identifier. A line that ends the document instead is wrong.
* edit_similarity (lines): rapidfuzz's normalised indel similarity of the two lines in bytes, as `fuzz.ratio` of published line completion.
* bytes_right: bytes before the first error, a mean over items; share_right: their sum over the bytes that were asked.
* first_byte: the very next byte is right.
* bits_per_byte: what the truth costs, told after the prompt, its newline included where the line is to end.
* stumbles (sweep): of the offsets behind one from which the rest of the same line was right, the share from which it was wrong. A model
  that reads bytes never stumbles: what it said from the earlier offset is what it is given at the later one.

Every number has the 95 % interval of a bootstrap over projects (`eval.intervals`). A share of none or of all items has no interval: drawing
projects again cannot tell how rare the other outcome is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from compressors.base import Compressor
from eval.identifiers import PLACES, is_word_byte
from eval.intervals import Estimate, estimate
from eval.line_items import NEWLINE, TASKS, Item
from proxy_lm.errors import NotRepresentableError, RequestError

METRICS: Final = ("exact", "edit_similarity", "bytes_right", "share_right", "first_byte", "bits_per_byte", "stumbles")
_SHARES_OF_ITEMS: Final = ("exact", "first_byte", "stumbles")
AT_BORDER: Final = "at a border"
INSIDE: Final = "inside a symbol"


@dataclass(frozen=True)
class Scored:
    """One item and what its sample is worth: (numerator, denominator) of each metric that it has."""

    item: Item
    told_raw: bool
    parts: Mapping[str, tuple[float, float]]


def score(item: Item, record: Mapping[str, Any]) -> Scored:
    """What one sample is worth."""
    said = record["completion"].encode(errors="surrogateescape")
    right = next((i for i, (a, b) in enumerate(zip(said, item.target, strict=False)) if a != b), min(len(said), len(item.target)))
    parts = {
        "exact": (float(_exact(item, said, record["reason"])), 1.0),
        "bytes_right": (float(right), 1.0),
        "share_right": (float(right), float(len(item.target))),
        "first_byte": (float(right > 0), 1.0),
    }
    if item.task == "line":
        parts["edit_similarity"] = (_similarity(said, item.target), 1.0)
    if record["nats"] is not None:
        parts["bits_per_byte"] = (record["nats"] / math.log(2), float(len(item.told)))
    return Scored(item, record["told_raw"], parts)


def _exact(item: Item, said: bytes, reason: str) -> bool:
    if item.task != "identifier":
        return said == item.target and reason == "stop"
    following = said[len(item.target) :]
    return said.startswith(item.target) and (not is_word_byte(following[0]) if following else reason == "end")


def _similarity(said: bytes, target: bytes) -> float:
    try:
        from rapidfuzz.distance import Indel
    except ImportError as error:
        raise RequestError("edit similarity is measured by rapidfuzz, which is not installed; run: pip install 'proxy-lm[eval]'") from error
    return float(Indel.normalized_similarity(said, target))


def summarise(
    items: Sequence[Item], records: Mapping[str, Mapping[str, Any]], ways: Sequence[str], reference: Compressor | None
) -> dict[str, Any]:
    """`prompts`: by way and task the metrics, whole and by group. `by_project`: the sums they were made of, for paired comparisons."""
    at_border = _borders(reference)
    prompts: dict[str, Any] = {}
    sums: dict[str, Any] = {}
    for way in ways:
        prompts[way], sums[way] = {}, {}
        for task in TASKS:
            scored = [score(item, records[f"{way}/{item.key}"]) for item in items if item.task == task]
            if not scored:
                continue
            if task == "sweep":
                scored = _with_stumbles(scored)
            prompts[way][task] = {**_measured(scored), "groups": _groups(task, scored)}
            if task == "sweep" and at_border is not None:
                prompts[way][task]["borders"] = _grouped(scored, (AT_BORDER, INSIDE), lambda one: at_border(one.item))
            sums[way][task] = _by_project(scored)
    return {"prompts": prompts, "by_project": sums}


def _groups(task: str, scored: Sequence[Scored]) -> dict[str, Any]:
    names = {"sweep": PLACES, "identifier": ("seen", "new"), "line": tuple(sorted({one.item.group for one in scored}))}[task]
    return _grouped(scored, names, lambda one: one.item.group)


def _grouped(scored: Sequence[Scored], names: Sequence[str], group: Callable[[Scored], str | None]) -> dict[str, Any]:
    """The metrics of each group that has an item, in the order of `names`."""
    groups = [group(one) for one in scored]
    members = {name: [one for one, found in zip(scored, groups, strict=True) if found == name] for name in names}
    return {name: _measured(some) for name, some in members.items() if some}


def _measured(scored: Sequence[Scored]) -> dict[str, Any]:
    measured: dict[str, Any] = {
        "num_items": len(scored),
        **_counts([one.item for one in scored]),
        "num_scored": sum("bits_per_byte" in one.parts for one in scored),
        "num_told_raw": sum(one.told_raw for one in scored),
        "num_bytes": sum(len(one.item.target) for one in scored),
    }
    for metric in METRICS:
        some = [one for one in scored if metric in one.parts]
        if some:
            tops, bottoms = zip(*(one.parts[metric] for one in some), strict=True)
            found = estimate([one.item.project for one in some], tops, bottoms)
            certain = metric in _SHARES_OF_ITEMS and found.value in (0, 1)
            measured[metric] = (Estimate(found.value, None) if certain else found).to_json()
    return measured


def _counts(items: Sequence[Item]) -> dict[str, int]:
    """What stands behind the items: offsets of one line are one place."""
    return {
        "num_places": len({tuple(item.key.split("-")[:3]) for item in items}),
        "num_documents": len({item.key.split("-")[1] for item in items}),
        "num_projects": len({item.project for item in items}),
    }


def _by_project(scored: Sequence[Scored]) -> dict[str, Any]:
    """For each metric the sums of its two parts, one of each a project, in the order of `projects`."""
    projects = sorted({one.item.project for one in scored})
    sums: dict[str, Any] = {"projects": projects}
    for metric in METRICS:
        tops, bottoms = dict.fromkeys(projects, 0.0), dict.fromkeys(projects, 0.0)
        for one in scored:
            top, bottom = one.parts.get(metric, (0.0, 0.0))
            tops[one.item.project] += top
            bottoms[one.item.project] += bottom
        if any(bottoms.values()):
            sums[metric] = [list(tops.values()), list(bottoms.values())]
    return sums


def _with_stumbles(scored: Sequence[Scored]) -> list[Scored]:
    """The offsets of a line come one after another. Behind the first right one each counts, and as a stumble if it is wrong."""
    found, line, was_right = [], "", False
    for one in scored:
        name = one.item.key.rpartition("-")[0]
        was_right = was_right and name == line
        line, right = name, one.parts["exact"][0] == 1
        parts = {**one.parts, "stumbles": (float(not right), 1.0)} if was_right else one.parts
        found.append(Scored(one.item, one.told_raw, parts))
        was_right = was_right or right
    return found


def _borders(reference: Compressor | None) -> Callable[[Item], str | None] | None:
    """Whether the cut of an item of the sweep is a border of the symbols of its whole line, told after what stands before it; None for an
    item that the view cannot express."""
    if reference is None:
        return None

    @cache
    def cuts(text: bytes) -> frozenset[int] | None:
        try:
            spans = reference.spans(text)
        except NotRepresentableError:
            return None
        return None if spans is None else frozenset(spans.tolist())

    def at_border(item: Item) -> str | None:
        found = cuts(item.prompt + item.target + NEWLINE)
        return None if found is None else AT_BORDER if len(item.prompt) in found else INSIDE

    return at_border
