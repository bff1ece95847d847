"""A small model for tests of the codec: byte pairs, counted in a text and coded through the project's range coder; no test by itself."""

import hashlib
import io

import numpy as np

from compressors.neural import range_coder
from compressors.neural.quantise import from_counts
from proxy_lm.codec import Coded
from proxy_lm.codec.compress import compress
from proxy_lm.codec.container import read_head
from proxy_lm.codec.decompress import check_model, decompress

TEXT = (
    b"The container and what goes through it: round trips of every kind of bytes, the format to the byte, "
    b"partial files, equal bytes always."
    b"def f(x):\n    return x + 1\n"
) * 8


class BytePairs:
    """A whole-number predictor: the byte after each byte as it was counted in a text, through the project's range coder."""

    portable = True
    num_parameters = 65_536
    num_parameter_bytes = 131_072

    def __init__(self, text=TEXT, lanes=4):
        counts = np.zeros((256, 256), np.int64)
        data = np.frombuffer(text, np.uint8)
        np.add.at(counts, (data[:-1], data[1:]), 1)
        self.rows = from_counts(counts)
        self.lanes = lanes

    def identity(self):
        return {"kind": "pairs", "fingerprint": hashlib.sha256(self.rows.tobytes()).hexdigest(), "coder": "range", "precision_bits": 16}

    def encode(self, chunks):
        out = []
        for chunk in chunks:
            data = np.frombuffer(chunk, np.uint8)
            starts, sizes = range_coder.gather(self.rows[np.concatenate([[0], data[:-1]]).astype(np.int64)][: len(data)], data)
            out.append(Coded(range_coder.encode(starts, sizes).tobytes(), float(-np.log2(sizes / 65536).sum())))
        return out

    def decode(self, payloads, lengths):
        out = []
        for payload, length in zip(payloads, lengths, strict=True):
            decoder, byte, chunk = range_coder.RangeDecoder(np.frombuffer(payload, np.uint8)), 0, bytearray()
            for _ in range(length):
                byte = decoder.next(self.rows[byte])
                chunk.append(byte)
            out.append(bytes(chunk))
        return out


def packed(data, predictor, chunk_bytes=64, **options):
    """A container in memory."""
    out = io.BytesIO()
    compress(io.BytesIO(data), out, predictor, chunk_bytes=chunk_bytes, **options)
    return out.getvalue()


def unpacked(file, predictor, **options):
    """Its bytes, through the reader that only goes forward."""
    source, out = io.BytesIO(file), io.BytesIO()
    header = read_head(source)
    check_model(header, predictor)
    decompress(source, out.write, header, predictor, **options)
    return out.getvalue()
