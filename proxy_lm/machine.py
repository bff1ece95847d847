"""What this machine has and what follows from it; `proxy-lm doctor` shows it.

torch is imported in a process of its own, so that a torch that crashes or hangs is a line of the answer. Not probed: the network, and
whether other hosts of a run look like this one.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from packaging.markers import default_environment
from packaging.requirements import Requirement

DISTRIBUTION: Final = "proxy-lm"
MIN_PYTHON: Final = (3, 11)
TORCH_LIMIT_SECONDS: Final = 60
SANDBOX_LIMIT_SECONDS: Final = 120
# Advice for the quickstart, on the generous side; nothing is refused because of it.
ADVISED_FREE_BYTES: Final = 5_000_000_000
ADVISED_MEMORY_BYTES: Final = 4_000_000_000

EXTRAS: Final[Mapping[str, str]] = {
    "eval": "reports with plots",
    "dedup": "near-duplicate removal",
    "hf": "views from a tokenizer.json",
    "export": "models read back by transformers, GGUF files",
    "inspect": "stability of views",
    "lm_eval": "tasks of lm-evaluation-harness",
    "compress": "rows of compression tables: brotli, PNG, FLAC; PPM as a writer",
    "ray": "corpora and views built by Ray",
    "dev": "tests and checks",
}

TOOLS: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "numactl": (("numactl",), "binding of ranks to cores (deepspeed --bind_cores_to_rank)"),
    "pdsh": (("pdsh",), "several machines over ssh by a hostfile (proxy-lm launch --hostfile)"),
    "sbatch": (("sbatch",), "jobs under Slurm (proxy-lm launch --slurm)"),
    "C++ compiler": (("c++", "g++", "clang++"), "DeepSpeed's compiled operations (with ninja)"),
    "ninja": (("ninja",), "DeepSpeed's compiled operations (with a C++ compiler)"),
    "bubblewrap": (("bwrap",), "the stronger tiers of the sandbox for generated programs"),
}

_TORCH_PROBE = """
import json, torch
cuda = torch.cuda.is_available()
devices = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({
    "version": torch.__version__,
    "build": f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else "CPU",
    "devices": [{"name": d.name, "memory_bytes": d.total_memory, "capability": f"{d.major}.{d.minor}"} for d in devices],
    "bf16_on_device": bool(cuda and torch.cuda.is_bf16_supported()),
    "gloo": torch.distributed.is_available() and torch.distributed.is_gloo_available(),
    "num_threads": torch.get_num_threads(),
}))
"""


def examine(folder: Path) -> dict[str, Any]:
    """Everything, as plain JSON; `folder` is where runs would be written. `missing` lists what the default path needs and has not."""
    requirements, problem = _requirements()
    torch = probe_torch()
    result: dict[str, Any] = {
        "python": {"version": platform.python_version(), "executable": sys.executable, "platform": platform.platform()},
        "torch": torch,
        "packages": [check_package(requirement) for requirement in requirements if _applies(requirement, "")],
        "extras": [check_extra(name, requirements) for name in EXTRAS],
        "cores": {"usable": len(os.sched_getaffinity(0)), "machine": os.cpu_count()},
        "memory": memory(),
        "disk": {"path": str(folder.resolve()), "free_bytes": shutil.disk_usage(folder).free},
        "tools": [find_tool(name) for name in TOOLS],
        "sandbox": probe_sandbox(),
        "libaio_header": libaio_header(),
        "environment": {
            name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "DS_ACCELERATOR", "OMP_NUM_THREADS", "TORCH_EXTENSIONS_DIR")
        },
        "jit_locks": jit_locks(extensions_folder()),
    }
    result["missing"] = ([problem] if problem else []) + _missing(result)
    result["warnings"] = _warnings(result)
    result["features"] = features(result, cpu_flags())
    return result


def probe_torch(command: Sequence[str] = (sys.executable, "-c", _TORCH_PROBE)) -> dict[str, Any]:
    """What torch says of itself, from its own process; {"error": sentence} where it cannot be imported."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"importing torch took over {TORCH_LIMIT_SECONDS} seconds"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return {"error": f"importing torch failed: {lines[-1] if lines else f'exit code {done.returncode}'}"}
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer | {"error": None}


