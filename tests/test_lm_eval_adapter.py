"""Tasks of lm-evaluation-harness on our runs: own tasks from files, offline, with the answers of slow twins that ask the model directly."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'proxy-lm[lm_eval]'")

from compressors import registry
from eval import lm_eval_adapter
from eval.lm_eval_adapter import ProxyLM
from proxy_lm.errors import RequestError
from proxy_lm.infer.generator import Generator, Prompt
from proxy_lm.train.restore import load_model
from proxy_lm.vocabulary import BOS, RAW_START

TASKS = {
    "choose": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc}]
""",
    "whole": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}, {metric: byte_perplexity}]
""",
    "write": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 3, do_sample: false}
metric_list: [{metric: bypass}]
""",
}
DOCUMENTS = [
    {"question": "def f(", "choices": ["x):", "é", "  "], "answer": 1},
    {"question": "", "choices": ["a", "b"], "answer": 0},
    {"question": "x = [1, 2]\n" * 9, "choices": ["y", "import os"], "answer": 1},
]


@pytest.fixture(autouse=True)
def _own_words(monkeypatch):
    """`main` puts its words where the harness reads them."""
    monkeypatch.setattr(sys, "argv", ["lm_eval_adapter"])


@pytest.fixture(scope="module")
def run(tmp_path_factory, saved_run):
    return saved_run(tmp_path_factory.mktemp("lm-eval") / "bytes", views=None, mix={})


@pytest.fixture(scope="module")
def model(run):
    return ProxyLM(str(run), device="cpu", bytes_per_token=2)


def requests(*arguments):
    return [SimpleNamespace(args=one) for one in arguments]


@torch.no_grad()
def twin(loaded, context, continuation):
    """(log probability, greedy) byte by byte, for what fits into a row."""
    logits = loaded.logits
    ids, total, greedy = [BOS, RAW_START, *context], 0.0, True
    for byte in continuation:
        row = torch.tensor([ids])
        last = logits(row, torch.zeros_like(row), torch.arange(len(ids))[None])[0, -1]
        total += float(last.double().log_softmax(0)[byte])
        greedy &= int(last.argmax()) == byte
        ids.append(byte)
    return total, greedy


def test_probabilities_and_greediness_are_those_of_the_model(run, model):
    loaded = load_model(run).model
    row = torch.tensor([[BOS, RAW_START, *b"x = "]])
    best = int(loaded.logits(row, torch.zeros_like(row), torch.arange(6)[None])[0, -1].argmax())
    pairs = [("x = ", text) for text in ("1\n", "é", "", *([chr(best)] if best < 128 else []))] + [("", "def"), ("é", "è")]
    found = model.loglikelihood(requests(*pairs))
    for (context, continuation), (log_probability, greedy) in zip(pairs, found, strict=True):
        expected, expected_greedy = twin(loaded, context.encode(), continuation.encode())
        assert log_probability == pytest.approx(expected, abs=1e-5)
        assert greedy == expected_greedy
    assert found[2] == (0.0, True)


def test_greedy_is_decided_as_by_asking_for_every_continuation(model, monkeypatch):
    """What the model itself writes greedily is greedy wherever it is UTF-8; one byte changed, it is not."""
    prompts = [f"x{index} = " for index in range(12)]
    texts = model.generate_until(requests(*((prompt, {"max_gen_toks": 2}) for prompt in prompts)))
    clean = [(prompt, text) for prompt, text in zip(prompts, texts, strict=True) if text and "\ufffd" not in text]
    changed = [(prompt, text[:-1] + ("a" if text[-1] != "a" else "b")) for prompt, text in clean]
    assert [greedy for _, greedy in model.loglikelihood(requests(*clean, *changed))] == [True] * len(clean) + [False] * len(clean)


def test_texts_longer_than_a_row_are_charged_once(model):
    text = "x = [1, 2]\n" * 30
    whole = model.loglikelihood_rolling(requests((text,)))[0]
    assert whole == pytest.approx(-math.fsum(model.opened.scorer.rolling(text.encode()).nll_nats))
    halves = model.loglikelihood(requests(("", text[:200]), (text[:200], text[200:])))
    assert halves[1][0] == pytest.approx(whole - -math.fsum(model.opened.scorer.rolling(text.encode()).nll_nats[:200]))


def test_what_is_written_is_what_the_generator_writes(run, model):
    generator = Generator.open(run, device="cpu")
    options = {"until": ["q", ""], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0}
    found = model.generate_until(requests(("def f(", options), ("", {"until": "\n"})))
    wanted = [Prompt(data=b"def f(", stop=(b"q",), max_bytes=16), Prompt(data=b"", stop=(b"\n",), max_bytes=512)]
    assert found == [completion.data.decode(errors="replace") for completion in generator.generate(wanted)]


def test_a_context_asked_again_is_sampled_anew_and_the_same_next_time(model):
    again = requests(*[("x", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8})] * 3)
    first = model.generate_until(again)
    assert len(set(first)) == 3
    assert model.generate_until(again) == first


def test_what_is_not_known_is_refused(model, run):
    with pytest.raises(RequestError, match=r"asks for num_beams in its generation_kwargs, which this model does not know"):
        model.generate_until(requests(("x", {"num_beams": 4})))
    with pytest.raises(RequestError, match="bytes_per_token=0 leaves nothing to write"):
        ProxyLM(str(run), bytes_per_token=0)


