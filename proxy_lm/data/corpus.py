"""A prepared corpus: documents as bytes, in a folder that says what made it. `proxy-lm prepare SRC... --out DIR` makes one.

The folder holds `raw.bin` (the documents' bytes back to back), `raw.idx` (int64 little-endian offsets, one more than there are documents),
`documents.parquet` (one row a document, see `COLUMNS`) and `manifest.json`, which is written last and lists the others' sizes and digests.
Documents stand split by split (train, valid, test), and inside a split in an order drawn from their digests, so that the first k documents
of a split are a fair sample of it. Where long documents were cut (`--cut-bytes`), what was one stands together and in order.

Not promised: that `documents.parquet` has the same bytes under another pyarrow. The corpus digest therefore covers its rows, not its file.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from compressors.files import canonical_json, digest_of, disk_error, read_json, sha256_bytes, sha256_file, write_json
from proxy_lm.errors import RequestError

SCHEMA = "proxy-lm corpus 1"
SPLITS = ("train", "valid", "test")
COLUMNS = ("id", "source", "project", "path", "language", "split", "size_bytes")
MANIFEST = "manifest.json"
FILES = ("raw.bin", "raw.idx", "documents.parquet")

_ROWS_PER_GROUP = 65_536  # of documents.parquet; so many wait in memory while a corpus is written, packed, the last few as Python's objects
_ROWS_UNPACKED = 4096
_REMEDY = "make the corpus anew with `proxy-lm prepare ... --force`, or copy the folder again"


class Document(NamedTuple):
    """What is known of one document beside its bytes."""

    id: str
    """Hex SHA-256 of the bytes as found: documents cut out of one (`prepare --cut-bytes`) have the id of the whole."""
    source: str
    project: str
    path: str
    language: str


class Corpus:
    """A corpus opened for reading; nothing is loaded but the index and the manifest. Use `Corpus.open`."""

    path: Path
    manifest: dict[str, Any]
    digest: str
    """Equal digests mean equal documents, in equal order, with equal rows in documents.parquet, made with equal settings."""
    num_documents: int
    offsets: npt.NDArray[np.int64]
    """Shape [num_documents + 1], memory-mapped."""
    sizes: npt.NDArray[np.int64]
    """Shape [num_documents], in bytes."""
    splits: dict[str, range]

    def __init__(self, path: Path, manifest: dict[str, Any], offsets: npt.NDArray[np.int64], raw: npt.NDArray[np.uint8]) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = manifest["digest"]
        self.num_documents = len(offsets) - 1
        self.offsets = offsets
        self.sizes = np.diff(offsets)
        self.splits = {name: range(*manifest["splits"][name]) for name in SPLITS}
        self._raw = raw
        self._columns: dict[str, list[Any]] = {}

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> Self:
        """Open the folder `path`. Sizes are always checked, every file's full digest too when `verify`.

        Raises `RequestError` when the folder is no corpus, is of another schema, or is damaged.
        """
        path = Path(path)
        if not path.is_dir():
            raise RequestError(f"{path} is not a folder; a corpus is made with `proxy-lm prepare SRC... --out {path}`")
        manifest = read_json(path / MANIFEST, "corpus manifest")
        _check_manifest(path, manifest)
        for name in FILES:
            _check_file(path / name, manifest["files"][name], verify)
        offsets = _map(path / "raw.idx", np.dtype("<i8"))
        raw = _map(path / "raw.bin", np.dtype(np.uint8))
        _check_index(path, manifest, offsets, len(raw))
        return cls(path, manifest, offsets, raw)

    def check_digests(self) -> None:
        """Read every file again, as opening with `verify` does. Raises `RequestError` where one is damaged. Leaves the interpreter lock."""
        for name in FILES:
            _check_file(self.path / name, self.manifest["files"][name], verify=True)

    def document(self, index: int) -> bytes:
        """The bytes of one document, as they were found."""
        return self._raw[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def documents(self, some: range) -> list[bytes]:
        """The bytes of several documents that stand together; faster than one by one."""
        raw = self._raw.data
        return [bytes(raw[first:end]) for first, end in itertools.pairwise(self.offsets[some.start : some.stop + 1].tolist())]

    def slice(self, index: int, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Bytes start..stop of one document, shape [stop - start], a read-only view of the mapped file."""
        first = int(self.offsets[index])
        assert 0 <= start <= stop <= int(self.offsets[index + 1]) - first, (index, start, stop)
        return self._raw[first + start : first + stop]

    def column(self, name: str) -> list[Any]:
        """One column of documents.parquet, one value a document: str, and int for `size_bytes`. Read when first asked for."""
        if name not in COLUMNS:
            raise RequestError(f"a corpus has no column '{name}'; known: {', '.join(COLUMNS)}")
        if name not in self._columns:
            import pyarrow as pa
            import pyarrow.parquet as pq

            file = self.path / "documents.parquet"
            try:
                values = pq.read_table(file, columns=[name])[name].to_pylist()
            except (pa.ArrowException, OSError, KeyError) as error:
                raise RequestError(f"{file} could not be read as the table of documents ({error}): {_REMEDY}") from error
            if len(values) != self.num_documents:
                raise RequestError(f"{file} has {len(values)} rows where the corpus has {self.num_documents} documents: {_REMEDY}")
            self._columns[name] = values
        return self._columns[name]


