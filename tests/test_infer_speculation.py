"""Drafts change how many passes a completion takes, and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from proxy_lm.infer.cache import CachedBody
from proxy_lm.infer.drafts import HeadDrafter, Trust
from proxy_lm.infer.draws import Sampler
from proxy_lm.infer.engine import Automaton, IdEngine, IdRequest
from proxy_lm.infer.said import CONTEXT_LENGTHS, Said, Told
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.settings import ModelSettings
from proxy_lm.vocabulary import BOS, EOS, RAW_END, RAW_START

ROW_LENGTH = 96
NUM_HEADS = 4
NUM_SAMPLES = 2000
TABLE = np.full((1, 320), -1, dtype=np.int16)
TABLE[0, :256] = TABLE[0, [EOS, RAW_END]] = 0


@pytest.fixture(scope="module")
def text() -> bytes:
    """Source code to learn from and to cut prompts out of."""
    return (Path(__file__).parent / "test_infer_engine.py").read_bytes()


@pytest.fixture(scope="module")
def model(text) -> Decoder:
    """Width 32, four extra heads, 120 steps on one file: it spells words, and its heads are right about half the time."""
    found = Decoder(ModelSettings(preset=None, width=32, depth=2, num_heads=2, num_kv_heads=1, hidden=64, num_raw_heads=NUM_HEADS), 320)
    optimizer = torch.optim.AdamW(found.parameters(), lr=1e-2)
    rng, length = np.random.default_rng(0), 64 + found.lookahead
    data = np.frombuffer(text, dtype=np.uint8)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(120):
        rows = np.stack([data[first : first + length] for first in rng.integers(0, len(data) - length, 16)])
        ids = torch.from_numpy(rows.astype(np.int64))
        zeros = torch.zeros(ids.shape, dtype=torch.int32)
        positions = torch.arange(length, dtype=torch.int32).expand(ids.shape)
        found(ids, zeros, positions, torch.zeros(ids.shape, dtype=torch.uint8)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.set_num_threads(before)
    return found.eval()


def requests_of(text: bytes, num: int, **changes) -> list[IdRequest]:
    rng = np.random.default_rng(1)
    firsts, lengths = rng.integers(0, len(text) - 80, num), rng.integers(0, 50, num)
    prompts = [[BOS, RAW_START, *text[first : first + length]] for first, length in zip(firsts, lengths, strict=True)]
    common = {"max_ids": 24, "automaton": Automaton(TABLE)}
    return [IdRequest(**{"prompt_ids": prompt, "seed": k, **common, **changes}) for k, prompt in enumerate(prompts)]


def generated(model: Decoder, requests, num_rows: int = 16, *, tries_all: bool = False):
    engine = IdEngine(model, num_rows, ROW_LENGTH)
    engine._guesses.tries_all = tries_all
    waiting, done = list(requests), {}
    while waiting or engine.num_busy:
        while waiting and engine.num_free:
            engine.add(waiting.pop(0))
        done |= {id(result.request): result for result in engine.step()}
    return [done[id(request)] for request in requests]


def test_greedy_on_1000_prompts_is_plain_greedy(model, text):
    plain = generated(model, requests_of(text, 1000, speculate=False))
    drafted = generated(model, requests_of(text, 1000), tries_all=True)
    assert [result.ids for result in drafted] == [result.ids for result in plain]
    assert sum(result.num_passes for result in plain) == sum(len(result.ids) for result in plain)
    num_passes, num_ids = sum(result.num_passes for result in drafted), sum(len(result.ids) for result in drafted)
    print(f"{num_ids / num_passes:.2f} ids a pass")
    assert num_ids > 1.5 * num_passes


@pytest.mark.parametrize("sampler", [Sampler(0.7), Sampler(1.0, 0.9), Sampler(1.2, 1.0, 8)], ids=["all", "nucleus", "best-eight"])
def test_sampled_with_drafts_is_plain_sampling_of_the_same_seeds(model, text, sampler):
    changes = {"temperature": sampler.temperature, "top_p": sampler.top_p, "top_k": sampler.top_k}
    plain = generated(model, requests_of(text, 100, speculate=False, **changes))
    drafted = generated(model, requests_of(text, 100, **changes), tries_all=True)
    assert [result.ids for result in drafted] == [result.ids for result in plain]
    assert sum(result.num_accepted for result in drafted) > 100


def test_sampled_with_drafts_has_the_probabilities_of_the_model(model, text):
    """Three bytes after a prompt by chi-square: against what the uncached model says of every triple, and against plain sampling."""
    prompt = [BOS, RAW_START, *text[400:430]]
    drawn, plain = (
        [tuple(result.ids) for result in generated(model, samples_of(prompt, seeds, speculate), tries_all=True)]
        for speculate, seeds in ((True, range(NUM_SAMPLES)), (False, range(NUM_SAMPLES, 2 * NUM_SAMPLES)))
    )
    assert len({ids[0] for ids in drawn}) == 3, "the prompt leaves no choice"
    expected = {cell: NUM_SAMPLES * chance for cell, chance in triples(model, prompt, temperature=0.9, top_k=3).items()}
    assert sum(expected.values()) == pytest.approx(NUM_SAMPLES)
    counts, others = Counter(drawn), Counter(plain)
    assert set(counts) <= set(expected)
    cells = [cell for cell, number in expected.items() if number >= 5]
    assert len(cells) >= 8
    assert sum((counts[cell] - expected[cell]) ** 2 / expected[cell] for cell in cells) < chi_square_bound(len(cells)), "of the model"
    assert sum((counts[c] - others[c]) ** 2 / (counts[c] + others[c]) for c in cells) < chi_square_bound(len(cells)), "of plain sampling"


def samples_of(prompt: list[int], seeds: range, speculate: bool) -> list[IdRequest]:
    common = {"prompt_ids": prompt, "max_ids": 3, "temperature": 0.9, "top_k": 3, "automaton": Automaton(TABLE)}
    return [IdRequest(**common, seed=seed, speculate=speculate) for seed in seeds]


def triples(model: Decoder, prompt: list[int], *, temperature: float, top_k: int) -> dict[tuple[int, ...], float]:
    """Probability of every continuation by three ids, by the uncached model."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        found = {
            (*ids, one): chance * after
            for ids, chance in found.items()
            for one, after in following(model, [*prompt, *ids], temperature, top_k).items()
        }
    return found


