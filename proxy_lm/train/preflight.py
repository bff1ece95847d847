"""What all ranks must share, and what must be there, before the first weight is drawn: looked at on every rank, judged by all alike.

    record = preflight(inputs, ranks)        # in `run.train_among`; a table and one sentence where the ranks differ; kept in run.json

Refused, because it would spoil the run: other versions of Python, torch, DeepSpeed or this project, other source files, settings, corpus,
views or plan, a run folder that is not shared, a disk that cannot hold the checkpoints that are sure to come, a device too small for
weights and optimizer. Warned of: other numpy, numba, devices, processors or threads, clocks that differ, too little room for all kept
checkpoints, memory that the forecast exceeds. Measured: the all-reduce, for at most a second or so.

Not promised: links between single pairs of ranks, or that every byte of a corpus is the same on hosts that do not share it: rank 0 reads
all, and the first rank of every host a sample of 64 places a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from compressors.files import digest_of, disk_error
from proxy_lm.data.corpus import FILES as CORPUS_FILES
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.view_files import FILES as VIEW_FILES
from proxy_lm.data.views import View
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.machine import memory as host_memory
from proxy_lm.model.flops import num_parameters
from proxy_lm.progress import note
from proxy_lm.train.agreement import agree, together
from proxy_lm.train.engine import Ranks
from proxy_lm.train.forecast import building_bytes, checkpoint_bytes, device_memory, kept_checkpoints
from proxy_lm.train.inputs import Inputs
from proxy_lm.train.provenance import git_state, machine, versions
from proxy_lm.train.settings import changed_settings

Facts = Mapping[str, Any]

MUST_AGREE: Final = ("python", "torch", "deepspeed", "proxy_lm", "source files", "settings", "corpus", "views", "plan", "sampled bytes")
SHOULD_AGREE: Final = ("numpy", "numba", "git", "device", "processor", "threads")
CLOCK_SECONDS: Final = 2.0
"""Clocks further apart are worth a word: times of files and of log lines then mislead."""
_CLOCK_ROUNDS: Final = 5
_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 4096
_REDUCE_BYTES: Final = {"cpu": 4 << 20, "cuda": 64 << 20}
_REDUCE_SECONDS: Final = 0.3
_SHARED_WAIT_SECONDS: Final = 10.0  # a network file system may show a new file late


def preflight(inputs: Inputs, ranks: Ranks) -> dict[str, Any]:
    """Look, tell each other, judge; returns what run.json keeps. Every rank calls it. Raises `RequestError` or `WorkError` on all."""
    facts = ranks.gather(agree(ranks, lambda: gather_facts(inputs, ranks)))
    needs = forecast(inputs, ranks.world_size, ranks.device.type)
    shared = _folder_is_shared(inputs.settings.folder, ranks)
    clocks = _clock_offsets(ranks)
    refusals, warnings = judge(facts, needs, clocks, shared)
    differing = [name for name in (*MUST_AGREE, *SHOULD_AGREE) if len(_values(facts, name)) > 1]
    lines = _setting_lines(ranks.gather(_shared_settings(inputs))) if "settings" in differing else []
    if ranks.rank == 0:
        if differing:
            note("\n".join([table(facts, differing), *lines]))
        for warning in warnings:
            note(f"preflight: {warning}")
    with together():
        if refusals:
            raise refusals[0]
    reduce = all_reduce_rate(ranks)
    hosts = list(dict.fromkeys(fact["host"] for fact in facts))
    return {
        "num_hosts": len(hosts),
        "ranks": [
            {"host": hosts.index(fact["host"]), **{name: fact[name] for name in ("device", "device_memory_bytes")}} for fact in facts
        ],
        "source_files": facts[0]["source files"],
        "free_bytes": facts[0]["free_bytes"],
        "forecast": needs,
        "clock_spread_seconds": round(max(clocks) - min(clocks), 6),
        "all_reduce": reduce,
        "warnings": warnings,
    }


def gather_facts(inputs: Inputs, ranks: Ranks) -> dict[str, Any]:
    """This rank's facts, plain JSON."""
    settings, plan = inputs.settings, inputs.identity()
    found, here = versions(), machine()
    git = git_state()
    return {
        "host": socket.gethostname(),
        "local_rank": ranks.local_rank,
        **{name: found[name] for name in ("python", "torch", "deepspeed", "proxy_lm", "numpy", "numba")},
        "source files": _source_digest(),
        "settings": digest_of(_shared_settings(inputs)),
        "corpus": plan["corpus"],
        "views": digest_of(plan["views"]),
        "plan": plan["plan"],
        "sampled bytes": sample(inputs.corpus, inputs.views) if ranks.local_rank == 0 else None,
        "git": f"{git['commit'][:12]} {git['state']}" if git else "no checkout",
        "device": _device_name(ranks.device),
        "device_memory_bytes": _device_memory(ranks.device),
        "processor": here["processor"],
        "threads": torch.get_num_threads(),
        "host_memory_bytes": host_memory()["limit_bytes"] or here["memory_bytes"],
        "free_bytes": shutil.disk_usage(_existing(settings.folder)).free,
        "checkpoints_bytes": _bytes_under(settings.folder / "checkpoints"),
    }


