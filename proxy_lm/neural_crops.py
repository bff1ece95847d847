"""A corpus of crops: short stretches from random places of another corpus, which is what a byte model for windows is trained on.

Windows start in the middle of documents, so that is where the model must begin. Crop i is a pure function of (seed, i, corpus digest): its
length is drawn from `lengths`, its place among all places of the split where that length fits, each as likely as any other. Told as raw
documents, crops of 28, 60 or 124 bytes are 32, 64 or 128 ids with their sentinels and fill rows evenly.

The corpus appears under its name only when it is whole. Not promised: that no two crops overlap, nor that a document shorter than the
shortest crop is ever seen.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressors.files import disk_error, read_json, sha256_bytes, sync_folder
from proxy_lm.data.corpus import MANIFEST, Corpus, CorpusWriter, Document
from proxy_lm.data.permutation import key_of, uniforms
from proxy_lm.errors import RequestError
from proxy_lm.progress import ProgressBar, note

CROPS_VERSION: Final = 1
# Crops are drawn so many at a time: a bound on memory, without influence on what is drawn.
_BLOCK_CROPS: Final = 1 << 16

I64 = npt.NDArray[np.int64]


def crop_corpus(
    corpus: Corpus, out: Path, *, train: str, held_out: str, lengths: Sequence[int], num_bytes: int, held_out_bytes: int, seed: int
) -> Corpus:
    """The corpus of crops in `out`: at least `num_bytes` from split `train`, told as the split train, and `held_out_bytes` from `held_out`,
    told as valid. Opened if `out` holds it already. Raises `RequestError` where no document is as long as a crop."""
    settings: dict[str, Any] = {
        "made_by": "crops",
        "version": CROPS_VERSION,
        "corpus_digest": corpus.digest,
        "lengths": list(lengths),
        "splits": {"train": [train, num_bytes], "valid": [held_out, held_out_bytes]},
        "seed": seed,
    }
    if (out / MANIFEST).exists() and read_json(out / MANIFEST, "corpus manifest").get("settings") == settings:
        return Corpus.open(out, verify=False)  # the trainer verifies what it trains on
    for place in (out, *out.parent.glob(f"{out.name}.tmp-*")):
        shutil.rmtree(place, ignore_errors=True)
    drawn = [
        (told, Draw(corpus, corpus.splits[split], lengths, key_of(seed, f"crops of {told}")), wanted)
        for told, split, wanted in (("train", train, num_bytes), ("valid", held_out, held_out_bytes))
    ]
    beside = out.with_name(f"{out.name}.tmp-{os.getpid()}")
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise disk_error(error, beside) from error
    with CorpusWriter(beside) as writer, ProgressBar("crops", num_bytes + held_out_bytes) as bar:
        for told, draw, wanted in drawn:
            _write(writer, corpus, draw, told, wanted, bar)
        writer.finish(settings)
    try:
        beside.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise disk_error(error, out) from error
    note(f"crops: {writer.num_documents} crops of {'/'.join(map(str, sorted(set(lengths))))} bytes in {out}")
    return Corpus.open(out, verify=False)


class Draw:
    """Crops of one split by number, without end."""

    def __init__(self, corpus: Corpus, documents: range, lengths: Sequence[int], key: Any) -> None:
        self._first = documents.start
        self._key = key
        self._lengths = np.array(lengths, dtype=np.int64)
        sizes = corpus.sizes[documents.start : documents.stop]
        self._ends: dict[int, I64] = {}
        for length in sorted(set(lengths)):
            ends = np.cumsum(np.maximum(sizes - length + 1, 0))
            if not len(ends) or ends[-1] == 0:
                longest = int(sizes.max(initial=0))
                raise RequestError(
                    f"a crop of {length} bytes is wanted and the longest of {len(sizes)} documents has {longest}: "
                    "give shorter crops or more text"
                )
            self._ends[length] = ends

    def crops(self, first: int, count: int) -> tuple[I64, I64, I64]:
        """Documents, offsets and lengths of crops first .. first + count - 1, int64 [count] each."""
        number = np.arange(2 * first, 2 * (first + count), 2, dtype=np.int64)
        length = self._lengths[(uniforms(self._key, number) * len(self._lengths)).astype(np.int64)]
        draw = uniforms(self._key, number + 1)
        document, offset = np.empty(count, np.int64), np.empty(count, np.int64)
        for known, ends in self._ends.items():
            mine = length == known
            place = np.minimum((draw[mine] * ends[-1]).astype(np.int64), ends[-1] - 1)
            inside = np.searchsorted(ends, place, side="right")
            document[mine] = inside + self._first
            offset[mine] = place - np.where(inside > 0, ends[inside - 1], 0)
        return document, offset, length


def _write(writer: CorpusWriter, corpus: Corpus, draw: Draw, told: str, wanted: int, bar: ProgressBar) -> None:
    number = done = 0
    while done < wanted:
        for document, offset, length in zip(*(part.tolist() for part in draw.crops(number, _BLOCK_CROPS)), strict=True):
            data = corpus.slice(document, offset, offset + length).tobytes()
            writer.add(Document(sha256_bytes(data), "crops", "crops", f"{document}:{offset}", ""), data, told)
            number += 1
            done += length
            bar.advance(length)
            if done >= wanted:
                break
