"""`proxy-lm export hf`: the same logits and greedy bytes in `transformers`, ids that are the bytes, and nothing half written."""

from __future__ import annotations

import json
import resource
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compressors.files import sha256_file, write_json
from proxy_lm import cli
from proxy_lm.commands import export
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.export import hf
from proxy_lm.export.card import model_card
from proxy_lm.export.check import TEXTS, expected_logits, probe_ids
from proxy_lm.export.hf import export_hf
from proxy_lm.export.llama import LlamaReader, LlamaShape, llama_weights
from proxy_lm.export.source import open_source
from proxy_lm.export.tokenizer import byte_characters, names
from proxy_lm.train.restore import load_model
from proxy_lm.vocabulary import BOS, EOS, NUM_BYTES, RAW_END, RAW_START

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'proxy-lm[export]'")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, saved_run):
    """(run, exported folder, its record): a model with grouped heads, two extra heads and a view's rows, none of which is exported."""
    folder = tmp_path_factory.mktemp("export-hf")
    run = saved_run(folder / "bytes", views={"gzip": (folder / "gzip", 256)}, mix={"rate": 0.5}, num_raw_heads=1, num_symbol_heads=1)
    return run, folder / "out", export_hf(run, folder / "out")


def greedy(model, prompt, num_ids):
    """The slow twin: one whole forward an id, over bytes and ends alone."""
    ids, allowed = [BOS, RAW_START, *prompt], [*range(NUM_BYTES), RAW_END, EOS]
    for _ in range(num_ids):
        logits = expected_logits(model, torch.tensor([ids]))[0, -1, allowed]
        ids.append(allowed[int(logits.argmax())])
        if ids[-1] in (RAW_END, EOS):
            break
    return ids[2 + len(prompt) :]


def test_logits_are_those_of_the_run_by_two_readers(exported):
    run, out, record = exported
    model = load_model(run).model
    ids = probe_ids(64)
    assert set(ids.flatten().tolist()) == set(range(320))
    expected = expected_logits(model, ids)
    assert expected.shape == (6, 64, 320)
    theirs = transformers.LlamaForCausalLM.from_pretrained(out).float()(ids).logits.detach()
    ours = LlamaReader(load_file(out / "model.safetensors"), LlamaShape.read(json.loads((out / "config.json").read_text()))).logits(ids)
    assert float((theirs - expected).abs().max()) < 1e-5
    assert float((ours - expected).abs().max()) < 1e-5
    assert record["transformers"]["by"] == record["tokenizer_checked_by"] == f"transformers {transformers.__version__}"
    assert record["transformers"]["largest_difference"] < 1e-5
    assert record["check"]["largest_difference"] < 1e-6
    assert record["check"]["limit"] == 1e-5
    assert float(expected.abs().max()) > 0.5


def test_transformers_writes_our_greedy_bytes(exported):
    run, out, _ = exported
    model, theirs = load_model(run).model, transformers.AutoModelForCausalLM.from_pretrained(out).float()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    prompts = ["def f(", "x", "", "import os, sys\n"]
    told = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    written = theirs.generate(**told, max_new_tokens=12)[:, told.input_ids.shape[1] :].tolist()
    for prompt, row in zip(prompts, written, strict=True):
        wanted = greedy(model, prompt.encode(), 12)
        assert row[: len(wanted)] == wanted


def test_ids_are_bytes_and_names_of_specials_are_text(exported):
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported[1])
    assert len(tokenizer) == 320
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (257, 258, 256)
    for text in TEXTS:
        assert tokenizer(text).input_ids == [257, 259, *text.encode()]
        assert tokenizer(text, add_special_tokens=False).input_ids == list(text.encode())
        assert tokenizer.decode([257, 259, *text.encode(), 260, 258], skip_special_tokens=True) == text
    assert tokenizer("<|fim_prefix|>a", split_special_tokens=False).input_ids == [257, 259, 293, 97]
    assert tokenizer.convert_ids_to_tokens([97, 293, 319]) == ["a", "<|fim_prefix|>", "<|reserved_19|>"]


def test_ids_are_bytes_in_tokenizers_alone_and_after_saving_again(exported, tmp_path):
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(exported[1] / "tokenizer.json"))
    again = tmp_path / "again"
    transformers.AutoTokenizer.from_pretrained(exported[1]).save_pretrained(again)
    for text in TEXTS:
        assert plain.encode(text).ids == [257, 259, *text.encode()]
        assert plain.decode(list(text.encode())) == text
        assert transformers.AutoTokenizer.from_pretrained(again)(text).input_ids == [257, 259, *text.encode()]


def test_help_says_what_the_folder_is_good_for(capsys):
    assert cli.main(["export", "hf", "--help"]) == 0
    said = capsys.readouterr().out
    assert "The folder is for transformers" in said
    assert "proxy-lm compress notes.txt --model exported/nano" in said


def test_byte_characters_are_those_of_gpt2():
    characters = byte_characters()
    assert [characters[value] for value in b"A! ~\n\x00"] == ["A", "!", "Ġ", "~", "Ċ", "Ā"]
    assert characters[0xAD] == "Ń"
    assert len(set(names())) == 320


