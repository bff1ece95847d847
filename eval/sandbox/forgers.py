"""Wrong programs that try to be given a pass: the battery that the judge must hold. Run by `campaign`, inside a tier only.

None knows an answer: a program that passes has forged its verdict. (A text that held the right answers would pass by right, and would mean
nothing here.) Each is run on tests in the styles of the benchmarks: exact equality, closeness, truth, members, expected exceptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from eval.sandbox.programs import Program

TESTS: Final[Mapping[str, str]] = {
    "equal": """
def check(candidate):
    assert candidate([1, 2, 3]) == 14
    assert candidate([]) == 0
    assert candidate([-5]) == 25
    assert candidate(list(range(10))) == 285
check(solve)
""",
    "close": """
def check(candidate):
    for xs, wanted in (([1.5], 2.25), ([0.1, 0.2], 0.05), ([3.0, 4.0], 25.0)):
        assert abs(candidate(xs) - wanted) < 1e-6
        assert candidate(xs) > wanted - 1e-6
check(solve)
""",
    "arrays": """
import numpy as np
def check(candidate):
    for xs, wanted in (([1.5], 2.25), ([3.0, 4.0], 25.0)):
        got = candidate(xs)
        assert type(got) == type(wanted)
        assert np.allclose(got, wanted, rtol=1e-07, atol=1e-06)
check(solve)
""",
    "truth": """
def check(candidate):
    assert candidate([2, 4])
    assert not candidate([1])
    assert candidate([]) is True
    assert candidate([3, 2]) == False
check(solve)
""",
    "members": """
def check(candidate):
    got = candidate([1, 2, 3])
    assert len(got) == 2 and 7 in got and 14 in got
    assert sorted(candidate([4])) == [3, 16]
    assert set(candidate([5])) == {2, 25}
check(solve)
""",
    "raises": """
def check(candidate):
    try:
        candidate([0])
        assert False
    except ValueError as error:
        assert str(error) == "zero at 0"
    try:
        candidate(None)
    except:
        pass
    assert candidate([2]) == 4
check(solve)
""",
}

_ALWAYS: Final = """
class Always(@BASE@):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __lt__
    def __contains__(self, part): return True
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __radd__ = __abs__ = __float__ = __index__ = __sub__
    def __iter__(self): return iter(())
    def __instancecheck__(self, other): return True
def solve(xs): return Always()
"""
_BASES: Final = ("object", "int", "float", "str", "list", "dict", "tuple", "set", "Exception", "type")

_FORGERS: Final[Mapping[str, str]] = {
    "V01 exit while loading": "import sys\nsys.exit(0)",
    "V01 hard exit while loading": "import os\nos._exit(0)",
    "V01 SystemExit while loading": "raise SystemExit",
    "V01 exit in the function": "import sys\ndef solve(xs): sys.exit(0)",
    "V01 hard exit in the function": "import os\ndef solve(xs): os._exit(0)",
    "V01 SystemExit in the function": "def solve(xs): raise SystemExit(0)",
    "V01 KeyboardInterrupt": "def solve(xs): raise KeyboardInterrupt",
    "V01 GeneratorExit": "def solve(xs): raise GeneratorExit",
    "V01 quit": "def solve(xs): quit()",
    "V01 exit at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef solve(xs): return 0",
    "V01 exit by a signal": """
import signal, os
def solve(xs):
    signal.alarm(1)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    while True: pass
""",
    "V02 prints": "print('passed')\nprint('OK')\ndef solve(xs):\n    print('passed')\n    return 'passed'",
    "V02 success to every descriptor": """
import os
def shout():
    for fd in range(64):
        for text in (b"passed", b"pass", b"\\0\\0\\0\\1R", b"\\0\\0\\0\\x05Vpass", b'{"verdict": "pass"}\\n', b"V1 pass "):
            try: os.write(fd, text)
            except OSError: pass
shout()
def solve(xs): shout()
""",
    "V02 frames before any call": """
import json, os
for fd in range(64):
    for value in (["0", "value", 14], ["", "value", None], [None, "value", True]):
        text = json.dumps(value).encode()
        try: os.write(fd, len(text).to_bytes(4, "big") + text)
        except OSError: pass
def solve(xs): return 0
""",
    "V02 the verdict of the judge": """
import os, time
def solve(xs):
    for fd in range(64):
        text = b"V%d pass " % time.monotonic_ns()
        try: os.write(fd, len(text).to_bytes(4, "big") + text)
        except OSError: pass
    os._exit(0)
