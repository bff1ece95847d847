"""Views by name, and their artifact folders.

    compressors.names()                        every view that can be made here, plug-ins included
    compressors.train("spm", documents)        a fitted compressor
    compressors.save(compressor, folder)       spec, fingerprint and model files, `artifact.json` last
    compressors.load(folder)                   the same compressor again, or one sentence about what is wrong

A third party registers a class under the entry-point group `proxy_lm.compressors` with the name of its view; nothing here is edited.
A folder that loads is what `save` wrote: every file has its digest and the spec has its fingerprint. That is protection against damage
and mix-ups, not against somebody who rewrites the folder on purpose. No model file is a pickle.
"""

from __future__ import annotations

import difflib
import importlib
import platform
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from compressors.base import JSON, Compressor
from compressors.errors import ProxyError, RequestError
from compressors.files import digest_of, read_json, sha256_bytes, write_bytes, write_json

ENTRY_POINT_GROUP: Final = "proxy_lm.compressors"
ARTIFACT_NAME: Final = "artifact.json"
ARTIFACT_SCHEMA: Final = 1

# Imported on first use, so that one view's library is not needed for another.
_BUILT_IN: Final[Mapping[str, str]] = {
    "identity": "compressors.identity:Identity",
    "blanks": "compressors.blanks:Blanks",
    "gzip": "compressors.deflate:Deflate",
    "zstd": "compressors.zstd:Zstd",
    "spm": "compressors.spm:SentencePiece",
    "hf": "compressors.hf:HuggingFace",
    "doublebyte": "compressors.fixed_rate:DoubleByte",
    "nibble": "compressors.fixed_rate:Nibble",
    "dibit": "compressors.fixed_rate:Dibit",
    "bit": "compressors.fixed_rate:Bit",
    "as-bytes": "compressors.as_bytes:AsBytes",
    "table": "compressors.neural.table:Table",
    "table-paper": "compressors.neural.table:TablePaper",
    "segments": "compressors.neural.segments:Segments",
    "stream": "compressors.neural.stream:Stream",
    "stream-inexact": "compressors.neural.inexact:StreamInexact",
    "cached": "compressors.neural.cached:Cached",
    "phrases": "compressors.neural.phrases:Phrases",
}
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_MADE_WITH: Final = ("proxy-lm", "numpy", "zstandard", "sentencepiece", "tokenizers")


def names() -> list[str]:
    """Names of all views, built in and plugged in, sorted. Imports none of them."""
    return sorted({*_BUILT_IN, *(point.name for point in _entry_points())})


def get(name: str) -> type[Compressor]:
    """The class of a view. Raises `RequestError` for an unknown name, and for a plug-in that cannot be imported."""
    points = [point for point in _entry_points() if point.name == name]
    owners = [_owner(point) for point in points]
    if name in _BUILT_IN:
        if points:
            raise RequestError(f"plug-in {owners[0]} takes the name '{name}' of a built-in view; rename or uninstall it")
        module, _, attribute = _BUILT_IN[name].partition(":")
        found: Any = getattr(importlib.import_module(module), attribute)
    elif not points:
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise RequestError(f"unknown view '{name}'{hint}; known: {', '.join(names())}")
    elif len(points) > 1:
        raise RequestError(f"view '{name}' is registered more than once, by {' and '.join(owners)}; uninstall all but one")
    else:
        try:
            found = points[0].load()
        except ProxyError:
            raise
        except Exception as error:  # whatever a stranger's module raises on import, the user learns whose it is
            what = f"{type(error).__name__}: {error}"
            raise RequestError(f"view '{name}' of plug-in {owners[0]} cannot be imported ({what}); repair or uninstall it") from error
    if not (isinstance(found, type) and issubclass(found, Compressor)):
        raise RequestError(f"view '{name}' of plug-in {owners[0]} is not a subclass of compressors.base.Compressor; repair or uninstall it")
    if found.name != name:
        raise RequestError(f"view '{name}' is registered by a class whose name is '{found.name}'; the two must be the same")
    return found


def train(kind: str, documents: Iterable[bytes], **options: JSON) -> Compressor:
    """A compressor fitted to documents; a view without training takes its options and leaves the documents alone."""
    return get(kind).train(documents, **options)


