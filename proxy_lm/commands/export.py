"""`proxy-lm export hf|gguf RUN OUT`: a trained run as files of other programs. The work is in `proxy_lm.export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from proxy_lm.vocabulary import BOS, RAW_START

INTERRUPTED = "nothing is half written; the same command begins anew"
HELP = "write a trained run for other programs: a Hugging Face folder, or a GGUF file"
EXAMPLE = """  proxy-lm export hf runs/nano exported/nano
  proxy-lm export hf runs/nano exported/nano-bf16 --dtype bf16
  proxy-lm export gguf runs/nano exported/nano.gguf"""

HF_USE = """The folder is for transformers and what reads its files (the card in it shows how), and for our own commands that take a
Hugging Face model: proxy-lm compress, decompress, proxy-lm-eval compression, each with --model FOLDER (extra export).

example:
  proxy-lm export hf runs/nano exported/nano
  proxy-lm compress notes.txt --model exported/nano --out notes.plmc"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="hf|gguf")
    raw = argparse.RawDescriptionHelpFormatter
    hf = actions.add_parser(
        "hf",
        help="LlamaForCausalLM, a byte tokenizer and a card, for transformers and what reads its files",
        formatter_class=raw,
        description="Write a run as a Hugging Face folder: a LlamaForCausalLM in safetensors, a byte tokenizer and a card.",
        epilog=HF_USE,
    )
    gguf = actions.add_parser(
        "gguf",
        help="one GGUF file, for llama.cpp and what is built on it",
        formatter_class=raw,
        description="Write a run as one GGUF file, for llama.cpp and what is built on it.",
        epilog="example:\n  proxy-lm export gguf runs/nano exported/nano.gguf",
    )
    for action, what, dtypes in (
        (hf, "the folder to write", ("fp32", "bf16")),
        (gguf, "the .gguf file to write", ("fp32", "fp16", "bf16")),
    ):
        action.add_argument("source", type=Path, metavar="RUN", help="run folder, or one checkpoint of it")
        action.add_argument("out", type=Path, metavar="OUT", help=what)
        action.add_argument("--dtype", choices=dtypes, default="fp32", help="numbers of the weights (default: fp32, as trained)")
        action.add_argument("--replace", action="store_true", help="put the new export in the place of an earlier one")
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object on standard output, nothing else"
        )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The record of the export, with its place under `out`."""
    from proxy_lm.train.run_files import check_run

    check_run(args.source)  # before torch is imported, which takes seconds
    if args.action == "hf":
        from proxy_lm.export.hf import export_hf as export
    else:
        from proxy_lm.export.gguf_file import export_gguf as export
    return {"out": str(args.out), **export(args.source, args.out, dtype=args.dtype, replace=args.replace)}


def show(result: dict[str, Any]) -> None:
    """What was written, and how it was checked."""
    step = result["checkpoint"]["step"]
    megabytes = sum(entry["num_bytes"] for entry in result["files"]) / 1e6
    print(f"{result['out']}: {result['num_parameters']:,} parameters of step {step:,} as {result['dtype']}, {megabytes:.1f} MB")
    for check in (result["check"], result.get("transformers")):
        if check is not None:
            print(
                f"read back by {check['by']}: largest difference of a logit {check['largest_difference']:.1e} (limit {check['limit']:.1e})"
            )
    if result["largest_change_by_rounding"]:
        print(
            f"rounding the weights to {result['dtype']} moved a logit by up to {result['largest_change_by_rounding']:.2g}; "
            "the differences above are from the rounded model, --dtype fp32 rounds nothing"
        )
    if result["format"] == "gguf":
        print(
            "llama.cpp puts <|bos|> in front of a text by itself, and not <|raw|>, which began every document of the training: "
            f"give ids in place of text, [{BOS}, {RAW_START}, *bytes]"
        )
