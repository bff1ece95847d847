"""The report of a grid: made up of known numbers, one run failed; every part is there, what stands in it agrees, and it is one page."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from eval import plots_grid, report, results
from eval.grid_analysis import analyse
from eval.plots_grid import Look, Mark
from eval.report_groups import groups
from proxy_lm.config import validate
from proxy_lm.plotting import apart
from proxy_lm.report import Content, Section, Table, html, markdown

# Arm: (symbols a byte told, loss above or below that of bytes at the same source bytes and parameters, what it gains with scale)
ARMS = {
    "bytes": (1.0, 0.0, 0.0),
    "tokens": (0.36, 0.10, 0.02),
    "proxy_spm": (0.45, -0.02, -0.02),
    "proxy_neural": (0.42, 0.0, -0.015),
    "proxy_gzip": (0.5, 0.16, 0.0),
}
BODIES = {"s0": 310_000, "s1": 1_050_000, "s2": 3_120_000}
PLAN = {
    "name": "made_up",
    "question": "Does a byte model learn more from equal arithmetic when most documents are told as symbols?",
    "corpus": {"path": "corpus"},
    "views": {"spm": {"kind": "spm", "options": {}}, "table": {"kind": "table", "options": {}}, "gzip": {"kind": "gzip", "options": {}}},
    "arms": {
        "bytes": {},
        "tokens": {"views": ["spm"], "mix": {"rate": 1.0}},
        "proxy_spm": {"views": ["spm"], "mix": {"rate": 0.9}},
        "proxy_neural": {"views": ["table"], "mix": {"rate": 0.9}},
        "proxy_gzip": {"views": ["gzip"], "mix": {"rate": 0.9}},
    },
    "scales": {name: {"model": {"width": 64 * 2**i}} for i, name in enumerate(BODIES)},
    "match": {"flops": 2.3e13},
    "budgets": {
        "x1": {name: 6 * body * 20 * body * 1.3 for name, body in BODIES.items()},
        "x4": {name: 24 * body * 20 * body * 1.3 for name, body in BODIES.items()},
    },
    "search": {"learning_rates": [0.002, 0.004, 0.008], "scales": ["s0"]},
    "seeds": [0, 1, 2],
}
VIEWS = {
    name: {"kind": name, "alphabet_size": 2048, "bytes_per_symbol": 2.9, "num_raw_only": 0, "fingerprint": "f" * 64, "digest": "d" * 64}
    for name in ("spm", "table", "gzip")
}


def made_up(arms=ARMS, scales=("s0", "s1", "s2"), budgets=("x1", "x4"), seeds=(0, 1, 2), failed=("proxy_gzip", "s1", "x4", 1)):
    """A comparison as `results.json` has it. Losses are 1.1 + A/N^0.3 + B/D^0.28 with what each arm is worth."""
    generator = np.random.default_rng(7)
    projects = generator.integers(3_000, 60_000, 24).astype(float)
    hard = generator.normal(0, 0.25, len(projects))
    runs = []
    for budget in budgets:
        for scale in scales:
            for seed in seeds:
                luck = generator.normal(0, 0.004)
                for place, (name, (rate, worse, gain)) in enumerate(arms.items()):
                    flops = PLAN["budgets"][budget][scale]
                    own = np.random.default_rng([place, seed, len(runs)])
                    told = flops / (6 * BODIES[scale] * 1.3) / rate
                    bits = 1.1 + 60 / BODIES[scale] ** 0.3 + 90 / told**0.28 + worse * (1 - rate) * 2
                    bits += gain * math.log(BODIES[scale] / BODIES["s0"]) + luck + own.normal(0, 0.006)
                    by_project = (bits + hard + own.normal(0, 0.03, len(projects))) * projects * math.log(2)
                    value = float(by_project.sum() / projects.sum() / math.log(2))
                    done = (name, scale, budget, seed) != failed
                    runs.append(run(name, scale, budget, seed, flops, told, value if done else None, by_project))
    return {
        "name": "made_up",
        "question": PLAN["question"],
        "command": "proxy-lm-eval compare configs/compare/made_up.yaml",
        "plan": {**PLAN, "seeds": list(seeds), "evaluation": EVALUATION},
        "versions": {"proxy-lm": "0.1.0", "torch": "2.13.0"},
        "machine": {"device": "CPU (x86_64)", "num_cores": 2},
        "corpus": {
            "digest": "ab" * 32,
            "splits": {name: {"num_bytes": 64_000_000, "num_documents": 9_000, "num_projects": 300} for name in ("train", "valid", "test")},
        },
        "views": VIEWS,
        "match": {"kind": "flops", "target": 2.3e13},
        "baseline": "bytes",
        "arms": runs,
        "projects": {"num_bytes": projects.tolist()},
        "searched": [
            {"arm": arm, "scale": "s0", "learning_rate": rate, "seed": 1000, "training_flops": 5.8e12, "bits_per_byte": bits}
            for arm in arms
            for rate, bits in ((0.002, 2.91), (0.004, 2.85), (0.008, None if arm == "tokens" else 2.88))
        ],
        "chosen": [
            {"arm": arm, "scale": scale, "learning_rate": 0.004 / 2**i, "reason": "searched" if i == 0 else "transferred from s0"}
            for arm in arms
            for i, scale in enumerate(scales)
        ],
    }


EVALUATION = {
    "split": "test",
    "context_bytes": 512,
    "stride_bytes": 256,
    "max_bytes": 400_000,
    "score_end": False,
}


SAMPLES = {
    name: {
        "schema": "proxy-lm samples 1",
        "samples": [
            {"source": "pkg/file.py", "prompt": "def add(a, b):\n    ", "completion": text, "truth": "return a + b"},
            {"prompt": "import <", "completion": "sys\x00"},
        ],
    }
    for name, text in (("bytes", "return a"), ("proxy_spm", "return a + b"))
}


def run(name, scale, budget, seed, flops, told, bits, by_project):
    view = {"bytes": "raw", "tokens": "spm"}.get(name, "raw")
    steps = 1000
    mine = {"tokens": "spm", "proxy_spm": "spm", "proxy_neural": "table", "proxy_gzip": "gzip"}.get(name)
    compressor = 0.0 if mine is None else {"spm": 1.2e10, "table": 9.0e12, "gzip": 4.0e9}[mine]
    found = {
        "name": name,
        "scale": scale,
        "budget": budget,
        "seed": seed,
        "learning_rate": 0.004,
        "finished_on": "2026-11-21",
        "folder": f"arms/{name}-{scale}-{budget}-s{seed}",
        "status": "done" if bits is not None else "failed",
        "failure": None if bits is not None else "exit code 1; last lines: <out of memory & more>",
        "differs": PLAN["arms"].get(name, {"mix": {"rate": 0.5}}),
        "training_flops": flops * (1 + 0.001 * seed),
        "flops_per_symbol": 6 * BODIES[scale],
        "symbols": int(told / 2),
        "source_bytes": int(told),
        "source_bytes_by_view": {"raw": int(told * 0.3), **({mine: int(told * 0.7)} if mine else {})},
        "documents_by_view": {"raw": 310, **({mine: 790} if mine else {})},
        "symbols_by_view": {"raw": int(told * 0.3), **({mine: int(told * 0.2)} if mine else {})},
        "unique_bytes": int(told * 0.9),
        "epochs": told / 64e6,
        "num_steps": steps,
        "num_parameters": {"body": BODIES[scale], "embedding": 150_000, "output": 150_000, "total": BODIES[scale] + 300_000},
        "world_size": 1,
        "seconds": None if bits is None else flops / 9e10,
        "wall_seconds": None if bits is None else flops / 8e10,
        "device_seconds": None if bits is None else flops / 9e10,
        "compressor_flops": compressor,
        "compressor": {"train_seconds": 3.25 if mine else 0, "encode_seconds": 1.5 if mine else 0, "flops": compressor},
        "compressor_seconds": 4.75 if mine else 0,
        "view": view,
        "curve_view": view,
        "final": {"step": steps},
    }
    if bits is None:
        return {**found, "bits_per_byte": None}
    return {
        **found,
        "bits_per_byte": bits,
        "interval": [bits - 0.1, bits + 0.11],
        "nll_nats_by_project": by_project.tolist(),
        "evaluations": {"samples": SAMPLES[name]} if (budget, seed) == ("x4", 0) and name in SAMPLES else {},
        "evaluation": {"by_language": {"python": {"bits_per_byte": bits, "num_bytes": 400_000, "num_documents": 70}}},
        "curve": [
            {
                "step": int(share * steps),
                "training_flops": share * flops,
                "symbols": int(share * told / 2),
                "source_bytes": share * told,
                "seconds": share * flops / 9e10,
                "bits_per_byte": bits + 0.05 / share**0.5 - 0.03,
            }
            for share in (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
        ],
    }


def found(**changes):
    return validate(results.Results, made_up(**changes), "results")


@pytest.fixture(scope="module")
def grid():
    return found()


@pytest.fixture(scope="module")
def analysis(grid):
    return analyse(grid)


@pytest.fixture(scope="module")
def written(grid, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made_up")
    report.write(grid, folder)
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


def small(**changes):
    """Two scales, one budget, two seeds: nothing that takes long to analyse."""
    return found(**{"scales": ("s0", "s1"), "budgets": ("x1",), "seeds": (0, 1), "failed": (), **changes})


def section(results_, title):
    return next(section for section in report.content(results_).sections if section.title == title)


def svgs(page):
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


def test_the_page_is_read_from_top_to_bottom(written):
    page, text = written
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    wanted = [
        "What was compared",
        "Arms",
        "Bits per byte against training FLOPs",
        "Result",
        "Difference from the baseline by scale",
        "Compute multiplier",
        "Fits",
        "Curves",
        "Ledger",
        "Learning rates",
        "Arms without a number",
        "Sample 1 of 2",
        "Measurement",
        "Plan",
        "How to repeat",
        "What is not claimed",
    ]
    assert [title for title in titles if title in wanted] == wanted
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == titles
    assert page.index(PLAN["question"]) < page.index("What was compared")


def test_the_page_needs_nothing_else_and_its_plots_are_whole(written):
    page, _ = written
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)|@import|url\((?!#)|<script""", page)
    contents = re.findall(r'href="#([^"]+)"', page[page.index("<nav") : page.index("</nav>")])
    assert len(contents) > 10
    assert set(contents) <= set(re.findall(r'<section id="([^"]+)"', page))
    plots = svgs(page)
    # Without and with the compressor; margins; multipliers along budgets and along scales; curves of six groups.
    assert len(plots) == 2 + 1 + 2 + 6
    for svg in plots:
        ET.fromstring(svg)
        assert "#0102" not in svg
        assert "#0103" not in svg
        assert not re.search(r'd="[^"]*(nan|inf)', svg)
    for svg in plots[:2]:
        for name in ARMS:
            assert f">{name}</text>" in svg  # the end of each line has its arm's name
        for scale in BODIES:
            assert f">{scale}</text>" in svg


