"""Every view gives back every byte, says which bytes its symbols stand for, and does so on every thread and under every hash seed."""

from __future__ import annotations

import concurrent.futures
import gzip
import io
import itertools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import compressors
from compressors.errors import DecodeError, NotRepresentableError, RequestError

CODE = [
    b"def f%d(x, y):\n    return {'a': x + %d, \"b\": [y] * 2}\n\n\nclass C%d(Base):\n\tpass  # na\xc3\xafve\n" % (k, k, k)
    for k in range(60)
]

EDGES = [
    b"",
    *(bytes([value]) for value in range(256)),
    bytes(range(256)),
    b"\0",
    b"a\0",
    b"a\0\0b",
    b"\xff\xfe\x80",
    b"\xc3",
    b"\xed\xa0\x80",  # a surrogate
    b"\xf4\x90\x80\x80",  # over U+10FFFF
    "▁".encode(),
    " ▁ ▁▁  ▁x".encode(),
    "\u2585\u2047\ufffd\ufeff\u2028".encode(),
    b"<|bos|>",
    b"</s><pad>",
    b"<unk><s></s><0x41><|view_0|><|endoftext|>",
    b"\r\n\r\n\t  x  \n",
    b" " * 1000,
    b"x" * 70000,
    "é".encode("latin-1") + "é".encode() + "e\u0301 👩‍👩‍👧".encode(),
]


