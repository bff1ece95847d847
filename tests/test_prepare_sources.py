"""Every kind of SRC gives the same documents, byte for byte, and everything left out is counted."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from proxy_lm.data.corpus import Corpus
from proxy_lm.data.folders import list_files
from proxy_lm.data.languages import LANGUAGES, check_languages, language_of_name, language_of_path
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.errors import RequestError

ODD = {
    "latin1.py": b"# caf\xe9\n",
    "crlf.py": b"a = 1\r\nb = 2\r\n",
    "bom.py": b"\xef\xbb\xbfprint()\n",
    "cut.py": b"no final newline",
    "utf16ish.txt": b"\xff\xfeodd but without the zero byte",
    "empty.py": b"",
    "u2581.md": "▁<|endoftext|>▁".encode(),
}


def make(out: Path, *sources: object, **settings: Any) -> Corpus:
    options = {"near_duplicates": None, "min_bytes": 0} | settings
    prepare([str(source) for source in sources], out, PrepareSettings(**options))
    return Corpus.open(out)


def contents(corpus: Corpus) -> dict[str, bytes]:
    return {path: corpus.document(index) for index, path in enumerate(corpus.column("path"))}


def drops(corpus: Corpus) -> dict[str, int]:
    return {reason: count["documents"] for reason, count in corpus.manifest["drops"].items()}


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pack(name: str, data: bytes) -> bytes:
    if name.endswith("gz"):
        return gzip.compress(data[:50]) + gzip.compress(data[50:])  # several members are one stream
    if name.endswith("zst"):
        compress = zstandard.ZstdCompressor().compress
        return compress(data[:50]) + compress(b"") + compress(data[50:])
    return data


def test_bytes_are_kept_as_found(tmp_path: Path) -> None:
    corpus = make(tmp_path / "out", write_tree(tmp_path / "src", ODD))
    assert contents(corpus) == ODD
    assert drops(corpus) == {}
    assert corpus.manifest["num_records"] == len(ODD) == corpus.num_documents
    # The whole range is covered and every row fits its bytes.
    assert corpus.column("size_bytes") == corpus.sizes.tolist()
    assert dict(zip(corpus.column("path"), corpus.column("language"), strict=True))["u2581.md"] == "markdown"


def test_gitignore_nested_and_negated(tmp_path: Path) -> None:
    files = {
        ".gitignore": b"*.log\nbuild/\n/top.txt\n",
        "top.txt": b"1",
        "keep/top.txt": b"2",
        "keep/.gitignore": b"!wanted.log\n*.tmp\n",
        "keep/wanted.log": b"3",
        "keep/other.log": b"4",
        "keep/x.tmp": b"5",
        "x.tmp": b"6",
        "build/wanted.py": b"7",
        "keep/deep/a.tmp": b"8",
        ".git/config": b"9",
        "keep/.git": b"gitdir: elsewhere",
    }
    root = write_tree(tmp_path / "src", files)
    os.symlink(root / "x.tmp", root / "link.py")
    os.symlink(root, root / "loop")
    os.mkfifo(root / "pipe")
    listing = list_files(root)
    assert [file.path for file in listing.files] == [".gitignore", "keep/.gitignore", "keep/top.txt", "keep/wanted.log", "x.tmp"]
    assert listing.skipped == {"ignored by .gitignore": 5, "symbolic link": 2, "special file": 1}


def test_projects_are_top_folders_unless_it_is_one_repository(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "src", {"a/x.py": b"1", "a/y/z.py": b"2", "b/x.py": b"3", "top.py": b"4"})
    corpus = make(tmp_path / "1", root)
    assert dict(zip(corpus.column("path"), corpus.column("project"), strict=True)) == {
        "a/x.py": "a",
        "a/y/z.py": "a",
        "b/x.py": "b",
        "top.py": "src",
    }
    (root / ".git").mkdir()
    assert set(make(tmp_path / "2", root).column("project")) == {"src"}


def test_filters_count_each_reason(tmp_path: Path) -> None:
    files = {
        "a.py": b"x" * 10,
        "b.py": b"x",
        "c.py": b"y" * 99,
        "d.py": b"a\0bcdef",
        "e.rs": b"fn main",
        "f.py": b"z" * 10,
        "g/vendor/h.py": b"v" * 9,
    }
    root = write_tree(tmp_path / "src", files)
    corpus = make(tmp_path / "out", root, min_bytes=2, max_bytes_per_document=50, languages=["Python"], exclude=["vendor/"])
    assert sorted(contents(corpus)) == ["a.py", "f.py"]
    assert drops(corpus) == {
        "under --min-bytes": 1,
        "over --max-bytes-per-document": 1,
        "binary (NUL byte)": 1,
        "other language": 1,
        "excluded by pattern": 1,
    }
    assert corpus.manifest["drops"]["over --max-bytes-per-document"]["bytes"] == 99
    assert sum(drops(corpus).values()) + corpus.num_documents == corpus.manifest["num_records"]
    kept = make(tmp_path / "all", root, binary="keep", include=["d.py"])
    assert contents(kept) == {"d.py": b"a\0bcdef"}


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.jsonl.zst", "d.json.gz", "d.ndjson"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    records = [
        {"content": "é\r\n\x00", "repo_name": "r/one", "path": "a.py"},
        {"content": "", "repo_name": "r/two", "lang": "C++"},
        {"content": "tail ▁", "repo_name": "r/two", "path": "x.rs"},
    ]
    lines = "\n\n".join(json.dumps(record, ensure_ascii=number == 0) for number, record in enumerate(records))
    (tmp_path / name).write_bytes(pack(name, lines.encode()))
    corpus = make(tmp_path / "out", tmp_path / name, binary="keep")
    assert contents(corpus) == {"a.py": "é\r\n\0".encode(), f"{name}:3": b"", "x.rs": "tail ▁".encode()}
    rows = dict(zip(corpus.column("path"), zip(corpus.column("project"), corpus.column("language"), strict=True), strict=True))
    assert rows == {"a.py": ("r/one", "python"), f"{name}:3": ("r/two", "cpp"), "x.rs": ("r/two", "rust")}
    assert set(corpus.column("source")) == {name}


def test_a_first_record_without_text_is_one_record_without_text(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [{"text": None, "repo": "r"}, *({"text": f"x = {number}"} for number in range(200))]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, records)))
    corpus = make(tmp_path / "out", tmp_path / "d.jsonl", near_duplicates=None, max_bad_share=0.1)
    assert corpus.num_documents == 200
    assert drops(corpus) == {"record without text": 1}


def test_json_base64_fields_and_lone_surrogates(tmp_path: Path) -> None:
    every = bytes(range(256))
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps({"raw": base64.b64encode(every).decode(), "home": "p"}) + "\n")
    corpus = make(tmp_path / "1", file, bytes_field="raw", project_field="home", binary="keep")
    assert contents(corpus) == {"d.jsonl:1": every}
    assert corpus.column("project") == ["p"]
    file.write_text('{"text": "\\ud800 alone"}\n{"text": "\\ud83d\\ude00 pair"}\n')
    corpus = make(tmp_path / "2", file)
    assert contents(corpus) == {"d.jsonl:2": "😀 pair".encode()}
    assert drops(corpus) == {"text with a lone surrogate": 1}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_parquet_gives_stored_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    raw = pa.array([b"caf\xe9", b"\xef\xbb\xbfx\r\n", None, b""] + [b"row %d" % number for number in range(200)], pa.large_binary())
    column = raw.cast(pa.binary()) if kind != pa.large_string() else raw
    if kind != pa.binary():  # a writer that never checked its UTF-8
        column = pa.Array.from_buffers(kind, len(column), column.buffers(), null_count=1)
    table = pa.table({"n": pa.array(range(204)), "content": column, "repo_name": [f"p{number % 7}" for number in range(204)]})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=50)
    corpus = make(tmp_path / "out", tmp_path / "d.parquet")
    assert contents(corpus) == {f"d.parquet:{number + 1}": value for number, value in enumerate(raw.to_pylist()) if value is not None}
    assert drops(corpus) == {"record without text": 1}
    assert set(corpus.column("project")) == {f"p{number}" for number in range(7)}


@pytest.mark.parametrize("name", ["d.tar", "d.tar.gz", "d.tar.zst"])
def test_tar_members_never_touch_the_disk(tmp_path: Path, name: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, data in [("p/a.py", b"caf\xe9\r\n"), ("./q/b.py", b"2"), ("top.py", b"3"), ("../../escape.py", b"4"), ("/abs.py", b"5")]:
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for path, kind in [("p/link", tarfile.SYMTYPE), ("p/hard", tarfile.LNKTYPE), ("dev", tarfile.CHRTYPE), ("folder", tarfile.DIRTYPE)]:
            member = tarfile.TarInfo(path)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(pack(name, packed.getvalue()))
    corpus = make(tmp_path / "out", tmp_path / "in" / name)
    assert contents(corpus) == {"p/a.py": b"caf\xe9\r\n", "q/b.py": b"2", "top.py": b"3"}
    by_path = dict(zip(corpus.column("path"), corpus.column("project"), strict=True))
    assert by_path["p/a.py"] == "p"
    assert by_path["q/b.py"] == "q"
    assert by_path["top.py"] == corpus.column("id")[corpus.column("path").index("top.py")]
    assert drops(corpus) == {"tar link or device": 3, "tar unsafe name": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_every_chunk_of_a_folder_of_chunks_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    """A4: with more chunk files than ranks the surplus was dropped without a word, in whatever order glob gave."""
    names = ["b.chunk.10.jsonl", "b.chunk.02.jsonl", "b.chunk.00.jsonl", "b.chunk.01.jsonl", "a.jsonl.zst"]
    (tmp_path / "src").mkdir()
    for name in names:  # each also holds a copy of one text: the first file by name must win it
        lines = [json.dumps({"text": f"only in {name}"}), json.dumps({"text": "everywhere"})]
        (tmp_path / "src" / name).write_bytes(pack(name, "\n".join(lines).encode()))
    corpus = make(tmp_path / "out", tmp_path / "src")
    assert {f"only in {name}".encode() for name in names} | {b"everywhere"} == set(contents(corpus).values())
    assert contents(corpus)["a.jsonl.zst:2"] == b"everywhere"
    assert drops(corpus) == {"exact duplicate": 4}


def test_containers_beside_code_are_documents(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "src", {"a.py": b"1", "data.jsonl": b'{"not": "ours"}\n'})
    assert contents(make(tmp_path / "out", root)) == {"a.py": b"1", "data.jsonl": b'{"not": "ours"}\n'}


def test_hub_data_sets_from_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for part in range(2):
        rows = [{"content": f"é {part} {number}", "repo_name": f"r{number}"} for number in range(3)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / f"train-{part:05d}-of-00002.parquet")
    corpus = make(tmp_path / "out", f"hf:{tmp_path / 'set'}")
    assert sorted(contents(corpus).values()) == sorted(f"é {part} {number}".encode() for part in range(2) for number in range(3))
    assert set(corpus.column("source")) == {"hf:set"}
    assert set(corpus.column("project")) == {"r0", "r1", "r2"}


def test_the_installed_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy_lm.data import installed

    roots = {root.name: root for root in installed.installed_roots()}
    standard = {file.path: file for file in roots["stdlib"].listing.files}
    assert Path(json.__file__).resolve() == roots["stdlib"].folder / "json/__init__.py"
    assert {"json/__init__.py", "os.py"} <= set(standard)
    assert not any("site-packages" in path or not path.endswith(".py") for path in standard)
    assert installed.installed_project("stdlib", standard["json/__init__.py"]) == "stdlib/json"
    assert installed.installed_project("stdlib", standard["os.py"]) == "stdlib/os"
    packages = {file.path: file for file in roots["site-packages"].listing.files}
    assert installed.installed_project("site-packages", packages["pytest/__init__.py"]) == "pytest"
    # Neither the digest nor the list of packages may depend on where a package installed for editing lies.
    assert not any(path.startswith("__editable__") for path in packages)
    named = installed.installed_packages()
    assert named["pytest"] == pytest.__version__
    assert named["python"] == sys.version.split()[0]
    # A prefix that is no Python at all has nothing to read, and says so.
    monkeypatch.setattr(installed.sysconfig, "get_path", lambda *args, **kwargs: str(tmp_path / "nothing"))
    with pytest.raises(RequestError, match=r"no \.py sources"):
        installed.installed_roots()


def test_a_package_installed_for_editing_is_no_part_of_the_installed_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy_lm.data import installed

    write_tree(tmp_path, {"sound.py": b"a = 1", "__editable___mine_1_0_finder.py": b"MAPPING = {}", "_editable_impl_other.py": b"b = 2"})
    write_tree(tmp_path, {"sound-2.1.dist-info/METADATA": b"Name: sound\nVersion: 2.1\n", "sound-2.1.dist-info/RECORD": b"sound.py,,\n"})
    write_tree(tmp_path, {"mine-1.0.dist-info/METADATA": b"Name: mine\nVersion: 1.0\n"})
    write_tree(tmp_path, {"mine-1.0.dist-info/RECORD": b"__editable___mine_1_0_finder.py,,\n__editable__.mine-1.0.pth,,\n"})
    monkeypatch.setattr(installed.sysconfig, "get_path", lambda *args, **kwargs: str(tmp_path))
    (root,) = installed.installed_roots()
    assert [file.path for file in root.listing.files] == ["sound.py"]
    assert installed.installed_packages() == {"python": sys.version.split()[0], "sound": "2.1"}


def test_sources_with_one_name_keep_apart_and_digests_ignore_where_they_lie(tmp_path: Path) -> None:
    for place in ("1", "2"):
        write_tree(tmp_path / place / "src", {"a.py": place.encode(), "b.py": b"both"})
        write_tree(tmp_path / place / "moved" / "src", {"a.py": place.encode(), "b.py": b"both"})
    corpus = make(tmp_path / "out", tmp_path / "1" / "src", tmp_path / "2" / "src")
    assert set(corpus.column("source")) == {"src", "src#2"}
    assert corpus.column("source")[corpus.column("path").index("b.py")] == "src"
    assert make(tmp_path / "o1", tmp_path / "1" / "src").digest == make(tmp_path / "o2", tmp_path / "1" / "moved" / "src").digest


def test_file_names_that_are_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (Path(os.fsdecode(os.fsencode(tmp_path / "src") + b"/n\xff.py"))).write_bytes(b"x")
    assert contents(make(tmp_path / "out", tmp_path / "src")) == {"n\\xff.py": b"x"}


def test_languages_by_suffix() -> None:
    paths = {"a/b.PY": "python", "x.c++": "cpp", "Makefile": "make", "y": "other", ".bashrc": "other", "z.unknown": "other", "q.h": "c"}
    assert {path: language_of_path(path) for path in paths} == paths
    assert [language_of_name(name) for name in ("C++", "Python", "Brainfuck", "")] == ["cpp", "python", "brainfuck", "other"]
    assert check_languages(["rust", "js", "rust"]) == ("javascript", "rust")
    assert len(set(LANGUAGES)) == len(LANGUAGES)
    with pytest.raises(RequestError, match="unknown language 'pyhton'"):
        check_languages(["pyhton"])
