"""Cuts: a small table beside a view (or a corpus) of where its documents may be cut, made once and read by the plan.

    cuts = open_cuts(corpus, views, settings.mix)          # views/spm/cuts/, made where it is missing
    lines = open_lines(corpus)                             # corpus/lines/: line starts in place of symbol borders

For each document up to 16 bytes are drawn evenly, addressed by (digest of the view or corpus, document, number), and moved to the nearest
symbol border (line start) inside the document; what falls together counts once. A border is (byte, symbol): the first `symbol` symbols tell
the first `byte` bytes, and each one is proved: they decode to them. Where several symbols end at a byte, it is the first of them. So the
plan, which never sees a payload, can draw cuts that are exact in bytes. The table depends on the corpus and the view alone, not on how
many processes made it.

On disk, little endian: borders.bin int64 [num_documents + 1], bytes.bin and symbols.bin uint32 [num_candidates]; manifest.json with their
digests, written last. Not promised: that every border can be drawn; a long document offers 16 of its borders, the same in each epoch.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.files import atomic_writer, digest_of, read_json, sha256_file, write_json
from compressors.registry import load
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.mixing import MAX_CUTS, MixSettings
from proxy_lm.data.permutation import hashes, key_of
from proxy_lm.data.pool import default_workers, run_tasks
from proxy_lm.data.views import View
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.progress import ProgressBar, note

I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

SCHEMA: Final = "proxy-lm cuts 2"
CUTS: Final = "cuts"
LINES: Final = "lines"
_MANIFEST: Final = "manifest.json"
_FILES: Final = {"borders.bin": "<i8", "bytes.bin": "<u4", "symbols.bin": "<u4"}
_BLOCK_BYTES: Final = 4 << 20
# Below this, starting processes takes longer than the work.
_BYTES_FOR_PROCESSES: Final = 32 << 20
_NUM_PROBES: Final = 8
# Candidates are proved together until they have so many bytes before them.
_PROVED_BYTES: Final = 8 << 20
_MAX_DOCUMENT_BYTES: Final = 1 << 32


@dataclass(frozen=True)
class CutTable:
    """Candidates of document k are `borders[k] .. borders[k + 1]` of the flat arrays, bytes and symbols strictly increasing."""

    borders: I64  # [num_documents + 1]
    byte: U32  # [num_candidates], bytes of the document before the cut: 1 .. size - 1
    symbol: U32  # [num_candidates], symbols of the view before the cut; in a table of lines the same as `byte`
    digest: str

    def num_candidates(self, documents: I64) -> I64:
        """Candidates of each of these documents, int64 [num_documents]."""
        return self.borders[documents + 1] - self.borders[documents]


def open_cuts(
    corpus: Corpus, views: Sequence[View], mix: MixSettings, *, verify: bool = True, num_workers: int | None = None
) -> dict[str, CutTable]:
    """The tables of the views that `mix` splices, by name; made where they are missing. Empty where nothing is spliced.

    Raises `RequestError` for a view that cannot be cut."""
    if mix.share_is_zero("splice"):
        return {}
    return {view.name: _open_view(corpus, view, verify, num_workers) for view in views if mix.can_be_drawn(view.name)}


def open_lines_of(corpus: Corpus, mix: MixSettings, *, verify: bool = True, num_workers: int | None = None) -> CutTable | None:
    """The table of line starts where `mix` cuts at lines; made where it is missing."""
    return open_lines(corpus, verify=verify, num_workers=num_workers) if mix.fim.needs_lines else None


def open_lines(corpus: Corpus, *, verify: bool = True, num_workers: int | None = None) -> CutTable:
    """The table of line starts of a corpus (the byte after a newline); made where it is missing."""
    folder = corpus.path / LINES
    if not _is_there(folder, corpus.digest):
        _make(folder, corpus, None, corpus.digest, num_workers)
    return _read(folder, corpus.num_documents, verify)


def _open_view(corpus: Corpus, view: View, verify: bool, num_workers: int | None) -> CutTable:
    remedy = f"set mix.splice=0, or name only the other views in mix.weights, which leaves '{view.name}' without"
    if not view.exact:
        raise RequestError(
            f"view '{view.name}' does not give documents back exactly, so no stretch of it can be told by its symbols; {remedy}"
        )
    folder = view.path / CUTS
    if not _is_there(folder, view.digest):
        no_borders = RequestError(
            f"the symbols of view '{view.name}' ({view.manifest['kind']}) stand for no stretch of bytes, so it cannot be spliced; {remedy}"
        )
        if not _can_be_cut(corpus, view):
            raise no_borders
        _make(folder, corpus, view, view.digest, num_workers)
    table = _read(folder, corpus.num_documents, verify)
    if table.byte.size == 0:
        raise RequestError(f"no document of view '{view.name}' has a symbol border inside, so none can be spliced; {remedy}")
    return table


def _can_be_cut(corpus: Corpus, view: View) -> bool:
    """Whether the view has borders at all: asked of a few documents before work for minutes."""
    compressor = load(view.path)
    some = np.flatnonzero((view.lengths >= 0) & (corpus.sizes >= 2))[:_NUM_PROBES].tolist()
    return not some or any(compressor.spans(corpus.document(index)) is not None for index in some)


def nearest_borders(key: int, document: int, size_bytes: int, byte: I64, symbol: I64) -> tuple[I64, I64]:
    """(bytes, symbols) of up to 16 borders: even draws over 1 .. size_bytes - 1 moved to the nearest of `byte`, the lower of two as near.

    `byte` int64 [num_borders], strictly increasing, inside the document; `symbol` beside it."""
    if byte.size == 0:
        return byte, symbol
    draws = hashes(key, document * MAX_CUTS + np.arange(MAX_CUTS, dtype=np.int64))
    wanted = 1 + (draws % np.uint64(size_bytes - 1)).astype(np.int64)
    above = np.minimum(np.searchsorted(byte, wanted), byte.size - 1)
    below = np.maximum(above - 1, 0)
    chosen = np.unique(np.where(wanted - byte[below] <= np.abs(byte[above] - wanted), below, above))
    return byte[chosen], symbol[chosen]


def symbol_borders(spans: npt.NDArray[Any], size_bytes: int) -> tuple[I64, I64]:
    """Borders inside a document out of a compressor's spans: the bytes, and the fewest symbols that tell so many."""
    byte, symbol = np.unique(spans, return_index=True)
    inside = (byte > 0) & (byte < size_bytes)
    return byte[inside].astype(np.int64), symbol[inside].astype(np.int64)


