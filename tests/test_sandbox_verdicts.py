"""Verdicts: what a program returns is judged as plain Python would judge it; texts, errors, limits and order are what they say."""

from __future__ import annotations

import pytest

from eval.sandbox import Outcome, Program, Sandbox
from proxy_lm.errors import RequestError


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox.open(num_slots=2) as opened:
        yield opened


def program(key: str, solution: str | bytes, tests: str, **settings) -> Program:
    return Program(key=key, solution=solution, tests=tests, **({"entry_points": ("f",), "limit_s": 20.0} | settings))


def verdict(sandbox: Sandbox, solution: str | bytes, tests: str, **settings) -> Outcome:
    (outcome,) = sandbox.judge([program("one", solution, tests, **settings)])
    return outcome


# What the function returns, what the test asserts of `f()`, and whether plain Python holds it true.
COERCIONS = {
    "a generator is no list": ("(x for x in [1, 2])", "f() == [1, 2]", False),
    "a generator listed": ("(x for x in [1, 2])", "list(f()) == [1, 2]", True),
    "a map": ("map(str, [1])", "list(f()) == ['1']", True),
    "a filter by hand": ("filter(None, [0, 1])", "next(f()) == 1", True),
    "a zip in a dict": ("zip('ab', [1, 2])", "dict(f()) == {'a': 1, 'b': 2}", True),
    "an endless generator": ("__import__('itertools').count(5)", "next(f()) == 5", True),
    "a generator has no length": ("(x for x in [])", "len(f()) == 0", False),
    "Counter for dict": ("__import__('collections').Counter('aab')", "f() == {'a': 2, 'b': 1}", True),
    "Counter keeps its methods": ("__import__('collections').Counter('aab')", "f().most_common(1) == [('a', 2)]", True),
    "defaultdict for dict": ("__import__('collections').defaultdict(list, a=[1])", "f() == {'a': [1]}", True),
    "OrderedDict for dict": ("__import__('collections').OrderedDict(a=1)", "f() == {'a': 1}", True),
    "namedtuple for tuple": ("__import__('collections').namedtuple('P', 'x y')(1, 2)", "f() == (1, 2) and f().x == 1", True),
    "bool for int": ("True", "f() == 1", True),
    "int for bool": ("1", "f() is True", False),
    "int for float": ("2", "f() == 2.0", True),
    "float for int": ("2.0", "f() == 2", True),
    "float is no int": ("2.0", "type(f()) is int", False),
    "minus zero": ("-0.0", "f() == 0 and str(f()) == '-0.0'", True),
    "not a number": ("float('nan')", "f() != f()", True),
    "infinity": ("float('inf')", "f() > 10 ** 300", True),
    "tuple for list": ("(1, 2)", "f() == [1, 2]", False),
    "list for tuple": ("[1, 2]", "tuple(f()) == (1, 2)", True),
    "set": ("{1, 2}", "f() == {2, 1}", True),
    "frozenset for set": ("frozenset({1})", "f() == {1}", True),
    "range for list": ("range(3)", "f() == [0, 1, 2]", False),
    "range listed": ("range(3)", "list(f()) == [0, 1, 2]", True),
    "keys for set": ("{'a': 1}.keys()", "f() == {'a'}", True),
    "values listed": ("{'a': 1}.values()", "sorted(f()) == [1]", True),
    "items for set": ("{'a': 1}.items()", "f() == {('a', 1)}", True),
    "str subclass": ("type('S', (str,), {})('x')", "f() == 'x'", True),
    "enumeration of ints": ("__import__('enum').IntEnum('E', 'A B').B", "f() == 2", True),
    "complex": ("1j ** 2", "f() == -1", True),
    "bytes": ("b'a\\xff'", "f() == b'a\\xff'", True),
    "bytes for str": ("b'a'", "f() == 'a'", False),
    "a type": ("int", "f() is int", True),
    "None": ("None", "f() is None", True),
    "None is no answer": ("None", "f() == 0", False),
    "a large integer": ("3 ** 20000", "f() == 3 ** 20000", True),
    "surrogates": ("'\\ud800'", "f() == '\\ud800'", True),
    "deque": ("__import__('collections').deque([1, 2])", "list(f()) == [1, 2]", True),
    "Decimal": ("__import__('decimal').Decimal('0.1')", "str(f()) == '0.1'", True),
    "Fraction": ("__import__('fractions').Fraction(1, 2)", "f() == 0.5", True),
    "a match is true": ("__import__('re').match('a', 'ab')", "f()", True),
    "a match asked": ("__import__('re').match('(a)', 'ab')", "f().group(1) == 'a'", True),
    "an object of its own is false": ("type('Z', (), {'__bool__': lambda self: False})()", "not f()", True),
    "a list of objects": ("[__import__('re').compile('a')]", "f()[0].pattern == 'a'", True),
    "one object is itself": ("__import__('re')", "f() == f() and f() is f()", True),
    "a member is itself": ("__import__('uuid').SafeUUID", "f().safe == f().safe and f().safe != f().unsafe", True),
    "nested": ("{1: [(2, {3})], 'x': None}", "f() == {1: [(2, {3})], 'x': None}", True),
    "keys of two kinds": ("{1: 'a', '1': 'b', None: 'c', (1,): 'd'}", "f() == {1: 'a', '1': 'b', None: 'c', (1,): 'd'}", True),
    "Ellipsis": ("...", "f() is ...", True),
}  # fmt: skip


