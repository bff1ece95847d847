"""Hostile and odd input, class by class: counted or refused by name, kept exactly where it is text of any kind, never a crash.

The classes are those of a reliability plan for data (D01 to D19); those not here are in test_data_same_bytes, test_prepare_runs,
test_prepare_sources, test_prepare_copies, test_prepare_memory, test_corpus, test_views and test_views_as_made.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from proxy_lm.data.corpus import Corpus
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.errors import RequestError

SECRET = "xyzzy_the_users_own_words"


def make(out: Path, *sources: object, **settings: Any) -> Corpus:
    options = {"near_duplicates": None, "min_bytes": 0, "binary": "keep", "max_bad_share": 1.0} | settings
    prepare([str(source) for source in sources], out, PrepareSettings(**options))
    return Corpus.open(out)


def drops(corpus: Corpus) -> dict[str, int]:
    return {reason: count["documents"] for reason, count in corpus.manifest["drops"].items()}


def documents(corpus: Corpus) -> set[bytes]:
    return {corpus.document(index) for index in range(corpus.num_documents)}


# D01, D02, D04. None: the line gives its document; else the reason that it is counted under.
LINES: dict[bytes, str | None] = {
    b'{"text": "cut': "malformed record",
    b'{"text": "one"} {"text": "two"}': "malformed record",
    b'["text"]': "malformed record",
    b'"text"': "malformed record",
    b"7": "malformed record",
    b"NaN": "malformed record",
    b"null": "malformed record",
    b'{"text": "comma",}': "malformed record",
    b"{'text': 'quotes'}": "malformed record",
    b'{"text": "tab\there"}': "malformed record",
    b'{"text": "\\x41"}': "malformed record",
    b"[" * 100_000: "malformed record",
    b'{"a":' * 100_000: "malformed record",
    b'{"text": "\x80"}': "malformed record",
    b'{"text": "\xc0\xaf"}': "malformed record",
    b'{"text": "\xf4\x90\x80\x80"}': "malformed record",
    b'{"text": "\xe2\x82"}': "malformed record",
    b'{"text": "\xed\xa0\x80"}': "text with a lone surrogate",
    b'{"text": "\\udc00"}': "text with a lone surrogate",
    b"{}": "record without text",
    b'{"other": "key"}': "record without text",
    b'{"text": null}': "record without text",
    b'{"text": 3.5}': "record without text",
    b'{"text": NaN}': "record without text",
    b'{"text": true}': "record without text",
    b'{"text": ["a", "b"]}': "record without text",
    b'{"text": {"a": 1}}': "record without text",
    b'{"text": "kept", "n": NaN, "big": 1e999}': None,
    b'{"text": "again", "text": "kept too"}': None,
    '{"text": "e\u0301 \u00e9 \U0001f469\u200d\U0001f680 \u2028"}'.encode(): None,
    b'{"text": "\\u0000"}': None,
}


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_d01_d02_d04_each_odd_line_is_its_document_or_counted_by_class(tmp_path, line):
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')
    corpus = make(tmp_path / "out", tmp_path / "d.jsonl")
    expected = {b"before", b"after"}
    if LINES[line] is None:
        expected.add(json.loads(line)["text"].encode())
    assert documents(corpus) == expected
    assert drops(corpus) == ({} if LINES[line] is None else {LINES[line]: 1})
    if LINES[line] in ("malformed record", "record without text"):
        assert f"{LINES[line]}: d.jsonl line 2 (byte 19): " in corpus.manifest["damaged_examples"][0]


def test_d1_five_thousand_mutated_lines_are_counted_and_told_without_their_words(tmp_path, capfd):
    chance = random.Random(11)
    lines = []
    for number in range(5000):
        line = bytearray(json.dumps({"text": f"{SECRET} {number}", "repo": "r", "path": f"{number}.py"}).encode())
        for _ in range(chance.randrange(4)):
            place = chance.randrange(len(line))
            what = chance.randrange(4)
            if what == 0:
                line[place] = chance.choice([byte for byte in range(256) if byte not in b"\r\n"])
            elif what == 1:
                del line[place : place + chance.randrange(1, 9)]
            elif what == 2:
                line[place:place] = line[: chance.randrange(len(line))]
            else:
                line[place:place] = bytes([chance.choice(b'{}[]",:\\ueE0\x00\xff')])
            line = line or bytearray(b"{")
        lines.append(bytes(line))
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "first"}\n' + b"\n".join(lines))
    corpus = make(tmp_path / "out", tmp_path / "d.jsonl")
    blank = sum(not line.strip() for line in lines)
    assert corpus.num_documents + sum(drops(corpus).values()) == corpus.manifest["num_records"] == 5001 - blank
    assert drops(corpus)["malformed record"] > 500
    assert corpus.num_documents > 1000
    heard = capfd.readouterr()
    said = heard.out + heard.err + json.dumps({key: value for key, value in corpus.manifest.items() if key != "request"})
    assert SECRET not in said


# D05. As a loose file and as JSON text, byte for byte.
ODD = {
    "empty": b"",
    "space": b" \t\r\n ",
    "one": b"x",
    "newline": b"\n",
    "bom": b"\xef\xbb\xbf",
    "nul": b"\0\0\0",
    "nul_within": b"a\0b\n",
    "crlf": b"a\r\nb\rc\n",
    "no_newline": b"x = 1",
    "nfc_nfd": "\u00e9e\u0301".encode(),
}
NO_UTF8 = {
    "latin1": b"caf\xe9",
    "overlong": b"\xc0\xaf",
    "surrogate": b"\xed\xa0\x80",
    "cut": b"\xe2\x82",
    "utf16": "x = 1\n".encode("utf-16"),
}


def test_d05_odd_documents_are_kept_exactly(tmp_path):
    (tmp_path / "src").mkdir()
    for name, data in {**ODD, **NO_UTF8}.items():
        (tmp_path / "src" / f"{name}.py").write_bytes(data)
    loose = make(tmp_path / "loose", tmp_path / "src")
    assert dict(zip(loose.column("path"), map(loose.document, range(loose.num_documents)), strict=True)) == {
        f"{name}.py": data for name, data in {**ODD, **NO_UTF8}.items()
    }
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": data.decode(), "path": name}) + "\n" for name, data in ODD.items()))
    lines = make(tmp_path / "lines", tmp_path / "d.jsonl")
    assert dict(zip(lines.column("path"), map(lines.document, range(lines.num_documents)), strict=True)) == ODD
    assert drops(loose) == drops(lines) == {}


def test_d06_one_giant_and_very_many_tiny_documents(tmp_path):
    """What is over the limit is dropped whole and counted; nothing is ever cut. Of 30,000 tiny documents 4,096 are distinct."""
    (tmp_path / "src").mkdir()
    giant = random.Random(0).randbytes(1 << 20) * 64
    (tmp_path / "src" / "giant.bin").write_bytes(giant)
    (tmp_path / "src" / "small.py").write_bytes(b"x")
    kept = make(tmp_path / "kept", tmp_path / "src", max_bytes_per_document=64 << 20)
    assert documents(kept) == {giant, b"x"}
    dropped = make(tmp_path / "dropped", tmp_path / "src", max_bytes_per_document=(64 << 20) - 1)
    assert documents(dropped) == {b"x"}
    assert dropped.manifest["drops"] == {"over --max-bytes-per-document": {"documents": 1, "bytes": 64 << 20}}
    (tmp_path / "tiny.jsonl").write_text("".join(f'{{"text": "{number % 4096:x}"}}\n' for number in range(30_000)))
    tiny = make(tmp_path / "tiny", tmp_path / "tiny.jsonl")
    assert documents(tiny) == {f"{number:x}".encode() for number in range(4096)}
    assert drops(tiny) == {"exact duplicate": 30_000 - 4096}


WRONG = {
    "packed.jsonl": gzip.compress(b'{"text": "x"}\n' * 100),
    "utf16.jsonl": "".join(f'{{"text": "line {number}"}}\n' for number in range(50)).encode("utf-16"),
    "table.jsonl": b"id,text\n1,hello\n2,there\n",
    "picture.parquet": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "lines.tar": b'{"text": "x"}\n' * 100,
}


@pytest.mark.parametrize("name", WRONG)
def test_d07_what_is_not_what_its_name_says_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(WRONG[name])
    with pytest.raises(RequestError, match=name.replace(".", r"\.")) as caught:
        make(tmp_path / "out", tmp_path / name, max_bad_share=0.01)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_d07_devices_and_folders_with_a_containers_name(tmp_path):
    with pytest.raises(RequestError, match="/dev/zero is neither a folder nor a regular file"):
        make(tmp_path / "out", "/dev/zero")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(RequestError, match="no file to read"):
        make(tmp_path / "out", tmp_path / "folder.jsonl")


TEXT = b"".join(b'{"text": "document %d"}\n' % number for number in range(300))
CHECKED = zstandard.ZstdCompressor(write_checksum=True)


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_d08_a_stream_cut_anywhere_or_with_something_behind_it_is_noticed_and_all_frames_are_read(tmp_path, suffix):
    pack = gzip.compress if suffix == "gz" else CHECKED.compress
    whole = pack(TEXT)
    file = tmp_path / f"d.jsonl.{suffix}"
    damaged = {f"cut at {size}": whole[:size] for size in (1, 4, len(whole) // 2, len(whole) - 9, len(whole) - 1)}
    damaged |= {"garbage": whole + b"garbage", "one byte more": whole + b"x", "half a frame more": whole + whole[: len(whole) // 2]}
    middle = len(whole) // 2
    damaged |= {f"bit {bit}": whole[:middle] + bytes([whole[middle] ^ 1 << bit]) + whole[middle + 1 :] for bit in range(8)}
    damaged |= {"sum": whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:] if suffix == "gz" else whole[:-1] + bytes([whole[-1] ^ 1])}
    for what, data in damaged.items():
        file.write_bytes(data)
        with pytest.raises(RequestError, match=r"truncated|damaged|window over"):
            make(tmp_path / "out", file)
        assert not (tmp_path / "out").exists(), what
    file.write_bytes(pack(TEXT) + pack(b'{"text": "second frame"}\n') + pack(b""))
    corpus = make(tmp_path / "out", file)
    assert corpus.num_documents == 301
    assert b"second frame" in documents(corpus)


def frame(descriptor: int, *header: bytes) -> bytes:
    """A zstd frame by hand: header, then one last raw block that holds a line."""
    line = b'{"text": "x"}\n'
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + b"".join(header) + (1 | len(line) << 3).to_bytes(3, "little") + line


LYING = {
    "declares 1 GiB": frame(0xE0, (1 << 30).to_bytes(8, "little")),
    "declares 2^40": frame(0xE0, (1 << 40).to_bytes(8, "little")),
    "declares 2^63": frame(0xE0, (1 << 63).to_bytes(8, "little")),
    "window 2^41": frame(0x00, bytes([31 << 3])),
    "declares 2^40 beside a small window": frame(0xC0, bytes([0]), (1 << 40).to_bytes(8, "little")),
}


@pytest.mark.parametrize("what", LYING)
def test_d09_a_frame_that_lies_about_its_size_is_refused_before_memory_is_taken(tmp_path, what):
    (tmp_path / "d.jsonl.zst").write_bytes(LYING[what])
    with pytest.raises(RequestError, match=r"d\.jsonl\.zst (is truncated|is damaged|was packed with a window over)"):
        make(tmp_path / "out", tmp_path / "d.jsonl.zst")
    (tmp_path / "d.jsonl.zst").write_bytes(frame(0x00, bytes([21 << 3])))  # a window of 2^31 is what --long=31 writes
    assert documents(make(tmp_path / "out", tmp_path / "d.jsonl.zst")) == {b"x"}


def test_d09_a_gzip_bomb_is_read_in_passing(tmp_path):
    with gzip.open(tmp_path / "d.jsonl.gz", "wb", compresslevel=9) as file:
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'\n{"text": "one"}\n')
    assert (tmp_path / "d.jsonl.gz").stat().st_size < 200_000
    corpus = make(tmp_path / "out", tmp_path / "d.jsonl.gz", max_bytes_per_document=1000)
    assert documents(corpus) == {b"one"}
    assert corpus.manifest["drops"] == {"over --max-bytes-per-document": {"documents": 1, "bytes": 100_000_001}}


def test_d10_a_link_then_a_file_through_it_and_two_files_of_one_name(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        link = tarfile.TarInfo("p/link")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
        for name, data in (("p/link/evil.py", b"1"), ("p/a.py", b"2"), ("p/a.py", b"3"), ("p/../../evil.py", b"4")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (tmp_path / "d.tar").write_bytes(packed.getvalue())
    corpus = make(tmp_path / "out", tmp_path / "d.tar")
    assert documents(corpus) == {b"1", b"2", b"3"}
    assert drops(corpus) == {"tar link or device": 1, "tar unsafe name": 1}
    assert list(outside.iterdir()) == []
    assert not list(tmp_path.rglob("evil.py"))


LICENCE = b"# Copyright 2020 Someone\n# Permission is hereby granted, free of charge, to any person obtaining a copy of this software.\n\n"


def test_d16_planted_copies_by_kind(tmp_path):
    """All exact copies, copies with other white space and those under a licence header go; no distinct module of the library does."""
    library = sorted(Path(json.__file__).parent.parent.glob("*.py"))
    texts = [data for file in library if 3000 < len(data := file.read_bytes()) < 30_000][:60]
    kinds = {
        "exact": lambda data: data,
        "newline": lambda data: data + b"\n",
        "tabs": lambda data: data.replace(b"    ", b"\t"),
        "crlf": lambda data: data.replace(b"\n", b"\r\n"),
        "licence": lambda data: LICENCE + data,
    }
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for number, data in enumerate(texts):
        (tmp_path / "a" / f"{number}.py").write_bytes(data)
        for kind, change in kinds.items():
            (tmp_path / "b" / f"{number}.{kind}.py").write_bytes(change(data))
    alone = make(tmp_path / "alone", tmp_path / "a", near_duplicates=0.8)
    assert alone.num_documents == len(texts)
    both = make(tmp_path / "both", tmp_path / "a", tmp_path / "b", near_duplicates=0.8)
    left = [path for path, where in zip(both.column("path"), both.column("source"), strict=True) if where == "b"]
    assert not [path for path in left if ".licence" not in path]
    assert len(left) <= 0.05 * len(texts)
    assert both.column("source").count("a") == len(texts)


def test_d18_unrelated_code_that_shares_names_with_a_problem_stays(tmp_path):
    prompt = (
        "def sort_numbers(numbers: str) -> str:\n    '''A space-delimited string of numerals from zero to nine is given. Sort them.'''\n"
    )
    solution = (
        "    values = {'zero': 0, 'one': 1, 'two': 2, 'three': 3}\n"
        "    return ' '.join(sorted(numbers.split(' '), key=lambda x: values[x]))\n"
    )
    test = "def check(candidate):\n    assert candidate('three one two') == 'one two three'\n    assert candidate('') == ''\n"
    problem = {"task_id": "sort/1", "prompt": prompt, "canonical_solution": solution, "test": test}
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem))
    unrelated = (
        "def sort_numbers(array):\n    for last in range(len(array), 0, -1):\n        for i in range(last - 1):\n"
        "            if array[i] > array[i + 1]:\n                array[i], array[i + 1] = array[i + 1], array[i]\n    return array\n"
    )
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "mine.py").write_text(unrelated)
    (tmp_path / "src" / "theirs.py").write_text("# my solutions\n" + prompt + solution)
    settings = PrepareSettings(near_duplicates=None)
    manifest, _ = prepare([str(tmp_path / "src")], tmp_path / "out", settings, against=[tmp_path / "problems.jsonl"])
    assert documents(Corpus.open(tmp_path / "out")) == {unrelated.encode()}
    assert manifest["matched_problems"] == {"problems.jsonl:sort/1": 1}


def test_d19_one_document_of_one_byte_is_a_corpus_and_none_is_refused(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "x"}\n')
    corpus = make(tmp_path / "out", tmp_path / "d.jsonl")
    assert documents(corpus) == {b"x"}
    assert corpus.splits == {"train": range(0, 1), "valid": range(1, 1), "test": range(1, 1)}
    (tmp_path / "none.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(RequestError, match=r"no document is left \(1 under --min-bytes\)"):
        make(tmp_path / "none", tmp_path / "none.jsonl", min_bytes=1)
