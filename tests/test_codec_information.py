"""What chunks cost, beside what the model itself says of them: its own probabilities in float64, by another evaluation than the coder's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import compressors.registry as registry
from compressors.neural.counts import CountModel
from compressors.neural.models import save_model
from proxy_lm.codec import open_predictor
from proxy_lm.codec.coder import Reader
from proxy_lm.codec.symbol_model import _WAYS, BY_MODEL
from proxy_lm.infer.prompts import continued
from proxy_lm.train.restore import load_model

DOCUMENTS = [(f"def f{i}(width):\n    return width * {i}\n\n" * 4).encode() for i in range(40)]
NUM_SYMBOLS = 500


@pytest.fixture(scope="module")
def run(tmp_path_factory, saved_run):
    """Asked in bytes, in tokens, and in compressed text alone."""
    folder, views = tmp_path_factory.mktemp("information"), {}
    for name, options in (("spm", {"alphabet_size": 300}), ("gzip", {})):
        compressor = registry.train(name, DOCUMENTS, **options)
        registry.save(compressor, folder / name)
        views[name] = (folder / name, compressor.alphabet_size)
    return saved_run(folder / "run", views=views, init_std=0.4)


def drawn(predictor, num_symbols):
    """Symbols drawn from the model: noise, decoded."""
    payload = b"\0" + np.random.default_rng(1).bytes(4 * num_symbols)
    reader = Reader(payload)
    assert reader.among(_WAYS) == BY_MODEL
    lane = predictor._lane(0, payload, 4 * num_symbols, reader)
    lane.num_symbols = num_symbols
    predictor._decode_lanes([lane])
    return lane.columns()


def own_bits(run, reading, columns):
    """-log2 of the symbols, by `Decoder.logits` in float64 over the view's ids."""
    model, ids, bits = load_model(run).model.double(), np.concatenate([reading.begin, reading.ids[columns]]), 0.0
    firsts = [continued(i, 64)[0] for i in range(len(reading.begin), len(ids))]
    for first in sorted(set(firsts)):
        row = torch.from_numpy(ids[None, first : first + 64])
        with torch.inference_mode():
            logits_TC = model.logits(row, torch.zeros_like(row), torch.arange(row.shape[1])[None])[0][:, reading.ids]
        shares_TC = torch.log_softmax(logits_TC, 1).numpy() / np.log(2)
        for place, column in enumerate(columns):
            if firsts[place] == first:
                bits -= shares_TC[len(reading.begin) + place - first - 1, column]
    return bits


@pytest.mark.parametrize("view", ["raw", "spm", "gzip"])
def test_a_runs_code_is_as_long_as_its_own_probabilities_say(run, view):
    predictor = open_predictor(run, view=view)
    columns = drawn(predictor, NUM_SYMBOLS)
    (stream,) = predictor._streams([columns])
    with torch.inference_mode():
        coded = predictor._intervals(columns, torch.cat(stream), 4 * NUM_SYMBOLS).coded()
    bits = own_bits(run, predictor._reading, columns)
    # Beside the symbols stand how the chunk is told, a phase, and where bytes do not tell it the number of symbols.
    told = 0.04 + 0.05 + (np.log2(4 * NUM_SYMBOLS + 1) if predictor._reading.num_bytes is None else 0)
    print(f"\n{view}: {bits / NUM_SYMBOLS:.3f} bits a symbol; integers {(coded.information_bits - told) / bits - 1:+.4%}", end=", ")
    print(f"code {8 * len(coded.payload) / bits - 1:+.4%}")
    assert abs(coded.information_bits - told - bits) < 0.001 * bits
    assert 8 * len(coded.payload) <= 1.001 * bits + 32
    assert 8 * len(coded.payload) <= coded.information_bits + 9


def test_a_chunk_of_a_run_costs_what_its_own_probabilities_say(run):
    # The same through the door that compress uses, which takes the model's way by itself.
    predictor = open_predictor(run, view="raw")
    columns = drawn(predictor, NUM_SYMBOLS)
    (coded,) = predictor.encode([columns.astype(np.uint8).tobytes()])
    bits = own_bits(run, predictor._reading, columns)
    assert Reader(coded.payload).among(_WAYS) == BY_MODEL
    assert abs(coded.information_bits - bits) < 0.001 * bits + 0.1
    assert 8 * len(coded.payload) <= 1.001 * bits + 32


def test_a_count_models_code_is_as_long_as_its_rows_say(tmp_path):
    # Its probabilities are the integers.
    save_model(CountModel.train(DOCUMENTS, max_nodes=2000, num_starts=20_000), tmp_path / "counts")
    predictor = open_predictor(tmp_path / "counts")
    chunks = [DOCUMENTS[3][:100], b"".join(DOCUMENTS)[:2048], bytes(range(256))]
    for chunk, coded, rows in zip(chunks, predictor.encode(chunks), predictor._model.rows(chunks), strict=True):
        bits = -np.log2(rows[np.arange(len(chunk)), list(chunk)] / rows.sum(axis=1)).sum()
        assert coded.information_bits == pytest.approx(bits)
        assert 8 * len(coded.payload) <= 1.001 * bits + 32