def test_what_is_returned_is_judged_as_plain_python_judges_it(sandbox):
    programs = [program(name, f"def f():\n    return {value}\n", f"assert {test}") for name, (value, test, _) in COERCIONS.items()]
    got = {outcome.key: outcome.verdict == "pass" for outcome in sandbox.judge(programs)}
    assert got == {name: wanted for name, (_, _, wanted) in COERCIONS.items()}


def plainly(value: str, test: str) -> bool:
    """The same assertion in this process."""
    namespace: dict[str, object] = {}
    try:
        exec(f"def f():\n    return {value}\nassert {test}", namespace)
    except Exception:
        return False
    return True


def test_the_table_is_what_plain_python_says():
    assert {name: plainly(value, test) for name, (value, test, _) in COERCIONS.items()} == {
        n: wanted for n, (_, _, wanted) in COERCIONS.items()
    }


LATIN = "# coding: latin-1\ndef f():\n    return 'é'\n".encode("latin-1")
TEXTS = {
    "empty": ("", "pass", "fail"),
    "a NUL": ("def f():\n    return 1\n\0", "assert f() == 1", "fail"),
    "a lone surrogate": ("def f():\n    return '\ud800'\n", "assert f()", "fail"),
    "a lone surrogate in a comment": ("# \ud800\ndef f():\n    return 1\n", "assert f() == 1", "fail"),
    "10 MB": ("def f():\n    return 1\n" + "# a comment\n" * 870_000, "assert f() == 1", "pass"),
    "over 16 MB": ("def f():\n    return 1\n" + "# a comment\n" * 1_500_000, "assert f() == 1", "fail"),
    "a coding line": (LATIN, "assert f() == '\\u00e9'", "pass"),
    "a coding that is none": (b"# coding: klingon\ndef f():\n    return 1\n", "assert f() == 1", "fail"),
    "bytes that are no UTF-8": (b"def f():\n    return '\xff'\n", "assert f()", "fail"),
    "tabs and blanks mixed": ("def f():\n\tif True:\n        return 1\n", "assert f() == 1", "fail"),
    "tabs": ("def f():\n\treturn 1\n", "assert f() == 1", "pass"),
    "a byte order mark": (b"\xef\xbb\xbfdef f():\n    return 1\n", "assert f() == 1", "pass"),
    "no final line end": ("def f(): return 1", "assert f() == 1", "pass"),
    "carriage returns": ("def f():\r\n    return 1\r\n", "assert f() == 1", "pass"),
    "deep brackets": ("x = " + "(" * 5000, "assert f() == 1", "fail"),
    "a future import": ("from __future__ import annotations\ndef f(x: Nothing = 1): return x", "assert f() == 1", "pass"),
    "a main part": ("def f(): return 1\nif __name__ == '__main__':\n    raise SystemExit(1)\n", "assert f() == 1", "pass"),
    "a dataclass": ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\ndef f(): return P(3)", "assert f().x == 3", "pass"),
}


def test_texts_of_every_kind_have_a_verdict(sandbox):
    programs = [program(name, text, tests) for name, (text, tests, _) in TEXTS.items()]
    got = {outcome.key: outcome.verdict for outcome in sandbox.judge(programs)}
    assert got == {name: wanted for name, (_, _, wanted) in TEXTS.items()} | {"empty": "fail"}


