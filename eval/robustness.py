"""How much a run minds how a prompt is written: robust pass@k, and bits per byte of the reference solution after perturbed prompts.

    proxy-lm-eval robustness runs/nano --problems graded --seeds 3
    proxy-lm-eval robustness runs/nano --recode dataset-release --half mbpp --perturbations format function_name

Every problem is asked as it is and under the perturbations of `eval.perturb` (or of ReCode's release); programs are made and judged as by
`proxy-lm-eval code`. By teacher forcing the same prompts are followed by the reference solution, and held-out files by what follows their
head: the change in bits per byte speaks where pass@k is 0. A run that reads symbols is asked twice, prompts as they are and healed.

Each part goes on where it was stopped; `RUN/eval/robustness-<set>.json` is written last. `robust_report.py` says what the numbers are.

Not promised: that a slip of the pen leaves a task solvable for a person in every case; that bits after a prompt longer than the context
see what was perturbed (`num_prompts_cut` counts those).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field, model_validator

from eval.code import CodeSettings, named
from eval.envelope import Dataset, envelope, write_result
from eval.judging import JudgeSettings
from eval.line_items import of_corpus
from eval.lines import ways
from eval.opened import Opened, open_run
from eval.perturb.base import FAMILIES, Perturbation
from eval.perturb.registry import PERTURBATIONS, chosen
from eval.problems import ProblemSet
from eval.robust_costs import costs, pairs_of_files, pairs_of_problems
from eval.robust_programs import judge, make_programs
from eval.robust_report import of_files, of_problems
from eval.samples import eval_folder, work_folder
from eval.variants import FileVariant, Suite, file_variants
from proxy_lm.config import Settings
from proxy_lm.errors import RequestError

SCHEMA: Final = "proxy-lm robustness 1"
AMOUNTS: Final = (
    "num_tasks",
    "dataset.num_items",
    "settings.num_seeds",
    "settings.num_files",
    "settings.generate",
    "settings.code.num_samples",
)
_LEAST_CONTEXT = 32


class RobustnessSettings(Settings):
    """What is asked; the same for every arm of a comparison."""

    perturbations: tuple[str, ...] = ()
    """Perturbations or families by name; none means all."""
    num_seeds: int = Field(default=3, ge=1)
    """Perturbed prompts of a task for each perturbation that draws lots."""
    seed: int = Field(default=0, ge=0)
    """The first of these seeds."""
    k: int = Field(default=1, ge=1)
    """Of robust pass@k; at most the number of samples."""
    generate: bool = True
    """Make programs and judge them; False: bits per byte only."""
    code: CodeSettings = CodeSettings()
    """How programs are made."""
    judge: JudgeSettings = JudgeSettings()
    """How they are judged."""
    reference_bytes: int | None = Field(default=None, ge=4)
    """The reference text is charged up to so many bytes; None: a quarter of the context."""
    split: str = "test"
    """Split of the run's corpus from which held-out files are taken."""
    num_files: int = Field(default=100, ge=0)
    """Python files whose heads are perturbed; 0: none."""
    context_bytes: int | None = Field(default=None, ge=_LEAST_CONTEXT)
    """No byte is charged after more bytes than this, the two ids that open a document counted as two; None: 1024, or the row length of the
    run if that is less."""
    view: str | None = None
    """Reading: 'raw' or a view of the run. None: raw if the run was told any raw bytes, else its only view."""
    device: str = "auto"
    """'cpu', 'cuda', or 'auto'."""
    num_rows: int = Field(default=16, ge=1)
    """Completions generated at a time; changes speed and memory, not the bytes."""

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if self.generate and self.k > self.code.num_samples:
            raise ValueError(f"robust pass@{self.k} needs {self.k} samples of a prompt and there are {self.code.num_samples}; make more")
        return self