def line_borders(data: bytes) -> tuple[I64, I64]:
    """Line starts inside a document: the bytes after newlines, twice."""
    byte = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    byte = byte[byte < len(data)]
    return byte, byte


def _block(corpus_path: Path, view_path: Path | None, digest: str, first: int, stop: int) -> tuple[int, I64, U32, U32]:
    """(first document, candidates of each document, bytes, symbols) of one block of documents."""
    corpus = _corpus(corpus_path)
    key = key_of(0, f"cuts {digest}")
    view = None if view_path is None else _view(view_path)
    found: list[tuple[I64, I64]] = []
    unproved = waiting_bytes = 0
    for document in range(first, stop):
        data = corpus.document(document)
        borders = line_borders(data) if view is None else _borders_of(view, document, data)
        found.append(nearest_borders(key, document, len(data), *borders))
        waiting_bytes += int(found[-1][0].sum())
        if view is not None and waiting_bytes >= _PROVED_BYTES:
            found[unproved:] = _proved(view, corpus, first + unproved, found[unproved:])
            unproved, waiting_bytes = len(found), 0
    if view is not None:
        found[unproved:] = _proved(view, corpus, first + unproved, found[unproved:])
    counts = np.array([byte.size for byte, _ in found], dtype=np.int64)
    byte, symbol = (np.concatenate(side).astype("<u4") for side in zip(*found, strict=True))
    return first, counts, byte, symbol


def _proved(view: tuple[View, Any], corpus: Corpus, first: int, found: Sequence[tuple[I64, I64]]) -> list[tuple[I64, I64]]:
    """Of the candidates of documents first, first + 1, ... those before which the view's symbols decode to the very bytes: symbols that are
    packed across borders, as some views do, do not."""
    opened, compressor = view
    documents = [corpus.document(first + k) for k in range(len(found))]
    wanted = [documents[k][:byte] for k, (bytes_, _) in enumerate(found) for byte in bytes_.tolist()]
    told = [opened.slice(first + k, 0, symbol).astype(np.uint32) for k, (_, symbols) in enumerate(found) for symbol in symbols.tolist()]
    decoded = compressor.decode_batch(told, max_bytes=max(map(len, wanted), default=1))
    holds = np.array([one == other for one, other in zip(decoded, wanted, strict=True)], dtype=np.bool_)
    edges = np.cumsum([0, *(byte.size for byte, _ in found)]).tolist()
    return [(byte[holds[a:b]], symbol[holds[a:b]]) for (byte, symbol), (a, b) in zip(found, itertools.pairwise(edges), strict=True)]


def _borders_of(view: tuple[View, Any], document: int, data: bytes) -> tuple[I64, I64]:
    opened, compressor = view
    spans = compressor.spans(data) if opened.lengths[document] >= 0 and len(data) >= 2 else None
    if spans is None:  # of this document; it is told in another layout, and counted
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    if spans.size != opened.lengths[document] + 1 or int(spans[0]) != 0 or int(spans[-1]) != len(data):
        raise WorkError(
            f"the compressor in {opened.path} has {spans.size - 1} symbols, bytes {spans[0]}..{spans[-1]}, for document {document}; the "
            f"view holds {opened.lengths[document]} for {len(data)} bytes; encode the view anew with `proxy-lm encode --force`"
        )
    return symbol_borders(spans, len(data))