def probe_sandbox(command: Sequence[str] = (sys.executable, "-m", "eval.sandbox")) -> dict[str, Any]:
    """Which tier of the sandbox works here, asked in a process of its own: this room does not import the one that measures."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SANDBOX_LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"tier": None, "why": f"trying the sandbox out took over {SANDBOX_LIMIT_SECONDS} seconds"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return {"tier": None, "why": f"the sandbox could not be tried out: {lines[-1] if lines else f'exit code {done.returncode}'}"}
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def check_package(requirement: Requirement) -> dict[str, Any]:
    """Whether an installed version satisfies a requirement; the package itself is not imported."""
    try:
        installed: str | None = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        installed = None
    ok = installed is not None and requirement.specifier.contains(installed, prereleases=True)
    wanted = ",".join(sorted(map(str, requirement.specifier), reverse=True))
    return {"name": requirement.name, "required": wanted, "installed": installed, "ok": ok}


def check_extra(name: str, requirements: Sequence[Requirement]) -> dict[str, Any]:
    """Whether the packages of an optional extra are there, what they enable and the command that installs them."""
    own = [r for r in requirements if r.marker is not None and r.name != DISTRIBUTION and _applies(r, name) and not _applies(r, "")]
    packages = [check_package(requirement) for requirement in own]
    present = bool(packages) and all(package["ok"] for package in packages)
    return {
        "extra": name,
        "enables": EXTRAS[name],
        "present": present,
        "packages": packages,
        "install": f"pip install '{DISTRIBUTION}[{name}]'",
    }


def find_tool(name: str) -> dict[str, Any]:
    """Where a program is (None: not found) and what it would enable. None of them is needed by the default path."""
    commands, enables = TOOLS[name]
    beside = Path(sys.executable).parent
    path = next((found for command in commands if (found := shutil.which(command) or shutil.which(command, path=str(beside)))), None)
    return {"name": name, "path": path, "enables": enables}


def libaio_header() -> str | None:
    """Where libaio.h lies, on the compiler's usual paths or those that CPATH and CFLAGS name; None: not installed."""
    named = [word.removeprefix("-I") for word in os.environ.get("CFLAGS", "").split() if word.startswith("-I")]
    folders = [*os.environ.get("CPATH", "").split(os.pathsep), *named, "/usr/include", "/usr/local/include"]
    return next((str(path) for folder in folders if folder and (path := Path(folder) / "libaio.h").is_file()), None)


def memory() -> dict[str, int | None]:
    """Bytes of memory: the machine's, what is available now, and the control group's limit (None: none)."""
    values = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, rest = line.partition(":")
        values[key] = int(rest.split()[0]) * 1024
    limit: int | None = None
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        text = path.read_text().strip() if path.is_file() else "max"
        if text.isdigit() and int(text) < values["MemTotal"]:
            limit = int(text)
    return {"total_bytes": values["MemTotal"], "available_bytes": values["MemAvailable"], "limit_bytes": limit}


def cpu_flags() -> frozenset[str]:
    """The instruction sets that the kernel names; empty on machines that name none."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def extensions_folder() -> Path:
    """Where torch builds extensions: TORCH_EXTENSIONS_DIR, else its place in the user's cache."""
    if chosen := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"


def jit_locks(folder: Path) -> list[dict[str, Any]]:
    """Lock files of extension builds. A build keeps its lock open; a lock that nobody has open makes later starts wait for ever.

    Not seen: builds by other users' processes or by other hosts that share the folder; the age helps to judge those.
    """
    locks = sorted(path for pattern in ("*/lock", "*/*/lock") for path in folder.glob(pattern) if path.is_file())
    return [
        {
            "path": str(path),
            "age_seconds": int(max(0.0, time.time() - path.stat().st_mtime)),
            "stale": not _is_open(path),
            "remedy": f"rm '{path}'",
        }
        for path in locks
    ]


