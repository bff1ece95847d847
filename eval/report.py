"""The report of a comparison, as Markdown and as one HTML page that needs nothing else. Made from `results.json` alone.

    proxy-lm-eval compare PLAN --report-only

`content` decides what is said and in which order; `proxy_lm.report` spells it in both formats.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from compressors.files import write_bytes
from eval import plots, report_runs
from eval.intervals import MIN_PROJECTS
from eval.report_numbers import KINDS
from eval.results import ArmResult, Results
from proxy_lm.report import Content, Section, Table, html, markdown, number, si


def write(results: Results, folder: Path) -> None:
    """Write `report.md` and `report.html`."""
    report = content(results)
    write_bytes(folder / "report.md", markdown(report).encode())
    write_bytes(folder / "report.html", html(report, [arm.name for arm in results.arms]).encode())


def content(results: Results) -> Content:
    """What the report says."""
    return Content(
        f"Comparison: {results.name}",
        results.question,
        [
            Section("Result", answers(results), main_table(results)),
            Section("Curves", _curve_notes(results), figures=lambda: plots.draw_all(results.arms)),
            Section(
                "Ledger",
                ["What each arm was given and what it spent. FLOPs are counted from the model's structure: three times the forward pass."],
                ledger_table(results),
            ),
            *_failures(results),
            Section("By language", [], language_table(results)),
            *evaluations(results),
            Section("Setting", _setting(results), arm_table(results)),
            Section("Plan", ["As run, with every default that the plan sets."], code=_yaml(results.plan), folded=True),
            Section("How to repeat", _repeat(results), code=results.command),
            Section("What is not claimed", not_claimed(results)),
        ],
    )


def evaluations(results: Results) -> list[Section]:
    """The plan's further evaluations, arms of one scale and seed beside each other and against their baseline."""
    groups: dict[str, list[tuple[ArmResult, report_runs.Subject]]] = {}
    for arm in results.finished:
        if arm.evaluations or arm.evaluation_failures:
            found = {f"bpb-{results.plan['evaluation']['split']}": arm.evaluation or {}, **arm.evaluations}
            name = label(arm, results).removeprefix(f"{arm.name}, ")
            subject = report_runs.Subject(arm.name, found, arm.evaluation_failures)
            groups.setdefault("" if name == arm.name else f", {name}", []).append((arm, subject))
    sections: list[Section] = []
    for group, members in groups.items():
        subjects = [subject for _, subject in members]
        baseline = next((subject for arm, subject in members if arm.name == results.baseline), None)
        sections.append(Section(f"Evaluations{group}", report_runs.explained(subjects), report_runs.summary(subjects)))
        kinds = [kind for kind in KINDS if kind != "bpb"]
        shown = report_runs.sections(subjects, baseline, kinds)
        sections += [replace(section, title=f"{section.title}{group}") for section in shown]
    return sections


def main_table(results: Results) -> Table:
    """One row an arm; the same table is printed on the terminal."""
    columns = [
        "arm",
        "bits per byte",
        "95 % interval",
        f"against {results.baseline}",
        "verdict",
        "FLOPs",
        "symbols",
        "source bytes",
        "seconds",
    ]
    rows, marks = [], []
    for arm in results.arms:
        verdict = arm.verdict.verdict if arm.verdict else arm.status
        rows.append(
            [
                label(arm, results),
                number(arm.bits_per_byte, 4),
                span(arm.interval),
                difference(arm),
                verdict,
                si(arm.training_flops),
                si(arm.symbols),
                si(arm.source_bytes),
                number(arm.seconds, 1),
            ]
        )
        marks.append(verdict)
    return Table(columns, rows, frozenset({0, 4}), marks)


