"""`proxy-lm-eval samples`: the same prompts for every kind of run, exact bytes kept, text that is safe to show, shown in both reports."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest

import compressors.registry as registry
from compressors.files import sha256_bytes
from eval import cli, further, report_samples
from eval.report_numbers import KINDS, numbers_of
from eval.shown_samples import ShownSettings, choose, text_of
from proxy_lm.data.corpus import Corpus, CorpusWriter, Document, build_small
from proxy_lm.errors import RequestError
from proxy_lm.infer.generator import Generator, Prompt
from proxy_lm.report import Content, markdown

TEXTS = [b"import os\n\n\ndef first_%d(value):\n    other = value + %d\n    return other\n\n\n" % (i, i) * 4 for i in range(30)]
SMALL = ["--prompt-bytes", "60", "--num-bytes", "40", "--device", "cpu"]
FEW = ShownSettings(prompt_bytes=60, num_bytes=40)


@pytest.fixture(scope="module")
def place(tmp_path_factory, saved_run):
    """A corpus and an untrained run of each kind: raw, of tokens, mixed, and of a view that no prompt can be continued in."""
    folder = tmp_path_factory.mktemp("shown")
    corpus = build_small(folder / "corpus", {"train": TEXTS[:20], "valid": TEXTS[20:22], "test": TEXTS[22:]})
    spm = registry.train("spm", TEXTS[:20], alphabet_size=300)
    registry.save(spm, folder / "spm")
    registry.save(registry.train("gzip", []), folder / "gzip")
    views = {"spm": (folder / "spm", spm.alphabet_size)}
    saved_run(folder / "raw", corpus=corpus)
    saved_run(folder / "tokens", views, corpus, mix={"rate": 1.0})
    saved_run(folder / "mixed", views, corpus, mix={"rate": 0.9})
    saved_run(folder / "zip", {"gzip": (folder / "gzip", 256)}, corpus, mix={"rate": 1.0})
    return folder


def ask(capsys, *words, code=0):
    """The result as JSON, or the sentence of a refusal."""
    assert cli.main(["samples", *map(str, words), "--json"]) == code
    said = capsys.readouterr()
    if code:
        assert said.out == ""
        return said.err.strip().splitlines()[-1]
    return json.loads(said.out)


def exact(sample, name):
    """The bytes of a sample."""
    return base64.b64decode(sample[f"{name}_base64"]) if f"{name}_base64" in sample else sample[name].encode()


def test_every_kind_of_run_is_asked_the_same_and_nothing_of_it_is_lost(place, capsys):
    found = {name: ask(capsys, place / name, *SMALL) for name in ("raw", "tokens", "mixed")}
    asked = {json.dumps([[s["source"], s["line"], s["prompt"], s["truth"]] for s in result["samples"]]) for result in found.values()}
    assert len(asked) == 1
    assert {name: (one["run"]["view"], one["run"]["healing"]) for name, one in found.items()} == {
        "raw": ("raw", False),
        "tokens": ("spm", True),
        "mixed": ("raw", False),
    }
    documents = {f"test/{22 + i}": text for i, text in enumerate(TEXTS[22:])}
    for name, result in found.items():
        assert result.pop("written")["name"] == "samples"
        assert json.loads((place / name / "eval" / "samples.json").read_text()) == result
        assert (result["schema"], result["command"], result["dataset"]["num_items"]) == ("proxy-lm samples 1", "samples", 3)
        generator = Generator.open(place / name, healing=name == "tokens", device="cpu")
        for sample in result["samples"]:
            prompt, document = sample["prompt"].encode(), documents[sample["source"]]
            lines = document.splitlines(keepends=True)
            assert b"".join(lines[: sample["line"] - 1]).endswith(prompt)
            assert b"".join(lines[sample["line"] - 1 :])[:40] == sample["truth"].encode()
            assert prompt.endswith(b"\n")
            assert 30 <= len(prompt) <= 60
            assert next(generator.generate([Prompt(data=prompt, max_bytes=40)])).data == exact(sample, "completion")
    # Untrained weights write bytes that are no text: they are told all the same.
    assert any("\\x" in sample["completion"] and "completion_base64" in sample for sample in found["raw"]["samples"])


def test_places_are_drawn_by_the_seed_one_of_each_project_first(tmp_path):
    with CorpusWriter(tmp_path) as writer:
        for number, text in enumerate(TEXTS[:12]):
            writer.add(Document(sha256_bytes(text), "memory", f"p{number % 3}", "" if number else "a.py", "python"), text, "test")
        writer.finish({"made_by": "test"})
    corpus = Corpus.open(tmp_path)
    many = choose(corpus, FEW.model_copy(update={"limit": 12}))
    assert choose(corpus, FEW) == many[:3]
    assert choose(corpus, FEW.model_copy(update={"limit": 5})) == many[:5]
    assert len({place.prompt + place.truth for place in many}) == 12
    projects = {text: f"p{i % 3}" for i, text in enumerate(TEXTS[:12])}
    whole = [next(text for text in TEXTS[:12] if place.prompt + place.truth in text) for place in many]
    assert {projects[text] for text in whole[:3]} == {"p0", "p1", "p2"}
    # A document without a path is told by its project.
    assert [place.source for place in many] == ["a.py" if text == TEXTS[0] else projects[text] for text in whole]
    assert choose(corpus, FEW.model_copy(update={"seed": 1})) != many[:3]


def test_fewer_documents_than_asked_are_said(place, capsys):
    assert len(ask(capsys, place / "raw", *SMALL, "--limit", 9, "--split", "valid")["samples"]) == 2
    cli.main(["samples", str(place / "raw"), *SMALL, "--limit", "9", "--split", "valid"])
    assert "samples: 2 of 9: no more documents of the valid split are long enough" in capsys.readouterr().err


def test_a_temperature_draws_and_equal_seeds_draw_the_same(place, capsys):
    greedy, *drawn = (
        [exact(s, "completion") for s in ask(capsys, place / "mixed", *SMALL, *words)["samples"]]
        for words in ([], ["--temperature", 1], ["--temperature", 1])
    )
    assert drawn[0] == drawn[1] != greedy


@pytest.mark.parametrize(
    ("data", "is_cut", "text"),
    [
        (b"", True, ""),
        ("caf\u00e9".encode(), False, "caf\u00e9"),
        (b"a\xff\xfeb", False, "a\\xff\\xfeb"),
        (b"a\xc3", False, "a\\xc3"),  # the model ended the document inside a character
        (b"a\xc3", True, "a"),  # the limit did
        (b"a\xed\xa0\x80", False, "a\\xed\\xa0\\x80"),  # half a surrogate pair would not go through JSON
        (b"\xe2\x82", True, ""),
    ],
)
def test_bytes_become_text_that_is_safe(data, is_cut, text):
    assert text_of(data, is_cut=is_cut) == text
    assert json.loads(json.dumps(text).encode()) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "[nothing]"),
        (" ", "[1 blank]"),
        ("\n" * 9, "[9 blanks]"),
        ("\n    x\t= 1\n   \n", "\n    x\t= 1"),
        ("a" + " " * 40 + "b" + " " * 50, "a[40 blanks]b[50 blanks]"),
        ("x\n" * 4 + "  y,\n" * 5 + "z", "x\nx\nx\nx\n  y,\n[the same line 4 times more]\nz"),
        ("\x1b[31m\x00\r\u202e\u200b\u00e9", "\\x1b[31m\\x00\\r\\u202e\\u200b\u00e9"),
    ],
)
def test_what_a_page_or_a_terminal_would_obey_is_told(text, shown):
    assert report_samples.visible(text) == shown


@pytest.mark.parametrize(
    ("run", "words", "sentence"),
    [
        ("raw", ["--limit", 0], "--limit.* 0"),
        ("raw", ["--num-bytes", 0], "--num-bytes.* 0"),
        ("raw", ["--temperature", -1], "--temperature"),
        ("raw", ["--split", "nope"], "unknown split 'nope'; the corpus has train, valid, test"),
        ("raw", ["--num-bytes", 5000], "5000 bytes behind them; give a smaller --num-bytes"),
        ("raw", ["--view", "nope"], "nope"),
        ("zip", SMALL, "stands for no stretch of bytes"),
        ("spm", [], "has no checkpoint"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(place, capsys, run, words, sentence):

    assert re.search(sentence, ask(capsys, place / run, *words, code=2))


def test_the_last_one_stands(place, capsys):
    more = ask(capsys, place / "tokens", *SMALL)
    less = ask(capsys, place / "tokens", *SMALL, "--limit", 1)
    assert less["written"] == more["written"] == {"name": "samples", "path": more["written"]["path"], "plot": None, "aside": None}
    assert less["samples"] == more["samples"][:1]
    assert len(json.loads(Path(less["written"]["path"]).read_text())["samples"]) == 1


def test_the_terminal_is_told_the_samples_and_how_they_were_made(place, capsys):
    assert cli.main(["samples", str(place / "tokens"), *SMALL]) == 0
    said = capsys.readouterr().out
    first = json.loads((place / "tokens" / "eval" / "samples.json").read_text())["samples"][0]
    for words in (
        f"--- prompt, {first['source']}, line {first['line']}\n    {first['prompt'].splitlines()[0]}\n",
        "--- what follows there\n",
        "--- tokens",
        "asked in symbols of spm, its prompts healed; greedy, at most 40 bytes; test split of the corpus, seed 0",
    ):
        assert words in said
    assert all(c == "\n" or c.isprintable() for c in said)


def test_a_plan_may_ask_for_them(place):
    options = {"samples": {"limit": 2, "prompt_bytes": 60, "num_bytes": 40, "device": "cpu"}}
    further.check(options, {})
    found, failures = further.measure(options, place / "raw", {}, "arm raw")
    assert (list(found), failures) == ([report_samples.KEY], {})
    assert "written" not in found["samples"]
    assert str(place) not in json.dumps(found)
    assert further.measure(options, place / "zip", {}, "arm zip")[1]["samples"].startswith("a symbol of view 'gzip'")
    for wrong in ({"limit": 0}, {"temperature": -1}, {"prompt_bytes": 4}):
        with pytest.raises(RequestError, match=rf"samples: .*{next(iter(wrong)).replace('_', '-')}"):
            further.check({"samples": wrong}, {})


def test_they_are_no_numbers_and_a_report_of_runs_shows_them(place, capsys, tmp_path):
    for name in ("raw", "tokens", "mixed"):
        ask(capsys, place / name, *SMALL)
    assert cli.main(["report", *(str(place / name) for name in ("raw", "tokens", "mixed")), "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["numbers"] for run in found["runs"]] == [{"samples": []}] * 3
    assert found["summary"]["rows"] == []
    text = (tmp_path / "report.md").read_text()
    assert "What each run writes after the same held-out prompt; nothing was chosen or left out. Greedy, at most 40 bytes." in text
    assert "tokens was asked in symbols of spm, its prompts healed; the others in raw bytes." in text
    assert text.count("--- tokens") == text.count("## Sample ") == 3
    assert "samples" not in KINDS
    with pytest.raises(RequestError, match="no whole result of samples"):
        numbers_of("samples", {"schema": "proxy-lm samples 1", "samples": [{"prompt": "x"}]})


def test_equal_completions_stand_once_and_no_text_ends_its_block():
    def asked(completion, **more):
        return {"samples": [{"prompt": "p\n", "completion": completion, **more}]}

    results = {"a": asked("```\n--- b\n"), "b": asked("```\n--- b\n"), "c": asked("x", ended=True)}
    section = report_samples.of_runs(results)[0]
    assert section.code == "--- prompt\n    p\n\n--- a, b\n    ```\n    --- b\n\n--- c (and the end of the document)\n    x"
    assert [line for line in markdown(Content("t", "", [section])).splitlines() if line.startswith("```")] == ["```", "```"]
    assert report_samples.of_runs({"a": {"samples": []}}) == []
