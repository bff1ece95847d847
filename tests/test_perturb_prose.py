"""Promise: perturbed docstrings, names and formats change what they say they change, keyed by (seed, task), and not the program."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.perturb.base import FAMILIES, Edit, Snippet, apply_edits, keyed_draws, perturb
from eval.perturb.cut import head, partial
from eval.perturb.docstring import prose_words
from eval.perturb.registry import PERTURBATIONS, chosen, perturbation
from eval.perturb.words import NEIGHBOUR_KEYS, SYNONYMS
from eval.problems import Problem, ProblemSet, load_problems
from eval.variants import completion_form, needs_proof, own_suite
from proxy_lm.errors import RequestError

PROMPT = '''import re


def add_words(first_word, other):
    """Add two words. If first_word is empty, return `other` or "none" from x2.

    >>> add_words("find a", "list")
    'find a list'

    The result is a string of add_words(a, b) -> str.
    """
'''
REST = '''    text = """keep
    this"""
    found = first_word + " " + other + text[:0]
    return found
'''
SNIPPET = Snippet(prompt=PROMPT, rest=REST, entry_point="add_words", tests='assert add_words("add_words", "b") == "add_words b"\n')


def changed(name: str, snippet: Snippet = SNIPPET, seed: int = 0) -> Snippet:
    found = perturb(perturbation(name), snippet, seed=seed, task="task")
    assert found is not None
    return found


def test_only_the_words_of_the_language_are_touched():
    words = [PROMPT[start:end] for start, end in prose_words(SNIPPET)]
    assert words == ["Add", "two", "words", "If", "is", "empty", "return", "or", "from"]


@pytest.mark.parametrize("name", [item.name for item in chosen(["docstring"])])
def test_slips_stay_in_the_prose(name):
    texts = set()
    for seed in range(12):
        found = perturb(perturbation(name), SNIPPET, seed=seed, task="task")
        if found is None:
            continue
        texts.add(found.prompt)
        assert (found.rest, found.tests, found.entry_point) == (SNIPPET.rest, SNIPPET.tests, SNIPPET.entry_point)
        before, after = PROMPT.split("\n"), found.prompt.split("\n")
        assert len(before) == len(after)
        assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [4]
        assert "first_word" in after[4]
        assert '`other` or "none"' in after[4].lower() or name in ("typos", "letter_noise", "swapped_letters", "spaces", "synonyms")
        assert "x2." in after[4]
    assert len(texts) > 1


def test_a_typo_is_a_key_beside():
    for seed in range(20):
        found = changed("typos", seed=seed).prompt
        assert len(found) == len(PROMPT)
        for old, new in zip(PROMPT, found, strict=True):
            assert old == new or new.lower() in NEIGHBOUR_KEYS[old.lower()]


def test_the_tables_are_whole():
    assert set(NEIGHBOUR_KEYS) == set("abcdefghijklmnopqrstuvwxyz")
    assert all(key in NEIGHBOUR_KEYS[other] for key, others in NEIGHBOUR_KEYS.items() for other in others)
    assert all(others and word not in others for word, others in SYNONYMS.items())
    assert all(word in SYNONYMS[other] for word, others in SYNONYMS.items() for other in others)


def test_draws_are_addressed_by_perturbation_seed_and_task():
    one = keyed_draws("typos", 3, "a").random(4).tolist()
    assert one == keyed_draws("typos", 3, "a").random(4).tolist()
    others = [keyed_draws(*key).random(4).tolist() for key in (("typos", 4, "a"), ("typos", 3, "b"), ("spaces", 3, "a"))]
    assert one not in others
    forwards = [perturb(item, SNIPPET, seed=seed, task="t") for item in PERTURBATIONS for seed in range(2)]
    backwards = [perturb(item, SNIPPET, seed=seed, task="t") for item in reversed(PERTURBATIONS) for seed in (1, 0)]
    assert forwards == backwards[::-1]
    fixed = [item for item in PERTURBATIONS if not item.random]
    assert all(perturb(item, SNIPPET, seed=0, task="t") == perturb(item, SNIPPET, seed=9, task="t") for item in fixed)


def test_a_renamed_function_is_renamed_where_it_is_called():
    found = changed("name_case_style")
    assert found.entry_point == "addWords"
    assert "def addWords(first_word, other):" in found.prompt
    assert '>>> addWords("find a", "list")' in found.prompt
    assert "a string of addWords(a, b)" in found.prompt
    assert "Add two words" in found.prompt
    assert found.tests == 'assert addWords("add_words", "b") == "add_words b"\n'  # strings are data


def test_names_go_both_ways_and_stay_new():
    camel = Snippet(prompt="def isXMLFile(name):\n", rest="    return isXMLFile(name[1:]) or obj.isXMLFile\n", entry_point="isXMLFile")
    found = changed("name_case_style", camel)
    assert found.entry_point == "is_xml_file"
    assert found.rest == "    return is_xml_file(name[1:]) or obj.isXMLFile\n"
    taken = Snippet(prompt="def to_str(x):\n", rest="    return toStr(x)\n", entry_point="to_str")
    assert perturb(perturbation("name_case_style"), taken, seed=0, task="t") is None
    plain = Snippet(prompt="def size(x):\n", rest="    return 1\n", entry_point="size")
    for item in chosen(["function_name"]):
        for seed in range(10):
            result = perturb(item, plain, seed=seed, task="t")
            assert result is None or (result.entry_point or "").isidentifier()


def test_a_call_that_is_missed_would_be_run_and_not_believed():
    """A name inside an f-string is one token before Python 3.12; from 3.12 on it is renamed."""
    snippet = Snippet(prompt="def to_text(x):\n", rest='    return f"{to_text(x[1:])}" if x else ""\n', entry_point="to_text")
    found = perturb(perturbation("name_case_style"), snippet, seed=0, task="t")
    assert found is None or "toText(x[1:])" in found.rest
    nominal = Problem(
        task_id="a", prompt=snippet.prompt, canonical_solution=snippet.rest, entry_point="to_text", test="x = 1\n", style="humaneval"
    )
    missed = replace(nominal, prompt="def toText(x):\n", entry_point="toText")
    assert needs_proof(nominal, missed)
    assert not needs_proof(nominal, replace(missed, canonical_solution=snippet.rest.replace("to_text", "toText")))


def test_in_a_file_a_function_that_the_rest_does_not_name_is_renamed():
    text = "def first_one():\n    return 1\n\n\ndef second_one():\n    return first_one()\n"
    file = Snippet(prompt=text, rest="second_one()\n", frozen=True)
    found = changed("name_case_style", file)
    assert found.prompt == text.replace("first_one", "firstOne")
    assert found.rest == file.rest
    used = Snippet(prompt=text, rest="first_one(second_one)\n", frozen=True)
    assert perturb(perturbation("name_case_style"), used, seed=0, task="t") is None


def test_formats_by_eye():
    prompt = 'def f(x):\n    """One.\n    Two."""\n    text = """a\n    b"""\n    if x and text:\n'
    half = Snippet(prompt=prompt, rest="        return 1\n    return 2\n")
    assert changed("tabs", half).prompt == 'def f(x):\n\t"""One.\n\tTwo."""\n\ttext = """a\n    b"""\n\tif x and text:\n'
    assert changed("tabs", half).rest == "\t\treturn 1\n\treturn 2\n"
    assert changed("split_line", half).prompt.endswith("    if x \\\n        and text:\n")
    assert changed("comments_for_docstrings", half).prompt.startswith("def f(x):\n    # One.\n    # Two.\n    text")
    assert changed("quotes", half).prompt.startswith("def f(x):\n    '''One.\n    Two.'''\n    text = \"\"\"a\n")
    assert changed("empty_line_after_docstring", half).prompt.startswith('def f(x):\n    """One.\n    Two."""\n\n    text')
    assert changed("empty_line_after_code", half).prompt == prompt + "\n"
    moved = changed("cut_after_indentation", half)
    assert (moved.prompt, moved.rest) == (prompt + "        ", "return 1\n    return 2\n")
    for seed in range(8):
        kept = [line for line in changed("empty_lines", half, seed).prompt.split("\n") if line]
        assert kept == [line for line in prompt.split("\n") if line]
        assert '"""a\n    b"""' in changed("empty_lines", half, seed).prompt


def test_what_would_no_longer_compile_is_not_offered():
    mixed = Snippet(prompt="def f(x):\n  if x:\n", rest="      return 1\n  return (2,\n3)\n")
    found = perturb(perturbation("tabs"), mixed, seed=0, task="t")
    assert found is None or compile(found.program, "t", "exec")
    only = Snippet(prompt='class C:\n    """Text."""\n', rest="x = 1\n", frozen=True)
    assert perturb(perturbation("comments_for_docstrings"), only, seed=0, task="t") is None
    crlf = Snippet(prompt="def f(x):\r\n    y = x\r\n", rest="    return y\r\n")
    assert all(perturb(item, crlf, seed=0, task="t") is None for item in chosen(["format", "syntax"]))


def test_outside_of_syntax_the_tree_stays_the_same():
    """Docstrings, function names and format of every packaged problem, several seeds: nothing has to be proved by running it."""
    suite = own_suite(load_problems("graded"), chosen(["docstring", "function_name", "format"]), num_seeds=2, seed=5)
    assert len(suite.changed) > 1000
    for variant in suite.changed:
        assert variant.problem is not None
        assert not needs_proof(suite.nominals[variant.nominal], variant.problem), variant.key
        assert variant.problem.task_id == variant.key
    assert suite.origin == own_suite(load_problems("graded").take(limit=2), chosen([]), num_seeds=1, seed=0).origin


def test_a_solution_is_cut_at_the_statement_nearest_its_middle():
    snippet = Snippet(prompt="def f(x):\n", rest="    a = 1\n    for b in x:\n        a += b\n        a += 1\n    return a\n")
    half = partial(snippet)
    assert half is not None
    assert half.prompt == "def f(x):\n    a = 1\n    for b in x:\n"
    assert half.program == snippet.program
    assert partial(Snippet(prompt="def f(x):\n", rest="    return x\n")) is None
    assert partial(Snippet(prompt="def f(x): ", rest="return x\n")) is None
    assert partial(Snippet(prompt="def f(x):\n", rest="    return (\n")) is None
    branches = Snippet(prompt="def f(x):\n", rest="    if x:\n        return 1\n    elif x is None:\n        return 2\n    return 3\n")
    assert (partial(branches) or branches).rest == "        return 2\n    return 3\n"


def test_the_head_of_a_file_is_the_stretch_with_most_statements():
    text = "import a\nimport b\n\n\ndef f(x):\n    if x:\n        return 1\n    return 2\n\n\ny = 1\nz = 2\n"
    snippet = head(text, head_bytes=55, rest_bytes=8)
    assert snippet is not None
    assert snippet.prompt == text[len("import a\nimport b\n\n\n") : text.index("y = 1")]
    assert (snippet.rest, snippet.frozen) == ("y = 1\n", True)
    assert head(text, head_bytes=5, rest_bytes=8) is None
    assert head("x = (\n", head_bytes=60, rest_bytes=8) is None
    whole = head(text, head_bytes=500, rest_bytes=500)
    assert whole is not None
    assert whole.rest == "z = 2\n"


def test_mbpp_becomes_a_prompt_to_complete():
    problem = Problem(
        task_id="Mbpp/1",
        prompt="Write a function to double.",
        entry_point="double",
        canonical_solution="import math\r\ndef help(x):\r\n  return x\r\ndef double(x):\r\n  # twice\r\n  y = help(x)\r\n  return 2 * y",
        test="assert double(2) == 4\n",
        style="mbpp",
        examples=("assert double(2) == 4", "assert double(3) == 6"),
    )
    form = completion_form(problem)
    assert form is not None
    assert form.prompt == (
        "import math\ndef help(x):\n  return x\ndef double(x):\n  # twice\n"
        '  """Write a function to double.\n  >>> assert double(2) == 4\n  """\n'
    )
    assert form.canonical_solution == "  y = help(x)\n  return 2 * y\n"
    one_line = Problem(**{**problem.__dict__, "canonical_solution": "def double(x): return 2 * x\n"})
    assert completion_form(one_line) is None
    with pytest.raises(RequestError, match="none of the 1 problems"):
        own_suite(ProblemSet.of("one", [one_line]), chosen([]), num_seeds=1, seed=0)


def test_perturbations_are_chosen_by_name_and_family():
    assert {item.family for item in PERTURBATIONS} == set(FAMILIES)
    assert [item.name for item in chosen(["quotes", "typos"])] == ["typos", "quotes"]
    assert chosen([]) == PERTURBATIONS
    with pytest.raises(RequestError, match=r"unknown perturbation 'typo'.*docstring"):
        chosen(["typo"])


@given(st.text("ab\n", max_size=12), st.data())
def test_edits_equal_editing_from_the_end(source, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(source)), max_size=6)))
    edits = [Edit(a, b, data.draw(st.text("xy", max_size=2))) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    if len({edit.start for edit in edits}) < len(edits):
        return  # two edits at one place have no order
    expected = source
    for edit in reversed(edits):
        expected = expected[: edit.start] + edit.text + expected[edit.end :]
    assert apply_edits(source, edits) == expected
