"""The code evaluation of a run: its samples for a problem set, as is and healed, and the result that is kept with the run.

    RUN/eval/code-graded-<16 digits>/  job.json  samples.jsonl    one folder a job: checkpoint, reading, problems, settings
    RUN/eval/verdicts-<16 digits>/                                of programs, by content, for one tier and its limits
    RUN/eval/code-graded.json                                     the result, written last

A run of tokens is asked twice: with its prompts as they are, and healed (the last symbols of the prompt taken back, and the first ones
generated bound to spell them). Neither is the right one: both are reported. A run that reads raw bytes has no border to heal.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eval.code import SCHEMA, CodeSettings, attempts_of, generate_samples, job_of, named, score
from eval.continuations import Continuations
from eval.envelope import Dataset, envelope, write_result
from eval.intervals import estimate
from eval.judging import JudgeSettings
from eval.opened import Opened
from eval.pass_at_k import check_ks, possible_ks
from eval.problems import ProblemSet
from eval.prompts import ask
from eval.sample_files import Attempt
from eval.samples import Samples, eval_folder, work_folder
from proxy_lm.errors import RequestError

AMOUNTS = ("dataset.num_items", "settings.num_samples", "healed")

Healing = Literal["both", "no", "yes"]

_OPENING_BYTES = 2  # BOS and the start sentinel, counted as in `eval.windows`


@dataclass(frozen=True)
class Made:
    """Samples of one reading of a run."""

    opened: Opened
    folder: Path
    attempts: list[Attempt]

    @property
    def path(self) -> Path:
        """What EvalPlus reads."""
        return self.folder / "samples.jsonl"


def readings_of(opened: Opened, healing: Healing) -> list[Opened]:
    """The run as it is asked: as is, healed, or both where there is something to heal. `RequestError` for 'yes' where there is not."""
    if healing == "yes":
        return [opened.healed(True)]
    return [opened, opened.healed(True)] if healing == "both" and opened.can_heal else [opened]


def generate(opened: Opened, problems: ProblemSet, settings: CodeSettings) -> Made:
    """Make the samples that are not there yet."""
    settings = named(settings, problems)
    job = job_of(opened.identity, problems, settings)
    folder = work_folder(opened.run, "code", file_name(problems), job)
    with Samples.open(folder, job) as samples:
        try:
            generate_samples(opened.generator, problems, settings, samples)
        except RequestError as error:
            if settings.policy != "fim":
                raise
            raise RequestError(f"{error} (for these problems: --policy prefix)") from error
        return Made(opened, folder, list(attempts_of(samples, problems, settings.num_samples)))


def evaluate(
    opened: Opened,
    problems: ProblemSet,
    settings: CodeSettings,
    judge: JudgeSettings,
    *,
    healing: Healing = "both",
    ks: Sequence[int] | None = None,
    exclude_failing_gold: bool = False,
    tier: str = "auto",
    num_slots: int | None = None,
) -> dict[str, Any]:
    """Samples and scores of a run; writes and returns its result. The healed reading, if there is one, stands under `healed`."""
    started = time.monotonic()
    ks = ks or possible_ks(settings.num_samples)
    check_ks(ks, settings.num_samples)  # before hours of generating
    found = []
    for reading in readings_of(opened, healing):
        made = generate(reading, problems, settings)
        scores = score(
            made.attempts,
            problems,
            eval_folder(opened.run),  # verdicts on gold serve both readings
            judge,
            ks=ks,
            exclude_failing_gold=exclude_failing_gold,
            tier=tier,
            num_slots=num_slots,
        )
        bits = gold_bits(reading, problems, named(settings, problems))
        exact = exact_match(made.attempts, problems, settings) if problems.problems[0].style == "infilling" else None
        found.append({"healing": reading.healing, **scores, "gold_bits_per_byte": bits, "exact_match": exact})
    result = envelope(
        SCHEMA,
        "code run",
        opened.identity | {"healing": found[0]["healing"]},
        Dataset(**problems.to_json()),
        named(settings, problems),
        time.monotonic() - started,
        found[0] | {"healed": found[1] if len(found) > 1 else None},
    )
    return result | {"written": write_result(opened.run, "code", file_name(problems), result, made.folder, AMOUNTS)}


def gold_bits(opened: Opened, problems: ProblemSet, settings: CodeSettings) -> dict[str, Any]:
    """Bits per byte of the gold solutions after their prompts, by teacher forcing: tells models apart that solve nothing yet.

    Prompts are cut from their front so that prompt and solution fit the context in bytes, equal for every arm. `value` is null, with the
    `reason`, where the policy shows the model more than what stands before the solution, or the view cannot be asked.
    """
    room = opened.context_bytes - _OPENING_BYTES
    asked: list[tuple[str, bytes, bytes]] = []
    for problem in problems:
        one = ask(problem, settings.policy)
        if one.reference is not None:
            gold = one.reference[: room // 2]
            asked.append((problem.task_id, one.prompt[-(room - len(gold)) :], gold))
    if not asked:
        return {"value": None, "interval": None, "reason": f"by policy '{settings.policy}' no gold solution just follows its prompt"}
    try:
        nats = Continuations(opened).nats([(prompt, gold) for _, prompt, gold in asked])
    except RequestError as error:
        return {"value": None, "interval": None, "reason": str(error)}
    told = [(task, cost / math.log(2), len(gold)) for (task, _, gold), cost in zip(asked, nats, strict=True) if cost is not None]
    found = estimate([task for task, _, _ in told], [bits for _, bits, _ in told], [size for _, _, size in told])
    return {
        **found.to_json(),
        "reason": None if found.value is not None else "no gold solution could be told in this view",
        "num_problems": len(told),
        "num_bytes": sum(size for _, _, size in told),
        "context_bytes": opened.context_bytes,
    }


def exact_match(attempts: Sequence[Attempt], problems: ProblemSet, settings: CodeSettings) -> dict[str, Any]:
    """Share of infilled parts that equal the original ones byte for byte, white space at their end aside."""
    same = []
    for attempt in attempts:
        problem = problems[attempt.task_id]
        asked = ask(problem, settings.policy, settings.stop_rule)
        part = attempt.program[len(asked.prompt) : len(attempt.program) - len(asked.tail)]
        same.append(part.rstrip() == problem.canonical_solution.encode().rstrip())
    return estimate([attempt.task_id for attempt in attempts], same).to_json()


def file_name(problems: ProblemSet) -> str:
    """The name of the set as part of a file name."""
    return re.sub(r"[^\w.+-]+", "-", problems.name.removeprefix("hf:")).strip("-") or "problems"
