"""The numbers of every evaluation under one shape, so that runs stand beside each other whatever they were asked.

    for number in numbers_of("lines-test", result): number.title, number.way, number.value, number.interval

A result is what `eval.envelope` or `eval.bpb` wrote; its schema says how to read it, and one of another version is refused. `way` is how
prompts were told ('plain' or 'healed') where a command asks both ways, else ''. A number without a value says why in `reason`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eval.envelope import Dataset
from eval.line_report import counted
from proxy_lm.errors import RequestError
from proxy_lm.report import number as spelled

PLAIN: Final = "plain"
HEALED: Final = "healed"


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number of one result, in the unit in which it is shown."""

    part: str
    """What it belongs to, such as 'next line' or 'docstring'; '' for the whole result."""
    title: str
    way: str
    value: float | None
    interval: tuple[float, float] | None
    reason: str | None = None
    digits: int = 1
    headline: bool = False
    """Stands in the table of runs beside each other."""
    drawn: bool = True
    """A headline that is plotted where several runs have it."""

    @property
    def name(self) -> str:
        """Part and title."""
        return f"{self.part}: {self.title}" if self.part else self.title

    @property
    def text(self) -> str:
        """The value, or a dash."""
        return spelled(self.value, self.digits)

    @property
    def full_text(self) -> str:
        """The value and its interval."""
        if self.value is None or self.interval is None:
            return self.text
        return f"{self.text} ({spelled(self.interval[0], self.digits)} to {spelled(self.interval[1], self.digits)})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        bounds = None if self.interval is None else list(self.interval)
        return {"name": self.name, "way": self.way or None, "value": self.value, "interval": bounds, "reason": self.reason}


def numbers_of(stem: str, result: Mapping[str, Any]) -> list[Number]:
    """The numbers of a result, in the order in which they are shown. Raises `RequestError` for a schema this program does not read."""
    kind = kind_of(stem, result)
    try:
        return list(_READERS[str(result["schema"])][1](result))
    except (KeyError, TypeError, IndexError) as error:
        raise RequestError(
            f"{stem}.json is no whole result of {kind} ({error!r} is missing or of another kind); measure it again"
        ) from error


def kind_of(stem: str, result: Mapping[str, Any]) -> str:
    """The command that made a result. Raises `RequestError` for an unknown schema."""
    schema = str(result.get("schema"))
    if schema not in _READERS:
        raise RequestError(f"{stem}.json has schema '{schema}'; this program reads: {', '.join(_READERS)}; measure it again")
    return _READERS[schema][0]


def dataset_of(result: Mapping[str, Any]) -> Dataset:
    """What a result was measured on."""
    if "dataset" in result:
        return Dataset(**result["dataset"])
    return Dataset(name=f"{result['split']} split of the corpus", digest=result["corpus_digest"], num_items=result["num_documents"])


def asked(result: Mapping[str, Any], *, short: bool = False) -> str:
    """How much stands behind the numbers of a result, in words: '40 problems, 1 sample each'."""
    kind, settings = kind_of("", result), result.get("settings", {})
    if kind == "lines":
        return counted(result, short=short)
    if kind == "bpb":
        projects = (result.get("by_project") or {}).get("projects")
        return _counts(document=result.get("num_documents"), project=None if projects is None else len(projects))
    if kind == "code":
        return _counts(problem=result.get("num_problems"), sample=settings.get("num_samples")) + " each"
    if kind == "robustness":
        files = (result["files"] or {}).get("num_files", 0)
        return _counts(task=result["num_tasks"], seed=settings.get("num_seeds"), file=files)
    if kind == "compression":
        return _counts(byte=result.get("num_bytes"))
    if kind in ("translate", "copying"):
        return _counts(stretch=result["num_stretches"], project=result["num_projects"])
    return _counts(span=result["num_spans"], project=result["num_projects"])


def _counts(**counts: int | None) -> str:
    """'6 stretches, 1 project'."""
    plural = {name: f"{name}es" if name.endswith("ch") else f"{name}s" for name in counts}
    return ", ".join(f"{count:,} {name if count == 1 else plural[name]}" for name, count in counts.items() if count is not None)