def evaluate(
    run: Path, suite: Suite, settings: RobustnessSettings, *, corpus: Path | None = None, tier: str = "auto", num_slots: int | None = None
) -> dict[str, Any]:
    """Measure a run, continuing what an earlier call left; the result is also RUN/eval/robustness-<set>.json.

    Raises `RequestError` for what is not a run or cannot be asked so, `WorkError` where the sandbox itself fails.
    """
    started = time.monotonic()
    opened = open_run(run, view=settings.view, device=settings.device, context_bytes=settings.context_bytes, num_rows=settings.num_rows)
    settings = _resolved(opened, settings, suite)
    folder = eval_folder(run) / f"robustness-{suite.name}-verdicts"
    judged = None
    if settings.generate:
        made = make_programs(opened, suite, settings.code)
        judged = judge(made, suite, folder, settings.judge, tier=tier, num_slots=num_slots)
    kept = [variant for variant in suite.variants if judged is None or variant.key not in judged.broken]
    assert settings.context_bytes is not None
    assert settings.reference_bytes is not None
    sizes = {"context_bytes": settings.context_bytes, "reference_bytes": settings.reference_bytes}
    problem_costs = costs(opened, suite.name, pairs_of_problems(suite, kept, **sizes), "bits of reference solutions")
    files, about_files = _files(opened, settings, corpus)
    file_costs = costs(opened, settings.split, pairs_of_files(files, **sizes), "bits of held-out files")
    found = {
        "source": suite.source,
        "num_tasks": len(suite.tasks),
        "num_problems_left_out": suite.num_left_out,
        "prompts": {
            way: of_problems(kept, None if judged is None else judged.right[way], problem_costs[way], k=settings.k) for way in ways(opened)
        },
        "files": {**about_files, **{way: of_files(file_costs[way]) for way in ways(opened)}} if settings.num_files else None,
        "verdicts": None if judged is None else dict(judged.verdicts),
        "reference_programs": None if judged is None else dict(judged.proof),
        "sandbox_tier": None if judged is None else judged.tier,
        "interval_means": "95 %; tasks (for files: projects) drawn again, not seeds",
    }
    dataset = Dataset(name=suite.name, digest=suite.digest, num_items=len(suite.asked()))
    result = envelope(SCHEMA, "robustness", opened.identity, dataset, settings, time.monotonic() - started, found, libraries=["libcst"])
    asked = {"schema": SCHEMA, "run": opened.identity, "suite": suite.digest, "settings": settings.model_dump(mode="json")}
    aside = work_folder(run, "robustness", suite.name, asked)
    return result | {"written": write_result(run, "robustness", suite.name, result, aside, AMOUNTS)}


def _files(opened: Opened, settings: RobustnessSettings, corpus: Path | None) -> tuple[list[FileVariant], dict[str, Any]]:
    """The heads of held-out files under perturbation, and what a result says of them. Always our own perturbations."""
    if not settings.num_files:
        return [], {}
    assert settings.context_bytes is not None
    assert settings.reference_bytes is not None
    documents = of_corpus(opened.corpus(corpus), settings.split)
    python = [index for index in range(len(documents)) if documents.languages[index] in ("Python", "python")]
    room = settings.context_bytes - settings.reference_bytes - 2
    variants: list[FileVariant] = []
    taken: set[int] = set()
    num_read = 0
    for index in python:
        if len(taken) == settings.num_files:
            break
        num_read += 1
        some = file_variants(
            [(index, str(documents.projects[index]), documents.read(index))],
            own_of(settings.perturbations),
            num_seeds=settings.num_seeds,
            seed=settings.seed,
            head_bytes=_head_bytes(room),
            rest_bytes=settings.reference_bytes,
        )
        found = list(some)
        variants += found
        taken |= {variant.file for variant in found}
    if not variants:
        raise RequestError(
            f"none of the {len(python)} Python files of {documents.name} has statements to perturb within {_head_bytes(room)} bytes; "
            "say --files 0 to leave files out, or choose another --split"
        )
    return variants, {"documents": documents.name, "digest": documents.digest, "num_files": len(taken), "num_read": num_read}


def _head_bytes(room: int) -> int:
    """A perturbation may make a head longer by a third before it is cut."""
    return room * 3 // 4


def own_of(names: Sequence[str]) -> tuple[Perturbation, ...]:
    """Our perturbations among `names`, which may be ReCode's; all of them where none is ours."""
    ours = {item.name for item in PERTURBATIONS} | set(FAMILIES)
    return chosen([name for name in names if name in ours])


def _resolved(opened: Opened, settings: RobustnessSettings, suite: Suite) -> RobustnessSettings:
    """With the numbers and names that are computed where they are not given."""
    context = opened.context_bytes
    if opened.view == "raw" and context > opened.row_length:
        raise RequestError(
            f"a context of {context} bytes is longer than the rows of {opened.row_length} ids this model was trained on; "
            f"use --context-bytes {opened.row_length} or less, the same for every arm"
        )
    reference = settings.reference_bytes or context // 4
    if not context >= _LEAST_CONTEXT or reference > context // 2:
        raise RequestError(
            f"a reference of {reference} bytes leaves no prompt in a context of {context} bytes; give at most half of a context that is "
            f"at least {_LEAST_CONTEXT}"
        )
    first = ProblemSet(name=suite.name, digest=suite.digest, problems=tuple(suite.nominals.values()))
    code = named(settings.code, first) if settings.generate else settings.code
    return settings.model_copy(update={"context_bytes": context, "reference_bytes": reference, "view": opened.view, "code": code})
