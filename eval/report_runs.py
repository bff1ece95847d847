"""Runs beside each other: bits per byte, lines, programs, robustness, translation and alignment, from the results in their folders.

    proxy-lm-eval report runs/bytes runs/proxy --out report

Nothing is measured here. The first run is the baseline of paired differences. Results that were not made of the same items, asked alike,
stand in the tables and are named under them; they are never paired. The comparison of `proxy-lm-eval compare` shows its arms' further
evaluations by the same functions.

Not promised: that a difference outside its interval holds for another seed of training; a run is one seed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from compressors.files import write_bytes, write_json
from eval import line_report, report_samples
from eval.envelope import read_results, versions
from eval.report_numbers import HEALED, KINDS, Number, asked, dataset_of, kind_of, numbers_of
from eval.report_pairs import Pair, differences, pairs_of
from eval.samples import eval_folder
from proxy_lm import plotting
from proxy_lm.errors import RequestError
from proxy_lm.report import Content, Section, Table, html, markdown
from proxy_lm.train.run_files import check_run

SCHEMA: Final = "proxy-lm report 1"
_TITLE_WIDTH: Final = 60  # characters of a figure's title that fit its width
_TITLES: Final = {
    "bpb": "Bits per byte",
    "lines": "Lines",
    "code": "Programs",
    "robustness": "Robustness",
    "translate": "Translation",
    "align": "Alignment",
    "copying": "Copying",
    "compression": "Compression",
}
_METRICS: Final = {
    "exact": ("exact, %", 1, 100),
    "edit_similarity": ("edit similarity, %", 1, 100),
    "bytes_right": ("bytes right", 2, 1),
    "share_right": ("bytes right, %", 1, 100),
    "first_byte": ("first byte, %", 1, 100),
    "bits_per_byte": ("bits per byte", 4, 1),
    "raw_change": ("raw bytes: change in bits per byte after the view", 4, 1),
    "view_change": ("view: change in bits per byte after raw bytes", 4, 1),
    "view_to_raw_accuracy": ("view to raw: symbols right, %", 1, 100),
    "raw_to_view_accuracy": ("raw to view: symbols right, %", 1, 100),
}


_MARK: Final = "(*)"


@dataclass(frozen=True)
class Subject:
    """A run, or an arm of a comparison: its results by file name without `.json`, and why others are missing."""

    name: str
    results: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str] = field(default_factory=dict)


def read(runs: Sequence[Path]) -> list[Subject]:
    """The results of each run folder. Raises `RequestError` for a folder without any, and for two runs that cannot be told apart."""
    subjects = []
    for run, name in zip(runs, _names(runs), strict=True):
        if not run.is_dir():
            raise RequestError(f"{run} is not a folder; give run folders, as training wrote them")
        results = read_results(run)
        if not results:
            inside = run / "arms" if (run / "arms").is_dir() else run  # a comparison's folder
            inner = sorted(path.name for path in inside.iterdir() if any(eval_folder(path).glob("*.json")))
            if inner:
                some = ", ".join(inner[:3]) + (", ..." if len(inner) > 3 else "")
                raise RequestError(f"{inside} is a folder of runs ({some}); name each: proxy-lm-eval report {inside}/*")
            if inside != run:
                check_run(run)  # it names the arms, none of which was measured
            raise RequestError(f"{run / 'eval'} holds no result; run `proxy-lm-eval bpb {run}` or `proxy-lm-eval lines {run}` first")
        for stem, result in results.items():
            numbers_of(stem, result)
        subjects.append(Subject(name, results))
    return subjects


def _names(runs: Sequence[Path]) -> list[str]:
    """The last part of each path, with as many parts before it as tell them all apart."""
    resolved = [run.resolve() for run in runs]
    if len(set(resolved)) != len(resolved):
        raise RequestError("one run folder is given twice; give each once")
    for depth in range(1, 1 + max((len(path.parts) for path in resolved), default=1)):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            break
    return names


def write(runs: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write report.json, report.md and report.html into `out`; gives what report.json holds."""
    plotting.require()
    subjects = read(runs)
    report = content(subjects)
    found = to_json(subjects)
    write_json(out / "report.json", found)
    write_bytes(out / "report.md", markdown(report).encode())
    write_bytes(out / "report.html", html(report, [subject.name for subject in subjects]).encode())
    return found


