"""Ten thousand drawn documents come back from each exact neural view, and every code decodes to something.

Documents are drawn from bytes of every kind and from stretches of source put together at odd places, so that windows are long and short:
once for all views, a thousand by hypothesis, which likes what is at an edge, and the others by a seed.
"""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressors import registry
from compressors.neural.table import Table

NUM_CASES = 10_000
NUM_AT_EDGES = 1_000
KINDS = {
    "table": ("table", {}),
    "dense": ("table", {"rule": "top", "bits": 18, "alphabet_size": 8192, "keep": "used", "parse": "fewest"}),
    "bytes": ("table", {"symbol_bits": 8}),
    "phrases": ("phrases", {"alphabet_size": 4096}),
    "stream": ("stream", {}),
}


@pytest.fixture(scope="module")
def source(request):
    """Python of this project, a few hundred kilobytes."""
    return [path.read_bytes() for path in sorted((request.config.rootpath / "proxy_lm").rglob("*.py"))]


@pytest.fixture(scope="module")
def documents(source):
    """Documents of up to four stretches, of source or of any bytes."""
    text = b"".join(source)
    of_source = st.builds(lambda start, size: text[start : start + size], st.integers(0, len(text) - 1), st.integers(0, 200))
    found = []

    @settings(max_examples=NUM_AT_EDGES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(document=st.lists(of_source | st.binary(max_size=40), max_size=4).map(b"".join))
    def draw(document):
        found.append(document)

    draw()
    random = Random(1)

    def part():
        at = random.randrange(len(text))
        return text[at : at + random.randrange(201)] if random.random() < 0.5 else random.randbytes(random.randrange(41))

    while len(found) < NUM_CASES:
        found.append(b"".join(part() for _ in range(random.randrange(5))))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_ten_thousand_documents_come_back(name, source, documents):
    kind, options = KINDS[name]
    view = registry.train(kind, source, **options)
    assert view.exact
    assert len(documents) >= NUM_CASES
    for document in (*documents, b"", *(bytes([value]) for value in range(256))):
        symbols = view.encode(document)
        assert view.decode(symbols, max_bytes=len(document)) == document
        assert not len(symbols) or int(symbols.max()) < view.alphabet_size


def test_every_code_of_sixteen_bits_decodes_to_something(source):
    view = registry.train("table", source[:20])
    assert isinstance(view, Table)
    decoded = view.decode_batch([np.array([code], dtype=np.uint32) for code in range(1 << 16)])
    assert all(decoded)
    assert len(set(decoded)) >= 0.9 * (1 << 16)