def test_every_number_of_the_analysis_stands_in_both(analysis, written):
    for text in written:
        for point in analysis.points:
            assert f"{point.mean:.4f}" in text
            assert f"{point.interval[0]:.4f} to {point.interval[1]:.4f}" in text
        for verdict in analysis.verdicts:
            assert f"{verdict.difference:+.4f} ({verdict.interval[0]:+.4f} to {verdict.interval[1]:+.4f})" in text
        for multiplier in analysis.multipliers:
            assert multiplier.text in text
            assert multiplier.with_compressor.text in text
        for fit in analysis.fits:
            assert f"{fit.values['alpha']:.3g} (" in text


def test_verdicts_are_told_by_scale_and_a_failed_seed_is_told(grid, analysis, written):
    page, text = written
    lines = [line[2:] for line in text.splitlines() if line.startswith("* ")]
    for group in groups(grid):
        line = next(line for line in lines if line.startswith(f"{group.scale}: ") and f"; {group.budget}: " in line)
        for arm in set(ARMS) - {"bytes"}:
            verdict = analysis.verdict(arm, group.scale, group.budget)
            word = "a tie" if verdict.verdict == "tie" else verdict.verdict
            told = re.search(rf"{word}: ([^;]*)", line).group(1)
            assert f"{arm} ({100 * verdict.relative:+.1f} %" in told
    assert "proxy_spm: better than bytes in all 6 comparisons. Better at every scale (x1)." in text
    assert "corrected for all 24 pairs" in text
    assert "90 runs, 1 failed" in text
    assert "proxy_gzip | 2 of 3 |" in text
    assert "proxy_gzip, s1, x4, seed 1: failed" in text
    assert "&lt;out of memory &amp; more&gt;" in page


