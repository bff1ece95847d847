"""`--cut-bytes`: stretches of whole lines that are the document again, in its split; without it, the corpus as it always was."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressors.files import sha256_bytes
from eval.line_items import of_files
from proxy_lm.cli import main
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.mixing import MixSettings
from proxy_lm.data.plan import KnownLengths, Plan
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.data.whole_lines import MIN_CUT_BYTES, stretches
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import Vocabulary

ROOT = Path(__file__).parent.parent
ODD = {
    "p0/crlf.py": b"one\r\ntwo\r\n" * 9,
    "p1/invalid.py": b"\xff\xfe\x80 no text\n" * 5 + b"\xc3",
    "p2/long.py": b"a\n" + b"x" * 100 + b"\nb\n",
    "p3/exact.py": b"0123456789abcde\n" * 4,
    "p4/no_end.py": "größer als äöü\nund weiter".encode() * 3,
    "p5/short.py": b"x = 1\n",
    "p6/blank.py": b"\n" * 50,
}


def make(out: Path, *sources: object, num_workers: int = 1, force: bool = False, **options: Any) -> Corpus:
    settings = PrepareSettings(**({"near_duplicates": None} | options))
    prepare([str(source) for source in sources], out, settings, num_workers=num_workers, force=force)
    return Corpus.open(out)


def write(folder: Path, documents: dict[str, bytes]) -> Path:
    for name, data in documents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def lined(num_files: int) -> dict[str, bytes]:
    """About 40 KB a file, in lines of 1 to 90 bytes."""
    chance = random.Random(3)
    return {
        f"p{n % 9}/f{n}.py": b"".join(chance.randbytes(45).hex().encode()[: chance.randrange(90)] + b"\n" for _ in range(900))
        for n in range(num_files)
    }


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def whole(corpus: Corpus) -> list[tuple[tuple[str, ...], list[bytes]]]:
    """The documents as they were: (id, project, path, language, split), and the stretches, which stand together."""
    rows = zip(*(corpus.column(name) for name in ("id", "project", "path", "language", "split")), strict=True)
    stretched = zip(rows, map(corpus.document, range(corpus.num_documents)), strict=True)
    return [(row, [data for _, data in group]) for row, group in itertools.groupby(stretched, key=lambda pair: pair[0])]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", [b""]),
        (b"\n", [b"\n"]),
        (b"ab\ncd\n", [b"ab\ncd\n"]),  # exact fit
        (b"ab\ncde\n", [b"ab\n", b"cde\n"]),
        (b"ab\ncd\ne", [b"ab\ncd\n", b"e"]),
        (b"abcdef", [b"abcdef"]),
        (b"abcdef\n", [b"abcdef", b"\n"]),  # the newline belongs to a line of 7
        (b"a\nbcdefghi\nj\nkl\n", [b"a\n", b"bcdefg", b"hi\nj\n", b"kl\n"]),  # what is left of a long line is a line
        (b"abcdefghijkl", [b"abcdef", b"ghijkl"]),
        (b"ab\r\ncd\r\n", [b"ab\r\n", b"cd\r\n"]),
        (b"abcde\r\n", [b"abcde\r", b"\n"]),
        (b"\xff\xfe\x80\n\xc3\xa4\xc3\xa4", [b"\xff\xfe\x80\n", b"\xc3\xa4\xc3\xa4"]),
        (b"\xc3\xa4" * 3 + b"a", [b"\xc3\xa4" * 3, b"a"]),
    ],
)
def test_stretches_of_six_bytes(data: bytes, expected: list[bytes]) -> None:
    assert list(stretches(data, 6)) == expected


@given(st.lists(st.sampled_from([b"\n", b"\n", b"a", b"\r", b"\xff", b"long" * 5]), max_size=60).map(b"".join), st.integers(1, 30))
def test_stretches_are_the_document_again_and_none_could_take_another_line(data: bytes, max_bytes: int) -> None:
    found = list(stretches(data, max_bytes))
    assert b"".join(found) == data
    assert max(map(len, found)) <= max_bytes
    assert all(found) or found == [b""]
    for one, after in itertools.pairwise(found):
        line = after[: after.find(b"\n") + 1] or after
        assert one.endswith(b"\n") or len(one) == max_bytes
        assert len(one) + len(line) > max_bytes


@pytest.mark.parametrize("cut_bytes", [16, 17, 64, 1 << 20])
def test_every_document_comes_back_from_its_stretches_in_its_place(tmp_path: Path, cut_bytes: int) -> None:
    source = write(tmp_path / "src", ODD)
    uncut = make(tmp_path / "uncut", source)
    corpus = make(tmp_path / "cut", source, cut_bytes=cut_bytes)
    assert [(row, b"".join(parts)) for row, parts in whole(corpus)] == [(row, parts[0]) for row, parts in whole(uncut)]
    assert {row[2]: b"".join(parts) for row, parts in whole(corpus)} == ODD
    assert all(parts == list(stretches(b"".join(parts), cut_bytes)) for _, parts in whole(corpus))
    assert all(row[0] == sha256_bytes(b"".join(parts)) for row, parts in whole(corpus))
    assert corpus.sizes.max() <= cut_bytes
    for name in ("num_bytes", "split_bytes", "num_records", "num_read_bytes", "drops", "split_by"):
        assert corpus.manifest[name] == uncut.manifest[name], name
    assert corpus.manifest["num_whole_documents"] == uncut.num_documents == len(ODD)
    assert corpus.digest != uncut.digest
    assert corpus.num_documents == sum(len(list(stretches(data, cut_bytes))) for data in ODD.values())


def test_what_decides_about_documents_sees_them_whole(tmp_path: Path) -> None:
    """Sizes, copies, the total and single documents without a project: all as without cuts."""
    text = b"".join(b"value_%d = %d\n" % (n, n) for n in range(60))
    lines = [text, text, b"import os\n" * 40, b"import os\n" * 39, b"tiny", b"y" * 5000, b""]
    (tmp_path / "d.jsonl").write_bytes(b"".join(json.dumps({"text": line.decode()}).encode() + b"\n" for line in lines))
    options = {"min_bytes": 0, "max_bytes_per_document": 4000, "max_bytes": 1300}
    uncut, corpus = (make(tmp_path / str(cut), tmp_path / "d.jsonl", cut_bytes=cut, **options) for cut in (None, 32))
    assert set(corpus.manifest["drops"]) == {"exact duplicate", "over --max-bytes-per-document", "over --max-bytes"}
    assert corpus.manifest["drops"] == uncut.manifest["drops"]
    assert [(row, b"".join(parts)) for row, parts in whole(corpus)] == [(row, parts[0]) for row, parts in whole(uncut)]
    assert corpus.num_documents > uncut.num_documents


def test_files_trained_on_in_stretches_are_not_held_out(tmp_path: Path) -> None:
    source = write(tmp_path / "src", ODD)
    corpus = make(tmp_path / "cut", source, cut_bytes=16, valid_share=0, test_share=0.4)
    train = corpus.splits["train"]
    trained = set(corpus.column("path")[train.start : train.stop])
    documents, num_trained = of_files([str(source)], corpus)
    assert 0 < num_trained == len(trained) < len(ODD)
    assert {documents.read(i) for i in range(len(documents.projects))} == {data for path, data in ODD.items() if path not in trained}


def test_one_and_two_workers_give_the_same_files(tmp_path: Path) -> None:
    source = write(tmp_path / "src", lined(130))
    alone = make(tmp_path / "alone", source, cut_bytes=1000)
    assert alone.manifest["num_read_bytes"] > 4_000_000  # else one process reads it all
    make(tmp_path / "both", source, cut_bytes=1000, num_workers=2)
    assert digests(tmp_path / "alone") == digests(tmp_path / "both")


def test_both_tellings_of_a_pair_stand_in_one_packed_row(tmp_path: Path) -> None:
    """A view of one symbol a byte: 100 bytes, 100 symbols and 6 specials are a row."""
    source = write(tmp_path / "src", lined(3))
    share = {}
    for cut in (None, 100):
        corpus = make(tmp_path / f"cut-{cut}", source, cut_bytes=cut, valid_share=0, test_share=0)
        for packing in ("cut", "fit"):
            plan = Plan(
                sizes=corpus.sizes,
                documents=corpus.splits["train"],
                views=[KnownLengths("v0", corpus.sizes)],
                vocabulary=Vocabulary([("v0", 256)]),
                mix=MixSettings(pair=1.0),
                seed=0,
                row_length=206,
                lookahead=1,
                num_rows=1000,
                packing=packing,
            )
            share[cut, packing] = plan.summary()["pair_bytes_seen_share"]
    assert share[None, "cut"] == share[None, "fit"] == 0
    assert share[100, "cut"] == pytest.approx(0.61, abs=0.005)
    assert share[100, "fit"] == 1


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_files(tmp_path: Path) -> None:
    source = write(tmp_path / "src", lined(12))
    make(tmp_path / "alone", source, cut_bytes=500)
    words = ["prepare", str(source), "--out", str(tmp_path / "ray"), "--near-duplicates", "off", "--cut-bytes", "500"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": "/tmp"}  # pytest's own is too long for sockets
    engine = ["--engine", "ray", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "proxy_lm", *words, *engine], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "ray") == digests(tmp_path / "alone")


def test_without_the_setting_nothing_changes(tmp_path: Path) -> None:
    """The digest is of the last commit that did not know the setting."""
    source = write(tmp_path / "src", {f"p{n}/a.py": b"".join(b"x%d = %d\r\n" % (n, k * n) for k in range(40)) for n in range(6)})
    corpus = make(tmp_path / "out", source)
    assert corpus.digest == "cfc7a33f733a9a2711e8b0ea6f939651a52cbc2dcf0f08f5498e01bd4f6761e3"
    manifest = (tmp_path / "out" / "manifest.json").read_text()
    assert "cut_bytes" not in manifest
    assert "num_whole_documents" not in manifest


def test_a_corpus_cut_otherwise_is_refused_and_found_again(tmp_path: Path) -> None:
    source = write(tmp_path / "src", ODD)
    digest = make(tmp_path / "out", source, cut_bytes=64).digest
    for now in (32, None):
        with pytest.raises(RequestError, match=rf"made with other settings: cut_bytes 64 \(now {now}\)\. .*--force"):
            make(tmp_path / "out", source, cut_bytes=now)
    assert make(tmp_path / "out", source, cut_bytes=64).digest == digest
    make(tmp_path / "out", source, force=True)
    with pytest.raises(RequestError, match=r"cut_bytes None \(now 64\)"):
        make(tmp_path / "out", source, cut_bytes=64)


@pytest.mark.parametrize("value", ["0", "-5", str(MIN_CUT_BYTES - 1), "many", "64.5", ""])
def test_a_bad_value_is_one_sentence(tmp_path: Path, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "src", ODD)
    assert main(["prepare", str(tmp_path / "src"), "--out", str(tmp_path / "out"), f"--cut-bytes={value}"]) == 2
    heard = capsys.readouterr()
    assert f"--cut-bytes {value}: give a whole number of bytes, at least 16, or leave it out and documents stay whole" in heard.err
    assert "Traceback" not in heard.err
    assert heard.out == ""
    assert not (tmp_path / "out").exists()


def test_the_command_tells_documents_and_what_they_became(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "src", ODD)
    words = ["prepare", str(source), "--out", str(tmp_path / "out"), "--near-duplicates", "off", "--cut-bytes", "64"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    corpus = Corpus.open(tmp_path / "out")
    row = next(line for line in shown.splitlines() if "kept, now cut into at most 64 bytes each" in line)
    assert f" {len(ODD)} " in row
    assert any("corpus" in line and f" {corpus.num_documents} " in line for line in shown.splitlines())
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["made"], result["cut_bytes"], result["num_documents"]) == (False, 64, corpus.num_documents)
    assert sum(count["documents"] for count in result["drops"].values()) + result["num_whole_documents"] == result["num_records"]
