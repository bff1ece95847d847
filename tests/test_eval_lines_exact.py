"""Bits per byte of token and compressor-only arms are exact: `proxy-lm-eval bpb` against a slow twin that goes id by id."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import compressors.registry as registry
from eval import cli
from eval.opened import open_run
from proxy_lm.data.corpus import build_small
from proxy_lm.vocabulary import BOS, EOS

TEXTS = [b"def f%d(x):\n    return x + %d\n" % (i, i) for i in range(30)]
TEST = [b"", b"x", b"def g(y):\n    return [y, y + 1]\n", b"\xff\x00 = 'caf\xc3\xa9'\n    " * 3, TEXTS[0] * 3]
VIEWS = {"spm": {"alphabet_size": 290}, "nibble": {}, "doublebyte": {}, "gzip": {}}


@pytest.fixture(scope="module", params=list(VIEWS))
def arm(request, tmp_path_factory, saved_run):
    """A compressor-only run of each kind of view, and its documents."""
    folder = tmp_path_factory.mktemp("exact")
    documents = [text[:20] for text in TEST] if request.param == "gzip" else TEST
    corpus = build_small(folder / "corpus", {"train": TEXTS, "valid": [b"v"], "test": documents})
    compressor = registry.train(request.param, TEXTS, **VIEWS[request.param])
    registry.save(compressor, folder / "view")
    views = {"view": (folder / "view", compressor.alphabet_size)}
    return saved_run(folder / "run", views, corpus, mix={"rate": 1.0}, row_length=256), documents, compressor


@pytest.mark.parametrize(("context", "stride"), [(64, 32), (24, 9)])
def test_every_symbol_and_end_is_charged_from_the_context_that_is_promised(arm, capsys, context, stride):
    run, documents, compressor = arm
    words = ["--context-bytes", context, "--stride-bytes", stride, "--score-end", "--device", "cpu", "--json"]
    assert cli.main(["bpb", str(run), *map(str, words)]) == 0
    result = json.loads(capsys.readouterr().out)
    opened = open_run(run, device="cpu")
    payload = ends = 0.0
    num_symbols = 0
    for document in documents:
        symbols = compressor.encode(document).tolist()
        nats = twin(opened, symbols, compressor.spans(document), len(document), context, stride)
        payload, ends = payload + math.fsum(nats[:-2]), ends + math.fsum(nats[-2:])
        num_symbols += len(symbols)
    assert result["num_symbols"] == num_symbols
    assert result["num_short_windows"] == 0
    assert result["num_documents_read_raw"] == 0
    assert result["num_bytes"] == sum(map(len, documents))
    assert result["end_nats"] == pytest.approx(ends, rel=1e-5)
    assert result["nll_nats"] == pytest.approx(payload + ends, rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx((payload + ends) / math.log(2) / sum(map(len, documents)), rel=1e-5)


def twin(opened, symbols, borders, num_bytes, context, stride):
    """Nats of each symbol and of the two ids that close a document, each from a forward of its own over exactly what it may see."""
    view = opened.reading.view
    ids = [BOS, view.start_id, *(view.first_id + s for s in symbols), view.end_id, EOS]
    starts = [] if borders is None else [0, 1, *(2 + int(b) for b in borders[:-1]), 2 + num_bytes, 3 + num_bytes]
    nats = []
    for target in range(2, len(ids)):
        first = 0
        if starts and starts[target] > context:  # without borders: one window over the whole document
            window = math.ceil((starts[target] - context) / stride)
            in_reach = next(i for i, start in enumerate(starts) if start >= window * stride)
            first = min(in_reach, first_of_window(starts, context, stride, window) - 1)
        nats.append(cost(opened, ids[first:target], ids[target]))
    return nats


def first_of_window(starts, context, stride, window):
    """The first id that the window scores; the id before it is read in any case."""
    return next(i for i, start in enumerate(starts) if i > 0 and max(0, math.ceil((start - context) / stride)) == window)


@torch.no_grad()
def cost(opened, seen, target):
    tensor = torch.tensor([seen])
    places = torch.arange(len(seen), dtype=torch.int32)[None]
    logits = opened.loaded.model.logits(tensor, torch.zeros_like(places), places)[0, -1].double().numpy()
    return float(np.logaddexp.reduce(logits) - logits[target])
