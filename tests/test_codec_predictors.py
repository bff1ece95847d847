"""Chunks through every kind of predictor and back: what is coded, what it costs, what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

import compressors.registry as registry
from compressors.errors import DecodeError, RequestError
from compressors.neural.counts import CountModel
from compressors.neural.models import save_model
from compressors.neural.static import StaticModel
from proxy_lm.codec import MAX_CHUNK_BYTES, Predictor, open_predictor
from proxy_lm.codec.coder import Reader, encode, next_order0, next_stored, next_symbol, uniform_interval
from proxy_lm.codec.frequencies import NUM_PHASES, TOTAL, WEIGHTS, frequencies, gather, information_bits, order0, stored

ALL_UNSAFE = (1 << 64) - 1
TEXT = b"def area(width, height):\n    return width * height\n\n\n" * 3

# C02 and C04 of the battery: empty, single, equal, all, random, already compressed; text as editors and systems spell it.
ODD = [
    b"",
    b"\x00",
    b"\xff",
    b"a" * 300,
    bytes(range(256)),
    np.random.default_rng(5).bytes(300),
    b"b" * 200 + b"c",
    "caf\u00e9 cafe\u0301 \ufb01 \ufeff\u2028 \U0001f469\u200d\U0001f4bb \ufffd".encode(),
    b"\xef\xbb\xbfone\r\ntwo\ttabs  \r\n\x00\xc3\x28\xa0\xa1\xed\xa0\x80",
    TEXT,
]


@pytest.fixture(scope="module")
def predictors(tmp_path_factory, saved_run) -> dict[str, Predictor]:
    """A count model, a static one, and runs asked in raw bytes, tokens, gzip's bytes."""
    folder = tmp_path_factory.mktemp("codec")
    documents = [(TEXT + f"x{i} = {i * i} + area({i}, 2)\n".encode()) * 3 for i in range(40)]
    save_model(CountModel.train(documents, max_nodes=2000, num_starts=20_000), folder / "counts")
    save_model(StaticModel.train(documents), folder / "static")
    views = {}
    for name, options in (("spm", {"alphabet_size": 300}), ("gzip", {})):
        compressor = registry.train(name, documents, **options)
        registry.save(compressor, folder / name)
        views[name] = (folder / name, compressor.alphabet_size)
    run = saved_run(folder / "run", views=views)
    runs = {name: open_predictor(run, view=name) for name in ("raw", "spm", "gzip")}
    return {"counts": open_predictor(folder / "counts"), "static": open_predictor(folder / "static"), **runs}


KINDS = ("counts", "static", "raw", "spm", "gzip")


def come_back(predictor: Predictor, chunks: list[bytes]) -> list[bytes]:
    """The payloads, after a look at what they decode to and cost."""
    coded = predictor.encode(chunks)
    payloads = [one.payload for one in coded]
    assert predictor.decode(payloads, [len(chunk) for chunk in chunks]) == chunks
    for one in coded:  # C21, and the bar: within 0.1 % and 4 bytes a chunk; less than the content by luck alone
        assert 8 * len(one.payload) <= one.information_bits * 1.001 + 16
        assert one.information_bits >= 0
    return payloads


@pytest.mark.parametrize("kind", KINDS)
def test_odd_chunks_come_back(predictors, kind):
    come_back(predictors[kind], ODD)


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_byte_comes_back(predictors, kind):
    come_back(predictors[kind], [bytes([byte]) for byte in range(0, 256, 1 if kind in ("counts", "static") else 15)])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(chunks=st.lists(st.binary(max_size=90) | st.text(max_size=40).map(str.encode), max_size=4))
def test_any_chunks_come_back(predictors, kind, chunks):
    come_back(predictors[kind], chunks)


@pytest.mark.parametrize("kind", ["counts", "raw"])
def test_lengths_around_words_and_rows_come_back(predictors, kind):
    # C08. Rows hold 64 ids, 62 of them bytes; a row that goes on tells 32 more.
    lengths = [*range(12), 31, 32, 33, 61, 62, 63, 64, 65, 94, 95, 96, 97, 126, 127, 128, 129, 158, 159, 160, 161]
    come_back(predictors[kind], [TEXT[:length] for length in lengths])


def test_a_long_chunk_comes_back_and_a_longer_one_is_refused(predictors):
    come_back(predictors["counts"], [(TEXT * 500)[:MAX_CHUNK_BYTES], b"\0" * MAX_CHUNK_BYTES])
    with pytest.raises(RequestError, match="cut it into smaller chunks"):
        predictors["counts"].encode([b"\0" * (MAX_CHUNK_BYTES + 1)])


