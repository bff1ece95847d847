"""A fault of the machine is never a verdict: it is tried again, then the evaluation ends; and without a tier nothing is run at all."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eval.sandbox import TIERS, Program, Sandbox
from proxy_lm import machine
from proxy_lm.errors import RequestError, WorkError

PATH = os.pathsep.join([str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
RIGHT = "import time\ndef f():\n    time.sleep(0.7)\n    return 1\n"


def right(key: str = "right", solution: str = "def f(): return 1\n") -> Program:
    return Program(key=key, solution=solution, tests="assert f() == 1", entry_points=("f",), limit_s=30)


def parents() -> dict[int, tuple[int, str]]:
    """{process: (its parent, its name)} of this machine."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = Path(f"/proc/{name}/stat").read_text()
        except OSError:
            continue
        found[int(name)] = (int(text.rpartition(")")[2].split()[1]), text.partition("(")[2].rpartition(")")[0])
    return found


def descendants(pid: int) -> list[int]:
    """All processes under `pid`, nearest first."""
    tree = parents()
    found, level = [], [pid]
    while level:
        level = [child for child, (parent, _) in tree.items() if parent in level]
        found += level
    return found


def wait_until(condition: Callable[[], bool], limit_s: float = 20) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def judge_while(sandbox: Sandbox, deed: Callable[[int], bool], times: int) -> tuple[str, int]:
    """The verdict on a right program while `deed(pid of the slot)` is done to its processes, and how often it was done."""
    done = []

    def disturb() -> None:
        for _ in range(times):
            if wait_until(lambda: any(deed(pid) for pid in sandbox.pids)):
                done.append(None)
                time.sleep(0.2)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        (outcome,) = sandbox.judge([right(solution=RIGHT)])
        return outcome.verdict, len(done)
    finally:
        thread.join()


def kill_the_slot(pid: int) -> bool:
    if not any(deep for child in descendants(pid) for deep in descendants(child)) and len(descendants(pid)) < 2:
        return False
    os.kill(pid, signal.SIGKILL)
    return True


def kill_the_sandbox(pid: int) -> bool:
    found = [child for child, (parent, _) in parents().items() if parent == pid]
    programs = [child for child in found if not is_judge(child)]
    if len(found) != 2 or len(programs) != 1:
        return False
    time.sleep(0.3)  # until it is ready: before, it is a sandbox that did not start
    os.kill(programs[0], signal.SIGKILL)
    return True


def kill_the_judge(pid: int) -> bool:
    judges = [child for child, (parent, _) in parents().items() if parent == pid and is_judge(child)]
    if len(judges) != 1 or len(descendants(pid)) < 2:
        return False
    time.sleep(0.3)
    os.kill(judges[0], signal.SIGKILL)
    return True


def is_judge(pid: int) -> bool:
    """The judge is a fork of the slot: it has its command line."""
    try:
        return b"eval.sandbox.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def kill_the_program(pid: int) -> bool:
    deepest = descendants(pid)[-1:]
    if not deepest or is_judge(deepest[0]) or len(descendants(pid)) < 3:
        return False
    time.sleep(0.3)
    os.kill(deepest[0], signal.SIGKILL)
    return True


@pytest.mark.parametrize("deed", [kill_the_slot, kill_the_sandbox, kill_the_judge, kill_the_program])
def test_a_process_killed_from_outside_is_no_verdict(deed):
    with Sandbox.open(num_slots=1) as sandbox:
        if deed is kill_the_program and sandbox.tier == "landlock":
            pytest.skip("without namespaces the program is the sandbox's only process; killed in the test before")
        verdict, times = judge_while(sandbox, deed, 1)
        assert times == 1
        assert verdict == "pass"


def test_killed_three_times_ends_the_evaluation():
    with (
        Sandbox.open(num_slots=1) as sandbox,
        pytest.raises(WorkError, match=r"fault of the machine and no verdict.*run the same command again"),
    ):
        judge_while(sandbox, kill_the_slot, 3)


