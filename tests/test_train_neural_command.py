"""`proxy-lm compressor train neural` makes a byte model and its view, goes on where it was killed, and refuses what cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from compressors import registry
from compressors.neural.models import load_model
from proxy_lm.cli import main
from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.errors import RequestError
from proxy_lm.neural_settings import LONG_CROPS, MIXED_CROPS, SHORT_CROPS, Request, transformer_request
from proxy_lm.view_training import train_view

TINY = [
    "model.preset=null",
    "model.width=16",
    "model.depth=1",
    "model.num_heads=2",
    "model.hidden=16",
    "rows_per_step=2",
    "rows_per_device=2",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    sources = sorted((pytestconfig.rootpath / "compressors").glob("*.py"))
    texts = [path.read_bytes()[:3000] for path in sources if path.stat().st_size > 1000]
    folder = tmp_path_factory.mktemp("neural") / "corpus"
    build_small(folder, {"train": texts[2:], "valid": texts[:2]})
    return folder


def words(corpus: Path, out: Path, *more: str) -> list[str]:
    return ["compressor", "train", "neural", "--corpus", str(corpus), "--out", str(out), *more, "--json"]


def request(corpus: Path, *settings: str, preset: str | None = None, view: str = "table", **options: object) -> Request:
    return transformer_request(Corpus.open(corpus), Path("run"), preset, view, options, settings, "train", "valid")


def test_counts_make_a_model_and_a_table_that_comes_back(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "view"
    assert main(words(corpus, out, "--option", "bits=11", "--set", "num_starts=20000")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "table"
    assert told["byte_model"]["kind"] == "counts"
    loss = told["byte_model"]["reset_loss"]["bits_per_byte"]
    assert len(loss) >= 32
    assert loss[0] > loss[8] > 0
    assert told["measured"]["byte_model"] == told["byte_model"]
    assert told["measured"]["training"]["cpu_seconds"] >= told["byte_model"]["training"]["cpu_seconds"]
    view = registry.load(out)
    assert view.decode(view.encode(b"def f():\n")) == b"def f():\n"
    row = load_model(out / "model").after(np.frombuffer(b"impor", np.uint8).reshape(1, -1))[0]
    assert row.argmax() == ord("t")
    # The same again changes nothing; another model does not slip in under the view.
    assert main(words(corpus, out, "--option", "bits=11", "--set", "num_starts=20000")) == 0
    seen = capsys.readouterr()
    assert "holds it already" in seen.err
    assert json.loads(seen.out)["fingerprint"] == told["fingerprint"]
    assert main(words(corpus, out, "--option", "bits=11", "--set", "num_starts=30000")) == 2
    assert "num_starts: 20000 -> 30000" in capsys.readouterr().err
    assert main(words(corpus, out, "--option", "bits=11", "--set", "num_starts=30000", "--force")) == 0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--preset", "3m"], "preset '3m' is the size of a transformer"),
        (["--view", "gzip"], "view 'gzip' is not made of a byte model; these are: segments, stream, table"),
        (["--view", "tabel"], "did you mean 'table'"),
        (["--option", "model=x"], "is decided by this command"),
        (["--option", "bits=99"], "bits=99"),
        (["--view", "stream", "--option", "bits=17"], "bits=17 of view 'stream' must be one of"),
        (["--view", "stream", "--option", "reset=often"], "reset='often'"),
        (["--view", "segments", "--option", "hard=first"], "add reset=window"),
        (["--option", "rule=best"], "rule='best'"),
        (["--option", "symbol_bits=8", "bits=15"], "choose bits=16"),
        (["--model", "transformer", "--view", "segments"], "needs --option reset=window"),
        (["--model", "transformer", "--view", "stream", "--option", "verify=false"], "leave verify=false out"),
        (["--set", "num_startz=5"], "did you mean 'num_starts'"),
        (["--set", "seed"], "'seed' is not a setting"),
        (["--split", "test"], "split 'test'"),
        (["--model", "transformer", "--set", "num_stepz=1"], "did you mean 'num_steps'"),
        (["--model", "transformer", "--set", "corpus=x"], "is decided by this command"),
        (["--model", "transformer", "--set", "crops=5"], "is a group of settings"),
        (["--model", "transformer", "--set", "crops.lengths=[2]"], "crops"),
        (["--model", "transformer", "--set", "crops.lengths=[5000]"], "crops of 5000 bytes are wanted"),
        (["--model", "transformer", "--set", "rows_per_step=9"], "rows_per_step=9 is not a multiple of rows_per_device=8"),
        (["--model", "transformer", "--set", "model.num_raw_heads=1"], "has one head"),
        (["--model", "transformer", "--set", "num_steps=2", "num_symbols=9"], "num_steps and num_symbols are given"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_nothing_is_made(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    assert main(words(corpus, tmp_path / "view", *more)) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told
    assert not (tmp_path / "view").exists()


def test_options_of_neural_are_refused_elsewhere(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compressor", "train", "gzip", "--corpus", str(corpus), "--out", str(tmp_path / "v"), "--model", "counts"]) == 2
    assert "--model is for `compressor train neural`" in capsys.readouterr().err


def test_settings_win_over_the_preset_and_crops_fit_the_view(corpus: Path) -> None:
    small = request(corpus)
    assert (small.run.num_steps, small.run.model.resolved().width, small.lengths) == (3000, 128, SHORT_CROPS)
    assert small.context_bytes == 60
    # 3,000 steps of 8 rows of 512 ids; a crop of 36 bytes on average is told in 40 ids.
    assert small.num_crop_bytes == 3000 * 8 * 512 * 36 // 40 + 1
    assert request(corpus, view="stream", reset="never").lengths == LONG_CROPS
    assert request(corpus, view="stream", reset="always").lengths == SHORT_CROPS
    assert request(corpus, view="segments").lengths == MIXED_CROPS
    large = request(corpus, "num_symbols=100000", "crops.lengths=[33]", "launch.num_ranks=2", preset="41m")
    assert (large.run.num_steps, large.context_bytes, large.launch.num_ranks, large.run.precision) == (2, 32, 2, "bf16")


def test_what_fixes_the_model_is_in_its_identity(corpus: Path) -> None:
    same = request(corpus, "logging.console_seconds=1", "checkpoint.every_steps=3", "launch.num_ranks=2")
    assert same.identity == request(corpus).identity
    for setting in ("seed=1", "crops.lengths=[28]", "optimizer.learning_rate=1e-3", "model.width=64"):
        assert request(corpus, setting).identity != request(corpus).identity
    with pytest.raises(RequestError, match="unknown preset '7b'"):
        request(corpus, preset="7b")


def test_a_comparison_makes_the_same_and_finds_it_made(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"model": "counts", "options": {"bits": 10}, "settings": ["num_starts=20000"]}
    first = train_view("neural", Corpus.open(corpus), tmp_path / "view", options=options)
    assert first["kind"] == "table"
    capsys.readouterr()
    assert train_view("neural", Corpus.open(corpus), tmp_path / "view", options=options)["fingerprint"] == first["fingerprint"]
    assert "holds this view already" in capsys.readouterr().err
    with pytest.raises(RequestError, match="'modle'; did you mean 'model'"):
        train_view("neural", Corpus.open(corpus), tmp_path / "view", options={"modle": "counts"})


@pytest.mark.slow
def test_a_transformer_killed_in_training_goes_on(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "view"
    settings = ["--set", *TINY, "num_steps=40", "checkpoint.every_steps=4", "--option", "bits=10"]
    command = [sys.executable, "-m", "proxy_lm", *words(corpus, out, "--model", "transformer", *settings)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    checkpoints = out / "model-run" / "checkpoints"
    until = time.monotonic() + 200
    while not list(checkpoints.glob("step-*/manifest.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "model").exists()
    assert not (out / "artifact.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "continues at step" in (out / "model-run" / "train.log").read_text()
    told = json.loads(again.stdout)
    assert told["byte_model"]["kind"] == "network"
    assert told["byte_model"]["training"]["num_steps"] == 40
    assert told["measured"]["training"]["estimated_flops"] >= told["byte_model"]["training"]["flops"] > 0
    assert not (out / "model-run" / "crops").exists()
    view = registry.load(out)
    document = (out / "artifact.json").read_bytes()
    assert view.decode(view.encode(document)) == document
    # Another request does not slip into the same folder.
    other = subprocess.run([*command, "--set", "seed=1"], capture_output=True, text=True, check=False, timeout=120)
    assert other.returncode == 2
    assert "seed: 0 -> 1" in other.stderr
