"""The files of an encoded view, for those who write them (`proxy_lm.data.encoding`) and those who read them (`proxy_lm.data.views`).

artifact.json, model files    the compressor, as `compressors.save` left it
symbols.bin                   symbols of all documents back to back, little endian, the smallest unsigned type that holds the alphabet
symbols.idx                   int64 little-endian offsets in symbols, num_documents + 1 of them
raw_only.idx                  int64 little-endian, sorted: documents that the view cannot express (their stretch in symbols.bin is empty)
manifest.json                 written last: corpus, compressor, counts, sizes and digests of the three files above
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from compressors.files import digest_of, read_json
from proxy_lm.errors import RequestError

SCHEMA: Final = "proxy-lm view 1"
MANIFEST: Final = "manifest.json"
SYMBOLS: Final = "symbols.bin"
INDEX: Final = "symbols.idx"
RAW_ONLY: Final = "raw_only.idx"
FILES: Final = (SYMBOLS, INDEX, RAW_ONLY)
REMEDY: Final = "encode it anew with `proxy-lm encode --force`"


def symbol_type(alphabet_size: int) -> np.dtype[Any]:
    """The smallest little-endian unsigned type for symbols 0 .. alphabet_size - 1."""
    for kind in ("<u1", "<u2", "<u4"):
        if alphabet_size - 1 <= np.iinfo(kind).max:
            return np.dtype(kind)
    raise RequestError(f"an alphabet of {alphabet_size} symbols is larger than 2**32, the most a view may have; use a smaller one")


def view_digest(manifest: Mapping[str, Any]) -> str:
    """What makes two views equal: corpus, compressor and content. Times and counts of workers do not enter."""
    return digest_of(
        {
            "schema": SCHEMA,
            "corpus": manifest["corpus_digest"],
            "fingerprint": manifest["fingerprint"],
            "files": {name: manifest["files"][name]["sha256"] for name in FILES},
        }
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of an encoded view. Raises `RequestError` where it is missing, of another version, or edited."""
    path = folder / MANIFEST
    if not path.exists():
        raise RequestError(f"{folder} holds no encoded view; make one with `proxy-lm encode --corpus CORPUS --view {folder}`")
    manifest = read_json(path, "view manifest")
    if manifest.get("schema") != SCHEMA:
        raise RequestError(f"{path} has the schema {manifest.get('schema')!r} and this program reads {SCHEMA!r}; {REMEDY}")
    try:
        digest = view_digest(manifest)
        whole = all(isinstance(manifest[key], int) for key in ("alphabet_size", "num_documents", "num_symbols", "num_raw_only"))
        whole = whole and all(isinstance(manifest["files"][name]["size_bytes"], int) for name in FILES)
    except (KeyError, TypeError) as error:
        raise RequestError(f"{path} lacks or misspells {error}; {REMEDY}") from error
    if not whole or digest != manifest.get("digest"):
        raise RequestError(f"{path} says its digest is {manifest.get('digest')} and its content gives {digest}; {REMEDY}")
    return manifest
