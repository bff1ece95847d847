"""Try the sandbox of this machine against the whole battery, and measure it.

    python -m eval.sandbox.campaign                        attacks, forgers, speed and hygiene in the tier that `auto` takes
    python -m eval.sandbox.campaign --tier landlock --runs 1000 --hogs 8 --json

Exit code 0 where everything held, 1 where something did not. The programs run inside the tier only; what they aim at (a folder, a secret,
listening sockets) is made for them in a temporary folder. Not covered: faults of the kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from eval.sandbox import confine
from eval.sandbox.attacks import ATTACKS
from eval.sandbox.forgers import forgers
from eval.sandbox.pool import Sandbox
from eval.sandbox.programs import Outcome, Program
from eval.sandbox.tiers import TIERS
from proxy_lm.errors import ProxyError
from proxy_lm.progress import CountProgress

_SECRET_NAME: Final = "SANDBOX_CAMPAIGN_SECRET"
_HOG: Final = "while True: pass"

# For speed, steadiness and hygiene: right, wrong, slow and dying programs, as an evaluation meets them.
_RIGHT: Final = "from typing import List\n\n\ndef solve(xs: List[int]) -> int:\n    return sum(x * x for x in xs)\n"
_MIX: Final[tuple[tuple[str, str, str], ...]] = (
    ("right", _RIGHT, "pass"),
    ("wrong", "def solve(xs):\n    return sum(xs)\n", "fail"),
    ("raising", "def solve(xs):\n    return xs[3]\n", "fail"),
    ("dying", "import os\ndef solve(xs):\n    os.abort()\n", "fail"),
)
_TESTS: Final = "assert solve([1, 2, 3]) == 14\nassert solve([]) == 0\nassert solve([-5]) == 25\n"


class Targets:
    """Places on this host that attacks aim at, and whether they were reached."""

    def __init__(self, folder: Path, supervisor: int) -> None:
        self._folder = folder
        self._secret = secrets.token_hex(8)
        os.environ[_SECRET_NAME] = self._secret
        folder.chmod(0o755)
        (folder / "kept").write_text("kept")
        (folder / "secret").write_text(self._secret)
        (folder / "kept").chmod(0o666)  # so that only the sandbox, not the mode, stands in the way
        (folder / "secret").chmod(0o644)
        names = {word: f"{word.lower()}-{secrets.token_hex(8)}" for word in ("ABSTRACT", "DATAGRAM")}
        self._sockets = [
            self._bound(socket.AF_INET, ("127.0.0.1", 0)),
            self._bound(socket.AF_UNIX, "\0" + names["ABSTRACT"]),
            self._bound(socket.AF_UNIX, str(folder / "socket")),
            self._bound(socket.AF_UNIX, "\0" + names["DATAGRAM"], socket.SOCK_DGRAM),
        ]
        port = self._sockets[0].getsockname()[1]
        self._sockets.append(self._bound(socket.AF_INET, ("127.0.0.1", port), socket.SOCK_DGRAM))
        (folder / "socket").chmod(0o777)
        self.places = names | {
            "PORT": str(port),
            "SOCKET": str(folder / "socket"),
            "FOLDER": str(folder),
            "SECRET": self._secret,
            "SUPERVISOR": str(supervisor),
            "PROJECT": str(Path(__file__).resolve().parents[2]),
        }
        self._before = self._look()

    @staticmethod
    def _bound(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> socket.socket:
        made = socket.socket(family, kind)
        made.bind(address)
        made.setblocking(False)
        if kind == socket.SOCK_STREAM:
            made.listen()
        return made

    def _look(self) -> list[tuple[str, int, int, int, int]]:
        entries = sorted(self._folder.rglob("*"), key=str)
        return [(str(path), s.st_mode, s.st_size, s.st_mtime_ns, s.st_uid) for path in entries for s in (path.lstat(),)]

    def reached(self) -> list[str]:
        """What the attacks changed or connected to."""
        found = [] if self._look() == self._before and (self._folder / "kept").read_text() == "kept" else ["the folder has changed"]
        for target in self._sockets:
            with contextlib.suppress(BlockingIOError):
                if target.type == socket.SOCK_STREAM:
                    target.accept()
                else:
                    target.recv(1)
                found.append(f"a connection to {target.getsockname()!r}")
        return found

    def close(self) -> None:
        """Close the sockets, forget the secret."""
        for target in self._sockets:
            target.close()
        del os.environ[_SECRET_NAME]


def run_all(sandbox: Sandbox, programs: Iterable[Program], title: str, total: int) -> list[Outcome]:
    """The outcomes, with progress on standard error."""
    outcomes = []
    with CountProgress(title, total) as progress:
        for outcome in sandbox.judge(programs):
            outcomes.append(outcome)
            progress.advance()
    return outcomes


def attack(sandbox: Sandbox) -> dict[str, Any]:
    """The battery of attacks: how many, which did not end as they must, and what was reached on the host."""
    with tempfile.TemporaryDirectory() as name:
        targets = Targets(Path(name), sandbox.pids[0])
        try:
            outcomes = run_all(sandbox, (a.program(targets.places) for a in ATTACKS), "attacks", len(ATTACKS))
            reached = targets.reached()
        finally:
            targets.close()
    expected = {a.name: a for a in ATTACKS}
    through = {o.key: f"{o.verdict}: {o.reason}" for o in outcomes if o.verdict not in expected[o.key].expected}
    late = {o.key: o.seconds for o in outcomes if o.seconds > expected[o.key].limit_s + 1}
    return {"num_attacks": len(outcomes), "through": through, "late": late, "reached": reached}


def forge(sandbox: Sandbox, *, all_styles: bool) -> dict[str, Any]:
    """The battery of forgers: how many, and which were given a pass."""
    programs = forgers(all_styles=all_styles)
    outcomes = run_all(sandbox, programs, "forgers", len(programs))
    return {"num_forgers": len(outcomes), "passed": {o.key: o.reason for o in outcomes if o.verdict == "pass"}}


def mixed_programs(number: int) -> Iterator[tuple[Program, str]]:
    """Right, wrong, raising and dying programs in turn, with the verdict of each."""
    for k in range(number):
        name, solution, verdict = _MIX[k % len(_MIX)]
        yield Program(key=f"{k} {name}", solution=solution, tests=_TESTS, entry_points=("solve",)), verdict


def repeat(sandbox: Sandbox, number: int) -> dict[str, Any]:
    """Programs a second of the mixture, and verdicts that were not what they must be."""
    began = time.monotonic()
    pairs = list(mixed_programs(number))
    outcomes = run_all(sandbox, (program for program, _ in pairs), "programs", number)
    seconds = time.monotonic() - began
    wrong = [f"{o.key}: {o.verdict} {o.reason}" for o, (_, verdict) in zip(outcomes, pairs, strict=True) if o.verdict != verdict]
    return {"num_programs": number, "programs_per_s": round(number / seconds, 1), "num_slots": sandbox.num_slots, "wrong": wrong}


def timed_programs(limit_s: float, num_rounds: int) -> list[tuple[Program, str]]:
    """Programs around their limit: some that compute or sleep for most of it and are right, some that take longer."""
    answer = "    return sum(x * x for x in xs)\n"
    compute = "import time\ndef solve(xs):\n    end = time.thread_time() + {}\n    while time.thread_time() < end: pass\n" + answer
    sleep = "import time\ndef solve(xs):\n    time.sleep({})\n" + answer
    made = []
    for k in range(num_rounds):
        for name, text, share, verdict in (
            ("computes less", compute, 0.8, "pass"),
            ("computes more", compute, 1.5, "timeout"),
            ("sleeps less", sleep, 0.8, "pass"),
            ("sleeps more", sleep, 1.1, "timeout"),
        ):
            solution = text.format(share * limit_s)
            program = Program(
                key=f"{k} {name}", solution=solution, tests="assert solve([1, 2]) == 5", entry_points=("solve",), limit_s=limit_s
            )
            made.append((program, verdict))
    return made


def load(sandbox: Sandbox, num_hogs: int, limit_s: float) -> dict[str, Any]:
    """Verdicts beside `num_hogs` processes that compute: how many are not what they must be."""
    hogs = [subprocess.Popen([sys.executable, "-c", _HOG]) for _ in range(num_hogs)]
    try:
        pairs = timed_programs(limit_s, num_rounds=2) + list(mixed_programs(40))
        outcomes = run_all(sandbox, (program for program, _ in pairs), "programs beside hogs", len(pairs))
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    flips = [
        f"{o.key}: {o.verdict} {o.reason} after {o.seconds} s"
        for o, (_, verdict) in zip(outcomes, pairs, strict=True)
        if o.verdict != verdict
    ]
    return {"num_hogs": num_hogs, "num_programs": len(pairs), "flips": flips}


def left_behind(folder: Path, before: Mapping[str, Any]) -> list[str]:
    """What this process and this host have more of than before: children, descriptors, mounts, files."""
    found = []
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # this process is a subreaper: whoever lost its parent is a child of it now
        found.append("a process")
    after = traces()
    found += [f"{name}: {before[name]} before, {after[name]} after" for name in before if before[name] != after[name]]
    return found + [f"the file {path}" for path in sorted(folder.rglob("*"))]


def traces() -> dict[str, Any]:
    """What a run could leave: descriptors and mounts of this process."""
    return {"descriptors": sorted(os.listdir("/proc/self/fd")), "mounts": Path("/proc/self/mounts").read_text()}


def campaign(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All parts that were asked for, in one sandbox."""
    before = traces()
    result: dict[str, Any] = {}
    with Sandbox.open(args.tier, args.slots) as sandbox:
        result |= {"tier": sandbox.tier, "uid": os.getuid(), "num_slots": sandbox.num_slots}
        if not args.no_batteries:
            result |= {"attacks": attack(sandbox), "forgers": forge(sandbox, all_styles=not args.short)}
        if args.runs:
            result["runs"] = repeat(sandbox, args.runs)
        if args.hogs:
            result["load"] = load(sandbox, args.hogs, args.load_limit)
        result["supervisor_peak_bytes"] = max(peak_bytes(pid) for pid in sandbox.pids)
    result["left_behind"] = left_behind(folder, before)
    return result


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def failures(result: Mapping[str, Any]) -> list[str]:
    """One sentence for everything that did not hold."""
    found = [f"left behind: {what}" for what in result["left_behind"]]
    if "attacks" in result:
        found += [f"attack {name}: {said}" for name, said in result["attacks"]["through"].items()]
        found += [f"attack {name} ran for {seconds} s" for name, seconds in result["attacks"]["late"].items()]
        found += [f"attacks reached {what}" for what in result["attacks"]["reached"]]
        found += [f"forger passed: {name}" for name in result["forgers"]["passed"]]
    found += [f"wrong verdict: {said}" for said in result.get("runs", {}).get("wrong", [])]
    return found + [f"verdict changed under load: {said}" for said in result.get("load", {}).get("flips", [])]