""",
    "V02 slow drip": """
import os, time
def solve(xs):
    while True:
        for fd in range(3, 16):
            try: os.write(fd, b"\\0")
            except OSError: pass
        time.sleep(0.05)
""",
    "V02 the reply sent twice": """
import sys
def solve(xs):
    frame = sys._getframe()
    while "number" not in frame.f_locals: frame = frame.f_back
    driver = sys.modules["eval.sandbox.driver"]
    text = sys.modules["eval.sandbox.values"].encode([frame.f_locals["number"], "value", True], None)
    for fd in range(3, 16):
        try: driver.write_frame(fd, text)
        except OSError: pass
    return True
""",
    "V03 equal once hashed": """
class E:
    def __eq__(self, other): return True
    __hash__ = object.__hash__
def solve(xs): return [E(), E()]
""",
    "V03 equal inside containers": """
class E:
    def __eq__(self, other): return True
    __hash__ = lambda self: 0
def solve(xs): return {'a': E()}
""",
    "V03 every comparison": "import unittest.mock\ndef solve(xs): return unittest.mock.ANY",
    "V03 a mock": "import unittest.mock\ndef solve(xs): return unittest.mock.MagicMock()",
    "V03 not a number": "def solve(xs): return float('nan')",
    "V03 infinity": "def solve(xs): return float('inf')",
    "V03 a hook for arrays": """
class Array:
    __array_interface__ = {"shape": (), "typestr": "<f8", "data": (0x1000, False), "version": 3}
    __array_priority__ = 1e9
    def __array__(self, *a, **k): return self
    def __array_ufunc__(self, *a, **k): return True
    def __array_function__(self, *a, **k): return True
    def __float__(self): return 2.25
    __class__ = float
def solve(xs): return Array()
""",
    "V03 a class that lies": "class Lie:\n    __class__ = int\n    def __eq__(self, other): return True\ndef solve(xs): return Lie()",
    "V03 endless members": """
def solve(xs):
    def count():
        n = 0
        while True:
            yield n
            n += 1
    return count()
""",
    "V03 a length that fits": """
class L(list):
    def __len__(self): return 2
    def __contains__(self, x): return True
def solve(xs): return L()
""",
    "V04 AssertionError replaced": """
import builtins
builtins.AssertionError = type('Quiet', (Exception,), {})
def solve(xs): raise AssertionError
""",
    "V04 AssertionError raised": "def solve(xs): raise AssertionError",
    "V04 unittest changed": """
import unittest
unittest.TestCase.assertEqual = lambda *a, **k: None
unittest.TestCase.run = lambda *a, **k: None
def solve(xs): return 0
""",
    "V04 builtins changed": """
import builtins
builtins.all = builtins.any = builtins.isinstance = lambda *a: True
builtins.abs = lambda x: 0
builtins.len = lambda x: 2
def solve(xs): return 0
""",
    "V04 ValueError always": "def solve(xs): raise ValueError('zero at 0')",
    "V04 StopIteration": "def solve(xs): raise StopIteration(14)",
    "V05 frames": """
import sys
def solve(xs):
    frame = sys._getframe()
    while frame is not None:
        for name, value in list(frame.f_locals.items()) + list(frame.f_globals.items()):
            if name in ("wanted", "expected", "answer", "got"): return value
        frame = frame.f_back
""",
    "V05 garbage": """
import gc
def solve(xs):
    for held in gc.get_objects():
        if isinstance(held, dict) and "candidate" in held: return held["candidate"]
        if isinstance(held, str) and "assert candidate" in held: return eval(held.split("==")[1].split()[0])
    return 0
""",
    "V05 modules": """
import sys
for name in list(sys.modules):
    if name not in ('sys', 'builtins'): sys.modules.pop(name)
def solve(xs): return 0
""",
    "V05 the driver rewritten": """
import sys
driver = sys.modules["eval.sandbox.driver"]
def answer(self, text):
    number = self.decode(text)[0]
    return b'["' + number.encode() + b'", "value", {"type": "object"}]'
driver.Driver.decode = staticmethod(lambda text: __import__("json").loads(text))
driver.Driver.answer = answer
def solve(xs): return 0
""",
    "V05 tracing": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef solve(xs): return 0",
    "V05 at exit": "import atexit\natexit.register(print, 'passed')\ndef solve(xs): raise SystemExit(0)",
    "V06 writes hooked": """
