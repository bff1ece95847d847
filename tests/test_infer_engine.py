"""Many rows at once through the cache give each request what it would have got alone."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_lm.errors import RequestError
from proxy_lm.infer.automata import Rules
from proxy_lm.infer.cache import CachedBody
from proxy_lm.infer.draws import KeyedDraws, Sampler, choose, choose_exactly
from proxy_lm.infer.engine import Automaton, IdEngine, IdRequest
from proxy_lm.infer.prefix import HeldPrefixes, common_length
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.settings import ModelSettings
from proxy_lm.vocabulary import BOS, EOS, RAW_END, RAW_START

ROW_LENGTH = 64


def small_model(**sizes) -> Decoder:
    """Random weights, larger than at the start of training, so that what follows depends on what was read."""
    given = {"preset": None, "width": 32, "depth": 2, "num_heads": 2, "num_kv_heads": 1, "hidden": 48, "init_std": 0.35, **sizes}
    return Decoder(ModelSettings(**given), 384, ROW_LENGTH).eval()


@pytest.fixture(scope="module")
def model() -> Decoder:
    return small_model(num_raw_heads=3)


def bytes_and_end() -> Automaton:
    table = np.full((1, 384), -1, dtype=np.int16)
    table[0, :256] = table[0, [EOS, RAW_END]] = 0
    return Automaton(table)


BYTES_AND_END = bytes_and_end()


class UntilEnd:
    """Ends a row before its first end."""

    def take(self, ids):
        return next((k for k, one in enumerate(ids) if one in (EOS, RAW_END)), None)


def requests_of(num: int, seed: int = 0, **changes) -> list[IdRequest]:
    """Prompts of 1 to 50 ids and every kind of sampling."""
    draw = random.Random(seed)
    kinds = [(0.0, 1.0, 0), (0.7, 1.0, 0), (1.0, 0.8, 0), (1.3, 1.0, 7), (0.9, 0.9, 12)]
    found = []
    for k in range(num):
        temperature, top_p, top_k = kinds[k % len(kinds)]
        prompt = [BOS, RAW_START, *(draw.randrange(256) for _ in range(draw.randrange(49)))][: draw.randrange(1, 51)]
        common = {"prompt_ids": prompt, "max_ids": draw.randrange(1, 40), "seed": k, "automaton": BYTES_AND_END, "watcher": UntilEnd()}
        found.append(IdRequest(**{**common, "temperature": temperature, "top_p": top_p, "top_k": top_k, **changes}))
    return found


def generated(model: Decoder, requests, num_rows: int, engine: IdEngine | None = None):
    """The results in the order of the requests; rows are added as they become free."""
    engine = engine or IdEngine(model, num_rows, ROW_LENGTH)
    waiting, done = list(requests), {}
    while waiting or engine.num_busy:
        while waiting and engine.num_free:
            engine.add(waiting.pop(0))
        done |= {id(result.request): result for result in engine.step()}
    return [done[id(request)] for request in requests]


def float64_logits(model: Decoder, ids) -> np.ndarray:
    """Behind the last id, by the uncached decoder in float64."""
    twin = small_double(model)
    ids_BT = torch.tensor([list(ids)])
    with torch.no_grad():
        *_, hidden_BTD = twin.states(ids_BT, torch.zeros_like(ids_BT, dtype=torch.int32), torch.arange(ids_BT.shape[1])[None])
        return (hidden_BTD[0, -1] @ twin.head.weight.T).numpy()


_DOUBLES: dict[int, tuple[Decoder, Decoder]] = {}


def small_double(model: Decoder) -> Decoder:
    if id(model) not in _DOUBLES:
        twin = Decoder(ModelSettings(**model_settings(model)), model.vocabulary_size, ROW_LENGTH, seed=None)
        twin.load_state_dict(model.state_dict())
        _DOUBLES[id(model)] = model, twin.double().eval()
    return _DOUBLES[id(model)][1]


def model_settings(model: Decoder) -> dict[str, object]:
    sizes = model.sizes
    names = ("width", "depth", "num_heads", "num_kv_heads", "hidden", "init_std", "num_raw_heads", "num_symbol_heads")
    return {"preset": None, **{name: getattr(sizes, name) for name in names}}


def plain(model: Decoder, request: IdRequest) -> list[int]:
    """One id after another, the whole row read again for each: the slow twin, its choice written out id by id."""
    ids: list[int] = []
    while len(ids) < request.max_ids and len(request.prompt_ids) + len(ids) <= ROW_LENGTH:
        logits = float64_logits(model, [*request.prompt_ids, *ids])
        u = KeyedDraws(request.seed).at(request.first_draw + len(ids), 1)[0]
        chosen = plain_choice({one: logits[one] for one in [*range(256), EOS, RAW_END]}, u, request)
        if chosen in (EOS, RAW_END):
            break
        ids.append(chosen)
    return ids


def plain_choice(logits: dict[int, float], u: float, request: IdRequest) -> int:
    best_first = sorted(logits, key=lambda one: (-logits[one], one))
    if request.temperature == 0:
        return best_first[0]
    kept = best_first[: request.top_k or None]
    weights = {one: math.exp((logits[one] - logits[kept[0]]) / request.temperature) for one in kept}
    most, so_far, nucleus = request.top_p * sum(weights.values()), 0.0, []
    for one in kept:
        if so_far < most:
            nucleus.append(one)
        so_far += weights[one]
    passed, so_far = u * sum(weights[one] for one in nucleus), 0.0
    for one in sorted(nucleus):
        so_far += weights[one]
        if so_far > passed:
            return one
    raise AssertionError("u is 1 or more")


@pytest.mark.parametrize("heads", [(2, 1), (4, 2), (2, 2)], ids=["one-for-two", "two-for-four", "own"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_logits_through_the_cache_are_those_of_the_decoder(heads, dtype):
    """Three rows of 40, 17 and 1 ids, in chunks of uneven lengths and in another order of rows than they lie in."""
    model = small_model(num_heads=heads[0], num_kv_heads=heads[1], init_std=0.15)
    body = CachedBody(model, dtype)
    cache = body.new_cache(5, ROW_LENGTH)
    rows = {3: 40, 0: 17, 4: 1}
    ids = {row: np.random.default_rng(row).integers(0, 320, length) for row, length in rows.items()}
    found: dict[int, list[torch.Tensor]] = {row: [] for row in rows}
    read = dict.fromkeys(rows, 0)
    for chunk in (7, 1, 12, 3, 30):
        now = [row for row in rows if read[row] < rows[row]]
        parts = [ids[row][read[row] : read[row] + chunk] for row in now]
        hidden = body.read(cache, parts, [read[row] for row in now], now)
        for row, part in zip(now, hidden.split([len(part) for part in parts]), strict=True):
            found[row].append(part @ body.output_matrix(model.head.weight))
            read[row] += len(part)
    for row, length in rows.items():
        zeros, positions = torch.zeros((1, length), dtype=torch.int32), torch.arange(length)[None]
        with torch.no_grad():
            expected = model.logits(torch.from_numpy(ids[row])[None], zeros, positions)[0]
        torch.testing.assert_close(torch.cat(found[row]).float(), expected, atol=1e-5, rtol=0)


def test_it_does_not_matter_where_rows_lie(model):
    body = CachedBody(model)
    ids = [np.array([BOS, 65, 66, 67]), np.array([BOS, 70])]
    hidden = [body.read(body.new_cache(4, 8), ids, [0, 0], rows) for rows in ([0, 1], [2, 3], [3, 1])]
    for other in hidden[1:]:
        torch.testing.assert_close(other, hidden[0], atol=1e-6, rtol=0)


def test_what_comes_out_is_plain_decoding(model):
    requests = requests_of(25)
    found = [result.ids for result in generated(model, requests, 8)]
    assert found == [plain(model, request) for request in requests]


def test_alone_and_in_batches_of_any_size_and_order_the_same(model):
    requests = requests_of(60, seed=1)
    alone = [result.ids for result in generated(model, requests, 1)]
    for num_rows in (5, 16):
        assert [result.ids for result in generated(model, requests, num_rows)] == alone
    order = random.Random(0).sample(range(60), 60)
    shuffled = generated(model, [requests[k] for k in order], 16)
    assert [result.ids for result in shuffled] == [alone[k] for k in order]


@pytest.mark.parametrize("prompt", [[BOS], [BOS, RAW_START], [BOS, RAW_START, 65]], ids=["opening", "no-bytes", "one-byte"])
def test_short_prompts(model, prompt):
    requests = [IdRequest(prompt_ids=prompt, max_ids=n, automaton=BYTES_AND_END) for n in (1, 2, 9)]
    one, two, nine = (result.ids for result in generated(model, requests, 4))
    assert (len(one), len(two), len(nine)) == (1, 2, 9)
    assert nine[:2] == two
    assert two[:1] == one


def test_a_full_row_ends_with_the_id_behind_its_last_position(model):
    full, almost = ([BOS, *range(n)] for n in (ROW_LENGTH - 1, ROW_LENGTH - 3))
    requests = [IdRequest(prompt_ids=prompt, max_ids=50, automaton=BYTES_AND_END) for prompt in (full, almost)]
    assert [len(result.ids) for result in generated(model, requests, 2)] == [1, 3]


def test_draws_are_numbered_on_where_a_row_goes_on(model):
    whole = IdRequest(prompt_ids=[BOS, 1, 2], max_ids=12, seed=5, temperature=1.0, automaton=BYTES_AND_END)
    first = generated(model, [whole], 1)[0].ids
    rest = IdRequest(prompt_ids=[BOS, 1, 2, *first[:7]], max_ids=5, seed=5, first_draw=7, temperature=1.0, automaton=BYTES_AND_END)
    assert generated(model, [rest], 1)[0].ids == first[7:]


def test_only_what_the_rules_allow_comes_out(model):
    """Two rows take turns between a and b, one may say only zeros: three tables in one pass."""
    turns = np.full((2, 384), -1, dtype=np.int16)
    turns[0, ord("a")], turns[1, ord("b")] = 1, 0
    zeros = np.full((1, 384), -1, dtype=np.int16)
    zeros[0, 0] = 0
    automata = [Automaton(turns), Automaton(turns, 1), Automaton(zeros), None]
    requests = [IdRequest(prompt_ids=[BOS], max_ids=5, temperature=1.0, automaton=automaton) for automaton in automata]
    found = [result.ids for result in generated(model, requests, 4)]
    assert [bytes(ids) for ids in found[:3]] == [b"ababa", b"babab", b"\0\0\0\0\0"]
    assert found[3] == generated(model, requests[3:], 1)[0].ids


def test_rules_keep_only_columns_that_are_possible():
    one, other = np.full((2, 6), -1, dtype=np.int16), np.full((1, 4), -1, dtype=np.int16)
    one[0, 1], one[1, 5], other[0, 3] = 1, 0, 0
    rules = Rules([one, other], 8)
    assert rules.columns.tolist() == [1, 3, 5]
    assert rules.bias is not None
    assert rules.bias.isfinite().tolist() == [[True, False, False], [False, False, True], [False, True, False]]
    assert rules.walk(0, 0, [1, 5]) == [0, 1, 0]
    assert rules.walk(1, 0, [3]) == [2, 2]
    assert Rules([other], 4).bias is None
    with pytest.raises(RequestError, match="6 ids and a model of 5"):
        Rules([one], 5)


class EndsAfter:
    """Keeps so many ids, and writes down what it was shown."""

    def __init__(self, number: int) -> None:
        self.left, self.seen = number, []

    def take(self, ids):
        self.seen.append(list(ids))
        if len(ids) >= self.left:
            return self.left
        self.left -= len(ids)
        return None


def test_a_watcher_sees_each_id_once_and_ends_the_row(model):
    everything = generated(model, [IdRequest(prompt_ids=[BOS], max_ids=30, automaton=BYTES_AND_END)], 1)[0].ids
    watchers = [EndsAfter(n) for n in (0, 1, 8, 30, 31)]
    requests = [IdRequest(prompt_ids=[BOS], max_ids=30, automaton=BYTES_AND_END, watcher=watcher) for watcher in watchers]
    results = generated(model, requests, 3)
    assert [result.ids for result in results] == [everything[:n] for n in (0, 1, 8, 30, 30)]
    for watcher in watchers:
        seen = [one for ids in watcher.seen for one in ids]
        assert seen == everything[: len(seen)]


def test_samples_of_a_prompt_read_it_once(model):
    prompt = [BOS, RAW_START, *b"def area(width, height):"]
    requests = [IdRequest(prompt_ids=prompt, max_ids=9, seed=k, temperature=1.0, automaton=BYTES_AND_END) for k in range(20)]
    results = generated(model, requests, 8)
    assert [result.num_shared for result in results] == [0] + [len(prompt) - 1] * 19
    assert [result.ids for result in results] == [generated(model, [request], 1)[0].ids for request in requests]
    assert len({tuple(result.ids) for result in results}) > 15


def test_prompts_share_their_common_begin(model):
    common = [BOS, RAW_START, *range(30)]
    requests = [IdRequest(prompt_ids=[*common, 200 + k, 7, 7], max_ids=6, automaton=BYTES_AND_END) for k in range(4)]
    engine = IdEngine(model, 4, ROW_LENGTH)
    results = generated(model, requests, 4, engine)
    assert [result.num_shared for result in results] == [0, 32, 32, 32]
    again = generated(model, requests, 4, engine)  # what rows held is still there, also of those that ended
    assert min(result.num_shared for result in again) >= 32
    assert [result.ids for result in again] == [result.ids for result in results]
    assert [result.ids for result in results] == [generated(model, [request], 1)[0].ids for request in requests]


def test_common_begins_of_what_rows_hold():
    assert common_length(np.array([1, 2, 3]), np.array([1, 2, 4, 5])) == 2
    assert common_length(np.array([1, 2]), np.array([1, 2, 3])) == 2
    assert common_length(np.array([], dtype=np.int64), np.array([1])) == 0
    held = HeldPrefixes(3)
    assert held.best(np.array([1])) == (0, 0)
    held.set(1, np.array([5, 6, 7]))
    held.set(2, np.array([5, 6]))
    assert held.best(np.array([5, 6, 7, 8])) == (1, 3)
    assert held.best(np.array([5, 6])) == (1, 2)
    held.move(1, 0)
    assert (held.best(np.array([5, 6, 7])), held.length(1)) == ((0, 3), 0)


def test_equal_logits_are_settled_for_the_lowest_id():
    """Every id has an equal twin 100 ids up: float32 may prefer either, by the shape of the batch."""
    model = small_model()
    with torch.no_grad():
        model.head.weight[100:200] = model.head.weight[:100]
        model.head.weight[200:] = 0
    requests = [IdRequest(prompt_ids=[BOS, k], max_ids=20) for k in range(8)]
    results = [generated(model, requests, num_rows) for num_rows in (1, 8)]
    assert [result.ids for result in results[0]] == [result.ids for result in results[1]]
    ids = {one for result in results[0] for one in result.ids}
    assert not ids & set(range(100, 200))
    assert sum(result.num_repeated for result in results[0]) > 100


def test_draws_have_addresses():
    draws = KeyedDraws(7)
    row = np.concatenate([KeyedDraws(7).at(k, 1) for k in range(600)])
    for first, count in ((250, 9), (0, 3), (512, 80), (255, 300), (3, 0)):
        np.testing.assert_array_equal(draws.at(first, count), row[first : first + count])
    assert 0 <= row.min() < 0.01
    assert 0.99 < row.max() < 1
    assert not np.array_equal(row[:9], KeyedDraws(8).at(0, 9))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_ids=st.integers(1, 40),
    sampler=st.builds(
        Sampler,
        temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
        top_p=st.sampled_from([1.0, 0.95, 0.4]),
        top_k=st.sampled_from([0, 1, 3, 50]),
    ),
)
def test_choices_of_many_rows_are_those_written_out(seed, num_ids, sampler):
    """Wherever a choice is sure. With steps of 0.5 many logits are equal, and then it must not be sure."""
    rng = np.random.default_rng(seed)
    logits_NV = rng.normal(size=(6, num_ids)) * 3
    logits_NV[3:] = np.round(logits_NV[3:] * 2) / 2
    logits_NV[:, num_ids // 2 + 1 :: 3] = -np.inf
    u_N = rng.random(6)
    chosen, unsure = choose(torch.from_numpy(logits_NV.astype(np.float32)), u_N, [sampler] * 6)
    for n in range(6):
        if not unsure[n]:
            assert chosen[n] == choose_exactly(logits_NV[n].astype(np.float32).astype(np.float64), u_N[n], sampler)
        assert logits_NV[n, chosen[n]] > -np.inf


def test_a_choice_within_rounding_of_another_is_unsure():
    u = np.array([0.2])
    near, far = (torch.tensor([[1.0, 1.0 + gap, -5.0]]) for gap in (1e-5, 1e-2))
    assert [choose(logits, u, [Sampler()])[1].item() for logits in (near, far)] == [True, False]
    half = torch.tensor([[0.0, 0.0]])
    found = [choose(half, np.array([0.5 + d]), [Sampler(temperature=1.0)]) for d in (-1e-3, -1e-7, 1e-7, 1e-3)]
    assert [(int(chosen[0]), bool(unsure[0])) for chosen, unsure in found] == [(0, False), (0, True), (1, True), (1, False)]
    mixed = choose(torch.tensor([[0.0, 3.0]] * 2), np.array([0.01, 0.01]), [Sampler(), Sampler(temperature=1.0)])
    assert mixed[0].tolist() == [1, 0]


def test_bad_requests_are_refused():
    with pytest.raises(RequestError, match="float32"):
        IdEngine(small_model().to(torch.bfloat16), 2, 8)
    with pytest.raises(RequestError, match="at least 1"):
        IdEngine(small_model(), 0, 8)


def test_work_that_is_dropped_leaves_no_trace(model):
    engine = IdEngine(model, 2, ROW_LENGTH)
    requests = requests_of(4, seed=3)
    expected = [result.ids for result in generated(model, requests, 2)]
    engine.add(requests[2])
    engine.step()
    engine.clear()
    assert engine.num_free == 2
    assert [result.ids for result in generated(model, requests, 2, engine)] == expected