def _number(part: str, title: str, way: str, found: Mapping[str, Any] | None, *, percent: bool = False, **shown: Any) -> Iterator[Number]:
    """One number from {value, interval, reason}; nothing where it was not measured."""
    if found is None:
        return
    scale = 100.0 if percent else 1.0
    value, bounds = found["value"], found["interval"]
    yield Number(
        part=part,
        title=f"{title}, %" if percent else title,
        way=way,
        value=None if value is None else scale * value,
        interval=None if bounds is None else (scale * bounds[0], scale * bounds[1]),
        reason=found.get("reason"),
        **shown,
    )


def _of_bpb(result: Mapping[str, Any]) -> Iterator[Number]:
    found = {"value": result["bits_per_byte"], "interval": result["interval"]}
    yield from _number("", "bits per byte", "", found, digits=4, headline=True)


_LINES: Final = {
    "line": ("next line", ("exact", "edit_similarity", "first_byte", "bits_per_byte"), ("exact", "edit_similarity", "bits_per_byte")),
    "identifier": ("identifier", ("exact", "first_byte", "bits_per_byte"), ("exact", "bits_per_byte")),
    "sweep": ("sweep", ("exact", "share_right", "first_byte", "bits_per_byte", "stumbles"), ("exact", "first_byte", "stumbles")),
}
_TITLES: Final = {
    "exact": "exact",
    "edit_similarity": "edit similarity",
    "share_right": "bytes right",
    "first_byte": "first byte",
    "bits_per_byte": "bits per byte",
    "stumbles": "stumbles",
}


def _of_lines(result: Mapping[str, Any]) -> Iterator[Number]:
    for way, tasks in result["prompts"].items():
        for task, measured in tasks.items():
            part, metrics, headlines = _LINES[task]
            for metric in metrics:
                bits = metric == "bits_per_byte"
                digits, headline = 4 if bits else 1, metric in headlines
                yield from _number(part, _TITLES[metric], way, measured.get(metric), percent=not bits, digits=digits, headline=headline)
        sweep = tasks.get("sweep", {})
        for border, measured in sweep.get("borders", {}).items():
            yield from _number(f"sweep, {border}", "first byte", way, measured["first_byte"], percent=True)
            yield from _number(f"sweep, {border}", "bits per byte", way, measured.get("bits_per_byte"), digits=4)


def _of_code(result: Mapping[str, Any]) -> Iterator[Number]:
    ways = [(HEALED if result.get("healing") else PLAIN, result)]
    if result.get("healed") is not None:
        ways.append((HEALED, result["healed"]))
    for way, found in ways:
        for name, about in found["intervals"].items():
            measured = {"value": found[name], "interval": about["interval"]}
            yield from _number("programs", name, way, measured, percent=True, headline=name == "pass@1")
        yield from _number("programs", "exact match", way, found.get("exact_match"), percent=True)
        yield from _number("gold solutions", "bits per byte", way, found.get("gold_bits_per_byte"), digits=4, headline=True)


def _of_robustness(result: Mapping[str, Any]) -> Iterator[Number]:
    for way, found in result["prompts"].items():
        for part, row in {"all": found["all"], **found["families"]}.items():
            headline = part == "all"
            scores = row["pass"]
            if scores is not None:
                for name, title in (("nominal", "nominal pass"), ("robust", "robust pass"), ("drop", "drop")):
                    yield from _number(part, title, way, scores[name], percent=True, headline=headline)
            yield from _number(part, "change in bits per byte of the reference", way, row["bits"]["change"], digits=4, headline=headline)
        files = (result["files"] or {}).get(way)
        for part, row in {"all": files["all"], **files["families"]}.items() if files else ():
            yield from _number(
                f"files, {part}", "change in bits per byte after the head", way, row["change"], digits=4, headline=part == "all"
            )


