"""Verdicts: limits come from the gold solution, `timeout` is no `fail`, and what was judged is not judged again."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.code import count_right, score
from eval.judging import JudgeSettings, Verdict, judge_gold, judge_programs, limit_s, open_verdicts
from eval.problems import Problem, ProblemSet
from eval.sample_files import Attempt
from eval.sandbox.pool import Sandbox
from proxy_lm.errors import RequestError

QUICK = JudgeSettings(floor_s=1.0, limit_factor=4.0)


def problem(task_id: str, gold: str, test: str = "assert f(2) == 4\n") -> Problem:
    return Problem(task_id=task_id, prompt="def f(x):\n", entry_point="f", canonical_solution=gold, test=test, style="humaneval")


DOUBLE = problem("T/double", "    return 2 * x\n")
BROKEN = problem("T/broken", "    return 5\n")
UNSOLVED = problem("T/unsolved", "")
SLOW = problem("T/slow", "    import time\n    time.sleep(0.6)\n    return 2 * x\n")


def tries(one: Problem, *bodies: str) -> list[Attempt]:
    return [Attempt(one.task_id, i, one.program(body).encode()) for i, body in enumerate(bodies)]


def lines_of(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.glob("verdicts-*/samples.jsonl"))


def test_classes_reasons_and_both_ks(tmp_path):
    problems = ProblemSet.of("p", [DOUBLE, UNSOLVED])
    attempts = [
        *tries(DOUBLE, "    return x + x\n", "    while True: pass\n"),
        *tries(UNSOLVED, "    return x +\n", "    raise ValueError(x)\n"),
    ]
    found = score(attempts, problems, tmp_path, QUICK, ks=(1, 2))
    assert found["verdicts"] == {"pass": 1, "fail": 2, "timeout": 1}
    assert found["tasks"] == {"T/double": {"num_samples": 2, "num_right": 1}, "T/unsolved": {"num_samples": 2, "num_right": 0}}
    assert (found["pass@1"], found["pass@2"]) == (0.25, 0.5)
    assert found["gold"] == {"num_judged": 1, "num_without": 1, "failed": {}, "excluded": False}
    assert sum(found["reasons"].values()) == 3
    assert found["reasons"]["load: SyntaxError"] == 1
    # Judged once, kept: the same file again runs nothing, whatever is asked of it.
    num_lines = lines_of(tmp_path)
    again = score(attempts, problems, tmp_path, QUICK)
    assert lines_of(tmp_path) == num_lines == 1 + 4
    assert {key: again[key] for key in ("pass@1", "verdicts", "tasks")} == {key: found[key] for key in ("pass@1", "verdicts", "tasks")}
    with pytest.raises(RequestError, match="pass@3 needs at least 3 samples"):
        score(attempts, problems, tmp_path, QUICK, ks=(3,))


def test_gold_that_fails_is_listed_and_left_out_only_when_told(tmp_path, capsys):
    problems = ProblemSet.of("p", [DOUBLE, BROKEN])
    attempts = [*tries(DOUBLE, "    return 2 * x\n"), *tries(BROKEN, "    return 2 * x\n")]
    counted = score(attempts, problems, tmp_path, QUICK)
    assert list(counted["gold"]["failed"]) == ["T/broken"]
    assert counted["gold"]["failed"]["T/broken"].startswith("fail: tests: AssertionError")
    assert (counted["num_problems"], counted["pass@1"], counted["gold"]["excluded"]) == (2, 1.0, False)
    assert "1 of 2 gold solutions fail their own tests and are counted all the same" in capsys.readouterr().err
    left = score(attempts, problems, tmp_path, QUICK, exclude_failing_gold=True)
    assert (left["num_problems"], left["num_samples"], left["gold"]["excluded"]) == (1, 1, True)
    with pytest.raises(RequestError, match="every gold solution of p fails"):
        score(attempts, ProblemSet.of("p", [BROKEN]), tmp_path, QUICK, exclude_failing_gold=True)


def test_a_slow_gold_solution_gives_everybody_time(tmp_path):
    sleeping = [SLOW.program(f"    import time\n    time.sleep({seconds})\n    return 2 * x\n").encode() for seconds in (1.4, 30)]
    with Sandbox.open() as sandbox, open_verdicts(tmp_path, sandbox.tier, QUICK) as kept:
        gold = judge_gold([SLOW, UNSOLVED], sandbox, QUICK, kept)
        assert list(gold) == ["T/slow"]
        assert gold["T/slow"].seconds > 0.4
        assert limit_s(gold["T/slow"], QUICK) == 4 * gold["T/slow"].seconds > QUICK.floor_s
        inside, beyond = judge_programs([(SLOW, program) for program in sleeping], gold, sandbox, QUICK, kept)
    assert (inside.verdict, beyond.verdict) == ("pass", "timeout")  # the floor alone would have stopped both
    assert beyond.limit_s == 4 * gold["T/slow"].seconds


def test_limits_by_hand():
    settings = JudgeSettings(floor_s=3, limit_factor=5)
    assert limit_s(None, settings) == 3
    assert limit_s(Verdict("pass", "", 0.1, 60), settings) == 3
    assert limit_s(Verdict("pass", "", 2.0, 60), settings) == 10
    assert limit_s(Verdict("timeout", "", 60.0, 60), settings) == 3  # a gold solution that fails sets nothing


def test_equal_programs_are_judged_once_and_other_tests_anew(tmp_path):
    body = "    return 2 * x\n"
    score(tries(DOUBLE, body, body, body), ProblemSet.of("p", [DOUBLE]), tmp_path, QUICK)
    assert lines_of(tmp_path) == 2  # gold, and the one program
    stricter = problem("T/double", "    return 2 * x\n", "assert f(3) == 6\n")
    score(tries(stricter, body), ProblemSet.of("p", [stricter]), tmp_path, QUICK)
    assert lines_of(tmp_path) == 4


def test_tasks_without_samples_count_as_failed_or_not(tmp_path):
    problems = ProblemSet.of("p", [DOUBLE, UNSOLVED])
    attempts = tries(DOUBLE, "    return 2 * x\n")
    counted = score(attempts, problems, tmp_path, QUICK)
    assert (counted["pass@1"], counted["num_problems"], counted["num_without_samples"]) == (0.5, 2, 1)
    skipped = score(attempts, problems, tmp_path, QUICK, skip_missing=True)
    assert (skipped["pass@1"], skipped["num_problems"]) == (1.0, 1)
    verdict = Verdict("pass", "", 0, 1)
    assert count_right({"a": [verdict, verdict]}, ["a", "b"]) == {"a": (2, 2), "b": (2, 0)}


def test_helpers_of_the_prompt_cannot_be_replaced_by_the_program(tmp_path):
    """The tests compare with a helper of the published prompt: a program that redefines it changes nothing for them."""
    from eval.problem_files import problem_of

    published = problem_of(
        {
            "task_id": "T/helper",
            "prompt": "def square(x):\n    return x * x\n\n\ndef cube(x):\n",
            "canonical_solution": "    return x * square(x)\n",
            "test": "def check(candidate):\n    assert candidate(3) == 3 * square(3)\n",
            "entry_point": "cube",
        }
    )
    cheat = Attempt("T/helper", 0, b"def square(x):\n    return 0\ndef cube(x):\n    return 0\n")
    found = score([cheat], ProblemSet.of("p", [published]), tmp_path, QUICK)
    assert (found["pass@1"], found["gold"]["failed"]) == (0.0, {})
