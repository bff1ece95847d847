"""Any causal model in a Hugging Face folder as a coder of files: exact for all bytes, the model's own price, alike however it is read."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from proxy_lm.cli import main
from proxy_lm.codec import Predictor, open_predictor
from proxy_lm.codec.coder import Reader
from proxy_lm.codec.hugging_face_body import Float64
from proxy_lm.codec.symbol_model import _WAYS, BY_MODEL
from proxy_lm.errors import RequestError
from proxy_lm.export.hf import export_hf

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'proxy-lm[export]'")

SOURCE = Path(__file__).read_bytes()
# Every kind of file: empty, one byte, no UTF-8, NULs, line ends of two kinds, marks that combine, names of specials, coded already.
KINDS = [
    b"",
    b"a",
    b"\xff",
    b"\x00" * 40,
    bytes(range(256)),
    b"one\r\ntwo\r\n\ttabs  \n\n   end",
    "caf\u00e9 cafe\u0301 \ufb01 \ufeff\u2028 \u2581 \U0001f469\u200d\U0001f4bb \ufffd 日本語".encode(),
    "日本語".encode()[1:-1],
    b"\xed\xa0\x80 \xc0\xaf <|endoftext|></s><s>[PAD]",
    zlib.compress(SOURCE)[:300],
    SOURCE[1000:1400],
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, saved_run) -> dict[str, Path]:
    """Untrained models in folders: a run and its export; GPT-2 and Llama under a byte-level tokenizer; Llama under one as SentencePiece's;
    one whose tokenizer normalises; one of ByT5's bytes; one that keeps no keys."""
    root = tmp_path_factory.mktemp("hugging-face")
    run = saved_run(root / "run", init_std=0.2)
    export_hf(run, root / "export")
    tokenizers = {"level": byte_level(), "piece": sentence_piece(), "nfc": byte_level(nfc=True), "bytes": transformers.ByT5Tokenizer()}
    made = {"run": run, "export": root / "export"}
    for name, kind, tokenizer, dtype in (
        ("gpt2", "gpt2", "level", torch.float32),
        ("llama", "llama", "level", torch.bfloat16),
        ("piece", "llama", "piece", torch.float32),
        ("nfc", "gpt2", "nfc", torch.float16),
        ("byt5", "gpt2", "bytes", torch.float32),
        ("mamba", "mamba", "level", torch.float32),
    ):
        model = model_of(kind, len(tokenizers[tokenizer]), std=0.25 if name == "byt5" else 0.05).to(dtype)
        made[name] = save(root / name, model, tokenizers[tokenizer])
    return made