def test_numbers_of_the_configuration(exported):
    config = transformers.AutoConfig.from_pretrained(exported[1])
    found = (config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.vocab_size, config.max_position_embeddings)
    assert found == (32, 4, 2, 320, 64)
    raw = json.loads((exported[1] / "config.json").read_text())
    assert raw["rope_theta"] == raw["rope_parameters"]["rope_theta"] == 10_000.0
    assert raw["eos_token_id"] == [RAW_END, EOS]
    assert json.loads((exported[1] / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_the_record_names_every_file_and_no_place_of_this_machine(exported):
    run, out, record = exported
    assert json.loads((out / "export.json").read_text()) == record
    assert {entry["name"]: entry["sha256"] for entry in record["files"]} == {
        path.name: sha256_file(path) for path in out.iterdir() if path.name != "export.json"
    }
    shapes = {name: tensor.shape for name, tensor in load_file(out / "model.safetensors").items()}
    assert shapes["lm_head.weight"] == shapes["model.embed_tokens.weight"] == (320, 32)
    assert record["num_parameters"] == sum(int(np.prod(shape)) for shape in shapes.values())
    for path in out.iterdir():
        assert str(run).encode() not in path.read_bytes(), path
        assert path.stat().st_mode & 0o444 == (out / "config.json").stat().st_mode & 0o444


def test_bf16_is_the_rounded_model_exactly(exported, saved_run, tmp_path):
    record = export_hf(exported[0], tmp_path / "out", dtype="bf16")
    stored, model = load_file(tmp_path / "out" / "model.safetensors"), load_model(exported[0]).model
    for name, tensor in llama_weights(model).items():
        assert stored[name].dtype == torch.bfloat16
        assert torch.equal(stored[name], tensor.to(torch.bfloat16))
    assert record["check"]["largest_difference"] < 1e-6
    assert record["largest_change_by_rounding"] > 1e-3


def test_the_card_runs_and_shows_what_was_measured(exported, tmp_path, monkeypatch, capsys):
    source = open_source(exported[0])
    result = {"split": "test", "view": "raw", "bits_per_byte": 2.5, "interval": [2.25, 2.75], "num_bytes": 4000, "context_bytes": 64}
    for name, digest in (("bpb-test.json", source.weights_digest), ("bpb-valid.json", "of other weights")):
        write_json(exported[0] / "eval" / name, {**result, "checkpoint": {"step": 1, "digest": digest}, "corpus_digest": "0" * 64})
    card = model_card(open_source(exported[0]), exported[2])
    assert [line for line in card.splitlines() if line.startswith("| test")] == ["| test | 2.5000 | 2.2500 to 2.7500 | 4,000 | 64 bytes |"]
    assert "valid" not in card
    program = (exported[1] / "README.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "card.py").write_text(program)
    monkeypatch.chdir(exported[1])
    runpy.run_path(str(tmp_path / "card.py"))
    written = greedy(source.loaded.model, b"def add(a, b):\n", 40)
    assert capsys.readouterr().out == bytes(number for number in written if number < 256).decode(errors="replace") + "\n"


def test_without_transformers_our_own_reader_checks(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(hf.importlib.util, "find_spec", lambda name: None)
    record = export_hf(exported[0], tmp_path / "out")
    assert record["check"]["by"] == record["tokenizer_checked_by"] == "this program's reader"
    assert record["check"]["largest_difference"] < 1e-6
    assert record["transformers"] is None


@pytest.mark.parametrize("broken", ["model.layers.1.self_attn.k_proj.weight", "model.embed_tokens.weight", "lm_head.weight"])
def test_a_wrong_matrix_is_found_and_nothing_is_left(exported, tmp_path, monkeypatch, broken):
    def save_wrongly(weights, path, **options):
        save_file({**weights, broken: weights[broken].flip(0).contiguous()}, path, **options)

    monkeypatch.setattr(hf, "save_file", save_wrongly)
    monkeypatch.setattr(hf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WorkError, match="gives other logits than the run"):
        export_hf(exported[0], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_more_is_told_in_a_sentence(exported, tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert cli.main(["export", "hf", str(exported[0]), str(tmp_path / "out")]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "could not write" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_stands_in_the_place_is_safe(exported, tmp_path, monkeypatch):
    run, mine = exported[0], tmp_path / "mine"
    mine.mkdir()
    monkeypatch.chdir(mine)
    with pytest.raises(RequestError, match="give it a name"):
        export_hf(run, Path())
    (mine / "thesis.tex").write_text("years")
    for replace in (False, True):
        with pytest.raises(RequestError, match="is no earlier export"):
            export_hf(run, mine, replace=replace)
    export_hf(run, tmp_path / "out")
    with pytest.raises(RequestError, match="--replace"):
        export_hf(run, tmp_path / "out")
    assert export_hf(run, tmp_path / "out", dtype="bf16", replace=True)["dtype"] == "bf16"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_a_run_told_by_views_alone_is_refused(saved_run, tmp_path, capsys):
    run = saved_run(tmp_path / "symbols", views={"gzip": (tmp_path / "gzip", 256)}, mix={"rate": 1.0})
    assert cli.main(["export", "hf", str(run), str(tmp_path / "out")]) == 2
    assert "told by views alone (gzip) and never raw" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_prints_one_object(exported, tmp_path, capsys):
    checkpoint = exported[0] / "checkpoints" / "step-1"
    assert cli.main(["export", "hf", str(checkpoint), str(tmp_path / "out"), "--dtype", "bf16", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["format"], result["dtype"], result["run"], result["checkpoint"]["step"]) == ("hf", "bf16", "bytes", 1)
    assert cli.main(["export", "hf", str(tmp_path / "no-run"), str(tmp_path / "other")]) == 2
    assert "is not a folder; give a run folder" in capsys.readouterr().err
    export.show(result)
    moved = f"rounding the weights to bf16 moved a logit by up to {result['largest_change_by_rounding']:.2g}; "
    assert moved in capsys.readouterr().out
    assert cli.main(["export", "hf", str(checkpoint), str(tmp_path / "fp32")]) == 0
    assert "rounding" not in capsys.readouterr().out
