"""`proxy-lm-eval samples`: a few completions of held-out documents to read. Arguments and printing only; see `eval.shown_samples`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.shown_samples import ShownSettings

INTERRUPTED = "no result was written; it takes seconds, and the same command begins anew"
HELP = "what a run writes after a few prompts of held-out documents, beside what really follows: to read, not to count"
EXAMPLE = """  proxy-lm-eval samples runs/nano
  proxy-lm-eval samples runs/nano --limit 6 --prompt-bytes 400 --num-bytes 300 --temperature 0.7
  proxy-lm-eval samples runs/nano --json

Runs of one corpus are asked the same; a report of theirs shows them beside each other."""
_SETTINGS = ("split", "limit", "prompt_bytes", "num_bytes", "temperature", "seed", "view", "device")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only what is given here overrides the defaults of `ShownSettings`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, as training wrote it, or one checkpoint of it (step-N)")
    parser.add_argument("--split", metavar="NAME", help="split of the run's corpus (default: test)")
    parser.add_argument("--limit", type=int, metavar="N", help="samples at most, one a document (default: 3)")
    parser.add_argument("--prompt-bytes", type=int, metavar="N", help="longest prompt, cut at the end of a line (default: 192)")
    parser.add_argument("--num-bytes", type=int, metavar="N", help="longest completion (default: 160)")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 takes the most probable (default: 0)")
    parser.add_argument("--seed", type=int, metavar="N", help="which documents and places are drawn (default: 0)")
    parser.add_argument(
        "--view", metavar="NAME", help="how the model reads: raw, or a view of the run (default: raw if it was told any raw bytes)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or auto (default: auto)")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="the corpus folder, if it is no longer where the run found it")


def check(args: argparse.Namespace) -> None:
    """Raise `RequestError` for what is wrong whatever the run; a comparison's plan is asked so before anything is trained."""
    _settings(args)


def _settings(args: argparse.Namespace) -> ShownSettings:
    from eval.shown_samples import ShownSettings
    from proxy_lm.config import OPTIONS, options_of, validate

    return validate(ShownSettings, options_of(args, _SETTINGS), source=OPTIONS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ask; the result is what `RUN/eval/samples.json` holds."""
    from proxy_lm.train.run_files import check_run

    settings = _settings(args)
    check_run(args.run)  # before torch is imported

    from eval.shown_samples import evaluate

    return evaluate(args.run, settings, corpus=args.corpus)


def show(result: dict[str, Any]) -> None:
    """Every sample: its prompt, what was written, what really follows."""
    from rich.text import Text

    from eval.envelope import where
    from eval.report_samples import how_of, page, reading_of
    from proxy_lm.progress import console_of

    console = console_of(160)
    samples = result["samples"]
    for number, sample in enumerate(samples, 1):
        console.rule(f"sample {number} of {len(samples)}", align="left")
        text = Text(page({result["run"]["name"]: sample}))
        text.highlight_regex(r"(?m)^--- .*$", "cyan")
        console.print(text, soft_wrap=True)
    console.print(
        f"asked {reading_of(result['run'])}; {how_of(result['settings'])}; {result['dataset']['name']}, seed "
        f"{result['settings']['seed']}; checkpoint of step {result['run']['checkpoint']['step']}; {result['seconds']:.1f} seconds",
        highlight=False,
        soft_wrap=True,
    )
    print(where(result["written"]))
