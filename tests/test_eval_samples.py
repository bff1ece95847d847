"""Samples are made once: torn and damaged lines are made again, another job is kept apart, two writers are refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.envelope import Dataset, envelope, read_results, where, write_result
from eval.samples import Samples, work_folder
from proxy_lm.errors import RequestError

JOB = {"run": "0123", "settings": {"seed": 0, "names": ["a", "b"]}}


def fill(folder, keys, job=JOB):
    """Append what is not done yet; the keys that were."""
    with Samples.open(folder, job) as samples:
        done = list(samples.done)
        for key in keys:
            if key not in samples.done:
                samples.append(key, {"text": f"sample {key}"})
    return done


def test_what_is_done_is_not_made_again(tmp_path):
    assert fill(tmp_path / "work", ["a", "b"]) == []
    assert fill(tmp_path / "work", ["a", "b", "c"]) == ["a", "b"]
    with Samples.open(tmp_path / "work", JOB) as samples:
        assert samples.done == {key: {"text": f"sample {key}"} for key in "abc"}
    lines = [json.loads(line) for line in (tmp_path / "work" / "samples.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == ["a", "b", "c"]
    assert json.loads((tmp_path / "work" / "job.json").read_text()) == JOB


@settings(max_examples=25, deadline=None)  # each example waits for the disk
@given(cut=st.integers(0, 400))
def test_a_file_torn_anywhere_loses_its_last_sample_only(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("torn")
    fill(folder, ["a", "b", "c"])
    path = folder / "samples.jsonl"
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    whole = data.count(b"\n")
    assert fill(folder, ["a", "b", "c"]) == ["a", "b", "c"][:whole]
    assert path.read_bytes().count(b"\n") == 3
    assert fill(folder, []) == ["a", "b", "c"]


def test_a_damaged_line_is_dropped_said_and_made_again(tmp_path, capsys):
    fill(tmp_path, ["a", "b", "c"])
    path = tmp_path / "samples.jsonl"
    path.write_bytes(path.read_bytes().replace(b"sample b", b"sample x"))
    assert fill(tmp_path, ["a", "b", "c"]) == ["a", "c"]
    assert "1 of 3 lines are damaged" in capsys.readouterr().err
    assert "sample x" not in path.read_text()
    assert fill(tmp_path, []) == ["a", "c", "b"]


def test_another_job_has_another_folder_and_is_refused_in_this_one(tmp_path):
    other = {**JOB, "run": "4567"}
    assert work_folder(tmp_path, "lines", "test", JOB) != work_folder(tmp_path, "lines", "test", other)
    assert work_folder(tmp_path, "lines", "test", JOB).parent == tmp_path / "eval"
    fill(tmp_path / "work", ["a"])
    with pytest.raises(RequestError, match=r"another job \(different: run\)"):
        fill(tmp_path / "work", ["a"], other)


def test_two_writers_are_refused(tmp_path):
    with Samples.open(tmp_path, JOB) as samples:
        samples.append("a", {})
        with pytest.raises(RequestError, match="another process is writing"), Samples.open(tmp_path, JOB):
            pass
    assert fill(tmp_path, ["b"]) == ["a"]


def test_a_result_has_the_common_fields_and_is_found_again(tmp_path):
    dataset = Dataset(name="test", digest="ab" * 32, num_items=3)
    result = envelope("proxy-lm lines 1", "lines", {"name": "r", "view": "raw"}, dataset, {"seed": 0}, 1.5, {"tasks": {}})
    assert set(result) == {"schema", "command", "run", "dataset", "settings", "seconds", "versions", "tasks"}
    assert result["versions"]["proxy-lm"] is not None
    written = write_result(tmp_path, "lines", "test", result, tmp_path / "work", ())
    assert written == {"name": "lines-test", "path": str(tmp_path / "eval" / "lines-test.json"), "plot": None, "aside": None}
    assert where({**written, "plot": "a.svg"}) == f"result: {tmp_path / 'eval' / 'lines-test.json'}\nplot: a.svg"
    assert read_results(tmp_path) == {"lines-test": result}
    (tmp_path / "eval" / "bad.json").write_text("{")
    with pytest.raises(RequestError, match="not readable JSON"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("change", "replaces"),
    [
        ({}, True),
        ({"settings": {"num_lines": 9, "num_files": 4, "generate": True}}, True),  # more of one, less of none
        ({"settings": {"num_lines": 4, "num_files": 4, "generate": True}}, False),
        ({"settings": {"num_lines": 9, "num_files": 3, "generate": True}}, False),
        ({"settings": {"num_lines": 5, "num_files": 4, "generate": False}}, False),
        ({"healed": None}, False),
        ({"run": {"name": "other name", "step": 1, "healing": True}, "healed": None}, False),
        ({"run": {"name": "r", "step": 2}, "healed": None}, True),  # the run went on: the older result is past
        ({"schema": "mine 2", "healed": None}, True),
    ],
)
def test_a_result_is_never_replaced_by_one_that_asked_less(tmp_path, change, replaces):
    amounts = ("settings.num_lines", "settings.num_files", "settings.generate", "healed")
    settings = {"num_lines": 5, "num_files": 4, "generate": True}
    full = {"schema": "mine 1", "run": {"name": "r", "step": 1}, "settings": settings, "healed": {"a": 1}}
    write_result(tmp_path, "lines", "test", full, tmp_path / "work", amounts)
    second = {**full, **change}
    written = write_result(tmp_path, "lines", "test", second, tmp_path / "work", amounts)
    stands = tmp_path / "eval" / "lines-test.json"
    assert json.loads(stands.read_text()) == (second if replaces else full)
    assert (written["aside"] is None, (tmp_path / "work" / "result.json").exists()) == (replaces, not replaces)
    if not replaces:
        assert json.loads((tmp_path / "work" / "result.json").read_text()) == second
        assert written["path"] == str(tmp_path / "work" / "result.json")
        assert str(stands) in where(written)


def test_a_damaged_result_gives_way(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "lines-test.json").write_text("{")
    assert write_result(tmp_path, "lines", "test", {"schema": "mine 1"}, tmp_path / "work", ("settings.num_lines",))["aside"] is None
