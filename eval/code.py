"""Generated programs and their pass@k: samples of a run for a problem set, and the score of samples.

    opened = open_run(Path("runs/nano"))
    with Samples.open(folder, job) as samples:
        generate_samples(opened.generator, load_problems("graded"), CodeSettings(), samples)
    result = score(read_attempts(samples.path, problems), problems, verdicts_folder, JudgeSettings(), tier="auto", num_slots=None)

`proxy-lm-eval code` runs it. Generating and judging are separate and each goes on where it was stopped; `samples.jsonl` is what EvalPlus
reads. Every result names the prompt policy, the stop rule, the sampling, the tier of the sandbox and the digest of the problems.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from compressors.files import digest_of, sha256_file
from eval.envelope import Dataset, envelope
from eval.judging import JudgeSettings, Verdict, check_gold, count_verdicts, judge_gold, judge_programs, open_verdicts
from eval.pass_at_k import check_ks, pass_at_k, possible_ks
from eval.problems import Problem, ProblemSet
from eval.prompts import Asked, ask, policy_of
from eval.sample_files import Attempt, Missing, program_of, read_attempts, text_fields
from eval.samples import Samples
from eval.sandbox.pool import Sandbox
from proxy_lm.config import Settings
from proxy_lm.errors import RequestError
from proxy_lm.infer.id_request import Temperature
from proxy_lm.progress import CountProgress

if TYPE_CHECKING:
    from proxy_lm.infer.generator import Completion, Generator, Prompt, Sampling

SCHEMA = "proxy-lm code 1"
_REASON = re.compile(r"^[\w ]+: \w+|^[\w ]+")
INTERVAL_MEANS = "95 %; problems drawn again, not seeds of sampling"


class CodeSettings(Settings):
    """How samples are made. All of it stands in the result."""

    policy: str | None = None
    """Prompt policy of `eval.prompts`; None: the first one for the problems' style."""
    stop_rule: str | None = None
    """Stop rule of `eval.prompts`; None: the policy's own."""
    num_samples: int = Field(default=1, ge=1)
    """Programs for each problem."""
    max_bytes: int = Field(default=512, ge=1)
    """A completion has at most so many bytes."""
    temperature: Temperature = 0.0
    """0: greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    valid_utf8: bool = False
    """Only valid UTF-8 can be generated."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"{self.num_samples} greedy samples of a problem are all the same; give a temperature (0.2 is usual) or 1 sample"
            )
        return self

    def sampling(self) -> Sampling:
        """What the generator is told."""
        from proxy_lm.infer.generator import Sampling

        return Sampling(
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, seed=self.seed, valid_utf8=self.valid_utf8, speculate=True
        )


def named(settings: CodeSettings, problems: ProblemSet) -> CodeSettings:
    """The settings with the policy and the stop rule by name. Raises `RequestError` for a policy that does not fit the problems."""
    first = problems.problems[0]
    rules = sorted({ask(problem, settings.policy, settings.stop_rule).stop_rule for problem in problems})
    return settings.model_copy(update={"policy": policy_of(first, settings.policy), "stop_rule": settings.stop_rule or "+".join(rules)})


def job_of(identity: Mapping[str, Any], problems: ProblemSet, settings: CodeSettings) -> dict[str, Any]:
    """All that can change a sample. Not how many problems or samples are wanted: more of them continue the same file."""
    return {
        "what": "code 1",
        "run": dict(identity),
        "problems": problems.digest,
        "settings": settings.model_dump(mode="json", exclude={"num_samples"}),
    }


