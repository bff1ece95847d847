"""Bytes in, bytes out: one completion whatever else runs, stops and limits by bytes, rows read again, any kind of view."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors import registry
from proxy_lm.config import validate
from proxy_lm.errors import RequestError
from proxy_lm.infer.completion import key_of_draws
from proxy_lm.infer.draws import KeyedDraws, Sampler, choose_exactly
from proxy_lm.infer.generator import Completion, Generator, Prompt, Sampling
from proxy_lm.infer.id_request import IdResult
from proxy_lm.infer.prompts import continued
from proxy_lm.model.decoder import Decoder
from proxy_lm.train.restore import LoadedModel
from proxy_lm.train.settings import RunSettings
from proxy_lm.train.weights import WEIGHTS_NAME
from proxy_lm.vocabulary import BOS, EOS, RAW_END, RAW_START, Vocabulary

ROW_LENGTH = 40
SAMPLED = Sampling(temperature=1.0, top_k=40, top_p=0.95, seed=3)
Opens = Callable[..., Generator]


@pytest.fixture(scope="module")
def opens(pytestconfig: pytest.Config) -> Opens:
    """A generator of random weights, drawn wide enough that bytes differ; `name` one of the golden views, or raw."""

    held: dict[str, Generator] = {}

    def opened(name: str = "raw", **options: object) -> Generator:
        key = repr((name, sorted(options.items())))
        if key not in held:
            held[key] = made(name, **options)  # type: ignore[arg-type]
        return held[key]

    def made(name: str, *, mix: dict[str, object] | None = None, num_raw_heads: int = 0, **options: object) -> Generator:
        folder = pytestconfig.rootpath / "tests" / "golden" / "views" / name
        views = {} if name == "raw" else {name: str(folder)}
        prints = {} if name == "raw" else {name: registry.fingerprint(registry.load(folder))}
        sizes = [] if name == "raw" else [(name, registry.load(folder).alphabet_size)]
        shape = {"preset": None, "width": 32, "depth": 2, "num_heads": 2, "hidden": 64, "num_raw_heads": num_raw_heads}
        mix = mix or ({} if name == "raw" else {"rate": 1.0})
        given = {"name": "t", "corpus": "c", "views": views, "mix": mix, "model": shape, "row_length": ROW_LENGTH, "num_steps": 1}
        run = validate(RunSettings, given, source="the test")
        vocabulary = Vocabulary(sizes)
        model = Decoder(run.model, vocabulary.size, ROW_LENGTH, num_views=len(sizes), seed=5).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)
        manifest = {"state": {"fingerprints": prints}, "files": [{"name": WEIGHTS_NAME, "sha256": "0" * 64}]}
        loaded = LoadedModel(
            model=model,
            vocabulary=vocabulary,
            settings=run,
            views={name: folder} if views else {},
            run=run.folder,
            step=7,
            manifest=manifest,
        )
        return Generator(loaded, **options)  # type: ignore[arg-type]

    return opened


def one(generator: Generator, data: bytes, sampling: Sampling | None = None, **rest: object) -> Completion:
    [completion] = generator.generate([Prompt(data=data, **rest)], sampling or Sampling())  # type: ignore[arg-type]
    return completion


@torch.no_grad()
def slow(generator: Generator, data: bytes, max_bytes: int, sampling: Sampling) -> bytes:
    """The twin: every byte from a float64 forward over the whole row; a full row's last half begins the next; draw i decides byte i."""
    row, out, length = [BOS, RAW_START, *data], b"", generator.loaded.settings.row_length
    model = copy.deepcopy(generator.loaded.model).double()
    draws = KeyedDraws(key_of_draws(sampling.seed, 0)).at(0, max_bytes)
    allowed = [*range(256), EOS, RAW_END]
    while len(out) < max_bytes:
        while len(row) > length:
            row = row[length - length // 2 :]
        ids = torch.tensor([row])
        logits = model.logits(ids, torch.zeros_like(ids, dtype=torch.int32), torch.arange(len(row)).unsqueeze(0))[0, -1]
        sampler = Sampler(sampling.temperature, sampling.top_p, sampling.top_k)
        best = allowed[choose_exactly(logits[allowed].numpy(), draws[len(out)], sampler)]
        if best >= 256:
            break
        row.append(best)
        out += bytes([best])
    return out


def test_ids_of_prompts(opens):
    assert opens().teller.tell(Prompt(data=b"ab")).ids == [BOS, RAW_START, 97, 98]
    spm = opens("spm")
    view, symbols = spm.loaded.vocabulary.view("spm"), registry.load(spm.loaded.views["spm"]).encode(b"def f(x):").tolist()
    assert spm.teller.tell(Prompt(data=b"def f(x):")).ids == [BOS, view.start_id, *(view.first_id + symbol for symbol in symbols)]
    healed = opens("spm", healing=True).teller.tell(Prompt(data=b"def f(x):\n    retur"))
    assert healed.tail.endswith(b"retur")
    spelled = b"".join(spm.teller.spelling[symbol] for symbol in healed.symbols)
    assert spelled + healed.tail == b"def f(x):\n    retur"


@pytest.mark.parametrize(("spm_share", "expected"), [(0.5, [293, 97, 295, 98, 294]), (1.0, [293, 295, 98, 294, 97])])
def test_ids_with_a_suffix(opens, spm_share, expected):
    generator = opens(mix={"fim": {"rate": 0.5, "spm_share": spm_share}})
    told = generator.teller.tell(Prompt(data=b"a", suffix=b"b"))
    assert told.ids == [BOS, RAW_START, *expected]
    long = generator.teller.tell(Prompt(data=b"x" * 90 + b"a", suffix=b"b" + b"y" * 90, max_bytes=100))
    assert long.num_cut == 1
    assert len(long.ids) == ROW_LENGTH - ROW_LENGTH // 4
    assert (97 in long.ids, 98 in long.ids) == (True, True)  # what lies nearest to the middle stays
    assert one(generator, b"a", suffix=b"b", max_bytes=5).data


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_equals_the_slow_twin_also_over_several_rows(opens, sampling):
    generator = opens()
    for data in (b"", b"a", b"hello, world", b"z" * 39, b"0123456789" * 9):
        completion = one(generator, data, sampling, max_bytes=70)
        assert completion.data == slow(generator, data, 70, sampling)
        num_read = 2 + len(data) + len(completion.data) - (completion.reason == "length")
        assert completion.num_rereads == continued(num_read, ROW_LENGTH)[1]


def test_rows_continued():
    # Rows of 4: ids 0-3, then 2-5, then 4-7.
    assert [continued(n, 4) for n in range(1, 10)] == [*[(0, 0)] * 4, *[(2, 1)] * 2, *[(4, 2)] * 2, (6, 3)]
    assert [continued(n, 5) for n in range(5, 10)] == [(0, 0), *[(3, 1)] * 3, (6, 2)]


def test_a_completion_of_a_completion_is_its_rest(opens):
    """Nothing is forgotten between calls, also where a row was full in between."""
    generator = opens()
    whole = one(generator, b"begin", max_bytes=90).data
    for cut in range(0, 90, 7):
        assert one(generator, b"begin" + whole[:cut], max_bytes=90 - cut).data == whole[cut:]


@pytest.mark.parametrize("name", ["raw", "spm", "healed", "nibble"])
@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_alone_as_in_any_batch_and_streamed(opens, name, sampling):
    texts = [b"", b"x", b"def f(x):\n    retur", b"import os\n" * 6, b"naive \xc3", b"a b c d e"]
    prompts = [Prompt(data=text, max_bytes=50 + 9 * k, seed=k, stop=(b"zq", b"\x00\x01")) for k, text in enumerate(texts)]
    options = {"healing": True} if name == "healed" else {}
    generator = opens("spm" if name == "healed" else name, num_rows=4, **options)
    together = list(generator.generate(prompts, sampling))
    alone = opens("spm" if name == "healed" else name, num_rows=1, **options)
    assert [completion.data for completion in alone.generate(prompts, sampling)] == [completion.data for completion in together]
    for prompt, completion in zip(prompts, together, strict=True):
        assert b"".join(generator.stream(prompt, sampling)) == completion.data


def test_drafts_change_nothing_but_the_time(opens):
    generator = opens(num_raw_heads=3)
    prompts = [Prompt(data=bytes([65 + k]) * k, max_bytes=60, seed=k) for k in range(5)]
    for sampling in (Sampling(), SAMPLED):
        drafted = list(generator.generate(prompts, sampling))
        plain = list(generator.generate(prompts, sampling.model_copy(update={"speculate": False})))
        assert [completion.data for completion in drafted] == [completion.data for completion in plain]
        assert all(completion.num_accepted <= completion.num_drafted for completion in drafted)
        assert all((completion.num_drafted, completion.num_passes >= len(completion.data)) == (0, True) for completion in plain)


def test_seeds(opens):
    generator = opens()
    prompts = [Prompt(data=b"x", max_bytes=40, seed=seed) for seed in (0, 1, 0)]
    first, second, again = (completion.data for completion in generator.generate(prompts, SAMPLED))
    assert first == again
    assert first != second
    assert one(generator, b"x", SAMPLED.model_copy(update={"seed": 4}), max_bytes=40).data != first


@pytest.mark.parametrize("name", ["raw", "spm", "nibble"])
def test_stops_and_limits_cut_at_any_byte(opens, name):
    """Of the bytes that would come: those before the first stop sequence, or the first `max_bytes`; a symbol may hold more."""
    generator = opens(name)
    prompts = [bytes([byte]) for byte in range(65, 91)]
    prompt = next(prompt for prompt in prompts if len(one(generator, prompt, max_bytes=48).data) == 48)
    whole = one(generator, prompt, max_bytes=48).data
    for limit in range(1, 49, 5):
        limited = one(generator, prompt, max_bytes=limit)
        assert (limited.data, limited.reason) == (whole[:limit], "length")
    for begin in range(0, 40, 5):
        stop = whole[begin : begin + 3]
        stopped = one(generator, prompt, max_bytes=48, stop=(stop, b"never there"))
        assert (stopped.data, stopped.reason, stopped.stop) == (whole[: whole.index(stop)], "stop", stop)
        assert b"".join(generator.stream(Prompt(data=prompt, max_bytes=48, stop=(stop, b"never there")))) == stopped.data
    for limit, reason in ((10, "length"), (11, "stop")):  # one byte too late, and just in time
        assert one(generator, prompt, max_bytes=limit, stop=(whole[:11],)).reason == reason


@settings(max_examples=12, deadline=None)
@given(st.text(max_size=6), st.integers(0, 30), st.integers(1, 20), st.integers(0, 1000))
def test_valid_utf8_of_any_prompt(opens, text, cut, max_bytes, seed):
    prompt = Prompt(data=text.encode()[:cut], max_bytes=max_bytes)
    for name, healing in (("raw", False), ("spm", False), ("spm", True)):
        generator, sampling = opens(name, healing=healing), Sampling(temperature=1.0, valid_utf8=True, seed=seed)
        [completion] = generator.generate([prompt], sampling)
        assert len(completion.data) <= max_bytes
        so_far = b""
        for part in generator.stream(prompt, sampling):
            so_far += part
            (prompt.data + so_far).decode()  # complete characters only
        assert so_far == completion.data


def test_the_end_of_a_document_ends_it(opens):
    generator = opens()
    prompts = [Prompt(data=b"", max_bytes=400, seed=seed) for seed in range(12)]
    ended = [completion for completion in generator.generate(prompts, Sampling(temperature=2.0)) if completion.reason == "end"]
    assert ended
    assert all(len(completion.data) < 400 for completion in ended)


def test_two_at_once_and_one_left_alone(opens):
    generator = opens()
    prompts = [Prompt(data=b"a" * k, max_bytes=30) for k in range(4)]
    expected = list(generator.generate(prompts))
    first, second = generator.generate(prompts), generator.generate(prompts)
    mixed = [next(first), next(second), next(first)]  # equal but for passes: what was said once is drafted
    assert [completion.data for completion in mixed] == [expected[k].data for k in (0, 0, 1)]
    first.close()
    third = generator.generate([Prompt(data=b"a", max_bytes=1), Prompt(data=b"a", max_bytes=30)])
    assert next(third).data == expected[1].data[:1]
    third.close()
    assert [engine.num_busy for engine in generator._idle] == [0]  # what was left alone costs nothing any more
    assert [completion.data for completion in second] == [completion.data for completion in expected[1:]]
    assert [completion.data for completion in generator.generate(prompts)] == [completion.data for completion in expected]
    assert list(generator.generate([])) == []


def told(generator: Generator, data: bytes, ids: list[int], **rest: object) -> Completion:
    """The completion of a prompt whose ids are given, as an engine would give them."""
    progress = generator.progress(Prompt(data=data, **rest), Sampling())  # type: ignore[arg-type]
    result = IdResult(progress.request())
    for index in range(len(ids)):
        kept = progress.take(ids[index : index + 1])
        if kept is not None and progress.take_result(result):
            break
    assert progress.completion is not None
    return progress.completion


@pytest.mark.parametrize("name", ["spm", "phrases", "table", "nibble", "bit", "segments", "stream", "cached", "as-bytes-spm-gray", "hf"])
def test_symbols_of_a_document_become_its_bytes(opens, name):
    """Prompt in symbols, the rest as if generated: whatever a view can say of its symbols, the bytes are those of the document."""
    generator = opens(name)
    view, compressor = generator.loaded.vocabulary.view(name), generator.teller.compressor
    assert compressor is not None
    document = b"def area(width, height):\n    return width * height\n\n\nprint(area(2, 3))\n"
    symbols = compressor.encode(document).tolist()
    for cut in (0, 9, 24, 40):
        opening = compressor.encode(document[:cut]).tolist()
        if opening != symbols[: len(opening)] or (cut and len(compressor.decode(compressor.encode(document)[: len(opening)])) != cut):
            continue  # the prompt ends inside a symbol of the document
        ids = [view.first_id + symbol for symbol in symbols[len(opening) :]] + [view.end_id]
        completion = told(generator, document[:cut], ids, max_bytes=200)
        assert (completion.data, completion.reason, completion.num_unspelled) == (document[cut:], "end", 0)
        stopped = told(generator, document[:cut], ids, max_bytes=200, stop=(b"print",))
        assert stopped.data == document[cut : document.index(b"print")]
        assert told(generator, document[:cut], ids, max_bytes=7).data == document[cut : cut + 7]


@pytest.mark.parametrize("name", ["spm", "phrases", "table"])
def test_healed_symbols_of_a_document_give_what_follows_the_prompt(opens, name):
    """The bytes that the first symbols tell again are the prompt's and not the completion's."""
    generator = opens(name, healing=True)
    view, compressor = generator.loaded.vocabulary.view(name), generator.teller.compressor
    assert compressor is not None
    document = b"def area(width, height):\n    return width * height\n"
    symbols, num_seen = compressor.encode(document).tolist(), 0
    for cut in range(0, len(document), 2):
        prompt = generator.teller.tell(Prompt(data=document[:cut]))
        if prompt.symbols != symbols[: len(prompt.symbols)]:
            continue  # the view tells the prompt's begin in another way than the document's
        num_seen += bool(prompt.tail)
        ids = [view.first_id + symbol for symbol in symbols[len(prompt.symbols) :]] + [view.end_id]
        assert told(generator, document[:cut], ids).data == document[cut:]
        assert told(generator, document[:cut], ids, stop=(b"return",)).data == document[cut:].split(b"return")[0]
    assert num_seen > 8


def test_symbols_that_no_document_has_are_counted(opens):
    generator = opens("as-bytes-spm-gray")
    view, compressor = generator.loaded.vocabulary.view("as-bytes-spm-gray"), generator.teller.compressor
    assert compressor is not None
    for length in range(0, 90, 7):
        document = (b"def f(x):\n    return x\n" * 4)[:length]
        ids = [view.first_id + symbol for symbol in [*compressor.encode(document).tolist(), 0]]  # half a symbol of the view inside
        completion = told(generator, b"", [*ids, view.end_id])
        assert (completion.data, completion.num_unspelled) == (document, 1)


def test_no_end_inside_a_character(opens):
    for data, can_end in ((b"a", True), (b"\xc3", False), (b"\xe5\x8c", False), (b"\xe5\x8c\x97", True)):
        rules = opens().progress(Prompt(data=data), Sampling(valid_utf8=True)).request().automaton
        assert rules is not None
        assert [rules.next_state[rules.start, one] >= 0 for one in (RAW_END, EOS)] == [can_end, can_end]


def test_a_view_without_spans_tells_whole_documents_only(opens):
    generator = opens("gzip")
    view, compressor = generator.loaded.vocabulary.view("gzip"), generator.teller.compressor
    assert compressor is not None
    ids = [view.first_id + symbol for symbol in compressor.encode(b"a whole document").tolist()]
    assert told(generator, b"", [*ids, view.end_id]).data == b"a whole document"
    assert told(generator, b"", [*ids[:-1], view.end_id]).num_unspelled == len(ids) - 1
    with pytest.raises(RequestError, match="give an empty prompt for a whole document, or another view"):
        one(generator, b"begin")


def test_a_prompt_that_the_view_cannot_express_is_told_raw(opens):
    generator = opens("hf")
    completion = one(generator, b"\xff\xfe", max_bytes=9)
    assert (completion.told_raw, len(completion.data)) == (True, 9)
    assert not one(generator, b"ab", max_bytes=9).told_raw
    # Healed, half a character is told again by symbols that complete it.
    assert generator.teller.spelling is not None
    healed = opens("hf", healing=True).teller.tell(Prompt(data=b"ab \xe5\x8c"))
    assert (healed.raw, healed.tail.endswith(b"\xe5\x8c")) == (False, True)


@pytest.mark.parametrize(
    ("name", "options", "prompt", "sampling", "sentence"),
    [
        ("raw", {}, {"max_bytes": 0}, {}, "give at least 1"),
        ("raw", {}, {"stop": (b"",)}, {}, "at least one byte"),
        ("raw", {}, {"suffix": b"x"}, {}, "train with mix.fim.rate above 0"),
        ("raw", {"num_rows": 0}, {}, {}, "give at least 1"),
        ("raw", {"view": "spm"}, {}, {}, "the run has no view 'spm'"),
        ("spm", {"mix": {"rate": 0.5, "fim": {"rate": 0.5}}, "view": "spm"}, {"suffix": b"x"}, {}, "ask with --view raw"),
        ("nibble", {"healing": True}, {}, {}, "ask without healing"),
        ("nibble", {}, {}, {"valid_utf8": True}, "cannot be held to valid UTF-8"),
        ("stream-inexact", {}, {}, {}, "does not promise to give documents back"),
    ],
)
def test_what_cannot_be_asked_is_refused(opens, name, options, prompt, sampling, sentence):
    with pytest.raises(RequestError, match=sentence):
        one(opens(name, **options), b"a", Sampling(**sampling), **prompt)


def test_identity_names_the_weights_and_the_reading(opens):
    digest = "0" * 64
    assert opens().identity == {"checkpoint": {"step": 7, "digest": digest}, "view": "raw", "healing": False}
    assert opens("spm", healing=True).identity == {"checkpoint": {"step": 7, "digest": digest}, "view": "spm", "healing": True}
    with pytest.raises(RequestError, match="there is nothing to heal; ask without healing"):
        opens("raw", healing=True)
