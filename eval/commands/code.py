"""`proxy-lm-eval code generate|judge|run|explain`: programs that a run writes, and whether they pass. Arguments and printing only."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from proxy_lm.config import OPTIONS, options_of, validate
from proxy_lm.errors import RequestError
from proxy_lm.train.run_files import check_run

HELP = "pass@k of generated programs: HumanEval, MBPP, their plus sets, infilling, and 40 small problems of our own"
EXAMPLE = """  proxy-lm-eval code run runs/nano
  proxy-lm-eval code generate runs/nano --problems HumanEval.jsonl.gz --num-samples 20 --temperature 0.2 --top-p 0.95
  proxy-lm-eval code judge --problems HumanEval.jsonl.gz --samples samples.jsonl --json
  proxy-lm-eval code explain Graded/13"""
EXAMPLES = dict(zip(("run", "generate", "judge", "explain"), EXAMPLE.split("\n"), strict=True))

_GENERATION = ("policy", "stop_rule", "num_samples", "max_bytes", "temperature", "top_p", "top_k", "seed", "valid_utf8")
_JUDGING = ("limit_factor", "floor_s", "gold_limit_s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the four actions. Only what is given overrides the defaults of `CodeSettings` and `JudgeSettings`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="run|generate|judge|explain")
    helps = {
        "run": "generate, judge, and write RUN/eval/code-<set>.json",
        "generate": "write the samples of a run; nothing is executed",
        "judge": "execute a file of samples in the sandbox; no model is needed",
        "explain": "what exactly is asked, where a completion stops, and what is run",
    }
    made: dict[str, argparse.ArgumentParser] = {}
    for name, words in helps.items():
        made[name] = actions.add_parser(
            name, help=words, description=words, epilog=f"example:\n{EXAMPLES[name]}", formatter_class=argparse.RawDescriptionHelpFormatter
        )
        made[name].add_argument(
            "--problems",
            default="graded",
            metavar="SET",
            help="a packaged set, a published file (.jsonl, .jsonl.gz, .json, .parquet), or hf:NAME[/CONFIG][:SPLIT] (default: graded)",
        )
    for name in ("run", "generate"):
        made[name].add_argument("run", metavar="RUN", type=Path, help="run folder, as training wrote it")
        _add_generation(made[name])
    for name in ("run", "judge"):
        _add_judging(made[name])
    made["judge"].add_argument(
        "--samples", type=Path, required=True, metavar="FILE", help="samples.jsonl: task_id with solution or completion"
    )
    made["judge"].add_argument(
        "--missing",
        choices=("refuse", "fail", "skip"),
        default="refuse",
        help="problems without a sample: refuse the file, count them as failed, or leave them out (default: refuse)",
    )
    made["judge"].add_argument("--work", type=Path, metavar="DIR", help="where verdicts are kept (default: beside the samples)")
    made["explain"].add_argument("task", metavar="TASK", help="a task id, or the end of one")
    made["explain"].add_argument("--policy", metavar="NAME", help="prompt policy")
    made["explain"].add_argument("--stop-rule", metavar="NAME", help="where a completion stops")
    made["explain"].add_argument("--samples", type=Path, metavar="FILE", help="show the programs of this file too")
    for name in ("run", "generate", "judge"):
        made[name].add_argument("--limit", type=int, metavar="N", help="only the first N problems")
        made[name].add_argument("--tasks", nargs="+", default=[], metavar="PATTERN", help="only these ids: HumanEval/7, Mbpp/1?, 11-510")
    for action in made.values():
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object on standard output, nothing else"
        )


def _add_generation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", metavar="NAME", help="prompt policy (default: verbatim, docstring or fim, by the kind of problems)")
    parser.add_argument(
        "--stop-rule", metavar="NAME", help="where a completion stops: function, program, line, none (default: the policy's)"
    )
    parser.add_argument("--num-samples", type=int, metavar="N", help="programs for each problem (default: 1)")
    parser.add_argument("--max-bytes", type=int, metavar="N", help="longest completion (default: 512)")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy (default: 0)")
    parser.add_argument("--top-p", type=float, metavar="P", help="only the most probable symbols that reach this share (default: 1)")
    parser.add_argument("--top-k", type=int, metavar="K", help="only so many of the most probable symbols (default: all)")
    parser.add_argument("--seed", type=int, metavar="N", help="equal seeds, equal programs (default: 0)")
    parser.add_argument("--valid-utf8", action="store_true", default=None, help="generate valid UTF-8 only")
    parser.add_argument("--view", metavar="NAME", help="how the model reads: raw, or a view of the run (default: raw if it was told any)")
    parser.add_argument(
        "--healing", choices=("both", "no", "yes"), default="both", help="heal prompts of a token run, or not (default: both are reported)"
    )
    parser.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda or auto (default: auto)")
    parser.add_argument("--rows", type=int, default=16, metavar="N", help="completions made at a time; changes time only (default: 16)")


def _add_judging(parser: argparse.ArgumentParser) -> None:
    from eval.sandbox.tiers import TIERS

    parser.add_argument("--k", type=int, nargs="+", metavar="K", help="pass@K (default: of 1, 10 and 100 those that the samples allow)")
    parser.add_argument(
        "--exclude-failing-gold", action="store_true", help="leave out problems whose own solution fails (default: count them)"
    )
    parser.add_argument(
        "--limit-factor", type=float, metavar="F", help="a program may take F times as long as the gold solution (default: 5)"
    )
    parser.add_argument("--floor-s", type=float, metavar="S", help="and never less than S seconds (default: 3)")
    parser.add_argument("--gold-limit-s", type=float, metavar="S", help="the gold solution may take S seconds (default: 60)")
    parser.add_argument(
        "--tier",
        default="auto",
        choices=("auto", *TIERS),
        metavar="NAME",
        help="of the sandbox: bwrap-uid, bwrap, landlock (default: the first that works)",
    )
    parser.add_argument("--slots", type=int, metavar="N", help="programs run at a time (default: one a core)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The action's result, with its name under `action`."""
    from eval.problems import load_problems

    problems = load_problems(args.problems)
    if args.action == "explain":
        return {"action": "explain", **_explain(args, problems)}
    whole, problems = problems, problems.take(limit=args.limit, tasks=args.tasks)
    if args.action == "judge":
        from eval.code import judge_file

        judge = _judge_settings(args)
        return {
            "action": "judge",
            **judge_file(args.samples, problems, judge, whole=whole, work=args.work, missing=args.missing, **_how(args)),
        }
    return {"action": args.action, **_with_model(args, problems)}


