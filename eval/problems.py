"""Programming problems with tests: what a problem is, whatever published file it came from.

    problems = load_problems("graded")                      # ours, packaged: 40 problems, graded from trivial
    problems = load_problems("HumanEval.jsonl.gz")          # also .jsonl, .json, .parquet, and hf:NAME[/CONFIG] through `datasets`

A problem's `tests` are run by the trusted judge, beside `setup`; its programs are run by the sandbox. `setup` is what the tests may name
besides the entry points: imports, and the helpers that the published prompt defines above the function that is asked for. It is taken from
the published file, so a perturbed prompt leaves it as it was.

Not promised: that a published gold solution passes its own tests (`eval.judging` runs them first and lists those that do not).
Rows become problems in `eval.problem_files`.
"""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from compressors.files import digest_of
from proxy_lm.errors import RequestError

Style = Literal["humaneval", "mbpp", "infilling"]

PACKAGED = Path(__file__).parent / "problem_sets"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One task. `humaneval`: a program is prompt + completion; `infilling`: prompt + completion + suffix; `mbpp`: it stands alone."""

    task_id: str
    prompt: str  # as published; for `mbpp` the words of the task. How a model is asked is the business of `eval.prompts`
    entry_point: str
    canonical_solution: str  # a completion; for `mbpp` a whole program. Empty where the file has none
    test: str  # as published, plus the call that runs it
    style: Style
    suffix: str = ""
    setup: str = ""
    examples: tuple[str, ...] = ()  # `mbpp`: the published asserts, some of which a prompt may show
    more_entry_points: tuple[str, ...] = ()  # further names that the tests take from a solution
    level: str = ""  # of our graded set

    @property
    def entry_points(self) -> tuple[str, ...]:
        """Every name that the judge takes from a program, the one that is asked for first."""
        return (self.entry_point, *self.more_entry_points)

    @property
    def tests(self) -> str:
        """What the judge runs: the setup, then the published tests and their call."""
        return f"{self.setup}\n{self.test}" if self.setup else self.test

    @property
    def gold(self) -> str | None:
        """The published solution as a whole program, None where there is none."""
        return self.program(self.canonical_solution) if self.canonical_solution else None

    def program(self, completion: str) -> str:
        """A whole program from a completion of the published prompt."""
        return completion if self.style == "mbpp" else self.prompt + completion + self.suffix


@dataclass(frozen=True, kw_only=True)
class ProblemSet:
    """Problems in the order of their file. `digest` is of the problems and not of the file that held them: .jsonl and .parquet agree."""

    name: str
    digest: str
    problems: tuple[Problem, ...]

    @classmethod
    def of(cls, name: str, problems: Sequence[Problem]) -> ProblemSet:
        """Name and digest them. Raises `RequestError` for none, and for two of one id."""
        if not problems:
            raise RequestError(f"{name} holds no problem; give a file with at least one line")
        seen: set[str] = set()
        for problem in problems:
            if problem.task_id in seen:
                raise RequestError(f"{name} holds task {problem.task_id} twice; a score would count it double: remove one")
            seen.add(problem.task_id)
        return cls(name=name, digest=digest_of([asdict(problem) for problem in problems]), problems=tuple(problems))

    def __len__(self) -> int:
        return len(self.problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)

    def __getitem__(self, task_id: str) -> Problem:
        """By id, or by the end of one id (`7` for `HumanEval/7`)."""
        exact = [problem for problem in self.problems if problem.task_id == task_id]
        found = exact or [problem for problem in self.problems if problem.task_id.endswith(f"/{task_id}")]
        if len(found) != 1:
            known = ", ".join(problem.task_id for problem in self.problems[:5])
            raise RequestError(f"{len(found)} tasks of {self.name} are called '{task_id}'; its {len(self)} ids begin with {known}")
        return found[0]

    def take(self, *, limit: int | None = None, tasks: Sequence[str] = ()) -> ProblemSet:
        """Only ids that fit one of the patterns `tasks` (`Mbpp/1?`, or a span of numbers `11-510`), then the first `limit`.

        The name and digest stay those of the whole set; a result says how many were asked.
        """
        chosen = [problem for problem in self.problems if not tasks or any(_fits(problem.task_id, pattern) for pattern in tasks)]
        if limit is not None and limit < 1:
            raise RequestError(f"--limit {limit} leaves no problem; give at least 1")
        if not chosen:
            raise RequestError(f"no task of {self.name} fits {', '.join(tasks)}; its ids look like {self.problems[0].task_id}")
        return replace(self, problems=tuple(chosen[:limit]))

    def to_json(self) -> dict[str, Any]:
        """What a result says of its data."""
        return {"name": self.name, "digest": self.digest, "num_items": len(self)}


def load_problems(source: str | Path) -> ProblemSet:
    """A packaged set by name, a published file by path, or `hf:NAME[/CONFIG][:SPLIT]`. Raises `RequestError` for anything else."""
    from eval.problem_files import problem_of, read_rows

    packaged = PACKAGED / f"{source}.jsonl"
    known = packaged_names()
    if str(source) in known:
        name, rows = str(source), read_rows(packaged)
    elif str(source).startswith("hf:") or Path(source).exists():
        name = str(source) if str(source).startswith("hf:") else Path(source).name.split(".")[0]
        rows = read_rows(source)
    else:
        raise RequestError(f"{source} is neither a file nor a packaged problem set; packaged: {', '.join(known)}")
    problems = []
    for number, row in enumerate(rows, start=1):
        try:
            problem = problem_of(row)
            "".join([problem.prompt, problem.suffix, problem.canonical_solution, problem.test, problem.setup]).encode()  # no half surrogate
            problems.append(problem)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            said = f"it has no field {error}" if isinstance(error, KeyError) else str(error)
            raise RequestError(f"problem {number} of {source} is in no format known here: {said}") from error
    return ProblemSet.of(name, problems)


def packaged_names() -> list[str]:
    """Names of the sets that come with this package."""
    return sorted(path.stem for path in PACKAGED.glob("*.jsonl"))


def helpers_above(program: str, entry_point: str) -> str:
    """Top-level statements of `program` that stand above the function `entry_point`, as source; empty when it does not parse.

    Tests may use them by name (three of HumanEval's do). They come from the published file, so the judge may run them itself.
    """
    try:
        body = ast.parse(program).body
    except (SyntaxError, ValueError):
        return ""
    names = [getattr(node, "name", None) for node in body]
    above = body[: names.index(entry_point)] if entry_point in names else []
    return ast.unparse(ast.Module(body=above, type_ignores=[]))


def _fits(task_id: str, pattern: str) -> bool:
    low, dash, high = pattern.partition("-")
    number = task_id.rpartition("/")[2]
    if dash and low.isdigit() and high.isdigit():
        return number.isdigit() and int(low) <= int(number) <= int(high)
    return task_id == pattern or number == pattern or fnmatch.fnmatchcase(task_id, pattern)