def ledger_table(results: Results) -> Table:
    """Arms as columns, since the ledger is long."""
    arms = results.arms
    views = ["raw", *results.views]

    def by_view(counts: str, view: str) -> list[str]:
        return [si(getattr(arm, counts).get(view, 0)) for arm in arms]

    rows: list[list[str]] = [
        ["training FLOPs", *(f"{arm.training_flops:.6g}" for arm in arms)],
        ["FLOPs a symbol", *(f"{arm.flops_per_symbol:,}" for arm in arms)],
        ["steps", *(f"{arm.num_steps:,}" for arm in arms)],
        ["symbols", *(f"{arm.symbols:,}" for arm in arms)],
        ["source bytes told", *(f"{arm.source_bytes:,}" for arm in arms)],
        *([f"source bytes as {view}", *by_view("source_bytes_by_view", view)] for view in views),
        *([f"documents as {view}", *by_view("documents_by_view", view)] for view in views),
        *([f"symbols as {view}", *by_view("symbols_by_view", view)] for view in views),
        ["unique bytes", *(f"{arm.unique_bytes:,}" for arm in arms)],
        ["epochs", *(number(arm.epochs, 2) for arm in arms)],
        *([f"parameters: {part}", *(si(arm.num_parameters.get(part, 0)) for arm in arms)] for part in arms[0].num_parameters),
        ["ranks", *(str(arm.world_size or "-") for arm in arms)],
        ["seconds of steps", *(number(arm.seconds, 1) for arm in arms)],
        ["device seconds", *(number(arm.device_seconds, 1) for arm in arms)],
        ["wall seconds", *(number(arm.wall_seconds, 1) for arm in arms)],
        ["compressor: fitting, CPU seconds", *(number(arm.compressor.train_seconds, 1) for arm in arms)],
        ["compressor: encoding, CPU seconds", *(number(arm.compressor.encode_seconds, 1) for arm in arms)],
        ["compressor: FLOPs (10^9 a CPU second where it counts none)", *(si(arm.compressor_flops) for arm in arms)],
        ["asked in view", *(arm.view or "-" for arm in arms)],
    ]
    return Table(["", *(label(arm, results) for arm in arms)], rows)


def language_table(results: Results) -> Table | None:
    """Bits per byte of every arm in each language; the number of bytes is the same for all arms."""
    done = results.finished
    if not done or done[0].evaluation is None:
        return None
    rows = []
    for language, first in done[0].evaluation["by_language"].items():
        cells = [(arm.evaluation or {})["by_language"].get(language, {}).get("bits_per_byte") for arm in done]
        rows.append([language or "(unknown)", f"{first['num_bytes']:,}", *(number(cell, 4) for cell in cells)])
    return Table(["language", "size in bytes", *(label(arm, results) for arm in done)], rows)


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


def label(arm: ArmResult, results: Results) -> str:
    """Name, with scale and seed where there are several."""
    parts = [arm.name]
    if arm.scale is not None:
        parts.append(arm.scale)
    if len({other.seed for other in results.arms}) > 1:
        parts.append(f"seed {arm.seed}")
    return ", ".join(parts)


def span(bounds: tuple[float, float] | None) -> str:
    """An interval."""
    return "-" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def difference(arm: ArmResult) -> str:
    """Against the baseline, with its interval."""
    if arm.verdict is None or arm.verdict.verdict == "baseline":
        return "-"
    bounds = arm.verdict.interval
    text = f"{arm.verdict.difference:+.4f}"
    return text if bounds is None else f"{text} ({bounds[0]:+.4f} to {bounds[1]:+.4f})"


def answers(results: Results) -> list[str]:
    """What was found, in sentences; they are printed on the terminal too."""
    lines = []
    seen: set[tuple[str, str | None]] = set()
    for arm in results.arms:
        if arm.verdict is None or arm.verdict.verdict == "baseline" or (arm.name, arm.scale) in seen:
            continue
        seen.add((arm.name, arm.scale))
        who = arm.name if arm.scale is None else f"{arm.name} ({arm.scale})"
        share = _share(results, arm)
        said = {
            "better": f"{who} is better than {results.baseline}: {difference(arm)} bits per byte{share}.",
            "worse": f"{who} is worse than {results.baseline}: {difference(arm)} bits per byte{share}.",
            "tie": f"{who} and {results.baseline} are a tie: {difference(arm)} bits per byte, and zero is inside the interval.",
            "not decided": f"{who} against {results.baseline}: {difference(arm)} bits per byte; fewer than {MIN_PROJECTS} projects "
            "decide nothing.",
        }
        lines.append(said[arm.verdict.verdict])
    lines.append(
        f"All arms were given equal {_MATCHED[results.match['kind']]} ({si(results.match['target'])}). Lower is better. "
        "The verdict is a paired bootstrap over projects of the test split."
    )
    if len(results.plan["seeds"]) == 1:
        lines.append("One seed: the intervals do not cover the noise of another initialisation or data order.")
    return lines


