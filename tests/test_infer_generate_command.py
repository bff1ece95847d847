"""`proxy-lm generate`: what goes to standard output, what to standard error, and which requests are refused with a remedy."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from compressors import registry
from proxy_lm.cli import main
from proxy_lm.infer.generator import Generator, Prompt, Sampling


@pytest.fixture(scope="module")
def run(saved_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte model with heads to draft with, told documents with their middle last."""
    folder = tmp_path_factory.mktemp("generate")
    return saved_run(folder / "generate-bytes", init_std=0.4, num_raw_heads=2, mix={"fim": {"rate": 0.5}})


@pytest.fixture(scope="module")
def tokens(saved_run, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A model of SentencePiece symbols alone."""
    view = pytestconfig.rootpath / "tests" / "golden" / "views" / "spm"
    views = {"spm": (view, registry.load(view).alphabet_size)}
    return saved_run(tmp_path_factory.mktemp("generate") / "generate-tokens", views=views, init_std=0.4, mix={"rate": 1.0})


def expected(run: Path, *, sampling: Sampling | None = None, healing: bool = False, **prompt: object) -> bytes:
    generator = Generator.open(run, device="cpu", healing=healing)
    [completion] = generator.generate([Prompt(max_bytes=40, **prompt)], sampling or Sampling())  # type: ignore[arg-type]
    return completion.data


@pytest.fixture
def generate(capfdbinary):
    """Run the command: (exit code, standard output, standard error)."""

    def started(*words: object) -> tuple[int, bytes, str]:
        code = main(["generate", "--device", "cpu", "--max-bytes", "40", *map(str, words)])
        out, error = capfdbinary.readouterr()
        return code, out, error.decode()

    return started


def test_text_and_bytes(run, generate):
    data = expected(run, data=b"def f(")
    code, out, error = generate(run, "--prompt", "def f(")
    assert (code, out.decode()) == (0, data.decode(errors="replace") + "\n")
    assert "mean accepted length" in error
    assert generate(run, "--prompt", "def f(", "--bytes")[1] == data
    assert generate(run, "--prompt", "def f(", "--no-speculate", "--bytes")[1] == data


@pytest.mark.parametrize("bytes_too", [False, True], ids=["text", "bytes"])
def test_streamed_is_the_same(run, generate, bytes_too):
    words = [run, "--prompt", "x", "--temperature", "1", *(["--bytes"] if bytes_too else [])]
    assert generate(*words, "--stream")[1] == generate(*words)[1]


def test_json_is_one_complete_object(run, generate):
    sampled = ["--temperature", "0.9", "--top-p", "0.9", "--top-k", "50", "--seed", "5"]
    code, out, _ = generate(run, "--prompt", "a", "--num-samples", "3", *sampled, "--json")
    result = json.loads(out)
    sampling = Sampling(temperature=0.9, top_p=0.9, top_k=50, seed=5)
    datas = [base64.b64decode(one["data_base64"]) for one in result["completions"]]
    assert (code, datas) == (0, [expected(run, data=b"a", seed=k, sampling=sampling) for k in range(3)])
    assert len(set(datas)) == 3
    assert result["num_bytes"] == sum(map(len, datas))
    assert result["seconds"] > 0
    assert result["bytes_per_second"] == result["num_bytes"] / result["seconds"]
    assert result["mean_accepted_length"] >= 1
    assert result["checkpoint"]["step"] == 1
    assert (result["view"], result["healing"], result["sampling"]["seed"]) == ("raw", False, 5)
    assert {one["reason"] for one in result["completions"]} <= {"stop", "end", "length"}


def test_stop_sequences_are_typed_with_escapes(run, generate):
    data = expected(run, data=b"x = ")
    stop = data[12:15]
    words = ["--stop", "".join(f"\\x{byte:02x}" for byte in stop), "--stop", "never there"]
    code, out, _ = generate(run, "--prompt", "x = ", *words, "--json")
    [one] = json.loads(out)["completions"]
    assert (code, base64.b64decode(one["data_base64"]), one["reason"]) == (0, data[: data.index(stop)], "stop")
    assert base64.b64decode(one["stop_base64"]) == stop


def test_prompts_from_files_may_be_any_bytes(run, generate, tmp_path):
    (tmp_path / "begin").write_bytes(b"\xff\x00 begin")
    (tmp_path / "after").write_bytes(b"\xfeafter")
    data = expected(run, data=b"\xff\x00 begin", suffix=b"\xfeafter")
    assert generate(run, "--prompt-file", tmp_path / "begin", "--suffix-file", tmp_path / "after", "--bytes")[1] == data
    assert expected(run, data=b"\xff\x00 begin") != data


def test_valid_utf8_is_shown_without_a_replacement(run, generate):
    _, out, _ = generate(run, "--prompt", "é", "--valid-utf8", "--temperature", "1", "--stream")
    assert "\ufffd" not in out.decode()


def test_a_view_healed_and_not(tokens, generate):
    assert generate(tokens, "--prompt", "def retur", "--bytes")[1] == expected(tokens, data=b"def retur")
    code, out, error = generate(tokens, "--prompt", "def retur", "--healing", "--bytes")
    assert (code, out) == (0, expected(tokens, data=b"def retur", healing=True))
    assert "read as spm healed" in error


def test_several_samples_are_told_apart(run, generate):
    _, out, _ = generate(run, "--prompt", "a", "--num-samples", "2", "--temperature", "1")
    assert [line[:12] for line in out.decode().splitlines() if line.startswith("--- sample")] == ["--- sample 0", "--- sample 1"]


def test_a_pipe_and_help_without_torch(run):
    piped = subprocess.run(
        [sys.executable, "-m", "proxy_lm", "generate", run, "--max-bytes", "40", "--bytes", "--device", "cpu"],
        input=b"\x80 piped",
        capture_output=True,
        check=True,
    )
    assert piped.stdout == expected(run, data=b"\x80 piped")
    code = "import sys; from proxy_lm.cli import main; main(['generate', '--help']); print(sorted({'torch', 'numba'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.rstrip().endswith("[]")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--num-samples", "0"], "give at least 1"),
        (["--num-samples", "2"], "give --temperature, or --num-samples 1"),
        (["--temperature", "1e-310"], "give 0 for the most probable"),
        (["--num-samples", "2", "--temperature", "1", "--stream"], "use --json"),
        (["--stream", "--json"], "leave out --stream and --bytes"),
        (["--stop", ""], "at least one byte"),
        (["--stop", r"\q"], "is no escape"),
        (["--temperature", "-1"], "--temperature -1.0: Input should be greater than or equal to 0"),
        (["--top-p", "0"], "--top-p 0.0: Input"),
        (["--seed", "-1"], "--seed -1: Input"),
        (["--max-bytes", "0"], "--max-bytes 0 leaves nothing to generate"),
        (["--healing"], "there is nothing to heal; ask without healing"),
        (["--view", "spm"], "it can be read as: raw"),
        (["--device", "tpu"], "this machine has: cpu"),
        (["--suffix-file", "nowhere"], "name a file that can be read"),
    ],
)
def test_refused_with_one_sentence(run, generate, words, sentence):
    code, out, error = generate(run, "--prompt", "a", *words)
    assert (code, out) == (2, b"")
    assert sentence in error
    assert "Traceback" not in error


def test_a_folder_that_is_no_run(generate, tmp_path):
    code, _, error = generate(tmp_path / "nowhere", "--prompt", "a")
    assert (code, "give a run folder" in error) == (2, True)


def test_what_can_be_refused_by_looking_is_refused_without_torch(run, tmp_path):
    """In one process, which has imported no torch when the last is refused."""
    (tmp_path / "empty").mkdir()
    requests = [
        ([tmp_path / "nowhere", "--prompt", "x"], "is not a folder; give a run folder"),
        ([tmp_path / "empty", "--prompt", "x"], "has no checkpoint: it is no run"),
        ([run / "checkpoints", "--prompt", "x"], f"give the run folder {run}, or one checkpoint of it: {run / 'checkpoints' / 'step-1'}"),
        ([run.parent, "--prompt", "x"], f"is no run, it holds 1; give one of them: {run}"),
        ([run, "--prompt", "x", "--temperature", "-1"], "--temperature -1.0: "),
        ([run, "--prompt", "x", "--max-bytes", "0"], "--max-bytes 0 "),
        ([run, "--prompt", "x", "--stop", r"\q"], "is no escape"),
        ([run, "--prompt-file", tmp_path / "nowhere"], "name a file that can be read"),
    ]
    code = (
        "import json, sys; from proxy_lm.cli import main\n"
        "assert [main(['generate', *words]) for words in json.load(sys.stdin)] == [2] * 8; assert 'torch' not in sys.modules"
    )
    asked = json.dumps([list(map(str, words)) for words, _ in requests])
    done = subprocess.run([sys.executable, "-c", code], input=asked, capture_output=True, text=True, check=False)
    sentences = done.stderr.splitlines()
    assert (done.returncode, len(sentences)) == (0, len(requests)), done.stderr
    for sentence, (_, expected_part) in zip(sentences, requests, strict=True):
        assert expected_part in sentence


def test_raw_bytes_of_a_run_that_learned_none_come_with_a_warning(run, tokens, generate):
    code, out, error = generate(tokens, "--prompt", "x", "--view", "raw", "--bytes")
    assert (code, len(out) > 0) == (0, True)
    assert "warning: training told this run no document in raw bytes" in error
    assert "ask with --view spm" in error
    assert all("warning" not in generate(*words, "--prompt", "x")[2] for words in ([run], [tokens]))
