"""Results of a grid made up of known numbers, for the tests of its report; no test by itself."""

from __future__ import annotations

import math

import numpy as np

from eval import report, results
from proxy_lm.config import validate

# Arm: (symbols a byte told, loss above or below that of bytes at the same source bytes and parameters, what it gains with scale)
ARMS = {
    "bytes": (1.0, 0.0, 0.0),
    "tokens": (0.36, 0.10, 0.02),
    "proxy_spm": (0.45, -0.02, -0.02),
    "proxy_neural": (0.42, 0.0, -0.015),
    "proxy_gzip": (0.5, 0.16, 0.0),
}
BODIES = {"s0": 310_000, "s1": 1_050_000, "s2": 3_120_000}
PLAN = {
    "name": "made_up",
    "question": "Does a byte model learn more from equal arithmetic when most documents are told as symbols?",
    "corpus": {"path": "corpus"},
    "views": {"spm": {"kind": "spm", "options": {}}, "table": {"kind": "table", "options": {}}, "gzip": {"kind": "gzip", "options": {}}},
    "arms": {
        "bytes": {},
        "tokens": {"views": ["spm"], "mix": {"rate": 1.0}},
        "proxy_spm": {"views": ["spm"], "mix": {"rate": 0.9}},
        "proxy_neural": {"views": ["table"], "mix": {"rate": 0.9}},
        "proxy_gzip": {"views": ["gzip"], "mix": {"rate": 0.9}},
    },
    "scales": {name: {"model": {"width": 64 * 2**i}} for i, name in enumerate(BODIES)},
    "match": {"flops": 2.3e13},
    "budgets": {
        "x1": {name: 6 * body * 20 * body * 1.3 for name, body in BODIES.items()},
        "x4": {name: 24 * body * 20 * body * 1.3 for name, body in BODIES.items()},
    },
    "search": {"learning_rates": [0.002, 0.004, 0.008], "scales": ["s0"]},
    "seeds": [0, 1, 2],
}
VIEWS = {
    name: {"kind": name, "alphabet_size": 2048, "bytes_per_symbol": 2.9, "num_raw_only": 0, "fingerprint": "f" * 64, "digest": "d" * 64}
    for name in ("spm", "table", "gzip")
}


def made_up(arms=ARMS, scales=("s0", "s1", "s2"), budgets=("x1", "x4"), seeds=(0, 1, 2), failed=("proxy_gzip", "s1", "x4", 1)):
    """A comparison as `results.json` has it. Losses are 1.1 + A/N^0.3 + B/D^0.28 with what each arm is worth."""
    generator = np.random.default_rng(7)
    projects = generator.integers(3_000, 60_000, 24).astype(float)
    hard = generator.normal(0, 0.25, len(projects))
    runs = []
    for budget in budgets:
        for scale in scales:
            for seed in seeds:
                luck = generator.normal(0, 0.004)
                for place, (name, (rate, worse, gain)) in enumerate(arms.items()):
                    flops = PLAN["budgets"][budget][scale]
                    own = np.random.default_rng([place, seed, len(runs)])
                    told = flops / (6 * BODIES[scale] * 1.3) / rate
                    bits = 1.1 + 60 / BODIES[scale] ** 0.3 + 90 / told**0.28 + worse * (1 - rate) * 2
                    bits += gain * math.log(BODIES[scale] / BODIES["s0"]) + luck + own.normal(0, 0.006)
                    by_project = (bits + hard + own.normal(0, 0.03, len(projects))) * projects * math.log(2)
                    value = float(by_project.sum() / projects.sum() / math.log(2))
                    done = (name, scale, budget, seed) != failed
                    runs.append(run(name, scale, budget, seed, flops, told, value if done else None, by_project))
    return {
        "name": "made_up",
        "question": PLAN["question"],
        "command": "proxy-lm-eval compare configs/compare/made_up.yaml",
        "plan": {**PLAN, "seeds": list(seeds), "evaluation": EVALUATION},
        "versions": {"proxy-lm": "0.1.0", "torch": "2.13.0"},
        "machine": {"device": "CPU (x86_64)", "num_cores": 2},
        "corpus": {
            "digest": "ab" * 32,
            "splits": {name: {"num_bytes": 64_000_000, "num_documents": 9_000, "num_projects": 300} for name in ("train", "valid", "test")},
        },
        "views": VIEWS,
        "match": {"kind": "flops", "target": 2.3e13},
        "baseline": "bytes",
        "arms": runs,
        "projects": {"num_bytes": projects.tolist()},
        "searched": [
            {"arm": arm, "scale": "s0", "learning_rate": rate, "seed": 1000, "training_flops": 5.8e12, "bits_per_byte": bits}
            for arm in arms
            for rate, bits in ((0.002, 2.91), (0.004, 2.85), (0.008, None if arm == "tokens" else 2.88))
        ],
        "chosen": [
            {"arm": arm, "scale": scale, "learning_rate": 0.004 / 2**i, "reason": "searched" if i == 0 else "transferred from s0"}
            for arm in arms
            for i, scale in enumerate(scales)
        ],
    }


