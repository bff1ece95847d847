"""`proxy-lm verify RUN`: is all of a run whole, and what would the same command do now? The looking is in `proxy_lm.train.verify_run`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

HELP = "check a run folder: checkpoints and inputs by digest, metrics line by line; say what would be resumed"
EXAMPLE = """  proxy-lm verify runs/x
  proxy-lm verify runs/x --no-inputs --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("--no-inputs", action="store_true", help="do not read corpus and views (they are read whole otherwise)")
    parser.add_argument(
        "--steps", type=int, default=100, metavar="N", help="steps whose rows are compared with the plan, evenly spaced (default: 100)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The report; exit code 1, after it was shown, where something is damaged."""
    from proxy_lm.errors import RequestError, WorkError
    from proxy_lm.train.verify_run import verify_run

    if args.steps < 0:
        raise RequestError(f"--steps {args.steps} is negative; give 0 or more")
    result = verify_run(args.run, with_inputs=not args.no_inputs, steps_compared=args.steps)
    if result["damage"]:
        if args.json:
            print(json.dumps(result, ensure_ascii=False, allow_nan=False))
        else:
            show(result)
        number = len(result["damage"])
        raise WorkError(f"{args.run} is damaged ({number} finding{'s' if number > 1 else ''}): {result['damage'][0]}")
    return result


def show(result: dict[str, Any]) -> None:
    """The report for people."""
    metrics, inputs = result["metrics"], result["inputs"]
    print(f"{result['run']}: {result['status']}, {metrics['lines']} of {result['num_steps']} steps told")
    for entry in result["checkpoints"]:
        ranks = entry.get("world_size")
        told = f"valid, {entry['size_bytes']:,} bytes, by {ranks} rank{'s' if ranks != 1 else ''}" if entry["valid"] else "damaged"
        print(f"  step-{entry['step']}: {told}")
    if metrics["discarded_steps"]:
        print(f"  {len(metrics['discarded_steps'])} steps were not learnt from; faults.jsonl names their documents")
    if inputs["checked"]:
        print(f"  corpus, views and plan: read, rows of {inputs['steps_compared']} steps compared")
    else:
        print("  corpus, views and plan: not checked")
    for label, sentences in (("leftover", result["leftovers"]), ("warning", result["warnings"]), ("damage", result["damage"])):
        for sentence in sentences:
            print(f"  {label}: {sentence}")
    print(f"  now: {result['resume']['says']}")
