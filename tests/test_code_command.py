"""`proxy-lm-eval code` as users run it: samples that continue, results with all that made them, refusals in a sentence."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from compressors import registry
from eval.cli import main
from eval.code import CodeSettings
from eval.code_runs import gold_bits
from eval.opened import open_run
from eval.problems import load_problems

FEW = ("--limit", "4", "--max-bytes", "24")


@pytest.fixture(scope="module")
def run(saved_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_run(tmp_path_factory.mktemp("code") / "code-bytes", init_std=0.4, row_length=128)


@pytest.fixture(scope="module")
def tokens(saved_run, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A model of SentencePiece symbols alone."""
    view = pytestconfig.rootpath / "tests" / "golden" / "views" / "spm"
    views = {"spm": (view, registry.load(view).alphabet_size)}
    return saved_run(tmp_path_factory.mktemp("code") / "code-tokens", views=views, init_std=0.4, mix={"rate": 1.0}, row_length=128)


def ask(capsys, *words: object, code: int = 0) -> dict:
    """The JSON object of a command; its error line where it ends with another code."""
    capsys.readouterr()
    assert main(["code", *map(str, words), "--json"]) == code
    shown = capsys.readouterr()
    return json.loads(shown.out) if code == 0 else {"error": shown.err.strip().splitlines()[-1]}


def samples_of(result: dict) -> list[dict]:
    return [json.loads(line) for line in Path(result["samples"][0]["path"]).read_text().splitlines()]