_MATCHED = {"flops": "training FLOPs", "symbols": "symbols", "source_bytes": "source bytes", "seconds": "seconds of training"}


def _share(results: Results, arm: ArmResult) -> str:
    base = [b.bits_per_byte for b in results.finished if b.name == results.baseline and b.scale == arm.scale]
    assert arm.verdict is not None
    values = [value for value in base if value]
    return f", {100 * arm.verdict.difference / (sum(values) / len(values)):+.1f} %" if values else ""


def _failures(results: Results) -> list[Section]:
    failed = [arm for arm in results.arms if arm.status != "done"]
    if not failed:
        return []
    text = "\n\n".join(f"{label(arm, results)}: {arm.status}\n{arm.failure or ''}".rstrip() for arm in failed)
    return [Section("Arms without a number", ["These did not finish; running the same command again continues them."], code=text)]


def _curve_notes(results: Results) -> list[str]:
    views = {arm.name: arm.curve_view for arm in results.arms if arm.curve}
    read = ", ".join(f"{name} in {'raw bytes' if view == 'raw' else view}" for name, view in views.items())
    return [
        "Lines: the valid split while training, in windows of one row of the model"
        + (f" ({read})" if read else "")
        + ". Marks: the test split at the end, as in the table, with the interval. The first 5 % of each run are not drawn. "
        "Where arms meet on an axis, that is what was matched; the other axes show what it cost otherwise."
    ]


def _setting(results: Results) -> list[str]:
    corpus, evaluation = results.corpus, results.plan["evaluation"]
    splits = ", ".join(f"{name} {si(row['num_bytes'])}B in {row['num_documents']:,} documents" for name, row in corpus["splits"].items())
    views = "; ".join(
        f"{name}: {view['kind']}, {view['alphabet_size']:,} symbols, {view['bytes_per_symbol']:.2f} bytes a symbol"
        + (f", {view['num_raw_only']:,} documents told raw" if view["num_raw_only"] else "")
        for name, view in results.views.items()
    )
    measured = f"the first {si(evaluation['max_bytes'])}B of it" if evaluation["max_bytes"] else "all of it"
    return [
        f"Corpus: {splits}; split by project. Digest {corpus['digest'][:16]}.",
        f"Views: {views or 'none'}. Fitted on the train split only.",
        f"Scored on the {evaluation['split']} split, {measured}: context {evaluation['context_bytes']} bytes, stride "
        f"{evaluation['stride_bytes']} bytes for every arm; every payload byte once; end of document "
        f"{'scored' if evaluation['score_end'] else 'not scored'}; softmax over the whole joint vocabulary.",
        f"Machine: {results.machine['device']}, {results.machine['num_cores']} cores.",
    ]


def _repeat(results: Results) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items() if version)
    return [f"Seeds {', '.join(map(str, results.plan['seeds']))}. Made with {versions}."]


def not_claimed(results: Results) -> list[str]:
    """What a reader must not take from these numbers."""
    lines = [
        "Not claimed: that the order of the arms holds at another size, budget, corpus or context.",
        "Not claimed: anything about generated programs; bits per byte is not pass@k.",
        "Token models are charged for their own segmentation, not for the sum over all segmentations; that favours byte models slightly.",
        "A view is fitted on the train split, and its seconds stand in the ledger, outside the match.",
    ]
    if len(results.plan["seeds"]) == 1:
        lines.append("One seed: a difference inside the interval is called a tie, but one outside it may still be seed noise.")
    return lines


def _yaml(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