def generate_samples(generator: Generator, problems: Iterable[Problem], settings: CodeSettings, samples: Samples) -> None:
    """Append to `samples` what is not there yet, under keys `<task_id>#<sample>`; lines have `task_id`, `solution` and `completion`."""
    todo: list[tuple[Problem, int]] = []
    for problem in problems:
        todo += [(problem, index) for index in range(settings.num_samples) if f"{problem.task_id}#{index}" not in samples.done]
    if not todo:
        return
    asked = {problem.task_id: ask(problem, settings.policy, settings.stop_rule) for problem, _ in todo}
    prompts = (_prompt(asked[problem.task_id], problem.task_id, index, settings) for problem, index in todo)
    with CountProgress("generating programs", len(todo)) as progress:
        for (problem, index), completion in zip(todo, generator.generate(prompts, settings.sampling()), strict=True):
            samples.append(f"{problem.task_id}#{index}", _record(problem, index, asked[problem.task_id], completion))
            progress.advance()


def _prompt(asked: Asked, task_id: str, index: int, settings: CodeSettings) -> Prompt:
    from proxy_lm.infer.generator import Prompt

    # A sample's draws depend on its task and number alone, not on the problems beside it.
    seed = int(digest_of([task_id, index])[:8], 16)
    return Prompt(data=asked.prompt, suffix=asked.suffix, stop=asked.stops, max_bytes=settings.max_bytes, seed=seed)


def _record(problem: Problem, index: int, asked: Asked, completion: Completion) -> dict[str, Any]:
    return {
        "task_id": problem.task_id,
        "sample": index,
        **text_fields("solution", asked.program(completion.data)),
        **text_fields("completion", completion.data),
        "ended_by": completion.reason,
        "stop": None if completion.stop is None else completion.stop.decode(errors="replace"),
    }


def score(
    attempts: Sequence[Attempt],
    problems: ProblemSet,
    folder: Path,
    settings: JudgeSettings,
    *,
    ks: Sequence[int] | None = None,
    exclude_failing_gold: bool = False,
    skip_missing: bool = False,
    tier: str = "auto",
    num_slots: int | None = None,
) -> dict[str, Any]:
    """Judge attempts: pass@k with intervals, verdicts by class, the gold solutions, and the tier. Verdicts are kept under `folder`.

    `skip_missing` leaves out tasks without attempts, their gold solutions too; else they have as many wrong samples as the others have
    samples. Raises `RequestError` where samples are fewer than a k that was asked for, `WorkError` where the sandbox itself fails.
    """
    started = time.monotonic()
    if ks is not None:
        check_ks(ks, min(Counter(attempt.task_id for attempt in attempts).values(), default=0))
    num_asked, attempted = len(problems.problems), {attempt.task_id for attempt in attempts}
    if skip_missing:
        problems = replace(problems, problems=tuple(problem for problem in problems if problem.task_id in attempted))
    num_skipped = num_asked - len(problems.problems)
    with Sandbox.open(tier=tier, num_slots=num_slots) as sandbox, open_verdicts(folder, sandbox.tier, settings) as kept:
        gold = judge_gold(problems, sandbox, settings, kept)
        counted, about_gold = check_gold(problems, gold, exclude=exclude_failing_gold)
        by_id = {problem.task_id: problem for problem in counted}
        chosen = [attempt for attempt in attempts if attempt.task_id in by_id]
        if not chosen:
            raise RequestError(f"none of the {len(attempts)} samples is of a problem that counts; judge without --exclude-failing-gold")
        verdicts = judge_programs([(by_id[attempt.task_id], attempt.program) for attempt in chosen], gold, sandbox, settings, kept)
        used = sandbox.tier
    by_task: dict[str, list[Verdict]] = defaultdict(list)
    for attempt, verdict in zip(chosen, verdicts, strict=True):
        by_task[attempt.task_id].append(verdict)
    counts = count_right(by_task, by_id)
    num_samples = min(number for number, _ in counts.values())
    return {
        **_scores(counts, counted, possible_ks(num_samples) if ks is None else ks),
        "num_problems": len(counts),
        "num_samples": len(chosen),
        "samples_per_problem": num_samples,
        "verdicts": count_verdicts(verdicts),
        "reasons": _reasons(verdicts),
        "num_without_samples": num_skipped + len(by_id) - len(by_task),
        "gold": about_gold,
        "limits": {**settings.model_dump(mode="json"), "largest_s": max(verdict.limit_s for verdict in verdicts)},
        "sandbox_tier": used,
        "tasks": {task: {"num_samples": number, "num_right": right} for task, (number, right) in counts.items()},
        "judging_seconds": time.monotonic() - started,
    }


