"""`proxy-lm-eval lines` on run folders: every kind of arm, healed and not, continued after a kill, its costs against a slow twin."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import compressors.registry as registry
from eval import cli
from eval.continuations import Continuations
from eval.envelope import read_results
from eval.line_scores import METRICS
from eval.lines import LinesSettings, evaluate
from eval.opened import open_run
from proxy_lm.data.corpus import build_small
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import BOS

TEXTS = [b"def f%d(count):\n    total = count + %d\n    return total\n\n\nclass C%d:\n    pass\n" % (i, i, i) for i in range(40)]
SMALL = ["--num-lines", "6", "--num-identifiers", "6", "--num-sweep-lines", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, saved_run):
    """A corpus and an untrained run of each kind: raw, of a view with spelling, without spans, and mixed."""
    folder = tmp_path_factory.mktemp("lines")
    corpus = build_small(folder / "corpus", {"train": TEXTS[:30], "valid": TEXTS[30:32], "test": TEXTS[32:]})
    spm = registry.train("spm", TEXTS[:30], alphabet_size=300)
    registry.save(spm, folder / "spm")
    registry.save(registry.train("gzip", []), folder / "gzip")
    views = {"spm": {"spm": (folder / "spm", spm.alphabet_size)}, "gzip": {"gzip": (folder / "gzip", 256)}}
    saved_run(folder / "raw", corpus=corpus)
    saved_run(folder / "tokens", views["spm"], corpus, mix={"rate": 1.0})
    saved_run(folder / "zip", views["gzip"], corpus, mix={"rate": 1.0})
    for kind in ("nibble", "doublebyte"):
        view = registry.train(kind, [])
        registry.save(view, folder / kind)
        saved_run(folder / f"{kind}s", {kind: (folder / kind, view.alphabet_size)}, corpus, mix={"rate": 1.0})
    saved_run(folder / "mixed", views["spm"], corpus, mix={"rate": 0.9})
    return folder


def lines(capsys, *words, code=0, told=""):
    """The result as JSON, or the sentence of a refusal."""
    assert cli.main(["lines", *map(str, words), "--json"]) == code
    said = capsys.readouterr()
    assert told in said.err
    if code:
        assert said.out == ""
        return said.err.strip().splitlines()[-1]
    result = json.loads(said.out)
    assert Path(result.pop("written")["path"]).is_file()  # of this machine, and not in the file
    return result


def test_every_kind_of_arm_is_asked_and_the_result_is_complete(place, capsys):
    raw = lines(capsys, place / "raw", *SMALL)
    tokens = lines(capsys, place / "tokens", *SMALL)
    mixed = lines(capsys, place / "mixed", *SMALL)
    assert {name: list(found["prompts"]) for name, found in (("raw", raw), ("tokens", tokens), ("mixed", mixed))} == {
        "raw": ["plain"],
        "tokens": ["plain", "healed"],
        "mixed": ["plain"],
    }
    for result in (raw, tokens, mixed):
        assert result["schema"] == "proxy-lm lines 1"
        assert result["dataset"]["num_items"] > 6 + 6
        for found in result["prompts"].values():
            assert list(found) == ["line", "identifier", "sweep"]
            for task, measured in found.items():
                for metric in METRICS:
                    if metric in measured:
                        assert set(measured[metric]) == {"value", "interval"}, (task, metric)
                assert measured["num_scored"] == measured["num_items"]
                assert measured["bits_per_byte"]["value"] > 0
    # The same places for all; only the reading differs.
    assert raw["dataset"] == tokens["dataset"] == mixed["dataset"]
    assert raw["borders"] is None
    assert tokens["borders"] == mixed["borders"]
    assert set(mixed["prompts"]["plain"]["sweep"]["borders"]) == {"at a border", "inside a symbol"}
    assert json.loads((place / "raw" / "eval" / "lines-test.json").read_text()) == raw


def test_what_a_view_cannot_tell_apart_is_counted_and_costs_nothing(place, capsys):
    """Two bytes a symbol: after an odd prompt no symbols of the rest continue those of the prompt, so that its cost has no meaning."""
    halves, pairs = (lines(capsys, place / name, *SMALL) for name in ("nibbles", "doublebytes"))
    for result in (halves, pairs):
        assert list(result["prompts"]) == ["plain"]
        assert "prompts are asked as they are" in result["healing"]
    for task in ("line", "identifier", "sweep"):
        assert halves["prompts"]["plain"][task]["num_scored"] == halves["prompts"]["plain"][task]["num_items"]
    sweep = pairs["prompts"]["plain"]["sweep"]
    assert 0 < sweep["num_scored"] < sweep["num_items"]


def test_bytes_never_stumble(place, capsys):
    """What a byte model says from one offset is what it is given at the next, so a right end stays right."""
    found = lines(capsys, place / "raw", "--num-lines", 0, "--num-identifiers", 0, "--num-sweep-lines", 4, "--device", "cpu")
    sweep = found["prompts"]["plain"]["sweep"]
    assert sweep.get("stumbles", {"value": 0.0})["value"] == 0.0


def test_a_kill_costs_what_was_not_written_and_more_items_continue(place, capsys, monkeypatch):
    run = place / "tokens"
    small = evaluate(run, LinesSettings(num_lines=3, num_identifiers=0, num_sweep_lines=1, device="cpu", seed=5))
    samples = next(path for path in (run / "eval").glob("lines-test-*/samples.jsonl") if '"seed":5' in _job(path))
    data = samples.read_bytes()
    samples.write_bytes(data[: len(data) * 2 // 3])
    again = evaluate(run, LinesSettings(num_lines=3, num_identifiers=0, num_sweep_lines=1, device="cpu", seed=5))
    assert {**again, "seconds": 0} == {**small, "seconds": 0}
    kept = samples.read_bytes()
    more = evaluate(run, LinesSettings(num_lines=6, num_identifiers=0, num_sweep_lines=1, device="cpu", seed=5))
    assert samples.read_bytes().startswith(kept)
    assert more["dataset"]["num_items"] == small["dataset"]["num_items"] + 3
    capsys.readouterr()


def test_a_quick_try_leaves_the_result_of_a_full_one(place, capsys):
    words = ["--device", "cpu", "--split", "valid"]
    full = lines(capsys, place / "tokens", "--limit", 2, *words)
    stands = place / "tokens" / "eval" / "lines-valid.json"
    few = [*words, "--num-lines", 0, "--num-identifiers", 0, "--num-sweep-lines", 2]
    assert cli.main(["lines", str(place / "tokens"), *map(str, few)]) == 0
    *_, where, why = capsys.readouterr().out.splitlines()
    aside = Path(where.removeprefix("result: "))
    assert (aside.name, aside.parent.parent) == ("result.json", stands.parent)
    assert f"it asked less than {stands} (num_lines: 0 and 2, num_identifiers: 0 and 2)" in why
    assert json.loads(aside.read_text())["settings"]["num_sweep_lines"] == 2
    assert json.loads(stands.read_text()) == full
    more = lines(capsys, place / "tokens", "--limit", 3, *words)
    assert json.loads(stands.read_text()) == more


def test_borders_of_the_own_view_are_the_same_samples(place, capsys):
    words = [place / "tokens", *SMALL, "--seed", 7]
    first = lines(capsys, *words)
    before = sorted((place / "tokens" / "eval").iterdir())
    again = lines(capsys, *words, "--borders", place / "spm")
    assert sorted((place / "tokens" / "eval").iterdir()) == before
    assert (again["borders"], again["seconds"]) == (first["borders"], first["seconds"])


def _job(samples):
    return json.dumps(json.loads((samples.parent / "job.json").read_text()), separators=(",", ":"))


def test_what_cannot_be_asked_is_one_sentence(place, capsys):
    for words, expected in [
        ([place / "none"], "is not a folder"),
        ([place / "zip", *SMALL], "stand for no stretch of bytes"),
        ([place / "raw", "--split", "dev"], "unknown split 'dev'"),
        ([place / "raw", "--limit", 0], "at least 1"),
        ([place / "raw", "--num-lines", 0, "--num-identifiers", 0, "--num-sweep-lines", 0], "ask nothing; give at least one"),
        ([place / "raw", "--max-bytes", 60], "no room for lines of 60 bytes"),
        ([place / "raw", "--context-bytes", 128], "longer than the rows of 64 ids"),
        ([place / "raw", "--borders", place / "gzip"], "give the folder of a view with borders"),
        ([place / "raw", "--files", place / "nothing/*.py"], "gives 0 files"),
        ([place / "raw", "--files", place / "corpus" / "raw.bin", "--max-bytes", 4], "is at most 4 bytes"),
        ([place / "raw", "--num-lines", -1], "--num-lines -1"),
        ([place / "raw", "--seed", 2**63], "seed"),
    ]:
        sentence = lines(capsys, *words, code=2)
        assert expected in sentence, sentence
    with pytest.raises(RequestError, match="reads raw bytes: its prompts cannot be healed"):
        open_run(place / "raw", healing=True)


def test_files_take_the_place_of_the_split(place, capsys, tmp_path):
    (tmp_path / "known.py").write_bytes(TEXTS[0])
    (tmp_path / "empty.py").write_bytes(b"")
    (tmp_path / "new.py").write_bytes(b"import sys\n\nfor argument in sys.argv:\n    print(argument)\n")
    result = lines(capsys, place / "raw", "--files", tmp_path / "*.py", *SMALL, told=f"{tmp_path / 'empty.py'}: 1 of 3 files are empty")
    assert (result["num_files_in_training"], result["dataset"]["name"]) == (1, "files")
    assert json.loads((place / "raw" / "eval" / "lines-files.json").read_text()) == result


PAIRS = [(text[:cut], text[cut : cut + 9]) for text in TEXTS[:3] for cut in (1, 16, 23, 29, 31, 41)]


def test_a_raw_model_is_charged_as_by_the_scorer(place):
    opened = open_run(place / "raw", device="cpu")
    found = Continuations(opened).nats(PAIRS)
    assert found == pytest.approx([-opened.scorer.loglikelihood(a, b) for a, b in PAIRS], rel=1e-5)


@pytest.mark.parametrize("healing", [False, True])
def test_the_cost_after_a_cut_prompt_equals_a_slow_twin(place, healing):
    opened = open_run(place / "tokens", device="cpu", healing=healing)
    compressor, view = opened.reading.compressor, opened.reading.view
    spelling = compressor.spelling()
    found = Continuations(opened).nats(PAIRS)
    num_told_again = 0
    for (prompt, rest), cost in zip(PAIRS, found, strict=True):
        symbols, tail = compressor.encode(prompt).tolist(), b""
        if healing:
            told = Continuations(opened).teller.healer.heal(prompt, symbols)
            symbols, tail = symbols[: told.num_kept], told.tail
            assert b"".join(spelling[s] for s in symbols) + tail == prompt
        num_told_again += len(tail)
        ids = [BOS, view.start_id, *(view.first_id + s for s in symbols)]
        expected = 0.0
        for symbol in compressor.encode(tail + rest).tolist():
            nats = _nats(opened, ids)
            allowed = [s for s in range(len(spelling)) if not tail or _spells(spelling, s, tail)]
            expected += nats[view.first_id + symbol]
            if tail:
                expected += float(np.logaddexp.reduce([-nats[view.first_id + s] for s in allowed]))
            tail = tail[len(spelling[symbol]) :]
            ids.append(view.first_id + symbol)
        assert cost == pytest.approx(expected, rel=1e-5), (prompt, rest)
    assert (num_told_again > 0) == healing


def _spells(spelling, symbol, tail):
    """Whether a symbol may come next while `tail` is to be spelled; single bytes are symbols of every such view, so any rest can be."""
    text = spelling[symbol]
    return bool(text) and (text.startswith(tail) or tail.startswith(text))


@torch.no_grad()
def _nats(opened, ids):
    """Nats of every id that could follow, one forward in float64 of nothing but these ids."""
    tensor = torch.tensor([ids])
    zeros = torch.zeros_like(tensor, dtype=torch.int32)
    logits = opened.loaded.model.logits(tensor, zeros, torch.arange(len(ids), dtype=torch.int32)[None])
    return -torch.log_softmax(logits[0, -1].double(), dim=0).numpy()


def test_bits_are_nats_over_ln_2_and_the_bytes_told(place, capsys):
    result = lines(capsys, place / "raw", *SMALL)
    line = result["prompts"]["plain"]["line"]
    tops, bottoms = result["by_project"]["plain"]["line"]["bits_per_byte"]
    assert sum(bottoms) == line["num_bytes"] + line["num_items"]  # a newline each
    assert line["bits_per_byte"]["value"] == pytest.approx(math.fsum(tops) / math.fsum(bottoms))


def test_a_table_says_of_how_many_items_its_bits_are(place, capsys):
    assert cli.main(["lines", str(place / "doublebytes"), *SMALL]) == 0
    told = capsys.readouterr().out
    sweep = lines(capsys, place / "doublebytes", *SMALL)["prompts"]["plain"]["sweep"]
    assert f" of {sweep['num_scored']}" in told
    assert "lines: next line" in told
    assert f"1 swept line ({sweep['num_items']} offsets) of 1 document in 1 project\n" in told
    assert told.splitlines()[-1] == f"result: {place / 'doublebytes' / 'eval' / 'lines-test.json'}"
    assert "read as doublebyte" in told


def test_measuring_one_checkpoint_leaves_it_whole(place, capsys):
    """Whatever stood in its folder beside what its manifest lists would make it count as damaged."""
    step = place / "raw" / "checkpoints" / "step-1"
    first = lines(capsys, step, *SMALL)
    assert cli.main(["bpb", str(step), "--context-bytes", "64", "--stride-bytes", "32", "--device", "cpu"]) == 0
    assert not (step / "eval").exists()
    assert json.loads((place / "raw" / "eval" / "step-1" / "lines-test.json").read_text()) == first
    assert set(read_results(step)) == {"bpb-test", "lines-test"}
    capsys.readouterr()
    assert lines(capsys, step, *SMALL) == first