EVALUATION = {
    "split": "test",
    "context_bytes": 512,
    "stride_bytes": 256,
    "max_bytes": 400_000,
    "score_end": False,
}


SAMPLES = {
    name: {
        "schema": "proxy-lm samples 1",
        "samples": [
            {"source": "pkg/file.py", "prompt": "def add(a, b):\n    ", "completion": text, "truth": "return a + b"},
            {"prompt": "import <", "completion": "sys\x00"},
        ],
    }
    for name, text in (("bytes", "return a"), ("proxy_spm", "return a + b"))
}


def run(name, scale, budget, seed, flops, told, bits, by_project):
    view = {"bytes": "raw", "tokens": "spm"}.get(name, "raw")
    steps = 1000
    mine = {"tokens": "spm", "proxy_spm": "spm", "proxy_neural": "table", "proxy_gzip": "gzip"}.get(name)
    compressor = 0.0 if mine is None else {"spm": 1.2e10, "table": 9.0e12, "gzip": 4.0e9}[mine]
    found = {
        "name": name,
        "scale": scale,
        "budget": budget,
        "seed": seed,
        "learning_rate": 0.004,
        "finished_on": "2026-11-21",
        "folder": f"arms/{name}-{scale}-{budget}-s{seed}",
        "status": "done" if bits is not None else "failed",
        "failure": None if bits is not None else "exit code 1; last lines: <out of memory & more>",
        "differs": PLAN["arms"].get(name, {"mix": {"rate": 0.5}}),
        "training_flops": flops * (1 + 0.001 * seed),
        "flops_per_symbol": 6 * BODIES[scale],
        "symbols": int(told / 2),
        "source_bytes": int(told),
        "source_bytes_by_view": {"raw": int(told * 0.3), **({mine: int(told * 0.7)} if mine else {})},
        "documents_by_view": {"raw": 310, **({mine: 790} if mine else {})},
        "symbols_by_view": {"raw": int(told * 0.3), **({mine: int(told * 0.2)} if mine else {})},
        "unique_bytes": int(told * 0.9),
        "epochs": told / 64e6,
        "num_steps": steps,
        "num_parameters": {"body": BODIES[scale], "embedding": 150_000, "output": 150_000, "total": BODIES[scale] + 300_000},
        "world_size": 1,
        "seconds": None if bits is None else flops / 9e10,
        "wall_seconds": None if bits is None else flops / 8e10,
        "device_seconds": None if bits is None else flops / 9e10,
        "compressor_flops": compressor,
        "compressor": {"train_seconds": 3.25 if mine else 0, "encode_seconds": 1.5 if mine else 0, "flops": compressor},
        "compressor_seconds": 4.75 if mine else 0,
        "view": view,
        "curve_view": view,
        "final": {"step": steps},
    }
    if bits is None:
        return {**found, "bits_per_byte": None}
    return {
        **found,
        "bits_per_byte": bits,
        "interval": [bits - 0.1, bits + 0.11],
        "nll_nats_by_project": by_project.tolist(),
        "evaluations": {"samples": SAMPLES[name]} if (budget, seed) == ("x4", 0) and name in SAMPLES else {},
        "evaluation": {"by_language": {"python": {"bits_per_byte": bits, "num_bytes": 400_000, "num_documents": 70}}},
        "curve": [
            {
                "step": int(share * steps),
                "training_flops": share * flops,
                "symbols": int(share * told / 2),
                "source_bytes": share * told,
                "seconds": share * flops / 9e10,
                "bits_per_byte": bits + 0.05 / share**0.5 - 0.03,
            }
            for share in (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
        ],
    }


def found(**changes):
    return validate(results.Results, made_up(**changes), "results")


def small(**changes):
    """Two scales, one budget, two seeds: nothing that takes long to analyse."""
    return found(**{"scales": ("s0", "s1"), "budgets": ("x1",), "seeds": (0, 1), "failed": (), **changes})


def section(results_, title):
    return next(section for section in report.content(results_).sections if section.title == title)
