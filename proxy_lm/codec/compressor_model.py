"""Any compressor as a model of the next byte, and as a writer.

    model = CompressorModel(open_lengths("gzip"))
    model.next(b"for index in ran")                     # float64 [256], sums to 1
    model.bits(chunk, context=b"")                      # bits a byte of the chunk under `next`, byte for byte: horizon one
    model.own_bits(chunk, context=b"")                  # bits a byte that the compressor itself needs for the chunk
    b"".join(continuation(model, b"for ", max_bytes=40, temperature=1.0, seed=0))

The definition is that of Deletang et al., "Language modeling is compression" (ICLR 2024), section 3.4: p(b | x) is proportional to
2^(len(x) - len(x b)), with lengths in bits, normalised over the 256 bytes.

Criticism that belongs beside every number of it: the horizon is one byte. A match of gzip or LZMA tells many bytes at once and costs the
same for the first as for all, so what makes them compressors hardly shows in the price of one byte more; and after a byte that begins a
match the price is paid again. `bits` is therefore far above `own_bits` for them, and equal to it for a model that codes byte by byte (but
for its coder's rounding). Compare compressors by `own_bits`; `bits` says what a sampler of single bytes gets from them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import numpy as np

from proxy_lm.codec.lengths import BYTES, F64, Lengths
from proxy_lm.data.permutation import key_of, uniforms
from proxy_lm.errors import RequestError
from proxy_lm.infer.stops import StopMatcher

_NUM_KEPT: Final = 4096


class CompressorModel:
    """Next-byte distributions from code lengths. Keeps the last few thousand that it was asked for."""

    def __init__(self, lengths: Lengths) -> None:
        """`lengths` as `proxy_lm.codec.lengths.open_lengths` gives them."""
        self.lengths = lengths
        self._kept: OrderedDict[bytes, F64] = OrderedDict()

    def next(self, prefix: bytes) -> F64:
        """Float64 [256]: probability of each byte after `prefix`; of a longer prefix than the format takes, after its end."""
        chances: F64 = np.exp2(self.log2_next(prefix))
        return chances

    def log2_next(self, prefix: bytes) -> F64:
        """Float64 [256]: log2 of `next`, finite also where the probability is too small for a float64."""
        prefix = prefix[-(self.lengths.max_bytes - 1) :]
        if prefix in self._kept:
            self._kept.move_to_end(prefix)
            return self._kept[prefix].copy()
        bits = self.lengths.candidates(prefix)
        scores: F64 = bits.min() - bits
        scores -= np.log2(np.exp2(scores).sum())
        self._kept[prefix] = scores
        if len(self._kept) > _NUM_KEPT:
            self._kept.popitem(last=False)
        return scores.copy()

    def bits(self, chunk: bytes, context: bytes = b"") -> float:
        """Bits a byte of `chunk` after `context` under `next`. Raises `RequestError` for an empty chunk. One compression a candidate
        byte: 256 for each byte of the chunk."""
        _refuse_empty(chunk)
        total = sum(self.log2_next(context + chunk[:index])[byte] for index, byte in enumerate(chunk))
        return float(-total / len(chunk))

    def own_bits(self, chunk: bytes, context: bytes = b"") -> float:
        """Bits a byte that the compressor itself needs for `chunk`: alone, or on top of `context`. Raises `RequestError` for an empty
        chunk, and for more than the format takes."""
        _refuse_empty(chunk)
        if len(context) + len(chunk) > self.lengths.max_bytes:
            raise RequestError(
                f"{len(context)} bytes of context and {len(chunk)} of the chunk; {self.lengths.name} takes {self.lengths.max_bytes} here: "
                "give less context, or a shorter chunk"
            )
        return (self.lengths.total(context + chunk) - (self.lengths.total(context) if context else 0.0)) / len(chunk)


def continuation(
    model: CompressorModel, prompt: bytes, *, max_bytes: int, temperature: float = 1.0, seed: int = 0, sample: int = 0
) -> Iterator[bytes]:
    """Bytes drawn one after another, each fed back: exactly `max_bytes` single bytes. Draw i is keyed by (seed, sample, i), so equal
    requests give equal bytes. Temperature 0 takes the shortest code, of equals the lowest byte."""
    key = key_of(seed, f"bytes from a compressor, sample {sample}")
    for index in range(max_bytes):
        scores = model.log2_next(prompt)
        if temperature == 0:
            value = int(scores.argmax())
        else:
            bounds = np.exp2((scores - scores.max()) / temperature).cumsum()
            value = int(np.searchsorted(bounds, uniforms(key, np.array([index]))[0] * bounds[-1], side="right"))
        prompt += BYTES[value]
        yield BYTES[value]


def completed(bytes_: Iterator[bytes], stops: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes | None]]:
    """The same bytes as (new bytes that are sure, None), up to the first stop sequence, which is told last as (b"", stop)."""
    matcher, held = StopMatcher(stops), b""
    for byte in bytes_:
        held += byte
        hit = matcher.feed(byte)
        if hit is not None:
            yield held[: len(held) - len(hit.stop)], None
            yield b"", hit.stop
            return
        sure = len(held) - matcher.num_held
        if sure:
            yield held[:sure], None
            held = held[sure:]
    if held:
        yield held, None


def _refuse_empty(chunk: bytes) -> None:
    if not chunk:
        raise RequestError("an empty chunk has no bits a byte; give at least one byte")
