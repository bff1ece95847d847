"""A whole comparison with the real DeepSpeed launcher: killed in the middle and continued, it ends with the same numbers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from eval import cli
from proxy_lm.data.corpus import build_small
from proxy_lm.train.guard import main as guard_main

PLAN = {
    "name": "tiny",
    "question": "Does it end the same?",
    "corpus": {"path": "corpus"},
    "views": {"halves": {"kind": "nibble"}},
    "base": {
        "row_length": 64,
        "rows_per_step": 8,
        "rows_per_device": 4,
        "model": {"preset": None, "width": 16, "depth": 1, "num_heads": 2, "hidden": 32},
        "optimizer": {"learning_rate": 0.003},
        "logging": {"tensorboard": False, "peak_flops": 1.0e9},
        "checkpoint": {"every_steps": 20, "every_seconds": None},
        "validation": {"max_bytes": 1024, "every_steps": 20},
    },
    "arms": {"bytes": {}},
    "match": {"symbols": 512 * 80},
    "launch": {"num_ranks": 2, "threads_per_rank": 1, "evaluation_workers": 1},
    "evaluation": {"context_bytes": 64, "stride_bytes": 64, "device": "cpu"},
}


ARMS = {"bytes": {}, "halves": {"views": ["halves"], "mix": {"rate": 1.0}}}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a small corpus and the plan; the comparison runs in it with relative paths only."""
    draw = random.Random(0)
    documents = [
        b"".join(b"def f%d(x):\n    return x + %d\n" % (draw.randrange(9), draw.randrange(9)) for _ in range(20)) for _ in range(60)
    ]
    build_small(tmp_path / "corpus", {"train": documents[:40], "valid": documents[40:50], "test": documents[50:]})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_plan(place, name, **changes):
    (place / name).write_text(yaml.safe_dump({**PLAN, **changes}))
    return name


def start(place, *words):
    command = [sys.executable, "-m", "eval.cli", "compare", *words]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, seconds=500):
    out, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, out
    return out


def processes_about(word):
    """Ids of living processes whose command line has the word."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            command = Path("/proc", entry, "cmdline").read_bytes()
            state = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if word.encode() in command and state != "Z" and int(entry) != os.getpid():
            found.append(int(entry))
    return found


def wait_for(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


def arms(place, out):
    return {arm["name"]: arm for arm in json.loads((place / out / "results.json").read_text())["arms"]}


@pytest.mark.slow
def test_killed_and_continued_it_ends_with_the_same_numbers(place, capsys):
    """C3: a model over the token baseline's symbols could not be scored at all. Here it is an arm like any other."""
    plan = write_plan(place, "plan.yaml")
    assert cli.main(["compare", plan, "--out", "whole"]) == 0
    expected = arms(place, "whole")["bytes"]

    asked = {"lines": {"num_lines": 4, "num_identifiers": 2, "num_sweep_lines": 1, "borders": "halves", "device": "cpu"}}
    both = write_plan(place, "both.yaml", arms={"bytes": {}, "halves": {"views": ["halves"], "mix": {"rate": 1.0}}}, evaluations=asked)
    process = start(place, both, "--out", "killed")
    checkpoint = place / "killed" / "arms" / "bytes" / "checkpoints" / "step-40"
    wait_for(checkpoint.exists, 400, "a checkpoint")
    process.kill()
    process.communicate()
    wait_for(lambda: not processes_about("killed/arms"), 20, "the ranks to die with the comparison")
    assert json.loads((checkpoint.parent.parent / "run.json").read_text())["status"] == "running"

    told = finish(start(place, both, "--out", "killed"))
    found = arms(place, "killed")
    assert "continues at step" in (place / "killed" / "arms" / "bytes" / "train.log").read_text()
    for name in ("bits_per_byte", "training_flops", "symbols", "source_bytes", "unique_bytes", "num_steps", "world_size", "interval"):
        assert found["bytes"][name] == expected[name], name
    assert found["bytes"]["final"]["loss_hex"] == expected["final"]["loss_hex"]
    assert found["bytes"]["final"]["checkpoint"] == expected["final"]["checkpoint"]
    assert [point["bits_per_byte"] for point in found["bytes"]["curve"]] == [point["bits_per_byte"] for point in expected["curve"]]
    # The token arm has a number, over its own symbols and per byte.
    assert found["halves"]["view"] == "halves"
    assert found["halves"]["bits_per_byte"] > 0
    assert found["halves"]["verdict"]["verdict"] == "not judged"  # one seed
    assert found["bytes"]["verdict"]["verdict"] == "baseline"
    # Every arm was asked what the plan asks after bits per byte, on the same places.
    lines = [found[name]["evaluations"]["lines-test"] for name in ("bytes", "halves")]
    assert lines[0]["dataset"] == lines[1]["dataset"]
    assert "Lines: lines-test: against bytes" in (place / "killed" / "report.md").read_text()
    assert (found["halves"]["world_size"], found["halves"]["symbols"]) == (2, found["bytes"]["symbols"])
    assert found["bytes"]["compressor_flops"] == 0
    assert found["halves"]["compressor_flops"] == pytest.approx(1e9 * found["halves"]["compressor_seconds"])
    assert "halves" in told
    assert (place / "killed" / "report.html").exists()
    check_no_machine_paths(place)
    check_finished_is_kept(place, both)
    check_another_plan_is_refused(place, capsys)
    check_the_report_comes_from_the_results_alone(place, both)


def check_no_machine_paths(place):
    for name in ("results.json", "report.md", "report.html"):
        assert str(place) not in (place / "killed" / name).read_text()


def check_finished_is_kept(place, plan):
    before = (place / "killed" / "results.json").read_text()
    assert cli.main(["compare", plan, "--out", "killed"]) == 0
    assert (place / "killed" / "results.json").read_text() == before


