"""The programs of a robustness evaluation: made for every prompt, judged in the sandbox, and proof that perturbed references still pass.

Programs are made and kept as `eval.code` makes them, verdicts as `eval.judging` keeps them. Outcomes are lists of booleans, one a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.code import CodeSettings, generate_samples, job_of
from eval.judging import JudgeSettings, Verdict, count_verdicts, judge_gold, judge_programs, open_verdicts
from eval.lines import HEALED, ways
from eval.opened import Opened
from eval.problems import Problem, ProblemSet
from eval.sample_files import program_of
from eval.samples import Samples, work_folder
from eval.sandbox.pool import Sandbox
from eval.variants import NOMINAL, Suite, Variant, needs_proof
from proxy_lm.progress import note

Programs = dict[str, list[bytes]]
"""Whole programs by the key of the problem that was asked, one a sample."""


@dataclass(frozen=True)
class Judged:
    """`right[way][key]`: outcomes of the samples of a prompt. `broken`: variants whose reference solution no longer passes, with why."""

    right: Mapping[str, Mapping[str, list[bool]]]
    broken: Mapping[str, str]
    verdicts: Mapping[str, Mapping[str, int]]
    proof: Mapping[str, Any]
    tier: str


def make_programs(opened: Opened, suite: Suite, settings: CodeSettings) -> dict[str, Programs]:
    """Programs for every prompt of the suite, by way of telling prompts; what is there already is not made again."""
    found: dict[str, Programs] = {}
    asked = suite.asked()
    for way in ways(opened):
        reading = opened.healed(way == HEALED)
        published = ProblemSet(name=suite.name, digest=suite.origin, problems=tuple(asked))
        job = {**job_of(reading.identity, published, settings), "what": "robustness programs 1"}
        folder = work_folder(opened.run, "robustness", suite.name, job)
        with Samples.open(folder, job) as samples:
            generate_samples(reading.generator, asked, settings, samples)
            found[way] = {problem.task_id: _programs(problem, samples, settings.num_samples) for problem in asked}
    return found


def _programs(problem: Problem, samples: Samples, number: int) -> list[bytes]:
    return [program_of(samples.done[f"{problem.task_id}#{index}"], problem, str(samples.path)) for index in range(number)]


def judge(made: Mapping[str, Programs], suite: Suite, folder: Path, settings: JudgeSettings, *, tier: str, num_slots: int | None) -> Judged:
    """Judge all programs and prove the perturbed reference solutions. Raises `WorkError` where the sandbox itself fails."""
    nominals = [problem for key, problem in suite.nominals.items() if key.endswith(f"@{NOMINAL}")]
    with Sandbox.open(tier=tier, num_slots=num_slots) as sandbox, open_verdicts(folder, sandbox.tier, settings) as kept:
        gold = judge_gold(nominals, sandbox, settings, kept)
        by_task = {key.removesuffix(f"@{NOMINAL}"): verdict for key, verdict in gold.items()}
        asked = {problem.task_id: problem for problem in suite.asked()}
        # A perturbed program has the time of its task's published solution.
        limits = {key: by_task[task] for key in asked if (task := key.rpartition("@")[0]) in by_task}
        proof, broken = _prove(suite, by_task, limits, sandbox, settings, kept)
        right: dict[str, dict[str, list[bool]]] = {}
        counts: dict[str, dict[str, int]] = {}
        for way, programs in made.items():
            flat = [(asked[key], program) for key, samples in programs.items() for program in samples]
            verdicts = judge_programs(flat, limits, sandbox, settings, kept)
            counts[way] = count_verdicts(verdicts)
            outcomes = iter(verdicts)
            right[way] = {key: [next(outcomes).verdict == "pass" for _ in samples] for key, samples in programs.items()}
        used = sandbox.tier
    return Judged(right, broken, counts, proof, used)


def _prove(
    suite: Suite, gold: Mapping[str, Verdict], limits: Mapping[str, Verdict], sandbox: Sandbox, settings: JudgeSettings, kept: Samples
) -> tuple[dict[str, Any], dict[str, str]]:
    """What became of the perturbed reference solutions of tasks whose published solution passes; and those that do not pass, with why."""
    sound = {task for task, verdict in gold.items() if verdict.verdict == "pass"}
    todo: list[tuple[Variant, Problem]] = []
    num_by_tree = 0
    for variant in suite.changed:
        assert variant.problem is not None
        if variant.task in sound and variant.problem.canonical_solution:
            if needs_proof(suite.nominals[variant.nominal], variant.problem):
                todo.append((variant, variant.problem))
            else:
                num_by_tree += 1
    programs = [(problem, (problem.prompt + problem.canonical_solution).encode()) for _, problem in todo]
    verdicts = judge_programs(programs, limits, sandbox, settings, kept)
    broken = {variant.key: verdict.reason for (variant, _), verdict in zip(todo, verdicts, strict=True) if verdict.verdict != "pass"}
    if broken:
        first = next(iter(broken))
        done = "left out" if suite.source == "own" else "asked all the same, as released"
        note(f"{len(broken)} perturbed reference solutions no longer pass and are {done}; the first: {first}, {broken[first]}")
    proof = {
        "num_published": len(gold),
        "published_failing": sorted(set(gold) - sound),
        "num_same_tree": num_by_tree,
        "num_run": len(todo),
        "failing": broken,
        "left_out": suite.source == "own" and bool(broken),
    }
    return proof, broken if suite.source == "own" else {}
