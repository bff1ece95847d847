"""`proxy-lm-eval bpb` on run folders: exact for known probabilities, the same for any workers and after a kill, clear on bad input."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import compressors.registry as registry
from compressors.files import write_bytes
from eval import cli
from eval.blocks import BLOCK_BYTES, plan_blocks, take_prefix
from eval.bpb import EvaluationSettings, evaluate
from proxy_lm.config import dump_yaml
from proxy_lm.data.corpus import Corpus, build_small
from proxy_lm.errors import ProxyError, RequestError
from proxy_lm.model.decoder import Decoder
from proxy_lm.reading import reading_view
from proxy_lm.train.checkpoint import CheckpointManager
from proxy_lm.train.settings import RunSettings
from proxy_lm.train.weights import WEIGHTS_NAME, write_weights
from proxy_lm.vocabulary import Vocabulary

MODEL = {"preset": None, "width": 16, "depth": 1, "num_heads": 2, "hidden": 24, "init_std": 0.2}


def make_corpus(folder, **splits):
    build_small(folder, splits or {"train": [b"x = 1\n"], "valid": [b"y = 2\n"], "test": [b"z = 3\n", b"", b"def f():\n    pass\n" * 20]})
    return Corpus.open(folder)


def make_run(folder, corpus, views=None, head=None, **settings):
    """A run folder with one checkpoint as training writes it, without training."""
    views = views or {}
    loaded = {name: registry.load(path) for name, path in views.items()}
    vocabulary = Vocabulary([(name, compressor.alphabet_size) for name, compressor in loaded.items()])
    run = RunSettings(
        name=folder.name,
        out=str(folder),
        corpus=str(corpus.path),
        views={name: str(path) for name, path in views.items()},
        num_steps=1,
        **{"row_length": 64, "model": MODEL, **settings},
    )
    model = Decoder(run.model, vocabulary.size, run.row_length, num_views=len(views), seed=1)
    if head is not None:
        with torch.no_grad():
            model.head.weight.fill_(head)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    described = {"size": vocabulary.size, "views": [[view.name, view.alphabet_size] for view in vocabulary.views]}

    def write(path):
        tensors = [(name, parameter.detach()) for name, parameter in model.named_parameters()]
        write_weights(path / WEIGHTS_NAME, shapes, tensors, {"vocabulary": json.dumps(described)})

    state = {
        "settings": run.model_dump(mode="json"),
        "identity": {"corpus": corpus.digest},
        "fingerprints": {name: registry.fingerprint(compressor) for name, compressor in loaded.items()},
        "world_size": 1,
    }
    CheckpointManager(folder / "checkpoints").save(1, write, state)
    write_bytes(folder / "config.yaml", dump_yaml(run).encode())
    return folder


def view_folder(folder, kind, **options):
    registry.save(registry.train(kind, [], **options), folder, None)
    return folder


SETTINGS = EvaluationSettings(context_bytes=64, stride_bytes=32, device="cpu")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A run over a corpus of several blocks."""
    generator = np.random.default_rng(0)
    words = [b"return ", b"self.", b"for x in ", b"def f():\n", b"    ", b"y = x + 1\n", b"\xff\x00", b"caf\xc3\xa9 "]
    documents = [b"".join(words[i] for i in generator.integers(0, len(words), 60)) for _ in range(300)]
    folder = tmp_path_factory.mktemp("large")
    corpus = make_corpus(folder / "corpus", train=[b"a"], valid=[b"b"], test=documents)
    return make_run(folder / "run", corpus), corpus