def test_exceptions_are_those_that_tests_expect(sandbox):
    solution = """
class Own(ValueError): pass
def f(kind):
    if kind == "own": raise Own("own words")
    if kind == "key": return {}["k"]
    if kind == "index": return [][0]
    if kind == "zero": return 1 // 0
    if kind == "unicode": return b"\\xff".decode()
    if kind == "stop": raise StopIteration
    if kind == "assert": assert False, "no"
"""
    tests = """
def raised(kind):
    try:
        f(kind)
    except Exception as error:
        return type(error), str(error)
assert raised("own") == (ValueError, "own words")
assert raised("key") == (KeyError, repr("'k'"))
assert raised("index")[0] is IndexError
assert raised("zero") == (ZeroDivisionError, "integer division or modulo by zero")
assert issubclass(raised("unicode")[0], ValueError)
assert raised("stop")[0] is StopIteration
assert raised("assert") == (AssertionError, "no")
assert raised("none") is None
"""
    outcome = verdict(sandbox, solution, tests)
    assert (outcome.verdict, outcome.reason) == ("pass", "")


def test_objects_of_the_program_are_built_and_linked_by_tests(sandbox):
    solution = """
class Node:
    def __init__(self, data, left=None):
        self.data, self.left, self.right = data, left, None
    def double(self, times=2): return self.data * times
def f(node): return 0 if node is None else 1 + max(f(node.left), f(node.right))
LIMIT = 7
"""
    tests = """
root = Node(1)
root.left = Node(2, left=Node(3))
assert f(root) == 3
assert root.left.data == 2 and root.left.left.double(times=3) == 9
assert LIMIT == 7
assert [n.data for n in [root, root.left]] == [1, 2]
"""
    assert verdict(sandbox, solution, tests, entry_points=("f", "Node", "LIMIT")).verdict == "pass"


def test_helpers_of_the_problem_are_not_the_programs(sandbox):
    solution = "def close(a, b): return True\ndef f(): return 3\n"
    helpers = "def close(a, b): return abs(a - b) < 1\ndef f(): return None\n"
    outcome = verdict(sandbox, solution, "assert close(f(), 14)", helpers=helpers)
    assert outcome.verdict == "fail"
    assert verdict(sandbox, solution, "assert close(f(), 3.5)", helpers=helpers).verdict == "pass"


def test_tests_with_arrays(sandbox):
    tests = """
import numpy as np
assert np.allclose(f(3), [0.0, 1.0, 2.0], atol=1e-6)
assert f(np.float64(2)) == [0.0, 1.0]
try:
    np.asarray(g())
    np.allclose(g(), 1.0)
except TypeError:
    pass
else:
    assert False
"""
    solution = """
def f(n): return [float(k) for k in range(int(n))]
class Hook:
    __array_interface__ = {"shape": (1,), "typestr": "<f8", "data": (4096, False), "version": 3}
    def __array__(self, *a, **k): return [1.0]
def g(): return Hook()
"""
    outcome = verdict(sandbox, solution, tests, entry_points=("f", "g"))
    assert (outcome.verdict, outcome.reason) == ("pass", "")


def test_objects_of_the_program_are_not_copied_out(sandbox):
    tests = """
import copy
for make in (copy.copy, copy.deepcopy):
    try:
        make(f())
    except TypeError as error:
        assert str(error) == "a Match in the sandbox cannot be copied"
    else:
        assert False
"""
    outcome = verdict(sandbox, "import re\ndef f(): return re.match('a', 'a')", tests)
    assert (outcome.verdict, outcome.reason) == ("pass", "")


def test_an_answer_that_cannot_be_told_is_no_exception_of_the_program(sandbox):
    solution = "def f():\n    own = []\n    own.append(own)\n    return own\n"
    outcome = verdict(sandbox, solution, "try:\n    f()\nexcept Exception:\n    pass\nelse:\n    assert False")
    assert (outcome.verdict, outcome.reason) == ("fail", "the answer cannot be told: a value nested deeper than 150 levels")


def test_a_process_that_ends_is_not_caught_by_the_tests(sandbox):
    for ending in ("os._exit(0)", "sys.exit(0)", "os.abort()"):
        outcome = verdict(sandbox, f"import os, sys\ndef f(): {ending}", "try:\n    f()\nexcept:\n    pass")
        assert outcome.verdict == "fail"


def test_arguments_are_copies(sandbox):
    tests = "xs = [3, 1]\nassert f(xs) == [1, 3]\nassert xs == [3, 1]"
    assert verdict(sandbox, "def f(xs):\n    xs.sort()\n    return xs\n", tests).verdict == "pass"


