"""The report of `proxy-lm compressor probe`, made from its `results.json` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from compressors.files import write_bytes
from proxy_lm import plotting
from proxy_lm.analysis.told import JSON
from proxy_lm.report import Content, Section, Table, html, markdown, number

_ASKS = {"decompress": "the bytes after the view's symbols", "compress": "the view's symbols after the bytes"}


def write(results: JSON, folder: Path) -> None:
    """Write `report.md` and `report.html`."""
    report = content(results)
    write_bytes(folder / "report.md", markdown(report).encode())
    write_bytes(folder / "report.html", html(report, list(results["views"])).encode())


def table(results: JSON, task: str) -> Table:
    """One row a view that was asked for this task."""
    columns = [
        "view",
        "symbols",
        "a crop",
        "accuracy",
        "without input",
        "nats a target",
        "without input",
        "other input",
        "read",
        "95 % interval",
    ]
    rows = []
    for label, view in results["views"].items():
        found = view.get(task)
        if found is None or "accuracy" not in found:
            continue
        rows.append(
            [
                label,
                f"{view['alphabet_size']:,}",
                number(view["symbols_per_document"], 1),
                f"{100 * found['accuracy']:.2f} %",
                f"{100 * found['control_accuracy']:.2f} %",
                number(found["nats"], 4),
                number(found["control_nats"], 4),
                number(found["other_nats"], 4),
                f"{found['read_nats']:+.4f}",
                f"{found['read_interval'][0]:+.4f} to {found['read_interval'][1]:+.4f}",
            ]
        )
    return Table(columns, rows)


def lines(results: JSON) -> list[str]:
    """One sentence a view and task, for the terminal."""
    told = []
    for label, view in results["views"].items():
        for task in _ASKS:
            found = view.get(task, {})
            if "accuracy" in found:
                low, high = found["read_interval"]
                told.append(
                    f"{label}, {task}: {100 * found['accuracy']:.1f} % right ({100 * found['control_accuracy']:.1f} % without input), "
                    f"{found['read_nats']:+.3f} nats a target read from the input ({low:+.3f} to {high:+.3f})"
                )
    return told


def content(results: JSON) -> Content:
    """What the report says."""
    settings = results["settings"]
    sections = []
    for task, asks in _ASKS.items():
        found = table(results, task)
        if found.rows:
            text = [
                f"Asked for {asks}. Without input: a model of the same size that was told only what is asked for, from as many crops. "
                "It makes fewer updates, since its crops are shorter. Other input: the probe itself, given another crop's first telling. "
                "Read: the nats a target that this costs; an interval above zero means that the model reads its input."
            ]
            sections.append(Section(task.capitalize(), text, found))
    if sections:
        sections.append(Section("Against the control", [], figures=lambda: _figures(results)))
    sections.append(
        Section(
            "Setting",
            [
                f"{settings['num_documents']:,} crops of {settings['document_bytes']:,} bytes of split {results['split']}, each told once; "
                f"{settings['num_held_out']:,} crops of split {results['held_out']} asked. Seed {settings['seed']}. The intervals are a "
                "bootstrap over crops and do not cover the noise of another training run.",
                "The published probes (113M parameters, 1,024 bytes, C4, loss on the second telling only): decompress 95.3 % from 16-bit "
                "windows as bytes and 76.98 % from plain arithmetic code, 76.86 % without input; compress plain arithmetic code 1.7 %.",
            ],
            code=yaml.safe_dump({key: results["training"][key] for key in _TOLD}, sort_keys=False),
        )
    )
    return Content(
        "Can a model learn these views?",
        f"A small decoder reads a view and writes the bytes, or reads bytes and writes the view. Corpus {results['corpus_digest'][:16]}.",
        sections,
    )


_TOLD = ("model", "row_length", "rows_per_step", "optimizer", "schedule", "precision")


def _figures(results: JSON) -> list[str]:
    asked = {task: [(label, view[task]) for label, view in results["views"].items() if "accuracy" in view.get(task, {})] for task in _ASKS}
    return [_bars(results, task, found) for task, found in asked.items() if found]


def _bars(results: JSON, task: str, asked: list[tuple[str, JSON]]) -> str:
    def fill(plot: Any) -> None:
        for index, (label, found) in enumerate(asked):
            colour = plotting.colour(list(results["views"]).index(label))
            plot.bar(index - 0.19, 100 * found["accuracy"], 0.36, color=colour)
            plot.bar(index + 0.19, 100 * found["control_accuracy"], 0.36, color=colour, alpha=0.35)
        plot.set_xticks(range(len(asked)), [label for label, _ in asked])
        plot.set_ylabel("right ids, %  (pale: without input)")
        plot.set_ylim(0, 100)
        plot.set_xlabel(task)

    return plotting.draw(f"share of right ids, {task}", fill)
