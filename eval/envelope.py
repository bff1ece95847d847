"""What every result of an evaluation has, whichever command made it.

    result = envelope("proxy-lm lines 1", "lines", opened.identity, dataset, settings, seconds, {"tasks": ...})
    write_result(run, "lines", "test", result)          # RUN/eval/lines-test.json, atomically, last

    {schema, command, run: {name, checkpoint, view, healing, ...}, dataset: {name, digest, num_items}, settings, seconds, versions, ...}

No machine paths, host names or dates are in it. Numbers that have no value are null, with a reason beside them.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from compressors.files import read_json, write_json
from eval.samples import eval_folder, result_path
from proxy_lm.config import Settings

LIBRARIES = ("proxy-lm", "torch", "numpy")
FIELDS = ("schema", "command", "run", "dataset", "settings", "seconds", "versions")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What was measured on. `digest` covers every item; `num_items` were measured."""

    name: str
    digest: str
    num_items: int


def envelope(
    schema: str,
    command: str,
    run: Mapping[str, Any],
    dataset: Dataset,
    settings: Settings | Mapping[str, Any],
    seconds: float,
    found: Mapping[str, Any],
    *,
    libraries: Iterable[str] = (),
) -> dict[str, Any]:
    """A whole result: the common fields, then what was `found`. `run` is `Opened.identity`; `libraries` are versions to record further."""
    taken = sorted(set(FIELDS) & set(found))
    assert not taken, f"what was found uses the common fields {taken}"
    return {
        "schema": schema,
        "command": command,
        "run": dict(run),
        "dataset": asdict(dataset),
        "settings": settings.model_dump(mode="json") if isinstance(settings, Settings) else dict(settings),
        **found,
        "seconds": seconds,
        "versions": versions(libraries),
    }


def versions(libraries: Iterable[str] = ()) -> dict[str, str | None]:
    """Of Python, of this program, and of what the numbers depend on; None for what is not installed."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in (*LIBRARIES, *libraries)}}


def version_of(name: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def write_result(run: Path, command: str, set_name: str, result: Mapping[str, Any]) -> Path:
    """Write RUN/eval/<command>-<set>.json, atomically; its path."""
    path = result_path(run, command, set_name)
    write_json(path, result)
    return path


def read_results(run: Path) -> dict[str, dict[str, Any]]:
    """Every result under RUN/eval by file name without `.json`, sorted. Raises `RequestError` for one that is damaged."""
    return {path.stem: read_json(path, "result of an evaluation") for path in sorted(eval_folder(run).glob("*.json"))}
