"""Bytes a second of the engine beside `transformers`, and of drafts beside one byte a step, on one model in one run. Run by `make bench`.

The model is trained for this (half a million parameters, seven extra heads, 8 MB of the installed Python's sources: about 15 minutes) and
kept under `.cache` with its corpus. Times are processor time of one thread, ratios are medians of rounds that take turns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from proxy_lm.data.corpus import Corpus
from proxy_lm.infer.cache import CachedBody
from proxy_lm.infer.draws import LOGIT_TOLERANCE
from proxy_lm.infer.engine import Automaton, IdEngine, IdRequest
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.settings import ModelSettings
from proxy_lm.neural_bench import bench_corpus
from proxy_lm.train.checkpoint import CheckpointManager
from proxy_lm.train.restore import LoadedModel, load_model
from proxy_lm.vocabulary import BOS, RAW_START, RAW_VOCABULARY_SIZE

pytestmark = pytest.mark.bench

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "bench-infer"
NUM_SYMBOLS, ROWS_PER_STEP, ROW_LENGTH = 8_000_000, 8, 512
NUM_STEPS = round(NUM_SYMBOLS / (ROWS_PER_STEP * ROW_LENGTH))
ROUNDS = 5
NEW_BYTES = 192


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return bench_corpus(CACHE.parent / "bench-neural")


@pytest.fixture(scope="module")
def run(corpus) -> Path:
    """Trained to its end on this very corpus; a run that was cut off goes on."""
    folder = CACHE / corpus.digest[:16] / "heads"
    newest = CheckpointManager(folder / "checkpoints").newest_valid() if folder.exists() else None
    if newest is None or newest.step < NUM_STEPS:
        settings = {
            "name": "heads",
            "out": str(folder),
            "corpus": str(corpus.path),
            "model": {"preset": "nano", "num_raw_heads": 7},
            "row_length": ROW_LENGTH,
            "rows_per_step": ROWS_PER_STEP,
            "rows_per_device": ROWS_PER_STEP,
            "num_symbols": NUM_SYMBOLS,
            "optimizer": {"learning_rate": 3e-3},
            "schedule": {"kind": "cosine", "warmup_share": 0.04, "floor": 0.05},
            "checkpoint": {"every_seconds": 60},
            "validation": {"max_bytes": 65_536},
        }
        folder.parent.mkdir(parents=True, exist_ok=True)
        path = folder.parent / "heads.yaml"
        path.write_text(yaml.safe_dump(settings))
        print(f"\ntraining {folder}", flush=True)
        command = [sys.executable, "-m", "proxy_lm.train", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


@pytest.fixture(scope="module")
def loaded(run) -> LoadedModel:
    return load_model(run)


@pytest.fixture(scope="module")
def prompts(corpus) -> list[list[int]]:
    """Begins of 16 held-out files, of 100 to 220 bytes."""
    chosen = [index for index in corpus.splits["test"] if corpus.sizes[index] >= 1000]
    step = len(chosen) // 16
    return [[BOS, RAW_START, *corpus.document(chosen[k * step])[: 100 + 8 * k]] for k in range(16)]


def ours(model: Decoder, num_rows: int, prompts, *, heads: bool = False, past: bool = False, temperature: float = 0.0):
    """Ids of all prompts, seconds of processor time, ids a pass; by a new engine, which shares no prompt with the last one."""
    engine = IdEngine(model, num_rows, ROW_LENGTH, heads=heads, past=past)
    everything = Automaton(np.zeros((1, RAW_VOCABULARY_SIZE), dtype=np.int16))  # as transformers: all 320 ids, and no end
    requests = [
        IdRequest(prompt_ids=prompt, max_ids=NEW_BYTES, seed=k, automaton=everything, temperature=temperature)
        for k, prompt in enumerate(prompts)
    ]
    waiting, done = list(requests), {}
    began = time.process_time()
    while waiting or engine.num_busy:
        while waiting and engine.num_free:
            engine.add(waiting.pop(0))
        done |= {result.request.seed: result for result in engine.step()}
    seconds = time.process_time() - began
    num_ids = sum(len(result.ids) for result in done.values())
    return [done[k].ids for k in range(len(prompts))], seconds, num_ids / sum(result.num_passes for result in done.values())


def theirs(model, prompts):
    """The same by `generate` of transformers, as a batch with padding on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    began = time.process_time()
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=mask, max_new_tokens=NEW_BYTES, do_sample=False, eos_token_id=None, pad_token_id=0)
    return found[:, width:].tolist(), time.process_time() - began


