"""The report of a comparison, as Markdown and as one HTML page that needs nothing else. Made from `results.json` alone.

    proxy-lm-eval compare PLAN --report-only

`content` decides what is said and in which order; `proxy_lm.report` spells it in both formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from compressors.files import write_bytes
from eval import (
    plots,
    report_compression,
    report_grid,
    report_ledger,
    report_runs,
    report_samples,
    report_search,
    report_verdicts,
    teacher_scores,
    transfer_report,
)
from eval.grid_analysis import Analysis, analyse
from eval.report_groups import Group, groups, label
from eval.report_numbers import KINDS
from eval.results import ArmResult, Results
from proxy_lm.report import Content, Section, Table, html, markdown, number, si


def write(results: Results, folder: Path) -> None:
    """Write `report.md` and `report.html`."""
    report = content(results)
    names = report_grid.drawn(analyse(results, verdicts_only=True), groups(results))
    write_bytes(folder / "report.md", markdown(report).encode())
    write_bytes(folder / "report.html", html(report, names).encode())


def content(results: Results) -> Content:
    """What the report says."""
    analysis, shown = analyse(results), groups(results)
    plot = report_grid.main_plot(analysis, shown)
    intervals = {point.arm: point.interval for point in analysis.points}
    names = report_grid.drawn(analysis, shown)
    curves = [replace(group, arms={name: runs for name, runs in group.arms.items() if name in names}) for group in shown]
    table = report_grid.main_table(results, analysis, shown)
    read_as = report_verdicts.read_as(results, analysis)
    return Content(
        f"Comparison: {results.name}",
        results.question,
        [
            Section("What was compared", _in_short(results, shown), _scale_table(results, shown)),
            Section("Arms", _of_arms(results), arm_table(results)),
            *plot,
            Section("Result", [*read_as, *teacher_scores.said(results)], table, points=_found(results, analysis, shown)),
            *report_grid.margins(results, analysis, shown),
            *report_grid.ablations(results, analysis, shown),
            *report_grid.multipliers(results, analysis, shown),
            *report_grid.beyond_raw(results, analysis),
            *report_grid.compressed(results, analysis),
            *report_grid.fits(results, analysis),
            *transfer_report.sections(results, analysis),
            *report_compression.sections(results, analysis, shown),
            Section(
                "Curves",
                [*_curve_notes(curves), *report_grid.said_of_drawn(analysis, shown)],
                figures=lambda: plots.draw_all(curves, intervals),
                folded=len(shown) > 1,
            ),
            *report_ledger.sections(results),
            *report_search.sections(results),
            *_failures(results),
            *_languages(results),
            *evaluations(results),
            *report_samples.sections(results),
            Section("Measurement", _measurement(results)),
            Section("Plan", ["As run, with every default that the plan sets."], code=_yaml(results.plan), folded=True),
            Section("How to repeat", _repeat(results), code=results.command),
            Section("What is not claimed", not_claimed(results)),
        ],
    )


def answers(results: Results) -> list[str]:
    """What was found, in sentences; they are printed on the terminal too."""
    shown = groups(results)
    return _answers(results, analyse(results, verdicts_only=len(shown) == 1), shown)


def evaluations(results: Results) -> list[Section]:
    """The plan's further evaluations, arms of one scale, budget and seed beside each other; several of these are folded."""
    members_of: dict[str, list[tuple[ArmResult, report_runs.Subject]]] = {}
    for arm in results.finished:
        asked = {stem: result for stem, result in arm.evaluations.items() if stem != report_samples.KEY}
        if asked or arm.evaluation_failures:
            found = {f"bpb-{results.plan['evaluation']['split']}": arm.evaluation or {}, **asked}
            name = label(arm, results).removeprefix(f"{arm.name}, ")
            subject = report_runs.Subject(arm.name, found, arm.evaluation_failures)
            members_of.setdefault("" if name == arm.name else f", {name}", []).append((arm, subject))
    sections: list[Section] = []
    for group, members in members_of.items():
        subjects = [subject for _, subject in members]
        baseline = next((subject for arm, subject in members if arm.name == results.baseline), None)
        folded = len(members_of) > 1
        sections.append(Section(f"Evaluations{group}", report_runs.explained(subjects), report_runs.beside(subjects), folded=folded))
        kinds = [kind for kind in KINDS if kind != "bpb"]
        shown = report_runs.sections(subjects, baseline, kinds)
        sections += [replace(section, title=f"{section.title}{group}", folded=folded) for section in shown]
    return sections


