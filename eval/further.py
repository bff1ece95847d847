"""The further evaluations of a comparison: after bits per byte every arm is asked by the commands that its plan names.

    evaluations:
      lines: {limit: 200, borders: spm}
      code run: {limit: 20}
      compression: {chunk_bytes: [64, 256, 2048]}      # of each arm; classical compressors once (eval/compression_study.py)

A key is a command of `proxy-lm-eval`, its options are those of that command's `--help`; both, and the values that have known choices, are
checked before anything is trained.
`borders` may name a view of the plan. Each command keeps its own samples in the arm's folder, so a comparison that was killed continues in
the middle of one. An arm that cannot be asked, such as a translation where no view was told, is reported with the sentence that says why.

Not promised: that options which name files of this machine mean the same elsewhere; reports tell only the last part of their paths.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn

from compressors.registry import ARTIFACT_NAME
from eval.cli import COMMANDS
from eval.report_numbers import numbers_of
from proxy_lm.data.corpus import SPLITS, Corpus
from proxy_lm.errors import ProxyError, RequestError
from proxy_lm.progress import note

_DEVICE: Final = re.compile(r"auto|cpu|cuda(:\d+)?")
NOT_FURTHER: Final = ("bpb", "compare", "report", "tables")
OF_ONE_RUN: Final[Mapping[str, str]] = {"compression": "eval.compression_study"}
"""Commands that ask several models at once, by the module that asks one run the same; its options are those of its settings."""
Options = Mapping[str, Any]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong instead of leaving."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(message)


def check(evaluations: Mapping[str, Options], views: Mapping[str, Any]) -> None:
    """Raise `RequestError` for a command or an option that is not there, and for values that are wrong whatever the run: a command may
    have a `check` of its arguments."""
    folders = {view: Path("views") / view for view in views}
    for name, options in evaluations.items():
        module, args = _parse(name, Path("run"), _located(options, folders))
        try:
            _check_choices(args, folders)
            if hasattr(module, "check"):
                module.check(args)
        except RequestError as error:
            raise RequestError(f"evaluations: {name}: {error}") from error


def _check_choices(args: argparse.Namespace, views: Mapping[str, Path]) -> None:
    """Values whose choices the plan itself tells, under the names that they have in every command."""
    if getattr(args, "action", "run") != "run" or getattr(args, "explain", None):
        raise RequestError("it measures nothing of a run; ask 'code run', and leave 'explain' out")
    known = {"view": ["raw", *views], "split": list(SPLITS)}
    for option, choices in known.items():
        value = getattr(args, option, None)
        if value is not None and value not in choices:
            raise RequestError(f"{option} '{value}' is none of: {', '.join(choices)}")
    borders = getattr(args, "borders", None)
    if borders is not None and borders not in views.values() and not (borders / ARTIFACT_NAME).is_file():
        raise RequestError(f"borders '{borders}' is neither a view of the plan ({', '.join(views) or 'it has none'}) nor the folder of one")
    device = getattr(args, "device", None)
    if device is not None and not _DEVICE.fullmatch(device):
        raise RequestError(f"device '{device}' is none of: auto, cpu, cuda, cuda:N")


def measure(
    evaluations: Mapping[str, Options], run: Path, views: Mapping[str, Path], title: str
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Ask one arm everything: (results by file name, why others have none by command)."""
    found: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    for name, options in evaluations.items():
        module, args = _parse(name, run, _located(options, views))
        try:
            result = json.loads(json.dumps(module.run(args)))
            stem = _stem(result)
            numbers_of(stem, result)
        except ProxyError as error:
            note(f"{title}: {name} gives no number: {error}")
            failures[name] = _without_folders(str(error), run, *views.values())
            continue
        found[stem] = result
        note(f"{title}: {name} done")
    return found, failures


def measure_once(evaluations: Mapping[str, Options], corpus: Corpus, folder: Path) -> dict[str, dict[str, Any]]:
    """What an evaluation measures once for all arms, by file name: a module may have `once(args, corpus, folder)`. `folder` keeps it.
    Raises `RequestError` where the corpus has not enough for it."""
    found: dict[str, dict[str, Any]] = {}
    for name, options in evaluations.items():
        module, args = _parse(name, Path("run"), options)
        if hasattr(module, "once"):
            try:
                found |= json.loads(json.dumps(module.once(args, corpus, folder)))
            except RequestError as error:
                raise RequestError(f"evaluations: {name}: {error}") from error
    return found


def _without_folders(sentence: str, *paths: Path) -> str:
    """Reports are for other machines too: folders are told by their last part."""
    for path in paths:
        sentence = sentence.replace(str(path), path.name)
    return sentence


def _parse(name: str, run: Path, options: Options) -> tuple[ModuleType, argparse.Namespace]:
    command, *rest = name.split()
    known = [one for one in COMMANDS if one not in NOT_FURTHER]
    if command not in known:
        raise RequestError(f"evaluations: '{name}' is no command that asks one run; known: {', '.join(known)}")
    module = importlib.import_module(OF_ONE_RUN.get(command, COMMANDS[command]))
    parser = _Parser(prog=f"evaluations.{name}", add_help=False)
    module.add_arguments(parser)
    try:
        return module, parser.parse_args([*rest, str(run), *_words(name, options)])
    except RequestError as error:
        options_are = f"`proxy-lm-eval {name} --help` lists its options" if command not in OF_ONE_RUN else f"its options: {_known(parser)}"
        raise RequestError(f"evaluations: {name}: {error}; {options_are}") from error


def _known(parser: argparse.ArgumentParser) -> str:
    return ", ".join(name for name in vars(parser.parse_args(["run"])) if name != "run")


def _words(name: str, options: Options) -> list[str]:
    """Options as they are typed: `num_lines: 5` is `--num-lines 5`, true is the option alone, null is the default."""
    words: list[str] = []
    for key, value in options.items():
        if value is None:
            continue
        if value is False:
            raise RequestError(f"evaluations: {name}: '{key}: false' cannot be typed; leave the option out, or name its opposite")
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [f"--{key.replace('_', '-')}", *map(str, values)]
    return words


def _located(options: Options, views: Mapping[str, Path]) -> dict[str, Any]:
    """With the folder of a view of the plan where `borders` names one."""
    borders = options.get("borders")
    return {**options, "borders": views[borders]} if isinstance(borders, str) and borders in views else dict(options)


def _stem(result: dict[str, Any]) -> str:
    """The name of a result, in RUN/eval or standing aside; where it is on this machine is taken out of it."""
    written = result.pop("written", None)
    if written is None:
        raise RequestError("the command left no result; name one that measures, such as 'code run' for 'code generate'")
    return str(written["name"])