@functools.lru_cache(maxsize=1)
def _corpus(path: Path) -> Corpus:
    return Corpus.open(path, verify=False)


@functools.lru_cache(maxsize=1)
def _view(path: Path) -> tuple[View, Any]:
    return View.open(path, None, verify=False), load(path)


def _blocks(corpus: Corpus) -> Iterator[tuple[int, int]]:
    places = np.arange(0, int(corpus.offsets[-1]) + 1, _BLOCK_BYTES)
    edges = np.unique([*np.searchsorted(corpus.offsets[:-1], places).tolist(), corpus.num_documents]).tolist()
    return itertools.pairwise(edges)


def _make(folder: Path, corpus: Corpus, view: View | None, digest: str, num_workers: int | None) -> None:
    """Write the table, block by block in order. Memory: what waits for an earlier block, 128 bytes a document."""
    if corpus.sizes.max(initial=0) >= _MAX_DOCUMENT_BYTES:
        raise RequestError(
            f"the longest document of {corpus.path} has {corpus.sizes.max()} bytes; cuts are for documents below 2**32: split it"
        )
    total = int(corpus.offsets[-1])
    workers = default_workers() if num_workers is None and total >= _BYTES_FOR_PROCESSES else num_workers or 1
    what = "lines" if view is None else f"cuts of {view.name}"
    note(f"{folder} is made once: where documents may be cut")
    tasks = ((corpus.path, None if view is None else view.path, digest, first, stop) for first, stop in _blocks(corpus))
    _corpus.cache_clear()
    _view.cache_clear()
    num_candidates = written = 0
    waiting: dict[int, tuple[I64, U32, U32]] = {}
    with ExitStack() as stack:
        bar = stack.enter_context(ProgressBar(what, total))
        files = [stack.enter_context(atomic_writer(folder / name)) for name in _FILES]
        files[0].write(np.zeros(1, "<i8").data)
        for first, counts, byte, symbol in run_tasks(_block, tasks, workers):
            waiting[first] = (counts, byte, symbol)
            while written in waiting:
                counts, byte, symbol = waiting.pop(written)
                files[0].write((num_candidates + np.cumsum(counts)).astype("<i8").data)
                files[1].write(byte.data)
                files[2].write(symbol.data)
                bar.advance(int(corpus.offsets[written + counts.size] - corpus.offsets[written]))
                num_candidates += int(counts.sum())
                written += counts.size
    assert written == corpus.num_documents
    listed = {name: {"size_bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)} for name in _FILES}
    manifest = {"schema": SCHEMA, "made_of": digest, "num_documents": written, "num_candidates": num_candidates, "files": listed}
    write_json(folder / _MANIFEST, {**manifest, "digest": digest_of(manifest)})


def _is_there(folder: Path, digest: str) -> bool:
    """Whether the folder holds a finished table of this corpus or view; one of another (encoded anew since) is replaced."""
    if not (folder / _MANIFEST).exists():
        return False
    manifest = _manifest(folder)
    return manifest.get("schema") == SCHEMA and manifest.get("made_of") == digest


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / _MANIFEST, "table of cuts")
    except RequestError as error:
        raise RequestError(f"{error}: delete {folder}, and the next run or dry run makes it") from error


def _read(folder: Path, num_documents: int, verify: bool) -> CutTable:
    remedy = f"delete {folder}, it is made anew"
    manifest = _manifest(folder)
    content = {key: value for key, value in manifest.items() if key != "digest"}
    if manifest.get("digest") != digest_of(content):
        raise RequestError(
            f"{folder / _MANIFEST} says its digest is {manifest.get('digest')} and its content gives {digest_of(content)}; {remedy}"
        )
    arrays = [_array(folder / name, manifest["files"][name], kind, verify, remedy) for name, kind in _FILES.items()]
    borders, byte, symbol = arrays
    right = borders.size == num_documents + 1 == manifest["num_documents"] + 1 and borders[0] == 0
    if not right or borders[-1] != byte.size or byte.size != symbol.size or bool((np.diff(borders) < 0).any()):
        raise RequestError(f"the table in {folder} does not fit {num_documents} documents; {remedy}")
    return CutTable(borders, byte, symbol, str(manifest["digest"]))


def _array(file: Path, listed: Mapping[str, Any], kind: str, verify: bool, remedy: str) -> npt.NDArray[Any]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise RequestError(f"{file} is missing or unreadable ({error.strerror}); {remedy}") from error
    if len(data) != listed["size_bytes"]:
        raise RequestError(f"{file} has {len(data)} bytes and its manifest records {listed['size_bytes']}; {remedy}")
    if verify and (found := hashlib.sha256(data).hexdigest()) != listed["sha256"]:
        raise RequestError(f"{file} has the SHA-256 {found} and its manifest records {listed['sha256']}; {remedy}")
    return np.frombuffer(data, kind)
