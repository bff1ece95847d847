"""The evaluation `compression` of a comparison: what each cell makes of held-out bytes, coded for real, in chunks of several lengths.

    evaluations: {compression: {chunk_bytes: [64, 256, 2048], max_bytes: 65536}}

A cell's numbers are those of the command of this name (`eval.compression_rows.ModelRow`): information content and coded bytes of every
chunk, each coded alone. How they fall with the length of the chunks is the in-context curve. From the longest chunks come adjusted rates
at given sizes of data: raw rate + the model's bytes / N, at 2 bytes a parameter and at the real bytes of the weights. N is thought of:
the raw rate is that of the bytes measured, whatever N is (Deletang et al., ICLR 2024, Fig. 2, has the same sum).

Classical compressors are measured once for the whole comparison, on the same bytes in the same chunks, and whole on as many bytes of the
split as are there of each N; `OUT/once` keeps that.

A chunk that counted or stored bytes tell in fewer bits is coded so, without the model (`proxy_lm.codec`): models that know little have
equal rates. Not promised: that chunks of another split or length cost the same; that a row decodes, unless `verify` is given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import Field, field_validator

from eval.compression_data import DataSet, open_data
from eval.compression_rows import ClassicalRow, ModelRow, rates
from eval.envelope import Dataset, envelope, write_result
from eval.once import measured_once
from eval.samples import Samples, work_folder
from proxy_lm.codec import MAX_CHUNK_BYTES
from proxy_lm.codec.classical import Classical, Unavailable, classical_compressors
from proxy_lm.config import OPTIONS, Settings, options_of, validate
from proxy_lm.data.corpus import Corpus
from proxy_lm.errors import RequestError
from proxy_lm.progress import ProgressBar

SCHEMA: Final = "proxy-lm compression of a run 1"
ONCE_SCHEMA: Final = "proxy-lm compression once 1"
COMMAND: Final = "compression"
AMOUNTS: Final = ("num_bytes", "lengths")
CLASSICAL: Final = ("gzip-9", "zstd-19", "lzma2", "brotli-11")
"""Names of `proxy_lm.codec.classical`; lzma2 is xz."""
_SETTINGS: Final = ("chunk_bytes", "max_bytes", "data_bytes", "whole_bytes", "split", "verify")


class StudySettings(Settings):
    """What every cell is asked."""

    chunk_bytes: tuple[int, ...] = (16, 64, 256, 1024, 2048)
    """Lengths of chunks; the longest is that of adjusted rates."""

    max_bytes: int = Field(default=65_536, ge=1)
    """Of the split, from its beginning, in whole longest chunks."""

    data_bytes: tuple[int, ...] = (10**5, 10**6, 10**7, 10**8, 10**9, 10**10)
    """Sizes of data that share the cost of a model."""

    whole_bytes: int = Field(default=4_000_000, ge=1)
    """Classical compressors code the split whole up to this size, at each of `data_bytes` that it has."""

    split: str = "test"
    """Of the corpus."""

    verify: int = Field(default=0, ge=0)
    """Chunks of each length that are decoded and compared."""

    @field_validator("chunk_bytes", "data_bytes")
    @classmethod
    def _sizes(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if not sizes or min(sizes) < 1:
            raise ValueError("give sizes of 1 byte or more")
        return tuple(sorted(set(sizes)))

    @field_validator("chunk_bytes")
    @classmethod
    def _chunks(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if max(sizes) > MAX_CHUNK_BYTES:
            raise ValueError(f"a chunk has {MAX_CHUNK_BYTES} bytes at most")
        return sizes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the plan, as they would be typed."""
    parser.add_argument("run", type=Path)
    parser.add_argument("--chunk-bytes", type=int, nargs="+")
    parser.add_argument("--max-bytes", type=int)
    parser.add_argument("--data-bytes", type=int, nargs="+")
    parser.add_argument("--whole-bytes", type=int)
    parser.add_argument("--split")
    parser.add_argument("--verify", type=int)
    parser.add_argument("--view")
    parser.add_argument("--device", default="auto")


def check(args: argparse.Namespace) -> None:
    """Raise `RequestError` for what is wrong whatever the run."""
    settings = _settings(args)
    if settings.max_bytes < settings.chunk_bytes[-1]:
        raise RequestError(f"max_bytes {settings.max_bytes:,} holds no chunk of {settings.chunk_bytes[-1]:,} bytes; raise it")