def tokenizer_json(byte_level=True) -> bytes:
    """A small tokenizer file with the traps that published ones have: template, truncation, special names."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=None if byte_level else "<unk>"))
    if byte_level:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    # Control symbols at numbers of their own, not at 1 and 2.
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<a>", "<b>", "<unk>", "<|bos|>", "</s>", "<pad>"], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator((text.decode() for text in CODE), trainer)
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    tokenizer.post_processor = processors.TemplateProcessing(single="<|bos|> $A </s>", special_tokens=[("<|bos|>", 3), ("</s>", 4)])
    return tokenizer.to_str().encode()


def make(name: str):
    """A view by a short name of this file."""
    if name == "hf":
        from compressors.hf import HuggingFace

        return HuggingFace(model=tokenizer_json())
    options = {
        "spm": {"alphabet_size": 400},
        "gzip-framed": {"framed": True},
        "zstd-dictionary": {"dictionary_bytes": 1024},
        "as-bytes-spm": {"inner": "spm", "alphabet_size": 400},
        "as-bytes-spm-gray": {"inner": "spm", "alphabet_size": 400, "gray": True},
        "as-bytes-doublebyte": {"inner": "doublebyte"},
        "as-bytes-bit-gray": {"inner": "bit", "gray": True},
    }.get(name, {})
    kind = next(known for known in sorted(compressors.names(), key=len, reverse=True) if name.startswith(known))
    return compressors.train(kind, CODE, **options)


NAMES = [
    *("identity", "blanks", "gzip", "gzip-framed", "zstd", "zstd-dictionary", "spm", "hf", "doublebyte", "nibble", "dibit", "bit"),
    *("as-bytes-spm", "as-bytes-spm-gray", "as-bytes-doublebyte", "as-bytes-bit-gray"),
]


@pytest.fixture(scope="module")
def views():
    return {name: make(name) for name in NAMES}


def came_back(view, data: bytes) -> bool:
    """True for an exact round trip; False where the view refused the document, which only `hf` may."""
    try:
        symbols = view.encode(data)
    except NotRepresentableError:
        assert view.name == "hf"
        assert view.encode_batch([data]) == [None]
        return False
    assert symbols.dtype == np.uint32
    assert symbols.ndim == 1
    assert symbols.max(initial=0) < view.alphabet_size
    assert view.decode(symbols, max_bytes=len(data)) == data
    borders = view.spans(data)
    if borders is not None:
        assert borders.dtype == np.int64
        assert len(borders) == len(symbols) + 1
        assert borders[0] == 0
        assert borders[-1] == len(data)
        assert (np.diff(borders) >= 0).all()
    return True


@pytest.mark.parametrize("name", NAMES)
def test_every_edge_comes_back(views, name):
    for data in EDGES:
        told = came_back(views[name], data)
        assert told or name == "hf"


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_come_back(views, name, data):
    piece = st.one_of(st.binary(max_size=20), st.sampled_from(EDGES[257:-2] + CODE), st.text(max_size=10).map(str.encode))
    document = b"".join(data.draw(st.lists(piece, max_size=8)))
    told = came_back(views[name], document)
    assert told or name == "hf"


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_the_same_as_one_by_one(views, name):
    documents = [*CODE[:5], b"", b"\xff\0", CODE[0]]
    for one, document in zip(views[name].encode_batch(documents), documents, strict=True):
        if one is not None:
            assert one.tolist() == views[name].encode(document).tolist()
    assert [one is None for one in views[name].encode_batch(documents)] == [name == "hf" and b"\xff" in d for d in documents]


def test_control_symbols_are_not_assumed_at_another_tokenizers_numbers(views):
    """B4: bos and eos were stripped as 1 and 2, whatever the tokenizer. Here no control symbol is ever made."""
    symbols = views["hf"].encode(b"<|bos|>x</s><pad><a><b>")
    assert not set(symbols.tolist()) & set(range(6))
    assert views["hf"].decode(symbols) == b"<|bos|>x</s><pad><a><b>"
    assert len(views["hf"].encode(CODE[0] * 5)) > 16  # the file's truncation is off, and so is its padding
    assert len(views["hf"].encode(b"x")) == 1


def test_a_lossy_tokenizer_is_refused_per_document():
    """B7: nothing measured what a view loses. What does not come back is refused, and only that."""
    from compressors.hf import HuggingFace

    view = HuggingFace(model=tokenizer_json(byte_level=False))
    documents = [b"def f1(x,", "e\u0301".encode(), b"\xff", b" leading", b""]
    told = [symbols is not None for symbols in view.encode_batch(documents)]
    assert told == [True, False, False, False, True]
    with pytest.raises(NotRepresentableError, match="byte for byte"):
        view.encode(b"\xff")


def test_spm_symbols_stand_for_themselves(views):
    """Byte symbols are the byte values, and pieces never swallow an escape, a space sign or a NUL."""
    spm = views["spm"]
    assert spm.encode("▁".encode()).tolist() == [0xE2, 0x96, 0x81]
    assert spm.encode(b"\0\xff").tolist() == [0, 255]
    meanings = [spm.decode(np.array([symbol], dtype=np.uint32)) for symbol in range(spm.alphabet_size)]
    assert meanings[:256] == [bytes([value]) for value in range(256)]
    assert any(set(meaning) == {32} and len(meaning) > 1 for meaning in meanings), "no piece for indentation was learned"
    assert len(spm.encode(CODE[0])) < len(CODE[0]) / 2


def test_spm_chunks_are_the_whole_text_cut(views):
    """The slow twin: SentencePiece over the whole document at once gives the symbols that the chunks give."""
    spm = views["spm"]
    text = b"".join(CODE).decode()
    assert spm.encode(text.encode()).tolist() == [piece - 1 for piece in spm._processor.encode(text)]


def test_spm_memo_is_replaced_when_full(views, monkeypatch):
    monkeypatch.setattr("compressors.spm._MEMO_BYTES", 500)
    view = pickle.loads(pickle.dumps(views["spm"]))
    assert [view.decode(view.encode(data)) for data in CODE] == CODE
    assert view._memo_bytes < 20_000


def test_training_is_a_function_of_documents_and_options():
    a, b = (compressors.train("spm", iter(CODE), alphabet_size=350) for _ in range(2))
    assert compressors.fingerprint(a) == compressors.fingerprint(b)
    assert compressors.fingerprint(compressors.train("spm", CODE[:30], alphabet_size=350)) != compressors.fingerprint(a)
    capped = compressors.train("spm", iter(CODE), alphabet_size=350, max_training_bytes=len(b"".join(CODE[:30])))
    assert compressors.fingerprint(capped) == compressors.fingerprint(compressors.train("spm", CODE[:30], alphabet_size=350))


CHILD = """
import hashlib, sys, compressors, pathlib
view = compressors.load(pathlib.Path(sys.argv[1]))
documents = [("x%d = [%d]  # \\u2581 \\u00e9" % (k, k)).encode() + bytes([k]) for k in range(256)]
print(hashlib.sha256(b"".join(s.tobytes() for s in view.encode_batch(documents))).hexdigest())
"""


def test_symbols_do_not_depend_on_hash_seed_or_threads(views, tmp_path):
    compressors.save(views["spm"], tmp_path / "v")
    found = set()
    for seed, threads in [("0", "1"), ("1", "2"), ("random", "3")]:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads, "LC_ALL": "C"}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path / "v")], env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1


@pytest.mark.parametrize("name", ["spm", "zstd-dictionary", "gzip", "hf"])
def test_one_instance_serves_many_threads(views, name):
    view = pickle.loads(pickle.dumps(views[name]))
    alone = [views[name].encode(data).tolist() for data in CODE]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda data: view.encode(data).tolist(), CODE)) == alone


@pytest.mark.parametrize("name", NAMES)
def test_pickled_views_are_the_same(views, name):
    again = pickle.loads(pickle.dumps(views[name]))
    assert compressors.fingerprint(again) == compressors.fingerprint(views[name])
    assert again.encode(CODE[0]).tolist() == views[name].encode(CODE[0]).tolist()


def test_framed_gzip_is_gzip_without_time_and_name(views):
    stream = views["gzip-framed"].encode(CODE[0]).astype(np.uint8).tobytes()
    assert gzip.decompress(stream) == CODE[0]
    assert stream[3] == 0, "no name, no comment"
    assert stream[4:8] == bytes(4), "no time"
    assert stream[9] == 255, "no operating system"
    assert stream[10:-8] == views["gzip"].encode(CODE[0]).astype(np.uint8).tobytes()


def test_gray_neighbours_differ_in_one_bit(views):
    gray = views["as-bytes-spm-gray"]
    by_meaning = sorted(range(400), key=lambda s: (gray.inner.decode(np.array([s], dtype=np.uint32)), s))
    codes = [int(gray._code[s]) for s in by_meaning]
    assert {(a ^ b).bit_count() for a, b in itertools.pairwise(codes)} == {1}


def test_another_library_version_decodes_and_does_not_encode():
    from compressors.deflate import Deflate
    from compressors.zstd import Zstd

    for here, there in [(Deflate(), Deflate(zlib_version="0.9")), (Zstd(), Zstd(zstd_version="0.9"))]:
        assert there.decode(here.encode(CODE[0])) == CODE[0]
        assert compressors.fingerprint(here) != compressors.fingerprint(there)
        with pytest.raises(RequestError, match=r"made with (zlib|zstd) 0\.9"):
            there.encode(b"x")


def test_a_foreign_sentencepiece_model_is_refused():
    import sentencepiece

    from compressors.spm import SentencePiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d"] * 9), model_writer=model, vocab_size=8, minloglevel=2, model_type="bpe"
    )
    with pytest.raises(RequestError, match="not trained by this view"):
        SentencePiece(model=model.getvalue())
    with pytest.raises(RequestError, match="not a SentencePiece model"):
        SentencePiece(model=b"\xff garbage")


# ---- symbols from outside -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_symbols_give_bytes_or_a_decode_error(views, name, data):
    view = views[name]
    symbol = st.integers(0, view.alphabet_size - 1) | st.integers(0, min(255, view.alphabet_size - 1))
    symbols = data.draw(st.lists(symbol, max_size=40))
    if data.draw(st.booleans()) and name != "hf":  # a damaged true encoding: cut, lengthened, one symbol changed
        symbols = view.encode(CODE[0]).tolist()[: data.draw(st.integers(0, 60))] + symbols
    try:
        found = view.decode(np.array(symbols, dtype=np.uint32), max_bytes=1000)
    except DecodeError:
        return
    assert isinstance(found, bytes)
    assert len(found) <= 1000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "symbols", [[-1], [2**32 - 1], [2**40], [0.5], [[0, 0]], ["a"], [None], [True, 1.5]], ids=lambda symbols: str(symbols).replace(" ", "")
)
def test_what_are_no_symbols_is_refused(views, name, symbols):
    with pytest.raises(DecodeError, match=f"view '{views[name].name}'"):
        views[name].decode(np.array(symbols))


@pytest.mark.parametrize("name", ["gzip", "gzip-framed", "zstd", "zstd-dictionary"])
def test_a_stream_is_whole_and_alone(views, name):
    """The libraries report neither a truncated stream nor what follows one; both are refused here."""
    view = views[name]
    symbols = view.encode(b"".join(CODE))
    for cut in [0, 1, len(symbols) // 2, len(symbols) - 1]:
        with pytest.raises(DecodeError):
            view.decode(symbols[:cut])
    for more in ([0], symbols.tolist(), [1] * 1000):
        with pytest.raises(DecodeError):
            view.decode(np.append(symbols, np.array(more, dtype=np.uint32)))


@pytest.mark.parametrize("name", ["nibble", "dibit", "bit", "as-bytes-spm", "as-bytes-doublebyte"])
def test_symbols_that_end_inside_one_are_refused(views, name):
    with pytest.raises(DecodeError, match="inside"):
        views[name].decode(views[name].encode(CODE[0])[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_the_cap_holds(views, name):
    view = views[name]
    document = b"".join(CODE) + b"a" * 5000
    symbols = view.encode(document)
    assert view.decode(symbols, max_bytes=len(document)) == document
    for cap in (0, 1, len(document) - 1):
        with pytest.raises(DecodeError, match="cap"):
            view.decode(symbols, max_bytes=cap)


def test_zstd_frames_that_ask_for_much_are_refused(views):
    descriptor, window = 0x00, 0xA8  # a window of 2 GiB
    with pytest.raises(DecodeError):
        views["zstd"].decode(np.array([descriptor, window, 1, 0, 0], dtype=np.uint32))
    declared = [0xE0, *([0xFF] * 7), 0x00, 1, 0, 0]  # a single segment of 2**56 bytes
    with pytest.raises(DecodeError):
        views["zstd"].decode(np.array(declared, dtype=np.uint32))