def check(args: argparse.Namespace) -> None:
    """Raise `RequestError` for what is wrong whatever the run, such as a misspelled policy; a comparison's plan is asked so too."""
    from eval.problems import load_problems

    _check(args, load_problems(args.problems).take(limit=args.limit, tasks=args.tasks))


def _check(args: argparse.Namespace, problems: Any) -> Any:
    """The settings of generation. Imports no torch: a wrong request is answered before a model is thought of."""
    from eval.code import CodeSettings, named
    from eval.pass_at_k import check_ks

    settings = validate(CodeSettings, options_of(args, _GENERATION), source=OPTIONS)
    named(settings, problems)
    if args.action == "run":
        _judge_settings(args)
        check_ks(args.k or (), settings.num_samples)
    return settings


def _with_model(args: argparse.Namespace, problems: Any) -> dict[str, Any]:
    settings = _check(args, problems)
    check_run(args.run)

    from eval.code import named
    from eval.code_runs import evaluate, generate, readings_of
    from eval.opened import open_run

    if args.action == "run":
        judge = _judge_settings(args)
        opened = open_run(args.run, view=args.view, device=args.device, num_rows=args.rows)
        return evaluate(opened, problems, settings, judge, healing=args.healing, **_how(args))
    opened = open_run(args.run, view=args.view, device=args.device, num_rows=args.rows)
    made = [generate(reading, problems, settings) for reading in readings_of(opened, args.healing)]
    return {
        "run": opened.identity,
        "dataset": problems.to_json(),
        "settings": named(settings, problems).model_dump(mode="json"),
        "samples": [{"healing": each.opened.healing, "path": str(each.path), "num_samples": len(each.attempts)} for each in made],
    }


def _judge_settings(args: argparse.Namespace) -> Any:
    from eval.judging import JudgeSettings

    if args.slots is not None and args.slots < 1:
        raise RequestError(f"--slots {args.slots} runs no program; give at least 1")
    return validate(JudgeSettings, options_of(args, _JUDGING), source=OPTIONS)


def _how(args: argparse.Namespace) -> dict[str, Any]:
    return {"ks": args.k, "exclude_failing_gold": args.exclude_failing_gold, "tier": args.tier, "num_slots": args.slots}