@pytest.mark.parametrize("num_rows", [1, 16])
def test_bytes_a_second_beside_transformers(loaded, run, prompts, num_rows, tmp_path):
    """At least 1.5 times, one byte a step, with equal output."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'proxy-lm[hf]'")
    from proxy_lm.export.hf import export_hf

    export_hf(run, tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    asked = prompts[:2] if num_rows == 1 else prompts
    ratios, rates = [], []
    for _ in range(ROUNDS):
        pairs = [theirs(model, asked[k : k + num_rows]) for k in range(0, len(asked), num_rows)]
        their_ids, their_seconds = [ids for part, _ in pairs for ids in part], sum(seconds for _, seconds in pairs)
        our_ids, our_seconds, _ = ours(loaded.model, num_rows, asked)
        ratios.append(their_seconds / our_seconds)
        rates.append((len(asked) * NEW_BYTES / our_seconds, len(asked) * NEW_BYTES / their_seconds))
    equal = sum(a == b for a, b in zip(our_ids, their_ids, strict=True))
    mine, other = (statistics.median(column) for column in zip(*rates, strict=True))
    print(
        f"\n{num_rows} rows: {mine:,.0f} bytes/s, transformers {other:,.0f}: {statistics.median(ratios):.2f} x (median of {ROUNDS}, "
        f"{min(ratios):.2f} to {max(ratios):.2f}); {equal} of {len(asked)} completions equal"
    )
    assert equal >= len(asked) - 1  # one may meet a near-tie, which transformers decides by rounding
    assert statistics.median(ratios) >= 1.5


@pytest.mark.parametrize("num_rows", [1, 16])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_several_bytes_a_step(loaded, prompts, num_rows, temperature):
    """At least 2 times one byte a step for one row of code, greedy, with equal text; the other cases are printed."""
    asked = prompts[:4] if num_rows == 1 else prompts
    ways = {"plain": {}, "heads": {"heads": True}, "past": {"past": True}, "both": {"heads": True, "past": True}}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    lengths, texts = {}, {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            texts[name], spent, lengths[name] = ours(loaded.model, num_rows, asked, temperature=temperature, **way)
            seconds[name].append(spent)
    assert all(text == texts["plain"] for text in texts.values())
    ratios = {name: statistics.median(a / b for a, b in zip(seconds["plain"], spent, strict=True)) for name, spent in seconds.items()}
    rate = len(asked) * NEW_BYTES / statistics.median(seconds["plain"])
    found = "; ".join(f"{name} {ratios[name]:.2f} x with {lengths[name]:.2f} bytes a pass" for name in ("heads", "past", "both"))
    print(f"\n{num_rows} rows, temperature {temperature}: {rate:,.0f} bytes/s plain; {found}")
    if num_rows == 1 and temperature == 0:
        assert ratios["both"] >= 2


def test_rounding_is_far_below_what_is_called_unsure(loaded, prompts):
    """Logits in float32 against float64, per unit of the largest logit of each position; a trained model, and a deep one at its start."""
    deep = Decoder(ModelSettings(preset=None, width=256, depth=28, num_heads=4, hidden=512), RAW_VOCABULARY_SIZE, ROW_LENGTH).eval()
    for name, model in {"trained": loaded.model, "deep": deep}.items():
        found = []
        for dtype in (torch.float32, torch.float64):
            body = CachedBody(model, dtype)
            ids = [np.array(prompt) for prompt in prompts]
            hidden = body.read(body.new_cache(len(ids), ROW_LENGTH), ids, [0] * len(ids), range(len(ids)))
            found.append((hidden @ body.output_matrix(model.head.weight)).double())
        single, double = found
        worst = float(((single - double).abs().amax(dim=1) / double.abs().amax(dim=1).clamp(min=1)).max())
        print(f"\n{name}: largest error {worst:.1e} of the largest logit; {LOGIT_TOLERANCE:.0e} is called unsure")
        assert worst <= LOGIT_TOLERANCE / 5


@pytest.mark.parametrize("preset", ["nano", "40m"])
def test_what_bounds_a_step(preset):
    """One row, one byte: a step beside its matrix products alone, and beside reading as many bytes of weights once."""
    model = Decoder(ModelSettings(preset=preset), RAW_VOCABULARY_SIZE, ROW_LENGTH).eval()
    body = CachedBody(model)
    cache, head = body.new_cache(1, ROW_LENGTH), body.output_matrix(model.head.weight)
    engine = IdEngine(model, 1, ROW_LENGTH)
    engine.add(IdRequest(prompt_ids=[BOS] * 200, max_ids=300, speculate=False))
    engine.step()
    matrices = [head] + [matrix for block in body._blocks for matrix in block]
    size_bytes = sum(matrix.nbytes for matrix in matrices)
    inputs = [torch.randn(1, len(matrix)) for matrix in matrices]
    one_matrix = torch.randn(size_bytes // 4 // 512, 512)
    vector, new = torch.randn(512), [np.array([65])]
    times = {
        "step": best(engine.step, 200),
        "forward pass": best(lambda: torch.mm(body.read(cache, new, [250], range(1)), head), 200),
        "its matrix products": best(lambda: [torch.mm(x, matrix) for x, matrix in zip(inputs, matrices, strict=True)], 200),
        "its weights read as one product": best(lambda: one_matrix @ vector, 200),
    }
    print(
        f"\n{preset}, {size_bytes / 1e6:.1f} MB of weights: " + ", ".join(f"{name} {1e6 * spent:,.0f} us" for name, spent in times.items())
    )
    if preset == "40m":
        assert times["its weights read as one product"] > 0.5 * times["step"]


def best(work, repeats: int) -> float:
    """Least time of `repeats` calls."""
    found = []
    with torch.inference_mode():
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            found.append(time.perf_counter() - began)
    return min(found)
