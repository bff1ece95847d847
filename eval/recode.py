"""ReCode's released files, read as they are: both halves (HumanEval, MBPP), nominal and partial prompts.

    suite = recode_suite(Path("dataset-release"), half="mbpp", perturbations=[], num_seeds=5, nominal=None)

Read are all files under the folder called `<half>_<Perturbation>_s<seed>.jsonl` (or `.jsonl.gz`), wherever they stand: the release has them
in perturbed_finalized/<half>/full/<family>/. One file with columns `perturbation_name` and `seed` (the copy on the hub, as .jsonl or
.parquet) is read too. Families: `format`, `func_name` (our function_name), `natgen` (syntax), `nlaugmenter` (docstring).

Nominal prompts of docstrings and function names are the published problems: HumanEval.jsonl or mbpp_wtest.jsonl under the folder, or
the file given. Those of format and syntax hold half the solution: `<half>_partial.jsonl` where it is there, else the release's own field
`partial` of each row, cut at its marker line. ReCode itself compares syntax with a copy that a formatter went over ("Black"); that copy is
the nominal where it is among the files.

The release is taken as it is: where a perturbed file leaves the solution indented by spaces below a prompt of tabs, the solution fails, and
the result says how many do.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from eval.perturb.base import FAMILIES, Family
from eval.problem_files import problem_of, read_rows
from eval.problems import Problem, ProblemSet, load_problems
from eval.variants import NOMINAL, PARTIAL, Suite, Variant, suite_of
from proxy_lm.errors import RequestError
from proxy_lm.progress import note

Half = Literal["humaneval", "mbpp"]
HALVES: tuple[Half, ...] = ("humaneval", "mbpp")
FOLDERS: dict[str, Family] = {"nlaugmenter": "docstring", "func_name": "function_name", "natgen": "syntax", "format": "format"}
NOMINAL_FILES = {"humaneval": ("HumanEval.jsonl", "HumanEval.jsonl.gz", "humaneval.jsonl"), "mbpp": ("mbpp_wtest.jsonl",)}
MARKER = "# print('@@this is the line to split##')"
FORMATTED = ("Black", "NoTransformation")  # nominals of the syntax family, not perturbations

_FIELDS = ("task_id", "prompt", "canonical_solution", "entry_point", "test")
_FILE = re.compile(r"(humaneval|mbpp)_(\w+)_s(\d+)\.jsonl(\.gz)?")
_FORMAT_NAMES = frozenset(
    ("tab_indent", "split_lines", "doc2comments", "new_lines", "new_line_aftercode", "new_line_afterdoc", "indent_new_line_aftercode")
)
_SYNTAX_NAMES = re.compile(r"ForWhile|DeadCode|OperandSwap|VarRenamer|BlockSwap|Black|NoTransformation")

Rows = dict[tuple[str, int], list[Mapping[str, Any]]]
"""Rows by (perturbation, seed)."""


def recode_suite(
    source: Path, *, half: Half | None, perturbations: Sequence[str], num_seeds: int, nominal: str | None, tasks: Sequence[str] = (),
    limit: int | None = None,
) -> Suite:  # fmt: skip
    """Everything that is asked of one half. `perturbations` are names of the release or families; none means all. `num_seeds`: the first so
    many seeds that a perturbation has. Raises `RequestError` where files are missing or do not fit each other."""
    rows, families, half = _read(source, half, perturbations, num_seeds)
    published = _published(source, half, nominal).take(limit=limit, tasks=tasks)
    nominals = {f"{p.task_id}@{NOMINAL}": replace(p, task_id=f"{p.task_id}@{NOMINAL}") for p in published}
    wanted = {problem.task_id: problem for problem in published}
    halves = _partials(source, half, rows, wanted)
    nominals |= {f"{task}@{PARTIAL}": replace(problem, task_id=f"{task}@{PARTIAL}") for task, problem in halves.items()}
    formatted = next((name for name in FORMATTED for key in rows if key[0] == name), None)
    if formatted is not None:
        key = min(key for key in rows if key[0] == formatted)
        found = _problems(rows[key], wanted)
        nominals |= {f"{task}@{formatted}": replace(problem, task_id=f"{task}@{formatted}") for task, problem in found.items()}
    variants = []
    for (name, seed), some in sorted(rows.items()):
        if name in FORMATTED:
            continue
        found = _problems(some, wanted)
        missing = [task for task in wanted if task not in found]
        if missing:
            raise RequestError(f"{name}, seed {seed} of {source} has no row of {len(missing)} tasks ({missing[0]}, ...); get it anew")
        for task in wanted:
            compared = _compared(families[name], task, nominals, formatted)
            variant = Variant(task, name, families[name], seed, compared, None)
            if found[task].prompt != nominals[compared].prompt:
                variant = replace(variant, problem=replace(found[task], task_id=variant.key))
            variants.append(variant)
    return suite_of(f"recode-{half}", "recode", nominals, variants)


def _compared(family: Family, task: str, nominals: Mapping[str, Problem], formatted: str | None) -> str:
    if family == "syntax" and formatted is not None and f"{task}@{formatted}" in nominals:
        return f"{task}@{formatted}"
    halved = family in ("syntax", "format") and f"{task}@{PARTIAL}" in nominals
    return f"{task}@{PARTIAL if halved else NOMINAL}"


def _read(source: Path, half: Half | None, names: Sequence[str], num_seeds: int) -> tuple[Rows, dict[str, Family], Half]:
    """Rows of the perturbations wanted, the family of each, and which half it is."""
    if source.is_file():
        return _from_table(source, half, names, num_seeds)
    files: dict[tuple[str, str], dict[int, Path]] = defaultdict(dict)
    for path in sorted(source.rglob("*_s*.jsonl*")) if source.is_dir() else ():
        match = _FILE.fullmatch(path.name)
        if match:
            files[match.group(1), match.group(2)].setdefault(int(match.group(3)), path)
    known = sorted({name for name, _ in files})
    if not known:
        raise RequestError(
            f"{source} has no file of ReCode; give the folder of its release that holds files like humaneval_tab_indent_s0.jsonl"
        )
    if half is None and len(known) > 1:
        raise RequestError(f"{source} has both halves; choose one with --half {' or --half '.join(known)}")
    chosen: Half = half or ("mbpp" if known == ["mbpp"] else "humaneval")
    if chosen not in known:
        raise RequestError(f"{source} has no files of {chosen}; it has {', '.join(known)}")
    families = {name: family_of(name, next(iter(paths.values())).parent.name) for (at, name), paths in files.items() if at == chosen}
    wanted = _wanted(families, names)
    rows: Rows = {}
    for name in wanted:
        seeds = sorted(files[chosen, name])[:num_seeds]
        rows |= {(name, seed): list(read_rows(files[chosen, name][seed])) for seed in seeds}
    return rows, families, chosen


def _from_table(source: Path, half: Half | None, names: Sequence[str], num_seeds: int) -> tuple[Rows, dict[str, Family], Half]:
    found: Rows = defaultdict(list)
    for number, row in enumerate(read_rows(source), start=1):
        name = row.get("perturbation_name", row.get("transformation_name"))
        if not isinstance(name, str) or not isinstance(row.get("seed"), int):
            raise RequestError(
                f"row {number} of {source} has no 'perturbation_name' and 'seed'; give ReCode's folder, or its copy on the hub"
            )
        found[name, int(row["seed"])].append(row)
    families = {name: family_of(name, source.stem) for name, _ in found}
    wanted = _wanted(families, names)
    seeds = {name: sorted(seed for other, seed in found if other == name)[:num_seeds] for name in wanted}
    first = next(iter(found.values()))[0]
    told: Half = "mbpp" if str(first.get("task_id")).lower().startswith("mbpp") else "humaneval"
    if half not in (None, told):
        raise RequestError(f"{source} is of {told}; leave --half out")
    return {(name, seed): found[name, seed] for name in wanted for seed in seeds[name]}, families, told


def family_of(name: str, folder: str) -> Family:
    """The family of a perturbation, by its folder where that tells it, else by its name."""
    if folder in FOLDERS:
        return FOLDERS[folder]
    if name.startswith("FuncRename"):
        return "function_name"
    if name in _FORMAT_NAMES:
        return "format"
    return "syntax" if _SYNTAX_NAMES.match(name) else "docstring"


def _wanted(families: Mapping[str, Family], names: Sequence[str]) -> list[str]:
    unknown = [name for name in names if name not in families and name not in FAMILIES]
    if unknown:
        raise RequestError(
            f"the files hold no perturbation '{unknown[0]}'; families: {', '.join(FAMILIES)}; there are {', '.join(families)}"
        )
    wanted = sorted(name for name, family in families.items() if not names or name in names or family in names)
    if not wanted:
        raise RequestError(f"the files hold no perturbation of {', '.join(names)}; there are {', '.join(families)}")
    return wanted


def _published(source: Path, half: Half, nominal: str | None) -> ProblemSet:
    """The problems as they were before perturbing."""
    if nominal is not None:
        return load_problems(nominal)
    folders = [source, *source.parents[:3]] if source.is_dir() else list(source.resolve().parents[:2])
    for folder in folders:
        for name in NOMINAL_FILES[half]:
            path = next((path for path in (folder / name, folder / "nominal" / name) if path.is_file()), None)
            if path is not None:
                return load_problems(path)
    raise RequestError(
        f"{source} has no {' or '.join(NOMINAL_FILES[half])} with the prompts before perturbing; name that file with --problems"
    )


def _partials(source: Path, half: Half, rows: Rows, wanted: Mapping[str, Problem]) -> dict[str, Problem]:
    """Problems with half the solution in the prompt, by task; tasks that the release did not halve are not in it."""
    folder = source if source.is_dir() else source.resolve().parent
    for place in (folder, *folder.parents[:3]):
        path = next((p for p in (place / f"{half}_partial.jsonl", place / "nominal" / f"{half}_partial.jsonl") if p.is_file()), None)
        if path is not None:
            return _problems(list(read_rows(path)), wanted)
    found: dict[str, Problem] = {}
    for some in rows.values():
        for row in some:
            task, text = str(row["task_id"]), row.get("partial")
            if isinstance(text, str) and task in wanted and task not in found and MARKER in text:
                at = text.index(MARKER)
                before = text[: text.rfind("\n", 0, at) + 1]
                behind = text[at + len(MARKER) :].removeprefix("\n")
                found[task] = replace(wanted[task], prompt=before, canonical_solution=behind)
    halved = {name for name, _ in rows if family_of(name, "") in ("syntax", "format")}
    if halved and not found:
        note(f"{source} has neither {half}_partial.jsonl nor the field 'partial': format and syntax are compared with the full prompts")
    return found


def _problems(rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, Problem]) -> dict[str, Problem]:
    """Perturbed problems by task. Tests and the helpers they use come from the row and the published problem."""
    found = {}
    for row in rows:
        task = str(row.get("task_id"))
        if task not in wanted:
            continue
        try:
            problem = problem_of(
                {key: row[key] for key in ("task_id", "prompt", "canonical_solution", "entry_point", "test") if key in row}
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RequestError(f"a row of {task} is not one of ReCode's: it has no {error}") from error
        solution = problem.canonical_solution.removeprefix(MARKER).removeprefix("\n") if MARKER in problem.canonical_solution else None
        found[task] = replace(
            problem, setup=wanted[task].setup, canonical_solution=problem.canonical_solution if solution is None else solution
        )
    return found
