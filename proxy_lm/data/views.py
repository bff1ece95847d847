"""An encoded view: the symbols of every document of one corpus under one compressor. `proxy-lm encode` makes one.

    view = View.open(Path("views/spm"), corpus)
    view.slice(17, 0, 10)         # the first ten symbols of document 17

Opening checks that the view belongs to this corpus and to the compressor that lies beside it, and (with `verify`) that no byte of it
changed. Not promised: protection from somebody who rewrites files and manifest together.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from compressors.registry import load, read_artifact
from proxy_lm.data.corpus import Corpus
from proxy_lm.data.encoding import encode_corpus
from proxy_lm.data.view_files import INDEX, RAW_ONLY, REMEDY, SYMBOLS, read_manifest, symbol_type
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import Literals, LiteralsSetting, Vocabulary, literals_of

__all__ = ["View", "encode_corpus", "vocabulary_of"]

_BLOCK_BYTES = 1 << 24


class View:
    """A view opened for reading; its symbols stay on disk. Use `View.open`."""

    def __init__(
        self,
        path: Path,
        name: str,
        manifest: Mapping[str, Any],
        offsets: npt.NDArray[np.int64],
        raw_only: npt.NDArray[np.int64],
        symbols: npt.NDArray[Any],
        *,
        exact: bool = True,
    ) -> None:
        self.path = path
        self.exact = exact
        """Whether its compressor promises to give documents back."""
        self.name = name
        """The view's name in the run: the key in the configuration, not the kind of compressor."""
        self.manifest = dict(manifest)
        self.alphabet_size: int = manifest["alphabet_size"]
        self.digest: str = manifest["digest"]
        """Equal digests: same corpus, same compressor, same symbols."""
        self.fingerprint: str = manifest["fingerprint"]
        self.lengths: npt.NDArray[np.int64] = np.diff(offsets)
        """Symbols of every document, [num_documents]; -1 where the document is raw only."""
        self.lengths[raw_only] = -1
        self._offsets = offsets
        self._symbols = symbols

    @classmethod
    def open(cls, path: Path, corpus: Corpus | None, *, verify: bool = True, name: str | None = None) -> Self:
        """Open the folder `path` under `name` (default: the folder's name). Sizes are always checked, every digest when `verify`.

        Raises `RequestError` when the folder holds no view, is damaged, or is of another corpus (unless `corpus` is None) or compressor.
        """
        path = Path(path)
        if not path.is_dir():
            raise RequestError(f"{path} is not a folder; a view is made with `proxy-lm compressor train` and then `proxy-lm encode`")
        manifest = read_manifest(path)
        artifact = read_artifact(path)
        if artifact["fingerprint"] != manifest["fingerprint"]:
            raise RequestError(
                f"the symbols in {path} were made by the compressor {manifest['fingerprint']} and the artifact beside them is "
                f"{artifact['fingerprint']}; {REMEDY}"
            )
        if artifact["alphabet_size"] != manifest["alphabet_size"]:
            raise RequestError(
                f"{path} says {manifest['alphabet_size']} symbols in its manifest and {artifact['alphabet_size']} in its artifact; {REMEDY}"
            )
        if corpus is not None and corpus.digest != manifest["corpus_digest"]:
            raise RequestError(
                f"the view {path} was made from the corpus {manifest['corpus_digest']} and {corpus.path} is {corpus.digest}; {REMEDY}"
            )
        symbols = _checked_map(path / SYMBOLS, manifest, symbol_type(manifest["alphabet_size"]), verify)
        offsets = _checked_map(path / INDEX, manifest, np.dtype("<i8"), verify)
        raw_only = _checked_map(path / RAW_ONLY, manifest, np.dtype("<i8"), verify)
        _check_index(path, manifest, offsets, raw_only, symbols)
        return cls(path, name or path.name, manifest, offsets, raw_only, symbols, exact=artifact.get("exact") is not False)

    @property
    def num_documents(self) -> int:
        """Documents of the corpus, raw-only ones included."""
        return int(self.lengths.size)

    def slice(self, index: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Symbols start..stop of one document, [stop - start], a read-only view of the mapped file; no ids are added."""
        assert 0 <= start <= stop <= self.lengths[index], (index, start, stop)
        first = int(self._offsets[index])
        return self._symbols[first + start : first + stop]


def vocabulary_of(views: Sequence[View], literals: LiteralsSetting) -> Vocabulary:
    """The ids of a run with these views. Raises `RequestError` where literals are to be shared and a view has none, or its compressor
    cannot be loaded."""
    shared = {view.name: _literals(view.name, view.path, view.fingerprint) for view in views} if literals == "shared" else {}
    return Vocabulary([(view.name, view.alphabet_size) for view in views], shared)


@lru_cache(maxsize=32)
def _literals(name: str, folder: Path, fingerprint: str) -> Literals:
    """Kept by fingerprint: a comparison opens the same views many times, and a large dictionary takes a while to load."""
    return literals_of(name, load(folder).spelling())


def _checked_map(file: Path, manifest: Mapping[str, Any], dtype: np.dtype[Any], verify: bool) -> npt.NDArray[Any]:
    listed = manifest["files"][file.name]
    try:
        size = file.stat().st_size
        if size != listed["size_bytes"]:
            raise RequestError(f"{file} has {size} bytes and its manifest records {listed['size_bytes']}; {REMEDY}")
        if size % dtype.itemsize:
            raise RequestError(f"{file} has {size} bytes, which is not a multiple of {dtype.itemsize}; {REMEDY}")
        if size == 0:
            array = np.zeros(0, dtype)  # an empty file cannot be mapped
        else:
            with file.open("rb") as handle:
                array = np.frombuffer(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ), dtype)
    except OSError as error:
        raise RequestError(f"{file} is missing or unreadable ({error.strerror}); {REMEDY}") from error
    if verify:
        _verify(file, listed["sha256"], array, manifest["alphabet_size"] if file.name == SYMBOLS else None)
    return array


def _verify(file: Path, expected: str, array: npt.NDArray[Any], alphabet_size: int | None) -> None:
    """The digest of the whole file and, for symbols, that each is in the alphabet: an id out of range would corrupt training."""
    digest = hashlib.sha256()
    largest = -1
    step = _BLOCK_BYTES // array.itemsize
    for first in range(0, array.size, step):
        block = array[first : first + step]
        digest.update(block.data)
        largest = max(largest, int(block.max()))
    if digest.hexdigest() != expected:
        raise RequestError(f"{file} has the digest {digest.hexdigest()} and its manifest records {expected}; {REMEDY}")
    if alphabet_size is not None and largest >= alphabet_size:
        raise RequestError(f"{file} holds the symbol {largest} and its alphabet ends at {alphabet_size - 1}; {REMEDY}")


def _check_index(
    path: Path,
    manifest: Mapping[str, Any],
    offsets: npt.NDArray[np.int64],
    raw_only: npt.NDArray[np.int64],
    symbols: npt.NDArray[Any],
) -> None:
    num_documents = manifest["num_documents"]
    right = offsets.size == num_documents + 1 and offsets[0] == 0 and offsets[-1] == symbols.size == manifest["num_symbols"]
    right = right and raw_only.size == manifest["num_raw_only"] and bool((np.diff(raw_only) > 0).all())
    right = right and (raw_only.size == 0 or (raw_only[0] >= 0 and raw_only[-1] < num_documents))
    if not right or bool((np.diff(offsets) < 0).any()):
        raise RequestError(f"the index of {path} does not fit {num_documents} documents in {symbols.size} symbols; {REMEDY}")