def following(model: Decoder, ids: list[int], temperature: float, top_k: int) -> dict[int, float]:
    ids_BT = torch.tensor([ids])
    with torch.no_grad():
        logits = model.logits(ids_BT, torch.zeros_like(ids_BT, dtype=torch.int32), torch.arange(len(ids))[None])[0, -1].tolist()
    best = sorted([*range(256), EOS, RAW_END], key=lambda one: -logits[one])[:top_k]
    weights = {one: math.exp((logits[one] - logits[best[0]]) / temperature) for one in best}
    return {one: weight / sum(weights.values()) for one, weight in weights.items()}


def chi_square_bound(degrees: int) -> float:
    """About the 99.99th percentile (Wilson and Hilferty, 1931)."""
    return degrees * (1 - 2 / (9 * degrees) + 3.72 * math.sqrt(2 / (9 * degrees))) ** 3


def test_the_bound_of_chi_square_is_that_of_tables():
    assert chi_square_bound(10) == pytest.approx(35.56, rel=0.02)
    assert chi_square_bound(100) == pytest.approx(161.3, rel=0.02)


def test_drafts_that_are_always_wrong_cost_passes_only(model, text):
    """Heads with their signs turned are least sure of what they should be surest of."""
    turned = Decoder(ModelSettings(preset=None, width=32, depth=2, num_heads=2, num_kv_heads=1, hidden=64, num_raw_heads=NUM_HEADS), 320)
    turned.load_state_dict({name: -value if "raw_heads" in name else value for name, value in model.state_dict().items()})
    right, wrong = (generated(which, requests_of(text, 40), tries_all=True) for which in (model, turned.eval()))
    assert [result.ids for result in wrong] == [result.ids for result in right]
    assert sum(result.num_accepted for result in wrong) < sum(result.num_accepted for result in right)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_alone_and_in_a_batch_the_same_with_drafts(model, text, temperature):
    requests = requests_of(text, 60, temperature=temperature)
    alone, together = (generated(model, requests, num_rows) for num_rows in (1, 16))
    assert [result.ids for result in alone] == [result.ids for result in together]


def test_a_pass_gives_its_right_drafts_and_one_more(model, text):
    for result in generated(model, requests_of(text, 50), tries_all=True):
        assert result.num_passes + result.num_accepted == len(result.ids) == 24
        assert result.num_accepted <= result.num_drafted