def judge_file(
    path: Path,
    problems: ProblemSet,
    judge: JudgeSettings,
    *,
    whole: ProblemSet | None = None,
    work: Path | None = None,
    missing: Missing = "refuse",
    ks: Sequence[int] | None = None,
    exclude_failing_gold: bool = False,
    tier: str = "auto",
    num_slots: int | None = None,
) -> dict[str, Any]:
    """Judge a file of samples alone, whoever made it; of a file for the `whole` set only those of `problems`. Verdicts are kept in `work`
    or beside the file."""
    started = time.monotonic()
    attempts = read_attempts(path, problems, missing=missing, whole=whole)
    scores = score(
        attempts,
        problems,
        work or path.with_name(f"{path.name.split('.')[0]}-judged"),
        judge,
        ks=ks,
        exclude_failing_gold=exclude_failing_gold,
        skip_missing=missing == "skip",
        tier=tier,
        num_slots=num_slots,
    )
    about = {"samples": {"name": path.name, "digest": sha256_file(path)}, "missing": missing}
    seconds = time.monotonic() - started
    return envelope(SCHEMA, "code judge", {}, Dataset(**problems.to_json()), judge, seconds, {**scores, **about})


def count_right(by_task: Mapping[str, Sequence[Verdict]], more: Iterable[str] = ()) -> dict[str, tuple[int, int]]:
    """(samples, of these right) by task; tasks of `more` that have no verdicts count as many wrong samples as the others have."""
    counts = {task: (len(found), sum(verdict.verdict == "pass" for verdict in found)) for task, found in by_task.items()}
    usual = min(number for number, _ in counts.values())
    return {**counts, **{task: (usual, 0) for task in more if task not in counts}}


def _scores(counts: Mapping[str, tuple[int, int]], problems: ProblemSet, ks: Sequence[int]) -> dict[str, Any]:
    """`pass@k` as plain numbers, their intervals, and the same by level where the problems have levels."""
    scores = pass_at_k(counts, ks)
    found: dict[str, Any] = {f"pass@{k}": found.value for k, found in scores.items()}
    found["intervals"] = {f"pass@{k}": {"interval": list(s.interval), "method": s.interval_method} for k, s in scores.items()}
    found["interval_means"] = INTERVAL_MEANS
    levels = {problem.task_id: problem.level for problem in problems if problem.level}
    by_level: dict[str, Any] = {}
    for level in dict.fromkeys(levels.values()):
        inside = {task: count for task, count in counts.items() if levels.get(task) == level}
        if inside:
            by_level[level] = {f"pass@{k}": found.value for k, found in pass_at_k(inside, ks).items()} | {"num_problems": len(inside)}
    return {**found, **({"by_level": by_level} if by_level else {})}


def _reasons(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Why programs failed, most frequent first, by stage and class of the error."""
    counts: dict[str, int] = defaultdict(int)
    for verdict in verdicts:
        if verdict.verdict != "pass":
            counts[" ".join(_REASON.findall(verdict.reason)[:1]) or verdict.verdict] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def attempts_of(samples: Samples, problems: ProblemSet, num_samples: int) -> Iterator[Attempt]:
    """The first `num_samples` programs of each problem out of samples that were made here."""
    for problem in problems:
        for index in range(num_samples):
            row = samples.done[f"{problem.task_id}#{index}"]
            yield Attempt(problem.task_id, index, program_of(row, problem, str(samples.path)))
