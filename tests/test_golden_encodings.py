"""Symbols are public: what a view emitted when its golden file was written, it emits today. `pytest --write-golden` writes them anew.

Each folder of tests/golden/views is an artifact as `compressors.save` wrote it, with the symbols of a few documents beside it. Reading old
artifacts and decoding old symbols must work with every library version; equal encoding is promised for the recorded version only.
"""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

import compressors
from compressors.errors import RequestError
from compressors.zstd import ZSTD_VERSION

TEXT = "def f(x):\n    return {'a': x ** 2}  # naïve ▁ 北京\n\n\nclass C:\n\tpass\r\n"
TRAINING = [TEXT.encode() * 2, *(b"class C%d(Base):\n    def m%d(self, x):\n        return x + %d\n\n" % (k, k, k) for k in range(40))]
DOCUMENTS = {
    "empty": b"",
    "zero": b"\0",
    "code": TEXT.encode(),
    "not_utf8": b"a\xff\xfe\x80 \xc3(",
    "every_byte": bytes(range(256)),
    "names": b"</s><pad><|bos|> <unk><0x41>",
}
VIEWS = {
    "identity": {},
    "blanks": {},
    "blanks-narrow": {"indent": 2, "levels": 3},
    "gzip": {},
    "gzip-framed": {"framed": True, "level": 6},
    "zstd": {},
    "zstd-dictionary": {"dictionary_bytes": 512, "level": 3},
    "spm": {"alphabet_size": 340},
    "hf": {},
    "doublebyte": {},
    "nibble": {},
    "dibit": {},
    "bit": {},
    "phrases": {"alphabet_size": 330},
    "phrases-greedy-words": {"alphabet_size": 330, "parse": "greedy", "borders": "words"},
    "segments": {"global_quantile": 0.8},
    "segments-bytes": {"symbol_bits": 8, "monotonic_quantile": 0.6, "chunk_bytes": 16},
    "table": {"bits": 10},
    "table-top": {"rule": "top", "bits": 14, "alphabet_size": 400, "keep": "used", "parse": "fewest"},
    "table-bytes": {"bits": 17, "alphabet_size": 600, "symbol_bits": 8, "rule": "canonical"},
    "table-delay": {"rule": "delay", "alphabet_size": 65536, "depth": 3},
    "table-paper": {"alphabet_size": 65536, "depth": 3},
    "stream": {"model": "static", "exclude": False},
    "stream-exclude": {"max_training_bytes": 1000},
    "stream-exclude-wide": {"model": "static", "bits": 128, "symbol_bits": 8, "reset": 3},
    "stream-wide": {"model": "static", "bits": 128, "symbol_bits": 8, "reset": 2, "exclude": False},
    "stream-arithmetic": {"model": "static", "coder": "arithmetic", "verify": True},
    "stream-inexact": {"model": "static", "rule": "delay", "bits": 24},
    "cached": {"model": "static"},
    "as-bytes-spm-gray": {"inner": "spm", "alphabet_size": 340, "gray": True},
}


@pytest.fixture
def golden(root):
    return root / "tests" / "golden" / "views"


def write(folder, name, tmp_path):
    kind = next(known for known in sorted(compressors.names(), key=len, reverse=True) if name.startswith(known))
    options = VIEWS[name]
    if kind == "hf":
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        tokenizer.train_from_iterator((text.decode() for text in TRAINING), trainer)
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        options = {"tokenizer": str(tmp_path / "tokenizer.json")}
    view = compressors.train(kind, TRAINING, **options)
    compressors.save(view, folder)
    encoded = view.encode_batch(list(DOCUMENTS.values()))
    symbols = {key: None if one is None else one.tolist() for key, one in zip(DOCUMENTS, encoded, strict=True)}
    lines = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in symbols.items())
    (folder / "symbols.json").write_text("{\n" + lines + "\n}\n")


@pytest.mark.parametrize("name", VIEWS)
def test_symbols_are_as_recorded(golden, name, tmp_path, request):
    folder = golden / name
    if request.config.getoption("--write-golden"):
        write(folder, name, tmp_path)
    assert (folder / "symbols.json").exists(), f"{folder} is missing; a person writes it with `pytest --write-golden` and looks at it"
    recorded = json.loads((folder / "symbols.json").read_text())
    assert list(recorded) == list(DOCUMENTS)
    artifact = json.loads((folder / "artifact.json").read_text())

    view = compressors.load(folder)
    assert view.spec() == artifact["spec"]
    assert compressors.fingerprint(view) == artifact["fingerprint"]
    for key, symbols in recorded.items():
        if symbols is not None and view.exact:
            assert view.decode(np.array(symbols, dtype=np.uint32)) == DOCUMENTS[key]
    version = {"zlib": zlib.ZLIB_RUNTIME_VERSION, "zstd": ZSTD_VERSION}
    other = [key for key, here in version.items() if artifact["spec"].get(key, here) != here]
    if other:
        with pytest.raises(RequestError, match="made with"):
            view.encode(b"x")
        pytest.skip(f"recorded with {other[0]} {artifact['spec'][other[0]]}; here is {version[other[0]]}")
    encoded = view.encode_batch(list(DOCUMENTS.values()))
    assert {key: None if one is None else one.tolist() for key, one in zip(DOCUMENTS, encoded, strict=True)} == recorded


def test_only_hf_refuses_a_document(golden):
    refused = {}
    for name in VIEWS:
        recorded = json.loads((golden / name / "symbols.json").read_text())
        refused[name] = [key for key, symbols in recorded.items() if symbols is None]
    assert {name: keys for name, keys in refused.items() if keys} == {"hf": ["not_utf8", "every_byte"]}


def test_no_golden_folder_without_a_test(golden):
    assert sorted(path.name for path in golden.iterdir()) == sorted(VIEWS)