def _of_translation(result: Mapping[str, Any]) -> Iterator[Number]:
    view, bits = result["view"], result["bits_per_byte"]
    for side, name in (("raw", "raw bytes"), ("view", view)):
        other = view if side == "raw" else "raw bytes"
        yield from _number(name, f"change in bits per byte after {other}", "", bits[f"{side}_change"], digits=4, headline=True)
        yield from _number(name, f"change beside another document's {other}", "", bits[f"{side}_change_beside_stranger"], digits=4)
    for way, name in (("view_to_raw", f"{view} to raw"), ("raw_to_view", f"raw to {view}")):
        forced, free = result[way]["teacher_forced"], result[way]["free"] or {}
        yield from _number(name, "symbols right, teacher-forced", "", forced["accuracy"], percent=True, headline=True)
        yield from _number(name, "whole stretches right, free", "", free.get("exact_match"), percent=True)
        yield from _number(name, "bytes right, free", "", free.get("byte_accuracy"), percent=True)
    untrained = result["untrained"]
    for side, way, name in (("raw", "view_to_raw", "raw bytes"), ("view", "raw_to_view", view)) if untrained else ():
        part, shown = f"{name}, untrained weights", {"headline": True, "drawn": False}
        yield from _number(
            part, "change in bits per byte after the other", "", untrained["bits_per_byte"][f"{side}_change"], digits=4, **shown
        )
        yield from _number(part, "symbols right, teacher-forced", "", untrained[way]["accuracy"], percent=True, **shown)


def _of_alignment(result: Mapping[str, Any]) -> Iterator[Number]:
    chance = {"value": result["chance"], "interval": None}
    yield from _number("chance", f"retrieved among {result['num_spans']}", "", chance, percent=True, digits=2, headline=True, drawn=False)
    for how in ("whitened", "rotated"):
        best = result["best_layer"][how]
        if best is None:
            continue
        layer, untrained = result["layers"][best], result["untrained"][best] if result["untrained"] else None
        number = {"value": float(best), "interval": None}
        yield from _number(f"best layer, {how}", "its number (0: embedding)", "", number, digits=0, headline=True, drawn=False)
        for way, name in (("raw_to_view", f"raw to {result['view']}"), ("view_to_raw", f"{result['view']} to raw")):
            title = f"retrieved among {result['num_spans']}, {name}"
            yield from _number(f"best layer, {how}", title, "", layer[how]["retrieval"][way], percent=True, headline=True)
            if untrained is not None and untrained[how] is not None:
                part, found = f"that layer, {how}, untrained weights", untrained[how]["retrieval"][way]
                yield from _number(part, title, "", found, percent=True, headline=True, drawn=False)
        yield from _number(f"best layer, {how}", "cosine above other documents", "", layer[how]["similarity"]["gap"], digits=4)


def _of_compression(result: Mapping[str, Any]) -> Iterator[Number]:
    last = result["lengths"][-1]
    for cell in result["lengths"]:
        found = {"value": cell["coded_bytes"] / cell["num_bytes"], "interval": None}
        name = f"raw rate, chunks of {cell['chunk_bytes']:,}"
        yield from _number("", name, "", found, percent=True, digits=2, headline=cell is last)
    for row in result["adjusted"]:
        part = f"adjusted for {row['data_bytes']:,} bytes"
        for key, title in (("adjusted", "2 bytes a parameter"), ("adjusted_real", "bytes of the weights")):
            yield from _number(part, f"{title}, %", "", {"value": row[key], "interval": None}, digits=2)


def _of_copying(result: Mapping[str, Any]) -> Iterator[Number]:
    for key, title in (("first", "bits per byte, first telling"), ("again", "bits per byte, told again")):
        yield from _number("", title, "", result[key], digits=4, headline=True)


def _of_samples(result: Mapping[str, Any]) -> Iterator[Number]:
    """None: they are read, and `eval.report_samples` shows them. That they are whole is found here, as of every result."""
    for sample in result["samples"]:
        _ = sample["prompt"], sample["completion"]
    yield from ()


_READERS: Final[dict[str, tuple[str, Callable[[Mapping[str, Any]], Iterator[Number]]]]] = {
    "proxy-lm bits per byte 1": ("bpb", _of_bpb),
    "proxy-lm lines 1": ("lines", _of_lines),
    "proxy-lm code 1": ("code", _of_code),
    "proxy-lm robustness 1": ("robustness", _of_robustness),
    "proxy-lm translation 1": ("translate", _of_translation),
    "proxy-lm alignment 1": ("align", _of_alignment),
    "proxy-lm compression of a run 1": ("compression", _of_compression),
    "proxy-lm copying 1": ("copying", _of_copying),
    "proxy-lm samples 1": ("samples", _of_samples),
}
KINDS: Final = tuple(kind for kind, _ in _READERS.values() if kind != "samples")
"""Of results with numbers."""
