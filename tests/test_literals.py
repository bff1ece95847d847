"""Shared literals: a symbol that stands for one byte has that byte's id, in every place that computes or reads ids.

Expected ids are written out. Runs are trained for a few steps on them, as users train, and what is measured of the runs is recomputed the
slow way or held against what must be equal.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import yaml

from compressors import registry
from eval import cli
from eval.bpb import EvaluationSettings, evaluate
from eval.continuations import Continuations
from eval.free_running import max_ids, write_rows
from eval.opened import open_run
from eval.stretches import Stretch, told_after, told_alone
from eval.teacher import ask
from eval.translate import TranslateSettings, translate
from proxy_lm.config import validate
from proxy_lm.data.encoding import encode_corpus
from proxy_lm.errors import RequestError
from proxy_lm.export.llama import llama_weights
from proxy_lm.infer.asked import Prompt, Sampling
from proxy_lm.infer.engine import IdEngine
from proxy_lm.infer.generator import Generator
from proxy_lm.train.inputs import open_inputs
from proxy_lm.train.restore import load_model
from proxy_lm.train.settings import RunSettings
from proxy_lm.view_training import train_view
from proxy_lm.vocabulary import BOS, EOS, RAW_END, Vocabulary, literals_of

SPELLING = [b"", b"a", b"ab", b"a", b"\xff", b"\xc3\xa9"]  # the byte 97 twice, as SentencePiece has letters
ROW_LENGTH = 512
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def spm(tiny_run):
    """A SentencePiece view of the corpus: its folder."""
    folder = tiny_run.folder / "literals" / "spm"
    train_view("spm", tiny_run.corpus, folder, options={"alphabet_size": 400})
    encode_corpus(tiny_run.corpus, folder, folder, num_workers=1)
    return folder


@pytest.fixture(scope="module")
def settings_of(tiny_run, spm):
    """`settings_of(name, **changes)`: plain settings of a run with the view and shared literals."""

    def settings(name, **changes):
        shared = {"views": {"spm": str(spm)}, "literals": "shared", "row_length": ROW_LENGTH, "rows_per_step": 4, "num_steps": 4}
        return tiny_run.settings(f"literals-{name}", **{**shared, **changes})

    return settings


@pytest.fixture(scope="module")
def tokens(tiny_run, settings_of):
    """A run told by tokens alone."""
    tiny_run.train(tiny_run.write(settings_of("tokens", mix={"rate": 1.0}, optimizer={"learning_rate": 0.02})))
    return tiny_run.folder / "runs" / "literals-tokens"


@pytest.fixture(scope="module")
def proxy(tiny_run, settings_of):
    """A run told raw, by tokens, and by both in one row; with both kinds of extra heads."""
    model = {"preset": None, "width": 32, "depth": 2, "num_heads": 2, "hidden": 64, "num_raw_heads": 1, "num_symbol_heads": 1}
    tiny_run.train(tiny_run.write(settings_of("proxy", mix={"rate": 0.4, "pair": 0.4}, model=model)))
    return tiny_run.folder / "runs" / "literals-proxy"


def slow_ids(compressor, first_id, symbols):
    """The ids as the setting says them: a byte's own for what spells one byte, for the others a number of their own from `first_id` on."""
    table, own = [], first_id
    for text in compressor.spelling():
        table.append(text[0] if len(text) == 1 else own)
        own += len(text) != 1
    return [table[symbol] for symbol in symbols]


@torch.no_grad()
def nats_after(model, ids):
    """Nats of every id that could follow, one pass over nothing but these ids."""
    places = torch.arange(len(ids), dtype=torch.int32)[None]
    logits = model.logits(torch.tensor([ids]), torch.zeros_like(places), places)[0, -1].double()
    return (-torch.log_softmax(logits, dim=0)).numpy()


