"""`proxy-lm export gguf`: llama.cpp loads the file, reads text as bytes, gives our probabilities and writes our greedy bytes.

Two builds of llama.cpp are asked: the server in `xllamacpp`, which comes as a wheel, and `llama-cpp-python`, which is compiled where it is
installed. Each is skipped with the reason where it is missing.
"""

from __future__ import annotations

import importlib.util
import json
import math
import urllib.request

import numpy as np
import pytest
import torch

from proxy_lm import cli
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.export import gguf_file
from proxy_lm.export.check import TEXTS, expected_logits
from proxy_lm.export.gguf_file import export_gguf, gguf_name, in_pairs, llama_names, read, token_names
from proxy_lm.export.llama import LlamaShape, llama_weights
from proxy_lm.train.restore import load_model
from proxy_lm.vocabulary import BOS, EOS, NUM_BYTES, RAW_END, RAW_START

pytest.importorskip("gguf", reason="gguf is not installed: pip install 'proxy-lm[export]'")
FORBIDDEN = [number for number in range(NUM_BYTES, 320) if number not in (RAW_END, EOS)]
F32 = 0  # GGML_TYPE_F32: keys and values are kept as they are computed


class Server:
    """llama.cpp's own server, in this process, on a free port of the loopback interface."""

    def __init__(self, path):
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx, settings.n_parallel, settings.warmup, settings.verbosity = 256, 1, False, 0
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type(F32)
        # Its fast attention rounds to 16 bits (2e-4 of a log probability, as does its usual cache); without, 3e-6.
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type(0)
        self.server = xllamacpp.Server(settings)

    def close(self):
        del self.server

    def complete(self, ids, **options):
        same = {"prompt": ids, "temperature": 0.0, "cache_prompt": False, "return_tokens": True, "n_probs": 0}
        return self.ask("/completion", {**same, **options})

    def ask(self, where, question):
        request = urllib.request.Request(
            self.server.listening_address + where, json.dumps(question).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def greedy(self, ids, num_ids):
        written = self.complete(ids, n_predict=num_ids, logit_bias=[[number, False] for number in FORBIDDEN])["tokens"]
        return [number for number in written if number not in (RAW_END, EOS)]

    def log_probabilities(self, ids):
        # The server tells probabilities (those before any bias) only beside a piece of text, so it is made to write one.
        first = self.complete(ids, n_predict=1, n_probs=320, logit_bias=[[ord("a"), 1000.0]])["completion_probabilities"][0]
        found = np.full(320, -math.inf)
        for entry in first["top_logprobs"]:
            found[entry["id"]] = entry["logprob"]
        return found

    def tokenize(self, text, special):
        return self.ask("/tokenize", {"content": text, "add_special": True, "parse_special": special})["tokens"]


class Bound:
    """llama.cpp behind `llama-cpp-python`."""

    def __init__(self, path):
        import llama_cpp

        self.model = llama_cpp.Llama(
            str(path), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False, logits_all=True, type_k=F32, type_v=F32
        )

    def greedy(self, ids, num_ids):
        from llama_cpp import LogitsProcessorList

        def forbid(_, scores):
            scores[FORBIDDEN] = -math.inf
            return scores

        written = []
        for number in self.model.generate(ids, temp=0.0, logits_processor=LogitsProcessorList([forbid])):
            if number in (RAW_END, EOS) or len(written) == num_ids:
                break
            written.append(number)
        return written

    def close(self):
        from llama_cpp import _utils

        self.model.close()
        for file in (_utils.outnull_file, _utils.errnull_file):  # it leaves them open, and says so at the end of the tests
            file.close()

    def log_probabilities(self, ids):
        self.model.reset()
        self.model.eval(ids)
        return torch.tensor(np.array(self.model.scores[len(ids) - 1])).double().log_softmax(0).numpy()

    def tokenize(self, text, special):
        return self.model.tokenize(text.encode(), add_bos=True, special=special)


BUILDS = {
    "wheel": (Server, "xllamacpp", "pip install xllamacpp"),
    "compiled": (Bound, "llama_cpp", "pip install llama-cpp-python, which compiles llama.cpp and needs a C++ compiler"),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory, saved_run):
    """(run, file): grouped heads of width 8, and rows of a view that are left out."""
    folder = tmp_path_factory.mktemp("export-gguf")
    run = saved_run(folder / "bytes", views={"gzip": (folder / "gzip", 256)}, mix={"rate": 0.5}, num_raw_heads=1)
    record = export_gguf(run, folder / "model.gguf")
    assert record["check"]["largest_difference"] < 1e-6
    return run, folder / "model.gguf"


@pytest.fixture(scope="module", params=BUILDS)
def llama(request, exported):
    kind, package, remedy = BUILDS[request.param]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: {remedy}")
    opened = kind(exported[1])
    yield opened
    opened.close()


def next_logits(model, ids):
    return expected_logits(model, torch.tensor([ids]))[0, -1]


@pytest.mark.parametrize("prompt", [b"", b"def f(", b"\xff\xff\xfe\x00", b"x = [1, 2]\n" * 4])
def test_llama_cpp_gives_our_probabilities_and_writes_our_greedy_bytes(exported, llama, prompt):
    model, ids = load_model(exported[0]).model, [BOS, RAW_START, *prompt]
    ours = next_logits(model, ids).double().log_softmax(0).numpy()
    assert np.abs(llama.log_probabilities(ids) - ours).max() < 2e-5
    wanted = list(ids)
    while len(wanted) < len(ids) + 16:
        logits = next_logits(model, wanted)
        logits[FORBIDDEN] = -math.inf
        wanted.append(int(logits.argmax()))
        if wanted[-1] in (RAW_END, EOS):
            wanted.pop()
            break
    assert llama.greedy(ids, 16) == wanted[len(ids) :]


def test_llama_cpp_reads_text_as_bytes(llama):
    for text in (*TEXTS, "ÿÿ", "<|reserved_19|>"):
        assert llama.tokenize(text, special=False) == [BOS, *text.encode()]
    assert llama.tokenize("<|raw|>a", special=True) == [BOS, RAW_START, 97]
    assert llama.tokenize("ÿÿ", special=True) == [BOS, *"ÿÿ".encode()]


def test_halves_become_neighbours():
    shape = LlamaShape(4, 1, 2, 1, 4, 8, 1e4, 1e-6, 0.1, 16)
    rows = np.arange(8, dtype=np.float32)[:, None]
    mixed = in_pairs("model.layers.0.self_attn.q_proj.weight", rows, shape)
    assert mixed[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert in_pairs("model.layers.0.self_attn.q_proj.weight", mixed, shape, back=True).tolist() == rows.tolist()
    assert in_pairs("model.layers.0.self_attn.v_proj.weight", rows, shape) is rows


def test_the_file_holds_every_parameter_and_says_what_it_is(exported):
    from gguf import GGUFReader

    model = load_model(exported[0]).model
    weights, (shape, found) = llama_weights(model), read(exported[1])
    assert shape.head_width == 8
    assert set(found) == set(weights) == set(llama_names(2))
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    fields = GGUFReader(exported[1]).fields
    told = {key: fields[key].contents() for key in ("general.name", "proxy_lm.checkpoint.step", "llama.context_length", "llama.vocab_size")}
    assert told == {"general.name": "bytes", "proxy_lm.checkpoint.step": 1, "llama.context_length": 64, "llama.vocab_size": 320}
    assert gguf_name("model.layers.1.mlp.up_proj.weight") == "blk.1.ffn_up.weight"
    assert token_names()[255:258] == ["ÿ", "<|pad|>", "<|bos|>"]
    assert token_names()[319] == "ÿÿ"


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_sixteen_bits_round_matrices_and_keep_norms(exported, tmp_path, dtype):
    record = export_gguf(exported[0], tmp_path / "small.gguf", dtype=dtype)
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    _, found = read(tmp_path / "small.gguf")
    for name, tensor in llama_weights(load_model(exported[0]).model).items():
        assert torch.equal(found[name], tensor if tensor.ndim == 1 else tensor.to(kind).float()), name
    assert record["check"]["largest_difference"] < 1e-6 < record["largest_change_by_rounding"]


def test_a_file_that_reads_back_wrongly_is_not_written(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_file, "in_pairs", lambda name, numbers, shape, back=False: numbers if back else in_pairs(name, numbers, shape))
    with pytest.raises(WorkError, match="gives other logits than the run"):
        export_gguf(exported[0], tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_numbers_too_large_for_fp16_are_refused(saved_run, tmp_path):
    run = saved_run(tmp_path / "large", init_std=1.0)
    weights = run / "checkpoints" / "step-1" / "model.safetensors"
    assert weights.exists()
    model = load_model(run).model
    with torch.no_grad():
        model.embedding.weight[0, 0] = 1e5
    with pytest.raises(WorkError, match="so nothing was written; export as fp32 or bf16"):
        gguf_file.round_weights(model, torch.float16, torch.tensor([[BOS, RAW_START]]))


def test_the_place_is_looked_at_first(exported, tmp_path, capsys, monkeypatch):
    run, text = exported[0], tmp_path / "notes.gguf"
    text.write_text("not a model")
    for place, words in ((tmp_path / "model.bin", "does not end in .gguf"), (text, "is no GGUF file")):
        for more in ([], ["--replace"]):
            assert cli.main(["export", "gguf", str(run), str(place), *more]) == 2
            assert words in capsys.readouterr().err
    assert text.read_text() == "not a model"
    place = tmp_path / "model.gguf"
    assert cli.main(["export", "gguf", str(run), str(place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["name"] == "model.gguf"
    assert cli.main(["export", "gguf", str(run), str(place)]) == 2
    assert "give --replace to write it anew" in capsys.readouterr().err
    assert cli.main(["export", "gguf", str(run), str(place), "--replace", "--dtype", "bf16"]) == 0
    shown = capsys.readouterr().out
    assert "rounding the weights to bf16 moved a logit by up to " in shown
    assert "and not <|raw|>, which began every document of the training: give ids in place of text, [257, 259, *bytes]" in shown
    monkeypatch.setattr(gguf_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'proxy-lm\[export\]'"):
        export_gguf(run, tmp_path / "other.gguf")
