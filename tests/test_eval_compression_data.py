"""Data sets of the compression table: what NAME=PATH reads, and what is refused."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from eval.compression_data import DataSet, open_data
from proxy_lm.data.corpus import build_small
from proxy_lm.data.demo import KINDS, make_demo
from proxy_lm.errors import RequestError


def opened(word: str, *, split: str = "test", limit: int | None = None, multiple: int = 4) -> list[DataSet]:
    return open_data(word, split=split, limit_bytes=limit, multiple=multiple)


def test_documents_of_a_split_one_behind_another(tmp_path):
    corpus = build_small(tmp_path / "corpus", {"train": [b"train"], "valid": [b"valid"], "test": [b"abc", b"defghi"]})
    (found,) = opened(f"code={corpus.path}")
    assert (found.data, found.kind, found.split, found.corpus_digest) == (b"abcdefgh", "code", "test", corpus.digest)
    assert opened(f"code={corpus.path}", limit=7)[0].data == b"abcd"
    assert opened(f"code={corpus.path}", split="valid")[0].data == b"vali"
    with pytest.raises(RequestError, match="no whole chunk of 16"):
        opened(f"code={corpus.path}", multiple=16)
    with pytest.raises(RequestError, match="the corpus has train, valid, test"):
        opened(f"code={corpus.path}", split="exam")


def test_a_demo_folder_is_a_set_a_kind(tmp_path):
    folder = tmp_path / "demo"
    make_demo(folder, num_bytes=4096, seed=3)
    sets = opened(f"d={folder}", multiple=2048)
    assert [(one.name, one.kind, len(one.data)) for one in sets] == [(f"d/{kind}", kind, 4096) for kind in KINDS]
    assert all(one.data == (folder / f"{one.kind}.bin").read_bytes() for one in sets)
    assert "not held out" in next(one for one in sets if one.kind == "code").source
    (images,) = opened(f"patches=images:{folder}", limit=3000, multiple=2048)
    assert (images.name, images.kind, len(images.data)) == ("patches", "images", 2048)
    (folder / "audio.bin").write_bytes(b"other")
    with pytest.raises(RequestError, match=r"audio\.bin has the digest"):
        opened(f"d={folder}", multiple=2048)


def test_files_and_folders(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_bytes(b"2222")
    (tmp_path / "b" / "1.txt").write_bytes(b"111")
    assert [(one.data, one.kind) for one in opened(f"x={tmp_path / 'b'}")] == [(b"1112", "text")]
    assert opened(f"x=audio:{tmp_path / 'b' / '2.txt'}")[0].kind == "audio"
    assert opened(f"x={tmp_path / 'b' / '2.txt'}")[0].data == b"2222"
    (tmp_path / "none").mkdir()
    with pytest.raises(RequestError, match="has no files"):
        opened(f"x={tmp_path / 'none'}")


def test_recordings_of_a_folder_are_clips_and_mixed_folders_are_asked_about(tmp_path):
    record(tmp_path / "talk.wav", 5000)
    (tmp_path / "words.txt").write_text("what was said")
    (voices,) = opened(f"v={tmp_path}", multiple=2048)
    assert (voices.kind, len(voices.data), set(voices.data)) == ("audio", 4096, {128})
    (tmp_path / "face.png").write_bytes(b"")
    with pytest.raises(RequestError, match="say which, as in v=images"):
        opened(f"v={tmp_path}", multiple=2048)


def test_an_image_smaller_than_a_patch_gives_nothing(tmp_path):
    pytest.importorskip("PIL.Image").new("L", (63, 32)).save(tmp_path / "small.png")
    with pytest.raises(RequestError, match=r"0 bytes \(of an image, whole patches of 32 x 64, height x width, are taken\) are no whole"):
        opened(f"i={tmp_path}", multiple=2048)


def record(path: Path, num_samples: int) -> None:
    """Silence at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(num_samples, np.int16).tobytes())