def test_generated_samples_are_what_evalplus_reads_and_continue(run, capsys):
    made = ask(capsys, "generate", run, *FEW, "--num-samples", 2, "--temperature", 1)
    lines = samples_of(made)
    assert [(line["task_id"], line["sample"]) for line in lines] == [(f"Graded/{i}", j) for i in range(4) for j in range(2)]
    for line in lines:
        prompt = load_problems("graded")[line["task_id"]].prompt
        assert line["solution"] == prompt + line["completion"]
        assert len(line["completion"].encode("utf-8", "replace")) <= 3 * 24
    assert made["settings"]["policy"] == "verbatim"
    assert made["settings"]["stop_rule"] == "function"
    # Cut short as by a kill in the middle of a line, it goes on to the same file.
    path = Path(made["samples"][0]["path"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert ask(capsys, "generate", run, *FEW, "--num-samples", 2, "--temperature", 1)["samples"] == made["samples"]
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
    # More problems and samples continue the same file, and a sample does not depend on what is made beside it.
    more = ask(capsys, "generate", run, "--limit", 5, "--max-bytes", 24, "--num-samples", 3, "--temperature", 1, "--rows", 3)
    assert more["samples"][0]["path"] == str(path)
    assert {line["key"]: line for line in samples_of(more)}.items() >= {line["key"]: line for line in lines}.items()
    assert len(samples_of(more)) == 15


def test_run_writes_what_judging_its_samples_says(run, capsys, tmp_path):
    result = ask(capsys, "run", run, *FEW)
    assert json.loads((run / "eval" / "code-graded.json").read_text()) == {
        k: v for k, v in result.items() if k not in ("action", "written")
    }
    assert result["dataset"] == {"name": "graded", "digest": load_problems("graded").digest, "num_items": 4}
    assert result["run"]["view"] == "raw"
    assert result["run"]["healing"] is False
    assert result["healed"] is None
    assert result["num_problems"] == sum(result["verdicts"].values()) == 4
    assert set(result["verdicts"]) == {"pass", "fail", "timeout"}
    assert result["sandbox_tier"]
    assert result["gold_bits_per_byte"]["value"] > 1
    assert result["gold_bits_per_byte"]["num_problems"] == 4
    judged = ask(capsys, "judge", "--samples", samples_path(run), "--limit", 4, "--work", tmp_path / "work")
    for name in ("pass@1", "num_problems", "verdicts", "sandbox_tier", "tasks", "intervals"):
        assert judged[name] == result[name], name
    assert judged["samples"]["name"] == "samples.jsonl"


def samples_path(run: Path) -> Path:
    """The greedy samples: the job without a temperature."""
    jobs = {path: json.loads(path.read_text()) for path in run.glob("eval/code-graded-*/job.json")}
    return next(path.with_name("samples.jsonl") for path, job in jobs.items() if job["settings"]["temperature"] == 0)


@pytest.mark.parametrize("policy", ["verbatim", "strip"])
def test_bits_of_gold_solutions_equal_the_scorer_s(saved_run, tmp_path, policy):
    """The twin: each problem by itself through the scorer of bits per byte."""
    opened = open_run(saved_run(tmp_path / "code-bits", init_std=0.4, row_length=512))
    problems = load_problems("graded").take(limit=3)
    found = gold_bits(opened, problems, CodeSettings(policy=policy))
    nats, size = 0.0, 0
    for problem in problems:
        prompt = problem.prompt.rstrip() if policy == "strip" else problem.prompt
        gold = problem.gold.removeprefix(prompt).encode()
        nats, size = nats - opened.scorer.loglikelihood(prompt.encode(), gold), size + len(gold)
    assert found["value"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert (found["num_bytes"], found["num_problems"], found["reason"]) == (size, 3, None)


def test_a_token_run_is_asked_plain_and_healed(tokens, capsys):
    result = ask(capsys, "run", tokens, "--limit", 2, "--max-bytes", 8)
    assert (result["run"]["view"], result["healing"], result["healed"]["healing"]) == ("spm", False, True)
    for reading in (result, result["healed"]):
        assert reading["num_problems"] == 2
        assert reading["gold_bits_per_byte"]["value"] > 0
    made = ask(capsys, "generate", tokens, "--limit", 2, "--max-bytes", 8)
    assert [each["healing"] for each in made["samples"]] == [False, True]
    assert len({each["path"] for each in made["samples"]}) == 2


def test_reasons_are_told_for_both_readings(tokens, capsys):
    assert main(["code", "run", str(tokens), "--limit", "2", "--max-bytes", "8"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("why programs did not pass (plain):") < shown.index("why programs did not pass (healed):")


def test_what_is_skipped_is_not_run_and_named(tmp_path, capsys):
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps({"task_id": "Graded/0", "solution": load_problems("graded")["0"].gold}) + "\n")
    result = ask(capsys, "judge", "--samples", path, "--missing", "skip")
    assert (result["pass@1"], result["num_problems"], result["num_without_samples"]) == (1.0, 1, 39)
    assert result["gold"]["num_judged"] == 1
    assert main(["code", "judge", "--samples", str(path), "--missing", "skip"]) == 0
    shown = capsys.readouterr().out
    assert "graded, 1 of 40 problems; 39 without a sample left out" in shown
    assert "why programs" not in shown


def test_a_wrong_request_is_answered_without_torch():
    words = ["code", "run", "nowhere", "--limit", "2", "--k", "10"]
    program = f"import sys; from eval.cli import main; assert main({words}) == 2; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_infilling_asks_with_the_suffix_and_counts_exact_parts(run, saved_run, tmp_path, capsys):
    problem = load_problems("graded")["17"]  # `clock`: one line
    row = {
        "task_id": "SingleLineInfilling/Graded/17/L0",
        "prompt": problem.prompt,
        "suffix": "\n# the end\n",
        "canonical_solution": problem.canonical_solution.rstrip(),
        "test": problem.test.removesuffix(f"\n\ncheck({problem.entry_point})\n"),
        "entry_point": problem.entry_point,
    }
    path = tmp_path / "infill.jsonl"
    path.write_text(json.dumps(row) + "\n")
    told = saved_run(tmp_path / "code-fim", init_std=0.4, row_length=512, mix={"fim": {"rate": 0.5}})
    result = ask(capsys, "run", told, "--problems", path, "--max-bytes", 16)
    assert (result["settings"]["policy"], result["settings"]["stop_rule"]) == ("fim", "line")
    assert result["exact_match"]["value"] == 0.0
    assert result["gold_bits_per_byte"]["value"] is None
    assert "no gold solution just follows" in result["gold_bits_per_byte"]["reason"]
    (line,) = samples_of(ask(capsys, "generate", told, "--problems", path, "--max-bytes", 16))
    assert line["solution"] == problem.prompt + line["completion"] + "\n# the end\n"
    # The original line is exact and passes; a run that was never told a suffix is refused, with what it can be asked instead.
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps({"task_id": row["task_id"], "completion": row["canonical_solution"]}) + "\n")
    assert ask(capsys, "judge", "--problems", path, "--samples", gold)["pass@1"] == 1.0
    assert "--policy prefix" in ask(capsys, "run", run, "--problems", path, code=2)["error"]
    assert ask(capsys, "generate", run, "--problems", path, "--policy", "prefix", "--max-bytes", 8)["settings"]["stop_rule"] == "line"


def test_explain_shows_prompt_stops_and_program(capsys, tmp_path):
    problem = load_problems("graded")["3"]
    found = ask(capsys, "explain", "3")
    assert (found["task_id"], found["policy"], found["stop_rule"]) == ("Graded/3", "verbatim", "function")
    assert found["prompt"] == problem.prompt
    assert found["gold"] == problem.prompt + problem.canonical_solution
    assert "\ndef " in found["stops"]
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps({"task_id": "Graded/3", "completion": "    return 1\n"}) + "\n")
    assert ask(capsys, "explain", "Graded/3", "--samples", samples)["programs"] == [problem.prompt + "    return 1\n"]
    assert main(["code", "explain", "3"]) == 0
    assert repr(problem.prompt.encode()) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "RUN", "--num-samples", "3"), "3 greedy samples of a problem are all the same"),
        (("generate", "RUN", "--policy", "fim"), "no prompt policy 'fim' for Graded/0"),
        (("generate", "RUN", "--healing", "yes"), "leave healing off"),
        (("run", "RUN", "--limit", "1", "--k", "1", "5"), "pass@5 needs at least 5 samples"),
        (("run", "nowhere", "--limit", "2", "--k", "10"), "pass@10 needs at least 10 samples of each problem and there is 1: make more"),
        (("generate", "nowhere"), "nowhere is not a folder"),
        (("generate", "RUN", "--max-bytes", "0"), "--max-bytes 0"),
        (("run", "RUN", "--limit", "0"), "--limit 0 leaves no problem"),
        (("run", "RUN", "--limit", "1", "--tier", "none"), "argument --tier: invalid choice: 'none' (choose from"),
        (("judge", "--samples", "nowhere.jsonl"), "nowhere.jsonl is not a file"),
        (("explain", "Graded/99"), "0 tasks of graded are called 'Graded/99'"),
        (("explain", "1", "--problems", "none.jsonl"), "neither a file nor a packaged problem set; packaged: graded"),
        (("generate", "RUN", "--limit", "1", "--temperature", "101"), "less than or equal to 100"),
    ],
    ids=range(13),
)
def test_bad_requests_are_one_sentence_and_exit_2(run, capsys, words, said):
    assert said in ask(capsys, *[run if word == "RUN" else word for word in words], code=2)["error"]


@pytest.mark.parametrize("action", ["run", "generate", "judge", "explain"])
def test_help_has_an_example(action, capsys):
    assert main(["code", action, "--help"]) == 0
    assert f"proxy-lm-eval code {action}" in capsys.readouterr().out.split("example:")[1]
