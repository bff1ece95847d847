"""Each analysis of a view counts what it says: worked examples small enough to check by eye."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compressors
from compressors.base import Compressor
from compressors.neural.static import StaticModel
from proxy_lm.analysis.collisions import collisions, common_prefix
from proxy_lm.analysis.density import density
from proxy_lm.analysis.edits import change, prefix_words, resynchronisation, stability
from proxy_lm.analysis.reset_loss import NUM_POSITIONS, draw_stretches, reset_loss
from proxy_lm.analysis.told import Sample, Told
from proxy_lm.analysis.transparency import transparency
from proxy_lm.analysis.uniformity import corrected_entropy_bits, piece_divergence, symbol_bits, uniformity


def told(kind: str, *documents: bytes, languages: list[str] | None = None) -> Told:
    return Told(compressors.train(kind, []), Sample(list(documents), languages or ["python"] * len(documents)))


class Lossy(Compressor):
    """Forgets capitals."""

    name, exact, alphabet_size = "lossy", False, 256

    def encode(self, data):
        return np.frombuffer(data.lower(), np.uint8).astype(np.uint32)

    def decode(self, symbols, max_bytes=0):
        return bytes(symbols.tolist())

    def spans(self, data):
        return np.arange(len(data) + 1, dtype=np.int64)

    def spec(self):
        return {"name": "lossy"}

    @classmethod
    def from_artifact(cls, spec, files):
        return cls()


def test_density_by_language_and_position():
    found = density(told("doublebyte", b"ab" * 10, b"abc", languages=["python", "c"]))
    assert (found["told_bytes"], found["num_symbols"], found["num_documents"]) == (23, 12, 2)
    assert found["bytes_per_symbol"] == pytest.approx(23 / 12)
    assert found["by_language"]["c"]["num_symbols"] == 2
    assert found["by_language"]["python"]["bytes_per_symbol"] == 2.0
    # Bytes 0 to 15: eight pairs of the first document, a pair and a last byte of the second. Bytes 16 to 31: two pairs.
    assert found["by_position"]["bytes_per_symbol"][:3] == [19 / 10, 2.0, None]
    assert found["by_position"]["how"] == "spans"
    assert found["uniform_bits_per_byte"] == pytest.approx(math.log2(65_536 + 256) * 12 / 23)


def test_density_of_a_view_without_spans_is_of_prefixes():
    text = bytes(range(256))
    found = density(told("gzip", text))
    sizes = [len(compressors.train("gzip", []).encode(text[:n])) for n in (0, 16, 32)]
    assert found["by_position"]["how"] == "prefixes"
    assert found["by_position"]["bytes_per_symbol"][:2] == [16 / (sizes[1] - sizes[0]), 16 / (sizes[2] - sizes[1])]


def test_nothing_told_is_no_number():
    found = density(told("identity", b""))
    assert (found["bytes_per_symbol"], found["unigram_bits_per_byte"]) == (None, None)


def test_bits_are_written_highest_first_and_even_ones_diverge_by_nothing():
    assert symbol_bits(np.array([5, 2], np.uint32), 3).tolist() == [1, 0, 1, 0, 1, 0]
    every = symbol_bits(np.arange(256, dtype=np.uint32), 8)
    # All 256 values once: the plug-in entropy is 8 bits and the correction takes it (256 - 1) / (2 * 256) nats too far.
    assert piece_divergence(every, 8) == pytest.approx(-255 / 512 / math.log(2))
    assert piece_divergence(np.zeros(800, np.uint8), 8) == 8.0
    assert piece_divergence(np.zeros(7, np.uint8), 8) is None


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20))
def test_entropy_is_the_plain_sum_and_the_correction(counts):
    total, seen = sum(counts), [count for count in counts if count]
    plain = -sum(c / total * math.log2(c / total) for c in seen) + (len(seen) - 1) / (2 * total) / math.log(2) if total else 0.0
    assert corrected_entropy_bits(np.array(counts)) == pytest.approx(plain, abs=1e-12)


def test_random_symbols_are_as_even_as_even_bits():
    data = np.random.Generator(np.random.Philox(key=1)).integers(0, 256, 200_000, dtype=np.uint8).tobytes()
    found = uniformity(told("identity", data))
    assert abs(found["divergence_bits"][7]) < 1e-3
    assert abs(found["even_bits_divergence_bits"][7]) < 1e-3
    assert found["num_symbols_used"] == 256
    text = uniformity(told("identity", b"a text is far from even. " * 1000))
    assert text["divergence_bits"][7] > 3


def test_a_change_of_one_byte_by_hand():
    double = compressors.train("doublebyte", [])
    old, new = b"abcdefgh", b"abXcdefgh"
    found = change(double, (old, double.encode(old)), (new, double.encode(new)), 2)
    # ab|cd|ef|gh and ab|Xc|de|fg|h: nothing agrees after the edit.
    assert (found["symbols"], found["bytes_after"], found["bytes_before"], found["never"]) == (4, 6, 0, True)
    nibble = compressors.train("nibble", [])
    found = change(nibble, (old, nibble.encode(old)), (b"abdefgh", nibble.encode(b"abdefgh")), 2)
    assert (found["bytes_after"], found["bytes_before"], found["never"]) == (0, 0, False)


@given(st.binary(min_size=1, max_size=60), st.integers(0, 59), st.one_of(st.none(), st.integers(0, 255)))
def test_bytes_agree_again_at_once(text, place, inserted):
    place %= len(text)
    new = text[:place] + (b"" if inserted is None else bytes([inserted])) + text[place + (inserted is None) :]
    identity = compressors.train("identity", [])
    found = change(identity, (text, identity.encode(text)), (new, identity.encode(new)), place)
    assert (found["bytes_after"], found["bytes_before"]) == (0, 0)
    assert found["symbols"] <= 1


def test_resynchronisation_of_bytes_and_of_pairs():
    text = bytes(np.random.Generator(np.random.Philox(key=2)).integers(32, 127, 5000, dtype=np.uint8))
    found = resynchronisation(told("identity", text), num_edits=40)
    assert (found["num_edits"], found["never_share"], found["bytes_after"]["p99"]) == (40, 0.0, 0.0)
    assert resynchronisation(told("doublebyte", text), num_edits=40)["bytes_after"]["median"] > 1000
    assert resynchronisation(told("identity", b"short"), num_edits=4)["num_edits"] == 0


def test_stability_of_bytes_is_that_of_the_words():
    pytest.importorskip("rapidfuzz")
    words = b" ".join(f"word{k}".encode() for k in range(50))
    found = stability(told("identity", words))
    assert (found["num_prefixes"], found["num_pairs"]) == (50, 50 * 49 // 2)
    assert found["prefix_distance"] == found["prefix_distance_of_bytes"]
    assert sum(found["histogram"]) == found["num_pairs"]
    assert found["deletion"]["mean"] == pytest.approx(0.1, abs=0.01)
    assert set(prefix_words(Sample([b"one two one to"], ["python"]), 0)) == {b"one", b"two"}


def test_transparency_counts_texts_and_tellings():
    found = transparency(told("identity", (b"name = name\n" * 100)[:1100]))
    assert (found["attested_symbols"], found["repeated_share"]) == (7, 1.0)
    assert (found["texts_per_symbol"], found["main_text_share"], found["symbols_with_several_texts"]) == (1.0, 1.0, 0)
    assert (found["num_words"], found["tellings_per_word"]) == (1, 1.0)
    # Pairs of bytes: "name" begins on an even or on an odd byte, so it is told in two ways.
    found = transparency(told("doublebyte", b"name  name " * 50))
    assert found["tellings_per_word"] == 2.0
    assert "texts_per_symbol" not in transparency(told("gzip", b"name " * 300))


def test_collisions_of_a_view_that_forgets_capitals():
    found = collisions(Told(Lossy(), Sample([b"abAB", b"abc", b"abCd"], ["python"] * 3)))
    assert (found["num_documents"], found["exact_documents"]) == (3, 1)
    assert found["document_prefix_share"] == pytest.approx((2 / 4 + 2 / 4) / 2)
    # a and A, b and B, c and C share a symbol, the lone d does not: 10 of 11 windows. A, B and C come back wrong.
    assert (found["colliding_symbols"], found["num_windows"]) == (3, 11)
    assert found["colliding_window_share"] == pytest.approx(10 / 11)
    assert found["wrong_window_share"] == pytest.approx(3 / 11)
    assert found["prefix_ratio"] == 0.0
    exact = collisions(told("identity", b"abAB"))
    assert (exact["promises_exactness"], exact["exact_documents"], "wrong_window_share" in exact) == (True, 1, False)
    assert [common_prefix(*pair) for pair in ((b"", b"a"), (b"ab", b"ab"), (b"abc", b"abd"))] == [0, 2, 2]


def test_loss_after_a_reset_is_the_models_own():
    model = StaticModel([65536 - 255 * 128, *([128] * 255)])
    sample = Sample([bytes(NUM_POSITIONS), bytes([1]) * NUM_POSITIONS, b"short"], ["python"] * 3)
    found = reset_loss(model, sample, num_stretches=100)
    zeros = sum(not any(stretch) for stretch in draw_stretches(sample, 100, 0))
    bits = -(zeros * math.log2((65536 - 255 * 128) / 65536) + (100 - zeros) * math.log2(128 / 65536)) / 100
    assert found["bits_per_byte"] == pytest.approx([bits] * NUM_POSITIONS)
    assert reset_loss(model, Sample([b"short"], ["python"]))["num_stretches"] == 0
