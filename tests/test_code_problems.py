"""Published problem files are read as they are, and what is no such file is refused with a sentence."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.plus_oracle import agrees
from eval.problem_files import names_wanted
from eval.problems import load_problems
from proxy_lm.errors import RequestError

HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": "import math\n\ndef half(x):\n    return x / 2\n\n\ndef quarter(x):\n    '''A quarter.'''\n",
    "canonical_solution": "    return half(half(x))\n",
    "test": "def check(candidate):\n    assert candidate(8) == half(4)\n",
    "entry_point": "quarter",
}
MBPP = {
    "task_id": 901,
    "text": "Write a function to add.",
    "code": "def helper(a):\n    return a\n\ndef add(a, b):\n    return helper(a) + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(Fraction(1), 2) == 3"],
    "test_setup_code": "from fractions import Fraction",
    "challenge_test_list": [],
}
INFILLING = {
    "task_id": "SingleLineInfilling/HumanEval/900/L0",
    "prompt": "def one():\n",
    "suffix": "\n    return x\n",
    "canonical_solution": "    x = 1",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
    "entry_point": "one",
}
PLUS = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nShared items.\nassert set(similar_elements((3, 4), (4, 5))) == set((4,))\n"""\n',
    "entry_point": "similar_elements",
    "canonical_solution": "\ndef similar_elements(a, b):\n    return tuple(set(a) & set(b))\n",
    "base_input": [[[3, 4], [4, 5]]],
    "plus_input": [[[1, 2], [2, 1]], [[], []]],
    "atol": 0,
    "contract": "",
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def passes(problem, program: str) -> bool:
    """Plain Python, as the published harnesses do it: all in one namespace."""
    names: dict = {}
    exec(compile(problem.setup, "<setup>", "exec"), names)
    exec(compile(program, "<program>", "exec"), names)
    try:
        exec(compile(problem.test, "<test>", "exec"), names)
    except AssertionError:
        return False
    return True


def test_humaneval(tmp_path):
    (problem,) = load_problems(write(tmp_path / "HumanEval.jsonl", HUMANEVAL))
    assert (problem.task_id, problem.style, problem.entry_points) == ("HumanEval/900", "humaneval", ("quarter",))
    assert problem.gold == HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"]
    # What the prompt defines above the function is there for the tests; the function itself is not.
    assert problem.setup == "import math\n\ndef half(x):\n    return x / 2"
    assert problem.test.endswith("check(quarter)\n")
    assert passes(problem, problem.gold)
    assert not passes(problem, problem.program("    return x\n"))


def test_mbpp_full_sanitized_and_hub(tmp_path):
    sanitized = {key: MBPP[key] for key in ("task_id", "code", "test_list")} | {
        "prompt": MBPP["text"],
        "test_imports": ["from fractions import Fraction"],
    }
    hub = {**sanitized, "test": "results = [3]\nfor want in results:\n    assert add(1, 2) == want\n"}
    for row in (MBPP, sanitized, hub):
        (problem,) = load_problems(write(tmp_path / "mbpp.jsonl", row))
        assert (problem.task_id, problem.style, problem.entry_points) == ("Mbpp/901", "mbpp", ("add",))
        assert problem.prompt == "Write a function to add."
        assert problem.setup == "from fractions import Fraction"
        assert problem.examples == tuple(MBPP["test_list"])
        assert problem.gold == MBPP["code"]
        assert passes(problem, problem.gold)


def test_what_a_solution_imports_is_imported_by_the_judge(tmp_path):
    """Else a program could bring a Counter of its own, equal to anything."""
    row = MBPP | {
        "code": "from collections import Counter\n\ndef count(x):\n    return Counter(x)",
        "test_list": ["assert count([1]) == Counter([1])"],
    }
    (problem,) = load_problems(write(tmp_path / "mbpp.jsonl", row))
    assert problem.entry_points == ("count",)
    assert problem.setup == "from fractions import Fraction\nfrom collections import Counter"
    own = row | {"code": "class Pair:\n    pass\n\ndef f(p):\n    return p", "test_list": ["assert f(Pair())"]}
    (problem,) = load_problems(write(tmp_path / "mbpp.jsonl", own))
    assert problem.entry_points == ("f", "Pair")


