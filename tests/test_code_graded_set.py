"""Our forty problems: gold passes, wrong bodies fail, and `return None` scores what it deserves, in every tier of the sandbox there is."""

from __future__ import annotations

import ast
import doctest
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from eval.problems import Problem, load_problems
from eval.sandbox import TIERS, Program
from eval.sandbox.pool import Sandbox

GRADED = load_problems("graded")
RIGHT_IS_NONE = {"Graded/1"}  # `ignore`: told to return None


def wrong_bodies() -> Iterator[tuple[Problem, str]]:
    text = Path(__file__).with_name("graded_wrong_bodies.txt").read_text()
    by_name = {problem.entry_point: problem for problem in GRADED}
    for block in text.split("#### ")[1:]:
        name, bodies = block.split("\n", 1)
        for body in bodies.split("----\n"):
            yield by_name[name], textwrap.indent(body, "    ")


def judged(tier: str, path: Path) -> dict:
    """The JSON of `code judge`, as this user, or as nobody where root cannot have the tier."""
    words = ["-m", "eval.cli", "code", "judge", "--samples", str(path), "--tier", tier, "--json"]
    said = []
    for before in [[sys.executable], *as_nobody()]:
        done = subprocess.run([*before, *words], capture_output=True, text=True, check=False, cwd="/")
        if done.returncode == 0:
            return json.loads(done.stdout)
        said.append(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}")
    return pytest.skip(f"no tier {tier} here: {'; as nobody: '.join(said)}")


def as_nobody() -> Iterator[list[str]]:
    """Python as a user without rights and without our environment: this one, or the system's where this one lies in root's home."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return
    packages = sysconfig.get_paths()["purelib"]
    paths = f"PYTHONPATH={Path(__file__).resolve().parent.parent}{os.pathsep}{packages}"
    clean = ["env", "-i", "PATH=/usr/bin:/bin", "HOME=/", "OMP_NUM_THREADS=1", "PYTHONDONTWRITEBYTECODE=1", paths]
    for python in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        yield ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *clean, python]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that nobody may write in; those of pytest are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def samples(folder: Path, body: str | None) -> Path:
    """A file of one body for all problems; None: of the gold solutions."""
    path = folder / "samples.jsonl"
    rows = [{"task_id": p.task_id, "solution": p.program(p.canonical_solution if body is None else body)} for p in GRADED]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("tier", TIERS)
def test_gold_scores_all_and_none_scores_what_it_deserves_in_each_tier(tier, open_folder):
    none = judged(tier, samples(open_folder, "    return None\n"))
    assert none["sandbox_tier"] == tier
    assert none["gold"] == {"num_judged": 40, "num_without": 0, "failed": {}, "excluded": False}
    assert {task for task, found in none["tasks"].items() if found["num_right"]} == RIGHT_IS_NONE
    assert (none["pass@1"], none["num_problems"]) == (1 / 40, 40)
    assert none["verdicts"] == {"pass": 1, "fail": 39, "timeout": 0}
    assert none["by_level"]["trivial"]["pass@1"] == 0.1


def test_a_file_of_gold_solutions_scores_all(tmp_path):
    found = judged("auto", samples(tmp_path, None))
    assert (found["pass@1"], found["num_problems"]) == (1.0, 40)
    assert found["verdicts"] == {"pass": 40, "fail": 0, "timeout": 0}


def test_what_none_deserves_is_what_plain_python_says():
    deserving = set()
    for problem in GRADED:
        names: dict = {}
        exec(compile(problem.program("    return None\n"), problem.task_id, "exec"), names)
        try:
            exec(compile(problem.test, problem.task_id, "exec"), names)
        except (AssertionError, TypeError):
            continue
        deserving.add(problem.task_id)
    assert deserving == RIGHT_IS_NONE


def test_every_wrong_body_fails():
    """All wrong bodies of a problem are one program, under names of their own; it passes when the tests refuse each of them."""
    by_task: dict[str, list[str]] = {}
    for problem, body in wrong_bodies():
        by_task.setdefault(problem.task_id, []).append(body)
    assert sum(map(len, by_task.values())) == 190
    assert min(map(len, by_task.values())) >= 4
    programs = [wrong_program(GRADED[task_id], bodies) for task_id, bodies in by_task.items()]
    with Sandbox.open() as sandbox:
        outcomes = list(sandbox.judge(programs))
    assert not [f"{outcome.key}: {outcome.reason}" for outcome in outcomes if outcome.verdict != "pass"]


def wrong_program(problem: Problem, bodies: list[str]) -> Program:
    names = [f"{problem.entry_point}_{i}" for i in range(len(bodies))]
    word = re.compile(rf"\b{problem.entry_point}\b")
    solution = "".join(word.sub(name, problem.prompt + body) for name, body in zip(names, bodies, strict=True))
    check = problem.test.removesuffix(f"check({problem.entry_point})\n")
    tests = f"""{check}
for wrong in ({", ".join(names)}):
    try:
        check(wrong)
    except Exception as error:
        assert not isinstance(error, NameError), error
    else:
        raise AssertionError(wrong)
"""
    return Program(key=problem.task_id, solution=solution, tests=tests, entry_points=tuple(names), limit_s=10)


def test_the_examples_of_each_docstring_are_true():
    for problem in GRADED:
        names: dict = {}
        exec(compile(problem.gold, problem.task_id, "exec"), names)
        said = io.StringIO()
        with redirect_stdout(said):
            doctest.run_docstring_examples(names[problem.entry_point], names, name=problem.task_id)
        assert not said.getvalue(), said.getvalue()


def test_the_set_is_forty_problems_graded_in_four_levels():
    assert [problem.task_id for problem in GRADED] == [f"Graded/{i}" for i in range(40)]
    assert [problem.level for problem in GRADED] == ["trivial"] * 10 + ["easy"] * 10 + ["medium"] * 10 + ["hard"] * 10
    for problem in GRADED:
        assert problem.prompt.isascii()
        assert ">>>" in problem.prompt
        assert len(problem.prompt) <= 512
        assert problem.canonical_solution.endswith("\n")
        calls = [node for node in ast.walk(ast.parse(problem.test)) if isinstance(node, ast.Assert)]
        assert len(calls) >= 2


def test_the_file_is_in_the_published_format(root):
    rows = [json.loads(line) for line in (root / "eval" / "problem_sets" / "graded.jsonl").read_text().splitlines()]
    published = {"task_id", "prompt", "entry_point", "canonical_solution", "test"}
    assert all(set(row) == published | {"level"} for row in rows)