def test_the_same_results_give_the_same_page(tmp_path):
    for name in ("a", "b"):
        report.write(small(), tmp_path / name)
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()


def test_the_ledger_adds_seeds_up():
    one, two = small(seeds=(0,)), small()
    (before,), (after,) = ([s.table for s in report.content(r).sections if s.title == "Ledger in full: s0, x1"] for r in (one, two))
    rows, single = ({row[0]: row[1:] for row in table.rows} for table in (after, before))
    assert rows["steps"][0] == "2,000"
    for name in ("symbols", "source bytes told"):
        assert int(rows[name][1].replace(",", "")) == 2 * int(single[name][1].replace(",", ""))
    for name in ("FLOPs a symbol", "parameters: body", "unique bytes of a run", "compressor: fitted once, CPU seconds"):
        assert rows[name] == single[name]
    assert rows["peak learning rate"][0] == "0.004"
    assert "source bytes as gzip" in rows
    short = section(two, "Ledger").table
    assert short.rows[0][:4] == ["bytes", "2", "15 T", "0"]
    assert list(short.heads.values()) == [
        "s0: 310 k body parameters; x1: 14.99 T training FLOPs",
        "s1: 1.05 M body parameters; x1: 172 T training FLOPs",
    ]


def test_what_differs_between_seeds_is_told_from_low_to_high():
    value = made_up(scales=("s0",), budgets=("x1",), seeds=(0, 1), failed=())
    for one in value["arms"]:
        one["unique_bytes"] = (9_000, 12_000)[one["seed"]]
    rows = {row[0]: row[1:] for row in section(validate(results.Results, value, "results"), "Ledger").table.rows}
    assert rows["unique bytes of a run"] == ["9,000 to 12,000"] * 5