def _explain(args: argparse.Namespace, problems: Any) -> dict[str, Any]:
    from eval.prompts import ask, policy_of
    from eval.sample_files import read_attempts

    problem = problems[args.task]
    asked = ask(problem, args.policy, args.stop_rule)
    found = {
        "task_id": problem.task_id,
        "style": problem.style,
        "problems": problems.to_json(),
        "policy": policy_of(problem, args.policy),
        "prompt": asked.prompt.decode(),
        "prompt_bytes": len(asked.prompt),
        "suffix": None if asked.suffix is None else asked.suffix.decode(),
        "tail": asked.tail.decode(),
        "stop_rule": asked.stop_rule,
        "stops": [stop.decode() for stop in asked.stops],
        "entry_points": list(problem.entry_points),
        "helpers": problem.setup,
        "tests": problem.test,
        "gold": problem.gold,
    }
    if args.samples is not None:
        attempts = read_attempts(args.samples, problems, missing="skip")
        found["programs"] = [each.program.decode(errors="replace") for each in attempts if each.task_id == problem.task_id]
    return found


def show(result: dict[str, Any]) -> None:
    """A few lines for people."""
    if result["action"] == "explain":
        _show_explained(result)
    elif result["action"] == "generate":
        for made in result["samples"]:
            print(f"{made['path']}: {made['num_samples']} samples{', prompts healed' if made['healing'] else ''}")
    else:
        _show_scores(result)


def _show_scores(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from eval.envelope import where

    left_out = result["num_without_samples"] if result.get("missing") == "skip" else 0
    counted = f"{result['num_problems']} of {result['num_problems'] + left_out}" if left_out else str(result["num_problems"])
    skipped = f"; {left_out} without a sample left out" if left_out else ""
    table = Table(title=f"{result['dataset']['name']}, {counted} problems{skipped}", title_justify="left")
    for name in ("prompts", "score", "value", "95 % interval", "pass", "fail", "timeout"):
        table.add_column(name, justify="left" if name in ("prompts", "score") else "right")
    for reading in (result, result.get("healed")):
        for name, bounds in (reading or {}).get("intervals", {}).items():
            assert reading is not None
            low, high = bounds["interval"]
            counts = [str(reading["verdicts"][verdict]) for verdict in ("pass", "fail", "timeout")]
            table.add_row(
                "healed" if reading.get("healing") else "plain", name, f"{reading[name]:.3f}", f"{low:.3f} to {high:.3f}", *counts
            )
    console = Console()
    console.print(table)
    for level, scores in result.get("by_level", {}).items():
        console.print(f"{level}: pass@1 {scores['pass@1']:.3f} of {scores['num_problems']} problems", highlight=False)
    asked = f"policy {result['settings']['policy']}, stops {result['settings']['stop_rule']}; " if "policy" in result["settings"] else ""
    for reading in (result, result.get("healed") or {}):
        bits = reading.get("gold_bits_per_byte") or {}
        if bits.get("value") is not None:
            told = "healed" if reading["healing"] else "plain"
            console.print(f"gold solutions after their prompts ({told}): {bits['value']:.3f} bits per byte", highlight=False)
    failed = len(result["gold"]["failed"])
    console.print(f"{asked}sandbox {result['sandbox_tier']}; gold solutions failing: {failed}; {result['seconds']:.1f} s", highlight=False)
    for reading in (result, result.get("healed") or {}):
        told = f" ({'healed' if reading['healing'] else 'plain'})" if result.get("healed") and reading else ""
        for index, (reason, count) in enumerate(list(reading.get("reasons", {}).items())[:5]):
            if index == 0:
                console.print(f"why programs did not pass{told}:", highlight=False)
            console.print(f"  {count} x {reason}", highlight=False, markup=False)
    if "written" in result:
        print(where(result["written"]))


def _show_explained(result: dict[str, Any]) -> None:
    print(f"{result['task_id']}, asked by policy {result['policy']}: {result['prompt_bytes']} bytes")
    print(repr(result["prompt"].encode()))
    if result["suffix"] is not None:
        print(f"told what follows:\n{result['suffix'].encode()!r}")
    print(f"a completion stops ({result['stop_rule']}) before {', '.join(map(repr, result['stops'])) or 'nothing'}, at its end or length")
    if result["tail"]:
        print(f"the program is prompt, completion, then\n{result['tail'].encode()!r}")
    print(f"gold program, in the sandbox:\n{result['gold']}")
    print(f"tests, outside it, with {', '.join(result['entry_points'])} of the program:\n{result['helpers']}\n{result['tests']}")
    for number, program in enumerate(result.get("programs", [])):
        print(f"sample {number}:\n{program}")
