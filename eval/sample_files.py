"""Files of generated solutions, one JSON line each, as EvalPlus reads and writes them: `task_id` with `solution` or `completion`.

    attempts = read_attempts(Path("samples.jsonl"), load_problems("HumanEval.jsonl.gz"))

`solution` is a whole program, `completion` what follows the published prompt. Bytes that are no UTF-8 have no place in JSON: beside the
text, with U+FFFD in their place, stands `solution_base64`, and that is what is judged. Several lines of one task are samples of it. Every
task must have equally many, so that a file cut short cannot score well; what else is wanted has to be said (`missing`).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eval.problem_files import mbpp_id, read_rows
from eval.problems import Problem, ProblemSet
from proxy_lm.errors import RequestError

Missing = Literal["refuse", "fail", "skip"]
_REMEDY = "write a line of UTF-8 JSON for each sample: its task_id, and its solution or completion"


@dataclass(frozen=True)
class Attempt:
    """One program for one task. `sample` counts the programs of a task from 0."""

    task_id: str
    sample: int
    program: bytes

    @property
    def key(self) -> str:
        """Its name in results: `HumanEval/7#0`."""
        return f"{self.task_id}#{self.sample}"


def text_fields(name: str, data: bytes) -> dict[str, str]:
    """`data` as JSON text; where it is no UTF-8, its bytes beside it."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {name: data.decode(errors="replace"), f"{name}_base64": base64.b64encode(data).decode()}


def read_attempts(path: Path, problems: ProblemSet, *, missing: Missing = "refuse", whole: ProblemSet | None = None) -> list[Attempt]:
    """Attempts in the order of the problems. Raises `RequestError` for unknown tasks, a sample given twice, and unequal numbers of them.

    `whole` is the set of which `problems` is a part: samples of its other tasks are passed over.
    Tasks without any sample are refused; or fail: they count with no right sample; or are left out ("skip").
    """
    if not path.is_file():
        raise RequestError(f"{path} is not a file; give the samples.jsonl to judge")
    by_task: dict[str, list[tuple[object, bytes]]] = defaultdict(list)
    known = {problem.task_id: problem for problem in problems}
    others = {problem.task_id for problem in whole or ()} - set(known)
    number = 0
    for number, row in enumerate(read_rows(path, what="samples", remedy=_REMEDY), start=1):
        if row.get("task_id") is None:
            raise RequestError(f"{path}, line {number} has no task_id; {_REMEDY}")
        task_id = mbpp_id(row["task_id"])
        if task_id in others:
            continue
        if task_id not in known:
            first = problems.problems[0].task_id
            raise RequestError(
                f"{path}, line {number}: no task '{task_id}' among the {len(problems)} problems, whose ids look like {first}"
            )
        by_task[task_id].append((row.get("sample"), program_of(row, known[task_id], f"{path}, line {number}")))
    if not by_task:
        raise RequestError(f"{path} {'holds no sample of these problems' if number else 'is empty'}; {_REMEDY}")
    _check_numbers(path, by_task, list(known), missing)
    return [
        Attempt(task_id, index, program)
        for task_id in known
        if task_id in by_task
        for index, (_, program) in enumerate(_ordered(by_task[task_id]))
    ]


def program_of(row: Mapping[str, Any], problem: Problem, where: str) -> bytes:
    """The program that a line stands for. Raises `RequestError` where it has none."""
    for name in ("solution", "completion"):
        exact, text = row.get(f"{name}_base64"), row.get(name)
        if isinstance(exact, str):
            try:
                data = base64.b64decode(exact, validate=True)
            except binascii.Error as error:
                raise RequestError(f"{where}: {name}_base64 is not base64 ({error})") from error
        elif isinstance(text, str):
            data = text.encode(errors="surrogatepass")
        else:
            continue
        if name == "solution" or problem.style == "mbpp":
            return data
        return problem.prompt.encode() + data + problem.suffix.encode()
    raise RequestError(f"{where} has neither 'solution' nor 'completion'; a sample is a program or what follows the prompt")


def _check_numbers(path: Path, by_task: Mapping[str, Sequence[tuple[object, bytes]]], task_ids: Sequence[str], missing: Missing) -> None:
    for task_id, found in by_task.items():
        numbers = [sample for sample, _ in found if sample is not None]
        if len(set(map(json.dumps, numbers))) < len(numbers):
            raise RequestError(f"{path} holds a sample of {task_id} twice; it would count double: remove one")
    counts = {len(found) for found in by_task.values()}
    if len(counts) > 1:
        most, least = max(by_task, key=lambda task: len(by_task[task])), min(by_task, key=lambda task: len(by_task[task]))
        raise RequestError(
            f"{path} holds {len(by_task[most])} samples of {most} and {len(by_task[least])} of {least}; give equally many of every task"
        )
    absent = [task_id for task_id in task_ids if task_id not in by_task]
    if absent and missing == "refuse":
        raise RequestError(
            f"{path} has no sample of {len(absent)} of the {len(task_ids)} problems (the first: {absent[0]}); "
            "say --missing fail to count them as failed, or --missing skip to leave them out"
        )


def _ordered(found: Sequence[tuple[object, bytes]]) -> list[tuple[object, bytes]]:
    """By the number of the sample where all have one, else as in the file."""
    if all(isinstance(sample, int) for sample, _ in found):
        return sorted(found, key=lambda pair: int(str(pair[0])))
    return list(found)
