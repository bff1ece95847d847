"""Grids with real training, side by side: killed in the middle and continued, failed cells, the search, cells from elsewhere."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from eval import cli
from proxy_lm.data.corpus import build_small

PLAN = {
    "name": "gridruns",
    "question": "Does it end the same?",
    "corpus": {"path": "corpus"},
    "views": {"halves": {"kind": "nibble"}},
    "base": {
        "row_length": 64,
        "rows_per_step": 8,
        "rows_per_device": 8,
        "model": {"preset": None, "width": 16, "depth": 1, "num_heads": 2, "hidden": 32},
        "optimizer": {"learning_rate": 0.003},
        "logging": {"tensorboard": False, "peak_flops": 1.0e9},
        "checkpoint": {"every_steps": 40, "every_seconds": None},
        "validation": {"max_bytes": 1024, "every_steps": 80},
    },
    "arms": {"bytes": {}, "halves": {"views": ["halves"], "mix": {"rate": 1.0}}},
    "match": {"symbols": 512 * 160},
    "budgets": {"x1": 512 * 160},
    "launch": {"jobs": 2},
    "evaluation": {"context_bytes": 64, "stride_bytes": 64, "device": "cpu"},
}
EQUAL = ("bits_per_byte", "training_flops", "symbols", "source_bytes", "num_steps", "learning_rate", "interval", "nll_nats_by_project")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small corpus and the plan."""
    folder = tmp_path_factory.mktemp("grid")
    draw = random.Random(0)
    documents = [
        b"".join(b"def f%d(x):\n    return x + %d\n" % (draw.randrange(9), draw.randrange(9)) for _ in range(20)) for _ in range(60)
    ]
    build_small(folder / "corpus", {"train": documents[:40], "valid": documents[40:50], "test": documents[50:]})
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    return folder


def start(place, *words):
    command = [sys.executable, "-m", "eval.cli", "compare", *words]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, code=0):
    out, _ = process.communicate(timeout=500)
    assert process.returncode == code, out
    return out


def cells_of(place, out):
    return {Path(arm["folder"]).name: arm for arm in json.loads((place / out / "results.json").read_text())["arms"]}


