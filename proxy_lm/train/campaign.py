"""Faults by the hundred, each followed by the question whether the run ends as if nothing had happened. `make campaign`; hours, resumable.

    python -m proxy_lm.train.campaign --out runs/campaign --manager-kills 1000 --rank-kills 100 --corruptions 1000 --signals 60

    <out>/trials.jsonl        one line a trial, as it ends; a campaign that is killed goes on behind it
    <out>/campaign.json       counts, machine, versions;  campaign.md: the same as a table
    <out>/runs/               logs, and the folders of trials that failed

Trial k of a battery draws from the seed (seed, battery, k) alone; when a kill really falls is up to the machine.
Exit code 0: every trial recovered; 1: some did not (they are named); 2: the request was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from compressors.files import write_bytes, write_json
from proxy_lm.errors import ProxyError, RequestError
from proxy_lm.progress import note
from proxy_lm.train.campaign_manager import ManagerKills, corruption, is_sound
from proxy_lm.train.campaign_ranks import WHOLE, TwoRanks

EXAMPLE: Final = """example:
  python -m proxy_lm.train.campaign --out runs/campaign --rank-kills 10 --signals 6 --manager-kills 100 --corruptions 100
The same command goes on where the last one ended; a larger count adds trials."""
KILLS: Final = ("step", "save", "rotation", "load", "step", "save", "step", "save", "step", "save")
PHASES: Final = ("import", "start", "load", "step", "evaluation", "save")
MEANING: Final = {
    "manager kills": "SIGKILL of a process that saves and rotates; nothing committed is lost, nothing half is taken",
    "corruptions": "one fault in the newest of a two-rank run's checkpoints; seen, and the one before it taken",
    "rank kills": "SIGKILL of one of two ranks or both; then every loss and the weights' SHA-256 as of the undisturbed run",
    "signals": "SIGTERM, SIGUSR1 or SIGINT; exit code 75 with all saved within 25 s; then as above",
}
Trial = Callable[[int, random.Random], dict[str, Any]]


class Campaign:
    """The folder of a campaign: what is done, and what is left to do."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out = out
        self.seed = seed
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / "trials.jsonl"
        self.trials: list[dict[str, Any]] = []
        if self._path.exists():
            whole = [line for line in self._path.read_bytes().split(b"\n") if line.endswith(b"}")]
            self.trials = [json.loads(line) for line in whole]
            write_bytes(self._path, b"".join(line + b"\n" for line in whole))  # a kill may have torn the last one

    def run(self, battery: str, wanted: int, trial: Trial) -> None:
        """Make trials of a battery until there are `wanted`."""
        done = {record["trial"] for record in self.trials if record["battery"] == battery}
        told = time.monotonic()
        for number in range(wanted):
            if number in done:
                continue
            began = time.monotonic()
            try:
                record = trial(number, random.Random(f"{self.seed} {battery} {number}"))
            except ProxyError as error:
                record = {"ok": False, "error": str(error)}
            record = {"battery": battery, "trial": number, "seconds": round(time.monotonic() - began, 3), **record}
            self.trials.append(record)
            with self._path.open("ab") as file:
                file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
            if not record["ok"]:
                note(f"campaign: {battery}, trial {number} did not recover: {json.dumps(record)[:600]}")
            if time.monotonic() - told > 10 or number + 1 == wanted:
                told = time.monotonic()
                note(f"campaign: {battery} {number + 1}/{wanted}, {self.count(battery)[1]} recovered")

    def count(self, battery: str, kind: str | None = None) -> tuple[int, int]:
        """(trials, trials that recovered)."""
        mine = [record for record in self.trials if record["battery"] == battery and kind in (None, record.get("kind"))]
        return len(mine), sum(bool(record["ok"]) for record in mine)

    def report(self) -> dict[str, Any]:
        """Counts by battery and kind; written as JSON and as a table."""
        rows = []
        for battery in MEANING:
            kinds = sorted({record["kind"] for record in self.trials if record["battery"] == battery and "kind" in record})
            for kind in kinds or [None]:
                trials, recovered = self.count(battery, kind)
                if trials:
                    mine = [r for r in self.trials if r["battery"] == battery and kind in (None, r.get("kind"))]
                    sprung = sum(bool(record.get("sprung", True)) for record in mine)
                    rows.append({"battery": battery, "kind": kind, "trials": trials, "struck": sprung, "recovered": recovered})
        stops = [record["stop_seconds"] for record in self.trials if "stop_seconds" in record]
        widows = [record["widow_seconds"] for record in self.trials if "widow_seconds" in record]
        found = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "seed": self.seed,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "versions": _versions(),
            "rows": rows,
            "trials": len(self.trials),
            "recovered": sum(bool(record["ok"]) for record in self.trials),
            "longest_stop_seconds": max(stops, default=None),
            "longest_widow_seconds": max(widows, default=None),
        }
        write_json(self.out / "campaign.json", found)
        write_bytes(self.out / "campaign.md", table(found).encode())
        return found