def fingerprint(compressor: Compressor) -> str:
    """Hex sha256 of the canonical JSON of the spec: equal fingerprints, equal symbols."""
    return digest_of(compressor.spec())


def save(compressor: Compressor, folder: Path, measured: Mapping[str, Any] | None = None) -> None:
    """Write the artifact folder: model files first, then `artifact.json`, each atomically. `measured` is kept as given."""
    files = compressor.files()
    for name, data in files.items():
        write_bytes(folder / _plain(name, folder), data)
    spec = compressor.spec()
    artifact = {
        "schema": ARTIFACT_SCHEMA,
        "kind": compressor.name,
        "fingerprint": digest_of(spec),
        "exact": compressor.exact,
        "alphabet_size": compressor.alphabet_size,
        "spec": spec,
        "files": {name: {"size_bytes": len(data), "sha256": sha256_bytes(data)} for name, data in files.items()},
        "measured": dict(measured) if measured is not None else None,
        "made_with": {"python": platform.python_version()} | {name: _version(name) for name in _MADE_WITH},
    }
    write_json(folder / ARTIFACT_NAME, artifact)


def read_artifact(folder: Path) -> dict[str, Any]:
    """The checked `artifact.json`, without the model files. Raises `RequestError` where it is missing, foreign or damaged."""
    path = folder / ARTIFACT_NAME
    artifact = read_json(path, "compressor artifact")
    if artifact.get("schema") != ARTIFACT_SCHEMA:
        raise RequestError(f"{path} has schema {artifact.get('schema')!r}; this program reads {ARTIFACT_SCHEMA}: train the view anew")
    shape = {"kind": str, "fingerprint": str, "spec": dict, "files": dict, "alphabet_size": int}
    for key, kind in shape.items():
        if not isinstance(artifact.get(key), kind):
            raise RequestError(f"{path} has no valid '{key}'; the artifact is damaged: train the view anew")
    actual = digest_of(artifact["spec"])
    if actual != artifact["fingerprint"]:
        raise RequestError(f"{path} records fingerprint {artifact['fingerprint']} and its spec has {actual}; train the view anew")
    if artifact["spec"].get("name") != artifact["kind"]:
        raise RequestError(f"{path} is of kind '{artifact['kind']}' and its spec of '{artifact['spec'].get('name')}'; train the view anew")
    return artifact


def load(folder: Path) -> Compressor:
    """The compressor of an artifact folder. Raises `RequestError` for anything but what `save` wrote."""
    folder = Path(folder)
    artifact = read_artifact(folder)
    files = {_plain(name, folder): _checked_file(folder / name, record) for name, record in artifact["files"].items()}
    compressor = get(artifact["kind"]).from_artifact(artifact["spec"], files)
    if fingerprint(compressor) != artifact["fingerprint"] or compressor.alphabet_size != artifact["alphabet_size"]:
        raise RequestError(
            f"view '{artifact['kind']}' in {folder} has fingerprint {artifact['fingerprint']} and this program rebuilds "
            f"{fingerprint(compressor)}: it was made by another version; train it anew"
        )
    return compressor


def _checked_file(path: Path, record: Any) -> bytes:
    if not isinstance(record, dict) or not isinstance(record.get("size_bytes"), int):
        raise RequestError(f"{path.parent / ARTIFACT_NAME} does not say the size and digest of {path.name}; train the view anew")
    if not path.is_file():
        raise RequestError(f"model file {path} is missing; copy the whole folder or train the view anew")
    size = path.stat().st_size
    if size != record["size_bytes"]:
        raise RequestError(f"model file {path} has {size} bytes and the artifact records {record['size_bytes']}; train the view anew")
    data = path.read_bytes()
    if sha256_bytes(data) != record.get("sha256"):
        raise RequestError(
            f"model file {path} has sha256 {sha256_bytes(data)} and the artifact {record.get('sha256')}; train the view anew"
        )
    return data


def _plain(name: str, folder: Path) -> str:
    if not _PLAIN_NAME.match(name) or name == ARTIFACT_NAME:
        raise RequestError(f"{folder}: model file name {name!r} is refused; only letters, digits, '.', '_' and '-' are allowed")
    return name


def _entry_points() -> list[metadata.EntryPoint]:
    return list(metadata.entry_points(group=ENTRY_POINT_GROUP))


def _owner(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} ({point.value})" if point.dist is not None else point.value


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
