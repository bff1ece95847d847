"""How fast a dictionary parses and spells, beside the limits of the machine, in interleaved rounds; `make bench` prints the medians.

Text: Python of the running interpreter's library, 8 MB from one half of its files for the strings, 8 MB from the other half to parse.
"""

from __future__ import annotations

import hashlib
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressors.neural.dictionary import Dictionary
from compressors.neural.jit import compiled

HALF_BYTES = 8_000_000
NUM_STRINGS = 1 << 16
SINGLES = [bytes([byte]) for byte in range(256)]


@compiled
def one_lookup_a_byte(data: Any, table: Any) -> Any:
    total = np.uint64(0)
    for byte in data:
        total += table[byte]
    return total


def halves() -> list[list[bytes]]:
    found: list[list[bytes]] = [[], []]
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        half = hashlib.sha256(path.name.encode()).digest()[0] & 1
        if sum(map(len, found[half])) < HALF_BYTES:
            found[half].append(path.read_bytes())
    return found


def frequent(text: bytes) -> Dictionary:
    """The most frequent prefixes at 400,000 random places, which are prefix-closed."""
    counts: Counter[bytes] = Counter()
    places = np.random.default_rng(0).integers(0, len(text) - 40, 400_000).tolist()
    for size in range(1, 41):
        level = Counter(text[place : place + size] for place in places)
        counts.update({string: count for string, count in level.items() if count >= 3})
        places = [place for place in places if level[text[place : place + size]] >= 3]
    best = sorted(counts, key=lambda string: (-counts[string], len(string), string))
    return Dictionary.from_strings([*SINGLES, *(string for string in best if len(string) > 1)][:NUM_STRINGS])


@pytest.mark.bench
def test_walks_beside_memory_and_a_lookup_a_byte(capsys: pytest.CaptureFixture[str]) -> None:
    train, test = halves()
    closed = frequent(b"".join(train))
    assert closed.is_prefix_closed
    strings = closed.strings()
    # The same strings without every fourth: inner nodes without a code.
    opened = Dictionary.from_strings([string for n, string in enumerate(strings) if len(string) == 1 or n % 4])
    data = np.frombuffer(b"".join(test), np.uint8)
    offsets = np.cumsum([0, *map(len, test)])
    table = np.arange(256, dtype=np.uint64)
    codes, places = closed.encode_flat(data, offsets)
    ways: dict[str, Callable[[], Any]] = {
        "memory copy": data.copy,
        "one lookup a byte": lambda: one_lookup_a_byte(data, table),
        "greedy, prefix-closed": lambda: closed.encode_flat(data, offsets),
        "greedy, prefix-closed, lists": lambda: closed.encode(test),
        "greedy, any dictionary": lambda: opened.encode_flat(data, offsets),
        "fewest, prefix-closed": lambda: closed.encode_flat(data, offsets, parse="fewest"),
        "fewest, any dictionary": lambda: opened.encode_flat(data, offsets, parse="fewest"),
        "decode": lambda: closed.decode_flat(codes, places, max_bytes=len(data)),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for measured in range(10):
        for name, way in ways.items():
            start = time.thread_time()
            way()
            if measured:
                speeds[name].append(len(data) / (time.thread_time() - start) / 1e6)
    with capsys.disabled():
        print(f"\n{len(data) / 1e6:.1f} MB, {closed.num_codes} strings, {len(data) / len(codes):.2f} bytes a symbol; MB/s of one core:")
        for name, found in speeds.items():
            print(f"  {name:30s} median {np.median(found):7.0f}   best {max(found):7.0f}")
    assert np.median(speeds["greedy, prefix-closed"]) >= 300
    assert np.median(speeds["decode"]) >= 350