def _languages(results: Results) -> list[Section]:
    """Bits per byte in each language, where there are several; of a grid the group with the most FLOPs, the first seed of each arm."""
    group = max(groups(results), key=lambda group: max(run.training_flops for run in group.runs))
    runs = [next(run for run in runs if run.evaluation) for runs in group.arms.values() if any(run.evaluation for run in runs)]
    found = {language: row for run in runs[:1] for language, row in (run.evaluation or {}).get("by_language", {}).items()}
    if len(found) < 2:
        return []
    rows = []
    for language, first in found.items():
        cells = [(run.evaluation or {})["by_language"].get(language, {}).get("bits_per_byte") for run in runs]
        rows.append([language or "(unknown)", f"{first['num_bytes']:,}", *(number(cell, 4) for cell in cells)])
    text = [group.title(results.baseline) + "; one seed."] if group.name else []
    return [Section("By language", text, Table(["language", "size in bytes", *(run.name for run in runs)], rows))]


def _of_arms(results: Results) -> list[str]:
    """How the table of arms is read: what a view and a teacher are."""
    shared = "Everything else is equal by construction: data order, seeds, heads, optimizer."
    told = "An arm without views reads raw bytes; one whose rate is 1 reads its view alone, and is asked in it. " if results.views else ""
    views = f"{told}Views: {_views(results)}. Fitted on the train split only."
    taught = any(arm.differs.get("teacher") for arm in results.arms)
    teacher = (
        "With a teacher the target of each raw byte is, by its weight, what the byte model of that view expects in its place. That is "
        "distillation and no proxy compression: the view itself is not told unless the arm names it under views."
    )
    return [shared, views, *([teacher] if taught else [])]


def _views(results: Results) -> str:
    told = "; ".join(
        f"{name}: {view['kind']}, {view['alphabet_size']:,} symbols, {view['bytes_per_symbol']:.2f} bytes a symbol"
        + (f", {view['num_raw_only']:,} documents told raw" if view["num_raw_only"] else "")
        for name, view in results.views.items()
    )
    return told or "none"


def arm_table(results: Results) -> Table:
    """What each arm changes; everything else is equal."""
    seen: dict[str, ArmResult] = {}
    for arm in results.arms:
        seen.setdefault(arm.name, arm)
    rows = []
    for name, arm in seen.items():
        changes = yaml.safe_dump(arm.differs, default_flow_style=True, sort_keys=False, width=10_000).strip() if arm.differs else "nothing"
        rows.append([name, changes])
    return Table(["arm", "changes of the shared settings"], rows, frozenset({0, 1}))


def _answers(results: Results, analysis: Analysis, shown: Sequence[Group]) -> list[str]:
    return [*_found(results, analysis, shown), *report_verdicts.read_as(results, analysis)]


def _found(results: Results, analysis: Analysis, shown: Sequence[Group]) -> list[str]:
    return [*(report_verdicts.tally(analysis) if len(shown) > 1 else []), *report_verdicts.verdict_lines(results, analysis, shown)]


_MATCHED: Final = {"flops": "training FLOPs", "symbols": "symbols", "source_bytes": "source bytes", "seconds": "seconds of training"}


def _failures(results: Results) -> list[Section]:
    failed, waiting = ([arm for arm in results.arms if arm.status == status] for status in ("failed", "not run"))
    if not failed and not waiting:
        return []
    parts = [f"{label(arm, results)}: {arm.status}\n{arm.failure or ''}".rstrip() for arm in failed]
    seeds: dict[str, list[str]] = {}
    for arm in waiting:
        place = ", ".join(part for part in (arm.name, arm.scale, arm.budget) if part is not None)
        seeds.setdefault(place, []).append(str(arm.seed))
    if seeds:
        parts.append("\n".join(f"{place}: not run, seed{'s' * (len(found) > 1)} {', '.join(found)}" for place, found in seeds.items()))
    text = "\n\n".join(parts)
    return [Section("Arms without a number", ["These did not finish; running the same command again continues them."], code=text)]


