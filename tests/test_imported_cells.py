"""What `--import` says of cells that it cannot take over."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from eval import imported_cells


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"python": "3.11.7", "pip": "26.3", "wheel": "0.46"}, "pip: '26.3' -> '23.2.1', wheel: '0.46' -> None"),
        (None, "theirs does not tell which packages were installed"),
    ],
)
def test_cells_that_do_not_fit_are_told_by_reason_and_packages_once(tmp_path, monkeypatch, capsys, theirs, said):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "manifest.json").write_text(json.dumps({"installed": {"python": "3.11.7", "pip": "23.2.1"}}))
    place = SimpleNamespace(corpus=tmp_path / "corpus")
    reasons = {"bytes-s0": "corpus: 'a' -> 'b'", "bytes-s1": "corpus: 'a' -> 'b'", "tokens-s0": "views.spm: 'c' -> 'd'; corpus: 'a' -> 'b'"}
    monkeypatch.setattr(imported_cells, "import_cells", lambda *_: (["blanks-s0"], reasons))
    corpus = {"digest": "a"} | ({} if theirs is None else {"installed": theirs})
    other = SimpleNamespace(name="kept.json", results=SimpleNamespace(corpus=corpus))
    imported_cells.tell_import(other, SimpleNamespace(place=place, corpus_digest="b"), [None])  # type: ignore[arg-type, list-item]
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "imported from kept.json: blanks-s0",
        "not imported: bytes-s0 and 1 more: corpus: 'a' -> 'b'",
        "not imported: tokens-s0: views.spm: 'c' -> 'd'; corpus: 'a' -> 'b'",
    ]
    assert said in lines[3]
    assert len(lines) == 4

    # Cells that do not fit for another reason say nothing of packages.
    imported_cells.tell_import(other, SimpleNamespace(place=place, corpus_digest="a"), [None])  # type: ignore[arg-type, list-item]
    assert len(capsys.readouterr().err.splitlines()) == 3