def test_learning_rates_say_what_was_tried_and_taken():
    value = made_up(scales=("s0", "s1"), budgets=("x1",), seeds=(0,), failed=())
    value["chosen"][0]["reason"] = "edge of the searched rates"
    shown = section(validate(results.Results, value, "results"), "Learning rates")
    assert shown.table.rows[0] == ["bytes", "2.9100", "2.8500", "2.8800", "0.004", "edge of the searched rates"]
    assert shown.table.rows[1] == ["tokens", "2.9100", "2.8500", "failed", "0.004", "searched"]
    assert shown.table.rows[5] == ["bytes", "-", "-", "-", "0.002", "transferred from s0"]
    assert shown.table.heads == {0: "s0", 5: "s1"}
    text = " ".join(shown.text)
    for words in ("15 short runs", "87 T FLOPs", "1 of them failed", "of the list for bytes", "transferred from s0"):
        assert words in text
    without = validate(results.Results, {**value, "searched": [], "chosen": []}, "results")
    assert "Learning rates" not in [part.title for part in report.content(without).sections]


def test_many_arms_stand_in_order_one_below_the_other():
    arms = {"bytes": ARMS["bytes"], **{f"recipe_{k}": (0.45, 0.02 * ((3 * k) % 7), 0.0) for k in range(7)}}
    shown = section(found(arms=arms, scales=("s0",), budgets=("x1",), failed=("recipe_3", "s0", "x1", 1)), "Arms in order: s0, x1")
    (svg,) = shown.figures()
    labels = re.findall(r">(recipe_\d)</text>", svg)
    assert labels == [f"recipe_{k}" for k in (0, 5, 3, 1, 6, 4, 2)]
    assert "var(--good)" in svg
    titles = [s.title for s in report.content(small()).sections]
    assert not any(title.startswith("Arms in order") for title in titles)


def test_more_arms_than_colours_are_not_drawn_in_one_colour(tmp_path):
    arms = {f"recipe_{k}": (0.45, 0.3 - 0.02 * k, 0.0) for k in range(9)} | {"bytes": ARMS["bytes"]}
    made = found(arms=arms, scales=("s0", "s1"), budgets=("x1",), seeds=(0,), failed=("recipe_8", "s1", "x1", 0))
    report.write(made, tmp_path)
    page = (tmp_path / "report.html").read_text()
    legend = re.search(r'<ul class="legend">(.*?)</ul>', page).group(1)
    assert re.findall(r"</i>([^<]+)</li>", legend) == [*(f"recipe_{k}" for k in range(1, 8)), "bytes"]  # recipe_8 has no number at s1
    assert len(set(re.findall(r"--arm-\d", legend))) == 8
    assert "Of 10 arms, plots with lines have bytes and the 7 with the fewest bits per byte at s1, x1." in page
    assert "recipe_0" not in svgs(page)[0]
    assert page.count(">recipe_0</td>") > 3  # it stands in every table, without a colour