def forecast(inputs: Inputs, world_size: int, device_type: str) -> dict[str, Any]:
    """What the run will need, in bytes; equal on every rank."""
    settings, vocabulary = inputs.settings, inputs.vocabulary.size
    memory = device_memory(settings, vocabulary, world_size, device_type)
    fewest, most = kept_checkpoints(settings, inputs.num_steps)
    one = checkpoint_bytes(settings, vocabulary)
    state = sum(memory.get(name, 0) for name in ("parameters", "gradients", "master", "optimizer"))
    return {
        "device_state_bytes": state,
        "device_peak_bytes": memory["device_peak"],
        "host_bytes_per_rank": memory["host_total"],
        "building_bytes_per_rank": building_bytes(settings, vocabulary, 1),
        "checkpoint_bytes": one,
        "fewest_checkpoints": fewest,
        "most_checkpoints": most,
        "gradient_bytes": 4 * num_parameters(settings.model, vocabulary).total,
    }


def judge(
    facts: Sequence[Facts], needs: Mapping[str, Any], clocks: Sequence[float], shared: Sequence[bool]
) -> tuple[list[RequestError | WorkError], list[str]]:
    """(what ends the run, what is worth a word). The same on every rank, since everything here is."""
    refusals: list[RequestError | WorkError] = []
    warnings: list[str] = []
    different = [name for name in MUST_AGREE if len(_values(facts, name)) > 1]
    if different:
        words = "; ".join(f"{name}: {_told(facts, name)}" for name in different)
        refusals.append(
            RequestError(f"the ranks do not run the same thing: {words}; give all hosts the same environment, files and command")
        )
    if not all(shared):
        lost = _spans([rank for rank, sees in enumerate(shared) if not sees])
        refusals.append(
            RequestError(f"the run folder is not shared: rank {lost} cannot see what rank 0 wrote there; use one that all hosts see")
        )
    warnings += [f"the ranks differ in {name}: {_told(facts, name)}" for name in SHOULD_AGREE if len(_values(facts, name)) > 1]
    spread = max(clocks) - min(clocks)
    if spread > CLOCK_SECONDS:
        late = clocks.index(min(clocks))
        warnings.append(f"clocks differ by {spread:.1f} s (rank {late} is last); times of files and logs will mislead: set them by NTP")
    for judged in (_judge_disk(facts[0], needs), _judge_memory(facts, needs)):
        refusals += judged[0]
        warnings += judged[1]
    return refusals, warnings