def test_infilling(tmp_path):
    (problem,) = load_problems(write(tmp_path / "single.jsonl", INFILLING))
    assert problem.style == "infilling"
    assert problem.gold == "def one():\n    x = 1\n    return x\n"
    assert passes(problem, problem.gold)


def test_release_files_of_evalplus(tmp_path):
    (problem,) = load_problems(write(tmp_path / "MbppPlus.jsonl", PLUS))
    assert problem.prompt == "Shared items."
    assert problem.examples == ("assert set(similar_elements((3, 4), (4, 5))) == set((4,))",)
    assert "[[(3, 4), (4, 5)], [(1, 2), (2, 1)], [(), ()]]" in problem.test  # tuples restored for this task
    assert passes(problem, problem.gold)
    assert passes(problem, "def similar_elements(a, b):\n    return [x for x in b if x in a]\n")  # compared as sets
    assert not passes(problem, "def similar_elements(a, b):\n    return a\n")
    human = PLUS | {"task_id": "HumanEval/1", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": "    return x / 3\n"}
    (problem,) = load_problems(write(tmp_path / "HumanEvalPlus.jsonl", human | {"base_input": [[1]], "plus_input": [[float("inf")]]}))
    assert passes(problem, problem.gold)
    assert passes(problem, "def f(x):\n    return x * (1 / 3) + 1e-8\n")  # floats within 1e-6
    assert not passes(problem, "def f(x):\n    return x / 3 + 1e-3\n")


@pytest.mark.parametrize(
    ("entry", "arguments", "got", "expected", "tolerance", "is_mbpp", "verdict"),
    [
        ("f", [1], 2, 2, 0, False, True),
        ("f", [1], 2, 3, 0, True, False),
        ("f", [1], True, 1, 0, True, True),  # plain equality, as there
        ("f", [1], 1.0000001, 1.0, 0, True, True),
        ("f", [1], 1, 1.5, 1, True, False),  # closeness asks for the same type
        ("f", [1], [1.0, 2.0], [1.0, 2.0000001], 0, True, True),
        ("f", [1], [1.0], [1.0, 2.0], 0, True, False),
        ("f", [1], float("nan"), float("nan"), 0, True, False),
        ("are_equivalent", [1, 2], None, True, 0, True, True),
        ("sum_div", [7], 0, 1, 0, True, True),
        ("sum_div", [7], 2, 1, 0, True, False),
        ("check_str", ["a"], "anything", "Valid", 0, True, True),  # found, however it is said
        ("check_str", ["a"], True, "Valid", 0, True, True),
        ("check_str", ["a"], None, None, 0, True, True),
        ("check_str", ["a"], False, None, 0, True, True),
        ("check_str", ["a"], False, "Valid", 0, True, False),
        ("check_str", ["a"], None, "Valid", 0, True, False),
        ("Diff", [[1], [2]], [2, 1], [1, 2], 0, True, True),
        ("surface_Area", [3, 4], 35, 33, 0, True, True),  # the height may be the slant's or the pyramid's
        ("surface_Area", [3, 4], 34, 33, 0, True, False),
        ("digit_distance_nums", [1, 23], 4, 9, 0, True, True),
        ("find_zero", [[-6.0, 2.0]], 3.0000001, None, 1e-4, False, True),
        ("find_zero", [[-6.0, 2.0]], 3.1, None, 1e-4, False, False),
    ],
)
def test_answers_agree_by_the_rules_of_evalplus(entry, arguments, got, expected, tolerance, is_mbpp, verdict):
    assert agrees(entry, arguments, got, expected, tolerance, is_mbpp) is verdict


def test_the_digest_is_of_the_problems_and_not_of_their_file(tmp_path):
    rows = [HUMANEVAL, HUMANEVAL | {"task_id": "HumanEval/901"}]
    plain = load_problems(write(tmp_path / "a.jsonl", *rows))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for name in ("a.jsonl.gz", "a.parquet", "a.json"):
        other = load_problems(tmp_path / name)
        assert (other.digest, other.name, len(other)) == (plain.digest, "a", 2)
    changed = load_problems(write(tmp_path / "b.jsonl", rows[0], rows[1] | {"test": "def check(candidate):\n    pass\n"}))
    assert changed.digest != plain.digest


def test_a_part_of_a_set(tmp_path):
    problems = load_problems(write(tmp_path / "a.jsonl", *[HUMANEVAL | {"task_id": f"HumanEval/{n}"} for n in (7, 8, 17, 70)]))
    ids = [problem.task_id for problem in problems.take(tasks=["8-70"])]
    assert ids == ["HumanEval/8", "HumanEval/17", "HumanEval/70"]
    assert [p.task_id for p in problems.take(tasks=["HumanEval/?"], limit=1)] == ["HumanEval/7"]
    assert problems.take(limit=2).digest == problems.digest
    assert problems["7"].task_id == "HumanEval/7"
    assert problems["HumanEval/70"].task_id == "HumanEval/70"
    for bad in ({"limit": 0}, {"tasks": ["nothing"]}):
        with pytest.raises(RequestError):
            problems.take(**bad)
    with pytest.raises(RequestError, match="0 tasks of a are called '9'"):
        problems["9"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", "", "holds no problem"),
        ("a.jsonl", "{bad\n", "line 1 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is a list"),
        ("a.jsonl", '{"prompt": "x"}\n', "problem 1 .* has no field 'entry_point'"),
        ("a.json", '{"prompt": "x"}', "one array"),
        ("a.csv", "x", "suffix unknown"),
        ("a.jsonl.gz", "not gzip", "could not read"),
        ("a.parquet", "not parquet", "not a whole parquet file"),
        ("a.jsonl", json.dumps(HUMANEVAL) + "\n" + json.dumps(HUMANEVAL) + "\n", "HumanEval/900 twice"),
        ("a.jsonl", json.dumps(MBPP | {"test_list": ["assert 1 == 1"]}) + "\n", "tests no function"),
        ("a.jsonl", json.dumps(MBPP | {"test_list": ["assert ("]}) + "\n", "tests are not Python"),
        ("a.jsonl", json.dumps(PLUS | {"task_id": "Mbpp/722", "base_input": [[]]}) + "\n", "problem 1 .* no format known"),
        ("a.jsonl", json.dumps(PLUS | {"task_id": "Mbpp/722", "base_input": [[3]]}) + "\n", "problem 1 .* no format known"),
        ("a.jsonl", json.dumps(HUMANEVAL | {"prompt": "\ud800"}) + "\n", "problem 1 .* surrogates not allowed"),
    ],
    ids=range(14),
)
def test_what_is_no_problem_file_is_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=said):
        load_problems(tmp_path / name)


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(RequestError, match="packaged: graded"):
        load_problems("grabed")
    with pytest.raises(RequestError, match="is a folder"):
        load_problems(tmp_path)


def test_names_that_tests_take_from_a_solution():
    code = "import math\nclass Pair: pass\ndef f(x): pass\ndef g(y): pass\n"
    assert names_wanted("assert f([Pair(1)]) == sorted([2])\n", "", code) == ["f", "Pair"]
    assert names_wanted("def check(candidate):\n    assert candidate(1)\ncheck(g)\n", "", code) == ["g"]
    assert names_wanted("for f in [1]:\n    assert g(f)\n", "", code) == ["g"]
    assert names_wanted("assert f(1) == 1\n", "", "def f(:") == ["f"]  # a gold solution that does not parse