def test_a_uniform_model_scores_log2_of_the_vocabulary_exactly(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    result = evaluate(make_run(tmp_path / "run", corpus, head=0.0), SETTINGS).result
    assert result["num_bytes"] == 6 + 0 + 18 * 20
    assert result["num_documents"] == 3
    assert result["bits_per_byte"] == pytest.approx(math.log2(320), rel=1e-6)
    assert result["nll_nats"] == pytest.approx(result["num_bytes"] * math.log(320), rel=1e-6)
    assert (result["view"], result["end_scored"], result["end_nats"]) == ("raw", False, 0)
    assert result["by_language"]["python"]["num_bytes"] == result["num_bytes"]
    assert json.loads((tmp_path / "run" / "eval" / "bpb-test.json").read_text()) == result


def test_the_end_of_each_document_costs_two_ids_when_it_is_scored(tmp_path):
    run = make_run(tmp_path / "run", make_corpus(tmp_path / "corpus"), head=0.0)
    result = evaluate(run, SETTINGS.model_copy(update={"score_end": True})).result
    assert result["end_scored"]
    assert result["end_nats"] == pytest.approx(3 * 2 * math.log(320), rel=1e-6)


def test_a_token_arm_is_scored_over_its_symbols_and_divided_by_bytes(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    view = view_folder(tmp_path / "view", "doublebyte")
    run = make_run(tmp_path / "run", corpus, {"pairs": view}, head=0.0, mix={"rate": 1.0})
    result = evaluate(run, SETTINGS).result
    num_symbols = sum(len(registry.load(view).encode(corpus.document(i))) for i in corpus.splits["test"])
    size = Vocabulary([("pairs", registry.load(view).alphabet_size)]).size
    assert (result["view"], result["num_symbols"], result["num_bytes"]) == ("pairs", num_symbols, 366)
    assert result["bits_per_byte"] == pytest.approx(num_symbols * math.log2(size) / 366, rel=1e-6)


def test_a_prefix_of_the_split_is_measured_when_asked(large):
    run, corpus = large
    result = evaluate(run, SETTINGS.model_copy(update={"max_bytes": 1000})).result
    documents = take_prefix(corpus.sizes, corpus.splits["test"], 1000)
    assert result["num_documents"] == len(documents)
    assert result["num_bytes"] == int(corpus.sizes[documents.start : documents.stop].sum()) <= 1000
    assert take_prefix(corpus.sizes, corpus.splits["test"], 1) == range(2, 3)  # at least one


def test_blocks_cover_every_document_once():
    """A4: what was left over when files were dealt to ranks was dropped in bits per byte too."""
    sizes = np.array([5, 0, 3 * BLOCK_BYTES, 7, *[1] * 600, BLOCK_BYTES, BLOCK_BYTES], dtype=np.int64)
    blocks = plan_blocks(sizes, range(1, len(sizes)))
    assert [i for block in blocks for i in range(block.first, block.stop)] == list(range(1, len(sizes)))
    assert [block.num_bytes for block in blocks] == [int(sizes[block.first : block.stop].sum()) for block in blocks]
    assert plan_blocks(sizes, range(3, 3)) == []


def blocks_folder(run):
    return next(path for path in (run / "eval").iterdir() if path.is_dir())


def test_any_workers_any_batch_and_a_kill_give_the_same_number(large, tmp_path):
    _, corpus = large
    folders = [make_run(tmp_path / f"run{i}", corpus) for i in range(3)]
    settings = SETTINGS.model_copy(update={"stride_bytes": 64})
    alone = evaluate(folders[0], settings)
    two = evaluate(folders[1], settings, num_workers=2)
    assert len(list(blocks_folder(folders[1]).glob("part-*.jsonl"))) == 2
    assert two.result["nll_nats"] == alone.result["nll_nats"]
    assert np.array_equal(two.clusters.nll_nats, alone.clusters.nll_nats)
    # Killed: of the lines on the disk one is damaged and the last is torn; what is whole is kept, what is not is scored again.
    part = next(blocks_folder(folders[0]).glob("part-*.jsonl"))
    lines = part.read_bytes().splitlines(keepends=True)
    assert len(lines) >= 2
    part.write_bytes(lines[0].replace(b"1", b"2", 1) + b"".join(lines[1:-1]) + lines[-1][:40])
    again = evaluate(folders[0], settings)
    assert again.result["nll_nats"] == alone.result["nll_nats"]
    assert again.result["num_windows"] == alone.result["num_windows"]
    other_batch = evaluate(folders[2], settings.model_copy(update={"windows_per_batch": 3}))
    assert other_batch.result["nll_nats"] == pytest.approx(alone.result["nll_nats"], rel=1e-6)


def test_ranks_of_a_launcher_share_the_work(large, tmp_path):
    _, corpus = large
    run = make_run(tmp_path / "run", corpus)
    alone = evaluate(make_run(tmp_path / "alone", corpus), SETTINGS).result
    command = [
        sys.executable,
        "-m",
        "eval.cli",
        "bpb",
        str(run),
        "--context-bytes",
        "64",
        "--stride-bytes",
        "32",
        "--device",
        "cpu",
        "--json",
    ]
    ranks = []
    from proxy_lm.train.launch import free_port

    port = str(free_port())
    for rank in ("0", "1"):
        environment = {**os.environ, "RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    told = [process.communicate(timeout=120) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], told
    assert json.loads(told[0][0])["nll_nats"] == alone["nll_nats"]
    assert told[1][0] == ""
    assert len(list(blocks_folder(run).glob("part-*.jsonl"))) == 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "raw"),
        ({"views": {"a": "x"}, "mix": {"rate": 0.9}}, "raw"),
        ({"views": {"a": "x"}, "mix": {"rate": [[0, 0.5], [0.5, 1.0]]}}, "raw"),
        ({"views": {"a": "x"}, "mix": {"rate": 1.0, "pair": [[0, 0.1], [0.5, 0]]}}, "raw"),
        ({"views": {"a": "x"}, "mix": {"rate": 1.0}}, "a"),
        ({"views": {"a": "x", "b": "y"}, "mix": {"rate": 1.0, "weights": {"b": 1.0}}}, "b"),
    ],
)
def test_an_arm_is_asked_in_raw_bytes_if_it_was_told_any(settings, expected):
    assert reading_view(RunSettings(name="r", corpus="c", num_steps=1, **settings)) == expected


def test_several_views_and_no_raw_bytes_need_a_choice():
    with pytest.raises(RequestError, match="--view: a, b"):
        reading_view(RunSettings(name="r", corpus="c", num_steps=1, views={"a": "x", "b": "y"}, mix={"rate": 1.0}))