def main(words: list[str] | None = None) -> int:
    """Parse, run, tell."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.sandbox.campaign",
        description="Try the sandbox of this machine against the whole battery, and measure it.",
        epilog="example: python -m eval.sandbox.campaign --runs 1000 --hogs 8",
    )
    parser.add_argument(
        "--tier", default="auto", choices=("auto", *TIERS), help="how programs are isolated (default: the strongest that works)"
    )
    parser.add_argument("--slots", type=int, default=None, metavar="N", help="programs at once (default: one for each core)")
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="programs of the mixture for speed and hygiene (default: 200)")
    parser.add_argument("--hogs", type=int, default=0, metavar="N", help="judge beside N processes that compute (default: 0, left out)")
    parser.add_argument(
        "--load-limit", type=float, default=3.0, metavar="S", help="limit of the programs beside hogs in seconds (default: 3)"
    )
    parser.add_argument("--no-batteries", action="store_true", help="leave out attacks and forgers")
    parser.add_argument("--short", action="store_true", help="forgers on one style of tests only")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args(words)
    confine.adopt_orphans()
    try:
        with tempfile.TemporaryDirectory() as name:
            tempfile.tempdir = name
            result = campaign(args, Path(name))
    except ProxyError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        tempfile.tempdir = None
    found = failures(result)
    if args.json:
        print(json.dumps(result | {"failures": found}))
        return 1 if found else 0
    show(result, found)
    return 1 if found else 0


def show(result: Mapping[str, Any], found: list[str]) -> None:
    """A line for each part, then what did not hold."""
    print(f"tier {result['tier']}, {result['num_slots']} slots")
    if "attacks" in result:
        print(f"{result['attacks']['num_attacks']} attacks, {len(result['attacks']['through'])} through")
        print(f"{result['forgers']['num_forgers']} forgers, {len(result['forgers']['passed'])} passed")
    if "runs" in result:
        runs = result["runs"]
        print(f"{runs['num_programs']} programs, {runs['programs_per_s']} a second, {len(runs['wrong'])} wrong verdicts")
    if "load" in result:
        print(
            f"beside {result['load']['num_hogs']} hogs: {len(result['load']['flips'])} of {result['load']['num_programs']} verdicts changed"
        )
    print(f"peak memory of a supervisor {result['supervisor_peak_bytes'] / 1e6:.0f} MB; {len(result['left_behind'])} things left behind")
    for sentence in found:
        print(sentence)
    print("everything held" if not found else f"{len(found)} things did not hold")


if __name__ == "__main__":
    sys.exit(main())