def test_samples_stand_side_by_side():
    sections = report.content(found(scales=("s0", "s1"), seeds=(0,))).sections
    first, second = (part for part in sections if part.title.startswith("Sample "))
    assert "(s1: 1.05 M body parameters; x4: " in first.text[0]  # the largest that has some
    for words in (
        "--- prompt, pkg/file.py\n    def add(a, b):",
        "--- what follows there\n    return a + b",
        "--- bytes\n    return a\n",
        "--- proxy_spm\n",
    ):
        assert words in first.code
    assert "sys\\x00" in second.code
    assert (first.folded, second.folded) == (False, True)
    assert not any(part.title.startswith("Evaluations") for part in sections)


def test_the_terminal_is_told_what_the_report_says():
    told, text = report.answers(small()), markdown(report.content(small()))
    assert len(told) > 5
    for line in told:
        assert line in text


def test_what_cannot_be_told_is_said_and_no_report_fails(tmp_path):
    nothing = made_up(scales=("s0",), budgets=("x1",), seeds=(0,), failed=())
    for one in nothing["arms"]:
        one.update(status="failed", failure="gone", bits_per_byte=None, interval=None, nll_nats_by_project=None, evaluation=None, curve=[])
    no_baseline = made_up(scales=("s0", "s1"), budgets=("x1",), seeds=(0, 1), failed=())
    for one in no_baseline["arms"]:
        if one["name"] == "bytes":
            one.update(
                status="failed", failure="gone", bits_per_byte=None, interval=None, nll_nats_by_project=None, evaluation=None, curve=[]
            )
    no_nats = made_up(scales=("s0",), budgets=("x1",), seeds=(0,), failed=())
    no_nats["projects"] = None
    for one in no_nats["arms"]:
        one["nll_nats_by_project"] = None
    for number, (value, words) in enumerate(
        ((nothing, "5 runs, 5 failed"), (no_baseline, "not decided: tokens (no run of 'bytes' finished)"), (no_nats, "run compare again"))
    ):
        made = validate(results.Results, value, "results")
        report.write(made, tmp_path / str(number))
        assert words in (tmp_path / str(number) / "report.md").read_text(), words
        assert " nan" not in (tmp_path / str(number) / "report.html").read_text()


def test_intervals_without_an_end_and_arms_far_off_are_drawn():
    look = Look("multiplier", {"a": 0, "b": 1}, ["s0", "s1"], level=1.0, dodged=True)
    marks = [
        Mark("a", "s0", None, 1e13, 2.0, (1.5, math.inf)),
        Mark("a", "s1", None, 1e14, 2.5, None),
        Mark("b", "s0", None, 1e13, 0.4, (0.0, 0.6)),
    ]
    svg = plots_grid.lines(marks, look)
    ET.fromstring(svg)
    assert not re.search(r"\b(nan|inf)\b", svg)
    far = found(
        arms={"bytes": ARMS["bytes"], "near": (0.5, 0.01, 0.0), "far": (0.5, 0.9, 0.0)}, scales=("s0", "s1"), budgets=("x1",), seeds=(0,)
    )
    assert len(section(far, "Difference from the baseline by scale").figures()) == 2  # the second without the one that is far off


def test_labels_are_moved_apart_and_keep_their_order():
    assert apart([], 1) == []
    assert apart([1.0, 5.0], 1) == [1.0, 5.0]
    assert apart([2.0, 2.0], 1) == [1.5, 2.5]
    moved = apart([1.0, 1.1, 5.0, 0.9], 1)
    assert moved == pytest.approx([1.0, 2.0, 5.0, 0.0])


def test_a_table_with_lines_above_rows_and_long_cells():
    table = Table(["arm", "why"], [["a", "x" * 50], ["b", "better"]], frozenset({0}), ["", "better"], {1: "s1 | x1"})
    report_ = Content("t", "", [Section("Same", points=["a list | of 5 % < 6"], table=table), Section("Same", ["x"], folded=True)])
    assert "| **s1 \\| x1** | |\n| b | better |" in markdown(report_)
    assert "* a list | of 5 % < 6" in markdown(report_)
    page = html(report_, ["a"])
    assert '<th class="left" scope="rowgroup" colspan="2"><span>s1 | x1</span></th>' in page
    assert f'<td class="long">{"x" * 50}</td>' in page
    assert '<td class="is-better">better</td>' in page
    assert "<li>a list | of 5&nbsp;% &lt; 6</li>" in page
    assert re.findall(r'<section id="([^"]+)"', page) == ["same", "same-1"]