def test_one_byte_has_one_id():
    vocabulary = Vocabulary([("v", 6), ("w", 2)], {"v": literals_of("v", SPELLING)})
    v, w = vocabulary.views
    assert v.literals == ((1, 97), (3, 97), (4, 255))
    assert v.to_ids(np.arange(6)).tolist() == [320, 97, 321, 97, 255, 322]
    assert v.ids.tolist() == [97, 255, 320, 321, 322]
    assert v.to_symbols(np.array([322, 97, 320, 255])).tolist() == [5, 1, 0, 4]
    assert [v.to_symbol(one) for one in (322, 97, 320, 255)] == [5, 1, 0, 4]
    assert (w.first_id, w.to_ids(np.arange(2)).tolist(), w.ids.tolist()) == (323, [323, 324], [323, 324])
    assert vocabulary.num_ids == 325


def test_ids_are_those_of_before_where_literals_are_separate():
    (v,) = Vocabulary([("v", 6)]).views
    ids = np.zeros(6, dtype=np.int64)
    assert v.to_ids(np.arange(6, dtype=np.uint16), out=ids).tolist() == ids.tolist() == [320, 321, 322, 323, 324, 325]
    assert v.to_symbols(ids).tolist() == [0, 1, 2, 3, 4, 5]
    assert (v.to_symbol(322), v.ids.tolist(), v.num_own_ids) == (2, ids.tolist(), 6)


def test_literals_that_are_none_of_the_view_are_refused():
    with pytest.raises(RequestError, match=r"\(6, 97\) is no literal of view 'v'"):
        Vocabulary([("v", 6)], {"v": ((6, 97),)})
    with pytest.raises(RequestError, match=r"\(1, 97\) is no literal of view 'v'"):
        Vocabulary([("v", 6)], {"v": ((1, 97), (1, 97))})
    with pytest.raises(RequestError, match=r"no symbol of view 'v' stands for one byte.*use literals=separate"):
        literals_of("v", [b"", b"ab"])


def test_a_view_without_literals_is_refused_with_the_remedy(tiny_run, settings_of):
    gzip = settings_of("gzip", views={"gzip": str(tiny_run.folder / "gzip")}, mix={"rate": 1.0})
    with pytest.raises(RequestError, match=r"view 'gzip' do not stand for the same bytes.*use literals=separate"):
        open_inputs(validate(RunSettings, gzip, "test"), 1, verify=False)
    raw = settings_of("raw", views={}, mix={"rate": 0.0})
    assert open_inputs(validate(RunSettings, raw, "test"), 1, verify=False).vocabulary.size == 320  # nothing to share, nothing to refuse


def test_rows_are_the_same_but_for_their_ids(settings_of, spm):
    mix = {"rate": 0.5, "pair": 0.3, "splice": 0.1}
    separate, shared = (
        open_inputs(validate(RunSettings, settings_of("rows", literals=literals, mix=mix), "test"), 1, verify=False)
        for literals in ("separate", "shared")
    )
    assert separate.plan.digest == shared.plan.digest
    spelling = registry.load(spm).spelling()
    num_literals = sum(len(text) == 1 for text in spelling)
    assert num_literals > 256  # letters twice: as bytes and as characters
    assert shared.vocabulary.num_ids == separate.vocabulary.num_ids - num_literals == 320 + 400 - num_literals
    old, new = separate.reader.read(range(16)), shared.reader.read(range(16))
    for name in ("segments", "positions", "views", "source_bytes", "num_documents", "num_symbols"):
        assert np.array_equal(getattr(old, name), getattr(new, name)), name
    assert old.digest == new.digest
    told = new.views == 1
    assert told.sum() > 500
    assert np.array_equal(old.ids[~told], new.ids[~told])
    symbols = old.ids[told] - 320
    assert new.ids[told].tolist() == slow_ids(registry.load(spm), 320, symbols.tolist())
    assert (new.ids[told] < 256).any()
    back = shared.vocabulary.view("spm").to_symbols(new.ids[told])
    assert [spelling[symbol] for symbol in back] == [spelling[symbol] for symbol in symbols]