def _judge_disk(fact: Facts, needs: Mapping[str, Any]) -> tuple[list[WorkError], list[str]]:
    one, fewest, most = (needs[name] for name in ("checkpoint_bytes", "fewest_checkpoints", "most_checkpoints"))
    room = fact["free_bytes"] + fact["checkpoints_bytes"]
    if room < fewest * one:
        return [
            WorkError(
                f"no space for {fewest} checkpoints of about {_size(one)}: {_size(fact['free_bytes'])} are free where the run folder is "
                f"and {_size(fact['checkpoints_bytes'])} are its checkpoints'; free {_size(fewest * one - room)} or choose another `out`"
            )
        ], []
    if room < most * one:
        return [], [
            f"{_size(room)} hold {room // one} checkpoints of about {_size(one)} and up to {most} are kept; lower checkpoint.keep_last or "
            "keep_every, or make room before the disk is full"
        ]
    return [], []


def _judge_memory(facts: Sequence[Facts], needs: Mapping[str, Any]) -> tuple[list[WorkError], list[str]]:
    """Devices one by one; ranks on processors share their host's memory, and so does everything that is offloaded."""
    refusals: list[WorkError] = []
    warnings: list[str] = []
    hosts: dict[str, list[int]] = {}
    for rank, fact in enumerate(facts):
        hosts.setdefault(fact["host"], []).append(rank)
        memory = fact["device_memory_bytes"]
        if memory is not None and needs["device_state_bytes"] > memory:
            refusals.append(
                WorkError(
                    f"weights, gradients and optimizer take {_size(needs['device_state_bytes'])} on every device and rank {rank} has "
                    f"{_size(memory)}; use a higher zero.stage, more ranks or offload"
                )
            )
        elif memory is not None and needs["device_peak_bytes"] > memory:
            warnings.append(
                f"a step is expected to take {_size(needs['device_peak_bytes'])} and rank {rank} has {_size(memory)}; "
                "lower rows_per_device, set activation_checkpointing, or use a higher zero.stage"
            )
    for ranks in hosts.values():
        fact = facts[ranks[0]]
        on_device = 0 if fact["device_memory_bytes"] is not None else needs["device_peak_bytes"]
        wanted = len(ranks) * max(on_device + needs["host_bytes_per_rank"], needs["building_bytes_per_rank"])
        if wanted > fact["host_memory_bytes"]:
            warnings.append(
                f"rank {_spans(ranks)} are expected to take {_size(wanted)} of their host's memory, which has "
                f"{_size(fact['host_memory_bytes'])}; use fewer ranks a host, a smaller model or a higher zero.stage"
            )
    return refusals, warnings


def table(facts: Sequence[Facts], names: Sequence[str]) -> str:
    """What differs, value by value, with the ranks and hosts that have it."""
    rows = [("what", "value", "ranks", "hosts")]
    for name in names:
        for value, ranks in _values(facts, name).items():
            hosts = ", ".join(dict.fromkeys(facts[rank]["host"] for rank in ranks))
            rows.append((name if name != rows[-1][0] else "", value, _spans(ranks), hosts))
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows)


def all_reduce_rate(ranks: Ranks) -> dict[str, Any] | None:
    """Bytes a second of an all-reduce over all ranks, best of some; None for one rank. Collective."""
    if ranks.world_size == 1:
        return None
    size_bytes = _REDUCE_BYTES.get(ranks.device.type, _REDUCE_BYTES["cpu"])
    numbers = torch.zeros(size_bytes // 4, device=ranks.device)
    first = _timed_reduce(numbers)  # connections are made here
    rounds = int(ranks.broadcast(max(1, min(8, int(_REDUCE_SECONDS / max(first, 1e-6))))))
    best = min(_timed_reduce(numbers) for _ in range(rounds))
    slowest = max(ranks.gather(best))
    return {"num_bytes": size_bytes, "seconds": slowest, "bytes_per_second": size_bytes / slowest}


def _timed_reduce(numbers: torch.Tensor) -> float:
    began = time.perf_counter()
    dist.all_reduce(numbers)
    if numbers.device.type == "cuda":
        torch.cuda.synchronize(numbers.device)
    return time.perf_counter() - began


def _clock_offsets(ranks: Ranks) -> list[float]:
    """Every rank's clock against rank 0's, seconds; leaving a barrier is the common moment, the median of some rounds the number."""
    rounds = []
    for _ in range(_CLOCK_ROUNDS if ranks.world_size > 1 else 1):
        ranks.barrier()
        rounds.append(ranks.gather(time.time()))
    return [statistics.median(times[rank] - times[0] for times in rounds) for rank in range(ranks.world_size)]


def _folder_is_shared(folder: Path, ranks: Ranks) -> list[bool]:
    """Whether each rank sees a file that rank 0 makes where the run folder is or will be."""
    if ranks.world_size == 1:
        return [True]
    probe = agree(ranks, lambda: _make_probe(_existing(folder)) if ranks.rank == 0 else None)
    path = Path(ranks.broadcast(str(probe)))
    end = time.monotonic() + _SHARED_WAIT_SECONDS
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.2)
    seen: list[bool] = ranks.gather(path.exists())
    if probe is not None:
        probe.unlink(missing_ok=True)
    return seen


