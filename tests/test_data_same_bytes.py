"""What was built from data is the same bytes after kills and in other surroundings, and any byte of it that changed is named before use.

The classes D2, D11, D13 and D15 of test_data_battery.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import compressors
from compressors.files import sha256_file
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.encoding import encode_corpus
from proxy_lm.data.prepare import PrepareSettings, prepare
from proxy_lm.data.views import View
from proxy_lm.errors import RequestError

ROOT = Path(__file__).parent.parent
TEXT = b"".join(b'{"text": "document %d"}\n' % number for number in range(300))


def make(out: Path, *sources: object, **settings: Any) -> Corpus:
    options = {"near_duplicates": None, "min_bytes": 0, "binary": "keep", "max_bad_share": 1.0} | settings
    prepare([str(source) for source in sources], out, PrepareSettings(**options))
    return Corpus.open(out)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in folder.iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus and a view of it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "d.jsonl").write_bytes(TEXT)
    corpus = make(folder / "corpus", folder / "d.jsonl")
    compressors.save(compressors.train("gzip", []), folder / "view")
    encode_corpus(corpus, folder / "view", folder / "view")
    return folder / "corpus", folder / "view"


def test_d2_d11_any_changed_missing_or_added_byte_is_named_before_use(made):
    """300 places over all files that are read in training; a change inside a manifest may fall on a number that is not checked."""
    corpus_folder, view_folder = made
    corpus = Corpus.open(corpus_folder)
    files = [corpus_folder / name for name in ("raw.bin", "raw.idx", "documents.parquet")]
    files += [view_folder / name for name in ("symbols.bin", "symbols.idx")]
    chance = random.Random(2)
    for number in range(300):
        file = files[number % len(files)]
        whole = file.read_bytes()
        place = chance.randrange(len(whole))
        changed = [
            whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :],
            whole[:place] + whole[place + 1 :],
            whole[:place] + bytes([chance.randrange(256)]) + whole[place:],
        ][number % 3]
        file.write_bytes(changed)
        try:
            with pytest.raises(RequestError, match=file.name.replace(".", r"\.")):
                (Corpus.open(corpus_folder), View.open(view_folder, corpus))
        finally:
            file.write_bytes(whole)
    one, other = files[0].read_bytes(), files[3].read_bytes()
    files[0].write_bytes(other)
    with pytest.raises(RequestError, match=r"raw\.bin"):
        Corpus.open(corpus_folder)
    files[0].write_bytes(one)
    files[3].unlink()
    with pytest.raises(RequestError, match=r"symbols\.bin is missing"):
        View.open(view_folder, corpus)
    files[3].write_bytes(other)
    assert View.open(view_folder, Corpus.open(corpus_folder)).num_documents == 300


BUILD = """
import sys
from pathlib import Path
from proxy_lm.data import encoding
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.prepare import PrepareSettings, prepare

if __name__ == "__main__":
    source, out = sys.argv[1:]
    prepare([source], Path(out, "corpus"), PrepareSettings(), num_workers=int(sys.argv[0].endswith("2.py")) + 1)
    encoding.BLOCK_BYTES = 1 << 16
    encoding.encode_corpus(Corpus.open(Path(out, "corpus")), Path(out, "artifact"), Path(out, "view"), num_workers=2)
"""


def build(folder: Path, source: Path, name: str = "build.py") -> list[str]:
    folder.mkdir(exist_ok=True)
    compressors.save(compressors.train("gzip", []), folder / "artifact")
    (folder.parent / name).write_text(BUILD)
    return [sys.executable, str(folder.parent / name), str(source), str(folder)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "src"
    folder.mkdir()
    chance = random.Random(3)
    for part in range(20):
        words = [" ".join(f"w{chance.randrange(5000)}" for _ in range(500)) for _ in range(70)]
        (folder / f"{part:02d}.jsonl").write_text("".join(json.dumps({"text": text, "repo": f"p{len(text) % 9}"}) + "\n" for text in words))
    return folder


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, str]]:
    """Digests of corpus and symbols by an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    subprocess.run(build(folder, source), check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return digests(folder / "corpus"), symbols_of(folder)


def symbols_of(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in digests(folder / "view").items() if name.endswith((".bin", ".idx"))}


def test_d13_killed_six_times_at_random_the_build_ends_in_the_same_bytes(source, whole, tmp_path):
    chance = random.Random(5)
    command = build(tmp_path / "out", source)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    marks = [("corpus.partial/**/*", count) for count in sorted(chance.sample(range(2, 40), 4))]
    marks += [("view/encode.parts/*.part", count) for count in (1, 20)]
    for pattern, count in marks:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and len(list((tmp_path / "out").glob(pattern))) < count:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert (digests(tmp_path / "out" / "corpus"), symbols_of(tmp_path / "out")) == whole


def test_d15_time_zone_hash_seed_mask_and_number_of_processes_change_nothing(source, whole, tmp_path):
    command = build(tmp_path / "out", source, "build2.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TZ": "Asia/Kathmandu", "LANG": "C", "LC_ALL": "C", "PYTHONHASHSEED": "random"}
    done = subprocess.run(["sh", "-c", 'umask 077; exec "$@"', "sh", *command], env=environment, cwd="/", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (digests(tmp_path / "out" / "corpus"), symbols_of(tmp_path / "out")) == whole