def test_a_function_for_an_argument_is_told_as_such(sandbox):
    outcome = verdict(sandbox, "def f(g): return g(1)\n", "assert f(lambda x: x) == 1")
    assert outcome.verdict == "fail"
    assert "an argument cannot enter the sandbox: a function of the tests" in outcome.reason


def test_assertions_hold_though_python_is_told_to_optimise(sandbox, monkeypatch):
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    with Sandbox.open(num_slots=1) as optimised:
        assert verdict(optimised, "def f(): return 1\n", "assert f() == 2").verdict == "fail"


def test_the_reason_says_where_and_has_no_control_characters(sandbox):
    outcome = verdict(sandbox, "def f(x):\n    raise KeyError('\\x1b[2J\\n' * 500)\n", "x = 1\nassert f(x) == 2")
    assert outcome.reason.startswith("tests: KeyError: ")
    assert outcome.reason.isprintable() or "�" in outcome.reason
    assert len(outcome.reason) <= 300
    assert (
        verdict(sandbox, "def f(x): return 1", "x = 1\nassert f(x) == 2").reason
        == "tests: AssertionError (line 2 of the tests: assert f(x) == 2)"
    )


def test_a_timeout_is_no_fail(sandbox):
    slow = verdict(sandbox, "import time\ndef f(): time.sleep(9)\n", "f()", limit_s=0.5)
    assert (slow.verdict, slow.reason) == ("timeout", "over 0.5 s")
    assert verdict(sandbox, "import time\ndef f(): time.sleep(0.2)\n", "f()", limit_s=20).verdict == "pass"
    assert verdict(sandbox, "def f(): return 1\n", "while True: f()", limit_s=0.5).verdict == "timeout"


def test_seconds_are_those_of_the_program(sandbox):
    compute = "import time\ndef f():\n    end = time.thread_time() + 0.3\n    while time.thread_time() < end: pass\n"
    (computing, sleeping) = sandbox.judge([program("1", compute, "f()"), program("2", "import time\ndef f(): time.sleep(0.3)", "f()")])
    assert 0.25 <= computing.seconds <= 5  # a machine may be slow; a sandbox's start or a limit (10 s and more) would show all the same
    assert 0.25 <= sleeping.seconds <= 5


def test_outcomes_come_in_the_order_of_the_programs(sandbox):
    programs = [
        program(str(k), f"import time\ndef f():\n    time.sleep({0.3 if k == 0 else 0})\n    return {k % 2}\n", "assert f()")
        for k in range(8)
    ]
    outcomes = list(sandbox.judge(programs))
    assert [outcome.key for outcome in outcomes] == [str(k) for k in range(8)]
    assert [outcome.verdict for outcome in outcomes] == ["fail", "pass"] * 4
    assert {outcome.tier for outcome in outcomes} == {sandbox.tier}


def test_programs_are_read_as_slots_become_free(sandbox):
    read = []

    def endless():
        while True:
            read.append(None)
            yield program(str(len(read)), "def f(): return 1", "assert f() == 1")

    outcomes = sandbox.judge(endless())
    assert next(outcomes).verdict == "pass"
    outcomes.close()
    assert len(read) <= 2 + 16 * 2
    assert verdict(sandbox, "def f(): return 1", "assert f() == 1").verdict == "pass"


def test_the_same_set_order_every_time(sandbox):
    solution = "def f(): return list({'a', 'b', 'c', 'd', 'e', 'f'})\n"
    outcomes = sandbox.judge([program(str(k), solution, "raise LookupError(''.join(f()))") for k in range(4)])
    assert len({outcome.reason for outcome in outcomes}) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"limit_s": 0.0}, "a limit is over 0"),
        ({"limit_s": float("nan")}, "a limit is over 0"),
        ({"memory_bytes": 1000}, "the interpreter alone needs"),
        ({"entry_points": ("f()",)}, "is not a Python name"),
    ],
)
def test_programs_that_make_no_sense_are_refused(settings, sentence):
    with pytest.raises(RequestError, match=sentence):
        program("x", "", "", **settings)


def test_two_programs_of_one_key_are_refused(sandbox):
    twice = program("same", "def f(): return 1", "assert f() == 1")
    with pytest.raises(RequestError, match="two programs have the key 'same'"):
        list(sandbox.judge([twice, twice]))


def test_numbers_of_programs_at_once(sandbox):
    with pytest.raises(RequestError, match="num_at_once 0"):
        sandbox.judge([], num_at_once=0)
    with pytest.raises(RequestError, match="num_slots 0"):
        Sandbox.open(num_slots=0)
    assert list(sandbox.judge([])) == []
