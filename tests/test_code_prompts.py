"""What a model is asked, byte for byte, and what its answer becomes."""

from __future__ import annotations

import pytest

from eval.problems import Problem
from eval.prompts import STOP_RULES, ask, policy_of
from proxy_lm.errors import RequestError

HUMAN = Problem(
    task_id="H/0", prompt='def f(x):\n    """Doc."""\n', entry_point="f", canonical_solution="    return x\n", test="", style="humaneval"
)
MBPP = Problem(
    task_id="Mbpp/0",
    prompt=' Add "two" numbers.\n',
    entry_point="add",
    canonical_solution="def add(a, b=1, *rest):\n    return a + b",
    test="",
    style="mbpp",
    examples=("assert add(1, 2) == 3", "assert add(0) == 1"),
)
FILL = Problem(
    task_id="RandomSpanInfilling/H/0/1",
    prompt="def f(x):\n    ret",
    suffix="rn x\n",
    entry_point="f",
    canonical_solution="u",
    test="",
    style="infilling",
)


def test_humaneval_is_asked_verbatim_or_stripped():
    asked = ask(HUMAN)
    assert asked.prompt == b'def f(x):\n    """Doc."""\n'
    assert asked.program(b"    return 1") == b'def f(x):\n    """Doc."""\n    return 1'
    stripped = ask(HUMAN, "strip")
    assert stripped.prompt == b'def f(x):\n    """Doc."""'
    assert stripped.program(b"\n    return 1") == asked.program(b"    return 1")
    assert (asked.suffix, asked.tail, asked.stop_rule) == (None, b"", "function")
    assert {b"\ndef ", b"\nclass ", b"\n#", b"\n@", b"\nprint", b"\nif ", b"\n```"} <= set(asked.stops)


def test_mbpp_is_asked_by_docstring_or_signature():
    assert ask(MBPP).prompt == b'"""\nAdd "two" numbers.\nassert add(1, 2) == 3\n"""\n'
    assert ask(MBPP, "docstring-all").prompt.endswith(b'assert add(1, 2) == 3\nassert add(0) == 1\n"""\n')
    assert b"\ndef " not in ask(MBPP).stops  # a program may have several functions
    signature = ask(MBPP, "signature")
    assert signature.prompt == b'def add(a, b=1, *rest):\n    """Add "two" numbers.\n    assert add(1, 2) == 3\n    """\n'
    assert b"\ndef " in signature.stops
    for policy in ("docstring", "docstring-all"):  # the prompt is Python, so the program is too
        compile(ask(MBPP, policy).program(MBPP.canonical_solution.encode()), "x", "exec")


def test_infilling_shows_the_suffix_or_not_and_puts_it_back():
    asked, alone = ask(FILL), ask(FILL, "prefix")
    assert (asked.suffix, alone.suffix) == (b"rn x\n", None)
    for one in (asked, alone):
        assert one.program(b"u") == b"def f(x):\n    return x\n"
    assert asked.stops == ()


@pytest.mark.parametrize("suffix", ["\n    return y\n", "    return y\n"])
def test_a_missing_line_ends_with_its_newline_however_the_suffix_begins(suffix):
    line = Problem(
        task_id="SingleLineInfilling/H/0/L0",
        prompt="def f(x):\n",
        suffix=suffix,
        entry_point="f",
        canonical_solution="    y = x",
        test="",
        style="infilling",
    )
    asked = ask(line)
    assert asked.stops == (b"\n",)
    assert asked.suffix == suffix.encode()
    assert asked.program(b"    y = x") == b"def f(x):\n    y = x\n    return y\n"


def test_the_reference_is_the_gold_solution_as_it_follows_the_prompt():
    for policy in ("verbatim", "strip"):
        asked = ask(HUMAN, policy)
        assert asked.reference is not None
        assert asked.prompt + asked.reference == HUMAN.gold.encode()
    assert ask(HUMAN, "strip").reference == b"\n    return x\n"
    assert ask(MBPP).reference == MBPP.canonical_solution.encode()
    assert ask(FILL, "prefix").reference == b"u"
    # Where the model reads more than what stands before the solution, it is no continuation.
    assert ask(FILL).reference is None
    assert ask(MBPP, "signature").reference is None


def test_names_are_checked():
    assert [policy_of(problem) for problem in (HUMAN, MBPP, FILL)] == ["verbatim", "docstring", "fim"]
    with pytest.raises(RequestError, match="no prompt policy 'fim' for H/0, a problem of style humaneval; known: verbatim, strip"):
        ask(HUMAN, "fim")
    with pytest.raises(RequestError, match="unknown stop rule 'never'; known: function, program, line, none"):
        ask(HUMAN, stop_rule="never")
    assert ask(HUMAN, stop_rule="none").stops == ()
    assert set(STOP_RULES) == {"function", "program", "line", "none"}


def test_a_docstring_cannot_be_ended_by_its_words():
    from dataclasses import replace

    compile(ask(replace(MBPP, prompt='Say """ three times.')).prompt, "x", "exec")
