"""What it takes to repeat a run, as `run.json` and the dry run say it: settings, versions, digests, git state, seeds, machine.

    record = describe(inputs)                 # the same on every machine, but for versions, git state and machine

No torch and no DeepSpeed is imported: versions come from the installed distributions. Not promised: that other versions of these libraries,
another kind of device or another number of ranks give the same bits; the record says which they were.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Final

import proxy_lm
from compressors.files import digest_of
from proxy_lm.config import validate
from proxy_lm.errors import RequestError
from proxy_lm.train.inputs import VALIDATION_SEED, Inputs, describe_vocabulary
from proxy_lm.train.settings import RunSettings

KIND: Final = "proxy-lm run"
# Libraries whose version can change a number of a run or a byte of what it reads.
LIBRARIES: Final = ("torch", "deepspeed", "numpy", "numba", "zstandard", "sentencepiece", "safetensors", "pydantic")
# Variables that change how sums are made or which device is taken.
VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "DS_ACCELERATOR",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "NCCL_ALGO",
    "NVIDIA_TF32_OVERRIDE",
    "MKL_CBWR",
)


def describe(inputs: Inputs) -> dict[str, Any]:
    """Everything but what only the running engine knows, as plain JSON."""
    settings = inputs.settings
    plain = settings.model_dump(mode="json")
    return {
        "schema": 1,
        "kind": KIND,
        "name": settings.name,
        "settings": plain,
        "config_digest": digest_of(plain),
        "identity": inputs.identity(),
        "fingerprints": {view.name: view.fingerprint for view in inputs.views},
        "versions": versions(),
        "git": git_state(),
        "machine": machine(),
        "seed": settings.seed,
        "seeds": {"run": settings.seed, "validation_rows": VALIDATION_SEED},
        "num_steps": inputs.num_steps,
        "symbols_per_step": inputs.shape.symbols_per_step,
        "training_flops_per_symbol": inputs.flops_per_symbol,
        "vocabulary": describe_vocabulary(inputs.vocabulary),
    }


def completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that another version has saved. Those that have come since take the value that they had when nobody could set them: their
    default. What this version does not know leaves all as it is, so that a comparison names it."""
    try:
        return validate(RunSettings, settings, "saved settings").model_dump(mode="json")
    except RequestError:
        return settings


def in_words(record: dict[str, Any]) -> list[str]:
    """The record as lines for people; digests shortened."""
    identity, git = record["identity"], record["git"]
    views = "".join(f", {name} {digest[:12]}" for name, digest in identity["views"].items())
    code = f"{git['commit'][:12]} ({git['state']})" if git else "no git checkout"
    return [
        f"inputs       corpus {identity['corpus'][:12]}{views}, plan {identity['plan'][:12]}, settings {record['config_digest'][:12]}, "
        f"seed {record['seed']}",
        f"code         {code}, " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    ]


def versions() -> dict[str, str]:
    """Of this project, Python and the libraries that decide a run's numbers."""
    found = {"proxy_lm": proxy_lm.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def git_state() -> dict[str, Any] | None:
    """Commit and cleanness of the checkout that this code runs from, with the digest of its changes; None where it is no checkout."""
    here = str(Path(__file__).resolve().parent)

    def git(*words: str) -> bytes:
        return subprocess.run(["git", "-C", here, *words], capture_output=True, check=True, timeout=10).stdout

    try:
        # Of the packages only: corpora, views and runs that lie in the checkout are no change of the program.
        packages = [str(Path(here).parents[1] / name) for name in ("proxy_lm", "compressors", "eval")]
        commit, changes = git("rev-parse", "HEAD").decode().strip(), git("status", "--porcelain", "--", *packages).decode().splitlines()
        if not changes:
            return {"commit": commit, "state": "clean"}
        difference = hashlib.sha256(git("diff", "HEAD", "--", *packages)).hexdigest()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "state": "changed", "num_changed_files": len(changes), "difference_sha256": difference}


def machine() -> dict[str, Any]:
    """Rank 0's machine: system, processor, cores and the variables that matter. No name, address or user of it."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
