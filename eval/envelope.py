"""What every result of an evaluation has, whichever command made it.

    result = envelope("proxy-lm lines 1", "lines", opened.identity, dataset, settings, seconds, {"tasks": ...})
    return result | {"written": write_result(run, "lines", "test", result, folder, AMOUNTS)}    # RUN/eval/lines-test.json, written last

    {schema, command, run: {name, checkpoint, view, healing, ...}, dataset: {name, digest, num_items}, settings, seconds, versions, ...}

No machine paths, host names or dates are in it. Numbers that have no value are null, with a reason beside them. A result that asked less
than the one that stands there stays in its own work folder; `written` says where each is, and is in no file.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from compressors.files import read_json, write_json
from eval.samples import eval_folder, result_path
from proxy_lm.config import Settings
from proxy_lm.errors import RequestError

LIBRARIES = ("proxy-lm", "torch", "numpy")
ASIDE_NAME = "result.json"
"""Of a result in its work folder."""
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


def write_result(
    run: Path, command: str, set_name: str, result: Mapping[str, Any], folder: Path, amounts: Sequence[str], plot: Path | None = None
) -> dict[str, Any]:
    """Write RUN/eval/<command>-<set>.json, atomically, or `folder`/result.json where that would replace a result of the same run which
    asked more of any of `amounts` (fields of a result: 'settings.num_lines'). Gives what a command says at its end: `name` of the result,
    its `path`, that of its `plot`, and `aside`: why it stands in `folder`, else None."""
    path = result_path(run, command, set_name)
    less = asked_less(path, result, amounts)
    kept = folder / ASIDE_NAME if less else path
    aside = (
        f"it asked less than {path} ({less}), which stands as it was; delete that and run this again to take its place" if less else None
    )
    write_json(kept, result)
    return {"name": path.stem, "path": str(kept), "plot": None if plot is None else str(plot), "aside": aside}


def asked_less(path: Path, result: Mapping[str, Any], amounts: Sequence[str]) -> str:
    """Of what `result` asked less than the result in `path` of the same run (checkpoint and reading); '' where it may take its place. A
    damaged one gives way, and one of another schema or of a run trained further."""
    try:
        stands = read_json(path, "result of an evaluation") if path.exists() else {}
    except RequestError:
        return ""
    if any(stands.get(key) != result.get(key) for key in ("schema", "corpus_digest")) or _reading(stands) != _reading(result):
        return ""
    pairs = {name: (_amount(result, name), _amount(stands, name)) for name in amounts}
    return ", ".join(f"{name.rpartition('.')[2]}: {ours:,} and {theirs:,}" for name, (ours, theirs) in pairs.items() if ours < theirs)


def _reading(result: Mapping[str, Any]) -> dict[str, Any]:
    """The run and how it is read. Whether prompts are healed is among what is asked."""
    found = result.get("run") or {key: result.get(key) for key in ("checkpoint", "view")}
    return {key: value for key, value in found.items() if key not in ("name", "healing", "context_bytes")}


def _amount(result: Mapping[str, Any], name: str) -> int:
    """A number as it is; of anything else whether it is there."""
    value: Any = result
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return int(value) if isinstance(value, int) else int(value is not None) if not isinstance(value, list) else len(value)


def where(written: Mapping[str, Any]) -> str:
    """The last lines of a command: where its result and its plot are, and why a result stands aside."""
    lines = [f"result: {written['path']}"]
    if written["aside"]:
        lines.append(f"  {written['aside']}")
    if written["plot"]:
        lines.append(f"plot: {written['plot']}")
    return "\n".join(lines)


def read_results(run: Path) -> dict[str, dict[str, Any]]:
    """Every result under RUN/eval by file name without `.json`, sorted. Raises `RequestError` for one that is damaged."""
    return {path.stem: read_json(path, "result of an evaluation") for path in sorted(eval_folder(run).glob("*.json"))}
