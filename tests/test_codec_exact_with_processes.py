"""Codes of a run do not depend on how many chunks are coded at once, on threads, kernels or the process. The chunks are drawn from the
run itself, so that it codes them: text that it does not know is told by counted bytes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from proxy_lm.codec import open_predictor
from proxy_lm.codec.coder import Reader
from proxy_lm.codec.symbol_model import _WAYS, BY_MODEL

# Rows hold 64 ids, 62 of them bytes: within one, at its end, and over several.
LENGTHS = (5, 61, 62, 63, 95, 300)

_CHILD = """
import sys, torch
from pathlib import Path
from proxy_lm.codec import open_predictor
torch.set_num_threads(int(sys.argv[2]))
chunks, theirs = ([bytes.fromhex(word) for word in sys.argv[k].split(",")] for k in (3, 4))
predictor = open_predictor(Path(sys.argv[1]))
payloads = [predictor.encode([chunk])[0].payload for chunk in chunks]
torch.set_num_threads(1)  # many small steps: threads would wait for each other
assert predictor.decode(theirs[::-1], [len(chunk) for chunk in chunks][::-1]) == chunks[::-1]
print(",".join(payload.hex() for payload in payloads))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, saved_run):
    # Large weights: differences between evaluations grow with the logits.
    return saved_run(tmp_path_factory.mktemp("exact") / "run", init_std=0.4, width=64, depth=4, hidden=96)


@pytest.fixture(scope="module")
def chunks(run):
    """Noise, decoded: what is drawn from a model. The first byte says that the model tells the rest."""
    predictor, found = open_predictor(run), []
    for length in LENGTHS:
        payload = b"\0" + np.random.default_rng(length).bytes(3 * length)
        reader = Reader(payload)
        assert reader.among(_WAYS) == BY_MODEL
        lane = predictor._lane(0, payload, length, reader)
        predictor._decode_lanes([lane])
        found.append(lane.columns().astype(np.uint8).tobytes())
    return found


def test_any_number_of_lanes_and_any_group_codes_alike(run, chunks):
    predictor = open_predictor(run)
    payloads = [one.payload for one in predictor.encode(chunks)]
    assert all(Reader(payload).among(_WAYS) == BY_MODEL for payload in payloads)
    assert [predictor.encode([chunk])[0].payload for chunk in chunks] == payloads
    for lanes in (1, 4, 32):
        predictor.lanes = lanes
        assert predictor.decode(payloads, list(LENGTHS)) == chunks


@pytest.mark.parametrize(
    ("num_threads", "changes"),
    [
        pytest.param(2, {"ATEN_CPU_CAPABILITY": "avx2", "OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "2"}, id="two threads"),
        pytest.param(1, {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Nehalem", "PYTHONHASHSEED": "7"}, id="old kernels"),
    ],
)
def test_other_processes_threads_and_kernels_make_the_same_code(run, chunks, num_threads, changes):
    # C15 and C17 of the battery; all chunks at once here, one by one there, and they are read back in another order.
    payloads = [one.payload for one in open_predictor(run).encode(chunks)]
    words = [",".join(part.hex() for part in parts) for parts in (chunks, payloads)]
    program = [sys.executable, "-c", _CHILD, str(run), str(num_threads), *words]
    told = subprocess.run(program, env={**os.environ, **changes}, capture_output=True, text=True, timeout=400, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.split() == [words[1]]
