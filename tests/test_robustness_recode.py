"""Promise: the files of ReCode's release are read as they are: both halves, nominal and partial prompts, seeds that are missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.recode import MARKER, family_of, recode_suite
from proxy_lm.errors import RequestError

PROMPT = 'def near(a, b):\n    """ Say whether a and b are near. """\n'
FIRST, SECOND = "    gap = abs(a - b)\n", "    return gap < 2\n"
TEST = "def check(candidate):\n    assert candidate(1, 2) == True\n    assert candidate(1, 4) == False\n"
PARTIAL = f"{PROMPT}{FIRST}    {MARKER}\n{SECOND}"


def row(half: str, number: int, prompt: str = PROMPT, solution: str = FIRST + SECOND, name: str = "near", **more: object) -> dict:
    task = f"{'HumanEval' if half == 'humaneval' else 'MBPP'}/{number}"
    return {"task_id": task, "prompt": prompt, "entry_point": name, "canonical_solution": solution, "test": TEST, **more}


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Two tasks of each half; the second task was not halved by the release."""
    top = tmp_path / "dataset-release"
    for half, nominal in (("humaneval", "HumanEval.jsonl"), ("mbpp", "mbpp_wtest.jsonl")):
        write(top / "nominal" / nominal, [row(half, 0), row(half, 1)])
        folder = top / "perturbed_finalized" / half / "full"
        renamed = [row(half, n, PROMPT.replace("near", "Near", 1), name="Near") for n in (0, 1)]
        for seed in (1, 2, 7):  # the release has no seed 0 of some
            write(folder / "func_name" / f"{half}_FuncRenameSwapChar_s{seed}.jsonl", renamed)
        slip = [row(half, 0, PROMPT.replace("Say", "Sya")), row(half, 1)]
        write(folder / "nlaugmenter" / f"{half}_SwapCharactersPerturbation_s0.jsonl", slip)
        tabs = (PROMPT + FIRST).replace("    ", "\t")
        write(
            folder / "format" / f"{half}_tab_indent_s0.jsonl",
            [row(half, 0, tabs, SECOND, partial=PARTIAL), row(half, 1, PROMPT.replace("    ", "\t"), partial=None)],
        )
        dead = PROMPT + "    if False:\n        gap = 0\n" + FIRST + "   \n"
        write(
            folder / "natgen" / f"{half}_DeadCodeInserter_s0.jsonl",
            [row(half, 0, dead, f"{MARKER}\n{SECOND}", partial=PARTIAL), row(half, 1, partial=None)],
        )
    return top


def suite(release: Path, half: str | None = "humaneval", names: tuple[str, ...] = (), **more: object):
    return recode_suite(release, half=half, perturbations=names, num_seeds=more.pop("num_seeds", 5), nominal=None, **more)


@pytest.mark.parametrize("half", ["humaneval", "mbpp"])
def test_a_half_is_read_with_its_nominals(release, half):
    found = suite(release, half)
    task = "HumanEval/0" if half == "humaneval" else "MBPP/0"
    assert (found.name, found.source, len(found.tasks)) == (f"recode-{half}", "recode", 2)
    assert found.nominals[f"{task}@nominal"].prompt == PROMPT
    halved = found.nominals[f"{task}@partial"]
    assert (halved.prompt, halved.canonical_solution) == (PROMPT + FIRST, SECOND)
    assert f"{task[:-1]}1@partial" not in found.nominals
    by_key = {variant.key: variant for variant in found.variants}
    assert {name: by_key[f"{task}@{name}"].nominal.rpartition("@")[2] for name in ("tab_indent.0", "FuncRenameSwapChar.1")} == {
        "tab_indent.0": "partial",
        "FuncRenameSwapChar.1": "nominal",
    }
    assert by_key[f"{task[:-1]}1@tab_indent.0"].nominal.endswith("1@nominal")  # not halved: compared with the whole prompt
    assert by_key[f"{task[:-1]}1@SwapCharactersPerturbation.0"].problem is None  # unchanged
    renamed = by_key[f"{task}@FuncRenameSwapChar.7"].problem
    assert renamed is not None
    assert (renamed.entry_point, renamed.test.rstrip().splitlines()[-1]) == ("Near", "check(Near)")
    dead = by_key[f"{task}@DeadCodeInserter.0"].problem
    assert dead is not None
    assert dead.canonical_solution == SECOND  # without the marker
    assert dead.prompt.endswith(FIRST + "   \n")  # and the prompt as it was released
    assert {variant.family for variant in found.variants} == {"docstring", "function_name", "format", "syntax"}