@pytest.fixture
def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A `bwrap` on the path that a test may change, in front of the real one."""
    real = shutil.which("bwrap")
    if real is None:
        pytest.skip("bubblewrap is not installed here")
    wrapper = tmp_path / "bwrap"
    write_wrapper(wrapper, f'exec {real} "$@"')
    tmp_path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return wrapper


def write_wrapper(wrapper: Path, line: str) -> None:
    fresh = wrapper.with_name("fresh")
    fresh.write_text(f"#!/bin/sh\n{line}\n")
    fresh.chmod(0o755)
    fresh.replace(wrapper)


def open_wrapped() -> Sandbox:
    sandbox = Sandbox.open(num_slots=1)
    if not sandbox.tier.startswith("bwrap"):
        sandbox.close()
        pytest.skip("no tier with bubblewrap works here")
    return sandbox


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("echo 'Creating new namespace failed: Resource temporarily unavailable' >&2; exit 1", "Resource temporarily unavailable"),
        ("echo 'Can not make symlink: No space left on device' >&2; exit 1", "No space left on device"),
        ("kill -9 $$", "the sandbox did not start: it said nothing"),
        ("exit 0", "the sandbox did not start: it said nothing"),
        ('printf "\\0\\0\\0\\020not what was asked"; exec /bin/sleep 5', "the sandbox did not start"),
    ],
    ids=["no more processes", "full disk", "killed", "nothing done", "unreadable"],
)
def test_a_sandbox_that_does_not_start_is_no_verdict(wrapped, line, sentence):
    with open_wrapped() as sandbox:
        write_wrapper(wrapped, line)
        with pytest.raises(WorkError, match=sentence):
            list(sandbox.judge([right()]))


def test_a_sandbox_that_starts_at_the_third_time(wrapped, tmp_path):
    with open_wrapped() as sandbox:
        real = wrapped.read_text().splitlines()[1]
        count = tmp_path / "count"
        count.write_text("")
        count.chmod(0o666)
        write_wrapper(wrapped, f"PATH=/usr/bin:/bin; echo x >> {count}; [ $(wc -l < {count}) -gt 2 ] || exit 1; {real}")
        assert [outcome.verdict for outcome in sandbox.judge([right()])] == ["pass"]
        assert count.read_text() == "x\nx\nx\n"


def test_bubblewrap_gone_is_no_verdict(wrapped):
    with open_wrapped() as sandbox:
        wrapped.unlink()
        with pytest.raises(WorkError, match="bubblewrap is not installed"):
            list(sandbox.judge([right()]))


def test_no_descriptors_left_is_no_verdict():
    with Sandbox.open(num_slots=1) as sandbox:
        (pid,) = sandbox.pids
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, 8))
        with pytest.raises(WorkError, match="Too many open files"):
            list(sandbox.judge([right()]))


def test_no_disk_is_needed(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    monkeypatch.setenv("HOME", str(tmp_path / "absent"))
    monkeypatch.chdir("/proc")
    with Sandbox.open(num_slots=1) as sandbox:
        assert [outcome.verdict for outcome in sandbox.judge([right()])] == ["pass"]


def test_a_program_cannot_end_the_evaluation_by_seeming_killed():
    solution = "import os\ndef f(): os._exit(137)\n"
    with Sandbox.open(num_slots=1) as sandbox:
        (outcome,) = sandbox.judge([right(solution=solution)])
        assert outcome.verdict == "fail"


SCRIPT = """
from eval.sandbox import Program, Sandbox
sandbox = Sandbox.open(num_slots=2)
print("open", flush=True)
loop = "def f():\\n    while True: pass\\n"
print(next(sandbox.judge(Program(key=str(k), solution=loop, tests="f()", entry_points=("f",), limit_s=60) for k in range(200))))
"""


@pytest.mark.parametrize("whom", ["command", "slots"])
def test_everything_ends_with_the_command_or_its_slots(whom):
    environment = {**os.environ, "PYTHONPATH": PATH}
    command = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, env=environment)
    assert command.stdout is not None
    assert command.stdout.readline() == "open\n"
    assert wait_until(lambda: len(descendants(command.pid)) >= 2 * (1 + 2))
    started = descendants(command.pid)
    if whom == "slots":
        for pid in [pid for pid in started if parents().get(pid, (0, ""))[0] == command.pid]:
            os.kill(pid, signal.SIGKILL)
    command.kill()
    command.wait()
    command.stdout.close()
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() and not is_zombie(pid) for pid in started)), parents()


def is_zombie(pid: int) -> bool:
    """Ended, and waited for by nobody of ours: its parent is the machine's first process by now."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


NO_LANDLOCK = """
import errno, json, os, struct, sys
from eval.sandbox import Sandbox, confine, filters
from proxy_lm.errors import RequestError
machine = os.uname().machine
program = filters._op(0x20, 0) + filters._op(0x15, 444, 0, 1) + filters._op(0x06, 0x50000 | errno.ENOSYS) + filters._op(0x06, 0x7FFF0000)
confine._prctl(38, 1)
confine.install_filter(program, {"x86_64": 317, "aarch64": 277}[machine])
try:
    Sandbox.open()
except RequestError as error:
    print(json.dumps([error.exit_code, str(error)]))
"""


def test_where_no_tier_works_nothing_is_run(tmp_path):
    environment = {"PYTHONPATH": PATH, "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", NO_LANDLOCK], capture_output=True, text=True, env=environment, timeout=60, check=True)
    code, sentence = json.loads(done.stdout)
    assert code == 2
    assert sentence.startswith("no sandbox works here, and generated programs are never run without one. ")
    for tier, reason in (
        ("bwrap-uid", "bubblewrap is not installed"),
        ("bwrap", "bubblewrap is not installed"),
        ("landlock", "Landlock has version 0"),
    ):
        assert f"{tier}: {reason}" in sentence
    assert "Install bubblewrap" in sentence


@pytest.mark.parametrize("tier", ["none", "unsafe", "", "AUTO"])
def test_there_is_no_tier_without_isolation(tier):
    with pytest.raises(RequestError, match="unknown sandbox tier"):
        Sandbox.open(tier)


def test_doctor_tells_the_tier():
    told = machine.probe_sandbox()
    assert told["tier"] in TIERS
    assert told["why"] == f"generated programs run in tier {told['tier']}"
    broken = machine.probe_sandbox((sys.executable, "-c", "raise SystemExit('no such thing')"))
    assert broken == {"tier": None, "why": "the sandbox could not be tried out: no such thing"}


def test_a_tier_asked_for_by_name_is_that_or_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match=r"the sandbox tier bwrap does not work here: .*or take auto"):
        Sandbox.open("bwrap")