def fails(capsys, *words):
    """Exit code and the one sentence."""
    code = cli.main(["bpb", *map(str, words), "--device", "cpu"])
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert last.startswith("proxy-lm-eval: ")
    return code, last


def test_bad_input_is_one_sentence(tmp_path, capsys):
    corpus = make_corpus(tmp_path / "corpus", train=[b"a"], valid=[], test=[b"x" * 50])
    run = make_run(tmp_path / "run", corpus)
    small = ["--context-bytes", 32, "--stride-bytes", 16]
    for words, expected in [
        ([tmp_path / "none"], "is not a folder"),
        ([tmp_path, *small], f"is no run, it holds 1; give one of them: {run}"),
        ([run, "--context-bytes", 65], "longer than the rows of 64 ids"),
        ([run, *small, "--split", "dev"], "unknown split 'dev'; the corpus has train, valid, test"),
        ([run, *small, "--split", "valid"], "has no bytes to measure"),
        ([run, *small, "--view", "spm"], "the run has no view 'spm'; it can be read as: raw"),
        ([run, "--context-bytes", 32, "--stride-bytes", 33], "a stride of 33 bytes would skip"),
        ([run, *small, "--max-bytes", 0], "--max-bytes 0: "),
        ([run, *small, "--workers", 0], "at least 1"),
    ]:
        code, sentence = fails(capsys, *words)
        assert (code, expected in sentence) == (2, True), sentence
    for device in ("tpu", "cuda:99"):
        assert cli.main(["bpb", str(run), "--device", device]) == 2
        assert f"device '{device}' is not here" in capsys.readouterr().err


def test_a_window_that_is_not_given_fits_the_rows_of_the_run(tmp_path, capsys):
    run = make_run(tmp_path / "run", make_corpus(tmp_path / "corpus"))
    assert cli.main(["bpb", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["context_bytes"], result["stride_bytes"]) == (64, 32)
    assert cli.main(["bpb", str(run), "--json"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out) == result
    assert again.err == f"{run}: scored already with these settings\n"


def test_another_corpus_and_a_damaged_checkpoint_are_refused(tmp_path, capsys):
    run = make_run(tmp_path / "run", make_corpus(tmp_path / "corpus"))
    other = make_corpus(tmp_path / "other", train=[b"a"], valid=[b"b"], test=[b"c"])
    code, sentence = fails(capsys, run, "--context-bytes", 32, "--stride-bytes", 16, "--corpus", other.path)
    assert code == 2
    assert other.digest in sentence
    weights = run / "checkpoints" / "step-1" / WEIGHTS_NAME
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    code, sentence = fails(capsys, run, "--context-bytes", 32, "--stride-bytes", 16)
    assert code in (1, 2)
    assert "step-1" in sentence or "valid" in sentence


def test_a_damaged_corpus_is_refused_and_not_measured(tmp_path, capsys):
    run = make_run(tmp_path / "run", make_corpus(tmp_path / "corpus"))
    raw = tmp_path / "corpus" / "raw.bin"
    data = bytearray(raw.read_bytes())
    data[-1] ^= 1
    raw.write_bytes(data)
    code, sentence = fails(capsys, run, "--context-bytes", 32, "--stride-bytes", 16)
    assert code == 2
    assert "raw.bin has the digest" in sentence
    assert not (run / "eval").exists()


def test_another_compressor_in_the_folder_of_the_view_is_refused(tmp_path, capsys):
    """Equal alphabets, other symbols: its numbers would look like numbers."""
    corpus = make_corpus(tmp_path / "corpus")
    run = make_run(tmp_path / "run", corpus, {"gzip": view_folder(tmp_path / "view", "gzip")}, mix={"rate": 1.0})
    assert evaluate(run, SETTINGS).result["view"] == "gzip"
    view_folder(tmp_path / "view", "gzip", level=1)
    code, sentence = fails(capsys, run, "--context-bytes", 32, "--stride-bytes", 16)
    assert code == 2
    assert "was trained with the compressor" in sentence
    assert registry.read_artifact(tmp_path / "view")["fingerprint"] in sentence


def test_a_view_without_spans_names_the_limit(tmp_path, capsys):
    corpus = make_corpus(tmp_path / "corpus", train=[b"a"], valid=[b"b"], test=[bytes(range(256)) * 4])
    run = make_run(tmp_path / "run", corpus, {"gzip": view_folder(tmp_path / "view", "gzip")}, mix={"rate": 1.0})
    code, sentence = fails(capsys, run, "--context-bytes", 32, "--stride-bytes", 16)
    assert code == 2
    assert "a row holds 64" in sentence


def test_an_error_in_a_worker_process_is_the_same_sentence(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", train=[b"a"], valid=[b"b"], test=[bytes([i]) * BLOCK_BYTES for i in range(2)])
    run = make_run(tmp_path / "run", corpus, {"gzip": view_folder(tmp_path / "view", "gzip")}, mix={"rate": 1.0})
    with pytest.raises(ProxyError, match="a row holds 64"):
        evaluate(run, SETTINGS, num_workers=2)
