"""Planted exact copies, near copies and benchmark problems are found, what only looks like them is not, and no project is in two splits."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_lm.data.corpus import SPLITS, Corpus
from proxy_lm.data.decontaminate import load_problems
from proxy_lm.data.dedup import NUM_VALUES, SCHEME, SEED, near_duplicates, signature
from proxy_lm.data.installed import installed_roots
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.data.select import first_copies, shuffled
from proxy_lm.data.shingles import jaccard, ngram_hashes, shingle_set, word_hashes
from proxy_lm.data.split import split_projects
from proxy_lm.errors import RequestError


def make(out: Path, sources: list[Path], against: list[Path] | None = None, **options: Any) -> Corpus:
    prepare([str(source) for source in sources], out, PrepareSettings(**options), against=against or [])
    return Corpus.open(out)


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def standard_library() -> list[bytes]:
    """Sources of the standard library's top-level modules of 2 to 60 KB."""
    root = installed_roots()[0]
    files = [file for file in root.listing.files if "/" not in file.path and 2000 <= file.size_bytes <= 60_000]
    return [(root.folder / file.path).read_bytes() for file in files]


def slow_words(data: bytes) -> list[bytes]:
    return re.findall(rb"[a-z0-9_\x80-\xff]+", data.lower())


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 6))
def test_word_runs_agree_with_the_slow_twin(data: bytes, length: int) -> None:
    words = slow_words(data)
    runs = [tuple(words[i : i + length]) for i in range(max(len(words) - length + 1, 1))] if words else []
    hashes = ngram_hashes(word_hashes(data), length)
    assert len(hashes) == len(runs)
    # Equal runs have equal hashes, different runs different ones.
    assert len(set(zip(runs, hashes.tolist(), strict=True))) == len(set(runs)) == len(set(hashes.tolist()))


def test_what_the_words_see() -> None:
    assert word_hashes(b"").tolist() == word_hashes(b" ()\n\0").tolist() == []
    assert word_hashes(b"If  x_1==Y:").tolist() == word_hashes(b"if(x_1\r\n-- y)").tolist()
    assert len(set(word_hashes(b"a b ab ba aa 1 \xe9 _").tolist())) == 8
    assert jaccard(shingle_set(b"a b c d e f", 5), shingle_set(b"a b c d e g", 5)) == 1 / 3
    assert jaccard(shingle_set(b"", 5), shingle_set(b"()", 5)) == 1
    # 300 KB are over no table's end.
    assert len(word_hashes(b"word " * 300_000)) == 300_000


def test_signature_is_the_librarys_own() -> None:
    from datasketch import MinHash

    data = b" ".join(b"w%d" % (number % 700) for number in range(1500))
    theirs = MinHash(NUM_VALUES, seed=SEED, hashfunc=int, scheme=SCHEME)
    theirs.update_batch((shingle_set(data, 5) >> np.uint64(32)).tolist())
    assert signature(data).tolist() == theirs.hashvalues.tolist()


def edited(data: bytes, share: float, seed: int) -> bytes:
    """Lines inserted and words replaced all over a document."""
    chance, lines = random.Random(seed), data.split(b"\n")
    for number in range(len(lines)):
        if chance.random() < share:
            lines[number] = lines[number].replace(b"self", b"this") + b"  # edited %d" % chance.randrange(10**6)
    return b"\r\n".join(lines)


def test_planted_near_copies_are_found_and_nothing_else(standard_library: list[bytes]) -> None:
    documents = standard_library[:100] + [edited(data, 0.01, seed) for seed, data in enumerate(standard_library[:100])]
    true = {i: jaccard(shingle_set(documents[i], 5), shingle_set(documents[i - 100], 5)) for i in range(100, 200)}
    planted = {i for i, alike in true.items() if alike >= 0.85}
    assert len(planted) > 60
    copies = near_duplicates(np.stack([signature(data) for data in documents]), documents.__getitem__, 0.8)
    assert len(planted & set(copies)) >= 0.95 * len(planted)
    # Precision is exact: each dropped document is at least 0.8 like the kept one it names.
    assert all(jaccard(shingle_set(documents[i], 5), shingle_set(documents[kept], 5)) >= 0.8 for i, kept in copies.items())
    assert all(kept < i and kept not in copies for i, kept in copies.items())