def byte_level(*, nfc: bool = False):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([SOURCE.decode()], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def sentence_piece():
    """As Llama's: a space in front, U+2581 for spaces, <0xNN> for what has no piece."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    spaces = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    trained = Tokenizer(models.BPE())
    trained.normalizer = spaces
    trained.train_from_iterator(SOURCE.decode().splitlines(), trainers.BpeTrainer(vocab_size=700, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), *learnt["vocab"]]
    vocabulary, merges = {piece: number for number, piece in enumerate(pieces)}, [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = spaces
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def model_of(kind: str, num_ids: int, *, std: float):
    torch.manual_seed(3)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=num_ids, initializer_range=std, **sizes, **ends))
    if kind == "mamba":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
        return transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=num_ids, initializer_range=std, **sizes, **ends))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=num_ids, max_position_embeddings=64, initializer_range=std, **sizes, **ends)
    return transformers.LlamaForCausalLM(config)


def save(folder: Path, model, tokenizer) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def predictors(folders) -> dict[str, Predictor]:
    return {name: open_predictor(folder) for name, folder in folders.items()}


def drawn(predictor: Predictor, num_ids: int) -> bytes:
    """Bytes that the model expects: ids drawn one after another. Untrained models expect no text."""
    reading, body, generator = predictor._reading, predictor._body, np.random.default_rng(1)
    columns: list[int] = []
    for _ in range(num_ids):
        row = np.array([*reading.begin, *reading.ids[columns].tolist()])
        logits = body.logits(body.parallel([row], [len(row) - 1])[0])[0]
        shares = np.exp(logits - logits.max())
        columns.append(int(generator.choice(len(shares), p=shares / shares.sum())))
    return reading.text(np.array(columns), int(reading.num_bytes[columns].sum()))


@pytest.mark.parametrize("name", ["export", "gpt2", "llama", "piece", "nfc", "byt5"])
def test_files_of_every_kind_come_back(predictors, name):
    predictor = predictors[name]
    with torch.inference_mode():
        chunks = [*KINDS, drawn(predictor, 55)]
    coded = predictor.encode(chunks)
    payloads, lengths = [one.payload for one in coded], [len(data) for data in chunks]
    assert predictor.decode(payloads, lengths) == chunks
    for one in coded:
        assert 8 * len(one.payload) <= one.information_bits * 1.001 + 32
    # Alone as in company, and in lanes of any number.
    assert [predictor.encode([data])[0].payload for data in chunks[-2:]] == payloads[-2:]
    predictor.lanes = 3
    assert predictor.decode(payloads, lengths) == chunks
    assert BY_MODEL in [Reader(payload).among(_WAYS) for payload in payloads[-2:]]  # text, or what the model expects


def test_a_model_without_keys_is_read_anew_for_every_step(predictors):
    chunks = [SOURCE[:40], b"", SOURCE[50:130]]
    payloads = [one.payload for one in predictors["mamba"].encode(chunks)]
    assert predictors["mamba"].decode(payloads, [40, 0, 80]) == chunks
    assert Reader(payloads[2]).among(_WAYS) == BY_MODEL


@pytest.mark.parametrize("name", ["export", "gpt2", "llama", "piece", "nfc", "byt5"])
def test_no_chunk_of_text_is_left_to_counts_and_ids_are_those_of_the_tokenizer(predictors, folders, name):
    reading = predictors[name]._reading
    for data in KINDS[5:9]:
        columns = reading.columns(data)
        assert columns is not None
        assert reading.text(columns, len(data)) == data
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[name])
    text = "def f(in):\n  return in + in"
    # Where a space is put in front, a line end stands before the text, and both are cut off: U+2581 and <0x0A>.
    front, num_cut = ("\n", 2) if name == "piece" else ("", 0)
    theirs = tokenizer(front + text, add_special_tokens=False)["input_ids"][num_cut:]
    assert reading.ids[reading.columns(text.encode())].tolist() == theirs


def test_beginnings_are_those_of_the_tokenizers(predictors):
    begins = {name: predictors[name]._reading.begin for name in ("export", "gpt2", "piece", "byt5")}
    assert begins == {"export": [257, 259], "gpt2": [0], "piece": [1], "byt5": [0]}
    assert predictors["byt5"]._reading.ids.tolist() == list(range(3, 259))
    assert predictors["export"]._reading.ids.tolist() == list(range(256))


def test_an_export_costs_what_the_run_costs(predictors):
    chunks = [SOURCE[i : i + 500] for i in range(0, 2000, 500)]
    by_run, by_export = (predictors[name].encode(chunks) for name in ("run", "export"))
    for ours, theirs in zip(by_run, by_export, strict=True):
        assert theirs.information_bits == pytest.approx(ours.information_bits, rel=1e-4)
        assert abs(len(theirs.payload) - len(ours.payload)) <= 1


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_chunks_cost_the_models_own_information_content(predictors, folders, name):
    # By hand: the probabilities of transformers in float64, specials left out; rows of 64, the last half of a full row read again.
    chunk = SOURCE[:360]
    reading = predictors[name]._reading
    ids = [*reading.begin, *reading.ids[reading.columns(chunk)].tolist()]
    assert len(ids) > 64
    model = transformers.AutoModelForCausalLM.from_pretrained(folders[name]).double()
    bits = 0.0
    for i in range(1, len(ids)):
        first = 0 if i <= 64 else -(-(i - 64) // 32) * 32
        with torch.no_grad(), Float64():
            logits = model(torch.tensor([ids[first:i]])).logits[0, -1]
        bits -= float(torch.log_softmax(logits[reading.ids], 0)[reading.columns(chunk)[i - 1]]) / np.log(2)
    (coded,) = predictors[name].encode([chunk])
    assert Reader(coded.payload).among(_WAYS) == BY_MODEL
    assert 8 * len(coded.payload) <= 1.001 * bits + 32
    assert coded.information_bits == pytest.approx(bits, rel=1e-3)


def test_a_vocabulary_of_fifty_thousand_costs_its_information_content(tmp_path):
    # Ids beyond the tokenizer's are rows that nothing spells: the alphabet is made wide by pieces that are added.
    tokenizer = byte_level()
    tokenizer.add_tokens([f"piece{number}" for number in range(20_000)])
    predictor = open_predictor(save(tmp_path / "wide", model_of("gpt2", len(tokenizer) + 7, std=0.2), tokenizer))
    chunks = [b"piece77piece19999 = piece0\n\xff" + SOURCE[:60]]
    told = predictor._reading.columns(chunks[0])
    payloads = [one.payload for one in predictor.encode(chunks)]
    assert len(told) < 60
    assert predictor.identity()["coder"]["intervals_per_symbol"] == 2
    assert predictor.decode(payloads, [len(chunks[0])]) == chunks


def test_another_process_with_other_threads_and_other_lanes_decodes(folders, tmp_path):
    (tmp_path / "in").write_bytes(SOURCE[:700] + b"\xff\x00")
    words = [str(tmp_path / "in"), "--model", str(folders["llama"]), "--out", str(tmp_path / "coded"), "--chunk-bytes", "256"]
    assert main(["compress", *words]) == 0
    program = (
        "import sys, torch\nfrom pathlib import Path\ntorch.set_num_threads(2)\n"
        "from proxy_lm.codec import open_predictor\nfrom proxy_lm.codec.decompress import decompress\n"
        "model, coded, out = map(Path, sys.argv[1:])\npredictor = open_predictor(model)\npredictor.lanes = 2\n"
        "from proxy_lm.codec.container import read_head\n"
        "with coded.open('rb') as source, out.open('wb') as target:\n"
        "    decompress(source, target.write, read_head(source), predictor, cap=1 << 20)\n"
    )
    words = [str(folders["llama"]), str(tmp_path / "coded"), str(tmp_path / "back")]
    place = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=600, check=False, env=place)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == SOURCE[:700] + b"\xff\x00"


def test_another_model_and_damage_are_refused(folders, tmp_path, capsys):
    (tmp_path / "in").write_bytes(SOURCE[:600])
    coded, out = tmp_path / "coded", tmp_path / "out"
    assert main(["compress", str(tmp_path / "in"), "--model", str(folders["gpt2"]), "--out", str(coded)]) == 0
    other = shutil.copytree(folders["gpt2"], tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1e-6
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    renamed = shutil.copytree(folders["gpt2"], tmp_path / "renamed")
    text = (renamed / "tokenizer.json").read_text()
    (renamed / "tokenizer.json").write_text(text.replace('"Ġin"', '"Ġni"', 1) if '"Ġin"' in text else text + "\n")
    capsys.readouterr()
    for model in (other, renamed, folders["llama"]):
        assert main(["decompress", str(coded), "--model", str(model), "--out", str(out)]) == 2
        assert "model" in capsys.readouterr().err
    data = bytearray(coded.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    assert main(["decompress", str(tmp_path / "damaged"), "--model", str(folders["gpt2"]), "--out", str(out)]) == 2
    assert not out.exists()
    assert main(["decompress", str(coded), "--model", str(folders["gpt2"]), "--out", str(out)]) == 0
    assert out.read_bytes() == SOURCE[:600]


def test_the_identity_says_what_decoding_depends_on(predictors, folders, tmp_path):
    identity = predictors["llama"].identity()
    assert identity["kind"] == "hugging face"
    assert not predictors["llama"].portable
    assert predictors["llama"].num_parameter_bytes == 2 * predictors["llama"].num_parameters  # stored as bf16
    elsewhere = shutil.copytree(folders["llama"], tmp_path / "elsewhere")
    (elsewhere / "README.md").write_text("of no matter")
    assert open_predictor(elsewhere).identity() == identity
    config = json.loads((elsewhere / "config.json").read_text())
    (elsewhere / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
    assert open_predictor(elsewhere).identity()["fingerprint"] != identity["fingerprint"]


def test_nothing_is_fetched(folders, monkeypatch):
    def refuse(*words):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    open_predictor(folders["gpt2"])


def without(name):
    return lambda folder: (folder / name).unlink()


def configured(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def own_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["code.Mine", None]}}))


def cut(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def without_a_matrix(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def lowercasing(folder):
    table = json.loads((folder / "tokenizer.json").read_text())
    table["normalizer"], table["model"]["vocab"] = {"type": "Lowercase"}, {"a": 0, "b": 1}
    table["model"]["merges"], table["added_tokens"] = [], []
    (folder / "tokenizer.json").write_text(json.dumps(table))


def shard_elsewhere(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("config.json"), "has no config.json"),
        (without("model.safetensors"), "has no weights"),
        (without_tokenizer, "has no tokenizer"),
        (pickled, "can run programs when it is opened"),
        (own_tokenizer, "no code of a model folder is ever run"),
        (configured(model_type="mine", auto_map={"AutoConfig": "code.Mine"}), "no code of a model folder is ever run"),
        (configured(model_type="of-tomorrow"), "a newer one may"),
        (configured(quantization_config={"quant_method": "gptq"}), "quantized"),
        (configured(attn_implementation="someone/kernels"), "nothing is ever fetched"),
        (configured(n_layer=3), "has not all weights"),
        (cut, "cannot load the model|is cut"),
        (without_a_matrix, "first: transformer.h.1.mlp.c_fc.weight"),
        (lowercasing, "does not give text back"),
        (shard_elsewhere, "no safetensors file beside it"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "base model is elsewhere"),
    ],
)
def test_folders_that_cannot_be_used_are_refused_with_a_reason(folders, tmp_path, change, told):
    folder = shutil.copytree(folders["gpt2"], tmp_path / "copy")
    change(folder)
    with pytest.raises(RequestError, match=told):
        open_predictor(folder)


def test_a_model_that_sees_what_comes_after_is_refused(tmp_path):
    tokenizer = byte_level()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    model = transformers.BertLMHeadModel(transformers.BertConfig(vocab_size=len(tokenizer), **sizes))
    with pytest.raises(RequestError, match="no causal model"):
        open_predictor(save(tmp_path / "bert", model, tokenizer))


def test_a_view_and_a_missing_library_are_refused(folders, monkeypatch):
    with pytest.raises(RequestError, match="has no view 'spm'"):
        open_predictor(folders["gpt2"], view="spm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'proxy-lm\[export\]'"):
        open_predictor(folders["gpt2"])


def test_within_the_mode_nothing_is_narrow():
    with Float64():
        x = torch.ones(3, dtype=torch.float64) / 3
        made = [x.float(), x.to(torch.float32), torch.softmax(x, 0, dtype=torch.float32), torch.zeros(2), torch.arange(2).float(), x.half()]
        assert {one.dtype for one in made} == {torch.float64}
        assert torch.equal(made[0], x)
    assert torch.zeros(2).dtype == torch.float32
