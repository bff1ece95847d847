"""What `lines` asks and what a completion is worth, by eye: places, prompts, groups, exact ends, borders, stumbles."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.identifiers import PLACES, identifiers, place
from eval.line_items import Documents, Item, choose, of_files
from eval.line_scores import score, summarise
from eval.lines import prompt_of
from proxy_lm.errors import RequestError

CODE = b"import os\n\n\ndef total(count, price):\n    # a comment\n    return count * price\n\n\nprint(total(2, 3))\n"


def names(document, language="python"):
    return [document[a:b] for a, b in identifiers(document, language)]


def test_identifiers_of_python_are_its_names():
    assert names(CODE) == [b"os", b"total", b"count", b"price", b"count", b"price", b"print", b"total"]
    assert names("é = 'name'  # other\n".encode()) == ["é".encode()]


def test_without_a_tokenizer_words_are_taken_wherever_they_stand():
    assert names(b"let total = sum(x2); // the sum\n", "rust") == [b"let", b"total", b"sum", b"x2", b"the", b"sum"]
    assert names(b"def f(:\n    '''open\n") == [b"f", b"open"]  # not Python
    assert names(b"\xff\xfe x = 1\n") == [b"\xff\xfe", b"x"]


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_identifiers_of_any_bytes_are_stretches_in_order(document):
    spans = identifiers(document, "python")
    assert all(0 <= a < b <= len(document) for a, b in spans)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


def test_places_of_a_line():
    line = "  é = total(2)".encode()
    assert [place(line, at) for at in range(len(line))] == [
        "line start",
        "in the indentation",
        "in the indentation",  # before the é: all before it is blank
        "inside a character",
        "elsewhere",
        "elsewhere",
        "elsewhere",
        "before an identifier",
        *["inside an identifier"] * 4,
        "elsewhere",
        "elsewhere",
        "elsewhere",
    ]
    assert {place(line, at) for at in range(len(line))} == set(PLACES)


def documents(*texts, projects=None):
    return Documents("mine", "0" * 64, projects or [f"p{i}" for i in range(len(texts))], ["python"] * len(texts), lambda i: texts[i])


def ask(some, **changes):
    wanted = {"num_lines": 0, "num_identifiers": 0, "num_sweep_lines": 0, "prompt_bytes": 40, "max_bytes": 24, "seed": 0} | changes
    return choose(some, **wanted)


def test_lines_are_cut_at_their_start_and_prompts_begin_with_a_line():
    items = ask(documents(CODE), num_lines=9)
    assert {item.target for item in items} == {b"    # a comment", b"    return count * price", b"print(total(2, 3))"}
    for item in items:  # 'def total(count, price):' has less than 16 bytes before it
        assert item.prompt + item.target + b"\n" in CODE
        assert len(item.prompt) <= 40
        assert CODE.startswith(item.prompt) or b"\n" + item.prompt in CODE
        assert item.told == item.target + b"\n"


@pytest.mark.parametrize("task", ["line", "identifier", "sweep"])
def test_the_longest_truth_leaves_room_for_the_byte_that_ends_it(task):
    """A line of just the greatest length is right when its newline comes, so the newline must be able to come."""
    some = documents(b"# 16 bytes or so\nabcdefgh\n")
    items = ask(some, max_bytes=8, **{f"num_{task}s" if task != "sweep" else "num_sweep_lines": 1})
    assert task == "identifier" or max(len(item.target) for item in items) == 8
    assert all(prompt_of(item, 8).max_bytes > len(item.target) for item in items)


def test_identifiers_are_cut_inside_and_told_apart_by_whether_they_were_seen():
    items = ask(documents(CODE), num_identifiers=9, prompt_bytes=90)
    for item in items:
        before = item.prompt[-1:] + item.target[:1]
        assert before.isalpha()
        assert item.told == item.target
    by_end = {CODE.rindex(item.prompt + item.target) + len(item.prompt + item.target): item for item in items}
    assert by_end[CODE.index(b"count *") + 5].group == "seen"
    assert by_end[CODE.index(b"count,") + 5].group == "new"


def test_the_sweep_cuts_a_line_at_every_byte():
    items = ask(documents(b"x = 1\n" * 3 + b"  yz = 2\n"), num_sweep_lines=1, seed=3)
    line = items[0].target
    assert [item.target for item in items] == [line[at:] for at in range(len(line))]
    assert len({item.prompt + item.target for item in items}) == 1
    assert [item.key.rpartition("-")[2] for item in items] == [str(at) for at in range(len(line))]


def test_each_document_gives_one_place_before_any_gives_two_and_more_items_begin_with_fewer():
    many = documents(*[CODE + b"# end %d\n" % i for i in range(5)])
    few, more = (ask(many, num_lines=number) for number in (5, 9))
    assert [item.key for item in more[:5]] == [item.key for item in few]
    assert [item.project for item in few] == [f"p{i}" for i in range(5)]
    assert len({item.key for item in more}) == 9
    assert [item.key for item in ask(many, num_lines=9, seed=1)] != [item.key for item in more]
    assert len(ask(many, num_lines=1000)) == 4 * 5  # all there are


def test_places_are_drawn_for_each_document_and_task_anew():
    same = documents(*[b"".join(b"value_%d = %d\n" % (i, i) for i in range(10, 40))] * 12)
    cuts = [item.key.rpartition("-")[2] for item in ask(same, num_lines=12)]
    assert len(set(cuts)) > 4
    swept = {item.key.split("-")[2] for item in ask(same, num_sweep_lines=12)}
    assert swept != set(cuts)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=120), min_size=1, max_size=4), st.integers(17, 60), st.integers(4, 30))
def test_any_documents_are_asked_within_the_limits(texts, prompt_bytes, max_bytes):
    try:
        items = ask(documents(*texts), num_lines=5, num_identifiers=5, num_sweep_lines=2, prompt_bytes=prompt_bytes, max_bytes=max_bytes)
    except RequestError:
        return  # nothing in them to ask
    assert len({item.key for item in items}) == len(items)
    for item in items:
        text = texts[int(item.key.split("-")[1])]
        assert item.prompt + item.target in text
        assert 0 < len(item.target) <= max_bytes
        assert 0 < len(item.prompt) <= prompt_bytes + (max_bytes if item.task == "sweep" else 0)


def test_files_are_told_by_their_bytes_and_training_documents_are_left_out(tmp_path):
    class Trained:
        def __init__(self):
            self.splits = {"train": range(1)}

        def column(self, name):
            from compressors.files import sha256_bytes

            return [sha256_bytes(b"trained")]

    (tmp_path / "src").mkdir()
    for name, data in (("a.py", CODE), ("b.rs", b"let x = 1;\n" * 4), ("c.py", b"trained"), ("d.py", b"")):
        (tmp_path / "src" / name).write_bytes(data)
    found, left_out = of_files([str(tmp_path / "src" / "*.py"), str(tmp_path / "src" / "b.rs")], Trained())
    assert ([found.read(i) for i in range(len(found))], left_out) == ([CODE, b"let x = 1;\n" * 4], 1)
    assert (found.languages, found.projects) == (["python", "rust"], ["src", "src"])
    assert of_files([str(tmp_path)])[0].digest != found.digest
    with pytest.raises(RequestError, match="gives 0 files"):
        of_files([str(tmp_path / "*.go")])


def item(task="line", target=b"return x", group="python", key=None, prompt=b"def f(x):\n    ", project="p"):
    return Item(key or f"{task}-0-14", task, project, "python", prompt, target, group)


def record(completion, reason="stop", nats=None):
    return {"completion": completion, "reason": reason, "nats": nats, "told_raw": False, "seconds": 0.0}


@pytest.mark.parametrize(
    ("task", "completion", "reason", "exact", "right"),
    [
        ("line", "return x", "stop", 1, 8),
        ("line", "return x", "end", 0, 8),  # the document does not end there
        ("line", "return x", "length", 0, 8),
        ("line", "return xy", "stop", 0, 8),
        ("line", "return", "stop", 0, 6),
        ("line", "", "end", 0, 0),
        ("line", "Return x", "stop", 0, 0),
        ("identifier", "count)", "length", 1, 5),
        ("identifier", "count", "end", 1, 5),
        ("identifier", "counts", "length", 0, 5),
        ("identifier", "count\udcff", "length", 0, 5),  # a byte that goes on with the word
        ("identifier", "coun)", "length", 0, 4),
    ],
)
def test_what_a_completion_is_worth(task, completion, reason, exact, right):
    asked = item(task, b"return x" if task == "line" else b"count")
    parts = score(asked, record(completion, reason)).parts
    assert parts["exact"] == (exact, 1)
    assert parts["bytes_right"] == (right, 1)
    assert parts["share_right"] == (right, len(asked.target))
    assert parts["first_byte"] == (float(right > 0), 1)
    assert ("edit_similarity" in parts) == (task == "line")
    assert "bits_per_byte" not in parts


def test_similarity_and_bits_by_eye():
    parts = score(item(target=b"abcd"), record("abxd", nats=10 * math.log(2))).parts
    assert parts["edit_similarity"] == (pytest.approx(1 - 2 / 8), 1)  # one byte out, one in, of eight
    assert parts["bits_per_byte"] == (pytest.approx(10), 5)  # four bytes and the newline


def test_stumbles_are_wrong_offsets_behind_a_right_one():
    line = b"abcdef"
    items = [item("sweep", line[at:], "elsewhere", f"sweep-0-14-{at}", b"x = 1; y = 2 \n" + line[:at]) for at in range(6)]
    said = ["x", "bcdef", "cdef", "no", "ef", "f"]  # right from 1 on, but for 3
    records = {f"plain/{one.key}": record(text) for one, text in zip(items, said, strict=True)}
    found = summarise(items, records, ["plain"], None)["prompts"]["plain"]["sweep"]
    assert found["exact"]["value"] == pytest.approx(4 / 6)
    assert found["stumbles"]["value"] == pytest.approx(1 / 4)  # offsets 2 to 5
    assert found["stumbles"]["interval"] is None  # one project


def test_none_right_has_no_interval_that_claims_certainty():
    items = [item(target=b"ab", key=f"line-{i}-9", project=f"p{i}") for i in range(6)]
    for said, spread in ((["x"] * 6, False), (["ab"] * 6, False), (["ab", "x"] * 3, True)):
        records = {f"plain/{one.key}": record(text) for one, text in zip(items, said, strict=True)}
        exact = summarise(items, records, ["plain"], None)["prompts"]["plain"]["line"]["exact"]
        assert (exact["interval"] is not None) == spread


class Fours:
    """A view of four bytes a symbol."""

    def spans(self, data):
        return np.array([*range(0, len(data), 4), len(data)])


def test_offsets_are_told_apart_by_the_borders_of_the_whole_line():
    prompt = b"0123456789abcde\n"
    items = [item("sweep", b"abcdef"[at:], "elsewhere", f"sweep-0-16-{at}", prompt + b"abcdef"[:at], f"p{at}") for at in range(6)]
    records = {f"plain/{one.key}": record("", nats=1.0) for one in items}
    found = summarise(items, records, ["plain"], Fours())["prompts"]["plain"]["sweep"]["borders"]
    assert {name: found[name]["num_items"] for name in found} == {"at a border": 2, "inside a symbol": 4}  # offsets 0 and 4 of the line


def test_sums_by_project_give_the_metrics_again():
    items = [item(target=b"ab", key=f"line-{i}-9", project=f"p{i % 2}") for i in range(4)]
    records = {f"plain/{one.key}": record("ab" if i else "a", nats=float(i)) for i, one in enumerate(items)}
    found = summarise(items, records, ["plain"], None)
    sums = found["by_project"]["plain"]["line"]
    assert sums["projects"] == ["p0", "p1"]
    assert sums["exact"] == [[1, 2], [2, 2]]
    assert sum(sums["bits_per_byte"][0]) / sum(sums["bits_per_byte"][1]) == pytest.approx(
        found["prompts"]["plain"]["line"]["bits_per_byte"]["value"]
    )