def to_json(subjects: Sequence[Subject]) -> dict[str, Any]:
    """All numbers, pairs and caveats as plain JSON."""
    headlines = summary(subjects)
    return {
        "schema": SCHEMA,
        "baseline": subjects[0].name,
        "runs": [
            {
                "name": subject.name,
                "numbers": {stem: [one.to_json() for one in numbers_of(stem, result)] for stem, result in subject.results.items()},
                "datasets": {stem: vars(dataset_of(result)) for stem, result in subject.results.items()},
                "pairs": {stem: [pair.to_json() for pair in found] for stem, found in _pairs(subject, subjects[0]).items()},
                "failures": dict(subject.failures),
            }
            for subject in subjects
        ],
        "summary": {"columns": list(headlines.columns), "rows": [list(row) for row in headlines.rows]},
        "not_alike": caveats(subjects),
        "versions": versions(["matplotlib"]),
    }


def content(subjects: Sequence[Subject]) -> Content:
    """What the report says."""
    names = ", ".join(subject.name for subject in subjects)
    return Content(
        "Evaluations",
        f"What was measured of {names}.",
        [
            Section("Beside each other", explained(subjects), beside(subjects), figures=lambda: figures(subjects)),
            *sections(subjects, subjects[0]),
            *report_samples.of_runs({one.name: one.results[report_samples.KEY] for one in subjects if report_samples.KEY in one.results}),
            Section("What is not claimed", not_claimed()),
        ],
    )


def sections(subjects: Sequence[Subject], baseline: Subject | None, kinds: Sequence[str] = KINDS) -> list[Section]:
    """Every result in full, one kind after another, with its pairs against `baseline`, if there is one; then what could not be measured."""
    found: list[Section] = []
    for kind, stem in _stems(subjects, kinds):
        title = _TITLES[kind] if stem == kind else f"{_TITLES[kind]}: {stem}"
        have = {s.name: s.results[stem] for s in subjects if stem in s.results}
        amounts, told = {name: asked(result) for name, result in have.items()}, False
        alike = len(have) > 1 and len(set(amounts.values())) == 1
        counts = f"of each: {next(iter(amounts.values()))}" if alike else "; ".join(f"{name}: {amount}" for name, amount in amounts.items())
        counts = f"Asked {counts}." if alike else f"Asked: {counts}."
        if kind == "lines":
            for part, table in line_report.tables(have):
                text = [] if told else [counts]
                found.append(Section(part.replace("lines", title, 1), text, table))
                told = True
        else:
            drawn = partial(_alignments, have) if kind == "align" else None
            found.append(Section(title, [counts], full_table(subjects, stem), figures=drawn))
        paired = None if baseline is None else pair_table(subjects, stem, baseline)
        if baseline is not None and paired is not None and paired.rows:
            found.append(Section(f"{title}: against {baseline.name}", [_PAIRED], paired))
    failed = [[subject.name, stem, why] for subject in subjects for stem, why in subject.failures.items()]
    if failed:
        text = ["These could not be measured, and are no numbers."]
        found.append(Section("Not measured", text, Table(["run", "evaluation", "why"], failed, frozenset({0, 1, 2}))))
    return found