def features(found: Mapping[str, Any], flags: frozenset[str]) -> list[dict[str, Any]]:
    """What works here: {"feature", "available", "why"}, with the remedy in `why` where there is one."""
    torch = found["torch"]
    devices = torch.get("devices") or []
    extras = {extra["extra"]: extra for extra in found["extras"]}
    tools = {tool["name"]: tool["path"] for tool in found["tools"]}
    offline = (found["environment"]["HF_HUB_OFFLINE"] or "").upper() in {"1", "ON", "YES", "TRUE"}
    bf16_flags = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    compiled = tools["C++ compiler"] is not None and tools["ninja"] is not None
    no_device = torch["error"] or f"torch {torch.get('version')} ({torch.get('build')} build) sees no device"

    def by_extra(name: str) -> tuple[bool, str]:
        extra = extras[name]
        versions = ", ".join(f"{package['name']} {package['installed'] or 'missing'}" for package in extra["packages"])
        return extra["present"], versions if extra["present"] else f"{extra['install']} ({versions})"

    rows: list[tuple[str, tuple[bool, str]]] = [
        (
            "training on this CPU",
            (not found["missing"] and bool(torch.get("gloo")), "ranks talk over gloo" if torch.get("gloo") else no_device),
        ),
        ("training on GPUs, tests marked gpu", (bool(devices), f"{len(devices)} devices" if devices else f"skipped: {no_device}")),
        (
            "bf16 at full speed on this CPU",
            (bool(bf16_flags), ", ".join(bf16_flags) or "the CPU has neither avx512_bf16 nor amx_bf16: correct but slow; use fp32"),
        ),
        ("bf16 on GPUs", (bool(torch.get("bf16_on_device")), "supported" if torch.get("bf16_on_device") else f"skipped: {no_device}")),
        ("near-duplicate removal", by_extra("dedup")),
        ("reports with plots", by_extra("eval")),
        ("views from a tokenizer.json (hf)", by_extra("hf")),
        ("exports read back by transformers, GGUF files", by_extra("export")),
        ("stability in inspect and bench", by_extra("inspect")),
        ("tasks of lm-evaluation-harness", by_extra("lm_eval")),
        ("brotli, PNG, FLAC in compression tables; PPM as a writer", by_extra("compress")),
        ("corpora and views on many machines (--engine ray)", by_extra("ray")),
        ("tests and checks", by_extra("dev")),
        ("generated programs judged (proxy-lm-eval code)", (found["sandbox"]["tier"] is not None, found["sandbox"]["why"])),
        (
            "corpora from the Hugging Face hub (hf:)",
            (not offline, "HF_HUB_OFFLINE is set: only local folders" if offline else "needs the network, which is not probed"),
        ),
        ("ranks bound to cores", (tools["numactl"] is not None, tools["numactl"] or "numactl is not installed; ranks share all cores")),
        (
            "DeepSpeed's compiled operations (CPU Adam for offload)",
            (
                compiled,
                "found; the first start that uses them compiles for minutes"
                if compiled
                else "needs a C++ compiler and ninja; the default path does not use them",
            ),
        ),
        (
            "compiled blocks (compile=blocks)",
            (tools["C++ compiler"] is not None, tools["C++ compiler"] or "needs a C++ compiler at run time; the default is compile=none"),
        ),
        (
            "offload to files (zero.offload_parameters=nvme)",
            (
                compiled and found["libaio_header"] is not None,
                f"{found['libaio_header']}; the first start compiles for minutes"
                if compiled and found["libaio_header"]
                else "needs libaio with its headers (libaio-dev), a C++ compiler and ninja; offload to cpu needs none of them",
            ),
        ),
    ]
    return [{"feature": name, "available": available, "why": why} for name, (available, why) in rows]


def _requirements() -> tuple[list[Requirement], str | None]:
    try:
        words = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return [], f"{DISTRIBUTION} is not installed in this Python: run `pip install -e .` in the checkout"
    return [Requirement(word) for word in words], None


def _applies(requirement: Requirement, extra: str) -> bool:
    environment = {key: str(value) for key, value in default_environment().items()}
    return requirement.marker is None or requirement.marker.evaluate(environment | {"extra": extra})


def _missing(found: Mapping[str, Any]) -> list[str]:
    missing = []
    if sys.version_info < MIN_PYTHON:
        missing.append(f"Python {found['python']['version']} is older than {MIN_PYTHON[0]}.{MIN_PYTHON[1]}")
    for package in found["packages"]:
        if not package["ok"]:
            have = f"version {package['installed']} is installed" if package["installed"] else "is not installed"
            missing.append(f"{package['name']} {have}: pip install '{package['name']}{package['required']}'")
    if found["torch"]["error"]:
        missing.append(found["torch"]["error"])
    elif not found["torch"]["gloo"]:
        missing.append("this build of torch has no gloo, over which the ranks of a CPU run talk: install the usual build")
    return missing


def _warnings(found: Mapping[str, Any]) -> list[str]:
    warnings = []
    for lock in found["jit_locks"]:
        if lock["stale"]:
            warnings.append(
                f"no process here builds under {lock['path']} ({lock['age_seconds']} seconds old); starts that need this extension "
                f"would wait for ever: {lock['remedy']}"
            )
    free_bytes = found["disk"]["free_bytes"]
    if free_bytes < ADVISED_FREE_BYTES:
        warnings.append(
            f"{free_bytes / 1e9:.1f} GB are free in {found['disk']['path']}; the quickstart wants {ADVISED_FREE_BYTES / 1e9:.0f} GB"
        )
    memory_bytes = found["memory"]["limit_bytes"] or found["memory"]["total_bytes"]
    if memory_bytes < ADVISED_MEMORY_BYTES:
        warnings.append(f"{memory_bytes / 1e9:.1f} GB of memory; the quickstart wants {ADVISED_MEMORY_BYTES / 1e9:.0f} GB")
    return warnings


def _is_open(path: Path) -> bool:
    """Whether a process that we may look at has the file open."""
    wanted = str(path.resolve())
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == wanted:
                return True
        except OSError:
            continue  # the process ended meanwhile, or is another user's
    return False