def test_seeds_and_perturbations_are_chosen(release):
    found = suite(release, names=("function_name",), num_seeds=2)
    assert sorted({variant.seed for variant in found.variants}) == [1, 2]
    found = suite(release, names=("tab_indent",), limit=1)
    assert [variant.key for variant in found.variants] == ["HumanEval/0@tab_indent.0"]
    with pytest.raises(RequestError, match=r"the files hold no perturbation 'tabs'.*tab_indent"):
        suite(release, names=("tabs",))


def test_partial_files_and_the_formatted_nominal_come_first(release):
    write(release / "nominal" / "humaneval_partial.jsonl", [row("humaneval", 0, PROMPT + FIRST + "    # own\n", SECOND)])
    assert suite(release).nominals["HumanEval/0@partial"].prompt.endswith("# own\n")
    black = release / "perturbed_finalized/humaneval/full/natgen/humaneval_Black_s0.jsonl"
    write(black, [row("humaneval", n, PROMPT.replace('""" Say', '"""Say'), partial=None) for n in (0, 1)])
    found = suite(release)
    assert {variant.nominal for variant in found.variants if variant.family == "syntax"} == {"HumanEval/0@Black", "HumanEval/1@Black"}
    assert "Black" not in {variant.perturbation for variant in found.variants}


def test_the_copy_on_the_hub_is_a_table(release, tmp_path):
    rows = [
        row("humaneval", n, PROMPT.replace("Say", f"Say{seed}"), seed=seed, perturbation_name="SynonymInsertion", partial=None)
        for seed in (0, 1)
        for n in (0, 1)
    ]
    write(release / "nlaugmenter.jsonl", rows)
    found = recode_suite(
        release / "nlaugmenter.jsonl", half=None, perturbations=(), num_seeds=1, nominal=str(release / "nominal" / "HumanEval.jsonl")
    )
    assert [variant.key for variant in found.variants] == ["HumanEval/0@SynonymInsertion.0", "HumanEval/1@SynonymInsertion.0"]
    write(tmp_path / "other.jsonl", [row("humaneval", 0)])
    with pytest.raises(RequestError, match="perturbation_name"):
        recode_suite(tmp_path / "other.jsonl", half=None, perturbations=(), num_seeds=1, nominal=None)


def test_what_is_missing_is_named(release, tmp_path):
    with pytest.raises(RequestError, match="both halves; choose one with --half humaneval or --half mbpp"):
        suite(release, None)
    with pytest.raises(RequestError, match="has no file of ReCode"):
        suite(tmp_path / "nowhere")
    (release / "nominal" / "HumanEval.jsonl").unlink()
    with pytest.raises(RequestError, match=r"HumanEval\.jsonl.*--problems"):
        suite(release)
    write(release / "nominal" / "HumanEval.jsonl", [row("humaneval", n) for n in (0, 1, 2)])
    with pytest.raises(RequestError, match=r"no row of 1 tasks \(HumanEval/2"):
        suite(release)


def test_families_by_name():
    names = ("BackTranslation", "FuncRenameCamelCase", "VarRenamerRN", "new_lines", "ForWhileTransformerFirst")
    assert [family_of(name, "") for name in names] == ["docstring", "function_name", "syntax", "format", "syntax"]
    assert family_of("Anything", "natgen") == "syntax"