def test_chains_of_small_changes_do_not_drop_what_differs() -> None:
    words = [b"w%d" % number for number in range(400)]
    chain = [b" ".join(words[12 * step : 12 * step + 200]) for step in range(10)]  # neighbours 0.88 alike, next but one 0.77
    copies = near_duplicates(np.stack([signature(data) for data in chain]), chain.__getitem__, 0.8)
    assert copies == {1: 0, 3: 2, 5: 4, 7: 6, 9: 8}


def test_documents_without_words_are_no_copies_of_each_other() -> None:
    documents = [b"", b"+++", b"---", b"[]"]
    assert near_duplicates(np.stack([signature(data) for data in documents]), documents.__getitem__, 0.8) == {}
    assert near_duplicates(np.zeros((0, NUM_VALUES), np.uint32), documents.__getitem__, 0.8) == {}


def test_the_first_source_wins_a_copy(tmp_path: Path, standard_library: list[bytes]) -> None:
    text = standard_library[0].decode("latin-1")
    near = standard_library[0].replace(b"Record", b"Log", 1).decode("latin-1")
    assert 0.9 < jaccard(shingle_set(text.encode(), 5), shingle_set(near.encode(), 5)) < 1
    one = write_jsonl(tmp_path / "one.jsonl", [{"text": near, "path": "near"}, {"text": "other words here", "path": "other"}])
    two = write_jsonl(tmp_path / "two.jsonl", [{"text": text, "path": "first"}, {"text": text, "path": "again"}])
    forward, backward = make(tmp_path / "1", [one, two]), make(tmp_path / "2", [two, one])
    assert sorted(forward.column("path")) == ["near", "other"]
    assert sorted(backward.column("path")) == ["first", "other"]
    assert {reason: count["documents"] for reason, count in forward.manifest["drops"].items()} == {
        "exact duplicate": 1,
        "near duplicate": 1,
    }
    exact_only = make(tmp_path / "3", [one, two], near_duplicates=None)
    assert sorted(exact_only.column("path")) == ["first", "near", "other"]


def test_first_copies_by_eye() -> None:
    ids = np.zeros((5, 32), np.uint8)
    ids[:, 31] = [7, 3, 7, 3, 9]
    assert first_copies(ids).tolist() == [0, 1, 4]
    assert sorted(shuffled(ids[:0], 0).tolist()) == []
    assert sorted(shuffled(ids, 0).tolist()) == [0, 1, 2, 3, 4]


def test_projects_never_part_and_copies_do_not_leak(tmp_path: Path) -> None:
    chance = random.Random(3)
    records = []
    for project in range(60):
        for number in range(chance.randrange(1, 9)):
            text = " ".join(f"p{project}n{number}w{chance.randrange(10**9)}" for _ in range(60))
            records.append({"text": text, "repo_name": f"r{project}"})
            records.append({"text": text + " extra", "repo_name": f"r{chance.randrange(60)}"})  # a near copy, most often elsewhere
            records.append({"text": text, "repo_name": f"r{chance.randrange(60)}"})
    chance.shuffle(records)
    corpus = make(tmp_path / "out", [write_jsonl(tmp_path / "d.jsonl", records)], valid_share=0.1, test_share=0.1)
    projects, splits = corpus.column("project"), corpus.column("split")
    assert len(set(zip(projects, splits, strict=True))) == len(set(projects))
    held_out = [corpus.document(i) for name in ("valid", "test") for i in corpus.splits[name]]
    train = [shingle_set(corpus.document(i), 5) for i in corpus.splits["train"]]
    assert held_out
    assert max(jaccard(shingle_set(data, 5), other) for data in held_out for other in train) < 0.8
    for name in ("valid", "test"):
        assert 0.05 < corpus.manifest["split_bytes"][name] / corpus.manifest["num_bytes"] <= 0.1
        assert all(splits[i] == name for i in corpus.splits[name])
    assert make(tmp_path / "seed", [tmp_path / "d.jsonl"], valid_share=0.1, test_share=0.1, seed=1).digest != corpus.digest


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (4, [0, 0, 1, 2])])
def test_every_split_gets_a_project_when_there_are_three(count: int, expected: list[int]) -> None:
    dealt = split_projects([f"p{number}" for number in range(count)], np.full(count, 1000, np.int64), 0, 0.01, 0.01)
    assert sorted(dealt.tolist()) == expected