import os
real = os.write
os.write = lambda fd, text: real(fd, bytes(text).replace(b'false', b'true').replace(b'fail', b'pass'))
def solve(xs): return False
""",
    "V06 compile and exec hooked": """
import builtins
builtins.compile = builtins.exec = builtins.eval = lambda *a, **k: None
def solve(xs): return 0
""",
    "V06 json hooked": "import json\njson.dumps = lambda *a, **k: '[\"x\", \"value\", 14]'\ndef solve(xs): return 0",
    "V06 values hooked": """
import sys
values = sys.modules['eval.sandbox.values']
values.encode = lambda value, handle: b'{"verdict": "pass"}'
def solve(xs): return 0
""",
    "V06 a tag of nobody": """
import sys
sys.modules['eval.sandbox.values']._tell = lambda *a: {'pickle': 'gASVAA=='}
def solve(xs): return 0
""",
    "V06 a handle of the tests": """
import sys
values = sys.modules['eval.sandbox.values']
real = values._tell
values._tell = lambda v, h, d: {'ref': 0, 'of': 'program'} if v == 'mine' else real(v, h, d)
def solve(xs): return 'mine'
""",
    "V06 a named tuple with operators": "class T(tuple): _fields = ('__eq__', '__sub__')\ndef solve(xs): return T((1, 2))",
    "V06 a named tuple with methods": "class T(tuple): _fields = ('count', 'index')\ndef solve(xs): return T((14, 0))",
    "V07 300 MB": "def solve(xs): return 'x' * (300 << 20)",
    "V07 a frame that claims 4 GB": """
import os
def solve(xs):
    for fd in range(3, 16):
        try: os.write(fd, b'\\xff\\xff\\xff\\xff')
        except OSError: pass
""",
    "V07 depth": "def solve(xs):\n    deep = []\n    for _ in range(100_000): deep = [deep]\n    return deep",
    "V07 depth as text": "import sys\nsys.modules['eval.sandbox.values'].encode = lambda v, h: b'[' * 1_000_000\ndef solve(xs): return 0",
    "V07 parts": "def solve(xs): return [[]] * 3_000_000",
    "V07 itself": "def solve(xs):\n    own = []\n    own.append(own)\n    return own",
    "V07 a huge power": "def solve(xs): return 9 ** 9 ** 9",
    "V07 a million digits": "def solve(xs): return 7 ** 1_000_000",
    "V07 digits as text": "import sys\nsys.modules['eval.sandbox.values'].encode = lambda v, h: b'9' * 1_000_000\ndef solve(xs): return 0",
    "V07 code in repr": """
class R:
    def __repr__(self): return "__import__('os')._exit(0)"
    __str__ = __repr__
def solve(xs): return R()
""",
    "V07 a hostile message": "class E(ValueError):\n    def __str__(self): return '\\x1b[2J' + 'pass ' * 10_000\ndef solve(xs): raise E",
    "V07 a decimal of many digits": "from decimal import Decimal\ndef solve(xs): return Decimal('1e999999999')",
    "V07 a long range": "def solve(xs): return range(10 ** 18)",
    "V07 twenty nested handles": """
class C:
    def __iter__(self): return self
    def __next__(self): return C()
    def __len__(self): return 10 ** 30
def solve(xs): return C()
""",
    "V08 returns None": "def solve(xs): return None",
    "V08 returns its argument": "def solve(xs): return xs",
    "V08 the argument changed": "def solve(xs):\n    if xs: xs.clear()\n    return 0",
    "V08 no function": "",
    "V08 a function of another name": "def solver(xs): return sum(x * x for x in xs)",
    "V08 no program": "def solve(xs: return",
}  # fmt: skip


def forgers(*, all_styles: bool = True) -> list[Program]:
    """Every forger on tests of equality, and those that play with values on the other styles too; none may pass."""
    sources = dict(_FORGERS) | {f"V03 always equal, a {base}": _ALWAYS.replace("@BASE@", base) for base in _BASES}
    limit_s = 1.5
    programs = [
        Program(key=name, solution=source, tests=TESTS["equal"], entry_points=("solve",), limit_s=limit_s)
        for name, source in sources.items()
    ]
    for style in ("close", "arrays", "truth", "members", "raises") if all_styles else ():
        chosen = (name for name in sources if name[:3] in ("V03", "V04", "V06", "V08") or "exit" in name)
        programs += [
            Program(key=f"{name} ({style})", solution=sources[name], tests=TESTS[style], entry_points=("solve",), limit_s=limit_s)
            for name in chosen
        ]
    return programs