def test_a_token_run_is_asked_in_its_own_symbols(tmp_path, saved_run):
    """A symbol that straddles context and continuation is charged whole, and the probability of a text is that of its one segmentation."""
    registry.save(registry.train("spm", [b"x = [1, 2]\n" * 40, b"def f(x):\n    return x\n" * 40], alphabet_size=300), tmp_path / "spm")
    run = saved_run(tmp_path / "tokens", views={"spm": (tmp_path / "spm", 300)}, mix={"rate": 1.0})
    plain, healed = (ProxyLM(str(run), device="cpu", healing=healing) for healing in (False, True))
    text = "x = [1, 2]\ndef f(x):\n"
    score = plain.opened.scorer.rolling(text.encode())
    assert len(score.nll_nats) < len(text)
    at = int(score.borders[3])
    for cut, first in ((at, 3), (at - 1, 2)):
        found = plain.loglikelihood(requests((text[:cut], text[cut:])))[0][0]
        assert found == pytest.approx(-math.fsum(score.nll_nats[first:]))
    assert healed.loglikelihood(requests((text[:at], text[at:]))) == plain.loglikelihood(requests((text[:at], text[at:])))
    for model in (plain, healed):
        generator = Generator.open(run, healing=model is healed, device="cpu")
        (wanted,) = generator.generate([Prompt(data=b"def f(x", max_bytes=16)])
        assert model.generate_until(requests(("def f(x", {"max_gen_toks": 4}))) == [wanted.data.decode(errors="replace")]
        assert model.get_model_info()["proxy_lm"]["healing"] == (model is healed)


@pytest.fixture
def tasks(tmp_path):
    """A folder with the three tasks over one file of documents."""
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    data = json.dumps({"data_files": {"test": str(tmp_path / "documents.jsonl")}, "cache_dir": str(tmp_path / "cache")})
    for name, text in TASKS.items():
        header = f"task: {name}\ndataset_path: json\ndataset_kwargs: {data}\ntest_split: test\n"
        (tmp_path / f"{name}.yaml").write_text(header + text)
    return tmp_path


def test_the_harness_runs_local_tasks(model, tasks):
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, log_samples=True)
    scores = found["results"]
    right = 0
    for document in DOCUMENTS:
        likely = [
            answer[0] for answer in model.loglikelihood(requests(*((document["question"], choice) for choice in document["choices"])))
        ]
        right += likely.index(max(likely)) == document["answer"]
    assert scores["choose"]["acc,none"] == pytest.approx(right / 3)
    texts = [document["question"] for document in DOCUMENTS]
    nats = -math.fsum(model.loglikelihood_rolling(requests(*((text,) for text in texts))))
    assert scores["whole"]["bits_per_byte,none"] == pytest.approx(nats / math.log(2) / sum(map(len, texts)))
    written = [sample["resps"][0][0] for sample in found["samples"]["write"]]
    assert written == model.generate_until(requests(*((text, {"until": ["\n"], "max_gen_toks": 3}) for text in texts)))


@pytest.mark.slow
def test_the_command_runs_a_local_task(run, tasks):
    command = [sys.executable, "-m", "eval.lm_eval_adapter", "run", "--model", "proxy-lm", "--model_args", f"run={run}"]
    words = ["--tasks", "choose", "--include_path", str(tasks), "--output_path", str(tasks / "out")]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(next((tasks / "out").rglob("results*.json")).read_text())
    assert 0 <= result["results"]["choose"]["acc,none"] <= 1


def test_the_command_ends_with_a_sentence(tasks, monkeypatch, capsys):
    """The harness's own command line reads all its tasks first, for half a minute; this one asks for the model as it does."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    def ask():
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        lm_eval.simple_evaluate("proxy-lm", model_args=f"run={tasks / 'none'},device=cpu", tasks=["choose"], task_manager=manager)

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", ask)
    assert lm_eval_adapter.main(["run"]) == 2
    assert "is not a folder; give a run folder" in capsys.readouterr().err


def test_what_the_harness_refuses_is_a_sentence_and_a_bug_keeps_its_traceback(monkeypatch, capsys):
    from lm_eval.config.evaluate_config import EvaluatorConfig

    def unknown_task():
        monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **more: SimpleNamespace(match_tasks=lambda names: []))
        EvaluatorConfig(tasks=["nope"]).process_tasks()

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", unknown_task)
    assert lm_eval_adapter.main(["--tasks", "nope"]) == 2
    assert capsys.readouterr().err == (
        "lm_eval_adapter: Tasks not found: nope; 'ls tasks' lists those of the harness, --include_path FOLDER adds yours\n"
    )
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: int("no number"))
    with pytest.raises(ValueError, match="no number"):
        lm_eval_adapter.main(["--tasks", "nope"])


def test_help_begins_with_the_arguments_of_the_model(monkeypatch, capsys):
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: print("usage: lm-eval"))
    assert lm_eval_adapter.main(["run", "--help"]) == 0
    ours, harness, _ = capsys.readouterr().out.partition("usage: lm-eval")
    parameters = set(inspect.signature(ProxyLM.__init__).parameters)
    assert parameters - {"self", "device", "batch_size", "max_batch_size", "unknown"} == {
        line.split("=")[0].strip() for line in ours.splitlines() if line.startswith("  ") and "python" not in line
    }
    assert harness


def test_arguments_of_the_model_and_the_device(run, capsys, monkeypatch):
    with pytest.raises(RequestError, match="give --model_args run=FOLDER"):
        ProxyLM.create_from_arg_string("")
    with pytest.raises(RequestError, match="model_args pretrained is nothing this model knows; it knows run, view, "):
        ProxyLM.create_from_arg_string(f"run={run},pretrained=gpt2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ProxyLM(str(run), device="cuda:0")  # as the harness asks where its user said nothing
    assert capsys.readouterr().err == "device: cpu\n"
    with pytest.raises(RequestError, match="device 'cuda:1' is not here"):
        ProxyLM(str(run), device="cuda:1")