class CorpusWriter:
    """Writes a corpus into an existing folder, documents in their final order, split by split. `finish` seals it with the manifest.

    A folder without a manifest is not a corpus: whoever kills the writer finds nothing that `Corpus.open` would take.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self.num_documents = 0
        self.num_bytes = 0
        self._splits: dict[str, list[int]] = {}
        self._split_bytes = dict.fromkeys(SPLITS, 0)
        self._schema = pa.schema([(name, pa.int64() if name == "size_bytes" else pa.string()) for name in COLUMNS])
        self._rows: list[tuple[Any, ...]] = []
        self._packed: list[Any] = []
        self._rows_digest = hashlib.sha256()
        self._raw_digest = hashlib.sha256()
        self._idx_digest = hashlib.sha256()
        try:
            self._raw: IO[bytes] = (path / "raw.bin").open("wb", buffering=1 << 20)
            self._idx: IO[bytes] = (path / "raw.idx").open("wb", buffering=1 << 20)
            self._table = pq.ParquetWriter(path / "documents.parquet", self._schema, compression="zstd")
        except OSError as error:
            raise disk_error(error, path) from error
        self._write_offset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in (self._raw, self._idx, self._table):
            if kind is None:
                file.close()
                continue
            try:
                file.close()
            except OSError:
                continue  # the first error is on its way; a second full-disk error from the flush would hide it

    def add(self, document: Document, data: bytes, split: str) -> None:
        """Append one document. All documents of a split come together, splits in the order of `SPLITS`."""
        assert split in SPLITS, split
        assert all(SPLITS.index(name) <= SPLITS.index(split) for name in self._splits), (list(self._splits), split)
        bounds = self._splits.setdefault(split, [self.num_documents, self.num_documents])
        row = (*document, split, len(data))
        try:
            self._raw.write(data)
            self._raw_digest.update(data)
            self.num_bytes += len(data)
            self.num_documents += 1
            bounds[1] = self.num_documents
            self._split_bytes[split] += len(data)
            self._write_offset()
            self._rows_digest.update(canonical_json(row) + b"\n")
            self._rows.append(row)
            if len(self._rows) == _ROWS_UNPACKED:
                self._pack_rows()
            if len(self._packed) * _ROWS_UNPACKED == _ROWS_PER_GROUP:
                self._flush_rows()
        except OSError as error:
            raise disk_error(error, self.path) from error

    def finish(self, settings: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Close the files, make them durable and write the manifest. `settings` enter the corpus digest, `facts` are only recorded."""
        try:
            self._flush_rows()
            self._table.close()
            for file in (self._raw, self._idx):
                file.flush()
                os.fsync(file.fileno())
                file.close()
        except OSError as error:
            raise disk_error(error, self.path) from error
        bounds, end = {}, 0
        for name in SPLITS:
            first, end = self._splits.get(name, [end, end])
            bounds[name] = [first, end]
        digests = {"raw.bin": self._raw_digest.hexdigest(), "raw.idx": self._idx_digest.hexdigest()}
        digests["documents.parquet"] = sha256_file(self.path / "documents.parquet")
        manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "splits": bounds,
            "split_bytes": self._split_bytes,
            "num_documents": self.num_documents,
            "num_bytes": self.num_bytes,
            "rows_sha256": self._rows_digest.hexdigest(),
            "settings": dict(settings),
            "files": {name: {"size_bytes": (self.path / name).stat().st_size, "sha256": digests[name]} for name in FILES},
        }
        manifest["digest"] = _corpus_digest(manifest)
        manifest.update({name: value for name, value in (facts or {}).items() if name not in manifest})
        write_json(self.path / MANIFEST, manifest)
        return manifest

    def _write_offset(self) -> None:
        offset = self.num_bytes.to_bytes(8, "little", signed=True)
        self._idx.write(offset)
        self._idx_digest.update(offset)

    def _pack_rows(self) -> None:
        import pyarrow as pa

        columns = list(zip(*self._rows, strict=True)) or [()] * len(COLUMNS)
        arrays = [pa.array(list(values), field.type) for values, field in zip(columns, self._schema, strict=True)]
        self._packed.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._rows = []

    def _flush_rows(self) -> None:
        import pyarrow as pa

        if self._rows or not self.num_documents:
            self._pack_rows()
        if self._packed:
            self._table.write_table(pa.Table.from_batches(self._packed, self._schema).combine_chunks())
        self._packed = []