def test_the_run_records_its_ids_and_does_not_continue_with_others(tiny_run, settings_of, tokens):
    record = json.loads((tokens / "run.json").read_text())
    literals = sum(len(text) == 1 for text in registry.load(tokens.parent.parent / "literals" / "spm").spelling())
    size = -(-(320 + 400 - literals) // 64) * 64
    assert record["vocabulary"] == {"size": size, "views": [["spm", 400]], "literals": {"spm": literals}}
    assert record["identity"]["vocabulary"] == record["vocabulary"]
    loaded = load_model(tokens)
    assert loaded.vocabulary.size == loaded.model.vocabulary_size == size
    assert len(loaded.vocabulary.view("spm").literals) == literals
    separate = settings_of("tokens", mix={"rate": 1.0}, optimizer={"learning_rate": 0.02}, literals="separate")
    output = tiny_run.train(tiny_run.write(separate), code=2)
    assert "literals: 'shared' -> 'separate'" in output


def test_bits_per_byte_of_tokens_are_those_of_the_symbols(tiny_run, tokens):
    loaded = load_model(tokens)
    compressor, view = registry.load(loaded.views["spm"]), loaded.vocabulary.view("spm")
    nats = num_bytes = 0.0
    for index in tiny_run.corpus.splits["test"]:
        document = tiny_run.corpus.document(index)[:400]
        ids = [BOS, view.start_id, *slow_ids(compressor, 320, compressor.encode(document).tolist()), view.end_id, EOS]
        places = torch.arange(len(ids), dtype=torch.int32)[None]
        with torch.no_grad():
            chances = torch.log_softmax(loaded.model.logits(torch.tensor([ids]), torch.zeros_like(places), places).double(), dim=-1)[0]
        expected = -float(sum(chances[t - 1, ids[t]] for t in range(2, len(ids) - 2)))
        found = open_run(tokens, device="cpu", context_bytes=512).scorer.rolling(document)
        assert float(found.nll_nats.sum()) == pytest.approx(expected, rel=1e-5)
        nats, num_bytes = nats + expected, num_bytes + len(document)
    whole = evaluate(tokens, EvaluationSettings(context_bytes=512, stride_bytes=256, device="cpu")).result
    assert whole["view"] == "spm"
    assert whole["num_documents_read_raw"] == 0
    assert whole["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=0.2)  # whole documents, in windows


def test_a_proxy_run_has_bits_per_byte_of_both_readings(proxy):
    (first, *_), *_ = [json.loads((proxy / "run.json").read_text())["validation"]]
    assert set(first["bits_per_byte"]) == {"raw", "spm"}
    raw, told = (
        evaluate(proxy, EvaluationSettings(view=view, context_bytes=256, stride_bytes=128, device="cpu")).result for view in ("raw", "spm")
    )
    assert (raw["num_symbols"], told["num_bytes"]) == (raw["num_bytes"], raw["num_bytes"])
    assert 5 < raw["bits_per_byte"] < 9
    assert told["num_symbols"] < raw["num_symbols"]


def random_weights(model, seed):
    """Weights that say something else after every id."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)


def written_by_hand(model, by_id, begin, tail, ends):
    """The most probable ids behind `begin` that first spell `tail`, and what they spell: at least 24 bytes more, or up to an end."""
    ids, spelled = list(begin), b""
    while len(spelled) < len(tail) + 24 and ids[-1] not in ends:
        left, nats = tail[len(spelled) :], nats_after(model, ids)
        possible = [one for one, text in by_id.items() if text.startswith(left) or left.startswith(text)]
        ids.append(min([*possible, *(() if left else ends)], key=lambda one: (nats[one], one)))
        spelled += by_id.get(ids[-1], b"")
    return ids[len(begin) :], spelled


@pytest.mark.parametrize("healing", [False, True])
@pytest.mark.parametrize("which", ["tokens", "proxy"])
def test_generated_tokens_are_the_most_probable_of_the_view(which, healing, request):
    loaded = load_model(request.getfixturevalue(which))
    compressor, view = registry.load(loaded.views["spm"]), loaded.vocabulary.view("spm")
    by_id = {one: text for one, text in zip(slow_ids(compressor, 320, range(400)), compressor.spelling(), strict=True) if text}
    prompt = b"def f(self):\n    ret"
    generator = Generator(loaded, view="spm", healing=healing)
    symbols, tail = compressor.encode(prompt).tolist(), b""
    if healing:
        healed = generator.teller.healer.heal(prompt, symbols)
        symbols, tail = symbols[: healed.num_kept], healed.tail
    assert bool(tail) == healing
    begin = [BOS, view.start_id, *slow_ids(compressor, 320, symbols)]
    for seed in range(40):  # until what is written has ids of bytes and ids of the view
        random_weights(loaded.model, seed)
        written, spelled = written_by_hand(loaded.model, by_id, begin, tail, (view.end_id, EOS))
        if min(written) < 256 and any(one >= 320 for one in written):
            break
    else:
        pytest.fail("no weights write ids of both kinds")
    assert spelled.startswith(tail)
    generator = Generator(loaded, view="spm", healing=healing)
    for speculate in (False, True):
        (found,) = generator.generate([Prompt(data=prompt, max_bytes=24)], Sampling(speculate=speculate))
        assert found.data == spelled[len(tail) :][:24]
        assert not found.told_raw


def test_generation_in_a_view_is_held_to_its_rules(tokens):
    loaded = load_model(tokens)
    sampling = Sampling(temperature=1.5, valid_utf8=True, seed=3)
    prompts = [Prompt(data="return caf\u00e9".encode()[:cut], max_bytes=40, seed=cut) for cut in (6, 8, 10, 11)]
    for healing in (False, True):
        generator = Generator(loaded, healing=healing)
        found = list(generator.generate(prompts, sampling))
        assert found == list(Generator(loaded, healing=healing, num_rows=1).generate(prompts, sampling))
        for prompt, completion in zip(prompts, found, strict=True):
            (prompt.data + completion.data).decode()  # valid, also where the prompt ends inside a character
            if healing or prompt.data[-1] < 128:
                assert not completion.told_raw


@pytest.mark.parametrize("healing", [False, True])
def test_the_cost_of_lines_equals_a_slow_twin(tokens, healing):
    opened = open_run(tokens, device="cpu", healing=healing)
    compressor, view = opened.reading.compressor, opened.reading.view
    spelling, table = compressor.spelling(), slow_ids(compressor, 320, range(400))
    pairs = [(b"import js", b"on\nimport os\n"), (b"x = 1\n    retu", b"rn x"), (b"q", b"ueue\n")]
    continuations = Continuations(opened)
    num_told_again = 0
    for (prompt, rest), cost in zip(pairs, continuations.nats(pairs), strict=True):
        symbols, tail = compressor.encode(prompt).tolist(), b""
        if healing:
            healed = continuations.teller.healer.heal(prompt, symbols)
            symbols, tail = symbols[: healed.num_kept], healed.tail
        num_told_again += len(tail)
        ids, expected = [BOS, view.start_id, *(table[symbol] for symbol in symbols)], 0.0
        for symbol in compressor.encode(tail + rest).tolist():
            nats = nats_after(opened.loaded.model, ids)
            expected += nats[table[symbol]]
            if tail:  # among the ids that spell the tail; a byte is one of them once, though two symbols spell it
                possible = {table[s] for s, text in enumerate(spelling) if text and (text.startswith(tail) or tail.startswith(text))}
                expected += float(np.logaddexp.reduce([-nats[one] for one in possible]))
            tail = tail[len(spelling[symbol]) :]
            ids.append(table[symbol])
        assert cost == pytest.approx(expected, rel=1e-5), (prompt, rest)
    assert (num_told_again > 0) == healing


def test_what_is_right_teacher_forced_is_what_is_written_freely(proxy):
    loaded = load_model(proxy)
    compressor, view = registry.load(loaded.views["spm"]), loaded.vocabulary.view("spm")
    data = [b"import os\n", b"def f(x):\n    return x\n", "\u00e9 = 1\n".encode()]
    stretches = [Stretch(i, "p", 0, one, compressor.encode(one).astype(np.int64), None) for i, one in enumerate(data)]
    rows = [told_alone("view", one, view) for one in stretches] + [told_after("view", one, "raw", one, view) for one in stretches]
    assert rows[0].ids[2:-2].tolist() == slow_ids(compressor, 320, stretches[0].symbols.tolist())
    assert rows[0].allowed.tolist() == sorted({*slow_ids(compressor, 320, range(400))})
    assert rows[-1].end_id == RAW_END
    written = dict(write_rows(IdEngine(loaded.model, 4, ROW_LENGTH), rows, num_ids=loaded.vocabulary.size, row_length=ROW_LENGTH))
    for index, (row, answer) in enumerate(zip(rows, ask(loaded.model, rows, rows_per_pass=3, device=CPU), strict=True)):
        possible = sorted([*row.allowed.tolist(), row.end_id])
        for place in range(row.num_payload + 1):
            nats = nats_after(loaded.model, row.ids[: row.first + place].tolist())
            wanted = row.ids[row.first + place]
            assert answer.nats[place] == pytest.approx(nats[wanted], rel=1e-4)
            assert answer.right[place] == (min(possible, key=lambda one: (nats[one], one)) == wanted)
        ids = row.ids[: row.first].tolist()
        while len(ids) < row.first + max_ids(row, ROW_LENGTH) and (len(ids) == row.first or ids[-1] != row.end_id):
            nats = nats_after(loaded.model, ids)
            ids.append(min(possible, key=lambda one: (nats[one], one)))
        assert [*written[index].ids, *([row.end_id] if written[index].ended else [])] == ids[row.first :]


def test_translation_both_ways(proxy):
    settings = TranslateSettings(limit=6, num_free=4, num_untrained=2, max_stretch_bytes=100)
    found = translate(proxy, settings, device="cpu")
    assert found["num_stretches"] == 6
    assert found["raw_to_view"]["free"]["num_not_decoded"] == 0
    # A byte alone says of its place what any guess would; what the two tellings cost differs from run to run, not what they are of.
    for name in ("raw", "view", "raw_after_view", "view_after_raw"):
        assert 1 < found["bits_per_byte"][name]["value"] < 12, name


def test_an_export_has_the_rows_of_bytes_that_both_tellings_taught(proxy, tokens):
    weights, model = llama_weights(load_model(proxy).model), load_model(proxy).model
    rows = weights["model.embed_tokens.weight"]
    assert rows.shape == (320, 32)
    assert torch.equal(rows, model.embedding.weight[:320])
    # Of tokens alone: the rows of bytes that stand as symbols were learnt, those of bytes that never stand are as they were made.
    loaded = load_model(tokens)
    before = type(loaded.model)(loaded.settings.model, loaded.vocabulary.size, ROW_LENGTH, num_views=1, seed=loaded.settings.seed)
    changed = (loaded.model.embedding.weight != before.embedding.weight).any(dim=1)
    assert changed[ord("(")]
    assert not changed[0xFE]


def test_a_comparison_counts_what_sharing_saves(tmp_path, monkeypatch, capsys):
    base = {
        "row_length": 64,
        "rows_per_step": 8,
        "rows_per_device": 4,
        "model": {"preset": None, "width": 16, "depth": 1, "num_heads": 2, "hidden": 32},
    }
    arm = {"views": ["phrases"], "mix": {"rate": 1.0}}
    plan = {
        "name": "saves",
        "corpus": {"path": "corpus"},
        "views": {"phrases": {"kind": "phrases", "options": {"alphabet_size": 704}}, "gzip": {"kind": "gzip"}},
        "base": base,
        "arms": {"bytes": {"literals": "shared"}, "separate": arm, "shared": {**arm, "literals": "shared"}},
        "match": {"flops": 1e12},
        "evaluation": {"context_bytes": 64, "stride_bytes": 64},
    }
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert cli.main(["compare", "plan.yaml", "--out", "out", "--dry-run", "--json"]) == 0
    rows = {row["arm"]: row for row in json.loads(capsys.readouterr().out)["dry_run"]["arms"]}
    assert rows["separate"]["num_parameters"] - rows["shared"]["num_parameters"] == 2 * 256 * 16  # embedding and output rows
    assert rows["shared"]["num_parameters"] - rows["bytes"]["num_parameters"] == 2 * (704 - 256) * 16
    assert rows["shared"]["num_steps"] > rows["separate"]["num_steps"]
    plan["arms"]["gzip"] = {"views": ["gzip"], "mix": {"rate": 1.0}, "literals": "shared"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert cli.main(["compare", "plan.yaml", "--out", "out", "--dry-run"]) == 2
    assert "view 'gzip' do not stand for the same bytes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
