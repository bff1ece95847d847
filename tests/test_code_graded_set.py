"""Our forty problems: gold passes, wrong bodies fail, and `return None` scores what it deserves, in every tier of the sandbox there is."""

from __future__ import annotations

import ast
import doctest
import io
import json
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from eval.code import score
from eval.judging import JudgeSettings
from eval.problems import Problem, load_problems
from eval.sample_files import Attempt
from eval.sandbox import TIERS, Program
from eval.sandbox.pool import Sandbox
from proxy_lm.errors import RequestError

GRADED = load_problems("graded")
RIGHT_IS_NONE = {"Graded/1"}  # `ignore`: told to return None


def wrong_bodies() -> Iterator[tuple[Problem, str]]:
    text = Path(__file__).with_name("graded_wrong_bodies.txt").read_text()
    by_name = {problem.entry_point: problem for problem in GRADED}
    for block in text.split("#### ")[1:]:
        name, bodies = block.split("\n", 1)
        for body in bodies.split("----\n"):
            yield by_name[name], textwrap.indent(body, "    ")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.open() as opened:
        yield opened


def attempts(body: str | None) -> list[Attempt]:
    return [Attempt(p.task_id, 0, p.program(p.canonical_solution if body is None else body).encode()) for p in GRADED]


@pytest.mark.parametrize("tier", TIERS)
def test_gold_scores_all_and_none_scores_what_it_deserves_in_each_tier(tier, tmp_path):
    try:
        Sandbox.open(tier=tier).__enter__().__exit__(None, None, None)
    except RequestError as error:
        pytest.skip(f"no tier {tier} here: {error}")
    gold = score(attempts(None), GRADED, tmp_path, JudgeSettings(), tier=tier)
    assert (gold["pass@1"], gold["num_problems"], gold["sandbox_tier"]) == (1.0, 40, tier)
    assert gold["verdicts"] == {"pass": 40, "fail": 0, "timeout": 0}
    assert gold["gold"] == {"num_judged": 40, "num_without": 0, "failed": {}, "excluded": False}
    none = score(attempts("    return None\n"), GRADED, tmp_path, JudgeSettings(), tier=tier)
    assert {task for task, found in none["tasks"].items() if found["num_right"]} == RIGHT_IS_NONE
    assert none["pass@1"] == 1 / 40
    assert none["by_level"]["trivial"]["pass@1"] == 0.1


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


def test_every_wrong_body_fails(sandbox):
    cases = list(wrong_bodies())
    assert len(cases) == 190
    assert min(Counter(problem.task_id for problem, _ in cases).values()) >= 4
    programs = [
        Program(key=str(i), solution=problem.program(body), tests=problem.test, entry_points=problem.entry_points, limit_s=10)
        for i, (problem, body) in enumerate(cases)
    ]
    outcomes = list(sandbox.judge(programs))
    wrongly = [f"{cases[int(o.key)][0].entry_point}:\n{cases[int(o.key)][1]}" for o in outcomes if o.verdict != "fail"]
    assert not wrongly, "\n".join(wrongly)
    # They are wrong, and not just no Python.
    assert not [o.reason for o in outcomes if o.reason.startswith("load")]


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