def _alignments(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The plots of `align` of each run: gap, retrieval and CKA by layer, untrained weights dashed."""
    from eval import align_plot

    return [figure for name, result in results.items() for figure in align_plot.figures(name, dict(result))]


_PAIRED: Final = (
    "Differences on the same bytes, projects drawn again, the same for both; the value is the run's minus the baseline's. Better and "
    "worse have their whole interval on one side of zero; fewer than 8 projects with items of a number decide nothing. A run of symbols is "
    "compared in both ways of telling its prompts."
)


def beside(subjects: Sequence[Subject]) -> Table:
    """The same for the page: what each result was asked stands above its numbers, once where all were asked the same."""
    found = summary(subjects)
    rows: list[Sequence[str]] = []
    heads: dict[int, str] = {}
    for title, *cells in found.rows:
        stem, _, name = title.partition(", ")
        if name == "asked":
            told = {column: cell for column, cell in zip(found.columns[1:], cells, strict=True) if cell not in ("", "-")}
            alike = len(set(told.values())) == 1
            heads[len(rows)] = f"{stem}: " + (next(iter(told.values())) if alike else "; ".join(f"{c}: {cell}" for c, cell in told.items()))
        else:
            rows.append([name, *cells])
    return Table(found.columns, rows, heads=heads)


def summary(subjects: Sequence[Subject]) -> Table:
    """The headlines: a row a number, a column a run, and one for its healed prompts where it was asked both ways; how much was asked."""
    columns = [(subject, way) for subject in subjects for way in (("", HEALED) if _has_healed(subject) else ("",))]
    rows = []
    for _, stem in _stems(subjects):
        found = {subject.name: numbers_of(stem, subject.results[stem]) for subject in subjects if stem in subject.results}
        apart = _unlike(subjects, stem)
        amounts = [
            ("" if way else asked(s.results[stem], short=True) + _apart(s, apart)) if stem in s.results else "-" for s, way in columns
        ]
        rows.append([f"{stem}, asked", *amounts])
        for name in dict.fromkeys(one.name for numbers in found.values() for one in numbers if one.headline):
            cells = [_cell(found.get(subject.name, ()), name, way) for subject, way in columns]
            cells = [
                cell + _apart(subject, apart) if cell not in ("", "-") else cell for cell, (subject, _) in zip(cells, columns, strict=True)
            ]
            rows.append([f"{stem}, {name}", *cells])
    heads = [f"{subject.name}, healed" if way else subject.name for subject, way in columns]
    return Table(["", *heads], rows)


def _cell(numbers: Sequence[Number], name: str, way: str) -> str:
    """In the column of healed prompts only what was asked that way."""
    texts = [one.text for one in numbers if one.name == name and (one.way == HEALED) == (way == HEALED)]
    return texts[0] if texts else "" if way else "-"


def _apart(subject: Subject, apart: Mapping[str, list[str]]) -> str:
    """The mark of a cell that must not be read beside the first run's."""
    return f" {_MARK}" if subject.name in apart else ""


def _has_healed(subject: Subject) -> bool:
    return any(one.way == HEALED for stem, result in subject.results.items() for one in numbers_of(stem, result))


def full_table(subjects: Sequence[Subject], stem: str) -> Table:
    """Every number of one result with its interval: a row a number and a column a run and way, or the other way round for few numbers."""
    found: dict[str, dict[str, Number]] = {}
    for subject in subjects:
        for one in numbers_of(stem, subject.results[stem]) if stem in subject.results else ():
            column = f"{subject.name}, {one.way}" if one.way == HEALED else subject.name
            found.setdefault(column, {})[one.name] = one
    names = dict.fromkeys(name for numbers in found.values() for name in numbers)
    texts = {name: [numbers[name].full_text if name in numbers else "-" for numbers in found.values()] for name in names}
    if len(names) < len(found):
        return Table(["", *names], [[column, *(texts[name][i] for name in names)] for i, column in enumerate(found)])
    return Table(["", *found], [[name, *texts[name]] for name in names])


def pair_table(subjects: Sequence[Subject], stem: str, baseline: Subject) -> Table:
    """Every pair of a result against the baseline's."""
    rows, marks = [], []
    for subject in subjects:
        for pair in _pairs(subject, baseline).get(stem, ()):
            if pair.metric not in line_report.OF_TASK.get(pair.task, (pair.metric,)):
                continue  # it is in report.json
            title, digits, scale = _METRICS[pair.metric]
            value = f"{pair.difference * scale:+.{digits}f}"
            if pair.interval is not None:
                value += f" ({pair.interval[0] * scale:+.{digits}f} to {pair.interval[1] * scale:+.{digits}f})"
            title = f"{line_report.TITLES[pair.task]}: {title}" if pair.task else title
            rows.append([subject.name, pair.way, title, value, f"{pair.num_projects:,}", pair.verdict])
            marks.append(pair.verdict)
    return Table(["run", "prompts", "number", "difference", "projects", "verdict"], rows, frozenset({0, 1, 2, 5}), marks)


def _pairs(subject: Subject, baseline: Subject) -> dict[str, list[Pair]]:
    if subject is baseline:
        return {}
    both = [stem for stem in subject.results if stem in baseline.results]
    found = {stem: list(pairs_of(stem, subject.results[stem], baseline.results[stem])) for stem in both}
    return {stem: pairs for stem, pairs in found.items() if pairs}


def _stems(subjects: Sequence[Subject], kinds: Sequence[str] = KINDS) -> Iterator[tuple[str, str]]:
    """(kind, file name) of every result that any run has, one kind after another."""
    known = {stem: kind_of(stem, result) for subject in subjects for stem, result in subject.results.items()}
    for kind in kinds:
        yield from ((kind, stem) for stem in sorted(known) if known[stem] == kind)


def caveats(subjects: Sequence[Subject]) -> list[str]:
    """Results that were not made of the same items asked alike as the first run that has them."""
    lines = []
    for _, stem in _stems(subjects):
        first = next(subject.name for subject in subjects if stem in subject.results)
        lines += [f"{stem} of {first} and of {name}: {'; '.join(found)}" for name, found in _unlike(subjects, stem).items()]
    return lines


def _unlike(subjects: Sequence[Subject], stem: str) -> dict[str, list[str]]:
    """By name of a run how its result differs in what was asked from that of the first run which has it; only those that do."""
    have = [subject for subject in subjects if stem in subject.results]
    found = {other.name: differences(other.results[stem], have[0].results[stem]) for other in have[1:]}
    return {name: different for name, different in found.items() if different}


def explained(subjects: Sequence[Subject]) -> list[str]:
    """How to read the headlines, and what to mind."""
    lines = [
        "Every number with its 95 % interval stands in the sections below. Bits per byte: lower is better, and a change after another "
        "telling is a gain where it is negative. A dash: not measured, or without a value. Shares of none or of all have "
        "no interval where one could not be told from certainty.",
    ]
    unlike = caveats(subjects)
    if unlike:
        lines.append(f"Marked {_MARK}: not made of the same items, or asked otherwise, than the first run's; read these apart.")
        lines += unlike
    if any(_has_healed(subject) for subject in subjects):
        lines.append(
            "Runs that read symbols were asked twice: their prompts as they are, and healed, the last symbols taken back and spelled again."
        )
    for subject in subjects:
        steps = sorted({_step(result) for result in subject.results.values()})
        if len(steps) > 1:
            lines.append(
                f"The results of {subject.name} are of several checkpoints (steps {', '.join(map(str, steps))}): measure the older again."
            )
    return lines


def _step(result: Mapping[str, Any]) -> int:
    return int(result.get("run", result)["checkpoint"]["step"])


def not_claimed() -> list[str]:
    """What a reader must not take from these numbers."""
    return [
        "Not claimed: that an order of runs holds at another size, budget, corpus or context.",
        "One run is one seed: intervals cover which documents or problems were asked, and not another initialisation or data order.",
        "Many numbers stand here and none is corrected for their number: of twenty ties one looks like a difference.",
        "A prompt is cut in bytes, which suits a model of bytes: for a model of symbols both ways of telling it are shown.",
    ]


def figures(subjects: Sequence[Subject]) -> list[str]:
    """A plot a headline that two runs have: marks with intervals, one line a run and way."""
    drawn = []
    for _, stem in _stems(subjects):
        found = {subject.name: numbers_of(stem, subject.results[stem]) for subject in subjects if stem in subject.results}
        for name in dict.fromkeys(one.name for numbers in found.values() for one in numbers if one.headline and one.drawn):
            marks = [
                (index, one)
                for index, subject in enumerate(subjects)
                for one in found.get(subject.name, ())
                if one.name == name and one.value is not None
            ]
            if len({index for index, _ in marks}) > 1:
                drawn.append(_figure(f"{stem}, {name}", [subject.name for subject in subjects], marks))
    return drawn


def _figure(title: str, names: Sequence[str], marks: Sequence[tuple[int, Number]]) -> str:
    def fill(plot: Any) -> None:
        for row, (index, one) in enumerate(marks):
            assert one.value is not None
            low, high = one.interval or (one.value, one.value)
            spread = [[max(0.0, one.value - low)], [max(0.0, high - one.value)]]
            shape = "D" if one.way == HEALED else "o"
            colour = plotting.colour(index)
            plot.errorbar([one.value], [-row], xerr=spread, color=colour, marker=shape, markersize=6, capsize=3, elinewidth=1.6, ls="")
        labels = [f"{names[index]}, {one.way}" if one.way == HEALED else names[index] for index, one in marks]
        plot.set_yticks([-row for row in range(len(marks))], labels)
        plot.set_ylim(-len(marks) + 0.4, 0.6)
        plot.figure.suptitle("\n".join(lines), fontsize=10, x=0.01, ha="left")
        if all(one.value == 0 and one.interval is None for _, one in marks):
            plot.set_xlim(-0.05, 1)

    lines = textwrap.wrap(title, _TITLE_WIDTH)
    return plotting.draw(title, fill, height=0.73 + 0.17 * len(lines) + 0.26 * len(marks))
