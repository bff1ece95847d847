"""Speed and size of coding with models: `pytest -m bench -s tests/test_bench_codec.py`.

Processor time of one process with one thread for arithmetic, in turns, medians of the rounds' ratios, so that other work on the machine
counts for all alike. The plain pass is `Decoder.logits` in float32 over the very rows that the encoder evaluates, as many at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch

from compressors.neural.counts import CountModel
from proxy_lm.codec.byte_model import ByteModelPredictor
from proxy_lm.codec.coder import encode
from proxy_lm.codec.frequencies import WEIGHTS, gather
from proxy_lm.codec.run_model import _IDS_PER_PASS, DecoderBody, RawReading
from proxy_lm.codec.symbol_model import SymbolPredictor
from proxy_lm.infer.prompts import continued
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.settings import ModelSettings

pytestmark = pytest.mark.bench

CHUNK_BYTES, NUM_CHUNKS = 2048, 2


class PlainCoder:
    """A binary arithmetic coder as textbooks and the papers' programs have it: one symbol at a time in Python, whole numbers of any size,
    a probability for each symbol of the alphabet made a distribution and summed up in numpy, digits one by one."""

    BITS = 32

    def __init__(self) -> None:
        self.low, self.high = 0, 2**self.BITS - 1
        self.num_kept_back = 0
        self.digits: list[int] = []

    def encode(self, pdf: np.ndarray, symbol: int) -> None:
        """Float32 [A], a distribution but for its last bits."""
        least = np.finfo(np.float32).eps
        pdf = (1 - 2 * len(pdf) * least) * (pdf / np.cumsum(pdf)[-1]) + least
        if (pdf < 0).any():
            raise ValueError("a probability is negative")
        width = self.high - self.low + 1
        borders = (np.concatenate([[0.0], np.cumsum(pdf)]) * width).astype(np.int64)
        if (np.diff(borders) <= 0).any() or borders[-1] > width:
            raise ValueError("a symbol has no width")
        self.low, self.high = self.low + int(borders[symbol]), self.low + int(borders[symbol + 1]) - 1
        half, quarter = 2 ** (self.BITS - 1), 2 ** (self.BITS - 2)
        while True:
            if self.high < half or self.low >= half:
                digit = int(self.low >= half)
                self.write(digit)
                below = digit * half
            elif self.low >= quarter and self.high < half + quarter:  # the next digits are 01...1 or 10...0
                self.num_kept_back += 1
                below = quarter
            else:
                return
            self.low, self.high = (self.low - below) * 2, (self.high - below) * 2 + 1

    def write(self, digit: int) -> None:
        self.digits.append(digit)
        self.digits += [1 - digit] * self.num_kept_back
        self.num_kept_back = 0

    def finish(self) -> int:
        """Digits in all."""
        self.num_kept_back += 1
        self.write(int(self.low >= 2 ** (self.BITS - 2)))
        return len(self.digits)


def _sources() -> list[bytes]:
    root = Path(__file__).resolve().parent.parent
    text = b"".join(path.read_bytes() for path in sorted((root / "proxy_lm" / "infer").glob("*.py")))
    return [text[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES] for i in range(NUM_CHUNKS)]


def _seconds(job: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    job()
    return clock() - began


@pytest.fixture(scope="module")
def trained() -> Decoder:
    """A nano that has seen a little source code: its rows are peaked as a model's are."""
    torch.set_num_threads(1)
    model = Decoder(ModelSettings(preset="nano"), 320, 512, seed=1)
    text = np.concatenate([np.frombuffer(path.read_bytes(), np.uint8) for path in sorted(Path(__file__).parent.glob("*.py"))])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    starts = np.random.default_rng(0).integers(0, len(text) - 128, (30, 8, 1))
    for some in starts:
        ids = torch.from_numpy(text[some + np.arange(128)].astype(np.int64))
        logits = model.logits(ids, torch.zeros_like(ids), torch.arange(128).expand(8, 128))
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("row_length", [512, 2304])
@torch.inference_mode()
def test_bench_encoding_beside_a_plain_forward_pass(trained, row_length):
    """Coder and quantiser work beside the evaluation: what is hidden is what their thread needs. Rows of 512 are those of `nano`, where
    most positions are evaluated twice by both; in rows of 2,304 a chunk fits."""
    chunks = _sources()
    predictor = SymbolPredictor(DecoderBody(trained, np.arange(256), row_length), RawReading(), {}, 1, 1)
    step, rows = row_length - row_length // 2, []
    for chunk in chunks:
        ids = torch.tensor([257, 259, *chunk])
        rows += [ids[k * step : k * step + row_length] for k in range(continued(len(ids) - 1, row_length)[1] + 1)]
    length = max(map(len, rows))
    batch = torch.stack([torch.nn.functional.pad(row, (0, length - len(row))) for row in rows])
    num_at_once = max(1, _IDS_PER_PASS // length)
    positions = torch.arange(length).expand(num_at_once, length)

    def plain() -> None:
        for some in batch.split(num_at_once):
            trained.logits(some, torch.zeros_like(some), positions[: len(some)])

    plain()
    coded = predictor.encode(chunks)
    rounds = []
    for _ in range(5):
        alone = _seconds(plain, time.process_time)
        rounds.append((alone, _seconds(lambda: predictor.encode(chunks), time.thread_time)))
        rounds[-1] += (alone, _seconds(lambda: predictor.encode(chunks), time.process_time))
    hidden, whole = median(a / b for a, b, _, _ in rounds), median(a / b for _, _, a, b in rounds)
    print(
        f"\nrows of {row_length}: encoding at {hidden:.2f} of a plain forward pass's speed, {whole:.2f} with coder and quantiser", end="; "
    )
    print(f"{sum(map(len, chunks)) / median(one[3] for one in rounds) / 1e3:.1f} kB a processor second")
    began = time.process_time()
    assert predictor.decode([coded[0].payload], [CHUNK_BYTES]) == chunks[:1]
    print(f"decoding one chunk alone: {CHUNK_BYTES / (time.process_time() - began) / 1e3:.2f} kB a processor second")
    assert hidden >= 0.5


@torch.inference_mode()
def test_bench_coder_beside_one_in_python(trained):
    """The same probabilities: ours from logits to bytes, theirs from float32 probabilities to a list of digits."""
    chunks = _sources()
    body = DecoderBody(trained, np.arange(256), 512)
    predictor = SymbolPredictor(body, RawReading(), {}, 1, 1)
    columns_N = np.concatenate([np.frombuffer(chunk, np.uint8).astype(np.int64) for chunk in chunks])
    told = predictor._streams([np.frombuffer(chunk, np.uint8).astype(np.int64) for chunk in chunks])
    logits_NC = body.logits(torch.cat([torch.cat(parts) for parts in told]))
    shares_NC = torch.softmax(torch.from_numpy(logits_NC).float(), 1).numpy()
    starts, sizes = np.empty((2, len(columns_N)), np.uint32)
    num = 1000

    def ours() -> None:
        gather(logits_NC, columns_N, 0, WEIGHTS, starts, sizes)
        encode(starts, sizes)

    def theirs() -> None:
        coder = PlainCoder()
        for pdf, symbol in zip(shares_NC[:num], columns_N[:num].tolist(), strict=True):
            coder.encode(pdf, symbol)
        bits = -np.log2(shares_NC[np.arange(num), columns_N[:num]]).sum()
        assert coder.finish() == pytest.approx(bits, rel=1e-2)

    ours()
    rounds = [
        (
            _seconds(theirs, time.process_time) / num,
            _seconds(ours, time.process_time) / len(columns_N),
            _seconds(lambda: encode(starts, sizes), time.process_time),
        )
        for _ in range(7)
    ]
    ratio = median(a / b for a, b, _ in rounds)
    theirs_us, ours_us, coder_us = (1e6 * median(one[i] for one in rounds) for i in range(3))
    print(f"\nin Python {theirs_us:.1f} us a byte; ours {ours_us:.2f}, of it the coder {coder_us / len(columns_N):.3f}", end=": ")
    print(f"{ratio:.0f} times as fast")
    assert ratio >= 20


def test_bench_codec_of_a_count_model():
    chunks = _sources() * 8
    model = CountModel.train([path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))], max_nodes=1 << 16)
    predictor = ByteModelPredictor(model)
    payloads, lengths = [one.payload for one in predictor.encode(chunks)], [len(chunk) for chunk in chunks]
    rounds = [
        (
            _seconds(lambda: predictor.encode(chunks), time.process_time),
            _seconds(lambda: predictor.decode(payloads, lengths), time.process_time),
        )
        for _ in range(5)
    ]
    encoding, decoding = (sum(lengths) / median(one[i] for one in rounds) / 1e6 for i in (0, 1))
    print(f"\ncounts: encode {encoding:.2f} MB, decode and check {decoding:.2f} MB a processor second")
    assert predictor.decode(payloads, lengths) == chunks
