"""What a byte model ("M1") is to the coders: integer frequencies of the next byte, given the bytes since a reset.

    model = load_model(folder)
    model.after(prefixes)             # the byte that follows each prefix: uint16 [N, 256]
    model.rows([b"one", b"two..."])   # teacher-forced over whole stretches: one uint16 [num_bytes, 256] each

Every row sums to `TOTAL` and has no zero, so every byte can always be coded. `integer` models give the same rows on every machine, for
every batch; the others (a network in floating point) give the same rows for the same build and device at best, and what they code must be
verified by decoding or compiled into a table. A model folder holds `model.json` (written last) and the model's files, each with its digest.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from compressors.base import JSON
from compressors.errors import RequestError
from compressors.files import digest_of, read_json, sha256_bytes, write_bytes, write_json

PRECISION_BITS: Final = 16
TOTAL: Final = 1 << PRECISION_BITS
MODEL_NAME: Final = "model.json"
MODEL_SCHEMA: Final = 1

# uint16 [num_rows, 256]: each at least 1, each row sums to TOTAL.
Frequencies: TypeAlias = npt.NDArray[np.uint16]
# uint8 [num_prefixes, depth]: all of one depth, 0 included.
Prefixes: TypeAlias = npt.NDArray[np.uint8]

_KINDS: Final[Mapping[str, str]] = {
    "counts": "compressors.neural.counts:CountModel",
    "static": "compressors.neural.static:StaticModel",
    "network": "compressors.neural.network:NetworkModel",
}


class ByteModel(ABC):
    """A model of the next byte since a reset. Immutable; safe to share between threads."""

    kind: ClassVar[str]
    integer: ClassVar[bool]
    """Rows are made by integer arithmetic alone: equal on every machine, for every batch and thread count."""

    @abstractmethod
    def after(self, prefixes: Prefixes) -> Frequencies:
        """The byte that follows each prefix, where a prefix is everything since the reset. uint8 [N, depth] -> uint16 [N, 256]."""

    @abstractmethod
    def rows(self, stretches: Sequence[bytes]) -> list[Frequencies]:
        """For each stretch of n bytes uint16 [n, 256]: row t is the distribution of byte t given bytes 0..t-1, with a reset before byte 0.
        Row t of an integer model equals `after` of the first t bytes."""

    @property
    def context_bytes(self) -> int | None:
        """How far the model looks back, where that is bounded: the row after any prefix of more bytes is the row after its last
        `context_bytes`. None where the whole prefix counts."""
        return None

    @abstractmethod
    def spec(self) -> dict[str, JSON]:
        """What fixes the rows, digests of the files included. Plain JSON with `kind` and `version`."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The model's files by plain name."""

    @classmethod
    @abstractmethod
    def from_files(cls, spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> Self:
        """Rebuild. Raises `RequestError` when spec and files do not fit together or are damaged."""

    @classmethod
    def train(cls, documents: Iterable[bytes], **options: Any) -> Self:
        """Fit to documents, gone through at most once. A network is trained by the project's trainer instead."""
        raise RequestError(f"a model of kind '{cls.kind}' is not trained here; see `proxy-lm compressor train neural --help`")


def model_class(kind: str) -> type[ByteModel]:
    """The class of a kind of model. Raises `RequestError` for an unknown one."""
    if kind not in _KINDS:
        raise RequestError(f"unknown byte model '{kind}'; known: {', '.join(_KINDS)}")
    module, _, attribute = _KINDS[kind].partition(":")
    found: type[ByteModel] = getattr(importlib.import_module(module), attribute)
    return found


def model_from_files(spec: Mapping[str, JSON], files: Mapping[str, bytes]) -> ByteModel:
    """A model out of an artifact's spec and files."""
    return model_class(str(spec.get("kind"))).from_files(spec, files)


def save_model(model: ByteModel, folder: Path, measured: Mapping[str, Any] | None = None) -> None:
    """Write a model folder, `model.json` last."""
    files = model.files()
    for name, data in files.items():
        write_bytes(folder / name, data)
    record = {
        "schema": MODEL_SCHEMA,
        "spec": model.spec(),
        "fingerprint": digest_of(model.spec()),
        "files": {name: {"size_bytes": len(data), "sha256": sha256_bytes(data)} for name, data in files.items()},
        "measured": dict(measured) if measured is not None else None,
    }
    write_json(folder / MODEL_NAME, record)


def model_identity(folder: Path) -> tuple[str, str]:
    """Kind and fingerprint of the model of a folder, out of `model.json` alone. Raises `RequestError` where that is missing or damaged."""
    record = _read_record(folder)
    return str(record["spec"].get("kind")), str(record["fingerprint"])


def _read_record(folder: Path) -> dict[str, Any]:
    if not (folder / MODEL_NAME).is_file():
        raise RequestError(
            f"there is no byte model in {folder}: it has no {MODEL_NAME}; `proxy-lm compressor train neural --corpus DIR --out VIEW` makes "
            "one in VIEW/model"
        )
    record = read_json(folder / MODEL_NAME, "byte model")
    good = record.get("schema") == MODEL_SCHEMA and isinstance(record.get("spec"), dict) and isinstance(record.get("files"), dict)
    if not good or digest_of(record["spec"]) != record.get("fingerprint"):
        raise RequestError(f"{folder / MODEL_NAME} is not of schema {MODEL_SCHEMA} or is damaged; train the model anew")
    return record


def load_model(folder: Path) -> ByteModel:
    """The model of a folder. Raises `RequestError` for anything but what `save_model` wrote."""
    record = _read_record(folder)
    files = {}
    for name, known in record["files"].items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise RequestError(f"model file {path} is missing or has a path for a name; copy the whole folder or train the model anew")
        files[name] = path.read_bytes()
        if not isinstance(known, dict) or sha256_bytes(files[name]) != known.get("sha256"):
            raise RequestError(f"model file {path} has not the digest that {MODEL_NAME} records; train the model anew")
    model = model_from_files(record["spec"], files)
    if digest_of(model.spec()) != record["fingerprint"]:
        raise RequestError(f"the byte model in {folder} was made by another version; train it anew")
    return model
