"""Files of samples: what counts is said, and a file cut short or doubled never scores."""

from __future__ import annotations

import base64
import json

import pytest

from eval.problems import Problem, ProblemSet
from eval.sample_files import read_attempts, text_fields
from proxy_lm.errors import RequestError

PROBLEMS = ProblemSet.of(
    "small",
    [
        Problem(task_id="T/0", prompt="def f():\n", entry_point="f", canonical_solution="    return 0\n", test="", style="humaneval"),
        Problem(task_id="T/1", prompt="def g():\n", suffix="# end\n", entry_point="g", canonical_solution="", test="", style="infilling"),
        Problem(task_id="Mbpp/2", prompt="Words.", entry_point="h", canonical_solution="", test="", style="mbpp"),
    ],
)


def lines(tmp_path, *rows):
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_solutions_are_whole_and_completions_are_put_in_place(tmp_path):
    path = lines(
        tmp_path,
        {"task_id": "T/1", "completion": "    pass\n"},
        {"task_id": "T/0", "solution": "whole", "completion": "not this"},
        {"task_id": 2, "completion": "a program"},
    )
    attempts = read_attempts(path, PROBLEMS)
    assert [(one.key, one.program) for one in attempts] == [
        ("T/0#0", b"whole"),
        ("T/1#0", b"def g():\n    pass\n# end\n"),
        ("Mbpp/2#0", b"a program"),
    ]


def test_bytes_that_are_no_text_are_kept_exactly(tmp_path):
    assert text_fields("solution", "é".encode()) == {"solution": "é"}
    fields = text_fields("solution", b"x = '\xff'")
    assert fields == {"solution": "x = '\ufffd'", "solution_base64": base64.b64encode(b"x = '\xff'").decode()}
    path = lines(tmp_path, {"task_id": "T/0", **fields})
    assert read_attempts(path, PROBLEMS, missing="skip")[0].program == b"x = '\xff'"


def test_samples_of_a_task_come_in_their_order(tmp_path):
    path = lines(tmp_path, *[{"task_id": "T/0", "sample": n, "completion": str(n)} for n in (2, 0, 1)])
    assert [one.program[-1:] for one in read_attempts(path, PROBLEMS, missing="skip")] == [b"0", b"1", b"2"]


def test_missing_tasks_are_refused_unless_it_is_said_what_they_are(tmp_path):
    path = lines(tmp_path, {"task_id": "T/0", "completion": "x"})
    with pytest.raises(RequestError, match=r"no sample of 2 of the 3 problems \(the first: T/1\); say --missing"):
        read_attempts(path, PROBLEMS)
    for missing in ("skip", "fail"):
        assert len(read_attempts(path, PROBLEMS, missing=missing)) == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"task_id": "T/0", "completion": ""}, {"task_id": "T/0", "completion": ""}, {"task_id": "T/1", "completion": ""}],
            "2 samples of T/0 and 1 of T/1",
        ),
        ([{"task_id": "T/0", "sample": 1, "completion": "a"}, {"task_id": "T/0", "sample": 1, "completion": "b"}], "a sample of T/0 twice"),
        ([{"task_id": "T/9", "completion": ""}], "line 1: no task 'T/9' among the 3 problems"),
        ([{"task_id": "T/0"}], "line 1 has neither 'solution' nor 'completion'"),
        ([{"task_id": "T/0", "solution": 3}], "neither"),
        ([{"task_id": "T/0", "solution_base64": "?"}], "not base64"),
    ],
    ids=range(6),
)
def test_what_would_be_counted_wrongly_is_refused(tmp_path, rows, said):
    with pytest.raises(RequestError, match=said):
        read_attempts(lines(tmp_path, *rows), PROBLEMS, missing="skip")


def test_of_a_file_for_the_whole_set_a_part_can_be_judged(tmp_path):
    path = lines(tmp_path, *[{"task_id": problem.task_id, "completion": ""} for problem in PROBLEMS])
    part = PROBLEMS.take(tasks=["T/1"])
    assert [one.task_id for one in read_attempts(path, part, whole=PROBLEMS)] == ["T/1"]
    with pytest.raises(RequestError, match="no task 'T/0'"):
        read_attempts(path, part)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", r"samples\.jsonl is empty; write a line of UTF-8 JSON"),
        (b"\n \n", r"samples\.jsonl is empty; write a line of UTF-8 JSON"),
        (b'{"task_id": "T/1", "completion": ""}\n', "holds no sample of these problems"),
        (b"def f():\n", "line 1 is not JSON .*; write a line of UTF-8 JSON for each sample"),
        (b'{"task_id": "\xff"}\n', "is not UTF-8 text .*; write a line of UTF-8 JSON for each sample"),
        (b"[1]\n", "line 1 is a list and not a JSON object"),
    ],
    ids=range(6),
)
def test_a_file_of_one_s_own_is_repaired_and_not_downloaded(tmp_path, data, said):
    (tmp_path / "samples.jsonl").write_bytes(data)
    for missing in ("refuse", "fail", "skip"):
        with pytest.raises(RequestError, match=said) as caught:
            read_attempts(tmp_path / "samples.jsonl", PROBLEMS.take(tasks=["T/0"]), whole=PROBLEMS, missing=missing)
        assert "download" not in str(caught.value)


def test_no_file_is_a_sentence(tmp_path):
    with pytest.raises(RequestError, match="is not a file"):
        read_attempts(tmp_path / "none.jsonl", PROBLEMS)
