"""`proxy-lm`: one program, one subcommand a file in `proxy_lm/commands/`.

    proxy-lm prepare python: --out corpus
    proxy-lm compressor train spm --corpus corpus --out views/spm

A command module has `HELP` (one line), `EXAMPLE`, `add_arguments(parser)`, `run(args) -> result` and `show(result)`. `run` reports progress
on standard error and returns plain JSON; with `--json` that object is all there is on standard output, else `show` prints it for people.
`INTERRUPTED`, where a module has it, says what a Ctrl-C leaves, or is a function that looks and says it (args -> text); without it,
finished work is kept.
Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted, 143 ended by SIGTERM.

Only the standard library is imported before `main`: what takes its time is imported where an interrupt ends with a line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from types import FrameType, ModuleType
from typing import Final

import proxy_lm

COMMANDS: Mapping[str, str] = {
    "doctor": "proxy_lm.commands.doctor",
    "prepare": "proxy_lm.commands.prepare",
    "compressor": "proxy_lm.commands.compressor",
    "data": "proxy_lm.commands.data",
    "encode": "proxy_lm.commands.encode",
    "export": "proxy_lm.commands.export",
    "inspect": "proxy_lm.commands.inspect",
    "launch": "proxy_lm.commands.launch",
    "plan": "proxy_lm.commands.plan",
    "verify": "proxy_lm.commands.verify",
    "generate": "proxy_lm.commands.generate",
    "compress": "proxy_lm.commands.compress",
    "decompress": "proxy_lm.commands.decompress",
}
KEPT: Final = "what is finished is kept and the same command continues"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script `proxy-lm`."""
    return run_program("proxy-lm", COMMANDS, argv)


def run_program(program: str, commands: Mapping[str, str], argv: Sequence[str] | None = None) -> int:
    """Parse, run one command, print its result, and turn errors into exit codes. Only the named command's module is imported."""
    before = signal.getsignal(signal.SIGTERM)
    takes_signal = before is signal.SIG_DFL and threading.current_thread() is threading.main_thread()
    if takes_signal:
        signal.signal(signal.SIGTERM, _terminate)
    module = None
    try:
        parsed = _parse(program, commands, list(sys.argv[1:] if argv is None else argv))
        if isinstance(parsed, int):
            return parsed
        module, args = parsed
        return _run_command(program, module, args)
    except KeyboardInterrupt as stop:
        how, number = ("ended by SIGTERM", signal.SIGTERM) if isinstance(stop, _Terminated) else ("interrupted", signal.SIGINT)
        left = "nothing was begun" if module is None else getattr(module, "INTERRUPTED", KEPT)
        left = left(args) if callable(left) else left
        print(f"{program}: {how}; {left}", file=sys.stderr)
        return 128 + number
    finally:
        if takes_signal:
            signal.signal(signal.SIGTERM, before)


def _parse(program: str, commands: Mapping[str, str], words: list[str]) -> tuple[ModuleType, argparse.Namespace] | int:
    """The command's module and its arguments; or the exit code, where the words are wrong or ask for help."""
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(prog=program, description=f"{program}: see the README for the way through.")
    parser.add_argument("--version", action="version", version=f"{program} {proxy_lm.__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules: dict[str, ModuleType] = {}
    for name, path in commands.items():
        if chosen in commands and name != chosen:
            parsers.add_parser(name)
            continue
        module = modules[name] = importlib.import_module(path)
        command = parsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"example:\n{module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        if "--json" not in command._option_string_actions:
            command.add_argument("--json", action="store_true", help="print one JSON object on standard output, nothing else")
    try:
        args, late = parser.parse_known_args(words)
        # argparse takes the settings of a command in one run only; those that follow an option arrive here.
        if any("=" not in word or word.startswith("-") for word in late) or (late and not hasattr(args, "overrides")):
            parsers.choices[args.command].error(f"unrecognized arguments: {' '.join(late)}")
        if late:
            args.overrides = [*args.overrides, *late]
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    return modules[args.command], args


class _Terminated(KeyboardInterrupt):
    """SIGTERM, taken like a Ctrl-C: whoever cleans up or saves after the one does after the other."""


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the second would interrupt the cleaning up
    raise _Terminated


def _run_command(program: str, module: ModuleType, args: argparse.Namespace) -> int:
    from proxy_lm.errors import ProxyError

    try:
        result = module.run(args)
        if args.json:
            print(json.dumps(result, ensure_ascii=False, allow_nan=False))
        else:
            module.show(result)
        sys.stdout.flush()
    except ProxyError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        from pathlib import Path

        from compressors.files import disk_error

        print(f"{program}: {disk_error(error, Path(str(error.filename or '.')))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