def ranks_of(word):
    """Ids of living processes whose command line has the word."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            command, state = Path("/proc", entry, "cmdline").read_bytes(), Path("/proc", entry, "stat").read_text()
        except OSError:
            continue
        if word.encode() in command and state.rpartition(")")[2].split()[0] != "Z" and int(entry) != os.getpid():
            found.append(int(entry))
    return found


def wait_for(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def whole(place):
    """The grid without an interruption."""
    told = finish(start(place, "plan.yaml", "--out", "whole"))
    assert "grid: 2 of 2 done, 0 left" in told
    return cells_of(place, "whole")


@pytest.mark.slow
def test_killed_side_by_side_and_continued_it_ends_with_the_same_numbers(place, whole):
    process = start(place, "plan.yaml", "--out", "killed")
    arms = place / "killed" / "arms"
    wait_for(lambda: list(arms.glob("*/checkpoints/step-40")), 400, "a checkpoint")
    assert len(ranks_of("killed/arms")) >= 2
    process.kill()
    process.communicate()
    wait_for(lambda: not ranks_of("killed/arms"), 20, "the ranks to die with the grid")
    assert not (place / "killed" / "cells" / "bytes-x1.json").exists()

    finish(start(place, "plan.yaml", "--out", "killed"))
    found = cells_of(place, "killed")
    assert any("continues at step" in (arms / name / "train.log").read_text() for name in found)
    for name, expected in whole.items():
        assert {key: found[name][key] for key in EQUAL} == {key: expected[key] for key in EQUAL}
        assert found[name]["final"]["loss_hex"] == expected["final"]["loss_hex"]
        assert (found[name]["budget"], found[name]["status"], found[name]["learning_rate"]) == ("x1", "done", 0.003)
    assert found["bytes-x1"]["verdict"]["verdict"] == "baseline"
    assert found["halves-x1"]["verdict"]["verdict"] == "not judged"  # one seed
    results = json.loads((place / "killed" / "results.json").read_text())
    assert len(results["projects"]["num_bytes"]) == len(found["bytes-x1"]["nll_nats_by_project"])
    assert str(place) not in (place / "killed" / "results.json").read_text()


@pytest.mark.slow
def test_cells_come_from_elsewhere_one_by_one_or_not_at_all(place, whole, monkeypatch, capsys):
    monkeypatch.chdir(place)
    kept = str(shutil.copy(place / "whole" / "results.json", place / "kept.json"))
    # All cells fit: nothing is trained.
    assert cli.main(["compare", "plan.yaml", "--out", "other", "--import", kept]) == 0
    assert "imported from kept.json: bytes-x1, halves-x1" in capsys.readouterr().err
    assert not (place / "other" / "arms").exists()
    assert cells_of(place, "other")["halves-x1"]["nll_nats_by_project"] == whole["halves-x1"]["nll_nats_by_project"]

    # Scored otherwise, they do not fit, and each says why; to collect runs nothing.
    words = ["compare", "plan.yaml", "evaluation.stride_bytes=32", "--out", "strange"]
    assert cli.main([*words, "--import", kept, "--collect"]) == 0
    assert "not imported: bytes-x1 and 1 more: evaluation.stride_bytes: 64 -> 32" in capsys.readouterr().err
    assert {cell["status"] for cell in cells_of(place, "strange").values()} == {"not run"}

    # What does not fit together is refused before anything is taken.
    spoiled = json.loads(Path(kept).read_text())
    spoiled["arms"][0]["bits_per_byte"] = 1.0
    (place / "spoiled.json").write_text(json.dumps(spoiled))
    assert cli.main(["compare", "plan.yaml", "--out", "strange", "evaluation.stride_bytes=32", "--import", "spoiled.json"]) == 2
    assert "one of them was changed by hand" in capsys.readouterr().err
    for about in (spoiled["corpus"], spoiled["views"]["halves"]):
        digest, spoiled["arms"][0]["bits_per_byte"] = about.pop("digest"), whole["bytes-x1"]["bits_per_byte"]
        (place / "spoiled.json").write_text(json.dumps(spoiled))
        assert cli.main([*words, "--import", "spoiled.json", "--collect"]) == 2
        assert "does not tell the digest of" in capsys.readouterr().err
        about["digest"] = digest
    assert not list((place / "strange" / "cells").glob("*.json"))
    assert cli.main(["compare", "plan.yaml", "--out", "strange", "--cells", "--import", kept]) == 2
    assert "--import takes cells over when they are run or collected" in capsys.readouterr().err

    # One cell of a folder whose run is trained: found, scored, kept; and listed. A name that is none is refused.
    shutil.copytree(place / "whole", place / "one", ignore=shutil.ignore_patterns("cells", "results.json"))
    assert cli.main(["compare", "plan.yaml", "--out", "one", "--cell", "halves-x1", "--json"]) == 0
    cell = json.loads(capsys.readouterr().out)["cell"]
    assert cell["bits_per_byte"] == whole["halves-x1"]["bits_per_byte"]
    assert cli.main(["compare", "plan.yaml", "--out", "one", "--cells", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["cells"]
    assert [(row["cell"], row["state"], row["forecast_seconds"] is not None) for row in listed] == [
        ("bytes-x1", "waiting", True),
        ("halves-x1", "done", True),
    ]
    assert cli.main(["compare", "plan.yaml", "--out", "one", "--cell", "nope"]) == 2
    assert "'nope' is no cell of this comparison" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cell_that_another_process_runs_is_left_to_it(place, whole, monkeypatch, capsys):
    monkeypatch.chdir(place)
    shutil.copytree(place / "whole", place / "held", ignore=shutil.ignore_patterns("cells", "results.json"))
    (place / "held" / "cells").mkdir()
    holds = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(900)"
    lock = place / "held" / "cells" / ".bytes-x1.lock"
    with subprocess.Popen([sys.executable, "-c", holds, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert cli.main(["compare", "plan.yaml", "--out", "held", "--cells", "--json"]) == 0
        assert [row["state"] for row in json.loads(capsys.readouterr().out)["cells"]] == ["running", "waiting"]
        assert cli.main(["compare", "plan.yaml", "--out", "held", "--cell", "bytes-x1"]) == 2
        assert "is being run by another process" in capsys.readouterr().err
        holder.kill()
    assert cli.main(["compare", "plan.yaml", "--out", "held", "--cell", "bytes-x1"]) == 0


@pytest.mark.slow
def test_the_search_chooses_and_a_failed_arm_is_reported_while_the_rest_goes_on(place, whole):
    search = {"learning_rates": [0.0001, 0.01, 0.02], "share": 0.25}
    changes = {"arms": {"bytes": {}, "broken": {}}, "search": search, "match": {"symbols": 512 * 120}, "budgets": {}, "baseline": "bytes"}
    (place / "search.yaml").write_text(yaml.safe_dump({**PLAN, **changes}))
    # Files stand where run folders belong, so all tries of this arm fail, and with them its cell; and one of the other arm.
    (place / "searched" / "search").mkdir(parents=True)
    for name in ("broken-lr0.0001", "broken-lr0.01", "broken-lr0.02", "bytes-lr0.02"):
        (place / "searched" / "search" / name).write_text("in the way")
    told = finish(start(place, "search.yaml", "--out", "searched"), code=1)
    assert "1 of 2 arms failed (arms/broken)" in told
    found, results = cells_of(place, "searched"), json.loads((place / "searched" / "results.json").read_text())
    assert (found["bytes"]["status"], found["bytes"]["learning_rate"]) == ("done", 0.01)
    assert found["broken"]["status"] == "failed"
    assert "every try of the search failed" in found["broken"]["failure"]
    tried = {(one["arm"], one["learning_rate"]): one for one in results["searched"]}
    assert tried["bytes", 0.01]["bits_per_byte"] < tried["bytes", 0.0001]["bits_per_byte"]
    assert (tried["broken", 0.01]["bits_per_byte"], tried["bytes", 0.02]["bits_per_byte"]) == (None, None)
    assert "could not write" in tried["broken", 0.01]["failure"]
    assert results["chosen"] == [{"arm": "bytes", "scale": None, "learning_rate": 0.01, "reason": "searched"}]
    assert (place / "searched" / "report.html").exists()

    # Nothing is in the way any more, but the finished cell would not fit another rate: that try stays failed, and the cell as it is.
    (place / "searched" / "search" / "bytes-lr0.02").unlink()
    told = finish(start(place, "search.yaml", "--out", "searched"), code=1)
    assert "search/bytes-lr0.02 failed and stays so" in told
    again = cells_of(place, "searched")["bytes"]
    assert {key: again[key] for key in (*EQUAL, "status")} == {key: found["bytes"][key] for key in (*EQUAL, "status")}
