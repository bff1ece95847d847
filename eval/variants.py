"""Problems and held-out files under perturbation: which prompts are asked, and what each is compared with.

    suite = own_suite(load_problems("graded"), chosen([]), num_seeds=3, seed=0)
    suite.nominals["Graded/7@nominal"]        # the problem as published; "@partial": with the first half of its solution in the prompt
    suite.variants[0].problem                 # a perturbed problem; None where the perturbation changes nothing

A problem of MBPP gets the form of HumanEval first: the first lines of its gold solution down to the `def`, the words of the task and one
example as a docstring, and the rest of the gold solution as the reference. A variant whose program has the same syntax tree as its nominal
(docstrings left out, the function's name put back) computes the same; the others have to prove it by running (`needs_proof`).
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from compressors.files import canonical_json, digest_of, sha256_file
from eval.perturb.base import Family, Perturbation, Snippet, perturb, tree_of
from eval.perturb.cut import head, partial
from eval.problems import Problem, ProblemSet
from proxy_lm.errors import RequestError

NOMINAL, PARTIAL = "nominal", "partial"


@dataclass(frozen=True)
class Variant:
    """One perturbed prompt of one task. `nominal` is the key of what it is compared with."""

    task: str
    perturbation: str
    family: Family
    seed: int
    nominal: str
    problem: Problem | None
    """Its `task_id` is `key`. None: the perturbation changes nothing here, so the answer is that of the nominal."""

    @property
    def key(self) -> str:
        """Names its samples."""
        return f"{self.task}@{self.perturbation}.{self.seed}"


@dataclass(frozen=True)
class Suite:
    """Everything that is asked. `nominals` by key, each with its key as `task_id`."""

    name: str
    digest: str
    """Of all that is asked."""
    origin: str
    """Of what the prompts are made from, whole: a suite of fewer tasks or seeds has the same prompts under the same keys."""
    source: str
    """`own` or `recode`."""
    nominals: Mapping[str, Problem]
    variants: tuple[Variant, ...]
    num_left_out: int = 0
    """Problems that have no form to complete."""

    @property
    def tasks(self) -> list[str]:
        """Ids of the tasks, in order."""
        return list(dict.fromkeys(variant.task for variant in self.variants))

    @property
    def changed(self) -> list[Variant]:
        """Those with a prompt of their own."""
        return [variant for variant in self.variants if variant.problem is not None]

    def asked(self) -> list[Problem]:
        """All problems that are asked, nominals first; a nominal that no variant is compared with is not."""
        used = {variant.nominal for variant in self.variants} | {key for key in self.nominals if key.endswith(f"@{NOMINAL}")}
        found = [problem for key, problem in self.nominals.items() if key in used]
        return found + [variant.problem for variant in self.variants if variant.problem is not None]


def suite_of(
    name: str,
    source: str,
    nominals: Mapping[str, Problem],
    variants: Sequence[Variant],
    *,
    origin: str | None = None,
    num_left_out: int = 0,
) -> Suite:
    """With the digest of all that is asked, which is the origin too where none is given. Raises `RequestError` where nothing is asked."""
    if not any(variant.problem is not None for variant in variants):
        raise RequestError(f"no perturbation applies to any of the {len(nominals)} problems of {name}; choose others")
    told = hashlib.sha256()  # one by one: a whole release is a large JSON
    for described in itertools.chain(map(asdict, nominals.values()), map(asdict, variants)):
        told.update(canonical_json(described) + b"\n")
    digest = told.hexdigest()
    return Suite(name, digest, origin or digest, source, dict(nominals), tuple(variants), num_left_out)


def generators_digest() -> str:
    """Of the source of our perturbations: another source may make other prompts under the same keys."""
    files = [*sorted((Path(__file__).parent / "perturb").glob("*.py")), Path(__file__)]
    return digest_of([[path.name, sha256_file(path)] for path in files])


def own_suite(problems: ProblemSet, perturbations: Sequence[Perturbation], *, num_seeds: int, seed: int) -> Suite:
    """Perturb every problem by our own generators, each random one with `num_seeds` seeds from `seed` on."""
    nominals: dict[str, Problem] = {}
    variants: list[Variant] = []
    num_left_out = 0
    for published in problems:
        problem = completion_form(published)
        if problem is None:
            num_left_out += 1
            continue
        task = problem.task_id
        full = _snippet(problem)
        half = partial(full)
        nominals[f"{task}@{NOMINAL}"] = replace(problem, task_id=f"{task}@{NOMINAL}")
        if half is not None:
            nominals[f"{task}@{PARTIAL}"] = _problem(problem, half, f"{task}@{PARTIAL}")
        for item in perturbations:
            snippet, compared = (half, PARTIAL) if item.partial and half is not None else (full, NOMINAL)
            for number in range(seed, seed + num_seeds) if item.random else (seed,):
                changed = perturb(item, snippet, seed=number, task=task)
                variant = Variant(task, item.name, item.family, number, f"{task}@{compared}", None)
                if changed is not None:
                    variant = replace(variant, problem=_problem(problem, changed, variant.key))
                variants.append(variant)
    if not nominals:
        raise RequestError(
            f"none of the {len(problems)} problems of {problems.name} is one to complete; robustness is asked on HumanEval's or MBPP's form"
        )
    origin = digest_of([problems.digest, generators_digest()])
    return suite_of(problems.name, "own", nominals, variants, origin=origin, num_left_out=num_left_out)


def _snippet(problem: Problem) -> Snippet:
    return Snippet(prompt=problem.prompt, rest=problem.canonical_solution, entry_point=problem.entry_point, tests=problem.test)


def _problem(problem: Problem, snippet: Snippet, key: str) -> Problem:
    assert snippet.entry_point is not None
    return replace(
        problem,
        task_id=key,
        prompt=snippet.prompt,
        canonical_solution=snippet.rest,
        entry_point=snippet.entry_point,
        test=snippet.tests,
    )


def completion_form(problem: Problem) -> Problem | None:
    """The problem as a prompt to complete, in HumanEval's form; None for infilling and for gold solutions without such a function."""
    if problem.style == "humaneval":
        return problem if problem.canonical_solution else None
    if problem.style != "mbpp":
        return None
    code = problem.canonical_solution.replace("\r\n", "\n").replace("\r", "\n")
    tree = tree_of(code)
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == problem.entry_point] if tree else []
    if not found or found[-1].body[0].lineno <= found[-1].lineno:
        return None
    lines = code.split("\n")
    first = found[-1].body[0]
    # A body begins where its first statement does, or the first decorator of that.
    at = min([first.lineno, *(item.lineno for item in getattr(first, "decorator_list", []))]) - 1
    indentation = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    words = "\n".join([problem.prompt.strip(), *(f">>> {example}" for example in problem.examples[:1])]).replace('"""', "'''")
    docstring = textwrap.indent(f'"""{words}\n"""\n', indentation)
    prompt = "\n".join(lines[:at]) + "\n" + docstring
    solution = "\n".join(lines[at:])
    form = replace(problem, style="humaneval", prompt=prompt, canonical_solution=solution.rstrip("\n") + "\n", examples=())
    return form if tree_of(form.prompt + form.canonical_solution) else None


