"""The training entry: `deepspeed --module proxy_lm.train CONFIG [NAME=VALUE ...]`. See `--help`.

Launchers put their own words on the command line (`--local_rank=N` first); users bring DeepSpeed's (`--deepspeed FILE`,
`--deepspeed --deepspeed_config FILE`). Both are understood. Nothing heavy is imported before the words are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy_lm.config import load
from proxy_lm.data.soft_targets import check_teacher
from proxy_lm.errors import ProxyError, RequestError
from proxy_lm.train.deepspeed_config import adopt, read_user_json
from proxy_lm.train.launch import Launch, detect, is_first_rank
from proxy_lm.train.settings import RunSettings
from proxy_lm.train.stopping import StopRequest

EXAMPLES = """examples:
  deepspeed --num_accelerators 2 --module proxy_lm.train configs/nano.yaml optimizer.learning_rate=1e-3
  deepspeed --hostfile hosts --module proxy_lm.train configs/nano.yaml --deepspeed ds.json
  torchrun --nproc-per-node 2 -m proxy_lm.train configs/nano.yaml
  srun --ntasks-per-node 8 python -m proxy_lm.train configs/nano.yaml   (RANK and the rest are taken from Slurm)
  python -m proxy_lm.train configs/nano.yaml --dry-run --ranks 4        (parameters, memory, FLOPs, plan; writes nothing)

Run the same command again to continue a run. exit codes: 0 finished, 75 stopped by SIGTERM, SIGUSR1 or SIGINT and saved,
1 the work failed, 2 the request was wrong."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """The command line, read."""

    config: Path
    overrides: list[str]
    deepspeed: Path | None
    dry_run: bool
    ranks: int | None
    picture: Path | None
    json: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the training program in this process; returns its exit code. One sentence for every error a user can meet."""
    from proxy_lm.train.agreement import is_shared

    launch: Launch | None = None
    try:
        words = parse(sys.argv[1:] if argv is None else argv)
        settings = load(RunSettings, words.config, words.overrides)
        user_json = read_user_json(words.deepspeed) if words.deepspeed else None
        source = str(words.deepspeed)
        if user_json is not None:
            settings = adopt(settings, user_json, source)
        if settings.teacher:
            check_teacher(settings.teacher)
        if words.dry_run:
            return _dry_run(settings, words, user_json, source)
        with StopRequest() as stop:  # from here on, before the slow imports: a signal then ends in 75 as it does later
            launch = detect(os.environ)
            from proxy_lm.train.run import train

            return train(settings, launch, user_json, source, stop)
    except SystemExit as stop:  # argparse: --help, or a usage error that it has explained
        return stop.code if isinstance(stop.code, int) else 2
    except ProxyError as error:
        # Before `detect` every rank reads the same words and files, so every rank has the same error.
        if is_first_rank():
            print(f"proxy_lm.train: {error}", file=sys.stderr, flush=True)
        elif launch is not None and not is_shared(error):
            print(f"proxy_lm.train: rank {launch.rank}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("proxy_lm.train: interrupted before the step was done; the same command continues from the last checkpoint", file=sys.stderr)
        return 130


def parse(argv: Sequence[str]) -> Words:
    """Read the words. Raises `RequestError` for what nobody knows."""
    parser = argparse.ArgumentParser(
        prog="proxy_lm.train",
        description="Train one model from one YAML file, alone or on many ranks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", help="the run's YAML")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="settings that win over the YAML, as a.b=c or --a.b=c")
    parser.add_argument("--dry-run", action="store_true", help="say what the run would cost and tell, and write nothing")
    parser.add_argument("--ranks", type=int, metavar="N", help="with --dry-run: as if started on N ranks (default: as started)")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="with --dry-run: draw the plan, shares over progress, into FILE (.svg, .png, .html)"
    )
    parser.add_argument("--json", action="store_true", help="with --dry-run: one JSON object on standard output")
    parser.add_argument("--resume", action="store_true", help="refuse to start at step 0 (resume=must)")
    parser.add_argument("--deepspeed", metavar="FILE", nargs="?", const="", help="a DeepSpeed JSON; alone it says nothing and is allowed")
    parser.add_argument("--deepspeed_config", "--deepspeed-config", metavar="FILE", help="a DeepSpeed JSON")
    parser.add_argument("--local_rank", "--local-rank", type=int, help="set by launchers; the environment is what counts")
    words, rest = parser.parse_known_intermixed_args(_separate(argv))
    unknown = [word for word in rest if "=" not in word]
    if unknown:
        raise RequestError(f"unknown option '{unknown[0]}'; settings are NAME=VALUE, and --help lists the options")
    if words.ranks is not None and (words.ranks < 1 or not words.dry_run):
        raise RequestError(f"--ranks {words.ranks} is for --dry-run and from 1 up; the launcher decides how many ranks a run has")
    if words.picture is not None and not words.dry_run:
        raise RequestError(f"--picture {words.picture} is for --dry-run: the plan is drawn before a run, not in one; add --dry-run")
    files = [file for file in (words.deepspeed, words.deepspeed_config) if file]
    if len(files) == 2 and files[0] != files[1]:
        raise RequestError(f"--deepspeed {files[0]} and --deepspeed_config {files[1]} name two files; give one")
    positional = [word for word in (words.config, *words.settings) if word is not None]
    configs = [word for word in positional if "=" not in word]
    if len(configs) != 1:
        found = f"{len(configs)} are given: {', '.join(configs)}" if configs else "none is given"
        raise RequestError(f"one configuration file is needed and {found}; for example: proxy_lm.train configs/nano.yaml")
    overrides = [word for word in positional if "=" in word] + rest
    return Words(
        config=Path(configs[0]),
        overrides=overrides + (["resume=must"] if words.resume else []),
        deepspeed=Path(files[0]) if files else None,
        dry_run=words.dry_run,
        ranks=words.ranks,
        picture=words.picture,
        json=words.json,
    )


def _separate(argv: Sequence[str]) -> list[str]:
    """`--deepspeed x.yaml` is the flag alone, then our file; `--deepspeed ds.json` is the flag with its file. argparse cannot tell."""
    words: list[str] = []
    for at, word in enumerate(argv):
        after = argv[at + 1] if at + 1 < len(argv) else ""
        takes_next = after and not after.startswith("-") and "=" not in after and not after.endswith((".yaml", ".yml"))
        words.append("--deepspeed=" if word == "--deepspeed" and not takes_next else word)
    return words


def _dry_run(settings: RunSettings, words: Words, user_json: dict[str, object] | None, source: str) -> int:
    from proxy_lm.train.dry_run import dry_run, show

    if is_first_rank():
        report = dry_run(settings, words.ranks or int(os.environ.get("WORLD_SIZE", "1")), user_json, source, words.picture)
        print(json.dumps(report) if words.json else show(report))
    return 0


def run_and_leave() -> None:
    """`main`, then leave without waiting for threads of a broken process group: the other ranks must see us gone."""
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if code in (0, 75):
        sys.exit(code)
    os._exit(code)


if __name__ == "__main__":
    run_and_leave()