def test_shares_of_zero_and_giants() -> None:
    sizes = np.array([10**6, 10, 10, 10, 10**6], np.int64)
    names = list("abcde")
    assert split_projects(names, sizes, 0, 0, 0).tolist() == [0] * 5
    for seed in range(20):
        dealt = split_projects(names, sizes, seed, 0.01, 0.01)
        assert dealt[0] == dealt[4] == 0  # too large to be held out
        assert set(dealt.tolist()) == {0, 1, 2}


def test_one_project_is_dealt_by_document_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"text": f"document number {number}", "repo_name": "one"} for number in range(30)]
    corpus = make(tmp_path / "out", [write_jsonl(tmp_path / "d.jsonl", records)])
    assert corpus.manifest["split_by"] == "document"
    assert all(len(corpus.splits[name]) for name in SPLITS)
    assert "documents may part" in capsys.readouterr().err


def test_total_size_is_a_fair_sample_and_smaller_is_part_of_larger(tmp_path: Path) -> None:
    records = [{"text": f"document {number} " + "x" * 100, "repo_name": f"r{number % 50}"} for number in range(400)]
    source = write_jsonl(tmp_path / "d.jsonl", records)
    small, large = make(tmp_path / "1", [source], max_bytes=5000), make(tmp_path / "2", [source], max_bytes=20_000)
    assert 4800 < small.manifest["num_bytes"] <= 5000
    assert 19_800 < large.manifest["num_bytes"] <= 20_000
    assert set(small.column("id")) < set(large.column("id"))
    assert len(set(large.column("project"))) > 40
    assert small.manifest["drops"]["over --max-bytes"]["documents"] == 400 - small.num_documents


def test_total_size_is_met_though_most_of_the_first_sample_are_copies(tmp_path: Path) -> None:
    base = [f"w{number}" for number in range(200)]
    copies = [{"text": " ".join([*base, f"tail{number}"])} for number in range(300)]
    others = [{"text": " ".join(f"d{number}w{word}" for word in range(150))} for number in range(60)]
    corpus = make(tmp_path / "out", [write_jsonl(tmp_path / "d.jsonl", copies + others)], max_bytes=30_000)
    assert 28_000 < corpus.manifest["num_bytes"] <= 30_000
    assert sum(corpus.document(i).startswith(b"w0 ") for i in range(corpus.num_documents)) <= 1


_IDEAS = [
    ("sum_below", "Add up the distinct values that stay strictly below the limit, counting zero once.", "total += value * (value < limit)"),
    ("longest_rise", "Give the length of the longest run of neighbours that grow by at most limit.", "total = max(total, value - limit)"),
    ("count_pairs", "Count unordered pairs of positions whose product is divisible by the limit given.", "total += value % limit == 0"),
    ("fold_digits", "Fold the decimal digits of every value together until fewer than limit remain.", "total = (total * 10 + value) % 97"),
    ("gap_score", "Score the gaps between consecutive sorted values, one above limit counting double.", "total += min(value, 2 * limit)"),
]
PROBLEMS = [
    {
        "task_id": f"Made/{number}",
        "prompt": f'def {name}(values: list[int], limit: int) -> int:\n    """{text}\n    >>> {name}([1, 2, 3], 2)\n    """\n',
        "canonical_solution": f"    total = {number}\n    for value in sorted(values):\n        {body}\n    return total\n",
        "test": f"def check(candidate):\n    assert candidate([1, 2, 3], 2) == {number}\n    assert candidate([9, 7, {number}], 5) == 17\n",
        "entry_point": name,
    }
    for number, (name, text, body) in enumerate(_IDEAS)
]
_RING = """def rotate_ring(grid):\r
    n = len(grid)\r
    ring = [grid[0][i] for i in range(n)]\r
    return ring[-1:] + ring[:-1]"""