def test_learned_text_is_cheap_and_what_the_model_cannot_tell_costs_little_more_than_its_bytes(predictors):
    noise = np.random.default_rng(1).bytes(400)
    assert 8 * len(predictors["counts"].encode([TEXT])[0].payload) < 2 * len(TEXT)
    for kind in ("raw", "spm", "gzip"):  # untrained: 8 bits a byte by any other way
        assert len(predictors[kind].encode([noise])[0].payload) <= 400 + 2
        assert len(predictors[kind].encode([b"a" * 400])[0].payload) < 100


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_a_chunk_does_not_depend_on_its_neighbours(predictors, kind):
    together = [one.payload for one in predictors[kind].encode(ODD)]
    assert [predictors[kind].encode([chunk])[0].payload for chunk in ODD] == together


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_encoder_makes_is_refused_or_decodes_to_other_bytes_of_that_length(predictors, kind):
    payload = predictors[kind].encode([TEXT])[0].payload
    num_refused = 0
    for bad in (payload[:-1], payload + b"\0", payload + b"\x80", b"", *(_flipped(payload, bit) for bit in range(0, 8 * len(payload), 37))):
        try:
            (text,) = predictors[kind].decode([bad], [len(TEXT)])
        except DecodeError:
            num_refused += 1
        else:
            assert text != TEXT
            assert len(text) == len(TEXT)
    assert num_refused >= 2  # filled up with zeros at least: nothing but the one shortest code is taken


@pytest.mark.parametrize("kind", KINDS)
def test_impossible_lengths_are_refused(predictors, kind):
    for payload, length in ((b"", -1), (b"", MAX_CHUNK_BYTES + 1), (b"\0", 0), (b"x" * 100, 3)):
        with pytest.raises(DecodeError, match="damaged"):
            predictors[kind].decode([payload], [length])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(payload=st.binary(max_size=40), length=st.integers(0, 40))
def test_any_payload_is_decoded_or_refused(predictors, kind, payload, length):
    try:
        (text,) = predictors[kind].decode([payload], [length])
    except DecodeError:
        return
    assert predictors[kind].encode([text])[0].payload == payload or kind not in ("counts", "static")
    assert len(text) == length


def _flipped(payload: bytes, bit: int) -> bytes:
    changed = bytearray(payload)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_identities_say_what_decoding_depends_on(predictors):
    of_raw, of_tokens = predictors["raw"].identity(), predictors["spm"].identity()
    assert of_raw["fingerprint"] == of_tokens["fingerprint"]
    assert (of_raw["view"], of_tokens["view"]) == ("raw", "spm")
    assert of_tokens["compressor"] is not None
    assert predictors["counts"].portable
    assert not predictors["raw"].portable
    assert predictors["raw"].num_parameter_bytes == 4 * predictors["raw"].num_parameters


def test_what_is_no_model_is_refused(tmp_path, predictors):
    with pytest.raises(RequestError):
        open_predictor(tmp_path)
    save_model(CountModel.train([TEXT], max_nodes=600), tmp_path / "m")
    with pytest.raises(RequestError, match="has no view 'spm'"):
        open_predictor(tmp_path / "m", view="spm")
    with pytest.raises(RequestError, match="device 'tpu' is unknown"):
        open_predictor(tmp_path / "m", device="tpu")
    registry.save(registry.train("nibble", []), tmp_path / "view")
    with pytest.raises(RequestError, match="is a view, no model; give a run, a byte model"):
        open_predictor(tmp_path / "view")
    shutil.copytree(tmp_path / "m", tmp_path / "view" / "model")
    with pytest.raises(RequestError, match=r"is a view, no model; its byte model is in .*view/model"):
        open_predictor(tmp_path / "view")


# The coder and the frequencies alone


def _code(logits, targets, phase=0):
    starts, sizes = np.empty((2, len(targets)), np.uint32)
    unsafe = int(gather(logits, targets, phase, WEIGHTS, starts, sizes))
    return starts, sizes, unsafe


