"""The command line: exit codes, one sentence for an error, JSON alone on standard output."""

import json
import os
import signal
import subprocess
import sys
import time
import types

import pytest

from proxy_lm import cli
from proxy_lm.errors import RequestError, WorkError


@pytest.fixture
def program(monkeypatch):
    """A program with one command whose `run` is given by the test."""

    def make(run):
        module = types.ModuleType("fake_command")
        module.HELP, module.EXAMPLE = "Do it.", "prog do"
        module.add_arguments = lambda parser: parser.add_argument("--name", default="x")
        module.run = run
        module.show = lambda result: print("shown", result["value"])
        monkeypatch.setitem(sys.modules, "fake_command", module)
        return lambda *words: cli.run_program("prog", {"do": "fake_command"}, words)

    return make


def test_result_is_shown_or_printed_as_json(program, capsys):
    call = program(lambda args: {"value": args.name})
    assert call("do", "--name", "y") == 0
    assert capsys.readouterr().out == "shown y\n"
    assert call("do", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"value": "x"}


@pytest.mark.parametrize(("error", "code"), [(RequestError("bad"), 2), (WorkError("broke"), 1), (OSError(28, "No space", "f"), 1)])
def test_errors_become_one_sentence_and_an_exit_code(program, capsys, error, code):
    def run(args):
        raise error

    assert program(run)("do") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("prog: ")
    assert err.count("\n") == 1


def test_settings_may_follow_options(program, monkeypatch):
    call = program(lambda args: {"value": [*args.overrides, args.name]})
    monkeypatch.setattr(
        sys.modules["fake_command"],
        "add_arguments",
        lambda parser: (parser.add_argument("overrides", nargs="*"), parser.add_argument("--name")),
    )
    seen = []
    monkeypatch.setattr(sys.modules["fake_command"], "show", lambda result: seen.append(result["value"]))
    assert call("do", "a=1", "--name", "y", "b.c=2") == 0
    assert call("do", "--name", "y", "b.c=2", "d=3") == 0
    assert seen == [["a=1", "b.c=2", "y"], ["b.c=2", "d=3", "y"]]
    assert call("do", "a=1", "--name", "y", "nothing") == 2
    assert call("do", "a=1", "--nme=y") == 2


def test_our_own_bugs_keep_their_traceback(program):
    def run(args):
        raise AssertionError("ours")

    with pytest.raises(AssertionError):
        program(run)("do")


@pytest.mark.parametrize("words", [[], ["nothing"], ["do", "--unknown"]])
def test_wrong_words_exit_2(program, words):
    assert program(lambda args: {})(*words) == 2


def test_unknown_options_are_told_with_the_words_of_the_command(program, capsys):
    program(lambda args: {})("do", "--unknown")
    assert "usage: prog do" in capsys.readouterr().err
    assert program(lambda args: {})("--version") == 0
    assert capsys.readouterr().out.startswith("prog 0.")


def test_interrupt_says_how_to_go_on(program, capsys):
    def run(args):
        raise KeyboardInterrupt

    assert program(run)("do") == 130
    assert "continues" in capsys.readouterr().err


def test_a_command_may_say_that_an_interrupt_leaves_nothing(program, capsys, monkeypatch):
    def run(args):
        raise KeyboardInterrupt

    call = program(run)
    monkeypatch.setattr(sys.modules["fake_command"], "INTERRUPTED", "nothing was written", raising=False)
    assert call("do") == 130
    assert capsys.readouterr().err == "prog: interrupted; nothing was written\n"
    monkeypatch.setattr(sys.modules["fake_command"], "INTERRUPTED", lambda args: f"{args.name} was written", raising=False)
    assert call("do", "--name", "half") == 130
    assert capsys.readouterr().err == "prog: interrupted; half was written\n"


def test_an_interrupt_while_a_command_is_imported_is_one_line(tmp_path):
    """In a process of its own, as a console script starts it: only the standard library is there before `main`."""
    (tmp_path / "slow_command.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)\n")
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where make test is a background job
        "import sys; from proxy_lm.cli import run_program; import eval.cli\n"
        "assert not {'numpy', 'torch', 'pydantic', 'yaml', 'rich', 'compressors'} & set(sys.modules)\n"
        "sys.exit(run_program('prog', {'do': 'slow_command'}, ['do']))"
    )
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, env=place) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "importing\n"
        child.send_signal(signal.SIGINT)
        _, error = child.communicate(timeout=60)
    assert (child.returncode, error) == (130, "prog: interrupted; nothing was begun\n")


def test_sigterm_cleans_up_and_says_how_to_go_on(program, capsys):
    cleaned = []

    def run(args):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # an impatient second one changes nothing
            cleaned.append(True)

    assert program(run)("do") == 128 + signal.SIGTERM
    assert cleaned
    assert capsys.readouterr().err == "prog: ended by SIGTERM; what is finished is kept and the same command continues\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("commands", ["proxy_lm.cli", "eval.cli"])
def test_every_command_has_help_with_an_example(commands, capsys):
    module = sys.modules.get(commands) or __import__(commands, fromlist=["COMMANDS"])
    for name in module.COMMANDS:
        assert module.main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert "example:" in text
        assert "--json" in text
