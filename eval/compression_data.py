"""Data sets of a compression table: what stands behind NAME=PATH, as one run of bytes.

    open_data("code=runs/nano", split="test", limit_bytes=200_000, multiple=2048)      # [DataSet]
    open_data("demo=demo", ...)                                                        # demo/text, demo/code, demo/images, ...

A corpus, or a run (its corpus): the documents of a split one behind another, in their order. A folder of `proxy-lm data demo`: one set a
kind, after its digest is checked. A folder of images or of audio: patches and clips as `proxy_lm.data.demo_folders` cuts them. Any other
folder: its files one behind another, in the order of their paths. A file: its bytes. `NAME=KIND:PATH` says the kind where it cannot be
seen; only the 7-bit mapping and the reader of a folder depend on it.

Every set is cut to the first `limit_bytes`, and then to whole chunks, so that all rows of a table code the same bytes. It is held in
memory: a compressor that is given the whole needs it there anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from compressors.files import read_json, sha256_bytes
from proxy_lm.config import read_yaml
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.demo import KINDS, demo_chunks, read_manifest
from proxy_lm.data.demo_folders import AUDIO_ENDINGS, IMAGE_ENDINGS, audio_chunks, image_chunks
from proxy_lm.errors import RequestError
from proxy_lm.train.told_folders import ToldFolders

MANIFEST: Final = "manifest.json"
CONFIG: Final = "config.yaml"
_FROM_PYTHON: Final = "of the installed Python: not held out from a model trained on python:"
_GIVEN_WHOLE: Final = {
    "images": " (of an image, whole patches of 32 x 64, height x width, are taken)",
    "audio": " (of a recording, whole chunks of 2,048 samples are taken)",
}


@dataclass(frozen=True)
class DataSet:
    """A column of the table."""

    name: str
    kind: str
    """text, code, images, audio or random."""
    source: str
    """Where it is from, in words; no path."""
    data: bytes
    split: str | None = None
    corpus_digest: str | None = None
    part: bool = False
    """Made by `spread` of another set."""
    digest: str = field(init=False)
    """sha256 of `data`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha256_bytes(self.data))

    def described(self) -> dict[str, Any]:
        """As it stands in a result."""
        said = {"name": self.name, "kind": self.kind, "source": self.source, "num_bytes": len(self.data), "digest": self.digest}
        return {**said, "split": self.split, "corpus_digest": self.corpus_digest, "part": self.part}

    def spread(self, num_bytes: int, chunk_bytes: int) -> DataSet:
        """A part of it, exactly `num_bytes` (all where it has fewer): chunks at equal distances, the last one cut."""
        chosen = evenly(max(1, len(self.data) // chunk_bytes), -(-num_bytes // chunk_bytes))
        part = b"".join(self.data[index * chunk_bytes : (index + 1) * chunk_bytes] for index in chosen)[:num_bytes]
        where = f"{len(chosen)} chunks of {chunk_bytes:,} bytes of {self.name}, at equal distances"
        if len(chosen) == 1:
            where = f"the first {len(part):,} bytes of {self.name}"
        elif short := len(part) % chunk_bytes:
            where += f", the last cut to {short:,}"
        return DataSet(f"{self.name} ({len(part):,} bytes)", self.kind, where, part, self.split, self.corpus_digest, part=True)


def evenly(num: int, wanted: int) -> list[int]:
    """Of 0..num-1 so many, first and last among them, at equal distances; all where fewer are there."""
    if wanted >= num:
        return list(range(num))
    return [0] if wanted == 1 else [place * (num - 1) // (wanted - 1) for place in range(wanted)]


def open_data(word: str, *, split: str, limit_bytes: int | None, multiple: int) -> list[DataSet]:
    """The sets of NAME=[KIND:]PATH. Raises `RequestError` for what is no such thing, cannot be read, or has not `multiple` bytes."""
    name, equals, rest = word.partition("=")
    if not equals or not name or not rest:
        raise RequestError(f"--data {word}: give NAME=PATH, as in code=runs/nano or images=images:patches.bin")
    kind, colon, after = rest.partition(":")
    asked, path = (kind, Path(after)) if colon and kind in KINDS else (None, Path(rest))
    if not (after if asked else rest):
        raise RequestError(f"--data {word}: there is no path after the colon; give NAME={kind}:PATH")
    if not path.exists():
        raise RequestError(f"--data {name}: {path} is not there; kinds before a path are {', '.join(KINDS)}")
    if limit_bytes is not None and limit_bytes < multiple:
        raise RequestError(
            f"--limit-bytes {limit_bytes} is less than a chunk of {multiple}; give {multiple} or more, or a smaller --chunk-bytes"
        )
    limit = limit_bytes if limit_bytes is None else limit_bytes // multiple * multiple
    if path.is_dir() and _is_demo(path):
        kinds = KINDS if asked is None else (asked,)
        sets = [_demo(name if asked else f"{name}/{one}", path, one, limit) for one in kinds]
    elif path.is_dir() and ((path / CONFIG).is_file() or (path / MANIFEST).is_file()):
        sets = [_corpus(name, path, split, limit)]
    else:
        sets = [_files(name, path, asked, limit)]
    return [_whole_chunks(one, multiple) for one in sets]


def held_out(run: Path, *, split: str, limit_bytes: int | None, multiple: int) -> list[DataSet]:
    """Of a run that was given without data: its own held-out bytes."""
    return open_data(f"{split}={run}", split=split, limit_bytes=limit_bytes, multiple=multiple)


def _whole_chunks(found: DataSet, multiple: int) -> DataSet:
    size = len(found.data) // multiple * multiple
    if not size:
        rule = "" if found.data else _GIVEN_WHOLE.get(found.kind, "")
        raise RequestError(
            f"--data {found.name}: {len(found.data)} bytes{rule} are no whole chunk of {multiple}; "
            "give more data or a smaller --chunk-bytes"
        )
    if size == len(found.data):
        return found
    return DataSet(found.name, found.kind, found.source, found.data[:size], found.split, found.corpus_digest)


def _is_demo(folder: Path) -> bool:
    path = folder / MANIFEST
    return path.is_file() and "kinds" in read_json(path, "manifest")


def _demo(name: str, folder: Path, kind: str, limit: int | None) -> DataSet:
    how = read_manifest(folder)["kinds"][kind]["how"]
    source = f"proxy-lm data demo: {how}"
    if kind in ("text", "code"):
        source = f"proxy-lm data demo: {kind} {_FROM_PYTHON}"
    return DataSet(name, kind, source, _first(demo_chunks(folder, kind), limit))


def _corpus(name: str, folder: Path, split: str, limit: int | None) -> DataSet:
    whose = "a corpus"
    if (folder / CONFIG).is_file():
        told = read_yaml(folder / CONFIG).get("corpus")
        if not isinstance(told, str):
            raise RequestError(f"--data {name}: {folder} is a run that names no corpus; give the folder of the corpus")
        run = ToldFolders.of_run(folder)
        where = run.corpus()
        if not where.is_dir():
            raise RequestError(f"--data {name}: {run.missing('corpus', told)}; give the folder of the corpus")
        folder, whose = where, "the run's corpus"
    corpus = Corpus.open(folder, verify=False)
    if split not in corpus.splits:
        raise RequestError(f"--split {split}: the corpus has {', '.join(corpus.splits)}")
    documents = corpus.splits[split]
    data = _first((corpus.document(index) for index in documents), limit)
    source = f"split {split} of {whose}, {len(documents):,} documents one behind another"
    return DataSet(name, "code", source, data, split, corpus.digest)


def _files(name: str, path: Path, asked: str | None, limit: int | None) -> DataSet:
    if path.is_file():
        return DataSet(name, asked or "text", f"file {path.name}", _first(_blocks(path, limit), limit))
    paths = sorted(one for one in path.rglob("*") if one.is_file())
    if not paths:
        raise RequestError(f"--data {name}: {path} has no files")
    endings = {one.suffix.lower() for one in paths}
    readers = [kind for kind, known in (("images", IMAGE_ENDINGS), ("audio", AUDIO_ENDINGS)) if endings & known]
    if asked is None and len(readers) > 1:
        raise RequestError(f"--data {name}: {path} holds images and audio; say which, as in {name}=images:{path}")
    kind = asked or (readers[0] if readers else "text")
    if kind == "images":
        return DataSet(name, kind, f"images of folder {path.name}: 32 x 64 grey patches", _first(image_chunks(path), limit))
    if kind == "audio":
        return DataSet(name, kind, f"recordings of folder {path.name}: 8-bit samples, 16 kHz", _first(audio_chunks(path), limit))
    blocks = (block for one in paths for block in _blocks(one, limit))
    return DataSet(name, kind, f"{len(paths):,} files of folder {path.name} one behind another", _first(blocks, limit))


def _blocks(path: Path, limit: int | None) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield file.read() if limit is None else file.read(limit)
    except OSError as error:
        raise RequestError(f"could not read {path}: {error.strerror or error}; name a file that can be read") from error


def _first(pieces: Iterable[bytes], limit: int | None) -> bytes:
    """What the pieces hold, up to a limit; no piece is asked for that is not needed."""
    kept, size = [], 0
    for piece in pieces:
        kept.append(piece if limit is None else piece[: limit - size])
        size += len(kept[-1])
        if limit is not None and size >= limit:
            break
    return b"".join(kept)
