"""Promise: `robustness` measures a run end to end, goes on where it was stopped, and says of every missing number why."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import compressors.registry as registry
from eval.cli import main
from eval.continuations import Continuations
from eval.judging import JudgeSettings
from eval.opened import open_run
from eval.perturb.registry import chosen
from eval.problems import load_problems
from eval.robust_costs import fit, pairs_of_problems
from eval.robust_programs import judge
from eval.robust_report import of_problems
from eval.robust_tables import notes, tables
from eval.variants import Suite, own_suite
from proxy_lm.data.corpus import Corpus, build_small

WORDS = (
    "--problems graded --tasks 20 21 22 --perturbations typos name_typo for_to_while tabs cut_after_indentation --seeds 2 --max-bytes 12"
)
NAMES = ("typos", "name_typo", "for_to_while", "tabs", "cut_after_indentation")


FILE = '''def add_all_{0}(xs):
    """Add up all the values."""
    n = {0}
    for x in xs:
        n += x
    return n


{1} = add_all_{0}([1, {0}])
print({1})
'''
FILLING = ("number", "result", "outcome", "answer", "amount", "figure", "quantity", "sum_of_it", "whole", "points")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    texts = [(FILE.format(index, word) * 3).encode() for index, word in enumerate(FILLING)]
    splits = {"train": texts[4:], "valid": texts[:1], "test": texts[1:4]}
    return build_small(tmp_path_factory.mktemp("robustness_corpus") / "corpus", splits)


@pytest.fixture(scope="module")
def root_of() -> Path:
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def raw_run(tmp_path_factory: pytest.TempPathFactory, saved_run: Callable[..., Path], corpus: Corpus) -> Path:
    return saved_run(tmp_path_factory.mktemp("robustness_runs") / "robustness_raw", corpus=corpus, row_length=256)


@pytest.fixture(scope="module")
def measured(raw_run: Path) -> tuple[dict, Path]:
    """Bits and programs of three problems and two files."""
    assert main(["robustness", str(raw_run), *WORDS.split(), "--files", "2", "--json"]) == 0
    path = raw_run / "eval" / "robustness-graded.json"
    return json.loads(path.read_text()), raw_run


def test_the_result_is_complete(measured):
    result, _ = measured
    assert (result["schema"], result["source"], result["num_tasks"]) == ("proxy-lm robustness 1", "own", 3)
    assert set(result["prompts"]) == {"plain"}
    found = result["prompts"]["plain"]
    assert set(found["perturbations"]) == set(NAMES)
    assert set(found["families"]) == {"docstring", "function_name", "syntax", "format"}
    for row in (found["all"], *found["families"].values(), *found["perturbations"].values()):
        assert row["pass"]["nominal"]["value"] == 0.0  # random weights
        assert row["pass"]["drop"]["reason"] == "nominal pass@1 is 0, so there is nothing to lose"
        for numbers in (row["bits"], row["bits"]["other_reference"]):
            assert (numbers["change"]["value"] is None) == (numbers["num_prompts"] == 0)
            assert numbers["change"]["value"] is not None or numbers["change"]["reason"]
    assert result["files"]["plain"]["all"]["num_prompts"] > 3
    assert result["reference_programs"]["failing"] == {}
    assert result["reference_programs"]["num_run"] > 0
    assert result["sandbox_tier"]
    assert sum(result["verdicts"]["plain"].values()) == result["dataset"]["num_items"]
    assert result["settings"]["code"]["policy"] == "verbatim"


def test_a_moved_cut_costs_a_byte_model_nothing(measured):
    result, _ = measured
    bits = result["prompts"]["plain"]["perturbations"]["cut_after_indentation"]["bits"]
    assert bits["change"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert bits["num_prompts"] == 3
    tabs = result["prompts"]["plain"]["perturbations"]["tabs"]["bits"]
    assert (tabs["num_prompts"], tabs["other_reference"]["num_prompts"]) == (0, 3)


def test_bits_equal_a_slow_twin(measured):
    """Each pair asked alone, summed by hand."""
    result, run = measured
    opened = open_run(run)
    suite = own_suite(load_problems("graded").take(tasks=["20", "21", "22"]), chosen(["typos"]), num_seeds=2, seed=0)
    sizes = {"context_bytes": result["settings"]["context_bytes"], "reference_bytes": result["settings"]["reference_bytes"]}
    asked = Continuations(opened)
    before = after = num_bytes = 0.0
    for variant in suite.changed:
        nominal = suite.nominals[variant.nominal]
        for problem in (nominal, variant.problem):
            prompt, rest = fit(problem.prompt.encode(), problem.canonical_solution.encode(), **sizes)
            assert len(prompt) + len(rest) + 2 <= sizes["context_bytes"]
            cost = asked.nats([(prompt, rest)])[0]
            if problem is nominal:
                before += cost
                num_bytes += len(rest)
            else:
                after += cost
    bits = result["prompts"]["plain"]["perturbations"]["typos"]["bits"]
    assert bits["nominal"] == pytest.approx(before / math.log(2) / num_bytes, rel=1e-5)
    assert bits["change"]["value"] == pytest.approx((after - before) / math.log(2) / num_bytes, abs=1e-5)


def test_what_is_there_is_not_made_again(measured, capsys):
    result, run = measured
    lines = {path: len(path.read_bytes().splitlines()) for path in run.glob("eval/robustness*/**/samples.jsonl")}
    assert len(lines) == 4  # programs, verdicts, bits of problems, bits of files
    capsys.readouterr()
    assert main(["robustness", str(run), *WORDS.split(), "--files", "2", "--json"]) == 0
    output = capsys.readouterr()
    again = json.loads(output.out)
    assert {key: again[key] for key in ("prompts", "files")} == {key: result[key] for key in ("prompts", "files")}
    assert lines == {path: len(path.read_bytes().splitlines()) for path in lines}
    assert "generating" not in output.err
    # More seeds go on in the same files.
    words = WORDS.replace("--seeds 2", "--seeds 3").split()
    assert main(["robustness", str(run), *words, "--files", "2", "--bits-only", "--json"]) == 0
    more = json.loads(capsys.readouterr().out)
    assert more["prompts"]["plain"]["all"]["pass_reason"] == "no programs were made: bits per byte only"
    grown = sum(len(path.read_bytes().splitlines()) for path in lines)
    assert grown > sum(lines.values())
    assert len(list(run.glob("eval/robustness-bits-*/samples.jsonl"))) == 2


def test_tables_are_shown_and_tasks_explained(measured, capsys):
    _, run = measured
    assert main(["robustness", str(run), *WORDS.split(), "--files", "2"]) == 0
    shown = capsys.readouterr().out
    assert "pass@1" in shown
    assert "cut_after_indentation" in shown
    assert "held-out files (2)" in shown
    assert "drop: the share of nominal that is lost" in shown
    assert "families and total without * leave these out" in shown
    assert "perturbed reference programs that were run: " in shown
    assert "; all pass" in shown
    assert main(["robustness", str(run), "--explain", "20", "--perturbations", "for_to_while", "exchanged_branches", "--seeds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "while True:" in shown
    assert "nothing to change for: exchanged_branches" in shown


def test_what_changes_no_task_has_no_score(measured):
    result = copy.deepcopy(measured[0])
    found = result["prompts"]["plain"]
    found["perturbations"]["tabs"]["num_changed_tasks"] = 0
    table = next(table for table in tables(result) if table.title.endswith("pass@1"))
    rows = {str(cells[0]).strip(): cells[1:] for cells in zip(*(column.cells for column in table.columns), strict=True)}
    assert rows["tabs"] == ("0", "-", "-", "-", "-")
    assert rows["for_to_while"] == ("2", "0.000", "0.000", "-", "0.000")


@pytest.mark.parametrize(("left_out", "became"), [(True, "2 fail and are left out"), (False, "2 fail and are asked all the same")])
def test_reference_programs_that_fail_are_told(measured, left_out, became):
    proof = {"num_run": 9, "failing": {"a": "x", "b": "y"}, "left_out": left_out}
    told = notes({**measured[0], "reference_programs": proof})
    assert told[-1] == f"perturbed reference programs that were run: 9; {became}"


def test_a_run_that_reads_symbols_is_asked_both_ways(tmp_path, saved_run, corpus, capsys):
    registry.save(registry.train("spm", [corpus.document(i) for i in range(4)], alphabet_size=420), tmp_path / "spm")
    size = registry.load(tmp_path / "spm").alphabet_size
    run = saved_run(
        tmp_path / "robustness_spm",
        views={"spm": (tmp_path / "spm", size)},
        corpus=corpus,
        row_length=256,
        mix={"rate": 1.0},
    )
    words = ["--tasks", "20", "--perturbations", "quotes", "cut_after_indentation", "--bits-only", "--files", "1", "--json"]
    assert main(["robustness", str(run), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["prompts"]) == {"plain", "healed"}
    plain, healed = (found["prompts"][way]["all"]["bits"] for way in ("plain", "healed"))
    assert plain["num_prompts"] == healed["num_prompts"] == 2
    assert plain["nominal"] != healed["nominal"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--perturbations typo", "unknown perturbation 'typo'"),
        ("--tier none", "invalid choice: 'none'"),
        ("--half mbpp", "give its folder with --recode"),
        ("--seeds 0", "at least 1"),
        ("--k 5", "needs 5 samples"),
        ("--reference-bytes 200", "leaves no prompt"),
        ("--context-bytes 4096", "--context-bytes 256 or less"),
        ("--recode nowhere", "has no file of ReCode"),
        ("--problems nowhere", "packaged: "),
    ],
)
def test_wrong_requests_are_answered_in_a_sentence(raw_run, capsys, words, sentence):
    assert main(["robustness", str(raw_run), "--limit", "1", *words.split()]) == 2
    assert sentence in capsys.readouterr().err


def graded(perturbations: list[str]) -> Suite:
    return own_suite(load_problems("graded").take(tasks=["20", "21", "22"]), chosen(perturbations), num_seeds=2, seed=0)


def test_gold_programs_are_robust_and_one_wrong_program_shows(tmp_path):
    suite = graded(["typos", "name_typo", "dead_code"])
    gold = {problem.task_id: [(problem.prompt + problem.canonical_solution).encode()] for problem in suite.asked()}
    wrong = {**gold, "Graded/21@typos.1": [b"def anything():\n    return None\n"]}
    assert set(wrong) == set(gold)
    judged = judge({"plain": gold, "wrong": wrong}, suite, tmp_path, JudgeSettings(), tier="auto", num_slots=2)
    assert judged.broken == {}
    assert judged.proof["num_same_tree"] > judged.proof["num_run"] > 0
    best = of_problems(suite.variants, judged.right["plain"], [], k=1)
    assert [row["pass"]["robust"]["value"] for row in (best["all"], *best["perturbations"].values())] == [1.0] * 4
    found = of_problems(suite.variants, judged.right["wrong"], [], k=1)
    assert found["all"]["pass"]["robust"]["value"] == pytest.approx(2 / 3)
    assert found["perturbations"]["typos"]["pass"]["drop"]["value"] == pytest.approx(1 / 3)
    assert found["perturbations"]["typos"]["pass"]["mean"]["value"] == pytest.approx(5 / 6)
    assert found["perturbations"]["name_typo"]["pass"]["drop"]["value"] == 0.0


def test_a_perturbation_that_breaks_its_program_is_found_out_and_left_out(tmp_path, capsys):
    suite = graded(["dead_code"])
    broken = suite.changed[0]
    assert broken.problem is not None
    sabotaged = replace(broken, problem=replace(broken.problem, canonical_solution="    return 'broken'\n"))
    variants = tuple(sabotaged if variant.key == broken.key else variant for variant in suite.variants)
    judged = judge({}, replace(suite, variants=variants), tmp_path, JudgeSettings(), tier="auto", num_slots=2)
    assert list(judged.broken) == [broken.key]
    assert "no longer pass and are left out" in capsys.readouterr().err
    released = judge({}, replace(suite, variants=variants, source="recode"), tmp_path, JudgeSettings(), tier="auto", num_slots=2)
    assert released.broken == {}
    assert list(released.proof["failing"]) == [broken.key]


def test_prompts_are_cut_at_the_start_of_a_line():
    prompt = b"first line\nsecond line\nthird\n"
    assert fit(prompt, b"0123456789", context_bytes=40, reference_bytes=4) == (prompt, b"0123")
    assert fit(prompt, b"0123456789", context_bytes=30, reference_bytes=10) == (b"second line\nthird\n", b"0123456789")
    assert fit(prompt, b"01", context_bytes=30, reference_bytes=10)[0] == b"second line\nthird\n"  # the room does not depend on the rest
    assert fit(b"x" * 50, b"01", context_bytes=16, reference_bytes=4)[0] == b"x" * 10


def test_a_context_that_holds_nothing_counts_the_prompts_that_were_cut():
    suite = graded(["typos"])
    pairs = pairs_of_problems(suite, suite.variants, context_bytes=100, reference_bytes=25)
    assert pairs
    assert all(pair.cut for pair in pairs)
    assert not any(pair.cut for pair in pairs_of_problems(suite, suite.variants, context_bytes=4096, reference_bytes=25))


def test_a_release_of_recode_is_measured(raw_run, tmp_path, capsys):
    """Our problems written as the release writes them: the very file names, a half that passes and one whose solution no longer fits."""
    rows = [
        {"task_id": f"HumanEval/{index}", "prompt": p.prompt, "entry_point": p.entry_point, "canonical_solution": p.canonical_solution}
        | {"test": p.test.replace(f"check({p.entry_point})", "")}
        for index, p in enumerate(load_problems("graded").take(limit=2))
    ]
    tabs = [{**row, "prompt": row["prompt"].replace("    ", "\t"), "partial": None} for row in rows]
    for name, some in (("nominal/HumanEval", rows), ("full/format/humaneval_tab_indent_s0", tabs)):
        path = tmp_path / "release" / f"{name}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
    words = ["robustness", str(raw_run), "--recode", str(tmp_path / "release"), "--files", "0", "--max-bytes", "4", "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["source"], result["dataset"]["name"], result["num_tasks"]) == ("recode", "recode-humaneval", 2)
    row = result["prompts"]["plain"]["perturbations"]["tab_indent"]
    assert (row["family"], row["num_changed_tasks"], row["bits"]["num_prompts"]) == ("format", 2, 2)
    proof = result["reference_programs"]  # tabs in the prompt, spaces in the solution
    assert (len(proof["failing"]), proof["left_out"]) == (2, False)
    assert (raw_run / "eval" / "robustness-recode-humaneval.json").is_file()


def test_a_missing_library_is_named_with_its_remedy(raw_run):
    code = "import sys; sys.modules['libcst'] = None; from eval.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "robustness", str(raw_run), "--explain", "20"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'proxy-lm[eval]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_imports_neither_torch_nor_numba(root_of):
    code = (
        "import sys\nfrom eval.cli import main\nmain(['robustness', '--help'])\nsys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