def table(found: dict[str, Any]) -> str:
    """The counts as a Markdown table with its date."""
    lines = [
        f"{found['date']}, {found['machine']}, "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        + f"; {found['trials']} trials, {found['recovered']} recovered.",
        "",
        "| battery | kind | trials | fault struck | recovered |",
        "|---|---|---|---|---|",
        *(f"| {r['battery']} | {r['kind'] or ''} | {r['trials']} | {r['struck']} | {r['recovered']} |" for r in found["rows"]),
    ]
    for name, what in (("longest_stop_seconds", "signal to exit"), ("longest_widow_seconds", "death of one rank to the end of the other")):
        if found[name] is not None:
            lines.append(f"\nLongest time from {what}: {found[name]:.1f} s.")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaign; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="proxy_lm.train.campaign",
        description="Kills, corruptions and signals by the hundred.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/campaign"), help="folder of the campaign (default: runs/campaign)")
    parser.add_argument("--manager-kills", type=int, default=1000, metavar="N", help=MEANING["manager kills"])
    parser.add_argument("--corruptions", type=int, default=1000, metavar="N", help=MEANING["corruptions"])
    parser.add_argument("--rank-kills", type=int, default=100, metavar="N", help=MEANING["rank kills"])
    parser.add_argument("--signals", type=int, default=60, metavar="N", help=MEANING["signals"])
    parser.add_argument("--seed", type=int, default=0, help="of every draw")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    words = parser.parse_args(argv)
    try:
        counts = {"manager kills": words.manager_kills, "corruptions": words.corruptions}
        counts |= {"rank kills": words.rank_kills, "signals": words.signals}
        if min(counts.values()) < 0:
            raise RequestError(f"counts are from 0 up and these are {list(counts.values())}")
        found = run(words.out.resolve(), counts, words.seed)
    except ProxyError as error:
        print(f"proxy_lm.train.campaign: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("proxy_lm.train.campaign: interrupted; the same command goes on from here", file=sys.stderr)
        return 1
    print(json.dumps(found) if words.json else table(found))
    return 0 if found["recovered"] == found["trials"] else 1


def run(out: Path, counts: dict[str, int], seed: int) -> dict[str, Any]:
    """All batteries up to their counts; the report."""
    campaign = Campaign(out, seed)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    kills = ManagerKills(out / "manager")

    def manager_kill(number: int, draw: random.Random) -> dict[str, Any]:
        with contextlib.redirect_stderr(io.StringIO()):  # what is found and passed over is told every time
            record = kills.round(draw)
        return {"ok": is_sound(record), "found": record["found"], "in_save": bool(record["debris"])} | ({} if is_sound(record) else record)

    def corrupted(number: int, draw: random.Random) -> dict[str, Any]:
        with contextlib.redirect_stderr(io.StringIO()):
            return corruption(out / "runs" / WHOLE / "checkpoints", out / "scratch", draw)

    ranks = TwoRanks(out)
    if any(campaign.count(battery)[0] < counts[battery] for battery in ("corruptions", "rank kills", "signals")):
        note("campaign: making a small corpus and the undisturbed run of two ranks")
        ranks.prepare()
    try:
        campaign.run("corruptions", counts["corruptions"], corrupted)
        campaign.run("manager kills", counts["manager kills"], manager_kill)
        campaign.run("rank kills", counts["rank kills"], lambda number, draw: ranks.killed(KILLS[number % len(KILLS)], draw))
        campaign.run("signals", counts["signals"], lambda number, draw: ranks.signalled(PHASES[number % len(PHASES)], draw))
    finally:
        found = campaign.report()
    return found


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("proxy-lm", "torch", "deepspeed")}


if __name__ == "__main__":
    sys.exit(main())
