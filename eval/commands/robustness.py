"""`proxy-lm-eval robustness`: perturbed prompts. Arguments and printing only; the work is in `eval.robustness`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy_lm.errors import RequestError

if TYPE_CHECKING:
    from eval.robustness import RobustnessSettings
    from eval.variants import Suite

HELP = "robust pass@k and the change in bits per byte when docstrings, names, syntax or format of prompts are perturbed"
EXAMPLE = """  proxy-lm-eval robustness runs/nano
  proxy-lm-eval robustness runs/nano --problems HumanEval.jsonl.gz --perturbations docstring tabs --seeds 5 --limit 20
  proxy-lm-eval robustness runs/nano --recode dataset-release --half mbpp --bits-only --json
  proxy-lm-eval robustness runs/nano --explain Graded/7 --perturbations syntax

The same command continues an evaluation that was interrupted."""
_SETTINGS = ("perturbations", "seed", "k", "reference_bytes", "split", "context_bytes", "view", "device", "num_rows")
_CODE = ("policy", "stop_rule", "num_samples", "max_bytes", "temperature", "top_p")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only what is given here overrides the defaults of `RobustnessSettings`."""
    from eval.sandbox.tiers import TIERS

    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, as training wrote it")
    parser.add_argument(
        "--problems",
        metavar="NAME|FILE",
        help="packaged set or published file (default: graded); with --recode its nominal file",
    )
    parser.add_argument("--recode", type=Path, metavar="DIR", help="ReCode's release, taken as it is instead of our own perturbations")
    parser.add_argument("--half", choices=("humaneval", "mbpp"), help="which half of the release (default: the one there is)")
    parser.add_argument("--perturbations", nargs="+", metavar="NAME", help="perturbations or families (default: all)")
    parser.add_argument("--seeds", type=int, metavar="N", help="perturbed prompts a task of each perturbation that draws lots (default: 3)")
    parser.add_argument("--seed", type=int, metavar="N", help="the first of these seeds (default: 0)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N problems and N files")
    parser.add_argument("--tasks", nargs="+", metavar="ID", default=[], help="only these problems, by id, pattern or span of numbers")
    parser.add_argument("--files", type=int, metavar="N", help="held-out Python files whose heads are perturbed; 0: none (default: 100)")
    parser.add_argument("--bits-only", action="store_true", help="make and judge no programs")
    parser.add_argument("--explain", metavar="TASK", help="show the prompts of a task and ask nothing")
    parser.add_argument("--k", type=int, metavar="N", help="of robust pass@k (default: 1)")
    parser.add_argument("--num-samples", type=int, metavar="N", help="programs for each prompt (default: 1)")
    parser.add_argument("--temperature", type=float, metavar="T", help="0: greedy (default)")
    parser.add_argument("--top-p", type=float, metavar="P", help="of sampling (default: 1)")
    parser.add_argument("--max-bytes", type=int, metavar="N", help="longest completion (default: 512)")
    parser.add_argument("--policy", metavar="NAME", help="prompt policy, as in `proxy-lm-eval code` (default: verbatim)")
    parser.add_argument("--stop-rule", metavar="NAME", help="where a completion stops (default: the policy's)")
    parser.add_argument("--reference-bytes", type=int, metavar="N", help="bytes of a reference charged (default: a quarter of the context)")
    parser.add_argument(
        "--context-bytes", type=int, metavar="N", help="nothing is charged after more bytes than this (default: 1024, or the row length)"
    )
    parser.add_argument("--split", metavar="NAME", help="split of the run's corpus for files (default: test)")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="the corpus folder, if it is no longer where the run found it")
    parser.add_argument(
        "--view", metavar="NAME", help="how the model reads: raw, or a view of the run (default: raw if it was told any raw bytes)"
    )
    parser.add_argument(
        "--tier",
        default="auto",
        choices=("auto", *TIERS),
        metavar="NAME",
        help="tier of the sandbox (default: auto, the strongest there is)",
    )
    parser.add_argument("--slots", type=int, metavar="N", help="programs run at a time (default: one a core)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or auto (default: auto)")
    parser.add_argument("--num-rows", type=int, metavar="N", help="completions generated at a time (default: 16)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure; the result is what `RUN/eval/robustness-<set>.json` holds. With --explain: the prompts of a task."""
    from proxy_lm.train.run_files import check_run

    check_run(args.run)  # before anything heavy is imported

    from eval.perturb.registry import chosen
    from eval.problems import load_problems
    from eval.recode import recode_suite
    from eval.variants import own_suite

    names = tuple(args.perturbations or ())
    num_seeds = 3 if args.seeds is None else args.seeds
    if num_seeds < 1 or (args.seed or 0) < 0:
        raise RequestError(f"--seeds {num_seeds} from seed {args.seed or 0} is no number of prompts; give at least 1, from 0 on")
    tasks = [args.explain] if args.explain else args.tasks
    if args.recode is not None:
        suite = recode_suite(
            args.recode, half=args.half, perturbations=names, num_seeds=num_seeds, nominal=args.problems, tasks=tasks, limit=args.limit
        )
    elif args.half is not None:
        raise RequestError(f"--half {args.half} chooses a part of ReCode's release; give its folder with --recode")
    else:
        problems = load_problems(args.problems or "graded").take(limit=args.limit, tasks=tasks)
        suite = own_suite(problems, chosen(names), num_seeds=num_seeds, seed=args.seed or 0)
    if args.explain:
        return _explained(suite, args.explain)

    from eval.robustness import evaluate

    return evaluate(args.run, suite, _settings(args), corpus=args.corpus, tier=args.tier, num_slots=args.slots)


def check(args: argparse.Namespace) -> None:
    """Raise `RequestError` for what is wrong whatever the run, such as an unknown perturbation; a comparison's plan is asked so."""
    from eval.code import named
    from eval.perturb.registry import chosen
    from eval.problems import load_problems
    from eval.recode import recode_suite

    settings = _settings(args)
    if args.recode is not None:
        recode_suite(
            args.recode,
            half=args.half,
            perturbations=settings.perturbations,
            num_seeds=settings.num_seeds,
            nominal=args.problems,
            tasks=args.tasks,
            limit=args.limit,
        )
        return
    if args.half is not None:
        raise RequestError(f"--half {args.half} chooses a part of ReCode's release; give its folder with --recode")
    chosen(settings.perturbations)
    problems = load_problems(args.problems or "graded").take(limit=args.limit, tasks=args.tasks)
    if settings.generate:
        named(settings.code, problems)


def _settings(args: argparse.Namespace) -> RobustnessSettings:
    from eval.robustness import RobustnessSettings
    from proxy_lm.config import OPTIONS, options_of, validate

    given, code = options_of(args, _SETTINGS), options_of(args, _CODE)
    num_files = 100 if args.files is None else args.files
    given |= {"code": code, "generate": not args.bits_only, "num_seeds": 3 if args.seeds is None else args.seeds}
    if num_files < 0:
        raise RequestError(f"--files {num_files} is no number of files; give 0 for none, or more")
    if args.slots is not None and args.slots < 1:
        raise RequestError(f"--slots {args.slots} runs no program; give at least 1")
    given["num_files"] = num_files if args.limit is None else min(num_files, args.limit)
    return validate(RobustnessSettings, given, source=OPTIONS)


def _explained(suite: Suite, task: str) -> dict[str, Any]:
    named = [(key.rpartition("@")[2], problem) for key, problem in suite.nominals.items()]
    named += [(f"{variant.perturbation}.{variant.seed}", variant.problem) for variant in suite.changed if variant.problem]
    prompts = [{"name": name, "prompt": problem.prompt, "reference": problem.canonical_solution} for name, problem in named]
    unchanged = sorted({variant.perturbation for variant in suite.variants if variant.problem is None})
    return {"task": task, "prompts": prompts, "unchanged": unchanged}


def show(result: dict[str, Any]) -> None:
    """One table for problems and one for files, each with a row for families and perturbations."""
    from rich.console import Console

    console = Console()
    if "prompts" in result and isinstance(result["prompts"], list):
        for shown in result["prompts"]:
            console.rule(shown["name"], align="left")
            console.print(shown["prompt"] + "[reference]", markup=False, highlight=False, soft_wrap=True)
            console.print(shown["reference"], markup=False, highlight=False, soft_wrap=True)
        console.print(f"nothing to change for: {', '.join(result['unchanged']) or 'none'}", markup=False, highlight=False, soft_wrap=True)
        return
    from eval.envelope import where
    from eval.robust_tables import notes, tables

    for table in tables(result):
        console.print(table)
    settings = result["settings"]
    console.print(
        f"{result['num_tasks']} tasks of {result['dataset']['name']} ({result['source']}), seeds: {settings['num_seeds']}; read as "
        f"{result['run']['view']}; context {settings['context_bytes']} bytes, reference up to {settings['reference_bytes']}\n"
        + "".join(f"{line}\n" for line in notes(result))
        + f"sandbox {result['sandbox_tier'] or 'not used'}; intervals: {result['interval_means']}; {result['seconds']:.1f} seconds",
        highlight=False,
        markup=False,
    )
    print(where(result["written"]))