def test_drafts_stay_inside_the_row_and_what_was_asked(model, text):
    prompt = [BOS, RAW_START, *text[: ROW_LENGTH - 12]]
    requests = [IdRequest(prompt_ids=prompt, max_ids=n, automaton=Automaton(TABLE)) for n in (1, 2, 3, 11, 40)]
    results = generated(model, requests, tries_all=True)
    assert [len(result.ids) for result in results] == [1, 2, 3, 11, 11]
    assert results[0].num_drafted == 0
    for result in results:
        assert result.ids == results[-1].ids[: len(result.ids)]


def test_what_was_said_is_found_by_the_longest_context_that_is_known():
    assert CONTEXT_LENGTHS == (16, 10, 6, 4, 3)
    said, told = Said(), Told([1, 2, 3, 4])
    said.add(told)
    assert said.following([1, 2]) is None
    assert said.following([9, 1, 2, 3]) == (4, 12)  # a context of 3
    told.ids += [5, 9, 1, 2, 3, 6]
    said.add(told)
    assert said.following([9, 1, 2, 3]) == (6, 9)  # one of 4, and the last time counts
    assert said.following([8, 1, 2, 3]) == (6, 12)
    assert said.following([7, 2, 3, 4]) == (5, 12)


def test_the_level_says_how_often_the_same_was_said():
    said, told = Said(), Told([7])
    for level in (0, 1, 2, 2):
        told.ids += [1, 2, 3, 4, 5 + told.num_added]
        said.add(told)
        assert said.following([1, 2, 3]) == (4, 12 + level)
    told.ids += [1, 2, 3, 9]
    said.add(told)
    assert said.following([1, 2, 3]) == (9, 12)


def test_many_ids_are_found_as_few_are():
    ids = np.random.default_rng(0).integers(0, 3, 300).tolist()
    few, many, told = Said(), Said(), Told(ids[:1])
    for one in ids[1:]:
        told.ids.append(one)
        few.add(told)
    many.add(Told(ids))
    for stop in range(len(ids)):
        one, other = few.following(ids[:stop]), many.following(ids[:stop])
        assert (one is None) == (other is None)
        assert one is None or other is None or (one[0], one[1] // 3) == (other[0], other[1] // 3)


def test_rows_learn_from_each_other_and_the_oldest_is_forgotten(monkeypatch):
    said = Said()
    said.add(Told([1, 2, 3, 4]))
    said.add(Told([5, 1, 2, 3, 9]))
    assert said.following([1, 2, 3]) == (9, 12)
    monkeypatch.setattr("proxy_lm.infer.said.MOST_CONTEXTS", 40)
    said.add(Told(range(100, 200)))
    assert said.following([1, 2, 3]) is None
    assert said.following([180, 181, 182]) == (183, 12)
    assert said.following([110, 111, 112]) is None


def test_heads_draft_what_they_say(model, text):
    body = CachedBody(model)
    ids = np.array([BOS, RAW_START, *text[:40]])
    hidden = body.read(body.new_cache(1, 64), [ids], [0], range(1))[-1:]
    with torch.no_grad():
        *_, last = model.states(torch.from_numpy(ids)[None], torch.zeros((1, 42), dtype=torch.int32), torch.arange(42)[None])
        chances = [torch.softmax(last[0, -1] @ head.weight[:256].T, dim=0) for head in model.raw_heads]
    everything, sure = HeadDrafter(model, body).draft(hidden, np.zeros((1, NUM_HEADS)), [Sampler()])
    assert everything.tolist() == [[int(chance.argmax()) for chance in chances]]
    np.testing.assert_allclose(sure[0], [float(chance.max()) for chance in chances], rtol=1e-4)
    bounds = [chance.cumsum(dim=0) for chance in chances]
    for u in (0.1, 0.5, 0.9):
        drawn, _ = HeadDrafter(model, body).draft(hidden, np.full((1, NUM_HEADS), u), [Sampler(1.0)])
        assert drawn.tolist() == [[int((bound <= u).sum()) for bound in bounds]]


def test_trust_counts_what_stood_behind_right_drafts():
    trust = Trust([0.5, 0.5, 0.1])
    for _ in range(20):
        trust.learn([0, 1, 2], 1)  # the third was never looked at
    assert trust.chances == [pytest.approx(22 / 24), pytest.approx(2 / 24), 0.1]
    for _ in range(200):
        trust.learn([1], 1)
    assert trust.chances[1] > 0.85, "long ago counts for less"
