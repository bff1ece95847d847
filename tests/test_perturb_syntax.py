"""Promise: a perturbation of syntax changes how a program is written and never what it does; what stands behind the cut stays."""

from __future__ import annotations

import doctest
import importlib.util
import statistics
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from eval.perturb.base import Snippet, perturb
from eval.perturb.cut import partial
from eval.perturb.registry import chosen, perturbation
from eval.problems import load_problems

TRICKY = {
    "ranges": """
def run(n):
    out = []
    for i in range(n):
        if i == 2:
            continue
        for j in range(i, 9, 3):
            if j > 6: break
            out.append((i, j))
        i = 100
    for k in range(5, -4, -2):
        out.append(k)
    for n in range(n):
        out.append(n)
    for empty in range(3, 1):
        out.append("never")
    out.append((i, k, n))
    return out


RESULT = [run(n) for n in (1, 2, 6)]
""",
    "iterables": """
def pairs():
    for x in 1, 2, 3:
        yield x, -x


def run(words):
    seen = {}
    for at, (first, *others) in enumerate(words):
        if not others:
            continue
        seen[first] = others
        for other in others:
            if other == "c":
                break
        else:
            seen["else"] = at
    for value in words:
        if len(words) < 6:
            words.append(value)  # a list that grows while it is read
    for a, b in pairs():
        for letters in (words, ["xy", "z"]):
            for word in letters:
                for letter in word:
                    seen[a] = seen.get(a, "") + letter
        seen[-a] = b
    return seen, words


RESULT = run(["ab", "c", "dec", "fgh"])
""",
    "whiles": """
def run(n):
    steps = []
    while n > 1 and n != 99 or not steps:
        n = n // 2 if n % 2 == 0 and n > 0 else 3 * n + 1
        steps.append(n)
        if len(steps) > 20 or n == 4:
            break
    while True:
        n -= 1
        if n < 0:
            return steps, n
        while (m := n % 3):
            n -= m
            steps.append(m)


RESULT = [run(n) for n in (1, 7, 9, 27)]
""",
    "branches": """
def run(a, b, c):
    # notes between
    if a and (b or c):
        # one
        found = "x"
        if not (a or b):
            found += "!"
        else:
            found += "?"
        # behind
    elif not (a and b) and not c:
        found = "y"
    else:
        found = "z"
    if c:
        text = '''in
    a string'''
    else:
        text = ""
    kept = [w for w in (a, b, c) if w and w != b or not w]
    return found, kept, text, (a or b, a and b), not (a and not b), not a or b, c and not (a and b), not (a or b) == c


RESULT = [run(a, b, c) for a in (0, 1, "s") for b in (0, 2) for c in (0, 3)]
""",
    "names": """
import math


class Shelf:
    size = 3

    def grow(self, size):
        step = size + self.size
        for step in range(step):
            self.size += step
        return self.size


def run(values, *, scale=1):
    total = 0
    largest = None

    def take(value):
        nonlocal total
        total += value * scale
        return total

    for value in values:
        take(value)
        largest = value if largest is None or value > largest else largest
    try:
        total / 0
    except ZeroDivisionError as problem:
        note = type(problem).__name__
    label = f"{total} of {largest!r:>5} and {(lambda total: -total)(2)}"
    shown = f"{note=}"
    return label, shown, [total for total in values if total < 3], math.floor(2.5), Shelf().grow(2)


RESULT = run([3, 1, 2]), run([1], scale=4)
""",
}
SYNTAX = [item.name for item in chosen(["syntax"])]


def loaded(path: Path, source: str) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SYNTAX)
def test_programs_with_traps_give_what_they_gave(name, tmp_path):
    num_changed = 0
    for title, source in TRICKY.items():
        expected = loaded(tmp_path / f"{title}.py", source).RESULT
        border = source.index("\n\nRESULT") + 1
        snippet = Snippet(prompt=source[:border], rest=source[border:])
        for seed in range(4):
            changed = perturb(perturbation(name), snippet, seed=seed, task=title)
            if changed is not None:
                num_changed += 1
                found = loaded(tmp_path / f"{title}_{seed}.py", changed.prompt + changed.rest).RESULT
                assert found == expected, f"{title}, seed {seed}:\n{changed.prompt}"
    # These cuts lie outside of functions, where no code is put that does not run.
    assert num_changed >= {"exchanged_branches": 1, "dead_code_at_end": 0}.get(name, 3)


@pytest.mark.parametrize("title", TRICKY)
def test_programs_cut_in_the_middle_give_what_they_gave(title, tmp_path):
    source = TRICKY[title]
    expected = loaded(tmp_path / "nominal.py", source).RESULT
    head = source.index("\ndef run") + 1
    snippet = partial(Snippet(prompt=source[: source.index("\n", head) + 1], rest=source[source.index("\n", head) + 1 :]))
    assert snippet is not None
    kinds: Counter[str] = Counter()
    for item in chosen(["syntax"]):
        changed = perturb(item, snippet, seed=1, task=title)
        if changed is None:
            continue
        kinds[item.name] += 1
        found = loaded(tmp_path / f"{item.name}.py", changed.prompt + changed.rest).RESULT
        assert found == expected, f"{item.name}:\n{changed.prompt}"
        if not item.name.startswith("variable"):
            assert changed.rest == snippet.rest
    assert len(kinds) >= 2, kinds