def _settings(args: argparse.Namespace) -> StudySettings:
    return validate(StudySettings, options_of(args, _SETTINGS), source=OPTIONS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure one run, continuing what an earlier call left; the result is what `RUN/eval/compression-<split>.json` holds, with `written`.
    Raises `RequestError` for a view that does not give documents back."""
    from eval.opened import open_run  # torch
    from proxy_lm.codec import open_predictor

    settings, started = _settings(args), time.monotonic()
    opened = open_run(args.run, view=args.view, device=args.device)
    corpus = opened.corpus()
    data = measured_bytes(corpus, settings)
    predictor = open_predictor(args.run, view=opened.view, device=args.device)
    job = {
        "schema": SCHEMA,
        "model": predictor.identity(),
        "data": data.digest,
        "chunk_bytes": list(settings.chunk_bytes),
        "verify": settings.verify,
    }
    folder = work_folder(args.run, COMMAND, settings.split, job)
    with Samples.open(folder, job) as samples, ProgressBar(f"compression, {args.run.name}", _left(samples, data, settings)) as bar:
        for size in settings.chunk_bytes:
            if str(size) not in samples.done:
                row = ModelRow(opened.loaded.settings.name, predictor, chunk_bytes=size, seven_bit=False, verify=settings.verify)
                samples.append(str(size), row.measure(data, partial(bar.advance, detail=f"(chunks of {size:,})")))
        lengths = [{"chunk_bytes": size, **samples.done[str(size)]} for size in settings.chunk_bytes]
    found = {
        "view": opened.view,
        "num_bytes": len(data.data),
        "num_parameters": predictor.num_parameters,
        "num_parameter_bytes": predictor.num_parameter_bytes,
        "lengths": lengths,
        "adjusted": [
            {"data_bytes": size, **adjusted(lengths[-1], predictor.num_parameters, predictor.num_parameter_bytes, size)}
            for size in settings.data_bytes
        ],
    }
    dataset = Dataset(name=f"{settings.split} split of the corpus", digest=data.digest, num_items=len(data.data))
    result = envelope(SCHEMA, COMMAND, opened.identity, dataset, settings, time.monotonic() - started, found)
    return result | {"written": write_result(args.run, COMMAND, settings.split, result, folder, AMOUNTS)}


def measured_bytes(corpus: Corpus, settings: StudySettings) -> DataSet:
    """The bytes that every cell and every compressor codes. Raises `RequestError` where the split has no whole chunk."""
    return open_data(
        f"{settings.split}={corpus.path}", split=settings.split, limit_bytes=settings.max_bytes, multiple=settings.chunk_bytes[-1]
    )[0]


def _left(samples: Samples, data: DataSet, settings: StudySettings) -> int:
    return len(data.data) * sum(str(size) not in samples.done for size in settings.chunk_bytes)


def adjusted(cell: dict[str, Any], num_parameters: int, num_parameter_bytes: int, data_bytes: int) -> dict[str, float]:
    """Percent of the raw size with the model beside it, over `data_bytes` of data: `adjusted` at 2 bytes a parameter, `adjusted_real` at
    the bytes of the weights."""
    found = rates(cell, parameters=num_parameters, parameter_bytes=num_parameter_bytes, adjusted_for=data_bytes, accounting=None)
    return {key: found[key] for key in ("adjusted", "adjusted_real")}


def once(args: argparse.Namespace, corpus: Corpus, folder: Path) -> dict[str, dict[str, Any]]:
    """{file name: what classical compressors make of the same bytes}, measured, or as `folder` keeps it. Raises `RequestError` where the
    split is too small for a chunk, before anything is trained."""
    settings = _settings(args)
    found, missing = classical_compressors()
    chosen = [one for one in found if one.name in CLASSICAL]
    data, stem = measured_bytes(corpus, settings), f"{COMMAND}-{settings.split}"
    depends_on = {
        "schema": ONCE_SCHEMA,
        "data": data.digest,
        "corpus": corpus.digest,
        "settings": settings.model_dump(mode="json", exclude={"verify"}),
        "compressors": [[one.name, one.library, one.options] for one in chosen],
    }
    unavailable = [one for one in missing if one.name in CLASSICAL]

    def measure() -> dict[str, Any]:
        return _classical(chosen, unavailable, data, _wholes(corpus, settings, data), settings)

    return {stem: measured_once(folder / f"{stem}.json", depends_on, measure)}


def _wholes(corpus: Corpus, settings: StudySettings, data: DataSet) -> list[DataSet]:
    """The bytes measured, and the beginning of the split at every size of data that it has."""
    most = min(settings.whole_bytes, int(corpus.sizes[corpus.splits[settings.split]].sum()))
    sizes = sorted({len(data.data), *(size for size in settings.data_bytes if size <= most)})
    split = open_data(f"{settings.split}={corpus.path}", split=settings.split, limit_bytes=sizes[-1], multiple=1)[0]
    return [DataSet(split.name, split.kind, split.source, split.data[:size], split.split, split.corpus_digest) for size in sizes]


def _classical(
    chosen: Sequence[Classical], missing: Sequence[Unavailable], data: DataSet, wholes: Sequence[DataSet], settings: StudySettings
) -> dict[str, Any]:
    rows = []
    per_row = len(settings.chunk_bytes) * len(data.data) + sum(len(one.data) for one in wholes)
    with ProgressBar("classical compressors", per_row * len(chosen)) as bar:
        for one in chosen:
            chunked = [
                {"chunk_bytes": size, **ClassicalRow(one, chunk_bytes=size).measure(data, bar.advance)} for size in settings.chunk_bytes
            ]
            whole = [ClassicalRow(one, chunk_bytes=None).measure(part, bar.advance) for part in wholes]
            rows.append({"name": one.name, "library": one.library, "options": one.options, "lengths": chunked, "whole": whole})
    return {
        "schema": ONCE_SCHEMA,
        "data": data.described(),
        "settings": settings.model_dump(mode="json"),
        "rows": rows,
        "unavailable": [one._asdict() for one in missing],
    }
