"""`proxy-lm plan`: memory by ZeRO stage and time on any number of devices, counted. The formulas are in `proxy_lm.train.forecast`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxy_lm.errors import RequestError

if TYPE_CHECKING:
    from proxy_lm.train.forecast import Device
    from proxy_lm.train.settings import RunSettings

HELP = "say what a size of model needs on so many devices: memory by ZeRO stage, time, checkpoints"
EXAMPLE = """  proxy-lm plan                                             the five paper sizes on 8, 64 and 512 H100
  proxy-lm plan --device a100 --devices 8,16 --preset 1.5b,4b row_length=4096 rows_per_device=2
  proxy-lm plan configs/proxy-1.5b.yaml --devices 8 --ids 65856 --share-of-peak 0.35
  proxy-lm plan --device other --memory-gib 24 --peak-tflops 120 --preset 0.5b --devices 4

Nothing is measured (but the arithmetic of this machine, for --device cpu) and nothing is started. Memory is within 20 % of what was
measured on processors, rougher where activations are recomputed (the paper's run here: activation_checkpointing=false keeps them);
the time is that of the counted FLOPs at the stated share of the device's peak, whatever the network does."""

PAPER_SIZES: Final = ("0.5b", "1.5b", "4b", "7b", "14b")
PAPER_RUN: Final[dict[str, Any]] = {
    "name": "plan",
    "corpus": "-",
    "row_length": 16_384,
    "rows_per_step": 128,
    "rows_per_device": 1,
    "num_symbols": 100_000_000_000,
    "precision": "bf16",
    "activation_checkpointing": True,
    "zero": {"stage": 2},
}
PAPER_IDS: Final = 320 + 65_536
WIDTH: Final = 110
"""Columns of the table, however narrow the terminal."""
RESERVED_BYTES: Final = 2**30
"""Of a device: the runtime and the libraries' own buffers."""
USABLE_SHARE: Final = 0.95
"""Of a device's memory: the rest is lost between blocks of the allocator."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "overrides", nargs="*", metavar="[CONFIG] NAME=VALUE", help="a run's YAML (default: the paper's run) and settings that win"
    )
    parser.add_argument("--preset", metavar="A,B", help=f"sizes (default: the YAML's own, else {','.join(PAPER_SIZES)})")
    parser.add_argument("--devices", default="8,64,512", metavar="N,M", help="numbers of devices (default: 8,64,512)")
    parser.add_argument(
        "--device", default="h100", metavar="KIND", help="a100-40, a100, h100, h200, cpu (this machine), or other (default: h100)"
    )
    parser.add_argument("--memory-gib", type=float, metavar="X", help="--device other: memory of a device")
    parser.add_argument(
        "--peak-tflops", type=float, metavar="X", help="peak TFLOP/s of a device at the run's precision, in place of the maker's"
    )
    parser.add_argument(
        "--share-of-peak", type=float, default=0.4, metavar="X", help="what the whole step reaches of the peak (default: 0.4)"
    )
    parser.add_argument("--devices-per-host", type=int, default=8, metavar="N", help="for host memory (default: 8)")
    parser.add_argument("--ids", type=int, metavar="N", help=f"vocabulary (default: the YAML's views where they exist, else {PAPER_IDS})")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One row a size and number of devices."""
    from proxy_lm.model.settings import PRESETS

    settings, given = _settings(args)
    device = _device(args, settings.precision)
    if not 0 < args.share_of_peak <= 1:
        raise RequestError(f"--share-of-peak {args.share_of_peak} is no share; give a number above 0, at most 1")
    numbers = [_number(word, "--devices") for word in args.devices.split(",")]
    presets = args.preset.split(",") if args.preset else [] if given else list(PAPER_SIZES)
    for preset in presets:
        if preset not in PRESETS:
            raise RequestError(f"unknown preset '{preset}'; known: {', '.join(PRESETS)}")
    ids = _ids(args, settings)
    sizes = [(name, _with(settings, {"model": {**_chosen(settings), "preset": name}})) for name in presets] or [(settings.name, settings)]
    peak = device.peak_flops(settings.precision)
    return {
        "device": {"kind": device.name, "memory_bytes": device.memory_bytes, "peak_flops": peak},
        "share_of_peak": args.share_of_peak,
        "ids": ids,
        "row_length": settings.row_length,
        "rows_per_device": settings.rows_per_device,
        "precision": settings.precision,
        "activation_checkpointing": settings.activation_checkpointing,
        "plans": [
            _plan(name, sized, ids, number, device, args.share_of_peak, args.devices_per_host)
            for name, sized in sizes
            for number in numbers
        ],
    }


def show(result: dict[str, Any]) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    device = result["device"]
    recomputed = "recomputed" if result["activation_checkpointing"] else "kept"
    # Wide enough for every column: a narrow terminal wraps, and nothing is cut out of a number.
    console = Console(highlight=False, width=max(shutil.get_terminal_size().columns, WIDTH))
    console.print(
        f"{device['kind']}: {device['memory_bytes'] / 2**30:.0f} GiB, {device['peak_flops'] / 1e12:,.4g} TFLOP/s in {result['precision']}, "
        f"{result['share_of_peak']:.0%} of it reached; rows of {result['row_length']:,}, {result['rows_per_device']} on a device, "
        f"{result['ids']:,} ids, activations {recomputed}"
    )
    shown = [str(stage) for stage in range(4) if any(str(stage) in plan["stages"] for plan in result["plans"])]
    table = Table(box=None, pad_edge=False)
    for column in ("size", "parameters", "devices", *(f"ZeRO {stage}" for stage in shown), "fits", "days", "checkpoint"):
        table.add_column(column, justify="left" if column == "size" else "right", no_wrap=True)
    for plan in result["plans"]:
        stages = [plan["stages"].get(stage) for stage in shown]
        cells = [
            "-" if found is None else f"[{'green' if found['fits'] else 'red'}]{found['device_peak'] / 2**30:.1f}[/]" for found in stages
        ]
        table.add_row(
            plan["size"],
            f"{plan['parameters'] / 1e9:.3f} B",
            f"{plan['num_devices']}{'*' if plan['rows_raised'] else ''}",
            *cells,
            "none" if plan["fits_from"] is None else f"from {plan['fits_from']}",
            f"{plan['seconds'] / 86_400:.2f}",
            f"{plan['checkpoint_bytes'] / 1e9:.1f} GB",
        )
    console.print(table)
    console.print("ZeRO: GiB on a device at the peak of a step. days: counted FLOPs, attention as full squares.")
    if any(plan["rows_raised"] for plan in result["plans"]):
        console.print(
            f"*: every device has {result['rows_per_device']} rows, more than rows_per_step asks for; sequence_parallel would share them."
        )


def _plan(name: str, settings: RunSettings, ids: int, num_devices: int, device: Device, share: float, per_host: int) -> dict[str, Any]:
    from proxy_lm.model.flops import num_parameters, training_flops_per_symbol
    from proxy_lm.train.forecast import STAGES, at_stage, building_bytes, checkpoint_bytes, compute_seconds, device_memory
    from proxy_lm.train.settings import num_steps

    stages: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        staged = at_stage(settings, stage)
        if staged is None:
            continue
        memory = device_memory(staged, ids, num_devices, "cpu" if device.name == "cpu" else "cuda")
        stages[str(stage)] = {**memory, "fits": memory["device_peak"] + RESERVED_BYTES <= USABLE_SHARE * device.memory_bytes}
    flops = training_flops_per_symbol(settings.model, ids, settings.row_length)
    symbols = num_steps(settings, flops) * settings.rows_per_step * settings.row_length
    groups = max(1, num_devices // settings.sequence_parallel)
    dealt = settings.rows_per_device * groups
    rows = -(-settings.rows_per_step // dealt) * dealt
    seconds = compute_seconds(symbols * flops, num_devices, device.peak_flops(settings.precision), share)
    return {
        "size": name,
        "num_devices": num_devices,
        "parameters": num_parameters(settings.model, ids).total,
        "stages": stages,
        "fits_from": next((int(stage) for stage, memory in stages.items() if memory["fits"]), None),
        "rows_per_step": rows,
        "rows_raised": rows > settings.rows_per_step,
        "symbols": symbols,
        "training_flops": symbols * flops,
        "seconds": seconds,
        "symbols_per_second": symbols / seconds,
        "checkpoint_bytes": checkpoint_bytes(settings, ids),
        "host_building_bytes": building_bytes(settings, ids, min(num_devices, per_host)),
    }


def _settings(args: argparse.Namespace) -> tuple[RunSettings, bool]:
    """(the run, whether a YAML was given)."""
    from proxy_lm.config import load
    from proxy_lm.train.settings import RunSettings

    configs = [word for word in args.overrides if "=" not in word]
    overrides = [word for word in args.overrides if "=" in word]
    if len(configs) > 1:
        raise RequestError(f"one run is planned and {len(configs)} files are given: {', '.join(configs)}")
    if configs:
        return load(RunSettings, Path(configs[0]), overrides), True
    budget = any(word.removeprefix("--").startswith(("num_steps=", "training_flops=")) for word in overrides)
    base = {key: value for key, value in PAPER_RUN.items() if not (budget and key == "num_symbols")}
    return load(RunSettings, None, overrides, base=base), False


def _device(args: argparse.Namespace, precision: str) -> Device:
    from proxy_lm.train.forecast import DEVICES, GIB, Device

    for name, value in (("--memory-gib", args.memory_gib), ("--peak-tflops", args.peak_tflops)):
        if value is not None and not 0 < value < 1e9:
            raise RequestError(f"{name} {value} is not a size; give a number above 0")
    if args.device == "other":
        if args.memory_gib is None or args.peak_tflops is None:
            raise RequestError("--device other needs --memory-gib and --peak-tflops")
        device = Device(name="other", memory_bytes=int(args.memory_gib * GIB), peak_flops_16bit=1.0, peak_flops_fp32=1.0)
    elif args.memory_gib is not None:
        raise RequestError("--memory-gib is for --device other")
    elif args.device == "cpu":
        device = _this_machine(precision, args.peak_tflops)
    elif args.device in DEVICES:
        device = DEVICES[args.device]
    else:
        raise RequestError(f"unknown device '{args.device}'; known: {', '.join(DEVICES)}, cpu, other (with --memory-gib and --peak-tflops)")
    if args.peak_tflops is None:
        return device
    peak = args.peak_tflops * 1e12
    return Device(name=device.name, memory_bytes=device.memory_bytes, peak_flops_16bit=peak, peak_flops_fp32=peak)


def _this_machine(precision: str, peak_tflops: float | None) -> Device:
    """Its memory, and the rate of a matrix product on one thread times the cores, unless the peak is given."""
    from proxy_lm.machine import memory
    from proxy_lm.train.forecast import Device

    found = memory()
    memory_bytes = found["limit_bytes"] or found["total_bytes"]
    assert memory_bytes is not None
    rate = 1.0
    if peak_tflops is None:
        import torch

        from proxy_lm.model.speed import matmul_flops_per_second

        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        rate = matmul_flops_per_second(2048, 1024, 1024, dtype=dtype, repeats=3) * torch.get_num_threads()
    return Device(name="cpu", memory_bytes=memory_bytes, peak_flops_16bit=rate, peak_flops_fp32=rate)


def _ids(args: argparse.Namespace, settings: RunSettings) -> int:
    from proxy_lm.vocabulary import RAW_VOCABULARY_SIZE

    if args.ids is not None:
        if args.ids < RAW_VOCABULARY_SIZE:
            raise RequestError(f"--ids {args.ids}; bytes and specials alone are {RAW_VOCABULARY_SIZE}")
        return int(args.ids)
    if not settings.views:
        return PAPER_IDS if settings.corpus == PAPER_RUN["corpus"] else RAW_VOCABULARY_SIZE
    if not all(Path(path).is_dir() for path in settings.views.values()):
        missing = next(path for path in settings.views.values() if not Path(path).is_dir())
        raise RequestError(f"the view {missing} is not here, so its ids are not known; give --ids, for example --ids {PAPER_IDS}")
    from proxy_lm.data.views import View, vocabulary_of

    views = [View.open(Path(path), None, verify=False, name=name) for name, path in settings.views.items()]
    return vocabulary_of(views, settings.literals).size


def _chosen(settings: RunSettings) -> dict[str, Any]:
    """Of the model's settings those that a preset leaves open."""
    shape = ("preset", "width", "depth", "num_heads", "num_kv_heads", "hidden", "rope_theta")
    return {key: value for key, value in settings.model.model_dump(mode="json").items() if key not in shape}


def _with(settings: RunSettings, changes: dict[str, Any]) -> RunSettings:
    from proxy_lm.config import validate
    from proxy_lm.train.settings import RunSettings

    return validate(RunSettings, {**settings.model_dump(mode="json"), **changes}, "the plan")


def _number(word: str, option: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise RequestError(f"{option} '{word}' is not a number of devices; write for example {option} 8,64")
    return int(word)