@settings(max_examples=60)
@given(
    logits=of_numpy.arrays(
        np.float64,
        st.tuples(st.integers(1, 6), st.integers(1, 40)),
        elements=st.floats(-1e300, 1e300) | st.sampled_from([0.0, -np.inf, 36.7, -36.7]),
    ),
    phase=st.integers(0, NUM_PHASES - 1),
    draw=st.data(),
)
def test_frequencies_are_at_least_one_and_sum_exactly(logits, phase, draw):
    # C05: probabilities of 0 and of 1 - 2^-53, numbers of any size.
    targets = np.array([draw.draw(st.integers(0, logits.shape[1] - 1)) for _ in logits], np.int64)
    starts, sizes, unsafe = _code(logits, targets, phase)
    row = np.empty(logits.shape[1], np.int64)
    reader = Reader(encode(starts, sizes)) if unsafe != ALL_UNSAFE else None
    scratch, interval = np.empty_like(row), np.empty(2, np.uint32)
    for i, one in enumerate(logits):
        if not frequencies(one, phase, WEIGHTS, row):
            assert np.isinf(one).all()
            assert unsafe == ALL_UNSAFE
            continue
        assert row.min() >= 1
        assert row.sum() == TOTAL
        if reader is not None:
            assert (starts[i], sizes[i]) == (row[: targets[i]].sum(), row[targets[i]])
            assert next_symbol(one, phase, WEIGHTS, scratch, reader.words, reader.state, interval) == targets[i]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_have_no_safe_phase(bad):
    logits = np.zeros((3, 5))
    logits[1, 2] = bad
    assert _code(logits, np.zeros(3, np.int64))[2] == ALL_UNSAFE
    assert not frequencies(logits[1], 0, WEIGHTS, np.empty(5, np.int64))


def test_a_logit_at_a_border_is_seen_and_another_phase_moves_the_border():
    step = np.log(2) / 32
    logits = np.array([[0.0, -10.5 * step]])  # half way between two steps
    _, sizes, unsafe = _code(logits, np.array([1]))
    assert unsafe & 1
    assert not unsafe >> 1 & 1
    moved = [_code(logits + np.array([0, noise]), np.array([1]), phase)[1][0] for phase in (0, 1) for noise in (-1e-12, 1e-12)]
    assert moved[0] != moved[1]
    assert moved[2] == moved[3]
    assert sizes[0] in moved[:2]


@pytest.mark.parametrize("alphabet_size", [2, 256, 4096, 65536])
def test_wide_alphabets_are_coded_at_their_information_content(alphabet_size):
    generator = np.random.default_rng(alphabet_size)
    logits = generator.normal(0, 4, (20, alphabet_size))
    targets = np.array([generator.choice(alphabet_size, p=p / p.sum()) for p in np.exp(logits)])
    _, sizes, _ = _code(logits, targets)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    own = -np.log2(shares[np.arange(20), targets]).sum()
    assert information_bits(sizes) == pytest.approx(own, rel=0.02, abs=0.5)


@pytest.mark.parametrize("target", [0, 1])
def test_a_million_symbols_that_cost_most_or_least_cost_what_they_should(target):
    # C06: sizes of TOTAL - 255 and of 1.
    starts = np.full(1_000_000, [0, TOTAL - 1][target], np.uint32)
    sizes = np.full(1_000_000, [TOTAL - 255, 1][target], np.uint32)
    payload = encode(starts, sizes)
    assert 8 * len(payload) <= information_bits(sizes) * 1.001 + 9
    reader, table = Reader(payload), np.array([TOTAL - 255] + [1] * 255, np.int64)
    assert [reader.among(table) for _ in range(500)] == [[0, 255][target]] * 500


def test_the_code_written_out():
    # Halves are bits; the code is the shortest number in the interval.
    half = TOTAL // 2
    bits = [1, 0, 1, 1, 0, 0, 1, 1]
    starts = np.array([bit * half for bit in bits], np.uint32)
    assert encode(starts, np.full(8, half, np.uint32)) == bytes([0b10110011])
    assert encode(starts[:3], np.full(3, half, np.uint32)) == bytes([0b10100000])
    assert encode(starts[:0], starts[:0]) == b""


def test_a_carry_runs_through_words():
    # Far up to the top of the interval, then over it: the words before have to be counted up.
    generator = np.random.default_rng(3)
    for _ in range(200):
        starts = np.concatenate([np.full(generator.integers(1, 30), TOTAL - 3), generator.integers(0, TOTAL - 3, 4)]).astype(np.uint32)
        sizes = np.full(len(starts), 3, np.uint32)
        reader = Reader(encode(starts, sizes))
        table = np.full((len(starts), 3), 3, np.int64)
        for row, start in zip(table, starts.tolist(), strict=True):
            row[0], row[2] = start, TOTAL - 3 - start
            assert reader.among(row) == 1


@given(data=st.binary(max_size=300), num=st.integers(1, 70_000), value=st.floats(0, 0.999))
def test_counted_stored_and_uniform_come_back(data, num, value):
    number = int(value * num)
    codes = [order0(np.frombuffer(data, np.uint8)), stored(np.frombuffer(data, np.uint8))]
    start, size = uniform_interval(number, num)
    parts = [(np.array([start], np.uint32), np.array([size], np.uint32)), *codes]
    reader = Reader(encode(*(np.concatenate(one) for one in zip(*parts, strict=True))))
    assert reader.uniform(num) == number
    assert next_order0(len(data), reader) == data
    assert next_stored(len(data), reader) == data