def _in_short(results: Results, shown: Sequence[Group]) -> list[str]:
    arms, failed = len({run.name for run in results.arms}), sum(run.status == "failed" for run in results.arms)
    scales, budgets = len({group.scale for group in shown}), len({group.budget for group in shown})
    seeds = len({run.seed for run in results.arms})
    parts = [_count(arms, "arm"), *(_count(n, name) for n, name in ((scales, "scale"), (budgets, "budget"), (seeds, "seed")) if n > 1)]
    missing = sum(run.status == "not run" for run in results.arms)
    runs = f"{_count(len(results.arms), 'run')}" + (f", {failed} failed" if failed else "") + (f", {missing} not run" if missing else "")
    matched, train = _MATCHED[results.match["kind"]], results.corpus["splits"]["train"]
    target = f" ({si(results.match['target'])})" if len(shown) == 1 and not results.plan.get("budgets") else ""
    equal = f"{matched}{target}" if len(shown) == 1 else f"{matched} at each scale and budget"
    scored = next((run.evaluation for run in results.finished if run.evaluation), {})
    size = sum(results.projects.num_bytes) if results.projects else scored.get("num_bytes")
    projects = len(results.projects.num_bytes) if results.projects else scored.get("num_projects")
    within = "within 1 % by the pace of a short run of each" if results.match["kind"] == "seconds" else "within 1 %"
    return [
        f"{', '.join(parts)}: {runs}. All arms were given equal {equal}, {within}.",
        f"Trained on {si(train['num_bytes'])}B of text in {train['num_documents']:,} documents; scored by bits per byte on {si(size)}B of "
        f"the {results.plan['evaluation']['split']} split" + (f", {projects} projects that no model was told." if projects else "."),
    ]


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _scale_table(results: Results, shown: Sequence[Group]) -> Table | None:
    """What the names of scales and budgets stand for."""
    if len(shown) < 2:
        return None
    rows: list[list[str]] = []
    for group in shown:
        runs = group.arms.get(results.baseline) or group.runs
        body, told = runs[0].num_parameters.get("body", 0), runs[0].source_bytes
        done = sum(run.status == "done" for run in group.runs)
        rows.append(
            [
                group.name,
                si(body),
                si(runs[0].training_flops),
                si(told),
                number(told / body, 1) if body else "-",
                str(len(group.arms)),
                f"{done} of {len(group.runs)}",
            ]
        )
    source = f"source bytes, {results.baseline}"
    columns = ["scale, budget", "body parameters", "FLOPs a run", source, "a body parameter", "arms", "runs with a number"]
    return Table(columns, rows)


def _curve_notes(shown: Sequence[Group]) -> list[str]:
    views = {run.name: run.curve_view for group in shown for run in group.runs if run.curve}
    told = [f"{name} in {view}" for name, view in views.items() if view != "raw"]
    if "raw" in views.values():
        told.append("the others in raw bytes" if told else "all in raw bytes")
    read = ", ".join(told)
    return [
        "Lines: the valid split while training, in windows of one row of the model"
        + (f" ({read})" if read else "")
        + ". Marks: the test split at the end, as in the table"
        + (
            ", a line and a mark a seed. "
            if any(len(runs) > 1 for group in shown for runs in group.arms.values())
            else ", with the interval. "
        )
        + "The first 5 % of each run are not drawn."
        + (" Where arms meet on an axis, that is what was matched; the other axes show what it cost otherwise." if len(shown) == 1 else "")
    ]


def _measurement(results: Results) -> list[str]:
    corpus, evaluation = results.corpus, results.plan["evaluation"]
    splits = ", ".join(f"{name} {si(row['num_bytes'])}B in {row['num_documents']:,} documents" for name, row in corpus["splits"].items())
    measured = f"the first {si(evaluation['max_bytes'])}B of it" if evaluation["max_bytes"] else "all of it"
    return [
        f"Corpus: {splits}; split by project. Digest {corpus['digest'][:16]}.",
        f"Scored on the {evaluation['split']} split, {measured}: context {evaluation['context_bytes']} bytes, stride "
        f"{evaluation['stride_bytes']} bytes for every arm; every payload byte once; end of document "
        f"{'scored' if evaluation['score_end'] else 'not scored'}; softmax over the whole joint vocabulary.",
    ]


def _repeat(results: Results) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items() if version)
    days = sorted({arm.finished_on for arm in results.arms if arm.finished_on})
    when = f" Finished {' to '.join(dict.fromkeys((days[0], days[-1])))}." if days else ""
    return [
        f"Seeds {', '.join(map(str, results.plan['seeds']))}. Machine: {results.machine['device']}, {results.machine['num_cores']} cores."
        + when,
        f"Made with {versions}.",
    ]


def not_claimed(results: Results) -> list[str]:
    """What a reader must not take from these numbers."""
    lines = [
        "Not claimed: that the order of the arms holds at another size, budget, corpus or context.",
        "Not claimed: anything about generated programs; bits per byte is not pass@k.",
        "Token models are charged for their own segmentation, not for the sum over all segmentations; that favours byte models slightly.",
        "A view is fitted on the train split, and its seconds stand in the ledger, outside the match.",
    ]
    if len(results.plan["seeds"]) == 1:
        lines.append("One seed of every arm: no difference is judged better or worse, since another seed may reverse it.")
    return lines


def _yaml(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