def _make_probe(folder: Path) -> Path:
    try:
        descriptor, name = tempfile.mkstemp(prefix=".preflight-", dir=folder)
    except OSError as error:
        raise disk_error(error, folder) from error
    os.close(descriptor)
    return Path(name)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _shared_settings(inputs: Inputs) -> dict[str, Any]:
    """Settings that all ranks must have. Paths of data may differ between hosts: their digests are compared."""
    shared = {key: value for key, value in inputs.settings.model_dump(mode="json").items() if key not in ("corpus", "views")}
    if inputs.teacher:
        shared["teacher"]["model"] = inputs.teacher.fingerprint
    return shared


def _setting_lines(settings: Sequence[dict[str, Any]]) -> list[str]:
    """What the settings of other ranks change of rank 0's, each change once."""
    changes: dict[str, list[int]] = {}
    for rank, other in enumerate(settings):
        for line in changed_settings(settings[0], other, safe=()):
            changes.setdefault(line, []).append(rank)
    return [f"setting {line} on rank {_spans(ranks)}" for line, ranks in changes.items()]


def _source_digest() -> str:
    """Of every source file that this process may run: a checkout that differs in one line is another program."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in ("compressors", "proxy_lm"):
        for path in sorted((root / package).rglob("*.py")):
            data = path.read_bytes()
            digest.update(f"{path.relative_to(root)} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def sample(corpus: Corpus, views: Sequence[View]) -> str:
    """Digest of the sizes and of 64 evenly spaced pieces of every file of corpus and views, the first and last bytes included."""
    digest = hashlib.sha256()
    folders = [(corpus.path, CORPUS_FILES), *((view.path, VIEW_FILES) for view in views)]
    for folder, names in folders:
        for name in names:
            with (folder / name).open("rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                digest.update(f"{name} {size_bytes}\n".encode())
                for k in range(_SAMPLES):
                    file.seek(max(0, size_bytes - _SAMPLE_BYTES) * k // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _bytes_under(folder: Path) -> int:
    """Another run may be at work in the folder, which the lock says later: what goes while it is looked at is not there."""
    size_bytes = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size_bytes += (Path(place) / name).lstat().st_size
    return size_bytes


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _device_memory(device: torch.device) -> int | None:
    """Bytes of the device's own memory; None for a processor, which shares its host's."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None


def _values(facts: Sequence[Facts], name: str) -> dict[str, list[int]]:
    """Value -> the ranks that have it, in order of rank; ranks that did not look are left out."""
    found: dict[str, list[int]] = {}
    for rank, fact in enumerate(facts):
        if fact[name] is not None:
            found.setdefault(str(fact[name]), []).append(rank)
    return found


def _told(facts: Sequence[Facts], name: str) -> str:
    return ", ".join(f"{value[:16]} on rank {_spans(ranks)}" for value, ranks in _values(facts, name).items())


def _spans(ranks: Sequence[int]) -> str:
    """Ranks as '0-3, 6'."""
    parts: list[str] = []
    for rank in ranks:
        first, _, last = (parts[-1] if parts else "").partition("-")
        if parts and int(last or first) == rank - 1:
            parts[-1] = f"{first}-{rank}"
        else:
            parts.append(str(rank))
    return ", ".join(parts)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e7 else f"{num_bytes / 1e6:.3f} MB"