def check_another_plan_is_refused(place, capsys):
    changed = write_plan(place, "changed.yaml", base={**PLAN["base"], "row_length": 128})
    assert cli.main(["compare", changed, "--out", "killed"]) == 2
    assert "base.row_length: 64 -> 128" in capsys.readouterr().err


def check_the_report_comes_from_the_results_alone(place, plan):
    report = place / "killed" / "report.md"
    before = report.read_text()
    report.unlink()
    for folder in ("arms", "views"):
        (place / "killed" / folder).rename(place / f"away-{folder}")
    assert cli.main(["compare", plan, "--out", "killed", "--report-only"]) == 0
    assert report.read_text() == before


@pytest.mark.slow
def test_a_failed_arm_is_reported_and_the_others_go_on(place, capsys):
    # A file stands where the first arm's checkpoints belong, so its trainer fails when it saves; the other arm still gets its number.
    plan = write_plan(place, "plan.yaml", arms={"broken": {}, "fine": {}}, match={"symbols": 512 * 50}, baseline="fine")
    (place / "out" / "arms" / "broken").mkdir(parents=True)
    (place / "out" / "arms" / "broken" / "checkpoints").write_text("in the way")
    assert cli.main(["compare", plan, "--out", "out"]) == 1
    out = "".join(capsys.readouterr())
    found = arms(place, "out")
    assert (found["broken"]["status"], found["fine"]["status"]) == ("failed", "done")
    assert "checkpoints" in found["broken"]["failure"]
    assert str(place) not in found["broken"]["failure"]
    assert found["broken"]["bits_per_byte"] is None
    assert "1 of 2 arms failed (arms/broken)" in out
    assert "broken: failed" in (place / "out" / "report.md").read_text()


def test_a_dry_run_makes_nothing(place, capsys):
    plan = write_plan(place, "plan.yaml", arms=ARMS, match={"flops": 1e12})
    assert cli.main(["compare", plan, "--out", "out", "--dry-run", "--json"]) == 0
    rows = {row["arm"]: row for row in json.loads(capsys.readouterr().out)["dry_run"]["arms"]}
    assert rows["halves"]["num_parameters"] > rows["bytes"]["num_parameters"]
    assert rows["halves"]["num_steps"] < rows["bytes"]["num_steps"]  # its output rows cost more
    assert all(abs(row["off_target"]) <= 0.01 for row in rows.values())
    assert not (place / "out").exists()


def test_a_dry_run_checks_the_evaluations(place, capsys):
    plan = write_plan(place, "plan.yaml", evaluations={"code run": {"tier": "nope"}})
    assert cli.main(["compare", plan, "--out", "out", "--dry-run"]) == 2
    assert "evaluations: code run: " in capsys.readouterr().err


def test_bad_plans_are_one_sentence_and_leave_nothing(place, capsys):
    for changes, expected in [
        ({"arms": {"a": {"model": {"widht": 3}}}}, "did you mean 'width'"),
        ({"corpus": {"path": "nowhere"}}, "nowhere is not a folder"),
        # Also where there is no corpus: what follows from the plan alone is refused before any is made.
        ({"match": {"flops": 10}, "corpus": {"path": "nowhere"}}, "more than 1 % from the target"),
        ({"match": {"symbols": 700}, "corpus": {"path": "nowhere"}}, "more than 1 % from the target"),
        ({"arms": ARMS, "match": {"flops": 1.05e9}, "corpus": {"sources": ["."]}}, "more than 1 % apart"),
        ({"views": {"halves": {"kind": "nible"}}, "corpus": {"sources": ["."]}}, "did you mean 'nibble'"),
        ({"evaluations": {"lines": {"borders": "nope"}}, "corpus": {"sources": ["."]}}, "lines: borders 'nope' is neither a view"),
        ({"arms": {"a": {"views": ["x"]}}}, "uses view 'x'"),
    ]:
        assert cli.main(["compare", write_plan(place, "bad.yaml", **changes), "--out", "out"]) == 2
        captured = capsys.readouterr()
        assert expected in captured.err
        assert "Traceback" not in captured.err
        assert not (place / "out" / "corpus").exists()
    assert cli.main(["compare", "missing.yaml"]) == 2
    assert not (place / "out" / "arms").exists()


@pytest.mark.parametrize(("ending", "code"), [("parent dies", 128 + signal.SIGKILL), ("asked to stop", 75), ("by itself", 3)])
def test_the_guard_ends_with_its_parent(place, ending, code):
    """The command starts a child of its own, as the launcher does; neither outlives the guard."""
    ready, seconds = place / "ready", 0.2 if ending == "by itself" else 300
    told = f"open({str(ready)!r}, 'w').close()"
    inner = f"import time, signal, sys; signal.signal(15, lambda *_: sys.exit(75)); {told}; time.sleep({seconds})"
    outer = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {inner!r}, 'guarded-child']) or 3)"
    reading, writing = os.pipe()
    script = "import signal, sys; signal.signal(15, lambda *_: None)\n" + outer
    guard = subprocess.Popen(
        [sys.executable, "-m", "proxy_lm.train.guard", str(reading), sys.executable, "-c", script],
        pass_fds=[reading],
        start_new_session=True,
    )
    os.close(reading)
    if ending != "by itself":
        wait_for(ready.exists, 60, "the child")
    if ending == "asked to stop":
        os.write(writing, b"T")
    elif ending == "parent dies":
        os.close(writing)
    assert guard.wait(timeout=30) == code
    wait_for(lambda: not processes_about("guarded-child"), 10, "everybody to be gone")
    if ending != "parent dies":
        os.close(writing)
    assert callable(guard_main)
