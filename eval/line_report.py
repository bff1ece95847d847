"""The tables of `lines`, for the terminal and for reports: one row a run and way of prompting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from proxy_lm.report import Table, number

TITLES: Final = {"line": "next line", "identifier": "rest of an identifier", "sweep": "rest of a line, from every byte offset"}
_COLUMNS: Final = {
    "exact": ("exact", 1, 100),
    "edit_similarity": ("edit similarity", 1, 100),
    "bytes_right": ("bytes right", 2, 1),
    "share_right": ("share right", 1, 100),
    "first_byte": ("first byte", 1, 100),
    "bits_per_byte": ("bits per byte", 4, 1),
    "stumbles": ("stumbles", 1, 100),
}
OF_TASK: Final = {
    "line": ("exact", "edit_similarity", "bytes_right", "first_byte", "bits_per_byte"),
    "identifier": ("exact", "share_right", "first_byte", "bits_per_byte"),
    "sweep": ("exact", "share_right", "first_byte", "bits_per_byte", "stumbles"),
}
_COUNTS: Final = ("items", "places", "projects")
_ASKED: Final = {"line": "line", "identifier": "identifier", "sweep": "swept line"}
_PARTS: Final = (
    ("line", "groups", "next line, by language"),
    ("identifier", "groups", "rest of an identifier, seen in the prompt or new"),
    ("sweep", "groups", "sweep by kind of place"),
    ("sweep", "borders", "sweep by border of the symbols"),
)


def tables(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Table]]:
    """(title, table) of each task that any run was asked, then of its parts where there are several: languages, places, borders."""
    for task, title in TITLES.items():
        rows = [[*names, *_cells(found[task], task)] for *names, found in _ways(results) if task in found]
        if rows:
            heads = [_head(metric) for metric in OF_TASK[task]]
            yield f"lines: {title}", Table(["run", "prompts", *_COUNTS, *heads], rows, frozenset({0, 1}))
    for task, key, title in _PARTS:
        parts = [
            ([*names, group], measured) for *names, found in _ways(results) for group, measured in found.get(task, {}).get(key, {}).items()
        ]
        if len({names[-1] for names, _ in parts}) > 1:
            rows = [[*names, *_cells(measured, task)] for names, measured in parts]
            heads = [_head(metric) for metric in OF_TASK[task]]
            yield f"lines: {title}", Table(["run", "prompts", "", *_COUNTS, *heads], rows, frozenset({0, 1, 2}))


def _ways(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for name, result in results.items():
        for way, found in result["prompts"].items():
            yield name, way, found


def _head(metric: str) -> str:
    title, _, scale = _COLUMNS[metric]
    return f"{title}, %" if scale == 100 else title


def _cells(measured: Mapping[str, Any], task: str) -> list[str]:
    """Items, then the metrics; bits per byte of fewer items than were asked say of how many."""
    texts = {metric: spelled(measured.get(metric), metric) for metric in OF_TASK[task]}
    if 0 < measured["num_scored"] < measured["num_items"]:
        texts["bits_per_byte"] += f" of {measured['num_scored']:,}"
    counts = [measured.get(f"num_{name}") for name in _COUNTS]  # results of earlier versions count items only
    return [*("-" if count is None else f"{count:,}" for count in counts), *texts.values()]


def counted(result: Mapping[str, Any], *, short: bool = False) -> str:
    """What was asked: '200 lines of 90 documents in 31 projects; ...'; `short`: without documents and projects."""
    said = []
    for task, found in next(iter(result["prompts"].values()), {}).items():
        name, offsets = _ASKED[task], f"{found['num_items']:,} offsets"
        if "num_places" not in found:  # a result of an earlier version
            said.append(f"{offsets} of swept lines" if task == "sweep" else _many(found["num_items"], name))
            continue
        text = _many(found["num_places"], name) + (f" ({offsets})" if task == "sweep" else "")
        behind = f" of {_many(found['num_documents'], 'document')} in {_many(found['num_projects'], 'project')}"
        said.append(text if short else text + behind)
    return "; ".join(said)


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def spelled(estimate: Mapping[str, Any] | None, metric: str) -> str:
    """A number with its interval, or a dash."""
    if estimate is None or estimate["value"] is None:
        return "-"
    _, digits, scale = _COLUMNS[metric]
    text = number(estimate["value"] * scale, digits)
    if estimate["interval"] is None:
        return text
    low, high = (number(bound * scale, digits) for bound in estimate["interval"])
    return f"{text} ({low} to {high})"
