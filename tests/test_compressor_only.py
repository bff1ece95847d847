"""A model trained on compressed text alone: any neural view goes through the same trainer, and its bits per byte are exact.

Exact means: the sum over the very symbols that decode to the document, each charged once by a softmax over all ids, over the document's
bytes. It is recomputed here the slow way, one whole document at a time.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from compressors import registry
from eval.bpb import EvaluationSettings, evaluate
from proxy_lm.data.encoding import encode_corpus
from proxy_lm.errors import RequestError
from proxy_lm.train.restore import load_model
from proxy_lm.view_training import train_view
from proxy_lm.vocabulary import BOS, EOS

VIEWS = {
    "table": ("table", {"bits": 10}),
    "paired": ("table", {"bits": 16, "symbol_bits": 8}),
    "wide": ("stream", {"bits": 32, "symbol_bits": 8}),
    "often": ("stream", {"bits": 16, "symbol_bits": 8, "reset": "always"}),
    "phrases": ("phrases", {"alphabet_size": 600}),
    "segments": ("segments", {"symbol_bits": 8}),
}


@pytest.fixture(scope="module")
def run(tiny_run):
    """A run of a few steps that was told by six neural views and never in raw bytes."""
    folders = {}
    for name, (kind, options) in VIEWS.items():
        folder = tiny_run.folder / "neural" / name
        train_view(kind, tiny_run.corpus, folder, options=options)
        encode_corpus(tiny_run.corpus, folder, folder, num_workers=1)
        folders[name] = str(folder)
    settings = tiny_run.settings(
        "compressed",
        views=folders,
        mix={"rate": 1.0},
        row_length=2048,
        rows_per_step=2,
        rows_per_device=2,
        num_steps=4,
        validation={"max_bytes": 3000},
    )
    tiny_run.train(tiny_run.write(settings))
    return tiny_run.folder / "runs" / "compressed"


@pytest.mark.parametrize("view", VIEWS)
def test_bits_per_byte_are_those_of_the_symbols_that_decode_to_the_document(run, tiny_run, view):
    loaded = load_model(run)
    compressor = registry.load(loaded.views[view])
    place = loaded.vocabulary.view(view)
    nats = num_bytes = num_symbols = 0.0
    for index in tiny_run.corpus.splits["test"]:
        document = tiny_run.corpus.document(index)
        symbols = compressor.encode(document)
        assert compressor.decode(symbols) == document
        ids = torch.tensor([[BOS, place.start_id, *(symbols.astype(np.int64) + place.first_id).tolist(), place.end_id, EOS]])
        assert ids.shape[1] <= 2048, "the slow way reads each document in one row"
        positions = torch.arange(ids.shape[1], dtype=torch.int32)[None]
        with torch.no_grad():
            logits = loaded.model.logits(ids, torch.zeros_like(positions), positions).double()
        log_probabilities = torch.log_softmax(logits, dim=-1)[0]
        nats -= float(sum(log_probabilities[t - 1, ids[0, t]] for t in range(2, ids.shape[1] - 2)))
        num_bytes += len(document)
        num_symbols += len(symbols)
    # A context longer than the documents, so that no window is cut.
    settings = EvaluationSettings(view=view, context_bytes=2048, stride_bytes=2048, device="cpu")
    result = evaluate(run, settings).result
    assert result["num_documents_read_raw"] == 0
    assert result["num_symbols"] == num_symbols
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_a_cut_document_charges_every_symbol_once(run):
    """Windows of 64 bytes, whose borders fall inside windows of the code: the same symbols, other contexts."""
    whole = evaluate(run, EvaluationSettings(view="paired", context_bytes=2048, stride_bytes=2048, device="cpu")).result
    cut = evaluate(run, EvaluationSettings(view="paired", context_bytes=64, stride_bytes=32, device="cpu")).result
    assert cut["num_symbols"] == whole["num_symbols"]
    assert cut["num_windows"] > whole["num_windows"]
    assert cut["bits_per_byte"] == pytest.approx(whole["bits_per_byte"], rel=0.2)


def test_a_view_that_gives_nothing_back_has_no_bits_per_byte(tiny_run):
    """The trainer says none, as the evaluation refuses to: what such symbols cost is no likelihood of the text."""
    folder = tiny_run.folder / "neural" / "paper"
    train_view("table-paper", tiny_run.corpus, folder, options={"symbol_bits": 8})
    encode_corpus(tiny_run.corpus, folder, folder, num_workers=1)
    settings = tiny_run.settings("paper", views={"paper": str(folder)}, mix={"rate": 1.0}, num_steps=2)
    output = tiny_run.train(tiny_run.write(settings))
    assert "validation bits per byte paper none" in output
    lines = (tiny_run.folder / "runs" / "paper" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["bits_per_byte"]["paper"] for line in lines] == [None, None]
    with pytest.raises(RequestError, match="does not promise to give documents back"):
        evaluate(tiny_run.folder / "runs" / "paper", EvaluationSettings(view="paper", device="cpu"))
