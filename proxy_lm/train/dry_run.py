"""What a run would cost and tell, from lengths and structure: no engine, no process group, no run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from proxy_lm.model.flops import num_parameters
from proxy_lm.train.deepspeed_config import complete, derive
from proxy_lm.train.forecast import STAGES, at_stage, device_memory
from proxy_lm.train.inputs import Inputs, open_inputs
from proxy_lm.train.plan_report import bars, check_picture, draw_picture, table
from proxy_lm.train.provenance import describe, in_words
from proxy_lm.train.settings import RunSettings

_FEW_PAIRS_SEEN: Final = 0.1


def dry_run(
    settings: RunSettings, world_size: int, user_json: dict[str, Any] | None = None, source: str = "", picture: Path | None = None
) -> dict[str, Any]:
    """All of it as plain JSON. Sizes of files are checked and digests are not. Raises `RequestError` as the run would.

    `picture` is written where one is given; a mix with splices makes its table of cuts beside the view, once. Nothing else is written."""
    if picture is not None:
        check_picture(picture)
    inputs = open_inputs(settings, world_size, verify=False)
    if picture is not None:
        draw_picture(inputs.plan, picture, settings.name)
    counts = num_parameters(settings.model, inputs.vocabulary.size)
    config = derive(settings, inputs.shape)
    symbols = inputs.num_steps * inputs.shape.symbols_per_step
    return {
        "name": settings.name,
        "folder": str(settings.folder),
        "world_size": world_size,
        "parameters": {**counts._asdict(), "total": counts.total},
        "vocabulary_size": inputs.vocabulary.size,
        "num_steps": inputs.num_steps,
        "symbols": symbols,
        "training_flops_per_symbol": inputs.flops_per_symbol,
        "training_flops": symbols * inputs.flops_per_symbol,
        "step": {
            "rows": inputs.shape.rows_per_step,
            "rows_per_device": inputs.shape.rows_per_device,
            "accumulation": inputs.shape.accumulation,
            "symbols": inputs.shape.symbols_per_step,
        },
        "memory_bytes_per_device": _memory(inputs, world_size),
        "plan": inputs.plan.summary(),
        "seconds": _expected_seconds(settings, symbols * inputs.flops_per_symbol, world_size),
        "deepspeed": complete(config, user_json, source) if user_json else config,
        "record": describe(inputs),
    }


def show(report: dict[str, Any]) -> str:
    """The report for people."""
    plan, step = report["plan"], report["step"]
    lines = [
        f"{report['name']} -> {report['folder']} on {_ranks(report['world_size'])}; no step is made, no run folder is written",
        f"parameters   {report['parameters']['total']:,} ("
        + ", ".join(f"{name} {number:,}" for name, number in report["parameters"].items() if name != "total")
        + f"), vocabulary {report['vocabulary_size']:,}",
        f"steps        {report['num_steps']:,} of {step['rows']} rows = {step['symbols']:,} symbols "
        f"({step['rows_per_device']} rows a device, accumulation {step['accumulation']})",
        f"symbols      {report['symbols']:,}",
        f"FLOPs        {report['training_flops']:.4g} ({report['training_flops_per_symbol']:,} a symbol)",
        f"source bytes {sum(view['source_bytes'] for view in plan['views'].values()):,}, unique {plan['unique_source_bytes']:,}, "
        f"{plan['epochs']:.2f} epochs",
        f"time         about {report['seconds']:,.0f} s at the given peak"
        if report["seconds"]
        else "time         logging.peak_flops not given: no estimate",
        f"memory       a device of {_ranks(report['world_size'])}: "
        + ", ".join(f"ZeRO {stage} {parts['device_peak'] / 2**30:.2f} GiB" for stage, parts in report["memory_bytes_per_device"].items()),
        "plan         share of documents (of symbols, of source bytes) by view: " + _by_view(plan),
    ]
    if plan["num_uncut"]:
        lines.append(f"             {plan['num_uncut']:,} documents have no border inside: splices are told whole, middles cut at any byte")
    lines += [f"             {line}" for line in (*table(plan), *bars(plan))]
    lines.append(
        f"rows         {plan['packing']}: {plan['split_share']:.2%} of the documents split, {plan['padding_share']:.2%} of the ids padding"
    )
    if plan["pair_bytes_seen_share"] is not None:
        lines.append(f"pairs        {_pairs(plan)}")
    lines += in_words(report["record"])
    lines.append(f"deepspeed    {json.dumps(report['deepspeed'])}")
    return "\n".join(lines)


def _pairs(plan: dict[str, Any]) -> str:
    share = plan["pair_bytes_seen_share"]
    told = f"{share:.1%} of the bytes told a second time have their first telling in the same row"
    if share >= _FEW_PAIRS_SEEN:
        return told
    return f"{told}: the others teach nothing of the two together; longer rows or shorter documents do (proxy-lm prepare --cut-bytes)"


def _by_view(plan: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {view['document_share']:.3f} ({view['symbol_share']:.3f}, {view['source_share']:.3f})"
        for name, view in plan["views"].items()
    )


def _ranks(number: int) -> str:
    return "1 rank" if number == 1 else f"{number} ranks"


def _memory(inputs: Inputs, world_size: int) -> dict[str, dict[str, int]]:
    """By ZeRO stage; stages that refuse these settings are left out."""
    staged = {str(stage): at_stage(inputs.settings, stage) for stage in STAGES}
    return {
        stage: device_memory(settings, inputs.vocabulary.size, world_size) for stage, settings in staged.items() if settings is not None
    }


def _expected_seconds(settings: RunSettings, training_flops: int, world_size: int) -> float | None:
    """At the whole peak: a lower bound, given only where the peak is."""
    return training_flops / (settings.logging.peak_flops * world_size) if settings.logging.peak_flops else None