def needs_proof(nominal: Problem, variant: Problem) -> bool:
    """Whether the perturbed reference solution or its tests are other programs than the nominal ones, so that only running them tells what
    they do. Programs that do not compile are others."""
    before, after = _trees(nominal, nominal.entry_point), _trees(variant, nominal.entry_point)
    return before is None or before != after


@lru_cache(maxsize=1024)
def _trees(problem: Problem, name: str) -> tuple[str, str] | None:
    tree, tests = tree_of(problem.prompt + problem.canonical_solution), tree_of(problem.test)
    if tree is None or tests is None:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    # The new name of a function is a word that was nowhere before, so putting the old one back is exact.
    own, former = repr(problem.entry_point), repr(name)
    told = ast.dump(tree), ast.dump(tests)
    if own != former and any(former in text for text in told):
        return None  # the old name is still somewhere: as a word, or as a call that was missed
    return told[0].replace(own, former), told[1].replace(own, former)


@dataclass(frozen=True)
class FileVariant:
    """The head of a held-out file, as it is and perturbed; `rest` is what follows both."""

    file: int
    project: str
    perturbation: str
    family: Family
    seed: int
    nominal: bytes
    prompt: bytes
    rest: bytes

    @property
    def key(self) -> str:
        """Names its costs."""
        return f"file-{self.file}@{self.perturbation}.{self.seed}"


def file_variants(
    files: Sequence[tuple[int, str, bytes]],
    perturbations: Sequence[Perturbation],
    *,
    num_seeds: int,
    seed: int,
    head_bytes: int,
    rest_bytes: int,
) -> Iterator[FileVariant]:
    """Variants of each (index, project, data) that is Python text with a head to perturb (`eval.perturb.cut.head`)."""
    for index, project, data in files:
        try:
            snippet = head(data.decode(), head_bytes=head_bytes, rest_bytes=rest_bytes)
        except UnicodeDecodeError:
            continue
        if snippet is None:
            continue
        for item in perturbations:
            for number in range(seed, seed + num_seeds) if item.random else (seed,):
                changed = perturb(item, snippet, seed=number, task=f"file-{index}")
                if changed is not None:
                    before, after = snippet.prompt.encode(), changed.prompt.encode()
                    yield FileVariant(index, project, item.name, item.family, number, before, after, snippet.rest.encode())