def build_small(path: Path, documents: Mapping[str, Sequence[bytes]], *, language: str = "python") -> Corpus:
    """A corpus from documents in memory, by split name and in the order given; document i is of project `p<i>`. For tests and examples.

    Nothing is filtered, dropped or shuffled. Raises `RequestError` for an unknown split or a folder that holds something already.
    """
    unknown = sorted(set(documents) - set(SPLITS))
    if unknown:
        raise RequestError(f"unknown split '{unknown[0]}'; known: {', '.join(SPLITS)}")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RequestError(f"{path} exists and is not an empty folder; name another place for the corpus")
    path.mkdir(parents=True, exist_ok=True)
    with CorpusWriter(path) as writer:
        for split, data in _in_order(documents):
            number = writer.num_documents
            writer.add(Document(sha256_bytes(data), "memory", f"p{number}", f"{split}/{number}", language), data, split)
        writer.finish({"made_by": "build_small"})
    return Corpus.open(path)


def _in_order(documents: Mapping[str, Sequence[bytes]]) -> Iterator[tuple[str, bytes]]:
    for split in SPLITS:
        for data in documents.get(split, ()):
            yield split, bytes(data)


def _corpus_digest(manifest: Mapping[str, Any]) -> str:
    made_of = {name: manifest["files"][name]["sha256"] for name in ("raw.bin", "raw.idx")}
    made_of["rows"] = manifest["rows_sha256"]
    return digest_of({"schema": SCHEMA, "splits": manifest["splits"], "settings": manifest["settings"], "made_of": made_of})


def _check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    file = path / MANIFEST
    schema = manifest.get("schema")
    if schema != SCHEMA:
        raise RequestError(f"{file} has the schema {schema!r} where this program reads '{SCHEMA}': make the corpus anew with this version")
    try:
        expected = _corpus_digest(manifest)
        bounds = [manifest["splits"][name] for name in SPLITS]
        joined = [0, *(edge for first, end in bounds for edge in (first, end)), manifest["num_documents"]]
        whole = set(manifest["splits"]) == set(SPLITS) and joined[0::2] == joined[1::2] and joined == sorted(joined)
        whole = (
            whole
            and all(set(manifest["files"][name]) == {"size_bytes", "sha256"} for name in FILES)
            and len(manifest["files"]) == len(FILES)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{file} lacks or misspells {error}: {_REMEDY}") from error
    if not whole:
        raise RequestError(f"{file} names splits that do not cover documents 0 to {manifest['num_documents']}, or other files: {_REMEDY}")
    if manifest.get("digest") != expected:
        raise RequestError(f"{file} says its digest is {manifest.get('digest')} but its content gives {expected}: {_REMEDY}")


def _check_file(file: Path, listed: Mapping[str, Any], verify: bool) -> None:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise RequestError(f"{file} is missing or unreadable ({error.strerror}), so the corpus is incomplete: {_REMEDY}") from error
    if size != listed["size_bytes"]:
        raise RequestError(f"{file} has {size} bytes where the manifest says {listed['size_bytes']}: {_REMEDY}")
    if verify and (found := sha256_file(file)) != listed["sha256"]:
        raise RequestError(f"{file} has the digest {found} where the manifest says {listed['sha256']}, so it is damaged: {_REMEDY}")


def _check_index(path: Path, manifest: Mapping[str, Any], offsets: npt.NDArray[np.int64], num_bytes: int) -> None:
    right = len(offsets) == manifest["num_documents"] + 1 and offsets[0] == 0 and offsets[-1] == num_bytes
    if not right or bool((np.diff(offsets) < 0).any()):
        raise RequestError(f"{path / 'raw.idx'} does not fit {manifest['num_documents']} documents in {num_bytes} bytes: {_REMEDY}")


def _map(file: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A file as a read-only array over a memory map; an empty file cannot be mapped and is an empty array."""
    size = file.stat().st_size
    if size % dtype.itemsize:
        raise RequestError(f"{file} has {size} bytes, which is not a multiple of {dtype.itemsize}: {_REMEDY}")
    if size == 0:
        return np.zeros(0, dtype)
    with file.open("rb") as handle:
        return np.frombuffer(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ), dtype)
