"""Equal frequencies whichever way a model is evaluated: the noise measured, the border it must keep measured against, and evaluations that
differ on purpose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from compressors.errors import DecodeError
from compressors.neural.quantise import STEPS_PER_NAT
from proxy_lm.codec import open_predictor
from proxy_lm.codec.coder import Reader
from proxy_lm.codec.frequencies import SAFE_STEPS
from proxy_lm.codec.run_model import DecoderBody, RawReading
from proxy_lm.codec.symbol_model import _PHASES, _WAYS, BY_MODEL, SymbolPredictor
from proxy_lm.train.restore import load_model

CHUNKS = [bytes(np.random.default_rng(length).integers(32, 127, length, dtype=np.uint8)) for length in (1, 5, 61, 62, 63, 95, 130, 200)]


@pytest.fixture(scope="module")
def run(tmp_path_factory, saved_run):
    # Large weights: differences between evaluations grow with the logits.
    return saved_run(tmp_path_factory.mktemp("exact") / "run", init_std=0.4, width=64, depth=4, hidden=96)


def test_evaluations_differ_by_far_less_than_what_is_safe(run):
    loaded = load_model(run)
    body = DecoderBody(loaded.model, np.arange(256), 64)
    ids = np.random.default_rng(0).integers(0, 256, (5, 64))
    told: list[np.ndarray] = []
    threads = torch.get_num_threads()
    try:
        for num_threads, num_rows in ((1, 5), (1, 1), (1, 3), (2, 5)):
            torch.set_num_threads(num_threads)
            told += _evaluations(body, ids, num_rows, num_steps=64 if num_threads == 1 else 1)
    finally:
        torch.set_num_threads(threads)
    largest = max(float(abs(other - told[0]).max()) for other in told)
    safe = SAFE_STEPS / STEPS_PER_NAT
    print(f"\nlogits up to {abs(told[0]).max():.0f}; {len(told)} evaluations differ by {largest:.1e} nats; safe are {safe:.1e}")
    assert 0 < largest < safe / 200
    rows = torch.from_numpy(ids)
    plain = loaded.model.logits(rows, torch.zeros_like(rows), torch.arange(64).expand(5, 64))
    assert abs(plain.detach().numpy()[..., :256] - told[0]).max() < 1e-3


@torch.inference_mode()
def _evaluations(body: DecoderBody, ids: np.ndarray, num_rows: int, num_steps: int) -> list[np.ndarray]:
    """Logits [rows, 64, 256] of whole rows, some at a time; with cut rows from their middle on; with the first lanes step by step."""
    parts = [list(ids[i : i + num_rows]) for i in range(0, len(ids), num_rows)]
    whole = np.stack([body.logits(stream) for part in parts for stream in body.parallel(part, [0] * len(part))])
    cut, stepped = whole.copy(), whole.copy()
    for i, stream in enumerate(body.parallel([row[: 40 + i] for i, row in enumerate(ids)], [32] * len(ids))):
        cut[i, 32 : 40 + i] = body.logits(stream)
    lanes = body.lanes(num_rows, 64)
    for place in range(num_steps):
        stepped[:num_rows, place] = body.logits(lanes.read([row[place : place + 1] for row in ids[:num_rows]], [place] * num_rows))
    return [whole, cut, stepped]


def test_rows_that_go_on_are_the_decoders_own_rows(run):
    # What a chunk of several rows costs, by hand: the last half of a full row is read again.
    model = load_model(run).model.double()
    predictor = open_predictor(run)
    chunk = CHUNKS[-1]
    ids = np.array([257, 259, *chunk])
    nats = 0.0
    for i in range(2, len(ids)):
        first = 0 if i <= 64 else -(-(i - 64) // 32) * 32
        row = torch.from_numpy(ids[None, first:i])
        logits = model.logits(row, torch.zeros_like(row), torch.arange(i - first)[None])[0, -1, :256].detach()
        nats -= float(torch.log_softmax(logits, 0)[ids[i]])
    (told,) = predictor._streams([np.frombuffer(chunk, np.uint8).astype(np.int64)])
    logits = predictor._body.logits(torch.cat(told))
    by_predictor = torch.log_softmax(torch.from_numpy(logits), 1)[np.arange(len(chunk)), list(chunk)]
    assert -by_predictor.sum() == pytest.approx(nats, rel=1e-6)


class _Noisy:
    """A body of equal rows whose parallel evaluation lies above, and whose steps lie below, borders of the rounding."""

    row_length = 64

    def __init__(self, body: DecoderBody, noise: float, fill: float | None = None) -> None:
        self.body, self.noise, self.fill = body, noise, fill
        generator = np.random.default_rng(9)
        self.places = generator.integers(0, 20 * 64, (256, 256))

    def parallel(self, rows: Sequence[np.ndarray], firsts: Sequence[int]) -> list[torch.Tensor]:
        return [
            torch.from_numpy(np.stack([ids, np.ones_like(ids)], axis=1)[first:]).double() for ids, first in zip(rows, firsts, strict=True)
        ]

    def logits(self, stream_ND: torch.Tensor) -> np.ndarray:
        last, parallel = stream_ND.numpy().astype(np.int64).T
        # Every logit at a border of some phase from 0 to 20, so that 21 is the first that is safe.
        steps = self.places[last % 256] // 64 + 0.5 - self.places[last % 256] % 21 / 64
        steps[:, 0] = 0
        steps[:, 8:] += 320  # ten bits: the model knows what it is told
        logits = -(steps + np.where(parallel, self.noise, -self.noise)[:, None] * (steps > 0)) / STEPS_PER_NAT
        if self.fill is not None:
            logits[:, 7] = self.fill
        return logits

    def lanes(self, num: int, num_positions: int) -> _Noisy:
        return self

    def read(self, ids: Sequence[np.ndarray], first_positions: Sequence[int]) -> torch.Tensor:
        return torch.tensor([[part[-1], 0] for part in ids]).double()

    def move(self, source: int, target: int, num_positions: int) -> None:
        return None


@pytest.fixture(scope="module")
def body(run):
    return DecoderBody(load_model(run).model, np.arange(256), 64)


def test_evaluations_that_fall_on_two_sides_of_borders_decode_each_other(body):
    predictor = SymbolPredictor(_Noisy(body, 2e-9), RawReading(), {}, 1, 1)
    chunks = [bytes(np.random.default_rng(i).geometric(0.3, 700).astype(np.uint8) % 8) for i in range(3)]
    coded = predictor.encode(chunks)
    assert predictor.decode([one.payload for one in coded], [700] * 3) == chunks
    for one in coded:
        reader = Reader(one.payload)
        assert reader.among(_WAYS) == BY_MODEL
        assert reader.among(_PHASES) == 21


def test_without_a_safe_phase_they_would_not(body, monkeypatch):
    # The test above can fail: told in phase 0, the same two evaluations misread each other.
    import proxy_lm.codec.symbol_model as symbol_model

    monkeypatch.setattr(symbol_model, "gather", gather_all_safe)
    predictor = SymbolPredictor(_Noisy(body, 2e-9), RawReading(), {}, 1, 1)
    chunk = bytes(np.random.default_rng(0).geometric(0.3, 700).astype(np.uint8) % 8)
    (coded,) = predictor.encode([chunk])
    try:
        told = predictor.decode([coded.payload], [700])
    except DecodeError:
        return
    assert told != [chunk]


def gather_all_safe(*words):
    from proxy_lm.codec.frequencies import gather

    gather(*words)
    return 0


@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_a_model_whose_numbers_break_still_gives_files_back(body, fill):
    predictor = SymbolPredictor(_Noisy(body, 0.0, fill), RawReading(), {}, 1, 1)
    coded = predictor.encode([b"abc" * 100])
    assert Reader(coded[0].payload).among(_WAYS) != BY_MODEL
    assert predictor.decode([coded[0].payload], [300]) == [b"abc" * 100]
