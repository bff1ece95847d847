"""Verdicts on programs: gold solutions first, which set the time limits, then the programs, in the sandbox; the trusted judge is outside.

    with Sandbox.open() as sandbox, open_verdicts(folder, sandbox.tier, settings) as kept:
        gold = judge_gold(problems, sandbox, settings, kept)
        verdicts = judge_programs([(problem, program), ...], gold, sandbox, settings, kept)

A limit is `limit_factor` times what the gold solution of the task took here and now, at least `floor_s`: a slow or busy machine gives
everybody more time. What still runs out of time is judged once more, alone; only then is it a `timeout`, which is told apart from `fail`.
Equal programs of one task are judged once. Verdicts are kept by program, so that a judging that was stopped goes on where it was.

A fault of the sandbox is never a verdict: it is tried again there, and then ends the command. Not promised: the same verdict twice for a
program that draws lots, or takes about as long as its limit.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from compressors.files import digest_of, sha256_bytes
from eval.problems import Problem, ProblemSet
from eval.samples import Samples
from eval.sandbox import Outcome, Program
from eval.sandbox.pool import Sandbox
from proxy_lm.config import Settings
from proxy_lm.errors import RequestError
from proxy_lm.progress import CountProgress, note

VerdictClass = Literal["pass", "fail", "timeout"]
CLASSES: tuple[VerdictClass, ...] = ("pass", "fail", "timeout")


class JudgeSettings(Settings):
    """What can change a verdict, besides the machine."""

    limit_factor: float = Field(default=5.0, ge=1.0)
    """A program has so many times the seconds of the gold solution."""
    floor_s: float = Field(default=3.0, gt=0.0)
    """And never less than this."""
    gold_limit_s: float = Field(default=60.0, gt=0.0)
    """What the gold solution itself may take."""


@dataclass(frozen=True)
class Verdict:
    """What became of a program. `seconds` are of the run that decided."""

    verdict: VerdictClass
    reason: str
    seconds: float
    limit_s: float


def open_verdicts(folder: Path, tier: str, settings: JudgeSettings) -> Samples:
    """The verdicts kept in a folder of their own under `folder`: one for each tier, settings and Python."""
    job = {"what": "verdicts 1", "tier": tier, "settings": settings.model_dump(mode="json"), "python": platform.python_version()}
    return Samples.open(folder / f"verdicts-{digest_of(job)[:16]}", job)


def judge_gold(problems: Iterable[Problem], sandbox: Sandbox, settings: JudgeSettings, kept: Samples) -> dict[str, Verdict]:
    """The verdict on each gold solution, by task; tasks that have none are not in it."""
    wanted = [(problem, problem.gold.encode()) for problem in problems if problem.gold is not None]
    keys = [_key("gold", problem, program, gold_limit_s=settings.gold_limit_s) for problem, program in wanted]
    found = _judge(keys, wanted, [settings.gold_limit_s] * len(wanted), sandbox, kept, "gold solutions")
    return {problem.task_id: verdict for (problem, _), verdict in zip(wanted, found, strict=True)}


def limit_s(gold: Verdict | None, settings: JudgeSettings) -> float:
    """Seconds that a program of the task has."""
    return settings.floor_s if gold is None or gold.verdict != "pass" else max(settings.floor_s, settings.limit_factor * gold.seconds)


def judge_programs(
    programs: Sequence[tuple[Problem, bytes]], gold: Mapping[str, Verdict], sandbox: Sandbox, settings: JudgeSettings, kept: Samples
) -> list[Verdict]:
    """A verdict for each program, in their order. `gold` is by task id; a task without gives the least limit."""
    limits = [limit_s(gold.get(problem.task_id), settings) for problem, _ in programs]
    # The limit is not in the key: it follows from the gold solution's time, which is kept too.
    keys = [_key("program", problem, program) for problem, program in programs]
    return _judge(keys, programs, limits, sandbox, kept, "programs")


def failing_gold(problems: ProblemSet, gold: Mapping[str, Verdict]) -> dict[str, str]:
    """Tasks whose gold solution does not pass, with the reason."""
    return {
        problem.task_id: f"{gold[problem.task_id].verdict}: {gold[problem.task_id].reason}"
        for problem in problems
        if problem.task_id in gold and gold[problem.task_id].verdict != "pass"
    }


def _judge(
    keys: Sequence[str],
    programs: Sequence[tuple[Problem, bytes]],
    limits: Sequence[float],
    sandbox: Sandbox,
    kept: Samples,
    what: str,
) -> list[Verdict]:
    todo: dict[str, Program] = {}
    for key, (problem, program), limit in zip(keys, programs, limits, strict=True):
        if key not in kept.done and key not in todo:
            todo[key] = Program(
                key=key, solution=program, tests=problem.test, helpers=problem.setup, entry_points=problem.entry_points, limit_s=limit
            )
    if todo:
        _run(todo, sandbox, kept, what)
    return [Verdict(**kept.done[key]) for key in keys]


def _run(todo: Mapping[str, Program], sandbox: Sandbox, kept: Samples, what: str) -> None:
    late: list[Program] = []
    with CountProgress(f"judging {what}", len(todo)) as progress:
        for outcome in sandbox.judge(todo.values()):
            if outcome.verdict == "timeout":
                late.append(todo[outcome.key])
                continue
            _keep(kept, outcome, todo[outcome.key])
            progress.advance()
        if late:
            note(f"judging {what}: {len(late)} ran out of time; each is run once more, alone")
        for outcome in sandbox.judge(late, num_at_once=1):
            _keep(kept, outcome, todo[outcome.key])
            progress.advance()


def _keep(kept: Samples, outcome: Outcome, program: Program) -> None:
    kept.append(outcome.key, asdict(Verdict(outcome.verdict, outcome.reason, round(outcome.seconds, 4), round(program.limit_s, 4))))


def _key(kind: str, problem: Problem, program: bytes, **more: Any) -> str:
    """Names what is judged, by its content."""
    content = {"program": sha256_bytes(program), "tests": [problem.setup, problem.test], "names": list(problem.entry_points), **more}
    return f"{kind}/{problem.task_id}/{digest_of(content)[:24]}"


def count_verdicts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many of each class, all classes named."""
    counts: dict[str, int] = dict.fromkeys(CLASSES, 0)
    for verdict in verdicts:
        counts[verdict.verdict] += 1
    return counts


def check_gold(problems: ProblemSet, gold: Mapping[str, Verdict], *, exclude: bool) -> tuple[ProblemSet, dict[str, Any]]:
    """The problems that count, and what a result says of gold. Failing ones count unless they are excluded, which has to be asked for."""
    failed = failing_gold(problems, gold)
    if failed:
        first = next(iter(failed))
        done = "left out" if exclude else "counted all the same (--exclude-failing-gold leaves them out)"
        note(f"{len(failed)} of {len(problems)} gold solutions fail their own tests and are {done}; the first: {first}, {failed[first]}")
    if exclude:
        left = tuple(problem for problem in problems if problem.task_id not in failed)
        if not left:
            raise RequestError(f"every gold solution of {problems.name} fails, so no problem is left; is it read in the right format?")
        problems = ProblemSet(name=problems.name, digest=problems.digest, problems=left)
    without = [problem.task_id for problem in problems if problem.task_id not in gold]
    return problems, {"num_judged": len(gold), "num_without": len(without), "failed": failed, "excluded": exclude and bool(failed)}