def test_gold_solutions_of_our_problems_still_pass(tmp_path):
    """Every perturbation of every family, on the packaged problems: program and tests run as one module."""
    num_changed: Counter[str] = Counter()
    for problem in load_problems("graded"):
        snippet = Snippet(prompt=problem.prompt, rest=problem.canonical_solution, entry_point=problem.entry_point, tests=problem.tests)
        half = partial(snippet) or snippet
        for item in chosen([]):
            changed = perturb(item, half if item.partial else snippet, seed=0, task=problem.task_id)
            if changed is not None:
                num_changed[item.family] += 1
                path = tmp_path / f"{item.name}_{problem.entry_point}.py"
                loaded(path, f"{changed.prompt}{changed.rest}\n{changed.tests}\n")
    assert min(num_changed[family] for family in ("docstring", "function_name", "format", "syntax")) > 100, num_changed


def test_a_loop_over_range_is_a_counter():
    snippet = Snippet(prompt="def f(n):\n    for i in range(2, n):\n        print(i)\n", rest="    return 0\n")
    changed = perturb(perturbation("for_to_while"), snippet, seed=0, task="t")
    assert changed is not None
    assert changed.prompt == (
        "def f(n):\n    next_i = 2\n    last_i = n\n    while next_i < last_i:\n        i = next_i\n        next_i += 1\n        print(i)\n"
    )


def test_a_loop_that_goes_on_behind_the_cut_leaves_the_rest():
    snippet = Snippet(prompt="def f(xs):\n    for x in xs:\n", rest="        if x:\n            continue\n        return x\n")
    changed = perturb(perturbation("for_to_while"), snippet, seed=0, task="t")
    assert changed is not None
    assert changed.rest == snippet.rest
    assert "items = iter(xs)\n    while True:\n        try:\n            x = next(items)\n" in changed.prompt


def test_comparisons_turn_only_where_order_cannot_show():
    prompt = "def f(a, b):\n    x = a < len(b)\n    y = a() == b\n    return 1 <= a\n"
    results = {perturb(perturbation("turned_comparisons"), Snippet(prompt=prompt, rest=""), seed=s, task="t").prompt for s in range(20)}
    assert any("x = len(b) > a" in text for text in results)
    assert any("return a >= 1" in text for text in results)
    assert all("y = a() == b" in text for text in results)


def test_a_turned_comparison_does_not_grow_into_a_word_beside_it():
    prompt = "def f(x, y):\n    a = not(x)<y\n    b = x<(y)and x\n    return a, b\n"
    results = {perturb(perturbation("turned_comparisons"), Snippet(prompt=prompt, rest=""), seed=s, task="t").prompt for s in range(20)}
    assert any("a = not y > (x)\n" in text for text in results)
    assert any("b = (y) > x and x\n" in text for text in results)


@pytest.mark.parametrize(
    "prompt",
    [
        "def f(x):\n    return sorted(x, key=x)\nf(x=1)\n",  # a keyword argument
        "def f():\n    global x\n    x = 1\n",
        "x = 1\ndef f():\n    return x\n",
        "def f():\n    import x\n    return x\n",
        "def f(x):\n    # the x of the list\n    return x\n",
        "class C:\n    x = 1\n    def f(self):\n        x = 2\n        return x, self\n",
        "def f(x):\n    return f'{x=}'\n",
    ],
)
def test_names_that_can_be_seen_from_outside_are_kept(prompt):
    assert perturb(perturbation("variable_numbered"), Snippet(prompt=prompt, rest=""), seed=0, task="t") is None


def test_a_program_that_looks_at_its_own_variables_is_left_alone():
    snippet = Snippet(prompt="def f(n):\n    for i in range(n):\n        pass\n", rest="    return locals()\n")
    assert all(perturb(item, snippet, seed=0, task="t") is None for item in chosen(["syntax"]))


def test_a_program_that_does_not_compile_is_left_alone():
    assert all(perturb(item, Snippet(prompt="def f(:\n", rest="x\n"), seed=0, task="t") is None for item in chosen(["syntax"]))


def test_a_module_of_the_standard_library_keeps_its_examples(tmp_path):
    """The documented examples of `statistics`, some eighty, before and after each perturbation of the whole module."""

    def failed(name: str, text: str) -> tuple[int, int]:
        found = doctest.testmod(loaded(tmp_path / f"{name}.py", text), verbose=False, report=False)
        return found.failed, found.attempted

    source = Path(statistics.__file__).read_text(encoding="utf-8")
    expected = failed("nominal", source)
    assert expected[1] > 50
    kinds = 0
    for item in chosen(["syntax"]):
        changed = perturb(item, Snippet(prompt=source, rest=""), seed=0, task="statistics")
        if changed is not None:
            kinds += 1
            assert failed(item.name, changed.prompt) == expected, item.name
    assert kinds >= 7