MBPP = [
    {
        "task_id": 7,
        "text": "Write a function to rotate the outer ring of a square grid by one place clockwise.",
        "code": _RING,
        "test_list": ["assert rotate_ring([[1, 2], [3, 4]]) == [2, 1]", "assert rotate_ring([[5]]) == [5]"],
    },
    {"task_id": 8, "text": "Negate.", "code": "def f(x): return -x", "test_list": ["assert f(1) == -1"]},
]


def planted(problem: dict[str, Any], host: bytes, edit: str) -> bytes:
    """A problem with its solution in the middle of another file."""
    text = "\n".join(str(problem.get(name, "")) for name in ("prompt", "text", "canonical_solution", "code"))
    text += "\n".join(problem["test_list"]) if "test_list" in problem else ""
    if edit == "spaced":
        text = text.replace("\n    ", "\r\n\t").replace("(", "( ").replace(",", " ,")
    elif edit == "commented":
        text = text.replace(":\n", ":  # see above\n")
    elif edit == "renamed":
        text = text.replace(str(problem.get("entry_point", "rotate_ring")), "solve").replace("total", "acc")
    half = host.find(b"\n", len(host) // 2) + 1
    return host[:half] + text.encode() + b"\n" + host[half:]


@pytest.mark.parametrize("edit", ["verbatim", "spaced", "commented", "renamed"])
def test_planted_problems_are_found(tmp_path: Path, standard_library: list[bytes], edit: str) -> None:
    files = [write_jsonl(tmp_path / "human.jsonl", PROBLEMS), write_jsonl(tmp_path / "mbpp.jsonl", MBPP)]
    problems = load_problems(files)
    assert problems.num_too_short == 1  # Negate: nothing in it is its own
    for number, problem in enumerate([*PROBLEMS, MBPP[0]]):
        found = problems.match(planted(problem, standard_library[number], edit))
        assert found == number, (problem["task_id"], edit)
    assert problems.names[5] == "mbpp.jsonl:7"


def test_the_standard_library_holds_no_problem(tmp_path: Path, standard_library: list[bytes]) -> None:
    problems = load_problems([write_jsonl(tmp_path / "human.jsonl", PROBLEMS), write_jsonl(tmp_path / "mbpp.jsonl", MBPP)])
    assert [problems.match(data) for data in standard_library] == [None] * len(standard_library)
    assert problems.match(b"") is None
    assert load_problems([]).match(b"def f(x): return -x") is None


def test_contaminated_documents_are_dropped_and_counted(tmp_path: Path, standard_library: list[bytes]) -> None:
    against = write_jsonl(tmp_path / "human.jsonl", PROBLEMS)
    hosts = [data.decode("latin-1").encode() for data in standard_library[:20]]
    dirty = [planted(PROBLEMS[number], hosts[number], "commented") for number in (0, 0, 3)]
    records = [{"text": data.decode(), "path": f"clean{number}"} for number, data in enumerate(hosts)]
    records += [{"text": data.decode() + str(number) * 9, "path": f"dirty{number}"} for number, data in enumerate(dirty)]
    source = write_jsonl(tmp_path / "d.jsonl", records)
    corpus = make(tmp_path / "1", [source], [against], near_duplicates=None)
    assert sorted(corpus.column("path")) == sorted(f"clean{number}" for number in range(20))
    assert corpus.manifest["drops"]["holds a problem of --against"]["documents"] == 3
    assert corpus.manifest["matched_problems"] == {"human.jsonl:Made/0": 2, "human.jsonl:Made/3": 1}
    assert make(tmp_path / "2", [source], near_duplicates=None).digest != corpus.digest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no problems"),
        (b"{", "not JSON lines"),
        (b"[1, 2]", "something else than objects"),
        (b'{"answer": 42, "id": 1}', "it has: answer, id"),
    ],
)
def test_problem_files_that_are_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(RequestError, match=words):
        load_problems([tmp_path / "p.jsonl"])
    with pytest.raises(RequestError, match="does not exist"):
        load_problems([tmp_path / "nothing.jsonl"])
