"""Configuration: defaults in the classes, then one YAML, then `a.b=c` from the command line; later wins.

Each room defines its own settings beside the code that uses them, as frozen `Settings` classes. This file only merges, and turns every
mistake into one sentence that names the key, the value and the nearest known name.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from proxy_lm.errors import RequestError


class Settings(BaseModel):
    """Base of every configuration class: immutable, unknown keys refused, fields documented by the string under them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)
OPTIONS: Final = "the options"
"""Source of values that were typed as options, `--top-p` for `top_p`: a mistake is told of the option."""


def load(kind: type[S], path: Path | None, overrides: Sequence[str] = (), base: dict[str, Any] | None = None) -> S:
    """Read `base`, then the YAML at `path`, then `a.b=c` overrides (also spelled `--a.b=c`), into `kind`. Raises `RequestError`."""
    values: dict[str, Any] = dict(base or {})
    if path is not None:
        values = merge(values, read_yaml(path))
    for override in overrides:
        values = merge(values, parse_override(override), empty_clears=True)
    return validate(kind, values, source=str(path) if path else "the settings")


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML mapping, read with the safe loader. Raises `RequestError` for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"could not read the configuration {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"could not read the configuration {path}: it is not UTF-8 text ({error})") from error
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise RequestError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"{path} holds a {type(value).__name__}; a configuration is a mapping of names to values")
    return value


def parse_override(text: str) -> dict[str, Any]:
    """`a.b=c` as {"a": {"b": c}}; the value is YAML, so `x=[1, 2]`, `x=null` and `x=1e-3` mean what they say."""
    key, equals, value = text.removeprefix("--").partition("=")
    if not equals or not key or any(not part for part in key.split(".")):
        raise RequestError(f"'{text}' is not a setting; write NAME=VALUE or GROUP.NAME=VALUE")
    try:
        parsed: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RequestError(f"the value in '{text}' is not valid YAML: {' '.join(str(error).split())}") from error
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    assert isinstance(parsed, dict)
    return parsed


def merge(below: dict[str, Any], above: dict[str, Any], *, empty_clears: bool = False) -> dict[str, Any]:
    """Mappings merge key by key; everything else, lists included, is replaced by `above`. `empty_clears`: so is what `above` has as {}."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and (value or not empty_clears):
            value = merge(old, value, empty_clears=empty_clears)
        merged[key] = value
    return merged


def validate(kind: type[S], values: dict[str, Any], source: str) -> S:
    """Build `kind` from plain values; every problem is listed, one a line."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        if source == OPTIONS:
            raise RequestError("; ".join(_of_option(kind, problem) for problem in error.errors())) from error
        lines = [_sentence(kind, problem) for problem in error.errors()]
        raise RequestError(f"{source}: " + "; ".join(lines)) from error


def options_of(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Of the options with these names those that were given: None is an option left out, whose default is that of its settings class."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def dump_yaml(settings: Settings) -> str:
    """The resolved configuration as YAML, in the order of definition."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _sentence(kind: type[Settings], problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _known_names(kind, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}" if known else ""
        return f"unknown setting '{where}'{hint}"
    if problem["type"] == "missing":
        return f"setting '{where}' is required and has no default"
    message = problem["msg"].removeprefix("Value error, ")
    return f"setting '{where}' = {problem['input']!r}: {message}" if where else message


def _of_option(kind: type[Settings], problem: Any) -> str:
    names = [part for part in problem["loc"] if isinstance(part, str)]  # groups, then the setting; places in a list are numbers
    if not names or problem["type"] in ("extra_forbidden", "missing"):
        return _sentence(kind, problem)
    return f"--{names[-1].replace('_', '-')} {problem['input']}: {problem['msg'].removeprefix('Value error, ')}"


def _known_names(kind: type[Settings], location: Sequence[int | str]) -> list[str]:
    """Field names of the settings class that stands at `location`; follows containers and unions by name."""
    here: list[type[Settings]] = [kind]
    for part in location:
        inner: list[type[Settings]] = []
        for cls in here:
            field = cls.model_fields.get(str(part))
            inner += _settings_in(field.annotation) if field else []
        here = inner or here
    return sorted({name for cls in here for name in cls.model_fields})


def _settings_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [cls for part in getattr(annotation, "__args__", ()) for cls in _settings_in(part)]
